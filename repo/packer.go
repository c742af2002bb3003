package repo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/seal"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// Memory of a backup, in MiB, for 2+1 (2+2 has 32 more): the pack being filled
// or sealed, 32; two stripes being coded or uploaded, 96; for each stream four
// segments, a block and a table of anchors, 9; blocks on their way, 6;
// compressors, 16; chunks stored lately, 6. When there is a base: its blocks,
// 64; the table of far anchors, at most 16; pieces of the map, 5. The program's
// memory limit is set by this.
const (
	// packWriters: sealing takes a tenth of the time that filling does, and
	// others have work meanwhile.
	packWriters = 1
	stripes     = 2
)

// block is new bytes on their way into a pack.
type block struct {
	number uint32
	raw    []byte
	chunks []byte // records of what lies in it, for the journal
}

// A packer compresses blocks, fills packs, seals, codes and stores them.
// submit may be called concurrently; drain once, at the end.
type packer struct {
	tenant, generation ID
	key                Secret
	prefix             string
	set                *spread.Set
	spool              store.Store
	journal            *journal
	cache              *packCache
	geometry           erasure.Geometry
	level              pack.Level
	packBytes          int // no block is added to a pack of so many; 0: no such limit

	ctx     context.Context // ends with the first failure of any part
	cancel  context.CancelCauseFunc
	workers errgroup.Group
	uploads errgroup.Group
	queue   chan *block
	free    chan *pack.Writer
	stripes chan *erasure.Stripe

	mu       sync.Mutex // guards what follows; held while waiting for a writer
	cur      *pack.Writer
	curChunk []byte
	nextPack uint32
	table    []pack.Entry // by block number; Index is the pack number

	done   sync.Mutex // guards what follows; never held while waiting
	idle   *sync.Cond // of done: waiting fell to 0, or ctx ended
	queued int        // blocks submitted and not yet in a pack
	raws   [][]byte   // memory of blocks that are in a pack
	packs  []PackRecord
	stored int64 // bytes of sealed packs
}

func newPacker(ctx context.Context, p *packer) (*packer, error) {
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.idle = sync.NewCond(&p.done)
	context.AfterFunc(p.ctx, func() {
		p.done.Lock() // or it comes between settle's look at ctx and its wait
		defer p.done.Unlock()
		p.idle.Broadcast()
	})
	workers := runtime.GOMAXPROCS(0)
	p.queue = make(chan *block, workers)
	p.free = make(chan *pack.Writer, packWriters)
	for range packWriters {
		p.free <- pack.NewWriter()
	}
	p.stripes = make(chan *erasure.Stripe, stripes)
	for range stripes {
		s, err := erasure.NewStripe(p.geometry, p.maxSegments())
		if err != nil {
			return nil, err
		}
		p.stripes <- s
	}
	var compressors []*pack.Compressor
	for range workers {
		c, err := pack.NewCompressor(p.level)
		if err != nil {
			return nil, err
		}
		compressors = append(compressors, c)
	}
	for _, c := range compressors {
		p.workers.Go(func() error { return p.failing(p.compress(c)) })
	}
	return p, nil
}

// maxSegments is how many segments the largest pack has.
func (p *packer) maxSegments() int {
	if p.packBytes == 0 {
		return pack.MaxSegments
	}
	return min(pack.MaxSegments, 2*(p.packBytes+pack.MaxBlock)/seal.SegmentData)
}

// full reports whether the current pack has no room for a block.
func (p *packer) full(stored int) bool {
	return !p.cur.Fits(stored) || p.packBytes > 0 && p.cur.Stored() >= p.packBytes
}

// failing ends the whole packer when err is not nil.
func (p *packer) failing(err error) error {
	if err != nil {
		p.cancel(err)
	}
	return err
}

// newBlock returns an empty block with the next number.
func (p *packer) newBlock() *block {
	p.mu.Lock()
	b := &block{number: uint32(len(p.table))}
	p.table = append(p.table, pack.Entry{})
	p.mu.Unlock()
	p.done.Lock()
	defer p.done.Unlock()
	if n := len(p.raws); n > 0 {
		b.raw = p.raws[n-1]
		p.raws = p.raws[:n-1]
	} else {
		b.raw = make([]byte, 0, pack.MaxBlock)
	}
	return b
}

