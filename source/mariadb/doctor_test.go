package mariadb

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/mariadb/mariadbtest"
)

// examine returns the codes of what is worse than a note, and all by code.
func examine(t *testing.T, c Config) (worse []string, all map[string]source.Finding) {
	t.Helper()
	found, err := newSource(t, c).Examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all = map[string]source.Finding{}
	for _, f := range found {
		all[f.Code] = f
		if f.Severity.Worse(source.Note) {
			worse = append(worse, f.Code)
		}
		if f.Severity != source.OK && (f.What == "" || f.Why == "") {
			t.Errorf("%+v", f)
		}
	}
	return worse, all
}

func TestExaminationOfUsers(t *testing.T) {
	srv := mariadbtest.Start(t)
	db, other := srv.CreateDatabase(t), srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY, j INT); CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1; CREATE OR REPLACE ROLE writer")
	srv.Exec(t, db, "GRANT INSERT ON "+db+".* TO writer")
	proc := "GRANT SELECT ON mysql.proc TO %s"
	on := func(rights string) string { return "GRANT " + rights + " ON " + db + ".* TO %s" }
	least := on("SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES")
	for name, c := range map[string]struct {
		options string
		grants  []string
		want    []string
		says    string // in the first of them
	}{
		"least":                  {"", []string{least, proc}, nil, ""},
		"reload":                 {"", []string{on("SELECT, SHOW VIEW, TRIGGER, EVENT"), "GRANT RELOAD ON *.* TO %s", proc}, nil, ""},
		"no rights":              {"", []string{on("SHOW VIEW")}, []string{"rights", "lock", "tables"}, "GRANT SELECT, TRIGGER, EVENT"},
		"one table":              {"", []string{"GRANT SELECT ON " + db + ".t TO %s"}, []string{"rights", "lock"}, "sees only a part"},
		"columns":                {"", []string{"GRANT SELECT (i, j), INSERT (j) ON " + db + ".t TO %s"}, []string{"rights", "lock", "writes"}, "sees only a part"},
		"no triggers":            {"", []string{on("SELECT, SHOW VIEW, EVENT, LOCK TABLES"), proc}, []string{"rights"}, "GRANT TRIGGER"},
		"no routines":            {"", []string{least}, []string{"rights"}, "mysql.proc"},
		"cannot lock":            {"", []string{on("SELECT, SHOW VIEW, TRIGGER, EVENT"), proc}, []string{"lock"}, "LOCK TABLES"},
		"writes":                 {"", []string{least, proc, on("INSERT, DELETE")}, []string{"writes"}, "INSERT ON `" + db},
		"drops":                  {"", []string{least, proc, on("DROP")}, []string{"writes"}, "DROP"},
		"runs procedures":        {"", []string{least, proc, on("EXECUTE")}, []string{"writes"}, "EXECUTE"},
		"reads and writes files": {"", []string{least, proc, "GRANT FILE ON *.* TO %s"}, []string{"writes"}, "FILE ON *.*"},
		"super":                  {"", []string{least, proc, "GRANT SUPER ON *.* TO %s"}, []string{"writes"}, "SUPER"},
		"everything here":        {"", []string{on("ALL PRIVILEGES"), proc}, []string{"writes"}, "ALL PRIVILEGES ON `" + db},
		"everything":             {"", []string{"GRANT ALL PRIVILEGES ON *.* TO %s WITH GRANT OPTION"}, []string{"writes", "grant-option", "reads-all"}, "ALL PRIVILEGES ON *.*"},
		"reads everything":       {"", []string{"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO %s"}, []string{"reads-all"}, "*.*"},
		"reads another":          {"", []string{least, proc, "GRANT SELECT ON " + other + ".* TO %s"}, []string{"reads-all"}, other},
		"passes on":              {"", []string{least + " WITH GRANT OPTION", proc}, []string{"grant-option"}, "pass its rights on"},
		"writes by a role":       {"", []string{least, proc, "GRANT writer TO %s", "SET DEFAULT ROLE writer FOR %s"}, []string{"writes"}, "INSERT"},
		"one session":            {"WITH MAX_USER_CONNECTIONS 2", []string{least, proc}, []string{"sessions"}, "may have 2 sessions, and a snapshot takes 4"},
	} {
		worse, all := examine(t, Config{URL: srv.URL(db, srv.CreateUser(t, c.options, c.grants...))})
		if !slices.Equal(worse, c.want) {
			t.Errorf("%s: %q, want %q", name, worse, c.want)
			continue
		}
		if len(c.want) > 0 && !strings.Contains(all[c.want[0]].What, c.says) {
			t.Errorf("%s: %+v, want %q", name, all[c.want[0]], c.says)
		}
		if good := len(c.want) == 0 || c.want[0] == "sessions"; good != (all["least-privilege"].Severity == source.OK) {
			t.Errorf("%s: %+v", name, all["least-privilege"])
		}
	}
}

