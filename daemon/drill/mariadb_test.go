package drill

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/custody/receipt"
	"strongroom/source/mariadb"
	"strongroom/source/mariadb/mariadbtest"
)

const mariaShop = `
SET time_zone = '+00:00';
CREATE TABLE customers (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL, at TIMESTAMP NULL, feel ENUM('sad', '', 'ok'), d DOUBLE, b BLOB, KEY (name), FULLTEXT KEY (name)) CHARACTER SET utf8mb4;
INSERT INTO customers (name, at, feel, d, b) SELECT CONCAT('näme ', seq), TIMESTAMP('2024-03-31 01:30:00') + INTERVAL seq HOUR, 'ok', seq / 7, X'00FF5C27' FROM seq_1_to_5000;
ALTER TABLE customers AUTO_INCREMENT = 70000;
CREATE TABLE orders (id INT PRIMARY KEY, customer INT, total DECIMAL(9,2), v INT AS (customer * 2) VIRTUAL, KEY (v), FOREIGN KEY (customer) REFERENCES customers (id));
INSERT INTO orders (id, customer, total) SELECT seq, 1 + seq % 5000, seq * 1.01 FROM seq_1_to_12000;
CREATE TABLE events (id INT, at DATE NOT NULL, what TEXT, PRIMARY KEY (id, at)) PARTITION BY RANGE (YEAR(at)) (PARTITION p0 VALUES LESS THAN (2024), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO events SELECT seq, DATE '2023-06-01' + INTERVAL seq DAY, CONCAT('e', seq) FROM seq_1_to_400;
CREATE TABLE empty (i INT PRIMARY KEY);
CREATE TABLE keyless (i INT, t TEXT); INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL);
CREATE TABLE ` + "`odd\n) VALUES`" + ` (` + "`a``b\n) VALUES`" + ` INT PRIMARY KEY, t TEXT); INSERT INTO ` + "`odd\n) VALUES`" + ` VALUES (1, 'COMMIT;\n'), (2, '),\n(3,\'x\');\n');
CREATE SEQUENCE seq START WITH 50 INCREMENT BY 5 CACHE 10; DO NEXTVAL(seq);
CREATE TABLE log (what TEXT);
CREATE FUNCTION twice(x INT) RETURNS INT DETERMINISTIC RETURN x * 2;
CREATE VIEW rich AS SELECT id, twice(customer) AS c FROM orders WHERE total > 1000;
CREATE PROCEDURE many() BEGIN INSERT INTO log VALUES ('p'); END;
CREATE TRIGGER trap BEFORE INSERT ON empty FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a trap';
CREATE EVENT ev ON SCHEDULE EVERY 1 SECOND STARTS '2020-01-01 00:00:00' DO INSERT INTO log VALUES ('ran');
`

func mariaDump(t testing.TB, srv *mariadbtest.Server, statements string) *memory {
	t.Helper()
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, statements)
	s, err := mariadb.New(mariadb.Config{URL: srv.URL(db, "root")})
	if err != nil {
		t.Fatal(err)
	}
	return dump(t, s)
}

var mariaAsserts = []Assertion{
	{Name: "customers", SQL: "SELECT COUNT(*) FROM customers", Expect: "5000"},
	{Name: "money", SQL: "SELECT SUM(total) FROM orders", Expect: ">= 100.5"},
	{Name: "newest", SQL: "SELECT DATE(MAX(at)) FROM customers", Expect: "> 2024-05-01"},
	{Name: "largest key", SQL: "SELECT MAX(id) FROM customers", Expect: "5000"},
	{Name: "through a view", SQL: "SELECT COUNT(*) > 10000 FROM rich", Expect: "1"},
	{Name: "no event ran", SQL: "SELECT COUNT(*) FROM log", Expect: "0"},
}

// One server for all of them: it is the slowest part.
func TestMariaDB(t *testing.T) {
	srv := mariadbtest.Own(t)
	m := mariaDump(t, srv, mariaShop)
	t.Run("whole", func(t *testing.T) { mariaPasses(t, m) })
	t.Run("must fail", func(t *testing.T) {
		mariaMustFail(t, m, mariaDump(t, srv, strings.ReplaceAll(mariaShop, "'näme '", "'nahme '")))
	})
	t.Run("lies in the manifest", func(t *testing.T) { mariaLies(t, srv) })
	t.Run("owned by others", func(t *testing.T) { mariaOwned(t, srv) })
	t.Run("sound", func(t *testing.T) { mariaSound(t, srv) })
	t.Run("hostile", func(t *testing.T) { mariaHostile(t, srv, m) })
	t.Run("not here", func(t *testing.T) { mariaNotHere(t, m) })
	t.Run("assertions", func(t *testing.T) { mariaAssertions(t, m) })
}

