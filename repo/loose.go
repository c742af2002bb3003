package repo

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"strongroom/erasure"
)

// A Loose object is a manifest, supplement or tombstone that was found without
// its name, where a file system is gone.
type Loose struct {
	Kind       string
	Key        string // the name that it has to have
	Tenant     ID
	Generation ID
	Shards     []LooseShards // that it lists
}

// LooseShards are the hashes of shards First, First+1, … of a pack.
type LooseShards struct {
	Pack, Encode erasure.ID
	K, First     int
	SHA256       [][32]byte
}

// LooseHead is how many bytes LooseLen needs.
const LooseHead = noticeHead + looseParts + 2*(4+32)

// looseParts is where the lengths of the sealed parts stand in the clear part of
// a manifest.
const looseParts = 2 + 2 + 3*16 + 4 + 4 + 32 + 4 + 8 + 8 + 32 + 32

// LooseLen reports whether b, the first LooseHead bytes of something, could
// begin such an object, and how long it would be: of at most 136 MiB.
func LooseLen(b []byte) (n int64, ok bool) {
	if len(b) < LooseHead {
		return 0, false
	}
	be := binary.BigEndian
	clear := int64(be.Uint32(b[8:]))
	n = noticeHead + clear + ed25519.SignatureSize
	switch string(b[:8]) {
	case supplements.magic, tombstones.magic:
		return n, n <= max(maxSupplement, maxTomb)
	case manifestMagic:
		parts := b[noticeHead+looseParts:]
		one, two := int64(be.Uint32(parts)), int64(be.Uint32(parts[36:]))
		return n + one + two, clear <= maxClear && one <= maxPart1 && two <= maxPart2
	}
	return 0, false
}

// ParseLoose checks a whole object and says where it belongs. Where trust is
// nil it has to be signed by the key that it names itself: that shows that it is
// whole, and nothing about who wrote it. Whoever reads it as an object of a
// repository checks that.
func ParseLoose(raw []byte, trust Trust) (*Loose, error) {
	if trust == nil {
		trust = func(box [ed25519.PublicKeySize]byte, _ uint32, message, signature []byte) error {
			if !ed25519.Verify(box[:], message, signature) {
				return errors.New("the signature is not of these bytes")
			}
			return nil
		}
	}
	if len(raw) < noticeHead {
		return nil, fmt.Errorf("%w: %d bytes", ErrIntegrity, len(raw))
	}
	switch string(raw[:8]) {
	case manifestMagic:
		m, err := parseManifest(raw, trust)
		if err != nil {
			return nil, err
		}
		l := &Loose{Kind: "manifest", Key: m.Key(), Tenant: m.Tenant, Generation: m.Generation}
		for _, p := range m.Packs {
			l.Shards = append(l.Shards, LooseShards{Pack: p.ID, Encode: p.Encode, K: p.Geometry.K, SHA256: p.Shards})
		}
		return l, nil
	case supplements.magic:
		s, err := parseSupplement(raw, trust)
		if err != nil {
			return nil, err
		}
		l := &Loose{Kind: supplements.name, Key: supplements.key(s.Tenant, s.Generation, raw), Tenant: s.Tenant, Generation: s.Generation}
		for _, p := range s.Packs {
			l.Shards = append(l.Shards, LooseShards{p.ID, p.Encode, int(p.K), int(p.First), p.Shards})
		}
		return l, nil
	case tombstones.magic:
		clear, err := tombstones.clear(raw)
		if err != nil {
			return nil, err
		}
		t, err := parseTombClear(clear)
		if err != nil {
			return nil, fmt.Errorf("%w: tombstone: %v", ErrIntegrity, err)
		}
		s, err := ParseTombstone(tombstones.key(t.Tenant, t.Generation, raw), raw, t.Tenant, trust)
		if err != nil {
			return nil, err
		}
		return &Loose{Kind: tombstones.name, Key: s.Key(), Tenant: t.Tenant, Generation: t.Generation}, nil
	}
	return nil, fmt.Errorf("%w: no object that is known", ErrIntegrity)
}
