package job

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestASpoolSaysWhenItIsFull(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	dir := filepath.Join(t.TempDir(), "spool")
	u := SpoolUsage{Bound: 1000}
	if err := u.measure(dir); err != nil || u.Held != 0 {
		t.Fatalf("without one: %+v, %v", u, err)
	}
	u.forecast(nil, now)
	if u.Full != nil {
		t.Errorf("an empty one is full at %v", u.Full)
	}
	put := func(name string, size int, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	put("a/b", 100, 14*day)
	put("c", 100, day)
	if err := u.measure(dir); err != nil || u.Held != 200 || !u.Since.Equal(now.Add(-14*day)) {
		t.Fatalf("%+v, %v", u, err)
	}
	// 200 bytes came in two weeks, so the other 800 come in eight.
	for _, tc := range []struct {
		free *int64
		days time.Duration
	}{{nil, 56}, {size(100), 7}, {size(5000), 56}, {size(0), 0}} {
		u.forecast(tc.free, now)
		if want := now.Add(tc.days * day); u.Full == nil || !u.Full.Equal(want) {
			t.Errorf("full %v, want %v", u.Full, want)
		}
	}
	// What came an hour ago does not come every hour.
	fresh := SpoolUsage{Bound: 1000, Held: 500, Since: &now}
	fresh.forecast(nil, now)
	if !fresh.Full.Equal(now.Add(7 * day)) {
		t.Errorf("full %v", fresh.Full)
	}
}

func size(n int64) *int64 { return &n }

func TestADatasetIsShortByWhatItsSnapshotsWereMadeFor(t *testing.T) {
	for _, tc := range []struct {
		margin, planned int
		short           bool
	}{{1, 1, false}, {0, 1, true}, {-1, 0, true}, {0, 0, false}, {2, 1, false}} {
		if got := (DatasetChecked{Margin: tc.margin, Planned: tc.planned}).Short(); got != tc.short {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
