package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// openAll opens a message of any parameters the way FLOE's own tests do.
func openAll(p params, key, aad, msg []byte) ([]byte, error) {
	o, err := newOpener(p, key, aad, msg[:HeaderLen])
	if err != nil {
		return nil, err
	}
	var out []byte
	body := msg[HeaderLen:]
	for n := uint64(0); ; n++ {
		last := len(body) <= p.segmentLen
		piece := body[:min(len(body), p.segmentLen)]
		if out, err = o.Segment(out, piece, n, last); err != nil || last {
			return out, err
		}
		body = body[len(piece):]
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpensPublishedVectors(t *testing.T) {
	for _, v := range published {
		got, err := openAll(v.p, make([]byte, KeyLen), []byte("This is AAD"), unhex(t, v.sealed))
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
		} else if !bytes.Equal(got, unhex(t, v.plaintext)) {
			t.Errorf("%s: wrong plaintext", v.name)
		}
	}
}

// The published vectors of 4 KiB segments lie in testdata, from two of the
// implementations; those of 1 MiB are too large for it.
func TestOpensPublishedVectorsOfFullSegments(t *testing.T) {
	for _, lang := range []string{"go", "rust"} {
		opensFiles(t, filepath.Join("testdata", lang+"_GCM256_IV256_4K"), params{4 << 10, 20})
	}
}

// With FLOE_KATS set to the directory of all of them, these are checked too.
func TestOpensPublishedLargeVectors(t *testing.T) {
	dir := os.Getenv("FLOE_KATS")
	if dir == "" {
		t.Skip("FLOE_KATS is not set to the kats directory of Snowflake-Labs/floe-specification: segments of 1 MiB were not checked, smaller ones were")
	}
	for name, p := range map[string]params{"GCM256_IV256_4K": {4 << 10, 20}, "GCM256_IV256_1M": {1 << 20, 20}} {
		for _, lang := range []string{"cpp", "go", "java", "rust"} {
			opensFiles(t, filepath.Join(dir, lang+"_"+name), p)
		}
	}
}

func opensFiles(t *testing.T, base string, p params) {
	t.Helper()
	ct, err1 := os.ReadFile(base + "_ct.txt")
	pt, err2 := os.ReadFile(base + "_pt.txt")
	if err := errors.Join(err1, err2); err != nil {
		t.Error(err)
		return
	}
	got, err := openAll(p, make([]byte, KeyLen), []byte("This is AAD"), unhex(t, string(ct)))
	if err != nil || len(got) == 0 || !bytes.Equal(got, unhex(t, string(pt))) {
		t.Errorf("%s: %d bytes, %v", base, len(got), err)
	}
}

var lengths = []int{0, 1, 100, SegmentData - 1, SegmentData, SegmentData + 1, 2 * SegmentData, 3*SegmentData + 7}

func TestSealThenOpenIsIdentity(t *testing.T) {
	key := make([]byte, KeyLen)
	rand.Read(key)
	for _, n := range lengths {
		plain := make([]byte, n)
		rand.Read(plain)
		msg, err := Seal(key, []byte("aad"), plain)
		if err != nil {
			t.Fatal(err)
		}
		if got := int64(len(msg)); got != HeaderLen+SealedLen(int64(n)) {
			t.Errorf("%d bytes seal to %d, want %d", n, got, HeaderLen+SealedLen(int64(n)))
		}
		if p, err := PlainLen(int64(len(msg) - HeaderLen)); err != nil || p != int64(n) {
			t.Errorf("PlainLen: %d, %v; want %d", p, err, n)
		}
		got, err := Open(key, []byte("aad"), msg)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: open: %v", n, err)
		}
	}
}

func TestOpenRefusesWhatWasNotSealed(t *testing.T) {
	key := make([]byte, KeyLen)
	plain := make([]byte, 2*SegmentData+100)
	msg, err := Seal(key, []byte("aad"), plain)
	if err != nil {
		t.Fatal(err)
	}
	seg := func(i int) []byte { return msg[HeaderLen+i*SegmentLen : min(len(msg), HeaderLen+(i+1)*SegmentLen)] }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	head := msg[:HeaderLen]
	cases := map[string][]byte{
		"last segment cut off":      msg[:HeaderLen+2*SegmentLen],
		"cut inside a segment":      msg[:HeaderLen+SegmentLen+500],
		"segments swapped":          join(head, seg(1), seg(0), seg(2)),
		"segment repeated":          join(head, seg(0), seg(0), seg(2)),
		"a byte more":               join(msg, []byte{0}),
		"first segment missing":     join(head, seg(1), seg(2)),
		"nothing behind the header": head,
	}
	for name, bad := range cases {
		if _, err := Open(key, []byte("aad"), bad); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	for _, at := range []int{0, 5, paramLen, paramLen + ivLen, HeaderLen, HeaderLen + 4, HeaderLen + 20, len(msg) - 1} {
		bad := bytes.Clone(msg)
		bad[at] ^= 1
		if _, err := Open(key, []byte("aad"), bad); err == nil {
			t.Errorf("byte %d flipped: opened", at)
		}
	}
	if _, err := Open(key, []byte("aae"), msg); !errors.Is(err, ErrAuth) {
		t.Errorf("other associated data: %v", err)
	}
	other := make([]byte, KeyLen)
	other[0] = 1
	if _, err := Open(other, []byte("aad"), msg); !errors.Is(err, ErrAuth) {
		t.Errorf("other key: %v", err)
	}
}

// Padmé's own table: lengths and what they become.
func TestPaddedLen(t *testing.T) {
	for n, want := range map[int64]int64{0: 0, 1: 1, 2: 2, 9: 10, 100: 104, 1000: 1024, 1 << 20: 1 << 20, 1<<20 + 1: 1<<20 + 1<<15} {
		if got := PaddedLen(n); got != want {
			t.Errorf("PaddedLen(%d) = %d, want %d", n, got, want)
		}
	}
	for n := int64(2); n < 1<<30; n += n/7 + 1 {
		p := PaddedLen(n)
		if p < n || PaddedLen(p) != p || float64(p-n) > 0.12*float64(n)+1 {
			t.Errorf("PaddedLen(%d) = %d", n, p)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := make([]byte, KeyLen)
	msg, _ := Seal(key, nil, []byte("hello"))
	f.Add(msg)
	f.Add(msg[:HeaderLen])
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := Open(key, nil, b); err == nil && !bytes.Equal(b, msg) {
			t.Errorf("opened %x to %q", b, out)
		}
	})
}

func BenchmarkSegment(b *testing.B) {
	key := make([]byte, KeyLen)
	s, _ := NewSealer(key, nil)
	plain, dst := make([]byte, SegmentData), make([]byte, 0, SegmentLen)
	b.SetBytes(SegmentData)
	for b.Loop() {
		if _, err := s.Segment(dst, plain, 0, false); err != nil {
			b.Fatal(err)
		}
	}
}
