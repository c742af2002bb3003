package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"strongroom/daemon/job"
	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// A Ledger has copies in the stores; it is a *job.Site.
type Ledger interface {
	// LedgerChanged has a value when there was an act since the last one.
	LedgerChanged() <-chan struct{}
	// CopyLedger brings the copies up to date, and says which are ahead.
	CopyLedger(ctx context.Context) (job.Copied, error)
}

const (
	// settleFor gathers acts that belong together, as those of one run: each copy
	// of a log that grew is some objects, for ever.
	settleFor = 20 * time.Second
	// copyEvery is for stores that were away.
	copyEvery = time.Hour
	// staleAfter is how old the copies may be before people hear of it: until
	// then an older state directory would not be noticed.
	staleAfter = 24 * time.Hour
)

// The alarms about the ledger.
const (
	ledgerAhead = "ledger ahead"
	ledgerStale = "ledger not copied"
)

// KeepLedger holds the ledger against its copies, and brings these up to date
// after acts and hourly, until ctx ends. A crash in between is made good by the
// next start, which begins with it.
func (d *Daemon) KeepLedger(ctx context.Context, l Ledger) error {
	good := d.c.Now()
	for {
		done, err := l.CopyLedger(ctx)
		if ctx.Err() != nil {
			return nil
		}
		d.alarm(ctx, ledgerAhead, done.Ahead)
		if err = errors.Join(err, done.Failed); err == nil && done.Ahead == nil {
			good = d.c.Now()
			d.alarm(ctx, ledgerStale, nil)
		} else if err != nil {
			d.c.Log.Warn("the ledger was not copied to every store", "error", err)
			if d.c.Now().Sub(good) >= staleAfter {
				d.alarm(ctx, ledgerStale, fmt.Errorf("no full set of copies since %s: %w", good.UTC().Format(time.RFC3339), err))
			}
		}
		if !waitFor(ctx, l.LedgerChanged(), copyEvery) || !waitFor(ctx, nil, settleFor) {
			return nil
		}
		select { // what came meanwhile is in this copy
		case <-l.LedgerChanged():
		default:
		}
	}
}

// waitFor waits for a value or so long; false: ctx ended.
func waitFor(ctx context.Context, c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c:
	case <-t.C:
	}
	return true
}

// alarm raises an alarm of the box, or with no error ends it.
func (d *Daemon) alarm(ctx context.Context, key string, why error) {
	var err error
	told := false
	if why == nil {
		told, err = d.c.DB.Clear(ctx, key, d.messages(notify.Event{Kind: notify.Recovered, Was: notify.LedgerTrouble, Time: d.c.Now()})...)
	} else {
		d.c.Log.Error(key, "error", why)
		_, told, err = d.c.DB.Raise(ctx, state.Alarm{Key: key, Kind: "ledger", Reason: why.Error()}, d.messages(notify.Event{Kind: notify.LedgerTrouble, Time: d.c.Now()})...)
	}
	d.wakeTeller(told)
	if err != nil {
		d.c.Log.Error("alarm not recorded", "alarm", key, "error", err)
	}
}
