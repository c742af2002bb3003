// Package rescue recovers a tenant from a kit and paper shares, or a release,
// on a machine that has nothing else: the command of two programs.
package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/share"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/spec"
)

// opener opens generation keys: from shares or from a release.
type opener interface {
	Generation(dataset keys.DatasetID, gen keys.GenerationID, capsule []byte) (keys.GenerationKey, error)
	Access(store string) ([]byte, error)
}

// fromShares opens with the recovery key itself.
type fromShares struct {
	recovery *keys.RecoveryKey
	tenant   *keys.TenantKey
	kit      keys.Kit
}

func (f fromShares) Generation(d keys.DatasetID, g keys.GenerationID, capsule []byte) (keys.GenerationKey, error) {
	return f.tenant.OpenGeneration(d, g, capsule)
}

func (f fromShares) Access(name string) ([]byte, error) { return f.recovery.OpenAccess(f.kit, name) }

// A Rescue is a tenant's repository as a kit shows it.
type Rescue struct {
	Kit     keys.Kit
	Listing *repo.Listing
	open    opener
	stores  int // that there are: of the kit, or more that were named
}

// ReadBounded reads a file that a person named, of at most limit bytes. One
// that is not there is a mistake on the command line.
func ReadBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, exit.With(exit.Usage, err)
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is too large", path)
	}
	return b, err
}

// ReadKit reads a kit file.
func ReadKit(path string) (keys.Kit, error) {
	b, err := ReadBounded(path, 1<<20)
	if err != nil {
		return keys.Kit{}, fmt.Errorf("read kit: %w", err)
	}
	k, err := keys.ParseKit(b)
	if err != nil {
		return k, fmt.Errorf("kit %s: %w", path, err)
	}
	return k, nil
}

// ReadShares reads share files.
func ReadShares(paths []string) ([]share.Share, error) {
	var shares []share.Share
	for _, p := range paths {
		b, err := ReadBounded(p, 64<<10)
		if err != nil {
			share.Wipe(shares)
			return nil, fmt.Errorf("read share: %w", err)
		}
		s, err := share.Parse(b)
		clear(b)
		if err != nil {
			share.Wipe(shares)
			return nil, exit.With(exit.WrongKey, fmt.Errorf("share file %s: %w", p, err))
		}
		shares = append(shares, s)
	}
	return shares, nil
}

// withShares combines shares and opens the kit.
func withShares(kit keys.Kit, paths []string) (opener, error) {
	shares, err := ReadShares(paths)
	if err != nil {
		return nil, err
	}
	defer share.Wipe(shares)
	r, err := keys.OpenRecovery(shares)
	if err != nil {
		return nil, err
	}
	t, err := r.OpenKit(kit)
	if err != nil {
		return nil, err
	}
	return fromShares{r, t, kit}, nil
}

// OpenRelease opens a release with the key that was made with its request.
func OpenRelease(kit keys.Kit, releasePath, keyPath string, now time.Time) (*keys.Released, error) {
	kb, err := ReadBounded(keyPath, 4096)
	if err != nil {
		return nil, fmt.Errorf("read one-time key: %w", err)
	}
	defer clear(kb)
	key, err := keys.ParseOneTimeKey(kb)
	if err != nil {
		return nil, fmt.Errorf("one-time key %s: %w", keyPath, err)
	}
	rb, err := ReadBounded(releasePath, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("read release: %w", err)
	}
	rel, err := keys.ParseRelease(rb)
	if err != nil {
		return nil, fmt.Errorf("release %s: %w", releasePath, err)
	}
	return key.Open(rel, kit, now)
}

// patience is how long a recovery waits for a store that fails: one is likely
// to be gone for good, and the others are enough.
const patience = time.Minute