func mariaPasses(t *testing.T, m *memory) {
	p := plan(t, m)
	p.Assertions = mariaAsserts
	r := mustRun(t, p)
	if r.Verdict != receipt.PASS {
		t.Fatal(show(r))
	}
	if !strings.HasPrefix(r.Engine, "MariaDB ") || r.Sandbox.Gone == "" || len(r.Content) != 7 || step(t, r, receipt.Checks).Status != receipt.Passed {
		t.Error(show(r))
	}
	t.Log(show(r))
}

func mariaMustFail(t *testing.T, m, other *memory) {
	for _, c := range []struct {
		fault Fault
		want  map[string]string
	}{
		{FlipByte, map[string]string{receipt.Content: "customers: expected equal columns, found source 5000 rows "}},
		{ChangeRow, map[string]string{receipt.Load: "load table customers: after "}}, // its key twice
		{LastBuffer, map[string]string{receipt.Load: "load table customers: the server took 4500 rows, the snapshot has 5000"}},
		{SkipTable, map[string]string{receipt.Structure: "customers: expected a stream, as the catalogue listed it, found none",
			receipt.Content: "customers: expected equal columns, found source has none, stream has none, copy 0 rows"}},
		{HalfRows, map[string]string{receipt.Load: "the server took 2500 rows, the snapshot has 5000"}},
		{ZeroHash, map[string]string{receipt.Content: "expected equal columns, found source "}},
		{SwapTenant, map[string]string{receipt.Bytes: "of the manifest"}},
		{Truncate, map[string]string{receipt.Structure: "its rows have no end", receipt.Load: "load table customers: "}},
		{EmptyAssert, map[string]string{receipt.Assertions: "holds of any copy: expected 1, found it compares nothing: it reads no table"}},
	} {
		t.Run(string(c.fault), func(t *testing.T) {
			r := mustFail(t, m, other, c.fault, c.want)
			touched := c.fault != ZeroHash && c.fault != EmptyAssert
			if got := step(t, r, receipt.Bytes).Status; (got == receipt.Failed) != touched {
				t.Errorf("bytes: %s", got)
			}
		})
	}
	for _, f := range []Fault{SkipPartition, LoseRole} {
		p := plan(t, m)
		p.Fault = f
		if _, err := Run(t.Context(), p); err == nil || !strings.Contains(err.Error(), ErrFault.Error()) {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// What the manifest says too, only the source's count and the copy give away.
func mariaLies(t *testing.T, srv *mariadbtest.Server) {
	m := mariaDump(t, srv, "CREATE TABLE people (name TEXT); INSERT INTO people SELECT CONCAT('p', seq) FROM seq_1_to_1000")
	for fault, want := range map[Fault]string{ChangeRow: "", FlipByte: "", HalfRows: "took 500 rows, the snapshot has 1000", LastBuffer: "took 900 rows"} {
		p := plan(t, m)
		p.Fault = fault
		if err := p.doctor(t.Context()); err != nil {
			t.Fatal(err)
		}
		lied := &memory{desc: m.desc, detail: m.detail, data: map[string][]byte{}, point: m.point}
		for _, s := range m.streams {
			rc, err := p.Stored.Open(t.Context(), s.Name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			lied.data[s.Name] = readAll(t, rc)
			s.Length = int64(len(lied.data[s.Name]))
			lied.streams = append(lied.streams, s)
		}
		r := mustRun(t, plan(t, lied))
		if r.Verdict != receipt.FAIL || step(t, r, receipt.Bytes).Status != receipt.Passed {
			t.Fatalf("%s: %s", fault, show(r))
		}
		if want != "" {
			if s := step(t, r, receipt.Load); !strings.Contains(s.Why, want) {
				t.Errorf("%s: %q", fault, s.Why)
			}
			continue
		}
		s, o := step(t, r, receipt.Content), r.Content[0]
		if s.Status != receipt.Failed || o.Source.Rows != 1000 || o.Copy != o.Stream || o.Stream.Rows != 1000 || o.Source.Hash == o.Copy.Hash {
			t.Errorf("%s: %s %+v", fault, s.Why, o)
		}
	}
	// The same names, and something else behind them.
	db := mariaDump(t, srv, "CREATE TABLE t (i INT DEFAULT 1); CREATE FUNCTION f() RETURNS INT RETURN 41; CREATE VIEW v AS SELECT i FROM t WHERE i > 5")
	for stream, change := range map[string][2]string{"schema.sql": {"DEFAULT 1", "DEFAULT 2"}, "code.sql": {"RETURN 41", "RETURN 42"}} {
		p := plan(t, db)
		changed := *db
		changed.data = map[string][]byte{}
		for k, v := range db.data {
			changed.data[k] = v
		}
		changed.data[stream] = []byte(strings.Replace(string(db.data[stream]), change[0], change[1], 1))
		p.Stored = &second{memory: &changed, truth: db, reads: map[string]int{}}
		r := mustRun(t, p)
		if s := step(t, r, receipt.Content); s.Status != receipt.Failed || !strings.Contains(s.Why, stream) {
			t.Errorf("%s: %s %q", stream, s.Status, s.Why)
		}
	}
}

// second reads as truth the first time, for what is recorded, and then otherwise.
type second struct {
	*memory
	truth *memory
	reads map[string]int
}

func (s *second) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if s.reads[name]++; s.reads[name] == 1 {
		return s.truth.Open(ctx, name, off, n)
	}
	return s.memory.Open(ctx, name, off, n)
}

// mariaOwned: who owns views and routines was somebody at the source.
func mariaOwned(t *testing.T, srv *mariadbtest.Server) {
	db := srv.CreateDatabase(t)
	user := srv.CreateUser(t, "IDENTIFIED BY 'x'", "GRANT SELECT ON "+db+".* TO %s")
	srv.Exec(t, db, fmt.Sprintf("CREATE TABLE t (i INT); INSERT INTO t VALUES (1), (2); CREATE DEFINER=%s SQL SECURITY DEFINER VIEW v AS SELECT i FROM t;"+
		"SET time_zone = 'SYSTEM'; CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t; CREATE VIEW gone AS SELECT i FROM t", user))
	srv.Exec(t, db, "CREATE TABLE u (i INT); CREATE OR REPLACE VIEW gone AS SELECT i FROM u; DROP TABLE u")
	s, err := mariadb.New(mariadb.Config{URL: srv.URL(db, "root")})
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, dump(t, s))
	p.Assertions = []Assertion{{Name: "view", SQL: "SELECT COUNT(*) FROM v", Expect: "2"}}
	r := mustRun(t, p)
	// The view that the source could not use is left out, which is told.
	if s := step(t, r, receipt.Assertions); s.Status != receipt.Passed {
		t.Error(show(r))
	}
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "view gone") }) || step(t, r, receipt.Load).Status != receipt.Passed {
		t.Error(show(r))
	}
	if r.Verdict != receipt.PASS {
		t.Errorf("%q", r.Why)
	}
}

