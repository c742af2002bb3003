package chunker

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// MinMatch is the shortest match that is worth an extent, in bytes.
	MinMatch = 48
	// Window is how far from its place in the base a Matcher looks, in bytes.
	Window = 16 << 20

	// tableBits: two anchors a slot, room for twice the anchors of a window of
	// ±16 MiB. 4 MiB.
	tableBits = 18
	// probeReach is how far behind a change of the same length the match is
	// tried again without an anchor.
	probeReach = 64
	// Short matches count this near to the place, elsewhere those of longMatch
	// bytes and more. A moved row that is matched across a large base saves some
	// bytes once, and for all later weeks makes a reader keep one more block at
	// hand: of 26 weeks of a 90 MB dump the last stored twice as much for it, as
	// the reader's cache overflowed. A base that the cache holds whole has no
	// such cost.
	shortReach = 1 << 20
	longMatch  = 1 << 10
	smallBase  = 24 << 20
	// agreeApart is how many bytes lie between two anchors of one diagonal that
	// make a place worth a look.
	agreeApart = 512
	// stride bytes are matched at a time, so that the place follows the stream.
	stride = 64 << 10
	// farLeast bytes without a match, and more, are looked for elsewhere.
	farLeast = 2 << 10
	// maxJumps bounds how many other places a stride tries.
	maxJumps = 6
	// maxShift bounds how far a border between matches moves.
	maxShift = 256
)

// A Base is the earlier stream that new bytes are compared with, or several
// of them end to end.
type Base interface {
	// Len is its length in bytes.
	Len() int64
	// At returns bytes from offset off on, at least one, or nil if they cannot
	// be had. The slice is valid until the next call of At or Before.
	At(off int64) []byte
	// Before returns bytes up to offset off, at least one, or nil.
	Before(off int64) []byte
	// Anchors calls f with the anchors of a part of the base around offset off,
	// each with its offset, and returns that part. An empty part means that
	// nothing is known there.
	Anchors(off int64, f func(end int64, hash uint32)) (from, to int64)
}

// A Match says that Len new bytes from At on are those of the base from From
// on. It was compared byte by byte.
type Match struct {
	At, Len int
	From    int64
}

// A Matcher finds in a base what new bytes of a stream repeat of it. It keeps
// a place in the base, and near it looks up every anchor; elsewhere it looks
// up some, when the place is lost. Time is linear in the new bytes whatever
// they are: each anchor is tried against at most two places, no byte is
// extended over more than a few times, and one far place is tried a run.
//
// It is not safe for concurrent use.
type Matcher struct {
	base   Base
	sparse func() *Sparse // may be nil, and may return nil
	place  int64          // where the next new byte would lie in the base

	table  [][2]entry
	lo, hi int64 // the part of the base whose anchors the table has

	reach int64    // how far from the place short matches count
	votes [16]vote // anchors that lie farther, the last ones
	voted int      // how many were noted

	jumps map[int64]int // first anchor by diagonal, reused
	seen  []Match       // of far
}

// vote is the diagonal of an anchor and where in p it is.
type vote struct {
	d  int64
	at int
}

// entry is an anchor of the base: the front of its offset is that of the
// window.
type entry struct {
	hash uint32
	end  uint32 // low bits of the offset; an empty entry has both zero
}

// NewMatcher returns a Matcher whose place is at offset place of the base.
// sparse is called when the table of far anchors is first needed; without one
// nothing is looked for far away.
func NewMatcher(base Base, sparse func() *Sparse, place int64) *Matcher {
	m := &Matcher{base: base, sparse: sparse, place: place, lo: place, hi: place, reach: shortReach, jumps: map[int64]int{}}
	if base.Len() <= smallBase {
		m.reach = Window
	}
	return m
}

// Place returns where in the base the next new byte is expected.
func (m *Matcher) Place() int64 { return m.place }

// Follow moves the place: the stream goes on at offset place of the base.
func (m *Matcher) Follow(place int64) { m.place = place }

