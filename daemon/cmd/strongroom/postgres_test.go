package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"strongroom/source/postgres/pgtest"
)

// smallZoo has what a dump trips over most: identity and generated columns,
// partitions, odd names, circular keys, row security, a matview, large
// objects, sequences. The whole menagerie is tested beside the source itself.
const smallZoo = `
CREATE TABLE customers (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, gone int, mail text,
	shout text GENERATED ALWAYS AS (upper(name)) STORED, b bytea, a int[]);
ALTER TABLE customers DROP COLUMN gone;
INSERT INTO customers (name, mail, b, a) SELECT 'name ' || g, CASE WHEN g % 7 = 0 THEN NULL ELSE E'tab\there\n' || g END,
	decode(md5(g::text), 'hex'), ARRAY[g, NULL] FROM generate_series(1, 20000) g;
CREATE TABLE events (at date, id int) PARTITION BY RANGE (at);
CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT date '2024-06-01' + g % 400, g FROM generate_series(1, 1000) g;
CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED;
BEGIN; INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); COMMIT;
CREATE TABLE secrets (owner name, t text); INSERT INTO secrets VALUES ('x', 'one');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON secrets USING (owner = current_user);
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM customers;
CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema"."we""ird" ("sel ect" text); INSERT INTO "Odd Schema"."we""ird" VALUES ('ü€𝄞');
CREATE SEQUENCE free INCREMENT 5 START 50; SELECT nextval('free'), nextval('free');
SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'));
`

// pgDump is pg_dump's own view of a database.
func pgDump(t *testing.T, srv *pgtest.Server, db string, more ...string) string {
	t.Helper()
	text := srv.Program(t, "", "pg_dump", append([]string{"--restrict-key=test", "-d", db}, more...)...)
	return strings.ReplaceAll(text, db, "DATABASE")
}

func pgDataset(name, url string) string {
	return "[[tenant.dataset]]\nname = \"" + name + "\"\nsource = \"postgres\"\nurl = \"" + url + "\"\n"
}

func TestDatabaseComesBackAfterItWasDropped(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, smallZoo)
	want := pgDump(t, srv, db)
	stores, paths := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres")))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	if o := b.run(0, "backup", "acme/crm"); !strings.Contains(o.stdout, "rows, counted by the server too") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "ls", "acme/crm"); !strings.Contains(o.stdout, "20000") {
		t.Errorf("ls shows no rows:\n%s", o.stdout)
	}

	if o := b.run(20, "restore", "acme/crm", "--to", srv.URL(db, "postgres")); !strings.Contains(o.stderr, "the database is not empty") {
		t.Error(o.stderr)
	}
	if pgDump(t, srv, db) != want {
		t.Fatal("a refused restore changed the database")
	}
	srv.DropDatabase(t, db)
	if o := b.run(20, "restore", "acme/crm", "--to", srv.URL(db, "postgres")); !strings.Contains(o.stderr, "no such database") {
		t.Error(o.stderr)
	}
	if o := b.run(0, "restore", "acme/crm", "--to", srv.URL(db, "postgres"), "--create", "--verify"); !strings.Contains(o.stdout, "read again and equal") {
		t.Error(o.stdout)
	}
	if got := pgDump(t, srv, db); got != want {
		t.Error("the restored database dumps differently")
	}

	// The box and a store are gone.
	for _, p := range []string{paths[0], b.path("state"), b.config} {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
	srv.DropDatabase(t, db)
	b.rescue(0, append(b.shares(2, 4, 5), "--kit", kit, "crm", "--to", srv.URL(db, "postgres"), "--create")...)
	if got := pgDump(t, srv, db); got != want {
		t.Error("the database recovered from the kit dumps differently")
	}

	// As plain SQL through psql, to stdout.
	plain := srv.CreateDatabase(t)
	o := b.rescue(0, append(b.shares(1, 2, 3), "--kit", kit, "crm", "--to", "-")...)
	srv.Program(t, o.stdout, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", plain)
	if got := pgDump(t, srv, plain); got != want {
		t.Error("the plain SQL gives another database")
	}
}

func TestRestoreOfPartsAndWithoutOwners(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, smallZoo)
	owner := srv.CreateRole(t, "")
	srv.Exec(t, db, "ALTER TABLE customers OWNER TO "+owner)
	stores, _ := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres")))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/crm")

	part := srv.CreateDatabase(t)
	b.run(0, "restore", "acme/crm", "--to", srv.URL(part, "postgres"), "--only", "public.customers")
	if got := srv.Query(t, part, "SELECT count(*) FROM customers"); got != "20000" {
		t.Errorf("%s rows", got)
	}
	none := srv.CreateDatabase(t)
	if o := b.run(1, "restore", "acme/crm", "--to", srv.URL(none, "postgres"), "--only", "public.nothing"); !strings.Contains(o.stderr, "no table public.nothing") {
		t.Error(o.stderr)
	}
	whole := srv.CreateDatabase(t)
	b.run(0, "restore", "acme/crm", "--to", srv.URL(whole, "postgres"), "--no-owner")
	if got := srv.Query(t, whole, "SELECT tableowner FROM pg_tables WHERE tablename = 'customers'"); got != "postgres" {
		t.Errorf("owner is %s", got)
	}
	if pgDump(t, srv, whole, "--no-owner") != pgDump(t, srv, db, "--no-owner") {
		t.Error("without owners the databases differ")
	}
}

