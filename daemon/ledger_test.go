package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/custody/ledger"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
)

// fakeLedger counts copies and says what it is told to.
type fakeLedger struct {
	changed chan struct{}

	mu     sync.Mutex
	copies int
	says   job.Copied
}

func (f *fakeLedger) LedgerChanged() <-chan struct{} { return f.changed }

func (f *fakeLedger) CopyLedger(context.Context) (job.Copied, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.copies++
	return f.says, nil
}

func (f *fakeLedger) set(c job.Copied) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.says = c
}

func TestTheLedgerIsCopiedAfterActsAndTold(t *testing.T) {
	db := stateIn(t)
	synctest.Test(t, func(t *testing.T) {
		d := &Daemon{c: Config{DB: db, Log: slog.New(slog.DiscardHandler), Now: time.Now}}
		f := &fakeLedger{changed: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := d.KeepLedger(ctx, f); err != nil {
				t.Error(err)
			}
		})
		after := func(wait time.Duration, copies int, alarms ...string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			f.mu.Lock()
			got := f.copies
			f.mu.Unlock()
			all, err := db.Alarms(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var open []string
			for _, a := range all {
				open = append(open, a.Key)
			}
			if got != copies || fmt.Sprint(open) != fmt.Sprint(alarms) {
				t.Errorf("%d copies, alarms %q; want %d, %q", got, open, copies, alarms)
			}
		}
		after(0, 1) // at the start
		for range 5 {
			select {
			case f.changed <- struct{}{}:
			default:
			}
			time.Sleep(time.Second)
		}
		after(settleFor, 2) // acts that belong together go together
		after(copyEvery+settleFor, 3)
		f.set(job.Copied{Failed: errors.New("a store is away")})
		after(copyEvery+settleFor, 4)
		after(25*time.Hour, 28, ledgerStale)
		f.set(job.Copied{Ahead: fmt.Errorf("anchor in one: %w", ledger.ErrBehind)})
		after(copyEvery+settleFor, 29, ledgerStale, ledgerAhead)
		f.set(job.Copied{})
		after(copyEvery+settleFor, 30)
		cancel()
		ended.Wait()
	})
}

func stateIn(t *testing.T) *state.DB {
	t.Helper()
	c := state.Config{Dir: t.TempDir(), Version: "test", Now: time.Now}
	if err := state.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	db, err := state.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
