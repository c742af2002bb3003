package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/storetest"
)

// medium is a directory that takes copies.
func (w *world) medium() (string, *storetest.Faulty) {
	w.t.Helper()
	d := fastDir(w.t)
	s, err := dir.Open(dir.Config{Path: d})
	if err != nil {
		w.t.Fatal(err)
	}
	return d, storetest.NewFaulty(s)
}

func (w *world) copyConfig(to store.Store, slot int) CopyConfig {
	return CopyConfig{To: to, Slot: slot, Signer: w.signer, Incarnation: w.inc, Now: func() time.Time { return w.clock }}
}

func (w *world) mustCopy(to store.Store, slot int) *Copied {
	w.t.Helper()
	c, err := w.r.CopyTo(context.Background(), w.copyConfig(to, slot))
	if err != nil || len(c.Problems) > 0 {
		w.t.Fatalf("%+v, %v", c, err)
	}
	return c
}

// only restores from these members and no other.
func (w *world) only(members []store.Store, run func()) {
	w.t.Helper()
	all := w.r.Members
	defer func() { w.r.Members = all }()
	w.r.Members = nil
	for i, s := range members {
		w.r.Members = append(w.r.Members, spread.Member{Name: fmt.Sprintf("left%d", i), Store: s})
	}
	run()
}

func TestAMediumRestoresAlone(t *testing.T) {
	for stores := 1; stores <= 5; stores++ {
		w := newSmallWorld(t, stores)
		weeks := [][]namedBytes{{{"a", random(600<<10, 1)}}, {{"a", random(600<<10, 1)}, {"b", random(300<<10, 2)}}}
		first := w.mustSave(weeks[0]...)
		dirA, a := w.medium()
		one := w.mustCopy(a, 0)
		second := w.mustSave(weeks[1]...)
		before := filesBelow(t, dirA)
		two := w.mustCopy(a, 0)
		if one.Made != one.Packs || two.Made != two.Packs-one.Packs || two.Made == 0 || len(two.Snapshots) != 2 {
			t.Errorf("%d stores: first %+v, then %+v", stores, one, two)
		}
		now := filesBelow(t, dirA)
		for p, b := range before {
			if !bytes.Equal(now[p], b) {
				t.Errorf("%d stores: %s was changed", stores, p)
			}
		}
		if again := w.mustCopy(a, 0); again.Made != 0 || len(filesBelow(t, dirA)) != len(now) {
			t.Errorf("%d stores: a third copy: %+v", stores, again)
		}
		w.only([]store.Store{a}, func() {
			w.mustRestore(first.ID, weeks[0]...)
			w.mustRestore(second.ID, weeks[1]...)
			if l := w.list(); l.Margin(l.Snapshots[0]) != 0 || len(l.Problems) > 0 {
				t.Errorf("%d stores: margin %d, %v", stores, l.Margin(l.Snapshots[0]), l.Problems)
			}
		})
		for _, p := range w.list().Snapshots[0].Packs {
			if len(p.Apart) > 0 || p.Geometry.N != stores {
				t.Errorf("%d stores: the stores list shards of the medium: %+v", stores, p.Apart)
			}
		}
	}
}

