package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// tombFixed is what the clear part of a tombstone has beside its list.
	tombFixed = 2 + 2 + 3*16 + 4 + 32 + 4 + 8 + 8 + 4
	maxTomb   = 1 << 20
)

var tombstones = noticeKind{name: "tombstone", magic: "SRTOMB01", context: "strongroom tombstone 1\n", letter: "t", most: maxTomb}

// A Reason says why a generation goes. Stores read it, so it is no text.
type Reason byte

const (
	ByPolicy  Reason = 1 // no rule keeps any of its snapshots
	ByCompact Reason = 2 // those that are kept were copied and compared
)

func (r Reason) String() string {
	switch r {
	case ByPolicy:
		return "expired"
	case ByCompact:
		return "compacted"
	}
	return fmt.Sprintf("reason %d", byte(r))
}

// A Grave is a snapshot that a tombstone names.
type Grave struct {
	Sequence uint32
	Manifest [32]byte // SHA-256
}

// A Tombstone says that a generation goes: its snapshots are not to be listed
// any more, wherever they turn up again, and its objects are to be deleted once
// it is NotBefore. It is signed and names no name.
type Tombstone struct {
	Tenant      ID
	Dataset     ID
	Generation  ID
	Epoch       uint32
	Box         [ed25519.PublicKeySize]byte
	Incarnation uint32
	Time        time.Time // by the box's clock
	NotBefore   time.Time
	Reason      Reason
	Snapshots   []Grave // ascending
}

// A StandingTombstone is one that was found on stores and believed.
type StandingTombstone struct {
	Tombstone
	Raw    []byte
	Stores []string // that have it
}

// Key names a tombstone's object.
func (t *StandingTombstone) Key() string { return tombstones.key(t.Tenant, t.Generation, t.Raw) }

// Names reports whether the tombstone names a snapshot.
func (t *Tombstone) Names(s *Snapshot) bool {
	return t.Generation == s.Generation && slices.Contains(t.Snapshots, Grave{s.Sequence, s.hash})
}

func (t *Tombstone) appendClear(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint16(b, formatVersion)
	b = append(b, 0, 0)
	b = append(append(append(b, t.Tenant[:]...), t.Dataset[:]...), t.Generation[:]...)
	b = be.AppendUint32(b, t.Epoch)
	b = append(b, t.Box[:]...)
	b = be.AppendUint32(b, t.Incarnation)
	b = appendTime(appendTime(b, t.Time), t.NotBefore)
	b = append(b, byte(t.Reason), 0)
	b = be.AppendUint16(b, uint16(len(t.Snapshots)))
	for _, g := range t.Snapshots {
		b = append(be.AppendUint32(b, g.Sequence), g.Manifest[:]...)
	}
	return b
}

// Seal signs a tombstone and returns it as an object.
func (t Tombstone) Seal(s Signer) (*StandingTombstone, error) {
	t.Box = s.Public()
	t.Time, t.NotBefore = t.Time.UTC().Truncate(time.Second), t.NotBefore.UTC().Truncate(time.Second)
	if len(t.Snapshots) > 1<<16-1 {
		return nil, fmt.Errorf("tombstone of %d snapshots", len(t.Snapshots))
	}
	clear := t.appendClear(nil)
	if _, err := parseTombClear(clear); err != nil {
		return nil, fmt.Errorf("tombstone: %w", err)
	}
	return &StandingTombstone{Tombstone: t, Raw: tombstones.sign(clear, s)}, nil
}

// ParseTombstone verifies an object that was found under key. The signature is
// checked before anything is believed but the length.
func ParseTombstone(key string, raw []byte, tenant ID, trust Trust) (*StandingTombstone, error) {
	clear, err := tombstones.clear(raw)
	if err != nil {
		return nil, err
	}
	t, err := parseTombClear(clear)
	if err != nil {
		return nil, fmt.Errorf("%w: tombstone: %v", ErrIntegrity, err)
	}
	if err := tombstones.verify(raw, t.Box, t.Incarnation, trust); err != nil {
		return nil, err
	}
	s := &StandingTombstone{Tombstone: *t, Raw: raw}
	if t.Tenant != tenant || s.Key() != key {
		return nil, fmt.Errorf("%w: it is the tombstone of another tenant or generation, or its name is another's", ErrIntegrity)
	}
	return s, nil
}

