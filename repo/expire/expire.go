// Package expire buries generations that no policy keeps under signed
// tombstones, and deletes from the stores what a tombstone names.
package expire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/repo"
	"strongroom/repo/retain"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// A Verdict says whether a snapshot is proven to restore, and if not, why.
// Listed is the one there is until drills give theirs.
type Verdict func(l *repo.Listing, s *repo.Snapshot) (passed bool, why string)

// A Clock is a store that can tell the time, by a clock that is not the box's.
type Clock interface {
	// Clock returns what the store says and what the box's clock said then.
	Clock(ctx context.Context) (says, here time.Time, err error)
}

// Config is what a run needs beside the stores. The caller holds the dataset's
// lock, so that no writer is at work.
type Config struct {
	Repo    *repo.Repo
	Dataset repo.ID
	// Dir is the dataset's directory on the box, with its head, leases and the
	// State of this package.
	Dir    string
	Spool  *repo.Spool
	Policy retain.Policy
	// Grace is how long a generation's objects stay after its tombstone.
	Grace time.Duration
	// Without are snapshots that this plan leaves out beside those of the State,
	// and why, by the SHA-256 of their manifests in hex.
	Without map[string]string
	// Holds are those that concern the dataset or any of its snapshots.
	Holds       []retain.Hold
	Verdict     Verdict
	Signer      repo.Signer
	Incarnation uint32
	// Deleters delete, by member. Nil: nobody here may; the tombstones stand
	// for whoever may.
	Deleters []Deleter
	Now      func() time.Time
}

// A Burial is a tombstone to be written.
type Burial struct {
	Generation string    `json:"generation"`
	Epoch      uint32    `json:"epoch"`
	Snapshots  []string  `json:"snapshots"`
	Reason     string    `json:"reason"`
	NotBefore  time.Time `json:"not_before"`
	Objects    int       `json:"objects"`
	Bytes      int64     `json:"bytes"`

	stone repo.Tombstone
}

// A Carry is a tombstone that a store lacks.
type Carry struct {
	Generation string `json:"generation"`
	Store      string `json:"store"`

	stone  *repo.StandingTombstone
	member int
}

// A Plan is all that a run will do, and why it does no more. It is the same
// whether it is carried out or only shown.
type Plan struct {
	// Frozen says why nothing of the dataset may go; none: it may.
	Frozen []string
	// Fates are the generations, oldest first, with what becomes of each
	// snapshot and why.
	Fates []retain.Fate
	// Waiting says what would go on and cannot now, Stuck what does not by
	// itself: a store is away, or shows what nobody knew of.
	Waiting   []string
	Stuck     []string
	Burials   []Burial
	Carries   []Carry
	Deletions []Deletion
	// Later says what Do left because a lock kept it that the plan did not know of.
	Later []string

	c     Config
	l     *repo.Listing
	state State
}

