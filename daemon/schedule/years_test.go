package schedule

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/repo/store/storetest"
)

// A calendar tells apart from cron which minutes of the wall clock are meant.
type calendar struct {
	at, zone string
	uses     []Class
	meant    func(wall time.Time) bool
}

var calendars = []calendar{
	{"30 2 * * 0", "America/New_York", []Class{Media}, func(w time.Time) bool { return w.Weekday() == 0 && w.Hour() == 2 && w.Minute() == 30 }},
	{"0 0,12 * * *", "America/Havana", nil, func(w time.Time) bool { return w.Hour()%12 == 0 && w.Minute() == 0 }},
	{"45 1 1,15 * *", "Australia/Lord_Howe", []Class{Media}, func(w time.Time) bool {
		return (w.Day() == 1 || w.Day() == 15) && w.Hour() == 1 && w.Minute() == 45
	}},
	{"0 3 29 2 *", "Europe/Berlin", []Class{Media}, func(w time.Time) bool {
		return w.Month() == 2 && w.Day() == 29 && w.Hour() == 3 && w.Minute() == 0
	}},
}

// ticks walks through the years and notes when the wall first shows, or jumps
// over, one that is meant.
func (c calendar) ticks(t *testing.T, from, to time.Time) []time.Time {
	loc, err := time.LoadLocation(c.zone)
	if err != nil {
		t.Fatal(err)
	}
	var out []time.Time
	shown := onWall(from.In(loc))
	// Quarters of an hour are enough for what is meant, and for where clocks are set.
	const step = 15 * time.Minute
	for now := from.Add(step); !now.After(to); now = now.Add(step) {
		for wall := onWall(now.In(loc)); shown.Before(wall); {
			shown = shown.Add(step)
			if c.meant(shown) && (len(out) == 0 || !out[len(out)-1].Equal(now)) {
				out = append(out, now)
			}
		}
	}
	return out
}

// A book is what a daemon writes down and finds again after a crash.
type book struct {
	since time.Time
	rows  map[time.Time]Turn
	order []time.Time // of the rows
	open  *Running
}

func (b *book) write(turn Turn) {
	b.rows[turn.Planned] = turn
	i, _ := slices.BinarySearchFunc(b.order, turn.Planned, time.Time.Compare)
	b.order = slices.Insert(b.order, i, turn.Planned)
}

// last is as state gives it: the last row that is not in the future.
func (b *book) last(now time.Time) time.Time {
	i, found := slices.BinarySearchFunc(b.order, now, time.Time.Compare)
	if found {
		return now
	}
	if i == 0 {
		return b.since
	}
	return b.order[i-1]
}

// A box is a machine with jobs, on which things happen.
type box struct {
	t        *testing.T
	rng      *rand.Rand
	now      time.Time
	jobs     []Job
	books    []*book
	ends     map[string]time.Time // of what is running
	timely   int
	attended bool // nothing happens but runs that are short
}

// plan plans and carries out, with a crash now and then.
func (b *box) plan() (next time.Time) {
	var running []Running
	for i := range b.jobs {
		b.jobs[i].Last = b.books[i].last(b.now)
		if b.books[i].open != nil {
			running = append(running, *b.books[i].open)
		}
	}
	d := Plan(b.now, b.jobs, running, nil)
	for _, turn := range slices.Concat(d.Start, d.Skip) {
		if !b.attended && b.rng.IntN(20) == 0 {
			b.crash() // before it was written down
			return b.now.Add(time.Second)
		}
		i := slices.IndexFunc(b.jobs, func(j Job) bool { return j.ID == turn.Job })
		if _, double := b.books[i].rows[turn.Planned]; double {
			b.t.Fatalf("%v: %s of %v a second time", b.now, turn.Job, turn.Planned)
		}
		if turn.Due.After(b.now) {
			b.t.Fatalf("%v: %s of %v is due at %v", b.now, turn.Job, turn.Planned, turn.Due)
		}
		if turn.Due.Equal(b.now) && turn.Missed == 0 {
			b.timely++
		}
		b.books[i].write(turn)
		if turn.Reason != "" {
			continue
		}
		if b.books[i].open != nil {
			b.t.Fatalf("%v: %s of %v beside one that runs", b.now, turn.Job, turn.Planned)
		}
		b.books[i].open = &Running{Job: turn.Job, Since: b.now, Uses: b.jobs[i].Uses}
		length := time.Duration(b.rng.Int64N(int64(20 * time.Minute)))
		if !b.attended && b.rng.IntN(10) == 0 {
			length = time.Duration(b.rng.Int64N(int64(10 * 24 * time.Hour)))
		}
		b.ends[turn.Job] = b.now.Add(length)
	}
	writers := 0
	for _, bk := range b.books {
		if bk.open != nil && slices.Contains(bk.open.Uses, Media) {
			writers++
		}
	}
	if writers > 1 {
		b.t.Fatalf("%v: %d writers of media", b.now, writers)
	}
	return d.Next
}

