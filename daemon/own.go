package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// When people hear that the box lives, and when they are asked to show that an
// alarm would reach them: at hours when somebody is at work.
const (
	digestAt    = "0 8 * * 1"
	testAlarmAt = "0 10 * * 2"
)

const week = 7 * 24 * time.Hour

// own are the tasks of the daemon itself: to tell people. Where nobody is told
// there are none, and the status says so.
func (d *Daemon) own() ([]Task, error) {
	if d.c.Tell == nil || !d.c.Tell.People() {
		return nil, nil
	}
	digest, err := schedule.Compile(schedule.Config{At: digestAt}, string(state.Digest), time.LoadLocation)
	if err != nil {
		return nil, fmt.Errorf("schedule of the digest: %w", err)
	}
	test, err := schedule.Compile(schedule.Config{At: testAlarmAt}, string(state.TestAlarm), time.LoadLocation)
	if err != nil {
		return nil, fmt.Errorf("schedule of the test alarm: %w", err)
	}
	return []Task{
		{Job: string(state.Digest), Kind: state.Digest, Spec: digest, Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) { return d.digest(ctx, r, digest) }},
		{Job: string(state.TestAlarm), Kind: state.TestAlarm, Spec: test, Do: func(ctx context.Context, _ Reporter) (state.Outcome, string, error) {
			return state.OK, "sent", d.c.Tell.SendTestAlarm(ctx)
		}},
	}, nil
}

// digest tells how the week was, and when the next digest comes: one that does
// not is noticed. Its messages are queued as the run is recorded, so that a crash
// neither loses nor doubles it.
func (d *Daemon) digest(ctx context.Context, r Reporter, spec *schedule.Spec) (state.Outcome, string, error) {
	now := d.c.Now()
	w := &notify.Week{From: now.Add(-week), To: now}
	ends, _, err := d.ends(ctx)
	if err != nil {
		return "", "", err
	}
	if last := ends[string(state.Digest)].Good; !last.IsZero() && now.Sub(last) < 4*week {
		w.From = last
	}
	tick, ok := spec.Next(now)
	if !ok {
		return "", "", fmt.Errorf("the digest has no next time")
	}
	w.Next = tick.Due
	all, err := d.Status(ctx)
	if err != nil {
		return "", "", err
	}
	runs, err := d.c.DB.RunsSince(ctx, w.From)
	if err != nil {
		return "", "", err
	}
	open, err := d.c.DB.Alarms(ctx)
	if err != nil {
		return "", "", err
	}
	for _, a := range open {
		if !Waits(a) {
			w.Alarms++
		}
	}
	level, names := notify.Unmarked, d.c.Names()
	for _, s := range all {
		level = max(level, d.levelOf(s.Tenant))
		w.Datasets = append(w.Datasets, s.line(names, runs))
	}
	if r, ok := r.(*reporter); ok {
		r.tell = append(r.tell, d.messages(notify.Event{Kind: notify.Digest, Level: level, Time: now, Week: w})...)
	}
	return state.OK, "the next comes " + w.Next.Format(time.RFC3339), nil
}

// line is a dataset in a digest.
func (s DatasetStatus) line(names notify.Names, runs []state.Run) notify.Line {
	l := notify.Line{Tenant: names.Of(s.Tenant), Dataset: names.Of(s.Dataset), State: s.worst()}
	if s.Success != nil {
		l.LastSuccess = *s.Success
	}
	if s.Drill != nil {
		l.LastDrill = *s.Drill
	}
	for _, r := range runs {
		if r.Kind != state.Backup || r.Tenant != s.Tenant || r.Dataset != s.Dataset {
			continue
		}
		l.Runs++
		if slices.Contains([]state.Outcome{state.Failed, state.Interrupted}, r.Outcome) {
			l.Failures++
		}
	}
	return l
}

// worst is the worst that is true of a dataset.
func (s DatasetStatus) worst() notify.State {
	switch {
	case s.Outcome == string(state.Failed):
		return notify.NotRestorable
	case s.State == "overdue":
		return notify.Late
	case s.State == "failed":
		return notify.Failing
	case !s.Protected:
		return notify.NotYetProtected
	}
	return notify.Fine
}
