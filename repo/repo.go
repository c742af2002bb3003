// Package repo is a tenant's repository: it saves, lists, restores and checks
// snapshots of datasets. FORMAT.md says what it writes.
package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"strongroom/erasure"
	"strongroom/repo/spread"
)

// Errors that callers branch on.
var (
	// ErrNoSnapshot: nothing fits what was asked for.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrLocked: another process writes this dataset.
	ErrLocked = errors.New("locked")
	// ErrConflict: another writer has written where this one would.
	ErrConflict = errors.New("another writer")
	// ErrIncomplete: too few stores confirmed; nothing is lost, a later run
	// goes on.
	ErrIncomplete = errors.New("incomplete")
)

// A Repo is one tenant's repository on a set of stores.
type Repo struct {
	// Members are the stores in order.
	Members []spread.Member
	// Tenant is the tenant's pseudonym.
	Tenant ID
	// Catalogue opens and seals catalogue entries.
	Catalogue Secret
	// Trust checks the signatures of manifests.
	Trust Trust
}

// A Snapshot is a manifest that was found, verified, and its catalogue entry.
type Snapshot struct {
	*signed
	// Entry is nil if the catalogue key does not open it.
	Entry *Catalogue
	// Stores names the members that hold the manifest.
	Stores []string
	// Conflict says that another manifest of the same sequence exists.
	Conflict bool
	// Tombstone names it, if one does.
	Tombstone *StandingTombstone
}

// ID names a snapshot: the front of the SHA-256 of its manifest.
func (s *Snapshot) ID() string { return hex.EncodeToString(s.hash[:5]) }

// Hash is the SHA-256 of the manifest.
func (s *Snapshot) Hash() [32]byte { return s.hash }

// HexHash is Hash as 64 hex digits.
func (s *Snapshot) HexHash() string { return hex.EncodeToString(s.hash[:]) }

// State says on how many of n stores the manifest is.
func (s *Snapshot) State(n int) string {
	if len(s.Stores) < n {
		return fmt.Sprintf("reduced: %d of %d stores", len(s.Stores), n)
	}
	return "complete"
}

// newer orders snapshots of one dataset.
func newer(a, b *Snapshot) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Sequence, b.Sequence),
		a.Time.Compare(b.Time), slices.Compare(a.hash[:], b.hash[:]))
}

// A Listing is what the stores that answered know of a tenant.
type Listing struct {
	Snapshots []*Snapshot // by dataset pseudonym, oldest first
	Problems  []Problem   // what was found wrong on the way
	Reached   int         // stores that answered

	// Tombstones are those that are believed. Buried are the snapshots that
	// they name and some store still has, or has again: they are not among
	// Snapshots.
	Tombstones []*StandingTombstone
	Buried     []*Snapshot

	inventory   *spread.Inventory
	supplements []foundSupplement
}

// A Problem is a fault that did not stop the listing.
type Problem struct {
	Store  string `json:"store,omitempty"`
	Object string `json:"object,omitempty"`
	Err    error  `json:"-"`
	Text   string `json:"text"`
}

// Of returns the snapshots of a dataset, oldest first.
func (l *Listing) Of(dataset ID) []*Snapshot {
	var out []*Snapshot
	for _, s := range l.Snapshots {
		if s.Dataset == dataset {
			out = append(out, s)
		}
	}
	return out
}

