package media

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// shelf is media without a file, as years of weeks need them.
type shelf struct {
	t   *testing.T
	r   Rotation
	all []Medium
	now time.Time
}

func newShelf(t *testing.T, r Rotation) *shelf {
	t.Helper()
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	return &shelf{t: t, r: r, now: start}
}

func (s *shelf) act(e Entry) {
	s.t.Helper()
	e.Time, e.By = s.now, "operator"
	all, err := apply(s.all, e)
	if err != nil {
		s.t.Fatal(err)
	}
	s.all = all
}

func (s *shelf) enrol(set string, kind Kind) *Medium {
	s.t.Helper()
	n := newDisk(fmt.Sprintf("%s-%d", set, len(s.all)+1), set)
	n.Kind, n.Slot = kind, len(s.all)+1
	s.act(Entry{Act: Enrol, Medium: n.ID, Identity: &n.Identity, Custody: &n.Custody})
	return &s.all[len(s.all)-1]
}

func (s *shelf) of(label string) *Medium {
	s.t.Helper()
	for i := range s.all {
		if s.all[i].Label == label {
			return &s.all[i]
		}
	}
	s.t.Fatalf("no medium %s", label)
	return nil
}

func (s *shelf) write(m *Medium) {
	s.t.Helper()
	s.act(Entry{Act: Insert, Medium: m.ID})
	s.act(Entry{Act: Begin, Medium: m.ID, Uses: m.Uses + 1})
	e := Entry{Act: Finish, Medium: m.ID, Uses: m.Uses}
	if m.Kind == Optical {
		e.Image = &Image{Bytes: 1}
	}
	s.act(e)
}

func (s *shelf) verify(m *Medium, damage string) {
	s.t.Helper()
	s.act(Entry{Act: Insert, Medium: m.ID})
	s.act(Entry{Act: Verify, Medium: m.ID, Damage: damage})
	s.act(Entry{Act: Eject, Medium: m.ID})
}

func (s *shelf) full(m *Medium) { s.t.Helper(); s.write(m); s.verify(m, "") }

// list is what is due, in one line each: "insert A-1 overdue".
func (s *shelf) list() (out []string) {
	for _, d := range s.r.Due(s.all, s.now) {
		line := string(d.Task) + " " + d.Set
		if d.Medium != nil {
			line = string(d.Task) + " " + d.Medium.Label
		}
		if d.Overdue {
			line += " overdue"
		}
		out = append(out, line)
	}
	return out
}

func (s *shelf) want(lines ...string) {
	s.t.Helper()
	if got := s.list(); !slices.Equal(got, lines) {
		s.t.Errorf("%s: due is %q, want %q", s.now.Format("Mon 2006-01-02 15:04"), got, lines)
		for _, d := range s.r.Plan(s.all, s.now) {
			s.t.Logf("  %s %s from %s by %s: %s", d.Task, d.Set, d.From.Format("01-02"), d.By.Format("01-02"), d.Reason)
		}
	}
}

func (s *shelf) at(value string) {
	s.t.Helper()
	t, err := time.Parse("2006-01-02 15:04", value)
	if err != nil {
		s.t.Fatal(err)
	}
	s.now = t
}

func weeklyOnly() Rotation {
	r := DefaultRotation()
	r.Monthly, r.Yearly = 0, false
	return r
}

func TestTheWeeklyRoundGoesOnWhereItStopped(t *testing.T) {
	s := newShelf(t, weeklyOnly())
	s.want("enrol A", "enrol B", "enrol C")
	for _, set := range []string{"A", "B", "C"} {
		s.enrol(set, Disk)
	}
	s.want("insert A-1")
	s.at("2026-01-12 09:01") // a week later, to the minute
	s.want("insert A-1 overdue")
	s.full(s.of("A-1"))
	s.want() // this week's is there
	s.at("2026-01-18 23:59")
	s.want() // Sunday
	s.at("2026-01-19 00:00")
	s.want("insert B-2")
	s.full(s.of("B-2"))
	s.at("2026-02-03 12:00") // the week of C is over, nobody was there
	s.want("insert C-3 overdue")
	s.full(s.of("C-3"))
	s.at("2026-02-09 00:00")
	s.want("insert A-1")
	s.full(s.of("A-1"))
	s.at("2026-02-16 08:00")
	s.want("insert B-2")
}

