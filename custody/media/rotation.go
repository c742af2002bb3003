package media

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

const day = 24 * time.Hour

// Rotation says how often which media are written and read.
type Rotation struct {
	// Sets is how many sets the weekly round has: A, B, C. Each week the one
	// that was written longest ago is written. 0: there is no weekly round.
	Sets int
	// Monthly is how many media the monthly set has before its oldest is written
	// again. 0: there is none.
	Monthly int
	// Yearly asks for one medium a year that is never written again.
	Yearly bool
	// VerifyDisk and VerifyOptical are how long a verification is believed: a
	// medium that was not read for longer counts for nothing.
	VerifyDisk, VerifyOptical time.Duration
	// Remind is how long before that a verification is asked for.
	Remind time.Duration
	// Inside is how long a medium may stay connected. One that always is, is not
	// offline.
	Inside time.Duration
}

// DefaultRotation is three weekly sets, twelve monthly media and a yearly one.
func DefaultRotation() Rotation {
	return Rotation{Sets: 3, Monthly: 12, Yearly: true, VerifyDisk: 180 * day, VerifyOptical: 365 * day, Remind: 30 * day, Inside: 2 * day}
}

// Check reports whether the rotation is possible.
func (r Rotation) Check() error {
	switch {
	case r.Sets < 0 || r.Sets > 26:
		return fmt.Errorf("%d weekly sets, want 0 to 26", r.Sets)
	case r.Sets == 1:
		return errors.New("one weekly set: while it is written there is no other; want 0, or 2 and more")
	case r.Monthly < 0 || r.Monthly > 120:
		return fmt.Errorf("%d monthly media, want 0 to 120", r.Monthly)
	case r.Sets == 0 && r.Monthly == 0 && !r.Yearly:
		return errors.New("neither weekly, monthly nor yearly sets")
	case min(r.VerifyDisk, r.VerifyOptical) < 7*day:
		return errors.New("verifications are believed for less than a week")
	case r.Remind < 0 || r.Remind >= min(r.VerifyDisk, r.VerifyOptical):
		return errors.New("a verification would be asked for all the time")
	case r.Inside < time.Hour:
		return errors.New("media would have to leave within the hour")
	}
	return nil
}

// skew is by how much a recorded time may lie ahead of the clock. What lies
// further ahead was written by a clock that was wrong, and says nothing: else a
// year that was typed wrong once would silence every reminder until then.
const skew = time.Hour

func known(t, now time.Time) time.Time {
	if t.After(now.Add(skew)) {
		return time.Time{}
	}
	return t
}

// limit is how long a verification of the medium is believed.
func (r Rotation) limit(m *Medium) time.Duration {
	if m.Kind == Optical {
		return r.VerifyOptical
	}
	return r.VerifyDisk
}

// Trusted reports whether the medium counts as a copy: it is in use, its last
// session is whole, and since then, not too long ago, every byte of it was read
// and good. Why says what is missing.
func (r Rotation) Trusted(m Medium, now time.Time) (ok bool, why string) {
	verified := known(m.Verified, now)
	switch {
	case m.Gone != "":
		return false, fmt.Sprintf("it is %s: %s", m.Gone, m.Reason)
	case m.Uses == 0:
		return false, "it was never written"
	case m.Open():
		return false, "its last session of writing was not finished"
	case m.Damage != "":
		return false, "it is damaged: " + m.Damage
	case !m.Checked:
		return false, "it was not verified since it was written or lost"
	case verified.IsZero():
		return false, "the clock was wrong when it was verified"
	case now.Sub(verified) > r.limit(&m):
		return false, fmt.Sprintf("it was last verified on %s, more than %s ago", date(verified), days(r.limit(&m)))
	}
	return true, ""
}

// State is what the medium is in, by the clock.
func (r Rotation) State(m Medium, now time.Time) State {
	switch {
	case m.Gone != "":
		return m.Gone
	case !m.Inserted.IsZero():
		return In
	case m.Uses == 0:
		return Enrolled
	case m.Checked && now.Sub(known(m.Verified, now)) > r.limit(&m):
		return Overdue
	}
	return Out
}

// A Task is what a person has to do with a medium.
type Task string

// The tasks.
const (
	DoInsert Task = "insert" // and write
	DoVerify Task = "verify"
	DoFinish Task = "finish" // insert it again: its session was cut off
	DoRepair Task = "repair" // write it anew, or retire it: it is damaged
	DoEject  Task = "eject"
	DoEnrol  Task = "enrol"  // a further medium for the set
	DoAssign Task = "assign" // this one to the yearly set
)

// Due is a task, from when it can be done and by when it must be.
type Due struct {
	Task    Task      `json:"task"`
	Set     string    `json:"set"`
	Medium  *Medium   `json:"medium,omitempty"` // none of DoEnrol
	From    time.Time `json:"from"`
	By      time.Time `json:"by"`
	Overdue bool      `json:"overdue"`
	Reason  string    `json:"reason"`
}

// Due returns what is to be done now, what is overdue first.
func (r Rotation) Due(all []Medium, now time.Time) []Due {
	return slices.DeleteFunc(r.Plan(all, now), func(d Due) bool { return d.From.After(now) })
}

// Plan returns what is to be done now and next, in the order of when it must be.
func (r Rotation) Plan(all []Medium, now time.Time) []Due {
	p := &plan{Rotation: r, now: now}
	for i := range all {
		if all[i].Gone == "" {
			p.live = append(p.live, &all[i])
		}
	}
	p.weekly()
	p.monthly()
	p.yearly()
	for _, m := range p.live {
		p.look(m)
	}
	for i := range p.out {
		p.out[i].Overdue = p.out[i].By.Before(now)
	}
	slices.SortStableFunc(p.out, func(a, b Due) int { return cmp.Or(a.By.Compare(b.By), a.From.Compare(b.From)) })
	return p.out
}

// ForYearly returns the monthly media that can be kept as the yearly one of a
// year: trusted, and written in it or later. The newest stands first.
func (r Rotation) ForYearly(all []Medium, year int, now time.Time) []Medium {
	var out []Medium
	for _, m := range all {
		if ok, _ := r.Trusted(m, now); ok && m.Set == Monthly && m.Written.UTC().Year() >= year {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b Medium) int { return b.Written.Compare(a.Written) })
	return out
}
