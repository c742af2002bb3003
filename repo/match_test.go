package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rows is a table whose rows stay where they are unless a week moves them.
type rows struct {
	r    *rand.Rand
	list [][]byte
	free []int
	next int
}

func newRows(seed uint64, size int) *rows {
	t := &rows{r: rand.New(rand.NewPCG(seed, 7))}
	for n := 0; n < size; {
		row := t.row()
		t.list = append(t.list, row)
		n += len(row)
	}
	return t
}

func (t *rows) row() []byte {
	t.next++
	b := fmt.Appendf(nil, "%d\tcustomer %d\t%x\t2026-%02d-%02d\t", t.next, t.r.IntN(1e6), t.r.Uint32(), t.r.IntN(12)+1, t.r.IntN(28)+1)
	for range 8 + t.r.IntN(30) {
		b = fmt.Appendf(b, "w%d ", t.r.IntN(4000))
	}
	return append(b, '\n')
}

// week updates, deletes and adds rows as a database does: what is updated or
// new takes the place of what is dead, else the end.
func (t *rows) week(updates, deletes, adds int) {
	var dead []int
	put := func(row []byte) {
		if n := len(t.free); n > 0 {
			t.list[t.free[n-1]], t.free = row, t.free[:n-1]
			return
		}
		t.list = append(t.list, row)
	}
	for range updates {
		i := t.r.IntN(len(t.list))
		if row := bytes.Clone(t.list[i]); len(row) > 30 {
			copy(row[len(row)-20:], fmt.Sprintf("%016x", t.r.Uint64()))
			t.list[i], dead = nil, append(dead, i)
			put(row)
		}
	}
	for range deletes {
		if i := t.r.IntN(len(t.list)); t.list[i] != nil {
			t.list[i], dead = nil, append(dead, i)
		}
	}
	for range adds {
		put(t.row())
	}
	t.r.Shuffle(len(dead), func(i, j int) { dead[i], dead[j] = dead[j], dead[i] })
	t.free = append(t.free, dead...)
}

func (t *rows) dump() []byte { return bytes.Join(t.list, nil) }

func TestAChangedRowCostsItsOwnBytes(t *testing.T) {
	w := newWorld(t, 3)
	x := newRows(1, 12<<20)
	before := x.dump()
	w.mustSave(namedBytes{"a", before})
	x.week(200, 50, 0)
	after := x.dump()
	second := w.mustSave(namedBytes{"a", after})
	// 200 rows of about 150 bytes are new; by whole chunks nearly all would be.
	if second.Catalogue.New > 60<<10 {
		t.Errorf("%d bytes are new", second.Catalogue.New)
	}
	w.mustRestore("", namedBytes{"a", after})
	third := w.mustSave(namedBytes{"a", before}, namedBytes{"b", after})
	if third.Catalogue.New > 60<<10 {
		t.Errorf("of what was there before, and of a stream that changed its name, %d bytes are new", third.Catalogue.New)
	}
	w.mustRestore("", namedBytes{"a", before}, namedBytes{"b", after})
	w.mustRestore(second.ID, namedBytes{"a", after})
}

// Without the base cache, or with one that is wrong, a snapshot stores more and
// is as good.
func TestTheBaseCacheIsOnlyACache(t *testing.T) {
	x := newRows(2, 3<<20)
	before := x.dump()
	x.week(60, 20, 60)
	after := x.dump()
	ways := map[string]func(string, []byte){
		"gone":      func(name string, _ []byte) { os.Remove(name) },
		"cut":       func(name string, b []byte) { os.Truncate(name, int64(len(b)/2)) },
		"flipped":   func(name string, b []byte) { b[len(b)/2] ^= 1; os.WriteFile(name, b, 0o600) },
		"all wrong": func(name string, b []byte) { os.WriteFile(name, random(len(b), 3), 0o600) },
		"a folder":  func(name string, _ []byte) { os.Remove(name); os.MkdirAll(filepath.Join(name, "x"), 0o700) },
	}
	for name, spoil := range ways {
		for _, moment := range []string{"before", "after begin", "while it reads", "before commit"} {
			t.Run(name+" "+moment, func(t *testing.T) {
				w := newSmallWorld(t, 2)
				first := w.mustSave(namedBytes{"a", before})
				strike := func(now string) {
					if now != moment {
						return
					}
					files, _ := filepath.Glob(filepath.Join(w.state, cacheDir, "*", "*"))
					if len(files) < 2 {
						t.Fatalf("cache files %v", files)
					}
					for _, f := range files {
						if b, err := os.ReadFile(f); err == nil {
							spoil(f, b)
						}
					}
				}
				strike("before")
				ctx := context.Background()
				s, err := w.r.Begin(ctx, w.config())
				if err != nil {
					t.Fatal(err)
				}
				strike("after begin")
				r := io.MultiReader(bytes.NewReader(after[:2<<20]), onRead(func() { strike("while it reads") }), bytes.NewReader(after[2<<20:]))
				if _, err := s.Add(ctx, StreamSpec{Name: "a"}, r); err != nil {
					t.Fatal(err)
				}
				strike("before commit")
				saved, err := s.Commit(ctx, Commit{})
				if err != nil {
					t.Fatal(err)
				}
				if saved.Generation != first.Generation {
					t.Error("a new generation began")
				}
				w.mustRestore("", namedBytes{"a", after})
				w.mustRestore(first.ID, namedBytes{"a", before})
				// And the one after it, on what is left.
				w.mustSave(namedBytes{"a", before})
				w.mustRestore("", namedBytes{"a", before})
			})
		}
	}
}

// onRead calls f when it is read, and is empty.
type onRead func()

func (f onRead) Read([]byte) (int, error) { f(); return 0, io.EOF }

