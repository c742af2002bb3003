package main

import (
	"encoding/json"
	"fmt"
	"testing"

	"strongroom/repo"
	"strongroom/source"
)

func contents(t *testing.T, streams ...repo.Stream) *repo.Contents {
	t.Helper()
	return &repo.Contents{Streams: streams}
}

func rowsStream(t *testing.T, name, object string, rows, length int64, hash string) repo.Stream {
	t.Helper()
	b, err := json.Marshal(source.Facts{Rows: rows, Object: object, RowHash: fmt.Sprintf("%032x", rows)})
	if err != nil {
		t.Fatal(err)
	}
	return repo.Stream{Name: name, Kind: "rows", Length: length, BLAKE3: hash, Facts: b}
}

func TestRangesOfATableAreOneItem(t *testing.T) {
	c := contents(t, repo.Stream{Name: "pre-data.sql", Length: 3, BLAKE3: "a"}, rowsStream(t, "data/t", "t", 2, 20, "b"),
		rowsStream(t, "data/t#1", "t", 3, 30, "c"), rowsStream(t, "data/u", "u", 1, 9, "d"), repo.Stream{Name: "post-data.sql", Length: 4, BLAKE3: "e"})
	var got string
	for _, it := range itemsOf(c) {
		rows := int64(-1)
		if it.Facts != nil {
			rows = it.Facts.Rows
		}
		got += fmt.Sprintf("%s %d bytes %d rows %d streams; ", it.Name, it.Length, rows, it.streams)
	}
	if want := "pre-data.sql 3 bytes -1 rows 1 streams; data/t 50 bytes 5 rows 2 streams; data/u 9 bytes 1 rows 1 streams; post-data.sql 4 bytes -1 rows 1 streams; "; got != want {
		t.Errorf("got %s", got)
	}
}

func TestDiffComparesTablesHoweverTheyAreCut(t *testing.T) {
	one := contents(t, rowsStream(t, "data/t", "t", 5, 50, "x"), rowsStream(t, "data/u", "u", 1, 9, "d"))
	two := contents(t, rowsStream(t, "data/t", "t", 2, 30, "y"), rowsStream(t, "data/t#1", "t", 3, 40, "z"), rowsStream(t, "data/u", "u", 1, 9, "d"))
	more := contents(t, rowsStream(t, "data/t", "t", 2, 30, "y"), rowsStream(t, "data/t#1", "t", 4, 45, "w"))
	for _, c := range []struct {
		what string
		x, y *repo.Contents
		want string
	}{
		{"the same", two, two, "[]"},
		{"cut now, the same rows", one, two, "[]"},
		{"no longer cut", two, one, "[]"},
		{"one range changed, a table removed", two, more, "[{data/t changed 1 5} {data/u removed -1 -9}]"},
		{"cut now, with a row more", one, more, "[{data/t changed 1 25} {data/u removed -1 -9}]"},
		{"a table added", more, two, "[{data/t changed -1 -5} {data/u added 1 9}]"},
	} {
		if got := fmt.Sprint(diffStreams(c.x, c.y)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}
