package mariadb

import (
	"bufio"
	"bytes"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"strongroom/source/mariadb/mariadbtest"
)

const shop = `CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(20), KEY (name)); INSERT INTO customers VALUES (1, 'one'), (2, 'two');
	CREATE TABLE orders (id INT PRIMARY KEY, customer INT, FOREIGN KEY fk (customer) REFERENCES customers (id)); INSERT INTO orders VALUES (10, 1), (11, 2), (12, NULL);
	CREATE VIEW named AS SELECT name FROM customers; CREATE TRIGGER g BEFORE INSERT ON orders FOR EACH ROW SET @x = 1;
	CREATE PROCEDURE p() SELECT 1; CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DO 1`

func dumpShop(t *testing.T, srv *mariadbtest.Server, more string) *memory {
	t.Helper()
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, shop+";"+more)
	return mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
}

func TestTargetsThatAreRefusedAreNotTouched(t *testing.T) {
	srv := mariadbtest.Start(t)
	m := dumpShop(t, srv, "")
	for what, ddl := range map[string]string{"table": "CREATE TABLE x (i INT)", "view": "CREATE VIEW x AS SELECT 1", "routine": "CREATE PROCEDURE x() SELECT 1",
		"event": "CREATE EVENT x ON SCHEDULE EVERY 1 DAY DO DO 1", "sequence": "CREATE SEQUENCE x"} {
		to := srv.CreateDatabase(t)
		srv.Exec(t, to, ddl)
		want := srv.Dump(t, to)
		if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Create: true}); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("%s: %v", what, err)
		}
		if srv.Dump(t, to) != want {
			t.Errorf("%s: a refused restore changed the database", what)
		}
	}
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL("not_there", "root")}); !errors.Is(err, ErrNoDatabase) {
		t.Errorf("no database: %v", err)
	}
	small := *m
	small.detail = bytes.Replace(small.detail, []byte(`"longest_statement":`), []byte(`"longest_statement":1000000`), 1)
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), &small, Target{URL: srv.URL(to, "root")}); !errors.Is(err, ErrTooSmall) {
		t.Errorf("max_allowed_packet: %v", err)
	}
}

func TestADamagedStreamFailsTheRestoreAndLeavesNothing(t *testing.T) {
	srv := mariadbtest.Start(t)
	whole := dumpShop(t, srv, "CREATE TABLE big (i INT PRIMARY KEY, t TEXT); INSERT INTO big SELECT seq, REPEAT('x', 40) FROM seq_1_to_3000")
	for name, c := range map[string]struct {
		stream string
		damage func(b []byte) []byte
	}{
		"cut in a row":    {"data/big", func(b []byte) []byte { return b[:len(b)/2] }},
		"cut after a row": {"data/big", func(b []byte) []byte { return b[:bytes.LastIndex(b[:len(b)/2], []byte("\n"))+1] }},
		"a row less": {"data/big", func(b []byte) []byte {
			i := bytes.Index(b, []byte("(2,"))
			return slices.Delete(slices.Clone(b), i, bytes.IndexByte(b[i:], '\n')+i+1)
		}},
		"a statement less": {"data/big", func(b []byte) []byte {
			i := bytes.LastIndex(b, []byte("INSERT"))
			return slices.Concat(b[:i], []byte(tableEnd))
		}},
		"without the end":    {"data/big", func(b []byte) []byte { return bytes.TrimSuffix(b, []byte(tableEnd)) }},
		"more after the end": {"data/big", func(b []byte) []byte { return append(slices.Clone(b), "x"...) }},
		"another table's": {"data/big", func(b []byte) []byte {
			return bytes.Replace(b, []byte("INSERT INTO `big`"), []byte("INSERT INTO `Big`"), 1)
		}},
		"a second statement": {"data/big", func(b []byte) []byte {
			return bytes.Replace(b, []byte("VALUES\n("), []byte("VALUES\n(1,'');DROP TABLE big;("), 1)
		}},
		"another statement":    {"data/big", func(b []byte) []byte { return bytes.Replace(b, []byte("INSERT"), []byte("DELETE"), 1) }},
		"a value out of range": {"data/big", func(b []byte) []byte { return bytes.Replace(b, []byte("(2,"), []byte("(99999999999,"), 1) }},
		"schema cut":           {schemaStream, func(b []byte) []byte { return b[:len(b)-20] }},
		"keys cut":             {keysStream, func(b []byte) []byte { return b[:len(b)-20] }},
		"code missing":         {codeStream, func([]byte) []byte { return nil }},
	} {
		m := *whole
		m.data = map[string][]byte{}
		for k, v := range whole.data {
			m.data[k] = v
		}
		m.data[c.stream] = c.damage(m.data[c.stream])
		if bytes.Equal(m.data[c.stream], whole.data[c.stream]) {
			t.Fatalf("%s: nothing is damaged", name)
		}
		if rep, err := Restore(t.Context(), &m, Target{URL: srv.URL("damaged", "root"), Create: true}); err == nil {
			t.Errorf("%s: restored %+v", name, rep)
			srv.DropDatabase(t, "damaged")
		}
		if got := srv.Query(t, "mysql", "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'damaged'"); got != "0" {
			t.Errorf("%s: the half restored database is there", name)
		}
	}
}

