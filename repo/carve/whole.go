package carve

import (
	"bytes"
	"fmt"

	"strongroom/erasure"
)

// whole stores the shards that lie in one piece.
func (v *carver) whole() error {
	var left []int64
	end := int64(0) // of the last whole one: what begins in it is part of it
	for _, off := range v.heads {
		if off < end {
			continue
		}
		h, err := v.header(off)
		if err != nil {
			return err
		}
		if v.have[keyOf(h)] { // a second copy
			continue
		}
		n := h.ShardLen()
		if int64(len(v.buf)) < n {
			v.buf = make([]byte, n)
		}
		ok, err := v.inOnePiece(off, h, v.buf[:n])
		if err != nil {
			return err
		}
		if !ok {
			left = append(left, off)
			continue
		}
		if err := v.keep(off, h, v.buf[:n]); err != nil {
			return err
		}
		end = off + n
		v.starts = append(v.starts, off)
	}
	v.heads = left
	return nil
}

// header reads one that the scan has found.
func (v *carver) header(off int64) (erasure.Header, error) {
	var b [erasure.HeaderLen]byte
	if err := v.read(off, b[:]); err != nil {
		return erasure.Header{}, err
	}
	h, err := erasure.ParseHeader(b[:])
	if err != nil {
		return h, fmt.Errorf("the medium gives other bytes at %d than before: %w", off, err)
	}
	return h, nil
}

// inOnePiece reads a shard from where it begins and reports whether all of it
// holds. It stops at the first column that does not.
func (v *carver) inOnePiece(off int64, h erasure.Header, b []byte) (bool, error) {
	if off > v.Size-int64(len(b)) {
		return false, nil
	}
	cols := h.Columns()
	tail := b[erasure.PayloadOffset(cols):]
	if err := v.read(off+erasure.PayloadOffset(cols), tail); err != nil {
		return false, err
	}
	sums, ok := parseTail(h, tail)
	if !ok {
		return false, nil
	}
	copy(b, tail[len(tail)-erasure.HeaderLen:])
	for c := range cols {
		from, to := erasure.PayloadOffset(c), erasure.PayloadOffset(c+1)
		if !v.spend(erasure.Column) {
			return false, nil
		}
		if err := v.read(off+from, b[from:to]); err != nil {
			return false, err
		}
		if erasure.Sum(b[from:to]) != sums[c] {
			return false, nil
		}
	}
	_, damaged, err := erasure.CheckShard(b)
	return err == nil && len(damaged) == 0, nil
}

// parseTail reads the table of checksums and the copy of the header.
func parseTail(h erasure.Header, b []byte) ([]uint32, bool) {
	table, copied := b[:len(b)-erasure.HeaderLen], b[len(b)-erasure.HeaderLen:]
	if !bytes.Equal(copied, h.Append(nil)) {
		return nil, false
	}
	sums, err := erasure.ParseSums(table, h.Columns())
	return sums, err == nil
}