// Prepare lists the stores and makes the plan. It changes nothing.
func Prepare(ctx context.Context, c Config) (*Plan, error) {
	p := &Plan{c: c}
	var err error
	if p.state, err = ReadState(c.Dir); err != nil {
		return nil, err
	}
	head, err := repo.ReadHead(c.Dir) // before the stores are listed
	if err != nil {
		return nil, err
	}
	if p.l, err = c.Repo.List(ctx); err != nil {
		return nil, err
	}
	clocks := Clocks(ctx, c.Repo.Members)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	now := c.Now()
	all := retain.Redate(p.snapshots(), now)
	p.Frozen = append(p.structure(head), retain.Frozen(all, c.Holds, clocks, now)...)
	if now.Before(p.state.Seen.Add(-retain.Tolerance)) {
		p.Frozen = append(p.Frozen, fmt.Sprintf("clock: it was %s before and is %s now", p.state.Seen.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	}
	p.Fates = retain.Judge(p.generations(), retain.Decide(c.Policy, all, now), p.Frozen)
	if len(p.Frozen) > 0 {
		return p, nil
	}
	p.bury(now)
	p.carry()
	return p, p.sweep(ctx, now)
}

// snapshots are the dataset's, as the rules see them.
func (p *Plan) snapshots() []retain.Snapshot {
	live := p.l.Of(p.c.Dataset)
	var out []retain.Snapshot
	for _, s := range live {
		r := placed(s)
		r.KeepUntil, r.Without = s.KeepUntil, cmp.Or(p.state.Without[s.HexHash()], p.c.Without[s.HexHash()])
		if e := s.Entry; e != nil {
			r.Label = e.Label
			if r.Accepted = p.accepted(s); !r.Accepted {
				r.Anomalies = e.Anomalies
			}
		}
		if r.Passed, r.Why = p.c.Verdict(p.l, s); r.Passed && s.Entry != nil && s.Entry.Partial {
			r.Passed, r.Why = false, "it is partial"
		}
		r.Replaced = p.replaced(s, live)
		if r.Without == "" && p.unfinished(s, live) {
			r.Without = "a copy that was not compared, of a snapshot that is there"
		}
		out = append(out, r)
	}
	return out
}

// placed is a snapshot with its place and times.
func placed(s *repo.Snapshot) retain.Snapshot {
	r := retain.Snapshot{ID: s.ID(), Generation: s.Generation.String(), Time: s.Time}
	r.Epoch, r.Sequence = s.Place()
	if e := s.Entry; e != nil && e.Origin != nil {
		r.Time = e.Origin.Time
	}
	if e := s.Entry; e != nil && e.Source == repo.SourceImport {
		r.Imported = e.Point
	}
	return r
}

// Redated returns what counts as the time of a snapshot once it is accepted, and
// whether that is another than it was signed with.
func Redated(l *repo.Listing, snap *repo.Snapshot, now time.Time) (time.Time, bool) {
	var all []retain.Snapshot
	for _, s := range l.Of(snap.Dataset) {
		r := placed(s)
		r.Accepted = s.HexHash() == snap.HexHash()
		all = append(all, r)
	}
	all = retain.Redate(all, now)
	signed := placed(snap).Time
	i := slices.IndexFunc(all, func(r retain.Snapshot) bool { return r.Accepted })
	if i < 0 { // it is buried
		return signed, false
	}
	return all[i].Time, !all[i].Time.Equal(signed)
}

func (p *Plan) accepted(s *repo.Snapshot) bool {
	if _, ok := p.state.Accepted[s.HexHash()]; ok {
		return true
	}
	if o := s.Entry.Origin; o != nil {
		_, ok := p.state.Accepted[o.Manifest]
		return ok
	}
	return false
}

// replaced returns the id of a copy that was read back, compared, and passes
// now.
func (p *Plan) replaced(s *repo.Snapshot, live []*repo.Snapshot) string {
	copied := p.state.Copies[s.HexHash()]
	for _, c := range live {
		if c.HexHash() == copied && c.Generation != s.Generation {
			if ok, _ := p.c.Verdict(p.l, c); ok {
				return c.ID()
			}
		}
	}
	return ""
}

// unfinished reports whether s is a copy that a compaction did not come to
// compare, and its original is live.
func (p *Plan) unfinished(s *repo.Snapshot, live []*repo.Snapshot) bool {
	if s.Entry == nil || s.Entry.Origin == nil || p.state.Copies[s.Entry.Origin.Manifest] == s.HexHash() {
		return false
	}
	return slices.ContainsFunc(live, func(o *repo.Snapshot) bool { return o.HexHash() == s.Entry.Origin.Manifest })
}

// structure says what is wrong with the history itself: then nothing may be
// concluded from it.
func (p *Plan) structure(head repo.Head) []string {
	var why []string
	if err := p.l.Behind(head, p.c.Dataset); err != nil {
		why = append(why, err.Error())
	}
	mine := map[string]bool{}
	for _, s := range p.l.Of(p.c.Dataset) {
		mine[s.Generation.String()] = true
		if s.Conflict {
			why = append(why, fmt.Sprintf("two snapshots have epoch %d, sequence %d: %s is one", s.Epoch, s.Sequence, s.ID()))
		}
		if s.Incarnation > p.c.Incarnation {
			why = append(why, fmt.Sprintf("snapshot %s was written by incarnation %d of the box, this is %d: it was replaced", s.ID(), s.Incarnation, p.c.Incarnation))
		}
		if s.Entry == nil {
			why = append(why, fmt.Sprintf("the catalogue entry of %s does not open: its label and anomalies are not known", s.ID()))
		}
	}
	if p.l.Reached == len(p.c.Repo.Members) {
		why = append(why, p.l.Gaps(p.c.Dataset)...)
	}
	return append(why, p.unreadable(mine)...)
}

// unreadable names manifests of the dataset's generations of which no store has
// a copy that is believed. What they hold nobody knows.
func (p *Plan) unreadable(mine map[string]bool) []string {
	known := map[string]bool{}
	for _, s := range append(slices.Clone(p.l.Snapshots), p.l.Buried...) {
		known[s.Key()] = true
	}
	var why []string
	for key := range p.l.Inventory().Keys() {
		f := strings.Split(key, "/")
		if len(f) == 3 && mine[f[1]] && strings.HasPrefix(f[2], "m-") && !known[key] {
			why = append(why, fmt.Sprintf("no store has a copy of manifest %s that can be believed", key))
		}
	}
	slices.Sort(why)
	return why
}

// generations are those of the live snapshots, with what they cost.
func (p *Plan) generations() []retain.Generation {
	var out []retain.Generation
	size := p.sizes()
	for _, s := range p.l.Of(p.c.Dataset) { // by epoch and sequence
		id := s.Generation.String()
		i := slices.IndexFunc(out, func(g retain.Generation) bool { return g.ID == id })
		if i < 0 {
			i = len(out)
			out = append(out, retain.Generation{ID: id, Epoch: s.Epoch, Objects: size[id].objects, Bytes: size[id].bytes})
		}
		out[i].Proven, _ = p.c.Verdict(p.l, s)
	}
	return out
}

type cost struct {
	objects int
	bytes   int64
}

// sizes counts what each generation has on all stores together.
func (p *Plan) sizes() map[string]cost {
	out := map[string]cost{}
	inv := p.l.Inventory()
	for key, at := range inv.Keys() {
		f := strings.Split(key, "/")
		if len(f) != 3 {
			continue
		}
		c := out[f[1]]
		for _, m := range at {
			c.objects++
			c.bytes += inv.Size(key, m)
		}
		out[f[1]] = c
	}
	return out
}

// bury plans tombstones. It needs to know of every manifest there is, so every
// store must have been listed to its end.
func (p *Plan) bury(now time.Time) {
	var away []string
	for i, m := range p.c.Repo.Members {
		if p.l.Inventory().Failed(i) != nil {
			away = append(away, m.Name)
		}
	}
	for _, f := range p.Fates {
		if len(f.Kept) > 0 {
			continue
		}
		if len(away) > 0 {
			p.Stuck = append(p.Stuck, fmt.Sprintf("generation %d may go and gets no tombstone: no complete listing of %s", f.Epoch, strings.Join(away, ", ")))
			continue
		}
		p.Burials = append(p.Burials, p.burial(f, now))
	}
}

func (p *Plan) burial(f retain.Fate, now time.Time) Burial {
	t := repo.Tombstone{Tenant: p.c.Repo.Tenant, Dataset: p.c.Dataset, Epoch: f.Epoch, Incarnation: p.c.Incarnation,
		Time: now, NotBefore: now.Add(p.c.Grace), Reason: repo.ByPolicy}
	for _, s := range p.l.Of(p.c.Dataset) {
		if s.Generation.String() == f.ID {
			t.Generation = s.Generation
			t.Snapshots = append(t.Snapshots, repo.Grave{Sequence: s.Sequence, Manifest: s.Hash()})
		}
	}
	b := Burial{Generation: f.ID, Epoch: f.Epoch, NotBefore: t.NotBefore.UTC().Truncate(time.Second), Objects: f.Objects, Bytes: f.Bytes}
	for _, d := range f.Snapshots {
		b.Snapshots = append(b.Snapshots, d.ID)
		if d.Replaced != "" || d.Without != "" {
			t.Reason = repo.ByCompact
		}
	}
	b.Reason, b.stone = t.Reason.String(), t
	return b
}

// carry plans to bring standing tombstones to the stores that lack them: new
// ones, those that were away, and those that were rolled back.
func (p *Plan) carry() {
	for _, t := range p.stones() {
		for i, m := range p.c.Repo.Members {
			if p.l.Inventory().Failed(i) == nil && !slices.Contains(t.Stores, m.Name) {
				p.Carries = append(p.Carries, Carry{Generation: t.Generation.String(), Store: m.Name, stone: t, member: i})
			}
		}
	}
}

// stones are the dataset's tombstones.
func (p *Plan) stones() []*repo.StandingTombstone {
	var out []*repo.StandingTombstone
	for _, t := range p.l.Tombstones {
		if t.Dataset == p.c.Dataset {
			out = append(out, t)
		}
	}
	return out
}

// Do carries the plan out: first the tombstones, then deletions of what was
// buried long ago.
//
// Crash story. A tombstone on one store buries: every later run finds it there
// and carries it to the others; none of its objects is deleted anywhere before
// a listing has shown it on every store and its time has come. Deleting may
// stop anywhere: what is left is found by the generation's prefix, as long as
// its tombstone stands, and that is for ever.
func (p *Plan) Do(ctx context.Context) error {
	var errs []error
	for _, b := range p.Burials {
		t, err := b.stone.Seal(p.c.Signer)
		if err != nil {
			return err
		}
		for i := range p.c.Repo.Members {
			errs = append(errs, p.put(ctx, t, i))
		}
	}
	for _, c := range p.Carries {
		errs = append(errs, p.put(ctx, c.stone, c.member))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	errs = append(errs, p.clean(ctx), p.remember())
	if p.c.Spool != nil {
		for _, g := range p.Gone() {
			errs = append(errs, p.c.Spool.Forget(p.c.Repo.Tenant, g))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", repo.ErrIncomplete, err)
	}
	return nil
}

// put brings a tombstone to a store and asks for it then.
func (p *Plan) put(ctx context.Context, t *repo.StandingTombstone, member int) error {
	m := p.c.Repo.Members[member]
	err := m.Store.Put(ctx, t.Key(), t.Raw, sum(t.Raw))
	if err == nil {
		var info store.Info
		if info, err = m.Store.Stat(ctx, t.Key()); err == nil && info.Size != int64(len(t.Raw)) {
			err = store.ErrTampered
		}
	}
	if err != nil {
		return fmt.Errorf("store %q: tombstone of generation %d: %w", m.Name, t.Epoch, err)
	}
	return nil
}

// Listed is the verdict of a listing made now: the manifest is believed and
// every shard of every pack lies in a place of its own with its length.
func Listed(l *repo.Listing, s *repo.Snapshot) (bool, string) {
	return l.Whole(s)
}

// Clocks asks the stores that can tell the time for it, all at once; one that
// does not answer says nothing.
func Clocks(ctx context.Context, members []spread.Member) []retain.ClockReading {
	var wg sync.WaitGroup
	out := make([]retain.ClockReading, len(members))
	for i, m := range members {
		if k, ok := m.Store.(Clock); ok {
			wg.Go(func() {
				if says, here, err := k.Clock(ctx); err == nil {
					out[i] = retain.ClockReading{Who: fmt.Sprintf("store %q", m.Name), Says: says, Box: here}
				}
			})
		}
	}
	wg.Wait()
	return slices.DeleteFunc(out, func(c retain.ClockReading) bool { return c.Who == "" })
}

// Listing is what the plan was made from.
func (p *Plan) Listing() *repo.Listing { return p.l }
