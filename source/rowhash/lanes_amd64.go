package rowhash

import (
	"bytes"
	"crypto/sha256"
	"math/bits"

	"golang.org/x/sys/cpu"
)

// sideBySide says that 16 rows at once are faster than one after the other.
// They are even where crypto/sha256 has the SHA extensions: rows of 200 bytes
// at 1.9 GB/s against 0.77, and 0.2 to 0.45 without these, on one core of
// Xeons with AVX-512.
var sideBySide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

const (
	width = 16 // lanes, the 32-bit words in a register
	// maxLane is the longest row that goes into a lane: more would wait for
	// one row, and what is left of it is copied between two calls of take.
	maxLane = 256 << 10
	idle    = -1 << 30 // rem of a lane that has no row
)

// lanes hash up to 16 rows of any lengths at once. A lane that has ended its
// row takes the next one, so all are busy until the last rows. Its layout is
// known to lanes_amd64.s.
type lanes struct {
	h    [8][width]uint32 // hash states, a word of all lanes side by side
	row  [width][]byte
	off  [width]uint32 // in row, of the lane's next block
	rem  [width]int32  // bytes from there to the row's end; below 0 past it
	bits [width]uint32 // length of the whole row
	busy uint16        // lanes that have a row
	// fresh are the lanes whose row is still to be begun.
	fresh uint16

	kept [width][]byte // memory for rows that outlast a call of take
}

// step hashes one block after the other in all lanes until a row ends in one
// of busy or there were 1,024 blocks, and returns those whose rows ended. It
// cannot be preempted, hence the limit.
//
//go:noescape
func step(l *lanes, t *tables, busy, fresh uint16) (ended uint16)

// tables are what step looks things up in.
type tables struct {
	start     [8]uint32  // FIPS 180-4, 5.3.3
	constants [64]uint32 // 4.2.2
	// masks are, by the bytes that a row has left plus one, those of a block
	// that belong to it and where 0x80 goes. Past the row's end there is
	// neither.
	masks [66][2]uint64
}

var lookup = func() *tables {
	t := &tables{start: [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, constants: [64]uint32{
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
	}}
	for rem := range 64 {
		t.masks[rem+1] = [2]uint64{1<<rem - 1, 1 << rem}
	}
	t.masks[65][0] = 1<<64 - 1
	return t
}()

// take hashes the rows that end in p, or keeps copies of what is left of
// them, and returns the rest of p.
func (l *lanes) take(s *Sum, p []byte) []byte {
	for {
		n := bytes.IndexByte(p, '\n')
		if n < 0 {
			break
		}
		if n > maxLane {
			d := sha256.Sum256(p[:n])
			s.Add(d[:])
			p = p[n+1:]
			continue
		}
		for l.busy == 1<<width-1 {
			l.run(s)
		}
		i := bits.TrailingZeros16(^l.busy)
		l.row[i] = p[:n]
		l.off[i], l.rem[i], l.bits[i] = 0, int32(n), uint32(n)*8
		l.busy |= 1 << i
		l.fresh |= 1 << i
		p = p[n+1:]
	}
	for b := l.busy; b != 0; b &= b - 1 {
		i := bits.TrailingZeros16(b)
		l.kept[i] = append(l.kept[i][:0], l.row[i][min(int(l.off[i]), len(l.row[i])):]...)
		l.row[i], l.off[i] = l.kept[i], 0
	}
	return p
}

func (l *lanes) run(s *Sum) {
	ended := step(l, lookup, l.busy, l.fresh)
	l.fresh = 0
	for e := ended; e != 0; e &= e - 1 {
		i := bits.TrailingZeros16(e)
		s.add(uint64(l.h[0][i])<<32|uint64(l.h[1][i]), uint64(l.h[2][i])<<32|uint64(l.h[3][i]))
	}
	l.busy &^= ended
}

// settle ends all rows.
func (l *lanes) settle(s *Sum) {
	for l.busy != 0 {
		for i := range width {
			if l.busy>>i&1 == 0 {
				l.row[i], l.off[i], l.rem[i] = l.kept[i][:0], 0, idle
			}
		}
		l.run(s)
	}
}
