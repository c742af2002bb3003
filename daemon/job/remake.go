package job

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/state"
	"strongroom/repo"
	"strongroom/source/loader"
)

// remaking is one run of Rebuild.
type remaking struct {
	*Rebuilding
	o     RebuildOptions
	stage string
	out   *Rebuilt

	from        string // the box's state as it was restored; "": there is none
	memory      box.Memory
	incarnation uint32
	credential  *box.Credential
	boxes       keys.BoxKeys // with the new one
}

func (m *remaking) run(ctx context.Context) error {
	if err := m.remember(ctx); err != nil {
		return err
	}
	var err error
	if m.out.Lost, err = m.absent(m.memory, m.o.Without); err != nil {
		return err
	}
	m.out.Lost = orEmpty(m.out.Lost)
	if err := m.count(ctx); err != nil {
		return err
	}
	if err := m.keys(); err != nil {
		return err
	}
	if err := m.files(ctx); err != nil {
		return err
	}
	if m.o.WithoutLedger {
		m.log("warning: the box comes back without its ledger")
	} else if err := m.ledger(ctx); err != nil {
		return err
	}
	if m.from == "" {
		return nil
	}
	return os.RemoveAll(m.from)
}

// remember restores the newest snapshot of the box's state. Where there never
// was one, what the kits and the stores say has to do.
func (m *remaking) remember(ctx context.Context) error {
	self := m.self()
	var snaps []*repo.Snapshot
	for _, s := range self.l.Snapshots {
		if s.Entry != nil && s.Entry.Dataset == SelfDataset {
			snaps = append(snaps, s)
		}
	}
	if len(snaps) == 0 {
		m.log("warning: no store has a snapshot of the box's state: runs, holds, media and registers of kits do not come back")
		m.memory = box.Memory{Organisation: box.Organisation{Incarnation: m.boxes0(), Boxes: m.Rebuilding.boxes}}
		return nil
	}
	snap, err := self.l.Find(snaps[0].Dataset, "latest")
	if err != nil {
		return err
	}
	open := m.o.Open[self.kit.ID]
	if open == nil {
		return exit.With(exit.WrongKey, errors.New("nothing opens the box's state: give shares, or the station's release"))
	}
	key, err := open.Generation(keys.DatasetID(snap.Dataset), keys.GenerationID(snap.Generation), snap.Capsule)
	if err != nil {
		return err
	}
	defer key.Wipe()
	opened, err := self.l.Open(ctx, snap, key)
	if err != nil {
		return err
	}
	m.from = filepath.Join(m.stage, "restored")
	if _, err := loader.Restore(ctx, opened, loader.Options{To: m.from}); err != nil {
		return fmt.Errorf("the box's state of %s: %w", snap.Time.Format(time.RFC3339), err)
	}
	m.out.State, m.out.Taken = snap.ID(), &snap.Time
	b, err := os.ReadFile(filepath.Join(m.from, stageMemory))
	if err != nil {
		return err
	}
	if m.memory, err = box.ParseMemory(b); err != nil {
		return err
	}
	// It was signed by a box that the kits know, and may know of more of them.
	return m.believe(keys.Kit{Tenant: SelfTenant, Boxes: m.memory.Organisation.Boxes})
}

func (m *remaking) boxes0() uint32 { return m.Rebuilding.boxes[len(m.Rebuilding.boxes)-1].First }

// count finds an incarnation that the lost box cannot have had: one more than
// anything it signed that is still there.
func (m *remaking) count(ctx context.Context) error {
	most := max(m.memory.Organisation.Incarnation, m.boxes0())
	for _, t := range m.tenants {
		for _, s := range t.l.Snapshots {
			most = max(most, s.Incarnation)
		}
	}
	for _, p := range m.places {
		anchors, err := ledger.ReadAnchors(ctx, p, m.Rebuilding.boxes)
		if err != nil {
			m.log("warning: %v", err)
		}
		for _, a := range anchors {
			if a.Err == nil {
				most = max(most, a.Checkpoint.Incarnation)
			}
		}
	}
	m.incarnation = most + 1
	m.out.Incarnation = m.incarnation
	m.memory.Organisation.Boxes = m.Rebuilding.boxes
	return nil
}

