package repo

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// writeIndex writes an index with sorting runs of that many entries.
func writeIndex(t *testing.T, dir, name string, run int, ids []chunkID) *chunkIndex {
	t.Helper()
	w, err := newIndexWriter(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	w.run = run
	var batch []byte
	for i, id := range ids {
		batch = appendRecord(batch, id, extentOf(i))
		if i%100 == 99 {
			w.add(batch)
			batch = nil
		}
	}
	w.add(batch)
	if err := w.finish(); err != nil {
		t.Fatal(err)
	}
	x, err := openIndex(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.close)
	return x
}

// extentOf is the extent of the i-th chunk: it says which it is.
func extentOf(i int) Extent {
	return Extent{Block: uint32(i), Offset: uint32(i % 1000), Length: 1 + uint32(i%5)}
}

func randomID(r *rand.Rand) (id chunkID) {
	for i := 0; i < len(id); i += 8 {
		binary.BigEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

func TestLookupsAgreeWithAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	front := func(f uint64, n int) []chunkID { // n ids that begin alike
		ids := make([]chunkID, n)
		for i := range ids {
			ids[i] = randomID(r)
			binary.BigEndian.PutUint64(ids[i][:], f)
		}
		return ids
	}
	many := func(n int) []chunkID {
		ids := make([]chunkID, n)
		for i := range ids {
			ids[i] = randomID(r)
		}
		return ids
	}
	same := make([]chunkID, 3*fenceEvery+7)
	for i := range same {
		same[i] = chunkID{5}
	}
	mixed := append(append(append(many(1000), front(1<<63, 2*fenceEvery+3)...), many(700)...), same...)
	r.Shuffle(len(mixed), func(a, b int) { mixed[a], mixed[b] = mixed[b], mixed[a] })
	cases := map[string][]chunkID{
		"none": nil, "one": many(1), "a page": many(fenceEvery), "a page and one": many(fenceEvery + 1), "two pages less one": many(2*fenceEvery - 1),
		"many": many(5000), "one front": front(77, 4*fenceEvery), "lowest front": append(front(0, 300), many(50)...),
		"highest front": append(many(50), front(1<<64-1, 300)...), "one id": same, "mixed": mixed,
	}
	for name, ids := range cases {
		for _, run := range []int{1, 3, fenceEvery, 1000, sortRun} {
			if run == 1 && len(ids) > 600 {
				continue // a run is a buffer
			}
			x := writeIndex(t, t.TempDir(), "x", run, ids)
			first, all := map[chunkID]int{}, map[chunkID]map[Extent]bool{}
			for i, id := range ids {
				if _, ok := first[id]; !ok {
					first[id], all[id] = i, map[Extent]bool{}
				}
				all[id][extentOf(i)] = true
			}
			var inOrder predictor
			inOrder.x = x
			for i, id := range ids {
				if e, ok := inOrder.lookup(id); !ok || !all[id][e] || len(all[id]) == 1 && e != extentOf(i) {
					t.Fatalf("%s, runs of %d: chunk %d is %+v, %v", name, run, i, e, ok)
				}
			}
			for range 300 {
				id := randomID(r)
				if len(ids) > 0 && r.IntN(2) == 0 {
					id = ids[r.IntN(len(ids))] // one that is there
					if r.IntN(3) == 0 {
						id[8+r.IntN(24)] ^= 1 // or one like it
					}
				}
				p := predictor{x: x} // without a prediction: by search alone
				want, known := first[id]
				if e, ok := p.search(id); ok != known || ok && e != extentOf(want) {
					t.Fatalf("%s, runs of %d: search %x gives %+v, %v, want %v", name, run, id[:9], e, ok, known)
				}
			}
		}
	}
}

// The sorted file is the same whatever the length of a run.
func TestTheExternalSortDoesNotDependOnItsRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	ids := make([]chunkID, 3000)
	for i := range ids {
		ids[i] = randomID(r)
		ids[i][0] = byte(r.IntN(3)) // many neighbours
	}
	dir := t.TempDir()
	var want string
	for _, run := range []int{7, 100, 2999, 3000, 3001, sortRun} {
		name := fmt.Sprint("x", run)
		writeIndex(t, dir, name, run, ids)
		b := string(readFile(t, filepath.Join(dir, name+".sorted")))
		if want == "" {
			want = b
		}
		if b != want || len(b) != len(ids)*sortRecord {
			t.Errorf("runs of %d: another file", run)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.runs")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// Any damage to either file makes lookups miss; it never makes one lie.
func TestADamagedIndexNeverLies(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	ids := make([]chunkID, 700)
	place := map[chunkID]Extent{}
	for i := range ids {
		ids[i] = randomID(r)
		place[ids[i]] = extentOf(i)
	}
	dir := t.TempDir()
	writeIndex(t, dir, "x", 100, ids)
	good := map[string][]byte{}
	for _, ext := range []string{".chunks", ".sorted"} {
		good[ext] = readFile(t, filepath.Join(dir, "x"+ext))
	}
	for round := range 300 {
		for ext, b := range good {
			b = append([]byte(nil), b...)
			if other := ".chunks.sorted"[len(ext)*(round%2):]; other[:7] == ext {
				for range 1 + round {
					b[r.IntN(len(b))] ^= 1 << r.IntN(8)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "y"+ext), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		x, err := openIndex(dir, "y")
		if err != nil {
			t.Fatal(err)
		}
		p, found := predictor{x: x}, 0
		for _, id := range ids {
			if e, ok := p.lookup(id); ok {
				found++
				if e != place[id] {
					t.Fatalf("round %d: chunk %x is %+v, was %+v", round, id[:4], e, place[id])
				}
			}
		}
		if round < 3 && found < len(ids)/2 {
			t.Errorf("round %d: only %d chunks were found", round, found)
		}
		x.close()
	}
	for ext, b := range good {
		for _, n := range []int{0, 1, len(b) / 2, len(b) - 1, len(b) - 16} {
			if err := os.WriteFile(filepath.Join(dir, "x"+ext), b[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if x, err := openIndex(dir, "x"); err == nil {
				t.Errorf("%s cut to %d of %d bytes was opened", ext, n, len(b))
				x.close()
			}
		}
		os.WriteFile(filepath.Join(dir, "x"+ext), b, 0o600)
	}
}

// An index that was open when its files were cut misses, no more.
func TestAnIndexThatShrinksUnderItsReaderMisses(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	ids := make([]chunkID, 1000)
	for i := range ids {
		ids[i] = randomID(r)
	}
	dir := t.TempDir()
	x := writeIndex(t, dir, "x", sortRun, ids)
	for _, ext := range []string{".chunks", ".sorted"} {
		if err := os.Truncate(filepath.Join(dir, "x"+ext), 1000); err != nil {
			t.Fatal(err)
		}
		p := predictor{x: x}
		for i, id := range ids {
			if e, ok := p.lookup(id); ok && e != extentOf(i) {
				t.Fatalf("chunk %d is %+v", i, e)
			}
		}
	}
}

func TestLookupsFromManyGoroutines(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	ids := make([]chunkID, 2000)
	for i := range ids {
		ids[i] = randomID(r)
	}
	x := writeIndex(t, t.TempDir(), "x", 500, ids)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			p := predictor{x: x}
			for i := g; i < len(ids); i += 1 + g {
				if e, ok := p.lookup(ids[i]); !ok || e != extentOf(i) {
					t.Errorf("chunk %d is %+v, %v", i, e, ok)
					return
				}
			}
		})
	}
	wg.Wait()
}

// What a run keeps in memory of its own chunks has a bound.
func TestRecentChunksAreBounded(t *testing.T) {
	c := &recentChunks{m: map[chunkID]Extent{}}
	r := rand.New(rand.NewPCG(13, 14))
	for i := range 3 * recentLimit {
		id := randomID(r)
		c.add(id, extentOf(i))
		if i%1000 == 0 {
			c.add(id, extentOf(i)) // the same once more
		}
		if e, ok := c.lookup(id); !ok || e != extentOf(i) {
			t.Fatalf("chunk %d is forgotten at once", i)
		}
	}
	if len(c.m) > recentLimit || len(c.ring) > recentLimit {
		t.Errorf("%d chunks are kept", len(c.m))
	}
}
