package job

import (
	"testing"
	"time"
)

// Typed by hand from the policy, not from the code.
func TestLevelsAreThoseOfThePolicy(t *testing.T) {
	if len(levels) != 3 {
		t.Errorf("%d levels", len(levels))
	}
	for _, want := range []struct {
		name      string
		snapshots int
		days      int
	}{{"top-secret", 5, 90}, {"secret", 26, 35}, {"confidential", 26, 35}} {
		if n, w := PerGeneration(want.name), Window(want.name); n != want.snapshots || w != time.Duration(want.days)*24*time.Hour {
			t.Errorf("%s: %d snapshots, window %v", want.name, n, w)
		}
	}
}
