package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// newSplitSource cuts every table of more than blocks blocks.
func newSplitSource(t testing.TB, url string, blocks int64) *Source {
	t.Helper()
	s, err := New(Config{URL: url, RestrictKey: testKey, TempDir: t.TempDir(), splitOver: 1, rangeBlocks: blocks})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// copyText is what psql's COPY of a table gives.
func copyText(t *testing.T, srv *pgtest.Server, db, what string) string {
	t.Helper()
	return srv.Program(t, "COPY "+what+" TO stdout;", "psql", "-Xqd", db)
}

// ranges joins a table's streams without what stands around their rows.
func (m *memory) ranges(t *testing.T, object string) (text string, n int) {
	t.Helper()
	for _, st := range m.streams {
		if st.Facts == nil || st.Facts.Object != object {
			continue
		}
		_, rows, ok := strings.Cut(string(m.data[st.Name]), " FROM stdin;\n")
		rows, ended := strings.CutSuffix(rows, copyEnd)
		if !ok || !ended {
			t.Fatalf("%s stands not by itself", st.Name)
		}
		if got := int64(strings.Count(rows, "\n")); got != st.Facts.Rows {
			t.Errorf("%s has %d rows, its facts say %d", st.Name, got, st.Facts.Rows)
		}
		want := dataPrefix + object
		if n > 0 {
			want = fmt.Sprintf("%s#%d", want, n)
		}
		if st.Name != want {
			t.Errorf("range %d of %s has the name %s", n, object, st.Name)
		}
		text += rows
		n++
	}
	return text, n
}

// rangesSQL makes tables of some dozen blocks.
const rangesSQL = `
CREATE TABLE parent (id int, v text);
CREATE TABLE child (extra int) INHERITS (parent);
INSERT INTO parent SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, 2000) g;
INSERT INTO child SELECT g, repeat(md5(g::text), 4), g FROM generate_series(1, 3000) g;

CREATE TABLE gen (gone int, id int PRIMARY KEY, up text GENERATED ALWAYS AS ('U' || id) STORED, dropped text, "odd ""name" text, arr int[]);
ALTER TABLE gen DROP COLUMN gone; ALTER TABLE gen DROP COLUMN dropped;
INSERT INTO gen (id, "odd ""name", arr) SELECT g, E'a\tb\\' || repeat('x', g % 90), ARRAY[g, NULL] FROM generate_series(1, 5000) g;
UPDATE gen SET id = id + 100000 WHERE id % 3 = 0; DELETE FROM gen WHERE id % 7 = 0;

CREATE TABLE parts (at date, id int) PARTITION BY RANGE (at);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parts_b PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT '2024-02-03', g FROM generate_series(1, 4000) g;

CREATE TABLE hole (i int, pad text);
INSERT INTO hole SELECT g, repeat('h', 900) FROM generate_series(1, 100) g; DELETE FROM hole WHERE i BETWEEN 20 AND 70; 
CREATE TABLE nocols (); ALTER TABLE nocols ADD gone text; INSERT INTO nocols SELECT repeat('n', 900) FROM generate_series(1, 60); ALTER TABLE nocols DROP gone;
CREATE TABLE small (i int); INSERT INTO small VALUES (1);
`

func TestRangesJoinedAreTheCopyOfTheTable(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, rangesSQL)
	// Whatever the database would have plans be.
	for _, set := range []string{"parallel_setup_cost = 0", "parallel_tuple_cost = 0", "min_parallel_table_scan_size = 0", "max_parallel_workers_per_gather = 4",
		"enable_tidscan = off"} {
		srv.Exec(t, "postgres", "ALTER DATABASE "+db+" SET "+set)
	}
	m := mustDump(t, newSplitSource(t, srv.URL(db, "postgres"), 7))
	for object, want := range map[string]struct {
		what string
		n    int // at least
	}{
		"public.parent":  {"parent", 5},
		"public.child":   {"child", 5},
		"public.gen":     {`gen (id, "odd ""name", arr)`, 5},
		"public.parts_a": {"parts_a", 2},
		"public.parts_b": {"parts_b", 1},
		"public.hole":    {"hole", 2},
		"public.nocols":  {"nocols", 2},
		"public.small":   {"small", 1},
	} {
		got, n := m.ranges(t, object)
		if n < want.n || want.n == 1 && n != 1 {
			t.Errorf("%s is in %d streams, want %d", object, n, want.n)
		}
		wantEqual(t, object, got, copyText(t, srv, db, want.what))
	}
}