// With 2+2 half of one set, half of another and one store are three sources of
// different shards: any two restore.
func TestASetHelpsAnyOtherSurvivor(t *testing.T) {
	w := newSmallWorld(t, 4)
	week := namedBytes{"a", random(600<<10, 1)}
	w.mustSave(week)
	dirA, a := w.medium()
	dirB, b := w.medium()
	w.mustCopy(a, 0)
	w.mustCopy(b, 1)
	for _, d := range []string{dirA, dirB} {
		shards, err := filepath.Glob(filepath.Join(d, w.r.Tenant.String(), "*", "s-*"))
		if err != nil || len(shards) < 4 {
			t.Fatalf("%d shards, %v", len(shards), err)
		}
		for i, s := range shards { // the second one of each pack
			if i%2 == 1 {
				if err := os.Remove(s); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	left := []store.Store{a, b, w.r.Members[3].Store}
	for drop := range left {
		w.only(slices.Delete(slices.Clone(left), drop, drop+1), func() { w.mustRestore("", week) })
	}
	for i := range left {
		w.only(left[i:i+1], func() {
			if _, err := w.restore(""); err == nil {
				t.Errorf("restored from survivor %d alone", i)
			}
		})
	}
	// Beside the stores it counts for none of them.
	all := w.r.Members
	w.r.Members = append(slices.Clone(all), spread.Member{Name: "medium", Store: a})
	c := w.repairConfig(nil)
	c.DryRun = true
	if r, err := w.r.Repair(context.Background(), c); err != nil || !r.Whole() || slices.ContainsFunc(r.Acts, func(a Act) bool { return a.Act == "write" }) {
		t.Errorf("%+v, %v", r, err)
	}
	w.r.Members = all
	// A repair of all the stores reads the medium, and leaves them as they were.
	want := w.everything()
	for i := range w.dirs {
		w.wipe(i)
	}
	c = w.repairConfig(nil)
	c.Spool = both{a, b}
	if r, err := w.r.Repair(context.Background(), c); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	now := w.everything()
	for p, b := range want {
		if !bytes.Equal(now[p], b) {
			t.Errorf("%s did not come back", p)
		}
	}
	if len(now) != len(want) {
		t.Errorf("%d objects, there were %d", len(now), len(want))
	}
}

// both is what two media have together.
type both struct{ a, b store.Store }

func TestACopyKilledAtAnyWriteIsFinishedByTheNext(t *testing.T) {
	week := []namedBytes{{"a", random(400<<10, 1)}}
	for _, how := range []storetest.How{storetest.Fail, storetest.FailAfter} {
		for nth, finished := 1, false; !finished; nth++ {
			if nth > 100 {
				t.Fatal("it never ends")
			}
			w := newSmallWorld(t, 3)
			w.mustSave(week...)
			w.mustSave(append(week, namedBytes{"b", random(90<<10, 2)})...)
			_, m := w.medium()
			n := 0
			m.Inject(func(op storetest.Op, _ string) storetest.Mishap {
				if op == storetest.OpPut {
					n++
				}
				switch {
				case n == nth && op == storetest.OpPut:
					return storetest.Mishap{How: how}
				case n >= nth:
					return storetest.Mishap{How: storetest.Fail}
				}
				return storetest.Mishap{}
			})
			_, err := w.r.CopyTo(context.Background(), w.copyConfig(m, 2))
			finished = n < nth
			if (err == nil) != finished {
				t.Fatalf("killed at write %d: %v", nth, err)
			}
			m.Up()
			w.only([]store.Store{m}, func() {
				for _, s := range w.list().Snapshots {
					if _, err := w.restore(s.ID()); err != nil {
						t.Errorf("killed at write %d: the medium has manifest %s and does not restore it: %v", nth, s.ID(), err)
					}
				}
			})
			w.mustCopy(m, 2)
			w.only([]store.Store{m}, func() { w.mustRestore("", append(week, namedBytes{"b", random(90<<10, 2)})...) })
		}
	}
}

// What a verification found bad is made again under the next name.
func TestACopyMakesSuspectShardsAgain(t *testing.T) {
	w := newSmallWorld(t, 3)
	week := namedBytes{"a", random(300<<10, 1)}
	w.mustSave(week)
	d, m := w.medium()
	w.mustCopy(m, 5)
	shards, err := filepath.Glob(filepath.Join(d, w.r.Tenant.String(), "*", "s-*"))
	if err != nil || len(shards) == 0 {
		t.Fatal(shards, err)
	}
	replaceFile(t, shards[0], make([]byte, len(readFile(t, shards[0]))))
	w.only([]store.Store{m}, func() {
		if _, err := w.restore(""); err == nil {
			t.Fatal("restored without the shard")
		}
	})
	bad, err := filepath.Rel(d, shards[0])
	if err != nil {
		t.Fatal(err)
	}
	c := w.copyConfig(m, 5)
	c.Suspect = func(key string) bool { return key == bad }
	if r, err := w.r.CopyTo(context.Background(), c); err != nil || r.Made != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	w.only([]store.Store{m}, func() { w.mustRestore("", week) })
}

// The recovery program is there under its hash, and one of a later release
// beside it.
func TestAMediumHasTheRecoveryProgram(t *testing.T) {
	w := newSmallWorld(t, 1)
	w.mustSave(namedBytes{"a", []byte("x")})
	d, m := w.medium()
	c := w.copyConfig(m, 0)
	c.Program = filepath.Join(t.TempDir(), "program")
	for _, text := range []string{"one", "two", "one"} {
		if err := os.WriteFile(c.Program, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := w.r.CopyTo(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	// As sha256sum prints their names' digits.
	for name, want := range map[string]string{"strongroom-recover-7692c3ad3540bb80": "one", "strongroom-recover-3fc4ccfe745870e2": "two", "RECOVER.txt": MediumText, "FORMAT.md": FormatText} {
		if b, err := os.ReadFile(filepath.Join(d, name)); err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	c.Program += "none"
	if _, err := w.r.CopyTo(context.Background(), c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// A tombstone goes with the snapshots of its dataset, so that what is buried on
// the stores is so on the medium.
func TestACopyTakesTombstonesAlong(t *testing.T) {
	w := newSmallWorld(t, 2)
	w.per = 1
	old := w.mustSave(namedBytes{"a", random(100<<10, 1)})
	_, m := w.medium()
	w.mustCopy(m, 0)
	week := namedBytes{"a", random(100<<10, 2)}
	w.mustSave(week)
	s := w.list().Snapshots[0]
	if s.ID() != old.ID {
		t.Fatal("the oldest is not the first")
	}
	stone, err := Tombstone{Tenant: s.Tenant, Dataset: s.Dataset, Generation: s.Generation, Epoch: s.Epoch, Incarnation: w.inc, Time: w.clock, NotBefore: w.clock,
		Reason: ByPolicy, Snapshots: []Grave{{s.Sequence, s.Hash()}}}.Seal(w.signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := storetest.Put(w.r.Members[0].Store, stone.Key(), stone.Raw); err != nil {
		t.Fatal(err)
	}
	if c := w.mustCopy(m, 0); len(c.Snapshots) != 1 {
		t.Errorf("%+v", c)
	}
	w.only([]store.Store{m}, func() {
		if l := w.list(); len(l.Snapshots) != 1 || len(l.Buried) != 1 {
			t.Errorf("%d snapshots, %d buried", len(l.Snapshots), len(l.Buried))
		}
		w.mustRestore("", week)
	})
}

func TestOfflineShardsThatContradictDoNotCount(t *testing.T) {
	p := PackRecord{Pack: spread.Pack{Shards: make([][32]byte, 3)}}
	p.Geometry.K, p.Geometry.N = 2, 3
	row := func(first uint8, sums ...byte) furtherShards {
		f := furtherShards{K: 2, First: first}
		for _, b := range sums {
			f.Shards = append(f.Shards, [32]byte{b})
		}
		return f
	}
	if !p.extend([]furtherShards{row(3, 1), row(10, 9), row(48, 2, 3), row(52, 4, 5), row(48, 2)}) {
		t.Fatal("refused")
	}
	if want := []int{0, 1, 2, 3, 48, 49, 52, 53}; !slices.Equal(p.Indices(), want) || p.Geometry.N != 4 || p.Sum(53) != [32]byte{5} || p.Sum(50) != [32]byte{} {
		t.Errorf("%v, n = %d", p.Indices(), p.Geometry.N)
	}
	before := p
	if p.extend([]furtherShards{row(48, 2, 3), row(49, 7)}) || len(p.Apart) != len(before.Apart) {
		t.Error("two hashes of one shard were taken")
	}
}

func filesBelow(t *testing.T, root string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out[p] = readFile(t, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}
