package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"strongroom/chunker"
	"strongroom/repo/pack"
)

// unitsPerStream is how many segments of a stream are on their way at once:
// one being read, one hashed, one located, one matched. 1 MiB each.
const unitsPerStream = 4

// barrenLimit is after how many bytes without a match no more blocks of the
// base are fetched ahead of a new stream.
const barrenLimit = 4 << 20

// A unit is a segment on its way through a stream's pipeline.
type unit struct {
	seg    *chunker.Segment
	ids    []chunkID
	where  []located
	hashed chan struct{} // closed when ids is complete

	near   []chunker.Anchor // for anchorsOf
	record []byte           // for addSegment
}

// located says where a chunk lies on the tape of a map, if m is not nil.
type located struct {
	m    *snapMap
	from int64
}

// start returns where chunk i of the unit begins.
func (u *unit) start(i int) int {
	if i == 0 {
		return 0
	}
	return u.seg.Ends[i-1]
}

// A streamWriter turns one stream into extents. Three goroutines share it:
//
//	read    reads, cuts, and has the chunks' ids computed
//	locate  hashes the whole stream, finds chunks, fetches what to compare with
//	write   compares, stores what is new, emits extents; the caller's
//
// Channels between them hold unitsPerStream units in all, so memory is bounded
// and the slowest sets the pace.
type streamWriter struct {
	s       *Saver
	number  uint32 // in the map
	whole   *blake3.Hasher
	length  int64
	sample  sample
	locator *locator
	matcher *chunker.Matcher       // nil without a base
	views   map[*snapMap]*baseView // the writer's own; the locator has others
	sim     *cacheSim
	least   int          // bytes that a match must have to be worth an extent
	barren  atomic.Int64 // bytes without a match since the last one

	cur     *block
	extents extentSpill
	piece   []Extent // of the current segment
	pending run      // known bytes not yet emitted
	expect  int64    // where on the base's tape the stream has got to
	found   []chunker.Match
	list    []Extent
	fresh   int64
}

// run is a range of the current segment that a map has.
type run struct {
	located
	at, n int
}

func (s *Saver) newStreamWriter(ctx context.Context, name string) *streamWriter {
	w := &streamWriter{s: s, number: s.maps.stream(name), whole: blake3.New(), least: chunker.MinMatch, sim: newCacheSim(),
		views: map[*snapMap]*baseView{}}
	w.extents.file = s.spill
	w.locator = newLocator(ctx, s, name)
	for _, m := range s.known {
		w.views[m] = newBaseView(ctx, m, s.baseBlocks)
	}
	if s.baseMap != nil {
		w.expect = s.baseMap.starts[name]
		w.matcher = chunker.NewMatcher(w.views[s.baseMap], s.baseMap.finder, w.expect)
	}
	return w
}

// copy reads a stream to its end.
func (w *streamWriter) copy(ctx context.Context, spec StreamSpec, r io.Reader) (Stream, error) {
	c, err := chunker.New(r, spec.PageSize)
	if err != nil {
		return Stream{}, err
	}
	// A packer that has failed, for another stream perhaps, ends this one too,
	// though it may be waiting for its source.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.s.packer.ctx, func() { cancel(context.Cause(w.s.packer.ctx)) })()
	g, gctx := errgroup.WithContext(ctx)
	if spec.Stop != nil {
		defer context.AfterFunc(gctx, func() {
			if context.Cause(gctx) != context.Canceled { // which is an end like any other
				spec.Stop()
			}
		})()
	}
	free := make(chan *unit, unitsPerStream)
	read := make(chan *unit, unitsPerStream)
	ready := make(chan *unit, unitsPerStream)
	g.Go(func() error { defer close(read); return w.read(gctx, c, free, read) })
	g.Go(func() error { defer close(ready); return w.locate(gctx, read, ready) })
	g.Go(func() error { return w.write(gctx, ready, free) })
	err = g.Wait()
	if failed := context.Cause(w.s.packer.ctx); failed != nil {
		err = failed
	}
	w.locator.close()
	for _, v := range w.views {
		v.close()
	}
	for len(free) > 0 {
		w.s.units.put(<-free)
	}
	if err != nil {
		return Stream{}, err
	}
	if err := w.finish(); err != nil {
		return Stream{}, err
	}
	return Stream{Name: spec.Name, Kind: spec.Kind, PageSize: spec.PageSize, Length: w.length,
		BLAKE3: hex.EncodeToString(w.whole.Sum(nil)), Extents: w.extents.n, Packed: w.sample.thousandths()}, nil
}

