package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"strongroom/source/postgres/pgtest"
)

func drilled(t *testing.T, o outcome) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^receipt (\S+)$`).FindStringSubmatch(o.stdout)
	if m == nil {
		t.Fatalf("no receipt in\n%s\n%s", o.stdout, o.stderr)
	}
	return m[1]
}

func TestDrillOfADatabase(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, smallZoo)
	stores, paths := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres"))+
		"rto = \"4h\"\nrpo = \"8d\"\n[[tenant.dataset.assert]]\nname = \"customers\"\nsql = \"SELECT count(*) FROM customers\"\nexpect = \"20000\"\n")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(0, "drill", "list"); o.stdout != "no drills\n" {
		t.Error(o.stdout)
	}
	b.run(10, "drill", "run", "acme/crm")
	b.run(0, "backup", "acme/crm")

	o := b.run(0, "drill", "run", "acme/crm", "--step", "all")
	for _, want := range []string{"PASS  acme/crm@", "content     pass", "assertions  pass     1 of 1", "degraded    pass     3 of 3", ", within 4h0m0s"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s", want, o.stdout)
		}
	}
	id := drilled(t, o)
	if o := b.run(0, "drill", "show", id, "--html"); !strings.Contains(o.stdout, "confidential") || !strings.Contains(o.stdout, "public.customers") || strings.Contains(o.stdout, "ZgotmplZ") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "list"); !strings.Contains(o.stdout, id+"  PASS") {
		t.Error(o.stdout)
	}

	// A store is away, and is not: all that it takes are the others.
	if o := b.run(0, "drill", "run", "acme/crm", "--without", "one"); !strings.Contains(o.stdout, "PASS") {
		t.Error(o.stdout)
	}
	b.run(64, "drill", "run", "acme/crm", "--without", "none")
	if o := b.run(3, "drill", "run", "acme/crm", "--step", "inventory,bytes"); !strings.Contains(o.stdout, "content     unasked") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "run", "acme/crm", "--must-fail", "role"); !strings.Contains(o.stdout, "FAIL") {
		t.Error(o.stdout)
	}

	// Whoever changes a receipt, or a byte on more stores than may be lost.
	file := b.path("state", "receipts", id+".json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte("20000"), []byte("20001"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(65, "drill", "show", id)
	b.run(65, "drill", "list")
	for _, p := range paths[:2] {
		flipShards(t, p)
	}
	if o := b.run(65, "drill", "run", "acme/crm"); !regexp.MustCompile(`FAIL .*\n(?s:.*)bytes +fail`).MatchString(o.stdout) {
		t.Error(o.stdout)
	}
}

// flipShards changes a byte in the middle of every shard of a store.
func flipShards(t *testing.T, store string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(store, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), "s-") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := len(b) / 4; i < len(b)*3/4; i += 512 {
			b[i] ^= 1
		}
		n++
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || n == 0 {
		t.Fatalf("%d shards: %v", n, err)
	}
}

func TestDrillOfFilesAndOutput(t *testing.T) {
	stores, paths := threeDirs(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "one", "b": strings.Repeat("two", 100000), "sub/c": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	checker := filepath.Join(t.TempDir(), "checker")
	if err := os.WriteFile(checker, []byte("#!/bin/sh\ngrep -q needle \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, stores, fmt.Sprintf("[[tenant.dataset]]\nname = \"www\"\nsource = \"files\"\npath = %q\n", dir)+
		commandDataset("good", "/bin/echo", "a needle")+fmt.Sprintf("checker = [%q]\n", checker)+
		commandDataset("bad", "/bin/echo", "hay")+fmt.Sprintf("checker = [%q]\n", checker))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for _, d := range []string{"www", "good", "bad"} {
		b.run(0, "backup", "acme/"+d)
	}
	if o := b.run(0, "doctor"); !strings.Contains(o.stdout, "no drill has tried its walls here") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "run", "acme/www"); !strings.Contains(o.stdout, "PASS") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "doctor"); strings.Count(o.stdout, "drill-walls") != 15 || !regexp.MustCompile(`(?m)^  ok +drill-walls +network: connect`).MatchString(o.stdout) {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "run", "acme/good"); !strings.Contains(o.stdout, "PASS") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "run", "acme/good", "--must-fail", "tenant"); !strings.Contains(o.stdout, "FAIL") || !strings.Contains(o.stdout, "BLAKE3") {
		t.Error(o.stdout)
	}
	b.run(20, "drill", "run", "acme/good", "--must-fail", "partition")
	b.run(64, "drill", "run", "acme/good", "--must-fail", "nothing")
	if o := b.run(65, "drill", "run", "acme/bad"); !strings.Contains(o.stdout, "checker checker: expected exit code 0") {
		t.Error(o.stdout)
	}
	// Stores that are away say nothing about what is on them.
	for _, p := range paths[:2] {
		if err := os.Rename(p, p+".away"); err != nil {
			t.Fatal(err)
		}
	}
	if o := b.run(22, "drill", "run", "acme/www"); !strings.Contains(o.stdout, "INFRA") {
		t.Error(o.stdout)
	}
}

// TestDrillFigures drills a database of 100 MB and prints how long each phase
// took: STRONGROOM_FIGURES=1.
func TestDrillFigures(t *testing.T) {
	if os.Getenv("STRONGROOM_FIGURES") == "" {
		t.Skip("STRONGROOM_FIGURES=1 measures a drill of 100 MB")
	}
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE TABLE customers (id int PRIMARY KEY, name text, mail text, at timestamptz, note text);
INSERT INTO customers SELECT g, 'name ' || md5(g::text), md5((g * 7)::text) || '@example.net', timestamptz '2024-01-01' + g * interval '1 min', repeat(md5((g % 5000)::text), 3)
	FROM generate_series(1, 150000) g;
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric(9,2), what text);
INSERT INTO orders SELECT g, 1 + g * 7919::bigint % 150000, g % 1000 * 1.01, md5(g::text) FROM generate_series(1, 550000) g;
CREATE INDEX ON orders (customer); CREATE INDEX ON customers (mail); ANALYZE`)
	t.Logf("database %s, tables alone %s", srv.Query(t, db, "SELECT pg_size_pretty(pg_database_size(current_database()))"),
		srv.Query(t, db, "SELECT pg_size_pretty(sum(pg_table_size(c.oid))) FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"))
	stores, _ := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres")))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/crm")
	for range 3 {
		cmd := b.command("drill", "run", "acme/crm")
		start := time.Now()
		o := b.end(0, cmd)
		t.Logf("%.1f s wall, %.1f s CPU with all that it started, %v load\n%s", time.Since(start).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), load(t), o.stdout)
	}
}

// load is how busy the machine is, which wall-clock times need beside them.
func load(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))[0]
}