// members opens the stores that were named, else those of the kit. A store
// that cannot be opened is a member that fails: what is missing is on it.
func members(kit keys.Kit, specs []string, open opener) ([]spread.Member, bool, error) {
	networked := false
	var out []spread.Member
	var failed []error
	away := func(name string, err error) {
		out = append(out, spread.Member{Name: name, Store: store.Absent(err)})
		failed = append(failed, fmt.Errorf("store %q: %w", name, err))
	}
	add := func(name string, sp spec.Spec, access *spec.Access) {
		networked = networked || sp.Kind == "s3"
		if sp.Patience == 0 {
			sp.Patience = patience
		}
		st, err := sp.Open(access)
		if err != nil {
			away(name, err)
			return
		}
		out = append(out, spread.Member{Name: name, Store: st})
	}
	for _, text := range specs {
		sp, err := spec.Parse(text)
		if err != nil {
			return nil, false, exit.With(exit.Usage, err)
		}
		add(text, sp, nil)
	}
	if len(specs) == 0 {
		for _, ks := range kit.Stores {
			sp, err := spec.Parse(ks.Spec)
			if err != nil {
				away(ks.Name, err)
				continue
			}
			access, err := kitAccess(open, ks)
			if err != nil {
				return nil, false, err
			}
			add(ks.Name, sp, access)
		}
	}
	if len(out) == len(failed) {
		return nil, networked, fmt.Errorf("%w: no store could be opened; name them with --store: %w", store.ErrUnavailable, errors.Join(failed...))
	}
	return out, networked, nil
}

// kitAccess opens the credentials that a kit has for a store; nil without.
func kitAccess(open opener, ks keys.KitStore) (*spec.Access, error) {
	if open == nil || ks.Access == nil {
		return nil, nil
	}
	b, err := open.Access(ks.Name)
	if err != nil || b == nil {
		return nil, err
	}
	defer clear(b)
	return spec.ParseAccess(b)
}

// list reads the tenant's manifests with what the kit holds.
func list(ctx context.Context, kit keys.Kit, m []spread.Member) (*repo.Listing, error) {
	trust := func(key [32]byte, incarnation uint32, message, sig []byte) error {
		return kit.Boxes.Verify(keys.VerifyKey(key), incarnation, message, sig)
	}
	r := &repo.Repo{Members: m, Tenant: repo.ID(kit.ID), Catalogue: kit.Catalogue, Trust: trust}
	return r.List(ctx)
}

// Snapshots returns those of a dataset, oldest first, or all.
func (r *Rescue) Snapshots(dataset string) []*repo.Snapshot {
	var out []*repo.Snapshot
	for _, s := range r.Listing.Snapshots {
		if s.Entry != nil && (dataset == "" || s.Entry.Dataset == dataset) {
			out = append(out, s)
		}
	}
	return out
}

// Datasets returns the names of the tenant's datasets.
func (r *Rescue) Datasets() []string {
	var out []string
	for _, s := range r.Snapshots("") {
		if !slices.Contains(out, s.Entry.Dataset) {
			out = append(out, s.Entry.Dataset)
		}
	}
	slices.Sort(out)
	return out
}

// Find returns the snapshot that a person named: DATASET[@SNAPSHOT], where the
// dataset may be left out if there is only one.
func (r *Rescue) Find(target string) (*repo.Snapshot, error) {
	dataset, snapshot, _ := strings.Cut(target, "@")
	names := r.Datasets()
	if dataset == "" {
		if len(names) != 1 {
			return nil, fmt.Errorf("%w: name the dataset, one of: %s", repo.ErrNoSnapshot, strings.Join(names, ", "))
		}
		dataset = names[0]
	}
	all := r.Snapshots(dataset)
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no dataset %q; there are: %s", repo.ErrNoSnapshot, dataset, strings.Join(names, ", "))
	}
	return r.Listing.Find(all[0].Dataset, snapshot)
}

// Open opens a snapshot with what the shares or the release give.
func (r *Rescue) Open(ctx context.Context, s *repo.Snapshot) (*repo.Opened, error) {
	// The manifest's signature was checked when it was listed: only then may
	// its capsule count, because anybody can seal to a public key.
	key, err := r.open.Generation(keys.DatasetID(s.Dataset), keys.GenerationID(s.Generation), s.Capsule)
	if err != nil {
		return nil, err
	}
	return r.Listing.Open(ctx, s, key)
}
