package job

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"strongroom/repo"
	"strongroom/source"
)

func TestAnomalies(t *testing.T) {
	facts := func(rows int64) json.RawMessage {
		b, _ := json.Marshal(source.Facts{Rows: rows})
		return b
	}
	before := &repo.Contents{Detail: json.RawMessage(`{"object_count": 9, "tables": [{"name": "orders", "rows": 500}, {"name": "odd", "rows": 0, "unknown": "collation"}]}`),
		Streams: []repo.Stream{{Name: "pre.sql", Kind: "sql", Length: 1000}, {Name: "a", Packed: 250, Facts: facts(1000)}, {Name: "b", Packed: 900, Facts: facts(1000)}, {Name: "c", Facts: facts(50)}}}
	same := func() ([]repo.Stream, source.Report) {
		return []repo.Stream{{Name: "pre.sql", Kind: "sql", Length: 1000}, {Name: "a", Packed: 260}, {Name: "b", Packed: 910}, {Name: "c"}},
			source.Report{Detail: before.Detail, Streams: map[string]source.Facts{"a": {Rows: 990}, "b": {Rows: 1010}, "c": {Rows: 50}}}
	}
	for _, c := range []struct {
		name   string
		change func(s []repo.Stream, r *source.Report)
		want   string
	}{
		{"a week like any", func([]repo.Stream, *source.Report) {}, ""},
		{"half of the rows", func(_ []repo.Stream, r *source.Report) { r.Streams["a"] = source.Facts{Rows: 499} }, "a had 1000 rows and now has 499"},
		{"a third of all rows, no table alone", func(_ []repo.Stream, r *source.Report) {
			r.Streams["a"], r.Streams["b"] = source.Facts{Rows: 600}, source.Facts{Rows: 700}
		}, "all together had 2050 rows and now have 1350"},
		{"a small table shrinks", func(_ []repo.Stream, r *source.Report) { r.Streams["c"] = source.Facts{Rows: 20} }, ""},
		{"a small table empties", func(_ []repo.Stream, r *source.Report) { r.Streams["c"] = source.Facts{} }, "c had 50 rows and now has none"},
		{"a table of a database in one stream", func(_ []repo.Stream, r *source.Report) {
			r.Detail = json.RawMessage(strings.Replace(string(r.Detail), "500", "0", 1))
		}, "table orders had 500 rows and now has none"},
		{"an object fewer", func(_ []repo.Stream, r *source.Report) {
			r.Detail = json.RawMessage(strings.Replace(string(r.Detail), "9", "8", 1))
		}, "the schema had 9 objects and now has 8"},
		{"less SQL", func(s []repo.Stream, _ *source.Report) { s[0].Length = 800 }, "the SQL of the schema had 1000 bytes and now has 800"},
		{"ciphertext", func(s []repo.Stream, _ *source.Report) { s[1].Packed = 450 }, `stream "a" compressed to 25.0 % and now to 45.0 %`},
		{"what never compressed", func(s []repo.Stream, _ *source.Report) { s[2].Packed = 1000 }, ""},
		{"compresses better", func(s []repo.Stream, _ *source.Report) { s[1].Packed = 100 }, ""},
	} {
		s, r := same()
		c.change(s, &r)
		got := strings.Join(anomalies(before, s, r), "\n")
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSizesBeyondThreeDeviations(t *testing.T) {
	history := func(read ...int64) (out []*repo.Snapshot) {
		for _, n := range read {
			out = append(out, &repo.Snapshot{Entry: &repo.Catalogue{Read: n << 20}})
		}
		return out
	}
	for _, c := range []struct {
		history []*repo.Snapshot
		now     int64 // MiB
		odd     bool
	}{
		{history(100, 101, 102, 103, 104, 105), 106, false},
		{history(100, 101, 102, 103, 104, 105), 114, false}, // a twentieth is noise
		{history(100, 101, 102, 103, 104, 105), 130, true},
		{history(100, 101, 102, 103, 104, 105), 60, true},
		{history(100, 150, 90, 160, 100, 140), 180, false}, // it varies
		{history(100, 150, 90, 160, 100, 140), 250, true},
		{history(10, 20, 30, 40, 50, 60, 70, 80), 90, false}, // it grows
		{history(100, 100, 100, 100), 900, false},            // too few to tell
	} {
		got := sizes(c.history, []repo.Stream{{Length: c.now << 20}})
		if len(got) > 0 != c.odd {
			t.Errorf("%d MiB after %d: %q, want %v", c.now, len(c.history), got, c.odd)
		}
	}
	if got := sizes(history(0, 0, 0, 0, 0, 0), []repo.Stream{{Length: 10 << 10}}); len(got) > 0 {
		t.Errorf("a few bytes: %q", got)
	}
}

func TestManyAnomaliesAreCounted(t *testing.T) {
	before := &repo.Contents{}
	for i := range 100 {
		before.Streams = append(before.Streams, repo.Stream{Name: fmt.Sprint("t", i), Facts: json.RawMessage(`{"rows": 5}`)})
	}
	if got := anomalies(before, nil, source.Report{}); len(got) != maxNamed+1 || !strings.Contains(got[maxNamed], "80 more") {
		t.Errorf("%q", got)
	}
}
