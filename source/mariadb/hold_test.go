package mariadb

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/source"
	"strongroom/source/mariadb/mariadbtest"
)

// transfers moves money between accounts in two tables until the test ends; the
// sum of all is 100000 at any moment.
func transfers(t *testing.T, srv *mariadbtest.Server, db string) {
	t.Helper()
	srv.Exec(t, db, `CREATE TABLE left_side (id INT PRIMARY KEY, amount INT NOT NULL); CREATE TABLE right_side (id INT PRIMARY KEY, amount INT NOT NULL);
		INSERT INTO left_side SELECT seq, 500 FROM seq_1_to_100; INSERT INTO right_side SELECT seq, 500 FROM seq_1_to_100`)
	conn := srv.Connect(t, db)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				transfer(ctx, conn)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// transfer may fail in a deadlock: then nothing moved.
func transfer(ctx context.Context, conn *sql.DB) {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return
	}
	defer tx.Rollback()
	n, a, b := rand.IntN(50), rand.IntN(100)+1, rand.IntN(100)+1
	if _, err := tx.Exec(fmt.Sprintf("UPDATE left_side SET amount = amount - %d WHERE id = %d", n, a)); err != nil {
		return
	}
	if _, err := tx.Exec(fmt.Sprintf("UPDATE right_side SET amount = amount + %d WHERE id = %d", n, b)); err != nil {
		return
	}
	_ = tx.Commit()
}

// total adds up the accounts of a dump, by a restore.
func total(t *testing.T, srv *mariadbtest.Server, m *memory) string {
	t.Helper()
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err != nil {
		t.Fatal(err)
	}
	return srv.Query(t, to, "SELECT (SELECT SUM(amount) FROM left_side) + (SELECT SUM(amount) FROM right_side)")
}

func TestConcurrentWritersSeeOneMoment(t *testing.T) {
	srv := mariadbtest.Start(t)
	reload := srv.CreateUser(t, "", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO %s")
	lock := srv.CreateUser(t, "", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.* TO %s")
	for _, user := range []string{"root", reload, lock} {
		db := srv.CreateDatabase(t)
		transfers(t, srv, db)
		before := srv.Query(t, db, "SELECT SUM(amount) FROM left_side")
		for range 4 {
			s := newSource(t, Config{URL: srv.URL(db, user), Jobs: 4})
			s.hookJoined = func() { time.Sleep(10 * time.Millisecond) }
			m, err := dump(t.Context(), s)
			if err != nil {
				t.Fatalf("as %s: %v", user, err)
			}
			if got := total(t, srv, m); got != "100000" {
				t.Errorf("as %s: the accounts sum to %s", user, got)
			}
		}
		if before == srv.Query(t, db, "SELECT SUM(amount) FROM left_side") {
			t.Error("nobody wrote")
		}
	}
}

func TestAServerThatCommitsBetweenSessionsIsNoticed(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	transfers(t, srv, db)
	s := newSource(t, Config{URL: srv.URL(db, "root"), Jobs: 4})
	s.breakLock = true
	s.hookJoined = func() { time.Sleep(20 * time.Millisecond) }
	if _, err := dump(t.Context(), s); err == nil || !strings.Contains(err.Error(), "the sessions see different moments") {
		t.Errorf("got %v", err)
	}
}

func TestWritersOnlyWaitWhileSessionsJoin(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); INSERT INTO t VALUES (1)")
	s := newSource(t, Config{URL: srv.URL(db, "root")})
	s.hookStarted = func() { srv.Exec(t, db, "SET SESSION lock_wait_timeout = 5; INSERT INTO t VALUES (2)") }
	m := mustDump(t, s)
	if f := m.report.Streams["data/t"]; f.Rows != 1 {
		t.Errorf("%d rows: what was written after the moment is in the dump", f.Rows)
	}
}

// A box that loses its power while commits wait says nothing any more: the server
// must not keep its clients waiting until TCP finds out, two hours later.
func TestCommitsDoNotWaitForABoxThatStandsStill(t *testing.T) {
	srv := mariadbtest.Start(t)
	lock := srv.CreateUser(t, "", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON *.* TO %s")
	for _, user := range []string{"root", lock} {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); INSERT INTO t VALUES (1)")
		s := newSource(t, Config{URL: srv.URL(db, user), Jobs: 1})
		s.stands = time.Second
		s.hookJoined = func() { srv.Exec(t, db, "SET SESSION lock_wait_timeout = 8; INSERT INTO t VALUES (2)") }
		_, err := dump(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), "see different moments") && !strings.Contains(err.Error(), "the session that holds commits back was lost") {
			t.Errorf("as %s: got %v", user, err)
		}
	}
}

// open opens a snapshot that is closed with the test.
func open(t *testing.T, s *Source) source.Snapshot {
	t.Helper()
	snap, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = snap.Close() })
	return snap
}

