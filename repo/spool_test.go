package repo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store/storetest"
)

// A store stays away until the spool is full: snapshots fail then, and say why,
// and all that was committed stays; when the store is back they go on.
func TestAFullSpoolEndsSnapshotsNotWhatWaits(t *testing.T) {
	w := newSmallWorld(t, 3)
	first := namedBytes{"a", random(1<<20, 1)}
	w.mustSave(first)
	w.faulty[1].Down()
	var err error
	if w.keep, err = OpenSpool(filepath.Join(w.state, "spool"), 2<<20); err != nil {
		t.Fatal(err)
	}
	weeks := []namedBytes{first}
	for {
		next := namedBytes{"a", random(1<<20, byte(len(weeks)+1))}
		if _, err = w.save(next); err != nil {
			break
		}
		weeks = append(weeks, next)
		if len(weeks) > 8 {
			t.Fatal("the spool takes more than its limit")
		}
	}
	if !errors.Is(err, ErrSpoolFull) || !strings.Contains(err.Error(), `store "store1"`) {
		t.Errorf("%v", err)
	}
	if len(weeks) < 3 {
		t.Errorf("%d snapshots found room", len(weeks))
	}
	waits, _ := filepath.Glob(filepath.Join(w.state, "spool", "*", "*", "s-*"))
	var held int64
	for _, name := range waits {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		held += info.Size()
	}
	if held == 0 || held > 2<<20 {
		t.Errorf("%d bytes wait", held)
	}
	w.mustRestore("", weeks[len(weeks)-1])

	// A process that opens the same spool counts the same.
	if w.keep, err = OpenSpool(filepath.Join(w.state, "spool"), 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := w.save(namedBytes{"a", random(1<<20, 100)}); !errors.Is(err, ErrSpoolFull) {
		t.Errorf("opened again: %v", err)
	}

	w.faulty[1].Up()
	last := namedBytes{"a", random(1<<20, 101)}
	w.mustSave(last)
	w.mustBeWhole("after the store returned")
	l := w.list()
	if len(l.Snapshots) != len(weeks)+1 {
		t.Fatalf("%d snapshots, want %d", len(l.Snapshots), len(weeks)+1)
	}
	for i, s := range l.Snapshots {
		w.mustRestore(s.ID(), append(weeks, last)[i])
	}
}

// What has waited longest goes first.
func TestTheSpoolIsDeliveredOldestFirst(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", random(1<<20, 1)})
	w.faulty[1].Down()
	came := map[string]int{} // in which week
	for week := 1; week <= 3; week++ {
		w.mustSave(namedBytes{"a", random(1<<20, byte(week+1))})
		names, _ := filepath.Glob(filepath.Join(w.state, "spool", "*", "*", "s-*"))
		for _, name := range names {
			key := filepath.Base(name)
			if _, ok := came[key]; !ok {
				came[key] = week
			}
		}
		// The weeks of this test are milliseconds long.
		for _, name := range names {
			at := w.clock.AddDate(0, 0, 7*came[filepath.Base(name)])
			if err := os.Chtimes(name, time.Time{}, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.faulty[1].Up()
	var order []int
	w.faulty[1].Inject(func(op storetest.Op, key string) storetest.Mishap {
		if week, ok := came[filepath.Base(key)]; ok && op == storetest.OpPut {
			order = append(order, week)
		}
		return storetest.Mishap{}
	})
	w.mustSave(namedBytes{"a", random(1<<20, 9)})
	if len(order) != len(came) || !slices.IsSorted(order) || order[0] == order[len(order)-1] {
		t.Errorf("delivered by week: %v, of %d", order, len(came))
	}
	w.mustBeWhole("after delivery")
}