func (w *streamWriter) read(ctx context.Context, c *chunker.Cutter, free <-chan *unit, out chan<- *unit) error {
	for made := 0; ; {
		var u *unit
		select {
		case u = <-free:
		default:
			if made < unitsPerStream {
				made++
				u = w.s.units.get()
				break
			}
			select {
			case u = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := c.Next(u.seg); err != nil {
			w.s.units.put(u)
			if err == io.EOF {
				return nil
			}
			return err
		}
		u.hashed = make(chan struct{})
		go w.s.identify(u)
		select {
		case out <- u: // has room for all
		case <-ctx.Done():
			<-u.hashed
			return ctx.Err()
		}
	}
}

// identify computes the ids of a unit's chunks.
func (s *Saver) identify(u *unit) {
	defer close(u.hashed)
	h, _ := s.hashers.Get().(*blake3.Hasher)
	if h == nil {
		h, _ = blake3.NewKeyed(s.chunkKey) // fails only for keys of other lengths
	}
	defer s.hashers.Put(h)
	u.ids = u.ids[:0]
	start := 0
	for _, end := range u.seg.Ends {
		h.Reset()
		h.Write(u.seg.Data[start:end])
		var id chunkID
		h.Digest().Read(id[:])
		u.ids, start = append(u.ids, id), end
	}
}

func (w *streamWriter) locate(ctx context.Context, in <-chan *unit, out chan<- *unit) error {
	for u := range in {
		<-u.hashed
		if err := ctx.Err(); err != nil {
			return err
		}
		w.locator.locate(u, w.barren.Load() < barrenLimit)
		if err := w.sample.add(&w.s.sampler, u.seg.Data, w.length); err != nil {
			return err
		}
		w.whole.Write(u.seg.Data)
		w.length += int64(len(u.seg.Data))
		out <- u // has room for all
	}
	return nil
}

func (w *streamWriter) write(ctx context.Context, in <-chan *unit, free chan<- *unit) error {
	for u := range in {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.segment(u); err != nil {
			return err
		}
		free <- u // has room for all
	}
	return nil
}

// segment stores one segment.
func (w *streamWriter) segment(u *unit) error {
	w.piece = w.piece[:0]
	for i := 0; i < len(u.ids); {
		if u.where[i].m != nil {
			if err := w.join(u, run{u.where[i], u.start(i), u.seg.Ends[i] - u.start(i)}); err != nil {
				return err
			}
			i++
			continue
		}
		if e, ok := w.s.recent.lookup(u.ids[i], u.seg.Ends[i]-u.start(i)); ok {
			if err := w.flush(u); err != nil {
				return err
			}
			if w.sim.accept([]Extent{e}, int(e.Length), false) {
				w.emit(e)
				w.expect += int64(e.Length)
				w.skip(int(e.Length))
				i++
				continue
			}
		}
		j := i + 1
		for j < len(u.ids) && u.where[j].m == nil && !w.s.recent.has(u.ids[j]) {
			j++
		}
		if err := w.changed(u, i, j); err != nil {
			return err
		}
		i = j
	}
	if err := w.flush(u); err != nil {
		return err
	}
	w.s.maps.addSegment(w.number, u, w.piece)
	return w.extents.add(w.piece)
}

func (w *streamWriter) skip(n int) {
	if w.matcher != nil {
		w.matcher.Follow(w.matcher.Place() + int64(n))
	}
}

// changed compares chunks i to j, which no map has, with the bytes of the base.
func (w *streamWriter) changed(u *unit, i, j int) error {
	from, to := u.start(i), u.seg.Ends[j-1]
	if w.matcher == nil {
		return w.literal(u, from, to)
	}
	next := int64(-1)
	if j < len(u.ids) && u.where[j].m == w.s.baseMap {
		next = u.where[j].from
	}
	w.found = w.matcher.Match(w.found[:0], u.seg.Data[from:to], anchorsOf(u, from, to), next)
	if len(w.found) == 0 {
		w.barren.Add(int64(to - from))
	} else {
		w.barren.Store(0)
	}
	at := from
	for _, f := range w.found {
		if f.Len < w.least && (next < 0 || f.From+int64(f.Len) != next) {
			continue
		}
		if err := w.literal(u, at, from+f.At); err != nil {
			return err
		}
		if err := w.join(u, run{located{w.s.baseMap, f.From}, from + f.At, f.Len}); err != nil {
			return err
		}
		at = from + f.At + f.Len
	}
	return w.literal(u, at, to)
}

// anchorsOf returns the anchors of bytes [from, to) of a segment, relative to
// from.
func anchorsOf(u *unit, from, to int) []chunker.Anchor {
	a := u.seg.Anchors
	lo, hi := 0, len(a)
	for lo < hi {
		if mid := (lo + hi) / 2; int(a[mid].End) <= from {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	u.near = u.near[:0]
	for ; lo < len(a) && int(a[lo].End) <= to; lo++ {
		u.near = append(u.near, chunker.Anchor{End: a[lo].End - uint32(from), Hash: a[lo].Hash})
	}
	return u.near
}

// join adds known bytes to those not yet emitted.
func (w *streamWriter) join(u *unit, r run) error {
	p := &w.pending
	if p.n > 0 && p.m == r.m && p.from+int64(p.n) == r.from && p.at+p.n == r.at {
		p.n += r.n
	} else {
		if err := w.flush(u); err != nil {
			return err
		}
		*p = r
	}
	if w.matcher != nil {
		if r.m == w.s.baseMap {
			w.matcher.Follow(r.from + int64(r.n))
		} else {
			w.skip(r.n)
		}
	}
	return nil
}

// flush emits the pending known bytes, or stores them anew where that is
// cheaper.
func (w *streamWriter) flush(u *unit) error {
	r := w.pending
	if r.n == 0 {
		return nil
	}
	w.pending = run{}
	var ok bool
	w.list, ok = w.views[r.m].extents(w.list[:0], r.from, r.n)
	for _, e := range w.list {
		// A damaged map is no reason to believe it.
		ok = ok && w.s.holds(e)
	}
	off := r.from - w.expect
	near := r.m == w.s.baseMap && off <= nearReach && off >= -nearReach
	if !ok || !w.sim.accept(w.list, r.n, near) {
		return w.literal(u, r.at, r.at+r.n)
	}
	if r.m == w.s.baseMap {
		w.expect = r.from + int64(r.n)
	} else {
		w.expect += int64(r.n)
	}
	// The ends of a match may reach some bytes over the border of an extent by
	// chance: as an extent they cost more than as bytes.
	list, from, to := w.list, r.at, r.at+r.n
	for len(list) > 1 && list[0].Length < tinyExtent {
		from, list = from+int(list[0].Length), list[1:]
	}
	for n := len(list) - 1; n > 0 && list[n].Length < tinyExtent; n-- {
		to, list = to-int(list[n].Length), list[:n]
	}
	if err := w.literal(u, r.at, from); err != nil {
		return err
	}
	for _, e := range list {
		w.emit(e)
	}
	return w.literal(u, to, r.at+r.n)
}

// nearReach is how far from where the stream has got to is near, in bytes.
const nearReach = 2 << 20

// tinyExtent bytes and more are worth an extent of their own.
const tinyExtent = 12

// emit adds an extent to the stream.
func (w *streamWriter) emit(e Extent) {
	w.sim.touch(e.Block)
	w.piece = appendExtent(w.piece, e)
}

// literal stores bytes [from, to) of the segment. Whole chunks stay in one
// block, so that they are found again, and named.
func (w *streamWriter) literal(u *unit, from, to int) error {
	if from == to {
		return nil
	}
	if err := w.flush(u); err != nil {
		return err
	}
	w.expect += int64(to - from)
	for i := chunkAt(u, from); from < to; i++ {
		end := min(u.seg.Ends[i], to)
		whole := from == u.start(i) && end == u.seg.Ends[i]
		e, err := w.store(u.seg.Data[from:end])
		if err != nil {
			return err
		}
		if whole {
			w.cur.chunks = appendRecord(w.cur.chunks, u.ids[i], e)
			w.s.recent.add(u.ids[i], e)
		}
		w.emit(e)
		from = end
	}
	return nil
}

// chunkAt returns the chunk that holds byte off of the segment.
func chunkAt(u *unit, off int) int {
	lo, hi := 0, len(u.seg.Ends)
	for lo < hi {
		if mid := (lo + hi) / 2; u.seg.Ends[mid] <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// store appends new bytes to the stream's block. They never straddle two
// blocks, so that their place is one extent.
func (w *streamWriter) store(p []byte) (Extent, error) {
	if w.cur == nil {
		w.borrow()
	}
	if len(w.cur.raw)+len(p) > pack.MaxBlock {
		if err := w.submit(); err != nil {
			return Extent{}, err
		}
		w.cur = w.s.packer.newBlock()
	}
	e := Extent{Block: w.cur.number, Offset: uint32(len(w.cur.raw)), Length: uint32(len(p))}
	w.cur.raw = append(w.cur.raw, p...)
	w.fresh += int64(len(p))
	return e, nil
}

func (w *streamWriter) submit() error {
	b := w.cur
	w.cur = nil
	return w.s.packer.submit(b)
}

// finish hands over what is left. A block that is far from full is lent to the
// next stream: many small tables share blocks.
func (w *streamWriter) finish() error {
	if w.cur == nil {
		return nil
	}
	w.s.mu.Lock()
	lend := w.s.shared == nil && len(w.cur.raw) < pack.MaxBlock/2
	if lend {
		w.s.shared, w.cur = w.cur, nil
	}
	w.s.mu.Unlock()
	if lend {
		return nil
	}
	return w.submit()
}

// borrow takes the shared block, or a new one.
func (w *streamWriter) borrow() {
	w.s.mu.Lock()
	w.cur, w.s.shared = w.s.shared, nil
	w.s.mu.Unlock()
	if w.cur == nil {
		w.cur = w.s.packer.newBlock()
	}
}

// addSegment records a segment and its extents in the map.
func (x *mapWriter) addSegment(stream uint32, u *unit, extents []Extent) {
	n := len(u.seg.Anchors)*pieceAnchor + len(extents)*extentLen + len(u.ids)*pieceChunk
	if cap(u.record) < n {
		u.record = make([]byte, 0, n+n/4)
	}
	b := u.record[:0]
	for _, a := range u.seg.Anchors {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, a.End), a.Hash)
	}
	for _, e := range extents {
		b = e.append(b)
	}
	for i, id := range u.ids {
		b = binary.BigEndian.AppendUint32(append(b, id[:]...), uint32(u.seg.Ends[i]))
	}
	u.record = b
	x.add(piece{stream: stream, length: uint32(len(u.seg.Data)), anchors: uint32(len(u.seg.Anchors)), extents: uint32(len(extents)),
		chunks: uint32(len(u.ids))}, b, u.seg.Anchors, u.ids)
}

// unitPool keeps units for the next stream.
type unitPool struct {
	mu   sync.Mutex
	free []*unit // guarded by mu
}

func (p *unitPool) get() *unit {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		u := p.free[n-1]
		p.free = p.free[:n-1]
		return u
	}
	return &unit{seg: chunker.NewSegment()}
}

func (p *unitPool) put(u *unit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, u)
}

// Add reads a stream to its end and stores what is new of it. When it fails,
// the snapshot has failed: its chunks may stand in blocks that are gone.
func (s *Saver) Add(ctx context.Context, spec StreamSpec, r io.Reader) (Stream, error) {
	err := s.claim(spec.Name)
	var info Stream
	var w *streamWriter
	if err == nil {
		w = s.newStreamWriter(ctx, spec.Name)
		info, err = w.copy(ctx, spec, strictReader{r})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("stream %q: %w", spec.Name, err)
		s.failed = cmp.Or(s.failed, err)
		return Stream{}, err
	}
	s.streams = append(s.streams, savedStream{spec.Order, info, &w.extents})
	s.read += info.Length
	s.fresh += w.fresh
	return info, nil
}