// Match appends to found the parts of p that the base has too, in order and
// without overlap. anchors are those of p. next is where in the base the byte
// behind p lies, or -1 where that is not known.
func (m *Matcher) Match(found []Match, p []byte, anchors []Anchor, next int64) []Match {
	first := len(found)
	for lo := 0; lo < len(p); lo += stride {
		hi := min(lo+stride, len(p))
		var part []Anchor
		part, anchors = split(anchors, hi)
		m.voted = 0
		at := len(found)
		found = m.near(found, p, lo, hi, part)
		if m.sparse != nil {
			found = m.far(found, at, p, lo, hi, part)
		}
	}
	return m.tail(found, first, p, next)
}

// split parts anchors behind offset at.
func split(anchors []Anchor, at int) (before, behind []Anchor) {
	i, _ := slices.BinarySearchFunc(anchors, uint32(at)+1, func(a Anchor, at uint32) int { return cmp.Compare(a.End, at) })
	return anchors[:i], anchors[i:]
}

// far looks elsewhere for what near left of p[lo:hi], whose matches are
// found[at:], and puts it in between.
func (m *Matcher) far(found []Match, at int, p []byte, lo, hi int, anchors []Anchor) []Match {
	m.seen = append(m.seen[:0], found[at:]...)
	m.seen = append(m.seen, Match{At: hi})
	found = found[:at]
	for jumps := 0; len(m.seen) > 0; {
		next := m.seen[0]
		var gap []Anchor
		_, gap = split(anchors, lo)
		gap, _ = split(gap, next.At)
		for jumps < maxJumps && next.At-lo >= farLeast {
			to, ok := m.jump(lo, next.At, gap)
			if !ok {
				break
			}
			jumps++
			m.Follow(to)
			k := len(found)
			if found = m.near(found, p, lo, next.At, gap); len(found) == k {
				break
			}
			// What is left behind the last match may have come from a third place.
			lo = found[len(found)-1].At + found[len(found)-1].Len
			_, gap = split(gap, lo)
		}
		if next.Len > 0 {
			found = append(found, next)
		}
		lo = next.At + next.Len
		m.seen = m.seen[1:]
	}
	return found
}

// near matches p[lo:hi] around the place.
func (m *Matcher) near(found []Match, p []byte, lo, hi int, anchors []Anchor) []Match {
	m.load()
	first := len(found)
	d := m.place - int64(lo) // the diagonal: base offset less new offset
	done := lo               // p[:done] is matched or given up
	// The place is the first guess; an anchor need not be near.
	if n := m.common(p[lo:hi], m.place); n >= MinMatch || n > 0 && first > 0 && adjoins(found[first-1], lo, m.place) {
		found = append(found, Match{lo, n, m.place})
		found, done = m.probe(found, p[:hi], lo+n)
	}
	for _, a := range anchors {
		at := int(a.End)
		if at < done {
			continue
		}
		if f, ok := m.candidate(p[:hi], done, at, a.Hash, d+int64(at)); ok {
			found = append(found, f)
			if len(found)-first > 1 {
				m.shift(found, p)
			}
			d = f.From - int64(f.At)
			found, done = m.probe(found, p[:hi], f.At+f.Len)
		}
	}
	m.settle(found[first:], lo, hi)
	return found
}

// adjoins reports whether a match ends where bytes at and place begin.
func adjoins(f Match, at int, place int64) bool {
	return f.At+f.Len == at && f.From+int64(f.Len) == place
}

// settle moves the place behind p[lo:hi], along the longest match of it.
func (m *Matcher) settle(found []Match, lo, hi int) {
	var best Match
	for _, f := range found {
		if f.Len > best.Len {
			best = f
		}
	}
	if best.Len > 0 {
		// Of matches in one order the last is as good, and nearer to what comes.
		if last := found[len(found)-1]; last.From >= best.From && last.From-best.From < Window/4 {
			best = last
		}
		m.place = best.From + int64(hi-best.At)
	} else {
		m.place += int64(hi - lo)
	}
	m.place = max(0, min(m.place, m.base.Len()))
}

