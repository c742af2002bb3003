package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/source/postgres/pgtest"
)

func TestReaderRoleDumpsAllOrSaysWhatItLacks(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	srv.Exec(t, db, "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_largeobject_metadata LOOP EXECUTE format('GRANT SELECT ON LARGE OBJECT %s TO PUBLIC', o); END LOOP; END $$")
	for _, c := range []struct{ options, want string }{
		{"LOGIN BYPASSRLS IN ROLE pg_read_all_data", ""},
		{"LOGIN IN ROLE pg_read_all_data", `row security hides rows of public.secrets from role`},
		{"LOGIN BYPASSRLS", `may not read "Odd Schema"."`},
	} {
		s := newSource(t, srv.URL(db, srv.CreateRole(t, c.options)))
		_, perr := s.Probe(t.Context())
		m, err := dump(t.Context(), s)
		if c.want == "" {
			if err := errors.Join(perr, err); err != nil {
				t.Errorf("%s: %v", c.options, err)
				continue
			}
			wantEqual(t, "dump by a reader", strings.TrimPrefix(m.concat(), string(m.data[rolesStream])), sections(t, srv, db))
			continue
		}
		for _, err := range []error{perr, err} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.options, err, c.want)
			}
		}
	}
}

func TestLargeObjectWithoutRightIsNamed(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "SELECT lo_from_bytea(4711, 'x')")
	_, err := dump(t.Context(), newSource(t, srv.URL(db, srv.CreateRole(t, "LOGIN BYPASSRLS IN ROLE pg_read_all_data"))))
	if err == nil || !strings.Contains(err.Error(), "large object 4711") {
		t.Errorf("got %v", err)
	}
}

func TestPasswordComesFromAFileAndReachesNoChildOpenly(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	const password = `s3cret:with\odd 'signs`
	role := srv.CreateRole(t, "LOGIN SUPERUSER IN ROLE "+pgtest.PasswordRole+" PASSWORD "+literal(password))
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	seen := filepath.Join(t.TempDir(), "seen")
	// Stands before the real programs and writes down what they are given.
	for _, p := range []string{"pg_dump", "pg_restore"} {
		sh := fmt.Sprintf("#!/bin/sh\n{ echo \"$@\"; env; ls -lnR \"${PGPASSFILE%%/*}\"; } >>%s\nexec %s/%s \"$@\"\n", seen, srv.BinDir, p)
		if err := os.WriteFile(filepath.Join(bin, p), []byte(sh), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PGPASSWORD", "not this one")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "leak")
	s := newSource(t, srv.URL(db, role))
	s.cfg.BinDir, s.cfg.PasswordFile = bin, file
	if _, err := dump(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"s3cret", "not this one", "leak"} {
		if strings.Contains(string(b), bad) {
			t.Errorf("children see %q:\n%s", bad, b)
		}
	}
	if !strings.Contains(string(b), "-rw------- ") || !strings.Contains(string(b), "--section=post-data") {
		t.Errorf("no private passfile seen:\n%s", b)
	}
	wantNothingLeft(t, srv, db, s)

	wrong := newSource(t, strings.Replace(srv.URL(db, role), role+"@", role+":wrongpass@", 1))
	if _, err := wrong.Open(t.Context()); err == nil || strings.Contains(err.Error(), "wrongpass") || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("wrong password: %v", err)
	}
}

func TestSecretsAreTakenOutOfConnectionStrings(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"postgres://u:pw@h:5/db?sslmode=disable&passfile=%2Fx&password=pw", "postgres://u@h:5/db?sslmode=disable"},
		{"postgresql://u@/db?host=/run/a%20b", "postgresql://u@/db?host=%2Frun%2Fa%20b"},
		{`host=/run user = 'a\'b' password='p w' dbname=x\ y`, `host='/run' user='a\'b' dbname='x y'`},
		{"dbname=a password=", "dbname='a'"},
	} {
		got, err := withoutSecrets(c.in)
		if err != nil || got != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.in, got, err, c.want)
		}
	}
	for _, bad := range []string{"host='x", "lonely", "user=a sslpassword=x"} {
		if got, err := withoutSecrets(bad); err == nil {
			t.Errorf("%s: got %s", bad, got)
		}
	}
}

func TestSeveralHostsAreRefused(t *testing.T) {
	_, err := New(Config{URL: "host=a,b dbname=x"})
	if err == nil || !strings.Contains(err.Error(), "more than one host") {
		t.Errorf("got %v", err)
	}
}

func TestExtensionsConfigurationTablesKeepTheirRowsOnly(t *testing.T) {
	srv := pgtest.Start(t)
	// A real extension with such a table would have to be installed as root;
	// this is what one leaves in the catalogue.
	const asExtension = `CREATE EXTENSION hstore; CREATE TABLE cfg (k text, mine bool); CREATE TABLE fixed (i int); CREATE SEQUENCE cfgseq;
		ALTER EXTENSION hstore ADD TABLE cfg; ALTER EXTENSION hstore ADD TABLE fixed; ALTER EXTENSION hstore ADD SEQUENCE cfgseq;
		UPDATE pg_extension SET extconfig = ARRAY['cfg'::regclass, 'cfgseq'::regclass]::oid[], extcondition = ARRAY['WHERE mine', '']
		WHERE extname = 'hstore'; INSERT INTO cfg VALUES ('shipped', false); INSERT INTO fixed VALUES (1);`
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, asExtension+"INSERT INTO cfg VALUES ('ours', true); SELECT nextval('cfgseq'), nextval('cfgseq')")
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	wantEqual(t, "dump", strings.TrimPrefix(m.concat(), string(m.data[rolesStream])), sections(t, srv, db))
	if f := m.report.Streams["data/public.cfg"]; f.Rows != 1 {
		t.Errorf("facts %+v, want the one row of ours", f)
	}
	to := srv.CreateDatabase(t)
	srv.Exec(t, to, asExtension)
	mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Verify: true})
	if got := srv.Query(t, to, "SELECT string_agg(k, ',' ORDER BY k) || (SELECT last_value FROM cfgseq) FROM cfg"); got != "ours,shipped2" {
		t.Errorf("restored: %s", got)
	}
}