// keys makes the credential and the key store.
func (m *remaking) keys() (err error) {
	passed := os.Getenv("CREDENTIALS_DIRECTORY")
	path := filepath.Join(m.stage, "credential")
	if passed == "" {
		if err := box.CreateCredential(path, box.NewCredential()); err != nil {
			return err
		}
	}
	if m.credential, err = box.LoadCredential(path, passed); err != nil {
		return err
	}
	var all []box.Returned
	for _, t := range m.tenants {
		r, err := m.returned(t)
		if err != nil {
			return fmt.Errorf("tenant %q: %w", t.kit.Tenant, err)
		}
		all = append(all, r)
	}
	if err := box.Rebuild(filepath.Join(m.stage, "keys"), m.credential, m.memory, m.incarnation, all); err != nil {
		return err
	}
	b, err := box.Open(filepath.Join(m.stage, "keys"), m.credential)
	if err != nil {
		return err
	}
	org, err := b.Organisation()
	m.boxes = org.Boxes
	return errors.Join(err, b.Close())
}

// returned opens what the box has keys of, and finds the datasets: those that
// the state knew, and those that were new since.
func (m *remaking) returned(t *returning) (box.Returned, error) {
	r := box.Returned{Kit: t.kit}
	for _, known := range m.memory.Tenants {
		if known.ID == t.kit.ID {
			r.Datasets = slices.Clone(known.Datasets)
		}
	}
	generations := map[repo.ID]bool{}
	for _, s := range t.l.Snapshots {
		generations[s.Generation] = true
		id := keys.DatasetID(s.Dataset)
		if s.Entry != nil && !slices.ContainsFunc(r.Datasets, func(d box.Dataset) bool { return d.ID == id }) {
			r.Datasets = append(r.Datasets, box.Dataset{Name: s.Entry.Dataset, ID: id})
		}
	}
	if open := m.o.Open[t.kit.ID]; open != nil {
		for _, g := range m.Needs(t.kit.ID) {
			key, err := open.Generation(g.Dataset, g.Generation, g.Capsule)
			if errors.Is(err, keys.ErrNotReleased) {
				continue // taken since it was asked for
			} else if err != nil {
				return r, err
			}
			r.Generations = append(r.Generations, box.ReturnedGeneration{Dataset: g.Dataset, Generation: g.Generation, Key: key})
		}
	}
	m.out.Tenants = append(m.out.Tenants, RebuiltTenant{Tenant: t.kit.Tenant, Datasets: len(r.Datasets), Snapshots: len(t.l.Snapshots),
		Generations: len(r.Generations), Closed: len(generations) - len(r.Generations)})
	return r, nil
}

