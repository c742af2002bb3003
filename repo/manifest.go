package repo

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/seal"
	"strongroom/repo/spread"
)

// Errors about manifests that callers branch on.
var (
	// ErrIntegrity: bytes are not what a trusted box signed or sealed.
	ErrIntegrity = errors.New("integrity failure")
	// ErrWrongKey: a generation or catalogue key does not open what it should.
	ErrWrongKey = errors.New("wrong key")
)

const (
	manifestMagic = "SRMANIF1"
	signContext   = "strongroom manifest 1\n"

	// Bounds of a manifest's parts in bytes. A pack takes 116 bytes and 32 a
	// shard, so clear parts stay below this for 8 TiB in a generation.
	maxClear   = 64 << 20
	maxPart1   = 4 << 20
	maxPart2   = 64 << 20
	maxPacks   = 1 << 20
	maxCapsule = 8 << 10
)

// PackRecord is a pack and its number in its generation.
type PackRecord struct {
	Number uint32
	spread.Pack
}

// A part says what a sealed part must be.
type part struct {
	Length uint32
	SHA256 [32]byte
}

// A Manifest is the clear, signed part of a snapshot: all that scrubbing,
// repair and expiry need, and no name.
type Manifest struct {
	Tenant      ID
	Dataset     ID
	Generation  ID
	Epoch       uint32 // counts the dataset's generations from 1
	Sequence    uint32 // counts the snapshots of the generation from 1
	Box         [ed25519.PublicKeySize]byte
	Incarnation uint32 // counts the states of the box that wrote it
	Time        time.Time
	KeepUntil   time.Time // zero: no promise
	Previous    [32]byte  // SHA-256 of the dataset's manifest before; zero for the first
	TenantKey   [32]byte  // fingerprint of T
	Capsule     []byte    // the generation key sealed to T
	Packs       []PackRecord

	part1, part2 part
}

// Key names the manifest's object.
func (m *Manifest) Key() string { return manifestKey(m.Tenant, m.Generation, m.Sequence) }

func generationPrefix(tenant, generation ID) string {
	return tenant.String() + "/" + generation.String() + "/"
}

func manifestKey(tenant, generation ID, sequence uint32) string {
	return fmt.Sprintf("%sm-%08x", generationPrefix(tenant, generation), sequence)
}

// PackByNumber returns the record of a pack.
func (m *Manifest) PackByNumber(n uint32) (PackRecord, bool) {
	// Numbers ascend and have few gaps.
	lo, hi := 0, len(m.Packs)
	for lo < hi {
		mid := (lo + hi) / 2
		if m.Packs[mid].Number < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(m.Packs) || m.Packs[lo].Number != n {
		return PackRecord{}, false
	}
	return m.Packs[lo], true
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(b, 0)
	}
	return binary.BigEndian.AppendUint64(b, uint64(t.Unix()))
}

// appendClear appends the clear part; FORMAT.md has the table.
func (m *Manifest) appendClear(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, formatVersion)
	b = append(b, 0, 0)
	b = append(append(append(b, m.Tenant[:]...), m.Dataset[:]...), m.Generation[:]...)
	b = be.AppendUint32(b, m.Epoch)
	b = be.AppendUint32(b, m.Sequence)
	b = append(b, m.Box[:]...)
	b = be.AppendUint32(b, m.Incarnation)
	b = appendTime(b, m.Time)
	b = appendTime(b, m.KeepUntil)
	b = append(append(b, m.Previous[:]...), m.TenantKey[:]...)
	for _, p := range []part{m.part1, m.part2} {
		b = be.AppendUint32(b, p.Length)
		b = append(b, p.SHA256[:]...)
	}
	b = be.AppendUint16(b, uint16(len(m.Capsule)))
	b = append(b, m.Capsule...)
	b = be.AppendUint32(b, uint32(len(m.Packs)))
	for _, p := range m.Packs {
		b = be.AppendUint32(b, p.Number)
		b = append(append(b, p.ID[:]...), p.Encode[:]...)
		b = be.AppendUint32(b, uint32(p.MessageLen))
		b = append(b, byte(p.Geometry.K), byte(p.Geometry.N))
		b = append(b, p.Seal[:]...)
		for _, s := range p.Shards {
			b = append(b, s[:]...)
		}
	}
	return b
}

