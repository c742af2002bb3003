package carve

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// remainder is the CRC of b without what is added before and behind: then it is
// linear, and that of two parts is that of the first, moved on by the length of
// the second, plus that of the second.
func remainder(b []byte) uint32 { return ^crc32.Update(^uint32(0), castagnoli, b) }

// A mover moves remainders on by a fixed number of bytes: a table for each of
// their four bytes.
type mover [4][256]uint32

// newMover returns the mover by n bytes.
func newMover(n int) *mover {
	// Moving is linear: what it does to each bit is enough.
	var bits [32]uint32
	zeros := make([]byte, n)
	for i := range bits {
		bits[i] = ^crc32.Update(^(uint32(1) << i), castagnoli, zeros)
	}
	m := &mover{}
	for i := range m {
		for v := range m[i] {
			for bit := range 8 {
				if v>>bit&1 == 1 {
					m[i][v] ^= bits[8*i+bit]
				}
			}
		}
	}
	return m
}

func (m *mover) move(c uint32) uint32 {
	return m[0][byte(c)] ^ m[1][byte(c>>8)] ^ m[2][byte(c>>16)] ^ m[3][c>>24]
}
