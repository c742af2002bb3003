package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"strongroom/erasure"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// CopyConfig says what is copied onto an offline medium, and by whom.
type CopyConfig struct {
	// To is the medium. One medium holds a whole set.
	To store.Store
	// Slot is the set's number: sets of different slots get different shards.
	Slot int
	// Choose picks snapshots; nil: all of each dataset's newest generation.
	Choose func(*Snapshot) bool
	// Program is the path of the recovery program, which goes onto the medium;
	// empty: none does.
	Program string
	// Spool, if not nil, is read where the stores are not enough.
	Spool store.Store
	// Suspect says of an object on the medium that it was found bad: it is
	// made again under the next name.
	Suspect func(key string) bool

	// Signer signs supplements, for this incarnation of the box.
	Signer      Signer
	Incarnation uint32
	Now         func() time.Time

	// Progress is told the bytes of shards dealt with so far, and of all.
	Progress func(done, total int64)
}

// Copied is what a copy did.
type Copied struct {
	Snapshots []string `json:"snapshots"` // ids of those that the medium restores alone now
	Packs     int      `json:"packs"`     // that they need
	Made      int      `json:"made"`      // of these, packs whose shards were made now
	Written   int64    `json:"written"`   // bytes of these shards
	Problems  []string `json:"problems"`  // of the listings
}

// copying is a copy at work.
type copying struct {
	c   CopyConfig
	r   *Repo // the stores
	out *Copied
	l   *Listing // of the stores
	had *Listing // of the medium

	done, total int64
}

// CopyTo puts k further shards of every pack of the snapshots chosen onto a
// medium, with all else that it takes to restore them from it alone. It needs
// no generation key, and does not write again what is there.
//
// Crash story. Per generation the order is shards, supplements, tombstones,
// manifests, and each is durable before the next. Whatever moment the medium is
// pulled out at, a manifest that it has restores from it; shards that no
// supplement lists are nothing, and the next copy makes them again, to the same
// bytes, and finds them there.
func (r *Repo) CopyTo(ctx context.Context, c CopyConfig) (*Copied, error) {
	w := &copying{c: c, r: r, out: &Copied{Snapshots: []string{}, Problems: []string{}}}
	from := *r
	if c.Spool != nil {
		from.Members = append(slices.Clone(r.Members), spread.Member{Name: "spool", Store: c.Spool})
	}
	var err error
	if w.l, err = from.List(ctx); err != nil {
		return nil, err
	}
	medium := *r
	medium.Members = []spread.Member{{Name: "medium", Store: c.To}}
	if w.had, err = medium.List(ctx); err != nil {
		return nil, err
	}
	for _, p := range slices.Concat(w.l.Problems, w.had.Problems) {
		w.out.Problems = append(w.out.Problems, p.Text)
	}
	gens := w.generations()
	for _, g := range gens {
		for _, p := range g.packs {
			w.total += p.ShardLen() * int64(p.Geometry.K)
		}
	}
	if err := w.forPeople(ctx); err != nil {
		return w.out, err
	}
	for _, g := range gens {
		if err := w.generation(ctx, g); err != nil {
			return w.out, err
		}
	}
	return w.out, nil
}

// maxProgram bounds the recovery program in bytes.
const maxProgram = 256 << 20

