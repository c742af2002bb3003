package main

import (
	"os"
	"strings"
	"testing"

	"strongroom/source/postgres/pgtest"
)

func TestColdDrill(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("x", "/bin/echo", "x"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	o := b.run(0, "drill", "cold")
	for _, want := range []string{"PASS  canary/canary@", "inventory   pass     3 of 3", "content     pass     4 of 4", "says nothing of the real shares"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s%s", want, o.stdout, o.stderr)
		}
	}
	if _, err := os.Stat(b.path("state", "cold")); !os.IsNotExist(err) {
		t.Errorf("its directory is there still: %v", err)
	}
	if o := b.run(0, "drill", "show", drilled(t, o), "--html"); !strings.Contains(o.stdout, "a test recovery key") {
		t.Error(o.stdout)
	}
}

func TestDrillsOfTheBoxMustFail(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE TABLE p (at date, what text) PARTITION BY RANGE (at); CREATE TABLE p1 PARTITION OF p DEFAULT; INSERT INTO p SELECT date '2026-01-01' + g, 'e' || g FROM generate_series(1, 300) g;
CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT g, 'n' || g FROM generate_series(1, 900) g`)
	stores, _ := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres"))+commandDataset("one", "/bin/echo", "one")+commandDataset("other", "/bin/echo", "something else"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for _, d := range []string{"crm", "one", "other"} {
		b.run(0, "backup", "acme/"+d)
	}
	o := b.run(0, "drill", "must-fail")
	for _, f := range []string{"byte", "row", "last-buffer", "table", "partition", "half-rows", "zero-hash", "truncated", "role", "assertion"} {
		if !strings.Contains(o.stdout, "red, as it has to be: "+f+" of acme/crm\n") {
			t.Errorf("%s is not red in\n%s", f, o.stdout)
		}
	}
	if !strings.Contains(o.stdout, "red, as it has to be: tenant of acme/one\n") || !strings.Contains(o.stdout, "nothing to put it into: tenant of postgres\n") || strings.Contains(o.stdout, "WRONG") {
		t.Error(o.stdout)
	}
}

// Where a drill is red without a fault, no fault proves anything.
func TestMustFailNeedsADrillThatPasses(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("one", "/bin/echo", "one")+"checker = [\"/bin/false\"]\n")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(10, "drill", "must-fail")
	b.run(0, "backup", "acme/one")
	if o := b.run(1, "drill", "must-fail"); !strings.Contains(o.stdout, "WRONG: byte of acme/one: without a fault it ends with FAIL") || strings.Contains(o.stdout, "red, as") {
		t.Error(o.stdout)
	}
}
