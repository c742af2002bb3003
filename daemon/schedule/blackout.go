package schedule

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// minutes of a week, from Sunday 00:00.
const (
	ofDay  = 24 * 60
	ofWeek = 7 * ofDay
)

// A week has the minutes in which no run starts, as the clock on the wall shows
// them.
type week [ofWeek]bool

var (
	window   = regexp.MustCompile(`^(?:([A-Za-z,-]{3,27}) +)?([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])$`)
	weekdays = "sun mon tue wed thu fri sat "
)

// parseBlackout reads windows such as "Mon-Fri 08:00-18:00". The days are those
// of the beginning; one that ends before it began goes on to the next day.
func parseBlackout(windows []string) (*week, error) {
	if len(windows) == 0 {
		return nil, nil
	}
	w := &week{}
	for i, text := range windows {
		bad := func(offset int, what string) error {
			return &Error{Key: "blackout", Index: i, Offset: offset, Text: fmt.Sprintf("%.40q: %s", text, what), Hint: "such as \"Mon-Fri 08:00-18:00\""}
		}
		at := window.FindStringSubmatchIndex(text)
		if at == nil {
			return nil, bad(0, "no window")
		}
		n := func(group int) int { v, _ := strconv.Atoi(text[at[2*group]:at[2*group+1]]); return v }
		from, to := n(2)*60+n(3), n(4)*60+n(5)
		if from >= ofDay || to > ofDay {
			return nil, bad(at[4], "no time of the day")
		}
		if from == to {
			return nil, bad(at[4], "ends where it begins")
		}
		if to < from {
			to += ofDay
		}
		days := "Sun-Sat"
		if at[2] >= 0 {
			days = text[at[2]:at[3]]
		}
		if !w.block(days, from, to) {
			return nil, bad(0, "no days of the week")
		}
	}
	for _, blocked := range w {
		if !blocked {
			return w, nil
		}
	}
	return nil, &Error{Key: "blackout", Text: "leaves no minute of the week in which a run could start"}
}

// block marks the minutes on the days, such as "Mon-Fri,Sun"; false is of days
// that are none.
func (w *week) block(days string, from, to int) bool {
	day := func(name string) int {
		if i := strings.Index(weekdays, strings.ToLower(name)+" "); len(name) == 3 && i >= 0 {
			return i / 4
		}
		return -1
	}
	for part := range strings.SplitSeq(days, ",") {
		begin, end, isRange := strings.Cut(part, "-")
		if !isRange {
			end = begin
		}
		d, last := day(begin), day(end)
		if d < 0 || last < 0 {
			return false
		}
		for ; ; d = (d + 1) % 7 {
			for m := from; m < to; m++ {
				w[(d*ofDay+m)%ofWeek] = true
			}
			if d == last {
				break
			}
		}
	}
	return true
}

// release is the first moment from t on that is not in a blackout. It goes
// forward in real time, minute by minute, as the wall may show some twice.
func (w *week) release(t time.Time, loc *time.Location) time.Time {
	if w == nil {
		return t
	}
	for range 2 * ofWeek {
		wall := t.In(loc)
		if !w[int(wall.Weekday())*ofDay+wall.Hour()*60+wall.Minute()] {
			break
		}
		t = t.Add(time.Minute - time.Duration(wall.Second())*time.Second - time.Duration(wall.Nanosecond()))
	}
	return t
}