// forPeople puts the texts and the program there that a person begins with.
func (w *copying) forPeople(ctx context.Context) error {
	for _, t := range []struct{ key, text string }{{"RECOVER.txt", MediumText}, {"FORMAT.md", FormatText}} {
		// That of an earlier release stays: it says how the objects beside it
		// are read, and so do all later ones.
		if err := putBack(ctx, w.c.To, t.key, []byte(t.text)); err != nil && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	if w.c.Program == "" {
		return nil
	}
	f, err := os.Open(w.c.Program)
	if err != nil {
		return fmt.Errorf("recovery program: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxProgram+1))
	if err == nil && len(b) > maxProgram {
		err = fmt.Errorf("%s has more than %d bytes", w.c.Program, maxProgram)
	}
	if err != nil {
		return fmt.Errorf("recovery program: %w", err)
	}
	return putBack(ctx, w.c.To, programKey(b), b)
}

// programKey names the recovery program by its hash: one of a later release
// gets a place beside it, and a person can tell which one a kit means.
func programKey(b []byte) string { return fmt.Sprintf("strongroom-recover-%.8x", sha256.Sum256(b)) }

// generations are those of the snapshots chosen, the newest one last.
func (w *copying) generations() []*generationWork {
	newest := map[ID]uint32{}
	for _, s := range w.l.Snapshots {
		newest[s.Dataset] = max(newest[s.Dataset], s.Epoch)
	}
	chosen := []*Snapshot{}
	for _, s := range w.l.Snapshots {
		switch {
		case s.Conflict: // nobody but a person may choose
			w.out.Problems = append(w.out.Problems, fmt.Sprintf("snapshot %s is not copied: another one claims its place", s.ID()))
		case w.c.Choose != nil && w.c.Choose(s), w.c.Choose == nil && s.Epoch == newest[s.Dataset]:
			chosen = append(chosen, s)
		}
	}
	gens := groupGenerations(chosen)
	slices.Reverse(gens)
	return gens
}

func (w *copying) generation(ctx context.Context, g *generationWork) error {
	if err := w.packs(ctx, g); err != nil {
		return err
	}
	for _, s := range w.l.supplements {
		if generationPrefix(s.Tenant, s.Generation) == g.prefix && !s.apart() {
			if err := putBack(ctx, w.c.To, s.key, s.raw); err != nil {
				return err
			}
		}
	}
	for _, t := range w.l.Tombstones {
		if t.Dataset == g.snapshots[0].Dataset {
			if err := putBack(ctx, w.c.To, t.Key(), t.Raw); err != nil {
				return err
			}
		}
	}
	for _, s := range slices.Backward(g.snapshots) {
		if err := putBack(ctx, w.c.To, s.Key(), s.raw); err != nil {
			return err
		}
		w.out.Snapshots = append(w.out.Snapshots, s.ID())
	}
	return nil
}

// packs makes the shards of a generation's packs that the medium does not have.
// One pack is at work at a time: a single disk takes what one core makes.
func (w *copying) packs(ctx context.Context, g *generationWork) error {
	reader := w.l.inventory.Reader(g.prefix)
	listed := w.listed(g)
	batch := &supplement{}
	for i, p := range g.packs {
		first, err := erasure.Apart(p.Geometry.K, w.c.Slot)
		if err != nil {
			return err
		}
		w.out.Packs++
		if !w.there(g.prefix, p, first, listed[p.Encode]) {
			sums, err := w.pack(ctx, reader, g.prefix, p, first)
			if err != nil {
				return err
			}
			if len(batch.Packs) == supplementPacks || len(batch.Packs) > 0 && batch.Manifest != g.from[i].hash {
				if err := w.flush(ctx, batch); err != nil {
					return err
				}
			}
			s := g.from[i]
			batch.Tenant, batch.Dataset, batch.Generation, batch.Sequence, batch.Manifest = s.Tenant, s.Dataset, s.Generation, s.Sequence, s.hash
			batch.Packs = append(batch.Packs, furtherShards{p.Number, p.ID, p.Encode, uint8(p.Geometry.K), uint8(first), sums})
		}
		w.done += p.ShardLen() * int64(p.Geometry.K)
		if w.c.Progress != nil {
			w.c.Progress(w.done, w.total)
		}
	}
	return w.flush(ctx, batch)
}

// listed returns the hashes of the shards of offline sets that supplements on
// the medium list, by encoding.
func (w *copying) listed(g *generationWork) map[erasure.ID]map[int][32]byte {
	out := map[erasure.ID]map[int][32]byte{}
	for _, s := range w.had.supplements {
		if generationPrefix(s.Tenant, s.Generation) != g.prefix {
			continue
		}
		for _, p := range s.Packs {
			if out[p.Encode] == nil {
				out[p.Encode] = map[int][32]byte{}
			}
			for j, sum := range p.Shards {
				out[p.Encode][int(p.First)+j] = sum
			}
		}
	}
	return out
}

// there reports whether the medium has the k shards of a pack, each under a name
// that is not suspect, and a supplement that lists them.
func (w *copying) there(prefix string, p PackRecord, first int, listed map[int][32]byte) bool {
	for i := first; i < first+p.Geometry.K; i++ {
		if _, ok := listed[i]; !ok || w.attempt(prefix, p, i) < 0 {
			return false
		}
	}
	return true
}

// attempt returns which attempt of shard i the medium lists whole and not
// suspect, or -1.
func (w *copying) attempt(prefix string, p PackRecord, i int) int {
	for a := range spread.MaxAttempts {
		key := p.Key(prefix, i, a)
		if len(w.had.inventory.Holders(key, p.ShardLen())) > 0 && !w.suspect(key) {
			return a
		}
	}
	return -1
}

func (w *copying) suspect(key string) bool { return w.c.Suspect != nil && w.c.Suspect(key) }

// pack makes the k shards of a pack and puts those on the medium that it lacks.
func (w *copying) pack(ctx context.Context, reader *spread.Reader, prefix string, p PackRecord, first int) ([][32]byte, error) {
	made, err := reader.Extend(ctx, p.Pack, first)
	if err != nil {
		return nil, err
	}
	sums := make([][32]byte, len(made))
	for n, b := range made {
		sums[n] = sha256.Sum256(b)
		if err := w.put(ctx, prefix, p, first+n, b, sums[n]); err != nil {
			return nil, err
		}
	}
	w.out.Made++
	return sums, nil
}

// put stores a shard under the first name that is free, or has it already.
func (w *copying) put(ctx context.Context, prefix string, p PackRecord, i int, b []byte, sum [32]byte) error {
	err := fmt.Errorf("shard %d of pack %v was made again %d times: %w", i, p.ID, spread.MaxAttempts-1, store.ErrExists)
	for a := range spread.MaxAttempts {
		key := p.Key(prefix, i, a)
		if w.suspect(key) {
			continue
		}
		if perr := w.c.To.Put(ctx, key, b, sum); perr == nil {
			w.out.Written += int64(len(b))
			return nil
		} else if !errors.Is(perr, store.ErrExists) {
			return perr
		}
	}
	return err
}

// flush signs a supplement of the shards made so far and puts it on the medium,
// and nowhere else: a store would list shards that none of the stores has.
func (w *copying) flush(ctx context.Context, batch *supplement) error {
	if len(batch.Packs) == 0 {
		return nil
	}
	batch.Incarnation, batch.Time = w.c.Incarnation, w.c.Now().UTC().Truncate(time.Second)
	slices.SortFunc(batch.Packs, func(a, b furtherShards) int { return cmp.Compare(a.Number, b.Number) })
	raw := batch.sign(w.c.Signer)
	if _, err := parseSupplement(raw, w.r.Trust); err != nil {
		return fmt.Errorf("supplement that was just made: %w", err)
	}
	if err := putBack(ctx, w.c.To, supplements.key(batch.Tenant, batch.Generation, raw), raw); err != nil {
		return err
	}
	*batch = supplement{}
	return nil
}
