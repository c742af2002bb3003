package repo

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"strongroom/chunker"
)

var mapKey = bytes.Repeat([]byte{3}, 32)

// sampleMap writes a map of two streams whose pieces are mixed, as those of
// streams that run side by side are.
func sampleMap(t *testing.T, dir string, run int) (m *snapMap, ids map[string][]chunkID) {
	t.Helper()
	w, err := newMapWriter(dir, "m", mapKey)
	if err != nil {
		t.Fatal(err)
	}
	w.fronts.run = run
	numbers := map[string]uint32{"a": w.stream("a"), "b": w.stream("b")}
	ids = map[string][]chunkID{}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 40 {
		name := []string{"a", "b"}[r.IntN(2)]
		u := &unit{seg: chunker.NewSegment()}
		u.seg.Data = u.seg.Data[:1000]
		u.seg.Ends = []int{300, 1000}
		u.seg.Anchors = []chunker.Anchor{{End: 70, Hash: uint32(i) << 8}, {End: 900, Hash: r.Uint32()}}
		for range u.seg.Ends {
			var id chunkID
			binary.BigEndian.PutUint64(id[:], uint64(r.IntN(9))<<60|r.Uint64()>>8) // fronts that are near each other
			binary.BigEndian.PutUint64(id[24:], r.Uint64())
			if i%7 == 3 {
				clear(id[:8]) // several with one front
			}
			u.ids = append(u.ids, id)
		}
		ids[name] = append(ids[name], u.ids...)
		w.addSegment(numbers[name], u, []Extent{{Block: uint32(i), Offset: 5, Length: 600}, {Block: uint32(i), Offset: 2000, Length: 400}})
	}
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	if m, err = openMap(dir, "m", mapKey); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	return m, ids
}

func TestEveryChunkOfAMapIsFound(t *testing.T) {
	for _, run := range []int{1, 3, frontRun} {
		m, ids := sampleMap(t, t.TempDir(), run)
		for name, list := range ids {
			start := m.starts[name]
			inOrder := &mapCursor{view: newBaseView(t.Context(), m, nil), index: m.find(start)}
			for i, id := range list {
				want, n := start+int64(i/2*1000), 300
				if i%2 == 1 {
					want, n = want+300, 700
				}
				alone := &mapCursor{view: newBaseView(t.Context(), m, nil), index: -1}
				for what, c := range map[string]*mapCursor{"in order": inOrder, "by search": alone} {
					if got, ok := c.find(id, n); !ok || got != want {
						t.Fatalf("runs of %d: %s: chunk %d of %s lies at %d (%t), want %d", run, what, i, name, got, ok, want)
					}
				}
				if _, ok := alone.find(id, n+1); ok {
					t.Fatal("a chunk of another length was found")
				}
				id[31] ^= 1
				if _, ok := alone.find(id, n); ok {
					t.Fatal("a chunk that is not there was found")
				}
			}
		}
	}
}

func TestTheExtentsOfARangeAreThoseOfTheTape(t *testing.T) {
	m, ids := sampleMap(t, t.TempDir(), frontRun)
	if want := int64(len(ids["a"])+len(ids["b"])) * 500; m.length != want {
		t.Fatalf("the tape has %d bytes, want %d", m.length, want)
	}
	v := newBaseView(t.Context(), m, nil)
	whole, ok := v.extents(nil, 0, int(m.length))
	if !ok {
		t.Fatal("no extents")
	}
	flat := func(list []Extent) (out [][2]uint32) {
		for _, e := range list {
			for i := range e.Length {
				out = append(out, [2]uint32{e.Block, e.Offset + i})
			}
		}
		return out
	}
	all := flat(whole)
	for _, c := range [][2]int{{0, 1}, {599, 2}, {999, 2}, {12_345, 3000}, {int(m.length) - 1, 1}} {
		got, ok := v.extents(nil, int64(c[0]), c[1])
		if !ok || !slices.Equal(flat(got), all[c[0]:c[0]+c[1]]) {
			t.Errorf("bytes [%d, +%d): %v", c[0], c[1], got)
		}
	}
	if _, ok := v.extents(nil, m.length-1, 2); ok {
		t.Error("extents beyond the end")
	}
	seen := 0
	for off := int64(0); off < m.length; {
		from, to := v.Anchors(off, func(end int64, _ uint32) {
			if end <= off || end > off+1000 {
				t.Errorf("anchor at %d of the piece at %d", end, off)
			}
			seen++
		})
		if from != off || to != off+1000 {
			t.Fatalf("piece [%d, %d) at %d", from, to, off)
		}
		off = to
	}
	if seen != 80 {
		t.Errorf("%d anchors", seen)
	}
	if s := m.finder(); s == nil {
		t.Error("no table of far anchors")
	}
}

