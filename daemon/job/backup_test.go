package job

import (
	"encoding/json"
	"slices"
	"testing"

	"strongroom/repo"
	"strongroom/source"
)

func TestLargestStreamsOpenFirstWhereSeveralAreRead(t *testing.T) {
	streams := []source.Stream{{Name: "sql", SizeHint: 9}, {Name: "a", SizeHint: 100}, {Name: "unknown"}, {Name: "b", SizeHint: 300}, {Name: "c", SizeHint: 100}}
	if got, want := opening(streams, 2), []int{3, 1, 4, 0, 2}; !slices.Equal(got, want) {
		t.Errorf("two at once: got %v, want %v", got, want)
	}
	if got, want := opening(streams, 1), []int{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("one at once: got %v, want %v", got, want)
	}
}

func TestAnomaliesAreThoseOfObjectsNotOfStreams(t *testing.T) {
	stream := func(name, object string, rows int64) repo.Stream {
		b, err := json.Marshal(source.Facts{Rows: rows, Object: object})
		if err != nil {
			t.Fatal(err)
		}
		return repo.Stream{Name: name, Facts: b}
	}
	before := &repo.Contents{Streams: []repo.Stream{{Name: "roles.sql"}, stream("data/cut", "cut", 5), stream("data/cut#1", "cut", 7), stream("data/cut#2", "cut", 0),
		stream("data/joined", "joined", 5), stream("data/joined#1", "joined", 7), stream("data/emptied", "emptied", 0), stream("data/emptied#1", "emptied", 4),
		stream("data/gone", "gone", 1), stream("data/gone#1", "gone", 1), stream("data/never", "never", 0), stream("large-objects.sql", "large objects", 3)}}
	now := source.Report{Streams: map[string]source.Facts{
		"data/cut": {Object: "cut"}, "data/cut#1": {Object: "cut", Rows: 1}, // range 0 lost its rows, the table did not; range 2 is gone
		"data/joined": {Object: "joined", Rows: 12}, "data/emptied": {Object: "emptied"}, "data/never": {Object: "never"},
		"large-objects.sql": {Object: "large objects"},
	}}
	got := anomalies(before, nil, now)
	want := []string{"emptied had 4 rows and now has none", "gone had 2 rows and is gone", "large objects had 3 rows and now has none"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