func TestTablesCannotBeAlteredDuringTheDump(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE VIEW v AS SELECT i FROM t; CREATE SEQUENCE s")
	snap := open(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	conn := srv.Connect(t, db)
	for _, ddl := range []string{"TRUNCATE t", "DROP TABLE t", "ALTER TABLE t ADD c INT", "RENAME TABLE t TO u", "CREATE OR REPLACE VIEW v AS SELECT 2", "DROP VIEW v", "ALTER SEQUENCE s INCREMENT 7", "DROP SEQUENCE s",
		"CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET @x = 1"} {
		if _, err := conn.Exec("SET STATEMENT lock_wait_timeout = 0 FOR " + ddl); code(err) != errLockTimeout {
			t.Errorf("%s: %v, want a timeout", ddl, err)
		}
	}
	// One that waits stands in nobody's way.
	waits := make(chan error, 1)
	go func() { _, err := conn.Exec("TRUNCATE t"); waits <- err }()
	for srv.Query(t, "mysql", "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata lock%'") == "0" {
		time.Sleep(5 * time.Millisecond)
	}
	m, err := drain(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	if f := m.report.Streams["data/t"]; f.Rows != 2 {
		t.Errorf("%d rows", f.Rows)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; err != nil {
		t.Errorf("after the dump: %v", err)
	}
}

func TestSchemaThatChangesDuringTheDumpFailsIt(t *testing.T) {
	srv := mariadbtest.Start(t)
	for name, ddl := range map[string]string{
		"function f":  "DROP FUNCTION f; CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 2",
		"procedure p": "DROP PROCEDURE p",
		"event e":     "ALTER EVENT e COMMENT 'new'",
	} {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, `CREATE TABLE t (i INT PRIMARY KEY); CREATE FUNCTION f() RETURNS INT DETERMINISTIC RETURN 1;
			CREATE PROCEDURE p() SELECT 1; CREATE EVENT e ON SCHEDULE AT '2037-01-01' DO SELECT 1; CREATE SEQUENCE s`)
		snap := open(t, newSource(t, Config{URL: srv.URL(db, "root")}))
		srv.Exec(t, db, ddl)
		if _, err := drain(t.Context(), snap); err == nil || !strings.Contains(err.Error(), name+" was defined anew or dropped") {
			t.Errorf("%s: got %v", ddl, err)
		}
	}
}

func TestANewTableDuringTheDumpIsNamed(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY); CREATE SEQUENCE s")
	snap := open(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	srv.Exec(t, db, "CREATE TABLE late (i INT); DO NEXTVAL(s); INSERT INTO t VALUES (5)")
	m, err := drain(t.Context(), snap)
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(m.report.Warnings, "\n"); w != "table late was made while the dump was, and is not in it" {
		t.Errorf("warnings: %q", w)
	}
}

func TestDDLBetweenListingAndLockingStartsOver(t *testing.T) {
	srv := mariadbtest.Start(t)
	for name, ddl := range map[string]string{"drop": "DROP TABLE t", "create": "CREATE TABLE new (i INT PRIMARY KEY)", "rename": "RENAME TABLE t TO new"} {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY)")
		s, done := newSource(t, Config{URL: srv.URL(db, "root")}), false
		s.hookListed = func() {
			if !done {
				srv.Exec(t, db, ddl)
				done = true
			}
		}
		m := mustDump(t, s)
		if _, ok := m.data["data/new"]; ok != (name != "drop") {
			t.Errorf("%s: streams %v", name, m.streams)
		}
	}
}

func TestALostSessionFailsTheSnapshot(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE big (i INT PRIMARY KEY, t TEXT); INSERT INTO big SELECT seq, REPEAT('x', 1000) FROM seq_1_to_20000; CREATE TABLE m (i INT) ENGINE=MyISAM")
	user := srv.CreateUser(t, "", "GRANT ALL ON *.* TO %s")
	kill := func(where string) {
		n := 0
		for {
			id := srv.Query(t, "mysql", "SELECT MIN(id) FROM information_schema.processlist WHERE user = '"+user+"' AND "+where)
			if id == "" {
				break
			}
			srv.Exec(t, "mysql", "KILL HARD CONNECTION "+id)
			n++
			time.Sleep(50 * time.Millisecond)
		}
		if n == 0 {
			t.Errorf("no session where %s", where)
		}
	}
	src := newSource(t, Config{URL: srv.URL(db, user), Lock: true, Jobs: 1})

	snap := open(t, src)
	r, err := snap.Streams()[1].Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	kill("info LIKE 'SELECT `i`%'")
	if n, err := io.Copy(io.Discard, r); err == nil {
		t.Errorf("a stream of a dead session ended well after %d bytes more", n)
	}
	_ = r.Close()
	if _, err := snap.Finish(t.Context()); err == nil {
		t.Error("the snapshot finished")
	}

	// All that only hold something, once every stream was read.
	snap = open(t, src)
	for _, st := range snap.Streams() {
		r, err := st.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
	}
	kill("command = 'Sleep'")
	if _, err := snap.Finish(t.Context()); err == nil || !strings.Contains(err.Error(), "was lost") {
		t.Errorf("the snapshot finished: %v", err)
	}
}

func TestTablesWithoutTransactionsAreRefusedOrLocked(t *testing.T) {
	srv := mariadbtest.Start(t)
	tried := 0
	for _, engine := range lockable {
		if srv.Query(t, "mysql", "SELECT COUNT(*) FROM information_schema.engines WHERE engine = '"+engine+"' AND support <> 'NO'") == "0" {
			t.Logf("this server has no %s", engine)
			continue
		}
		tried++
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, "CREATE TABLE t (i INT NOT NULL, t VARCHAR(20) NOT NULL) ENGINE="+engine+"; INSERT INTO t VALUES (2, 'x'), (1, 'y')")
		url := srv.URL(db, "root")
		if _, err := newSource(t, Config{URL: url}).Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "t ("+engine+"): the engine has no transactions") {
			t.Errorf("probe of %s: %v", engine, err)
		}
		if _, err := dump(t.Context(), newSource(t, Config{URL: url})); err == nil || !strings.Contains(err.Error(), "set lock = true") {
			t.Errorf("dump of %s: %v", engine, err)
		}
		want := srv.Dump(t, db)
		snap := open(t, newSource(t, Config{URL: url, Lock: true}))
		if engine != "BLACKHOLE" {
			if _, err := srv.Connect(t, db).Exec("SET STATEMENT lock_wait_timeout = 0 FOR INSERT INTO t VALUES (3, 'z')"); code(err) != errLockTimeout {
				t.Errorf("%s can be written to: %v", engine, err)
			}
		}
		m, err := drain(t.Context(), snap)
		if err := errors.Join(err, snap.Close()); err != nil {
			t.Errorf("%s: %v", engine, err)
			continue
		}
		to := srv.CreateDatabase(t)
		if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err != nil {
			t.Errorf("%s: %v", engine, err)
		}
		if d := differ(srv.Dump(t, to), want); d != "" {
			t.Errorf("%s: %s", engine, d)
		}
	}
	if tried < 4 {
		t.Errorf("only %d engines tried", tried)
	}
}

