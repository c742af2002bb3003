package repo

import (
	"bytes"
	"io"
	"testing"
)

// Where little changed, extents alternate between a block of the first week and
// one of the second. A reader asks ahead for as many blocks as ever, and counts
// none twice.
func TestReadersLookAheadByBlocks(t *testing.T) {
	w := newWorld(t, 1)
	data := random(24<<20, 1)
	w.mustSave(namedBytes{"a", data})
	for at := 20 << 10; at+8 < len(data); at += 40 << 10 {
		copy(data[at:], "changed!")
	}
	w.mustSave(namedBytes{"a", data})
	rc, err := w.openNewest().Read(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	r := rc.(*streamReader)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(r, got[:1]); err != nil {
		t.Fatal(err)
	}
	if len(r.blocks) != lookaheadBlocks || r.asked < 4*lookaheadBlocks {
		t.Errorf("%d extents in %d blocks were asked for, want %d blocks", r.asked, len(r.blocks), lookaheadBlocks)
	}
	for n := 1; n < len(got); {
		k, err := r.Read(got[n:min(n+300_000, len(got))])
		if n += k; err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		if len(r.blocks) > lookaheadBlocks || r.asked > len(r.ahead) {
			t.Fatalf("after %d bytes: %d blocks, %d of %d extents", n, len(r.blocks), r.asked, len(r.ahead))
		}
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF || !bytes.Equal(got, data) {
		t.Errorf("%d, %v at the end, or other bytes", n, err)
	}
	if len(r.blocks) != 0 || r.asked != 0 {
		t.Errorf("at the end %d blocks and %d extents count as asked for", len(r.blocks), r.asked)
	}
}
