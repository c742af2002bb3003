package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// start begins a run that was claimed.
func (d *Daemon) start(ctx context.Context, id state.RunID, t Task) {
	ctx, cancel := context.WithCancel(ctx)
	e := &execution{task: t, since: d.c.Now(), cancel: cancel}
	d.mu.Lock()
	if d.stopped { // the claim stays for the next start
		d.mu.Unlock()
		cancel()
		return
	}
	d.running[id] = e
	d.runs.Add(1)
	d.mu.Unlock()
	d.c.Log.Info("run begins", "run", id, "job", t.Job)
	d.publish(Happening{What: "begins", Run: id, Job: t.Job})
	d.signal(ctx, notify.Started, t)
	go func() {
		defer d.runs.Done()
		defer cancel()
		d.execute(ctx, id, e)
		d.mu.Lock()
		delete(d.running, id)
		d.mu.Unlock()
		d.planAgain()
	}()
}

// execute does the work of a run and records how it ended. When the daemon ends
// before, nothing is recorded: the next start goes on with it.
func (d *Daemon) execute(ctx context.Context, id state.RunID, e *execution) {
	r := &reporter{d: d, id: id, task: e.task}
	outcome, reason, err := d.do(ctx, r, e.task)
	r.ends()
	d.mu.Lock()
	cancelled := e.cancelled
	d.mu.Unlock()
	switch {
	case ctx.Err() != nil && err != nil && !cancelled:
		d.c.Log.Info("run stopped, to be taken up", "run", id, "job", e.task.Job)
		return
	case cancelled && err != nil:
		outcome, reason = state.Cancelled, "cancelled by hand"
	case err != nil:
		outcome, reason = state.Failed, err.Error()
	}
	// It has happened, whatever ends now.
	if e.task.Kind == state.Backup && (outcome == state.OK || outcome == state.Partial) {
		r.tell = append(r.tell, d.messages(d.event(notify.Succeeded, e.task))...)
	}
	if err := d.c.DB.Finish(context.WithoutCancel(ctx), id, outcome, reason, r.tell...); err != nil {
		d.c.Log.Error("how a run ended could not be recorded", "run", id, "outcome", outcome, "error", err)
		d.mu.Lock()
		d.lost = fmt.Errorf("how run %d ended could not be recorded: %w", id, err)
		d.mu.Unlock()
		return
	}
	d.wakeTeller(len(r.tell) > 0)
	d.judge(context.WithoutCancel(ctx), id, e.task, outcome, reason, causeOf(e.task, outcome, err))
	d.recatalogue(ctx, e.task, outcome)
	level := slog.LevelInfo
	if outcome == state.Failed {
		level = slog.LevelWarn // what a person has to do about it is an alarm's to say
	}
	d.c.Log.Log(context.Background(), level, "run ended", "run", id, "job", e.task.Job, "outcome", string(outcome), "reason", d.plain(reason))
	d.publish(Happening{What: "ended", Run: id, Job: e.task.Job, Outcome: string(outcome), Reason: reason})
}

// plain is what a log may have of a reason.
func (d *Daemon) plain(reason string) string {
	if d.c.Plain == nil {
		return reason
	}
	return d.c.Plain(reason)
}

// recatalogue keeps names and times that can be read without the stores. It is a
// cache: that it fails is no fault of the run.
func (d *Daemon) recatalogue(ctx context.Context, t Task, outcome state.Outcome) {
	if t.List == nil || outcome != state.OK && outcome != state.Partial {
		return
	}
	at := d.c.Now()
	all, err := t.List(ctx)
	if err == nil {
		err = d.c.DB.SetCatalogue(ctx, t.Tenant, at, all)
	}
	if err != nil && ctx.Err() == nil {
		d.c.Log.Warn("the catalogue was not brought up to date", "tenant", t.Tenant, "error", err)
	}
}

// unrecorded is why the daemon has to end: to the database a run goes on that has
// ended, and its job would never be started again. The next start takes it up.
func (d *Daemon) unrecorded() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// do is the task's own work; a panic in it fails the run and not the daemon.
func (d *Daemon) do(ctx context.Context, r Reporter, t Task) (outcome state.Outcome, reason string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return t.Do(ctx, r)
}