// candidate returns the longest match through the anchor that ends at p[at],
// of those that the table knows. It reaches back to p[done] at most. Far from
// where the diagonal leads, only long ones count, and only what two anchors
// agree on is compared.
func (m *Matcher) candidate(p []byte, done, at int, hash uint32, near int64) (best Match, ok bool) {
	for _, e := range m.table[hash>>(32-tableBits)] {
		if e.hash != hash {
			continue
		}
		end := near + int64(int32(e.end-uint32(near)))
		if end < m.lo || end > m.hi {
			continue
		}
		least := MinMatch
		if d := end - near; d > m.reach || d < -m.reach {
			if least = longMatch; !m.agree(end-int64(at), at) {
				continue
			}
		}
		back := m.commonBack(p[done:at], end)
		n := back + m.common(p[at:], end)
		if n >= least && n > best.Len {
			best, ok = Match{at - back, n, end - int64(back)}, true
		}
	}
	return best, ok
}

// agree notes the diagonal of an anchor at p[at] and reports whether one of the
// last ones, some way off, had the same: then what lies between is most likely
// a long match, and no row that was updated and moved.
func (m *Matcher) agree(d int64, at int) bool {
	for i, v := range m.votes {
		if v.d == d && i < m.voted {
			return at-v.at >= agreeApart || v.at-at >= agreeApart
		}
	}
	m.votes[m.voted%len(m.votes)] = vote{d, at}
	m.voted++
	return false
}

// probe goes on after a change of the same length, like a page header or a
// counter, without an anchor.
func (m *Matcher) probe(found []Match, p []byte, done int) ([]Match, int) {
	for {
		last := found[len(found)-1]
		d := last.From - int64(last.At)
		var buf [probeReach + 32]byte
		b := m.copyAt(buf[:], d+int64(done))
		n := min(len(b), len(p)-done)
		shift := 0
		for k := 1; k+32 <= n; k++ {
			if binary.LittleEndian.Uint64(b[k:]) == binary.LittleEndian.Uint64(p[done+k:]) && string(b[k:k+32]) == string(p[done+k:done+k+32]) {
				shift = k
				break
			}
		}
		if shift == 0 {
			return found, done
		}
		at := done + shift
		if n = m.common(p[at:], d+int64(at)); n < MinMatch {
			return found, done
		}
		found, done = append(found, Match{at, n, d + int64(at)}), at+n
	}
}

// copyAt fills buf with bytes of the base, as far as there are any.
func (m *Matcher) copyAt(buf []byte, off int64) []byte {
	n := 0
	for n < len(buf) && off >= 0 && off < m.base.Len() {
		b := m.base.At(off)
		if len(b) == 0 {
			break
		}
		k := copy(buf[n:], b)
		n, off = n+k, off+int64(k)
	}
	return buf[:n]
}

// tail matches the end of p backwards from what is known to come behind it.
func (m *Matcher) tail(found []Match, first int, p []byte, next int64) []Match {
	done := 0
	if n := len(found); n > first {
		done = found[n-1].At + found[n-1].Len
	}
	if next < 0 || done == len(p) {
		return found
	}
	// Short ones count too: they join the match behind.
	if n := m.commonBack(p[done:], next); n > 0 {
		found = append(found, Match{len(p) - n, n, next - int64(n)})
		if len(found)-first > 1 {
			m.shift(found, p)
		}
	}
	return found
}

// shift moves the border between the last two matches to the left, as the bytes
// allow, to where a line begins, if nothing lies between them. Where a row was deleted, the
// match before it goes on into the front that rows share; a row inserted there
// a week later would cut that front off as an extent of its own.
func (m *Matcher) shift(found []Match, p []byte) {
	n := len(found)
	if n < 2 {
		return
	}
	a, b := &found[n-2], &found[n-1]
	if a.At+a.Len != b.At {
		return
	}
	k := m.commonBack(p[b.At-min(maxShift, max(a.Len-MinMatch, 0)):b.At], b.From)
	// Lines begin behind a line feed; elsewhere as far as it goes.
	if i := bytes.LastIndexByte(p[b.At-k:b.At], '\n'); i >= 0 {
		k -= i + 1
	}
	a.Len -= k
	b.At, b.Len, b.From = b.At-k, b.Len+k, b.From-int64(k)
}

