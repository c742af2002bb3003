package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A clock is set by tests.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func (c *clock) pass(d time.Duration) time.Time { c.now = c.now.Add(d); return c.now }

var newYear = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// create makes a database, and open opens it as a daemon does.
func create(t *testing.T) (Config, *clock) {
	t.Helper()
	c := &clock{newYear}
	cfg := Config{Dir: t.TempDir(), Version: "1.0", Now: c.Now}
	if err := Create(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

func reopen(t *testing.T, cfg Config) *DB {
	t.Helper()
	d, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.shut() })
	return d
}

func newDB(t *testing.T) (*DB, *clock) {
	t.Helper()
	cfg, c := create(t)
	return reopen(t, cfg), c
}

// crash lets go of a database as a killed process does: nothing is written.
func crash(t *testing.T, d *DB) {
	t.Helper()
	if err := d.shut(); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func claim(t *testing.T, d *DB, job string, kind Kind, planned time.Time) RunID {
	t.Helper()
	id, err := d.Claim(t.Context(), Claim{Job: job, Kind: kind, Tenant: "acme", Dataset: "crm", Planned: planned})
	must(t, err)
	return id
}

func TestStateIsNeverCreatedByTheWay(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Now: time.Now}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "strongroom init") {
		t.Errorf("open: %v", err)
	}
	if left, _ := os.ReadDir(cfg.Dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	must(t, Create(t.Context(), cfg))
	if err := Create(t.Context(), cfg); !errors.Is(err, os.ErrExist) {
		t.Errorf("create again: %v", err)
	}
	left, _ := os.ReadDir(cfg.Dir)
	if len(left) != 1 {
		t.Errorf("left %v", left)
	}
	if info, err := left[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestOneDaemonHasTheState(t *testing.T) {
	cfg, _ := create(t)
	first := reopen(t, cfg)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("a second: %v", err)
	}
	must(t, first.Close())
	must(t, reopen(t, cfg).Close())
}

// Before 3.51.3 a checkpoint that meets a write of another connection may damage
// a database in WAL mode, and before 3.53.4 a rollback may.
func TestSQLiteIsNewEnough(t *testing.T) {
	d, _ := newDB(t)
	var major, minor, patch int
	var version string
	must(t, d.r.QueryRow(`SELECT sqlite_version()`).Scan(&version))
	if n, err := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n != 3 || err != nil {
		t.Fatal(version, err)
	}
	if major*1e6+minor*1e3+patch < 3_053_004 {
		t.Errorf("SQLite %s", version)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "trusted_schema": "0"} {
		for _, db := range []*sql.DB{d.w, d.r} {
			var got string
			must(t, db.QueryRow("PRAGMA "+pragma).Scan(&got))
			if got != want {
				t.Errorf("%s is %s, want %s", pragma, got, want)
			}
		}
	}
}

func TestAPlannedRunIsClaimedOnce(t *testing.T) {
	d, c := newDB(t)
	planned := c.pass(time.Hour)
	id := claim(t, d, "acme/crm", Backup, planned)
	again := Claim{Job: "acme/crm", Kind: Backup, Tenant: "acme", Dataset: "crm", Planned: planned.Add(time.Minute)}
	if _, err := d.Claim(t.Context(), again); !errors.Is(err, ErrRunning) {
		t.Errorf("beside one that runs: %v", err)
	}
	must(t, d.Skip(t.Context(), again, "still running")) // is recorded all the same
	must(t, d.Finish(t.Context(), id, OK, ""))
	for _, at := range []time.Time{planned, again.Planned} {
		again.Planned = at
		if _, err := d.Claim(t.Context(), again); !errors.Is(err, ErrClaimed) {
			t.Errorf("%v again: %v", at, err)
		}
		if err := d.Skip(t.Context(), again, "missed"); !errors.Is(err, ErrClaimed) {
			t.Errorf("skip %v again: %v", at, err)
		}
	}
	again.Job = "acme/crm drill"
	if _, err := d.Claim(t.Context(), again); err != nil {
		t.Errorf("another job at that time: %v", err)
	}
	if err := d.Finish(t.Context(), id, Failed, ""); !errors.Is(err, ErrNotRunning) {
		t.Errorf("finish again: %v", err)
	}
}

func TestARunKeepsWhatHappened(t *testing.T) {
	d, c := newDB(t)
	planned := c.pass(time.Hour)
	id, err := d.Claim(t.Context(), Claim{Job: "j", Kind: Backup, Tenant: "acme", Dataset: "crm", Planned: planned, Missed: 3, FirstMissed: newYear})
	must(t, err)
	began := c.now
	must(t, d.Phase(t.Context(), id, "dump"))
	must(t, d.Progress(t.Context(), id, 5, 10))
	stored := c.pass(time.Minute)
	must(t, d.Phase(t.Context(), id, "store"))
	must(t, d.Progress(t.Context(), id, 1, 2))
	ended := c.pass(time.Minute)
	must(t, d.Finish(t.Context(), id, Partial, "2 of 3 stores"))
	got, err := d.Run(t.Context(), id)
	must(t, err)
	want := Run{ID: id, Job: "j", Kind: Backup, Tenant: "acme", Dataset: "crm", Planned: planned, Missed: 3, FirstMissed: newYear, Claimed: began,
		Attempts: 1, Phase: "store", Done: 1, Total: 2, Updated: ended, Finished: ended, Outcome: Partial, Reason: "2 of 3 stores"}
	if got != want {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	steps, err := d.Phases(t.Context(), id)
	must(t, err)
	if want := []Step{{"dump", began}, {"store", stored}}; !reflect.DeepEqual(steps, want) {
		t.Errorf("phases %v, want %v", steps, want)
	}
	if err := d.Phase(t.Context(), id, "late"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a phase after the end: %v", err)
	}
	if _, err := d.Run(t.Context(), 99); !errors.Is(err, ErrNotFound) {
		t.Errorf("run 99: %v", err)
	}
}

func TestAStartFindsTheRunsOfADeadProcess(t *testing.T) {
	cfg, c := create(t)
	d := reopen(t, cfg)
	a, b, done := claim(t, d, "a", Backup, c.now), claim(t, d, "b", Backup, c.now), claim(t, d, "c", Backup, c.now)
	must(t, d.Finish(t.Context(), done, OK, ""))
	crash(t, d)

	d = reopen(t, cfg)
	orphans, err := d.Orphans(t.Context())
	must(t, err)
	if len(orphans) != 2 || orphans[0].ID != a || orphans[1].ID != b {
		t.Fatalf("orphans %+v", orphans)
	}
	if err := d.Progress(t.Context(), a, 1, 2); !errors.Is(err, ErrNotRunning) {
		t.Errorf("progress before it was taken over: %v", err)
	}
	must(t, d.Adopt(t.Context(), a))
	must(t, d.Interrupt(t.Context(), b, "the daemon ended"))
	if err := d.Interrupt(t.Context(), a, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("taken over twice: %v", err)
	}
	must(t, d.Finish(t.Context(), a, OK, ""))
	for id, want := range map[RunID]Outcome{a: OK, b: Interrupted, done: OK} {
		r, err := d.Run(t.Context(), id)
		must(t, err)
		if attempts := map[RunID]int{a: 2, b: 2, done: 1}[id]; r.Outcome != want || r.Attempts != attempts {
			t.Errorf("run %d: %s after %d attempts", id, r.Outcome, r.Attempts)
		}
	}
	if left, _ := d.Orphans(t.Context()); len(left) > 0 {
		t.Errorf("left %+v", left)
	}
}

func TestLastLeavesOutWhatAClockWasAheadOf(t *testing.T) {
	d, c := newDB(t)
	last := func() time.Time {
		t.Helper()
		m, err := d.Last(t.Context(), []string{"j", "k"})
		must(t, err)
		return m["j"]
	}
	if got := last(); got != newYear {
		t.Errorf("never seen: %v", got)
	}
	c.pass(time.Hour)
	if got := last(); got != newYear {
		t.Errorf("seen an hour ago: %v", got)
	}
	planned := c.now.Add(-time.Minute)
	must(t, d.Finish(t.Context(), claim(t, d, "j", Backup, planned), OK, ""))
	right := c.now
	c.now = c.now.AddDate(1, 0, 0)
	ahead := c.now.Add(-time.Minute)
	must(t, d.Finish(t.Context(), claim(t, d, "j", Backup, ahead), OK, ""))
	if got := last(); got != ahead {
		t.Errorf("with the clock ahead: %v, want %v", got, ahead)
	}
	c.now = right.Add(time.Hour)
	if got := last(); got != planned {
		t.Errorf("with the clock right again: %v, want %v", got, planned)
	}
	_, err := d.Claim(t.Context(), Claim{Job: "j", Planned: c.now, ByHand: true})
	must(t, err)
	if got := last(); got != planned {
		t.Errorf("after a run by hand: %v, want %v", got, planned)
	}
	// A job that was first seen by a clock that was ahead is not due until then.
	c.now = newYear.Add(-time.Hour)
	if m, _ := d.Last(t.Context(), []string{"k"}); m["k"] != c.now {
		t.Errorf("first seen in the future: %v", m["k"])
	}
}

func TestHealthOfADataset(t *testing.T) {
	d, c := newDB(t)
	must(t, d.Watch(t.Context(), "acme", "crm"))
	must(t, d.Watch(t.Context(), "acme", "crm"))
	want := Health{Tenant: "acme", Dataset: "crm", Since: newYear}
	for i, step := range []struct {
		kind    Kind
		outcome Outcome
		change  func(at time.Time, id RunID)
	}{
		{Backup, Skipped, func(time.Time, RunID) {}},
		{Backup, Failed, func(at time.Time, id RunID) { want.LastFailure, want.FailureRun = at, id }},
		{Backup, OK, func(at time.Time, id RunID) { want.LastSuccess, want.SuccessRun = at, id }},
		{Backup, Partial, func(at time.Time, id RunID) { want.LastSuccess, want.SuccessRun = at, id }},
		{Backup, Cancelled, func(time.Time, RunID) {}},
		{Drill, Infra, func(time.Time, RunID) {}},
		{Drill, Partial, func(at time.Time, id RunID) { want.LastDrill, want.DrillOutcome = at, Partial }},
		{Drill, OK, func(at time.Time, id RunID) {
			want.LastDrill, want.DrillOutcome, want.LastPassed, want.FirstPassed = at, OK, at, at
		}},
		{Drill, OK, func(at time.Time, id RunID) { want.LastDrill, want.LastPassed = at, at }},
		{Drill, Failed, func(at time.Time, id RunID) { want.LastDrill, want.DrillOutcome = at, Failed }},
		{"check", Failed, func(time.Time, RunID) {}},
	} {
		id := claim(t, d, "j", step.kind, c.pass(time.Hour))
		at := c.pass(time.Minute)
		must(t, d.Finish(t.Context(), id, step.outcome, ""))
		step.change(at, id)
		got, err := d.Datasets(t.Context())
		must(t, err)
		if len(got) != 1 || got[0] != want {
			t.Errorf("step %d, %s %s:\n got %+v\nwant %+v", i, step.kind, step.outcome, got, want)
		}
		if got[0].Protected() != (i >= 7) {
			t.Errorf("step %d: protected %v", i, got[0].Protected())
		}
	}
}

func TestASchemaOfTheFutureIsRefused(t *testing.T) {
	cfg, _ := create(t)
	d := reopen(t, cfg)
	_, err := d.w.Exec(`UPDATE meta SET value = '99' WHERE key = 'schema'; UPDATE meta SET value = '7.2' WHERE key = 'written_by'`)
	must(t, err)
	must(t, d.Close())
	before, _ := os.ReadFile(filepath.Join(cfg.Dir, file))
	_, err = Open(t.Context(), cfg)
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "has schema 99, by strongroom 7.2, and strongroom 1.0 knows up to") {
		t.Errorf("%v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(cfg.Dir, file)); string(after) != string(before) {
		t.Error("it was changed")
	}
}

func TestSchemaIsWhatGooseSays(t *testing.T) {
	d, _ := newDB(t)
	have, err := d.schema(t.Context())
	must(t, err)
	var applied int
	must(t, d.r.QueryRow(`SELECT max(version_id) FROM goose_db_version`).Scan(&applied))
	if know, _ := newest(); have != know || applied != know {
		t.Errorf("meta says %d, goose %d, there are %d", have, applied, know)
	}
}

// golden is a database of schema 1 with a run of each kind, as the first version
// wrote it. It is kept for ever.
const golden = "testdata/v1.db"

func TestUpgradeFromGoldenV1(t *testing.T) {
	c := &clock{newYear.AddDate(0, 1, 0)}
	cfg := Config{Dir: t.TempDir(), Version: "2.0", Now: c.Now}
	b, err := os.ReadFile(golden)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(cfg.Dir, file), b, 0o600))
	d := reopen(t, cfg)
	must(t, d.Check(t.Context()))

	orphans, err := d.Orphans(t.Context())
	must(t, err)
	if len(orphans) != 1 || orphans[0].Job != "acme/crm drill" || orphans[0].Phase != "load" {
		t.Errorf("orphans %+v", orphans)
	}
	runs, err := d.Runs(t.Context(), "acme", "crm", 10)
	must(t, err)
	if len(runs) != 3 || runs[2].Outcome != OK || runs[2].Missed != 2 || runs[1].Reason != "still running" {
		t.Errorf("runs %+v", runs)
	}
	sets, err := d.Datasets(t.Context())
	must(t, err)
	if len(sets) != 1 || sets[0].LastSuccess != newYear.Add(2*time.Hour) || sets[0].Protected() {
		t.Errorf("datasets %+v", sets)
	}
	if _, err := d.Claim(t.Context(), Claim{Job: "acme/crm", Planned: newYear.Add(time.Hour)}); !errors.Is(err, ErrClaimed) {
		t.Errorf("a run of before: %v", err)
	}
	have, err := d.schema(t.Context())
	must(t, err)
	if know, _ := newest(); have != know {
		t.Errorf("schema %d, want %d", have, know)
	}
	if _, told, err := d.Raise(t.Context(), Alarm{Key: "k"}, msg("e")); err != nil || !told {
		t.Errorf("an alarm: %v", err)
	}
	must(t, d.Close())
	must(t, reopen(t, cfg).Close())

	// What was there before is beside it, as it was.
	old, err := open(filepath.Join(cfg.Dir, file+".before-2"), "delete")
	must(t, err)
	defer old.Close()
	var schema string
	var n int
	must(t, old.QueryRow(`SELECT value, (SELECT count(*) FROM runs) FROM meta WHERE key = 'schema'`).Scan(&schema, &n))
	if schema != "1" || n != 3 {
		t.Errorf("the copy has schema %s and %d runs", schema, n)
	}
}

