// Package notify tells people what happened, by mail, by webhook and by the
// pings of a dead man's switch, until each has taken it.
package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"strongroom/daemon/state"
)

// Config is the table [notify] of the file.
type Config struct {
	// Box is what messages call this machine.
	Box string `toml:"box"`
	// Link is where a browser answers a test alarm; the code is put behind it.
	Link    string    `toml:"link"`
	Mail    []Mail    `toml:"mail"`
	Webhook []Webhook `toml:"webhook"`
	Ping    []Ping    `toml:"ping"`
}

// Deps are what a Notifier works with.
type Deps struct {
	DB       *state.DB
	Now      func() time.Time
	Rand     io.Reader
	Log      *slog.Logger
	Location *time.Location // of the times in mails
	// Patience bounds one delivery, whatever the other side does; default a minute.
	Patience time.Duration
}

// A Notifier puts events into the outbox and delivers them from there: at least
// once, in the order of their coming where nothing fails, each way by itself, so
// that one that hangs holds up no other.
type Notifier struct {
	deps Deps
	box  Name
	ways []*way
}

// A way is a channel with a name.
type way struct {
	name string
	channel
	wake chan struct{}
	mu   sync.Mutex // held from looking into the outbox until what was sent is noted
}

// New makes a Notifier. It reads the files that the configuration names.
func New(cfg Config, deps Deps) (*Notifier, error) {
	if cfg.Box == "" {
		return nil, errors.New("notify.box: the box needs a name")
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	n := &Notifier{deps: deps, box: Name{cfg.Box}}
	add := func(kind, name string, c channel, err error) error {
		if err != nil {
			return fmt.Errorf("notify.%s %.300q: %w", kind, name, err)
		}
		n.ways = append(n.ways, &way{name: kind + " " + name, channel: c, wake: make(chan struct{}, 1)})
		return nil
	}
	for _, c := range cfg.Mail {
		for _, to := range c.To {
			m, err := newMailer(c, to, cfg.Link, deps.Location)
			if err := add("mail", c.Name+" to "+to, m, err); err != nil {
				return nil, err
			}
		}
	}
	for _, c := range cfg.Webhook {
		h, err := newHook(c, deps.Now)
		if err := add("webhook", c.Name, h, err); err != nil {
			return nil, err
		}
	}
	for _, c := range cfg.Ping {
		p, err := newPinger(c)
		if err := add("ping", c.Name, p, err); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Messages puts an event into messages for all ways that take it, to be queued
// in the transaction of what it tells: state.DB.Finish, Raise and Clear take
// them. Call Wake after that.
func (n *Notifier) Messages(e Event) ([]state.Message, error) {
	return n.messages(e, func(*way) bool { return true })
}

func (n *Notifier) messages(e Event, by func(*way) bool) ([]state.Message, error) {
	if e.Kind == 0 || int(e.Kind) >= len(kinds) {
		return nil, fmt.Errorf("notify: no kind of event: %d", uint8(e.Kind))
	}
	if _, err := io.ReadFull(n.deps.Rand, e.ID[:]); err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	e.Box = n.box
	if e.Time.IsZero() {
		e.Time = n.deps.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Second)
	body, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	var out []state.Message
	for _, w := range n.ways {
		if w.takes(e) && by(w) {
			out = append(out, state.Message{Event: e.ID.String(), Channel: w.name, Body: string(body)})
		}
	}
	return out, nil
}

// Send queues an event by itself.
func (n *Notifier) Send(ctx context.Context, e Event) error {
	messages, err := n.Messages(e)
	if err != nil {
		return err
	}
	if err := n.deps.DB.Enqueue(ctx, messages...); err != nil {
		return err
	}
	n.Wake()
	return nil
}

// People reports whether any way leads to a person.
func (n *Notifier) People() bool {
	return slices.ContainsFunc(n.ways, func(w *way) bool { return w.person() })
}

// Wake has Run look into the outbox now.
func (n *Notifier) Wake() {
	for _, w := range n.ways {
		select {
		case w.wake <- struct{}{}:
		default: // is awake
		}
	}
}

// Run delivers until the context ends.
func (n *Notifier) Run(ctx context.Context) error {
	if err := n.dropUnknown(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, w := range n.ways {
		wg.Go(func() { n.serve(ctx, w) })
	}
	wg.Wait()
	return ctx.Err()
}

// dropUnknown gives up what waits for ways that the configuration has no more.
func (n *Notifier) dropUnknown(ctx context.Context) error {
	waiting, err := n.deps.DB.Waiting(ctx)
	if err != nil {
		return err
	}
	for _, q := range waiting {
		if !slices.ContainsFunc(n.ways, func(w *way) bool { return w.name == q.Channel }) {
			if err := n.deps.DB.Drop(ctx, q.ID, "not configured any more"); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxSleep bounds how long a way sleeps: timers do not see a suspended machine.
const maxSleep = 30 * time.Second

// serve delivers by one way. Its errors are in the outbox and the log; there is
// nobody else to tell.
func (n *Notifier) serve(ctx context.Context, w *way) {
	failures := 0
	for ctx.Err() == nil {
		next, err := n.flush(ctx, w, nil)
		sleep := maxSleep
		if err != nil {
			// Nobody there: not with each message again.
			failures++
			sleep = min(backoff(failures), 15*time.Minute)
		} else if failures = 0; !next.IsZero() {
			sleep = min(max(next.Sub(n.deps.Now()), 0), maxSleep)
		}
		timer := time.NewTimer(sleep)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-w.wake:
		}
		timer.Stop()
	}
}

// backoff is how long to wait after so many tries: a minute, two, four, up to an
// hour.
func backoff(tries int) time.Duration {
	return min(time.Minute<<min(tries-1, 10), time.Hour)
}

// flush delivers what is due by one way, and says when the next message is. An
// error means that the other side could not be talked to at all. told, if given,
// learns what became of each event.
//
// Between the other side's yes and ours in the outbox a crash sends a message
// again; the other way round it would be lost.
func (n *Notifier) flush(ctx context.Context, w *way, told map[string]error) (next time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	due, next, err := n.deps.DB.Due(ctx, w.name, 100)
	if err != nil {
		return time.Time{}, err
	}
	for _, q := range due {
		if n.deps.Now().Sub(q.Created) > w.keeps() {
			n.deps.Log.Error("message given up", "way", w.name, "event", q.Event, "tries", q.Tries, "error", q.Error)
			if err := n.deps.DB.Drop(ctx, q.ID, "too old; last: "+q.Error); err != nil {
				return time.Time{}, err
			}
			continue
		}
		err := n.deliver(ctx, w, q)
		if told != nil {
			told[q.Event] = err
		}
		if err == nil {
			if err := n.deps.DB.Sent(context.WithoutCancel(ctx), q.ID); err != nil {
				return time.Time{}, err
			}
			continue
		}
		if ctx.Err() != nil {
			return time.Time{}, ctx.Err() // is no fault of the other side's
		}
		at := n.deps.Now().Add(backoff(q.Tries + 1))
		n.deps.Log.Warn("message not delivered", "way", w.name, "event", q.Event, "tries", q.Tries+1, "again", at, "error", err)
		if err := n.deps.DB.Retry(ctx, q.ID, at, cut(err.Error())); err != nil {
			return time.Time{}, err
		}
		if refused := (*refusal)(nil); !errors.As(err, &refused) {
			return next, err
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if len(due) == 100 {
		next = n.deps.Now()
	}
	return next, nil
}

func (n *Notifier) deliver(ctx context.Context, w *way, q state.Queued) error {
	e, err := decode(q.Body)
	if err != nil {
		return &refusal{"is no event: " + err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(n.deps.Patience, time.Minute))
	defer cancel()
	return w.send(ctx, e, q.Body)
}

// cut bounds what a server may have us write down.
func cut(s string) string {
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

// A Tested is what became of a test by one way.
type Tested struct {
	Way string
	Err error // nil: taken
}

// Test sends an event of a kind on the way that a real one takes, through the
// outbox and with all that its messages have, and waits for what becomes of it.
func (n *Notifier) Test(ctx context.Context, e Event) ([]Tested, error) {
	messages, err := n.Messages(e)
	if err != nil {
		return nil, err
	}
	if err := n.deps.DB.Enqueue(ctx, messages...); err != nil {
		return nil, err
	}
	out := make([]Tested, len(messages))
	var wg sync.WaitGroup
	for i, m := range messages {
		w := n.ways[slices.IndexFunc(n.ways, func(w *way) bool { return w.name == m.Channel })]
		wg.Go(func() {
			told := map[string]error{m.Event: errors.New("is queued: others before it could not be delivered")}
			_, err := n.flush(ctx, w, told)
			out[i] = Tested{Way: w.name, Err: told[m.Event]}
			if err != nil && out[i].Err == nil {
				out[i].Err = err
			}
		})
	}
	wg.Wait()
	return out, nil
}

// Sample is an event of a kind with all that one has, of names that exist: for
// Test, which should show what will come.
func Sample(kind Kind, tenant, dataset, store Name, level Level, now time.Time) Event {
	day := 24 * time.Hour
	margin := 0
	e := Event{Kind: kind, Level: level, Tenant: tenant, Dataset: dataset, Time: now, Run: 1}
	switch kind {
	case Failed:
		e.Cause, e.LastSuccess = SourceAway, now.Add(-7*day)
	case Overdue:
		e.LastSuccess, e.Since = now.Add(-9*day), now.Add(-6*time.Hour)
	case Recovered:
		e.Run = 0
	case DrillFailed:
		e.Cause, e.LastSuccess = Mismatch, now.Add(-7*day)
	case MarginLost:
		e.Margin, e.Store = &margin, store
	case MediumDue:
		e = Event{Kind: kind, Medium: Name{"A-1"}, Run: 1, Time: now, Until: now.Add(2 * day)}
	case LedgerTrouble:
		e = Event{Kind: kind, Time: now}
	case ProofDue:
		e = Event{Kind: kind, Level: level, Tenant: tenant, Run: 1, Time: now, Until: now.Add(-day)}
	case LockProbeFailed:
		e = Event{Kind: kind, Store: store, Run: 1, Time: now}
	case FillingUp:
		e = Event{Kind: kind, Store: store, Days: 10, Run: 1, Time: now}
	case Digest:
		e = Event{Kind: kind, Level: level, Time: now, Week: &Week{From: now.Add(-7 * day), To: now, Next: now.Add(7 * day),
			Datasets: []Line{{Tenant: tenant, Dataset: dataset, LastSuccess: now.Add(-day), LastDrill: now.Add(-day), Runs: 1}}}}
	case TestAlarm:
		e = Event{Kind: kind, Time: now, Until: now.Add(answerWithin)}
	case TestUnanswered:
		e = Event{Kind: kind, Time: now, Since: now.Add(-answerWithin)}
	}
	return e
}
