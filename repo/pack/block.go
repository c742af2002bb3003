// Package pack writes and reads packs: many compressed blocks end to end, a
// table of them, and padding, sealed as one FLOE message.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// MaxBlock is the largest block before compression, in bytes.
const MaxBlock = 1 << 20

// Codec says how a block is stored.
type Codec uint8

const (
	CodecRaw  Codec = 0
	CodecZstd Codec = 1 // one zstd frame, RFC 8878, without a dictionary
)

// ErrCorrupt means that bytes which were authenticated do not have the form
// they must have: a bug or bad memory on the machine that wrote them.
var ErrCorrupt = errors.New("corrupt")

// A Compressor compresses blocks and checks its own work. It is not safe for
// concurrent use: make one a worker.
type Compressor struct {
	enc *zstd.Encoder
	dec *Expander
	out []byte
	chk []byte
}

// A Level says how hard a Compressor tries.
type Level uint8

const (
	// Default is the library's default level, about zstd's third.
	Default Level = iota
	// Fastest is about twice as fast, for some more bytes.
	Fastest
)

// NewCompressor returns a Compressor. The best level is never used: it wrote
// wrong frames in three releases (klauspost/compress issues 414, 875, 922),
// and dictionaries did in others.
func NewCompressor(l Level) (*Compressor, error) {
	level := zstd.SpeedDefault
	if l == Fastest {
		level = zstd.SpeedFastest
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(MaxBlock),
		zstd.WithEncoderLevel(level), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	dec, err := NewExpander()
	if err != nil {
		return nil, err
	}
	return &Compressor{enc: enc, dec: dec}, nil
}

// Compress returns raw in its stored form, valid until the next call. It
// decodes every frame again and compares before it returns: restic and rustic
// do the same since encoder bugs and bad memory are real, and cheap to catch
// only here.
func (c *Compressor) Compress(raw []byte) (stored []byte, codec Codec, err error) {
	if len(raw) == 0 || len(raw) > MaxBlock {
		return nil, 0, fmt.Errorf("pack: block of %d bytes", len(raw))
	}
	c.out = c.enc.EncodeAll(raw, c.out[:0])
	if len(c.out) >= len(raw) {
		return raw, CodecRaw, nil
	}
	if c.chk, err = c.dec.Expand(c.chk[:0], c.out, CodecZstd, len(raw)); err != nil {
		return nil, 0, fmt.Errorf("pack: a compressed block does not decode (encoder bug or bad memory): %w", err)
	}
	if !bytes.Equal(c.chk, raw) {
		return nil, 0, errors.New("pack: a compressed block decodes to other bytes (encoder bug or bad memory)")
	}
	return c.out, CodecZstd, nil
}

// An Expander turns stored blocks back. It is not safe for concurrent use.
type Expander struct{ dec *zstd.Decoder }

// NewExpander returns an Expander that never allocates more than a block
// needs.
func NewExpander() (*Expander, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBlock),
		zstd.WithDecoderMaxWindow(MaxBlock), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &Expander{dec: dec}, nil
}

// Expand appends the block to dst. It is an error if it does not have exactly
// rawLen bytes.
func (e *Expander) Expand(dst, stored []byte, codec Codec, rawLen int) ([]byte, error) {
	if rawLen <= 0 || rawLen > MaxBlock {
		return nil, fmt.Errorf("%w: block of %d bytes", ErrCorrupt, rawLen)
	}
	at := len(dst)
	switch codec {
	case CodecRaw:
		dst = append(dst, stored...)
	case CodecZstd:
		if err := oneFrame(stored); err != nil {
			return nil, err
		}
		// The decoder's limit counts what is in front too, so it gets the free
		// part alone, and returns another array if that is too short.
		out, err := e.dec.DecodeAll(stored, dst[at:at])
		if err != nil {
			return nil, fmt.Errorf("%w: zstd: %v", ErrCorrupt, err)
		}
		if len(out) <= cap(dst)-at && len(out) > 0 && &out[0] == &dst[:at+1][at] {
			dst = dst[:at+len(out)]
		} else {
			dst = append(dst, out...)
		}
	default:
		return nil, fmt.Errorf("%w: unknown codec %d", ErrCorrupt, codec)
	}
	if len(dst)-at != rawLen {
		return nil, fmt.Errorf("%w: block has %d bytes, its table says %d", ErrCorrupt, len(dst)-at, rawLen)
	}
	return dst, nil
}

