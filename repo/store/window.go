package store

import (
	"fmt"
	"strconv"
	"time"
)

// A Window is the part of each day in which a store is written to, by the
// clock on the wall. Outside it the store counts as away for whoever writes;
// reading is never bounded. nil is the whole day.
type Window struct {
	from, to int // minutes after midnight, to excluded
}

// ParseWindow reads "22:00-06:00". On an error it returns nil, the whole day.
func ParseWindow(text string) (*Window, error) {
	w := &Window{}
	if len(text) == 11 && text[5] == '-' {
		from, err := clock(text[:5])
		to, err2 := clock(text[6:])
		if err == nil && err2 == nil && from != to {
			w.from, w.to = from, to
			return w, nil
		}
	}
	return nil, fmt.Errorf("%s is not a window such as \"22:00-06:00\"", strconv.Quote(text))
}

func clock(text string) (minutes int, err error) {
	t, err := time.Parse("15:04", text)
	return t.Hour()*60 + t.Minute(), err
}

// Check returns an ErrUnavailable outside the window.
func (w *Window) Check(now time.Time) error {
	if w == nil {
		return nil
	}
	m := now.Hour()*60 + now.Minute()
	inside := w.from <= m && m < w.to
	if w.from > w.to { // over midnight
		inside = m >= w.from || m < w.to
	}
	if !inside {
		return fmt.Errorf("%w: it is written to from %02d:%02d to %02d:%02d only", ErrUnavailable, w.from/60, w.from%60, w.to/60, w.to%60)
	}
	return nil
}
