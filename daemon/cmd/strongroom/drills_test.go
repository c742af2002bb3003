package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"strongroom/custody/keys/box"
	"strongroom/custody/receipt/report"
	"strongroom/daemon"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/source/postgres/pgtest"
)

func TestColdDrill(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("x", "/bin/echo", "x"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	o := b.run(0, "drill", "cold")
	for _, want := range []string{"PASS  canary/canary on 2", "inventory   pass     3 of 3", "content     pass     4 of 4", "says nothing of the real shares"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s%s", want, o.stdout, o.stderr)
		}
	}
	if _, err := os.Stat(b.path("state", "cold")); !os.IsNotExist(err) {
		t.Errorf("its directory is there still: %v", err)
	}
	if o := b.run(0, "drill", "show", drilled(t, o), "--html"); !strings.Contains(o.stdout, "a test recovery key") || strings.Contains(o.stdout, "0001") {
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
	// Another one of its kind is larger, and passes.
	config, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write("c.toml", string(config)+commandDataset("other", "/bin/echo", "something else"))
	b.run(0, "init")
	b.run(0, "backup", "acme/other")
	if o := b.run(0, "drill", "must-fail"); !strings.Contains(o.stdout, "red, as it has to be: byte of acme/other\n") || strings.Contains(o.stdout, "acme/one") {
		t.Error(o.stdout)
	}
}

// The report of a quarter says what was taken, drilled and missed; who has the
// key checks the receipts behind it without the box.
func TestReportOfAQuarter(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("one", "/bin/echo", "one")+commandDataset("never", "/bin/false"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/one")
	b.run(0, "audit", "init")
	id := drilled(t, b.run(0, "drill", "run", "acme/one"))
	file, err := os.ReadFile(b.path("state", "receipts", id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	if o := b.run(0, "audit", "show", "acme"); !strings.Contains(o.stdout, fmt.Sprintf("%x", sha256.Sum256(file))) || !strings.Contains(o.stdout, "PASS") {
		t.Errorf("the receipt is not in the ledger:\n%s", o.stdout)
	}
	b.run(0, "drill", "run", "acme/one", "--must-fail", "byte")
	now := time.Now().UTC()
	quarter := fmt.Sprintf("%dQ%d", now.Year(), (now.Month()+2)/3)
	o := b.run(0, "report", "acme", "--quarter", quarter)
	for _, want := range []string{"[CONFIDENTIAL] acme in " + quarter, "1 snapshots of 2 datasets", "1 drills, of which 1 passed", "The quarter is not over", "drilled: PASS", "drill " + id + "  PASS",
		"must fail: 1 as they have to be, 0 not", "Cold drills of the program: NONE"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s", want, o.stdout)
		}
	}
	if o := b.run(0, "report", "acme", "--quarter", quarter, "--html"); !strings.Contains(o.stdout, id) || !strings.Contains(o.stdout, `<p class="level">confidential</p>`) {
		t.Error(o.stdout)
	}
	if o := b.run(0, "report", "acme", "--quarter", quarter, "--pdf"); !strings.HasPrefix(o.stdout, "%PDF-1.") {
		t.Errorf("%.100q", o.stdout)
	}
	if o := b.run(0, "report", "acme", "--quarter", quarter, "--json"); !strings.Contains(o.stdout, `"verdict":"PASS"`) {
		t.Error(o.stdout)
	}
	b.serve() // and then it is asked
	if o := b.run(0, "report", "acme", "--quarter", quarter); !strings.Contains(o.stdout, "1 snapshots of 2 datasets") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "show", id, "--pdf"); !strings.HasPrefix(o.stdout, "%PDF-1.") {
		t.Errorf("%.100q", o.stdout)
	}
	b.run(64, "report", "acme")
	b.run(64, "report", "acme", "--quarter", "2099Q1")
	b.run(64, "report", "acme", "--quarter", quarter, "--html", "--pdf")
}

// What a schedule planned and nobody did is named, once.
func TestLapsesAreNamed(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("one", "/bin/echo", "one")+"[tenant.dataset.schedule]\nat = \"0 3 * * 0\"\ntime_zone = \"UTC\"\n")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	c, err := config.Load(b.config)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := daemon.TasksOf(&job.Site{Config: c}, "test")
	if err != nil {
		t.Fatal(err)
	}
	sunday := time.Date(2026, 10, 4, 3, 0, 0, 0, time.UTC)
	run := func(week int, outcome string, missed int) daemon.RunStatus {
		first := sunday.AddDate(0, 0, 7*(week-missed))
		return daemon.RunStatus{Job: "backup:acme/one", Planned: sunday.AddDate(0, 0, 7*week), Outcome: outcome, Reason: "why", Missed: missed, FirstMissed: &first}
	}
	q := &report.Quarter{}
	q.From, q.To, _ = report.Bounds("2026Q4")
	// Weeks 0 to 12. Run were 1, 2 (which failed), 5 for 3 and 4 too, 8 and on.
	runs := []daemon.RunStatus{run(1, "ok", 0), run(2, "failed", 0), run(5, "ok", 2)}
	for w := 8; w <= 12; w++ {
		runs = append(runs, run(w, "partial", 0))
	}
	var got []string
	for _, l := range lapses(tasks, runs, "backup:acme/one", q) {
		got = append(got, l.Planned.Format("01-02 ")+l.What[:6])
	}
	// Week 0 was before the daemon first saw it.
	if want := "10-18 failed,10-25 missed,11-01 missed,11-15 missed,11-22 missed"; strings.Join(got, ",") != want {
		t.Errorf("lapses %q, want %s", got, want)
	}
}

// An offline medium is drilled by itself: with every other store gone.
func TestDrillFromAMedium(t *testing.T) {
	disk, _ := mediumDisk(t, 64)
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", program(t, "generate"), "3000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump")
	b.run(0, "backup", "acme/dump", "--label", "newest")
	copyToMedium(t, b, disk, "/bin/true")
	b.run(0, "backup", "acme/dump") // which the medium has not
	for _, p := range paths {
		if err := os.Rename(p, p+".gone"); err != nil {
			t.Fatal(err)
		}
	}
	o := b.run(0, "drill", "run", "acme/dump", "--from", "media:"+disk, "--json")
	for _, want := range []string{`"verdict":"PASS"`, `"tested":["media:` + disk + `"]`} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %s in %s", want, o.stdout)
		}
	}
	b.run(64, "drill", "run", "acme/dump", "--from", "what")
	// Bytes that went bad are what the medium's own parity is for; not so when that
	// is gone, too.
	flipShards(t, disk)
	b.run(0, "drill", "run", "acme/dump", "--from", "media:"+disk)
	err := filepath.WalkDir(disk, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || sizeOf(t, path) < 32<<10 {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if o := b.run(65, "drill", "run", "acme/dump", "--from", "media:"+disk); !strings.Contains(o.stdout, "FAIL") {
		t.Error(o.stdout)
	}
}

// A generation that is closed opens with a release of the station alone; the ledger
// chooses which, and what opens by itself needs none.
func TestClosedGenerationIsDrilledWithItsShares(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/date", "+%N"))
	b.editConfig("confidential", "top-secret") // five snapshots a generation
	b.run(0, "init", "--shares-dir", b.path("shares"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	generation := regexp.MustCompile(`"generation":"(\w+)"`).FindStringSubmatch(b.run(0, "backup", "acme/crm", "--label", "first", "--json").stdout)[1]
	for range 5 {
		b.run(0, "backup", "acme/crm")
	}
	if o := b.run(20, "drill", "closed", "acme", "--request", b.path("req")); !strings.Contains(o.stderr, "audit init") {
		t.Error(o.stderr)
	}
	b.run(0, "audit", "init")
	b.run(10, "drill", "closed", "acme", "--request", b.path("req")) // all keys are here

	// What a box that was rebuilt has not.
	keyring := must(box.Open(b.path("state", "keys"), must(box.LoadCredential(b.path("state", "credential"), ""))(t)))(t)
	entries, _, err := keyring.Slots().Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Generation.String() == generation {
			err = keyring.Slots().Forget(e)
		}
	}
	if err := errors.Join(err, keyring.Close()); err != nil {
		t.Fatal(err)
	}
	b.run(12, "drill", "run", "acme/crm@first")
	b.run(64, "drill", "closed", "acme")
	o := b.run(0, "drill", "closed", "acme", "--request", b.path("req"))
	target := regexp.MustCompile(`drill run (\S+) --release`).FindStringSubmatch(o.stdout)
	if target == nil || !strings.Contains(o.stdout, "generation 1, one of 1 that are closed") {
		t.Fatal(o.stdout)
	}

	release := []string{"station", "release", "--request", b.path("req"), "--kit", kit, "--out", b.path("rel"), "--shares-on-networked-host"}
	for i := 1; i <= 4; i++ {
		release = append(release, "--share-file", b.path("shares", fmt.Sprintf("share-top-%d-of-7.txt", i)))
	}
	b.run(0, release...)
	with := []string{"--release", b.path("rel"), "--kit", kit, "--key", b.path("req.key")}
	b.run(64, "drill", "run", target[1], "--release", b.path("rel"))
	id := drilled(t, b.run(0, append([]string{"drill", "run", target[1]}, with...)...))
	if o := b.run(0, "drill", "show", id, "--json"); !strings.Contains(o.stdout, `"kind":"closed"`) || !strings.Contains(o.stdout, `"verdict":"PASS"`) {
		t.Error(o.stdout)
	}
	if o := b.run(0, "drill", "show", id, "--html"); !strings.Contains(o.stdout, "closed generation") {
		t.Error(o.stdout)
	}
	if o := b.run(20, append([]string{"drill", "run", "acme/crm"}, with...)...); !strings.Contains(o.stderr, "is on this box") {
		t.Error(o.stderr)
	}
}