// reporter writes to the database, not more often than somebody looks.
type reporter struct {
	d    *Daemon
	id   state.RunID
	task Task
	tell []state.Message // with how it ends; of the run's own goroutine

	writing sync.Mutex // held while a phase or a progress is recorded: none is overtaken

	mu          sync.Mutex  // taken after writing, and never held for long: jobs tell every read
	done, total int64       // what was told last, guarded by mu
	later       *time.Timer // set while that is not recorded, guarded by mu
	last        time.Time   // when one was recorded, guarded by mu
}

const reportEvery = time.Second

func (r *reporter) Phase(name string) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.forget()
	if err := r.d.c.DB.Phase(context.Background(), r.id, name); err != nil {
		r.d.c.Log.Warn("phase not recorded", "run", r.id, "error", err)
	}
	r.d.c.Log.Debug("run enters phase", "run", r.id, "job", r.task.Job, "phase", name)
	r.d.publish(Happening{What: "phase", Run: r.id, Job: r.task.Job, Phase: name})
}

// Progress is recorded soon. The last one of a phase is never left out: the source
// may have been read long before the stores have it.
func (r *reporter) Progress(done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done, r.total = done, total
	if r.later == nil {
		r.later = time.AfterFunc(max(0, reportEvery-time.Since(r.last)), r.record)
	}
}

func (r *reporter) record() {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	done, total, told := r.done, r.total, r.later != nil
	r.later, r.last = nil, time.Now()
	r.mu.Unlock()
	if !told { // a phase began in between
		return
	}
	if err := r.d.c.DB.Progress(context.Background(), r.id, done, total); err != nil {
		r.d.c.Log.Warn("progress not recorded", "run", r.id, "error", err)
	}
	r.d.publish(Happening{What: "progress", Run: r.id, Job: r.task.Job, Done: done, Total: total})
}

// ends waits for what is being recorded: nothing is after it.
func (r *reporter) ends() {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.forget()
}

// forget drops what was told and not recorded, with writing held.
func (r *reporter) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.later != nil {
		r.later.Stop()
		r.later = nil
	}
}

func (r *reporter) Keep(found any) {
	if err := r.d.c.DB.Keep(context.Background(), r.id, found); err != nil {
		r.d.c.Log.Warn("what a run found is not kept", "run", r.id, "error", err)
	}
}

func (r *reporter) Settle(kind notify.Kind, now []Trouble) {
	r.d.settle(context.Background(), r.id, r.task, kind, now)
}

// stop ends what runs, at its next checkpoint.
func (d *Daemon) stop() error {
	d.mu.Lock()
	d.stopped = true
	for _, e := range d.running {
		e.cancel()
	}
	d.mu.Unlock()
	done := make(chan struct{})
	go func() { d.runs.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(stopWithin):
		return errors.New("a run did not stop in time; the next start takes it up")
	}
}

// Errors of whoever asks.
var (
	ErrNoJob = errors.New("no such job")
	ErrNoRun = errors.New("no such run goes on")
)

// Start begins a job by hand, now.
func (d *Daemon) Start(ctx context.Context, job string) (state.RunID, error) {
	for _, t := range d.current() {
		if t.Job != job {
			continue
		}
		id, err := d.c.DB.Claim(ctx, state.Claim{Job: t.Job, Kind: t.Kind, Tenant: t.Tenant, Dataset: t.Dataset, Planned: d.c.Now(), ByHand: true})
		if err != nil {
			return 0, err
		}
		// It outlives the request.
		d.start(context.WithoutCancel(ctx), id, t)
		return id, nil
	}
	return 0, fmt.Errorf("%w: %q", ErrNoJob, job)
}

// Cancel stops a run for good; what it stored stays for the next one to adopt.
func (d *Daemon) Cancel(id state.RunID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.running[id]
	if e == nil {
		return fmt.Errorf("%w: %d", ErrNoRun, id)
	}
	e.cancelled = true
	e.cancel()
	return nil
}
