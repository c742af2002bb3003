package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// A Trouble is one thing that is wrong now, as a run found it.
type Trouble struct {
	// Subject is what it is about: "acme/crm", "acme", "store nas", "medium A-1".
	// With its kind it is the key of the alarm, and what is muted.
	Subject         string
	Tenant, Dataset string
	Store, Medium   string
	Reason          string // stays on the box
	Margin          *int
	Days            int
	Until           time.Time
}

// settle raises what a run found, and ends what it found over. It is done before
// the run's end is recorded: a crash in between has the run taken up, and it
// settles again.
func (d *Daemon) settle(ctx context.Context, id state.RunID, t Task, kind notify.Kind, now []Trouble) {
	before, err := d.c.DB.Alarms(ctx)
	if err != nil {
		d.c.Log.Error("alarms not read", "error", err)
		return
	}
	for _, x := range now {
		e := d.event(kind, t)
		e.Run, e.Work = int64(id), notify.Backup // what is wrong is not this run
		names := d.c.Names()
		if x.Tenant != "" {
			e.Tenant, e.Dataset, e.Level = names.Of(x.Tenant), names.Of(x.Dataset), d.levelOf(x.Tenant)
		}
		e.Store, e.Medium, e.Margin, e.Days, e.Until = names.Of(x.Store), medium(x.Medium), x.Margin, x.Days, x.Until
		d.open(ctx, state.Alarm{Key: kind.String() + " " + x.Subject, Kind: kind.String(), Tenant: x.Tenant, Dataset: x.Dataset, Reason: x.Reason}, e)
	}
	for _, a := range before {
		over := a.Kind == kind.String() && t.settles(a) && !slices.ContainsFunc(now, func(x Trouble) bool { return subject(a) == x.Subject })
		if over {
			d.end(ctx, a.Key, d.messages(d.recovered(a, kind)))
		}
	}
}

// medium is the name of a medium, which the register has checked.
func medium(label string) notify.Name {
	names, err := notify.NewNames(label)
	if err != nil {
		return notify.Names{}.Of(label)
	}
	return names.Of(label)
}

// recovered is the event that an alarm is over.
func (d *Daemon) recovered(a state.Alarm, was notify.Kind) notify.Event {
	names := d.c.Names()
	e := notify.Event{Kind: notify.Recovered, Was: was, Level: d.levelOf(a.Tenant), Tenant: names.Of(a.Tenant), Dataset: names.Of(a.Dataset), Since: a.Raised, Time: d.c.Now()}
	if s, ok := strings.CutPrefix(subject(a), "store "); ok {
		e.Store = names.Of(s)
	}
	if s, ok := strings.CutPrefix(subject(a), "medium "); ok {
		e.Medium = medium(strings.TrimSuffix(s, " overdue"))
	}
	return e
}

// subject is what an alarm is about.
func subject(a state.Alarm) string { return strings.TrimPrefix(a.Key, a.Kind+" ") }

// settles reports whether a run of the task says of an alarm whether it is over.
func (t Task) settles(a state.Alarm) bool {
	s := subject(a)
	return slices.ContainsFunc(t.Settles, func(k notify.Kind) bool { return k.String() == a.Kind }) &&
		(t.Scope == "" || s == t.Scope || strings.HasPrefix(s, t.Scope+"/"))
}

func (d *Daemon) levelOf(tenant string) notify.Level {
	for _, t := range d.current() {
		if t.Tenant == tenant && tenant != "" {
			return t.Level
		}
	}
	return notify.Unmarked
}

// forgetAlarms ends the alarms about what the configuration has no more: nothing
// would ever find them over.
func (d *Daemon) forgetAlarms(ctx context.Context) error {
	open, err := d.c.DB.Alarms(ctx)
	if err != nil {
		return err
	}
	tasks := d.current()
	for _, a := range open {
		kind, err := notify.ParseKind(a.Kind)
		if err != nil {
			continue // the notifier's own
		}
		judged := func(t Task) bool { return t.settles(a) }
		if kind == notify.Failed || kind == notify.Overdue || kind == notify.DrillFailed || kind == notify.Unproven {
			judged = func(t Task) bool { return t.Job == subject(a) }
		}
		if !slices.ContainsFunc(tasks, judged) {
			d.end(ctx, a.Key, nil)
		}
	}
	return nil
}

// pingEvery is how often a switch of the box hears that all is well.
const pingEvery = 10 * time.Minute

// look looks for what no run says: that runs do not come. It asks the database
// and not the planner, which may be what is wrong.
func (d *Daemon) look(ctx context.Context) error {
	now := d.c.Now()
	d.mu.Lock()
	soon := now.Sub(d.looked).Abs() < lookEvery
	if !soon {
		d.looked = now
	}
	ping := now.Sub(d.pinged).Abs() >= pingEvery
	d.mu.Unlock()
	if soon {
		return nil
	}
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		return err
	}
	ends, seen, err := d.ends(ctx)
	if err != nil {
		return err
	}
	for _, t := range d.current() {
		if t.Within > 0 {
			if err := d.lookForUnproven(ctx, t, now); err != nil {
				return err
			}
		}
		last, known := t.lastSuccess(health, ends, seen)
		if !known {
			continue
		}
		if by, why, overdue := schedule.Overdue(now, last, t.Spec.Period()); overdue {
			e := d.event(notify.Overdue, t)
			e.LastSuccess, e.Since = ends[t.Job].Good, now.Add(-by)
			d.raise(ctx, t, e, why)
		}
	}
	if d.c.Tell != nil {
		if err := d.c.Tell.CheckTestAlarm(ctx); err != nil {
			d.c.Log.Error("the test alarm cannot be looked after", "error", err)
		}
	}
	open, err := d.c.DB.Alarms(ctx)
	if err != nil {
		return err
	}
	d.lookAgain(ctx, open, ends, now)
	if ping && !slices.ContainsFunc(open, unknown) {
		d.mu.Lock()
		d.pinged = now
		d.mu.Unlock()
		d.send(ctx, notify.Event{Kind: notify.Alive, Time: now})
	}
	return nil
}

