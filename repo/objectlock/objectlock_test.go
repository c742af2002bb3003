package objectlock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"strongroom/repo/objectlock"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

const day = 24 * time.Hour

// house is two stores, of which the second locks.
type house struct {
	now     time.Time
	members []spread.Member
	locking *storetest.Locking
	objects []objectlock.Object
}

func newHouse(t *testing.T, objects int) *house {
	h := &house{now: time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)}
	plain, inner := storetest.NewMemory(), storetest.NewMemory()
	h.locking = storetest.NewLocking(inner, func() time.Time { return h.now })
	h.members = []spread.Member{{Name: "plain", Store: plain}, {Name: "locking", Store: h.locking}}
	for i := range objects {
		key := fmt.Sprintf("a/%d", i)
		for m, s := range []store.Store{plain, inner} {
			if err := storetest.Put(s, key, []byte(key)); err != nil {
				t.Fatal(err)
			}
			h.objects = append(h.objects, objectlock.Object{Member: m, Key: key})
		}
	}
	return h
}

func (h *house) keeper(book *objectlock.Book) *objectlock.Keeper {
	return objectlock.New(objectlock.Config{Members: h.members, Window: 35 * day, Book: book, Now: func() time.Time { return h.now }})
}

func lock(t *testing.T, k *objectlock.Keeper, objects []objectlock.Object) objectlock.Result {
	t.Helper()
	r, err := k.Lock(context.Background(), objects, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAWeeklyRunFindsEverythingDueAndARepeatedOneNothing(t *testing.T) {
	h := newHouse(t, 3000) // some batches
	book := objectlock.NewBook()
	k := h.keeper(book)
	for week := range 4 {
		due := k.Due(h.objects)
		if len(due) != 3000 {
			t.Fatalf("week %d: %d are due", week, len(due))
		}
		if r := lock(t, k, due[:1000]); r.Done != 1000 || len(r.Failed) > 0 {
			t.Fatalf("week %d: %+v", week, r)
		}
		// The run was stopped; the next one has the book and goes on.
		raw := book.Format(h.now)
		again, err := objectlock.ParseBook(raw)
		if err != nil {
			t.Fatal(err)
		}
		book, k = again, h.keeper(again)
		due = k.Due(h.objects)
		if len(due) != 2000 {
			t.Fatalf("week %d: %d are left", week, len(due))
		}
		lock(t, k, due)
		if due := k.Due(h.objects); len(due) != 0 {
			t.Fatalf("week %d: %d are due after all were locked", week, len(due))
		}
		h.now = h.now.Add(7 * day)
	}
	if n := h.locking.Calls(); n != 4*3000 {
		t.Errorf("%d calls", n)
	}
}

func TestLessThanFortyPercentLeftIsAnAlarm(t *testing.T) {
	h := newHouse(t, 10)
	k := h.keeper(nil)
	lock(t, k, h.objects)
	for _, tc := range []struct {
		after   time.Duration
		percent int
		alarm   bool
	}{{0, 100, false}, {20 * day, 42, false}, {21 * day, 40, false}, {21*day + time.Minute, 39, true}, {34 * day, 2, true}, {36 * day, 0, true}} {
		now := h.now
		h.now = h.now.Add(tc.after)
		s := k.States(h.objects)
		if len(s) != 1 || s[0].Store != "locking" || s[0].Objects != 10 || s[0].Percent != tc.percent || s[0].Alarm() != tc.alarm {
			t.Errorf("after %v: %+v", tc.after, s)
		}
		h.now = now
	}
	// One object that is not locked is enough.
	h.locking.Unlock("a/7")
	if _, err := k.Ask(context.Background(), h.objects, nil); err != nil {
		t.Fatal(err)
	}
	if s := k.States(h.objects)[0]; s.Short != 1 || s.Object != "a/7" || s.Percent != 0 || !s.Alarm() {
		t.Errorf("%+v", s)
	}
	if due := k.Due(h.objects); len(due) != 1 || due[0].Key != "a/7" {
		t.Errorf("due: %v", due)
	}
}

func TestAStoreThatRefusesIsGivenUpAndTheOthersAreNot(t *testing.T) {
	h := newHouse(t, 500)
	other := storetest.NewLocking(h.members[0].Store, func() time.Time { return h.now })
	h.members[0].Store = other
	other.Refuse(store.ErrDenied)
	r := lock(t, h.keeper(nil), h.objects)
	if r.Done != 500 || len(r.Failed) != 1 || !errors.Is(r.Failed[0], store.ErrDenied) {
		t.Errorf("%d done, %v", r.Done, r.Failed)
	}
	if n := other.Calls(); n > 100 {
		t.Errorf("it was asked %d times", n)
	}
	r = lock(t, h.keeper(nil), append(h.objects[1:2], objectlock.Object{Member: 1, Key: "gone"}))
	if r.Done != 1 || len(r.Missing) != 1 || r.Missing[0].Key != "gone" || len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
}

func FuzzBook(f *testing.F) {
	f.Add(objectlock.NewBook().Format(time.Unix(1, 0)))
	h := &house{now: time.Unix(1e9, 0)}
	h.locking = storetest.NewLocking(storetest.NewMemory(), func() time.Time { return h.now })
	h.members = []spread.Member{{Name: "x", Store: h.locking}}
	storetest.Put(h.locking, "a", nil)
	book := objectlock.NewBook()
	h.keeper(book).Lock(context.Background(), []objectlock.Object{{Key: "a"}}, nil)
	f.Add(book.Format(h.now))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := objectlock.ParseBook(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(b.Format(time.Unix(0, 0)), raw) {
			t.Error("what was read is not what is written")
		}
	})
}
