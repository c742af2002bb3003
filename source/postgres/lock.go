package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/source"
)

// A snapshot does not protect against DDL: TRUNCATE and a rewriting ALTER
// TABLE are visible to older snapshots (PostgreSQL manual, 13.6 Caveats), so
// one that commits between the snapshot and the lock of a table gives an
// empty table and exit 0. Hence locks first, from a session of their own that
// keeps them to the end, then the snapshot, then a look whether the tables in
// it are the ones that are locked.

// held is a locked set of tables and the snapshot that agrees with it.
type held struct {
	lock  *pgx.Conn // keeps ACCESS SHARE on every table
	coord *pgx.Conn // REPEATABLE READ, its snapshot is exported
	consistency
	tables []table
}

func (h *held) close() {
	for _, c := range []*pgx.Conn{h.coord, h.lock} {
		if c != nil {
			closeConn(c)
		}
	}
}

const holdTries = 5

// errChanged says that the tables changed under us: worth another try.
var errChanged = errors.New("tables changed while they were being locked")

// hold locks all tables and fixes the snapshot.
func (s *Source) hold(ctx context.Context, d *dialer) (*held, error) {
	h := &held{}
	if err := s.holdInto(ctx, d, h); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (s *Source) holdInto(ctx context.Context, d *dialer, h *held) (err error) {
	if h.lock, err = d.connect(ctx); err != nil {
		return err
	}
	if h.coord, err = d.connect(ctx); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := s.holdOnce(ctx, h)
		if !errors.Is(err, errChanged) || try == holdTries {
			return err
		}
		for _, c := range []*pgx.Conn{h.lock, h.coord} {
			if err := simple(ctx, c, "ROLLBACK"); err != nil {
				return fmt.Errorf("start over: %w", err)
			}
		}
	}
}

func (s *Source) holdOnce(ctx context.Context, h *held) error {
	if err := simple(ctx, h.lock, "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	listed, err := readTables(ctx, h.lock)
	if err != nil {
		return err
	}
	var role string
	if err := h.lock.QueryRow(ctx, "SELECT current_user::text").Scan(&role); err != nil {
		return fmt.Errorf("read role: %w", err)
	}
	if err := checkReadable(listed, role); err != nil {
		return err
	}
	s.hookListed()
	if err := s.lockTables(ctx, h, listed); err != nil {
		return err
	}
	// What is locked now cannot be replaced any more, so this list holds.
	locked, err := readTables(ctx, h.lock)
	if err != nil {
		return err
	}
	if err := sameTables(listed, locked); err != nil {
		return err
	}
	s.hookLocked()
	if err := h.export(ctx); err != nil {
		return err
	}
	return sameTables(locked, h.tables)
}

// export fixes the snapshot and reads the tables that are visible in it.
func (h *held) export(ctx context.Context) error {
	if err := simple(ctx, h.coord, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	const q = `SELECT pg_catalog.pg_export_snapshot(), pg_catalog.now(), (CASE WHEN pg_catalog.pg_is_in_recovery()
		THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END)::text`
	var lsn *string
	if err := h.coord.QueryRow(ctx, q).Scan(&h.Snapshot, &h.Time, &lsn); err != nil {
		return fmt.Errorf("export snapshot: %w", err)
	}
	if lsn != nil {
		h.LSN = *lsn
	}
	var err error
	h.tables, err = readTables(ctx, h.coord)
	return err
}

func sameTables(want, got []table) error {
	w, g := identities(want), identities(got)
	if maps.Equal(w, g) {
		return nil
	}
	var diff []string
	for _, p := range []struct{ a, b map[tableID]bool }{{w, g}, {g, w}} {
		for id := range p.a {
			if !p.b[id] {
				diff = append(diff, id.object)
			}
		}
	}
	return fmt.Errorf("%w: %s was created, dropped, renamed or rewritten", errChanged, several(diff))
}

// lockTables takes ACCESS SHARE on all tables in batches.
func (s *Source) lockTables(ctx context.Context, h *held, tables []table) error {
	deadline := time.Now().Add(s.cfg.LockTimeout)
	const batch = 200
	for i := 0; i < len(tables); i += batch {
		var names []string
		for _, t := range tables[i:min(i+batch, len(tables))] {
			names = append(names, "ONLY "+t.Object)
		}
		sql := "LOCK TABLE " + strings.Join(names, ", ") + " IN ACCESS SHARE MODE"
		if err := h.lockUntil(ctx, sql, deadline); err != nil {
			return err
		}
	}
	return nil
}

// lockUntil waits for a lock until the deadline. Not the server's
// lock_timeout ends the wait but we do, because who blocks it can only be
// asked while it is blocked.
func (h *held) lockUntil(ctx context.Context, sql string, deadline time.Time) error {
	// Should we hang, the server gives up soon after.
	backstop := time.Until(deadline) + 30*time.Second
	if err := simple(ctx, h.lock, fmt.Sprintf("SET lock_timeout = %d", backstop.Milliseconds())); err != nil {
		return fmt.Errorf("set lock timeout: %w", err)
	}
	lockCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- simple(lockCtx, h.lock, sql) }()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case err := <-done:
		return lockError(err)
	case <-timer.C:
	}
	// Ours to close whatever the answer: cancel makes the session end.
	defer func() { cancel(); <-done }()
	b, err := h.blocker(ctx)
	if err != nil {
		return source.WithClass(source.Temporary, fmt.Errorf("lock tables: timeout; who holds them is unknown: %w", err))
	}
	return source.WithClass(source.Temporary, fmt.Errorf("lock tables: timeout: %s", b))
}

