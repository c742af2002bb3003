package expire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/repo"
	"strongroom/repo/retain"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

func TestAGenerationGoesAfterItsTombstoneAndGrace(t *testing.T) {
	w := newWorld(t, 3)
	w.weeks(7) // generations of 3, 3 and 1
	first := w.list().Snapshots[0].Generation
	p := w.mustExpire()
	if len(p.Burials) != 1 || len(p.Deletions) > 0 || len(p.Burials[0].Snapshots) != 3 || len(p.Frozen)+len(p.Stuck) > 0 {
		t.Fatalf("first run: %+v", p)
	}
	if l := w.list(); len(l.Snapshots) != 4 || len(l.Buried) != 3 {
		t.Fatalf("%d listed, %d buried", len(l.Snapshots), len(l.Buried))
	}
	p = w.mustExpire() // at once
	if len(p.Burials)+len(p.Deletions) > 0 || len(p.Waiting) != 1 || !strings.Contains(p.Waiting[0], "its grace ends 2026-02-23") {
		t.Fatalf("within grace: %+v", p)
	}
	w.clock = w.clock.Add(23 * time.Hour)
	if p = w.mustExpire(); len(p.Deletions) > 0 {
		t.Fatalf("an hour early: %+v", p.Deletions)
	}
	w.clock = w.clock.Add(time.Hour)
	if p = w.mustExpire(); len(p.Deletions) != 3 {
		t.Fatalf("after grace: %+v", p)
	}
	for i := range 3 {
		if data, stones := w.objects(i); of(data, first) != 0 || of(stones, first) != 1 {
			t.Errorf("store %d: %d objects, %d tombstones", i, of(data, first), of(stones, first))
		}
	}
	w.mustHold("after all")
	if p = w.mustExpire(); len(p.Gone()) != 1 || p.Gone()[0] != first {
		t.Errorf("gone: %v", p.Gone())
	}
	w.weeks(3)
	w.converge("later")
}

