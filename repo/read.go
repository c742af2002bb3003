package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"strongroom/repo/pack"
	"strongroom/repo/spread"
)

// An Opened is a snapshot whose contents were opened with its generation key.
// It is safe for concurrent use.
type Opened struct {
	snap     *Snapshot
	contents *Contents
	blocks   *blockReader
	source   *spread.Reader
	streams  map[string]placed
	extents  *listReader
}

// placed is a stream and the index of its first extent in the list.
type placed struct {
	Stream
	first int64
}

// Open opens a snapshot of the listing with its generation key: ErrWrongKey if
// it is not the one.
func (l *Listing) Open(ctx context.Context, s *Snapshot, key Secret) (*Opened, error) {
	return openSnapshot(ctx, l.inventory, s, key)
}

func openSnapshot(ctx context.Context, inv *spread.Inventory, s *Snapshot, key Secret) (*Opened, error) {
	contents := &Contents{}
	if err := openPart(kindContents, s.Manifest, key, s.part2, contents); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s.ID(), err)
	}
	o := &Opened{snap: s, contents: contents, streams: map[string]placed{}}
	at, most := int64(0), contents.ExtentList.Length/listRecord
	for _, st := range contents.Streams {
		if _, twice := o.streams[st.Name]; twice || st.Name == "" || st.Length < 0 || st.Extents < 0 || st.Extents > most-at {
			return nil, fmt.Errorf("snapshot %s: %w: stream %q", s.ID(), ErrIntegrity, st.Name)
		}
		o.streams[st.Name] = placed{st, at}
		at += st.Extents
	}
	if at*listRecord != contents.ExtentList.Length || contents.ExtentList.Length != contents.ExtentList.bytes() {
		return nil, fmt.Errorf("snapshot %s: %w: %d extents in a list of %d bytes", s.ID(), ErrIntegrity, at, contents.ExtentList.Length)
	}
	roots := map[uint32]pack.Entry{}
	for _, r := range contents.Roots {
		e, err := r.entry()
		if _, twice := roots[r.Block]; twice && err == nil {
			err = fmt.Errorf("%w: two roots of block %d", ErrIntegrity, r.Block)
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.ID(), err)
		}
		roots[r.Block] = e
	}
	o.source = inv.Reader(generationPrefix(s.Tenant, s.Generation))
	o.blocks = newBlockReader(s.Manifest, key, o.source, roots)
	o.extents = &listReader{o: o, list: contents.ExtentList}
	table, err := o.readList(ctx, contents.BlockTable)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: block table: %w", s.ID(), err)
	}
	if err := o.blocks.setTable(table); err != nil {
		return nil, fmt.Errorf("snapshot %s: block table: %w", s.ID(), err)
	}
	return o, nil
}

// Contents returns what the snapshot is made of.
func (o *Opened) Contents() *Contents { return o.contents }

// Snapshot returns the manifest it was opened from.
func (o *Opened) Snapshot() *Snapshot { return o.snap }

// Damage says what was found wrong on stores and read around so far.
func (o *Opened) Damage() []string { return o.source.Damage() }

// blockTable returns the table of the generation up to this snapshot, with the
// blocks of the table itself.
func (o *Opened) blockTable(context.Context) ([]pack.Entry, error) {
	table := append([]pack.Entry(nil), o.blocks.table...)
	// Blocks of the table itself are numbered right behind those in it.
	limit := len(table) + len(o.blocks.roots)
	for n, e := range o.blocks.roots {
		if int(n) >= limit {
			return nil, fmt.Errorf("%w: block number %d behind a table of %d", ErrIntegrity, n, len(o.blocks.table))
		}
		for int(n) >= len(table) {
			table = append(table, pack.Entry{})
		}
		table[n] = e
	}
	return table, nil
}

// readList reads a whole list and checks its hash.
func (o *Opened) readList(ctx context.Context, l List) ([]byte, error) {
	// Compared before anything is allocated for it.
	if l.Length != l.bytes() || l.Length > 1<<32 {
		return nil, fmt.Errorf("%w: list of %d bytes in extents of %d", ErrIntegrity, l.Length, l.bytes())
	}
	i := 0
	r := &streamReader{ctx: ctx, o: o, left: l.Length, whole: blake3.New(), want: l.BLAKE3, blocks: map[uint32]int{}, next: func() (Extent, error) {
		if i == len(l.Extents) {
			return Extent{}, io.EOF
		}
		i++
		return l.Extents[i-1], nil
	}}
	b := make([]byte, l.Length)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		return nil, err
	}
	return b, nil
}

