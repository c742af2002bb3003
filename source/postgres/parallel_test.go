package postgres

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

func TestATableIsLoadedFrozen(t *testing.T) {
	srv := pgtest.Start(t)
	db := srv.CreateDatabase(t)
	srv.Exec(t, db, `CREATE EXTENSION pg_visibility; CREATE TABLE a (i int, t text); INSERT INTO a SELECT g, repeat('x', 200) FROM generate_series(1, 9000) g;
		CREATE TABLE "we(ird" (i int, "b ( c" text); INSERT INTO "we(ird" SELECT g, repeat('x', 200) FROM generate_series(1, 9000) g; CREATE TABLE tiny (i int); INSERT INTO tiny VALUES (1)`)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	to := srv.CreateDatabase(t)
	mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Verify: true})
	for table, want := range map[string]string{"a": "true", `"we(ird"`: "true", "tiny": "false"} {
		if got := srv.Query(t, to, "SELECT COALESCE(bool_and(all_frozen), false)::text FROM pg_visibility_map('"+table+"')"); got != want {
			t.Errorf("%s: all frozen %s, want %s", table, got, want)
		}
	}
	wantSameDatabase(t, srv, to, srv, db)
}

func TestWhatIsMadeTogether(t *testing.T) {
	entries := []entry{{kind: "CONSTRAINT"}, {kind: "COMMENT", name: "CONSTRAINT k ON t"}, {kind: "INDEX"}, {kind: "COMMENT", name: "INDEX i"}, {kind: "INDEX"},
		{kind: "COMMENT", name: "TABLE t"}, {kind: "INDEX ATTACH"}, {kind: "INDEX"}, {kind: "TRIGGER"}, {kind: "FK CONSTRAINT"}, {kind: "COMMENT", name: "CONSTRAINT f ON t"}, {kind: "FK CONSTRAINT"}}
	var got []int
	for rest := entries; len(rest) > 0; rest = rest[got[len(got)-1]:] {
		got = append(got, run(rest))
	}
	if want := []int{5, 1, 1, 1, 1, 3}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhatAnEntryLocks(t *testing.T) {
	size := map[string]int64{"public.t": 5, `public."a ON b"`: 70, "public.part": 11}
	roots := map[string]string{"public.part": "public.mid", "public.mid": "public.root"}
	for _, c := range []struct {
		kind, sql, want string
	}{
		{"INDEX", "CREATE INDEX i ON public.t USING btree (x);", "[public.t] false 5"},
		{"INDEX", `CREATE UNIQUE INDEX "x ON y" ON ONLY public."a ON b" USING btree (x);`, `[public."a ON b"] false 70`},
		{"INDEX", "CREATE INDEX i ON public.t USING btree (x);\nALTER TABLE public.t CLUSTER ON i;", "[public.t] true 5"},
		{"CONSTRAINT", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT k PRIMARY KEY (id);", "[public.t] true 5"},
		{"FK CONSTRAINT", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.\"a ON b\"(id);", `[public.t public."a ON b"] true 5`},
		{"FK CONSTRAINT", "ALTER TABLE ONLY public.part\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.t(id);", "[public.root public.t] true 11"},
		{"FK CONSTRAINT", "ALTER TABLE public.root\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.mid(id);", "[public.root] true 11"},
		{"CONSTRAINT", "ALTER TABLE ONLY public.part\n    ADD CONSTRAINT k PRIMARY KEY (id);", "[public.part] true 11"},
		{"FK CONSTRAINT", "ALTER TABLE public.t\n    ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.t(id);", "[public.t] true 5"},
	} {
		w := newWork(entry{kind: c.kind, statements: strings.SplitAfter(c.sql, ";\n")}, size, roots)
		if got := fmt.Sprintf("%v %t %d", w.tables, w.exclusive, w.weight); got != c.want {
			t.Errorf("%s: got %s, want %s", c.sql, got, c.want)
		}
	}
}

func TestWorksThatWouldWaitForEachOtherDoNotMeet(t *testing.T) {
	index := func(t string, n int64) *work { return &work{weight: n, tables: []string{t}} }
	key := func(n int64, t ...string) *work { return &work{weight: n, tables: t, exclusive: true} }
	works := []*work{key(9, "a"), index("a", 8), index("a", 7), key(6, "b", "a"), index("b", 5), index("b", 4), key(3, "c")}
	b := newBoard(works)
	first, second, third := b.take(), b.take(), b.take()
	if first != works[0] || second != works[4] || third != works[5] {
		t.Fatalf("took %v, %v, %v", first, second, third) // a is locked, two share b
	}
	if w := b.take(); w != works[6] {
		t.Fatalf("took %v", w)
	}
	got := make(chan *work)
	go func() { got <- b.take() }()
	select {
	case w := <-got:
		t.Fatalf("took %v beside its lock", w)
	case <-time.After(50 * time.Millisecond):
	}
	b.release(first)
	if w := <-got; w != works[1] {
		t.Fatalf("took %v", w)
	}
	if w := b.take(); w != works[2] {
		t.Fatalf("took %v", w)
	}
	for _, w := range []*work{works[1], works[2], second, third} {
		b.release(w)
	}
	if w := b.take(); w != works[3] {
		t.Fatalf("took %v", w)
	}
}

// TestManyKeysAndIndexes has foreign keys that point both ways, also to and
// from partitions, comments, and indexes in another tablespace.
func TestManyKeysAndIndexes(t *testing.T) {
	srv := pgtest.Start(t)
	srv.Program(t, "SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE side LOCATION '';", "psql", "-Xqd", "postgres")
	t.Cleanup(func() { srv.Exec(t, "postgres", "DROP TABLESPACE side") })
	db := srv.CreateDatabase(t)
	var sql strings.Builder
	for i := range 8 {
		fmt.Fprintf(&sql, "CREATE TABLE t%[1]d (id int PRIMARY KEY, other int, part int); INSERT INTO t%[1]d SELECT g, 1 + g %% 100, 1 + g %% 50 FROM generate_series(1, 3000) g;\n", i)
	}
	sql.WriteString("CREATE TABLE p (id int PRIMARY KEY, t int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE p2 PARTITION OF p DEFAULT;\n" +
		"INSERT INTO p SELECT g, g FROM generate_series(1, 200) g;\n")
	for i := range 8 {
		for _, j := range []int{(i + 1) % 8, (i + 7) % 8, i} {
			fmt.Fprintf(&sql, "ALTER TABLE t%[1]d ADD CONSTRAINT f%[1]d_%[2]d FOREIGN KEY (other) REFERENCES t%[2]d; COMMENT ON CONSTRAINT f%[1]d_%[2]d ON t%[1]d IS 'to %[2]d';\n", i, j)
		}
		fmt.Fprintf(&sql, "CREATE INDEX i%[1]d ON t%[1]d (other) TABLESPACE side; CREATE INDEX j%[1]d ON t%[1]d (part); COMMENT ON INDEX i%[1]d IS 'over there';\n"+
			"ALTER TABLE t%[1]d ADD FOREIGN KEY (part) REFERENCES p; ALTER TABLE p ADD CONSTRAINT g%[1]d FOREIGN KEY (t) REFERENCES t%[1]d; ALTER TABLE p1 ADD CONSTRAINT h%[1]d FOREIGN KEY (t) REFERENCES t%[1]d;\n", i)
	}
	srv.Exec(t, db, sql.String()+"ALTER TABLE t0 CLUSTER ON j0; ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_pkey")
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	to := srv.CreateDatabase(t)
	mustRestore(t, m, Target{URL: srv.URL(to, "postgres"), Jobs: 4, Verify: true})
	wantSameDatabase(t, srv, to, srv, db)
}

func TestWhichTablesMayBeEmptiedBeforeTheyAreLoaded(t *testing.T) {
	l := &loader{ranges: map[string]int{"public.t": 1, "public.cut": 3, "ext.config": 1}, detail: detail{Config: []configTable{{Object: "ext.config"}}}}
	for _, c := range []struct {
		object string
		length int64
		want   bool
	}{
		{"public.t", freezeFrom, true}, {"public.t", freezeFrom - 1, false}, {"public.cut", freezeFrom, false}, {"ext.config", freezeFrom, false},
	} {
		if got := l.alone(source.StreamInfo{Length: c.length, Facts: &source.Facts{Object: c.object}}); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
