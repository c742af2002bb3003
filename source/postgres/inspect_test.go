package postgres

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

func TestInspectedCopyIsWhatWasRecorded(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	to := srv.CreateDatabase(t)
	target := Target{URL: srv.URL(to, "postgres"), Jobs: 3}
	mustRestore(t, m, target)
	want, err := Recorded(m)
	if err != nil {
		t.Fatal(err)
	}
	inspect := func() Content {
		c, err := Inspect(t.Context(), m, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	got := inspect()
	if !maps.Equal(got.Facts, want.Facts) || len(got.Facts) < 18 {
		t.Errorf("facts %v\nwant %v", got.Facts, want.Facts)
	}
	if got.ObjectHash != want.ObjectHash || !slices.Equal(got.Objects, want.Objects) || !maps.Equal(got.Sequences, want.Sequences) ||
		!maps.Equal(got.Extensions, want.Extensions) || got.Encoding != want.Encoding || got.Locale != want.Locale || got.Major != want.Major {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, s := range m.Streams() {
		var tally Tally
		if s.Kind == source.KindRows {
			tally.Write(m.data[s.Name])
			if tally.Target != got.Targets[s.Facts.Object] {
				t.Errorf("stream of %s is of %q, the copy has %q", s.Facts.Object, tally.Target, got.Targets[s.Facts.Object])
			}
		}
	}
	tables, ok := want.Tables()
	for _, n := range tables {
		if _, has := want.Facts[n]; !has {
			t.Errorf("the catalogue lists %s, no stream has it", n)
		}
	}
	if !ok || len(tables) < 15 {
		t.Errorf("%d tables", len(tables))
	}

	for _, c := range []struct {
		sql  string
		same func(Content) bool
	}{
		{"UPDATE customers SET mail = 'x' WHERE id = 7", func(c Content) bool {
			return c.Facts["public.customers"] == want.Facts["public.customers"]
		}},
		{"DELETE FROM events WHERE id = 5", func(c Content) bool {
			return c.Facts["public.events_rest"] == want.Facts["public.events_rest"]
		}},
		{"SELECT nextval('free')", func(c Content) bool { return maps.Equal(c.Sequences, want.Sequences) }},
		{"DROP INDEX events_id_idx", func(c Content) bool { return c.ObjectHash == want.ObjectHash }},
		{"SELECT lo_put(5002, 3, '\\x00')", func(c Content) bool { return c.Facts[LargeObjects] == want.Facts[LargeObjects] }},
		{"CREATE TABLE more (i int)", func(c Content) bool { return maps.Equal(c.Facts, want.Facts) }},
	} {
		srv.Exec(t, to, c.sql)
		if c.same(inspect()) {
			t.Errorf("after %s nothing differs", c.sql)
		}
	}
}

// A tally finds the same as the source's reader did, however the bytes come.
func TestTallyCountsWhatPassesBy(t *testing.T) {
	srv := pgtest.Start(t)
	db := newZoo(t, srv)
	m := mustDump(t, newSource(t, srv.URL(db, "postgres")))
	random := rand.New(rand.NewPCG(1, 2))
	tables := 0
	objects := m.data[objectStream]
	for _, most := range []int{1, 5, 1 << 20} {
		var tally ObjectTally
		for rest := objects; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(most))
			tally.Write(rest[:n])
			rest = rest[n:]
		}
		got, err := tally.End()
		got.Object = LargeObjects
		if want := m.report.Streams[objectStream]; err != nil || got != want || got.Rows != 3 {
			t.Errorf("large objects: %+v %v, want %+v", got, err, want)
		}
	}
	for _, cut := range []int{len(objects) - 2, len(objects) - len("COMMIT;\n\n"), len(objects) / 2, 0} {
		var tally ObjectTally
		tally.Write(objects[:cut])
		if f, err := tally.End(); err == nil {
			t.Errorf("large objects cut to %d of %d bytes: %+v", cut, len(objects), f)
		}
	}
	for _, s := range m.Streams() {
		if s.Kind != source.KindRows {
			continue
		}
		tables++
		text := string(m.data[s.Name])
		for _, most := range []int{1, 3, 7, 4096, 1 << 20} {
			var tally Tally
			for rest := text; rest != ""; {
				n := min(len(rest), 1+random.IntN(most))
				tally.Write([]byte(rest[:n]))
				rest = rest[n:]
			}
			got, err := tally.End()
			got.Object = s.Facts.Object
			if err != nil || got != *s.Facts {
				t.Errorf("%s in pieces of at most %d: %+v %v, want %+v", s.Name, most, got, err, *s.Facts)
			}
		}
		for _, bad := range []string{text[:len(text)-1], text[:len(text)-len(copyEnd)], text[:len(text)/2], "", strings.Repeat("x", 2<<20)} {
			var tally Tally
			tally.Write([]byte(bad))
			if f, err := tally.End(); err == nil {
				t.Errorf("%s cut to %d of %d bytes: %+v", s.Name, len(bad), len(text), f)
			}
		}
	}
	if tables < 15 {
		t.Errorf("%d tables", tables)
	}
}
