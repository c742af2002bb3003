package repo

import (
	"sync"

	"strongroom/repo/pack"
)

const (
	// One sample of sampleSize is taken of every sampleEvery bytes of a stream:
	// less than a hundredth of the work of compressing all of it.
	sampleSize  = 64 << 10
	sampleEvery = 8 << 20
	// sampleLeast is the smallest sample that says anything.
	sampleLeast = 4 << 10
)

// A sampler finds how well streams compress, whether or not their bytes are
// new: what became ciphertext does not any more, and a dump of ciphertext in
// hex or base64 still compresses far worse than what it replaced. One serves
// all streams of a run, which is slow enough for a lock.
type sampler struct {
	mu sync.Mutex
	c  *pack.Compressor // nil until the first sample; guarded by mu
}

func (s *sampler) packed(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		var err error
		if s.c, err = pack.NewCompressor(pack.Fastest); err != nil {
			return 0, err
		}
	}
	stored, _, err := s.c.Compress(b)
	return len(stored), err
}

// A sample is of one stream, and its locate goroutine's own.
type sample struct {
	read, packed int64
	next         int64 // where in the stream the next piece is due
}

// add looks at a segment that begins at an offset of its stream.
func (t *sample) add(s *sampler, segment []byte, at int64) error {
	if at < t.next {
		return nil
	}
	piece := segment[:min(len(segment), sampleSize)]
	if len(piece) == 0 {
		return nil
	}
	n, err := s.packed(piece)
	t.read, t.packed, t.next = t.read+int64(len(piece)), t.packed+int64(n), at+sampleEvery
	return err
}

// thousandths is what Stream.Packed records.
func (t *sample) thousandths() int {
	if t.read < sampleLeast {
		return 0
	}
	return int(max(1, t.packed*1000/t.read))
}
