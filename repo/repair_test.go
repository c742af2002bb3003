package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/repo/spread"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// repairConfig is what the box would say, and what it was told.
func (w *world) repairConfig(marks *[]Mark) RepairConfig {
	return RepairConfig{Signer: w.signer, Incarnation: w.inc, Now: func() time.Time { return w.clock }, ReadData: true,
		Mark: func(m Mark) error {
			if marks != nil {
				*marks = append(*marks, m)
			}
			return nil
		}}
}

// addDir adds a store.
func (w *world) addDir() {
	w.t.Helper()
	d := fastDir(w.t)
	s, err := dir.Open(dir.Config{Path: d})
	if err != nil {
		w.t.Fatal(err)
	}
	w.dirs = append(w.dirs, d)
	w.faulty = append(w.faulty, storetest.NewFaulty(s))
	w.r.Members = append(w.r.Members, spread.Member{Name: fmt.Sprintf("store%d", len(w.dirs)-1), Store: w.faulty[len(w.dirs)-1]})
}

// dropStore takes a store out of the configuration.
func (w *world) dropStore(i int) {
	w.dirs, w.faulty, w.r.Members = slices.Delete(w.dirs, i, i+1), slices.Delete(w.faulty, i, i+1), slices.Delete(w.r.Members, i, i+1)
}

func (w *world) wipe(i int) {
	w.t.Helper()
	for _, name := range must1(os.ReadDir(w.dirs[i]))(w.t) {
		if err := os.RemoveAll(filepath.Join(w.dirs[i], name.Name())); err != nil {
			w.t.Fatal(err)
		}
	}
}

