package erasure

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	// HeaderLen is the length of a shard's header, and of its copy at the end.
	HeaderLen = 256
	// SealHeaderLen is the length of the sealed message's own header, which
	// every shard carries.
	SealHeaderLen = 74

	headerMagic = "SRSHARD1"
	headerSum   = HeaderLen - sha256.Size
	version     = 1
)

// ErrFormat means that bytes are not a shard, or not a whole one.
var ErrFormat = errors.New("not a shard")

// An ID names a pack or an encoding of one.
type ID [16]byte

func (id ID) String() string { return fmt.Sprintf("%x", id[:]) }

// A Header makes a shard self-describing. Encode is random per encoding:
// shards of two encodings of one pack never mix, even if a retry made both.
type Header struct {
	Pack, Encode ID
	K, Index     int
	MessageLen   int64 // of all segments, without seal header and fill
	Seal         [SealHeaderLen]byte
}

// Segments is the number of segments of the message.
func (h Header) Segments() int { return int((h.MessageLen + Column - 1) / Column) }

// Columns is the number of segments in this shard.
func (h Header) Columns() int { return Geometry{K: h.K}.Columns(h.Segments()) }

// ShardLen is the length of the whole shard in bytes.
func (h Header) ShardLen() int64 { return ShardLen(h.Columns()) }

// ShardLen is the length of a shard of that many columns.
func ShardLen(columns int) int64 { return 2*HeaderLen + int64(columns)*(Column+4) }

// PayloadOffset is where column c begins in a shard.
func PayloadOffset(c int) int64 { return HeaderLen + int64(c)*Column }

func (h Header) valid() bool {
	return h.K >= 1 && h.K <= MaxK && h.Index >= 0 && h.Index < MaxN && h.MessageLen > 0 && h.MessageLen <= 1<<30
}

// Append appends the 256-byte form: magic 8, version 2, k 1, index 1, zero 4,
// pack 16, encode 16, message length 8, payload length 8, seal header 74, zero
// 86, SHA-256 of all before 32; big-endian.
func (h Header) Append(b []byte) []byte {
	at := len(b)
	b = append(b, headerMagic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, byte(h.K), byte(h.Index), 0, 0, 0, 0)
	b = append(b, h.Pack[:]...)
	b = append(b, h.Encode[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.MessageLen))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Columns())*Column)
	b = append(b, h.Seal[:]...)
	b = append(b, make([]byte, headerSum-(len(b)-at))...)
	sum := sha256.Sum256(b[at:])
	return append(b, sum[:]...)
}