// Waits reports whether an alarm is the test alarm that waits for its answer:
// nothing is wrong.
func Waits(a state.Alarm) bool { return a.Kind == notify.TestKind }

// unknown tells an alarm that nobody is known to know of. While there is one,
// the switch is not told that all is well: so it is another way that tells people
// where those of the outbox do not get through.
func unknown(a state.Alarm) bool {
	return !Waits(a) && a.Acked.IsZero() && a.MutedUntil.IsZero()
}

func (d *Daemon) ends(ctx context.Context) (map[string]state.Ends, map[string]time.Time, error) {
	all, err := d.c.DB.Ends(ctx)
	if err != nil {
		return nil, nil, err
	}
	seen, err := d.c.DB.Seen(ctx)
	by := map[string]state.Ends{}
	for _, e := range all {
		by[e.Job] = e
	}
	return by, seen, err
}

// lastSuccess is from when on a task's next success is waited for: what never
// succeeded, from when it was first seen. Nothing is waited for where there is
// nothing yet to drill, in what tells people itself, and in what has an alarm of
// its own (Task.Within).
func (t Task) lastSuccess(health []state.Health, ends map[string]state.Ends, seen map[string]time.Time) (time.Time, bool) {
	i := slices.IndexFunc(health, func(h state.Health) bool { return h.Tenant == t.Tenant && h.Dataset == t.Dataset })
	switch t.Kind {
	case state.Digest, state.TestAlarm, state.MustFail, state.Cold:
		return time.Time{}, false
	case state.Backup:
		if i < 0 {
			return time.Time{}, false
		}
		return t.since(health[i]), true
	case state.Drill:
		if i < 0 || health[i].LastSuccess.IsZero() {
			return time.Time{}, false
		}
	}
	last := ends[t.Job].Good
	if last.IsZero() {
		last = seen[t.Job]
	}
	return last, !last.IsZero()
}

// lookAgainAfter is how soon what a weekly run found wrong is looked at again.
const lookAgainAfter = 20 * time.Hour

// drillAgainAfter is how soon a drill is done again that said nothing about the
// data: until one does, nobody knows more than before.
const drillAgainAfter = time.Hour

// lookAgain runs, a day later and not a week, what could find an alarm over:
// whoever mended something wants to know that it is.
func (d *Daemon) lookAgain(ctx context.Context, open []state.Alarm, ends map[string]state.Ends, now time.Time) {
	for _, t := range d.current() {
		last, ran := ends[t.Job]
		if t.Kind == state.Drill && last.LastOutcome == state.Infra && now.Sub(last.LastFinished) >= drillAgainAfter {
			d.startAgain(ctx, t)
		}
		if len(t.Settles) == 0 || !ran || now.Sub(last.LastFinished) < lookAgainAfter || t.Spec.Period() < 2*lookAgainAfter || !slices.ContainsFunc(open, t.settles) {
			continue
		}
		d.startAgain(ctx, t)
	}
}

func (d *Daemon) startAgain(ctx context.Context, t Task) {
	if _, err := d.Start(ctx, t.Job); err != nil && !errors.Is(err, state.ErrRunning) && !errors.Is(err, state.ErrClaimed) {
		d.c.Log.Error("it is not looked at again", "job", t.Job, "error", err)
	}
}

// examineNew examines, at once, what was never examined: before its first
// snapshot a person should know what would fail.
func (d *Daemon) examineNew(ctx context.Context) error {
	ends, _, err := d.ends(ctx)
	if err != nil {
		return err
	}
	for _, t := range d.current() {
		if _, ran := ends[t.Job]; t.Kind != state.Doctor || ran {
			continue
		}
		if _, err := d.Start(ctx, t.Job); err != nil && !errors.Is(err, state.ErrRunning) && !errors.Is(err, state.ErrClaimed) {
			return fmt.Errorf("examine %s: %w", t.Job, err)
		}
	}
	return nil
}

// send queues an event by itself. One that cannot be is in the log: nobody else
// can be told.
func (d *Daemon) send(ctx context.Context, e notify.Event) {
	messages := d.messages(e)
	if len(messages) == 0 {
		return
	}
	if err := d.c.DB.Enqueue(ctx, messages...); err != nil {
		d.c.Log.Error("people cannot be told", "event", e.Kind, "error", err)
	}
	d.wakeTeller(true)
}

// signal tells the switch of a dataset how its backups get on.
func (d *Daemon) signal(ctx context.Context, kind notify.Kind, t Task) {
	if t.Kind == state.Backup {
		d.send(context.WithoutCancel(ctx), d.event(kind, t))
	}
}
