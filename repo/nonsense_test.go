package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a box with bad memory, or a bug, might sign: nothing of it may crash,
// hang, take all memory or give wrong bytes.
func TestNonsenseInsideASealedManifestIsRefused(t *testing.T) {
	huge := uint32(1<<32 - 1)
	lists := map[string]func(*forgery){
		"extent list overflows":      func(f *forgery) { f.c.ExtentList.Extents = []Extent{{0, huge, 2}} },
		"extent list longer":         func(f *forgery) { f.c.ExtentList.Length = 1 << 40 },
		"block table longer":         func(f *forgery) { f.c.BlockTable.Length = 1 << 32 },
		"block table negative":       func(f *forgery) { f.c.BlockTable.Length = -16 },
		"extent counts overflow":     func(f *forgery) { f.c.Streams[0].Extents, f.c.Streams[1].Extents = 1<<62, 1<<62 },
		"extent count too large":     func(f *forgery) { f.c.Streams[1].Extents = 1<<63 - 1 },
		"stream longer":              func(f *forgery) { f.c.Streams[0].Length = 1 << 50 },
		"stream twice":               func(f *forgery) { f.c.Streams[1].Name = f.c.Streams[0].Name },
		"root beyond its pack":       func(f *forgery) { f.c.Roots[0].Offset = huge },
		"root of a huge block":       func(f *forgery) { f.c.Roots[0].Raw = huge },
		"root of 16 MiB":             func(f *forgery) { f.c.Roots[0].Stored = 1<<24 + f.c.Roots[0].Stored },
		"root of nothing":            func(f *forgery) { f.c.Roots[0] = Root{Block: f.c.Roots[0].Block} },
		"root of an unknown codec":   func(f *forgery) { f.c.Roots[0].Codec = 9 },
		"root twice":                 func(f *forgery) { f.c.Roots = append(f.c.Roots, f.c.Roots[0]) },
		"root in no pack":            func(f *forgery) { f.c.Roots[0].Pack = 77 },
		"no roots":                   func(f *forgery) { f.c.Roots = nil },
		"no packs":                   func(f *forgery) { f.m.Packs = nil },
		"packs swapped":              func(f *forgery) { f.m.Packs[0].ID, f.m.Packs[1].ID = f.m.Packs[1].ID, f.m.Packs[0].ID },
		"a pack of one segment less": func(f *forgery) { f.m.Packs[0].MessageLen -= 64 << 10 },
	}
	for name, change := range lists {
		t.Run(name, func(t *testing.T) {
			w := newSmallWorld(t, 2)
			w.mustSave(namedBytes{"a", random(600<<10, 1)}, namedBytes{"b", text(600<<10, 1)})
			w.forge(w.dirs, change)
			if err := w.readAll(); err == nil {
				t.Error("it was restored")
			}
			// The box itself goes on in a new generation, or refuses; its head tells
			// it that this is not what it wrote.
			if _, err := w.save(namedBytes{"a", []byte("x")}); err != nil && !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrConflict) {
				t.Errorf("the next backup: %v", err)
			}
			os.Remove(filepath.Join(w.state, headName))
			if _, err := w.save(namedBytes{"a", []byte("x")}); err != nil {
				t.Errorf("the next backup without a head: %v", err)
			}
		})
	}
}

