package spread

import (
	"fmt"
	"slices"

	"strongroom/erasure"
)

// plan is what a pack lacks.
type plan struct {
	writes []Write
	left   []string // cannot be written, and why
	away   int      // shards that stores may have which were not reached
}

// planner lays out the shards of a pack over the stores.
type planner struct {
	*mending
	plan
	at   [][]int // shard → stores that stay and will have it
	rows int     // shards, with those planned
}

// plan says which shards must be written where.
func (m *mending) plan() plan {
	p := &planner{mending: m, rows: m.p.Geometry.N}
	leaving := make([]bool, p.rows) // only stores that will be taken away have it
	p.at = make([][]int, p.rows)
	for _, c := range m.copies {
		switch {
		case c.Member >= m.r.c.Stores || !m.good(c) || c.Index >= p.rows:
			// A shard of an offline set is read and does not count: it goes away.
		case slices.Contains(m.r.c.Empty, c.Member):
			leaving[c.Index] = true
		default:
			p.at[c.Index] = append(p.at[c.Index], c.Member)
		}
	}
	for i := range m.p.Geometry.N {
		switch {
		case len(p.at[i]) > 0:
		case leaving[i]:
			p.place(i, "its store will be taken away")
		case m.unknown(i):
			p.away++
		default:
			p.place(i, m.whyLost(i))
		}
	}
	for _, f := range m.r.c.Fill {
		if m.r.Usable(f) && !p.alone(f) {
			p.further(f, "the store has none of this pack that others have not")
		}
	}
	if len(m.r.c.Empty) > 0 {
		p.widen()
	}
	return p.plan
}

// unknown reports whether a store that was not reached may have shard i, so
// that it is not lost.
func (m *mending) unknown(i int) bool {
	for _, c := range m.copies {
		if c.Index == i && m.seen[c.at()].State == Unknown && !slices.Contains(m.r.c.Empty, c.Member) {
			return true
		}
	}
	down := func(s int) bool { return m.r.inv.failed[s] != nil && !slices.Contains(m.r.c.Empty, s) }
	if i < m.r.c.Stores {
		return down(i)
	}
	for s := range m.r.c.Stores {
		if down(s) {
			return true
		}
	}
	return false
}

func (m *mending) whyLost(i int) string {
	why := "it is on no store"
	for _, c := range m.copies {
		if v := m.seen[c.at()]; c.Index == i && v.State == Damaged {
			return fmt.Sprintf("on %q it is damaged: %s", m.r.inv.members[c.Member].Name, v.Detail)
		}
	}
	for _, c := range m.r.inv.misfits(m.r.prefix, m.p, i) {
		why = fmt.Sprintf("on %q it %s", m.r.inv.members[c.Member].Name, m.r.inv.misfit(m.p, c))
	}
	return why
}

func (p *planner) add(i, member int, why string) {
	p.writes = append(p.writes, Write{Copy: Copy{Index: i, Member: member}, Why: why})
	p.at[i] = append(p.at[i], member)
}

// place plans shard i for the store of its place, or, where there is none, for
// the one that has the fewest shards of this pack. A store that is full, say,
// is waited for: two shards on one store would protect against nothing more.
func (p *planner) place(i int, why string) {
	home := i < p.r.c.Stores && !slices.Contains(p.r.c.Empty, i)
	target := i
	if !home {
		target = p.emptiest(p.rows)
	}
	switch {
	case target < 0:
		p.left = append(p.left, fmt.Sprintf("shard %d: no store is left that takes it", i))
	case !p.r.Usable(target):
		err := p.r.Unfit(target)
		if err == nil {
			err = p.r.inv.failed[target]
		}
		p.left = append(p.left, fmt.Sprintf("shard %d: %v", i, err))
	default:
		p.add(i, target, why)
	}
}

// further plans one more shard than there are, for a store.
func (p *planner) further(member int, why string) bool {
	if p.rows >= erasure.FirstApart {
		p.left = append(p.left, fmt.Sprintf("the pack has %d shards, no more are possible", p.rows))
		return false
	}
	p.at = append(p.at, nil)
	p.rows++
	p.add(p.rows-1, member, why)
	return true
}

// counts returns how many shards each store has.
func (p *planner) counts() map[int]int {
	n := map[int]int{}
	for _, at := range p.at {
		for _, m := range at {
			n[m]++
		}
	}
	return n
}

// emptiest returns the usable store with the fewest shards, below a limit, or
// -1. Of equal ones packs choose differently, so that none gets all.
func (p *planner) emptiest(limit int) int {
	n, best := p.counts(), -1
	for s := range p.r.c.Stores {
		s = (s + int(p.p.ID[0])) % p.r.c.Stores
		if p.r.Usable(s) && n[s] < limit && (best < 0 || n[s] < n[best]) {
			best = s
		}
	}
	return best
}

// alone reports whether a store has a shard that no other one has.
func (p *planner) alone(s int) bool {
	return slices.ContainsFunc(p.at, func(at []int) bool { return len(at) == 1 && at[0] == s })
}

// widen adds shards until as many stores as asked for may be lost. k on each
// are the most that help.
func (p *planner) widen() {
	for Margin(p.at, p.p.Geometry.K) < p.r.c.Margin {
		s := p.emptiest(p.p.Geometry.K)
		if s < 0 || !p.further(s, "fewer stores are left to lose") {
			return
		}
	}
}
