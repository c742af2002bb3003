package expire

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/retain"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// telling is a store that tells the time.
type telling struct {
	store.Store
	clock func() (says, here time.Time)
}

func (s telling) Clock(context.Context) (says, here time.Time, err error) {
	says, here = s.clock()
	return says, here, nil
}

// A clockHouse is a house in which somebody's clock is wrong for a while.
type clockHouse struct {
	*world
	truth  time.Time
	box    time.Duration   // how far the box's clock is ahead
	stores []time.Duration // and each store's; none: stores that do not tell the time

	signed  map[string]time.Time // of each snapshot, by the box's clock
	taken   map[string]time.Time // and when it really was
	order   []string
	buried  map[string]bool      // snapshots
	notYet  map[string]time.Time // by generation: when its grace ends
	crooked []string             // snapshots that were taken by a wrong clock
	said    []string
}

const kept = 30 * 24 * time.Hour

func newClockHouse(t *testing.T, start *world, telltale bool) *clockHouse {
	from := *start
	from.t = t
	h := &clockHouse{world: from.fork(), truth: start.clock, signed: map[string]time.Time{}, taken: map[string]time.Time{}, buried: map[string]bool{}, notYet: map[string]time.Time{}}
	for _, s := range h.list().Snapshots {
		h.signed[s.ID()], h.order = s.Time, append(h.order, s.ID())
	}
	if telltale {
		h.stores = make([]time.Duration, h.n)
		for i, f := range h.faulty {
			h.r.Members[i] = spread.Member{Name: h.r.Members[i].Name, Store: telling{f, func() (time.Time, time.Time) { return h.truth.Add(h.stores[i]), h.clock }}}
		}
	}
	return h
}

func (h *clockHouse) fail(format string, a ...any) {
	h.t.Helper()
	h.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, a...), strings.Join(h.said, "\n"))
}

// wrong reports whether any two clocks disagree.
func (h *clockHouse) wrong() bool {
	return h.box != 0 || slices.ContainsFunc(h.stores, func(d time.Duration) bool { return d != 0 })
}

// step is half a week: a backup or an expiry.
func (h *clockHouse) step(n int) {
	h.truth = h.truth.Add(week / 2)
	h.clock = h.truth.Add(h.box)
	if n%2 == 0 {
		saved, err := h.save()
		h.said = append(h.said, fmt.Sprintf("%v (box %v ahead): backup: %v", h.truth, h.box, err))
		if err != nil {
			h.fail("a backup whatever the clock: %v", err)
		}
		h.signed[saved.ID], h.taken[saved.ID], h.order = h.clock, h.truth, append(h.order, saved.ID)
		if h.box != 0 {
			h.crooked = append(h.crooked, saved.ID)
		}
		return
	}
	p, err := Prepare(context.Background(), h.config())
	if err != nil {
		h.fail("%v", err)
	}
	h.said = append(h.said, fmt.Sprintf("%v (box %v ahead, stores %v): bury %d, delete %d, frozen %q", h.truth, h.box, h.stores, len(p.Burials), len(p.Deletions), p.Frozen))
	isClock := func(why string) bool { return strings.HasPrefix(why, "clock: ") }
	if h.wrong() && !slices.ContainsFunc(p.Frozen, isClock) {
		h.fail("the clocks disagree, and nothing is frozen")
	}
	if len(p.Frozen) > 0 && len(p.Burials)+len(p.Deletions)+len(p.Carries) > 0 {
		h.fail("frozen, and yet %+v", p)
	}
	if len(p.Frozen) > 0 && !h.wrong() && len(h.crooked) == 0 {
		h.fail("all clocks agree and did so when the snapshots were taken, and it is frozen: %q", p.Frozen)
	}
	h.mayDo(p)
	if err := p.Do(context.Background()); err != nil {
		h.fail("%v", err)
	}
}

