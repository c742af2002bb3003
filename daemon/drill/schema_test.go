package drill

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"strongroom/custody/receipt"
	"strongroom/source/postgres/pgtest"
)

// What has the same names and is not the same shows in the text of the schema.
func TestSchemaThatOnlyItsTextTellsApart(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE TABLE t (i int DEFAULT 1 CHECK (i > 0)); INSERT INTO t VALUES (1);
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 41'; CREATE INDEX ix ON t (i) WHERE i > 10`)
	m := pgDump(t, srv, db)
	if r := mustRun(t, plan(t, m)); r.Verdict != receipt.PASS {
		t.Fatal(show(r))
	}
	// The copy is made of another text than the one it is compared with.
	for old, new := range map[string]string{"DEFAULT 1": "DEFAULT 2", "SELECT 41": "SELECT 42"} {
		r := mustRun(t, loadedFrom(plan(t, m), m, "pre-data.sql", old, new))
		s := step(t, r, receipt.Content)
		if r.Verdict != receipt.FAIL || s.Status != receipt.Failed || !strings.Contains(s.Why, "schema of pre-data") {
			t.Errorf("%s: %s %q", new, r.Verdict, s.Why)
		}
	}
	r := mustRun(t, loadedFrom(plan(t, m), m, "post-data.sql", "(i > 10)", "(i > 11)"))
	if s := step(t, r, receipt.Content); s.Status != receipt.Failed || !strings.Contains(s.Why, "schema of post-data") {
		t.Errorf("%s %q", s.Status, s.Why)
	}
}

// fickle is a snapshot that reads differently the first time.
type fickle struct {
	*memory
	stream string
	first  []byte
	opened bool
}

func (f *fickle) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if name == f.stream && !f.opened {
		f.opened = true
		return io.NopCloser(bytes.NewReader(f.first)), nil
	}
	return f.memory.Open(ctx, name, off, n)
}

func loadedFrom(p Plan, m *memory, stream, old, new string) Plan {
	changed := bytes.Replace(m.data[stream], []byte(old), []byte(new), 1)
	p.Stored = &fickle{memory: m, stream: stream, first: changed}
	return p
}

// Names and rows come in the database's own encoding.
func TestDatabasesInOtherEncodingsPass(t *testing.T) {
	srv := pgtest.Start(t)
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		db := srv.CreateDatabase(t, "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING '"+encoding+"'")
		srv.Exec(t, db, "CREATE TABLE \"ü\" (\"ß\" serial, t text DEFAULT 'ä'); INSERT INTO \"ü\" VALUES (1, 'ö')")
		if r := mustRun(t, plan(t, pgDump(t, srv, db))); r.Verdict != receipt.PASS {
			t.Errorf("%s: %s %q", encoding, r.Verdict, r.Why)
		}
	}
}
