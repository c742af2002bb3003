package media

import (
	"fmt"
	"slices"
	"time"
)

// plan is Plan at work.
type plan struct {
	Rotation
	now  time.Time
	live []*Medium
	out  []Due
}

func (p *plan) add(t Task, set string, m *Medium, from, by time.Time, reason string, args ...any) {
	p.out = append(p.out, Due{Task: t, Set: set, Medium: m, From: from, By: by, Reason: fmt.Sprintf(reason, args...)})
}

func (p *plan) of(set string) (out []*Medium) {
	for _, m := range p.live {
		if m.Set == set {
			out = append(out, m)
		}
	}
	return out
}

// written is when the medium was written, unless that is worth nothing. Where
// the clock was wrong then, it was not later than when it was verified.
func (p *plan) written(m *Medium) time.Time {
	if m.Damage != "" {
		return time.Time{}
	}
	if t := known(m.Written, p.now); !t.IsZero() || !m.Checked {
		return t
	}
	return known(m.Verified, p.now)
}

// good is when it was written, if it was read whole since.
func (p *plan) good(m *Medium) time.Time {
	if !m.Checked {
		return time.Time{}
	}
	return p.written(m)
}

// begun is when the first medium was enrolled: nothing is missing from before.
func (p *plan) begun(media []*Medium) time.Time {
	var first time.Time
	for _, m := range media {
		if t := known(m.Enrolled, p.now); first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	if first.IsZero() {
		return p.now
	}
	return first
}

// weekly asks in each week, from Monday on, for the set that was written
// longest ago. After weeks without anybody it goes on where it stopped: what
// counts is that the oldest copy is the one that is overwritten.
func (p *plan) weekly() {
	if p.Sets == 0 {
		return
	}
	var rounds []round
	var newest, touched time.Time // when a whole set was written and verified, and written
	var every []*Medium
	for i := range p.Sets {
		s := round{name: string(rune('A' + i))}
		s.media = p.of(s.name)
		s.last = p.whole(s.media, p.written)
		every = append(every, s.media...)
		rounds = append(rounds, s)
		newest = latest(newest, p.whole(s.media, p.good))
		touched = latest(touched, s.last)
	}
	from := p.begun(every)
	by := from.Add(7 * day)
	if !newest.IsZero() {
		from = monday(newest).Add(7 * day)
		by = from.Add(7 * day)
	}
	slices.SortStableFunc(rounds, func(a, b round) int { return a.last.Compare(b.last) })
	next := slices.IndexFunc(rounds, func(s round) bool { return slices.ContainsFunc(s.media, ready) })
	for i, s := range rounds {
		switch {
		case i == next && touched.Before(from):
			p.ask(s, from, by)
		case len(s.media) == 0:
			// At once, not only when it is its turn: disks have to be bought.
			soon := p.now
			if by.Before(soon) {
				soon = by
			}
			p.add(DoEnrol, s.name, nil, soon, by, "set %s of the weekly round has no medium", s.name)
		case (i < next || next < 0 && i == 0) && touched.Before(from) && !slices.ContainsFunc(s.media, func(m *Medium) bool { return !m.spent() }):
			p.add(DoEnrol, s.name, nil, from, by, "of the weekly round it is the turn of set %s, and none of its media can be written", s.name)
		}
	}
}

// round is a set of the weekly round.
type round struct {
	name  string
	media []*Medium
	last  time.Time // when all of it was written
}

// ready reports whether the medium can be asked for. One whose session was cut
// off keeps its turn; look asks for it.
func ready(m *Medium) bool { return !m.spent() && m.Damage == "" }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// whole is when the last of a set's disks was written. A set of optical media
// grows, and is as new as its newest.
func (p *plan) whole(set []*Medium, when func(*Medium) time.Time) time.Time {
	var oldest, newest time.Time
	disks := false
	for _, m := range set {
		switch t := when(m); {
		case m.Kind == Optical:
			if t.After(newest) {
				newest = t
			}
		case !disks || t.Before(oldest):
			disks, oldest = true, t
		}
	}
	if disks {
		return oldest
	}
	return newest
}

// ask asks for all media of a set that were not written since from.
func (p *plan) ask(s round, from, by time.Time) {
	for _, m := range s.media {
		if ready(m) && !m.Open() && p.written(m).Before(from) {
			p.add(DoInsert, s.name, m, from, by, "of the weekly round it is the turn of set %s, %s", s.name, since(s.last))
		}
	}
}

// monthly asks in each month for a medium that was never written, or for the
// oldest once the set is full.
func (p *plan) monthly() {
	if p.Monthly == 0 {
		return
	}
	set := p.of(Monthly)
	// A monthly medium that is kept as a yearly one was still this month's.
	newest := p.newest(append(slices.Clone(set), p.of(Yearly)...))
	from := p.begun(set)
	by := from.AddDate(0, 1, 0)
	if !newest.IsZero() {
		from = month(newest, 1)
		by = month(newest, 2)
	}
	next := slices.Clone(set)
	slices.SortStableFunc(next, func(a, b *Medium) int { return p.written(a).Compare(p.written(b)) })
	for _, m := range next {
		if w := p.written(m); !w.IsZero() && !w.Before(from) {
			return // its verification is asked for by itself
		}
	}
	reason := fmt.Sprintf("the monthly copy after that of %s", date(newest))
	if newest.IsZero() {
		reason = "the first monthly copy"
	}
	next = slices.DeleteFunc(next, func(m *Medium) bool { return !ready(m) })
	if len(next) > 0 && (p.written(next[0]).IsZero() || len(set) >= p.Monthly) {
		if m := next[0]; !m.Open() {
			p.add(DoInsert, Monthly, m, from, by, "%s, onto the medium that was written longest ago", reason)
		}
		return
	}
	p.add(DoEnrol, Monthly, nil, from, by, "%s needs a further medium: the monthly set has %d that are to be kept, of %d", reason, len(set), p.Monthly)
}

// yearly asks from December on for a copy of the year that is kept.
func (p *plan) yearly() {
	if !p.Yearly || len(p.live) == 0 {
		return
	}
	set := p.of(Yearly)
	year := p.begun(p.live).UTC().Year()
	if newest := p.newest(set); !newest.IsZero() {
		year = max(year, newest.UTC().Year()+1)
	}
	year = max(year, p.now.UTC().Year()-1) // what was missed before cannot be made any more
	from := time.Date(year, time.December, 1, 0, 0, 0, 0, time.UTC)
	by := time.Date(year+1, time.January, 1, 0, 0, 0, 0, time.UTC)
	for _, m := range set {
		if w := p.written(m); !w.IsZero() && w.UTC().Year() >= year {
			return // its verification is asked for by itself
		}
	}
	for _, m := range set {
		if m.Open() {
			return // it is asked for by itself
		}
		if m.Uses == 0 {
			p.add(DoInsert, Yearly, m, from, by, "the copy of %d that is kept", year)
			return
		}
	}
	var all []Medium
	for _, m := range p.live {
		all = append(all, *m)
	}
	if can := p.ForYearly(all, year, p.now); len(can) > 0 {
		p.add(DoAssign, Yearly, &can[0], from, by, "the monthly copy of %s can be kept as that of %d", date(can[0].Written), year)
		return
	}
	p.add(DoEnrol, Yearly, nil, from, by, "the copy of %d that is kept needs a medium that was never written", year)
}

func (p *plan) newest(set []*Medium) (t time.Time) {
	for _, m := range set {
		t = latest(t, p.good(m))
	}
	return t
}

// look asks for what one medium needs by itself.
func (p *plan) look(m *Medium) {
	p.lookInside(m)
	verified := known(m.Verified, p.now)
	switch {
	case m.Open():
		from := p.at(m.Begun)
		p.add(DoFinish, m.Set, m, from, from.Add(2*day), "session %d was cut off: what is on it counts for nothing", m.Uses)
	case m.Damage != "":
		from := p.at(m.Damaged)
		p.add(DoRepair, m.Set, m, from, from.Add(7*day), "write it anew, or retire it: %s", m.Damage)
	case m.Uses == 0: // nothing is on it
	case !m.Checked:
		from := p.at(m.Written)
		p.add(DoVerify, m.Set, m, from, from.Add(2*day), "it was not verified since it was written or lost, and counts for nothing until then")
	case verified.IsZero():
		p.add(DoVerify, m.Set, m, p.now, p.now, "the clock was wrong when it was verified: it counts for nothing until it is again")
	default:
		limit := verified.Add(p.limit(m))
		what := "from then on it counts for nothing"
		if limit.Before(p.now) {
			what = "it counts for nothing until it is again"
		}
		p.add(DoVerify, m.Set, m, limit.Add(-p.Remind), limit, "it was last verified on %s, which is believed for %s; %s", date(verified), days(p.limit(m)), what)
	}
}

func (p *plan) lookInside(m *Medium) {
	if m.Inserted.IsZero() {
		return
	}
	in := p.at(m.Inserted)
	p.add(DoEject, m.Set, m, in.Add(p.Inside), in.Add(p.Inside+day), "it is connected since %s: a medium that always is, is not offline", date(in))
}

// at is t, or now where the clock was wrong.
func (p *plan) at(t time.Time) time.Time {
	if known(t, p.now).IsZero() {
		return p.now
	}
	return t
}

// monday is the beginning of the week, in UTC.
func monday(t time.Time) time.Time {
	t = t.UTC()
	back := (int(t.Weekday()) + 6) % 7
	return time.Date(t.Year(), t.Month(), t.Day()-back, 0, 0, 0, 0, time.UTC)
}

// month is the beginning of the nth month after that of t.
func month(t time.Time, n int) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02") }

func days(d time.Duration) string { return fmt.Sprintf("%d days", int(d/day)) }

func since(t time.Time) string {
	if t.IsZero() {
		return "never written"
	}
	return "written last on " + date(t)
}