func TestEmptiedTableMarksTheSnapshot(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE kept (i int); INSERT INTO kept VALUES (1); CREATE TABLE emptied (i int); INSERT INTO emptied SELECT generate_series(1, 10)")
	stores, _ := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, "postgres")))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/crm", "--label", "full")
	if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "anomaly") {
		t.Error(o.stdout)
	}
	srv.Exec(t, db, "TRUNCATE emptied")
	if o := b.run(0, "backup", "acme/crm"); !strings.Contains(o.stdout, "ANOMALY: public.emptied had 10 rows and now has none") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "snapshots"); strings.Count(o.stdout, "anomaly (1)") != 1 {
		t.Error(o.stdout)
	}
	if o := b.run(0, "diff", "acme/crm@latest", "latest"); !strings.Contains(o.stdout, "no difference") {
		t.Error(o.stdout)
	}
	srv.Exec(t, db, "CREATE TABLE added (i int); INSERT INTO added VALUES (1), (2)")
	b.run(0, "backup", "acme/crm", "--label", "grown")
	o := b.run(0, "diff", "acme/crm@full", "grown")
	for _, want := range []string{`changed +-10 +-\d+ +"data/public\.emptied`, `added +\+2 +\+\d+ +"data/public\.added`} {
		if !regexp.MustCompile(want).MatchString(o.stdout) {
			t.Errorf("diff has no %s:\n%s", want, o.stdout)
		}
	}
	if strings.Contains(o.stdout, "kept") {
		t.Errorf("diff lists what did not change:\n%s", o.stdout)
	}
}

func TestRoleWithoutRightsFailsByName(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE open (i int); CREATE TABLE closed (i int); INSERT INTO closed VALUES (1)")
	role := srv.CreateRole(t, "LOGIN")
	srv.Exec(t, db, "GRANT SELECT ON open TO "+role)
	stores, _ := threeDirs(t)
	b := newBox(t, stores, pgDataset("crm", srv.URL(db, role))+pgDataset("away", "postgres://nobody@/x?host=/nowhere"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(20, "backup", "acme/crm"); !strings.Contains(o.stderr, "closed") || !strings.Contains(o.stderr, role) {
		t.Error(o.stderr)
	}
	b.run(75, "backup", "acme/away")
	if o := b.run(0, "snapshots"); o.stdout != "no snapshots\n" {
		t.Errorf("a failed backup is listed:\n%s", o.stdout)
	}
}