// files puts the rest of the state where it was. Each is written anew, so that it
// belongs to who runs this.
func (m *remaking) files(ctx context.Context) error {
	sc := state.Config{Dir: m.stage, Version: m.o.Version, Now: func() time.Time { return m.o.Now }}
	if m.from == "" {
		return state.Create(ctx, sc)
	}
	if err := state.Restore(ctx, sc, filepath.Join(m.from, stageDB)); err != nil {
		return err
	}
	if err := take(filepath.Join(m.from, stageConfig), filepath.Join(m.stage, OldConfig)); err != nil {
		return err
	}
	for _, name := range stagedFiles {
		if err := take(filepath.Join(m.from, name), filepath.Join(m.stage, name)); err != nil {
			return err
		}
	}
	for _, t := range m.tenants { // of those that came back
		dir := filepath.Join(stageDatasets, t.kit.ID.String())
		sets, err := os.ReadDir(filepath.Join(m.from, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, d := range sets {
			if err := takeAll(filepath.Join(m.from, dir, d.Name()), filepath.Join(m.stage, dir, d.Name()), stagedOfDataset); err != nil {
				return err
			}
		}
	}
	names, err := namesIn(filepath.Join(m.from, stagedReceipts))
	if err != nil {
		return err
	}
	return takeAll(filepath.Join(m.from, stagedReceipts), filepath.Join(m.stage, stagedReceipts), names)
}

// ledger replays the copies of the store that has most of it, and says that the
// box was rebuilt. What another store has beyond that keeps it from destroying
// and handing out, until somebody continues.
func (m *remaking) ledger(ctx context.Context) error {
	anchor, err := m.anchor()
	if err != nil {
		return err
	}
	c := ledger.Config{Path: filepath.Join(m.stage, "ledger"), Signer: m.credential.Signer(), Incarnation: m.incarnation, Trust: m.boxes, Now: time.Now}
	if err := m.replay(ctx, c); errors.Is(err, ledger.ErrNoLedger) && anchor == nil {
		m.log("no store has a copy of a ledger; strongroom audit init makes one")
		return nil
	} else if errors.Is(err, ledger.ErrNoLedger) {
		return exit.With(exit.Integrity, fmt.Errorf("the box had a ledger, of %d entries in its system log, and no store has a copy of it: %w; --without-ledger goes on with none", anchor.Size, err))
	} else if err != nil {
		return err
	}
	m.putBack(ctx, anchor)
	l, _, err := ledger.Open(ctx, c)
	if err != nil {
		return err
	}
	defer l.Close()
	all, failed := l.CheckAnchors(ctx, m.places)
	if failed != nil {
		m.log("warning: %v", failed)
	}
	for _, a := range all {
		if a.Conflicts() && !slices.Contains(m.out.Ahead, a.Place) {
			m.out.Ahead = append(m.out.Ahead, a.Place)
		}
	}
	fields := map[string]string{"incarnation": fmt.Sprint(m.incarnation), "tenants": fmt.Sprint(len(m.tenants)), "approval": "ungoverned"}
	if m.out.Taken != nil {
		fields["state"], fields["taken"] = m.out.State, m.out.Taken.UTC().Format(time.RFC3339)
	}
	e, err := l.Record(ctx, ledger.Act{Kind: ledger.RebuildBox, Actor: m.o.Actor.Name, Role: m.o.Actor.Role, Source: m.o.Actor.Source, Fields: fields})
	m.out.Entries = e.Number + 1
	return err
}

// anchor returns the head of the system log that the box's state holds.
func (m *remaking) anchor() (*ledger.Checkpoint, error) {
	b, err := os.ReadFile(filepath.Join(m.from, stageAnchor))
	if m.from == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	c, err := ledger.OpenCheckpoint(b, m.Rebuilding.boxes)
	if err != nil {
		return nil, fmt.Errorf("the ledger's head in the box's state: %w", err)
	}
	return &c, nil
}

// putBack puts the head that the box's state holds onto the stores: where the
// copies were cut off behind it, it is what tells, now and at every start.
func (m *remaking) putBack(ctx context.Context, c *ledger.Checkpoint) {
	if c == nil {
		return
	}
	for _, p := range m.places {
		if err := p.Store.Put(ctx, c.Key(), []byte(c.Note), sha256.Sum256([]byte(c.Note))); err != nil {
			m.log("warning: the ledger's head could not be put onto store %q: %v", p.Name, err)
		}
	}
}

// replay rebuilds the ledger from the first place that has it, those that know
// most first.
func (m *remaking) replay(ctx context.Context, c ledger.Config) error {
	know := map[string]ledger.Checkpoint{}
	for _, p := range m.places {
		anchors, err := ledger.ReadAnchors(ctx, p, m.boxes)
		if err != nil {
			m.log("warning: %v", err)
			continue
		}
		for _, a := range anchors {
			best := know[p.Name]
			k := a.Checkpoint
			if a.Err == nil && k.Tenant == (keys.TenantID{}) && (k.Incarnation > best.Incarnation || k.Incarnation == best.Incarnation && k.Size > best.Size) {
				know[p.Name] = k
			}
		}
	}
	places := slices.Clone(m.places)
	slices.SortStableFunc(places, func(a, b ledger.Place) int {
		x, y := know[a.Name], know[b.Name]
		if x.Incarnation != y.Incarnation {
			return int(int64(y.Incarnation) - int64(x.Incarnation))
		}
		return int(y.Size - x.Size)
	})
	failed := error(ledger.ErrNoLedger)
	for i, p := range places {
		err := ledger.Rebuild(ctx, c, p, m.secret)
		if err == nil {
			return nil
		}
		if i == 0 || errors.Is(failed, ledger.ErrNoLedger) {
			failed = err
		}
		if !errors.Is(err, ledger.ErrNoLedger) {
			m.log("warning: %v", err)
		}
	}
	return failed
}

// secret is the key of a log's copies, from the kit of its tenant.
func (m *remaking) secret(t keys.TenantID) (ledger.Secret, error) {
	if t == (keys.TenantID{}) {
		return m.self().kit.Catalogue, nil
	}
	for _, x := range m.tenants {
		if x.kit.ID == t {
			return x.kit.Catalogue, nil
		}
	}
	return nil, ledger.ErrNoSecret
}
