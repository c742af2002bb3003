package daemon

import (
	"context"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
)

// Drills that must fail, and the cold one, are monthly whatever the
// configuration says, and it is an alarm when none of a kind ended well for 40
// days, or one ended badly.
func TestDrillsOfTheBoxAreMissed(t *testing.T) {
	tasks, err := TasksOf(&job.Site{Config: &config.Config{}}, "test")
	if err != nil || len(tasks) != 2 || tasks[0].Job != "must-fail:box" || tasks[1].Job != "cold:box" {
		t.Fatalf("%+v, %v", tasks, err)
	}
	for _, task := range tasks {
		if p := task.Spec.Period(); p < 28*day || p > 32*day || task.Within != 40*day {
			t.Errorf("%s every %v, alarm after %v", task.Job, p, task.Within)
		}
	}
	k := newDesk(t)
	k.sets(func(context.Context) (state.Outcome, error) { return state.Infra, nil })
	task := tasks[0]
	task.Do = func(ctx context.Context, _ Reporter) (state.Outcome, string, error) {
		k.mu.Lock()
		does := k.does
		k.mu.Unlock()
		o, err := does(ctx)
		return o, "", err
	}
	k.mu.Lock()
	k.other = []Task{task}
	k.mu.Unlock()
	if err := k.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.settle(t)
	k.passes(39 * day) // INFRA says nothing
	k.waits(" infra 1")
	k.settle(t)
	k.hears()
	k.passes(2 * day)
	k.hears("unproven ")
	k.sets(func(context.Context) (state.Outcome, error) { return state.OK, nil })
	if _, err := k.Start(t.Context(), task.Job); err != nil {
		t.Fatal(err)
	}
	k.hears("unproven ", "recovered ")
	k.sets(func(context.Context) (state.Outcome, error) { return state.Failed, nil })
	k.passes(time.Hour)
	if _, err := k.Start(t.Context(), task.Job); err != nil {
		t.Fatal(err)
	}
	k.hears("unproven ", "recovered ", "unproven ")
	open, err := k.Alarms(t.Context())
	if err != nil || len(open) != 1 || !strings.HasPrefix(open[0].Key, "unproven must-fail:box") {
		t.Errorf("%+v, %v", open, err)
	}
}

const day = 24 * time.Hour

// settle waits until the daemon has looked.
func (k *desk) settle(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		k.Daemon.mu.Lock()
		looked := k.looked
		k.Daemon.mu.Unlock()
		if !k.clock().After(looked) {
			return
		}
		k.planAgain()
	}
	t.Fatal("the daemon does not look")
}