func must1[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// everything is all objects by their paths.
func (w *world) everything() map[string][]byte {
	out := map[string][]byte{}
	for i := range w.dirs {
		for _, p := range w.objects(i, "") {
			out[p] = readFile(w.t, p)
		}
	}
	return out
}

// dies makes every store stop at the nth write counted over all, and do nothing
// from then on: as if the process were killed there. With persisted that write
// has been done.
func (w *world) dies(nth int, persisted bool) (wrote *int) {
	var mu sync.Mutex
	n := 0
	for _, f := range w.faulty {
		f.Inject(func(op storetest.Op, _ string) storetest.Mishap {
			mu.Lock()
			defer mu.Unlock()
			dead := n >= nth
			if op == storetest.OpPut && !dead {
				n++
				if n == nth {
					return storetest.Mishap{How: map[bool]storetest.How{true: storetest.FailAfter, false: storetest.Fail}[persisted]}
				}
			}
			if dead {
				return storetest.Mishap{How: storetest.Fail}
			}
			return storetest.Mishap{}
		})
	}
	return &n
}

func (w *world) heal() {
	for _, f := range w.faulty {
		f.Up()
	}
}

// Killed at each of its writes, before or after it was done, a repair, a store
// that is filled and one that is drained all end where an undisturbed run does.
func TestARepairKilledAtAnyWriteIsFinishedByTheNext(t *testing.T) {
	week := []namedBytes{{"a", random(600<<10, 1)}}
	for _, c := range []struct {
		name    string
		prepare func(*world)
		change  func(*RepairConfig)
		after   func(*world)
	}{
		{"lost", func(w *world) { w.wipe(1) }, nil, nil},
		{"lost and damaged", func(w *world) {
			w.wipe(0)
			for _, p := range w.objects(3, "s-")[:2] {
				replaceFile(w.t, p, append([]byte{0}, readFile(w.t, p)[1:]...))
			}
		}, nil, nil},
		{"add", (*world).addDir, func(r *RepairConfig) { r.Fill = "store4" }, nil},
		{"drain", nil, func(r *RepairConfig) { r.Drain = "store1" }, func(w *world) { w.dropStore(1) }},
		{"drain dead", func(w *world) { w.wipe(2) }, func(r *RepairConfig) { r.Drain = "store2" }, func(w *world) { w.dropStore(2) }},
	} {
		for _, persisted := range []bool{false, true} {
			for nth, finished := 1, false; !finished && nth < 100; nth++ {
				if testing.Short() && nth%3 != 1 {
					continue
				}
				w := newSmallWorld(t, 4)
				first := w.mustSave(week...)
				w.mustSave(append(week, namedBytes{"b", random(90<<10, 2)})...)
				if c.prepare != nil {
					c.prepare(w)
				}
				cfg := w.repairConfig(nil)
				if c.change != nil {
					c.change(&cfg)
				}
				when := fmt.Sprintf("%s, killed at write %d, done %v", c.name, nth, persisted)
				before := w.everything()
				wrote := w.dies(nth, persisted)
				_, err := w.r.Repair(context.Background(), cfg)
				finished = *wrote < nth
				if finished && err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				w.heal()
				r, err := w.r.Repair(context.Background(), cfg)
				if err != nil || !r.Whole() {
					t.Fatalf("%s: %+v, %v", when, r, err)
				}
				now := w.everything()
				for p, b := range before {
					if !bytes.Equal(now[p], b) {
						t.Fatalf("%s: %s was changed", when, p)
					}
				}
				if c.after != nil {
					c.after(w)
				}
				w.mustBeWhole(when)
				w.mustRestore(first.ID, week...)
				for _, s := range w.list().Snapshots {
					if m := w.list().Margin(s); m < 1 {
						t.Errorf("%s: margin %d", when, m)
					}
				}
				if again, err := w.r.Repair(context.Background(), w.repairConfig(nil)); err != nil || len(again.Acts) > 0 && c.name != "lost and damaged" {
					t.Errorf("%s: still found: %+v, %v", when, again, err)
				}
			}
		}
	}
}

// A store that was added and one that went leave a generation that goes on.
func TestAGenerationGoesOnWithOtherStores(t *testing.T) {
	w := newSmallWorld(t, 3)
	weeks := [][]namedBytes{{{"a", random(600<<10, 1)}}, {{"a", random(600<<10, 1)}, {"b", random(300<<10, 2)}}, {{"a", random(600<<10, 1)}, {"c", random(300<<10, 3)}}}
	first := w.mustSave(weeks[0]...)
	run := func(change func(*RepairConfig)) {
		t.Helper()
		c := w.repairConfig(nil)
		change(&c)
		if r, err := w.r.Repair(context.Background(), c); err != nil || !r.Whole() {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	w.addDir()
	run(func(c *RepairConfig) { c.Fill = "store3" })
	second := w.mustSave(weeks[1]...)
	if second.Generation != first.Generation || second.State() != "complete" {
		t.Errorf("%+v", second)
	}
	for _, name := range []string{"store0", "store2"} {
		run(func(c *RepairConfig) { c.Drain = name })
		w.dropStore(slices.IndexFunc(w.r.Members, func(m spread.Member) bool { return m.Name == name }))
	}
	third := w.mustSave(weeks[2]...)
	if third.Generation != first.Generation || third.State() != "complete" {
		t.Errorf("%+v", third)
	}
	if s, m := w.spooled(); s+m > 0 {
		t.Errorf("%d shards and %d manifests wait in the spool", s, m)
	}
	for lost := range w.dirs {
		w.faulty[lost].Down()
		w.mustRestore(first.ID, weeks[0]...)
		w.mustRestore(second.ID, weeks[1]...)
		w.mustRestore(third.ID, weeks[2]...)
		w.faulty[lost].Up()
	}
	// The manifest of the third lists all shards itself.
	for p := range w.everything() {
		if supplements.is(strings.TrimPrefix(p, filepath.Dir(filepath.Dir(filepath.Dir(p)))+"/")) {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.faulty[0].Down()
	w.mustRestore(third.ID, weeks[2]...)
}

// Many packs make many supplements, each as soon as it is full: what was done
// is not done again after a crash.
func TestSupplementsComeInBatches(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", random(6<<20, 1)})
	packs := len(w.list().Snapshots[0].Packs)
	w.addDir()
	c := w.repairConfig(nil)
	c.Fill, c.batch, c.ReadData = "store3", 2, false
	w.dies(packs/2*5, true) // of 4 shards and 2 supplements on 4 stores, or so, a batch
	if _, err := w.r.Repair(context.Background(), c); err == nil {
		t.Fatal("it did not die")
	}
	w.heal()
	done := len(w.objects(0, "x-"))
	if done == 0 || done >= packs/2 {
		t.Fatalf("%d supplements of %d packs: the test shows nothing", done, packs)
	}
	r, err := w.r.Repair(context.Background(), c)
	if err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	written := 0
	for _, a := range r.Acts {
		if a.Act == "write" {
			written++
		}
	}
	if written != packs-2*done {
		t.Errorf("%d shards were made, %d of %d packs had theirs", written, 2*done, packs)
	}
	for _, p := range w.list().Snapshots[0].Packs {
		if len(p.Shards) != 4 {
			t.Errorf("pack %d has %d shards", p.Number, len(p.Shards))
		}
	}
	w.mustBeWhole("in batches")
}

// Programs that know no supplements restore as before.
func TestIndependentProgramPassesOverSupplements(t *testing.T) {
	w := newSmallWorld(t, 3)
	week := namedBytes{"a", random(600<<10, 1)}
	w.mustSave(week)
	w.addDir()
	c := w.repairConfig(nil)
	c.Fill = "store3"
	if r, err := w.r.Repair(context.Background(), c); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	if errs := w.mustPythonRestore(w.dirs[1:], week); errs != "" {
		t.Error(errs)
	}
}

// A manifest that one store has damaged is in the way, and is marked.
func TestADamagedManifestIsMarked(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", random(100<<10, 1)})
	name := w.objects(2, "m-")[0]
	replaceFile(t, name, readFile(t, name)[:100])
	var marks []Mark
	r, err := w.r.Repair(context.Background(), w.repairConfig(&marks))
	if err != nil || r.Whole() || len(marks) != 1 || marks[0].Store != "store2" || !strings.HasSuffix(name, marks[0].Object) {
		t.Fatalf("%+v, %v, %v", r, marks, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if r, err = w.r.Repair(context.Background(), w.repairConfig(&marks)); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	w.mustBeWhole("deleted and repaired")
}

// A box that was replaced changes nothing any more.
func TestAReplacedBoxDoesNotRepair(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.inc = 2
	w.mustSave(namedBytes{"a", random(100<<10, 1)})
	w.wipe(1)
	w.inc = 1
	before := w.everything()
	if _, err := w.r.Repair(context.Background(), w.repairConfig(nil)); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	if !maps.EqualFunc(before, w.everything(), bytes.Equal) {
		t.Error("it wrote")
	}
}

// supplemented is a world with one supplement on its fourth store and others.
func supplemented(t *testing.T) (w *world, path string) {
	t.Helper()
	w = newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", random(300<<10, 1)})
	w.addDir()
	c := w.repairConfig(nil)
	c.Fill = "store3"
	if r, err := w.r.Repair(context.Background(), c); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	return w, w.objects(0, "x-")[0]
}

// What FORMAT.md does not allow in a supplement is told and does not count.
func TestSupplementsAreReadStrictly(t *testing.T) {
	w, path := supplemented(t)
	good := readFile(t, path)
	s, err := parseSupplement(good, w.r.Trust)
	if err != nil {
		t.Fatal(err)
	}
	resigned := func(change func(*supplement)) []byte {
		c := *s
		c.Packs = slices.Clone(s.Packs)
		change(&c)
		return c.sign(w.signer)
	}
	cases := map[string][]byte{
		"cut":             good[:len(good)-1],
		"behind its end":  append(bytes.Clone(good), 0),
		"flipped":         append(bytes.Clone(good[:40]), append([]byte{good[40] ^ 1}, good[41:]...)...),
		"another signer":  (&supplement{Tenant: s.Tenant, Dataset: s.Dataset, Generation: s.Generation, Sequence: 1, Time: s.Time, Packs: s.Packs}).sign(newTestSigner(9)),
		"no packs":        resigned(func(c *supplement) { c.Packs = nil }),
		"no sequence":     resigned(func(c *supplement) { c.Sequence = 0 }),
		"no time":         resigned(func(c *supplement) { c.Time = time.Time{} }),
		"another tenant":  resigned(func(c *supplement) { c.Tenant[0] ^= 1 }),
		"k of zero":       resigned(func(c *supplement) { c.Packs[0].K = 0 }),
		"first below k":   resigned(func(c *supplement) { c.Packs[0].First = 1 }),
		"no shards":       resigned(func(c *supplement) { c.Packs[0].Shards = nil }),
		"index too large": resigned(func(c *supplement) { c.Packs[0].First = 255 }),
		"order":           resigned(func(c *supplement) { c.Packs = append(c.Packs, c.Packs[0]) }),
	}
	for name, raw := range cases {
		for i := range w.dirs {
			for _, p := range w.objects(i, "x-") {
				if err := os.Remove(p); err != nil {
					t.Fatal(err)
				}
			}
		}
		key := supplements.key(s.Tenant, s.Generation, raw)
		if name == "another tenant" {
			key = supplements.key(w.r.Tenant, s.Generation, raw)
		}
		replaceFile(t, filepath.Join(w.dirs[0], key), raw)
		l := w.list()
		if len(l.Problems) != 1 || !errors.Is(l.Problems[0].Err, ErrIntegrity) || len(l.Snapshots[0].Packs[0].Shards) != 3 {
			t.Errorf("%s: problems %v, %d shards", name, l.Problems, len(l.Snapshots[0].Packs[0].Shards))
		}
	}
	// Its own name, and the same bytes resigned, are accepted: nothing above was
	// refused for another reason.
	raw := resigned(func(c *supplement) { c.Time = c.Time.Add(time.Hour) })
	replaceFile(t, filepath.Join(w.dirs[1], supplements.key(s.Tenant, s.Generation, raw)), raw)
	if l := w.list(); len(l.Snapshots[0].Packs[0].Shards) != 4 {
		t.Errorf("%d shards, %v", len(l.Snapshots[0].Packs[0].Shards), l.Problems)
	}
	// Two that differ: neither counts for that pack.
	other := resigned(func(c *supplement) { c.Packs[0].Shards = [][32]byte{{1}} })
	replaceFile(t, filepath.Join(w.dirs[1], supplements.key(s.Tenant, s.Generation, other)), other)
	if l := w.list(); len(l.Snapshots[0].Packs[0].Shards) != 3 {
		t.Errorf("%d shards, %v", len(l.Snapshots[0].Packs[0].Shards), l.Problems)
	}
}

func FuzzSupplement(f *testing.F) {
	s := &supplement{Tenant: ID{1}, Dataset: ID{2}, Generation: ID{3}, Sequence: 4, Manifest: [32]byte{5}, Incarnation: 6, Time: time.Unix(7, 0).UTC(),
		Packs: []furtherShards{{Number: 8, ID: [16]byte{9}, Encode: [16]byte{10}, K: 2, First: 3, Shards: [][32]byte{{11}, {12}}}, {Number: 13, K: 1, First: 1, Shards: [][32]byte{{14}}}}}
	f.Add(s.appendClear(nil))
	f.Add([]byte{0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSupplementClear(b); err == nil && !bytes.Equal(s.appendClear(nil), b) {
			t.Error("two encodings of one supplement")
		}
	})
}

// Real stores, one of them replaced by an empty bucket.
func TestRepairOverRealStores(t *testing.T) {
	w := newSmallWorld(t, 3)
	week := namedBytes{"a", random(900<<10, 1)}
	w.mustSave(week)
	g := storetest.StartGateway(t)
	bucket := must1(s3.Open(g.CreateBucket(t, "vault")))(t)
	f := storetest.NewFaulty(bucket)
	w.faulty[1], w.r.Members[1].Store = f, f
	// One answer is lost on the way, one read is cut off.
	f.Inject(storetest.Nth(storetest.OpPut, 2, storetest.Mishap{How: storetest.FailAfter}))
	r, err := w.r.Repair(context.Background(), w.repairConfig(nil))
	if err != nil || r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	f.Inject(storetest.Nth(storetest.OpGet, 2, storetest.Mishap{How: storetest.FailAfter}))
	w.r.Repair(context.Background(), w.repairConfig(nil))
	f.Up()
	if r, err = w.r.Repair(context.Background(), w.repairConfig(nil)); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	w.mustBeWhole("from a bucket")
	w.faulty[0].Down()
	w.mustRestore("", week)
	// And drained again, to the directories.
	w.faulty[0].Up()
	c := w.repairConfig(nil)
	c.Drain = "store1"
	if r, err = w.r.Repair(context.Background(), c); err != nil || !r.Whole() {
		t.Fatalf("%+v, %v", r, err)
	}
	g.Stop()
	w.dropStore(1)
	for i := range w.dirs {
		w.faulty[i].Down()
		w.mustRestore("", week)
		w.faulty[i].Up()
	}
}
