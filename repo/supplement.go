package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"strongroom/erasure"
	"strongroom/repo/spread"
)

const (
	// maxSupplement bounds the object in bytes; one of so many packs with a few
	// shards each is far below.
	maxSupplement   = 1 << 20
	supplementPacks = 128
)

var supplements = noticeKind{name: "supplement", magic: "SRSUPPL1", context: "strongroom supplement 1\n", letter: "x", most: maxSupplement}

// A supplement lists further shards of packs of one generation: what was put on
// stores after the manifest was signed. Rows of the code do not depend on how
// many there are, so nothing is coded anew.
type supplement struct {
	Tenant      ID
	Dataset     ID
	Generation  ID
	Sequence    uint32   // of the manifest it was made from
	Manifest    [32]byte // SHA-256 of that
	Box         [ed25519.PublicKeySize]byte
	Incarnation uint32
	Time        time.Time
	Packs       []furtherShards
}

// furtherShards are the hashes of shards first, first+1, … of a pack.
type furtherShards struct {
	Number     uint32
	ID, Encode erasure.ID
	K, First   uint8
	Shards     [][32]byte
}

func (s *supplement) appendClear(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, formatVersion)
	b = append(b, 0, 0)
	b = append(append(append(b, s.Tenant[:]...), s.Dataset[:]...), s.Generation[:]...)
	b = be.AppendUint32(b, s.Sequence)
	b = append(append(b, s.Manifest[:]...), s.Box[:]...)
	b = be.AppendUint32(b, s.Incarnation)
	b = appendTime(b, s.Time)
	b = be.AppendUint32(b, uint32(len(s.Packs)))
	for _, p := range s.Packs {
		b = be.AppendUint32(b, p.Number)
		b = append(append(b, p.ID[:]...), p.Encode[:]...)
		b = append(b, p.K, p.First, byte(len(p.Shards)))
		for _, h := range p.Shards {
			b = append(b, h[:]...)
		}
	}
	return b
}

func parseSupplementClear(b []byte) (*supplement, error) {
	c := &cursor{b: b}
	s := &supplement{}
	if v := c.u16(); v != formatVersion {
		return nil, fmt.Errorf("format %d is not known to this program", v)
	}
	c.take(2)
	copy(s.Tenant[:], c.take(16))
	copy(s.Dataset[:], c.take(16))
	copy(s.Generation[:], c.take(16))
	s.Sequence = c.u32()
	copy(s.Manifest[:], c.take(32))
	copy(s.Box[:], c.take(len(s.Box)))
	s.Incarnation = c.u32()
	s.Time = c.time()
	n := int(c.u32())
	if n > supplementPacks {
		return nil, fmt.Errorf("%d packs", n)
	}
	for i := range n {
		p := furtherShards{Number: c.u32()}
		copy(p.ID[:], c.take(16))
		copy(p.Encode[:], c.take(16))
		p.K, p.First = c.u8(), c.u8()
		count := int(c.u8())
		if p.K < 1 || p.K > erasure.MaxK || p.First < p.K || count < 1 || int(p.First)+count > erasure.MaxN || i > 0 && p.Number <= s.Packs[i-1].Number {
			return nil, fmt.Errorf("pack %d is out of bounds or order", i)
		}
		for range count {
			p.Shards = append(p.Shards, [32]byte(c.take(32)))
		}
		s.Packs = append(s.Packs, p)
	}
	if c.bad || len(c.b) != 0 {
		return nil, errors.New("wrong length")
	}
	if n == 0 || s.Sequence == 0 || s.Time.IsZero() || !bytes.Equal(s.appendClear(nil), b) {
		return nil, errors.New("bad field")
	}
	return s, nil
}

// apart reports whether s lists shards of an offline set.
func (s *supplement) apart() bool {
	return slices.ContainsFunc(s.Packs, func(p furtherShards) bool { return p.First >= erasure.FirstApart })
}

// sign returns the whole object.
func (s *supplement) sign(by Signer) []byte {
	s.Box = by.Public()
	return supplements.sign(s.appendClear(nil), by)
}