func parseTombClear(b []byte) (*Tombstone, error) {
	c := &cursor{b: b}
	t := &Tombstone{}
	if v := c.u16(); v != formatVersion {
		return nil, fmt.Errorf("format %d is not known to this program", v)
	}
	c.take(2)
	copy(t.Tenant[:], c.take(16))
	copy(t.Dataset[:], c.take(16))
	copy(t.Generation[:], c.take(16))
	t.Epoch = c.u32()
	copy(t.Box[:], c.take(len(t.Box)))
	t.Incarnation = c.u32()
	t.Time, t.NotBefore = c.time(), c.time()
	t.Reason = Reason(c.u8())
	c.u8()
	n := int(c.u16())
	if c.bad || len(b) != tombFixed+n*36 {
		return nil, errors.New("wrong length")
	}
	for i := range n {
		g := Grave{Sequence: c.u32(), Manifest: [32]byte(c.take(32))}
		if g.Sequence == 0 || i > 0 && g.Sequence <= t.Snapshots[i-1].Sequence {
			return nil, fmt.Errorf("snapshot %d is out of bounds or order", i)
		}
		t.Snapshots = append(t.Snapshots, g)
	}
	if n == 0 || t.Epoch == 0 || t.Time.IsZero() || t.NotBefore.Before(t.Time) || t.Reason != ByPolicy && t.Reason != ByCompact ||
		!bytes.Equal(t.appendClear(nil), b) {
		return nil, errors.New("bad field")
	}
	return t, nil
}

// readTombstones reads every copy of every tombstone of the listing. One that
// is not believed is a problem and no more.
func (r *Repo) readTombstones(ctx context.Context, l *Listing) {
	found := map[string]*StandingTombstone{}
	for key, at := range l.inventory.Keys() {
		if !tombstones.is(key) {
			continue
		}
		for _, m := range at {
			name := r.Members[m].Name
			t, err := r.readTombstone(ctx, l, key, m, found[key])
			if err != nil {
				l.Problems = append(l.Problems, Problem{Store: name, Object: key, Err: err, Text: fmt.Sprintf("store %q: tombstone %s: %v", name, key, err)})
				continue
			}
			if found[key] == nil {
				found[key] = t
				l.Tombstones = append(l.Tombstones, t)
			}
			found[key].Stores = append(found[key].Stores, name)
		}
	}
	for _, t := range l.Tombstones {
		slices.Sort(t.Stores)
	}
	slices.SortFunc(l.Tombstones, func(a, b *StandingTombstone) int {
		return cmp.Or(slices.Compare(a.Dataset[:], b.Dataset[:]), cmp.Compare(a.Epoch, b.Epoch), a.Time.Compare(b.Time), bytes.Compare(a.Raw, b.Raw))
	})
}

// readTombstone reads one, and verifies it unless it is equal to known, which
// was.
func (r *Repo) readTombstone(ctx context.Context, l *Listing, key string, m int, known *StandingTombstone) (*StandingTombstone, error) {
	size := l.inventory.Size(key, m)
	if size < 0 || size > maxTomb {
		return nil, fmt.Errorf("%w: %d bytes", ErrIntegrity, size)
	}
	raw, err := readObject(ctx, r.Members[m].Store, key, size)
	if err != nil {
		return nil, err
	}
	if known != nil && bytes.Equal(raw, known.Raw) {
		return known, nil
	}
	return ParseTombstone(key, raw, r.Tenant, r.Trust)
}

// bury takes the snapshots that a tombstone names out of the listing, so that a
// store which still has them, or has them again, resurrects none. A box may
// bury what it or one before it wrote, not what one after it wrote.
func (l *Listing) bury() {
	var live []*Snapshot
	for _, s := range l.Snapshots {
		i := slices.IndexFunc(l.Tombstones, func(t *StandingTombstone) bool {
			return t.Names(s) && t.Dataset == s.Dataset && t.Epoch == s.Epoch && t.Incarnation >= s.Incarnation
		})
		if i < 0 {
			live = append(live, s)
			continue
		}
		s.Tombstone = l.Tombstones[i]
		l.Buried = append(l.Buried, s)
	}
	l.Snapshots = live
}

// Gaps names the snapshots of a dataset that follow one which is not listed and
// which no tombstone names: stores have lost it, or hide it. It means something
// only if every store answered.
func (l *Listing) Gaps(dataset ID) []string {
	known := map[[32]byte]bool{{}: true}
	for _, s := range l.Snapshots {
		known[s.hash] = true
	}
	for _, t := range l.Tombstones {
		for _, g := range t.Snapshots {
			known[g.Manifest] = true
		}
	}
	var out []string
	for _, s := range l.Of(dataset) {
		if !known[s.Previous] {
			out = append(out, fmt.Sprintf("snapshot %s follows %x, which no store has and no tombstone names", s.ID(), s.Previous[:5]))
		}
	}
	return out
}
