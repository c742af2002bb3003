package repo

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/objectlock"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

const lockWindow = 35 * 24 * time.Hour

// lockingWorld has three stores of which the last two lock.
func lockingWorld(t *testing.T) (*world, []*storetest.Locking) {
	w := newSmallWorld(t, 3)
	var ls []*storetest.Locking
	for i := range w.r.Members[1:] {
		l := storetest.NewLocking(w.r.Members[1+i].Store, func() time.Time { return w.clock })
		w.r.Members[1+i].Store = l
		ls = append(ls, l)
	}
	return w, ls
}

// saveLocked takes a snapshot with locks; the book outlives it.
func (w *world) saveLocked(book *objectlock.Book, streams ...namedBytes) *Saved {
	w.t.Helper()
	w.locks = objectlock.New(objectlock.Config{Members: w.r.Members, Window: lockWindow, Book: book, Now: func() time.Time { return w.clock }})
	return w.mustSave(streams...)
}

// locked returns what a store has, and until when it keeps it.
func lockedOn(t *testing.T, l *storetest.Locking) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	for info, err := range l.List(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Retained(context.Background(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		out[info.Key] = r.Until
	}
	return out
}

// mustBeLocked wants all but the named objects of a store locked for nearly the
// window, and these not.
func (w *world) mustBeLocked(l *storetest.Locking, but ...string) {
	w.t.Helper()
	got := lockedOn(w.t, l)
	if len(got) < 2+len(but) {
		w.t.Errorf("the store has only %v", slices.Sorted(maps.Keys(got)))
	}
	for key, until := range got {
		if slices.Contains(but, key) {
			if !until.IsZero() {
				w.t.Errorf("%s is locked until %v, and nobody needs it", key, until)
			}
		} else if until.Before(w.clock.Add(lockWindow*85/100)) || until.After(w.clock.Add(lockWindow)) {
			w.t.Errorf("%s is locked until %v, now is %v", key, until, w.clock)
		}
	}
}

func TestACommitLocksWhatItNeedsAndNothingElse(t *testing.T) {
	w, ls := lockingWorld(t)
	book := objectlock.NewBook()
	w.saveLocked(book, namedBytes{"a", random(2<<20, 1)})
	// A run that died left shards of a pack that no manifest lists.
	first := slices.Sorted(maps.Keys(lockedOn(t, ls[0])))
	shard := first[slices.IndexFunc(first, func(k string) bool { return strings.Contains(k, "/s-") })]
	orphan := strings.Replace(shard, "/s-", "/s-0", 1)
	orphan = orphan[:len(shard)]
	if err := storetest.Put(ls[0], orphan, random(1000, 3)); err != nil {
		t.Fatal(err)
	}
	w.mustBeLocked(ls[0], orphan)
	w.mustBeLocked(ls[1])
	// While a snapshot is being written nothing of it is locked; when its
	// manifest comes, all of it is.
	seen := false
	for _, f := range w.faulty {
		f.Inject(func(op storetest.Op, key string) storetest.Mishap {
			if op == storetest.OpPut && isManifest(key) && !seen {
				seen = true
				w.mustBeLocked(ls[0], orphan)
				w.mustBeLocked(ls[1])
			} else if op == storetest.OpPut && !isManifest(key) {
				if n := ls[0].Calls(); n != len(first) {
					t.Errorf("%d locks before the commit, %d before the run", n, len(first))
				}
			}
			return storetest.Mishap{}
		})
	}
	saved := w.saveLocked(book, namedBytes{"a", random(2<<20, 1)}, namedBytes{"b", random(1<<20, 2)})
	if !seen || saved.State() != "complete" {
		t.Errorf("seen %v, state %q", seen, saved.State())
	}
	w.mustBeLocked(ls[0], orphan)
	w.mustBeLocked(ls[1])
}

func TestLocksAreNotRenewedWithEverySnapshot(t *testing.T) {
	w, ls := lockingWorld(t)
	book := objectlock.NewBook()
	data := namedBytes{"a", random(2<<20, 1)}
	w.saveLocked(book, data)
	before := ls[0].Calls()
	w.clock = w.clock.Add(24 * time.Hour)
	w.saveLocked(book, data)
	if n := ls[0].Calls() - before; n < 1 || n > 3 {
		t.Errorf("a day later a snapshot with nothing new locks %d objects", n)
	}
	before = ls[0].Calls()
	w.clock = w.clock.Add(7 * 24 * time.Hour)
	w.saveLocked(book, data)
	if n := ls[0].Calls() - before; n < 5 {
		t.Errorf("a week later only %d are locked again", n)
	}
	// With a lost book everything is locked again, which does no harm.
	w.saveLocked(objectlock.NewBook(), data)
	l, err := w.r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range l.Needs(nil) {
		if o.Member == 0 {
			continue
		}
		if r, err := ls[o.Member-1].Retained(t.Context(), o.Key); err != nil || r.Until.IsZero() {
			t.Errorf("%s: %v, %v", o.Key, r, err)
		}
	}
}

func TestASnapshotThatIsNotLockedIsCommittedAndSaysSo(t *testing.T) {
	w, ls := lockingWorld(t)
	book := objectlock.NewBook()
	ls[1].Refuse(store.ErrDenied)
	saved := w.saveLocked(book, namedBytes{"a", random(1<<20, 1)})
	if saved.State() != "complete; not locked on store2" || saved.Stores != 3 || len(saved.Failures) != 0 {
		t.Errorf("state %q, failures %v", saved.State(), saved.Failures)
	}
	if err := saved.Unlocked["store2"]; err == nil || !strings.Contains(err.Error(), store.ErrDenied.Error()) {
		t.Errorf("why: %v", err)
	}
	w.mustBeLocked(ls[0])
	for key, until := range lockedOn(t, ls[1]) {
		if !until.IsZero() {
			t.Errorf("%s is locked", key)
		}
	}
	w.mustRestore("latest", namedBytes{"a", random(1<<20, 1)})
	ls[1].Refuse(nil)
	saved = w.saveLocked(book, namedBytes{"a", random(1<<20, 1)}, namedBytes{"b", random(1<<20, 2)})
	if saved.State() != "complete" {
		t.Errorf("state %q", saved.State())
	}
	left := 0
	for key, until := range lockedOn(t, ls[1]) {
		if until.IsZero() && !isManifest(key) { // the weekly run locks the older manifest
			left++
		}
	}
	if left > 0 {
		t.Errorf("%d shards are still not locked", left)
	}
}

func TestWhatComesLateIsLockedToo(t *testing.T) {
	w, ls := lockingWorld(t)
	book := objectlock.NewBook()
	w.faulty[2].Down()
	if saved := w.saveLocked(book, namedBytes{"a", random(1<<20, 1)}); saved.State() != "reduced: 2 of 3 stores" {
		t.Errorf("state %q", saved.State())
	}
	w.mustBeLocked(ls[0])
	w.faulty[2].Up()
	// The next run delivers first, and may die then.
	w.locks = objectlock.New(objectlock.Config{Members: w.r.Members, Window: lockWindow, Book: book, Now: func() time.Time { return w.clock }})
	run, err := w.r.Begin(t.Context(), w.config())
	if err != nil {
		t.Fatal(err)
	}
	run.Abort(nil)
	w.mustBeLocked(ls[1])
	if saved := w.saveLocked(book, namedBytes{"b", random(1<<20, 2)}); saved.State() != "complete" {
		t.Errorf("state %q", saved.State())
	}
	w.mustBeLocked(ls[1])
	if len(lockedOn(t, ls[1])) != len(lockedOn(t, ls[0])) {
		t.Error("the store lacks something")
	}
}