func TestBackupIsACopyThatOpens(t *testing.T) {
	d, c := newDB(t)
	id := claim(t, d, "j", Backup, c.now)
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	must(t, d.Backup(t.Context(), path))
	if err := d.Backup(t.Context(), path); err == nil {
		t.Error("it was overwritten")
	}
	must(t, d.Finish(t.Context(), id, OK, ""))
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	copied := reopen(t, Config{Dir: dir, Now: c.Now})
	if orphans, err := copied.Orphans(t.Context()); err != nil || len(orphans) != 1 {
		t.Errorf("%v, %v", orphans, err)
	}
}

func TestCheckFindsDamage(t *testing.T) {
	cfg, c := create(t)
	d := reopen(t, cfg)
	for i := range 60 {
		must(t, d.Finish(t.Context(), claim(t, d, "j", Backup, c.now.Add(time.Duration(i)*time.Hour)), OK, strings.Repeat("x", 1000)))
	}
	must(t, d.Check(t.Context()))
	must(t, d.Close())
	f, err := os.OpenFile(filepath.Join(cfg.Dir, file), os.O_RDWR, 0)
	must(t, err)
	size, _ := f.Seek(0, io.SeekEnd)
	_, err = f.WriteAt(make([]byte, 4096), size/4096/2*4096)
	must(t, err)
	must(t, f.Close())
	d, err = Open(context.Background(), cfg)
	if err == nil {
		err = d.Check(t.Context())
		d.shut()
	}
	if err == nil {
		t.Error("a page of zeros in the middle was not found")
	}
}

