package schedule

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Tick is one planned run of a job.
type Tick struct {
	// Planned is when the schedule says. With the job it is the run's identity.
	Planned time.Time
	// Due is when the run may start: Planned, the job's jitter, and the end of a
	// blackout.
	Due time.Time
	// Note says what is special about it, or is empty.
	Note string
}

// Next returns the first tick that is planned after a moment, by the schedule's
// time zone. There is none when ok is false, which only far future brings.
//
// It asks cron in a time without daylight saving, so that each hour of the clock
// on the wall comes exactly once, and then looks when a wall clock that is set
// forward and back first shows that hour or a later one. Asked in local time,
// cron leaves out what falls into the gap in spring: a weekly run on Sunday, the
// day of nearly all changes, loses its week. It doubles what is in the hour that
// comes twice in autumn. An hourly run has two hours to the next one there.
func (s *Spec) Next(after time.Time) (t Tick, ok bool) {
	for wall := onWall(after.In(s.loc)); ; {
		if wall = nominal(s.cron, wall); wall.IsZero() {
			return Tick{}, false
		}
		planned, note := first(wall, s.loc)
		// In the hour that comes twice the wall shows again what is over.
		if !planned.After(after) {
			continue
		}
		due := planned.Add(s.jitter)
		free := s.blackout.release(due, s.loc)
		if free.After(due) {
			note = strings.TrimPrefix(note+"; waits for the end of a blackout", "; ")
		}
		return Tick{Planned: planned.UTC(), Due: free.UTC(), Note: note}, true
	}
}

// Preview lists the ticks that are due in some weeks.
func (s *Spec) Preview(from time.Time, weeks int) []Tick {
	var out []Tick
	end := from.AddDate(0, 0, 7*weeks)
	for t, ok := s.Next(from); ok && !t.Due.After(end); t, ok = s.Next(t.Planned) {
		// The planner makes one run of those that wait for the same moment.
		if n := len(out); n > 0 && !t.Due.After(out[n-1].Due) {
			out = out[:n-1]
			t.Note += ", with the runs before"
		}
		out = append(out, t)
	}
	return out
}

// Location is the time zone in which the schedule is read.
func (s *Spec) Location() *time.Location { return s.loc }

// onWall is what a clock on the wall shows, as if it stood in UTC.
func onWall(t time.Time) time.Time {
	y, m, d := t.Date()
	hour, minute, sec := t.Clock()
	return time.Date(y, m, d, hour, minute, sec, t.Nanosecond(), time.UTC)
}

// nominal is cron's next time after one, both as shown on the wall. cron gives
// up after five years; 29 February may be eight away, as after 2096.
func nominal(c *cron.SpecSchedule, after time.Time) time.Time {
	for range 2 {
		if t := c.Next(after); !t.IsZero() {
			return t
		}
		after = time.Date(after.Year()+5, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Second)
	}
	return time.Time{}
}

// first is the first moment when the wall shows what it is asked for, or
// something later because the clock was set forward over it. It grows with wall.
func first(wall time.Time, loc *time.Location) (time.Time, string) {
	y, m, d := wall.Date()
	hour, minute, sec := wall.Clock()
	// Where the wall shows this twice or not at all, Date takes one of the two
	// zones, and does not say which.
	t := time.Date(y, m, d, hour, minute, sec, 0, loc)
	begin, end := t.ZoneBounds()
	var found []time.Time
	for _, near := range []time.Time{begin.Add(-1), t, end} {
		if (near == begin.Add(-1) && begin.IsZero()) || (near == end && end.IsZero()) {
			continue
		}
		_, offset := near.Zone()
		if c := wall.Add(-time.Duration(offset) * time.Second).In(loc); onWall(c).Equal(wall) && !contains(found, c) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], ""
	case 0:
		for _, change := range []time.Time{begin, end} {
			if !change.IsZero() && onWall(change.Add(-1)).Before(wall) && onWall(change).After(wall) {
				return change, fmt.Sprintf("the clock is set forward over %02d:%02d: runs right after", hour, minute)
			}
		}
		return t, ""
	}
	for _, c := range found {
		if c.Before(found[0]) {
			found[0] = c
		}
	}
	return found[0], fmt.Sprintf("%02d:%02d comes twice: runs the first time", hour, minute)
}

func contains(all []time.Time, t time.Time) bool {
	for _, a := range all {
		if a.Equal(t) {
			return true
		}
	}
	return false
}
