package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// A RunID names a run.
type RunID int64

// A Kind is what a run does. Backups and drills count for a dataset's health.
type Kind string

const (
	Backup Kind = "backup"
	Drill  Kind = "drill"
	// MustFail and Cold are of the box: they prove that drills, and recoveries,
	// can be believed.
	MustFail Kind = "must-fail"
	Cold     Kind = "cold"

	Doctor    Kind = "doctor"     // examines a dataset's source, and the machine
	Check     Kind = "check"      // compares the stores with a tenant's manifests
	LockProbe Kind = "lock-probe" // of one store
	Rounds    Kind = "rounds"     // looks at what fills up, media that are due, the ledger
	Digest    Kind = "digest"
	TestAlarm Kind = "test-alarm"
)

// An Outcome is how a run ended.
type Outcome string

const (
	OK          Outcome = "ok"      // of a drill: PASS
	Partial     Outcome = "partial" // a snapshot that is reduced; of a drill: PARTIAL
	Failed      Outcome = "failed"
	Infra       Outcome = "infra" // says nothing about the data
	Skipped     Outcome = "skipped"
	Cancelled   Outcome = "cancelled"
	Interrupted Outcome = "interrupted" // the daemon died and nobody resumed it
)

// A Run is one execution of a job, or a planned one that was skipped.
type Run struct {
	ID              RunID
	Job             string
	Kind            Kind
	Tenant, Dataset string
	// Planned is, with Job, the identity: of a run by hand, when it was asked for.
	Planned time.Time
	ByHand  bool
	// Missed earlier ones were not run, from FirstMissed on; this one stands for
	// them.
	Missed      int
	FirstMissed time.Time
	Claimed     time.Time
	Attempts    int
	Phase       string
	Done, Total int64
	Updated     time.Time
	Finished    time.Time // zero: it runs
	Outcome     Outcome
	Reason      string
}

// A Claim is a run that is to begin.
type Claim struct {
	Job             string
	Kind            Kind
	Tenant, Dataset string
	Planned         time.Time
	ByHand          bool
	Missed          int
	FirstMissed     time.Time
}

var (
	// ErrClaimed is of a planned run that somebody had claimed before.
	ErrClaimed = errors.New("this run was claimed before")
	// ErrRunning is of a job that is running.
	ErrRunning = errors.New("the job is running already")
	// ErrNotRunning is of a run that has ended, or that another process has.
	ErrNotRunning = errors.New("no run of this daemon")
	// ErrNotFound is of what is not in the database.
	ErrNotFound = errors.New("not found")
)

// Claim claims a run for this process. Only who got its ID may begin. Before
// the commit nobody has it, and a plan brings it again; after, nobody else gets
// it, whatever dies: a start finds it among the Orphans. An error that is neither
// ErrClaimed nor ErrRunning may have come after the commit, from a disk that
// failed: then end the process, as the next start finds out.
func (d *DB) Claim(ctx context.Context, c Claim) (id RunID, err error) {
	err = d.write(ctx, func(tx *sql.Tx) error {
		id, err = d.insert(ctx, tx, c, sql.NullInt64{}, "", "")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("claim %s of %s: %w", c.Job, c.Planned.UTC().Format(time.RFC3339), err)
	}
	return id, nil
}

// Skip records that a planned run was not begun, and why.
func (d *DB) Skip(ctx context.Context, c Claim, reason string) error {
	err := d.write(ctx, func(tx *sql.Tx) error {
		_, err := d.insert(ctx, tx, c, null(d.cfg.Now()), Skipped, reason)
		return err
	})
	if err != nil {
		return fmt.Errorf("skip %s of %s: %w", c.Job, c.Planned.UTC().Format(time.RFC3339), err)
	}
	return nil
}

func (d *DB) insert(ctx context.Context, tx *sql.Tx, c Claim, finished sql.NullInt64, outcome Outcome, reason string) (id RunID, err error) {
	if outcome == "" {
		var open RunID
		err := tx.QueryRowContext(ctx, `SELECT id FROM runs WHERE job = ? AND finished IS NULL`, c.Job).Scan(&open)
		if err == nil {
			return 0, fmt.Errorf("%w: run %d", ErrRunning, open)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return 0, err
		}
	}
	now := ms(d.cfg.Now())
	err = tx.QueryRowContext(ctx, `
		INSERT INTO runs (job, kind, tenant, dataset, planned, by_hand, missed, first_missed, claimed, process, updated, finished, outcome, reason)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, ''), ?)
		ON CONFLICT (job, planned) DO NOTHING RETURNING id`,
		c.Job, c.Kind, c.Tenant, c.Dataset, ms(c.Planned), c.ByHand, c.Missed, null(c.FirstMissed), now, d.process, now, finished, outcome, reason).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrClaimed
	}
	if err != nil {
		return 0, err
	}
	if c.Dataset != "" { // else it is of the box, or of a whole tenant
		_, err = tx.ExecContext(ctx, `INSERT INTO datasets (tenant, dataset, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, c.Tenant, c.Dataset, now)
	}
	return id, err
}

// Phase records that a run entered a phase.
func (d *DB) Phase(ctx context.Context, id RunID, phase string) error {
	now := ms(d.cfg.Now())
	return d.write(ctx, func(tx *sql.Tx) error {
		if err := d.touch(ctx, tx, `UPDATE runs SET phase = ?, done = 0, total = 0, updated = ?`, id, phase, now); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO phases SELECT ?1, count(*), ?2, ?3 FROM phases WHERE run = ?1`, id, phase, now)
		return err
	})
}

