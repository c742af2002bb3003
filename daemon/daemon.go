// Package daemon runs a box by itself: it plans the work, starts and records it,
// and answers whoever asks.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
	"strongroom/systemd"
)

// A Task is one kind of work on one dataset, as the configuration has it now.
type Task struct {
	Job             string // never changes: kind:tenant/dataset
	Kind            state.Kind
	Tenant, Dataset string
	Level           notify.Level // of what leaves the box about it
	Spec            *schedule.Spec
	Uses            []schedule.Class
	AtOnce          bool // the first run does not wait for its time
	// Within is how long this may be without success before it is an alarm, of
	// what is of the box: Tenant and Dataset are "" then. 0: for ever.
	Within time.Duration
	// Settles are the kinds of troubles that a run of it finds or finds over:
	// those whose subject is Scope or lies in it; with "" all.
	Settles []notify.Kind
	Scope   string
	// Do does the work, or goes on with it where a dead process left it. It
	// returns how it ended; an error after ctx ended means that it can go on.
	Do func(ctx context.Context, r Reporter) (state.Outcome, string, error)
	// List lists the tenant's snapshots, after a run that changed them; nil: none
	// does.
	List func(ctx context.Context) ([]state.Cached, error)
}

// A Reporter is told how a run gets on.
type Reporter interface {
	Phase(name string)
	Progress(done, total int64)
	// Keep keeps what the run found, which json.Marshal takes, for status and
	// metrics; the last one counts.
	Keep(found any)
	// Settle says which troubles of a kind there are now in the task's scope. Those
	// that are open and not among them are over.
	Settle(kind notify.Kind, now []Trouble)
}

// Config is what a daemon needs.
type Config struct {
	DB *state.DB
	// Tasks reads the configuration. It is called at the start and on Reload; an
	// error changes nothing.
	Tasks  func() ([]Task, error)
	Limits map[schedule.Class]int
	// Tell tells people; nil: nobody is. Names returns those it may use, of the
	// configuration that Tasks read last.
	Tell  Teller
	Names func() notify.Names
	Log   *slog.Logger
	// Plain takes out of a text what may be a client's, for the log; nil: nothing.
	Plain func(string) string
	Now   func() time.Time
}

// maxAttempts is how often a run is begun anew that a dead daemon left: one that
// kills the daemon must not do so for ever.
const maxAttempts = 5

// stopWithin is how long runs have to stop at a checkpoint.
const stopWithin = 8 * time.Second

// A Daemon is the planner and what it has started.
type Daemon struct {
	c    Config
	wake chan struct{} // plan again; holds one
	runs sync.WaitGroup

	mu      sync.Mutex
	tasks   []Task                     // guarded by mu
	running map[state.RunID]*execution // guarded by mu
	stopped bool                       // nothing begins any more; guarded by mu
	leaving bool                       // ends once nothing runs; guarded by mu
	looked  time.Time                  // for what is overdue; guarded by mu
	lost    error                      // how a run ended could not be recorded; guarded by mu
	pinged  time.Time                  // that all is well; guarded by mu
	watches map[*watching]bool         // guarded by mu
	sleeps  time.Duration              // at most, between two plans; tests have it longer
}

// execution is a run that goes on.
type execution struct {
	task      Task
	since     time.Time
	cancel    context.CancelFunc
	cancelled bool // by somebody, not by the end of the daemon
}

// New reads the configuration.
func New(c Config) (*Daemon, error) {
	d := &Daemon{c: c, wake: make(chan struct{}, 1), running: map[state.RunID]*execution{}, watches: map[*watching]bool{}, sleeps: schedule.MaxSleep}
	tasks, err := d.read()
	if err != nil {
		return nil, err
	}
	d.tasks = tasks
	return d, nil
}

// read reads the configuration, and adds what the daemon does by itself.
func (d *Daemon) read() ([]Task, error) {
	tasks, err := d.c.Tasks()
	if err != nil {
		return nil, err
	}
	own, err := d.own()
	return append(tasks, own...), err
}

// Run plans and works until ctx ends, then stops what runs at its next
// checkpoint. What was not finished is taken up by the next start: a run stays
// the same run.
//
// Crash story. A run is claimed in the database before it begins, and a claim of
// a process that is gone is found here before the first plan. So a planned run
// begins once, whatever dies when.
func (d *Daemon) Run(ctx context.Context) error {
	err := d.begin(ctx)
	if err == nil {
		if err := systemd.Notify("READY=1", "STATUS=planning"); err != nil {
			d.c.Log.Warn("the service manager does not listen", "error", err)
		}
		err = d.loop(ctx)
	}
	switch {
	case errors.Is(err, ErrRestart):
		d.c.Log.Info("nothing runs: ends, to be started again")
	case ctx.Err() != nil:
		err = nil // it was told to end
	}
	systemd.Notify("STOPPING=1")
	return errors.Join(err, d.stop())
}

func (d *Daemon) begin(ctx context.Context) error {
	if err := d.know(ctx); err != nil {
		return err
	}
	if err := d.takeUp(ctx); err != nil {
		return err
	}
	return errors.Join(d.firsts(ctx), d.examineNew(ctx))
}

