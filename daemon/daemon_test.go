package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
	"strongroom/source"
)

// desk is a daemon with tasks that do what a test says, and a clock of its own.
type desk struct {
	t   *testing.T
	dir string
	*Daemon
	db   *state.DB
	stop func() error // ends the daemon and closes the database

	mu    sync.Mutex
	now   time.Time                                    // guarded by mu
	does  func(context.Context) (state.Outcome, error) // guarded by mu
	began []string                                     // guarded by mu
	bad   error                                        // of the configuration; guarded by mu
	other []Task                                       // instead of those of datasets; guarded by mu
}

// Messages makes one of each event, by which a test sees it in the outbox.
func (k *desk) Messages(e notify.Event) ([]state.Message, error) {
	if e.Kind <= notify.Alive {
		return nil, nil // of switches
	}
	text := e.Kind.String() + " " + e.Dataset.String()
	if e.Cause != notify.Unknown {
		text += ", " + e.Cause.String()
	}
	return []state.Message{{Event: text + e.Time.String(), Channel: "test", Body: text}}, nil
}

func (k *desk) Wake()                                {}
func (k *desk) People() bool                         { return false }
func (k *desk) SendTestAlarm(context.Context) error  { return nil }
func (k *desk) CheckTestAlarm(context.Context) error { return nil }

// hears waits until the outbox has these, in this order.
func (k *desk) hears(want ...string) {
	k.t.Helper()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all, err := k.db.Waiting(context.Background())
		if err != nil {
			k.t.Fatal(err)
		}
		got = nil
		for _, m := range all {
			got = append(got, m.Body)
		}
		if slices.Equal(got, want) {
			return
		}
	}
	k.t.Fatalf("people hear %q, want %q", got, want)
}

func newDesk(t *testing.T) *desk {
	k := &desk{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 3, 12, 0, 0, 0, time.UTC)}
	if err := state.Create(t.Context(), state.Config{Dir: k.dir, Version: "test", Now: k.clock}); err != nil {
		t.Fatal(err)
	}
	k.sets(func(context.Context) (state.Outcome, error) { return state.OK, nil })
	k.start()
	return k
}

func (k *desk) clock() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// passes moves the clock and has the daemon look at it.
func (k *desk) passes(d time.Duration) {
	k.mu.Lock()
	k.now = k.now.Add(d)
	k.mu.Unlock()
	k.planAgain()
}

func (k *desk) sets(does func(context.Context) (state.Outcome, error)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.does = does
}

func (k *desk) tasks() ([]Task, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bad != nil {
		return nil, k.bad
	}
	if k.other != nil {
		return k.other, nil
	}
	var out []Task
	for _, dataset := range []string{"one", "two"} {
		job := "backup:acme/" + dataset
		spec, err := schedule.Compile(schedule.Config{TimeZone: "UTC"}, job, time.LoadLocation)
		if err != nil {
			k.t.Fatal(err)
		}
		out = append(out, Task{Job: job, Kind: state.Backup, Tenant: "acme", Dataset: dataset, Spec: spec, Uses: []schedule.Class{backups},
			Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
				r.Phase("backup")
				r.Progress(1, 2)
				r.Progress(2, 2)
				k.mu.Lock()
				k.began = append(k.began, dataset)
				does := k.does
				k.mu.Unlock()
				outcome, err := does(ctx)
				return outcome, "", err
			}})
	}
	return out, nil
}

// start opens the database and runs the daemon, as a new process would.
func (k *desk) start() {
	k.t.Helper()
	db, err := state.Open(context.Background(), state.Config{Dir: k.dir, Version: "test", Now: k.clock})
	if err != nil {
		k.t.Fatal(err)
	}
	k.db = db
	names, err := notify.NewNames("acme", "one", "two")
	if err != nil {
		k.t.Fatal(err)
	}
	if k.Daemon, err = New(Config{DB: db, Tasks: k.tasks, Tell: k, Names: func() notify.Names { return names }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: k.clock}); err != nil {
		k.t.Fatal(err)
	}
	for _, dataset := range []string{"one", "two"} {
		if err := db.Watch(context.Background(), "acme", dataset); err != nil {
			k.t.Fatal(err)
		}
	}
	// A job owes nothing from before it was first asked for.
	if _, err := db.Last(context.Background(), []string{"backup:acme/one", "backup:acme/two"}); err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	k.stop = sync.OnceValue(func() error { cancel(); return errors.Join(<-done, db.Close()) })
	k.t.Cleanup(func() { k.stop() })
}

