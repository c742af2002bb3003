// Package spread places the shards of packs on stores, reads any k of them
// back, and finds what is missing or damaged; it never needs a key.
package spread

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"strongroom/erasure"
	"strongroom/repo/store"
)

// A Member is a store in its place: shard i of a new pack goes to member i.
type Member struct {
	Name  string
	Store store.Store
}

// A Pack is what a manifest says of a pack and its shards.
type Pack struct {
	ID, Encode erasure.ID
	Geometry   erasure.Geometry
	MessageLen int64 // of the sealed segments
	Seal       [erasure.SealHeaderLen]byte
	Shards     [][sha256.Size]byte // of the whole shard objects, by index
	// Apart are the shards of offline sets, ascending. Their indices, from
	// erasure.FirstApart on, do not follow on those of the stores, and none of
	// them is missed where it is not: its medium is in a safe.
	Apart []Row
}

// A Row is a shard by its index.
type Row struct {
	Index  int
	SHA256 [sha256.Size]byte
}

// Indices returns those of all shards that are known, ascending.
func (p Pack) Indices() []int {
	out := make([]int, 0, len(p.Shards)+len(p.Apart))
	for i := range p.Shards {
		out = append(out, i)
	}
	for _, r := range p.Apart {
		out = append(out, r.Index)
	}
	return out
}

// Sum returns the SHA-256 of shard i, which is one of Indices; zeros for
// another.
func (p Pack) Sum(i int) (sum [sha256.Size]byte) {
	if i >= 0 && i < len(p.Shards) {
		return p.Shards[i]
	}
	for _, r := range p.Apart {
		if r.Index == i {
			return r.SHA256
		}
	}
	return sum
}

// Header returns the header of shard i.
func (p Pack) Header(i int) erasure.Header {
	return erasure.Header{Pack: p.ID, Encode: p.Encode, K: p.Geometry.K, Index: i, MessageLen: p.MessageLen, Seal: p.Seal}
}

// Segments is the number of segments of the pack.
func (p Pack) Segments() int { return p.Header(0).Segments() }

// ShardLen is the length of each of its shards.
func (p Pack) ShardLen() int64 { return p.Header(0).ShardLen() }

// Stored is the length of all shards together.
func (p Pack) Stored() int64 { return p.ShardLen() * int64(p.Geometry.N) }

// Key names shard i under a prefix that ends in "/". attempt counts repairs:
// a repaired shard is a new object, since nothing is ever overwritten.
func (p Pack) Key(prefix string, i, attempt int) string {
	return fmt.Sprintf("%ss-%v-%v-%02x-%02x", prefix, p.ID, p.Encode, i, attempt)
}

// A Set is the stores of one run. It remembers which of them failed, so that
// every further shard does not wait for the same fault again.
type Set struct {
	members []Member

	mu   sync.Mutex
	down []error // by member; guarded by mu
}

// NewSet returns a Set of members in their order.
func NewSet(members []Member) *Set {
	return &Set{members: members, down: make([]error, len(members))}
}

// Members returns the members in order.
func (s *Set) Members() []Member { return s.members }

// Down returns why member i was given up in this run, or nil.
func (s *Set) Down(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down[i]
}

// Fail gives member i up for the rest of the run.
func (s *Set) Fail(i int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down[i] == nil {
		s.down[i] = fmt.Errorf("store %q: %w", s.members[i].Name, err)
	}
}

// Failures returns the reasons of all members given up, by name.
func (s *Set) Failures() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]error{}
	for i, err := range s.down {
		if err != nil {
			m[s.members[i].Name] = err
		}
	}
	return m
}

// An Outcome says where a shard is durable.
type Outcome struct {
	Member  int   // the member that has it, or -1
	Spooled bool  // it lies fsynced in the spool instead
	Err     error // why not on its member
}