func TestBeat(t *testing.T) {
	d, c := newDB(t)
	want := c.pass(time.Minute)
	must(t, d.Beat(t.Context()))
	var beat sql.NullInt64
	must(t, d.r.QueryRow(`SELECT max(beat) FROM processes`).Scan(&beat))
	if when(beat) != want {
		t.Errorf("%v, want %v", when(beat), want)
	}
	must(t, d.Close())
	if err := d.Beat(t.Context()); err == nil {
		t.Error("a beat without a database")
	}
}

// An upgrade that was cut off, in any of its steps, is gone on with.
func TestAnUpgradeThatWasCutOff(t *testing.T) {
	b, err := os.ReadFile(golden)
	must(t, err)
	for name, left := range map[string]string{"in the copy": ".before-2.part", "after it": ".before-2"} {
		cfg := Config{Dir: t.TempDir(), Version: "2.0", Now: time.Now}
		must(t, os.WriteFile(filepath.Join(cfg.Dir, file), b, 0o600))
		must(t, os.WriteFile(filepath.Join(cfg.Dir, file+left), b[:8192], 0o600))
		d := reopen(t, cfg)
		must(t, d.Check(t.Context()))
		must(t, d.Enqueue(t.Context(), msg("e")))
		must(t, d.Close())
		entries, err := os.ReadDir(cfg.Dir)
		must(t, err)
		for _, e := range entries {
			if info, err := e.Info(); err != nil || strings.HasSuffix(e.Name(), ".part") || info.Mode() != 0o600 {
				t.Errorf("cut off %s: left %v", name, info)
			}
		}
		copied, err := open(filepath.Join(cfg.Dir, file+".before-2"), "delete")
		must(t, err)
		var said string
		if err := copied.QueryRow(`PRAGMA integrity_check(1)`).Scan(&said); said != "ok" {
			t.Errorf("cut off %s: the copy is %s, %v", name, said, err)
		}
		copied.Close()
	}
	// A step of the migration itself is one transaction: killed in it, the schema
	// is that of before.
	cfg := Config{Dir: t.TempDir(), Version: "2.0", Now: time.Now}
	must(t, os.WriteFile(filepath.Join(cfg.Dir, file), b, 0o600))
	db, err := open(filepath.Join(cfg.Dir, file), "wal")
	must(t, err)
	_, err = db.Exec(`CREATE TABLE outbox (x INTEGER)`) // so that the second step fails half-way
	must(t, err)
	must(t, db.Close())
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "upgrade state") {
		t.Fatalf("opened: %v", err)
	}
	db, err = open(filepath.Join(cfg.Dir, file), "wal")
	must(t, err)
	defer db.Close()
	var schema, tables string
	must(t, db.QueryRow(`SELECT value, (SELECT count(*) FROM sqlite_master WHERE name = 'alarms') FROM meta WHERE key = 'schema'`).Scan(&schema, &tables))
	if schema != "1" || tables != "0" {
		t.Errorf("schema %s, %s tables of the step that failed", schema, tables)
	}
}
