package rowhash

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

// slow is the definition, word for word.
func slow(rows [][]byte) string {
	sum := new(big.Int)
	for _, r := range rows {
		h := sha256.Sum256(r)
		sum.Add(sum, new(big.Int).SetBytes(h[:16]))
	}
	return fmt.Sprintf("%032x", sum.And(sum, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))))
}

// fill makes a row of n bytes, any but the line feed.
func fill(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if b[i] = byte(r.Uint32()); b[i] == '\n' {
			b[i] = 0
		}
	}
	return b
}

// pieces writes a text in pieces of up to n bytes, each over the one before.
func pieces(s *Sum, r *rand.Rand, text []byte, n int) {
	buf := make([]byte, n)
	for len(text) > 0 {
		k := min(1+r.IntN(n), len(text))
		s.Write(buf[:copy(buf, text[:k])])
		text = text[k:]
		for i := range buf {
			buf[i] = '\n' // what is kept of it would be seen
		}
	}
}

func check(t *testing.T, what string, s *Sum, rows [][]byte) {
	t.Helper()
	if got, want := s.Hash(), slow(rows); s.Rows() != int64(len(rows)) || got != want || s.InRow() {
		t.Fatalf("%s: %d rows with hash %s, want %d with %s", what, s.Rows(), got, len(rows), want)
	}
}

// both runs a test with the ways to hash that this machine has.
func both(t *testing.T, f func(t *testing.T)) {
	t.Run("one by one", func(t *testing.T) { with(t, false, f) })
	if sideBySide {
		t.Run("side by side", f)
	} else {
		t.Log("this machine has no AVX-512: rows were hashed one by one only")
	}
}

func with(t *testing.T, on bool, f func(t *testing.T)) {
	was := sideBySide
	sideBySide = on
	defer func() { sideBySide = was }()
	f(t)
}

func TestEveryLengthOfARow(t *testing.T) {
	both(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		for n := range 700 {
			for _, count := range []int{1, 2, 16, 17} {
				var s Sum
				var rows [][]byte
				for range count {
					rows = append(rows, fill(r, n))
				}
				s.Write(append(bytes.Join(rows, []byte("\n")), '\n'))
				check(t, fmt.Sprintf("%d rows of %d bytes", count, n), &s, rows)
			}
		}
	})
}

func TestRowsOfMixedLengthsInPieces(t *testing.T) {
	both(t, func(t *testing.T) {
		for seed := range uint64(60) {
			r := rand.New(rand.NewPCG(3, seed))
			most := []int{3, 60, 130, 300, 2000, 10000}[seed%6]
			var rows [][]byte
			var text []byte
			for range 400 {
				rows = append(rows, fill(r, r.IntN(most+1)))
				text = append(append(text, rows[len(rows)-1]...), '\n')
			}
			var s Sum
			pieces(&s, r, text, []int{7, 100, 5000, 1 << 17}[r.IntN(4)])
			check(t, fmt.Sprintf("seed %d", seed), &s, rows)
			// A sum that was read goes on.
			s.Write([]byte("more\n"))
			check(t, fmt.Sprintf("seed %d and one more", seed), &s, append(rows, []byte("more")))
		}
	})
}

func TestLongRows(t *testing.T) {
	both(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		rows := [][]byte{fill(r, 100), fill(r, 1<<20), {}, fill(r, 256<<10), fill(r, 256<<10+1), fill(r, 65536), fill(r, 200_000)}
		for _, n := range []int{1000, 1 << 17, 4 << 20} {
			var s Sum
			pieces(&s, r, append(bytes.Join(rows, []byte("\n")), '\n'), n)
			check(t, fmt.Sprintf("pieces of %d", n), &s, rows)
		}
	})
}

func TestNoRows(t *testing.T) {
	var s Sum
	check(t, "nothing", &s, nil)
	s.Write(nil)
	check(t, "an empty piece", &s, nil)
}

func TestHalfARowIsNone(t *testing.T) {
	var s Sum
	s.Write([]byte("one\ntw"))
	if !s.InRow() || s.Rows() != 1 {
		t.Errorf("%d rows, in a row: %t", s.Rows(), s.InRow())
	}
	s.Write([]byte("o\n"))
	check(t, "two", &s, [][]byte{[]byte("one"), []byte("two")})
}

func TestRowsOfWhichTheHashIsKnown(t *testing.T) {
	var s Sum
	d := sha256.Sum256([]byte("7\tobject"))
	s.Add(d[:])
	s.Write([]byte("row\n"))
	check(t, "both", &s, [][]byte{[]byte("7\tobject"), []byte("row")})
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("a\nbb\n\n"), uint16(3))
	f.Add(bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456\n"), 40), uint16(100))
	f.Fuzz(func(t *testing.T, text []byte, piece uint16) {
		if len(text) > 0 {
			text = append(text, '\n')
		}
		rows := bytes.Split(text, []byte("\n"))
		var s Sum
		pieces(&s, rand.New(rand.NewPCG(7, uint64(piece))), text, int(piece)+1)
		check(t, "text", &s, rows[:len(rows)-1])
	})
}

func BenchmarkSum(b *testing.B) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, c := range []struct{ least, most int }{{50, 50}, {100, 100}, {200, 200}, {150, 250}, {300, 800}, {4000, 12000}, {100_000, 120_000}} {
		var text []byte
		for len(text) < 128<<10 {
			text = append(append(text, fill(r, c.least+r.IntN(c.most-c.least+1))...), '\n')
		}
		for _, on := range []bool{true, false} {
			if on && !sideBySide {
				continue
			}
			b.Run(fmt.Sprintf("rows of %d to %d/side by side=%t", c.least, c.most, on), func(b *testing.B) {
				was := sideBySide
				sideBySide = on
				defer func() { sideBySide = was }()
				b.SetBytes(int64(len(text)))
				var s Sum
				for b.Loop() {
					s.Write(text)
				}
			})
		}
	}
}
