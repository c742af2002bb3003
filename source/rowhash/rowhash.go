// Package rowhash counts the rows of a table's COPY text and hashes them in
// such a way that their order does not matter.
package rowhash

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math/bits"
)

// A Sum is the number of rows and the sum mod 2^128 of their hashes: of each
// row, without its line feed, the first 16 bytes of its SHA-256 as a
// big-endian integer. The zero Sum is that of no rows.
type Sum struct {
	rows   int64
	hi, lo uint64

	part  hash.Hash // of a row whose end has not come yet; nil between rows
	lanes *lanes    // rows being hashed side by side; nil until there are any
}

// Write takes the next piece of text; a row may go on in the next one. It
// keeps no reference to p and does not fail.
func (s *Sum) Write(p []byte) (int, error) {
	n := len(p)
	if s.part != nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part.Write(p)
			return n, nil
		}
		s.part.Write(p[:i])
		var d [sha256.Size]byte
		s.Add(s.part.Sum(d[:0]))
		s.part = nil
		p = p[i+1:]
	}
	rest := s.whole(p)
	if len(rest) > 0 {
		s.part = sha256.New()
		s.part.Write(rest)
	}
	return n, nil
}

// whole takes the rows of p that end in it and returns what follows them.
func (s *Sum) whole(p []byte) []byte {
	if sideBySide {
		if s.lanes == nil {
			s.lanes = new(lanes)
		}
		return s.lanes.take(s, p)
	}
	return s.oneByOne(p)
}

func (s *Sum) oneByOne(p []byte) []byte {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			return p
		}
		d := sha256.Sum256(p[:i])
		s.Add(d[:])
		p = p[i+1:]
	}
}

// Add takes a row of which the caller has the SHA-256.
func (s *Sum) Add(digest []byte) {
	s.add(binary.BigEndian.Uint64(digest[:8]), binary.BigEndian.Uint64(digest[8:16]))
}

func (s *Sum) add(hi, lo uint64) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, _ = bits.Add64(s.hi, hi, carry)
	s.rows++
}

// InRow reports whether the text so far ends in the middle of a row.
func (s *Sum) InRow() bool { return s.part != nil }

// Rows returns how many rows have ended.
func (s *Sum) Rows() int64 {
	s.settle()
	return s.rows
}

// Hash returns the sum in 32 hex digits.
func (s *Sum) Hash() string {
	s.settle()
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return hex.EncodeToString(b[:])
}

func (s *Sum) settle() {
	if s.lanes != nil {
		s.lanes.settle(s)
	}
}
