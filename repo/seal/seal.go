// Package seal encrypts and authenticates one object under one key, as a FLOE
// message that can be opened segment by segment.
//
// FLOE (c2sp.org/FLOE; eprint 2025/2275) is AES-256-GCM in numbered segments
// under keys derived from a committing header. Its parameters here are fixed:
// AES-256-GCM, HKDF-Expand-SHA-384, a 32-byte message IV and segments of
// 64 KiB.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

const (
	// KeyLen is the length of a message key in bytes.
	KeyLen = 32
	// HeaderLen is the length of a message's header in bytes.
	HeaderLen = paramLen + ivLen + tagLen
	// SegmentLen is the length of every sealed segment but the last.
	SegmentLen = 64 << 10
	// SegmentOverhead is what sealing adds to each segment: a length, a nonce
	// and a tag.
	SegmentOverhead = 4 + 12 + 16
	// SegmentData is the plaintext length of every segment but the last.
	SegmentData = SegmentLen - SegmentOverhead

	paramLen = 10
	ivLen    = 32
	tagLen   = 32
	// notLast stands where the last segment has its length.
	notLast = 0xFFFFFFFF
)

// ErrAuth means that a header or segment is not what was sealed under this
// key, these associated data, and at this place.
var ErrAuth = errors.New("authentication failed")

// params are FLOE's; tests use other ones for the published vectors.
type params struct {
	segmentLen   int
	rotationBits uint
}

var standard = params{segmentLen: SegmentLen, rotationBits: 20}

func (p params) encode() [paramLen]byte {
	var b [paramLen]byte // AEAD_ID 0 (AES-256-GCM), KDF_ID 0 (HKDF-Expand-SHA-384)
	binary.BigEndian.PutUint32(b[2:], uint32(p.segmentLen))
	binary.BigEndian.PutUint32(b[6:], ivLen)
	return b
}

// message is what sealing and opening share: the keys of one message.
type message struct {
	p       params
	iv      [ivLen]byte
	aad     []byte
	key     []byte // FLOE's MessageKey
	aead    cipher.AEAD
	aeadFor uint64 // the masked segment number that aead's key is for
}

func (m *message) kdf(key []byte, purpose string, extra []byte, n int) ([]byte, error) {
	p := m.p.encode()
	info := make([]byte, 0, paramLen+ivLen+len(purpose)+len(extra)+len(m.aad))
	info = append(info, p[:]...)
	info = append(info, m.iv[:]...)
	info = append(info, purpose...)
	info = append(info, extra...)
	info = append(info, m.aad...)
	return hkdf.Expand(sha512.New384, key, string(info), n)
}

// start derives the header tag and the message key.
func (m *message) start(key []byte) (tag []byte, err error) {
	if len(key) != KeyLen {
		return nil, fmt.Errorf("seal: key has %d bytes, not %d", len(key), KeyLen)
	}
	if tag, err = m.kdf(key, "HEADER_TAG:", nil, tagLen); err != nil {
		return nil, err
	}
	m.key, err = m.kdf(key, "MESSAGE_KEY:", nil, sha512.Size384)
	return tag, err
}

// segmentAEAD returns the cipher of segment n; it changes every
// 2^rotationBits segments.
func (m *message) segmentAEAD(n uint64) (cipher.AEAD, error) {
	masked := n >> m.p.rotationBits << m.p.rotationBits
	if m.aead != nil && m.aeadFor == masked {
		return m.aead, nil
	}
	var num [8]byte
	binary.BigEndian.PutUint64(num[:], masked)
	key, err := m.kdf(m.key, "DEK:", num[:], KeyLen)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	// The random-nonce variant writes nonce ‖ ciphertext ‖ tag, which is
	// FLOE's layout, and is the one that FIPS mode allows.
	if m.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, err
	}
	m.aeadFor = masked
	return m.aead, nil
}

func segmentAAD(n uint64, last bool) []byte {
	var b [9]byte
	binary.BigEndian.PutUint64(b[:], n)
	if last {
		b[8] = 1
	}
	return b[:]
}

// A Sealer seals the segments of one message. It is not safe for concurrent
// use.
type Sealer struct {
	m      message
	header [HeaderLen]byte
}

// NewSealer begins a message under key, bound to aad.
func NewSealer(key, aad []byte) (*Sealer, error) { return newSealer(standard, key, aad) }

func newSealer(p params, key, aad []byte) (*Sealer, error) {
	s := &Sealer{m: message{p: p, aad: append([]byte(nil), aad...)}}
	rand.Read(s.m.iv[:])
	tag, err := s.m.start(key)
	if err != nil {
		return nil, err
	}
	enc := p.encode()
	copy(s.header[:], enc[:])
	copy(s.header[paramLen:], s.m.iv[:])
	copy(s.header[paramLen+ivLen:], tag)
	return s, nil
}

// Header returns the message's header, which opening needs.
func (s *Sealer) Header() [HeaderLen]byte { return s.header }

// Segment appends sealed segment n to dst. Every segment but the last must
// have exactly SegmentData bytes. Each number must be sealed only once.
func (s *Sealer) Segment(dst, plaintext []byte, n uint64, last bool) ([]byte, error) {
	full := s.m.p.segmentLen - SegmentOverhead
	if len(plaintext) > full || !last && len(plaintext) != full {
		return nil, fmt.Errorf("seal: segment %d has %d bytes", n, len(plaintext))
	}
	aead, err := s.m.segmentAEAD(n)
	if err != nil {
		return nil, err
	}
	word := uint32(notLast)
	if last {
		word = uint32(len(plaintext) + SegmentOverhead)
	}
	dst = binary.BigEndian.AppendUint32(dst, word)
	return aead.Seal(dst, nil, plaintext, segmentAAD(n, last)), nil
}

