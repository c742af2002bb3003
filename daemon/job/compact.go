package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/expire"
	"strongroom/repo/retain"
)

// CompactOptions are the choices of one compaction.
type CompactOptions struct {
	Without string // a snapshot to leave out; "": none
	Reason  string // why, with Without
	DryRun  bool
	Tool    string
	// Plan is told what will be copied before anything is done.
	Plan func(*CompactResult) error
	// Copied is told of each snapshot that is in the new generation now, read
	// back and compared.
	Copied func(old *repo.Snapshot, copy string)
}

// CompactResult is what a compaction copies, or would copy.
type CompactResult struct {
	Tenant  string   `json:"tenant"`
	Dataset string   `json:"dataset"`
	Copy    []string `json:"copy"`    // snapshots, oldest first
	Without string   `json:"without"` // left out by name
	Expired []string `json:"expired"` // not kept by the policy, so not copied
	Done    []string `json:"done"`    // copied by a run before
	Bytes   int64    `json:"bytes"`   // to be read
}

// Compact copies what survives of a dataset into a fresh generation, through
// the ordinary restore and the ordinary writer, reads every copy back from the
// stores and compares it. The generations before go by the ordinary expiry then.
//
// Crash story. A copy is a snapshot like any other, and what is not copied yet
// is where it was. A later run goes on with what is missing: only copies that
// were compared count. What is left out by name is recorded last.
func (s *Site) Compact(ctx context.Context, tenant, dataset string, o CompactOptions) error {
	if o.DryRun {
		return s.compact(ctx, tenant, dataset, o)
	}
	fields := map[string]string{"dataset": dataset}
	if o.Without != "" {
		fields["without"] = ledger.Text(o.Without)
	}
	return s.acting(ctx, tenant, compactAct, fields, func() (map[string]string, error) { return nil, s.compact(ctx, tenant, dataset, o) })
}

func (s *Site) compact(ctx context.Context, tenant, dataset string, o CompactOptions) error {
	c, t, _, err := s.expireConfig(ctx, tenant, dataset, nil)
	if err != nil {
		return err
	}
	d, _, _, _, err := s.known(tenant, dataset)
	if err != nil {
		return err
	}
	// What is read must stay while it is read; the writer has a lock of its own.
	lease, err := repo.TakeLease(c.Dir, "compact", time.Time{})
	if err != nil {
		return err
	}
	defer lease.Release()
	w := &compaction{s: s, t: t, d: d, c: c, o: o}
	if err := w.choose(ctx); err != nil {
		return err
	}
	if err := o.Plan(w.result); err != nil || o.DryRun {
		return err
	}
	for _, snap := range w.copy {
		if err := w.copyOne(ctx, snap); err != nil {
			return fmt.Errorf("copy of snapshot %s: %w", snap.ID(), err)
		}
	}
	if w.without == nil {
		return nil
	}
	return w.record(func(st *expire.State) {
		for _, s := range w.left {
			st.Without[s.HexHash()] = o.Reason
		}
	})
}

// compaction is one run of Compact.
type compaction struct {
	s *Site
	t box.Tenant
	d config.Dataset
	c expire.Config
	o CompactOptions

	l       *repo.Listing
	copy    []*repo.Snapshot
	without *repo.Snapshot
	left    []*repo.Snapshot // it, and copies of it
	result  *CompactResult
	begun   bool // the fresh generation
}

