package carve

import (
	"crypto/sha256"
	"hash/crc32"
	"slices"

	"strongroom/erasure"
	"strongroom/repo/spread"
)

const (
	// maxWanted is how many columns are looked for in one pass: about 60 MB.
	maxWanted = 1 << 20
	// maxHits is how many places are remembered for one column.
	maxHits = 4
	// maxPairs is how many beginnings or ends of one shard are tried.
	maxPairs = 4
	// inside is where the first column begins in a sector: behind the header. All
	// others do too, since a column is whole sectors.
	inside = erasure.HeaderLen % align
)

// zeroSum is the checksum of a column of zeros, as behind the last segment of a
// pack. It is everywhere on a medium, and its content is known.
var zeroSum = erasure.Sum(make([]byte, erasure.Column))

// A broken shard is one whose pieces lie in different places. What it says of
// itself is read again when it is looked for: there may be many.
type broken struct {
	head int64 // where it begins
	end  int64 // where the sector with the end of its last column lies
	cols int

	h    erasure.Header
	sums []uint32  // of its columns
	hits [][]int64 // where columns with these checksums were seen
	at   []int64   // where each column begins; 0: not known

	spans [][]span // of which columns consist that are cut
	gaps  []*gap
	tries int
}

// pieces puts together what does not lie in one piece. The end of a shard has
// all its checksums. In one pass over the medium they are compared with those of
// all 64 KiB that follow on each border of a sector, which costs the same for
// one shard as for all of them. A column that itself is cut in two lies between
// two that are found.
//
// A piece that holds no whole column is found by fillGaps, if none such is
// beside it.
func (v *carver) pieces() error {
	jobs, paired, err := v.pair()
	if err != nil {
		return err
	}
	var batches [][]broken
	for room := 0; len(jobs) > 0; jobs = jobs[1:] {
		if room < jobs[0].cols {
			batches, room = append(batches, nil), maxWanted
		}
		room -= jobs[0].cols
		last := len(batches) - 1
		batches[last] = append(batches[last], jobs[0])
	}
	if len(batches) > maxPasses {
		v.giveUp("more shards are in pieces than were looked for")
		batches = batches[:maxPasses]
	}
	v.total += v.Size * int64(len(batches))
	for _, batch := range batches {
		if err := v.search(batch); err != nil {
			return err
		}
		if err := v.place(batch); err != nil {
			return err
		}
		for i := range batch {
			if err := v.assemble(&batch[i]); err != nil {
				return err
			}
			batch[i] = broken{}
		}
	}
	return v.reportRest(paired)
}

// pair brings beginnings and ends together. It returns which shards have both.
func (v *carver) pair() (jobs []broken, paired map[shardKey]bool, err error) {
	ends := map[shardKey][]int64{}
	for _, off := range v.tails {
		h, err := v.header(off)
		if err != nil {
			return nil, nil, err
		}
		if key := keyOf(h); !v.have[key] && len(ends[key]) < maxPairs {
			ends[key] = append(ends[key], endOf(off, h))
		}
	}
	heads := map[shardKey]int{}
	for _, head := range v.heads {
		h, err := v.header(head)
		if err != nil {
			return nil, nil, err
		}
		if heads[keyOf(h)]++; v.have[keyOf(h)] || heads[keyOf(h)] > maxPairs {
			continue
		}
		for _, end := range ends[keyOf(h)] {
			jobs = append(jobs, broken{head: head, end: end, cols: h.Columns()})
		}
	}
	paired = map[shardKey]bool{}
	for key := range ends {
		paired[key] = heads[key] > 0
	}
	return jobs, paired, nil
}

// load reads the two ends of a broken shard. It reports false if they are not
// those of one shard.
func (b *broken) load(v *carver) (ok bool, err error) {
	if b.h, err = v.header(b.head); err != nil {
		return false, err
	}
	tail := make([]byte, 4*b.cols+erasure.HeaderLen)
	if err := v.read(b.end+inside, tail); err != nil {
		return false, err
	}
	b.sums, ok = parseTail(b.h, tail)
	return ok, nil
}

// place decides where the columns of a batch lie, by what search has found.
func (v *carver) place(batch []broken) error {
	v.measure(batch)
	var gaps []*gap
	for i := range batch {
		b := &batch[i]
		if b.sums == nil || v.have[keyOf(b.h)] {
			continue
		}
		if err := b.choose(v); err != nil {
			return err
		}
		for c := range b.sums {
			if b.at[c] == 0 && b.sums[c] != zeroSum {
				if err := b.join(v, c); err != nil {
					return err
				}
			}
		}
		gaps = append(gaps, b.findGaps()...)
	}
	if len(gaps) == 0 {
		return nil
	}
	v.total += v.Size
	return v.fillGaps(gaps)
}

