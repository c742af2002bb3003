package postgres

import (
	"strings"
	"testing"

	"strongroom/source/postgres/pgtest"
)

func mustRestore(t testing.TB, m *memory, target Target) RestoreReport {
	t.Helper()
	rep, err := Restore(t.Context(), m, target)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestRestoreGivesAnEqualDatabase(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	to := srv.CreateDatabase(t)
	rep := mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Jobs: 3, Verify: true})
	wantSameDatabase(t, srv, to, srv, db)
	if rep.Tables < 15 || rep.Verified != rep.Tables || rep.Rows < 2000 || len(rep.Warnings) != 0 {
		t.Errorf("report %+v", rep)
	}
}

func TestRestoreMakesDatabaseAndRolesOnAnEmptyCluster(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	other := pgtest.Own(t)
	rep := mustRestore(t, m, Target{URL: other.URL(`new "name"`, "postgres"), Create: true, Verify: true})
	wantSameDatabase(t, other, `new "name"`, srv, db)
	if len(rep.Roles) != 3 {
		t.Errorf("made roles %q, want 3", rep.Roles)
	}
}

func TestRestoreRefusesWhatIsNotEmpty(t *testing.T) {
	srv := pgtest.Start(t)
	m := mustDump(t, newSource(t, srv.URL(srv.CreateDatabase(t), "postgres")))
	for _, c := range []struct{ sql, want string }{
		{"CREATE TABLE public.here (i int)", "relation public.here"},
		{"SELECT lo_create(77)", "large object 77"},
		{"CREATE SCHEMA mine", "schema mine"},
		{"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "routine public.f"},
		{"CREATE TYPE e AS ENUM ()", "type public.e"},
	} {
		to := srv.CreateDatabase(t)
		srv.Exec(t, to, c.sql)
		_, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "postgres"), Create: true})
		if err == nil || !strings.Contains(err.Error(), "not empty, it has "+c.want) {
			t.Errorf("%s: got %v", c.sql, err)
		}
	}
	to := srv.CreateDatabase(t)
	srv.Exec(t, to, "CREATE EXTENSION hstore")
	mustRestore(t, m, Target{URL: srv.URL(to, "postgres")})
}

func TestRestoreIntoAMissingDatabaseSaysWhatToDo(t *testing.T) {
	srv := pgtest.Start(t)
	m := mustDump(t, newSource(t, srv.URL(srv.CreateDatabase(t), "postgres")))
	_, err := Restore(t.Context(), m, Target{URL: srv.URL("nowhere", "postgres")})
	if err == nil || !strings.Contains(err.Error(), `"nowhere"`) || !strings.Contains(err.Error(), "create it") {
		t.Errorf("got %v", err)
	}
}

// shopSQL is what an ordinary role can restore.
const shopSQL = `
CREATE TABLE parent (id int PRIMARY KEY, v text); INSERT INTO parent SELECT g, 'v' || g FROM generate_series(1, 500) g;
CREATE TABLE kid (id serial PRIMARY KEY, parent int REFERENCES parent); INSERT INTO kid (parent) SELECT 1 + g % 500 FROM generate_series(1, 700) g;
CREATE TABLE toy (id int PRIMARY KEY, kid int REFERENCES kid); INSERT INTO toy VALUES (1, 1);
CREATE INDEX a ON kid (parent); CREATE INDEX b ON parent (v); CREATE INDEX c ON toy (kid);
`

