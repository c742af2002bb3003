package mariadb

import (
	"bytes"
	"database/sql/driver"
	"fmt"
	"strings"
	"testing"

	"strongroom/source/mariadb/mariadbtest"
)

// What mariadb-dump loses, so that equal dumps of its would not tell: FLOATs
// that need more than six digits, bytes without a place in Unicode, error
// values of an ENUM.
func TestValuesComeBackBitForBit(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := newZoo(t, srv)
	srv.Exec(t, db, `CREATE TABLE floats (id INT AUTO_INCREMENT PRIMARY KEY, f FLOAT, d DOUBLE);
		INSERT INTO floats (f, d) SELECT RAND(seq) * POW(10, CAST(seq AS SIGNED) % 70 - 35), RAND(seq + 1) * POW(10, CAST(seq AS SIGNED) % 600 - 300) FROM seq_1_to_3000`)
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Jobs: 4}); err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string]string{
		"floats":  "CAST(f AS DOUBLE); d",
		"numbers": "ti; si; mi; i; bu; d; d0; CAST(f AS DOUBLE); CAST(f2 AS DOUBLE); db; db2; y; HEX(b1); HEX(b5); HEX(b64); bo",
		"texts":   "HEX(u4); HEX(u3); HEX(l1); HEX(a); HEX(l2); HEX(k); HEX(sj); HEX(g); HEX(uc); HEX(u16); HEX(u32); HEX(bin); e + 0; HEX(e); e2 + 0; HEX(e2); s + 0; HEX(j); HEX(c)",
		"bytes":   "HEX(id); HEX(b); HEX(tb); HEX(bl); HEX(mb); HEX(lb); HEX(g); ST_SRID(g); HEX(p); u; i6; i4",
		"times":   "d; t; dt; dt0; UNIX_TIMESTAMP(ts); ts + 0; ts0 + 0",
	} {
		for expr := range strings.SplitSeq(list, "; ") {
			sql := "SET STATEMENT group_concat_max_len = 64000000, time_zone = '+00:00' FOR SELECT GROUP_CONCAT(CONCAT(id, ' ', " + expr + ") ORDER BY id SEPARATOR '\n') FROM " + name
			if want, got := srv.Query(t, db, sql), srv.Query(t, to, sql); got != want || want == "" {
				t.Errorf("%s of %s: %.2000s, want %.2000s", expr, name, got, want)
			}
		}
	}
	if n := srv.Query(t, to, "SELECT COUNT(*) FROM texts WHERE e + 0 = 0 OR e2 + 0 = 0"); n != "2" {
		t.Errorf("%s rows with an error value of an ENUM", n)
	}
}

