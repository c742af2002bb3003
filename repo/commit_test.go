package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// onPut meets every Put of an object whose name begins with front with m, from
// the nth such Put on.
func onPut(front string, nth int, m storetest.Mishap) storetest.Hook {
	seen := 0
	var mu = make(chan struct{}, 1)
	return func(op storetest.Op, key string) storetest.Mishap {
		if op != storetest.OpPut || !strings.HasPrefix(filepath.Base(key), front) {
			return storetest.Mishap{}
		}
		mu <- struct{}{}
		defer func() { <-mu }()
		if seen++; seen >= nth {
			return m
		}
		return storetest.Mishap{}
	}
}

// spooled counts what waits in the spool.
func (w *world) spooled() (shards, manifests int) {
	w.t.Helper()
	objects, err := w.keep.keys(context.Background(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range objects {
		if isManifest(o.Key) {
			manifests++
		} else {
			shards++
		}
	}
	return shards, manifests
}

// mustBeWhole checks that every snapshot is on every store with all its shards,
// that each shard is good, and that nothing waits.
func (w *world) mustBeWhole(when string) {
	w.t.Helper()
	l := w.list()
	for _, s := range l.Snapshots {
		if s.State(len(w.dirs)) != "complete" {
			w.t.Errorf("%s: snapshot %s is %s", when, s.ID(), s.State(len(w.dirs)))
		}
		r := l.PackReader(s)
		for _, p := range s.Packs {
			if h, err := r.Verify(context.Background(), p.Pack, true); err != nil || !h.Whole() {
				w.t.Errorf("%s: pack %d of %s: %+v, %v", when, p.Number, s.ID(), h, err)
			}
		}
	}
	if s, m := w.spooled(); s+m > 0 {
		w.t.Errorf("%s: %d shards and %d manifests wait in the spool", when, s, m)
	}
}

func TestAStoreThatIsDownReducesASnapshotUntilItReturns(t *testing.T) {
	for _, c := range []struct {
		stores int
		down   []int
	}{{2, []int{0}}, {2, []int{1}}, {3, []int{0}}, {3, []int{2}}, {4, []int{1}}, {4, []int{0, 3}}} {
		t.Run(fmt.Sprintf("%d without %v", c.stores, c.down), func(t *testing.T) {
			w := newSmallWorld(t, c.stores)
			week := []namedBytes{{"a", random(1<<20, 1)}, {"a", random(1<<20, 2)}, {"a", random(1<<20, 3)}}
			first := w.mustSave(week[0])
			for _, i := range c.down {
				w.faulty[i].Down()
			}
			for n := 1; n <= 2; n++ { // the second while the first one's shards wait
				saved := w.mustSave(week[n])
				if want := fmt.Sprintf("reduced: %d of %d stores", c.stores-len(c.down), c.stores); saved.State() != want || len(saved.Failures) != len(c.down) {
					t.Errorf("state %s, failures %v", saved.State(), saved.Failures)
				}
				if saved.Generation != first.Generation {
					t.Error("a new generation began")
				}
				w.mustRestore("", week[n])
			}
			w.mustRestore(first.ID, week[0])
			// The stores return; a hook sees in which order they get what they lack.
			for _, i := range c.down {
				w.faulty[i].Inject(w.shardsFirst(i))
			}
			if saved := w.mustSave(week[2]); saved.State() != "complete" || saved.Catalogue.New != 0 {
				t.Errorf("state %s with %d new bytes, failures %v", saved.State(), saved.Catalogue.New, saved.Failures)
			}
			w.mustBeWhole("after the stores returned")
			w.mustRestore(first.ID, week[0])
		})
	}
}

// shardsFirst fails the test when a manifest comes to store i before all shards
// it lists.
func (w *world) shardsFirst(i int) storetest.Hook {
	return func(op storetest.Op, key string) storetest.Mishap {
		if op != storetest.OpPut || !isManifest(key) {
			return storetest.Mishap{}
		}
		// Another store, or the spool, has the manifest already, or it is new.
		for _, from := range append([]string{filepath.Join(w.state, "spool")}, w.dirs...) {
			raw, err := os.ReadFile(filepath.Join(from, key))
			if err != nil {
				continue
			}
			m, err := w.r.parse(key, raw)
			if err != nil {
				w.t.Error(err)
				break
			}
			for _, p := range m.Packs {
				if _, err := os.Stat(filepath.Join(w.dirs[i], p.Key(generationPrefix(m.Tenant, m.Generation), i, 0))); err != nil {
					w.t.Errorf("manifest %s comes to store %d before shard %d of pack %d", key, i, i, p.Number)
				}
			}
			break
		}
		return storetest.Mishap{}
	}
}

// The commit rule, typed a second time: for each profile which shards must be
// where. "s" stands for the spool, digits for stores.
func TestTheCommitRule(t *testing.T) {
	for _, c := range []struct {
		stores  int
		present string // for each shard the domains that have it
		ok      bool
	}{
		{1, "0", true}, {1, "s", false}, {1, "-", false},
		{2, "0 1", true}, {2, "0 s", true}, {2, "s 1", true}, {2, "s s", false}, {2, "0 -", false}, {2, "0 0", false}, {2, "0s s", true},
		{3, "0 1 2", true}, {3, "0 1 s", true}, {3, "s 1 2", true}, {3, "0 s s", false}, {3, "0 1 -", false}, {3, "0 0 2", false}, {3, "0 0 s", false},
		{4, "0 1 2 3", true}, {4, "0 1 2 -", true}, {4, "0 1 s s", true}, {4, "0 1 - -", false}, {4, "0 s s s", false}, {4, "0 0 s s", false},
		{5, "0 1 2 3 -", true}, {5, "0 1 2 s s", true}, {5, "0 1 s s s", false}, {5, "0 1 2 - -", false},
		{6, "0 1 2 3 s s", true}, {6, "0 1 2 s s s", false}, {7, "0 1 2 3 4 - -", true}, {7, "0 1 2 3 - - -", false},
	} {
		g, err := planFor(c.stores)
		if err != nil {
			t.Fatal(err)
		}
		var present [][]int
		for _, f := range strings.Fields(c.present) {
			var at []int
			for _, d := range f {
				switch d {
				case 's':
					at = append(at, c.stores)
				case '-':
				default:
					at = append(at, int(d-'0'))
				}
			}
			present = append(present, at)
		}
		p := PackRecord{}
		p.Geometry = g
		if err := enough(p, present, c.stores); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrIncomplete) {
			t.Errorf("%v with shards on %s: %v", g, c.present, err)
		}
	}
}

func TestWithTooFewStoresNothingIsListed(t *testing.T) {
	for _, c := range []struct{ stores, down int }{{1, 1}, {2, 2}, {3, 2}, {4, 3}} {
		for _, when := range []string{"from the start", "after two shards", "at the manifest"} {
			t.Run(fmt.Sprintf("%d of %d, %s", c.down, c.stores, when), func(t *testing.T) {
				w := newSmallWorld(t, c.stores)
				week1, week2 := namedBytes{"a", random(1<<20, 1)}, namedBytes{"a", random(2<<20, 2)}
				first := w.mustSave(week1)
				for i := range c.down {
					switch when {
					case "from the start":
						w.faulty[i].Down()
					case "after two shards":
						w.faulty[i].Inject(downAfter(2))
					default:
						w.faulty[i].Inject(onPut("m-", 1, storetest.Mishap{How: storetest.Fail}))
					}
				}
				if _, err := w.save(week2); !errors.Is(err, ErrIncomplete) || !errors.Is(err, store.ErrUnavailable) && when == "from the start" {
					t.Errorf("error is %v", err)
				} else if when == "from the start" && !strings.Contains(err.Error(), "store0") {
					t.Errorf("error does not name the store: %v", err)
				}
				for i := range c.down {
					w.faulty[i].Up()
				}
				l := w.list()
				committed := when == "at the manifest" && c.down < c.stores
				if _, m := w.spooled(); m > 0 && when != "at the manifest" {
					t.Error("a manifest waits in the spool: the next run would finish it")
				}
				if n := len(l.Snapshots); n != 1 && !committed || l.Snapshots[0].ID() != first.ID {
					t.Errorf("%d snapshots are listed", n)
				}
				saved := w.mustSave(week2)
				if saved.State() != "complete" || saved.Generation != first.Generation {
					t.Errorf("afterwards: %s", saved.State())
				}
				w.mustBeWhole("afterwards")
				w.mustRestore(first.ID, week1)
				w.mustRestore("", week2)
			})
		}
	}
}

// downAfter lets n Puts pass and fails everything from then on.
func downAfter(n int) storetest.Hook {
	down := onPut("", n+1, storetest.Mishap{How: storetest.Fail})
	var gone bool
	var mu = make(chan struct{}, 1)
	return func(op storetest.Op, key string) storetest.Mishap {
		mu <- struct{}{}
		defer func() { <-mu }()
		if m := down(op, key); m.How != storetest.Work {
			gone = true
		}
		if gone {
			return storetest.Mishap{How: storetest.Fail}
		}
		return storetest.Mishap{}
	}
}

// Whatever goes wrong with a Put, at whichever one of a run: the snapshot is
// committed and restores, and the run after heals it.
func TestAFaultAtAnyPutIsHealed(t *testing.T) {
	mishaps := map[string]storetest.Mishap{"fails": {How: storetest.Fail}, "fails but persisted": {How: storetest.FailAfter}, "lies": {How: storetest.Lie},
		"is full": {How: storetest.Fail, Err: store.ErrFull}, "is read-only": {How: storetest.Fail, Err: store.ErrReadOnly}, "denies": {How: storetest.Fail, Err: store.ErrDenied}}
	every := faultsEverywhere(t)
	for name, m := range mishaps {
		t.Run(name, func(t *testing.T) {
			week1, week2 := namedBytes{"a", random(700<<10, 1)}, namedBytes{"a", random(1200<<10, 2)}
			for nth := 1; ; nth++ {
				w := newSmallWorld(t, 3)
				first := w.mustSave(week1)
				w.faulty[1].Inject(storetest.Nth(storetest.OpPut, nth, m))
				before := w.faulty[1].Calls(storetest.OpPut)
				saved := w.mustSave(week2)
				puts := w.faulty[1].Calls(storetest.OpPut) - before
				w.faulty[1].Up()
				if l := w.list(); l.Snapshots[1].State(3) != saved.State() && name != "fails but persisted" {
					t.Errorf("put %d: said to be %s, is %s", nth, saved.State(), l.Snapshots[1].State(3))
				}
				w.mustRestore(first.ID, week1)
				w.mustRestore(saved.ID, week2)
				w.mustSurviveLossOfAny(saved.ID, week2)
				if again := w.mustSave(week2); again.State() != "complete" {
					t.Errorf("put %d: the run after is %s: %v", nth, again.State(), again.Failures)
				}
				w.mustBeWhole(fmt.Sprintf("put %d", nth))
				if puts < nth || !every && nth >= 2 && name != "lies" && name != "fails but persisted" {
					break
				}
			}
		})
	}
}

// A store that stores nothing and says it did, all the time.
func TestAStoreThatLiesIsNotBelieved(t *testing.T) {
	for _, stores := range []int{1, 2, 3} {
		w := newSmallWorld(t, stores)
		data := namedBytes{"a", random(1<<20, 1)}
		w.faulty[0].Inject(onPut("", 1, storetest.Mishap{How: storetest.Lie}))
		saved, err := w.save(data)
		w.faulty[0].Up()
		if stores == 1 {
			if !errors.Is(err, ErrIncomplete) {
				t.Errorf("on the only store: %v", err)
			}
		} else if err != nil || saved.Stores != stores-1 || !errors.Is(saved.Failures["store0"], store.ErrNotExist) {
			t.Errorf("%d stores: %+v, %v", stores, saved, err)
		}
		w.mustSave(data)
		w.mustSave(data)
		w.mustBeWhole("it stopped lying")
		w.mustRestore("", data)
	}
}

// faultsEverywhere says whether the long sweeps run too.
func faultsEverywhere(t *testing.T) bool {
	if os.Getenv("STRONGROOM_FAULTS") != "" {
		return true
	}
	t.Log("only a part of the sweep: STRONGROOM_FAULTS=1 (make faults) runs all of it")
	return false
}

// mustSurviveLossOfAny checks the promise of 2+1: a store may go at once, the
// spool being on none of them.
func (w *world) mustSurviveLossOfAny(spec string, want namedBytes) {
	w.t.Helper()
	members := w.r.Members
	defer func() { w.r.Members = members }()
	for i := range w.faulty {
		shards, _ := w.spooled()
		if shards > 0 && i != 1 {
			continue // reduced: the box is the second domain until it returns
		}
		w.faulty[i].Down()
		got, err := w.restore(spec)
		if err != nil || !bytes.Equal(got[want.name], want.data) {
			w.t.Errorf("without store %d: %v", i, err)
		}
		w.faulty[i].Up()
	}
}

// A store is full, or was mounted read-only, in the middle of a run.
func TestAStoreThatStopsTakingWritesMidRunIsLeftBehind(t *testing.T) {
	for _, e := range []error{store.ErrFull, store.ErrReadOnly} {
		w := newSmallWorld(t, 3)
		w.faulty[2].Inject(onPut("", 3, storetest.Mishap{How: storetest.Fail, Err: e}))
		data := namedBytes{"a", random(3<<20, 1)}
		saved := w.mustSave(data)
		if saved.State() != "reduced: 2 of 3 stores" || !errors.Is(saved.Failures["store2"], e) {
			t.Errorf("%v: %s, %v", e, saved.State(), saved.Failures)
		}
		w.faulty[2].Up()
		w.mustSave(data)
		w.mustBeWhole("after room was made")
	}
}

// A disk is replaced by an empty one.
func TestAStoreThatWasReplacedByAnEmptyOneIsFilledAgain(t *testing.T) {
	for _, stores := range []int{2, 3, 4} {
		w := newSmallWorld(t, stores)
		week1, week2 := namedBytes{"a", random(1<<20, 1)}, namedBytes{"a", random(1<<20, 2)}
		first := w.mustSave(week1)
		for _, o := range w.objects(0, "") {
			if err := os.Remove(o); err != nil {
				t.Fatal(err)
			}
		}
		saved := w.mustSave(week2)
		if saved.State() != "complete" || saved.Generation != first.Generation {
			t.Errorf("%d stores: %s, %v", stores, saved.State(), saved.Failures)
		}
		w.mustSave(week2)
		w.mustBeWhole("a disk was replaced")
		w.faulty[stores-1].Down()
		w.mustRestore(first.ID, week1)
		w.mustRestore(saved.ID, week2)
	}
}

// Two shards share a store, as when its stores were configured otherwise once:
// the next backup does not wait for a person, it brings them home.
func TestShardsThatShareAStoreAreSpreadOut(t *testing.T) {
	w := newSmallWorld(t, 3)
	week1, week2 := namedBytes{"a", random(1<<20, 1)}, namedBytes{"a", random(1<<20, 2)}
	first := w.mustSave(week1)
	for _, name := range w.objects(1, "s-") {
		rel, err := filepath.Rel(w.dirs[1], name)
		if err != nil {
			t.Fatal(err)
		}
		replaceFile(t, filepath.Join(w.dirs[0], rel), readFile(t, name))
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	saved := w.mustSave(week2)
	if saved.State() != "complete" || saved.Generation != first.Generation {
		t.Errorf("%s, %v", saved.State(), saved.Failures)
	}
	w.mustBeWhole("two shards shared a store")
	w.mustSurviveLossOfAny(first.ID, week1)
	w.mustSurviveLossOfAny(saved.ID, week2)
}

// A shard that was cut off on its store is made again beside it.
func TestACutShardIsReplacedByAFurtherAttempt(t *testing.T) {
	w := newSmallWorld(t, 3)
	data := namedBytes{"a", random(1<<20, 1)}
	w.mustSave(data)
	name := w.objects(1, "s-")[0]
	replaceFile(t, name, readFile(t, name)[:1000])
	for range 2 {
		if saved := w.mustSave(data); saved.State() != "complete" {
			t.Errorf("%s: %v", saved.State(), saved.Failures)
		}
	}
	w.mustBeWhole("a shard was cut off")
	if _, err := os.Stat(strings.TrimSuffix(name, "00") + "01"); err != nil {
		t.Error(err)
	}
}

// A shard waits in the spool and is damaged there, or cut off.
func TestADamagedSpoolIsMadeAgain(t *testing.T) {
	for _, how := range []func([]byte) []byte{
		func(b []byte) []byte { b[1000] ^= 1; return b },
		func(b []byte) []byte { return b[:1000] },
		func(b []byte) []byte { return nil },
	} {
		for _, up := range []bool{true, false} {
			w := newSmallWorld(t, 3)
			data := namedBytes{"a", random(1<<20, 1)}
			w.faulty[1].Down()
			w.mustSave(data)
			found, _ := filepath.Glob(filepath.Join(w.state, "spool", w.r.Tenant.String(), "*", "s-*"))
			if len(found) == 0 {
				t.Fatal("nothing is in the spool")
			}
			// The last one: a store that is down is given up at the first.
			last := found[len(found)-1]
			replaceFile(t, last, how(readFile(t, last)))
			if up {
				w.faulty[1].Up()
			}
			w.mustSave(data)
			w.faulty[1].Up()
			w.mustRestore("", data)
			w.mustSave(data)
			w.mustSave(data)
			w.mustBeWhole("damage in the spool")
			w.mustRestore("", data)
		}
	}
}

// More of a pack is lost than its parity: the next backup must not fail for
// ever, it starts anew.
func TestALostPackEndsItsGeneration(t *testing.T) {
	w := newSmallWorld(t, 3)
	data := namedBytes{"a", random(1<<20, 1)}
	first := w.mustSave(data)
	for i := range 2 {
		name := w.objects(i, "s-")[0]
		os.Remove(name)
	}
	saved := w.mustSave(data)
	if saved.Generation == first.Generation || saved.Epoch != 2 {
		t.Errorf("it went on: epoch %d", saved.Epoch)
	}
	w.mustRestore("", data)
}

// An interrupted first backup goes on where it was; what was deleted of it in
// between is stored again.
func TestAnInterruptedBackupIsAdopted(t *testing.T) {
	for _, deleted := range []string{"nothing", "one shard", "a store's", "all"} {
		t.Run(deleted, func(t *testing.T) {
			w := newSmallWorld(t, 3)
			data := namedBytes{"a", random(6<<20, 1)}
			w.interrupt(data, 8)
			shards := len(w.objects(0, "s-"))
			if shards < 3 {
				t.Fatalf("%d packs were stored", shards)
			}
			for i := range w.dirs {
				for n, o := range w.objects(i, "s-") {
					if deleted == "all" || deleted == "a store's" && i == 2 || deleted == "one shard" && i == 1 && n == 0 {
						if err := os.Remove(o); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if l := w.list(); len(l.Snapshots) != 0 {
				t.Error("an interrupted backup is listed")
			}
			saved := w.mustSave(data)
			fresh := saved.Catalogue.New
			switch full := int64(len(data.data)); deleted {
			case "nothing":
				if fresh > full*2/3 {
					t.Errorf("%d of %d bytes were stored again", fresh, full)
				}
			case "one shard":
				if fresh == 0 || fresh >= full {
					t.Errorf("%d of %d bytes were stored again", fresh, full)
				}
			default:
				if fresh != full {
					t.Errorf("%d of %d bytes were stored again", fresh, full)
				}
			}
			w.mustBeWhole("adopted")
			w.mustRestore("", data)
		})
	}
}