// ParseHeader reads what Append wrote and rejects everything else.
func ParseHeader(b []byte) (Header, error) {
	if len(b) != HeaderLen || string(b[:8]) != headerMagic {
		return Header{}, fmt.Errorf("shard header: %w", ErrFormat)
	}
	if sum := sha256.Sum256(b[:headerSum]); !bytes.Equal(sum[:], b[headerSum:]) {
		return Header{}, fmt.Errorf("shard header: %w: checksum", ErrFormat)
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != version {
		return Header{}, fmt.Errorf("shard header: %w: version %d", ErrFormat, v)
	}
	h := Header{K: int(b[10]), Index: int(b[11])}
	copy(h.Pack[:], b[16:])
	copy(h.Encode[:], b[32:])
	n := binary.BigEndian.Uint64(b[48:])
	copy(h.Seal[:], b[64:])
	if n > 1<<30 {
		return Header{}, fmt.Errorf("shard header: %w: message of %d bytes", ErrFormat, n)
	}
	h.MessageLen = int64(n)
	if !h.valid() || !bytes.Equal(h.Append(nil), b) {
		return Header{}, fmt.Errorf("shard header: %w: bad field", ErrFormat)
	}
	return h, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Stripe is the memory of all shards of one pack. Segments are sealed
// straight into it and the shards are handed out from it: nothing is copied.
type Stripe struct {
	g       Geometry
	columns int
	most    int64 // length of a shard of the longest message
	shards  [][]byte
}

// NewStripe is for messages of up to maxSegments segments. The memory, n/k ×
// 64 KiB a segment, comes when it is needed: a snapshot of a few bytes should
// not wait for that of a large one to be cleared.
func NewStripe(g Geometry, maxSegments int) (*Stripe, error) {
	if !g.Valid() {
		return nil, fmt.Errorf("erasure: geometry %d of %d", g.K, g.N)
	}
	return &Stripe{g: g, most: ShardLen(g.Columns(maxSegments)), shards: make([][]byte, g.N)}, nil
}

// Geometry returns the stripe's geometry.
func (s *Stripe) Geometry() Geometry { return s.g }

// Reset makes room for a message of that many segments.
func (s *Stripe) Reset(segments int) {
	s.columns = s.g.Columns(segments)
	size := ShardLen(s.columns)
	if size > int64(cap(s.shards[0])) {
		room := size
		if 2*size > s.most {
			room = s.most // so that it happens twice at most
		}
		for i := range s.shards {
			s.shards[i] = make([]byte, 0, room)
		}
	}
	for i := range s.shards {
		s.shards[i] = s.shards[i][:size]
	}
	// What lies behind the last segment in the last data shards is zero.
	for n := max(segments-1, 0); n < s.columns*s.g.K; n++ {
		clear(s.Segment(n))
	}
}

// Segment returns the 64 KiB that segment n is sealed into.
func (s *Stripe) Segment(n int) []byte {
	off := PayloadOffset(n % s.columns)
	return s.shards[n/s.columns][off : off+Column : off+Column]
}

// Finish computes parity and completes every shard. h.Index is set by it.
func (s *Stripe) Finish(h Header) ([][]byte, error) {
	h.K = s.g.K
	if !h.valid() || h.Columns() != s.columns {
		return nil, fmt.Errorf("erasure: message of %d bytes in %d columns", h.MessageLen, s.columns)
	}
	payload := make([][]byte, s.g.N)
	for i, b := range s.shards {
		payload[i] = b[HeaderLen : HeaderLen+s.columns*Column]
	}
	if s.g.K == 1 {
		for _, p := range payload[1:] {
			copy(p, payload[0])
		}
	} else if s.g.N > s.g.K {
		c, err := coder(s.g.K, s.g.N)
		if err != nil {
			return nil, err
		}
		if err := c.Encode(payload); err != nil {
			return nil, fmt.Errorf("erasure: encode: %w", err)
		}
	}
	for i := range s.shards {
		h.Index = i
		completeShard(s.shards[i], h)
	}
	return s.shards, nil
}

// completeShard writes header, checksums and trailer around the payload.
func completeShard(b []byte, h Header) {
	h.Append(b[:0])
	cols := h.Columns()
	sums := b[PayloadOffset(cols):PayloadOffset(cols)]
	for c := range cols {
		sums = binary.BigEndian.AppendUint32(sums, crc32.Checksum(b[PayloadOffset(c):PayloadOffset(c+1)], castagnoli))
	}
	copy(b[len(b)-HeaderLen:], b[:HeaderLen])
}

// BuildShard returns the whole shard of a payload that was reconstructed: the
// same bytes as when it was first made.
func BuildShard(h Header, payload []byte) ([]byte, error) {
	if !h.valid() || len(payload) != h.Columns()*Column {
		return nil, fmt.Errorf("erasure: payload of %d bytes for shard %d", len(payload), h.Index)
	}
	b := make([]byte, h.ShardLen())
	copy(b[HeaderLen:], payload)
	completeShard(b, h)
	return b, nil
}

// RebuildShard makes the whole shard that h names in b, which has its length,
// from the payloads of at least k others. Like Reconstruct it cannot tell
// whether they are right.
func RebuildShard(h Header, have map[int][]byte, b []byte) error {
	if !h.valid() || int64(len(b)) != h.ShardLen() {
		return fmt.Errorf("erasure: %d bytes for shard %d", len(b), h.Index)
	}
	size := h.Columns() * Column
	made, err := reconstruct(h.K, have, h.Index, b[HeaderLen:HeaderLen:HeaderLen+size])
	if err != nil {
		return err
	}
	if len(made) != size {
		return fmt.Errorf("erasure: payload of %d bytes for shard %d", len(made), h.Index)
	}
	copy(b[HeaderLen:], made) // where it is already, but for copies of k = 1
	completeShard(b, h)
	return nil
}

// ParseSums reads the CRC32C table of a shard of that many columns.
func ParseSums(b []byte, columns int) ([]uint32, error) {
	if len(b) != 4*columns {
		return nil, fmt.Errorf("shard checksums: %w: %d bytes for %d columns", ErrFormat, len(b), columns)
	}
	sums := make([]uint32, columns)
	for i := range sums {
		sums[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return sums, nil
}

// Sum is the checksum of one column, to locate damage; it proves nothing.
func Sum(column []byte) uint32 { return crc32.Checksum(column, castagnoli) }

// CheckShard reads a whole shard: its header, and the columns that are
// damaged. With one header damaged it returns the other and an error.
func CheckShard(b []byte) (h Header, damaged []int, err error) {
	if len(b) < 2*HeaderLen {
		return Header{}, nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	if h, err = checkHeaders(b[:HeaderLen], b[len(b)-HeaderLen:], int64(len(b))); err != nil {
		return h, nil, err
	}
	got := make([]uint32, h.Columns())
	for c := range got {
		got[c] = Sum(b[PayloadOffset(c):PayloadOffset(c+1)])
	}
	damaged, err = compareSums(b[PayloadOffset(len(got)):len(b)-HeaderLen], got)
	return h, damaged, err
}

// CheckParts is CheckShard for a shard that was not kept: of length bytes in
// all, with its two headers, its table of checksums, and the checksums that
// its columns have.
func CheckParts(head, table, tail []byte, length int64, got []uint32) (h Header, damaged []int, err error) {
	if h, err = checkHeaders(head, tail, length); err != nil {
		return h, nil, err
	}
	damaged, err = compareSums(table, got)
	return h, damaged, err
}

func checkHeaders(head, tail []byte, length int64) (Header, error) {
	h, err := ParseHeader(head)
	last, tailErr := ParseHeader(tail)
	switch {
	case err != nil && tailErr != nil:
		return Header{}, err
	case err != nil: // the copy at the end says what the shard is
		return last, fmt.Errorf("first header: %w", err)
	case tailErr != nil:
		return h, fmt.Errorf("header copy at the end: %w", tailErr)
	case h != last:
		return h, fmt.Errorf("%w: its two headers differ", ErrFormat)
	case length != h.ShardLen():
		return h, fmt.Errorf("%w: %d bytes, header says %d", ErrFormat, length, h.ShardLen())
	}
	return h, nil
}

func compareSums(table []byte, got []uint32) (damaged []int, err error) {
	sums, err := ParseSums(table, len(got))
	for c, want := range sums {
		if got[c] != want {
			damaged = append(damaged, c)
		}
	}
	return damaged, err
}
