package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"strongroom/erasure"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// RepairConfig says what a repair shall do. It needs no generation key: closed
// generations are repaired like open ones.
type RepairConfig struct {
	// Dataset is whose snapshots are repaired; nil: those of all.
	Dataset *ID
	// Fill names a store that shall have a shard of every pack: a new one, or
	// one in the place of one that was lost.
	Fill string
	// Drain names a store that will be taken away: what it has goes to others.
	Drain string
	// Spool, if not nil, is read where the stores are not enough.
	Spool store.Store
	// ReadData reads every shard first instead of believing the listings.
	ReadData bool
	// DryRun does all but write and report to Seen and Mark.
	DryRun bool

	// Signer signs supplements, for this incarnation of the box.
	Signer      Signer
	Incarnation uint32
	Now         func() time.Time

	// Suspect says of a listed shard that it must be read before it counts.
	// It may be called concurrently.
	Suspect func(store, key string, attempt int) bool
	// Seen is told of every shard that was read.
	Seen func(store, key string, good bool)
	// Mark is told of objects that are wrong where a right one is on a store.
	// The daemon never deletes; whoever may, must compare for itself.
	Mark func(Mark) error
	// Progress is told the bytes of packs looked at so far, and of all.
	Progress func(done, total int64)

	batch int // packs in a supplement; 0: as many as it may have
}

// A Mark is an object for whoever deletes.
type Mark struct {
	Store  string `json:"store"`
	Object string `json:"object"`
	Why    string `json:"why"`
}

// An Act is one thing that a repair did, or would do.
type Act struct {
	Act    string `json:"act"` // "write", "manifest", "supplement", "tombstone", "mark"
	Store  string `json:"store,omitempty"`
	Object string `json:"object,omitempty"`
	Bytes  int64  `json:"bytes,omitempty"`
	Why    string `json:"why"`
}

// Repaired is what a repair did.
type Repaired struct {
	Packs    int      `json:"packs"`
	Acts     []Act    `json:"acts"`
	Written  int64    `json:"written"`  // bytes of shards
	Left     []string `json:"left"`     // what could not be done, each a line
	Lost     int      `json:"lost"`     // packs that have too few good shards on any store
	Away     int      `json:"away"`     // packs with shards on stores that were not reached
	Problems []string `json:"problems"` // of the listing
}

// Whole reports whether nothing is left to do.
func (r *Repaired) Whole() bool { return len(r.Left) == 0 && r.Lost == 0 && r.Away == 0 }

// repair is a repair at work.
type repair struct {
	c   RepairConfig
	r   *Repo // with the spool behind the stores
	l   *Listing
	out *Repaired

	stores      int
	fill, drain []int
	done, total int64
}

// Repair makes lost and bad shards again, and puts manifests, supplements and
// tombstones on the stores that lack them. It may be stopped at any moment; the next one goes
// on with what is missing then.
func (r *Repo) Repair(ctx context.Context, c RepairConfig) (*Repaired, error) {
	c.batch = cmp.Or(c.batch, supplementPacks)
	w := &repair{c: c, stores: len(r.Members), out: &Repaired{Acts: []Act{}, Left: []string{}, Problems: []string{}}}
	with := *r
	if c.Spool != nil {
		with.Members = append(slices.Clone(r.Members), spread.Member{Name: "spool", Store: c.Spool})
	}
	w.r = &with
	var err error
	if w.fill, err = w.member(c.Fill); err != nil {
		return nil, err
	}
	if w.drain, err = w.member(c.Drain); err != nil {
		return nil, err
	}
	if w.l, err = with.List(ctx); err != nil {
		return nil, err
	}
	for _, p := range w.l.Problems {
		w.out.Problems = append(w.out.Problems, p.Text)
	}
	for _, s := range w.l.Snapshots {
		if s.Incarnation > c.Incarnation && !c.DryRun {
			return nil, fmt.Errorf("%w: snapshot %s was written by incarnation %d of the box, this is incarnation %d: this box was replaced and must not write any more", ErrConflict, s.ID(), s.Incarnation, c.Incarnation)
		}
	}
	w.tombstones(ctx)
	gens := w.generations()
	for _, g := range gens {
		for _, p := range g.packs {
			w.total += p.Stored()
		}
	}
	for _, g := range gens {
		if err := w.generation(ctx, g); err != nil {
			return w.out, err
		}
	}
	return w.out, nil
}

func (w *repair) member(name string) ([]int, error) {
	if name == "" {
		return nil, nil
	}
	for i, m := range w.r.Members[:w.stores] {
		if m.Name == name {
			return []int{i}, nil
		}
	}
	return nil, fmt.Errorf("no store %q", name)
}

