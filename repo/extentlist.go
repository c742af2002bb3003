package repo

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// The extent list is written in groups of records as planes: all first bytes,
// all second bytes, and so on. With blocks by how recently they were used and
// offsets by what is expected, it compresses to less than half of what plain
// records do. FORMAT.md, section 7, has the coding.

const (
	// listRecord is the length of a record in the list: rank 1, block 4, offset
	// 3, length 3.
	listRecord = 11
	// groupExtents is how many records of a stream are coded together; only its
	// last group has fewer.
	groupExtents = 16384
	// newBlock is the rank of a block that is not among the recent ones.
	newBlock = 255
)

// recentBlocks are the blocks of a group, last used first, at most newBlock of
// them, and where the last extent in each of them ended.
type recentBlocks []struct{ block, end uint32 }

// use moves a block to the front. rank is its place before, or newBlock.
func (r *recentBlocks) use(rank int, block, end uint32) {
	if rank == newBlock {
		*r = slices.Insert((*r)[:min(len(*r), newBlock-1)], 0, struct{ block, end uint32 }{block, end})
		return
	}
	copy((*r)[1:rank+1], (*r)[:rank])
	(*r)[0] = struct{ block, end uint32 }{block, end}
}

func (r recentBlocks) rank(block uint32) int {
	for i, b := range r {
		if b.block == block {
			return i
		}
	}
	return newBlock
}

// encodeGroup appends up to groupExtents extents of a stream.
func encodeGroup(out []byte, group []Extent) []byte {
	n := len(group)
	at := len(out)
	out = append(out, make([]byte, n*listRecord)...)
	p := out[at:]
	var recent recentBlocks
	for i, e := range group {
		rank, block, expected := recent.rank(e.Block), e.Block, uint32(0)
		if rank != newBlock {
			block, expected = 0, recent[rank].end
		}
		recent.use(rank, e.Block, e.Offset+e.Length)
		delta := e.Offset - expected
		for j, b := range [listRecord]byte{byte(rank), byte(block >> 24), byte(block >> 16), byte(block >> 8), byte(block),
			byte(delta >> 16), byte(delta >> 8), byte(delta), byte(e.Length >> 16), byte(e.Length >> 8), byte(e.Length)} {
			p[j*n+i] = b
		}
	}
	return out
}

// decodeGroup appends the extents of a group, and refuses every other coding of
// them.
func decodeGroup(out []Extent, p []byte) ([]Extent, error) {
	n := len(p) / listRecord
	if n == 0 || n > groupExtents || len(p)%listRecord != 0 {
		return out, fmt.Errorf("%w: extent list: group of %d bytes", ErrIntegrity, len(p))
	}
	var recent recentBlocks
	for i := range n {
		at := func(j int) uint32 { return uint32(p[j*n+i]) }
		rank, block := int(at(0)), at(1)<<24|at(2)<<16|at(3)<<8|at(4)
		expected := uint32(0)
		switch {
		case rank == newBlock && recent.rank(block) == newBlock:
		case rank < len(recent) && block == 0:
			block, expected = recent[rank].block, recent[rank].end
		default:
			return out, fmt.Errorf("%w: extent list: record %d of a group has rank %d and block %d", ErrIntegrity, i, rank, block)
		}
		e := Extent{Block: block, Offset: (expected + (at(5)<<16 | at(6)<<8 | at(7))) & (1<<24 - 1), Length: at(8)<<16 | at(9)<<8 | at(10)}
		if err := e.check(); err != nil {
			return out, err
		}
		recent.use(rank, e.Block, e.Offset+e.Length)
		out = append(out, e)
	}
	return out, nil
}

// A listEncoder reads the plain records of streams, one after the other, and
// is a reader of the coded list.
type listEncoder struct {
	streams []io.Reader // of plain records
	check   func(Extent) error

	in    *bufio.Reader // the current stream
	group []Extent
	buf   []byte
	left  []byte // of buf, not yet handed out
}

func (l *listEncoder) Read(p []byte) (int, error) {
	for len(l.left) == 0 {
		if err := l.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.left)
	l.left = l.left[n:]
	return n, nil
}

// fill codes the next group.
func (l *listEncoder) fill() error {
	if l.in == nil {
		if len(l.streams) == 0 {
			return io.EOF
		}
		l.in, l.streams = bufio.NewReaderSize(l.streams[0], 64<<10), l.streams[1:]
	}
	l.group = l.group[:0]
	for len(l.group) < groupExtents {
		var rec [extentLen]byte
		if _, err := io.ReadFull(l.in, rec[:]); err == io.EOF {
			l.in = nil
			break
		} else if err != nil {
			return fmt.Errorf("spilled extents: %w", err)
		}
		e, err := parseExtent(rec[:])
		if err == nil {
			err = l.check(e)
		}
		if err != nil {
			return fmt.Errorf("internal error: %w", err)
		}
		l.group = append(l.group, e)
	}
	l.buf = encodeGroup(l.buf[:0], l.group)
	l.left = l.buf
	return nil
}

// parseExtent and Extent.append have the plain record of the box's own files:
// block 4, offset 3, length 3, big-endian.
const extentLen = 10

func (e Extent) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.Block)
	return append(b, byte(e.Offset>>16), byte(e.Offset>>8), byte(e.Offset), byte(e.Length>>16), byte(e.Length>>8), byte(e.Length))
}

func parseExtent(b []byte) (Extent, error) {
	e := Extent{
		Block:  binary.BigEndian.Uint32(b),
		Offset: uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6]),
		Length: uint32(b[7])<<16 | uint32(b[8])<<8 | uint32(b[9]),
	}
	return e, e.check()
}
