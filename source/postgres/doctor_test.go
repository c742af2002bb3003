package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// clinic is a database with one thing of each kind that rights are about.
const clinic = `
CREATE SCHEMA inner_ward;
CREATE TABLE patients (id int PRIMARY KEY, name text); INSERT INTO patients VALUES (1, 'x');
CREATE TABLE inner_ward.beds (id serial, note text); INSERT INTO inner_ward.beds (note) VALUES ('y');
CREATE SEQUENCE free;
REVOKE ALL ON DATABASE %[1]s FROM PUBLIC;`

// reader is what a role for clinic needs where rights are given one by one;
// %[2]s is the role.
const reader = `GRANT CONNECT ON DATABASE %[1]s TO %[2]s; GRANT USAGE ON SCHEMA public, inner_ward TO %[2]s;
GRANT SELECT ON ALL TABLES IN SCHEMA public, inner_ward TO %[2]s; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, inner_ward TO %[2]s;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO %[2]s;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON SEQUENCES TO %[2]s;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT USAGE ON SCHEMAS TO %[2]s;`

// examine returns what is not as it should be, by code.
func examine(t *testing.T, s *Source) (trouble map[string]source.Finding, all source.Findings) {
	t.Helper()
	all, err := s.Examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trouble = map[string]source.Finding{}
	for _, f := range all {
		if f.Severity.Worse(source.Note) {
			trouble[f.Code] = f
		}
		if f.Code == "" || f.What == "" || f.Severity.Worse(source.OK) && f.Why == "" {
			t.Errorf("incomplete finding %+v", f)
		}
	}
	return trouble, all
}