func TestAMediumCountsOnlyOnceItWasRead(t *testing.T) {
	s := newShelf(t, weeklyOnly())
	s.enrol("A", Disk)
	s.enrol("B", Disk)
	a := s.of("A-1")
	check := func(want bool, part string) {
		t.Helper()
		if ok, why := s.r.Trusted(*s.of("A-1"), s.now); ok != want || !strings.Contains(why, part) {
			t.Errorf("%v: trusted %v, %q; want %v, %q", s.now, ok, why, want, part)
		}
	}
	check(false, "never written")
	s.write(a)
	check(false, "not verified")
	s.want("verify A-1", "enrol C") // and not: insert B, which holds the older copy
	s.now = s.now.Add(49 * time.Hour)
	s.want("verify A-1 overdue", "eject A-1", "enrol C")
	s.now = s.now.Add(8 * day)
	s.want("verify A-1 overdue", "eject A-1 overdue", "enrol C overdue") // the week of A is not done
	s.verify(a, "")
	check(true, "")
	s.now = s.now.Add(180 * day)
	check(true, "")
	s.now = s.now.Add(time.Second)
	check(false, "more than 180 days")
	if got := s.r.State(*a, s.now); got != Overdue {
		t.Errorf("state %s", got)
	}
	s.verify(a, "")
	check(true, "")
	s.verify(a, "shard 3: 2 segments do not hold their checksum")
	check(false, "damaged: shard 3")
	s.want("insert B-2 overdue", "enrol C overdue", "repair A-1") // the round goes on without it
	s.full(a)
	check(true, "")
	s.act(Entry{Act: Lose, Medium: a.ID, Reason: "not in its box"})
	check(false, "lost")
	s.act(Entry{Act: Find, Medium: a.ID})
	check(false, "not verified since it was written or lost")
	s.verify(a, "")
	check(true, "")
}

func TestASessionThatWasCutOffIsAskedForAgain(t *testing.T) {
	s := newShelf(t, weeklyOnly())
	for _, set := range []string{"A", "B", "C"} {
		s.full(s.enrol(set, Disk))
		s.now = s.now.Add(7 * day)
	}
	a := s.of("A-1")
	s.want("insert A-1")
	s.act(Entry{Act: Insert, Medium: a.ID})
	s.act(Entry{Act: Begin, Medium: a.ID, Uses: a.Uses + 1})
	s.act(Entry{Act: Eject, Medium: a.ID})
	s.want("finish A-1")
	s.now = s.now.Add(3 * day)
	s.want("finish A-1 overdue")
	s.full(a)
	s.want()
}

func TestAMediumMustNotStayConnected(t *testing.T) {
	s := newShelf(t, weeklyOnly())
	for _, set := range []string{"A", "B", "C"} {
		s.full(s.enrol(set, Disk))
	}
	s.act(Entry{Act: Insert, Medium: s.of("B-2").ID})
	s.now = s.now.Add(47 * time.Hour)
	s.want()
	s.now = s.now.Add(time.Hour)
	s.want("eject B-2")
	s.now = s.now.Add(25 * time.Hour)
	s.want("eject B-2 overdue")
}

func TestASetOfSeveralMediaIsWrittenWhole(t *testing.T) {
	r := weeklyOnly()
	r.Sets = 2
	s := newShelf(t, r)
	for _, set := range []string{"A", "A", "B", "B"} {
		s.enrol(set, Disk)
	}
	s.want("insert A-1", "insert A-2")
	s.full(s.of("A-1"))
	s.want("insert A-2")
	s.full(s.of("A-2"))
	s.want()
	s.now = s.now.Add(7 * day)
	s.want("insert B-3", "insert B-4")
	s.full(s.of("B-4"))
	s.now = s.now.Add(7 * day) // half of B is no set
	s.want("insert B-3 overdue")
}

func TestMonthlyMediaAreKeptUntilTheSetIsFull(t *testing.T) {
	r := DefaultRotation()
	r.Sets, r.Monthly, r.Yearly = 0, 3, false
	s := newShelf(t, r)
	s.want("enrol monthly")
	s.enrol(Monthly, Disk)
	s.want("insert monthly-1")
	s.full(s.of("monthly-1"))
	s.want()
	s.at("2026-02-01 00:00")
	s.want("enrol monthly") // the only one is to be kept
	s.enrol(Monthly, Disk)
	s.want("insert monthly-2")
	s.full(s.of("monthly-2"))
	s.at("2026-03-31 00:00")
	s.enrol(Monthly, Disk)
	s.full(s.of("monthly-3"))
	s.at("2026-04-01 00:00")
	s.want("insert monthly-1")
	s.at("2026-05-01 00:01")
	s.want("insert monthly-1 overdue")
	s.act(Entry{Act: Retire, Medium: s.of("monthly-1").ID, Reason: "worn"})
	s.want("enrol monthly overdue") // two are left, and three are to be kept
}

