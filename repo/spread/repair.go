package spread

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"strongroom/erasure"
	"strongroom/repo/store"
)

// RepairConfig says what a Repairer shall reach.
type RepairConfig struct {
	// Stores is how many members may be written: the first ones. Those behind
	// them, a spool, are only read.
	Stores int
	// ReadAll reads every copy first. Otherwise what is listed counts, but for
	// copies of which Suspect says that they must be read.
	ReadAll bool
	Suspect func(Copy) bool
	// Fill are members that shall have a shard of every pack that nobody else
	// has: the one of their own place if it is lost, else a further one.
	Fill []int
	// Empty are members that will be taken away. What they have is read, and
	// goes to the others, with as many further shards as it takes to survive
	// the loss of Margin more.
	Empty  []int
	Margin int
	// DryRun does all but write.
	DryRun bool
}

// A Repairer makes lost and bad shards of packs again, as new objects: nothing
// is overwritten and nothing deleted. Every byte that it writes has the SHA-256
// of the manifest, or is a further shard computed from bytes that have, and is
// read back before it counts. It needs no key. It is safe for concurrent use.
type Repairer struct {
	c      RepairConfig
	inv    *Inventory
	prefix string
	scrub  *Scrubber
	memory *semaphore.Weighted

	mu     sync.Mutex
	unfit  []error  // by member: why it takes no more writes; guarded by mu
	unused [][]byte // buffers of shards; guarded by mu
}

// Repairer returns a Repairer of packs under prefix, over a listing of it.
func (v *Inventory) Repairer(prefix string, c RepairConfig) *Repairer {
	if c.Suspect == nil {
		c.Suspect = func(Copy) bool { return false }
	}
	return &Repairer{c: c, inv: v, prefix: prefix, scrub: v.Scrubber(), memory: semaphore.NewWeighted(repairMemory << 20), unfit: make([]error, len(v.members))}
}

// Unfit returns why member i was not written to any more, or nil.
func (r *Repairer) Unfit(i int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unfit[i]
}

// GiveUp stops writing to member i.
func (r *Repairer) GiveUp(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unfit[i] == nil {
		r.unfit[i] = fmt.Errorf("store %q: %w", r.inv.members[i].Name, err)
	}
}

// Usable reports whether member i may get objects: it stays, it was listed, and
// nothing has gone wrong with it.
func (r *Repairer) Usable(i int) bool {
	return i < r.c.Stores && !slices.Contains(r.c.Empty, i) && r.inv.failed[i] == nil && r.Unfit(i) == nil
}

func (r *Repairer) buffer(size int64) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, b := range r.unused {
		if int64(cap(b)) >= size {
			r.unused = slices.Delete(r.unused, i, i+1)
			return b[:size]
		}
	}
	r.unused = nil // of a smaller pack
	return make([]byte, size)
}

func (r *Repairer) putBack(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unused = append(r.unused, b)
}

// A Write is a shard that was put on a store, or would be.
type Write struct {
	Copy
	Size int64
	Why  string
}

// Mended is what became of a pack.
type Mended struct {
	Writes []Write
	// Bad are copies that are wrong while a right one of the same shard was
	// read in this run: what whoever deletes may look at.
	Bad []Found
	// Seen are the copies that were read whole, or written and read back.
	Seen []Found
	// Further are the hashes of further shards, from index N on, all durable.
	Further [][sha256.Size]byte
	// Left says what could not be done, each a line.
	Left []string
	// Lost is set when too few good shards are left to make one again; Away
	// shards may be on stores that were not reached.
	Lost error
	Away int
}

// Pack repairs one pack.
//
// Crash story. A run that dies leaves whole shards behind, under names that the
// next run finds listed; it reads those first of which Suspect does not know
// that they were read back. Further shards that no supplement names yet are
// made again to the same bytes, and Put accepts what is there.
func (r *Repairer) Pack(ctx context.Context, p Pack) (*Mended, error) {
	share := min(int64(p.Geometry.K+1)*p.ShardLen(), repairMemory<<20)
	if err := r.memory.Acquire(ctx, share); err != nil {
		return nil, err
	}
	defer r.memory.Release(share)
	m := &mending{r: r, p: p, out: &Mended{}, seen: map[location]Verdict{}, have: map[int][]byte{}}
	defer func() {
		for _, b := range m.have {
			r.putBack(b)
		}
	}()
	m.copies = r.inv.Copies(r.prefix, p)
	for _, c := range m.copies {
		if r.c.ReadAll || c.Spoiled || r.c.Suspect(c) {
			m.look(ctx, c)
		}
	}
	// What turns out to be bad while it is read, and a store that takes no more,
	// change the plan. Each round finds one such thing, so they end.
	for changed := true; changed; {
		var err error
		if changed, err = m.round(ctx); err != nil {
			return nil, err
		}
	}
	if err := m.markBad(ctx); err != nil {
		return nil, err
	}
	return m.out, nil
}

