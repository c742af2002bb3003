package repo

import (
	"context"
	"encoding/binary"
)

// A locator finds the chunks of one stream in the maps: the chunk after the
// last hit is tried first, then the sorted ids. It also has the blocks fetched
// that the bytes of unknown chunks will be compared with.
type locator struct {
	maps  []*mapCursor
	base  *snapMap
	place int64 // on the base's tape, where the next chunk is expected
}

// mapCursor is a place in a map: a chunk that is expected next.
type mapCursor struct {
	view  *baseView
	index int // of the piece
	chunk int
}

func newLocator(ctx context.Context, s *Saver, name string) *locator {
	l := &locator{base: s.baseMap}
	for _, m := range s.known {
		c := &mapCursor{view: newBaseView(ctx, m, s.baseBlocks), index: -1}
		if start, ok := m.starts[name]; ok {
			c.index = m.find(start)
		}
		l.maps = append(l.maps, c)
	}
	if l.base != nil {
		l.place = l.base.starts[name]
	}
	return l
}

func (l *locator) close() {
	for _, c := range l.maps {
		c.view.close()
	}
}

// locate fills u.where. With ahead, what unknown chunks will be compared with
// is fetched.
func (l *locator) locate(u *unit, ahead bool) {
	u.where = u.where[:0]
	start := 0
	for i, end := range u.seg.Ends {
		n := end - start
		w := l.find(u.ids[i], n)
		if w.m == nil && l.base != nil && ahead {
			l.maps[0].view.prefetch(l.place, n)
		}
		if w.m == l.base && w.m != nil {
			l.place = w.from
		}
		l.place += int64(n)
		u.where, start = append(u.where, w), end
	}
}

func (l *locator) find(id chunkID, n int) located {
	for _, c := range l.maps {
		if from, ok := c.find(id, n); ok {
			return located{c.view.m, from}
		}
	}
	return located{}
}

func (c *mapCursor) find(id chunkID, n int) (from int64, ok bool) {
	if from, ok = c.try(c.index, c.chunk, id, n); ok {
		return from, true
	}
	c.view.m.sorted.each(binary.BigEndian.Uint64(id[:]), func(place uint64) bool {
		if number := int(place >> 32); number < len(c.view.m.places) {
			from, ok = c.try(int(c.view.m.places[number]), int(uint32(place)), id, n)
		}
		return ok
	})
	return from, ok
}

// try compares one chunk of the map. On success the one behind it is expected
// next.
func (c *mapCursor) try(index, chunk int, id chunkID, n int) (int64, bool) {
	if index < 0 || index >= len(c.view.m.pieces) {
		return 0, false
	}
	p, err := c.view.m.get(index)
	if err != nil || chunk >= p.chunkCount() {
		return 0, false
	}
	got, from, length := p.chunk(chunk)
	if got != id || length != n {
		return 0, false
	}
	c.index, c.chunk = index, chunk+1
	if c.chunk == p.chunkCount() {
		c.index, c.chunk = index+1, 0
	}
	return from, true
}