// A cursor reads fixed fields and remembers the first shortage.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.bad = true
		return make([]byte, n)
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u8() byte    { return c.take(1)[0] }
func (c *cursor) u16() uint16 { return binary.BigEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cursor) time() time.Time {
	s := binary.BigEndian.Uint64(c.take(8))
	if s == 0 {
		return time.Time{}
	}
	if s > 1<<40 {
		c.bad = true
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

func parseClear(b []byte) (*Manifest, error) {
	c := &cursor{b: b}
	m := &Manifest{}
	if v := c.u16(); v != formatVersion {
		return nil, fmt.Errorf("format %d is not known to this program", v)
	}
	c.take(2)
	copy(m.Tenant[:], c.take(16))
	copy(m.Dataset[:], c.take(16))
	copy(m.Generation[:], c.take(16))
	m.Epoch, m.Sequence = c.u32(), c.u32()
	copy(m.Box[:], c.take(len(m.Box)))
	m.Incarnation = c.u32()
	m.Time, m.KeepUntil = c.time(), c.time()
	copy(m.Previous[:], c.take(32))
	copy(m.TenantKey[:], c.take(32))
	for _, p := range []*part{&m.part1, &m.part2} {
		p.Length = c.u32()
		copy(p.SHA256[:], c.take(32))
	}
	n := int(c.u16())
	if n > maxCapsule {
		return nil, fmt.Errorf("capsule of %d bytes", n)
	}
	m.Capsule = bytes.Clone(c.take(n))
	if err := parsePacks(c, m); err != nil {
		return nil, err
	}
	if c.bad || len(c.b) != 0 {
		return nil, errors.New("wrong length")
	}
	if m.Epoch == 0 || m.Sequence == 0 || m.Time.IsZero() || m.part1.Length > maxPart1 || m.part2.Length > maxPart2 ||
		!bytes.Equal(m.appendClear(nil), b) {
		return nil, errors.New("bad field")
	}
	return m, nil
}

func parsePacks(c *cursor, m *Manifest) error {
	count := int(c.u32())
	if count > maxPacks || count*(4+16+16+4+2+seal.HeaderLen) > len(c.b) {
		return fmt.Errorf("%d packs", count)
	}
	m.Packs = make([]PackRecord, count)
	for i := range m.Packs {
		p := &m.Packs[i]
		p.Number = c.u32()
		copy(p.ID[:], c.take(16))
		copy(p.Encode[:], c.take(16))
		p.MessageLen = int64(c.u32())
		p.Geometry = erasure.Geometry{K: int(c.u8()), N: int(c.u8())}
		copy(p.Seal[:], c.take(seal.HeaderLen))
		if !p.Geometry.Valid() || p.MessageLen > seal.SealedLen(pack.MaxPlain) || i > 0 && p.Number <= m.Packs[i-1].Number {
			return fmt.Errorf("pack %d is out of bounds or order", i)
		}
		if _, err := seal.PlainLen(p.MessageLen); err != nil {
			return fmt.Errorf("pack %d: %v", i, err)
		}
		p.Shards = make([][32]byte, p.Geometry.N)
		for j := range p.Shards {
			copy(p.Shards[j][:], c.take(32))
		}
	}
	return nil
}

// A Signer holds the box's Ed25519 key and signs with it.
type Signer interface {
	Public() [ed25519.PublicKeySize]byte
	Sign(message []byte) []byte
}

// Trust says whether a signature is good: made by a box key that is believed
// for that incarnation of the box. The keys come from the box's own key store
// or from a kit, never from a store.
type Trust func(box [ed25519.PublicKeySize]byte, incarnation uint32, message, signature []byte) error

// signed is the object of a manifest with its sealed parts.
type signed struct {
	*Manifest
	raw          []byte
	hash         [32]byte // SHA-256 of raw: what the next manifest names
	part1, part2 []byte
}

// sealManifest seals the parts, completes m and returns the whole object.
func sealManifest(m *Manifest, catalogue, generation Secret, c *Catalogue, contents *Contents, s Signer) (*signed, error) {
	p1, err := sealPart(kindCatalogue, m, catalogue, c)
	if err != nil {
		return nil, err
	}
	p2, err := sealPart(kindContents, m, generation, contents)
	if err != nil {
		return nil, err
	}
	if len(p1) > maxPart1 || len(p2) > maxPart2 || len(m.Packs) > maxPacks || len(m.Capsule) > maxCapsule {
		return nil, fmt.Errorf("manifest is too large: %d and %d bytes, %d packs", len(p1), len(p2), len(m.Packs))
	}
	m.part1 = part{uint32(len(p1)), sha256.Sum256(p1)}
	m.part2 = part{uint32(len(p2)), sha256.Sum256(p2)}
	m.Box = s.Public()
	clear := m.appendClear(nil)
	raw := append([]byte(manifestMagic), binary.BigEndian.AppendUint32(nil, uint32(len(clear)))...)
	raw = append(raw, clear...)
	raw = append(raw, s.Sign(append([]byte(signContext), raw...))...)
	raw = append(append(raw, p1...), p2...)
	return &signed{Manifest: m, raw: raw, hash: sha256.Sum256(raw), part1: p1, part2: p2}, nil
}

// parseManifest checks an object against the trusted box keys and returns it.
// The signature is checked before anything is believed but the length.
func parseManifest(raw []byte, trust Trust) (*signed, error) {
	const head = len(manifestMagic) + 4
	if len(raw) < head+ed25519.SignatureSize || string(raw[:8]) != manifestMagic {
		return nil, fmt.Errorf("%w: not a manifest", ErrIntegrity)
	}
	n := int64(binary.BigEndian.Uint32(raw[8:]))
	if n > maxClear || int64(len(raw)) < int64(head)+n+ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: manifest cut off", ErrIntegrity)
	}
	end := head + int(n)
	message := append([]byte(signContext), raw[:end]...)
	sig, rest := raw[end:end+ed25519.SignatureSize], raw[end+ed25519.SignatureSize:]
	m, err := parseClear(raw[head:end])
	if err != nil {
		return nil, fmt.Errorf("%w: manifest: %v", ErrIntegrity, err)
	}
	if err := trust(m.Box, m.Incarnation, message, sig); err != nil {
		return nil, fmt.Errorf("%w: manifest signed by box key %x: %w", ErrIntegrity, m.Box[:8], err)
	}
	if int64(len(rest)) != int64(m.part1.Length)+int64(m.part2.Length) {
		return nil, fmt.Errorf("%w: manifest parts have %d bytes", ErrIntegrity, len(rest))
	}
	s := &signed{Manifest: m, raw: raw, hash: sha256.Sum256(raw), part1: rest[:m.part1.Length], part2: rest[m.part1.Length:]}
	if sha256.Sum256(s.part1) != m.part1.SHA256 || sha256.Sum256(s.part2) != m.part2.SHA256 {
		return nil, fmt.Errorf("%w: manifest part hash", ErrIntegrity)
	}
	return s, nil
}

// sealPart seals v as JSON, padded with spaces to a Padmé length.
func sealPart(kind byte, m *Manifest, k Secret, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	b = append(b, bytes.Repeat([]byte{' '}, int(seal.PaddedLen(int64(len(b))))-len(b))...)
	id := sequenceID(m.Sequence)
	key, err := deriveKey(k, kind, m.Generation, id)
	if err != nil {
		return nil, err
	}
	return seal.Seal(key, associated(kind, m.Tenant, m.Generation, id), b)
}

func openPart(kind byte, m *Manifest, k Secret, sealed []byte, v any) error {
	id := sequenceID(m.Sequence)
	key, err := deriveKey(k, kind, m.Generation, id)
	if err != nil {
		return err
	}
	b, err := seal.Open(key, associated(kind, m.Tenant, m.Generation, id), sealed)
	if errors.Is(err, seal.ErrAuth) {
		return fmt.Errorf("%w: %v", ErrWrongKey, err)
	} else if err != nil {
		return fmt.Errorf("%w: %v", ErrIntegrity, err)
	}
	// One spelling: an object of valid UTF-8, and spaces to the padded length.
	text := bytes.TrimRight(b, " ")
	if !utf8.Valid(text) || !bytes.HasPrefix(text, []byte("{")) || int64(len(b)) != seal.PaddedLen(int64(len(text))) {
		return fmt.Errorf("%w: sealed part: %d bytes are not a padded object", ErrIntegrity, len(b))
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: sealed part: %v", ErrIntegrity, err)
	}
	if rest := len(text) - int(dec.InputOffset()); rest != 0 {
		return fmt.Errorf("%w: sealed part: %d bytes behind it", ErrIntegrity, rest)
	}
	return nil
}