// waits until the last runs look so: "dataset outcome attempts", newest first.
func (k *desk) waits(want ...string) {
	k.t.Helper()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all, err := k.Runs(context.Background(), "", "", 0, 100)
		if err != nil {
			k.t.Fatal(err)
		}
		got = nil
		running := 0
		for _, r := range all {
			got = append(got, fmt.Sprintf("%s %s %d", r.Dataset, r.Outcome, r.Attempts))
			if r.Outcome == "" {
				running++
			}
		}
		// Between the record of a run's end and its end people are told: until then
		// what is due of the same job overlaps with it. A daemon that leaves claims runs
		// and does not begin them.
		if slices.Equal(got, want) && len(k.busy()) <= running {
			return
		}
	}
	k.t.Fatalf("runs %q, want %q", got, want)
}

// hangs blocks until its context ends.
func hangs(ctx context.Context) (state.Outcome, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

const untilSunday = 15 * time.Hour // it is Saturday noon

func TestWhatIsDueRunsOnceAndOneAtATime(t *testing.T) {
	k := newDesk(t)
	release := make(chan struct{})
	var most, n int
	var mu sync.Mutex
	k.sets(func(context.Context) (state.Outcome, error) {
		mu.Lock()
		n++
		most = max(most, n)
		mu.Unlock()
		<-release
		mu.Lock()
		n--
		mu.Unlock()
		return state.OK, nil
	})
	for range 20 {
		k.passes(0) // not yet
	}
	k.passes(untilSunday)
	k.waits("one  1")
	for range 20 {
		k.passes(time.Minute)
	}
	close(release)
	k.waits("two ok 1", "one ok 1")
	for range 20 {
		k.passes(time.Minute)
	}
	k.waits("two ok 1", "one ok 1")
	if most != 1 {
		t.Errorf("%d backups at once", most)
	}
	k.passes(7 * 24 * time.Hour)
	k.waits("two ok 1", "one ok 1", "two ok 1", "one ok 1")
}

func TestWhatTheEndOfTheDaemonInterruptsGoesOn(t *testing.T) {
	k := newDesk(t)
	k.sets(hangs)
	k.passes(untilSunday)
	k.waits("one  1")
	began := time.Now()
	if err := k.stop(); err != nil || time.Since(began) > 5*time.Second {
		t.Fatalf("stopped after %v: %v", time.Since(began), err)
	}
	k.start()
	k.waits("one  2") // the same run
	if err := k.stop(); err != nil {
		t.Fatal(err)
	}
	k.sets(func(context.Context) (state.Outcome, error) { return state.OK, nil })
	k.start()
	k.waits("two ok 1", "one ok 3")
}

// A run that kills the daemon again and again must not do so for ever.
func TestARunIsNotTakenUpForEver(t *testing.T) {
	k := newDesk(t)
	k.sets(hangs)
	if _, err := k.Start(t.Context(), "backup:acme/two"); err != nil {
		t.Fatal(err)
	}
	for n := range maxAttempts {
		k.waits(fmt.Sprintf("two  %d", n+1))
		if err := k.stop(); err != nil {
			t.Fatal(err)
		}
		k.start()
	}
	k.waits(fmt.Sprintf("two interrupted %d", maxAttempts+1))
	k.hears("failed two")
}

func TestFailuresPanicsAndCancellationsAreRecorded(t *testing.T) {
	k := newDesk(t)
	run := func(does func(context.Context) (state.Outcome, error)) state.RunID {
		t.Helper()
		k.sets(does)
		k.passes(time.Second)
		id, err := k.Start(t.Context(), "backup:acme/one")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	run(func(context.Context) (state.Outcome, error) { return "", errors.New("no such database") })
	k.waits("one failed 1")
	run(func(context.Context) (state.Outcome, error) { panic("a bug") })
	k.waits("one failed 1", "one failed 1")
	id := run(hangs)
	k.waits("one  1", "one failed 1", "one failed 1")
	k.passes(time.Second)
	if _, err := k.Start(t.Context(), "backup:acme/one"); !errors.Is(err, state.ErrRunning) {
		t.Errorf("started twice: %v", err)
	}
	if _, err := k.Start(t.Context(), "backup:acme/three"); !errors.Is(err, ErrNoJob) {
		t.Errorf("an unknown one: %v", err)
	}
	if err := k.Cancel(id); err != nil {
		t.Fatal(err)
	}
	k.waits("one cancelled 1", "one failed 1", "one failed 1")
	if err := k.Cancel(id); !errors.Is(err, ErrNoRun) {
		t.Errorf("cancelled twice: %v", err)
	}
	all, err := k.Runs(t.Context(), "acme", "one", 0, 10)
	if err != nil || all[2].Reason != "no such database" || all[1].Reason != "internal error: a bug" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestABadConfigurationChangesNothing(t *testing.T) {
	k := newDesk(t)
	k.mu.Lock()
	k.bad = errors.New("c.toml:3:1: unknown key")
	k.mu.Unlock()
	if err := k.Reload(t.Context()); err == nil {
		t.Error("it was taken")
	}
	k.passes(untilSunday)
	k.waits("two ok 1", "one ok 1")
}

// Overdue is seen without the planner: here it is never asked again.
func TestOverdueIsAStateOfItsOwn(t *testing.T) {
	k := newDesk(t)
	stateOf := func() string {
		t.Helper()
		all, err := k.Status(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0].State
	}
	if s := stateOf(); s != "never" {
		t.Errorf("at first %q", s)
	}
	k.passes(untilSunday)
	k.waits("two ok 1", "one ok 1")
	if s := stateOf(); s != "ok" {
		t.Errorf("then %q", s)
	}
	for _, tc := range []struct {
		later time.Duration
		want  string
	}{{7 * 24 * time.Hour, "ok"}, {36 * time.Hour, "ok"}, {8 * time.Hour, "overdue"}} {
		k.mu.Lock()
		k.now = k.now.Add(tc.later) // and nobody plans
		k.mu.Unlock()
		if s := stateOf(); s != tc.want {
			t.Errorf("%v later %q, want %q", tc.later, s, tc.want)
		}
	}
}

// People hear of a failure once, however often it comes again, and once that it
// is over; of what is overdue too, though nothing ran.
func TestPeopleHearOfEachTroubleOnce(t *testing.T) {
	k := newDesk(t)
	run := func(does func(context.Context) (state.Outcome, error), want string) {
		t.Helper()
		k.sets(does)
		k.passes(time.Second)
		id, err := k.Start(t.Context(), "backup:acme/one")
		if err != nil {
			t.Fatal(err)
		}
		for r, err := k.db.Run(t.Context(), id); ; r, err = k.db.Run(t.Context(), id) {
			if err != nil {
				t.Fatal(err)
			}
			if !r.Finished.IsZero() && string(r.Outcome) == want {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	fails := func(context.Context) (state.Outcome, error) {
		return "", source.WithClass(source.Temporary, errors.New("away"))
	}
	works := func(context.Context) (state.Outcome, error) { return state.OK, nil }
	run(works, "ok")
	run(fails, "failed")
	k.hears("failed one, source-away")
	run(fails, "failed")
	if all, err := k.Alarms(t.Context()); err != nil || len(all) != 1 || all[0].Reason != "away" {
		t.Fatalf("%+v, %v", all, err)
	}
	run(works, "ok")
	k.hears("failed one, source-away", "recovered one")
	if all, err := k.Alarms(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	// Nothing succeeds for long.
	k.sets(fails)
	k.passes(10 * 24 * time.Hour)
	until := time.Now().Add(20 * time.Second)
	for {
		all, err := k.Alarms(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		overdue := 0
		for _, a := range all {
			if a.Kind == "overdue" {
				overdue++
			}
		}
		if overdue == 2 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%+v", all)
		}
		k.passes(time.Minute)
		time.Sleep(5 * time.Millisecond)
	}
}

// What a job told last is seen while it runs, however soon after another it came: a
// source may be read in a moment, and the stores take an hour.
func TestTheLastProgressIsSeen(t *testing.T) {
	k := newDesk(t)
	release := make(chan struct{})
	k.sets(func(context.Context) (state.Outcome, error) { <-release; return state.OK, nil })
	defer k.stop()
	defer close(release)
	k.passes(untilSunday)
	k.waits("one  1")
	var got RunStatus
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		all, err := k.Runs(context.Background(), "", "", 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got = all[0]; got.Done == 2 {
			return
		}
	}
	t.Errorf("done is %d while the run goes on, want what was told last, 2", got.Done)
}
