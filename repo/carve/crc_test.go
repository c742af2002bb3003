package carve

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"strongroom/erasure"
)

// The checksums of the sliding window are those of the bytes, at each sector.
func TestTheWindowHasTheChecksumOfItsBytes(t *testing.T) {
	for _, size := range []int{0, 1, 65535, 65536 + 255, 65536 + 256, 65536 + 767, 65536 + 768, 2*window - 1000, 2*window + 1000} {
		b := make([]byte, size)
		rand.NewChaCha8([32]byte{1}).Read(b)
		clear(b[size/3 : size/2])
		v := &carver{Config: Config{Medium: bytes.NewReader(b), Size: int64(size)}, ctx: context.Background()}
		if back := unwind(remainder(b)^newMover(size).move(7), b); back != 7 {
			t.Errorf("%d bytes: unwound to %d", size, back)
		}
		next := int64(inside)
		err := v.slide(func(sum uint32, off int64) {
			if off != next {
				t.Fatalf("%d bytes: at %d, want %d", size, off, next)
			}
			next += align
			if off%7 == 4 && sum != erasure.Sum(b[off:off+erasure.Column]) {
				t.Fatalf("%d bytes: another checksum at %d", size, off)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if rest := int64(size) - erasure.Column - next; rest >= 0 {
			t.Errorf("%d bytes: it stopped %d bytes early", size, rest)
		}
	}
}

func BenchmarkSearch(b *testing.B) {
	medium := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{1}).Read(medium)
	b.SetBytes(int64(len(medium)))
	for b.Loop() {
		v := &carver{Config: Config{Medium: bytes.NewReader(medium), Size: int64(len(medium))}, ctx: context.Background()}
		if err := v.search(nil); err != nil {
			b.Fatal(err)
		}
	}
}