// Put stores shard i of a pack on member i, all at once. A shard whose member
// fails goes to the spool; the spool failing too is an error, for then nothing
// of the pack may be relied on.
func (s *Set) Put(ctx context.Context, prefix string, p Pack, shards [][]byte, spool store.Store) ([]Outcome, error) {
	if len(shards) != len(s.members) {
		return nil, fmt.Errorf("spread: %d shards for %d stores", len(shards), len(s.members))
	}
	out := make([]Outcome, len(shards))
	errs := make([]error, len(shards))
	var wg sync.WaitGroup
	for i := range shards {
		wg.Go(func() {
			out[i], errs[i] = s.putOne(ctx, p.Key(prefix, i, 0), shards[i], p.Shards[i], i, spool)
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func (s *Set) putOne(ctx context.Context, key string, body []byte, sum [32]byte, i int, spool store.Store) (Outcome, error) {
	err := s.Down(i)
	if err == nil {
		if err = s.members[i].Store.Put(ctx, key, body, sum); err == nil {
			return Outcome{Member: i}, nil
		}
		if ctx.Err() != nil {
			return Outcome{Member: -1, Err: err}, ctx.Err()
		}
		s.Fail(i, err)
	}
	if serr := spool.Put(ctx, key, body, sum); serr != nil {
		return Outcome{Member: -1, Err: err}, fmt.Errorf("spool shard %s, which store %q did not take (%v): %w", key, s.members[i].Name, err, serr)
	}
	return Outcome{Member: -1, Spooled: true, Err: err}, nil
}

// An Inventory is what a listing of one prefix found on every store.
type Inventory struct {
	members  []Member
	at       map[string][]int // object → members that hold it at its listed size
	size     map[string]map[int]int64
	attempts map[string]uint16 // shard without attempt → the attempts that somebody lists
	spoiled  map[location]bool
	failed   []error // by member: why its listing is incomplete
}

// List lists prefix on all members at once. A member whose listing fails
// contributes nothing: absence there means nothing.
func List(ctx context.Context, members []Member, prefix string) *Inventory {
	inv := &Inventory{members: members, at: map[string][]int{}, size: map[string]map[int]int64{}, attempts: map[string]uint16{},
		spoiled: map[location]bool{}, failed: make([]error, len(members))}
	found := make([][]store.Info, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			for info, err := range m.Store.List(ctx, prefix) {
				if err != nil {
					inv.failed[i] = fmt.Errorf("store %q: %w", m.Name, err)
					return
				}
				found[i] = append(found[i], info)
			}
		})
	}
	wg.Wait()
	for i, list := range found {
		if inv.failed[i] != nil {
			continue
		}
		for _, info := range list {
			inv.Add(i, info)
		}
	}
	return inv
}

// Add records an object that was confirmed on a member after the listing.
func (v *Inventory) Add(member int, info store.Info) {
	if v.size[info.Key] == nil {
		v.size[info.Key] = map[int]int64{}
	}
	if _, known := v.size[info.Key][member]; !known {
		v.at[info.Key] = append(v.at[info.Key], member)
	}
	v.size[info.Key][member] = info.Size
	if a := attemptOf(info.Key); a >= 0 {
		v.attempts[shardBase(info.Key)] |= 1 << a
	}
}

// Members returns the members that were listed.
func (v *Inventory) Members() []Member { return v.members }

// Failed returns why member i could not be listed, or nil.
func (v *Inventory) Failed(i int) error { return v.failed[i] }

// Errors returns all listing failures.
func (v *Inventory) Errors() []error {
	var out []error
	for _, err := range v.failed {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// Holders returns the members that have key with that size.
func (v *Inventory) Holders(key string, size int64) []int {
	var out []int
	for _, m := range v.at[key] {
		if v.size[key][m] == size {
			out = append(out, m)
		}
	}
	return out
}

// Size returns the listed size of an object on a member.
func (v *Inventory) Size(key string, member int) int64 { return v.size[key][member] }

// Keys returns every object found, in no order, with the members that have it.
func (v *Inventory) Keys() map[string][]int { return v.at }

// MaxAttempts bounds the repairs of one shard that a reader looks for.
const MaxAttempts = 16

// holders returns where shard i of p lies: by name and size. Any attempt may be
// the only one that is left: the ones before it are removed when they were bad.
// Copies that were found to be bad come last.
func (v *Inventory) holders(prefix string, p Pack, i int) []location {
	var out, spoiled []location
	first := p.Key(prefix, i, 0)
	for left := v.attempts[shardBase(first)]; left != 0; left &= left - 1 {
		key := p.Key(prefix, i, bits.TrailingZeros16(left))
		for _, m := range v.Holders(key, p.ShardLen()) {
			if l := (location{member: m, key: key}); v.spoiled[l] {
				spoiled = append(spoiled, l)
			} else {
				out = append(out, l)
			}
		}
	}
	return append(out, spoiled...)
}

// A location is an object on a member.
type location struct {
	member int
	key    string
}

// shardBase is a shard's key without the attempt.
func shardBase(key string) string { return key[:len(key)-3] }

// attemptOf returns the attempt in a shard's key, or -1 if it is no shard's.
func attemptOf(key string) int {
	name := key[strings.LastIndexByte(key, '/')+1:]
	if len(name) != len("s-")+2*32+len("-")+len("-00-00") || !strings.HasPrefix(name, "s-") || name[len(name)-3] != '-' {
		return -1
	}
	n, err := strconv.ParseUint(name[len(name)-2:], 16, 8)
	if err != nil || n >= MaxAttempts {
		return -1
	}
	return int(n)
}

// Spoil records that a copy was read earlier and found bad: it is no copy to
// count on any more, and the last one to be tried. Not to be called while the
// Inventory is in use.
func (v *Inventory) Spoil(member int, key string) { v.spoiled[location{member, key}] = true }

// Present returns for each shard of p the members that list it, by index; those
// of offline sets are not among them.
func (v *Inventory) Present(prefix string, p Pack) [][]int {
	return v.Anywhere(prefix, p)[:p.Geometry.N]
}

// Anywhere is Present with the shards of offline sets behind the others.
func (v *Inventory) Anywhere(prefix string, p Pack) [][]int {
	indices := p.Indices()
	out := make([][]int, len(indices))
	for at, i := range indices {
		for _, l := range v.holders(prefix, p, i) {
			if !v.spoiled[l] {
				out[at] = append(out[at], l.member)
			}
		}
	}
	return out
}

// Domains counts how many distinct shards lie in distinct domains: a largest
// matching of shards and members, so that two shards on one store count once.
func Domains(present [][]int) int {
	owner := map[int]int{} // member → shard
	var try func(shard int, seen map[int]bool) bool
	try = func(shard int, seen map[int]bool) bool {
		for _, m := range present[shard] {
			if seen[m] {
				continue
			}
			seen[m] = true
			if s, taken := owner[m]; !taken || try(s, seen) {
				owner[m] = shard
				return true
			}
		}
		return false
	}
	n := 0
	for shard := range present {
		if try(shard, map[int]bool{}) {
			n++
		}
	}
	return n
}

// A TooFewError names what is left of a pack that cannot be read.
type TooFewError struct {
	Pack    erasure.ID
	Segment int
	Need    int
	Why     []string // per shard
}

func (e *TooFewError) Error() string {
	return fmt.Sprintf("pack %v: needs %d good shards, but: %s", e.Pack, e.Need, strings.Join(e.Why, "; "))
}
