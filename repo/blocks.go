package repo

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"strongroom/repo/pack"
	"strongroom/repo/seal"
	"strongroom/repo/spread"
)

const (
	// cacheBlocks is how many blocks a reader keeps. Writers may count on it
	// when they choose what to reuse: it is a constant of the format.
	cacheBlocks = 64
	// maxReaders bounds memory when many streams are read at once.
	maxReaders = 2
	// spareBlocks is how much memory of forgotten blocks is kept.
	spareBlocks = 16
	// fetches is how many runs of blocks are fetched and decoded at once.
	fetches = 4
	// runBytes is how much of a pack one fetch takes at most.
	runBytes = 2 << 20
)

// A segmentSource gives sealed segments of packs, as spread.Reader does.
type segmentSource interface {
	// Segments appends segments [first, first+count) of p to dst. Each of them
	// has passed check.
	Segments(ctx context.Context, p spread.Pack, first, count int, dst []byte, check func(n int, segment []byte) error) ([]byte, error)
}

// A blockReader fetches, opens and caches blocks. It is safe for concurrent
// use.
type blockReader struct {
	manifest *Manifest // says where the packs are
	key      Secret
	source   segmentSource
	roots    map[uint32]pack.Entry
	table    []pack.Entry

	limit   chan struct{} // one token a fetch
	scratch sync.Pool     // of *scratch

	mu      sync.Mutex // guards what follows
	cache   map[uint32]*cached
	lru     *list.List // of *cached, most recent in front
	readers int        // of streams, that are open
	room    int        // blocks to keep
	spare   [][]byte   // memory of blocks that were forgotten
	fetched int        // blocks decoded so far
}

// cached is a block in memory, or on its way there.
type cached struct {
	number uint32
	entry  pack.Entry
	elem   *list.Element
	done   chan struct{} // closed when data or err is set
	data   []byte        // valid for who acquired it, until it is released
	err    error

	holders int  // guarded by blockReader.mu
	evicted bool // likewise
}

// scratch is what one fetch works in.
type scratch struct {
	expander *pack.Expander
	sealed   []byte
	plain    []byte
}

func newBlockReader(m *Manifest, key Secret, source segmentSource, roots map[uint32]pack.Entry) *blockReader {
	return &blockReader{manifest: m, key: key, source: source, roots: roots, limit: make(chan struct{}, fetches),
		cache: map[uint32]*cached{}, lru: list.New(), room: cacheBlocks}
}

// setTable installs the block table.
func (b *blockReader) setTable(raw []byte) error {
	if len(raw)%pack.EntryLen != 0 {
		return fmt.Errorf("%w: %d bytes", ErrIntegrity, len(raw))
	}
	table := make([]pack.Entry, len(raw)/pack.EntryLen)
	for i := range table {
		var err error
		if table[i], err = pack.ParseEntry(raw[i*pack.EntryLen : (i+1)*pack.EntryLen]); err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrIntegrity, i, err)
		}
	}
	b.table = table
	return nil
}

func (b *blockReader) entry(n uint32) (pack.Entry, error) {
	e, ok := b.roots[n]
	if !ok && int(n) < len(b.table) {
		e = b.table[n]
	}
	if e.Void() {
		return e, fmt.Errorf("%w: there is no block %d", ErrIntegrity, n)
	}
	return e, nil
}

// acquire returns a block, to be released when it is not needed any more. It is
// shared and must not be written to.
func (b *blockReader) acquire(ctx context.Context, n uint32) (*cached, error) {
	for {
		b.mu.Lock()
		c := b.cache[n]
		if c == nil {
			b.mu.Unlock()
			if err := b.start(ctx, []uint32{n}); err != nil {
				return nil, err
			}
			continue
		}
		c.holders++
		b.lru.MoveToFront(c.elem)
		b.mu.Unlock()
		var err error
		select {
		case <-c.done:
			err = c.err
		case <-ctx.Done():
			b.release(c)
			return nil, ctx.Err()
		}
		if err == nil {
			return c, nil
		}
		b.drop(c)
		b.release(c)
		if ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			continue // another reader's fetch was cancelled, not ours
		}
		return nil, err
	}
}

// release ends what acquire began.
func (b *blockReader) release(c *cached) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.holders--
	b.reuse(c)
}

// reuse takes back the memory of a block that nobody can reach any more. b.mu
// is held.
func (b *blockReader) reuse(c *cached) {
	if c.evicted && c.holders == 0 && c.data != nil {
		b.spare = append(b.spare, c.data[:0])
		c.data = nil
	}
}

func (b *blockReader) drop(c *cached) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(c)
}

// forget takes a block out of the cache. b.mu is held.
func (b *blockReader) forget(c *cached) {
	if b.cache[c.number] == c {
		delete(b.cache, c.number)
		b.lru.Remove(c.elem)
		c.evicted = true
		b.reuse(c)
	}
}

// memory returns an empty slice for a block of n bytes. Most blocks have the
// most; for small ones it is not worth clearing as much.
func (b *blockReader) memory(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetched++
	for i, m := range slices.Backward(b.spare) {
		if cap(m) >= n {
			b.spare = slices.Delete(b.spare, i, i+1)
			return m
		}
	}
	if n > pack.MaxBlock/4 {
		n = pack.MaxBlock // so that it fits the next one
	}
	return make([]byte, 0, n)
}

// reserve makes room for one reader more, or one less: each needs a cache of its
// own, up to maxReaders of them.
func (b *blockReader) reserve(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers += n
	b.room = cacheBlocks * max(1, min(b.readers, maxReaders))
	b.evict()
	if len(b.spare) > spareBlocks {
		b.spare = b.spare[:spareBlocks]
	}
}

