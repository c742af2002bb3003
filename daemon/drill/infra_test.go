package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"strongroom/custody/receipt"
	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// edited changes the record that came with a snapshot.
func edited(t testing.TB, m *memory, key string, value any) *memory {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal(m.detail, &d); err != nil {
		t.Fatal(err)
	}
	d[key] = value
	c := *m
	var err error
	if c.detail, err = json.Marshal(d); err != nil {
		t.Fatal(err)
	}
	return &c
}

var errAway = errors.New("the store does not answer")

// absent is a snapshot one of whose streams cannot be read.
type absent struct {
	*memory
	err error
}

func (a absent) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "data/") {
		return nil, fmt.Errorf("read pack: %w", a.err)
	}
	return a.memory.Open(ctx, name, off, n)
}

// What this machine lacks says nothing about the backup, and is never green.
func TestWhatThisMachineLacksIsNeitherGreenNorRed(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2)")
	m := pgDump(t, srv, db)
	for name, c := range map[string]struct {
		stored source.Stored
		change func(*Plan)
		step   string
		why    string
	}{
		"server":    {edited(t, m, "major", 99), nil, receipt.Load, "no PostgreSQL 99 server is installed here"},
		"extension": {edited(t, m, "extensions", []map[string]string{{"name": "no_such"}}), nil, receipt.Load, `extension "no_such" is not installed here`},
		"locale":    {edited(t, m, "locale", map[string]string{"collate": "xx_YY.UTF-8", "ctype": "C"}), nil, receipt.Load, `locale "xx_YY.UTF-8" is not installed here`},
		"room":      {m, func(p *Plan) { p.Disk = 100 << 20 }, receipt.Load, "the drill may have 100"},
		"memory":    {m, func(p *Plan) { p.Disk, p.Memory = 0, 100<<20 }, receipt.Load, "sandbox"},
		"full":      {m, func(p *Plan) { p.Disk = 0; p.Stored = claims{m, 1 << 50} }, receipt.Load, "MiB of scratch are needed; there are "},
		"store":     {absent{m, errAway}, func(p *Plan) { p.Away = func(err error) bool { return errors.Is(err, errAway) } }, receipt.Bytes, "does not answer"},
	} {
		p := plan(t, m)
		p.Stored = c.stored
		if c.change != nil {
			c.change(&p)
		}
		r := mustRun(t, p)
		s := step(t, r, c.step)
		if r.Verdict != receipt.INFRA || s.Status != receipt.Infra || !strings.Contains(s.Why, c.why) || step(t, r, receipt.Content).Status != receipt.Skipped {
			t.Errorf("%s: %s %s %q, want INFRA %q", name, r.Verdict, s.Status, r.Why, c.why)
		}
	}
	// The same error from a store that is there is the backup's.
	p := plan(t, m)
	p.Stored = absent{m, errAway}
	if r := mustRun(t, p); r.Verdict != receipt.FAIL || step(t, r, receipt.Bytes).Status != receipt.Failed {
		t.Error(show(r))
	}
	// What was left out makes it partial; what could not even be opened, red.
	p = plan(t, m)
	p.Incomplete = "a file could not be read"
	if r := mustRun(t, p); r.Verdict != receipt.PARTIAL {
		t.Error(show(r))
	}
	p = plan(t, m)
	p.Stored, p.Unreadable = nil, errors.New("too few shards")
	if r := mustRun(t, p); r.Verdict != receipt.FAIL || !strings.Contains(r.Why[0], "too few shards") {
		t.Error(show(r))
	}
}

// claims says that it is larger than it is.
type claims struct {
	*memory
	size int64
}

func (c claims) Description() source.Description {
	d := c.memory.Description()
	d.Size = c.size
	return d
}

// A database may hold nothing: then nothing is what has to be there.
func TestEmptyDatabasePasses(t *testing.T) {
	srv := pgtest.Start(t)
	p := plan(t, pgDump(t, srv, srv.CreateDatabase(t)))
	r := mustRun(t, p)
	if r.Verdict != receipt.PASS {
		t.Error(show(r))
	}
	p.Assertions = []Assertion{{Name: "a", SQL: "SELECT count(*) FROM t", Expect: "0"}}
	if r := mustRun(t, p); r.Verdict != receipt.FAIL || !strings.Contains(r.Why[0], `relation "t" does not exist`) {
		t.Error(r.Why)
	}
}

// Restored SQL is hostile. It can reach nothing outside, and what asks the copy
// afterwards it cannot use.
func TestHostileDatabase(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE TABLE t (i int); INSERT INTO t VALUES (1);
CREATE TABLE got (what text);
CREATE FUNCTION inner() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	COPY public.got FROM PROGRAM 'id -u; cat /etc/shadow; touch /usr/evil; true'; END $$;
CREATE FUNCTION evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.inner(); RETURN $1; END $$;
CREATE INDEX trap ON t (evil(i));
DELETE FROM got`)
	p := plan(t, pgDump(t, srv, db))
	p.Assertions = []Assertion{
		{Name: "writes", SQL: "DELETE FROM t RETURNING 1", Expect: "1"},
		{Name: "ends the transaction", SQL: "COMMIT; DELETE FROM t RETURNING 1", Expect: "1"},
		{Name: "runs a program", SQL: "SELECT pg_read_file('/etc/passwd') FROM t", Expect: "x"},
		{Name: "takes its time", SQL: "SELECT pg_sleep(60)::text FROM t", Expect: "", Timeout: 300e6},
		{Name: "was in the sandbox", SQL: "SELECT string_agg(what, ',') FROM got", Expect: "1000"},
		{Name: "is quiet", SQL: "SELECT count(*) FROM t", Expect: "1"},
	}
	r := mustRun(t, p)
	got := map[string]receipt.Check{}
	for _, c := range step(t, r, receipt.Assertions).Checks {
		got[c.Name] = c
	}
	for name, want := range map[string]string{"writes": "permission denied", "ends the transaction": "syntax error", "runs a program": "permission denied",
		"takes its time": "statement timeout"} {
		if c := got[name]; c.OK || !strings.Contains(c.Actual, want) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if !got["is quiet"].OK || !got["was in the sandbox"].OK {
		t.Errorf("%+v", got)
	}
	// The trap sprang while the index was made, in the sandbox, and left its mark
	// in the copy: a table that was empty has rows.
	if s := step(t, r, receipt.Content); s.Status != receipt.Failed || !strings.Contains(s.Why, "public.got") {
		t.Errorf("content: %s %s", s.Status, s.Why)
	}
}

func TestNamesOfInstalledLocales(t *testing.T) {
	for locale, want := range map[string]string{"en_US.UTF-8": "en_US.utf8", "de_DE@euro": "de_DE@euro", "de_DE.ISO-8859-15@euro": "de_DE.iso885915@euro", "en_US": "en_US", "C.UTF-8": "C.utf8"} {
		if got := installedAs(locale); got != want {
			t.Errorf("%s: %s, want %s", locale, got, want)
		}
	}
}