// mariaHostile tries to get out, or to get mighty, with whatever SQL a stream
// could hold: as the user that loads, beside a copy.
func mariaHostile(t *testing.T, srv *mariadbtest.Server, m *memory) {
	r := &run{Plan: plan(t, m), steps: map[string]receipt.Step{}}
	r.Now, r.Memory, r.Jobs = time.Now, 1<<30, 2
	if err := r.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if !r.restore(t.Context()) {
		t.Fatal(r.steps)
	}
	e := r.engine.(*mariaEngine)
	db, err := e.connect(mariaLoader, e.recorded.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for sql, want := range map[string]string{
		"SELECT 'x' INTO OUTFILE '/scratch/tmp/x'":                                          "Access denied",
		"LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE log":                               "The used command is not allowed",
		"LOAD DATA INFILE '/etc/passwd' INTO TABLE log":                                     "Access denied",
		"INSTALL SONAME 'server_audit'":                                                     "denied",
		"CREATE FUNCTION evil RETURNS INTEGER SONAME 'evil.so'":                             "denied",
		"SET GLOBAL event_scheduler = ON":                                                   "Access denied",
		"SET GLOBAL general_log_file = '/scratch/x'":                                        "Access denied",
		"CREATE USER mighty":                                                                "Access denied",
		"GRANT ALL ON *.* TO strongroom_assert@localhost":                                   "Access denied",
		"SET PASSWORD FOR strongroom_assert@localhost = PASSWORD('x')":                      "Access denied",
		"UPDATE mysql.global_priv SET Priv = '{}'":                                          "denied",
		"CREATE DATABASE more":                                                              "Access denied",
		"SHUTDOWN":                                                                          "Access denied",
		"CREATE TABLE fed (i INT) ENGINE=FEDERATED CONNECTION='mysql://root@127.0.0.1/x/y'": "Unknown storage engine",
		"CREATE TABLE con (x TEXT) ENGINE=CONNECT FILE_NAME='/etc/passwd'":                  "Unknown storage engine",
		"SELECT 1; DROP TABLE orders":                                                       "error in your SQL syntax",
		"CHANGE MASTER TO MASTER_HOST='192.0.2.1'":                                          "Access denied",
	} {
		if _, err := db.ExecContext(t.Context(), sql); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", sql, err, want)
		}
	}
	for sql, want := range map[string]string{
		"SELECT COALESCE(LOAD_FILE('/etc/passwd'), 'none')": "none",
		"SELECT @@event_scheduler":                          "OFF",
		"SELECT @@port":                                     "0",
		"SELECT COUNT(*) FROM log":                          "0", // no event ran
	} {
		var got string
		if err := db.QueryRowContext(t.Context(), sql).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, %v", sql, got, err)
		}
	}
	mariaDamaged(t, e, db)
	if db, err := e.connect(mariaBoot, "mysql"); err != nil || db.Ping() == nil {
		t.Errorf("who made the server is there still: %v", err)
	}
	// A view whose owner is mighty at the source, and a function that waits.
	name := srv.CreateDatabase(t)
	srv.Exec(t, name, "CREATE TABLE t (i INT); INSERT INTO t VALUES (1); CREATE DEFINER=root@localhost VIEW v AS SELECT LOAD_FILE('/etc/passwd') AS x, USER() AS u, CURRENT_USER() AS c FROM t;"+
		"CREATE DEFINER=root@localhost FUNCTION f() RETURNS INT BEGIN DELETE FROM t; RETURN 1; END; CREATE DEFINER=root@localhost FUNCTION slow() RETURNS INT RETURN SLEEP(600)")
	s, err := mariadb.New(mariadb.Config{URL: srv.URL(name, "root")})
	if err != nil {
		t.Fatal(err)
	}
	p := plan(t, dump(t, s))
	p.Assertions = []Assertion{
		{Name: "file", SQL: "SELECT COALESCE(x, 0) FROM v", Expect: "0"},
		{Name: "writes", SQL: "SELECT f() FROM t", Expect: "1"},
		{Name: "waits", SQL: "SELECT slow() FROM t", Expect: "0", Timeout: 500 * time.Millisecond},
		{Name: "deletes", SQL: "DELETE FROM t", Expect: "0"},
		{Name: "still there", SQL: "SELECT COUNT(*) FROM t", Expect: "1"},
	}
	begun := time.Now()
	done := mustRun(t, p)
	got := step(t, done, receipt.Assertions)
	for _, c := range got.Checks {
		want := c.Name == "file" || c.Name == "still there"
		if c.OK != want {
			t.Errorf("%+v", c)
		}
	}
	if took := time.Since(begun); len(got.Checks) != 5 || took > time.Minute {
		t.Errorf("%v: %s", took, show(done))
	}
}

