package daemon

import (
	"context"
	"time"

	"strongroom/daemon/job"
	"strongroom/daemon/state"
)

// Amounts are bytes of a backup, as its run keeps them.
type Amounts struct {
	Read   int64 `json:"read"`   // of the source
	New    int64 `json:"new"`    // that no earlier snapshot had
	Stored int64 `json:"stored"` // of packs, before parity
	Coded  int64 `json:"coded"`  // of all shards
}

// An Overview is how the box is doing: what the status, the metrics and a support
// bundle tell, read once for all of them.
type Overview struct {
	Time     time.Time       `json:"time"`
	Datasets []DatasetStatus `json:"datasets"`
	Works    []WorkStatus    `json:"works"`
	Alarms   []state.Alarm   `json:"alarms"`
	// Room is what the last rounds found, RoomAt when.
	Room   *Room      `json:"room,omitempty"`
	RoomAt *time.Time `json:"room_at,omitempty"`
	// Checked is what the last check of each tenant found.
	Checked []CheckStatus `json:"checked"`
	Locks   []LockStatus  `json:"locks"`
	// Told: people are told what is wrong, by some way. NextDigest and Tested are
	// when the next sign of life comes, and when a person last answered a test
	// alarm.
	Told       bool       `json:"told"`
	NextDigest *time.Time `json:"next_digest,omitempty"`
	Tested     *time.Time `json:"tested,omitempty"`
	// Waiting are messages that were not delivered yet, since Oldest.
	Waiting int           `json:"waiting"`
	Oldest  *time.Time    `json:"oldest,omitempty"`
	Tallies []state.Tally `json:"tallies"`
}

// A WorkStatus is how one job is doing.
type WorkStatus struct {
	state.Ends
	// Deadline is when it is overdue if it does not succeed before; nil: never.
	Deadline *time.Time `json:"deadline,omitempty"`
	Next     *time.Time `json:"next,omitempty"`
	Amounts  *Amounts   `json:"amounts,omitempty"` // of the last backup
}

// A CheckStatus is what the last check of a tenant found.
type CheckStatus struct {
	Tenant string    `json:"tenant"`
	Time   time.Time `json:"time"`
	job.CheckResult
}

// A LockStatus is what the last probe of a store's lock found.
type LockStatus struct {
	Store     string    `json:"store"`
	Time      time.Time `json:"time"`
	Immutable bool      `json:"immutable"`
}

// Overview reads it.
func (d *Daemon) Overview(ctx context.Context) (*Overview, error) {
	o := &Overview{Time: d.c.Now(), Told: d.c.Tell != nil && d.c.Tell.People(), Checked: []CheckStatus{}, Locks: []LockStatus{}, Works: []WorkStatus{}}
	var err error
	if o.Datasets, err = d.Status(ctx); err != nil {
		return nil, err
	}
	if o.Alarms, err = d.c.DB.Alarms(ctx); err != nil {
		return nil, err
	}
	if o.Tallies, err = d.c.DB.Tallies(ctx); err != nil {
		return nil, err
	}
	waiting, err := d.c.DB.Waiting(ctx)
	if err != nil {
		return nil, err
	}
	if o.Waiting = len(waiting); o.Waiting > 0 {
		o.Oldest = &waiting[0].Created
	}
	answered, err := d.c.DB.LastAnswered(ctx)
	if err != nil {
		return nil, err
	}
	o.Tested = some(answered)
	if err := d.works(ctx, o); err != nil {
		return nil, err
	}
	o.margins()
	return o, nil
}

// works adds the jobs of the configuration, and what their last runs found.
func (d *Daemon) works(ctx context.Context, o *Overview) error {
	health, err := d.c.DB.Datasets(ctx)
	if err != nil {
		return err
	}
	ends, seen, err := d.ends(ctx)
	if err != nil {
		return err
	}
	for _, t := range d.current() {
		e, ran := ends[t.Job]
		if !ran {
			e = state.Ends{Job: t.Job, Kind: t.Kind, Tenant: t.Tenant, Dataset: t.Dataset}
		}
		w := WorkStatus{Ends: e}
		if tick, ok := t.Spec.Next(o.Time); ok {
			w.Next = &tick.Due
		}
		if last, known := t.lastSuccess(health, ends, seen); known {
			w.Deadline = some(last.Add(t.Spec.Period() / 4 * 5)) // as schedule.Overdue has it
		}
		if t.Kind == state.Digest {
			o.NextDigest = w.Next
		}
		if e.Found != 0 {
			if err := d.found(ctx, o, &w, t); err != nil {
				return err
			}
		}
		o.Works = append(o.Works, w)
	}
	return nil
}

// found reads what the last run of a job that found something has kept.
func (d *Daemon) found(ctx context.Context, o *Overview, w *WorkStatus, t Task) error {
	run, err := d.c.DB.Run(ctx, w.Found)
	if err != nil {
		return err
	}
	at := run.Finished
	switch t.Kind {
	case state.Backup:
		w.Amounts = &Amounts{}
		return d.c.DB.Result(ctx, w.Found, w.Amounts)
	case state.Check:
		c := CheckStatus{Tenant: t.Tenant, Time: at}
		err := d.c.DB.Result(ctx, w.Found, &c.CheckResult)
		o.Checked = append(o.Checked, c)
		return err
	case state.LockProbe:
		var f job.LockFinding
		err := d.c.DB.Result(ctx, w.Found, &f)
		ok, _ := f.Immutable()
		o.Locks = append(o.Locks, LockStatus{Store: f.Store, Time: f.Time, Immutable: ok})
		return err
	case state.Rounds:
		o.Room, o.RoomAt = &Room{}, some(at)
		return d.c.DB.Result(ctx, w.Found, o.Room)
	}
	return nil
}

// margins puts what the checks found beside the datasets.
func (o *Overview) margins() {
	for i := range o.Datasets {
		s := &o.Datasets[i]
		for _, c := range o.Checked {
			for _, x := range c.Datasets {
				if x.Tenant == s.Tenant && x.Dataset == s.Dataset {
					s.Margin, s.Planned = &x.Margin, &x.Planned
				}
			}
		}
	}
}
