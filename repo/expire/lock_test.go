package expire

import (
	"context"
	"strings"
	"testing"
	"time"

	"strongroom/repo/objectlock"
	"strongroom/repo/store/storetest"
)

// lockSecond makes the second store one that locks, for 35 days.
func (w *world) lockSecond() *storetest.Locking {
	l := storetest.NewLocking(w.r.Members[1].Store, func() time.Time { return w.clock })
	w.r.Members[1].Store = l
	w.guard = map[int]Deleter{1: l.Guard(w.del[1])}
	return l
}

// extend locks what the live snapshots need, as the weekly run does.
func (w *world) extend() {
	w.t.Helper()
	k := objectlock.New(objectlock.Config{Members: w.r.Members, Window: 35 * 24 * time.Hour, Now: func() time.Time { return w.clock }})
	if r, err := k.Lock(context.Background(), w.list().Needs(&dataset), nil); err != nil || len(r.Failed)+len(r.Missing) > 0 {
		w.t.Fatal(r, err)
	}
}

func TestALockedGenerationGoesWhenItsLocksAreOver(t *testing.T) {
	w := newWorld(t, 3)
	w.lockSecond()
	w.weeks(7)
	first := w.list().Snapshots[0].Generation
	w.extend()
	locked := w.clock.Add(35 * 24 * time.Hour)
	w.mustExpire()
	w.clock = w.clock.Add(25 * time.Hour)
	// Where nothing is locked it goes now; where it is that is no failure.
	p := w.mustExpire()
	if len(p.Deletions) != 2 || len(p.Stuck)+len(p.Later) > 0 || len(p.Waiting) != 1 || !strings.Contains(p.Waiting[0], "store1: they are locked, until "+locked.Format(time.RFC3339)) {
		t.Fatalf("while locked: %+v", p)
	}
	before, _ := w.objects(1)
	if of(before, first) == 0 {
		t.Fatal("locked objects are gone")
	}
	if len(p.Gone()) > 0 {
		t.Error("it counts as gone")
	}
	// The weekly run goes on, and does not extend what is buried.
	for range 4 {
		w.clock = w.clock.Add(week)
		w.extend()
	}
	w.clock = locked.Add(-time.Minute)
	if p = w.mustExpire(); len(p.Deletions) > 0 {
		t.Fatalf("a minute early: %+v", p.Deletions)
	}
	w.clock = locked.Add(time.Minute)
	if p = w.mustExpire(); len(p.Deletions) != 1 || len(p.Waiting) > 0 {
		t.Fatalf("after the locks: %+v", p)
	}
	if data, _ := w.objects(1); of(data, first) != 0 {
		t.Errorf("%d objects are left", of(data, first))
	}
	w.mustHold("after all")
	if p = w.mustExpire(); len(p.Gone()) != 1 || p.Gone()[0] != first {
		t.Errorf("gone: %v", p.Gone())
	}
}

// A lock that comes between plan and deletion keeps its object, and nothing
// else is kept by it; one shard that is locked keeps the manifests.
func TestALockThatThePlanDidNotKnowOfIsNoFailure(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := newWorld(t, 3)
		l := w.lockSecond()
		w.weeks(7)
		first := w.list().Snapshots[0].Generation
		w.mustExpire()
		w.clock = w.clock.Add(25 * time.Hour)
		var shard string
		for key := range w.list().Inventory().Keys() {
			if strings.Contains(key, first.String()+"/s-") {
				if _, err := l.Stat(context.Background(), key); err == nil {
					shard = key
				}
			}
		}
		lock := func() {
			if err := l.Lock(context.Background(), shard, w.clock.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		if !late {
			lock()
		}
		p, err := Prepare(context.Background(), w.config())
		if err != nil {
			t.Fatal(err)
		}
		if late {
			lock()
		}
		if err := p.Do(context.Background()); err != nil {
			t.Fatalf("late %v: %v", late, err)
		}
		if got := len(p.Later); got != map[bool]int{false: 0, true: 1}[late] {
			t.Errorf("late %v: later: %v", late, p.Later)
		}
		if _, err := l.Stat(context.Background(), shard); err != nil {
			t.Error("the locked shard is gone")
		}
		data, _ := w.objects(1)
		if n := of(data, first); n != map[bool]int{false: 4, true: 1}[late] {
			t.Errorf("late %v: %d objects are left there", late, n)
		}
		w.clock = w.clock.Add(2 * time.Hour)
		w.mustExpire()
		if data, _ := w.objects(1); of(data, first) != 0 {
			t.Errorf("late %v: %d objects are left", late, of(data, first))
		}
		w.mustHold("after all")
	}
}
