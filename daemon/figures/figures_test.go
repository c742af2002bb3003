// Package figures_test measures the real program beside PostgreSQL's own tools
// on databases of a gigabyte. It runs only when asked: make figures.
package figures_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/source/postgres/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// measured is one run of a program.
type measured struct {
	wall, cpu time.Duration
	rss       int64 // KiB, of the largest process
}

func (m measured) String() string {
	return fmt.Sprintf("%6.1f s wall, %6.1f s CPU, peak %4d MiB", m.wall.Seconds(), m.cpu.Seconds(), m.rss>>10)
}

// run runs a program to its end and measures it with its children.
func run(t *testing.T, stdout *os.File, name string, args ...string) measured {
	t.Helper()
	c := exec.CommandContext(context.Background(), name, args...)
	var stderr bytes.Buffer
	c.Stdout, c.Stderr = stdout, &stderr
	start := time.Now()
	err := c.Run()
	wall := time.Since(start)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	u := c.ProcessState.SysUsage().(*syscall.Rusage)
	return measured{wall, c.ProcessState.UserTime() + c.ProcessState.SystemTime(), u.Maxrss}
}

// build fills a database with SQL.
func build(t *testing.T, s *pgtest.Server, db, sql string) int64 {
	t.Helper()
	s.Exec(t, "postgres", "CREATE DATABASE "+db)
	s.Exec(t, db, sql)
	s.Exec(t, db, "ANALYZE")
	var size int64
	fmt.Sscan(s.Query(t, db, "SELECT pg_database_size(current_database())"), &size)
	return size
}

// accounts has the tables, widths and index of pgbench -i at a scale of its
// own: many short rows of numbers and padding.
func accounts(scale int) string {
	return fmt.Sprintf(`
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE accounts (aid int, bid int, abalance int, filler char(84));
CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, %[1]d) i;
INSERT INTO tellers SELECT i, (i-1)/10+1, 0, '' FROM generate_series(1, %[1]d*10) i;
INSERT INTO accounts SELECT i, (i-1)/100000+1, (hashint4(i) %% 100000), '' FROM generate_series(1, %[1]d*100000) i;
INSERT INTO history SELECT i %% (%[1]d*10)+1, i %% %[1]d+1, abs(hashint4(i)) %% (%[1]d*100000)+1, hashint4(i) %% 5000, timestamp '2026-01-01' + i * interval '1 second', '' FROM generate_series(1, %[1]d*10000) i;
ALTER TABLE accounts ADD PRIMARY KEY (aid);`, scale)
}

// vocabulary is what the sentences of texts are made of.
const vocabulary = "the a of and to in is was for that with as on at by this from it be are order customer account invoice payment delivery " +
	"please confirm again late missing wrong amount received returned branch number contract since yesterday morning week agreed phone call " +
	"mail answer problem solved open waiting system login password address changed move street city name new old copy attached document " +
	"report offer price discount tax net gross total euro cents item quantity stock warehouse shipped broken replacement warranty"

// texts is a table of sentences, a time, and JSON.
func texts(rows, words int) string {
	pick := func(from, n int) string {
		parts := make([]string, n)
		for j := range parts {
			parts[j] = fmt.Sprintf("w[1 + (hashint4(i * 131 + %d) & 32767) * (hashint4(i * 17 + %d) & 32767) / 32768 %% 80]", from+j, from+j+500)
		}
		return "concat_ws(' ', " + strings.Join(parts, ", ") + ")"
	}
	list := strings.Join(strings.Fields(vocabulary)[:80], "','")
	return fmt.Sprintf(`
CREATE TABLE ticket (id bigint PRIMARY KEY, opened timestamptz, subject text, body text, tags jsonb);
INSERT INTO ticket SELECT i, timestamptz '2024-01-01 00:00:00Z' + i * interval '97 seconds', %s, %s,
 jsonb_build_object('state', (ARRAY['open','closed','waiting'])[1 + i %% 3], 'owner', 'agent' || i %% 120, 'score', hashint4(i) %% 1000)
 FROM generate_series(1, %d) i CROSS JOIN (SELECT ARRAY['%s'] AS w) v;
CREATE INDEX ticket_opened ON ticket (opened);`, pick(0, 6), pick(10, words), rows, list)
}