// listReader reads the extent list piece by piece: it grows with the database,
// memory does not.
type listReader struct {
	o    *Opened
	list List
}

// extents returns an iterator over the n extents of a stream from index i on.
func (l *listReader) extents(ctx context.Context, i, n int64) func() (Extent, error) {
	var group []Extent
	at := 0
	return func() (Extent, error) {
		if at == len(group) {
			if n == 0 {
				return Extent{}, io.EOF
			}
			k := min(n, groupExtents)
			b, err := l.at(ctx, i*listRecord, k*listRecord)
			if err == nil {
				group, err = decodeGroup(group[:0], b)
			}
			if err != nil {
				return Extent{}, fmt.Errorf("extent list: %w", err)
			}
			at, i, n = 0, i+k, n-k
		}
		at++
		return group[at-1], nil
	}
}

// at returns n bytes of the list from off.
func (l *listReader) at(ctx context.Context, off, n int64) ([]byte, error) {
	out := make([]byte, 0, n)
	pos := int64(0)
	for _, e := range l.list.Extents {
		end := pos + int64(e.Length)
		if end > off && pos < off+n {
			c, err := l.o.blocks.acquire(ctx, e.Block)
			if err != nil {
				return nil, err
			}
			if int(e.Offset+e.Length) > len(c.data) {
				l.o.blocks.release(c)
				return nil, fmt.Errorf("%w: extent beyond its block", ErrIntegrity)
			}
			piece := c.data[e.Offset : e.Offset+e.Length]
			out = append(out, piece[max(off-pos, 0):min(int64(e.Length), off+n-pos)]...)
			l.o.blocks.release(c)
		}
		pos = end
	}
	if int64(len(out)) != n {
		return nil, fmt.Errorf("%w: list is shorter than it says", ErrIntegrity)
	}
	return out, nil
}

// Stream returns the description of a stream.
func (o *Opened) Stream(name string) (Stream, bool) {
	s, ok := o.streams[name]
	return s.Stream, ok
}

// Read returns a reader of bytes [off, off+n) of a stream; n < 0 reads to its
// end. A reader of the whole stream returns io.EOF only after the stream's
// hash was right.
func (o *Opened) Read(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	s, ok := o.streams[name]
	if !ok {
		return nil, fmt.Errorf("%w: snapshot %s has no stream %q", ErrNoSnapshot, o.snap.ID(), name)
	}
	if n < 0 {
		n = s.Length - off
	}
	if off < 0 || n < 0 || off+n > s.Length {
		return nil, fmt.Errorf("stream %q has no bytes [%d, +%d)", name, off, n)
	}
	ctx, cancel := context.WithCancel(ctx)
	o.blocks.reserve(1)
	r := &streamReader{ctx: ctx, cancel: cancel, o: o, name: name, skip: off, left: n, blocks: map[uint32]int{}, next: o.extents.extents(ctx, s.first, s.Extents)}
	if off == 0 && n == s.Length {
		r.whole, r.want = blake3.New(), s.BLAKE3
	}
	return r, nil
}

// streamReader reads extents in order. It looks ahead, so that blocks are
// fetched and decoded before they are needed.
type streamReader struct {
	ctx    context.Context
	cancel context.CancelFunc
	o      *Opened
	name   string
	next   func() (Extent, error)
	skip   int64 // bytes before the wanted range
	left   int64
	ahead  []Extent
	asked  int            // of them, those whose blocks were asked for
	blocks map[uint32]int // how many of those each block has
	ended  bool
	cur    []byte  // unread part of the current extent
	held   *cached // the block it lies in
	whole  *blake3.Hasher
	want   string
	err    error
}

// lookahead bounds how many extents, and in them blocks, are known before they
// are read.
const (
	lookaheadExtents = 2048
	lookaheadBlocks  = 16
)

func (r *streamReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	for len(r.cur) == 0 && r.left > 0 {
		if r.err = r.advance(); r.err != nil {
			return 0, r.err
		}
	}
	if r.left == 0 {
		r.err = r.end()
		r.let()
		return 0, r.err
	}
	n := copy(p, r.cur[:min(int64(len(r.cur)), r.left)])
	r.cur, r.left = r.cur[n:], r.left-int64(n)
	if r.whole != nil {
		r.whole.Write(p[:n])
	}
	return n, nil
}

