package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// A DatasetStatus is how a dataset is doing.
type DatasetStatus struct {
	Tenant  string `json:"tenant"`
	Dataset string `json:"dataset"`
	// State is "ok", "running", "never", "failed" or "overdue", the worst that is
	// true.
	State     string     `json:"state"`
	Reason    string     `json:"reason,omitempty"`
	Success   *time.Time `json:"last_success,omitempty"`
	Failure   *time.Time `json:"last_failure,omitempty"`
	Next      *time.Time `json:"next,omitempty"`
	Protected bool       `json:"protected"` // a drill of it has passed
	Drill     *time.Time `json:"last_drill,omitempty"`
	Outcome   string     `json:"drill,omitempty"`
	Run       *RunStatus `json:"run,omitempty"` // that goes on
	// Margin is how many stores may be lost before a snapshot is, by the last
	// check, and Planned how many should.
	Margin  *int `json:"margin,omitempty"`
	Planned *int `json:"planned,omitempty"`
}

// A RunStatus is a run as it is told.
type RunStatus struct {
	ID      state.RunID `json:"id"`
	Job     string      `json:"job"`
	Kind    state.Kind  `json:"kind"`
	Tenant  string      `json:"tenant"`
	Dataset string      `json:"dataset"`
	Planned time.Time   `json:"planned"`
	ByHand  bool        `json:"by_hand,omitempty"`
	Missed  int         `json:"missed,omitempty"`
	// FirstMissed is when the first of these was planned.
	FirstMissed *time.Time `json:"first_missed,omitempty"`
	Began       time.Time  `json:"began"`
	Attempts    int        `json:"attempts"`
	Phase       string     `json:"phase,omitempty"`
	Done        int64      `json:"done,omitempty"`
	Total       int64      `json:"total,omitempty"`
	Finished    *time.Time `json:"finished,omitempty"`
	Outcome     string     `json:"outcome,omitempty"`
	Reason      string     `json:"reason,omitempty"`
}

// StatusOf tells a run.
func StatusOf(r state.Run) RunStatus {
	return RunStatus{ID: r.ID, Job: r.Job, Kind: r.Kind, Tenant: r.Tenant, Dataset: r.Dataset, Planned: r.Planned, ByHand: r.ByHand, Missed: r.Missed, FirstMissed: some(r.FirstMissed),
		Began: r.Claimed, Attempts: r.Attempts, Phase: r.Phase, Done: r.Done, Total: r.Total, Finished: some(r.Finished), Outcome: string(r.Outcome), Reason: r.Reason}
}

// some is nil for never.
func some(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Status says how every dataset of the configuration is doing. That one is
// overdue is found without asking the planner, which may be what is wrong.
func (d *Daemon) Status(ctx context.Context) ([]DatasetStatus, error) {
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	running, err := d.c.DB.Running(ctx)
	if err != nil {
		return nil, err
	}
	ends, _, err := d.ends(ctx)
	if err != nil {
		return nil, err
	}
	now := d.c.Now()
	var out []DatasetStatus
	for _, t := range d.current() {
		if t.Kind != state.Backup {
			continue
		}
		// One that is not known yet, in the first moments, is there all the same:
		// otherwise nothing would be wrong with it.
		h := state.Health{Tenant: t.Tenant, Dataset: t.Dataset, Since: now}
		if i := slices.IndexFunc(health, func(h state.Health) bool { return h.Tenant == t.Tenant && h.Dataset == t.Dataset }); i >= 0 {
			h = health[i]
		}
		s := t.status(h, running, now)
		if s.State == "ok" && ends[t.Job].LastOutcome == state.Partial {
			// It may be that a store has been away for days.
			s.Reason = fmt.Sprintf("the last snapshot is reduced, or what follows it failed: strongroom runs %s/%s", t.Tenant, t.Dataset)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b DatasetStatus) int { return strings.Compare(a.Tenant+"/"+a.Dataset, b.Tenant+"/"+b.Dataset) })
	return out, nil
}

func (t Task) status(h state.Health, running []state.Run, now time.Time) DatasetStatus {
	s := DatasetStatus{Tenant: t.Tenant, Dataset: t.Dataset, State: "ok", Success: some(h.LastSuccess), Failure: some(h.LastFailure),
		Protected: h.Protected(), Drill: some(h.LastDrill), Outcome: string(h.DrillOutcome)}
	if tick, ok := t.Spec.Next(now); ok {
		s.Next = &tick.Due
	}
	for _, r := range running {
		if r.Job == t.Job {
			one := StatusOf(r)
			s.Run, s.State = &one, "running"
		}
	}
	if h.LastSuccess.IsZero() && s.State == "ok" {
		s.State, s.Reason = "never", "no snapshot was taken yet"
	}
	if h.LastFailure.After(h.LastSuccess) && s.State != "running" {
		s.State, s.Reason = "failed", "the last run failed"
	}
	if _, why, overdue := t.overdue(h, now); overdue {
		s.State, s.Reason = "overdue", why
	}
	return s
}

// overdue says by how much success is overdue, and why.
func (t Task) overdue(h state.Health, now time.Time) (by time.Duration, why string, overdue bool) {
	return schedule.Overdue(now, t.since(h), t.Spec.Period())
}

// since is the last success. What never succeeded is overdue from when it was
// first seen.
func (t Task) since(h state.Health) time.Time {
	if h.LastSuccess.IsZero() {
		return h.Since
	}
	return h.LastSuccess
}

// Runs returns the last runs before one, or with 0 of all, newest first; of one
// dataset, of a tenant, or of all.
func (d *Daemon) Runs(ctx context.Context, tenant, dataset string, before state.RunID, n int) ([]RunStatus, error) {
	all, err := d.c.DB.RunsBefore(ctx, tenant, dataset, before, n)
	if err != nil {
		return nil, err
	}
	out := make([]RunStatus, len(all))
	for i, r := range all {
		out[i] = StatusOf(r)
	}
	return out, nil
}

// A Planned is a run that is to come.
type Planned struct {
	Job     string    `json:"job"`
	Planned time.Time `json:"planned"`
	Due     time.Time `json:"due"`
	Note    string    `json:"note,omitempty"`
}

// Preview lists what the tasks plan in some weeks, by time.
func Preview(tasks []Task, now time.Time, weeks int) []Planned {
	var out []Planned
	for _, t := range tasks {
		for _, tick := range t.Spec.Preview(now, weeks) {
			out = append(out, Planned{t.Job, tick.Planned, tick.Due, tick.Note})
		}
	}
	slices.SortStableFunc(out, func(a, b Planned) int { return a.Due.Compare(b.Due) })
	return out
}

// Plan is Preview of what the daemon has.
func (d *Daemon) Plan(weeks int) []Planned { return Preview(d.current(), d.c.Now(), weeks) }
