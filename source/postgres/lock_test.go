package postgres

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"strongroom/source/postgres/pgtest"
)

// ddl is everything that changes a table behind a snapshot's back.
var ddl = map[string]string{
	"TRUNCATE":        "TRUNCATE t",
	"rewriting ALTER": "ALTER TABLE t ALTER i TYPE bigint",
	"DROP":            "DROP TABLE t",
	"replace":         "DROP TABLE t; CREATE TABLE t (i int); INSERT INTO t VALUES (5), (6), (7)",
	"rename":          "ALTER TABLE t RENAME TO t2",
	"CREATE":          "CREATE TABLE other (i int); INSERT INTO other VALUES (1)",
}

const lockSQL = "CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 10); CREATE TABLE u (i int)"

func TestDDLBetweenListAndLockStartsOver(t *testing.T) {
	srv := pgtest.Start(t)
	for what, sql := range ddl {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, lockSQL)
		s := newSource(t, srv.URL(db, "postgres"))
		tries := 0
		s.hookListed = func() {
			if tries++; tries == 1 {
				srv.Exec(t, db, sql)
			}
		}
		m := mustDump(t, s)
		wantEqual(t, "dump after "+what, strings.TrimPrefix(m.concat(), string(m.data[rolesStream])), sections(t, srv, db))
		if tries != 2 {
			t.Errorf("%s: %d tries, want 2", what, tries)
		}
	}
}

func TestDDLBetweenLockAndSnapshotIsKeptOutOrStartsOver(t *testing.T) {
	srv := pgtest.Start(t)
	for what, sql := range ddl {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, lockSQL)
		before := sections(t, srv, db)
		s := newSource(t, srv.URL(db, "postgres"))
		tries := 0
		var ddlErr error
		s.hookLocked = func() {
			if tries++; tries == 1 {
				c := srv.Connect(t, db)
				_, ddlErr = c.PgConn().Exec(t.Context(), "SET lock_timeout = '100ms'; "+sql).ReadAll()
			}
		}
		m := mustDump(t, s)
		got := strings.TrimPrefix(m.concat(), string(m.data[rolesStream]))
		if what == "CREATE" {
			if ddlErr != nil || tries != 2 {
				t.Errorf("CREATE: %v, %d tries, want 2", ddlErr, tries)
			}
			before = sections(t, srv, db)
		} else if ddlErr == nil || !strings.Contains(ddlErr.Error(), "lock timeout") || tries != 1 {
			t.Errorf("%s under lock: %v, %d tries", what, ddlErr, tries)
		}
		wantEqual(t, "dump despite "+what, got, before)
	}
}

func TestTablesThatNeverStayGiveUp(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	s := newSource(t, srv.URL(db, "postgres"))
	tries := 0
	s.hookLocked = func() { tries++; srv.Exec(t, db, fmt.Sprintf("CREATE TABLE t%d ()", tries)) }
	_, err := dump(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "public.t5 was created") || tries != holdTries {
		t.Errorf("after %d tries: %v", tries, err)
	}
	wantNothingLeft(t, srv, db, s)
}

