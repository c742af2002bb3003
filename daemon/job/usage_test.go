package job

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"strongroom/daemon/config"
)

// A database grows by incompressible data three times in three weeks: each
// store got its share of it, and what its quota leaves is gone when that says.
func TestTheForecastIsWhatTheWeeksBrought(t *testing.T) {
	s, dir := retained(t, "last = 5")
	const week = 7 * 24 * time.Hour
	s.Config.Stores[0].Quota = &config.Size{Bytes: 100 << 20}
	query(t, dir, "CREATE TABLE b (x BLOB); INSERT INTO b VALUES (randomblob(12 << 20))")
	mustBackup(t, s)
	if all, err := s.Usage(t.Context(), time.Now().Add(week)); err != nil || all[0].PerWeek != nil || all[0].Left(time.Now()) != "not known" {
		t.Errorf("after one snapshot: %+v, %v", all[0], err)
	}
	for range 3 {
		query(t, dir, "INSERT INTO b VALUES (randomblob(1 << 20))")
		mustBackup(t, s)
	}
	now := time.Now().Add(3 * week)
	all, err := s.Usage(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 4 || all[3].Store != "(box)" || all[3].Free == nil || *all[3].Free <= 0 {
		t.Fatalf("%+v", all)
	}
	for i, u := range all[:3] {
		if held := sizeOf(t, s.Config.Stores[i].Path); u.Held != held {
			t.Errorf("store %s holds %d, said %d", u.Store, held, u.Held)
		}
		if want := int64(1<<20) / 2; u.PerWeek == nil || *u.PerWeek < want || *u.PerWeek > want*12/10 {
			t.Errorf("store %s: %d a week, want about %d", u.Store, *u.PerWeek, want)
		}
	}
	first := all[0]
	if first.Free == nil || *first.Free != 100<<20-first.Held {
		t.Errorf("free %v of a quota of 100 MiB", first.Free)
	}
	if want := now.Add(time.Duration(float64(*first.Free) / float64(*first.PerWeek) * float64(week))); first.Full == nil || first.Full.Sub(want).Abs() > 2*time.Hour {
		t.Errorf("full at %v, want %v", first.Full, want)
	}
	if all, err = s.Usage(t.Context(), now.AddDate(1, 0, 0)); err != nil || *all[0].PerWeek != 0 || all[0].Left(now) != "not in sight" {
		t.Errorf("a year after the last one: %+v, %v", all[0], err)
	}
	if err := os.Rename(s.Config.Stores[1].Path, filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	if all, err = s.Usage(t.Context(), now); err != nil || all[1].Left(now) != "away" || all[2].PerWeek == nil {
		t.Errorf("with a store away: %+v, %v", all, err)
	}
}

// sizeOf adds up what tenants have on a directory store.
func sizeOf(t *testing.T, tree string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Dir(path) == tree {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