func TestOtherEncodings(t *testing.T) {
	srv := pgtest.Start(t)
	for _, c := range []struct{ encoding, sql string }{
		{"LATIN1", "CREATE TABLE \"fünf\" (\"größe\" text); INSERT INTO \"fünf\" VALUES ('Maß'); CREATE SEQUENCE \"zähler\""},
		{"SQL_ASCII", "CREATE TABLE t (b text); INSERT INTO t VALUES (E'\\xff\\x80 raw'); CREATE TABLE \"a\xffb\" (i int); INSERT INTO \"a\xffb\" VALUES (1)"},
	} {
		opts := "TEMPLATE template0 LOCALE 'C' ENCODING '" + c.encoding + "'"
		db := srv.CreateDatabase(t, opts)
		if c.encoding == "LATIN1" {
			srv.Exec(t, db, "ALTER DATABASE "+db+" SET client_encoding = 'UTF8'") // for the next session
		}
		srv.Exec(t, db, c.sql)
		srv.Exec(t, db, "ALTER DATABASE "+db+" RESET client_encoding")
		m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
		wantEqual(t, c.encoding+" dump", strings.TrimPrefix(m.concat(), string(m.data[rolesStream])), sections(t, srv, db))
		mustRestore(t, m, Target{URL: srv.URL("copy_"+db, "postgres"), Create: true, Verify: true})
		t.Cleanup(func() { srv.DropDatabase(t, "copy_"+db) })
		wantSameDatabase(t, srv, "copy_"+db, srv, db)
		if c.encoding == "LATIN1" {
			utf8 := srv.CreateDatabase(t)
			mustRestore(t, m, Target{URL: srv.URL(utf8, "postgres"), Verify: true})
			if got := srv.Query(t, utf8, `SELECT "größe" FROM "fünf"`); got != "Maß" {
				t.Errorf("in UTF-8: %q", got)
			}
		}
	}
}

func TestTheRolesOwnSettingsChangeNothing(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	odd := srv.CreateRole(t, "LOGIN SUPERUSER")
	for _, set := range []string{"TimeZone = 'Asia/Kathmandu'", "DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "bytea_output = 'escape'",
		"extra_float_digits = 0", "synchronize_seqscans = on", "search_path = public", "default_transaction_read_only = on",
		"quote_all_identifiers = on", "statement_timeout = '60s'", "client_encoding = 'LATIN1'", "row_security = on"} {
		srv.Exec(t, db, "ALTER ROLE "+odd+" SET "+set)
	}
	got, want := mustDump(t, newSource(t, srv.URL(db, odd))), mustDump(t, newSource(t, srv.URL(db, "postgres")))
	for _, s := range want.streams {
		wantEqual(t, s.Name, string(got.data[s.Name]), string(want.data[s.Name]))
	}
	d, err := newDialer(srv.URL(db, odd), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(c)
	// Seen only in tables of more than a quarter of shared_buffers.
	var v string
	if err := c.QueryRow(t.Context(), "SHOW synchronize_seqscans").Scan(&v); err != nil || v != "off" {
		t.Errorf("synchronize_seqscans is %s, %v", v, err)
	}
}

func TestDetailRecordsWhatARestoreNeeds(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	srv.Exec(t, db, "ALTER DATABASE "+db+" SET work_mem = '8MB'")
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	var d struct {
		Database, Encoding, Server, LSN, Time string
		Extensions                            []struct{ Name, Version string }
		Settings                              []struct{ Values []string }
		Objects                               []string
		Sequences                             []struct {
			Name   string
			Last   int64
			Called bool
		}
	}
	if err := json.Unmarshal(m.detail, &d); err != nil {
		t.Fatal(err)
	}
	if d.Database != db || d.Encoding != "UTF8" || d.LSN == "" || d.Time == "" || !strings.HasPrefix(d.Server, "1") {
		t.Errorf("%+v", d)
	}
	if len(d.Settings) != 1 || !slices.Equal(d.Settings[0].Values, []string{"work_mem=8MB"}) {
		t.Errorf("settings %v", d.Settings)
	}
	for _, want := range []string{"table public.customers", "partitioned index public.events_id_idx", "index public.customers_pkey", "routine public.loud(t text)", "policy public.secrets.mine",
		"domain public.posint", "trigger public.customers.tr", `schema "Odd Schema"`, "extension hstore", "large objects 3",
		`table "Odd Schema"."we""ird\x0atable; DROP"`} {
		if !slices.Contains(d.Objects, want) {
			t.Errorf("no %q among the objects", want)
		}
	}
	if len(d.Extensions) != 4 {
		t.Errorf("extensions %v", d.Extensions)
	}
	found := false
	for _, s := range d.Sequences {
		found = found || s.Name == "public.free" && s.Last == 55 && s.Called
	}
	if !found {
		t.Errorf("sequences %v", d.Sequences)
	}
}
