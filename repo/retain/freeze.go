package retain

import (
	"fmt"
	"slices"
	"time"
)

// A Hold is a person's word that nothing of a scope may go.
type Hold struct {
	Scope  string    `json:"scope"` // TENANT, TENANT/DATASET or TENANT/DATASET@SNAPSHOT
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// A ClockReading is what somebody else's clock said, and the box's at that
// moment.
type ClockReading struct {
	Who       string
	Says, Box time.Time
}

const (
	// Tolerance is how far clocks may be apart: less than an hour, which is
	// what a wrong time zone makes.
	Tolerance = 15 * time.Minute
	// A pause is suspicious when it is longer than minPause and than
	// pauseFactor times the longest one before it.
	minPause    = 45 * 24 * time.Hour
	pauseFactor = 4
)

// Redate returns the snapshots, oldest first, and corrects the time of those
// that a person accepted and that are out of line with the ones nobody had to
// accept: a box whose clock was ten years off for a day has signed such a time
// for ever, and no later snapshot puts it right. One gets the time of the next,
// so that it is kept longer rather than shorter than by its true one, and the
// newest that of the one before, so that the others are not older for it.
func Redate(all []Snapshot, now time.Time) []Snapshot {
	all = slices.Clone(all)
	slices.SortStableFunc(all, order)
	unaccepted := func(s Snapshot) bool { return !s.Accepted && s.Replaced == "" }
	for i := range all {
		s := &all[i]
		if !s.Accepted || !s.Imported.IsZero() {
			continue
		}
		before, after := now, now // of the neighbours, where there are any
		var hasBefore, hasAfter bool
		for _, o := range slices.Backward(all[:i]) {
			if hasBefore = unaccepted(o); hasBefore {
				before = o.Time
				break
			}
		}
		if k := slices.IndexFunc(all[i+1:], unaccepted); k >= 0 {
			after, hasAfter = all[i+1+k].Time, true
		}
		switch {
		case hasBefore && after.Before(before.Add(-Tolerance)): // it is they that are wrong
		case !s.Time.After(after.Add(Tolerance)) && (!hasBefore || !s.Time.Before(before.Add(-Tolerance))):
		case hasAfter:
			s.Time = after
		case hasBefore:
			s.Time = before
		}
	}
	return all
}

// Frozen says why nothing of a dataset may expire, a line each; none: it may.
// all is every snapshot of the dataset; holds are those that concern it.
func Frozen(all []Snapshot, holds []Hold, clocks []ClockReading, now time.Time) []string {
	var why []string
	for _, h := range holds {
		why = append(why, fmt.Sprintf("legal hold on %s since %s: %s", h.Scope, h.Since.UTC().Format(time.DateOnly), h.Reason))
	}
	// An original that was copied speaks through its copy.
	all = slices.DeleteFunc(slices.Clone(all), func(s Snapshot) bool { return s.Replaced != "" })
	slices.SortStableFunc(all, order)
	for _, s := range all {
		for _, a := range s.Anomalies {
			why = append(why, fmt.Sprintf("anomaly in %s: %s", s.ID, a))
		}
	}
	why = append(why, clock(all, clocks, now)...)
	return append(why, tooFew(all)...)
}

// tooFew: where fewer pass a check than are always kept, and others do not, the
// others may be all there is.
func tooFew(all []Snapshot) []string {
	passed, live, example := 0, 0, Snapshot{}
	for _, s := range all {
		if s.Without != "" {
			continue
		}
		live++
		if s.Passed {
			passed++
		} else {
			example = s
		}
	}
	if passed >= Newest || passed == live {
		return nil
	}
	return []string{fmt.Sprintf("only %d of %d snapshots pass a check, expiry needs %d: %s: %s", passed, live, Newest, example.ID, example.Why)}
}

// clock compares the box's clock with what it signed before and with what
// others say. Rules that count days, and every grace, hang on it.
func clock(all []Snapshot, clocks []ClockReading, now time.Time) []string {
	var why []string
	for i, s := range all {
		if s.Time.After(now.Add(Tolerance)) {
			why = append(why, fmt.Sprintf("clock: snapshot %s is of %s, and now it is %s", s.ID, stamp(s.Time), stamp(now)))
		}
		if i > 0 && s.Time.Before(all[i-1].Time.Add(-Tolerance)) {
			why = append(why, fmt.Sprintf("clock: snapshot %s is of %s, before %s of %s, which it follows", s.ID, stamp(s.Time), all[i-1].ID, stamp(all[i-1].Time)))
		}
	}
	return append(append(why, Disagree(clocks)...), pause(all, now)...)
}

// Disagree says which clocks are not the box's.
func Disagree(clocks []ClockReading) []string {
	var why []string
	for _, c := range clocks {
		if d := c.Says.Sub(c.Box); d > Tolerance || d < -Tolerance {
			why = append(why, fmt.Sprintf("clock: %s says %s, the box %s", c.Who, stamp(c.Says), stamp(c.Box)))
		}
	}
	return why
}

// pause notices a clock that has leapt ahead, which nothing else would where
// no store has one: far more time than ever before went by between two of the
// newest snapshots, or since. Newest further snapshots settle it: it was only
// a pause. Imports have no rhythm, and their rules do not go by the clock.
func pause(all []Snapshot, now time.Time) []string {
	if len(all) < 2 || !all[len(all)-1].Imported.IsZero() {
		return nil
	}
	longest := time.Duration(0)
	leap := ""
	for i := 1; i <= len(all); i++ {
		next, what := now, "now"
		if i < len(all) {
			next, what = all[i].Time, all[i].ID
		}
		d := next.Sub(all[i-1].Time)
		if d > minPause && i > 1 && d > pauseFactor*longest && len(all)-i < Newest {
			leap = fmt.Sprintf("clock: %d days went by between %s and %s, the longest pause before was %d: either backups paused or the clock leapt; after %d further snapshots it counts as a pause",
				int(d.Hours()/24), all[i-1].ID, what, int(longest.Hours()/24), Newest)
		}
		longest = max(longest, d)
	}
	if leap == "" {
		return nil
	}
	return []string{leap}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