// The cache dies with its generation and keeps to its limit.
func TestTheBaseCacheIsBoundedAndDiesWithItsGeneration(t *testing.T) {
	w := newSmallWorld(t, 1)
	w.per = 2
	size := func() (n int64, dirs []string) {
		dirs, _ = filepath.Glob(filepath.Join(w.state, cacheDir, "*"))
		files, _ := filepath.Glob(filepath.Join(w.state, cacheDir, "*", "*"))
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size()
		}
		return n, dirs
	}
	for i := range 3 {
		w.mustSave(namedBytes{"a", random(3<<20, byte(i))})
	}
	if n, dirs := size(); len(dirs) != 1 || n < 3<<20 || n > 4<<20 {
		t.Errorf("%d bytes in %v after a new generation began", n, dirs)
	}
	w.cacheLimit = 1 << 20
	w.mustSave(namedBytes{"a", random(3<<20, 9)})
	if n, _ := size(); n > 4<<20 {
		t.Errorf("%d bytes, the limit is 1 MiB more than there were", n)
	}
	w.mustSave(namedBytes{"a", random(3<<20, 10)})
	if n, dirs := size(); len(dirs) != 1 || n > 1<<20 {
		t.Errorf("%d bytes in %v, the limit is 1 MiB", n, dirs)
	}
	w.cacheLimit = -1
	w.mustSave(namedBytes{"a", random(3<<20, 10)})
	if n, dirs := size(); len(dirs) != 0 {
		t.Errorf("%d bytes in %v, there is to be none", n, dirs)
	}
	w.mustRestore("", namedBytes{"a", random(3<<20, 10)})
}

// What a restore costs is bounded when the snapshot is written: a test of 26
// weeks and of a table put into another order reads it back and counts.
func TestARestoreDecodesFewBlocksTwice(t *testing.T) {
	size, weeks := 48<<20, 26
	if testing.Short() {
		t.Log("short: 4 weeks of a small table only")
		size, weeks = 8<<20, 4
	}
	w := newWorld(t, 1)
	x := newRows(3, size)
	updates, deletes, adds := len(x.list)*15/1000, len(x.list)*3/1000, len(x.list)*3/100
	var week2 int64
	for week := 1; week <= weeks; week++ {
		data := x.dump()
		saved := w.mustSave(namedBytes{"a", data})
		if saved.Sequence != uint32(week) {
			t.Fatalf("week %d: sequence %d: %s", week, saved.Sequence, w.logged.String())
		}
		switch week {
		case 2:
			week2 = saved.Catalogue.Stored
			w.mustDecodeFew(t, "week 2", data)
		case 13, weeks:
			w.mustDecodeFew(t, fmt.Sprintf("week %d, which stored %d bytes, week 2 %d", week, saved.Catalogue.Stored, week2), data)
			// Every row is as likely to change here, and nothing stays near where it
			// was: 1.6 is what that gives.
			if saved.Catalogue.Stored*4 > week2*7 {
				t.Errorf("week %d stored %d bytes, week 2 %d", week, saved.Catalogue.Stored, week2)
			}
		}
		x.week(updates, deletes, adds)
	}
	w.per = 99
	list := slices.DeleteFunc(x.list, func(b []byte) bool { return b == nil })
	x.r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	data := bytes.Join(list, nil)
	w.mustSave(namedBytes{"a", data})
	w.mustDecodeFew(t, "after all rows changed place", data)
}

func (w *world) mustDecodeFew(t *testing.T, when string, want []byte) {
	t.Helper()
	ctx := context.Background()
	l := w.list()
	s := l.Snapshots[len(l.Snapshots)-1]
	o, err := l.Open(ctx, s, w.keys.m[s.Generation])
	if err != nil {
		t.Fatal(err)
	}
	st := o.streams["a"]
	distinct := map[uint32]bool{}
	next := o.extents.extents(ctx, st.first, st.Extents)
	for {
		e, err := next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		distinct[e.Block] = true
	}
	before := o.blocks.fetched
	r, err := o.Read(ctx, "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: other bytes (%v)", when, err)
	}
	decodes := o.blocks.fetched - before
	t.Logf("%s: %d extents, %d decodes of %d blocks", when, st.Extents, decodes, len(distinct))
	if decodes*10 > len(distinct)*13+40 {
		t.Errorf("%s: %d decodes of %d blocks", when, decodes, len(distinct))
	}
}

func TestAGenerationThatIsOutgrownEnds(t *testing.T) {
	w := newWorld(t, 1)
	full := random(18<<20, 1)
	save := func(epoch, sequence uint32, began string, parts ...[]byte) {
		t.Helper()
		data := bytes.Join(parts, nil)
		s := w.mustSave(namedBytes{"a", data})
		if s.Epoch != epoch || s.Sequence != sequence || !strings.HasPrefix(s.Catalogue.Began, began) || (began == "") != (s.Catalogue.Began == "") {
			t.Fatalf("it is %d.%d, because %q; want %d.%d, %q", s.Epoch, s.Sequence, s.Catalogue.Began, epoch, sequence, began)
		}
		w.mustRestore("", namedBytes{"a", data})
	}
	save(1, 1, "it is the first snapshot", full)
	save(1, 2, "", full, random(17<<20, 2))
	// That was not half of it, and no more than the full one.
	save(1, 3, "", full, random(2<<20, 3))
	save(1, 4, "", full) // of what it has now a full one would be larger
	save(2, 1, "what was stored since its full snapshot", full)
	save(2, 2, "", random(18<<20, 4))
	save(3, 1, "more than half of the last snapshot was new", full)
	w.per = 1
	save(4, 1, "the last one has its 1 snapshots", full)
}