// oneFrame reports whether b is exactly one zstd frame: the decoder would take
// several, or skippable ones around it, and then one block had many spellings.
// RFC 8878, 3.1.1: header, blocks of a 3-byte header each, checksum if any.
func oneFrame(b []byte) error {
	var h zstd.Header
	if err := h.Decode(b); err != nil || h.Skippable || h.DictionaryID != 0 {
		return fmt.Errorf("%w: zstd: not a frame", ErrCorrupt)
	}
	rest := b[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return fmt.Errorf("%w: zstd: frame cut off", ErrCorrupt)
		}
		head := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		size := int(head >> 3)
		if head>>1&3 == 1 { // one byte, repeated
			size = 1
		}
		if len(rest) < 3+size {
			return fmt.Errorf("%w: zstd: frame cut off", ErrCorrupt)
		}
		rest, last = rest[3+size:], head&1 == 1
	}
	if h.HasCheckSum && len(rest) == 4 {
		rest = nil
	}
	if len(rest) != 0 {
		return fmt.Errorf("%w: zstd: %d bytes behind the frame", ErrCorrupt, len(rest))
	}
	return nil
}

// EntryLen is the length of a marshalled Entry in bytes.
const EntryLen = 16

// An Entry says where a block lies. Which is the number that Index is depends
// on the table: in a pack's own table it is the block's, in a generation's
// table, where the position is the block's number, it is the pack's.
type Entry struct {
	Index  uint32
	Offset uint32 // in the pack's plaintext
	Stored uint32 // length there, below 1<<24
	Raw    uint32 // length of the block, 1 to MaxBlock
	Codec  Codec
}

// Void reports whether the entry stands for a block number that was never
// used.
func (e Entry) Void() bool { return e == Entry{} }

// Append appends the 16-byte form: index 4, offset 4, stored 3, raw 3, codec
// 1, zero 1; big-endian.
func (e Entry) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.Index)
	b = binary.BigEndian.AppendUint32(b, e.Offset)
	b = append(b, byte(e.Stored>>16), byte(e.Stored>>8), byte(e.Stored))
	b = append(b, byte(e.Raw>>16), byte(e.Raw>>8), byte(e.Raw))
	return append(b, byte(e.Codec), 0)
}

// ParseEntry reads what Append wrote and rejects everything else.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) != EntryLen {
		return Entry{}, fmt.Errorf("%w: table entry of %d bytes", ErrCorrupt, len(b))
	}
	e := Entry{
		Index:  binary.BigEndian.Uint32(b),
		Offset: binary.BigEndian.Uint32(b[4:]),
		Stored: uint32(b[8])<<16 | uint32(b[9])<<8 | uint32(b[10]),
		Raw:    uint32(b[11])<<16 | uint32(b[12])<<8 | uint32(b[13]),
		Codec:  Codec(b[14]),
	}
	if e.Void() && b[15] == 0 {
		return e, nil
	}
	switch {
	case b[15] != 0, e.Codec > CodecZstd,
		e.Raw == 0 || e.Raw > MaxBlock,
		e.Stored == 0 || e.Stored > e.Raw,
		e.Codec == CodecRaw && e.Stored != e.Raw,
		uint64(e.Offset)+uint64(e.Stored) > MaxPlain:
		return Entry{}, fmt.Errorf("%w: table entry %x", ErrCorrupt, b)
	}
	return e, nil
}