func TestTablesThatCannotBeDumpedAreRefused(t *testing.T) {
	srv := mariadbtest.Start(t)
	for name, c := range map[string]struct{ ddl, want string }{
		"versioned":          {"CREATE TABLE t (i INT PRIMARY KEY) WITH SYSTEM VERSIONING", "t cannot be dumped: it is system-versioned"},
		"versioned and more": {"CREATE TABLE t (i INT) WITH SYSTEM VERSIONING PARTITION BY SYSTEM_TIME (PARTITION h HISTORY, PARTITION c CURRENT)", "t cannot be dumped: it is system-versioned"},
		"merge":              {"CREATE TABLE m (i INT) ENGINE=MyISAM; CREATE TABLE t (i INT) ENGINE=MERGE UNION=(m)", "t cannot be dumped: its engine is MRG_MyISAM"},
	} {
		db := srv.CreateDatabase(t)
		srv.Exec(t, db, c.ddl)
		if _, err := dump(t.Context(), newSource(t, Config{URL: srv.URL(db, "root"), Lock: true})); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// lossy gives all rows of a query but the last.
type lossy struct{ driver.QueryerContext }

type lossyRows struct {
	driver.Rows
	next []driver.Value
	end  error
}

func (l lossy) QueryContext(ctx context.Context, sql string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := l.QueryerContext.QueryContext(ctx, sql, args)
	if err != nil || strings.HasPrefix(sql, "SELECT COUNT(*)") {
		return rows, err
	}
	r := &lossyRows{Rows: rows, next: make([]driver.Value, len(rows.Columns()))}
	r.end = rows.Next(r.next)
	return r, nil
}

func (r *lossyRows) Next(to []driver.Value) error {
	for i, v := range r.next {
		if b, ok := v.([]byte); ok {
			v = bytes.Clone(b)
		}
		to[i] = v
	}
	if r.end == nil {
		r.end = r.Rows.Next(r.next)
	}
	return r.end
}

func TestARowThatIsLostOnTheWayIsNoticed(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY, t TEXT); INSERT INTO t SELECT seq, 'x' FROM seq_1_to_100")
	snap := open(t, newSource(t, Config{URL: srv.URL(db, "root"), Jobs: 1}))
	c := snap.(*snapshot).held.workers[0]
	c.q = lossy{c.q}
	if _, err := drain(t.Context(), snap); err == nil || !strings.Contains(err.Error(), "the server sent 99 rows and counts 100") {
		t.Errorf("got %v", err)
	}
}