func TestVerifyFindsAChangedValue(t *testing.T) {
	srv := mariadbtest.Start(t)
	m := dumpShop(t, srv, "")
	m.data["data/customers"] = bytes.Replace(m.data["data/customers"], []byte("'two'"), []byte("'twO'"), 1)
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err == nil || !strings.Contains(err.Error(), "verify table customers: it has 2 rows with hash") {
		t.Errorf("got %v", err)
	}
}

// An event runs as soon as it is made: one that deletes old rows must not make a
// good restore look like a bad one.
func TestRowsAreVerifiedBeforeAnythingCanChangeThem(t *testing.T) {
	srv := mariadbtest.Start(t)
	m := dumpShop(t, srv, "")
	m.data["data/customers"] = bytes.Replace(m.data["data/customers"], []byte("'two'"), []byte("'twO'"), 1)
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err == nil || !strings.Contains(err.Error(), "verify table customers") {
		t.Fatalf("got %v", err)
	}
	if n := srv.Query(t, "mysql", "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = '"+to+"'"); n != "0" {
		t.Errorf("%s events were there when rows were verified", n)
	}
}

func TestOrphansAreNamed(t *testing.T) {
	srv := mariadbtest.Start(t)
	m := dumpShop(t, srv, "SET foreign_key_checks = 0; INSERT INTO orders VALUES (13, 99), (14, 98)")
	to := srv.CreateDatabase(t)
	rep, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root")})
	if err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(rep.Warnings, "\n"); !strings.Contains(w, ": 2 rows of orders refer to no row of customers") {
		t.Errorf("warnings: %q", w)
	}
	clean := srv.CreateDatabase(t)
	if rep, err = Restore(t.Context(), dumpShop(t, srv, ""), Target{URL: srv.URL(clean, "root")}); err != nil || len(rep.Warnings) > 0 {
		t.Errorf("without orphans: %v, %q", err, rep.Warnings)
	}
	// The keys are at work again.
	if _, err := srv.Connect(t, clean).Exec("INSERT INTO orders VALUES (20, 99)"); code(err) != 1452 {
		t.Errorf("an orphan can be written: %v", err)
	}
}

func TestOnlySomeTables(t *testing.T) {
	srv := mariadbtest.Start(t)
	m := dumpShop(t, srv, "")
	to := srv.CreateDatabase(t)
	rep, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Only: []string{"orders"}, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Tables != 1 || rep.Rows != 3 || rep.Verified != 1 || len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "the table it points to is not loaded: customers") {
		t.Errorf("report %+v", rep)
	}
	if got := srv.Query(t, to, "SELECT COUNT(*) FROM customers"); got != "0" {
		t.Errorf("customers has %s rows", got)
	}
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Only: []string{"nothing"}}); err == nil || !strings.Contains(err.Error(), "no table nothing") {
		t.Errorf("got %v", err)
	}
}

