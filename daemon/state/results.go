package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxResult bounds what a run may leave to be looked at, in bytes.
const maxResult = 1 << 20

// Keep keeps what a run of this process found, until it is kept anew.
func (d *DB) Keep(ctx context.Context, id RunID, result any) error {
	body, err := json.Marshal(result)
	if err == nil && len(body) > maxResult {
		err = fmt.Errorf("%d bytes are more than %d", len(body), maxResult)
	}
	if err == nil {
		err = d.write(ctx, func(tx *sql.Tx) error {
			if err := d.touch(ctx, tx, `UPDATE runs SET updated = ?`, id, ms(d.cfg.Now())); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO results VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET body = excluded.body`, id, string(body))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keep what run %d found: %w", id, err)
	}
	return nil
}

// Result reads what a run found; ErrNotFound if it left nothing.
func (d *DB) Result(ctx context.Context, id RunID, into any) error {
	var body string
	err := d.r.QueryRowContext(ctx, `SELECT body FROM results WHERE run = ?`, id).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), into)
	}
	if err != nil {
		return fmt.Errorf("what run %d found: %w", id, err)
	}
	return nil
}

// Ends is how the runs of one job ended so far. What was skipped or cancelled
// says nothing and is not among them.
type Ends struct {
	Job          string        `json:"job"`
	Kind         Kind          `json:"kind"`
	Tenant       string        `json:"tenant,omitempty"`
	Dataset      string        `json:"dataset,omitempty"`
	Good         time.Time     `json:"good,omitzero"`  // the last that was ok or partial
	Whole        time.Time     `json:"whole,omitzero"` // the last that was ok
	Bad          time.Time     `json:"bad,omitzero"`   // the last that failed or was interrupted
	Last         RunID         `json:"last,omitempty"` // that ended, whichever way
	LastOutcome  Outcome       `json:"last_outcome,omitempty"`
	LastFinished time.Time     `json:"last_finished,omitzero"`
	Took         time.Duration `json:"took,omitempty"`  // in nanoseconds
	Found        RunID         `json:"found,omitempty"` // the last that left a result; 0: none
}

// Ends returns them for all jobs that ever ran, by name.
func (d *DB) Ends(ctx context.Context) ([]Ends, error) {
	rows, err := d.r.QueryContext(ctx, `
		SELECT job, kind, tenant, dataset, outcome, finished, finished - claimed, id, good, whole, bad, found FROM (
			SELECT r.*,
				max(CASE WHEN outcome IN ('ok', 'partial') THEN finished END) OVER job AS good,
				max(CASE WHEN outcome = 'ok' THEN finished END) OVER job AS whole,
				max(CASE WHEN outcome IN ('failed', 'interrupted') THEN finished END) OVER job AS bad,
				max(s.run) OVER job AS found,
				row_number() OVER (PARTITION BY job ORDER BY finished DESC, id DESC) AS nth
			FROM runs AS r LEFT JOIN results AS s ON s.run = r.id
			WHERE outcome NOT IN ('skipped', 'cancelled')
			WINDOW job AS (PARTITION BY job))
		WHERE nth = 1 ORDER BY job`)
	if err != nil {
		return nil, fmt.Errorf("list how jobs ended: %w", err)
	}
	defer rows.Close()
	var out []Ends
	for rows.Next() {
		var e Ends
		var finished, took, good, whole, bad, found sql.NullInt64
		if err := rows.Scan(&e.Job, &e.Kind, &e.Tenant, &e.Dataset, &e.LastOutcome, &finished, &took, &e.Last, &good, &whole, &bad, &found); err != nil {
			return nil, fmt.Errorf("list how jobs ended: %w", err)
		}
		e.LastFinished, e.Good, e.Whole, e.Bad = when(finished), when(good), when(whole), when(bad)
		e.Took, e.Found = time.Duration(took.Int64)*time.Millisecond, RunID(found.Int64)
		out = append(out, e)
	}
	return out, rows.Err()
}

// A Tally is how many runs of a kind ended in one way.
type Tally struct {
	Kind    Kind    `json:"kind"`
	Outcome Outcome `json:"outcome"`
	N       int64   `json:"n"`
}

// Tallies counts all runs that ever ended.
func (d *DB) Tallies(ctx context.Context) ([]Tally, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT kind, outcome, count(*) FROM runs WHERE finished IS NOT NULL GROUP BY kind, outcome ORDER BY kind, outcome`)
	if err != nil {
		return nil, fmt.Errorf("count runs: %w", err)
	}
	defer rows.Close()
	var out []Tally
	for rows.Next() {
		var t Tally
		if err := rows.Scan(&t.Kind, &t.Outcome, &t.N); err != nil {
			return nil, fmt.Errorf("count runs: %w", err)
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

// RunsSince returns the runs that ended after a moment, oldest first.
func (d *DB) RunsSince(ctx context.Context, since time.Time) ([]Run, error) {
	return d.runs(ctx, `WHERE finished > ? ORDER BY id`, ms(since))
}

// Seen says since when each job is known.
func (d *DB) Seen(ctx context.Context) (map[string]time.Time, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT job, since FROM jobs`)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	defer rows.Close()
	out := map[string]time.Time{}
	for rows.Next() {
		var job string
		var since sql.NullInt64
		if err := rows.Scan(&job, &since); err != nil {
			return nil, fmt.Errorf("list jobs: %w", err)
		}
		out[job] = when(since)
	}
	return out, rows.Err()
}