// A block table or extent list of the right hash with nonsense in it, made with
// the package's own writer.
func TestNonsenseInTheListsIsRefused(t *testing.T) {
	tables := map[string]func(*Saver){
		"offsets beyond the pack": func(s *Saver) {
			for i := range s.packer.table {
				s.packer.table[i].Offset = 30 << 20
			}
		},
		"packs that are not listed": func(s *Saver) {
			for i := range s.packer.table {
				s.packer.table[i].Index = 99
			}
		},
		"lengths swapped": func(s *Saver) {
			for i := range s.packer.table {
				s.packer.table[i].Raw, s.packer.table[i].Stored, s.packer.table[i].Codec = 1<<20, 10, 1
			}
		},
		"the last half void": func(s *Saver) {
			for i := len(s.packer.table) / 2; i < len(s.packer.table); i++ {
				s.packer.table[i].Index, s.packer.table[i].Offset, s.packer.table[i].Stored, s.packer.table[i].Raw, s.packer.table[i].Codec = 0, 0, 0, 0, 0
			}
		},
	}
	ctx := context.Background()
	for name, change := range tables {
		t.Run(name, func(t *testing.T) {
			w := newSmallWorld(t, 2)
			s, err := w.r.Begin(ctx, w.config())
			if err == nil {
				_, err = s.Add(ctx, StreamSpec{Name: "a"}, bytes.NewReader(random(6<<20, 1)))
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := w.commitWithTable(s, change); err != nil {
				t.Fatal(err)
			}
			if err := w.readAll(); err == nil {
				t.Error("it was restored")
			}
		})
	}
}

// commitWithTable commits with a block table that was changed before it was
// written.
func (w *world) commitWithTable(s *Saver, change func(*Saver)) error {
	ctx := context.Background()
	if err := s.submitShared(); err != nil {
		return err
	}
	if err := s.packer.settle(); err != nil {
		return err
	}
	var table []byte
	list := &listEncoder{check: s.inBlock}
	c := &Contents{}
	for _, st := range s.streams {
		c.Streams = append(c.Streams, st.info)
		list.streams = append(list.streams, st.extents.reader())
	}
	var err error
	if c.ExtentList, err = s.addList(ctx, listOfExtents, list); err != nil {
		return err
	}
	good := slices.Clone(s.packer.table)
	change(s)
	for _, e := range s.packer.table {
		table = e.Append(table)
	}
	copy(s.packer.table, good)
	if c.BlockTable, err = s.addList(ctx, listOfBlocks, bytes.NewReader(table)); err != nil {
		return err
	}
	c.Roots = s.roots(c.ExtentList, c.BlockTable)
	if err := s.packer.drain(); err != nil {
		return err
	}
	m, err := s.buildManifest(Commit{}, c)
	if err != nil {
		return err
	}
	object, err := sealManifest(m, s.r.Catalogue, s.key, &Catalogue{}, c, s.c.Signer)
	if err != nil {
		return err
	}
	defer s.discard()
	_, err = s.publish(ctx, object, Catalogue{})
	return err
}

func TestDamageToTheBoxsOwnFilesCostsBytesOnly(t *testing.T) {
	spoil := map[string]func([]byte) []byte{
		"gone":      func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)/2] },
		"cut by 1":  func(b []byte) []byte { return b[:len(b)-1] },
		"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"all wrong": func(b []byte) []byte { return random(len(b), 9) },
	}
	week1, week2 := text(900<<10, 1), text(900<<10, 1)
	copy(week2[500<<10:], "CHANGED")
	for name, how := range spoil {
		for _, ext := range []string{".map", ".sorted", ".sparse"} {
			t.Run(name+ext, func(t *testing.T) {
				w := newSmallWorld(t, 2)
				first := w.mustSave(namedBytes{"a", week1})
				files, _ := filepath.Glob(filepath.Join(w.state, "map-*"+ext))
				if len(files) != 1 {
					t.Fatalf("map files %v", files)
				}
				b := how(readFile(t, files[0]))
				replaceFile(t, files[0], b)
				if b == nil {
					os.Remove(files[0])
				}
				second := w.mustSave(namedBytes{"a", week2})
				if second.Generation != first.Generation {
					t.Error("a new generation began")
				}
				w.mustRestore(first.ID, namedBytes{"a", week1})
				w.mustRestore("", namedBytes{"a", week2})
			})
		}
	}
}