// mending is the repair of one pack.
type mending struct {
	r      *Repairer
	p      Pack // with the further shards made so far
	out    *Mended
	copies []Copy // listed, and written
	seen   map[location]Verdict
	have   map[int][]byte // up to k whole shards that were read and are right
}

// at is where a copy lies.
func (c Copy) at() location { return location{c.Member, c.Key} }

// good reports whether a copy counts: listed, and not known to be wrong.
func (m *mending) good(c Copy) bool {
	v, read := m.seen[c.at()]
	return !read || v.State == Good
}

// look reads a copy whole without keeping it.
func (m *mending) look(ctx context.Context, c Copy) { m.saw(c, m.r.scrub.Check(ctx, m.p, c)) }

func (m *mending) saw(c Copy, v Verdict) {
	m.seen[c.at()] = v
	if v.State != Unknown {
		m.out.Seen = append(m.out.Seen, Found{c, v})
	}
}

// round makes a plan and carries it out. It returns true where something came
// up that asks for another plan.
func (m *mending) round(ctx context.Context) (changed bool, err error) {
	bad := m.bad()
	plan := m.plan()
	m.out.Left, m.out.Away, m.out.Lost = plan.left, plan.away, nil
	for _, w := range plan.writes {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if w.Index > len(m.p.Shards) {
			continue // the further shard before it could not be made
		}
		b, kept, err := m.shard(ctx, w.Index)
		if errors.Is(err, errReplan) {
			return true, ctx.Err()
		} else if err != nil {
			m.out.Lost = err
			continue
		}
		err = m.write(ctx, w, b)
		if !kept {
			m.r.putBack(b)
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		} else if err != nil {
			m.r.GiveUp(w.Member, err)
			return true, nil
		}
	}
	return m.bad() > bad, nil // it read around what is to be repaired too
}

// bad counts the copies known to be of no use.
func (m *mending) bad() (n int) {
	for _, v := range m.seen {
		if v.State != Good {
			n++
		}
	}
	return n
}

// errReplan: a copy that counted is wrong.
var errReplan = errors.New("a copy is bad")

// shard returns shard i whole and right: as read from a copy, or made from k
// others. kept says that it belongs to m.have.
func (m *mending) shard(ctx context.Context, i int) (b []byte, kept bool, err error) {
	if b := m.have[i]; b != nil {
		return b, true, nil
	}
	for _, c := range m.copies {
		if c.Index != i || !m.good(c) {
			continue
		}
		if b := m.read(ctx, c); b != nil {
			return b, false, nil
		}
		return nil, false, errReplan
	}
	if err := m.gather(ctx); err != nil {
		return nil, false, err
	}
	payloads := map[int][]byte{}
	for j, b := range m.have {
		payloads[j] = payloadOf(m.p, b)
	}
	b = m.r.buffer(m.p.ShardLen())
	if err = erasure.RebuildShard(m.p.Header(i), payloads, b); err == nil {
		err = m.proven(i, b, payloads)
	}
	if err != nil {
		m.r.putBack(b)
		return nil, false, fmt.Errorf("pack %v: shard %d made again: %w", m.p.ID, i, err)
	}
	return b, false, nil
}

// proven makes sure that a shard that was computed is right: by its hash, or,
// where no manifest has one, by computing one of those it was made from.
func (m *mending) proven(i int, b []byte, from map[int][]byte) error {
	if i < len(m.p.Shards) {
		if sha256.Sum256(b) != m.p.Shards[i] {
			return errors.New("it is not the one recorded")
		}
		return nil
	}
	others := map[int][]byte{i: payloadOf(m.p, b)}
	left := -1
	for j, payload := range from {
		if left < 0 {
			left = j
		} else {
			others[j] = payload
		}
	}
	again := m.r.buffer(m.p.ShardLen())
	defer m.r.putBack(again)
	if err := erasure.RebuildShard(m.p.Header(left), others, again); err != nil {
		return err
	}
	if sha256.Sum256(again) != m.p.Sum(left) {
		return fmt.Errorf("shard %d does not come out of it", left)
	}
	return nil
}

// gather reads good shards until there are k.
func (m *mending) gather(ctx context.Context) error {
	bad := false
	for _, c := range m.copies {
		if len(m.have) == m.p.Geometry.K {
			return nil
		}
		if m.have[c.Index] != nil || !m.good(c) {
			continue
		}
		if b := m.read(ctx, c); b != nil {
			m.have[c.Index] = b
		} else {
			bad = true
		}
	}
	switch {
	case len(m.have) == m.p.Geometry.K:
		return nil
	case bad:
		return errReplan
	}
	return &TooFewError{Pack: m.p.ID, Need: m.p.Geometry.K, Why: m.why()}
}

