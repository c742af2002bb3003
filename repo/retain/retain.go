// Package retain decides which snapshots a policy keeps and why, and which
// generations may go; it has no I/O and no clock of its own.
package retain

import (
	"fmt"
	"slices"
	"time"
)

// A Policy says which snapshots of a dataset to keep. The counts are restic's:
// of each of the newest n hours, days, weeks, months or years that have a
// snapshot the newest one is kept, and while a count is not used up, the oldest
// snapshot too. The zero value keeps everything.
type Policy struct {
	Last, Daily, Weekly, Monthly, Yearly int
	// Within keeps what is at most so much older than the newest snapshot:
	// than that, not than now, so that a clock or a pause of backups expires
	// nothing.
	Within time.Duration
	// Labels are kept whatever their age.
	Labels []string
}

// Empty reports whether the policy has no rule: then everything is kept.
func (p Policy) Empty() bool {
	return p.Last == 0 && p.Daily == 0 && p.Weekly == 0 && p.Monthly == 0 && p.Yearly == 0 && p.Within == 0 && len(p.Labels) == 0
}

// A Snapshot is what the rules look at. All of it was signed or sealed by the
// box; nothing comes from the clock of whoever was backed up.
type Snapshot struct {
	ID         string // for reasons; unique in its dataset
	Generation string
	// Epoch and Sequence order snapshots: the generation's number and the
	// snapshot's place in it. Of a copy they are those of what it copies.
	Epoch, Sequence uint32
	Time            time.Time // by the box's clock; of a copy that of its original
	KeepUntil       time.Time // promised when it was taken; zero: not
	Imported        time.Time // when a dump that was imported is of; zero: it was not
	Label           string
	Anomalies       []string // recorded when it was taken and accepted by nobody
	Accepted        bool     // a person looked at it: also at its time, if that is out of line

	Passed   bool   // its check passed, the one of this run
	Why      string // if not, why not
	Replaced string // ID of a copy elsewhere that was read back and compared
	Without  string // why a person had it left out of that copy
}

// When is the time that the rules go by. Imported dumps come in the order of
// theirs.
func (s Snapshot) When() time.Time {
	if !s.Imported.IsZero() {
		return s.Imported
	}
	return s.Time
}

// A Decision is what becomes of one snapshot. No reason: it is expired.
type Decision struct {
	Snapshot
	Reasons []string
	Gone    string // why it is expired, if not by the rules
}

// Keep reports whether the snapshot stays.
func (d Decision) Keep() bool { return len(d.Reasons) > 0 }

// Newest is how many snapshots that passed a check no rule ever expires.
const Newest = 3

// order sorts by the box's own count, oldest first. It never looks at times.
func order(a, b Snapshot) int {
	switch {
	case a.Epoch != b.Epoch:
		return int(int64(a.Epoch) - int64(b.Epoch))
	case a.Sequence != b.Sequence:
		return int(int64(a.Sequence) - int64(b.Sequence))
	}
	return 0
}

// Decide applies the rules to all snapshots of a dataset and returns a decision
// for each, oldest first.
func Decide(p Policy, all []Snapshot, now time.Time) []Decision {
	out := make([]Decision, len(all))
	var live []int // oldest first
	all = slices.Clone(all)
	slices.SortStableFunc(all, order)
	for i, s := range all {
		out[i].Snapshot = s
		switch {
		case s.Replaced != "":
			out[i].Gone = "copied as " + s.Replaced
		case s.Without != "":
			out[i].Gone = "left out: " + s.Without
		default:
			live = append(live, i)
		}
	}
	if len(live) == 0 {
		return out
	}
	p.rules(out, live)
	for _, i := range live {
		if out[i].KeepUntil.After(now) {
			out[i].keep("promised until %s", out[i].KeepUntil.UTC().Format(time.DateOnly))
		}
	}
	passed := 0
	for _, i := range slices.Backward(live) {
		if out[i].Passed && passed < Newest {
			passed++
			out[i].keep("newest that passed a check (%d of %d)", passed, Newest)
		}
	}
	if newest := live[len(live)-1]; !out[newest].Keep() {
		out[newest].keep("newest of all")
	}
	return out
}

func (d *Decision) keep(format string, args ...any) {
	d.Reasons = append(d.Reasons, fmt.Sprintf(format, args...))
}

// rules applies what the policy says to the live snapshots.
func (p Policy) rules(out []Decision, live []int) {
	if p.Empty() {
		for _, i := range live {
			out[i].keep("no policy")
		}
		return
	}
	newest := out[live[len(live)-1]].When()
	for _, i := range live {
		d := &out[i]
		if p.Within > 0 && d.When().After(newest.Add(-p.Within)) {
			d.keep("within")
		}
		if d.Label != "" && slices.Contains(p.Labels, d.Label) {
			d.keep("label %q", d.Label)
		}
	}
	for _, b := range p.buckets() {
		last, left := "", b.count
		for k, i := range slices.Backward(live) {
			d := &out[i]
			name := b.of(d.When().UTC(), k)
			// The oldest one too while there is room: that is the longest history
			// that the count allows.
			if left > 0 && (name != last || k == 0) {
				d.keep("%s (%d of %d)", b.name, b.count-left+1, b.count)
				last = name
				left--
			}
		}
	}
}

type bucket struct {
	name  string
	count int
	of    func(t time.Time, nth int) string
}

func (p Policy) buckets() []bucket {
	return []bucket{
		{"last", p.Last, func(_ time.Time, nth int) string { return fmt.Sprint(nth) }},
		{"daily", p.Daily, func(t time.Time, _ int) string { return t.Format(time.DateOnly) }},
		{"weekly", p.Weekly, func(t time.Time, _ int) string {
			y, w := t.ISOWeek()
			return fmt.Sprintf("%d week %d", y, w)
		}},
		{"monthly", p.Monthly, func(t time.Time, _ int) string { return t.Format("2006-01") }},
		{"yearly", p.Yearly, func(t time.Time, _ int) string { return t.Format("2006") }},
	}
}