// parseSupplement checks an object against the trusted box keys.
func parseSupplement(raw []byte, trust Trust) (*supplement, error) {
	clear, err := supplements.clear(raw)
	if err != nil {
		return nil, err
	}
	s, err := parseSupplementClear(clear)
	if err != nil {
		return nil, fmt.Errorf("%w: supplement: %v", ErrIntegrity, err)
	}
	if err := supplements.verify(raw, s.Box, s.Incarnation, trust); err != nil {
		return nil, err
	}
	return s, nil
}

// foundSupplement is one that a store has.
type foundSupplement struct {
	*supplement
	key string
	raw []byte
}

// readSupplements reads every supplement of the tenant and enters the shards
// that it lists into the snapshots, as if their manifests had listed them. Its
// name says what it holds, so one good copy is enough.
func (r *Repo) readSupplements(ctx context.Context, l *Listing) {
	for key, at := range l.inventory.Keys() {
		if !supplements.is(key) {
			continue
		}
		for _, m := range at {
			s, err := r.readSupplement(ctx, l.inventory, key, m)
			if err == nil {
				l.supplements = append(l.supplements, s)
				break
			}
			name := r.Members[m].Name
			l.Problems = append(l.Problems, Problem{Store: name, Object: key, Err: err, Text: fmt.Sprintf("store %q: supplement %s: %v", name, key, err)})
		}
	}
	slices.SortFunc(l.supplements, func(a, b foundSupplement) int { return strings.Compare(a.key, b.key) })
	l.supplement()
}

func (r *Repo) readSupplement(ctx context.Context, inv *spread.Inventory, key string, member int) (f foundSupplement, err error) {
	size := inv.Size(key, member)
	if size < 0 || size > maxSupplement {
		return f, fmt.Errorf("%w: %d bytes", ErrIntegrity, size)
	}
	raw, err := readObject(ctx, r.Members[member].Store, key, size)
	if err != nil {
		return f, err
	}
	s, err := parseSupplement(raw, r.Trust)
	if err != nil {
		return f, err
	}
	if s.Tenant != r.Tenant || supplements.key(s.Tenant, s.Generation, raw) != key {
		return f, fmt.Errorf("%w: it is another supplement than its name says", ErrIntegrity)
	}
	return foundSupplement{s, key, raw}, nil
}

// rowKey names the shards of one encoding. The number of the pack is none of
// it: the ids are random.
type rowKey struct {
	generation ID
	id, encode erasure.ID
	k          int
}

// supplement enters what the supplements list. Where shards of one encoding
// have different hashes somebody erred who may sign, and neither is believed.
func (l *Listing) supplement() {
	further := map[rowKey][]furtherShards{}
	for _, s := range l.supplements {
		for _, p := range s.Packs {
			key := rowKey{s.Generation, p.ID, p.Encode, int(p.K)}
			further[key] = append(further[key], p)
		}
	}
	if len(further) == 0 {
		return
	}
	for _, list := range further {
		slices.SortFunc(list, func(a, b furtherShards) int {
			return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(len(a.Shards), len(b.Shards)))
		})
	}
	told := map[rowKey]bool{}
	for _, snap := range l.Snapshots {
		for i := range snap.Packs {
			p := &snap.Packs[i]
			key := rowKey{snap.Generation, p.ID, p.Encode, p.Geometry.K}
			if !p.extend(further[key]) && !told[key] {
				told[key] = true
				l.Problems = append(l.Problems, Problem{Object: snap.Key(), Err: ErrIntegrity, Text: fmt.Sprintf("supplements contradict the shards of pack %v", p.ID)})
			}
		}
	}
}

// extend appends shards to those of a pack, where they follow on them; those of
// offline sets stand apart. It reports false, and changes nothing, where hashes
// differ.
func (p *PackRecord) extend(list []furtherShards) bool {
	shards, apart := slices.Clip(p.Shards), map[int][32]byte{}
	for _, f := range list {
		for j, h := range f.Shards {
			i := int(f.First) + j
			switch known, listed := apart[i]; {
			case i < len(shards) && shards[i] != h, listed && known != h:
				return false
			case i < len(shards):
			case i >= erasure.FirstApart:
				apart[i] = h
			case i == len(shards):
				shards = append(shards, h)
			}
		}
	}
	p.Shards, p.Geometry.N, p.Apart = shards, len(shards), nil
	for _, i := range slices.Sorted(maps.Keys(apart)) {
		p.Apart = append(p.Apart, spread.Row{Index: i, SHA256: apart[i]})
	}
	return true
}