// tombstones puts the tombstones on the stores that lack them, before anything
// else: of a generation that was deleted they are all that is left, and without
// them what follows its snapshots follows nothing, and what turns up again of it
// would live. An expiry carries them too, but while a hold freezes it every store
// may be replaced, one after the other.
func (w *repair) tombstones(ctx context.Context) {
	unfit := map[int]bool{} // a store that took none takes no other
	for _, t := range w.l.Tombstones {
		if w.c.Dataset != nil && t.Dataset != *w.c.Dataset {
			continue
		}
		w.markDamaged(t.Key())
		for i, m := range w.r.Members[:w.stores] {
			if slices.Contains(t.Stores, m.Name) || slices.Contains(w.drain, i) || w.l.inventory.Failed(i) != nil || unfit[i] || ctx.Err() != nil {
				continue
			}
			if !w.c.DryRun {
				if err := putBack(ctx, m.Store, t.Key(), t.Raw); err != nil {
					if ctx.Err() == nil {
						w.out.Left, unfit[i] = append(w.out.Left, fmt.Sprintf("store %q: tombstone %s: %v", m.Name, t.Key(), err)), true
					}
					continue
				}
			}
			w.out.Acts = append(w.out.Acts, Act{"tombstone", m.Name, t.Key(), int64(len(t.Raw)), "it is not there"})
		}
	}
}

// markDamaged marks what has an object's name on a store and is not it.
func (w *repair) markDamaged(key string) {
	for _, p := range w.l.Problems {
		if p.Object == key && errors.Is(p.Err, ErrIntegrity) {
			if err := w.mark(Mark{p.Store, key, p.Err.Error()}); err != nil {
				w.out.Left = append(w.out.Left, err.Error())
			}
		}
	}
}

// generationWork is a generation and the packs that its snapshots need.
type generationWork struct {
	prefix    string
	snapshots []*Snapshot // newest first
	packs     []PackRecord
	from      []*Snapshot // by pack: the newest snapshot that lists it
}

func (w *repair) generations() []*generationWork {
	return groupGenerations(slices.DeleteFunc(slices.Clone(w.l.Snapshots), func(s *Snapshot) bool {
		return w.c.Dataset != nil && s.Dataset != *w.c.Dataset
	}))
}

// groupGenerations sorts snapshots, the oldest of a dataset first, by their
// generations; the newest of these comes first.
func groupGenerations(snapshots []*Snapshot) []*generationWork {
	by := map[ID]*generationWork{}
	var out []*generationWork
	for _, s := range slices.Backward(snapshots) {
		g := by[s.Generation]
		if g == nil {
			g = &generationWork{prefix: generationPrefix(s.Tenant, s.Generation)}
			by[s.Generation], out = g, append(out, g)
		}
		g.snapshots = append(g.snapshots, s)
	}
	for _, g := range out {
		known := map[erasure.ID]bool{}
		for _, s := range g.snapshots {
			for _, p := range s.Packs {
				if !known[p.Encode] {
					known[p.Encode] = true
					g.packs, g.from = append(g.packs, p), append(g.from, s)
				}
			}
		}
	}
	return out
}

// repairers is how many packs are at work at once; their memory is bounded by
// spread.
const repairers = 4

// generation repairs the packs of one generation, then its manifests.
func (w *repair) generation(ctx context.Context, g *generationWork) error {
	margin, err := w.margin()
	if err != nil {
		return err
	}
	rep := w.l.inventory.Repairer(g.prefix, spread.RepairConfig{Stores: w.stores, ReadAll: w.c.ReadData, Fill: w.fill, Empty: w.drain, Margin: margin, DryRun: w.c.DryRun,
		Suspect: func(c spread.Copy) bool {
			return w.c.Suspect != nil && c.Member < w.stores && w.c.Suspect(w.r.Members[c.Member].Name, c.Key, c.Attempt())
		}})
	if err := w.packs(ctx, g, rep); err != nil {
		return err
	}
	w.manifests(ctx, g, rep)
	w.copySupplements(ctx, g, rep)
	for i := range w.stores {
		if err := rep.Unfit(i); err != nil && !slices.Contains(w.out.Left, err.Error()) {
			w.out.Left = append(w.out.Left, err.Error())
		}
	}
	return ctx.Err()
}

// margin is how many further stores may be lost once the drained one is gone:
// as many as a new snapshot on the others would bear.
func (w *repair) margin() (int, error) {
	if len(w.drain) == 0 {
		return 0, nil
	}
	g, err := erasure.Plan(w.stores - 1)
	if err != nil {
		return 0, fmt.Errorf("drain the only store: %w", err)
	}
	return g.N - g.K, nil
}

