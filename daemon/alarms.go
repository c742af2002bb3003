package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// A Teller tells people; it is a *notify.Notifier. Its methods may be called at
// the same time.
type Teller interface {
	// Messages puts an event into messages for the outbox, to be queued in the
	// transaction of what it tells.
	Messages(e notify.Event) ([]state.Message, error)
	// Wake has the outbox looked into now.
	Wake()
	// People reports whether any person is told.
	People() bool
	// SendTestAlarm sends this week's test alarm, and CheckTestAlarm tells the
	// other ways of one that nobody answered in time, once.
	SendTestAlarm(ctx context.Context) error
	CheckTestAlarm(ctx context.Context) error
}

// lookEvery is how often the daemon looks for what is overdue.
const lookEvery = time.Minute

// event is one of a task's dataset; the names are the configuration's.
func (d *Daemon) event(kind notify.Kind, t Task) notify.Event {
	names := d.c.Names()
	return notify.Event{Kind: kind, Work: notify.WorkOf(string(t.Kind)), Level: t.Level, Tenant: names.Of(t.Tenant), Dataset: names.Of(t.Dataset), Time: d.c.Now()}
}

// messages are those of an event; without a Teller, or where they cannot be
// made, there are none, and the alarm stands in the status all the same.
func (d *Daemon) messages(e notify.Event) []state.Message {
	if d.c.Tell == nil {
		return nil
	}
	m, err := d.c.Tell.Messages(e)
	if err != nil {
		d.c.Log.Error("people cannot be told", "event", e.Kind, "error", err)
	}
	return m
}

// raise opens an alarm of a task, and tells people once.
func (d *Daemon) raise(ctx context.Context, t Task, e notify.Event, reason string) {
	kind := e.Kind.String()
	a := state.Alarm{Key: fmt.Sprintf("%s %s", kind, t.Job), Kind: kind, Tenant: t.Tenant, Dataset: t.Dataset, Reason: reason}
	d.open(ctx, a, e)
}

func (d *Daemon) open(ctx context.Context, a state.Alarm, e notify.Event) {
	id, told, err := d.c.DB.Raise(ctx, a, d.messages(e)...)
	if err != nil {
		d.c.Log.Error("alarm not recorded", "alarm", a.Key, "error", err)
		return
	}
	if told {
		d.c.Log.Error("alarm", "alarm", id, "key", a.Key)
		d.publish(Happening{What: "alarm", Alarm: a.Key})
	}
	d.wakeTeller(told)
}

// clear ends an alarm of a task, if it was open.
func (d *Daemon) clear(ctx context.Context, t Task, kind notify.Kind, messages []state.Message) {
	d.end(ctx, fmt.Sprintf("%s %s", kind, t.Job), messages)
}

func (d *Daemon) end(ctx context.Context, key string, messages []state.Message) (was bool) {
	was, err := d.c.DB.Clear(ctx, key, messages...)
	if err != nil {
		d.c.Log.Error("alarm not cleared", "key", key, "error", err)
	}
	if was {
		d.c.Log.Info("alarm is over", "key", key)
		d.publish(Happening{What: "alarm over", Alarm: key})
	}
	d.wakeTeller(was && len(messages) > 0)
	return was
}

func (d *Daemon) wakeTeller(yes bool) {
	if yes && d.c.Tell != nil {
		d.c.Tell.Wake()
	}
}

// judge raises and clears alarms by how a run ended. What was cancelled or
// skipped says nothing.
func (d *Daemon) judge(ctx context.Context, id state.RunID, t Task, outcome state.Outcome, reason string, why notify.Cause) {
	failed := func(kind notify.Kind) {
		e := d.event(kind, t)
		e.Run, e.Cause, e.LastSuccess = int64(id), why, d.lastGood(ctx, t.Job)
		d.raise(ctx, t, e, reason)
	}
	switch {
	case t.Kind == state.Drill && outcome == state.Failed:
		failed(notify.DrillFailed)
	case t.Within > 0 && outcome == state.Failed:
		failed(notify.Unproven)
	case t.Within > 0 && outcome == state.OK:
		d.clear(ctx, t, notify.Unproven, d.messages(d.event(notify.Recovered, t)))
	case t.Kind == state.Drill && outcome == state.OK:
		d.clear(ctx, t, notify.DrillFailed, d.messages(d.event(notify.Recovered, t)))
	}
	if t.Within > 0 { // has an alarm of its own
		return
	}
	if t.Kind == state.Drill {
		// Whether drills come at all is looked at as of any work.
		if outcome == state.OK || outcome == state.Partial {
			d.clear(ctx, t, notify.Overdue, d.messages(d.event(notify.Recovered, t)))
		}
		return
	}
	switch outcome {
	case state.Failed:
		failed(notify.Failed)
	case state.OK, state.Partial:
		// People hear of a recovery once, whichever alarms it ends.
		good := d.messages(d.event(notify.Recovered, t))
		if d.end(ctx, fmt.Sprintf("%s %s", notify.Failed, t.Job), good) {
			good = nil
		}
		d.clear(ctx, t, notify.Overdue, good)
		if t.Kind == state.Backup {
			d.protect(ctx, t)
		}
	}
}

// lastGood is when a job last succeeded; zero: never, or nobody can tell.
func (d *Daemon) lastGood(ctx context.Context, job string) time.Time {
	ends, _, err := d.ends(ctx)
	if err != nil {
		d.c.Log.Error("the last success is not known", "job", job, "error", err)
	}
	return ends[job].Good
}

// protect drills a dataset that never passed one, at once: before, it may not be
// called protected. Of top-secret tenants every snapshot is drilled.
func (d *Daemon) protect(ctx context.Context, t Task) {
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		d.c.Log.Error("health not read", "error", err)
		return
	}
	for _, h := range health {
		if h.Tenant == t.Tenant && h.Dataset == t.Dataset && (!h.Protected() || t.Level == notify.TopSecret) {
			job := fmt.Sprintf("%s:%s/%s", state.Drill, t.Tenant, t.Dataset)
			if _, err := d.Start(ctx, job); err != nil && !errors.Is(err, ErrNoJob) && !errors.Is(err, state.ErrRunning) {
				d.c.Log.Error("the first drill does not begin", "job", job, "error", err)
			}
		}
	}
}

// Alarms returns what is wrong now.
func (d *Daemon) Alarms(ctx context.Context) ([]state.Alarm, error) { return d.c.DB.Alarms(ctx) }

// Acknowledge notes that a person knows of an alarm.
func (d *Daemon) Acknowledge(ctx context.Context, id state.AlarmID, who, why string) error {
	return d.c.DB.Acknowledge(ctx, id, who, why)
}

// ErrNoAlarm is of a key that no alarm has or could have.
var ErrNoAlarm = errors.New("no alarm has that key")

// Mute keeps an alarm from being told until a time, one that is not raised yet too.
// A key that is mistyped would keep nothing from anybody.
func (d *Daemon) Mute(ctx context.Context, key string, until time.Time, who, why string) error {
	word, subject, _ := strings.Cut(key, " ")
	if kind, err := notify.ParseKind(word); err != nil || !kind.Alarms() || subject == "" {
		open, err := d.c.DB.Alarms(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(open, func(a state.Alarm) bool { return a.Key == key }) {
			return fmt.Errorf("mute %.100q: %w, such as \"failed backup:acme/crm\": strongroom alarms", key, ErrNoAlarm)
		}
	}
	return d.c.DB.Mute(ctx, key, until, who, why)
}
