package chunker

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"
)

// sample is n bytes that every implementation of ChaCha8 reproduces.
func sample(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func cuts(t *testing.T, r io.Reader, page int) (lens []int, all []byte) {
	t.Helper()
	c, err := New(r, page)
	if err != nil {
		t.Fatal(err)
	}
	for s := NewSegment(); ; {
		err := c.Next(s)
		if err == io.EOF {
			return lens, all
		}
		if err != nil {
			t.Fatal(err)
		}
		start := 0
		for _, end := range s.Ends {
			lens, start = append(lens, end-start), end
		}
		all = append(all, s.Data...)
	}
}

// plainCut is the definition in its plainest form: one loop, no unrolling, and
// a hash that begins 64 bytes before the first place where it may cut.
func plainCut(p []byte) int {
	var h uint64
	for i := MinSize - 64; i < min(len(p), MaxSize); i++ {
		h = h<<1 + gear[p[i]]
		n := i + 1
		if n > MinSize && (n <= switchSize && h>>(64-17) == 0 || n > switchSize && h>>(64-15) == 0) {
			return n
		}
	}
	return min(len(p), MaxSize)
}

func TestCutsFollowTheDefinition(t *testing.T) {
	data := sample(8<<20, 1)
	lens, _ := cuts(t, bytes.NewReader(data), 0)
	for i, got := range lens {
		want := len(data)
		if len(data) > MinSize {
			want = plainCut(data)
		}
		if got != want {
			t.Fatalf("chunk %d, %d bytes before the end: %d bytes, want %d", i, len(data), got, want)
		}
		data = data[got:]
	}
	if len(data) > 0 {
		t.Errorf("%d bytes are left", len(data))
	}
}

// The expectations come from a separate implementation in Python.
func TestGoldenCuts(t *testing.T) {
	var table []byte
	for _, v := range gear {
		for s := 56; s >= 0; s -= 8 {
			table = append(table, byte(v>>s))
		}
	}
	sum := sha256.Sum256(table)
	if got, want := hex.EncodeToString(sum[:8]), "5184406478981a3d"; got != want {
		t.Errorf("gear table %s, want %s", got, want)
	}
	lens, _ := cuts(t, bytes.NewReader(sample(1<<20, 7)), 0)
	if want := []int{117336, 68729, 21850, 57113, 24044, 124057, 93419, 54041, 52469, 140492, 34552, 17006, 69415, 86435, 87618}; !slices.Equal(lens, want) {
		t.Errorf("cuts %v, want %v", lens, want)
	}
	for _, n := range []int{1, MinSize - 1, MinSize, MinSize + 1, switchSize, MaxSize, MaxSize + 1} {
		if lens, _ := cuts(t, bytes.NewReader(make([]byte, n)), 0); lens[0] != min(n, MaxSize) {
			t.Errorf("%d zero bytes: %v", n, lens)
		}
	}
}

func TestLengthsStayInBoundsAndNearTheAverage(t *testing.T) {
	data := sample(64<<20, 3)
	lens, all := cuts(t, bytes.NewReader(data), 0)
	if !bytes.Equal(all, data) {
		t.Fatal("chunks do not add up to the stream")
	}
	for i, n := range lens {
		if n > MaxSize || n < MinSize && i != len(lens)-1 {
			t.Errorf("chunk %d has %d bytes", i, n)
		}
	}
	if avg := len(data) / len(lens); avg < 60<<10 || avg > 76<<10 {
		t.Errorf("average %d bytes", avg)
	}
}

func TestCutsDoNotDependOnHowTheReaderReturnsBytes(t *testing.T) {
	data := sample(3<<20+17, 4)
	want, _ := cuts(t, bytes.NewReader(data), 0)
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(data)),
		"halves":   iotest.HalfReader(bytes.NewReader(data)),
		"data+EOF": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		if got, _ := cuts(t, r, 0); !slices.Equal(got, want) {
			t.Errorf("%s: other cuts", name)
		}
	}
}

func TestCutsComeBackAfterAnInsertion(t *testing.T) {
	data := sample(8<<20, 5)
	changed := slices.Concat(data[:1000], []byte("inserted"), data[1000:])
	ends := func(b []byte) map[int]bool {
		m, at := map[int]bool{}, 0
		lens, _ := cuts(t, bytes.NewReader(b), 0)
		for _, n := range lens {
			at += n
			m[len(b)-at] = true
		}
		return m
	}
	a, b := ends(data), ends(changed)
	same := 0
	for e := range a {
		if b[e] {
			same++
		}
	}
	if same < len(a)-4 {
		t.Errorf("%d of %d boundaries came back", same, len(a))
	}
}

func TestPagesAreCutAtTheirSize(t *testing.T) {
	data := sample(100<<10+5, 6)
	for page, want := range map[int]int{512: 4096, 4096: 4096, 8192: 8192, 65536: 65536} {
		lens, all := cuts(t, bytes.NewReader(data), page)
		if !bytes.Equal(all, data) {
			t.Errorf("page %d: other bytes", page)
		}
		for i, n := range lens[:len(lens)-1] {
			if n != want {
				t.Errorf("page %d: chunk %d has %d bytes", page, i, n)
			}
		}
	}
	for _, bad := range []int{-1, 1, 100, 256, 6000, 128 << 10} {
		if _, err := New(nil, bad); err == nil {
			t.Errorf("page size %d accepted", bad)
		}
	}
}

func TestAReadErrorIsNotAnEnd(t *testing.T) {
	for _, broken := range []error{errors.New("connection reset"), fmt.Errorf("connection cut: %w", io.EOF), io.ErrUnexpectedEOF} {
		c, err := New(io.MultiReader(bytes.NewReader(sample(300<<10, 8)), iotest.ErrReader(broken)), 0)
		if err != nil {
			t.Fatal(err)
		}
		for s := NewSegment(); err == nil; {
			err = c.Next(s)
		}
		if err != broken {
			t.Errorf("got %v, want %v", err, broken)
		}
	}
	if c, _ := New(stuck{}, 0); c != nil {
		if err := c.Next(NewSegment()); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("a reader that returns nothing: %v", err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func BenchmarkRead(b *testing.B) {
	data := sample(64<<20, 9)
	b.SetBytes(int64(len(data)))
	s := NewSegment()
	for b.Loop() {
		c, _ := New(bytes.NewReader(data), 0)
		for c.Next(s) == nil {
		}
	}
}

// BenchmarkCut is the cutting loop alone, with the anchors.
func BenchmarkCut(b *testing.B) {
	data := sample(SegmentSize, 9)
	b.SetBytes(SegmentSize)
	s := NewSegment()
	for b.Loop() {
		s.Data, s.Ends, s.Anchors = append(s.Data[:0], data...), s.Ends[:0], s.Anchors[:0]
		new(Cutter).cut(s)
	}
}
