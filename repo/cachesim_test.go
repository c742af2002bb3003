package repo

import "testing"

// A stream that goes on in order is never refused because of what lay
// elsewhere, and both together stay within what a restore may cost.
func TestWhatLiesElsewhereDoesNotUseUpTheBudget(t *testing.T) {
	c := newCacheSim()
	far, refused := 0, 0
	for b := range uint32(600) {
		for piece := range 16 {
			e := []Extent{{Block: b, Offset: uint32(piece) << 16, Length: 1 << 16}}
			if !c.accept(e, 1<<16, true) {
				refused++
			}
			c.touch(b)
			// And a long match somewhere else, every time in another block.
			if e := []Extent{{Block: (b*7 + uint32(piece)*31) % 600, Length: 32 << 10}}; c.accept(e, 32<<10, false) {
				far++
				c.touch(e[0].Block)
			}
		}
	}
	if refused > 0 {
		t.Errorf("%d of 9600 pieces in order were refused", refused)
	}
	if distinct := len(c.seen); c.decodes*10 > distinct*13 || far < 40 {
		t.Errorf("%d decodes of %d blocks, %d far matches", c.decodes, distinct, far)
	}
}

func TestWhatCostsMoreThanItSavesIsRefused(t *testing.T) {
	c := newCacheSim()
	c.touch(1)
	for _, k := range []struct {
		what    string
		extents []Extent
		n       int
		near    bool
		want    bool
	}{
		{"a short match at hand", []Extent{{1, 0, 48}}, 48, false, true},
		{"a short match in another block", []Extent{{2, 0, 900}}, 900, true, false},
		{"a longer one", []Extent{{2, 0, 1024}}, 1024, true, true},
		{"the same elsewhere", []Extent{{3, 0, 1024}}, 1024, false, false},
		{"many small extents", []Extent{{1, 0, 9}, {1, 20, 9}, {1, 40, 9}}, 27, true, false},
		{"two blocks for one", []Extent{{4, 0, 700}, {5, 0, 700}}, 1400, true, false},
	} {
		if got := c.accept(k.extents, k.n, k.near); got != k.want {
			t.Errorf("%s: %t", k.what, got)
		}
	}
}