// TestRangesKeepTheirOrderBesideAnotherScan: a scan of a table larger than a
// quarter of shared_buffers begins where another one is, unless it is told
// not to.
func TestRangesKeepTheirOrderBesideAnotherScan(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, "CREATE TABLE big (i int, pad text) WITH (fillfactor = 10); INSERT INTO big SELECT g, repeat('p', 500) FROM generate_series(1, 6000) g")
	other := srv.Connect(t, db)
	if err := simple(t.Context(), other, "BEGIN; DECLARE c CURSOR FOR SELECT i FROM big; MOVE 3000 IN c"); err != nil {
		t.Fatal(err)
	}
	inStep := srv.Connect(t, db)
	if err := simple(t.Context(), inStep, "SET synchronize_seqscans = on; SET max_parallel_workers_per_gather = 0"); err != nil {
		t.Fatal(err)
	}
	var first int
	if err := inStep.QueryRow(t.Context(), "SELECT i FROM big LIMIT 1").Scan(&first); err != nil || first == 1 {
		t.Fatalf("the other scan does not disturb: row %d, %v", first, err)
	}
	want := srv.Program(t, "SET synchronize_seqscans = off; COPY big TO stdout;", "psql", "-Xqd", db)
	for _, blocks := range []int64{1000, 1 << 20} {
		got, n := mustDump(t, newSplitSource(t, srv.URL(db, "postgres"), blocks)).ranges(t, "public.big")
		if blocks == 1000 && n < 5 {
			t.Errorf("%d ranges", n)
		}
		wantEqual(t, fmt.Sprintf("in ranges of %d blocks", blocks), got, want)
	}
}