func TestDefinersAreKeptOrLeftOut(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE OR REPLACE USER `old ``owner`@`1.2.3.4`; "+strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(shop,
		"CREATE VIEW", "CREATE DEFINER=`old ``owner`@`1.2.3.4` VIEW"), "CREATE TRIGGER", "CREATE DEFINER=`old ``owner`@`1.2.3.4` TRIGGER"),
		"CREATE PROCEDURE", "CREATE DEFINER=`old ``owner`@`1.2.3.4` PROCEDURE"), "CREATE EVENT", "CREATE DEFINER=`old ``owner`@`1.2.3.4` EVENT"))
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	definers := func(db string) string {
		var all []string
		for _, from := range []string{"views WHERE table_schema", "triggers WHERE trigger_schema", "routines WHERE routine_schema", "events WHERE event_schema"} {
			all = append(all, srv.Query(t, db, "SELECT definer FROM information_schema."+from+" = DATABASE()"))
		}
		return strings.Join(all, " ")
	}
	old := strings.TrimSpace(strings.Repeat("old `owner@1.2.3.4 ", 4))
	kept, left := srv.CreateDatabase(t), srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(kept, "root")}); err != nil {
		t.Fatal(err)
	}
	if got := definers(kept); got != old {
		t.Errorf("definers %q", got)
	}
	plain := srv.CreateUser(t, "", "GRANT ALL ON "+left+".* TO %s")
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(left, plain)}); err == nil || !strings.Contains(err.Error(), "restore without owners") {
		t.Errorf("without the right: %v", err)
	}
	srv.Exec(t, left, "DROP DATABASE "+left+"; CREATE DATABASE "+left)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(left, plain), NoOwner: true}); err != nil {
		t.Fatal(err)
	}
	if got := definers(left); got != strings.TrimSpace(strings.Repeat(plain+"@% ", 4)) {
		t.Errorf("definers %q", got)
	}
}

func TestStatementsOfAStreamAreWhatWasWritten(t *testing.T) {
	odd := table{Name: "a`b) VALUES\n(1);\n", columns: []column{{name: "x) VALUES\n`", form: formText, charset: "utf8mb4"}}}
	w := newRowWriter(odd)
	w.out = append(w.out, tableHead(odd)...)
	for i := range 2000 {
		if err := w.add([]driver.Value{[]byte(fmt.Sprintf("%d);\nCOMMIT;\n", i))}); err != nil {
			t.Fatal(err)
		}
	}
	w.end()
	text := append(w.out, tableEnd...)
	in := inserts{r: bufio.NewReaderSize(bytes.NewReader(text), 16)}
	var again []byte
	n := 0
	for {
		s, err := in.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(s) > w.longest {
			t.Errorf("a statement of %d bytes, the longest was %d", len(s), w.longest)
		}
		again = append(append(again, s...), ";\n"...)
		n++
	}
	if got := tableHead(odd) + string(again) + tableEnd; got != string(text) {
		t.Errorf("%s", differ(got, string(text)))
	}
	if n < 3 || n > 40 {
		t.Errorf("2000 rows in %d statements", n)
	}
}

func TestStreamsOfAnotherFormAreRefused(t *testing.T) {
	head := tableHead(table{Name: "t"})
	for text, want := range map[string]string{
		head + "INSERT INTO `t` (`i`) VALUES\n(1);\nINSERT INTO `u` (`i`) VALUES\n(2);\n" + tableEnd:        "rows of two tables",
		head + "INSERT INTO `t` (`i`) VALUES\n(1);\nINSERT IGNORE INTO `t` (`j`) VALUES\n(2);\n" + tableEnd: "rows of two tables",
		head + "DELETE FROM `t` (`i`) VALUES\n(1);\n" + tableEnd:                                            "bad head of a statement",
		head + "INSERT INTO t (`i`) VALUES\n(1);\n" + tableEnd:                                              "bad head of a statement",
		head + "INSERT INTO `t` (`i`) VALUES\nSELECT 1;\n" + tableEnd:                                       "bad row",
		head + "INSERT INTO `t` (`i`) VALUES\n(1)\n" + tableEnd:                                             "bad end of a row",
		head + "INSERT INTO `t` (`i`) VALUES\n(1);\n":                                                       "unexpected EOF",
		head + "INSERT INTO `t` (`i`) VALUES\n(1);\nCOMMIT;\n":                                              "bad end of the rows",
		head + "INSERT INTO `t` (`i`) VALUES\n(1);\n" + tableEnd + "\n":                                     "bad end of the rows",
		"DROP TABLE t;\n" + head + tableEnd:                                                                 "bad head of the rows",
	} {
		in, err := inserts{r: bufio.NewReader(strings.NewReader(text))}, error(nil)
		for err == nil {
			_, err = in.next()
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func FuzzScriptIsSplitIntoItsStatements(f *testing.F) {
	f.Add("SELECT 1", "SELECT ';;'")
	f.Add(";;1\n;;", "DELIMITER ;\n\n")
	f.Add("", "\nDELIMITER ;;\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		got, err := splitScript(append(append([]byte(head), script("Two", []string{a, b})...), foot...))
		if err != nil || !slices.Equal(got, []string{a, b}) {
			t.Errorf("%q, %q: %q, %v", a, b, got, err)
		}
	})
}
