package daemon

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// Drills that must fail, and the cold one, are monthly whatever the
// configuration says, and it is an alarm when none of a kind ended well for 40
// days, or one ended badly.
func TestDrillsOfTheBoxAreMissed(t *testing.T) {
	tasks, err := TasksOf(&job.Site{Config: &config.Config{}}, "test")
	tasks = slices.DeleteFunc(tasks, func(t Task) bool { return t.Within == 0 })
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

// A dataset that never passed a drill is drilled after its first snapshot; one of
// a top-secret tenant after each.
func TestWhichSnapshotsAreDrilledAtOnce(t *testing.T) {
	for level, want := range map[notify.Level]int{notify.Secret: 1, notify.TopSecret: 3} {
		k := newDesk(t)
		spec, err := schedule.Compile(schedule.Config{TimeZone: "UTC"}, "x", time.LoadLocation)
		if err != nil {
			t.Fatal(err)
		}
		do := func(context.Context, Reporter) (state.Outcome, string, error) { return state.OK, "", nil }
		k.mu.Lock()
		k.other = []Task{{Job: "backup:acme/one", Kind: state.Backup, Tenant: "acme", Dataset: "one", Level: level, Spec: spec, Do: do},
			{Job: "drill:acme/one", Kind: state.Drill, Tenant: "acme", Dataset: "one", Level: level, Spec: spec, Do: do}}
		k.mu.Unlock()
		if err := k.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			k.passes(time.Minute)
			if _, err := k.Start(t.Context(), "backup:acme/one"); err != nil {
				t.Fatal(err)
			}
			k.drills(t, min(n+1, want), n+1)
		}
		k.stop()
	}
}

// drills waits until so many drills and backups have ended.
func (k *desk) drills(t *testing.T, drills, backups int) {
	t.Helper()
	n := map[state.Kind]int{}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		all, err := k.db.Runs(t.Context(), "", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		clear(n)
		for _, r := range all {
			if r.Outcome == state.OK {
				n[r.Kind]++
			}
		}
		if n[state.Drill] == drills && n[state.Backup] == backups {
			return
		}
	}
	t.Fatalf("%v: want %d drills of %d backups", n, drills, backups)
}
