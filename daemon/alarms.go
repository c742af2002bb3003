package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// A Teller tells people; it is a *notify.Notifier.
type Teller interface {
	// Messages puts an event into messages for the outbox, to be queued in the
	// transaction of what it tells.
	Messages(e notify.Event) ([]state.Message, error)
	// Wake has the outbox looked into now.
	Wake()
}

// lookEvery is how often the daemon looks for what is overdue.
const lookEvery = time.Minute

// event is one of a task's dataset; the names are the configuration's.
func (d *Daemon) event(kind notify.Kind, t Task) notify.Event {
	return notify.Event{Kind: kind, Level: t.Level, Tenant: d.c.Names.Of(t.Tenant), Dataset: d.c.Names.Of(t.Dataset), Time: d.c.Now()}
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
	_, told, err := d.c.DB.Raise(ctx, a, d.messages(e)...)
	if err != nil {
		d.c.Log.Error("alarm not recorded", "alarm", a.Key, "error", err)
	}
	d.wakeTeller(told)
}

// clear ends an alarm of a task, if it was open.
func (d *Daemon) clear(ctx context.Context, t Task, kind notify.Kind, messages []state.Message) {
	was, err := d.c.DB.Clear(ctx, fmt.Sprintf("%s %s", kind, t.Job), messages...)
	if err != nil {
		d.c.Log.Error("alarm not cleared", "job", t.Job, "kind", kind, "error", err)
	}
	d.wakeTeller(was && len(messages) > 0)
}

func (d *Daemon) wakeTeller(yes bool) {
	if yes && d.c.Tell != nil {
		d.c.Tell.Wake()
	}
}

// judge raises and clears alarms by how a run ended. What was cancelled or
// skipped says nothing.
func (d *Daemon) judge(ctx context.Context, id state.RunID, t Task, outcome state.Outcome, reason string) {
	switch {
	case t.Kind == state.Drill && outcome == state.Failed:
		e := d.event(notify.DrillFailed, t)
		e.Run = int64(id)
		d.raise(ctx, t, e, reason)
	case t.Within > 0 && outcome == state.Failed:
		e := d.event(notify.Unproven, t)
		e.Run = int64(id)
		d.raise(ctx, t, e, reason)
	case t.Within > 0 && outcome == state.OK:
		d.clear(ctx, t, notify.Unproven, d.messages(d.event(notify.Recovered, t)))
	case t.Kind == state.Drill && outcome == state.OK:
		d.clear(ctx, t, notify.DrillFailed, d.messages(d.event(notify.Recovered, t)))
	}
	if t.Kind != state.Backup {
		return
	}
	switch outcome {
	case state.Failed:
		e := d.event(notify.Failed, t)
		e.Run = int64(id)
		d.raise(ctx, t, e, reason)
	case state.OK, state.Partial:
		// People hear of a recovery once, whichever alarms it ends.
		good := d.messages(d.event(notify.Recovered, t))
		if was, err := d.c.DB.Clear(ctx, fmt.Sprintf("%s %s", notify.Failed, t.Job), good...); err == nil && was {
			good = nil
			d.wakeTeller(true)
		}
		d.clear(ctx, t, notify.Overdue, good)
		d.protect(ctx, t)
	}
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

// lookForOverdue raises what has had no success for too long. It asks the
// database and not the planner.
func (d *Daemon) lookForOverdue(ctx context.Context) error {
	now := d.c.Now()
	d.mu.Lock()
	soon := now.Sub(d.looked).Abs() < lookEvery
	if !soon {
		d.looked = now
	}
	d.mu.Unlock()
	if soon {
		return nil
	}
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		return err
	}
	for _, t := range d.current() {
		if t.Within > 0 {
			if err := d.lookForUnproven(ctx, t, now); err != nil {
				return err
			}
		}
		if t.Kind != state.Backup {
			continue
		}
		for _, h := range health {
			if h.Tenant != t.Tenant || h.Dataset != t.Dataset {
				continue
			}
			if by, why, overdue := t.overdue(h, now); overdue {
				e := d.event(notify.Overdue, t)
				e.LastSuccess, e.Since = h.LastSuccess, now.Add(-by)
				d.raise(ctx, t, e, why)
			}
		}
	}
	return nil
}

// Alarms returns what is wrong now.
func (d *Daemon) Alarms(ctx context.Context) ([]state.Alarm, error) { return d.c.DB.Alarms(ctx) }

// Acknowledge notes that a person knows of an alarm.
func (d *Daemon) Acknowledge(ctx context.Context, id state.AlarmID, who, why string) error {
	return d.c.DB.Acknowledge(ctx, id, who, why)
}

// Mute keeps an alarm from being told until a time.
func (d *Daemon) Mute(ctx context.Context, key string, until time.Time, who, why string) error {
	return d.c.DB.Mute(ctx, key, until, who, why)
}