func TestWhatHoldsADeletionUp(t *testing.T) {
	ready := newWorld(t, 3)
	ready.weeks(7)
	ready.mustExpire()
	ready.clock = ready.clock.Add(25 * time.Hour)
	first := ready.list().Tombstones[0].Generation
	for _, c := range []struct {
		name  string
		spoil func(w *world)
		want  string
	}{
		{"hold", func(w *world) { w.holds = []retain.Hold{{Scope: "acme", Reason: "lawsuit"}} }, "lawsuit"},
		{"lease", func(w *world) {
			l, err := repo.TakeLease(w.state(), "restore", time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.Release)
		}, "in use: restore"},
		{"clock set back", func(w *world) { w.clock = w.clock.Add(-30 * time.Hour) }, "clock"},
		{"nothing newer is whole", func(w *world) {
			data, _ := w.objects(1)
			for _, name := range data {
				if of([]string{name}, first) == 0 && strings.Contains(name, "/s-") {
					os.Remove(filepath.Join(w.dir(1), name))
				}
			}
		}, "pass a check"},
		{"a manifest that nobody buried", func(w *world) {
			name := filepath.Join(w.dir(2), w.r.Tenant.String(), first.String(), "m-00000009")
			if err := os.WriteFile(name, []byte("who knows"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "m-00000009"},
		{"newest manifest gone everywhere", func(w *world) {
			newest := w.list().Snapshots[3]
			for i := range 3 {
				os.Remove(filepath.Join(w.dir(i), newest.Key()))
			}
		}, "rolled back"},
		{"nobody may delete", func(w *world) { w.del = nil }, "no credential"},
	} {
		w := ready.fork()
		c.spoil(w)
		p, err := w.expire()
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		said := strings.Join(append(append(p.Frozen, p.Waiting...), p.Stuck...), "\n")
		if len(p.Deletions) > 0 || !strings.Contains(said, c.want) {
			t.Errorf("%s: %d deletions, %q", c.name, len(p.Deletions), said)
		}
		for i := range 3 {
			if data, _ := w.objects(i); of(data, first) < 6 {
				t.Errorf("%s: store %d has %d objects of the buried generation", c.name, i, of(data, first))
			}
		}
	}
	ready.converge("unspoilt")
}

func TestARunDeletesAtMostItsShare(t *testing.T) {
	w := newWorld(t, 2)
	w.per = 12
	w.weeks(26)
	w.mustExpire()
	w.clock = w.clock.Add(25 * time.Hour)
	before, _ := w.objects(0)
	p := w.mustExpire()
	after, _ := w.objects(0)
	if n := len(before) - len(after); n != max(leastRoom, (len(before)+1)/4) || p.Deletions[0].Left == 0 {
		t.Errorf("%d of %d objects went in one run: %+v", n, len(before), p.Deletions)
	}
	w.converge("many runs")
}

func TestAnIncompleteListingDrivesNothing(t *testing.T) {
	for _, how := range []storetest.How{storetest.Fail, storetest.FailAfter} {
		w := newWorld(t, 3)
		w.weeks(7)
		break2 := func() {
			w.faulty[2].Inject(func(op storetest.Op, key string) storetest.Mishap {
				if op == storetest.OpList && strings.HasSuffix(key, "/") {
					return storetest.Mishap{How: how}
				}
				return storetest.Mishap{}
			})
		}
		break2()
		p := w.mustExpire()
		if len(p.Burials) > 0 || len(p.Stuck) == 0 {
			t.Errorf("a store was listed in part: %d burials, stuck %q", len(p.Burials), p.Stuck)
		}
		// Its tombstone seen everywhere once, the stores that answer lose it; the
		// other keeps all.
		w.faulty[2].Up()
		w.mustExpire()
		w.mustExpire()
		w.clock = w.clock.Add(25 * time.Hour)
		break2()
		p = w.mustExpire()
		if len(p.Deletions) != 2 || w.del[2].n > 0 || w.del[0].n == 0 {
			t.Errorf("%d deletions, %d on the store that is not listed", len(p.Deletions), w.del[2].n)
		}
		w.faulty[2].Up()
		w.converge("listed again")
	}
}

// A store that is away while the tombstone is written stops every deletion
// until it has it.
func TestNoDeletionBeforeEveryStoreHasTheTombstone(t *testing.T) {
	w := newWorld(t, 3)
	w.weeks(7)
	w.faulty[1].Inject(func(op storetest.Op, key string) storetest.Mishap {
		if op == storetest.OpPut {
			return storetest.Mishap{How: storetest.Fail}
		}
		return storetest.Mishap{}
	})
	if _, err := w.expire(); !errors.Is(err, repo.ErrIncomplete) {
		t.Fatalf("a store took no tombstone: %v", err)
	}
	w.faulty[1].Down()
	w.clock = w.clock.Add(30 * 24 * time.Hour)
	p := w.mustExpire()
	if len(p.Deletions) > 0 || len(p.Stuck) != 1 {
		t.Fatalf("%d deletions, stuck %q", len(p.Deletions), p.Stuck)
	}
	w.faulty[1].Up()
	if p = w.mustExpire(); len(p.Deletions) > 0 || len(p.Carries) != 1 {
		t.Fatalf("%d deletions, %d carries", len(p.Deletions), len(p.Carries))
	}
	if p = w.mustExpire(); len(p.Deletions) != 3 {
		t.Fatalf("%d deletions", len(p.Deletions))
	}
}

// Every step fails, fails but is done, or lies: once each. Whatever comes of the
// run, what is kept restores and later runs finish.
func TestAnyStepGoesWrong(t *testing.T) {
	burying := newWorld(t, 3)
	burying.weeks(7)
	deleting := burying.fork()
	deleting.mustExpire()
	deleting.clock = deleting.clock.Add(25 * time.Hour)
	total := 0
	for name, start := range map[string]*world{"burying": burying, "deleting": deleting} {
		for _, how := range []storetest.How{storetest.Fail, storetest.FailAfter, storetest.Lie, storetest.Flip, storetest.Truncate, cutOff} {
			every := 1
			if os.Getenv("STRONGROOM_FAULTS") == "" {
				every = 9
			}
			for at := int64(1); ; at += int64(every) {
				w := start.fork()
				steps := w.spoil(at, how)
				_, err := w.expire()
				if steps.Load() < at {
					break // it has no more steps
				}
				total++
				when := fmt.Sprintf("%s, step %d, %v (%v)", name, at, how, err)
				w.open()
				w.mustHold(when)
				w.converge(when)
				os.RemoveAll(w.base)
			}
		}
	}
	if total < 50 {
		t.Errorf("%d steps went wrong", total)
	}
	t.Logf("%d steps went wrong", total)
}

// cutOff: from that step on nothing works, as for a process that was killed.
const cutOff storetest.How = 100

func (w *world) spoil(at int64, how storetest.How) *atomic.Int64 {
	var n atomic.Int64
	hook := func(op storetest.Op, key string) storetest.Mishap {
		switch k := n.Add(1); {
		case how == cutOff && k >= at:
			return storetest.Mishap{How: storetest.Fail}
		case how != cutOff && k == at:
			return storetest.Mishap{How: how}
		}
		return storetest.Mishap{}
	}
	for i := range w.faulty {
		w.faulty[i].Inject(hook)
		w.del[i].hook = hook
	}
	return &n
}

// Weekly backups and expiries, one store away for three weeks.
func TestAStoreAwayForThreeWeeks(t *testing.T) {
	for n := 2; n <= 4; n++ { // 1+1, 2+1, 2+2
		for away := range n {
			w := newWorld(t, n)
			w.weeks(4)
			for at := range 16 {
				switch at {
				case 5:
					w.faulty[away].Down()
					w.del[away].hook = func(storetest.Op, string) storetest.Mishap { return storetest.Mishap{How: storetest.Fail} }
				case 8:
					w.faulty[away].Up()
					w.del[away].hook = nil
				}
				w.weeks(1)
				gone := w.del[away].n
				p, err := w.expire()
				if err != nil {
					t.Fatal(err)
				}
				if at >= 5 && at < 8 && (len(p.Burials) > 0 || w.del[away].n != gone) {
					t.Errorf("%d stores, %d away: %d burials, %d deleted there", n, away, len(p.Burials), w.del[away].n-gone)
				}
				w.mustHold(fmt.Sprintf("%d stores, %d away, week %d", n, away, at))
			}
			w.converge(fmt.Sprintf("%d stores, %d was away", n, away))
			if l := w.list(); len(l.Snapshots) > 6 {
				t.Errorf("%d stores: %d snapshots are left", n, len(l.Snapshots))
			}
		}
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A store comes back as it was before the tombstone, beside what it got since.
func TestAStaleStoreResurrectsNothing(t *testing.T) {
	w := newWorld(t, 3)
	w.weeks(7)
	old := t.TempDir()
	copyTree(t, w.dir(0), old)
	first := w.list().Snapshots[0].Generation
	w.mustExpire()
	w.clock = w.clock.Add(25 * time.Hour)
	w.converge("before")
	_, stones := w.objects(0)
	if err := os.Remove(filepath.Join(w.dir(0), stones[0])); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.dir(0))
	w.open()
	if data, stones := w.objects(0); of(data, first) < 6 || len(stones) > 0 {
		t.Fatalf("%d objects are back, %d tombstones", of(data, first), len(stones))
	}
	if l := w.list(); len(l.Snapshots) != 4 || len(l.Buried) != 3 {
		t.Fatalf("%d listed, %d buried", len(l.Snapshots), len(l.Buried))
	}
	w.weeks(1) // the writer is not misled either
	p := w.mustExpire()
	if len(p.Carries) != 1 || len(p.Deletions) > 0 {
		t.Fatalf("%d carries, %d deletions", len(p.Carries), len(p.Deletions))
	}
	w.converge("after")
}

// A store was rolled back whole: it lacks what is newer, so nothing newer
// passes, and what is older stays for it.
func TestAStoreThatWasRolledBackCostsNothing(t *testing.T) {
	w := newWorld(t, 3)
	w.weeks(5)
	old := t.TempDir()
	copyTree(t, w.dir(0), old)
	w.weeks(5)
	if err := os.RemoveAll(w.dir(0)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(w.dir(0), 0o700); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.dir(0))
	w.open()
	p := w.mustExpire()
	if len(p.Burials)+len(p.Deletions) > 0 || len(w.list().Snapshots) != 10 {
		t.Errorf("%d burials, %d deletions", len(p.Burials), len(p.Deletions))
	}
	w.mustHold("rolled back")
}

func TestTombstonesThatAreNotBelievedDeleteNothing(t *testing.T) {
	w := newWorld(t, 2)
	w.weeks(7)
	l := w.list()
	good := repo.Tombstone{Tenant: w.r.Tenant, Dataset: dataset, Generation: l.Snapshots[0].Generation, Epoch: 1, Incarnation: 1,
		Time: w.clock, NotBefore: w.clock, Reason: repo.ByPolicy}
	newest := l.Snapshots[6]
	for name, change := range map[string]func(*repo.Tombstone) (by testSigner, generation repo.ID){
		"unknown key": func(*repo.Tombstone) (testSigner, repo.ID) { return newSigner(2), good.Generation },
		"other tenant": func(s *repo.Tombstone) (testSigner, repo.ID) {
			s.Tenant = repo.ID{6}
			return w.signer, good.Generation
		},
		"other generation": func(*repo.Tombstone) (testSigner, repo.ID) { return w.signer, newest.Generation },
		// Signed, and of the newest generation: nothing newer is there.
		"the newest": func(s *repo.Tombstone) (testSigner, repo.ID) {
			s.Generation, s.Epoch = newest.Generation, newest.Epoch
			s.Snapshots = []repo.Grave{{Sequence: newest.Sequence, Manifest: newest.Hash()}}
			return w.signer, newest.Generation
		},
		// Signed, and names one snapshot of three.
		"in part": func(s *repo.Tombstone) (testSigner, repo.ID) {
			s.Snapshots = s.Snapshots[:1]
			return w.signer, good.Generation
		},
	} {
		f := w.fork()
		f.policy = retain.Policy{}
		s := good
		for _, snap := range l.Snapshots[:3] {
			s.Snapshots = append(s.Snapshots, repo.Grave{Sequence: snap.Sequence, Manifest: snap.Hash()})
		}
		by, generation := change(&s)
		stone, err := s.Seal(by)
		if err != nil {
			t.Fatal(err)
		}
		key := w.r.Tenant.String() + "/" + generation.String() + stone.Key()[strings.LastIndexByte(stone.Key(), '/'):]
		for i := range 2 {
			if err := f.faulty[i].Put(context.Background(), key, stone.Raw, sum(stone.Raw)); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			f.clock = f.clock.Add(25 * time.Hour)
			if _, err := f.expire(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if f.del[0].n+f.del[1].n > 0 {
			t.Errorf("%s: %d objects were deleted", name, f.del[0].n+f.del[1].n)
		}
	}
}

// What waited in the spool for a store that was away does not reach it any more.
func TestTheSpoolOfABuriedGenerationIsDropped(t *testing.T) {
	w := newWorld(t, 3)
	w.weeks(7)
	w.mustExpire()
	first := w.list().Tombstones[0].Generation
	key := w.r.Tenant.String() + "/" + first.String() + "/s-" + strings.Repeat("0", 32) + "-" + strings.Repeat("1", 32) + "-00-00"
	if err := w.spool.Put(context.Background(), key, []byte("x"), sum([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	w.clock = w.clock.Add(25 * time.Hour)
	w.converge("spool")
	if _, err := w.spool.Stat(context.Background(), key); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("the spool still has it: %v", err)
	}
	w.mustExpire()
	if _, err := os.Stat(filepath.Join(w.state(), "spool", w.r.Tenant.String(), first.String())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory stays: %v", err)
	}
}

func TestAStateThatCannotBeReadStopsAll(t *testing.T) {
	w := newWorld(t, 1)
	w.weeks(7)
	if err := os.WriteFile(filepath.Join(w.state(), stateName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.expire(); err == nil {
		t.Error("expired without knowing what people decided")
	}
}
