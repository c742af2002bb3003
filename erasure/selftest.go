package erasure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// golden is SHA-256 over shards k to 15 of a fixed message for every k from 1
// to 6. It froze the matrix; a processor path of the library that computes
// anything else must not touch data.
const golden = "a794639ed2afc5cf824f7af0ae1e2607507e58ffbfb930deada34a9ecdc7f704"

// SelfTest encodes and reconstructs a fixed message and compares with known
// answers. The program runs it at every start: assembly for one kind of
// processor has been wrong before (klauspost/reedsolomon issues 229, 240, 303,
// 325, 329), and costs under a millisecond to check.
func SelfTest() error {
	got, err := fingerprint()
	if err != nil {
		return fmt.Errorf("erasure self-test: %w", err)
	}
	if got != golden {
		return fmt.Errorf("erasure self-test: parity is %s, want %s: this processor or build computes wrong shards", got, golden)
	}
	return nil
}

func fingerprint() (string, error) {
	const size = 1 << 10
	sum := sha256.New()
	for k := 1; k <= 6; k++ {
		data := map[int][]byte{}
		for i := range k {
			b := make([]byte, size)
			for j := range b {
				b[j] = byte(i*131 + j*j*7 + j>>3 + k)
			}
			data[i] = b
		}
		rest := map[int][]byte{}
		for i := k; i < 16; i++ {
			b, err := Reconstruct(k, data, i)
			if err != nil {
				return "", err
			}
			sum.Write(b)
			if len(rest) < k {
				rest[i] = b
			}
		}
		for i := range k {
			b, err := Reconstruct(k, rest, i)
			if err != nil {
				return "", err
			}
			if string(b) != string(data[i]) {
				return "", fmt.Errorf("%d+%d: shard %d came back wrong", k, len(rest), i)
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