func TestOneMonthlyCopyAYearIsKept(t *testing.T) {
	r := DefaultRotation()
	r.Sets, r.Monthly = 0, 2
	s := newShelf(t, r)
	s.enrol(Monthly, Disk)
	s.enrol(Monthly, Disk)
	for month := time.January; month <= time.November; month++ {
		s.now = time.Date(2026, month, 6, 0, 0, 0, 0, time.UTC)
		s.full(s.of([]string{"monthly-1", "monthly-2"}[(month-1)%2]))
	}
	s.at("2026-11-30 23:59")
	s.want()
	s.at("2026-12-02 00:00")
	s.want("insert monthly-2", "assign monthly-1") // November's could be kept
	s.full(s.of("monthly-2"))
	s.want("assign monthly-2")
	s.act(Entry{Act: Assign, Medium: s.of("monthly-2").ID, Set: Yearly})
	s.want()                 // the copy of December is there too
	s.at("2027-01-05 00:00") // but the monthly set has one medium less
	s.want("enrol monthly")
	s.enrol(Monthly, Disk)
	s.full(s.of("monthly-3"))
	s.at("2027-12-05 00:00")
	if got := s.list(); !slices.Contains(got, "assign monthly-3") && !slices.Contains(got, "enrol yearly") {
		t.Errorf("due is %q", got)
	}
}

func TestAYearThatWasMissedIsAskedForUntilTheNextIs(t *testing.T) {
	r := DefaultRotation()
	r.Sets, r.Monthly = 0, 0
	s := newShelf(t, r)
	s.want() // nothing is enrolled
	s.enrol(Yearly, Disk)
	s.want()
	s.at("2026-12-01 00:00")
	s.want("insert yearly-1")
	s.at("2027-02-01 00:00")
	s.want("insert yearly-1 overdue")
	s.full(s.of("yearly-1"))
	s.want()
	s.at("2027-07-31 00:01") // half a year after it was verified, less the reminder
	s.want("verify yearly-1 overdue")
}

// An optical medium is written once: the set grows, and asks for blanks.
func TestOpticalMediaAreNeverWrittenTwice(t *testing.T) {
	r := weeklyOnly()
	r.Sets = 2
	s := newShelf(t, r)
	s.enrol("A", Optical)
	s.enrol("B", Optical)
	for _, label := range []string{"A-1", "B-2", "A-3", "B-4", "A-5"} {
		if set, number, _ := strings.Cut(label, "-"); number > "2" {
			s.want("enrol " + set)
			s.enrol(set, Optical)
		}
		s.want("insert " + label)
		s.full(s.of(label))
		s.want()
		s.now = s.now.Add(7 * day)
	}
}

// A clock that was years ahead once must not silence every reminder, nor one
// that was years behind.
func TestTimesOfAWrongClockSayNothing(t *testing.T) {
	for _, wrong := range []string{"2036-01-05 09:00", "2001-01-05 09:00"} {
		s := newShelf(t, weeklyOnly())
		for _, set := range []string{"A", "B", "C"} {
			s.full(s.enrol(set, Disk))
			s.now = s.now.Add(7 * day)
		}
		right := s.now
		s.at(wrong)
		s.full(s.of("A-1"))
		s.now = right.Add(14 * day)
		got := s.list()
		if !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "insert ") && strings.HasSuffix(l, " overdue") }) ||
			!slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "verify A-1") }) {
			t.Errorf("written in %s: due is %q", wrong, got)
		}
		if ok, _ := s.r.Trusted(*s.of("A-1"), s.now); ok {
			t.Errorf("verified in %s: it is trusted", wrong)
		}
		s.verify(s.of("A-1"), "")
		if ok, why := s.r.Trusted(*s.of("A-1"), s.now); !ok {
			t.Errorf("verified again: %s", why)
		}
	}
}

// obey does all that is asked for, but of what is asked for twice.
func (s *shelf) obey() {
	s.t.Helper()
	for range 40 {
		due := s.r.Due(s.all, s.now)
		if len(due) == 0 {
			return
		}
		d := due[0]
		if d.Medium == nil {
			s.enrol(d.Set, Disk)
			continue
		}
		m := s.of(d.Medium.Label)
		switch d.Task {
		case DoInsert, DoFinish, DoRepair:
			s.full(m)
		case DoVerify:
			s.verify(m, "")
		case DoEject:
			s.act(Entry{Act: Eject, Medium: m.ID})
		case DoAssign:
			s.act(Entry{Act: Assign, Medium: m.ID, Set: Yearly})
		}
	}
	s.want()
	s.t.Fatal("it never ends")
}