func TestARangeIsATIDRangeScan(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, rangesSQL+"CREATE INDEX ON gen (id) WHERE id > 0; ANALYZE; ALTER DATABASE "+db+" SET enable_tidscan = off")
	s := newSplitSource(t, srv.URL(db, "postgres"), 7)
	snap, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	n := snap.(*snapshot)
	for _, tab := range n.held.tables {
		if tab.Name != "gen" && tab.Name != "parent" {
			continue
		}
		parts := s.cfg.partsOf(tab, n.srv.Major)
		if len(parts) < 3 {
			t.Fatalf("%s: %d parts", tab.Name, len(parts))
		}
		c, err := n.worker(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if _, err := copyTable(t.Context(), c, p, n.srv.Encoding, &limitedBuffer{max: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			// The settings that copyTable made are still there.
			rows, err := c.PgConn().Exec(t.Context(), "EXPLAIN "+rangeQuery(p)).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if plan := string(rows[0].Rows[0][0]); !strings.HasPrefix(plan, "Tid Range Scan on "+tab.Name) {
				t.Errorf("%s: %s", rangeQuery(p), plan)
			}
		}
		n.putWorker(c, true)
	}
}

func TestWhatIsCutIntoRanges(t *testing.T) {
	c := Config{splitOver: 2 << 30, rangeBlocks: 131072}
	big := table{Object: "public.t", Heap: true, HasData: true, Blocks: 300000, Size: 300000 * 8192}
	for _, tc := range []struct {
		what  string
		major int
		edit  func(*table)
		want  string
	}{
		{"three", 15, func(*table) {}, "data/public.t[0,131072) data/public.t#1[131072,262144) data/public.t#2[262144,0)"},
		{"before 14 there is no such scan", 13, func(*table) {}, "data/public.t[0,0)"},
		{"the limit itself", 15, func(t *table) { t.Blocks, t.Size = 262144, 2<<30 }, "data/public.t[0,0)"},
		{"one more", 15, func(t *table) { t.Blocks, t.Size = 262145, 2<<30+8192 }, "data/public.t[0,131072) data/public.t#1[131072,262144) data/public.t#2[262144,0)"},
		{"another access method", 15, func(t *table) { t.Heap = false }, "data/public.t[0,0)"},
		{"some rows of an extension's table", 15, func(t *table) { t.Where = "WHERE id > 5" }, "data/public.t[0,0)"},
		{"large values, few blocks", 15, func(t *table) { t.Blocks = 131072 }, "data/public.t[0,0)"},
	} {
		tab := big
		tc.edit(&tab)
		var got []string
		var size int64
		for _, p := range c.partsOf(tab, tc.major) {
			got = append(got, fmt.Sprintf("%s[%d,%d)", p.name, p.first, p.end))
			size += p.size
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s: got %s", tc.what, s)
		}
		if size < tab.Size*99/100 || size > tab.Size {
			t.Errorf("%s: parts have %d bytes, the table %d", tc.what, size, tab.Size)
		}
	}
}

func TestRestoreOfRanges(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, rangesSQL)
	m := mustDump(t, newSplitSource(t, srv.URL(db, "postgres"), 7))
	to := srv.CreateDatabase(t)
	rep := mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Jobs: 3, Verify: true})
	wantSameDatabase(t, srv, to, srv, db)
	if rep.Tables != 8 || rep.Verified != 8 {
		t.Errorf("report %+v", rep)
	}
	psql := srv.CreateDatabase(t)
	srv.Program(t, m.concat(), "psql", "-Xq", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", psql)
	wantSameDatabase(t, srv, psql, srv, db)

	one := srv.CreateDatabase(t)
	rep = mustRestore(t, m, Target{URL: srv.URL(one, "postgres"), Only: []string{"public.gen"}, Verify: true})
	if got, want := srv.Query(t, one, "SELECT count(*) FROM gen"), srv.Query(t, db, "SELECT count(*) FROM gen"); got != want || rep.Tables != 1 || rep.Verified != 1 {
		t.Errorf("got %s rows, want %s; report %+v", got, want, rep)
	}

	// A row that changed in one range is found though the table has as many.
	const second = "data/public.gen#1"
	row := between(string(m.data[second]), "FROM stdin;\n", "\t")
	m.data[second] = []byte(strings.Replace(string(m.data[second]), "\n"+row+"\t", "\n-7\t", 1))
	_, err := Restore(t.Context(), m, Target{URL: srv.URL("made_for_it", "postgres"), Create: true, Verify: true})
	if err == nil || !strings.Contains(err.Error(), "verify table public.gen") {
		t.Errorf("got %v", err)
	}
}

func TestFactsAddUp(t *testing.T) {
	var all source.Facts
	sum := new(big.Int)
	for i := range 40 {
		h := sha256.Sum256([]byte{byte(i)})
		f := source.Facts{Rows: int64(i), RowHash: hex.EncodeToString(h[:16]), Object: "o"}
		if sum.Add(sum, new(big.Int).SetBytes(h[:16])); i == 0 {
			all = f
		} else {
			all = all.Plus(f)
		}
	}
	sum.And(sum, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)))
	if want := (source.Facts{Rows: 780, RowHash: fmt.Sprintf("%032x", sum), Object: "o"}); all != want {
		t.Errorf("got %+v, want %+v", all, want)
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("0", 34)} {
		if got := all.Plus(source.Facts{Rows: 1, RowHash: bad}); got.RowHash != "" || got.Rows != 781 {
			t.Errorf("with %q: %+v", bad, got)
		}
	}
}

func TestStreamsStandInDumpOrderAndSayTheirSize(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, rangesSQL)
	snap, err := newSplitSource(t, srv.URL(db, "postgres"), 7).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	var names []string
	hints := map[string]int64{}
	for _, s := range snap.Streams() {
		names = append(names, s.Name)
		hints[s.Name] = s.SizeHint
	}
	order := []string{"roles.sql", "pre-data.sql", "data/public.child", "data/public.child#1", "data/public.gen", "data/public.hole", "data/public.small", "post-data.sql"}
	last := -1
	for _, name := range order {
		i := slices.Index(names, name)
		if i <= last {
			t.Errorf("%s is in place %d of %q", name, i, names)
		}
		last = i
	}
	if hints["data/public.child"] != 7*8192 || hints["data/public.small"] != 8192 {
		t.Errorf("sizes %v", hints)
	}
}