// Find returns the newest snapshot of a dataset, or the one that spec names:
// "latest", a unique front of an ID, or a label. Where two claim to be the
// newest it is ErrConflict: nobody but a person may choose.
func (l *Listing) Find(dataset ID, spec string) (*Snapshot, error) {
	all := l.Of(dataset)
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: the dataset has none on the %d stores that answered", ErrNoSnapshot, l.Reached)
	}
	if spec == "" || spec == "latest" {
		newest := slices.MaxFunc(all, older)
		for _, s := range all {
			if newest.Conflict && s != newest && s.Epoch == newest.Epoch && s.Sequence == newest.Sequence {
				return nil, fmt.Errorf("%w: which snapshot is the newest is in doubt, two have epoch %d, sequence %d (%s and %s): name one of them",
					ErrConflict, newest.Epoch, newest.Sequence, s.ID(), newest.ID())
			}
		}
		return newest, nil
	}
	var found []*Snapshot
	for _, s := range all {
		if s.named(spec) || s.Entry != nil && s.Entry.Label == spec && !l.copied(s) {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		// Whoever knows its id may have what is left of an expired one.
		for _, s := range l.Buried {
			if s.Dataset == dataset && s.named(spec) {
				found = append(found, s)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: %q", ErrNoSnapshot, spec)
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: %q fits %d of them", ErrNoSnapshot, spec, len(found))
}

// named reports whether spec is a front of the snapshot's id.
func (s *Snapshot) named(spec string) bool {
	return len(spec) >= 4 && strings.HasPrefix(hex.EncodeToString(s.hash[:]), spec)
}

// Place is where a snapshot stands in its dataset's history: that of a copy is
// its original's.
func (s *Snapshot) Place() (epoch, sequence uint32) {
	if s.Entry != nil && s.Entry.Origin != nil {
		return s.Entry.Origin.Epoch, s.Entry.Origin.Sequence
	}
	return s.Epoch, s.Sequence
}

// older orders snapshots by what they hold, so that the copies of a compaction
// that was interrupted do not pass for the newest. A copy comes behind its
// original.
func older(a, b *Snapshot) int {
	ae, as := a.Place()
	be, bs := b.Place()
	return cmp.Or(cmp.Compare(ae, be), cmp.Compare(as, bs), newer(a, b))
}

// copied reports whether a copy of s is listed.
func (l *Listing) copied(s *Snapshot) bool {
	return slices.ContainsFunc(l.Snapshots, func(c *Snapshot) bool {
		return c.Dataset == s.Dataset && c.Entry != nil && c.Entry.Origin != nil && c.Entry.Origin.Manifest == hex.EncodeToString(s.hash[:])
	})
}

// List reads every manifest of the tenant on all stores that answer. The union
// counts: a store that hides or lost some cannot shorten it.
func (r *Repo) List(ctx context.Context) (*Listing, error) {
	l := &Listing{inventory: spread.List(ctx, r.Members, r.Tenant.String()+"/")}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, m := range r.Members {
		if err := l.inventory.Failed(i); err != nil {
			l.Problems = append(l.Problems, Problem{Store: m.Name, Err: err, Text: err.Error()})
		} else {
			l.Reached++
		}
	}
	if l.Reached == 0 {
		return nil, fmt.Errorf("no store answers: %w", errors.Join(l.inventory.Errors()...))
	}
	r.readManifests(ctx, l)
	r.readSupplements(ctx, l)
	r.readTombstones(ctx, l)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.bury()
	slices.SortFunc(l.Snapshots, func(a, b *Snapshot) int {
		return cmp.Or(slices.Compare(a.Dataset[:], b.Dataset[:]), newer(a, b))
	})
	l.markConflicts()
	slices.SortStableFunc(l.Problems, func(a, b Problem) int { return cmp.Compare(a.Text, b.Text) })
	return l, nil
}

// isManifest reports whether key is a manifest's, and of which generation.
func isManifest(key string) bool {
	f := strings.Split(key, "/")
	return len(f) == 3 && strings.HasPrefix(f[2], "m-") && len(f[2]) == 10
}

// readManifests reads every copy of every manifest: copies that differ must be
// noticed, not chosen from. Those that are equal are verified once.
func (r *Repo) readManifests(ctx context.Context, l *Listing) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	found := map[[32]byte]*Snapshot{}
	known := &parsed{all: map[[sha256.Size]byte]*parsing{}}
	for key, at := range l.inventory.Keys() {
		if !isManifest(key) {
			continue
		}
		for _, m := range at {
			wg.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				s, err := r.readManifest(ctx, l.inventory, key, m, known)
				mu.Lock()
				defer mu.Unlock()
				name := r.Members[m].Name
				if err != nil {
					l.Problems = append(l.Problems, Problem{Store: name, Object: key, Err: err, Text: fmt.Sprintf("store %q: manifest %s: %v", name, key, err)})
					return
				}
				if f := found[s.hash]; f != nil {
					s = f
				} else {
					found[s.hash] = s
					l.Snapshots = append(l.Snapshots, s)
				}
				s.Stores = append(s.Stores, name)
			})
		}
	}
	wg.Wait()
	for _, s := range l.Snapshots {
		slices.Sort(s.Stores)
	}
}

// parsed are the manifests of a listing, by the hash of their keys and bytes.
type parsed struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]*parsing // guarded by mu
}

// parsing is what one of them was found to be.
type parsing struct {
	once sync.Once
	s    *Snapshot
	err  error
}

// parse is that of r; bytes that it has seen under that key it does not verify
// again.
func (p *parsed) parse(r *Repo, key string, raw []byte) (*Snapshot, error) {
	if p == nil {
		return r.parse(key, raw)
	}
	h := sha256.New()
	io.WriteString(h, key+"\n") // which has none
	h.Write(raw)
	id := [sha256.Size]byte(h.Sum(nil))
	p.mu.Lock()
	one := p.all[id]
	if one == nil {
		one = &parsing{}
		p.all[id] = one
	}
	p.mu.Unlock()
	one.once.Do(func() { one.s, one.err = r.parse(key, raw) })
	return one.s, one.err
}

