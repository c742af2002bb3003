package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"strongroom/repo/seal"
)

const (
	// MaxSegments is how many segments a pack has at most: 32 MiB sealed. Twice
	// as much would break the memory limit when coded onto two of three stores.
	MaxSegments = 512
	// MaxPlain is a pack's largest plaintext in bytes.
	MaxPlain = MaxSegments * seal.SegmentData

	footerLen   = 32
	footerMagic = "SRPKEND1"
)

// A Writer collects the blocks of one pack in memory.
//
// Plaintext: blocks end to end, zeros, the table of the blocks, a footer.
// Table and footer are the last bytes, so that a pack alone, without its
// manifest, gives up its blocks.
type Writer struct {
	buf     []byte // blocks so far; capacity MaxPlain
	entries []Entry
}

// NewWriter returns an empty Writer. It comes to hold MaxPlain bytes, but for
// small packs.
func NewWriter() *Writer { return &Writer{} }

// room makes room for n bytes in all.
func (w *Writer) room(n int) {
	if n <= cap(w.buf) {
		return
	}
	size := 2 * n
	if size > MaxPlain/8 {
		size = MaxPlain // once and for all
	}
	w.buf = append(make([]byte, 0, size), w.buf...)
}

// Fits reports whether a block of that stored length still fits.
func (w *Writer) Fits(stored int) bool {
	return len(w.buf)+stored+(len(w.entries)+1)*EntryLen+footerLen <= MaxPlain
}

// Blocks returns how many blocks were added.
func (w *Writer) Blocks() int { return len(w.entries) }

// Stored returns how many bytes the blocks take.
func (w *Writer) Stored() int { return len(w.buf) }

// Entries returns the table so far; Index is the block number.
func (w *Writer) Entries() []Entry { return w.entries }

// Add appends a block. The caller asked Fits.
func (w *Writer) Add(block uint32, stored []byte, raw int, codec Codec) {
	if !w.Fits(len(stored)) {
		panic("internal error: block does not fit its pack")
	}
	w.entries = append(w.entries, Entry{Index: block, Offset: uint32(len(w.buf)), Stored: uint32(len(stored)), Raw: uint32(raw), Codec: codec})
	w.room(len(w.buf) + len(stored))
	w.buf = append(w.buf, stored...)
}

// Finish completes the plaintext and returns it, valid until Reset. Its length
// is a Padmé length, or MaxPlain.
func (w *Writer) Finish() []byte {
	blocks := len(w.buf)
	tail := len(w.entries)*EntryLen + footerLen
	total := int(min(seal.PaddedLen(int64(blocks+tail)), MaxPlain))
	w.room(total)
	w.buf = w.buf[:total]
	clear(w.buf[blocks:])
	table := w.buf[total-tail : total-tail]
	for _, e := range w.entries {
		table = e.Append(table)
	}
	foot := append(table, footerMagic...)
	foot = binary.BigEndian.AppendUint32(foot, uint32(len(w.entries)))
	binary.BigEndian.AppendUint32(foot, crc32.Checksum(table, castagnoli))
	return w.buf
}

// Reset empties the Writer for the next pack.
func (w *Writer) Reset() { w.buf, w.entries = w.buf[:0], w.entries[:0] }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ParseTable returns the table at the end of a pack's plaintext. plain may be
// the whole of it or its last part, when that holds the table.
func ParseTable(plain []byte) ([]Entry, error) {
	if len(plain) < footerLen || len(plain) > MaxPlain {
		return nil, fmt.Errorf("pack table: %w: %d bytes", ErrCorrupt, len(plain))
	}
	foot := plain[len(plain)-footerLen:]
	count := int64(binary.BigEndian.Uint32(foot[8:]))
	if string(foot[:8]) != footerMagic || !bytes.Equal(foot[16:], make([]byte, 16)) {
		return nil, fmt.Errorf("pack table: %w: footer %x", ErrCorrupt, foot)
	}
	if count*EntryLen > int64(len(plain)-footerLen) {
		return nil, fmt.Errorf("pack table: %w: %d entries in %d bytes", ErrCorrupt, count, len(plain))
	}
	table := plain[len(plain)-footerLen-int(count)*EntryLen : len(plain)-footerLen]
	if crc32.Checksum(table, castagnoli) != binary.BigEndian.Uint32(foot[12:]) {
		return nil, fmt.Errorf("pack table: %w: checksum", ErrCorrupt)
	}
	entries := make([]Entry, count)
	end := uint32(0)
	for i := range entries {
		e, err := ParseEntry(table[i*EntryLen : (i+1)*EntryLen])
		if err != nil {
			return nil, fmt.Errorf("pack table: entry %d: %w", i, err)
		}
		if e.Void() || e.Offset != end {
			return nil, fmt.Errorf("pack table: entry %d: %w: offset %d after %d", i, ErrCorrupt, e.Offset, end)
		}
		end += e.Stored
		entries[i] = e
	}
	return entries, nil
}
