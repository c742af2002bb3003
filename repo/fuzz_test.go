package repo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/zeebo/blake3"

	"strongroom/erasure"
	"strongroom/repo/spread"
)

func hashOf(b []byte) string {
	h := blake3.Sum256(b)
	return hex.EncodeToString(h[:])
}

// format is the inverse of parseManifest: what a writer would have signed.
func (s *signed) format(signature []byte) []byte {
	clear := s.appendClear(nil)
	b := binary.BigEndian.AppendUint32([]byte(manifestMagic), uint32(len(clear)))
	b = append(append(b, clear...), signature...)
	return append(append(b, s.part1...), s.part2...)
}

// goldenManifest is small and has everything a manifest can have.
func goldenManifest(packs int) *Manifest {
	m := &Manifest{Tenant: ID{1}, Dataset: ID{2}, Generation: ID{3}, Epoch: 4, Sequence: 5, Box: newTestSigner(1).Public(), Incarnation: 6,
		Capsule: []byte("capsule"), part1: part{3, sha256.Sum256([]byte("one"))}, part2: part{3, sha256.Sum256([]byte("two"))}}
	c := cursor{b: []byte{0, 0, 0, 0, 105, 0, 0, 0}}
	m.Time = c.time()
	for i := range packs {
		p := PackRecord{Number: uint32(i * 3), Pack: spread.Pack{ID: ID{7}, Encode: ID{8}, MessageLen: 64, Geometry: erasure.Geometry{K: 2, N: 3},
			Shards: make([][32]byte, 3)}}
		m.Packs = append(m.Packs, p)
	}
	return m
}

// FuzzParseManifest: what is accepted has one encoding. The signature is not
// checked here, so that the fuzzer reaches what stands behind it.
func FuzzParseManifest(f *testing.F) {
	for packs := range 3 {
		s := &signed{Manifest: goldenManifest(packs), part1: []byte("one"), part2: []byte("two")}
		f.Add(s.format(make([]byte, 64)))
	}
	anyone := func([32]byte, uint32, []byte, []byte) error { return nil }
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseManifest(b, anyone)
		if err != nil {
			return
		}
		n := 12 + int(binary.BigEndian.Uint32(b[8:]))
		if got := s.format(b[n : n+64]); !bytes.Equal(got, b) {
			t.Errorf("%x\nreads as\n%x", b, got)
		}
	})
}

// FuzzParseExtent: an extent that is accepted has one encoding and lies in a
// block, in the list and in JSON alike.
func FuzzParseExtent(f *testing.F) {
	f.Add(Extent{Block: 1, Offset: 2, Length: 3}.append(nil), "[1,2,3]")
	f.Add(Extent{Block: 1<<32 - 1, Offset: 1<<20 - 1, Length: 1}.append(nil), "[4294967295,1048575,1]")
	f.Add(make([]byte, extentLen), "[0,4294967295,2]")
	inside := func(e Extent) bool { return e.Length >= 1 && uint64(e.Offset)+uint64(e.Length) <= 1<<20 }
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		if len(b) >= extentLen {
			if e, err := parseExtent(b[:extentLen]); err == nil && (!bytes.Equal(e.append(nil), b[:extentLen]) || !inside(e)) {
				t.Errorf("%x reads as %+v", b[:extentLen], e)
			}
		}
		var e Extent
		if err := json.Unmarshal([]byte(text), &e); err == nil && text != "null" && !inside(e) {
			t.Errorf("%s reads as %+v", text, e)
		}
	})
}