// Who does every day what is asked for is never late, over years: in each week
// a copy was made of each of the last three, in each month one of the last
// twelve, and each year one was kept; all of them are trusted.
func TestWhoDoesWhatIsAskedForIsNeverLate(t *testing.T) {
	s := newShelf(t, DefaultRotation())
	kept := map[int]bool{}
	for range 4 * 365 {
		for _, d := range s.r.Plan(s.all, s.now) {
			if d.Overdue {
				t.Fatalf("%v: %s %s is overdue: %s", s.now, d.Task, d.Set, d.Reason)
			}
		}
		s.obey()
		for _, m := range s.all {
			if ok, why := s.r.Trusted(m, s.now); !ok && m.Uses > 0 {
				t.Fatalf("%v: medium %s: %s", s.now, m.Label, why)
			}
			if m.Set == Yearly {
				kept[m.Written.Year()] = true
			}
		}
		s.now = s.now.Add(day)
	}
	counts := map[string]int{}
	for _, m := range s.all {
		age := s.now.Sub(m.Written)
		switch {
		case len(m.Set) == 1 && age > 3*7*day+day:
			t.Errorf("medium %s is from %v", m.Label, m.Written)
		case m.Set == Monthly && age > 13*31*day:
			t.Errorf("medium %s is from %v", m.Label, m.Written)
		}
		counts[m.Set]++
	}
	if counts["A"] != 1 || counts["B"] != 1 || counts["C"] != 1 || counts[Monthly] != 12 || len(kept) != 4 || counts[Yearly] != 4 {
		t.Errorf("media %v, years %v", counts, kept)
	}
}

// Whatever was neglected, lost, damaged or cut off: one day of doing what is
// asked for brings everything in order, and nothing that cannot be done or says
// nothing is ever asked for.
func TestOneDayOfWorkBringsEverythingInOrder(t *testing.T) {
	for seed := range uint64(40) {
		chance := rand.New(rand.NewPCG(seed, 1))
		r := DefaultRotation()
		r.Sets, r.Monthly, r.Yearly = []int{0, 2, 3, 5}[chance.IntN(4)], 1+chance.IntN(14), chance.IntN(2) == 0
		s := newShelf(t, r)
		for range 60 {
			s.now = s.now.Add(time.Duration(chance.IntN(60*24)) * time.Hour)
			for range chance.IntN(3) {
				s.mishap(chance)
			}
			before := s.r.Plan(s.all, s.now)
			for i, d := range before {
				if d.Reason == "" || d.By.Before(d.From) || i > 0 && d.By.Before(before[i-1].By) {
					t.Fatalf("seed %d: %+v", seed, d)
				}
			}
			s.obey()
			for _, m := range s.all {
				if ok, why := s.r.Trusted(m, s.now); m.Gone == "" && m.Uses > 0 && !ok {
					t.Fatalf("seed %d, %v: medium %s: %s", seed, s.now, m.Label, why)
				}
			}
			for i := range s.r.Sets {
				name := string(rune('A' + i))
				if !slices.ContainsFunc(s.all, func(m Medium) bool { return m.Set == name && m.Gone == "" }) {
					t.Fatalf("seed %d, %v: set %s has no medium", seed, s.now, name)
				}
			}
		}
	}
}

func (s *shelf) mishap(chance *rand.Rand) {
	var live []*Medium
	for i := range s.all {
		if s.all[i].Gone == "" {
			live = append(live, &s.all[i])
		}
	}
	if len(live) == 0 {
		return
	}
	m := live[chance.IntN(len(live))]
	switch chance.IntN(5) {
	case 0:
		s.act(Entry{Act: Lose, Medium: m.ID, Reason: "nobody knows"})
	case 1:
		if m.Closed > 0 && !m.Open() {
			s.verify(m, "a segment does not hold its checksum")
		}
	case 2:
		s.act(Entry{Act: Insert, Medium: m.ID})
		s.act(Entry{Act: Begin, Medium: m.ID, Uses: m.Uses + 1})
		s.act(Entry{Act: Eject, Medium: m.ID})
	case 3:
		s.act(Entry{Act: Insert, Medium: m.ID})
	case 4:
		s.act(Entry{Act: Retire, Medium: m.ID, Reason: "it clicks"})
	}
}

func TestRotationsThatCannotBe(t *testing.T) {
	for what, change := range map[string]func(*Rotation){
		"one weekly set":     func(r *Rotation) { r.Sets = 1 },
		"too many sets":      func(r *Rotation) { r.Sets = 27 },
		"nothing at all":     func(r *Rotation) { r.Sets, r.Monthly, r.Yearly = 0, 0, false },
		"no verification":    func(r *Rotation) { r.VerifyDisk = 0 },
		"reminded for ever":  func(r *Rotation) { r.Remind = 180 * day },
		"never connected":    func(r *Rotation) { r.Inside = 0 },
		"negative reminders": func(r *Rotation) { r.Remind = -1 },
	} {
		r := DefaultRotation()
		if change(&r); r.Check() == nil {
			t.Errorf("%s: it is possible", what)
		}
	}
}