// packs repairs packs, several at once, and takes note of what came of them in
// their order.
func (w *repair) packs(ctx context.Context, g *generationWork, rep *spread.Repairer) error {
	cancelable, cancel := context.WithCancel(ctx)
	defer cancel()
	group, gctx := errgroup.WithContext(cancelable)
	results := make([]chan *spread.Mended, len(g.packs))
	for i := range results {
		results[i] = make(chan *spread.Mended, 1)
	}
	group.Go(func() error { // and not this goroutine, which takes the results
		var workers errgroup.Group
		workers.SetLimit(repairers)
		for i, p := range g.packs {
			if gctx.Err() != nil {
				break
			}
			workers.Go(func() error {
				m, err := rep.Pack(gctx, p.Pack)
				if err == nil {
					results[i] <- m
				}
				return err
			})
		}
		return workers.Wait()
	})
	batch := &supplement{}
	err := w.collect(gctx, g, rep, results, batch)
	if err == nil {
		return group.Wait()
	}
	cancel()
	if werr := group.Wait(); werr != nil && ctx.Err() == nil && !errors.Is(werr, context.Canceled) {
		err = werr // why they ended tells more than that they did
	}
	return errors.Join(err, w.flushLate(ctx, g, rep, batch))
}

func (w *repair) collect(ctx context.Context, g *generationWork, rep *spread.Repairer, results []chan *spread.Mended, batch *supplement) error {
	for i, p := range g.packs {
		select {
		case m := <-results[i]:
			if err := w.note(p, m); err != nil {
				return err
			}
			if len(m.Further) == 0 {
				break
			}
			if len(batch.Packs) == w.c.batch || len(batch.Packs) > 0 && batch.Manifest != g.from[i].hash {
				if err := w.flush(ctx, g, rep, batch); err != nil {
					return err
				}
			}
			batch.Sequence, batch.Manifest, batch.Dataset = g.from[i].Sequence, g.from[i].hash, g.from[i].Dataset
			batch.Packs = append(batch.Packs, furtherShards{p.Number, p.ID, p.Encode, uint8(p.Geometry.K), uint8(p.Geometry.N), m.Further})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return w.flush(ctx, g, rep, batch)
}

// note takes over what became of a pack.
func (w *repair) note(p PackRecord, m *spread.Mended) error {
	name := func(c spread.Copy) string { return w.r.Members[c.Member].Name }
	for _, x := range m.Writes {
		w.out.Acts = append(w.out.Acts, Act{"write", name(x.Copy), x.Key, x.Size, fmt.Sprintf("shard %d of pack %v: %s", x.Index, p.ID, x.Why)})
		w.out.Written += x.Size
	}
	if w.c.Seen != nil && !w.c.DryRun {
		for _, f := range m.Seen {
			w.c.Seen(name(f.Copy), f.Key, f.State == spread.Good)
		}
	}
	for _, f := range m.Bad {
		if err := w.mark(Mark{name(f.Copy), f.Key, f.Detail}); err != nil {
			return err
		}
	}
	for _, text := range m.Left {
		w.out.Left = append(w.out.Left, fmt.Sprintf("pack %v: %s", p.ID, text))
	}
	w.out.Packs++
	switch {
	case m.Lost != nil:
		w.out.Left = append(w.out.Left, m.Lost.Error())
		if m.Away == 0 {
			w.out.Lost++
			break
		}
		fallthrough
	case m.Away > 0:
		w.out.Away++
	}
	w.done += p.Stored()
	if w.c.Progress != nil {
		w.c.Progress(w.done, w.total)
	}
	return nil
}

func (w *repair) mark(m Mark) error {
	w.out.Acts = append(w.out.Acts, Act{Act: "mark", Store: m.Store, Object: m.Object, Why: m.Why})
	if w.c.DryRun || w.c.Mark == nil {
		return nil
	}
	return w.c.Mark(m)
}

// flush signs and stores a supplement of the further shards made so far.
//
// Crash story. The shards are durable and were read back. Until one store has
// the supplement they are nothing: the next run makes the same again. A store
// that does not get it has shards that only others explain.
func (w *repair) flush(ctx context.Context, g *generationWork, rep *spread.Repairer, batch *supplement) error {
	if len(batch.Packs) == 0 {
		return nil
	}
	first := g.snapshots[0]
	batch.Tenant, batch.Generation, batch.Incarnation, batch.Time = first.Tenant, first.Generation, w.c.Incarnation, w.c.Now().UTC().Truncate(time.Second)
	slices.SortFunc(batch.Packs, func(a, b furtherShards) int { return int(a.Number) - int(b.Number) })
	n := 0
	for _, p := range batch.Packs {
		n += len(p.Shards)
	}
	w.out.Acts = append(w.out.Acts, Act{Act: "supplement", Object: g.prefix, Why: fmt.Sprintf("%d further shards of %d packs", n, len(batch.Packs))})
	if w.c.DryRun {
		*batch = supplement{}
		return nil
	}
	raw := batch.sign(w.c.Signer)
	if _, err := parseSupplement(raw, w.r.Trust); err != nil {
		return fmt.Errorf("supplement that was just made: %w", err)
	}
	key, taken := supplements.key(batch.Tenant, batch.Generation, raw), 0
	for i, m := range w.r.Members[:w.stores] {
		if !rep.Usable(i) {
			continue
		}
		err := putBack(ctx, m.Store, key, raw)
		if ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			rep.GiveUp(i, err)
			continue
		}
		taken++
	}
	if taken == 0 {
		return fmt.Errorf("%w: no store took the supplement of %d further shards", ErrIncomplete, n)
	}
	*batch = supplement{}
	return nil
}

// lateFlush is how long an interrupted repair may take to keep what it did.
const lateFlush = 20 * time.Second

// flushLate keeps the further shards made before the repair was interrupted,
// so that the next one need not make them again.
func (w *repair) flushLate(ctx context.Context, g *generationWork, rep *spread.Repairer, batch *supplement) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateFlush)
	defer cancel()
	return w.flush(ctx, g, rep, batch)
}