// Whatever byte of the map changed: what was at it is not believed, and
// nothing else is lost.
func TestAFlippedByteOfTheMapNeverReachesASnapshot(t *testing.T) {
	w := newSmallWorld(t, 1)
	w.mustSave(namedBytes{"a", text(3<<20, 1)})
	files, _ := filepath.Glob(filepath.Join(w.state, "map-*.map"))
	name := strings.TrimSuffix(filepath.Base(files[0]), ".map")
	b := readFile(t, files[0])
	key, err := deriveKey(w.anyKey(), kindMap, w.anyGeneration(), ID{})
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(b); at += 997 {
		bad := bytes.Clone(b)
		bad[at] ^= 1 << (at % 8)
		replaceFile(t, files[0], bad)
		m, err := openMap(w.state, name, key)
		if err != nil {
			continue // the directory: all of it is given up
		}
		refused := 0
		for i := range m.pieces {
			if _, err := m.get(i); err != nil {
				refused++
			}
		}
		m.close()
		if refused != 1 {
			t.Fatalf("byte %d flipped: %d of %d pieces are refused", at, refused, len(m.pieces))
		}
	}
	rec := appendRecord(nil, chunkID{1}, Extent{Block: 5, Offset: 6, Length: 7})
	for at := range rec {
		bad := bytes.Clone(rec)
		bad[at] ^= 1 << (at % 8)
		if e, ok := parseRecord(bad); ok {
			t.Fatalf("a record with byte %d flipped gives %+v", at, e)
		}
	}
}

// anyGeneration returns the only generation of the world, anyKey its key.
func (w *world) anyGeneration() ID {
	for g := range w.keys.m {
		return g
	}
	w.t.Fatal("no generation")
	return ID{}
}

func (w *world) anyKey() Secret { return w.keys.m[w.anyGeneration()] }

// A journal that was damaged is dropped, or gives what it had.
func TestADamagedJournalIsNoObstacle(t *testing.T) {
	data := namedBytes{"a", random(4<<20, 1)}
	for _, n := range []int{0, 40, 1000, 5000, 20000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newSmallWorld(t, 2)
			w.interrupt(data, 7)
			name := filepath.Join(w.state, journalName)
			b := readFile(t, name)
			if n < len(b) {
				b[n] ^= 1
			} else {
				b = b[:len(b)-3]
			}
			replaceFile(t, name, b)
			w.mustSave(data)
			w.mustRestore("", data)
		})
	}
}

// Whatever byte of a journal changed: it is noticed. A flip in the tables of a
// pack would otherwise become part of a snapshot.
func TestAFlippedJournalIsNeverBelieved(t *testing.T) {
	w := newSmallWorld(t, 2)
	w.interrupt(namedBytes{"a", random(4<<20, 1)}, 7)
	name := filepath.Join(w.state, journalName)
	b := readFile(t, name)
	if _, packs, err := readJournal(w.state); err != nil || len(packs) == 0 {
		t.Fatal(len(packs), err)
	}
	for at := range b {
		b[at] ^= 1
		replaceFile(t, name, b)
		if _, _, err := readJournal(w.state); err == nil && at < len(b)-1 {
			t.Fatalf("byte %d of %d flipped is not noticed", at, len(b))
		}
		b[at] ^= 1
	}
}

func TestExtentsThatOverflowAreRefused(t *testing.T) {
	for _, text := range []string{"[0,4294967295,2]", "[0,1048576,1]", "[0,0,1048577]", "[0,1,0]", "[0,1]", "[0,1,2,3]", "[0,-1,2]", "[4294967296,0,1]"} {
		var e Extent
		if err := e.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s is %+v", text, e)
		}
	}
}

// interrupt begins a backup and gives it up when n shards were refused too.
func (w *world) interrupt(data namedBytes, packs int) {
	w.t.Helper()
	ctx := context.Background()
	s, err := w.r.Begin(ctx, w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	var broken = errors.New("the reader broke")
	// It breaks when what was read before has gone its way.
	stored := func() {
		for range 1000 {
			if len(w.objects(0, "s-")) >= 2 {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	r := &breakingReader{r: bytes.NewReader(data.data), left: int64(packs) << 19, err: broken, before: stored}
	if _, err := s.Add(ctx, StreamSpec{Name: data.name}, r); !errors.Is(err, broken) {
		w.t.Fatalf("the interrupted backup: %v", err)
	}
	s.packer.settle()
	s.packer.drain() // what was full goes its way
	s.Abort(broken)
}
