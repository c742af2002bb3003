package drill

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/custody/receipt"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/sqlite"
)

func sqliteDump(t testing.TB, statements string) *memory {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(statements); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.New(sqlite.Config{Path: path, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return dump(t, s)
}

const bookSQL = `CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE notes (id INTEGER PRIMARY KEY, who INTEGER REFERENCES people, text TEXT);
CREATE INDEX by_who ON notes (who);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO people SELECT i, 'name ' || i FROM n;
INSERT INTO notes SELECT id, id, 'note ' || id FROM people;`

func TestSQLiteSnapshot(t *testing.T) {
	p := plan(t, sqliteDump(t, bookSQL))
	p.Assertions = []Assertion{{Name: "people", SQL: "SELECT count(*) FROM people", Expect: "= 500"}}
	r := mustRun(t, p)
	if r.Verdict != receipt.PASS || !strings.HasPrefix(r.Engine, "SQLite 3.") || len(r.Content) != 1 || r.Content[0].Copy.Rows < 3 {
		t.Fatal(show(r))
	}
	if got := step(t, r, receipt.Checks).Checks; len(got) != 2 || got[0].Name != "PRAGMA integrity_check" || got[1].Actual != "0 rows that refer to none" {
		t.Errorf("%+v", got)
	}
}

// flip changes bytes of the stream, and the manifest with them: a damage that
// was there when the snapshot was taken.
func flip(m *memory, stream string, old, new string) *memory {
	c := *m
	c.data = map[string][]byte{}
	for name, b := range m.data {
		c.data[name] = b
	}
	c.data[stream] = bytes.Replace(m.data[stream], []byte(old), []byte(new), 1)
	return &c
}

// recorded changes what the source said of itself.
func recorded(m *memory, old, new string) *memory {
	c := *m
	c.detail = bytes.Replace(m.detail, []byte(old), []byte(new), 1)
	return &c
}

func TestSQLiteSnapshotThatMustFail(t *testing.T) {
	m := sqliteDump(t, bookSQL)
	ask := func(sql, expect string) func(*Plan) {
		return func(p *Plan) { p.Assertions = []Assertion{{Name: "a", SQL: sql, Expect: expect}} }
	}
	for name, c := range map[string]struct {
		m      *memory
		change func(*Plan)
		step   string
		why    string
	}{
		"byte":                       {m, func(p *Plan) { p.Stored = flip(m, "database", "name 77", "name 78") }, receipt.Bytes, "BLAKE3"},
		"damaged before":             {flip(m, "database", "SQLite format 3", "SQLite formal 3"), nil, receipt.Load, "integrity_check"},
		"dangling key":               {recorded(sqliteDump(t, bookSQL+"DELETE FROM people WHERE id = 5"), `"orphans":1`, `"orphans":0`), nil, receipt.Checks, "PRAGMA foreign_key_check: expected 0 rows that refer to none, found 1 row that"},
		"another schema":             {flip(m, "database", "name TEXT", "nahm TEXT"), nil, receipt.Content, "database: schema"},
		"assertion that is not true": {m, ask("SELECT count(*) FROM people", "> 500"), receipt.Assertions, "a: expected > 500, found 500"},
		"assertion of nothing":       {m, ask("SELECT 500", "500"), receipt.Assertions, "it reads no table"},
		"assertion without a row":    {m, ask("SELECT name FROM people WHERE id = 9999", "!= x"), receipt.Assertions, "it returned 0 rows"},
		"assertion of NULL":          {m, ask("SELECT max(name) FROM people WHERE id = 9999", "!= x"), receipt.Assertions, "it returned NULL"},
		"assertion that writes":      {m, ask("DELETE FROM people RETURNING 1", "1"), receipt.Assertions, "error: "},
		"assertion that never ends": {m, func(p *Plan) {
			p.Assertions = []Assertion{{Name: "a", SQL: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, people", Expect: "1", Timeout: 300e6}}
		}, receipt.Assertions, "error: "},
		"answer that is a name": {m, ask("SELECT name FROM people WHERE id = 7", "nobody"), receipt.Assertions, "found another text, of 6 bytes"},
	} {
		p := plan(t, c.m)
		if c.change != nil {
			c.change(&p)
		}
		r := mustRun(t, p)
		s := step(t, r, c.step)
		if r.Verdict != receipt.FAIL || s.Status != receipt.Failed || !strings.Contains(s.Why, c.why) {
			t.Errorf("%s: %s, %s %q, want %q\n%q", name, r.Verdict, s.Status, s.Why, c.why, r.Why)
		}
	}
}

func TestTreeSnapshot(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "one", "b": strings.Repeat("two", 100000), "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "second")); err != nil {
		t.Fatal(err)
	}
	s, err := files.New(files.Config{Path: dir, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	m := dump(t, s)
	r := mustRun(t, plan(t, m))
	if r.Verdict != receipt.PASS || r.Content[0].Copy.Rows != 4 {
		t.Fatal(show(r))
	}
	// The contents no longer fit what the tree says of them.
	r = mustRun(t, plan(t, flip(m, "data", "twotwo", "twotwa")))
	if r.Verdict != receipt.FAIL || step(t, r, receipt.Load).Status != receipt.Failed {
		t.Error(show(r))
	}
	// The record says that there was one more.
	more := *m
	more.detail = bytes.Replace(m.detail, []byte(`"files":4`), []byte(`"files":5`), 1)
	r = mustRun(t, plan(t, &more))
	if s := step(t, r, receipt.Content); s.Status != receipt.Failed || !strings.Contains(s.Why, "files as they were counted: expected 5, found 4") {
		t.Errorf("%+v", s)
	}
}

func TestOutputSnapshotAndItsChecker(t *testing.T) {
	s, err := command.New(command.Config{Argv: []string{"/bin/echo", "a needle"}})
	if err != nil {
		t.Fatal(err)
	}
	m := dump(t, s)
	r := mustRun(t, plan(t, m))
	if r.Verdict != receipt.PASS || step(t, r, receipt.Checks).Status != receipt.Absent {
		t.Fatal(show(r))
	}
	for pattern, want := range map[string]receipt.Verdict{"needle": receipt.PASS, "hay": receipt.FAIL} {
		p := plan(t, m)
		p.Checker = []string{"/bin/grep", "-q", pattern}
		if r := mustRun(t, p); r.Verdict != want {
			t.Errorf("%s: %s", pattern, show(r))
		}
	}
	waits := plan(t, m)
	waits.Checker, waits.CheckTime = []string{"/bin/sh", "-c", "sleep 600"}, 300*time.Millisecond
	if r := mustRun(t, waits); r.Verdict != receipt.FAIL || !strings.Contains(r.Why[0], "it has not ended within 300ms") {
		t.Error(show(r))
	}
	for _, f := range []Fault{FlipByte, LastBuffer, Truncate} {
		p := plan(t, m)
		p.Fault = f
		if r := mustRun(t, p); r.Verdict != receipt.FAIL || step(t, r, receipt.Bytes).Status != receipt.Failed || step(t, r, receipt.Content).Status != receipt.Failed {
			t.Errorf("%s: %s", f, show(r))
		}
	}
	halved := plan(t, m)
	halved.Fault = HalfRows
	if _, err := Run(t.Context(), halved); !errors.Is(err, ErrFault) {
		t.Errorf("rows of a snapshot without any: %v", err)
	}
	less := *m
	less.detail = bytes.Replace(m.detail, []byte(`"bytes":9`), []byte(`"bytes":8`), 1)
	if r := mustRun(t, plan(t, &less)); step(t, r, receipt.Content).Status != receipt.Failed {
		t.Error(show(r))
	}
}

func TestPlansThatCouldTouchWhatLivesAreRefused(t *testing.T) {
	s, err := command.New(command.Config{Argv: []string{"/bin/echo"}})
	if err != nil {
		t.Fatal(err)
	}
	m := dump(t, s)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"PG_VERSION", "program"} {
		if err := os.WriteFile(filepath.Join(data, f), []byte("15\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(data, "program"), link); err != nil {
		t.Fatal(err)
	}
	for name, checker := range map[string]string{"device": "/dev/null", "relative": "grep", "nothing": "/nowhere", "data of a server": filepath.Join(data, "program"), "link into it": link, "the source": dir + "/live"} {
		if name == "the source" {
			if err := os.WriteFile(checker, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p := plan(t, m)
		p.Checker, p.Live = []string{checker}, []string{filepath.Join(dir, "live")}
		if _, err := Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), ErrRefused.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A drill that is stopped leaves no process, and with the last of them nothing
// of the copy.
func TestStoppedDrillLeavesNothing(t *testing.T) {
	p := plan(t, sqliteDump(t, bookSQL))
	p.Assertions = []Assertion{{Name: "a", SQL: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n, people", Expect: "1", Timeout: time.Hour}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Run(ctx, p)
		ended <- err
	}()
	for deadline := time.Now().Add(time.Minute); len(children(t)) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was started")
		}
	}
	time.Sleep(300 * time.Millisecond) // into the assertion
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if c := children(t); len(c) > 0 {
		t.Errorf("left: %q", c)
	}
}

// children are the sandboxes of this process.
func children(t *testing.T) (out []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) && strings.Contains(string(b), "\nNSpid:") && !strings.Contains(string(b), "Name:\tpostgres") {
			out = append(out, f)
		}
	}
	return out
}

// SQLite keeps keys only where a program asks it to, and a database may need what
// only its program has.
func TestSoundSQLitePasses(t *testing.T) {
	passes(t, sqliteDump(t, bookSQL+"DELETE FROM people WHERE id = 5"), "the source has 1 row that refers to none")
	unknown := sqliteDump(t, bookSQL+"PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE INDEX by_who ON notes (who COLLATE minemine)' WHERE name = 'by_who'")
	passes(t, unknown, "notes: SQL logic error: no such collation sequence: minemine")
	// The tables that need nothing are looked at all the same.
	hurt := sqliteDump(t, bookSQL+"PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'CREATE INDEX by_who ON notes (who COLLATE minemine)' WHERE name = 'by_who';"+
		"CREATE TABLE t (x); CREATE INDEX ix ON t (x); INSERT INTO t VALUES (1); UPDATE sqlite_schema SET sql = 'CREATE INDEX ix ON t (x + 1)' WHERE name = 'ix'")
	if r := mustRun(t, plan(t, hurt)); r.Verdict != receipt.FAIL || !strings.Contains(r.Why[0], "missing from index ix") {
		t.Errorf("%s %q", r.Verdict, r.Why)
	}
}

// Root reads what its owner may not.
func TestSoundTreePasses(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"none": 0, "written": 0o200, "shut/in/it": 0o600, "shut/link": 0} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "shut/link" {
			if err := os.Link(filepath.Join(dir, "none"), path); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"shut/in", "shut"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o011); err != nil {
			t.Fatal(err)
		}
	}
	treeOf := func(dir string) *memory {
		s, err := files.New(files.Config{Path: dir, Scratch: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return dump(t, s)
	}
	passes(t, treeOf(dir), "")
	// Many small files take more than their bytes.
	many := t.TempDir()
	for n := range 18000 {
		if err := os.WriteFile(filepath.Join(many, strings.Repeat("x", 5)+string(rune('a'+n%26))+strings.Repeat("y", n/26%30)+string(rune('a'+n/780))), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	passes(t, treeOf(many), "")
	// Of a file that is larger than all scratch the holes take none of it.
	sparse := t.TempDir()
	if err := os.WriteFile(filepath.Join(sparse, "s"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(sparse, "s"), 1<<30); err != nil {
		t.Fatal(err)
	}
	passes(t, treeOf(sparse), "")
}
