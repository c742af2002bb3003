package state

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Health is what became of a dataset's runs.
type Health struct {
	Tenant, Dataset string
	// Since is when it was first seen: what has no success is overdue from here.
	Since       time.Time
	LastSuccess time.Time // of a backup, a reduced snapshot too
	SuccessRun  RunID
	LastFailure time.Time // of a backup, an interrupted one too
	FailureRun  RunID
	// LastDrill is of the last drill that says something, and DrillOutcome what.
	LastDrill    time.Time
	DrillOutcome Outcome
	LastPassed   time.Time
	// FirstPassed is when the first drill passed. Before, a dataset is not called
	// protected.
	FirstPassed time.Time
}

// Protected reports whether a drill of the dataset ever passed.
func (h Health) Protected() bool { return !h.FirstPassed.IsZero() }

// count adds a run that has ended to the health of its dataset. What was skipped
// or cancelled says nothing, nor does a drill whose sandbox failed.
func count(ctx context.Context, tx *sql.Tx, id RunID) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE datasets SET
			last_success  = CASE WHEN r.kind = 'backup' AND r.outcome IN ('ok', 'partial') THEN r.finished ELSE last_success END,
			success_run   = CASE WHEN r.kind = 'backup' AND r.outcome IN ('ok', 'partial') THEN r.id ELSE success_run END,
			last_failure  = CASE WHEN r.kind = 'backup' AND r.outcome IN ('failed', 'interrupted') THEN r.finished ELSE last_failure END,
			failure_run   = CASE WHEN r.kind = 'backup' AND r.outcome IN ('failed', 'interrupted') THEN r.id ELSE failure_run END,
			last_drill    = CASE WHEN r.kind = 'drill' AND r.outcome IN ('ok', 'partial', 'failed') THEN r.finished ELSE last_drill END,
			drill_outcome = CASE WHEN r.kind = 'drill' AND r.outcome IN ('ok', 'partial', 'failed') THEN r.outcome ELSE drill_outcome END,
			last_passed   = CASE WHEN r.kind = 'drill' AND r.outcome = 'ok' THEN r.finished ELSE last_passed END,
			first_passed  = CASE WHEN r.kind = 'drill' AND r.outcome = 'ok' THEN coalesce(first_passed, r.finished) ELSE first_passed END
		FROM runs AS r
		WHERE r.id = ? AND datasets.tenant = r.tenant AND datasets.dataset = r.dataset`, id)
	return err
}

// Watch makes a dataset known from now on, so that it is overdue when its first
// success does not come, even if no run ever begins.
func (d *DB) Watch(ctx context.Context, tenant, dataset string) error {
	_, err := d.w.ExecContext(ctx, `INSERT INTO datasets (tenant, dataset, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, tenant, dataset, ms(d.cfg.Now()))
	if err != nil {
		return fmt.Errorf("watch %s/%s: %w", tenant, dataset, err)
	}
	return nil
}

// Datasets returns the health of all, by name.
func (d *DB) Datasets(ctx context.Context) ([]Health, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT tenant, dataset, since, last_success, coalesce(success_run, 0), last_failure, coalesce(failure_run, 0),
		last_drill, coalesce(drill_outcome, ''), last_passed, first_passed FROM datasets ORDER BY tenant, dataset`)
	if err != nil {
		return nil, fmt.Errorf("list datasets: %w", err)
	}
	defer rows.Close()
	var out []Health
	for rows.Next() {
		var h Health
		var since, success, failure, drill, passed, first sql.NullInt64
		if err := rows.Scan(&h.Tenant, &h.Dataset, &since, &success, &h.SuccessRun, &failure, &h.FailureRun, &drill, &h.DrillOutcome, &passed, &first); err != nil {
			return nil, fmt.Errorf("list datasets: %w", err)
		}
		h.Since, h.LastSuccess, h.LastFailure, h.LastDrill, h.LastPassed, h.FirstPassed = when(since), when(success), when(failure), when(drill), when(passed), when(first)
		out = append(out, h)
	}
	return out, rows.Err()
}
