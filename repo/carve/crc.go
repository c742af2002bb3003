package carve

import (
	"hash/crc32"
	"sync"
)

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

// unwound leads from the upper byte of a state to the entry of the table that
// made it: no two have the same.
var unwound = sync.OnceValue(func() *[256]byte {
	var t [256]byte
	for i, v := range castagnoli {
		t[v>>24] = byte(i)
	}
	return &t
})

// unwind returns the state from which the bytes lead to the given one.
func unwind(state uint32, b []byte) uint32 {
	t := unwound()
	for i := len(b) - 1; i >= 0; i-- {
		n := t[state>>24]
		state = (state^castagnoli[n])<<8 | uint32(n^b[i])
	}
	return state
}

// A sieve keeps most checksums that nobody wants from being looked up: a bit for
// the upper 22 of each that is wanted, 512 KiB in all.
type sieve [1 << 16]uint64

func (s *sieve) add(sum uint32)      { s[sum>>16] |= 1 << (sum >> 10 & 63) }
func (s *sieve) has(sum uint32) bool { return s[sum>>16]>>(sum>>10&63)&1 == 1 }