func (r *Repo) readManifest(ctx context.Context, inv *spread.Inventory, key string, member int, known *parsed) (*Snapshot, error) {
	size := inv.Size(key, member)
	if size < 0 || size > maxClear+maxPart1+maxPart2 {
		return nil, fmt.Errorf("%w: %d bytes", ErrIntegrity, size)
	}
	raw, err := readObject(ctx, r.Members[member].Store, key, size)
	if err != nil {
		return nil, err
	}
	return known.parse(r, key, raw)
}

// parse verifies a manifest found under key.
func (r *Repo) parse(key string, raw []byte) (*Snapshot, error) {
	m, err := parseManifest(raw, r.Trust)
	if err != nil {
		return nil, err
	}
	if m.Key() != key || m.Tenant != r.Tenant {
		return nil, fmt.Errorf("%w: it is the manifest of %s", ErrIntegrity, m.Key())
	}
	s := &Snapshot{signed: m, Entry: &Catalogue{}}
	if err := openPart(kindCatalogue, m.Manifest, r.Catalogue, m.part1, s.Entry); err != nil {
		if !errors.Is(err, ErrWrongKey) {
			return nil, err
		}
		s.Entry = nil
	}
	return s, nil
}

// markConflicts alarms two manifests of one sequence. Two boxes of one state
// that both open a generation at once differ in its name and in nothing else.
func (l *Listing) markConflicts() {
	type place struct {
		dataset         ID
		epoch, sequence uint32
	}
	first := map[place]*Snapshot{}
	for _, s := range l.Snapshots {
		key := place{s.Dataset, s.Epoch, s.Sequence}
		if f := first[key]; f != nil {
			f.Conflict, s.Conflict = true, true
			text := fmt.Sprintf("two manifests of one sequence: %s on %s and %s on %s", f.ID(), strings.Join(f.Stores, ", "), s.ID(), strings.Join(s.Stores, ", "))
			l.Problems = append(l.Problems, Problem{Object: s.Key(), Err: ErrConflict, Text: text})
		} else {
			first[key] = s
		}
	}
}

// Inventory returns the listing of all objects.
func (l *Listing) Inventory() *spread.Inventory { return l.inventory }

// PackReader reads and verifies the packs of a snapshot's generation; it needs
// no key.
func (l *Listing) PackReader(s *Snapshot) *spread.Reader {
	return l.inventory.Reader(generationPrefix(s.Tenant, s.Generation))
}

// Margin returns how many stores may be lost, whichever they are, before the
// snapshot cannot be restored, by what the stores that answered list; -1 if it
// cannot be restored from them.
func (l *Listing) Margin(s *Snapshot) int {
	margin := len(s.Stores) - 1 // those that have its manifest
	prefix := generationPrefix(s.Tenant, s.Generation)
	known := map[string]int{} // where shards lie → margin: nearly all packs lie alike
	for _, p := range s.Packs {
		present := l.inventory.Anywhere(prefix, p.Pack)
		where := fmt.Sprint(p.Geometry.K, present)
		m, ok := known[where]
		if !ok {
			m = spread.Margin(present, p.Geometry.K)
			known[where] = m
		}
		margin = min(margin, m)
	}
	return margin
}

// Whole reports whether the listing shows all of a snapshot: its manifest
// everywhere, and of every pack so many shards in places of their own that as
// many stores may be lost as a new snapshot on these stores could lose; or what
// is missing. A pack that was coded for fewer stores need not bear more than it
// was made for. A store that is away may have one shard of each, as long as the
// others restore the snapshot.
func (l *Listing) Whole(s *Snapshot) (bool, string) {
	planned, err := erasure.Plan(len(l.inventory.Members()))
	if err != nil {
		return false, err.Error()
	}
	prefix := generationPrefix(s.Tenant, s.Generation)
	away := len(l.inventory.Members()) - l.Reached
	for _, p := range s.Packs {
		spare := spread.Margin(l.inventory.Present(prefix, p.Pack), p.Geometry.K)
		if spare < 0 || spare+away < min(planned.N-planned.K, p.Geometry.N-p.Geometry.K) {
			return false, fmt.Sprintf("pack %v bears the loss of %d stores", p.ID, spare)
		}
	}
	if len(s.Stores) < l.Reached {
		return false, fmt.Sprintf("its manifest is on %d of %d stores", len(s.Stores), l.Reached)
	}
	return true, ""
}