func TestServersWithOtherDefaults(t *testing.T) {
	srv := mariadbtest.Own(t, "--transaction-isolation=READ-COMMITTED", "--sql-mode=ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH", "--default-time-zone=+05:45",
		"--character-set-server=latin1", "--autocommit=0", "--skip-log-bin", "--lower-case-table-names=0", "--net-write-timeout=1", "--wait-timeout=2", "--max-statement-time=1")
	db := srv.CreateDatabase(t, "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
	srv.Exec(t, db, "SET sql_mode = '';"+zooSQL+"COMMIT")
	s := newSource(t, Config{URL: srv.URL(db, "root")})
	s.hookStarted = func() { srv.Exec(t, db, "INSERT INTO keyless VALUES (99, 'later'); COMMIT") }
	m := mustDump(t, s)
	if f := m.report.Streams["data/keyless"]; f.Rows != 4 {
		t.Errorf("%d rows: no consistent snapshot", f.Rows)
	}
	srv.Exec(t, db, "DELETE FROM keyless WHERE a = 99; COMMIT")
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err != nil {
		t.Fatal(err)
	}
	if d := differ(srv.Dump(t, to), srv.Dump(t, db)); d != "" {
		t.Errorf("restored: %s", d)
	}
	// What it says does not depend on them.
	other := mariadbtest.Start(t)
	there := other.CreateDatabase(t, "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
	if _, err := Restore(t.Context(), m, Target{URL: other.URL(there, "root"), Verify: true}); err != nil {
		t.Fatal(err)
	}
	again := mustDump(t, newSource(t, Config{URL: other.URL(there, "root")}))
	if d := differ(strings.ReplaceAll(again.plain(t), there, db), m.plain(t)); d != "" {
		t.Errorf("dumped from a server with other settings: %s", d)
	}
}

func TestARowOfManyMegabytes(t *testing.T) {
	srv := mariadbtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE t (i INT PRIMARY KEY, b LONGBLOB); INSERT INTO t VALUES (1, REPEAT(X'00FF1127', 5000000)), (2, 'small')")
	m := mustDump(t, newSource(t, Config{URL: srv.URL(db, "root")}))
	to := srv.CreateDatabase(t)
	if _, err := Restore(t.Context(), m, Target{URL: srv.URL(to, "root"), Verify: true}); err != nil {
		t.Fatal(err)
	}
	if want, got := srv.Query(t, db, "SELECT MD5(b) FROM t"), srv.Query(t, to, "SELECT MD5(b) FROM t"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// One more row, and one that grew, change little of the text.
func TestStatementsEndWhereTheyDid(t *testing.T) {
	write := func(change func(i int) string) []byte {
		w := newRowWriter(table{Name: "t", columns: []column{{name: "x", form: formText, charset: "utf8mb4"}}})
		for i := range 20000 {
			for _, v := range strings.Fields(change(i)) {
				if err := w.add([]driver.Value{[]byte(v)}); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.end()
		return w.out
	}
	row := func(i int) string { return fmt.Sprintf("row-%d", i*7919) }
	before := write(row)
	after := write(func(i int) string {
		switch i {
		case 5000:
			return row(i) + " inserted"
		case 10000:
			return row(i) + "-which-grew"
		case 15000:
			return ""
		}
		return row(i)
	})
	lines := map[string]int{}
	for l := range bytes.Lines(before) {
		lines[string(l)]++
	}
	changed := 0
	for l := range bytes.Lines(after) {
		if lines[string(l)]--; lines[string(l)] < 0 {
			changed++
		}
	}
	if changed == 0 || changed > 10 {
		t.Errorf("%d lines changed", changed)
	}
	if n := bytes.Count(before, []byte("INSERT")); n < 40 || n > 160 {
		t.Errorf("20000 rows in %d statements", n)
	}
}

func TestValuesOutsideTheirCharacterSetAreTold(t *testing.T) {
	w := newRowWriter(table{Name: "t", columns: []column{{name: "x", form: formText, charset: "utf8mb4"}}})
	if err := w.add([]driver.Value{[]byte("a\xff")}); err != nil {
		t.Fatal(err)
	}
	if w.unreadable != 1 || !strings.Contains(string(w.out), "(_utf8mb4 0x61ff)") {
		t.Errorf("%d, %s", w.unreadable, w.out)
	}
	for _, v := range []driver.Value{[]byte("1; DROP"), []byte(""), []byte("--1"), "text", true} {
		w := newRowWriter(table{Name: "t", columns: []column{{name: "x", form: formPlain}}})
		if err := w.add([]driver.Value{v}); err == nil {
			t.Errorf("%v is written as a number: %s", v, w.out)
		}
	}
}

func TestARowThatNoServerTakesIsTold(t *testing.T) {
	for longest, want := range map[int]int{0: 0, 16 << 20: 0, 1<<30 - 2000: 0, 1<<30 - 1000: 1, 1 << 31: 1} {
		w := &rowWriter{longest: longest}
		if got := w.unwritable(table{Name: "t"}); len(got) != want {
			t.Errorf("%d bytes: %q", longest, got)
		}
	}
}
