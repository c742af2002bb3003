package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// untold raises and clears the alarms that a process before this one did not come
// to: it died between the record of how a run ended and its alarm, or over a run
// that nobody takes up any more.
func (d *Daemon) untold(ctx context.Context) error {
	health, err := d.c.DB.Datasets(ctx)
	open, oerr := d.c.DB.Alarms(ctx)
	if err := errors.Join(err, oerr); err != nil {
		return err
	}
	for _, t := range d.current() {
		i := slices.IndexFunc(health, func(h state.Health) bool { return h.Tenant == t.Tenant && h.Dataset == t.Dataset })
		if i < 0 {
			continue
		}
		switch h := health[i]; {
		case t.Kind == state.Drill && h.DrillOutcome == state.Failed:
			d.raiseUntold(ctx, t, notify.DrillFailed, 0, open)
		case t.Kind == state.Backup && h.LastFailure.After(h.LastSuccess):
			d.raiseUntold(ctx, t, notify.Failed, h.FailureRun, open)
		case t.Kind == state.Drill && h.DrillOutcome == state.OK:
			d.clearUntold(ctx, t, h.LastPassed, open, notify.DrillFailed)
		case t.Kind == state.Backup:
			d.clearUntold(ctx, t, h.LastSuccess, open, notify.Failed, notify.Overdue)
		}
	}
	return nil
}

// raiseUntold opens an alarm that is not open. The health of a dataset does not
// name the run of a drill: then run is 0.
func (d *Daemon) raiseUntold(ctx context.Context, t Task, kind notify.Kind, run state.RunID, open []state.Alarm) {
	if alarmOf(open, t, kind) != nil {
		return
	}
	e, reason := d.event(kind, t), "the last one failed"
	e.LastSuccess = d.lastGood(ctx, t.Job)
	if e.Run = int64(run); run != 0 {
		r, err := d.c.DB.Run(ctx, run)
		if err != nil {
			d.c.Log.Error("why a run failed is not known", "run", run, "error", err)
		}
		reason = r.Reason
	}
	d.raise(ctx, t, e, reason)
}

// clearUntold ends the alarms that were raised before a success; people hear of
// that once.
func (d *Daemon) clearUntold(ctx context.Context, t Task, success time.Time, open []state.Alarm, kinds ...notify.Kind) {
	good := d.messages(d.event(notify.Recovered, t))
	for _, kind := range kinds {
		if a := alarmOf(open, t, kind); a != nil && success.After(a.Raised) {
			d.clear(ctx, t, kind, good)
			good = nil
		}
	}
}

func alarmOf(open []state.Alarm, t Task, kind notify.Kind) *state.Alarm {
	i := slices.IndexFunc(open, func(a state.Alarm) bool { return a.Key == fmt.Sprintf("%s %s", kind, t.Job) })
	if i < 0 {
		return nil
	}
	return &open[i]
}
