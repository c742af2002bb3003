package job

import (
	"slices"
	"strings"
	"testing"

	"strongroom/custody/receipt"
	"strongroom/source"
)

func TestWallsAreFindings(t *testing.T) {
	all := []receipt.Wall{{Name: "devices", Tried: "open them", Got: "none", Holds: true}, {Name: "memory", Tried: "look", Got: "max"}, {Name: "swap", Tried: "look", Got: "max"}}
	got := ReaderWalls(all, []string{"memory", "devices"})
	want := source.Findings{
		{Code: "walls", Severity: source.OK, What: "devices: open them: none"},
		{Code: "walls", Severity: source.Note, What: "memory: look: max", Why: "the reader could do that, and [confine] in its file says that it is known"},
		{Code: "walls", Severity: source.Warn, What: "swap: look: max", Why: "the reader could do that", Remedy: "undo what loosened its unit, or name it in [confine] missing, in its file"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := ReaderWalls(nil, nil); len(got) != 1 || got.Worst() != source.Note || !strings.Contains(got[0].What, "has not tried") {
		t.Errorf("nothing tried: %+v", got)
	}
}