// wantNothingLeft checks that neither sessions, nor files, nor goroutines stay.
func wantNothingLeft(t testing.TB, srv *pgtest.Server, db string, s *Source) {
	t.Helper()
	const q = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'strongroom' AND datname = "
	deadline := time.Now().Add(10 * time.Second)
	for srv.Query(t, db, q+literal(db)) != "0" {
		if time.Now().After(deadline) {
			t.Error("sessions stay behind")
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if left, _ := filepath.Glob(filepath.Join(s.cfg.TempDir, "*")); len(left) > 0 {
		t.Errorf("files stay behind: %q", left)
	}
}

func TestLockTimeoutNamesTheBlocker(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, lockSQL)
	c := srv.Connect(t, db)
	if _, err := c.Exec(t.Context(), "SET application_name = 'migration tool'"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "LOCK TABLE u IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	s := newSource(t, srv.URL(db, "postgres"))
	s.cfg.LockTimeout = 300 * time.Millisecond
	_, err := dump(t.Context(), s)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"public.u", "AccessExclusiveLock", fmt.Sprintf("pid %d,", c.PgConn().PID()), `user "postgres"`,
		`application "migration tool"`, "idle in transaction", "last query started 20"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	wantNothingLeft(t, srv, db, s)

	if _, err := c.Exec(t.Context(), "PREPARE TRANSACTION 'forgotten'"); err != nil {
		t.Fatal(err)
	}
	_, err = dump(t.Context(), s)
	srv.Exec(t, db, "ROLLBACK PREPARED 'forgotten'")
	if err == nil || !strings.Contains(err.Error(), "public.u is held in AccessExclusiveLock by a prepared transaction") {
		t.Errorf("prepared transaction: %v", err)
	}
}

func TestWaitingDDLFailsTheTableInsteadOfHanging(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, lockSQL)
	s := newSource(t, srv.URL(db, "postgres"))
	snap, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	c := srv.Connect(t, db)
	go func() { _, err := c.Exec(context.Background(), "TRUNCATE t"); done <- err }()
	for srv.Query(t, db, "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := drain(t.Context(), snap); err == nil || !strings.Contains(err.Error(), "dump table public.t: lock: another session waits") {
		t.Errorf("got %v", err)
	}
	if _, err := snap.Finish(t.Context()); err == nil || !strings.Contains(err.Error(), "public.t") {
		t.Errorf("Finish: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("TRUNCATE after Close: %v", err)
	}
	wantNothingLeft(t, srv, db, s)
}

const bigSQL = "CREATE TABLE big AS SELECT g AS i, repeat(md5(g::text), 20) AS t FROM generate_series(1, 60000) g"

func TestCutConnectionFailsTheSnapshot(t *testing.T) {
	srv := pgtest.Start(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, bigSQL)
	const kill = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE application_name = 'strongroom' AND datname = current_database() AND "
	for _, c := range []struct{ which, where, want string }{
		{"worker", "query LIKE 'COPY%'", "dump table public.big: copy: "},
		{"lock session", "state = 'idle in transaction' AND backend_xid IS NULL AND pid = (SELECT pid FROM pg_locks WHERE relation = 'big'::regclass ORDER BY pid LIMIT 1)", "the session that holds the locks was lost"},
	} {
		s := newSource(t, srv.URL(db, "postgres"))
		snap, err := s.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var r io.ReadCloser
		for _, st := range snap.Streams() {
			if st.Name == "data/public.big" {
				if r, err = st.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := io.CopyN(io.Discard, r, 300000); err != nil {
			t.Fatal(err)
		}
		if n := srv.Query(t, db, kill+c.where); n != "1" {
			t.Fatalf("%s: killed %s sessions", c.which, n)
		}
		_, err = io.Copy(io.Discard, r)
		r.Close()
		if err == nil {
			// Its own COPY went well: read the rest, then the end must tell.
			for _, st := range snap.Streams() {
				if st.Name != "data/public.big" {
					rest, err := st.Open(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, rest)
					rest.Close()
				}
			}
		}
		if _, err := snap.Finish(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s cut: Finish says %v, want %q", c.which, err, c.want)
		}
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
		wantNothingLeft(t, srv, db, s)
	}
}

func TestCancelLeavesNothingBehind(t *testing.T) {
	srv := pgtest.Start(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, bigSQL)
	s := newSource(t, srv.URL(db, "postgres"))
	// In Open, while it waits for nothing and for a lock.
	ctx, cancel := context.WithCancel(t.Context())
	s.hookLocked = cancel
	if _, err := s.Open(ctx); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("Open: %v", err)
	}
	wantNothingLeft(t, srv, db, s)
	// In the middle of a table, and one that is closed half read.
	s.hookLocked = func() {}
	for _, cut := range []bool{true, false} {
		ctx, cancel = context.WithCancel(t.Context())
		snap, err := s.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range snap.Streams() {
			if st.Name != "data/public.big" {
				continue
			}
			r, err := st.Open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, r, 300000); err != nil {
				t.Fatal(err)
			}
			if cut {
				cancel()
				if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "cancel") {
					t.Errorf("Read after cancel: %v", err)
				}
			} // else: Close of the snapshot has to close it
		}
		if _, err := snap.Finish(t.Context()); err == nil {
			t.Error("Finish of a snapshot read in part is nil")
		}
		if err := snap.Close(); err != nil {
			t.Error(err)
		}
		if err := snap.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		cancel()
		wantNothingLeft(t, srv, db, s)
	}
}

func TestOldPgDumpIsRefused(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'pg_dump (PostgreSQL) 12.9 (Debian 12.9-1)'\n"
	if err := os.WriteFile(filepath.Join(dir, "pg_dump"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSource(t, srv.URL(db, "postgres"))
	s.cfg.BinDir = dir
	_, perr := s.Probe(t.Context())
	_, oerr := s.Open(t.Context())
	for _, err := range []error{perr, oerr} {
		if err == nil || !strings.Contains(err.Error(), "pg_dump 12.9 is older than the server") {
			t.Errorf("got %v", err)
		}
	}
}