// A map under another key, or of which a file is short, is no map.
func TestAMapOfAnotherKeyIsRefused(t *testing.T) {
	dir := t.TempDir()
	sampleMap(t, dir, frontRun)
	if _, err := openMap(dir, "m", bytes.Repeat([]byte{4}, 32)); err == nil {
		t.Error("a map under another key was opened")
	}
	for _, ext := range []string{".map", ".sorted"} {
		b, err := os.ReadFile(filepath.Join(dir, "m"+ext))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 15, len(b) / 2, len(b) - 1} {
			if err := os.WriteFile(filepath.Join(dir, "m"+ext), b[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := openMap(dir, "m", mapKey)
			if err == nil {
				m.close()
			}
			// A shorter list of sorted ids is one in which less is found.
			if err == nil && (ext == ".map" || n%frontRecord != 0) {
				t.Errorf("%s cut to %d of %d bytes was opened", ext, n, len(b))
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "m"+ext), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGroupsOfExtentsHaveOneCoding(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, n := range []int{1, 2, 255, 3000, groupExtents} {
		var list []Extent
		for len(list) < n {
			e := Extent{Block: uint32(r.IntN(400)), Offset: uint32(r.IntN(1 << 19)), Length: uint32(1 + r.IntN(1<<19))}
			if r.IntN(50) == 0 {
				e.Block = r.Uint32()
			}
			list = append(list, e)
		}
		b := encodeGroup(nil, list)
		got, err := decodeGroup(nil, b)
		if err != nil || !slices.Equal(got, list) {
			t.Fatalf("%d extents: other ones came back (%v)", n, err)
		}
	}
}

func FuzzGroup(f *testing.F) {
	f.Add(encodeGroup(nil, []Extent{{1, 2, 3}, {1, 5, 6}, {2, 0, 1}, {1, 11, 1}}))
	f.Add(make([]byte, 22))
	f.Add(bytes.Repeat([]byte{255}, 33))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeGroup(nil, b)
		if err != nil {
			return
		}
		if again := encodeGroup(nil, list); !bytes.Equal(again, b) {
			t.Errorf("%x reads as %v, which is written as %x", b, list, again)
		}
	})
}

func TestRecentChunksForgetTheOldest(t *testing.T) {
	c := newRecentChunks()
	id := func(i int) (id chunkID) { binary.BigEndian.PutUint64(id[:], uint64(i)); return id }
	for i := range recentLimit + 10 {
		c.add(id(i), Extent{Block: uint32(i), Length: 7})
	}
	for i, want := range map[int]bool{0: false, 9: false, 10: true, recentLimit + 9: true} {
		if e, ok := c.lookup(id(i), 7); ok != want || ok && e.Block != uint32(i) {
			t.Errorf("chunk %d: %+v, %t", i, e, ok)
		}
	}
	if _, ok := c.lookup(id(20), 8); ok {
		t.Error("a chunk of another length was found")
	}
	if len(c.m) != recentLimit || len(c.ring) != recentLimit {
		t.Errorf("%d chunks are kept, and %d in the ring", len(c.m), len(c.ring))
	}
}
