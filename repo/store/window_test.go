package store

import (
	"errors"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		window, at string
		open       bool
	}{
		{"22:00-06:00", "21:59", false}, {"22:00-06:00", "22:00", true}, {"22:00-06:00", "00:00", true},
		{"22:00-06:00", "05:59", true}, {"22:00-06:00", "06:00", false}, {"22:00-06:00", "12:00", false},
		{"09:30-17:00", "09:29", false}, {"09:30-17:00", "09:30", true}, {"09:30-17:00", "16:59", true}, {"09:30-17:00", "17:00", false},
		{"00:00-12:00", "00:00", true}, {"12:00-00:00", "23:59", true}, {"12:00-00:00", "00:00", false},
	} {
		w, err := ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse("15:04", c.at)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Check(now); (err == nil) != c.open || err != nil && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s at %s: %v", c.window, c.at, err)
		}
	}
	for _, bad := range []string{"", "22:00", "22:00-22:00", "24:00-06:00", "22:60-06:00", "2:00-06:00", "22:00-6:00", "22:00–06:00", "22:00-06:00 ", "aa:00-06:00"} {
		if w, err := ParseWindow(bad); err == nil {
			t.Errorf("%q: %v", bad, w)
		}
	}
	if err := (*Window)(nil).Check(time.Now()); err != nil {
		t.Error(err)
	}
}