// end checks the hash of a stream that was read whole, and that nothing is left
// of its extents.
func (r *streamReader) end() error {
	if r.whole != nil {
		if more, err := r.more(); err != nil {
			return err
		} else if more {
			return fmt.Errorf("%w: stream %q has more bytes than its length", ErrIntegrity, r.name)
		}
		if got := hex.EncodeToString(r.whole.Sum(nil)); got != r.want {
			return fmt.Errorf("%w: stream %q has hash %s, recorded is %s", ErrIntegrity, r.name, got, r.want)
		}
	}
	return io.EOF
}

// more reports whether extents are left.
func (r *streamReader) more() (bool, error) {
	if len(r.cur) > 0 || len(r.ahead) > 0 || r.ended {
		return len(r.cur) > 0 || len(r.ahead) > 0, nil
	}
	_, err := r.next()
	if err == io.EOF {
		return false, nil
	}
	return err == nil, err
}

func (r *streamReader) Close() error {
	if r.err != errClosed {
		r.o.blocks.reserve(-1)
	}
	r.err = errClosed
	r.cur = nil
	r.let()
	if r.cancel != nil {
		r.cancel()
	}
	return nil
}

var errClosed = errors.New("read of a closed stream")

// let releases the block that is being read.
func (r *streamReader) let() {
	if r.held != nil {
		r.o.blocks.release(r.held)
		r.held = nil
	}
}

// advance makes the next extent current.
func (r *streamReader) advance() error {
	if err := r.fill(); err != nil {
		return err
	}
	if len(r.ahead) == 0 {
		return fmt.Errorf("%w: stream %q ends %d bytes too early", ErrIntegrity, r.name, r.left)
	}
	e := r.take()
	if r.held == nil || r.held.number != e.Block {
		r.let()
		var err error
		if r.held, err = r.o.blocks.acquire(r.ctx, e.Block); err != nil {
			return err
		}
	}
	b := r.held.data
	if int(e.Offset+e.Length) > len(b) {
		return fmt.Errorf("%w: extent [%d, +%d) of block %d, which has %d bytes", ErrIntegrity, e.Offset, e.Length, e.Block, len(b))
	}
	r.cur = b[e.Offset : e.Offset+e.Length]
	return nil
}

// fill looks ahead and starts fetching.
func (r *streamReader) fill() error {
	if len(r.ahead) > lookaheadExtents/2 || r.ended && len(r.ahead) > 0 {
		r.prefetch()
		return nil
	}
	r.ahead = append(make([]Extent, 0, lookaheadExtents), r.ahead...)
	total := int64(0)
	for _, e := range r.ahead {
		total += int64(e.Length)
	}
	for len(r.ahead) < lookaheadExtents && !r.ended && total < r.left {
		e, err := r.next()
		if err == io.EOF {
			r.ended = true
			break
		} else if err != nil {
			return err
		}
		if r.skip >= int64(e.Length) {
			r.skip -= int64(e.Length)
			continue
		}
		e.Offset, e.Length, r.skip = e.Offset+uint32(r.skip), e.Length-uint32(r.skip), 0
		r.ahead = append(r.ahead, e)
		total += int64(e.Length)
	}
	r.prefetch()
	return nil
}

// prefetch asks for the blocks of the next extents, lookaheadBlocks different
// ones. Where little has changed, extents alternate between a few blocks: it is
// the blocks that are counted.
func (r *streamReader) prefetch() {
	var want []uint32
	for ; r.asked < len(r.ahead); r.asked++ {
		n := r.ahead[r.asked].Block
		if r.blocks[n] == 0 {
			if len(r.blocks) == lookaheadBlocks {
				break
			}
			want = append(want, n)
		}
		r.blocks[n]++
	}
	if len(want) > 0 {
		r.o.blocks.prefetch(r.ctx, want)
	}
}

// take removes the next extent from those ahead.
func (r *streamReader) take() Extent {
	e := r.ahead[0]
	r.ahead = r.ahead[1:]
	if r.asked > 0 {
		r.asked--
		if r.blocks[e.Block]--; r.blocks[e.Block] == 0 {
			delete(r.blocks, e.Block)
		}
	}
	return e
}