// crash ends all runs, as the start after it finds.
func (b *box) crash() {
	for _, bk := range b.books {
		bk.open = nil
	}
	clear(b.ends)
}

// end ends the runs whose time has come and tells when the next one ends.
func (b *box) end() (next time.Time) {
	for _, id := range slices.Sorted(maps.Keys(b.ends)) {
		if at := b.ends[id]; !at.After(b.now) {
			b.books[slices.IndexFunc(b.jobs, func(j Job) bool { return j.ID == id })].open = nil
			delete(b.ends, id)
		} else if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// set sets the clock, which makes no run longer or shorter.
func (b *box) set(to time.Time) {
	for id, end := range b.ends {
		b.ends[id] = end.Add(to.Sub(b.now))
	}
	b.now = to
}

// live lives until a moment.
func (b *box) live(to time.Time) {
	for b.now.Before(to) {
		ended := b.end()
		wake := b.plan()
		if !ended.IsZero() && ended.Before(wake) {
			wake = ended
		}
		if b.attended {
			b.now = wake
			continue
		}
		switch b.rng.IntN(60) {
		case 0: // off
			b.crash()
			b.now = b.now.Add(time.Duration(b.rng.Int64N(int64(20 * 24 * time.Hour))))
		case 1: // suspended, runs and all
			b.set(b.now.Add(time.Duration(b.rng.Int64N(int64(72 * time.Hour)))))
		case 2: // the clock is set
			b.set(b.now.Add(time.Duration(b.rng.Int64N(int64(6*time.Hour))) - 3*time.Hour))
		case 3: // it was a year ahead, from the wrong battery
			if b.rng.IntN(10) == 0 {
				right := b.now
				b.set(b.now.AddDate(1, 0, 0))
				b.plan()
				b.set(right.Add(time.Minute))
			}
		case 4: // and sometimes two plans in a row
			b.plan()
			b.now = b.now.Add(time.Second)
		default:
			b.now = wake
		}
	}
}

// check finds each tick in one row, or among those that one says it stands for.
func (b *box) check(i int, want []time.Time) (own, missed int) {
	book := b.books[i]
	stoodFor := 0
	for planned, turn := range book.rows {
		if _, ok := slices.BinarySearchFunc(want, planned, time.Time.Compare); !ok {
			b.t.Errorf("%s of %v was never planned", turn.Job, planned)
		}
		stoodFor += turn.Missed
	}
	for _, tick := range want {
		if tick.After(b.now.Add(-24 * time.Hour)) {
			break // may wait for the writer of media still
		}
		if _, ok := book.rows[tick]; ok {
			own++
			continue
		}
		missed++
		if !slices.ContainsFunc(book.order, func(planned time.Time) bool {
			turn := book.rows[planned]
			return turn.Missed > 0 && !tick.Before(turn.FirstMissed) && tick.Before(planned)
		}) {
			b.t.Errorf("%s of %v is lost", b.jobs[i].ID, tick)
		}
	}
	if stoodFor < missed {
		b.t.Errorf("%s: %d runs missed and %d told", b.jobs[i].ID, missed, stoodFor)
	}
	return own, missed
}

func TestTenYearsLoseAndDoubleNoRun(t *testing.T) {
	from, to := at(t, "2026-01-01T00:00Z"), at(t, "2036-01-01T00:00Z")
	// A year more, for clocks that are ahead.
	want := make([][]time.Time, len(calendars))
	for i, c := range calendars {
		want[i] = c.ticks(t, from, to.AddDate(1, 1, 0))
	}
	life := func(t *testing.T, seed uint64, attended bool) *box {
		b := &box{t: t, rng: rand.New(rand.NewPCG(seed, 5)), now: from, ends: map[string]time.Time{}, attended: attended}
		for _, c := range calendars {
			b.jobs = append(b.jobs, Job{ID: c.at, Spec: compile(t, Config{At: c.at, TimeZone: c.zone}), Uses: c.uses})
			b.books = append(b.books, &book{since: from, rows: map[time.Time]Turn{}})
		}
		b.live(to)
		b.attended = true // whatever happened last comes to its end
		b.live(b.now.AddDate(0, 0, 30))
		return b
	}
	t.Run("attended", func(t *testing.T) {
		b := life(t, 0, true)
		all := 0
		for i := range b.jobs {
			own, missed := b.check(i, want[i])
			if missed > 0 {
				t.Errorf("%s: %d missed, and nothing happened", b.jobs[i].ID, missed)
			}
			all += own
		}
		if all < 8000 || b.timely < all-20 { // a few wait for the writer of media
			t.Errorf("%d runs, %d at the second they were due", all, b.timely)
		}
	})
	storetest.CountRuns(t, "ten years of schedules, crashes and clocks").Seeds(4, 2000, func(t *testing.T, seed uint64) {
		b := life(t, seed, false)
		own, missed := 0, 0
		for i := range b.jobs {
			o, m := b.check(i, want[i])
			own, missed = own+o, missed+m
		}
		// A job that stood still after a clock was ahead would have few runs.
		if own < missed || missed == 0 {
			t.Errorf("%d runs and %d missed", own, missed)
		}
	})
}

// The planner as the daemon runs it, on timers that stand still while the
// machine is suspended and that do not know that the clock was set.
func TestTimersSuspendAndClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64 // of the clock on the timers
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		time.Sleep(time.Until(at(t, "2026-01-01T00:00Z")))

		spec := compile(t, Config{At: "30 2 * * *", TimeZone: "Europe/Berlin"})
		b := &book{since: clock(), rows: map[time.Time]Turn{}}
		var got []string
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				now := clock()
				d := Plan(now, []Job{{ID: "a", Spec: spec, Last: b.last(now)}}, nil, nil)
				for _, turn := range d.Start {
					b.write(turn)
					got = append(got, fmt.Sprintf("%s at %s, %d missed", turn.Planned.Format("02T15:04"), now.Format("02T15:04:05"), turn.Missed))
				}
				select {
				case <-stop:
					return
				case <-time.After(min(d.Next.Sub(now), MaxSleep)):
				}
			}
		}()
		time.Sleep(48 * time.Hour) // two runs
		// Suspended over a third, and awake again between two ticks of the timer.
		time.Sleep(7 * time.Second)
		ahead.Add(int64(5 * time.Hour))
		time.Sleep(time.Hour)
		// Set back over it: not again. Its time comes a second time.
		ahead.Add(int64(-6 * time.Hour))
		time.Sleep(26 * time.Hour)
		// Set forward by three days.
		ahead.Add(int64(72 * time.Hour))
		time.Sleep(time.Hour)
		close(stop)
		<-done
		want := []string{
			"01T01:30 at 01T01:30:00, 0 missed",
			"02T01:30 at 02T01:30:00, 0 missed",
			"03T01:30 at 03T05:00:30, 0 missed",
			"04T01:30 at 04T01:30:00, 0 missed",
			"07T01:30 at 07T02:00:30, 2 missed",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// A daemon that does nothing but wake up, over the change in March and, in the
// long tier, over five years.
func TestYearsOfTimers(t *testing.T) {
	weeks := 12
	if storetest.Full() {
		weeks = 5 * 52
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(at(t, "2026-01-01T00:00Z")))
		spec := compile(t, Config{TimeZone: "America/New_York"})
		b := &book{since: time.Now(), rows: map[time.Time]Turn{}}
		for end := time.Now().AddDate(0, 0, 7*weeks); time.Now().Before(end); {
			d := Plan(time.Now(), []Job{{ID: "a", Spec: spec, Last: b.last(time.Now())}}, nil, nil)
			for _, turn := range d.Start {
				if !turn.Due.Equal(time.Now()) || turn.Missed > 0 {
					t.Errorf("%v at %v, %d missed", turn.Planned, time.Now(), turn.Missed)
				}
				b.write(turn)
			}
			time.Sleep(min(time.Until(d.Next), MaxSleep))
		}
		if len(b.rows) != weeks {
			t.Errorf("%d runs in %d weeks", len(b.rows), weeks)
		}
	})
}
