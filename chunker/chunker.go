// Package chunker cuts a byte stream into content-defined chunks, or into
// pages; it does no I/O of its own.
//
// Cutting is a gear hash over the bytes (Xia et al., "FastCDC", USENIX ATC
// 2016): each step shifts the hash left by one and adds a table value, so bit
// 63-i depends on the last 64-i bytes and the high bits depend on the most.
// A boundary is where the top bits are zero: seventeen of them while the chunk
// is short, fifteen once it is long enough, which narrows the spread of
// lengths. Where the cuts fall is no part of the repository format: a reader
// never cuts.
package chunker

const (
	// MinSize, AverageSize and MaxSize bound a content-defined chunk in bytes;
	// only the last one of a stream may be shorter than MinSize.
	MinSize     = 16 << 10
	AverageSize = 64 << 10
	MaxSize     = 256 << 10

	// switchSize is where a boundary gets easier. At 48 KiB random data
	// averages 64 to 70 KiB.
	switchSize = 48 << 10
	// A boundary needs 17 zero bits before switchSize and 15 after it.
	strictBelow = 1 << (64 - 17)
	looseBelow  = 1 << (64 - 15)
)

// gear is fixed for ever by TestGoldenCuts. Its values are splitmix64 of a
// constant: they need to look random, not to be secret. Keyed tables do not
// hide chunk lengths (eprint 2025/532, 2025/558); packs do, by padding and
// whole segments.
var gear = func() (t [256]uint64) {
	x := uint64(0x5374726f6e67726f) // "Strongro"
	for i := range t {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		t[i] = z ^ z>>31
	}
	return t
}()

// scan rolls h over p[from:] and returns the first length at which h falls
// below limit, or 0. Eight bytes a turn need one bounds check; two bytes a
// step halve the chain of dependent additions, which is what limits the plain
// loop (1.5 GB/s as
// "h = h<<1 + gear[b]" on a 2.5 GHz Xeon, up to 2.6 GB/s in pairs).
func scan(h uint64, p []byte, from int, limit uint64) (uint64, int) {
	i := from
	for ; i+8 <= len(p); i += 8 {
		q := p[i : i+8 : i+8]
		g, g2 := gear[q[0]], gear[q[1]]
		if h<<1+g < limit {
			return h<<1 + g, i + 1
		}
		if h = h<<2 + (g<<1 + g2); h < limit {
			return h, i + 2
		}
		g, g2 = gear[q[2]], gear[q[3]]
		if h<<1+g < limit {
			return h<<1 + g, i + 3
		}
		if h = h<<2 + (g<<1 + g2); h < limit {
			return h, i + 4
		}
		g, g2 = gear[q[4]], gear[q[5]]
		if h<<1+g < limit {
			return h<<1 + g, i + 5
		}
		if h = h<<2 + (g<<1 + g2); h < limit {
			return h, i + 6
		}
		g, g2 = gear[q[6]], gear[q[7]]
		if h<<1+g < limit {
			return h<<1 + g, i + 7
		}
		if h = h<<2 + (g<<1 + g2); h < limit {
			return h, i + 8
		}
	}
	for ; i < len(p); i++ {
		if h = h<<1 + gear[p[i]]; h < limit {
			return h, i + 1
		}
	}
	return h, 0
}
