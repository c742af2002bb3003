package drill

import (
	"slices"
	"strings"
	"testing"

	"strongroom/custody/receipt"
	"strongroom/source/postgres/pgtest"
)

// passes drills a sound snapshot, of which a note may have to be told.
func passes(t *testing.T, m *memory, note string, asserts ...Assertion) {
	t.Helper()
	p := plan(t, m)
	p.Assertions = asserts
	r := mustRun(t, p)
	if r.Verdict != receipt.PASS {
		t.Errorf("%s %q", r.Verdict, r.Why)
	}
	if note != "" && !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, note) }) {
		t.Errorf("no note %q in %q", note, r.Notes)
	}
}

// What PostgreSQL makes of a dump is not always what the source was, and the
// snapshot is sound all the same: a drill that turns red for it teaches people to
// look away.
func TestSoundDatabasesPass(t *testing.T) {
	srv := pgtest.Start(t)
	other := srv.CreateRole(t, "")
	far := "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '" + srv.Dir + "'); CREATE USER MAPPING FOR PUBLIC SERVER far; CREATE FOREIGN TABLE f (i int) SERVER far;"
	for name, c := range map[string]struct {
		sql, note string
		asserts   []Assertion
	}{
		"a parent got a column later": {sql: `CREATE TABLE p (a int, "d, (""é" text); CREATE TABLE c (b int) INHERITS (p); ALTER TABLE p ADD c int; INSERT INTO c VALUES (1, 'x', 2, 3)`,
			note: "columns of public.c: "},
		"a child was attached": {sql: "CREATE TABLE p (a int, d text); CREATE TABLE c (z int, d text, a int); ALTER TABLE c INHERIT p; INSERT INTO c VALUES (1, 'x', 2)"},
		"what is always there was dropped": {sql: "CREATE SCHEMA app; CREATE TABLE app.t (i int PRIMARY KEY); ALTER TABLE app.t OWNER TO " + other +
			"; DROP EXTENSION plpgsql; DROP SCHEMA public"},
		"a view of another server's rows": {sql: "CREATE EXTENSION postgres_fdw;" + far + "CREATE MATERIALIZED VIEW mv AS SELECT * FROM f WITH NO DATA; CREATE MATERIALIZED VIEW mv2 AS SELECT * FROM mv WITH NO DATA;" +
			"CREATE UNIQUE INDEX ON mv (i); UPDATE pg_class SET relispopulated = true WHERE relname IN ('mv', 'mv2')", note: "left empty: materialized view mv2"},
		"a view of some rows": {sql: "CREATE TABLE s (o text); INSERT INTO s VALUES ('a'), ('b'); ALTER TABLE s ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON s USING (o = 'a'); GRANT SELECT ON s TO " + other +
			"; CREATE VIEW v AS SELECT * FROM s; ALTER VIEW v OWNER TO " + other + "; CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM s; ALTER MATERIALIZED VIEW mv OWNER TO " + other,
			asserts: []Assertion{{Name: "all", SQL: "SELECT count(*) FROM s", Expect: "2"}, {Name: "some", SQL: "SELECT count(*) FROM v", Expect: "1"}, {Name: "filled", SQL: "SELECT n FROM mv", Expect: "1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			db := srv.CreateDatabase(t)
			srv.Exec(t, db, c.sql)
			passes(t, pgDump(t, srv, db), c.note, c.asserts...)
		})
	}
	t.Run("another tablespace", func(t *testing.T) {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, "CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1)")
		m := pgDump(t, srv, db)
		passes(t, lied(m, "pre-data.sql", "SET default_tablespace = '';", `SET default_tablespace = "fast disks";`), `there is no tablespace "fast disks"`)
	})
	t.Run("what this machine lacks", func(t *testing.T) {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, `CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = synonym, SYNONYMS = synonym_sample); CREATE TABLE t (x text COLLATE "C.utf8")`)
		m := pgDump(t, srv, db)
		for old, new := range map[string]string{"synonym_sample": "synonym_nowhere", `pg_catalog."C.utf8"`: `pg_catalog."nn_NO.utf8"`} {
			if r := mustRun(t, plan(t, lied(m, "pre-data.sql", old, new))); r.Verdict != receipt.INFRA {
				t.Errorf("%s: %s %q", new, r.Verdict, r.Why)
			}
		}
		if r := mustRun(t, plan(t, lied(m, "pre-data.sql", `pg_catalog."C.utf8"`, `public.mine`))); r.Verdict != receipt.FAIL {
			t.Errorf("a collation of its own that is missing: %s %q", r.Verdict, r.Why)
		}
	})
}

// lied is a snapshot that was taken so: its manifest fits.
func lied(m *memory, stream, old, new string) *memory {
	c := flip(m, stream, old, new)
	c.streams = slices.Clone(m.streams)
	for i, s := range c.streams {
		c.streams[i].Length = int64(len(c.data[s.Name]))
	}
	return c
}

// Columns that stand elsewhere in the copy are a fault where nothing inherits: a
// reader may have named them wrongly.
func TestColumnsInAnotherOrderAreRed(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2)")
	m := pgDump(t, srv, db)
	r := mustRun(t, plan(t, lied(m, "data/public.t", "public.t (a, b)", "public.t (b, a)")))
	if s := step(t, r, receipt.Content); s.Status != receipt.Failed || !strings.Contains(s.Why, "columns of public.t") {
		t.Errorf("%s: %s %q", r.Verdict, s.Status, s.Why)
	}
}
