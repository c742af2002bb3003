package chunker

import (
	"fmt"
	"io"
)

// SegmentSize is how many bytes of a stream a Segment holds at most.
const SegmentSize = 1 << 20

const (
	// An anchor needs 7 zero bits: one in about 128 bytes.
	anchorBelow = 1 << (64 - 7)
	// anchorGap bytes lie between two anchors at least, so that a run of one
	// byte, or of a short period, does not make an anchor of every byte.
	anchorGap = 32
)

// An Anchor is a place that the 64 bytes before it choose and name: equal
// bytes have equal anchors, wherever they lie. That two anchors are equal is a
// hint, no more.
type Anchor struct {
	End  uint32 // how many bytes of the segment lie before the place
	Hash uint32
}

// A Segment is a run of whole chunks of a stream and the anchors in it.
type Segment struct {
	Data    []byte   // at most SegmentSize bytes
	Ends    []int    // of the chunks in Data, ascending; the last is len(Data)
	Anchors []Anchor // ascending
}

// NewSegment returns an empty Segment that can be filled again and again.
func NewSegment() *Segment {
	return &Segment{Data: make([]byte, 0, SegmentSize), Ends: make([]int, 0, 64), Anchors: make([]Anchor, 0, SegmentSize/100)}
}

// A Cutter reads a stream as segments of chunks.
type Cutter struct {
	r    io.Reader
	page int    // cut at this size; 0: by content
	rest []byte // read, and not yet handed out
	hash uint64 // over the bytes handed out
	err  error  // what r returned last; io.EOF at a clean end
}

// minPage groups tiny pages: below 4 KiB the lookups cost more than they find.
const minPage = 4 << 10

// New returns a Cutter of r. With pageSize 0 it cuts by content; else at
// multiples of pageSize, a power of two from 512 to 64 KiB, of at least 4 KiB.
func New(r io.Reader, pageSize int) (*Cutter, error) {
	c := &Cutter{r: r}
	if pageSize != 0 {
		if pageSize < 512 || pageSize > 64<<10 || pageSize&(pageSize-1) != 0 {
			return nil, fmt.Errorf("chunker: page size %d is not a power of two from 512 to 65536", pageSize)
		}
		c.page = max(pageSize, minPage)
	}
	return c, nil
}

// Next fills s with the next chunks, or returns io.EOF. Any other error of the
// reader is returned before the bytes that preceded it: a stream that broke
// has no good last chunk.
func (c *Cutter) Next(s *Segment) error {
	s.Data, s.Ends, s.Anchors = append(s.Data[:0], c.rest...), s.Ends[:0], s.Anchors[:0]
	c.rest = c.rest[:0]
	s.Data = c.fill(s.Data)
	if c.err != nil && c.err != io.EOF { // one that wraps io.EOF is no end either
		return c.err
	}
	if len(s.Data) == 0 {
		return io.EOF
	}
	c.cut(s)
	end := s.Ends[len(s.Ends)-1]
	c.rest = append(c.rest, s.Data[end:]...)
	s.Data = s.Data[:end]
	return nil
}

// fill reads until b is full or the reader ends.
func (c *Cutter) fill(b []byte) []byte {
	for empty := 0; len(b) < SegmentSize && c.err == nil; {
		var n int
		n, c.err = c.r.Read(b[len(b):SegmentSize])
		b = b[:len(b)+n]
		if n > 0 {
			empty = 0
		} else if empty++; empty == 100 && c.err == nil {
			c.err = io.ErrNoProgress
		}
	}
	return b
}

// cut finds chunks and anchors. A chunk whose end depends on bytes that were
// not read yet is left for the next segment.
func (c *Cutter) cut(s *Segment) {
	for start := 0; start < len(s.Data); {
		n := c.page
		if n == 0 {
			n = MaxSize
		}
		left := len(s.Data) - start
		if left < n && c.err == nil {
			return
		}
		n = min(n, left)
		mark, h := len(s.Anchors), c.hash
		if c.page == 0 {
			n = c.roll(s, start, n, true)
		} else {
			c.roll(s, start, n, false)
		}
		if n == 0 { // never: a chunk has a byte
			s.Anchors, c.hash = s.Anchors[:mark], h
			return
		}
		start += n
		s.Ends = append(s.Ends, start)
	}
}

// roll moves the hash over a chunk of at most n bytes from start on, notes the
// anchors and returns the length of the chunk: where the content says, if it
// may cut, else n. The hash runs on through the whole stream: whether a place
// is a boundary depends on the 64 bytes before it alone.
func (c *Cutter) roll(s *Segment, start, n int, content bool) int {
	p := s.Data[start : start+n]
	h, free := c.hash, 0 // an anchor may end from free on
	if k := len(s.Anchors); k > 0 {
		free = int(s.Anchors[k-1].End) + anchorGap - start
	}
	for i := 0; i < len(p); {
		next := 0
		if h, next = scan(h, p, i, anchorBelow); next == 0 {
			break
		}
		if i = next; i >= free {
			s.Anchors = append(s.Anchors, Anchor{End: uint32(start + i), Hash: mix(h)})
			free = i + anchorGap
		}
		if content && boundary(h, i) {
			n = i
			break
		}
	}
	c.hash = h
	return n
}

// boundary reports whether a chunk of n bytes that end with hash h ends there.
func boundary(h uint64, n int) bool {
	return n > MinSize && (h < strictBelow || n > switchSize && h < looseBelow)
}

// mix makes 32 even bits of a gear hash, whose low bits depend on few bytes.
func mix(h uint64) uint32 { return uint32(h * 0x9e3779b97f4a7c15 >> 32) }
