package repo

import "container/list"

const (
	// simBlocks is how many blocks the simulated reader keeps: fewer than a real
	// one, which also holds what it has fetched ahead.
	simBlocks = cacheBlocks - lookaheadBlocks - 4
	// decodeWorth is how many bytes a match must save for each block that the
	// reader has to decode for it: one costs about a millisecond and a read.
	decodeWorth = 1 << 10
	// farWorth is the same for what lies elsewhere than the stream has got to: the
	// block is not likely to be of further use there, and if the stream comes to
	// it later it is decoded again.
	farWorth = 16 << 10
	// extentWorth is how many bytes an extent must save on average: a record of
	// ten bytes, twice where it parts another, of which half is left compressed.
	extentWorth = 24
	// decodeSlack blocks may be decoded again before the ratio counts.
	decodeSlack = 4
)

// A cacheSim runs a reader's cache of blocks while a stream is written, so that
// what a restore costs is bounded when the snapshot is taken: decodes stay
// below 1.25 times the distinct blocks.
type cacheSim struct {
	lru     *list.List
	in      map[uint32]*list.Element
	seen    map[uint32]bool
	decodes int
	far     int      // decodes for what lies elsewhere
	misses  []uint32 // for accept
}

func newCacheSim() *cacheSim {
	return &cacheSim{lru: list.New(), in: map[uint32]*list.Element{}, seen: map[uint32]bool{}}
}

// touch notes that the reader needs a block now.
func (c *cacheSim) touch(n uint32) {
	if el := c.in[n]; el != nil {
		c.lru.MoveToFront(el)
		return
	}
	c.decodes++
	c.seen[n] = true
	if c.lru.Len() < simBlocks {
		c.in[n] = c.lru.PushFront(n)
		return
	}
	el := c.lru.Back()
	delete(c.in, el.Value.(uint32))
	el.Value = n
	c.lru.MoveToFront(el)
	c.in[n] = el
}

// accept reports whether n bytes are better read from these extents than
// stored anew. near says that they lie where the stream has got to; what lies
// elsewhere has half of what may be decoded twice, or the rest of the stream
// would have to be stored anew when it is used up.
func (c *cacheSim) accept(extents []Extent, n int, near bool) bool {
	c.misses = c.misses[:0]
	again := 0
	last := uint32(1<<32 - 1)
	for _, e := range extents {
		if e.Block == last || c.in[e.Block] != nil {
			last = e.Block
			continue
		}
		last = e.Block
		known := false
		for _, m := range c.misses {
			known = known || m == e.Block
		}
		if known {
			continue
		}
		c.misses = append(c.misses, e.Block)
		if c.seen[e.Block] {
			again++
		}
	}
	if len(c.misses) == 0 && len(extents) <= 2 {
		return true
	}
	worth := decodeWorth
	if !near {
		worth = farWorth
	}
	if n < len(c.misses)*worth || len(extents) > 2 && n < len(extents)*extentWorth {
		return false
	}
	distinct := len(c.seen) + len(c.misses) - again
	if again > 0 && c.decodes+len(c.misses) > distinct+distinct/4+decodeSlack {
		return false
	}
	if !near {
		if c.far+len(c.misses) > distinct/8+decodeSlack {
			return false
		}
		c.far += len(c.misses)
	}
	return true
}