// search looks for the columns of all shards of a batch.
func (v *carver) search(batch []broken) error {
	type column struct {
		b *broken
		c int
	}
	wanted := map[uint32][]column{}
	var maybe sieve
	for i := range batch {
		b := &batch[i]
		if ok, err := b.load(v); err != nil {
			return err
		} else if !ok {
			b.sums = nil
			continue
		}
		b.hits = make([][]int64, len(b.sums))
		for c, sum := range b.sums {
			if sum != zeroSum {
				wanted[sum] = append(wanted[sum], column{b, c})
				maybe.add(sum)
			}
		}
	}
	return v.slide(func(sum uint32, off int64) {
		if !maybe.has(sum) {
			return
		}
		for _, w := range wanted[sum] {
			if hits := &w.b.hits[w.c]; len(*hits) < maxHits {
				*hits = append(*hits, off)
			}
		}
	})
}

// slide calls see with the checksum of each 64 KiB that begin where a column
// may.
func (v *carver) slide(see func(sum uint32, off int64)) error {
	const cells = erasure.Column / align
	var ring [cells]uint32 // remainders of the last cells
	byCell, byColumn := newMover(align), newMover(erasure.Column)
	begun := byColumn.move(^uint32(0))
	sum, n := uint32(0), 0
	buf := make([]byte, window)
	for at := int64(inside); at+align <= v.Size; at += window {
		b := buf[:min(window, (v.Size-at)/align*align)]
		if err := v.read(at, b); err != nil {
			return err
		}
		for i := 0; i < len(b); i += align {
			cell := remainder(b[i : i+align])
			sum = byCell.move(sum) ^ cell ^ byColumn.move(ring[n%cells])
			ring[n%cells] = cell
			if n++; n >= cells {
				see(^(begun ^ sum), at+int64(i)+align-erasure.Column)
			}
		}
		v.progress(int64(len(b)))
	}
	return nil
}

// assemble puts a shard together from what was found, if all of it was. Where
// there is a choice between bytes that have the same checksums, the manifest's
// SHA-256 decides, and nothing is stored if there is none.
func (v *carver) assemble(b *broken) error {
	if b.sums == nil || v.have[keyOf(b.h)] {
		return nil
	}
	for c := range b.sums {
		if b.at[c] == 0 && b.sums[c] != zeroSum && len(b.spans[c]) == 0 && b.gapAt(c) == nil {
			return nil // reportRest says so
		}
	}
	if n := b.h.ShardLen(); int64(len(v.buf)) < n {
		v.buf = make([]byte, n)
	}
	payload := v.buf[:len(b.sums)*erasure.Column]
	for c := range b.sums {
		if err := b.fill(v, c, payload[c*erasure.Column:(c+1)*erasure.Column]); err != nil {
			return err
		}
	}
	guessed := len(b.gaps) > 0
	for more := true; more; more = b.nextGuess() {
		for _, g := range b.gaps {
			for i, spans := range g.found[g.use] {
				b.spans[g.first+i] = spans
				if err := b.fill(v, g.first+i, payload[(g.first+i)*erasure.Column:(g.first+i+1)*erasure.Column]); err != nil {
					return err
				}
			}
		}
		done, err := v.finish(b, payload, guessed)
		if done || err != nil {
			return err
		}
	}
	return nil
}

// finish stores a shard that was put together.
func (v *carver) finish(b *broken, payload []byte, guessed bool) (bool, error) {
	for c, sum := range b.sums {
		if erasure.Sum(payload[c*erasure.Column:(c+1)*erasure.Column]) != sum {
			return false, nil
		}
	}
	whole, err := erasure.BuildShard(b.h, payload)
	if err != nil {
		return false, err
	}
	if listed, right := v.listedAs(b.h, sha256.Sum256(whole)); listed && !right || guessed && !listed {
		return false, nil
	}
	before := v.report.Shards
	if err := v.keep(b.head, b.h, whole); err != nil {
		return false, err
	}
	v.report.InPieces += v.report.Shards - before
	return true, nil
}

// listedAs reports whether anything lists the shard, and with this SHA-256.
func (v *carver) listedAs(h erasure.Header, sum [sha256.Size]byte) (listed, right bool) {
	for _, p := range v.places[keyOf(h).packKey] {
		if i := h.Index - p.first; i >= 0 && i < len(p.sums) {
			listed, right = true, right || p.sums[i] == sum
		}
	}
	return listed, right
}

// A span is bytes of the medium.
type span struct {
	off int64
	n   int
}

// fill reads a column from where it was found.
func (b *broken) fill(v *carver, c int, part []byte) error {
	switch {
	case b.at[c] > 0:
		return v.read(b.at[c], part)
	case len(b.spans[c]) == 0:
		clear(part)
		return nil
	}
	for _, s := range b.spans[c] {
		if err := v.read(s.off, part[:s.n]); err != nil {
			return err
		}
		part = part[s.n:]
	}
	return nil
}

// left is where column c begins if it follows on what is before it, right if
// what is behind follows on it; 0: that is not known.
func (b *broken) left(c int) int64 {
	switch {
	case c == 0:
		return b.head + erasure.HeaderLen
	case b.at[c-1] > 0:
		return b.at[c-1] + erasure.Column
	}
	return 0
}