// choose finds what to copy, and refuses what cannot be done before anything
// is written.
func (w *compaction) choose(ctx context.Context) error {
	w.result = &CompactResult{Tenant: w.t.Name, Dataset: w.d.Name, Copy: []string{}, Expired: []string{}, Done: []string{}}
	state, err := expire.ReadState(w.c.Dir)
	if err != nil {
		return err
	}
	p, err := w.plan(ctx)
	if err != nil {
		return err
	}
	if w.o.Without != "" {
		if w.without, err = w.l.Find(w.c.Dataset, w.o.Without); err != nil {
			return err
		}
		if w.without.Tombstone != nil {
			return fmt.Errorf("%w: snapshot %s has expired", ErrRefused, w.without.ID())
		}
		w.result.Without = w.without.ID()
		// What the policy keeps without it is what has to be there afterwards.
		w.c.Without = map[string]string{}
		for _, s := range w.l.Of(w.c.Dataset) {
			if sameOrigin(s, w.without, state) {
				w.c.Without[s.HexHash()] = w.o.Reason
			}
		}
		if p, err = w.plan(ctx); err != nil {
			return err
		}
	}
	snaps := w.l.Of(w.c.Dataset)
	for _, d := range decisions(p) {
		i := slices.IndexFunc(snaps, func(s *repo.Snapshot) bool { return s.ID() == d.ID })
		switch snap := snaps[i]; {
		case w.c.Without[snap.HexHash()] != "":
			w.left = append(w.left, snap)
		case d.Replaced != "":
			w.result.Done = append(w.result.Done, d.ID)
		case !d.Keep():
			w.result.Expired = append(w.result.Expired, d.ID)
		default:
			w.copy = append(w.copy, snap)
		}
	}
	if len(w.copy) == 0 {
		return fmt.Errorf("%w: nothing of %s/%s would be left", ErrRefused, w.t.Name, w.d.Name)
	}
	w.resume(snaps, state)
	return w.feasible()
}

// plan makes a plan of expiry, and refuses where nothing may go.
func (w *compaction) plan(ctx context.Context) (*expire.Plan, error) {
	p, err := expire.Prepare(ctx, w.c)
	if err != nil {
		return nil, err
	}
	if len(p.Frozen) > 0 {
		return nil, fmt.Errorf("%w: %s/%s is frozen: %s", ErrRefused, w.t.Name, w.d.Name, p.Frozen[0])
	}
	w.l = p.Listing()
	return p, nil
}

// resume leaves out what is where it should be: all of it, or what a run that
// was interrupted has copied, behind which this one goes on.
func (w *compaction) resume(snaps []*repo.Snapshot, state expire.State) {
	newest := snaps[len(snaps)-1].Generation
	elsewhere := func(s *repo.Snapshot) bool { return s.Generation != newest }
	if !slices.ContainsFunc(w.copy, elsewhere) && !slices.ContainsFunc(w.left, func(s *repo.Snapshot) bool { return !elsewhere(s) }) {
		w.copy = nil
		return
	}
	var made []*repo.Snapshot
	for _, s := range slices.Backward(snaps) {
		if s.Entry.Origin == nil || !slices.ContainsFunc(snaps, func(o *repo.Snapshot) bool { return o.HexHash() == s.Entry.Origin.Manifest }) {
			break
		}
		made = append(made, s)
	}
	if slices.ContainsFunc(made, func(s *repo.Snapshot) bool { return slices.Contains(w.left, s) }) {
		return
	}
	w.begun = len(made) > 0
	w.copy = slices.DeleteFunc(w.copy, func(s *repo.Snapshot) bool {
		return slices.Contains(made, s) && state.Copies[s.Entry.Origin.Manifest] == s.HexHash()
	})
}

// decisions are all of a plan's in the order of the dataset's history.
func decisions(p *expire.Plan) []retain.Decision {
	var out []retain.Decision
	for _, f := range p.Fates {
		out = append(out, f.Snapshots...)
	}
	slices.SortStableFunc(out, func(a, b retain.Decision) int {
		if a.Epoch != b.Epoch {
			return int(int64(a.Epoch) - int64(b.Epoch))
		}
		return int(int64(a.Sequence) - int64(b.Sequence))
	})
	return out
}

// sameOrigin reports whether a is b, or one is the other's copy.
func sameOrigin(a, b *repo.Snapshot, state expire.State) bool {
	return a == b || state.Copies[a.HexHash()] == b.HexHash() || state.Copies[b.HexHash()] == a.HexHash()
}

// feasible refuses when a key is not here.
func (w *compaction) feasible() error {
	for _, snap := range w.copy {
		key, err := boxKeys{w.s.Box, w.t}.Generation(repo.ID(w.t.ID), snap.Dataset, snap.Generation)
		if err != nil {
			return err
		}
		if key == nil {
			return fmt.Errorf("%w: snapshot %s is in generation %d, which is closed, and its key is not on this box: it must be released first (strongroom keys kit, then a release from the station)",
				ErrRefused, snap.ID(), snap.Epoch)
		}
		w.result.Copy = append(w.result.Copy, snap.ID())
		w.result.Bytes += snap.Entry.Read
	}
	return nil
}

