package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math/bits"

	"strongroom/source"
)

// rowSum counts rows and sums their hashes mod 2^128.
type rowSum struct {
	rows   int64
	hi, lo uint64

	part hash.Hash // of a row whose end has not come yet; nil between rows
}

// add takes a piece of COPY text; a row may go on in the next piece.
func (s *rowSum) add(p []byte) {
	if s.part != nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part.Write(p)
			return
		}
		s.part.Write(p[:i])
		var d [sha256.Size]byte
		s.sum(s.part.Sum(d[:0]))
		s.part = nil
		p = p[i+1:]
	}
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = sha256.New()
			s.part.Write(p)
			return
		}
		d := sha256.Sum256(p[:i])
		s.sum(d[:])
		p = p[i+1:]
	}
}

func (s *rowSum) sum(digest []byte) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, binary.BigEndian.Uint64(digest[8:16]), 0)
	s.hi, _ = bits.Add64(s.hi, binary.BigEndian.Uint64(digest[:8]), carry)
	s.rows++
}

func (s *rowSum) facts(object string) source.Facts {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return source.Facts{Rows: s.rows, RowHash: hex.EncodeToString(b[:]), Object: object}
}