// why says of each shard that is not at hand why it is not.
func (m *mending) why() (why []string) {
	for i := range m.p.Geometry.N {
		if m.have[i] != nil {
			continue
		}
		text := fmt.Sprintf("shard %d is missing", i)
		if i < len(m.r.inv.members) {
			if err := m.r.scrub.set.Down(i); err != nil {
				text += fmt.Sprintf(" (%v)", err)
			}
		}
		for _, c := range m.copies {
			if v := m.seen[c.at()]; c.Index == i && v.State != "" {
				text = fmt.Sprintf("shard %d on %q: %s", i, m.r.inv.members[c.Member].Name, v.Detail)
			}
		}
		why = append(why, text)
	}
	return why
}

// read returns a copy whole if it is right, else nil.
func (m *mending) read(ctx context.Context, c Copy) []byte {
	if err := m.r.scrub.set.Down(c.Member); err != nil {
		m.saw(c, Verdict{State: Unknown, Detail: err.Error()})
		return nil
	}
	b := m.r.buffer(m.p.ShardLen())
	err := readFull(ctx, m.r.inv.members[c.Member].Store, c.Key, 0, b)
	v := Verdict{State: Good, Read: int64(len(b))}
	if err != nil {
		v = m.r.scrub.judge(ctx, c, err)
	} else if sha256.Sum256(b) != m.p.Sum(c.Index) {
		h, damaged, err := erasure.CheckShard(b)
		v.State, v.Detail = Damaged, describeDamage(h, damaged, err, m.p, c.Index)
	}
	m.saw(c, v)
	if v.State != Good {
		m.r.putBack(b)
		return nil
	}
	return b
}

// write puts a shard on a store under a name that is free there, and reads it
// back. An error is the store's: it is not written to any more.
func (m *mending) write(ctx context.Context, w Write, b []byte) error {
	first, sum := 0, [sha256.Size]byte{}
	if w.Index < len(m.p.Shards) {
		first, sum = m.free(w), m.p.Shards[w.Index] // compared when it was read or made
	} else {
		sum = sha256.Sum256(b)
	}
	var err error
	for a := first; a < MaxAttempts; a++ {
		w.Key = m.p.Key(m.r.prefix, w.Index, a)
		if m.r.c.DryRun {
			err = nil
			break
		}
		if err = m.r.inv.members[w.Member].Store.Put(ctx, w.Key, b, sum); !errors.Is(err, store.ErrExists) {
			break
		}
	}
	if first == MaxAttempts {
		err = fmt.Errorf("shard %d of pack %v was made again %d times: %w", w.Index, m.p.ID, MaxAttempts-1, store.ErrExists)
	}
	if err != nil {
		return err
	}
	v := Verdict{State: Good}
	if !m.r.c.DryRun {
		if v = m.r.scrub.compare(ctx, m.p, w.Copy, sum); v.State != Good {
			return fmt.Errorf("%s was stored and reads back wrong: %s: %s", w.Key, v.State, v.Detail)
		}
	}
	if w.Index == len(m.p.Shards) {
		m.p.Shards = append(slices.Clip(m.p.Shards), sum)
		m.p.Geometry.N++
		m.out.Further = append(m.out.Further, sum)
	}
	m.copies = append(m.copies, w.Copy)
	m.saw(w.Copy, v)
	w.Size = int64(len(b))
	m.out.Writes = append(m.out.Writes, w)
	return nil
}

// free returns the first attempt that the store does not list.
func (m *mending) free(w Write) int {
	for a := range MaxAttempts {
		key := m.p.Key(m.r.prefix, w.Index, a)
		_, listed := m.r.inv.size[key][w.Member]
		written := slices.ContainsFunc(m.copies, func(c Copy) bool { return c.Key == key && c.Member == w.Member })
		if !listed && !written {
			return a
		}
	}
	return MaxAttempts
}

// markBad lists the copies that are wrong, where a right one of the same shard
// was read: until then the wrong one may hold the last good columns.
func (m *mending) markBad(ctx context.Context) error {
	for i := range m.p.Geometry.N {
		var bad []Found
		for _, c := range m.copies {
			if v := m.seen[c.at()]; c.Index == i && c.Member < m.r.c.Stores && v.State == Damaged {
				bad = append(bad, Found{c, v})
			}
		}
		for _, c := range m.r.inv.misfits(m.r.prefix, m.p, i) {
			if c.Member < m.r.c.Stores {
				bad = append(bad, Found{c, Verdict{State: Damaged, Detail: m.r.inv.misfit(m.p, c)}})
			}
		}
		if len(bad) > 0 && m.certain(ctx, i) {
			m.out.Bad = append(m.out.Bad, bad...)
		}
	}
	return ctx.Err()
}

// certain reports whether a copy of shard i on a store that stays was read and
// is right.
func (m *mending) certain(ctx context.Context, i int) bool {
	for _, c := range m.copies {
		if c.Index != i || c.Member >= m.r.c.Stores || slices.Contains(m.r.c.Empty, c.Member) || !m.good(c) {
			continue
		}
		if _, read := m.seen[c.at()]; !read {
			m.look(ctx, c)
		}
		if m.seen[c.at()].State == Good {
			return true
		}
	}
	return false
}