// settle is a person's word on each snapshot with a time that is out of line.
func (h *clockHouse) settle() {
	state, err := ReadState(h.state())
	if err != nil {
		h.fail("%v", err)
	}
	l := h.list()
	for _, id := range h.crooked {
		s, err := l.Find(dataset, id)
		if h.buried[id] {
			continue // an hour was no matter, in the end
		} else if err != nil {
			h.fail("%v", err)
		}
		as, wrong := Redated(l, s, h.clock)
		h.said = append(h.said, fmt.Sprintf("%s of %v is accepted as of %v: %v", id, s.Time, as, wrong))
		state.Accepted[s.HexHash()] = "the box's clock was wrong"
		h.signed[id] = h.taken[id] // by which it may be kept longer, never shorter
	}
	h.crooked = nil
	if err := state.Write(h.state()); err != nil {
		h.fail("%v", err)
	}
}

// mayDo holds a plan against the time that it really is.
func (h *clockHouse) mayDo(p *Plan) {
	for _, b := range p.Burials {
		for _, id := range b.Snapshots {
			if age := h.truth.Sub(h.signed[id]); age < kept || slices.Contains(h.order[max(0, len(h.order)-retain.Newest):], id) {
				h.fail("%s is %v old, is kept for %v, and is to be buried", id, age, kept)
			}
			h.buried[id] = true
		}
		h.notYet[b.Generation] = h.truth.Add(h.grace).Truncate(time.Second)
	}
	for _, d := range p.Deletions {
		if end, ok := h.notYet[d.Generation]; !ok || h.truth.Before(end) {
			h.fail("generation %.8s goes at %v, its grace ends %v", d.Generation, h.truth, end)
		}
	}
}

// look wants all that was committed and not buried to restore.
func (h *clockHouse) look() {
	h.mustHold(strings.Join(h.said, "\n"))
	listed := map[string]bool{}
	for _, s := range h.list().Snapshots {
		listed[s.ID()] = true
	}
	for _, id := range h.order {
		if !listed[id] && !h.buried[id] {
			h.fail("snapshot %s is gone", id)
		}
	}
}

// A shift of a clock, and whose: the box's where stores tell the time, a
// store's, or the box's where no store does, which only a leap of years gives
// away.
type shift struct {
	who string
	by  time.Duration
}

func shifts() (out []shift) {
	const day, years = 24 * time.Hour, 10 * 365 * 24 * time.Hour
	for _, by := range []time.Duration{time.Hour, -time.Hour, day, -day, years, -years} {
		out = append(out, shift{"box", by}, shift{"store", by})
	}
	return append(out, shift{"box alone", years}, shift{"box alone", -years})
}

// A clock is wrong from any of twenty points of the life of a dataset on, by an
// hour, a day or ten years, ahead or behind, for up to two weeks: nothing
// expires as long as clocks disagree, nothing ever does before it really is
// time, counted from the times that were signed, nothing committed is lost, and
// all goes on when the clock is right again: where snapshots have a wrong time,
// once a person has accepted those.
func TestClocksThatAreWrong(t *testing.T) {
	const points = 20
	start := newWorld(t, 3)
	start.policy, start.grace = retain.Policy{Within: kept}, 10*24*time.Hour
	start.weeks(7)
	all := shifts()
	frozen, gone := 0, 0
	runs := storetest.CountRuns(t, "clock +-1 h, +-1 d, +-10 y, of the box and of a store, at 20 points")
	runs.Seeds(40, points*len(all), func(t *testing.T, seed uint64) {
		chance := rand.New(rand.NewPCG(seed, 7))
		// Strides of 101, which divides no such number, meet all of them.
		i := int(seed*101) % (points * len(all))
		at, s := i%points, all[i/points]
		h := newClockHouse(t, start, s.who != "box alone")
		until := at + 1 + chance.IntN(4)
		for n := range points + 8 {
			h.box = 0
			clear(h.stores)
			if n >= at && n < until && s.who == "store" {
				h.stores[chance.IntN(h.n)] = s.by
			} else if n >= at && n < until {
				h.box = s.by
			}
			if h.step(n); h.wrong() {
				frozen++
			}
			h.look()
		}
		if len(h.crooked) > 0 {
			h.settle()
			for n := range 16 {
				h.step(n)
				h.look()
			}
		}
		gone += len(h.buried)
		if len(h.buried) < 3 {
			h.fail("%d snapshots expired", len(h.buried))
		}
	})
	t.Logf("%d steps with a wrong clock; %d snapshots expired in all", frozen, gone)
	runs.Must(frozen > 0 && gone > 0, "no clock was wrong, or nothing expired")
}
