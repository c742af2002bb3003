package carve

import (
	"strongroom/erasure"
)

const (
	// maxGuesses is how many fillings of one gap are remembered, and how many
	// combinations of a shard's are tried.
	maxGuesses = 8
	maxTries   = 64
	// maxStates bounds what is looked for in one pass for gaps, about 50 MB.
	maxStates = 1 << 18
)

// A gap is one column, or two, between what was found, with a piece in it that
// holds no whole column:
//
//	… left │ cut ┊ piece ┊ cut │ right …
type gap struct {
	b           *broken
	first, n    int
	left, right int64
	found       [][][]span // of each filling, of each column
	use         int        // which of them is tried
}

// findGaps returns the gaps that could be filled, if all could.
func (b *broken) findGaps() []*gap {
	open := func(c int) bool {
		return c < len(b.sums) && b.at[c] == 0 && b.sums[c] != zeroSum && len(b.spans[c]) == 0
	}
	for c := 0; c < len(b.sums); c++ {
		if !open(c) {
			continue
		}
		g := &gap{b: b, first: c, n: 1, left: b.left(c)}
		for open(c + 1) {
			c++
			g.n++
		}
		if g.right = b.right(c); g.n > 2 || g.left <= 0 || g.right == 0 {
			b.gaps = nil
			return nil
		}
		b.gaps = append(b.gaps, g)
	}
	return b.gaps
}

// gapAt returns the gap that a column is in, if there is anything to fill it.
func (b *broken) gapAt(c int) *gap {
	for _, g := range b.gaps {
		if c >= g.first && c < g.first+g.n && len(g.found) > 0 {
			return g
		}
	}
	return nil
}

// nextGuess goes on to the next combination of what may fill the gaps.
func (b *broken) nextGuess() bool {
	if b.tries++; b.tries >= maxTries {
		return false
	}
	for _, g := range b.gaps {
		if g.use++; g.use < len(g.found) {
			return true
		}
		g.use = 0
	}
	return false
}

// measure finds the largest unit, up to 4 KiB, at which everything lies of which
// it is certain where it lies: the block of the file system that was.
func (v *carver) measure(batch []broken) {
	bits := int64(4096)
	for _, off := range v.starts {
		bits |= off
	}
	for i := range batch {
		b := &batch[i]
		if b.sums == nil {
			continue
		}
		bits |= b.head | b.end
		for c, hits := range b.hits {
			for _, off := range hits {
				if b.followed(c, off) {
					bits |= off - inside
				}
			}
		}
	}
	v.unit = bits & -bits
}

// A state is what a piece has to do to a checksum: of so many units, and of the
// first half of the next where its end is not the end of a column.
type state struct {
	units     int
	remainder uint32
}

// A cause is the gap that wants a state, and where its column is cut.
type cause struct {
	g   *gap
	cut int
}

// fillGaps looks for the pieces of gaps in one pass over the medium. In a gap of
// one column both cuts are in it, so the piece leads from one known state of the
// checksum to another, in a known number of units; in a gap of two its first
// part ends the first column, and its rest has to fit the second.
func (v *carver) fillGaps(gaps []*gap) error {
	unit := int(v.unit)
	per := erasure.Column / unit
	var movers []*mover // by so many units
	for i := range per + 1 {
		movers = append(movers, newMover(i*unit))
	}
	half := newMover(inside)
	inner, outer := map[state][]cause{}, map[state][]cause{}
	for _, g := range gaps {
		if len(inner)+len(outer) > maxStates {
			v.giveUp("more pieces are missing than were looked for")
			break
		}
		ahead, err := v.ahead(g.left)
		if err != nil {
			return err
		}
		back, err := v.back(g.right, g.b.sums[g.first])
		if err != nil {
			return err
		}
		at := func(m int) int { return m*unit/align - 1 } // the cut behind m units
		for m := 1; m <= per; m++ {
			if g.n == 2 {
				s := state{per - m, ^g.b.sums[g.first] ^ half.move(movers[per-m].move(ahead[at(m)]))}
				outer[s] = append(outer[s], cause{g, cutAt(at(m))})
				continue
			}
			for to := m + 1; to <= per; to++ {
				s := state{to - m, back[at(to)] ^ movers[to-m].move(ahead[at(m)])}
				inner[s] = append(inner[s], cause{g, cutAt(at(m))})
			}
		}
	}
	var maybe sieve
	for _, m := range []map[state][]cause{inner, outer} {
		for s := range m {
			maybe.add(s.remainder)
		}
	}
	return v.eachRun(func(s state, ends bool, off int64) error {
		if !maybe.has(s.remainder) {
			return nil
		}
		causes := inner[s]
		if ends {
			causes = outer[s]
		}
		for _, c := range causes {
			if err := v.guess(c, s, off); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachRun calls see for every run of up to a column's units on the medium, and
// with ends for those with the beginning of one more.
func (v *carver) eachRun(see func(s state, ends bool, off int64) error) error {
	unit := int(v.unit)
	per := erasure.Column / unit
	byUnit, half := newMover(unit), newMover(inside)
	buf := make([]byte, window+erasure.Column)
	blocks, halves := make([]uint32, len(buf)/unit), make([]uint32, len(buf)/unit)
	for at := int64(0); at < v.Size; at += window {
		b := buf[:min(int64(len(buf)), v.Size-at)/v.unit*v.unit]
		if err := v.read(at, b); err != nil {
			return err
		}
		n := len(b) / unit
		for i := range n {
			blocks[i], halves[i] = remainder(b[i*unit:(i+1)*unit]), remainder(b[i*unit:i*unit+inside])
		}
		for first := range min(n, window/unit) {
			off, run := at+int64(first*unit), uint32(0)
			for i := 0; i < per && first+i < n; i++ {
				if err := see(state{i, half.move(run) ^ halves[first+i]}, true, off); err != nil {
					return err
				}
				run = byUnit.move(run) ^ blocks[first+i]
				if err := see(state{i + 1, run}, false, off); err != nil {
					return err
				}
			}
		}
		v.progress(min(window, v.Size-at))
	}
	return nil
}

// guess notes what could fill a gap.
func (v *carver) guess(c cause, s state, off int64) error {
	g, unit := c.g, int(v.unit)
	if len(g.found) >= maxGuesses {
		return nil
	}
	if g.n == 1 {
		to := c.cut + s.units*unit
		g.found = append(g.found, [][]span{{{g.left, c.cut}, {off, s.units * unit}, {g.right + int64(to), erasure.Column - to}}})
		return nil
	}
	used := s.units*unit + inside
	if !v.spend(2 * erasure.Column) {
		return nil
	}
	ahead, err := v.ahead(off + int64(used))
	if err != nil {
		return err
	}
	back, err := v.back(g.right, g.b.sums[g.first+1])
	if err != nil {
		return err
	}
	for i := range ahead {
		if cut := cutAt(i); ahead[i] == back[i] {
			g.found = append(g.found, [][]span{
				{{g.left, c.cut}, {off, used}},
				{{off + int64(used), cut}, {g.right + int64(cut), erasure.Column - cut}}})
			return nil
		}
	}
	return nil
}