// mariaDamaged damages a table behind the server's back: CHECK TABLE sees it.
func mariaDamaged(t *testing.T, e *mariaEngine, db *sql.DB) {
	if c, err := e.checkTables(t.Context()); err != nil || len(c) != 1 || !c[0].OK {
		t.Errorf("before: %+v, %v", c, err)
	}
	for _, q := range []string{"CREATE TABLE hurt (i INT PRIMARY KEY, t TEXT, KEY (t(20))) ENGINE=Aria TRANSACTIONAL=0", "INSERT INTO hurt SELECT seq, REPEAT(seq, 20) FROM seq_1_to_5000", "RENAME TABLE hurt TO damaged"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	file := e.box.Path(mariaData) + "/" + e.recorded.Database + "/damaged.MAI"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 16384; i < len(b); i += 100 {
		b[i] ^= 1
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := e.checkTables(t.Context())
	if err != nil || len(c) != 2 || c[0].OK || c[0].Name != "CHECK TABLE damaged" || c[1].OK {
		t.Errorf("after: %+v, %v", c, err)
	}
}

func mariaNotHere(t *testing.T, m *memory) {
	for name, c := range map[string]struct {
		change func(*Plan)
		why    string
	}{
		"series": {func(p *Plan) { p.Stored = edited(t, m, "server", "99.7.1-MariaDB") }, "no MariaDB 99.7 server is installed here, but "},
		"room":   {func(p *Plan) { p.Disk = 100 << 20 }, "the drill may have 100"},
		"small":  {func(p *Plan) { p.Memory = 150 << 20 }, "make a server"},
		"own":    {func(p *Plan) { p.Stored = edited(t, m, "database", "mysql") }, "is the server's own"},
	} {
		p := plan(t, m)
		c.change(&p)
		r := mustRun(t, p)
		if s := step(t, r, receipt.Load); r.Verdict != receipt.INFRA || !strings.Contains(s.Why, c.why) {
			t.Errorf("%s: %s %q", name, r.Verdict, r.Why)
		}
	}
}

func mariaAssertions(t *testing.T, m *memory) {
	for sql, want := range map[string]string{
		"SELECT 1": "it compares nothing: it reads no table",
		"SELECT COUNT(*) FROM (SELECT 1 AS x) AS y": "it compares nothing: it reads no table",
		"SELECT COUNT(*) FROM customers WHERE 1=0":  "it compares nothing: it reads no table",
		"SELECT COUNT(*) FROM nothing":              "doesn't exist",
		"SELECT name FROM customers WHERE id = 9":   "another text, of 7 bytes",
		"SELECT id FROM customers LIMIT 2":          "it returned 2 rows",
		"SELECT COUNT(*) FROM customers; SELECT 1":  "error in your SQL syntax",
		"SELECT COUNT(*) FROM mysql.user":           "denied",
	} {
		p := plan(t, m)
		p.Asked = []string{receipt.Load, receipt.Assertions}
		p.Assertions = []Assertion{{Name: "a", SQL: sql, Expect: "x1"}}
		r := mustRun(t, p)
		if s := step(t, r, receipt.Assertions); s.Status != receipt.Failed || !strings.Contains(s.Why, want) {
			t.Errorf("%s: %q, want %q", sql, s.Why, want)
		}
	}
}

// mariaSound are MariaDB's: another database is not in the snapshot, directories
// are the machine's, and what a table was made with was checked when it was made.
func mariaSound(t *testing.T, srv *mariadbtest.Server) {
	away := srv.CreateDatabase(t)
	srv.Exec(t, away, "CREATE TABLE o (i INT PRIMARY KEY); INSERT INTO o VALUES (1); CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1")
	for name, c := range map[string]struct{ sql, note string }{
		"views of another database": {"CREATE TABLE t (i INT PRIMARY KEY); CREATE VIEW z AS SELECT i FROM " + away + ".o; CREATE VIEW a AS SELECT i FROM z; CREATE VIEW y AS SELECT i FROM z; CREATE VIEW f AS SELECT " + away +
			".f() AS x FROM t; CREATE VIEW m AS SELECT User FROM mysql.user; CREATE VIEW kept AS SELECT i FROM t", "left out: view a, it reads one that reads another database"},
		"a key to another database": {"CREATE TABLE t (i INT PRIMARY KEY, FOREIGN KEY (i) REFERENCES " + away + ".o (i)); INSERT INTO t VALUES (1)", "left out: a foreign key of t"},
		"a key to nothing":          {"SET foreign_key_checks = 0; CREATE TABLE t (i INT PRIMARY KEY, FOREIGN KEY (i) REFERENCES nowhere (i)); INSERT INTO t VALUES (1)", "t points to nowhere, which is not there"},
		"a form that is not taken":  {"SET SESSION innodb_strict_mode = 0; CREATE TABLE t (i INT PRIMARY KEY) ROW_FORMAT=FIXED KEY_BLOCK_SIZE=3", ""},
		"directories":               {"CREATE TABLE t (i INT) DATA DIRECTORY='" + srv.Dir + "' PARTITION BY HASH (i) (PARTITION a DATA DIRECTORY='" + srv.Dir + "' COMMENT 'x', PARTITION b); INSERT INTO t VALUES (1), (2)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			db := srv.CreateDatabase(t)
			srv.Exec(t, db, c.sql)
			s, err := mariadb.New(mariadb.Config{URL: srv.URL(db, "root")})
			if err != nil {
				t.Fatal(err)
			}
			passes(t, dump(t, s), c.note)
		})
	}
}