// jump looks for another place for p[lo:hi], whose anchors are given, by the
// sparse table: the first diagonal that two of them agree on, some way off each
// other.
func (m *Matcher) jump(lo, hi int, anchors []Anchor) (to int64, ok bool) {
	table := m.sparse()
	if table == nil {
		return 0, false
	}
	clear(m.jumps)
	for _, a := range anchors {
		end, hit := table.Find(a.Hash)
		if !hit {
			continue
		}
		d := end - int64(a.End)
		first, seen := m.jumps[d]
		switch to = d + int64(lo); {
		case !seen:
			m.jumps[d] = int(a.End)
		case int(a.End)-first < agreeApart, to >= m.lo && to+int64(hi-lo) <= m.hi: // a row, or looked at
		default:
			return max(0, min(to, m.base.Len())), true
		}
	}
	return 0, false
}

// load brings the anchors of the window around the place into the table. After
// a jump it starts with what is right there and grows from run to run, so that
// a place which proves wrong costs little.
func (m *Matcher) load() {
	if m.table == nil {
		m.table = make([][2]entry, 1<<tableBits)
	}
	if m.place < m.lo || m.place > m.hi {
		m.lo, m.hi = m.place, m.place
	}
	for step := 0; step < 3 && m.hi < min(m.place+Window, m.base.Len()); step++ {
		_, to := m.base.Anchors(m.hi, m.insert)
		if to <= m.hi {
			break
		}
		m.hi = to
	}
	for step := 0; step < 2 && m.lo > max(m.place-Window, 0); step++ {
		from, _ := m.base.Anchors(m.lo-1, m.insert)
		if from >= m.lo {
			break
		}
		m.lo = from
	}
	m.lo = max(m.lo, m.place-Window-Window/2)
	m.hi = min(m.hi, m.place+Window+Window/2)
}

func (m *Matcher) insert(end int64, hash uint32) {
	slot := &m.table[hash>>(32-tableBits)]
	if slot[0].hash == hash && slot[0].end == uint32(end) {
		return
	}
	slot[1] = slot[0]
	slot[0] = entry{hash, uint32(end)}
}

// common returns how many bytes of p the base has from off on.
func (m *Matcher) common(p []byte, off int64) int {
	n := 0
	for n < len(p) && off >= 0 && off < m.base.Len() {
		b := m.base.At(off)
		if len(b) == 0 {
			break
		}
		k := prefix(p[n:], b)
		n += k
		if k < len(b) {
			break
		}
		off += int64(k)
	}
	return n
}

// commonBack returns how many bytes at the end of p the base has before off.
func (m *Matcher) commonBack(p []byte, off int64) int {
	n := 0
	for n < len(p) && off > 0 && off <= m.base.Len() {
		b := m.base.Before(off)
		if len(b) == 0 {
			break
		}
		k := suffix(p[:len(p)-n], b)
		n += k
		if k < len(b) {
			break
		}
		off -= int64(k)
	}
	return n
}

// prefix returns the length of the common front of a and b.
func prefix(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for step := 64; i+step <= n && string(a[i:i+step]) == string(b[i:i+step]); {
		i += step
		step = min(2*step, 4096)
	}
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// suffix returns the length of the common end of a and b.
func suffix(a, b []byte) int {
	n := min(len(a), len(b))
	a, b = a[len(a)-n:], b[len(b)-n:]
	i := n
	for ; i >= 8; i -= 8 {
		if x := binary.LittleEndian.Uint64(a[i-8:]) ^ binary.LittleEndian.Uint64(b[i-8:]); x != 0 {
			return n - i + bits.LeadingZeros64(x)/8
		}
	}
	for i > 0 && a[i-1] == b[i-1] {
		i--
	}
	return n - i
}
