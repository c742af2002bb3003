package pack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"strongroom/repo/seal"
)

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func TestBlocksComeBackAndShrinkWhenTheyCan(t *testing.T) {
	c, err := NewCompressor(Default)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(strings.Repeat("42\tAda\tada@example.org\t2026-01-01\n", MaxBlock/34))
	for name, tc := range map[string]struct {
		raw  []byte
		want Codec
	}{
		"text":         {text, CodecZstd},
		"zeros":        {make([]byte, MaxBlock), CodecZstd},
		"random":       {random(MaxBlock, 1), CodecRaw},
		"one byte":     {[]byte{7}, CodecRaw},
		"largest less": {random(MaxBlock-1, 2), CodecRaw},
	} {
		stored, codec, err := c.Compress(tc.raw)
		if err != nil || codec != tc.want {
			t.Errorf("%s: codec %d, %v; want %d", name, codec, err, tc.want)
			continue
		}
		got, err := c.dec.Expand([]byte("before"), stored, codec, len(tc.raw))
		if err != nil || !bytes.Equal(got, append([]byte("before"), tc.raw...)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range []int{0, MaxBlock + 1} {
		if _, _, err := c.Compress(make([]byte, n)); err == nil {
			t.Errorf("block of %d bytes accepted", n)
		}
	}
}

func TestExpandRefusesWhatItWasNotToldToExpect(t *testing.T) {
	c, _ := NewCompressor(Default)
	e, _ := NewExpander()
	big, _, err := c.Compress(make([]byte, MaxBlock))
	if err != nil {
		t.Fatal(err)
	}
	big = bytes.Clone(big)
	half := c.enc.EncodeAll(make([]byte, MaxBlock/2), nil)
	bomb := c.enc.EncodeAll(make([]byte, 8<<20), nil)
	cases := map[string]struct {
		stored []byte
		codec  Codec
		raw    int
	}{
		"shorter than the table says": {big, CodecZstd, MaxBlock - 1},
		"cut off":                     {big[:len(big)-1], CodecZstd, MaxBlock},
		"eight MiB in one frame":      {bomb, CodecZstd, MaxBlock},
		"two frames":                  {append(bytes.Clone(half), half...), CodecZstd, MaxBlock},
		"a skippable frame behind":    {append(bytes.Clone(big), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), CodecZstd, MaxBlock},
		"a skippable frame in front":  {append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, big...), CodecZstd, MaxBlock},
		"no frame":                    {[]byte("hello"), CodecZstd, 5},
		"unknown codec":               {[]byte("hello"), 2, 5},
		"raw of other length":         {[]byte("hello"), CodecRaw, 4},
		"nothing":                     {nil, CodecRaw, 0},
	}
	for name, tc := range cases {
		if _, err := e.Expand(nil, tc.stored, tc.codec, tc.raw); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPackTableSurvivesWithoutAManifest(t *testing.T) {
	w := NewWriter()
	for round := range 2 {
		var want []Entry
		sizes := []int{1, 1000, MaxBlock, 300_000, 77}
		for i, n := range sizes {
			w.Add(uint32(100+i), random(n, byte(i)), n, CodecRaw)
		}
		want = append(want, w.Entries()...)
		plain := w.Finish()
		if n := int64(len(plain)); seal.PaddedLen(n) != n {
			t.Errorf("plaintext of %d bytes is not padded", n)
		}
		got, err := ParseTable(plain)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range got {
			if e != want[i] {
				t.Errorf("entry %d: %+v, want %+v", i, e, want[i])
			}
			if !bytes.Equal(plain[e.Offset:e.Offset+e.Stored], random(sizes[i], byte(i))) {
				t.Errorf("round %d: block %d: other bytes", round, i)
			}
		}
		if tail, err := ParseTable(plain[len(plain)-1000:]); err != nil || len(tail) != len(got) {
			t.Errorf("from the last part: %v", err)
		}
		w.Reset()
	}
}

func TestAFullPackHasExactlyTheLargestLength(t *testing.T) {
	w := NewWriter()
	for n := MaxBlock; n > 0; n /= 2 {
		for w.Fits(n) {
			w.Add(uint32(w.Blocks()), make([]byte, n), n, CodecRaw)
		}
	}
	if n := len(w.Finish()); n != MaxPlain || seal.Segments(int64(n)) != MaxSegments {
		t.Errorf("plaintext of %d bytes, want %d", n, MaxPlain)
	}
}

func TestParseTableRefusesDamage(t *testing.T) {
	w := NewWriter()
	w.Add(1, random(500, 1), 500, CodecRaw)
	w.Add(2, random(600, 2), 600, CodecRaw)
	good := bytes.Clone(w.Finish())
	for i := len(good) - footerLen - 2*EntryLen; i < len(good); i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := ParseTable(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	for n := range footerLen + 2*EntryLen {
		if _, err := ParseTable(good[len(good)-n:]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("last %d bytes: %v", n, err)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(Entry{Index: 1, Offset: 2, Stored: 3, Raw: 4, Codec: CodecZstd}.Append(nil))
	f.Add(make([]byte, EntryLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err == nil && !bytes.Equal(e.Append(nil), b) {
			t.Errorf("%x reads as %+v, which writes as %x", b, e, e.Append(nil))
		}
	})
}

func FuzzParseTable(f *testing.F) {
	w := NewWriter()
	w.Add(1, []byte("hello"), 5, CodecRaw)
	f.Add(bytes.Clone(w.Finish()))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := ParseTable(b)
		if err != nil {
			return
		}
		var table []byte
		for _, e := range entries {
			table = e.Append(table)
		}
		if !bytes.HasSuffix(b[:len(b)-footerLen], table) {
			t.Errorf("%x: other table %x", b, table)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	c, _ := NewCompressor(Default)
	var raw []byte
	for i := 0; len(raw) < MaxBlock-100; i++ {
		raw = append(raw, strings.Repeat("x", i%7)+"42\tAda\tada@example.org\n"...)
		raw = append(raw, random(10, byte(i))...)
	}
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, _, err := c.Compress(raw); err != nil {
			b.Fatal(err)
		}
	}
}