// submit hands a block over.
func (p *packer) submit(b *block) error {
	p.done.Lock()
	p.queued++
	p.done.Unlock()
	select {
	case p.queue <- b:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

func (p *packer) compress(c *pack.Compressor) error {
	for {
		select {
		case b, ok := <-p.queue:
			if !ok {
				return nil
			}
			stored, codec, err := c.Compress(b.raw)
			if err == nil {
				err = p.add(b, stored, codec)
			}
			if err != nil {
				return err
			}
			p.added(b)
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

// added takes a block's memory back.
func (p *packer) added(b *block) {
	p.done.Lock()
	defer p.done.Unlock()
	p.raws = append(p.raws, b.raw[:0])
	if p.queued--; p.queued == 0 {
		p.idle.Broadcast()
	}
}

// add appends a compressed block to the current pack and sends that on its way
// when it is full.
func (p *packer) add(b *block, stored []byte, codec pack.Codec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil && p.full(len(stored)) {
		p.flushLocked()
	}
	if p.cur == nil {
		// Waiting here holds the lock on purpose: nobody else could add either.
		select {
		case p.cur = <-p.free:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	p.cur.Add(b.number, stored, len(b.raw), codec)
	e := p.cur.Entries()[p.cur.Blocks()-1]
	e.Index = p.nextPack
	p.table[b.number] = e
	p.curChunk = append(p.curChunk, b.chunks...)
	return nil
}

// flushLocked starts sealing and storing the current pack. p.mu is held.
func (p *packer) flushLocked() {
	w, number, chunks := p.cur, p.nextPack, p.curChunk
	p.cur, p.curChunk = nil, nil
	p.nextPack++
	p.uploads.Go(func() error { return p.failing(p.store(w, number, chunks)) })
}

// store seals, codes, journals and stores one pack.
//
// Crash story. Before the journal line is durable nothing of the pack is
// anywhere but in memory. After it, any number of shards may be stored; the
// next run finds them by the names in the journal and adopts the pack if all
// are there. No manifest names the pack before Put has confirmed every shard.
func (p *packer) store(w *pack.Writer, number uint32, chunks []byte) error {
	var stripe *erasure.Stripe
	select {
	case stripe = <-p.stripes:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	defer func() { p.stripes <- stripe }()
	rec, shards, err := p.seal(w, number, stripe)
	if err != nil {
		return err
	}
	entries := slices.Clone(w.Entries())
	w.Reset()
	p.free <- w // never blocks: the channel has room for all writers
	if err := p.journal.append(newJournalPack(rec, entries, chunks)); err != nil {
		return err
	}
	p.cache.add(rec, shards)
	if _, err := p.set.Put(p.ctx, p.prefix, rec.Pack, shards, p.spool); err != nil {
		return err
	}
	p.done.Lock()
	defer p.done.Unlock()
	p.packs = append(p.packs, rec)
	p.stored += rec.MessageLen
	return nil
}

// seal seals the pack straight into the stripe and completes its shards.
func (p *packer) seal(w *pack.Writer, number uint32, stripe *erasure.Stripe) (PackRecord, [][]byte, error) {
	rec := PackRecord{Number: number, Pack: spread.Pack{Geometry: p.geometry}}
	rand.Read(rec.ID[:])
	rand.Read(rec.Encode[:])
	plain := w.Finish()
	rec.MessageLen = seal.SealedLen(int64(len(plain)))
	key, err := deriveKey(p.key, kindPack, p.generation, rec.ID)
	if err != nil {
		return rec, nil, err
	}
	s, err := seal.NewSealer(key, associated(kindPack, p.tenant, p.generation, rec.ID))
	if err != nil {
		return rec, nil, err
	}
	rec.Seal = s.Header()
	segments := int(seal.Segments(int64(len(plain))))
	stripe.Reset(segments)
	for n := range segments {
		piece := plain[n*seal.SegmentData : min(len(plain), (n+1)*seal.SegmentData)]
		if _, err := s.Segment(stripe.Segment(n)[:0], piece, uint64(n), n == segments-1); err != nil {
			return rec, nil, err
		}
	}
	shards, err := stripe.Finish(rec.Header(0))
	if err != nil {
		return rec, nil, err
	}
	rec.Shards = make([][32]byte, len(shards))
	var wg sync.WaitGroup
	for i, b := range shards {
		wg.Go(func() { rec.Shards[i] = sha256.Sum256(b) })
	}
	wg.Wait()
	return rec, shards, nil
}

// settle waits until every block submitted so far lies in a pack, so that the
// table says where.
func (p *packer) settle() error {
	p.done.Lock()
	defer p.done.Unlock()
	for p.queued > 0 && p.ctx.Err() == nil {
		p.idle.Wait()
	}
	return context.Cause(p.ctx)
}

// abort stops everything and waits for it.
func (p *packer) abort(cause error) {
	p.cancel(cause)
	p.workers.Wait()
	p.uploads.Wait()
}

// drain seals the last pack and waits for all uploads. Nothing is submitted
// after it.
func (p *packer) drain() error {
	close(p.queue)
	if err := p.workers.Wait(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.cur != nil {
		p.flushLocked()
	}
	p.mu.Unlock()
	err := p.uploads.Wait()
	p.cancel(nil)
	if err != nil {
		return err
	}
	slices.SortFunc(p.packs, func(a, b PackRecord) int { return int(a.Number) - int(b.Number) })
	for i := 1; i < len(p.packs); i++ {
		if p.packs[i].Number == p.packs[i-1].Number {
			return fmt.Errorf("internal error: pack number %d twice", p.packs[i].Number)
		}
	}
	return nil
}