// lockError tells a table that vanished before it was locked from others.
func lockError(err error) error {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "42P01", "3F000", "42809": // no such table, no such schema, no longer a table
			return fmt.Errorf("%w: %s", errChanged, pgErr.Message)
		}
	}
	if err != nil {
		return fmt.Errorf("lock tables: %w", err)
	}
	return nil
}

// blockerQuery asks which table the lock session waits for and who blocks it.
// It leaves out the text of that session's query: that is client data.
const blockerQuery = `
WITH waiting AS (SELECT relation FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted AND relation IS NOT NULL LIMIT 1)
SELECT COALESCE((SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM waiting w
		JOIN pg_catalog.pg_class c ON c.oid = w.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace), 'a table'),
	b.pid, COALESCE(a.usename::text, '?'), COALESCE(a.application_name, '?'),
	COALESCE(pg_catalog.to_char(a.query_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '?'), COALESCE(a.state, '?'),
	COALESCE((SELECT pg_catalog.string_agg(DISTINCT l.mode || CASE WHEN l.granted THEN '' ELSE ' (waiting)' END, ', ') FROM pg_catalog.pg_locks l
		JOIN waiting w ON w.relation = l.relation WHERE l.pid = b.pid OR (b.pid = 0 AND l.pid IS NULL)), '?')
FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS b(pid)
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
ORDER BY a.query_start NULLS FIRST LIMIT 1`

// blocker describes the session that the lock session waits for.
func (h *held) blocker(ctx context.Context) (string, error) {
	var table, user, app, start, state, mode string
	var pid int32
	err := h.coord.QueryRow(ctx, blockerQuery, int32(h.lock.PgConn().PID())).Scan(&table, &pid, &user, &app, &start, &state, &mode)
	if errors.Is(err, pgx.ErrNoRows) {
		return "the lock came free too late", nil
	}
	if err != nil {
		return "", err
	}
	if pid == 0 {
		return fmt.Sprintf("%s is held in %s by a prepared transaction", table, mode), nil
	}
	return fmt.Sprintf("%s is held in %s by pid %d, user %q, application %q, %s, last query started %s",
		table, mode, pid, user, app, state, start), nil
}