func (b *broken) right(c int) int64 {
	switch {
	case c == len(b.sums)-1:
		return b.end + inside - erasure.Column
	case b.at[c+1] > 0:
		return b.at[c+1] - erasure.Column
	}
	return 0
}

// choose decides for each column between the places where its checksum was
// seen: for one that follows on the column before, or has the next behind it.
func (b *broken) choose(v *carver) error {
	b.at, b.spans = make([]int64, len(b.sums)), make([][]span, len(b.sums))
	for c, hits := range b.hits {
		followed := slices.IndexFunc(hits, func(off int64) bool { return b.followed(c, off) })
		fits := slices.IndexFunc(hits, func(off int64) bool { return (off-inside)%v.unit == 0 })
		switch {
		case slices.Contains(hits, b.left(c)):
			b.at[c] = b.left(c)
		case followed >= 0:
			b.at[c] = hits[followed]
		case fits >= 0:
			b.at[c] = hits[fits]
		case b.sums[c] == zeroSum:
			if err := b.zeros(v, c, b.left(c)); err != nil {
				return err
			}
		}
	}
	for c := range slices.Backward(b.at) {
		if b.at[c] == 0 && b.sums[c] == zeroSum {
			if err := b.zeros(v, c, b.right(c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// followed reports whether what follows on column c, if it is at off, was seen
// behind it.
func (b *broken) followed(c int, off int64) bool {
	if c+1 == len(b.hits) {
		return off == b.right(c)
	}
	return slices.Contains(b.hits[c+1], off+erasure.Column)
}

// zeros places a column of zeros where there are some. Its content is no
// question, but the columns beside it may be found by it.
func (b *broken) zeros(v *carver, c int, off int64) error {
	if off <= 0 || off > v.Size-erasure.Column {
		return nil
	}
	part := make([]byte, erasure.Column)
	if err := v.read(off, part); err != nil {
		return err
	}
	if erasure.Sum(part) == zeroSum {
		b.at[c] = off
	}
	return nil
}

// join finds where a column is cut that consists of the end of one piece and
// the beginning of the next.
func (b *broken) join(v *carver, c int) error {
	left, right := b.left(c), b.right(c)
	if left <= 0 || right == 0 || !v.spend(2*erasure.Column) {
		return nil
	}
	ahead, err := v.ahead(left)
	if err != nil {
		return err
	}
	back, err := v.back(right, b.sums[c])
	if err != nil {
		return err
	}
	for i := range ahead {
		if cut := cutAt(i); ahead[i] == back[i] {
			b.spans[c] = []span{{left, cut}, {right + int64(cut), erasure.Column - cut}}
			return nil
		}
	}
	return nil
}

// cutAt is the ith place of a column at which a sector begins.
func cutAt(i int) int { return align - inside + i*align }

const cuts = erasure.Column / align

// ahead returns the state of the checksum at each cut of a column of which the
// bytes before it are those from left on.
func (v *carver) ahead(left int64) (state [cuts]uint32, err error) {
	var b [erasure.Column]byte
	if err := v.readInside(left, b[:]); err != nil {
		return state, err
	}
	now, from := ^uint32(0), 0
	for i := range state {
		now = ^crc32.Update(^now, castagnoli, b[from:cutAt(i)])
		state[i], from = now, cutAt(i)
	}
	return state, nil
}

// back returns the state that the checksum has to have at each cut of a column
// of which the bytes behind it are those that it has from right on.
func (v *carver) back(right int64, sum uint32) (state [cuts]uint32, err error) {
	var b [erasure.Column]byte
	if err := v.readInside(right, b[:]); err != nil {
		return state, err
	}
	now, to := ^sum, len(b)
	for i := range slices.Backward(state[:]) {
		now = unwind(now, b[cutAt(i):to])
		state[i], to = now, cutAt(i)
	}
	return state, nil
}

// readInside reads what of a range lies on the medium; the rest is zero.
func (v *carver) readInside(off int64, b []byte) error {
	from, to := max(off, 0), min(off+int64(len(b)), v.Size)
	if from >= to {
		return nil
	}
	return v.read(from, b[from-off:to-off])
}

// reportRest says which shards began or ended and were not found whole.
func (v *carver) reportRest(paired map[shardKey]bool) error {
	seen := map[shardKey]bool{}
	for i, list := range [][]int64{v.heads, v.tails} {
		for _, off := range list {
			h, err := v.header(off)
			if err != nil {
				return err
			}
			key := keyOf(h)
			if v.have[key] || seen[key] {
				continue
			}
			seen[key] = true
			why := "its end was not found"
			switch {
			case paired[key]:
				why = "not all of its columns were found: they are damaged, or its pieces too small"
			case i == 1:
				why = "its beginning was not found"
			}
			v.damage(off, spread.Pack{ID: h.Pack, Encode: h.Encode}.Key("", h.Index, 0), "%s", why)
		}
	}
	return nil
}
