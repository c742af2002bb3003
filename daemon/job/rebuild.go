package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/spread"
)

// A GenerationOpener opens what is sealed to a tenant's key: with shares, or by
// a release from the station.
type GenerationOpener interface {
	Generation(dataset keys.DatasetID, gen keys.GenerationID, capsule []byte) (keys.GenerationKey, error)
}

// A Rebuilding is a fresh machine that is to become the box again, from stores,
// kits and shares.
type Rebuilding struct {
	c       *config.Config
	log     func(string, ...any)
	boxes   keys.BoxKeys // that the kits know
	members []spread.Member
	places  []ledger.Place
	tenants []*returning
}

// returning is a tenant whose kit is here.
type returning struct {
	kit keys.Kit
	l   *repo.Listing
}

// OldConfig is the name, in the state directory, of the configuration that the
// lost box had.
const OldConfig = "configuration-before.toml"

// rebuildName is where everything is made before it is moved to its place.
const (
	rebuildName  = "rebuild.new"
	completeName = "complete"
)

// stateNames are what a box has in its state directory; none may be there.
var stateNames = []string{"credential", "state.db", "ledger", holdsName, "media", stageDatasets, stagedReceipts, "keys"}

// BeginRebuild looks at what there is, and writes nothing. The configuration
// says where the stores are and where the state goes; the kits say whom to
// believe.
func BeginRebuild(ctx context.Context, c *config.Config, kits []keys.Kit, log func(string, ...any)) (*Rebuilding, error) {
	if err := SelfTest(); err != nil {
		return nil, err
	}
	for _, name := range stateNames {
		if _, err := os.Lstat(filepath.Join(c.StateDir, name)); err == nil && !halfMoved(c) {
			return nil, fmt.Errorf("%w: %s has %q: this is a box, or was one; only an empty state directory is filled", ErrRefused, c.StateDir, name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	r := &Rebuilding{c: c, log: log}
	for _, k := range kits {
		if slices.ContainsFunc(r.tenants, func(t *returning) bool { return t.kit.ID == k.ID }) {
			return nil, exit.With(exit.Usage, fmt.Errorf("two kits of tenant %q", k.Tenant))
		}
		if err := r.believe(k); err != nil {
			return nil, err
		}
		r.tenants = append(r.tenants, &returning{kit: k})
	}
	if r.self() == nil {
		return nil, fmt.Errorf("%w: the kit of the box itself (tenant %q) is not among those given: it opens the box's state and the system log", ErrRefused, SelfTenant)
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	for _, t := range r.tenants {
		rp := &repo.Repo{Members: r.members, Tenant: repo.ID(t.kit.ID), Catalogue: t.kit.Catalogue, Trust: Trust(r.boxes)}
		l, err := rp.List(ctx)
		if err != nil {
			return nil, fmt.Errorf("tenant %q: %w", t.kit.Tenant, err)
		}
		for _, p := range l.Problems {
			log("warning: %s: %s", t.kit.Tenant, p.Text)
		}
		t.l = l
	}
	return r, nil
}

// halfMoved reports whether a rebuild was cut off while it moved what it made.
func halfMoved(c *config.Config) bool {
	_, err := os.Lstat(filepath.Join(c.StateDir, rebuildName, completeName))
	return err == nil
}

// believe takes the box keys of a kit: of two lists the longer one, which goes
// on from the other.
func (r *Rebuilding) believe(k keys.Kit) error {
	short, long := r.boxes, k.Boxes
	if len(short) > len(long) {
		short, long = long, short
	}
	for i, b := range short {
		if b.Public != long[i].Public || b.First != long[i].First {
			return exit.With(exit.WrongKey, fmt.Errorf("the kit of tenant %q is of another box than the others", k.Tenant))
		}
	}
	r.boxes = long
	return nil
}

func (r *Rebuilding) self() *returning {
	i := slices.IndexFunc(r.tenants, func(t *returning) bool { return t.kit.Tenant == SelfTenant })
	if i < 0 {
		return nil
	}
	return r.tenants[i]
}

// open opens the stores, which must be this box's.
func (r *Rebuilding) open(ctx context.Context) error {
	if err := Distinct(r.c.Stores); err != nil {
		return err
	}
	id := organisation(r.boxes)
	opened, failed := openStores(ctx, anytime(r.c.Stores), fmt.Appendf(nil, markerText, id))
	for i, c := range r.c.Stores {
		if failed[i] != nil {
			r.log("warning: store %q: %v", c.Name, failed[i])
			continue
		}
		r.members = append(r.members, spread.Member{Name: c.Name, Store: opened[i]})
		r.places = append(r.places, ledger.Place{Name: c.Name, Store: shelf{opened[i]}})
	}
	if len(r.members) == 0 {
		return exit.With(exit.TryLater, fmt.Errorf("no store answers that is this box's: %w", errors.Join(failed...)))
	}
	return nil
}

// maxReturned bounds the generation keys of a tenant that come back, as a
// release does.
const maxReturned = 64

// Needs are the generations of a tenant that the box has keys of: all that are
// kept of a confidential one, and of others the newest of each dataset. What is
// older stays closed, as the level says.
func (r *Rebuilding) Needs(tenant keys.TenantID) (out []keys.SealedGeneration) {
	for _, t := range r.tenants {
		if t.kit.ID != tenant {
			continue
		}
		seen := map[repo.ID]bool{}
		newest := map[repo.ID]bool{} // datasets of which one was taken
		snaps := slices.Clone(t.l.Snapshots)
		slices.SortStableFunc(snaps, func(a, b *repo.Snapshot) int {
			return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Sequence, a.Sequence))
		})
		for _, s := range snaps {
			if seen[s.Generation] || len(out) == maxReturned || newest[s.Dataset] && t.kit.Level != keys.Confidential {
				continue
			}
			seen[s.Generation], newest[s.Dataset] = true, true
			out = append(out, keys.SealedGeneration{Dataset: keys.DatasetID(s.Dataset), Generation: keys.GenerationID(s.Generation), Capsule: s.Capsule})
		}
	}
	return out
}

// RebuildOptions are the choices of a rebuild.
type RebuildOptions struct {
	// Open has what opens a tenant's generations; a tenant without comes back
	// with its names, and opens nothing that was taken before.
	Open map[keys.TenantID]GenerationOpener
	// Without are tenants that the box had and that do not come back.
	Without []string
	// WithoutLedger leaves the ledger where its copies are gone.
	WithoutLedger bool
	Version       string
	Actor         Actor
	Now           time.Time
}

// Rebuilt is what came back.
type Rebuilt struct {
	Incarnation uint32          `json:"incarnation"`
	State       string          `json:"state"` // the snapshot, "" for none
	Taken       *time.Time      `json:"taken,omitempty"`
	Tenants     []RebuiltTenant `json:"tenants"`
	Lost        []string        `json:"lost"`    // tenants that did not come back
	Entries     int64           `json:"entries"` // of the system log
	Ahead       []string        `json:"ahead"`   // stores that know more of the ledger
}

// RebuiltTenant is one of them.
type RebuiltTenant struct {
	Tenant      string `json:"tenant"`
	Datasets    int    `json:"datasets"`
	Snapshots   int    `json:"snapshots"`
	Generations int    `json:"generations"` // whose keys are on the box again
	Closed      int    `json:"closed"`
}

// Rebuild brings the box back: keys of a new incarnation, what the newest
// snapshot of its state knew, the ledger.
//
// Crash story. Everything is made in a directory beside its place; before it is
// complete a crash leaves nothing that the next try does not replace. Then each
// part is moved to its place, the key store last: until it is there, no other
// command takes the directory for a box, and the next try goes on moving.
func (r *Rebuilding) Rebuild(ctx context.Context, o RebuildOptions) (*Rebuilt, error) {
	stage := filepath.Join(r.c.StateDir, rebuildName)
	if halfMoved(r.c) {
		return nil, errors.Join(moveAll(stage, r.c.StateDir), exit.With(exit.TryLater, errors.New("an interrupted rebuild was finished; strongroom audit verify says what came of it")))
	}
	if err := os.RemoveAll(stage); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	m := &remaking{Rebuilding: r, o: o, stage: stage, out: &Rebuilt{Tenants: []RebuiltTenant{}, Lost: []string{}, Ahead: []string{}}}
	if err := m.run(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(stage))
	}
	if err := WriteNew(filepath.Join(stage, completeName), nil); err != nil {
		return nil, err
	}
	if err := syncDirs(stage); err != nil {
		return nil, err
	}
	return m.out, moveAll(stage, r.c.StateDir)
}

// moveAll moves what was made to its place, the key store last, and may be done
// again.
func moveAll(stage, to string) error {
	for _, name := range append(slices.Clone(stateNames), OldConfig) {
		if name == "keys" {
			continue
		}
		if err := move(stage, to, name); err != nil {
			return err
		}
	}
	if err := errors.Join(syncDirs(to), move(stage, to, "keys"), syncDirs(to)); err != nil {
		return err
	}
	return os.RemoveAll(stage)
}

func move(from, to, name string) error {
	_, err := os.Lstat(filepath.Join(from, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is there, or there is none
	} else if err != nil {
		return err
	}
	return os.Rename(filepath.Join(from, name), filepath.Join(to, name))
}

func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

// absent returns the tenants of a memory that no kit brings back, and refuses
// those that nobody said to leave.
func (r *Rebuilding) absent(m box.Memory, without []string) (lost []string, err error) {
	var missing []string
	for _, t := range m.Tenants {
		if slices.ContainsFunc(r.tenants, func(x *returning) bool { return x.kit.ID == t.ID }) {
			continue
		}
		if slices.Contains(without, t.Name) {
			lost = append(lost, t.Name)
		} else {
			missing = append(missing, t.Name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: there is no kit of %s: without its kit a tenant does not come back, nor what its log says; --without NAME says so", ErrRefused, strings.Join(missing, ", "))
	}
	return lost, nil
}