// prefetch starts fetching what is not in the cache yet. Faults show up when
// the block is asked for.
func (b *blockReader) prefetch(ctx context.Context, numbers []uint32) {
	_ = b.start(ctx, numbers)
}

// start begins the fetches of the blocks that are not cached, as runs of
// neighbours in one pack.
func (b *blockReader) start(ctx context.Context, numbers []uint32) error {
	var runs [][]*cached
	b.mu.Lock()
	defer b.mu.Unlock()
	var unknown error
	for _, n := range numbers {
		if b.cache[n] != nil {
			continue
		}
		e, err := b.entry(n)
		if err != nil {
			// Those before it are in the cache, with waiters perhaps: they must
			// be fetched all the same.
			unknown = err
			break
		}
		c := &cached{number: n, entry: e, done: make(chan struct{})}
		c.elem = b.lru.PushFront(c)
		b.cache[n] = c
		if k := len(runs) - 1; k >= 0 && follows(runs[k], e) {
			runs[k] = append(runs[k], c)
		} else {
			runs = append(runs, []*cached{c})
		}
	}
	b.evict()
	for _, run := range runs {
		go b.fetch(ctx, run)
	}
	return unknown
}

// follows reports whether e lies right behind the run, in bounds.
func follows(run []*cached, e pack.Entry) bool {
	first, last := run[0].entry, run[len(run)-1].entry
	return e.Index == last.Index && e.Offset == last.Offset+last.Stored && e.Offset+e.Stored-first.Offset <= runBytes
}

// evict forgets the blocks unused for longest. Those still being fetched stay.
func (b *blockReader) evict() {
	for el := b.lru.Back(); el != nil && len(b.cache) > b.room; {
		c, prev := el.Value.(*cached), el.Prev()
		select {
		case <-c.done:
			b.forget(c)
		default:
		}
		el = prev
	}
}

// fetch reads and decodes a run. Every cached of it is completed, whatever
// happens: that is how its waiters wait for this goroutine.
func (b *blockReader) fetch(ctx context.Context, run []*cached) {
	var err error
	select {
	case b.limit <- struct{}{}:
		defer func() { <-b.limit }()
		err = b.fetchRun(ctx, run)
	case <-ctx.Done():
		err = ctx.Err()
	}
	for _, c := range run {
		if c.data == nil {
			c.err = err
			if err == nil {
				c.err = fmt.Errorf("internal error: block %d was not decoded", c.number)
			}
		}
		close(c.done)
	}
}

func (b *blockReader) fetchRun(ctx context.Context, run []*cached) error {
	first, last := run[0].entry, run[len(run)-1].entry
	p, ok := b.manifest.PackByNumber(first.Index)
	if !ok {
		return fmt.Errorf("%w: block %d lies in pack %d, which the manifest does not list", ErrIntegrity, run[0].number, first.Index)
	}
	w, _ := b.scratch.Get().(*scratch)
	if w == nil {
		x, err := pack.NewExpander()
		if err != nil {
			return err
		}
		w = &scratch{expander: x}
	}
	defer b.scratch.Put(w)
	plain, err := b.plain(ctx, w, p, int64(first.Offset), int64(last.Offset+last.Stored))
	if err != nil {
		return err
	}
	for _, c := range run {
		at := c.entry.Offset - first.Offset
		c.data, err = w.expander.Expand(b.memory(int(c.entry.Raw)), plain[at:at+c.entry.Stored], c.entry.Codec, int(c.entry.Raw))
		if err != nil {
			c.data = nil
			return fmt.Errorf("%w: block %d: %w", ErrIntegrity, c.number, err)
		}
	}
	return nil
}

// plain returns bytes [from, to) of a pack's plaintext, in memory of w. Each
// segment is opened as it is checked, so nothing unauthenticated is ever
// returned.
func (b *blockReader) plain(ctx context.Context, w *scratch, p PackRecord, from, to int64) ([]byte, error) {
	total, err := seal.PlainLen(p.MessageLen)
	if err != nil || from < 0 || to > total || from >= to {
		return nil, fmt.Errorf("%w: bytes [%d, %d) of pack %v, which has %d", ErrIntegrity, from, to, p.ID, total)
	}
	gen := b.manifest.Generation
	key, err := deriveKey(b.key, kindPack, gen, p.ID)
	if err != nil {
		return nil, err
	}
	o, err := seal.NewOpener(key, associated(kindPack, b.manifest.Tenant, gen, p.ID), p.Seal[:])
	if err != nil {
		return nil, fmt.Errorf("pack %v: %w", p.ID, err)
	}
	segments := p.Segments()
	first := int(from / seal.SegmentData)
	count := int((to-1)/seal.SegmentData) + 1 - first
	w.plain = slices.Grow(w.plain[:0], count*seal.SegmentData)[:count*seal.SegmentData]
	out, end := w.plain, 0
	w.sealed, err = b.source.Segments(ctx, p.Pack, first, count, w.sealed[:0], func(n int, segment []byte) error {
		at := (n - first) * seal.SegmentData
		opened, err := o.Segment(out[at:at], segment, uint64(n), n == segments-1)
		if err == nil {
			end = max(end, at+len(opened))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	skip := from - int64(first)*seal.SegmentData
	if int64(end) < skip+to-from {
		return nil, fmt.Errorf("%w: pack %v ends early", ErrIntegrity, p.ID)
	}
	return out[skip : skip+to-from], nil
}
