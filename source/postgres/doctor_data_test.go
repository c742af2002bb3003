package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// find returns the finding of that code.
func find(t *testing.T, all source.Findings, code string) source.Finding {
	t.Helper()
	for _, f := range all {
		if f.Code == code {
			return f
		}
	}
	t.Fatalf("nothing is said of %s: %v", code, all)
	return source.Finding{}
}

func TestTablesThatASnapshotHasInPartAreNamed(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	s := newSource(t, srv.URL(db, "postgres"))
	_, all := examine(t, s)
	for _, code := range []string{"foreign-tables", "unlogged-tables"} {
		if f := find(t, all, code); f.Severity != source.OK {
			t.Errorf("empty database: %+v", f)
		}
	}
	srv.Exec(t, db, `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE elsewhere (i int) SERVER far;
		CREATE UNLOGGED TABLE fleeting (i int); INSERT INTO fleeting VALUES (1)`)
	_, all = examine(t, s)
	if f := find(t, all, "foreign-tables"); f.Severity != source.Warn || !strings.Contains(f.What, "public.elsewhere") {
		t.Errorf("%+v", f)
	}
	if f := find(t, all, "unlogged-tables"); f.Severity != source.Note || !strings.Contains(f.What, "public.fleeting") {
		t.Errorf("%+v", f)
	}
	// What it says of them is so.
	m := mustDump(t, s)
	pre := string(m.data[preDataStream])
	if !strings.Contains(pre, "CREATE UNLOGGED TABLE public.fleeting") || m.report.Streams["data/public.fleeting"].Rows != 1 {
		t.Error("the unlogged table is not saved with its row")
	}
	if _, has := m.data["data/public.elsewhere"]; has || !strings.Contains(pre, "CREATE FOREIGN TABLE public.elsewhere") {
		t.Error("the foreign table is not saved as a definition alone")
	}
}

func TestTransactionsInTheWayAreTold(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i int)")
	s := newSource(t, srv.URL(db, "postgres"))
	s.cfg.longTransaction, s.cfg.LockTimeout = time.Second, 100*time.Millisecond
	codesNow := func() string { c, _ := examine(t, s); return codes(c) }
	if got := codesNow(); got != "warn superuser" {
		t.Fatal(got)
	}
	c := srv.Connect(t, db)
	if err := simple(t.Context(), c, "BEGIN; LOCK t IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if got := codesNow(); got != "warn locked-tables, warn superuser" {
		t.Error(got)
	}
	if _, err := dump(t.Context(), s); err == nil {
		t.Error("a snapshot is taken in spite of the lock")
	}
	if err := simple(t.Context(), c, "ROLLBACK; BEGIN; INSERT INTO t VALUES (1); SELECT pg_sleep(1)"); err != nil {
		t.Fatal(err)
	}
	if got := codesNow(); got != "warn long-transactions, warn superuser" {
		t.Error(got)
	}
	if err := simple(t.Context(), c, "PREPARE TRANSACTION 'left_behind'"); err != nil {
		t.Fatal(err)
	}
	if got := codesNow(); got != "warn prepared-transactions, warn superuser" {
		t.Error(got)
	}
	if m := mustDump(t, s); m.report.Streams["data/public.t"].Rows != 0 {
		t.Error("rows of a prepared transaction are in the snapshot")
	}
	srv.Exec(t, db, "ROLLBACK PREPARED 'left_behind'")
	if got := codesNow(); got != "warn superuser" {
		t.Error(got)
	}
}

func TestSettingsOfTheRoleAreToldAndDoNoHarm(t *testing.T) {
	srv := pgtest.Start(t)
	db, role := srv.CreateDatabase(t), srv.CreateRole(t, "LOGIN SUPERUSER")
	srv.Exec(t, db, "CREATE TABLE t (i int); INSERT INTO t VALUES (1)")
	s := newSource(t, srv.URL(db, role))
	for _, set := range []string{"statement_timeout = '200ms'", "lock_timeout = 1", "idle_in_transaction_session_timeout = '100ms'", "idle_session_timeout = '100ms'",
		"default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on"} {
		srv.Exec(t, db, "ALTER ROLE "+role+" SET "+set)
	}
	_, all := examine(t, s)
	f := find(t, all, "timeouts")
	if want := "idle_in_transaction_session_timeout = 100ms, idle_session_timeout = 100ms, lock_timeout = 1ms, statement_timeout = 200ms"; f.Severity != source.Note || !strings.Contains(f.What, want) {
		t.Errorf("%+v", f)
	}
	if f := find(t, all, "isolation"); f.Severity != source.Note || !strings.Contains(f.What, "serializable") {
		t.Errorf("%+v", f)
	}
	s.hookLocked = func() { time.Sleep(500 * time.Millisecond) }
	if _, err := dump(t.Context(), s); err != nil {
		t.Errorf("they stop a snapshot: %v", err)
	}
}

func TestEnginesAreLookedFor(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE EXTENSION hstore")
	s := newSource(t, srv.URL(db, "postgres"))
	_, all := examine(t, s)
	for _, code := range []string{"drill-engine", "pg-dump", "server-version"} {
		if f := find(t, all, code); f.Severity != source.OK {
			t.Errorf("%+v", f)
		}
	}
	srv.Exec(t, db, "UPDATE pg_extension SET extname = 'of_their_own' WHERE extname = 'hstore'")
	_, all = examine(t, s)
	if f := find(t, all, "drill-engine"); f.Severity != source.Warn || !strings.Contains(f.What, "of_their_own") {
		t.Errorf("%+v", f)
	}
	old := t.TempDir()
	for _, p := range []string{"pg_dump", "pg_restore"} {
		text := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) 9.6.1'\n", p)
		if err := os.WriteFile(filepath.Join(old, p), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.BinDir = old
	_, all = examine(t, s)
	if f := find(t, all, "pg-dump"); f.Severity != source.Bad || !strings.Contains(f.What, "9.6.1 is older than the server") {
		t.Errorf("%+v", f)
	}
	if f := find(t, all, "drill-engine"); f.Severity != source.Warn || !strings.Contains(f.What, "pg_amcheck") {
		t.Errorf("%+v", f)
	}
}

func TestNamesCannotSteerATerminal(t *testing.T) {
	srv := pgtest.Start(t)
	db, role := srv.CreateDatabase(t), srv.CreateRole(t, "LOGIN")
	srv.Exec(t, db, "CREATE SCHEMA \"\x1b[2J\"; CREATE TABLE \"\x1b[2J\".\"\x1b]0;x\x07\n-- hidden\" (i int); CREATE SEQUENCE \"\x1b[2J\".s; SELECT lo_from_bytea(1, 'x')")
	for _, r := range []string{role, "postgres"} {
		_, all := examine(t, newSource(t, srv.URL(db, r)))
		for _, f := range all {
			if text := f.What + f.Why + f.Remedy; strings.ContainsAny(text, "\x1b\x07") || strings.Contains(text, "\n-- hidden") {
				t.Errorf("%q", f)
			}
		}
	}
}