// firsts begins what must not wait for its time and never succeeded.
func (d *Daemon) firsts(ctx context.Context) error {
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		return err
	}
	for _, t := range d.current() {
		never := slices.ContainsFunc(health, func(h state.Health) bool {
			return h.Tenant == t.Tenant && h.Dataset == t.Dataset && h.LastSuccess.IsZero()
		})
		if !t.AtOnce || !never {
			continue
		}
		if _, err := d.Start(ctx, t.Job); err != nil && !errors.Is(err, state.ErrRunning) {
			return err
		}
	}
	return nil
}

// loop plans, sleeps, and says that it lives. The watchdog hears it only after a
// plan was made and the database took a write: a planner that hangs, or a disk
// that does, is restarted.
func (d *Daemon) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		hang(ctx)
		next, err := d.plan(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return fmt.Errorf("plan: %w", err)
		}
		if err := errors.Join(d.look(ctx), d.c.DB.Beat(ctx)); err != nil && ctx.Err() == nil {
			return err
		}
		systemd.Notify("WATCHDOG=1")
		sleep := d.sleeps
		if w := systemd.Watchdog(); w > 0 {
			sleep = min(sleep, w/3)
		}
		if until := next.Sub(d.c.Now()); !next.IsZero() {
			sleep = min(sleep, max(until, 0))
		}
		t := time.NewTimer(sleep)
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

// know makes every dataset known, so that it can be overdue, and forgets the
// alarms of those that the configuration has no more.
func (d *Daemon) know(ctx context.Context) error {
	for _, t := range d.current() {
		if t.Dataset == "" { // of the box, or of a tenant
			continue
		}
		if err := d.c.DB.Watch(ctx, t.Tenant, t.Dataset); err != nil {
			return err
		}
	}
	return d.forgetAlarms(ctx)
}

// takeUp goes on with what a process before this one left, runs and alarms.
func (d *Daemon) takeUp(ctx context.Context) error {
	orphans, err := d.c.DB.Orphans(ctx)
	if err != nil {
		return err
	}
	tasks := d.current()
	for _, r := range orphans {
		i := slices.IndexFunc(tasks, func(t Task) bool { return t.Job == r.Job })
		switch {
		case i < 0:
			err = d.c.DB.Interrupt(ctx, r.ID, "the daemon ended, and the configuration does not have it any more")
		case r.Attempts >= maxAttempts:
			err = d.c.DB.Interrupt(ctx, r.ID, fmt.Sprintf("the daemon ended %d times while it ran", r.Attempts))
		default:
			if err = d.c.DB.Adopt(ctx, r.ID); err == nil {
				d.c.Log.Info("goes on", "run", r.ID, "job", r.Job, "attempt", r.Attempts+1)
				d.start(ctx, r.ID, tasks[i])
			}
		}
		if err != nil {
			return err
		}
	}
	return d.untold(ctx)
}

// plan starts what is due and says when to plan again.
func (d *Daemon) plan(ctx context.Context) (time.Time, error) {
	if err := d.unrecorded(); err != nil {
		return time.Time{}, err
	}
	tasks := d.current()
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = t.Job
	}
	last, err := d.c.DB.Last(ctx, names)
	if err != nil {
		return time.Time{}, err
	}
	jobs, by := make([]schedule.Job, len(tasks)), map[string]Task{}
	for i, t := range tasks {
		jobs[i] = schedule.Job{ID: t.Job, Spec: t.Spec, Last: last[t.Job], Uses: t.Uses}
		by[t.Job] = t
	}
	busy := d.busy()
	if d.mayLeave() { // after that look, so that what it saw end makes room for no other
		return time.Time{}, ErrRestart
	}
	decision := schedule.Plan(d.c.Now(), jobs, busy, d.c.Limits)
	for _, turn := range decision.Skip {
		err := d.c.DB.Skip(ctx, claimOf(by[turn.Job], turn), turn.Reason)
		if err != nil && !errors.Is(err, state.ErrClaimed) {
			return time.Time{}, err
		}
		d.c.Log.Warn("skipped", "job", turn.Job, "planned", turn.Planned, "reason", turn.Reason)
	}
	for _, turn := range decision.Start {
		id, err := d.c.DB.Claim(ctx, claimOf(by[turn.Job], turn))
		if errors.Is(err, state.ErrClaimed) || errors.Is(err, state.ErrRunning) {
			continue
		} else if err != nil {
			return time.Time{}, err
		}
		d.start(ctx, id, by[turn.Job])
	}
	return decision.Next, nil
}

func claimOf(t Task, turn schedule.Turn) state.Claim {
	return state.Claim{Job: t.Job, Kind: t.Kind, Tenant: t.Tenant, Dataset: t.Dataset, Planned: turn.Planned, Missed: turn.Missed, FirstMissed: turn.FirstMissed}
}

func (d *Daemon) busy() []schedule.Running {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []schedule.Running
	for _, e := range d.running {
		out = append(out, schedule.Running{Job: e.task.Job, Since: e.since, Uses: e.task.Uses})
	}
	return out
}

func (d *Daemon) current() []Task {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.tasks)
}

// planAgain wakes the loop.
func (d *Daemon) planAgain() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Reload reads the configuration again. What runs goes on with the old one; a
// mistake changes nothing.
func (d *Daemon) Reload(ctx context.Context) error {
	tasks, err := d.read()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.tasks = tasks
	d.mu.Unlock()
	if err := d.know(ctx); err != nil {
		return err
	}
	d.planAgain()
	// The runs outlive whoever asked.
	return d.examineNew(context.WithoutCancel(ctx))
}