func TestFigures(t *testing.T) {
	if os.Getenv("STRONGROOM_FIGURES") == "" {
		t.Skip("measures for some ten minutes and writes 10 GB: run it with make figures")
	}
	bin, err := filepath.Abs("../../bin/strongroom")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatal("bin/strongroom is not built: make build")
	}
	s := pgtest.Start(t)
	t.Logf("%s, %d CPUs, %s", s.Query(t, "postgres", "SHOW server_version"), runtime.GOMAXPROCS(0), runtime.Version())
	for _, db := range []struct{ name, sql string }{{"accounts", accounts(80)}, {"texts", texts(2_000_000, 80)}} {
		size := build(t, s, db.name, db.sql)
		t.Logf("== %s: %d MB database", db.name, size/1_000_000)
		compare(t, s, bin, db.name)
	}
}

// compare backs up, drops and restores, beside pg_dump and pg_restore.
func compare(t *testing.T, s *pgtest.Server, bin, db string) {
	dir := t.TempDir()
	url := s.URL(db, "postgres")
	dump := func(name, database string) {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		run(t, f, filepath.Join(s.BinDir, "pg_dump"), "--restrict-key=figures", s.URL(database, "postgres"))
	}
	dump("before.sql", db)
	config := writeConfig(t, dir, url)
	run(t, nil, bin, "--config", config, "init", "--shares-dir", filepath.Join(dir, "shares"))
	custom := filepath.Join(dir, "custom.dump")
	t.Logf("pg_dump -Fc -Z1:          %v", run(t, nil, filepath.Join(s.BinDir, "pg_dump"), "-Fc", "-Z1", "-f", custom, url))
	t.Logf("strongroom backup:        %v", run(t, nil, bin, "--config", config, "backup", "acme/db"))
	t.Logf("strongroom backup, again: %v", run(t, nil, bin, "--config", config, "backup", "acme/db"))
	run(t, os.Stderr, bin, "--config", config, "snapshots")
	if info, err := os.Stat(custom); err == nil {
		t.Logf("pg_dump -Fc -Z1 wrote %d MB", info.Size()/1_000_000)
	}
	s.DropDatabase(t, db)
	s.Exec(t, "postgres", "CREATE DATABASE "+db)
	t.Logf("strongroom restore:       %v", run(t, nil, bin, "--config", config, "restore", "acme/db", "--to", url))
	dump("after.sql", db)
	s.Exec(t, "postgres", "CREATE DATABASE "+db+"_pg")
	t.Logf("pg_restore -j2:           %v", run(t, nil, filepath.Join(s.BinDir, "pg_restore"), "-j2", "-d", s.URL(db+"_pg", "postgres"), custom))
	dump("pg.sql", db+"_pg")
	s.DropDatabase(t, db+"_pg")
	for _, copied := range []string{"after.sql", "pg.sql"} {
		t.Logf("pg_dump before and %s: %s", copied, same(t, dir, "before.sql", copied))
	}
	s.DropDatabase(t, db)
}

// same compares two dumps. COPY FROM does not promise to place rows in their
// order, so lines that moved are no difference; anything else is one.
func same(t *testing.T, dir, a, b string) string {
	t.Helper()
	if exec.Command("cmp", "-s", filepath.Join(dir, a), filepath.Join(dir, b)).Run() == nil {
		return "identical"
	}
	for _, name := range []string{a, b} {
		c := exec.Command("sort", "-S", "1G", "-T", dir, "-o", filepath.Join(dir, name), filepath.Join(dir, name))
		c.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("sort: %v: %s", err, out)
		}
	}
	run(t, nil, "cmp", filepath.Join(dir, a), filepath.Join(dir, b))
	return "the same lines; the server placed some rows elsewhere"
}

func writeConfig(t *testing.T, dir, url string) string {
	t.Helper()
	text := fmt.Sprintf("state_dir = %q\n", filepath.Join(dir, "state"))
	for i := range 3 {
		store := filepath.Join(dir, fmt.Sprintf("store%d", i))
		if err := os.Mkdir(store, 0o700); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("[[store]]\nname = \"s%d\"\nkind = \"dir\"\npath = %q\n", i, store)
	}
	text += fmt.Sprintf("[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n[[tenant.dataset]]\nname = \"db\"\nsource = \"postgres\"\nurl = %q\n", url)
	path := filepath.Join(dir, "strongroom.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