// copyOne copies a snapshot, reads the copy back and records that it is good.
func (w *compaction) copyOne(ctx context.Context, snap *repo.Snapshot) error {
	from, err := w.s.OpenSnapshot(ctx, w.l, w.t, snap)
	if err != nil {
		return err
	}
	saved, err := w.save(ctx, snap, from)
	if err != nil {
		return err
	}
	w.begun = true
	l, _, err := w.s.Listing(ctx, w.t.Name)
	if err != nil {
		return err
	}
	made, err := l.Find(w.c.Dataset, saved.ID)
	if err != nil {
		return err
	}
	to, err := w.s.OpenSnapshot(ctx, l, w.t, made)
	if err != nil {
		return err
	}
	if err := compare(ctx, from.Contents(), to); err != nil {
		return fmt.Errorf("read back as %s: %w", made.ID(), err)
	}
	if err := w.record(func(st *expire.State) { st.Copies[snap.HexHash()] = made.HexHash() }); err != nil {
		return err
	}
	w.o.Copied(snap, made.ID())
	return nil
}

// save writes the copy.
func (w *compaction) save(ctx context.Context, snap *repo.Snapshot, from *repo.Opened) (*repo.Saved, error) {
	fresh := ""
	if !w.begun {
		fresh = "the dataset is compacted"
	}
	saver, err := w.s.begin(ctx, w.t, w.d, fresh)
	if err != nil {
		return nil, err
	}
	c := from.Contents()
	commit := repo.Commit{Catalogue: *snap.Entry, KeepUntil: snap.KeepUntil, Description: c.Description, Detail: c.Detail, Facts: map[string]json.RawMessage{}}
	commit.Catalogue.Began, commit.Catalogue.Tool = "", w.o.Tool
	epoch, sequence := snap.Place()
	commit.Catalogue.Origin = &repo.Origin{Manifest: snap.HexHash(), Epoch: epoch, Sequence: sequence, Time: snap.Time}
	if snap.Entry.Origin != nil {
		commit.Catalogue.Origin.Time = snap.Entry.Origin.Time
	}
	for i, st := range c.Streams {
		if st.Facts != nil {
			commit.Facts[st.Name] = st.Facts
		}
		if err := addCopy(ctx, saver, from, i, st); err != nil {
			saver.Abort(err)
			return nil, err
		}
	}
	return saver.Commit(ctx, commit)
}

func addCopy(ctx context.Context, saver *repo.Saver, from *repo.Opened, order int, st repo.Stream) error {
	r, err := from.Read(ctx, st.Name, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = saver.Add(ctx, repo.StreamSpec{Order: order, Name: st.Name, Kind: st.Kind, PageSize: st.PageSize}, r)
	return err
}

// compare reads a copy whole, which checks every stream's hash, and compares
// what it holds with the original.
func compare(ctx context.Context, want *repo.Contents, got *repo.Opened) error {
	streams := got.Contents().Streams
	if len(streams) != len(want.Streams) || string(got.Contents().Description) != string(want.Description) || string(got.Contents().Detail) != string(want.Detail) {
		return fmt.Errorf("%w: it is not what was copied", repo.ErrIntegrity)
	}
	for i, st := range want.Streams {
		g := streams[i]
		if g.Name != st.Name || g.Kind != st.Kind || g.Length != st.Length || g.BLAKE3 != st.BLAKE3 || string(g.Facts) != string(st.Facts) {
			return fmt.Errorf("%w: stream %q is not what was copied", repo.ErrIntegrity, st.Name)
		}
		r, err := got.Read(ctx, g.Name, 0, -1)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		} else if n != st.Length {
			return fmt.Errorf("%w: stream %q has %d bytes of %d", repo.ErrIntegrity, st.Name, n, st.Length)
		}
	}
	return nil
}

// record changes the state of expiry under the dataset's lock.
func (w *compaction) record(change func(*expire.State)) error {
	lock, err := repo.Lock(w.c.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	state, err := expire.ReadState(w.c.Dir)
	if err != nil {
		return err
	}
	change(&state)
	return state.Write(w.c.Dir)
}