// Progress records how far a run is in its phase, in units of its own.
func (d *DB) Progress(ctx context.Context, id RunID, done, total int64) error {
	return d.write(ctx, func(tx *sql.Tx) error {
		return d.touch(ctx, tx, `UPDATE runs SET done = ?, total = ?, updated = ?`, id, done, total, ms(d.cfg.Now()))
	})
}

// touch changes a run that is this process's and has not ended.
func (d *DB) touch(ctx context.Context, tx *sql.Tx, update string, id RunID, args ...any) error {
	res, err := tx.ExecContext(ctx, update+` WHERE id = ? AND process = ? AND finished IS NULL`, append(args, id, d.process)...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return fmt.Errorf("%w: run %d", ErrNotRunning, id)
}

// Finish ends a run, changes the health of its dataset and queues messages, at
// once: no crash leaves a success that nobody counts or a failure that nobody is
// told of.
func (d *DB) Finish(ctx context.Context, id RunID, outcome Outcome, reason string, messages ...Message) error {
	err := d.write(ctx, func(tx *sql.Tx) error {
		if err := d.finish(ctx, tx, id, outcome, reason); err != nil {
			return err
		}
		return d.enqueue(ctx, tx, messages)
	})
	if err != nil {
		return fmt.Errorf("finish run %d: %w", id, err)
	}
	return nil
}

func (d *DB) finish(ctx context.Context, tx *sql.Tx, id RunID, outcome Outcome, reason string) error {
	now := ms(d.cfg.Now())
	if err := d.touch(ctx, tx, `UPDATE runs SET finished = ?, updated = ?, outcome = ?, reason = ?`, id, now, now, outcome, reason); err != nil {
		return err
	}
	return count(ctx, tx, id)
}

// Orphans are the runs that a dead process left. Adopt or Interrupt each before
// the first plan: until then their jobs do not run.
func (d *DB) Orphans(ctx context.Context) ([]Run, error) {
	return d.runs(ctx, `WHERE finished IS NULL AND process <> ? ORDER BY id`, d.process)
}

// Adopt takes over an orphan in order to resume it: it stays the same run.
func (d *DB) Adopt(ctx context.Context, id RunID) error { return d.inherit(ctx, id, nil) }

// Interrupt closes an orphan that is not resumed.
func (d *DB) Interrupt(ctx context.Context, id RunID, reason string) error {
	return d.inherit(ctx, id, func(tx *sql.Tx) error { return d.finish(ctx, tx, id, Interrupted, reason) })
}

func (d *DB) inherit(ctx context.Context, id RunID, then func(*sql.Tx) error) error {
	return d.write(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE runs SET process = ?1, attempts = attempts + 1 WHERE id = ?2 AND process <> ?1 AND finished IS NULL`, d.process, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("take over run %d: %w", id, ErrNotFound))
		}
		if then == nil {
			return nil
		}
		return then(tx)
	})
}

// Last gives for each job the planned time of its last run that was claimed or
// skipped by schedule, for the planner. Those that lie in the future, where a
// clock was ahead, do not count until their time has come. A job without any
// owes nothing from before it was first asked for here, by a clock that was not
// ahead.
func (d *DB) Last(ctx context.Context, jobs []string) (map[string]time.Time, error) {
	now := ms(d.cfg.Now())
	out := map[string]time.Time{}
	for _, job := range jobs {
		var since, planned sql.NullInt64
		err := d.r.QueryRowContext(ctx, `SELECT (SELECT since FROM jobs WHERE job = ?1), (SELECT max(planned) FROM runs WHERE job = ?1 AND by_hand = 0 AND planned <= ?2)`, job, now).Scan(&since, &planned)
		if err != nil {
			return nil, fmt.Errorf("last run of %s: %w", job, err)
		}
		if !since.Valid || since.Int64 > now {
			if _, err := d.w.ExecContext(ctx, `INSERT INTO jobs VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET since = excluded.since`, job, now); err != nil {
				return nil, fmt.Errorf("first sight of %s: %w", job, err)
			}
			since = sql.NullInt64{Int64: now, Valid: true}
		}
		if !planned.Valid {
			planned = since
		}
		out[job] = when(planned)
	}
	return out, nil
}

// LastOK is when a job last ended well; before it ever did, when it was first
// seen.
func (d *DB) LastOK(ctx context.Context, job string) (time.Time, error) {
	var since, ok sql.NullInt64
	err := d.r.QueryRowContext(ctx, `SELECT (SELECT since FROM jobs WHERE job = ?1), (SELECT max(finished) FROM runs WHERE job = ?1 AND outcome = 'ok')`, job).Scan(&since, &ok)
	if err != nil {
		return time.Time{}, fmt.Errorf("last success of %s: %w", job, err)
	}
	if ok.Valid {
		return when(ok), nil
	}
	return when(since), nil
}

// Running are the runs that have not ended, orphans too.
func (d *DB) Running(ctx context.Context) ([]Run, error) {
	return d.runs(ctx, `WHERE finished IS NULL ORDER BY id`)
}

// Run returns one.
func (d *DB) Run(ctx context.Context, id RunID) (Run, error) {
	all, err := d.runs(ctx, `WHERE id = ?`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("run %d: %w", id, ErrNotFound)
	}
	if err != nil {
		return Run{}, err
	}
	return all[0], nil
}

// Runs returns the last n runs, newest first: of one dataset, or with "" of all.
func (d *DB) Runs(ctx context.Context, tenant, dataset string, n int) ([]Run, error) {
	return d.RunsBefore(ctx, tenant, dataset, 0, n)
}

// RunsBefore returns those that began before a run; 0: the last ones.
func (d *DB) RunsBefore(ctx context.Context, tenant, dataset string, before RunID, n int) ([]Run, error) {
	return d.runs(ctx, `WHERE (?1 = '' OR tenant = ?1) AND (?2 = '' OR dataset = ?2) AND (?3 = 0 OR id < ?3) ORDER BY id DESC LIMIT ?4`, tenant, dataset, before, n)
}

func (d *DB) runs(ctx context.Context, where string, args ...any) ([]Run, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT id, job, kind, tenant, dataset, planned, by_hand, missed, first_missed, claimed, attempts, phase, done, total, updated, finished, coalesce(outcome, ''), reason FROM runs `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	defer rows.Close()
	var out []Run
	for rows.Next() {
		var r Run
		var planned, first, claimed, updated, finished sql.NullInt64
		if err := rows.Scan(&r.ID, &r.Job, &r.Kind, &r.Tenant, &r.Dataset, &planned, &r.ByHand, &r.Missed, &first, &claimed,
			&r.Attempts, &r.Phase, &r.Done, &r.Total, &updated, &finished, &r.Outcome, &r.Reason); err != nil {
			return nil, fmt.Errorf("list runs: %w", err)
		}
		r.Planned, r.FirstMissed, r.Claimed, r.Updated, r.Finished = when(planned), when(first), when(claimed), when(updated), when(finished)
		out = append(out, r)
	}
	return out, rows.Err()
}

// A Step is when a run entered a phase.
type Step struct {
	Phase string
	Began time.Time
}

// Phases are those of a run, in order.
func (d *DB) Phases(ctx context.Context, id RunID) ([]Step, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT phase, began FROM phases WHERE run = ? ORDER BY n`, id)
	if err != nil {
		return nil, fmt.Errorf("phases of run %d: %w", id, err)
	}
	defer rows.Close()
	var out []Step
	for rows.Next() {
		var s Step
		var began sql.NullInt64
		if err := rows.Scan(&s.Phase, &began); err != nil {
			return nil, fmt.Errorf("phases of run %d: %w", id, err)
		}
		s.Began = when(began)
		out = append(out, s)
	}
	return out, rows.Err()
}