func codes(trouble map[string]source.Finding) string {
	var out []string
	for c, f := range trouble {
		out = append(out, string(f.Severity)+" "+c)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// wrongRoles: what is wrong with a role, and what an examination has to say.
// With fixed, running the remedies as a superuser has to make it right.
var wrongRoles = []struct {
	name    string
	options string
	sql     string // %[1]s is the database, %[2]s the role
	want    string
	fixed   bool
}{
	{"a reader", "LOGIN", reader, "", false},
	// Too weak: a backup fails.
	{"no connect", "LOGIN", `SELECT`, "bad connect", false},
	{"no usage", "LOGIN", reader + `REVOKE USAGE ON SCHEMA inner_ward FROM %[2]s`, "bad schema-usage", true},
	{"no select", "LOGIN", reader + `REVOKE SELECT ON patients FROM %[2]s`, "bad table-select", true},
	{"columns only", "LOGIN", reader + `REVOKE SELECT ON patients FROM %[2]s; GRANT SELECT (id, name) ON patients TO %[2]s`, "bad table-lock", true},
	{"no sequence", "LOGIN", reader + `REVOKE SELECT ON SEQUENCE free FROM %[2]s`, "bad sequence-select", true},
	{"no large object", "LOGIN", reader + `SELECT lo_from_bytea(0, 'x'), lo_from_bytea(0, 'y')`, "bad large-objects", true},
	{"row security", "LOGIN", reader + `ALTER TABLE patients ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON patients USING (id > 1)`, "bad row-security", true},
	{"too few sessions", "LOGIN CONNECTION LIMIT 2", reader, "bad connections", true},
	{"just enough sessions", "LOGIN CONNECTION LIMIT 4", reader, "", false},
	// Fails next week.
	{"no default privileges", "LOGIN", reader + `ALTER DEFAULT PRIVILEGES FOR ROLE postgres REVOKE SELECT ON TABLES FROM %[2]s`, "warn future-tables", true},
	{"expiring", "LOGIN VALID UNTIL '2020-01-01'", reader, "warn password-expiry", false},
	// Too strong.
	{"superuser", "LOGIN SUPERUSER", `SELECT`, "warn superuser", false},
	{"createdb", "LOGIN CREATEDB", reader, "warn createdb", true},
	{"createrole", "LOGIN CREATEROLE", reader, "warn createrole", true},
	{"replication", "LOGIN REPLICATION", reader, "warn replication", true},
	{"bypassrls in vain", "LOGIN BYPASSRLS", reader, "warn bypassrls", true},
	{"bypassrls with cause", "LOGIN BYPASSRLS", reader + `ALTER TABLE patients ENABLE ROW LEVEL SECURITY`, "", false},
	{"write all", "LOGIN", reader + `GRANT pg_write_all_data TO %[2]s`, "warn predefined-role", true},
	{"programs", "LOGIN", reader + `GRANT pg_execute_server_program TO %[2]s`, "warn predefined-role", true},
	{"server files", "LOGIN", reader + `GRANT pg_write_server_files TO %[2]s`, "warn predefined-role", true},
	{"signals", "LOGIN", reader + `GRANT pg_signal_backend TO %[2]s`, "warn predefined-role", true},
	{"insert", "LOGIN", reader + `GRANT INSERT ON patients TO %[2]s`, "warn write-tables", true},
	{"update of a column", "LOGIN", reader + `GRANT UPDATE (name) ON patients TO %[2]s`, "warn write-tables", true},
	{"delete for everybody", "LOGIN", reader + `GRANT DELETE, TRUNCATE ON inner_ward.beds TO PUBLIC`, "warn write-tables", true},
	{"nextval", "LOGIN", reader + `GRANT USAGE ON SEQUENCE free TO %[2]s`, "warn write-sequences", true},
	{"create in schema", "LOGIN", reader + `GRANT CREATE ON SCHEMA public TO PUBLIC`, "warn create-objects", true},
	{"create schema", "LOGIN", reader + `GRANT CREATE ON DATABASE %[1]s TO %[2]s`, "warn create-objects", true},
	{"grant option", "LOGIN", reader + `GRANT SELECT ON patients TO %[2]s WITH GRANT OPTION`, "warn grant-option", true},
	{"large object of others", "LOGIN", reader + `SELECT lo_from_bytea(77, 'x'); GRANT SELECT, UPDATE ON LARGE OBJECT 77 TO %[2]s`, "warn write-objects", true},
	{"owner", "LOGIN", reader + `ALTER TABLE patients OWNER TO %[2]s; ALTER DEFAULT PRIVILEGES FOR ROLE %[2]s GRANT SELECT ON TABLES TO %[2]s`, "warn owner", false},
	{"hands on", "LOGIN", reader + `CREATE ROLE g_%[2]s; GRANT g_%[2]s TO %[2]s WITH ADMIN OPTION`, "warn admin-option", true},
	{"may become superuser", "LOGIN NOINHERIT", reader + `CREATE ROLE g_%[2]s SUPERUSER; GRANT g_%[2]s TO %[2]s`, "warn superuser", true},
	{"may write as another", "LOGIN NOINHERIT", reader + `CREATE ROLE g_%[2]s; GRANT UPDATE ON patients TO g_%[2]s; GRANT g_%[2]s TO %[2]s`, "warn write-tables", true},
	{"reads all", "LOGIN IN ROLE pg_read_all_data", `GRANT CONNECT ON DATABASE %[1]s TO %[2]s`, "warn reads-all", false},
}

func TestWrongRolesAreTold(t *testing.T) {
	srv := pgtest.Start(t)
	for _, c := range wrongRoles {
		t.Run(c.name, func(t *testing.T) {
			db, role := srv.CreateDatabase(t), srv.CreateRole(t, c.options)
			srv.Exec(t, db, fmt.Sprintf(clinic, db))
			srv.Exec(t, db, strings.NewReplacer("%[1]s", db, "%[2]s", role).Replace(c.sql))
			s := newSource(t, srv.URL(db, role))
			trouble, all := examine(t, s)
			if got := codes(trouble); got != c.want {
				t.Fatalf("got %q, want %q: %v", got, c.want, trouble)
			}
			wantPrescription(t, all)
			// Of a role that is too strong the snapshot is nobody's doubt.
			if weak := all.Worst() != source.Warn; weak {
				_, err := dump(t.Context(), s)
				if bad := all.Worst() == source.Bad; bad != (err != nil) {
					t.Errorf("worst finding is %q, and a snapshot says: %v", all.Worst(), err)
				}
			}
			if !c.fixed {
				return
			}
			for _, f := range trouble {
				srv.Exec(t, db, f.Remedy)
			}
			if again, _ := examine(t, s); len(again) > 0 {
				t.Errorf("after the remedy: %v", again)
			}
			if all.Worst() == source.Warn {
				return
			}
			if _, err := dump(t.Context(), s); err != nil {
				t.Errorf("after the remedy: %v", err)
			}
		})
	}
}

// wantPrescription: the role is prescribed exactly where the one in use is
// wrong.
func wantPrescription(t *testing.T, all source.Findings) {
	t.Helper()
	wrong, given := false, false
	for _, f := range all {
		wrong = wrong || roleCodes[f.Code] && f.Severity.Worse(source.Note)
		given = given || f.Code == "least-privilege" && strings.Contains(f.Remedy, "CREATE ROLE")
	}
	if wrong != given {
		t.Errorf("role is wrong: %t; another is prescribed: %t", wrong, given)
	}
}

// TestEveryRoleCodeIsMet keeps the table above whole.
func TestEveryRoleCodeIsMet(t *testing.T) {
	met := map[string]bool{}
	for _, c := range wrongRoles {
		for _, w := range strings.Split(c.want, ", ") {
			_, code, _ := strings.Cut(w, " ")
			met[code] = true
		}
	}
	for code := range roleCodes {
		if !met[code] {
			t.Errorf("no wrong role is found by %s", code)
		}
	}
}

// TestPrescribedRole runs the SQL that an examination by the superuser prints,
// and then everything else that a reader must not be able to do.
func TestPrescribedRole(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup string
	}{
		{"plain", ""},
		{"row security, large objects, odd names", `ALTER TABLE patients ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON patients USING (false);
			SELECT lo_from_bytea(0, 'x'); CREATE ROLE "o$$'wner"; CREATE SCHEMA "Odd ""one" AUTHORIZATION "o$$'wner"; CREATE TABLE "Odd ""one".t (i int);
			ALTER TABLE "Odd ""one".t OWNER TO "o$$'wner"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := pgtest.Start(t)
			db := srv.CreateDatabase(t)
			srv.Exec(t, db, fmt.Sprintf(clinic, db)+c.setup)
			sql := examineAsSuperuser(t, srv, db)
			srv.Exec(t, db, sql)
			role := "strongroom_" + db
			s := newSource(t, srv.URL(db, role))
			if trouble, _ := examine(t, s); len(trouble) > 0 {
				t.Errorf("the prescribed role: %v\n%s", trouble, sql)
			}
			before, err := dump(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if f := before.report.Streams["data/public.patients"]; f.Rows != 1 {
				t.Errorf("snapshot has %d patients", f.Rows)
			}
			cannot(t, srv, db, role)
			// What is made later is read, too.
			srv.Exec(t, db, `CREATE SCHEMA later; CREATE TABLE later.t (i serial)`)
			if trouble, _ := examine(t, s); len(trouble) > 0 {
				t.Errorf("after a new table: %v", trouble)
			}
			if _, err := dump(t.Context(), s); err != nil {
				t.Errorf("after a new table: %v", err)
			}
			// Done again it takes another name.
			if again := examineAsSuperuser(t, srv, db); !strings.Contains(again, role+`_2"`) {
				t.Errorf("the second role has the first one's name:\n%s", again)
			}
		})
	}
}