func TestRestoreWithoutOwnersNeedsNoRoleOfTheSource(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	owner, reader := srv.CreateRole(t, ""), srv.CreateRole(t, "")
	srv.Exec(t, db, shopSQL+"ALTER TABLE kid OWNER TO "+owner+"; GRANT SELECT ON parent TO "+reader+
		"; ALTER DEFAULT PRIVILEGES FOR ROLE "+owner+" GRANT SELECT ON TABLES TO "+reader)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))

	other := pgtest.Own(t)
	other.Exec(t, "postgres", "CREATE ROLE plain LOGIN; CREATE ROLE team; GRANT team TO plain")
	other.Exec(t, "postgres", "CREATE DATABASE shop OWNER team")
	other.Exec(t, "postgres", "CREATE DATABASE shop2 OWNER plain")
	_, err := Restore(t.Context(), m, Target{URL: other.URL("shop2", "plain")})
	if err == nil || !strings.Contains(err.Error(), "is missing and may not be made") {
		t.Errorf("with owners: got %v", err)
	}
	other.Exec(t, "shop", "ALTER SCHEMA public OWNER TO team")
	rep := mustRestore(t, m, Target{URL: other.URL("shop", "plain"), NoOwner: true, Role: "team", Verify: true})
	if got := other.Query(t, "shop", "SELECT string_agg(DISTINCT tableowner, ',') FROM pg_tables WHERE schemaname = 'public'"); got != "team" {
		t.Errorf("tables belong to %s, want team", got)
	}
	if rep.Rows != 1201 || len(rep.Warnings) != 2 {
		t.Errorf("report %+v, want 1201 rows and 2 warnings", rep)
	}
}

func TestRestoreOfSomeTables(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, shopSQL)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	to := srv.CreateDatabase(t)
	rep := mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Only: []string{"public.kid", "public.toy"}, Verify: true})
	const counts = "SELECT (SELECT count(*) FROM parent) || ' ' || (SELECT count(*) FROM kid) || ' ' || (SELECT count(*) FROM toy) || ' ' || (SELECT count(*) FROM pg_constraint WHERE contype = 'f')"
	if got := srv.Query(t, to, counts); got != "0 700 1 1" {
		t.Errorf("rows and foreign keys: %s", got)
	}
	if rep.Tables != 2 || rep.Verified != 2 || len(rep.Warnings) != 1 {
		t.Errorf("report %+v", rep)
	}
	_, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "postgres"), Only: []string{"public.nothing"}})
	if err == nil || !strings.Contains(err.Error(), "public.nothing") {
		t.Errorf("unknown table: got %v", err)
	}
}

func TestRestoreFailsOnWrongData(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2); SELECT lo_from_bytea(0, 'lo')")
	const name = "data/public.t"
	for _, c := range []struct {
		what, want string
		spoil      func(m *memory)
	}{
		{"row gone", "server took 1 rows, the snapshot has 2", func(m *memory) { m.data[name] = []byte(strings.Replace(string(m.data[name]), "1\n", "", 1)) }},
		{"row changed", "verify table public.t", func(m *memory) { m.data[name] = []byte(strings.Replace(string(m.data[name]), "1\n", "7\n", 1)) }},
		{"large object changed", "verify large objects", func(m *memory) {
			m.data[objectStream] = []byte(strings.Replace(string(m.data[objectStream]), `\x6c6f`, `\x6c70`, 1))
		}},
		{"large object cut short", "ends in the middle", func(m *memory) { m.data[objectStream] = m.data[objectStream][:len(m.data[objectStream])-9] }},
		{"cut short", "bad end of the rows", func(m *memory) { m.data[name] = m.data[name][:len(m.data[name])-3] }},
		{"second statement", "bad head of the rows", func(m *memory) {
			m.data[name] = []byte(strings.Replace(string(m.data[name]), "COPY ", "COPY public.t FROM stdin; DROP TABLE public.t; COPY ", 1))
		}},
		{"backslash command", "backslash command", func(m *memory) { m.data[preDataStream] = append(m.data[preDataStream], "\n\\! touch /tmp/x\n"...) }},
	} {
		m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
		c.spoil(m)
		_, err := Restore(t.Context(), m, Target{URL: srv.URL("made_for_it", "postgres"), Create: true, Verify: true})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
		if n := srv.Query(t, "postgres", "SELECT count(*) FROM pg_database WHERE datname = 'made_for_it'"); n != "0" {
			t.Errorf("%s: the database that was made stayed behind", c.what)
			srv.DropDatabase(t, "made_for_it")
		}
	}
}