// putBack stores an object and reads it back.
func putBack(ctx context.Context, st store.Store, key string, body []byte) error {
	sum := sha256.Sum256(body)
	if err := st.Put(ctx, key, body, sum); err != nil {
		return err
	}
	got, err := readObject(ctx, st, key, int64(len(body)))
	if err == nil && sha256.Sum256(got) != sum {
		err = store.ErrTampered
	}
	if err != nil {
		return fmt.Errorf("%s was stored and does not read back: %w", key, err)
	}
	return nil
}

// manifests puts the manifests of a generation on the stores that lack them,
// now that these have the shards. What lies there under the name of one and is
// none is marked: it is in the way.
func (w *repair) manifests(ctx context.Context, g *generationWork, rep *spread.Repairer) {
	for _, s := range slices.Backward(g.snapshots) {
		if s.Conflict {
			continue // nobody but a person may choose
		}
		for i, m := range w.r.Members[:w.stores] {
			if slices.Contains(s.Stores, m.Name) || !rep.Usable(i) || ctx.Err() != nil {
				continue
			}
			if why := w.inTheWay(s, m.Name); why != "" {
				if err := w.mark(Mark{m.Name, s.Key(), why}); err != nil {
					w.out.Left = append(w.out.Left, err.Error())
				}
				w.out.Left = append(w.out.Left, fmt.Sprintf("store %q: manifest %s cannot be stored: something else has its name", m.Name, s.Key()))
				continue
			}
			w.putObject(ctx, rep, i, Act{"manifest", m.Name, s.Key(), int64(len(s.raw)), fmt.Sprintf("snapshot %s is not there", s.ID())}, s.raw)
		}
	}
}

// inTheWay says what a store has under a manifest's name instead.
func (w *repair) inTheWay(s *Snapshot, store string) string {
	for _, p := range w.l.Problems {
		if p.Store == store && p.Object == s.Key() && errors.Is(p.Err, ErrIntegrity) {
			return strings.TrimPrefix(p.Err.Error(), ErrIntegrity.Error()+": ")
		}
	}
	return ""
}

func (w *repair) putObject(ctx context.Context, rep *spread.Repairer, i int, act Act, raw []byte) {
	if !w.c.DryRun {
		if err := putBack(ctx, w.r.Members[i].Store, act.Object, raw); err != nil {
			if ctx.Err() == nil {
				rep.GiveUp(i, err)
			}
			return
		}
	}
	w.out.Acts = append(w.out.Acts, act)
}

// copySupplements puts the supplements of a generation on the stores that lack
// them. Those of offline sets stay on their media.
func (w *repair) copySupplements(ctx context.Context, g *generationWork, rep *spread.Repairer) {
	for _, s := range w.l.supplements {
		if generationPrefix(s.Tenant, s.Generation) != g.prefix || s.apart() {
			continue
		}
		w.markDamaged(s.key)
		at := w.l.inventory.Holders(s.key, int64(len(s.raw)))
		for i, m := range w.r.Members[:w.stores] {
			if slices.Contains(at, i) || !rep.Usable(i) || ctx.Err() != nil {
				continue
			}
			w.putObject(ctx, rep, i, Act{"supplement", m.Name, s.key, int64(len(s.raw)), "it is not there"}, s.raw)
		}
	}
}