// An Opener opens the segments of one message in any order. It is not safe
// for concurrent use.
type Opener struct{ m message }

// NewOpener checks the header against key and aad: FLOE's header tag commits
// to both.
func NewOpener(key, aad, header []byte) (*Opener, error) {
	return newOpener(standard, key, aad, header)
}

func newOpener(p params, key, aad, header []byte) (*Opener, error) {
	if len(header) != HeaderLen {
		return nil, fmt.Errorf("seal: header has %d bytes, not %d", len(header), HeaderLen)
	}
	enc := p.encode()
	if string(header[:paramLen]) != string(enc[:]) {
		return nil, fmt.Errorf("seal: header has unknown parameters %x", header[:paramLen])
	}
	o := &Opener{m: message{p: p, aad: append([]byte(nil), aad...)}}
	copy(o.m.iv[:], header[paramLen:])
	tag, err := o.m.start(key)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(tag, header[paramLen+ivLen:]) != 1 {
		return nil, fmt.Errorf("seal: header: %w", ErrAuth)
	}
	return o, nil
}

// Segment appends the plaintext of sealed segment n to dst. The caller says
// whether it is the last one, from a length it trusts: never from the
// segment.
func (o *Opener) Segment(dst, sealed []byte, n uint64, last bool) ([]byte, error) {
	if len(sealed) < SegmentOverhead || len(sealed) > o.m.p.segmentLen || !last && len(sealed) != o.m.p.segmentLen {
		return nil, fmt.Errorf("seal: segment %d has %d bytes", n, len(sealed))
	}
	word := uint32(notLast)
	if last {
		word = uint32(len(sealed))
	}
	if binary.BigEndian.Uint32(sealed) != word {
		return nil, fmt.Errorf("seal: segment %d: %w", n, ErrAuth)
	}
	aead, err := o.m.segmentAEAD(n)
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(dst, nil, sealed[4:], segmentAAD(n, last))
	if err != nil {
		return nil, fmt.Errorf("seal: segment %d: %w", n, ErrAuth)
	}
	return out, nil
}

// Segments returns how many segments a plaintext of n bytes takes: at least
// one.
func Segments(n int64) int64 { return max(1, (n+SegmentData-1)/SegmentData) }

// SealedLen returns the length of all segments of a plaintext of n bytes,
// without the header.
func SealedLen(n int64) int64 { return n + Segments(n)*SegmentOverhead }

// PlainLen is the inverse of SealedLen; it rejects lengths that no message
// has.
func PlainLen(sealed int64) (int64, error) {
	segs := (sealed + SegmentLen - 1) / SegmentLen
	n := sealed - segs*SegmentOverhead
	if sealed < SegmentOverhead || n < 0 || SealedLen(n) != sealed {
		return 0, fmt.Errorf("seal: no message has %d bytes", sealed)
	}
	return n, nil
}

// Seal returns header and segments of plaintext as one message.
func Seal(key, aad, plaintext []byte) ([]byte, error) {
	s, err := NewSealer(key, aad)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, HeaderLen+SealedLen(int64(len(plaintext))))
	out = append(out, s.header[:]...)
	for n := uint64(0); ; n++ {
		last := len(plaintext) <= SegmentData
		piece := plaintext[:min(len(plaintext), SegmentData)]
		if out, err = s.Segment(out, piece, n, last); err != nil || last {
			return out, err
		}
		plaintext = plaintext[len(piece):]
	}
}

// Open returns the plaintext of a whole message made by Seal.
func Open(key, aad, msg []byte) ([]byte, error) {
	if len(msg) < HeaderLen {
		return nil, fmt.Errorf("seal: message has %d bytes", len(msg))
	}
	// One length a plaintext: a full segment and an empty last one behind it
	// is not how Seal ends a message.
	if _, err := PlainLen(int64(len(msg) - HeaderLen)); err != nil {
		return nil, err
	}
	o, err := NewOpener(key, aad, msg[:HeaderLen])
	if err != nil {
		return nil, err
	}
	body := msg[HeaderLen:]
	out := make([]byte, 0, len(body))
	for n := uint64(0); ; n++ {
		last := len(body) <= SegmentLen
		piece := body[:min(len(body), SegmentLen)]
		if out, err = o.Segment(out, piece, n, last); err != nil || last {
			return out, err
		}
		body = body[len(piece):]
	}
}

// PaddedLen returns the Padmé length of n: the smallest length not below n
// that keeps only the top ⌈log2 log2 n⌉+1 or so bits, so that an observer
// learns O(log log n) bits and the padding is at most 12 % (Nikitin et al.,
// "Reducing Metadata Leakage from Encrypted Files and Communication with
// PURBs", PETS 2019).
func PaddedLen(n int64) int64 {
	if n < 2 {
		return n
	}
	e := bits.Len64(uint64(n)) - 1
	s := bits.Len64(uint64(e))
	mask := int64(1)<<(e-s) - 1
	return (n + mask) &^ mask
}
