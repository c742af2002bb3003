// Package erasure turns the segments of one message into self-describing
// Reed-Solomon shards and back, and plans how many a set of stores gets; it
// does no I/O.
//
// A message of s segments of 64 KiB is cut into k slices of ⌈s/k⌉ whole
// segments; slice i is the payload of shard i, so the code is systematic and
// an undamaged read never decodes. Shards k and up are parity over columns:
// byte j of every payload is one codeword, so a range is decoded from the same
// range of any k shards. The code is klauspost/reedsolomon's default: GF(2^8)
// with polynomial 0x11d and a systematic Vandermonde matrix, whose row for a
// shard depends on k and the shard's index alone. That is why no shard names
// n, and why shards for further stores can be added later.
package erasure

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

const (
	// Column is the unit of slicing and of checksums in bytes.
	Column = 64 << 10
	// MaxK and MaxN bound a geometry.
	MaxK = 32
	MaxN = 255
	// FirstApart is where the rows of offline sets begin: those before it are
	// for stores, of which there are as many as there are, from 0 on.
	FirstApart = 48
)

// ErrTooFew means that fewer than k shards were given.
var ErrTooFew = errors.New("too few shards")

// A Geometry says that any K of N shards restore a pack.
type Geometry struct{ K, N int }

func (g Geometry) String() string { return fmt.Sprintf("%d+%d", g.K, g.N-g.K) }

// Valid reports whether g is within the format's bounds.
func (g Geometry) Valid() bool { return g.K >= 1 && g.K <= MaxK && g.N >= g.K && g.N <= MaxN }

// Plan returns the geometry for a number of stores, one shard each: 1 keeps a
// copy, 2 mirror, then the loss of one of 3, two of 4, 5 or 6 stores is
// survived. More than four data shards would need too many sites up to
// restore, so further stores add parity.
func Plan(stores int) (Geometry, error) {
	switch {
	case stores < 1 || stores > MaxN:
		return Geometry{}, fmt.Errorf("erasure: no profile for %d stores", stores)
	case stores == 1:
		return Geometry{1, 1}, nil
	case stores == 2:
		return Geometry{1, 2}, nil
	case stores == 3:
		return Geometry{2, 3}, nil
	case stores == 4:
		return Geometry{2, 4}, nil
	case stores == 5:
		return Geometry{3, 5}, nil
	default:
		return Geometry{4, stores}, nil
	}
}

// Apart returns the first of the k rows of an offline set. Sets of different
// slots have different rows as long as there are enough for that: 207 sets of
// copies, six with k = 32.
func Apart(k, slot int) (first int, err error) {
	if k < 1 || k > MaxK || slot < 0 {
		return 0, fmt.Errorf("erasure: no rows for slot %d with k = %d", slot, k)
	}
	sets := (MaxN - FirstApart) / k
	return FirstApart + slot%sets*k, nil
}

// CommitShards is how many distinct shards must be durable in distinct fault
// domains before a manifest may list a pack.
func (g Geometry) CommitShards() int { return min(g.K+1, g.N) }

// Columns is the number of segments in each shard of a message of n segments.
func (g Geometry) Columns(segments int) int { return (segments + g.K - 1) / g.K }

// coders caches one coder per (k, total): each holds a matrix and the
// inversions it met, and is safe for concurrent use.
var coders sync.Map // [2]int → reedsolomon.Encoder

func coder(k, total int) (reedsolomon.Encoder, error) {
	key := [2]int{k, total}
	if c, ok := coders.Load(key); ok {
		return c.(reedsolomon.Encoder), nil
	}
	// One goroutine a call: the callers work on several packs at once.
	c, err := reedsolomon.New(k, total-k, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("erasure: %d+%d: %w", k, total-k, err)
	}
	coders.Store(key, c)
	return c, nil
}

// Reconstruct returns the bytes of shard want in some column range from the
// bytes of at least k other shards in the same range. have maps shard index to
// bytes, all of one length. It cannot tell which shard is wrong: the caller
// checks what goes in and what comes out.
func Reconstruct(k int, have map[int][]byte, want int) ([]byte, error) {
	return reconstruct(k, have, want, nil)
}

// reconstruct uses room, of length 0, if it is large enough.
func reconstruct(k int, have map[int][]byte, want int, room []byte) ([]byte, error) {
	if b, ok := have[want]; ok {
		return b, nil
	}
	if len(have) < k {
		return nil, fmt.Errorf("erasure: %w: need %d, have %d", ErrTooFew, k, len(have))
	}
	if want < 0 || want >= MaxN {
		return nil, fmt.Errorf("erasure: no shard %d", want)
	}
	size, top := -1, max(want, k-1)
	for i, b := range have {
		if i < 0 || i >= MaxN || len(b) == 0 || size >= 0 && len(b) != size {
			return nil, fmt.Errorf("erasure: shard %d has %d bytes beside %d", i, len(b), size)
		}
		size, top = len(b), max(top, i)
	}
	if k == 1 {
		for _, b := range have {
			return append(room, b...), nil
		}
	}
	c, err := coder(k, max(top+1, k+1))
	if err != nil {
		return nil, err
	}
	shards := make([][]byte, max(top+1, k+1))
	need := make([]bool, len(shards))
	need[want] = true
	for i, b := range have {
		shards[i] = b
	}
	shards[want] = room
	if err := c.ReconstructSome(shards, need); err != nil {
		return nil, fmt.Errorf("erasure: reconstruct shard %d of %d: %w", want, k, err)
	}
	return shards[want], nil
}