// The SQL that it prints makes a user of which nothing is to be said.
func TestThePrescribedUserIsGood(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY)")
	_, all := examine(t, Config{URL: srv.URL(db, "root")})
	sql := all["least-privilege"].Remedy
	if !strings.Contains(sql, "CREATE USER IF NOT EXISTS 'strongroom'@'localhost'") {
		t.Fatalf("%q", sql)
	}
	srv.Exec(t, "mysql", sql[strings.Index(sql, "\n"):])
	t.Cleanup(func() { srv.Exec(t, "mysql", "DROP USER strongroom@localhost") })
	worse, all := examine(t, Config{URL: srv.URL(db, "strongroom")})
	if len(worse) > 0 || all["least-privilege"].Severity != source.OK {
		t.Errorf("%q, %+v", worse, all)
	}
	if _, err := dump(t.Context(), newSource(t, Config{URL: srv.URL(db, "strongroom")})); err != nil {
		t.Error(err)
	}
}

// The SQL that it prints for a user that is there, at one host alone, is taken as it
// stands and lets that very one in.
func TestARemedyIsForTheAccountThatIsThere(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); CREATE USER here@localhost")
	t.Cleanup(func() { srv.Exec(t, "mysql", "DROP USER here@localhost") })
	c := Config{URL: srv.URL(db, "here")}
	for _, code := range []string{"connect", "rights"} {
		worse, all := examine(t, c)
		if !slices.Contains(worse, code) {
			t.Fatalf("%q, want %s", worse, code)
		}
		sql := all[code].Remedy[strings.Index(all[code].Remedy, "\n"):]
		if code == "connect" { // and not all that it says, so that there is something left to say
			sql = strings.ReplaceAll(sql, ", TRIGGER", "")
		}
		srv.Exec(t, "mysql", sql)
	}
	if worse, all := examine(t, c); len(worse) > 0 {
		t.Errorf("%q, %+v", worse, all)
	}
}

func TestExaminationOfADatabase(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	user := srv.CreateUser(t, "IDENTIFIED BY 'right'", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON "+db+".* TO %s", "GRANT SELECT ON mysql.proc TO %s")
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("right\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := Config{URL: srv.URL(db, user), PasswordFile: file}
	srv.Exec(t, db, "CREATE TABLE ordered (i INT PRIMARY KEY); CREATE TABLE heap (i INT)")
	worse, all := examine(t, c)
	if !slices.Equal(worse, []string{"password-file"}) || !strings.Contains(all["unordered"].What, "heap") || all["transport"].Severity != source.OK || all["server"].Severity == source.Bad {
		t.Errorf("%q, %+v", worse, all)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	srv.Exec(t, db, "CREATE TABLE loose (i INT PRIMARY KEY) ENGINE=Aria")
	if worse, all := examine(t, c); !slices.Equal(worse, []string{"tables"}) || !strings.Contains(all["tables"].What, "loose (Aria)") {
		t.Errorf("%q, %+v", worse, all)
	}
	c.Lock = true
	if worse, all := examine(t, c); len(worse) > 0 || !strings.Contains(all["locked"].What, "loose") {
		t.Errorf("%q, %+v", worse, all)
	}
	for name, bad := range map[string]struct {
		url, password, want string
	}{
		"wrong password": {srv.URL(db, user), "wrong", "is not let in"},
		"no database":    {srv.URL(db+"x", "root"), "", "there is no database"},
		"not its own":    {srv.URL(srv.CreateDatabase(t), user), "right", "may not use database"},
		"no server":      {fmt.Sprintf("mariadb://u@/db?socket=%s/nothing", t.TempDir()), "", "nothing"},
	} {
		c := Config{URL: bad.url}
		if bad.password != "" {
			if err := os.WriteFile(file, []byte(bad.password), 0o600); err != nil {
				t.Fatal(err)
			}
			c.PasswordFile = file
		}
		worse, all := examine(t, c)
		if !slices.Equal(worse, []string{"connect"}) || !strings.Contains(all["connect"].What, bad.want) {
			t.Errorf("%s: %q, %+v", name, worse, all["connect"])
		}
	}
}

func TestTheEngineOfDrillsIsLookedFor(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	if _, all := examine(t, Config{URL: srv.URL(db, "root")}); all["drill-engine"].Severity != source.OK {
		t.Errorf("%+v", all["drill-engine"])
	}
	defer func(was func() []string) { serverFiles = was }(serverFiles)
	serverFiles = func() []string { return append(SystemTables(), filepath.Join(t.TempDir(), "mariadbd")) }
	if _, all := examine(t, Config{URL: srv.URL(db, "root")}); all["drill-engine"].Severity != source.Warn || !strings.Contains(all["drill-engine"].Remedy, "apt-get install mariadb-server, of version 10.11") {
		t.Errorf("%+v", all["drill-engine"])
	}
}