func examineAsSuperuser(t *testing.T, srv *pgtest.Server, db string) string {
	t.Helper()
	_, all := examine(t, newSource(t, srv.URL(db, "postgres")))
	return all[slices.IndexFunc(all, func(f source.Finding) bool { return f.Code == "least-privilege" })].Remedy
}

// cannot tries, as the role, what it must not be able to do; the server is the
// judge.
func cannot(t *testing.T, srv *pgtest.Server, db, role string) {
	t.Helper()
	d, err := newDialer(srv.URL(db, role), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.connect(t.Context()) // with default_transaction_read_only = off
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(c)
	for _, sql := range []string{
		"CREATE DATABASE more", "CREATE ROLE more", "CREATE TABLE public.more (i int)", "CREATE SCHEMA more",
		"INSERT INTO public.patients VALUES (2)", "UPDATE public.patients SET name = ''", "DELETE FROM public.patients", "TRUNCATE public.patients",
		"SELECT nextval('public.free')", "SELECT setval('public.free', 9)", "COPY (SELECT 1) TO PROGRAM 'true'", "COPY (SELECT 1) TO '/tmp/more'",
		"SELECT pg_read_file('PG_VERSION')", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
		"DROP TABLE public.patients", "ALTER TABLE public.patients ADD more int", "CREATE TRIGGER x AFTER INSERT ON public.patients EXECUTE FUNCTION f()",
		"GRANT SELECT ON public.patients TO PUBLIC", "GRANT pg_write_all_data TO CURRENT_USER", "SET ROLE postgres",
		"ALTER ROLE CURRENT_USER BYPASSRLS", "SELECT pg_create_physical_replication_slot('x')", "CREATE EXTENSION dblink",
		"SELECT rolpassword FROM pg_authid", "SELECT umoptions FROM pg_user_mapping", "SELECT lo_put(oid, 0, 'z') FROM pg_largeobject_metadata",
	} {
		err := simple(t.Context(), c, "BEGIN; "+sql)
		rerr := simple(t.Context(), c, "ROLLBACK")
		// GRANT of what one has without its option is a warning and does nothing.
		switch {
		case rerr != nil:
			t.Fatal(rerr)
		case err != nil:
		case strings.HasPrefix(sql, "GRANT SELECT"):
		case strings.Contains(sql, "lo_put") && srv.Query(t, db, "SELECT count(*) FROM pg_largeobject_metadata") == "0":
		case strings.Contains(sql, "terminate") && srv.Query(t, db, "SELECT 1") == "1":
			t.Log("no session of the superuser to end")
		default:
			t.Errorf("role %s may: %s", role, sql)
		}
	}
	if got := srv.Query(t, db, `SELECT COALESCE(relacl::text, '') FROM pg_class WHERE relname = 'patients'`); strings.Contains(got, "{=r") || strings.Contains(got, ",=r") {
		t.Errorf("a right was handed on: %s", got)
	}
}

func TestNoPasswordIsPrinted(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	const password = "s3cret-word"
	role := srv.CreateRole(t, "LOGIN IN ROLE "+pgtest.PasswordRole+" PASSWORD "+literal(password))
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	in := func(pw string) *Source {
		return newSource(t, strings.Replace(srv.URL(db, role), role+"@", role+":"+pw+"@", 1))
	}
	byFile := newSource(t, srv.URL(db, role))
	byFile.cfg.PasswordFile = file
	for _, c := range []struct {
		s    *Source
		want string
	}{{in(password), "warn url-password"}, {in("s3cret-wrong"), "bad connect"}, {byFile, "warn password-file"}} {
		trouble, all := examine(t, c.s)
		if !strings.Contains(codes(trouble), c.want) {
			t.Errorf("got %s, want %s", codes(trouble), c.want)
		}
		if text := fmt.Sprint(all); strings.Contains(text, "s3cret") || strings.Contains(text, "SCRAM") {
			t.Errorf("a password shows: %s", text)
		}
	}
}

func TestUnreachableServerIsAFinding(t *testing.T) {
	srv := pgtest.Start(t)
	for _, c := range []struct{ url, remedy string }{
		{srv.URL("no_such_database", "postgres"), "name in the url"},
		{srv.URL("postgres", "nobody_at_all"), `CREATE ROLE "nobody_at_all" LOGIN; GRANT CONNECT ON DATABASE "postgres"`},
		{"postgres://u@/d?host=/nowhere", ""},
	} {
		trouble, all := examine(t, newSource(t, c.url))
		if codes(trouble) != "bad connect" || !strings.Contains(trouble["connect"].Remedy, c.remedy) {
			t.Errorf("%s: %v", c.url, all)
		}
	}
}

func TestWayOverTheNetwork(t *testing.T) {
	for url, want := range map[string]bool{
		"postgres://u@db.example/d":                        true, // prefer
		"postgres://u@db.example/d?sslmode=disable":        true,
		"postgres://u@db.example/d?sslmode=require":        true,
		"postgres://u@db.example/d?sslmode=verify-full":    false,
		"postgres://u@/d?host=/run/postgresql":             false,
		"host=db.example user=u dbname=d sslmode=disable":  true,
		"host=/run user=u dbname=d password='x' port=5433": false,
	} {
		d, err := newDialer(url, "")
		if err != nil {
			t.Fatal(err)
		}
		e := &exam{src: newSource(t, url), dialer: d}
		e.connection()
		got := slices.ContainsFunc(e.Findings, func(f source.Finding) bool { return f.Code == "transport" && f.Severity == source.Warn })
		if got != want {
			t.Errorf("%s: warned is %t", url, got)
		}
	}
}
