package repo

import (
	"context"
	"encoding/binary"

	"strongroom/chunker"
)

// A baseView is one stream's view of the bytes of the last snapshot: its map
// says in which blocks they are, the base cache has the blocks. It is not safe
// for concurrent use; what it is made of is.
type baseView struct {
	ctx    context.Context
	m      *snapMap
	blocks *blockReader

	held  *cached // the block that At or Before returned bytes of
	lost  map[uint32]bool
	piece *mapPiece // the last one used
	index int       // of piece
	ext   []placedExtent
}

var _ chunker.Base = (*baseView)(nil)

// placedExtent is an extent of a piece and where it begins on the tape.
type placedExtent struct {
	Extent
	tape int64
}

func newBaseView(ctx context.Context, m *snapMap, blocks *blockReader) *baseView {
	return &baseView{ctx: ctx, m: m, blocks: blocks, lost: map[uint32]bool{}, index: -1}
}

func (v *baseView) close() {
	if v.held != nil {
		v.blocks.release(v.held)
		v.held = nil
	}
}

// Len is the length of the tape.
func (v *baseView) Len() int64 { return v.m.length }

// at makes the piece that holds off current; it reports whether there is one.
func (v *baseView) at(off int64) bool {
	if v.piece != nil && off >= v.piece.tape && off < v.piece.tape+int64(v.piece.length) {
		return true
	}
	i := v.m.find(off)
	if i < 0 {
		return false
	}
	p, err := v.m.get(i)
	if err != nil {
		return false
	}
	v.piece, v.index, v.ext = p, i, v.ext[:0]
	tape := p.tape
	for b := p.extents; len(b) > 0; b = b[extentLen:] {
		e, err := parseExtent(b[:extentLen])
		if err != nil {
			v.piece = nil
			return false
		}
		v.ext = append(v.ext, placedExtent{e, tape})
		tape += int64(e.Length)
	}
	if tape != p.tape+int64(p.length) {
		v.piece = nil
		return false
	}
	return true
}

// extent returns the extent that holds off of the tape. at was called.
func (v *baseView) extent(off int64) placedExtent { return v.ext[v.extentIndex(off)] }

func (v *baseView) extentIndex(off int64) int {
	lo, hi := 0, len(v.ext)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; v.ext[mid].tape <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// block returns the bytes of a block, or nil if the cache does not have it.
func (v *baseView) block(n uint32) []byte {
	if v.held != nil && v.held.number == n {
		return v.held.data
	}
	if v.lost[n] {
		return nil
	}
	c, err := v.blocks.acquire(v.ctx, n)
	if err != nil {
		if v.ctx.Err() == nil {
			v.lost[n] = true // not asked for again and again
		}
		return nil
	}
	v.close()
	v.held = c
	return c.data
}

// At returns bytes from off on.
func (v *baseView) At(off int64) []byte {
	if !v.at(off) {
		return nil
	}
	e := v.extent(off)
	b := v.block(e.Block)
	if int(e.Offset+e.Length) > len(b) {
		return nil
	}
	return b[e.Offset+uint32(off-e.tape) : e.Offset+e.Length]
}

// Before returns bytes up to off.
func (v *baseView) Before(off int64) []byte {
	if !v.at(off - 1) {
		return nil
	}
	e := v.extent(off - 1)
	b := v.block(e.Block)
	if int(e.Offset+e.Length) > len(b) {
		return nil
	}
	return b[e.Offset : e.Offset+uint32(off-e.tape)]
}

// Anchors calls f with the anchors of the piece that holds off.
func (v *baseView) Anchors(off int64, f func(end int64, hash uint32)) (from, to int64) {
	i := v.m.find(off)
	if i < 0 {
		return off, off
	}
	p, err := v.m.get(i)
	if err != nil {
		return off, off
	}
	for b := p.anchors; len(b) > 0; b = b[pieceAnchor:] {
		f(p.tape+int64(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:]))
	}
	return p.tape, p.tape + int64(p.length)
}

// prefetch starts fetching the blocks that hold n bytes of the tape from off
// on, as far as they lie in one piece.
func (v *baseView) prefetch(off int64, n int) {
	if !v.at(off) {
		return
	}
	var want []uint32
	for i := v.extentIndex(off); i < len(v.ext) && v.ext[i].tape < off+int64(n) && len(want) < lookaheadBlocks; i++ {
		if b := v.ext[i].Block; !v.lost[b] && (len(want) == 0 || want[len(want)-1] != b) {
			want = append(want, b)
		}
	}
	v.blocks.prefetch(v.ctx, want)
}

// extents appends the extents of n bytes of the tape from off on, or returns
// false if the map does not have them.
func (v *baseView) extents(list []Extent, off int64, n int) ([]Extent, bool) {
	for n > 0 {
		if !v.at(off) {
			return list, false
		}
		for i := v.extentIndex(off); i < len(v.ext) && n > 0; i++ {
			e := v.ext[i]
			skip := uint32(off - e.tape)
			take := min(e.Length-skip, uint32(n))
			list = appendExtent(list, Extent{Block: e.Block, Offset: e.Offset + skip, Length: take})
			off, n = off+int64(take), n-int(take)
		}
	}
	return list, true
}
