// Package job does the box's work, a file for each verb: initialise, back up,
// list, restore, check.
package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/daemon/config"
	"strongroom/erasure"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/spec"
)

// Errors that decide exit codes.
var (
	// ErrRefused: nothing was written.
	ErrRefused = exit.With(exit.Refused, errors.New("refused"))
	// ErrNotInitialised: init has not been run, or not for this part.
	ErrNotInitialised = exit.With(exit.NoRepository, errors.New("not initialised"))
)

// A Site is a configured box at work: its key store and its stores.
type Site struct {
	Config *config.Config
	Box    *box.Box
	// Log gets lines for people.
	Log func(format string, args ...any)
	// Actor is who acts, for the ledger.
	Actor Actor

	record *record
}

// paths of the state directory.
func credentialPath(c *config.Config) string { return filepath.Join(c.StateDir, "credential") }
func keysPath(c *config.Config) string       { return filepath.Join(c.StateDir, "keys") }

// OpenSite opens the box's key store. It checks the processor first: shards
// and capsules that a faulty one makes would be noticed too late.
func OpenSite(c *config.Config, log func(string, ...any)) (*Site, error) {
	if err := SelfTest(); err != nil {
		return nil, err
	}
	cred, err := box.LoadCredential(credentialPath(c), os.Getenv("CREDENTIALS_DIRECTORY"))
	if errors.Is(err, box.ErrNoCredential) {
		if _, err := stateExists(c); err != nil {
			return nil, err // only it is gone: init would not help
		}
		return nil, fmt.Errorf("%w: %w", ErrNotInitialised, err)
	} else if err != nil {
		return nil, err
	}
	b, err := box.Open(keysPath(c), cred)
	if err != nil {
		return nil, err
	}
	full, err := withSelf(c, b)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &Site{Config: full, Box: b, Log: log, record: newRecord()}, nil
}

// SelfTest compares the code and the key encapsulation with known answers.
func SelfTest() error { return errors.Join(erasure.SelfTest(), keys.SelfTest()) }

// Close releases the key store.
func (s *Site) Close() error { return errors.Join(s.closeLedger(), s.Box.Close()) }

// SpecOf turns a configured store into its specification.
func SpecOf(s config.Store) spec.Spec {
	prefix := s.Prefix
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	var pace *store.Pace
	if s.Bandwidth != nil {
		pace = store.NewPace(s.Bandwidth.Bytes)
	}
	window, _ := store.ParseWindow(s.Window) // which was checked, or is empty
	return spec.Spec{Kind: s.Kind, Path: s.Path, Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: prefix, Region: s.Region,
		Style: s.Style, CAFile: s.CAFile, AccessKeyFile: s.AccessKeyFile, SecretKeyFile: s.SecretKeyFile,
		Patience: s.Patience.Duration, Pace: pace, Window: window, Lock: store.LockMode(s.Lock), ExtendAccessKeyFile: s.ExtendAccessKeyFile, ExtendSecretKeyFile: s.ExtendSecretKeyFile}
}

// markerKey is an object that says whose store it is: the empty mount point of
// an absent disk has none, and neither has somebody else's bucket.
const markerKey = "strongroom"

// marker is the content for a box: it names the box key of its first
// incarnation.
func (s *Site) marker() ([]byte, error) {
	id, err := s.organisationID()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, markerText, id), nil
}

func (s *Site) organisationID() (id [16]byte, err error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return id, err
	}
	return organisation(o.Boxes), nil
}

const markerText = "strongroom store 1\n%x\n"

// organisation is the name of a box through all its incarnations.
func organisation(boxes keys.BoxKeys) (id [16]byte) {
	sum := sha256.Sum256(append([]byte("strongroom organisation 1\n"), boxes[0].Public[:]...))
	return [16]byte(sum[:])
}

// Stores opens the configured stores. One that is away, and one without a
// marker, such as the empty mount point of an absent disk, is a member that
// fails: the others go on. Not so if none has a marker: then init was not run.
// One that belongs to somebody else is a mistake in the configuration: whoever
// wants to write is refused, whoever reads goes on without it.
func (s *Site) Stores(ctx context.Context, write bool) ([]spread.Member, error) {
	if len(s.Config.Stores) == 0 {
		return nil, fmt.Errorf("%w: the configuration has no [[store]]", ErrRefused)
	}
	want, err := s.marker()
	if err != nil {
		return nil, err
	}
	if write {
		if err := Distinct(s.Config.Stores); err != nil {
			return nil, err
		}
	}
	opened, failed := openStores(ctx, s.Config.Stores, want)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var members []spread.Member
	var unmarked error
	count := 0
	for i, c := range s.Config.Stores {
		st, err := opened[i], failed[i]
		switch {
		case err == nil:
		case errors.Is(err, ErrRefused) && write:
			return nil, fmt.Errorf("store %q: %w", c.Name, err)
		default:
			if errors.Is(err, ErrNotInitialised) {
				unmarked = fmt.Errorf("store %q: %w", c.Name, err)
				count++
			}
			st = store.Absent(err)
		}
		members = append(members, spread.Member{Name: c.Name, Store: st})
	}
	if count == len(members) {
		return nil, unmarked
	}
	return members, nil
}

// Distinct refuses two stores that are one directory under two names: by a
// link, say, or mounted twice. Each counts as a place that can be lost alone.
func Distinct(stores []config.Store) error {
	found := map[string]os.FileInfo{}
	for _, c := range stores {
		if c.Kind != "dir" {
			continue
		}
		info, err := os.Stat(c.Path)
		if err != nil {
			continue // away; whoever opens it says so
		}
		for name, other := range found {
			if os.SameFile(info, other) {
				return fmt.Errorf("%w: stores %q and %q are one directory: to lose one would be to lose both", ErrRefused, name, c.Name)
			}
		}
		found[c.Name] = info
	}
	return nil
}

// answerTimeout is how long a store may take to show its marker. Later calls
// have more patience, but nobody should wait minutes to learn that a service
// is down.
const answerTimeout = 20 * time.Second

// openStores opens every store and compares its marker, all at once.
func openStores(ctx context.Context, stores []config.Store, marker []byte) ([]store.Store, []error) {
	opened, failed := make([]store.Store, len(stores)), make([]error, len(stores))
	var wg sync.WaitGroup
	for i, c := range stores {
		wg.Go(func() {
			st, err := SpecOf(c).Open(nil)
			if err == nil {
				tctx, cancel := context.WithTimeout(ctx, answerTimeout)
				defer cancel()
				if err = checkMarker(tctx, st, marker); tctx.Err() != nil && ctx.Err() == nil {
					err = fmt.Errorf("%w: no answer within %v", store.ErrUnavailable, answerTimeout)
				}
			}
			opened[i], failed[i] = st, err
		})
	}
	wg.Wait()
	return opened, failed
}

// anytime returns the stores without their windows: a few small objects of
// their set-up wait for none.
func anytime(stores []config.Store) []config.Store {
	out := slices.Clone(stores)
	for i := range out {
		out[i].Window = ""
	}
	return out
}

// checkMarker compares a store's marker.
func checkMarker(ctx context.Context, st store.Store, want []byte) error {
	got, err := readSmall(ctx, st, markerKey)
	if errors.Is(err, store.ErrNotExist) {
		return fmt.Errorf("%w: it has no marker; is the disk mounted? A new store is added by: strongroom init", ErrNotInitialised)
	} else if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: it belongs to another strongroom installation, or to this one before it lost its state directory", ErrRefused)
	}
	return nil
}

// An Owner tells this box's stores from others. Its zero value is a box that
// is not set up yet.
type Owner struct{ marker []byte }

// OwnerOf reads who this box is, if it is anyone yet.
func OwnerOf(c *config.Config, log func(string, ...any)) (Owner, error) {
	if exists, err := stateExists(c); err != nil || !exists {
		return Owner{}, err
	}
	s, err := OpenSite(c, log)
	if err != nil {
		return Owner{}, err
	}
	defer s.Close()
	marker, err := s.marker()
	return Owner{marker}, err
}

// Of looks at a store's marker. A note says what is odd; a store of another
// installation is ErrRefused.
func (o Owner) Of(ctx context.Context, st store.Store) (marked bool, note string, err error) {
	err = checkMarker(ctx, st, o.marker)
	switch {
	case errors.Is(err, ErrNotInitialised):
		return false, "; it has no marker: either it is new (strongroom init), or its disk is not mounted", nil
	case errors.Is(err, ErrRefused) && o.marker == nil:
		return true, "; it belongs to a strongroom installation, and this box is not set up", nil
	}
	return err == nil, "", err
}

func readSmall(ctx context.Context, st store.Store, key string) ([]byte, error) {
	info, err := st.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.Size > 1<<20 {
		return nil, fmt.Errorf("object %s has %d bytes", key, info.Size)
	}
	rc, err := st.Get(ctx, key, 0, info.Size)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// Tenant finds a tenant in the configuration and the key store.
func (s *Site) Tenant(name string) (config.Tenant, box.Tenant, error) {
	c, ok := s.Config.Tenant(name)
	if !ok {
		return c, box.Tenant{}, exit.With(exit.Usage, fmt.Errorf("%s has no tenant %q", s.Config.Path, name))
	}
	t, err := s.Box.Tenant(name)
	if errors.Is(err, box.ErrNoTenant) {
		return c, t, fmt.Errorf("%w: tenant %q has no keys yet; run: strongroom init", ErrNotInitialised, name)
	} else if err != nil {
		return c, t, err
	}
	if string(t.Level) != c.Level {
		return c, t, fmt.Errorf("%w: tenant %q has level %s; the configuration says %s, and a level does not change by editing a file", ErrRefused, name, t.Level, c.Level)
	}
	return c, t, nil
}

// Repo returns a tenant's repository on the given stores.
func (s *Site) Repo(t box.Tenant, members []spread.Member) (*repo.Repo, error) {
	catalogue, err := s.Box.Catalogue(t.ID)
	if err != nil {
		return nil, fmt.Errorf("catalogue key of tenant %q: %w", t.Name, err)
	}
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, err
	}
	return &repo.Repo{Members: members, Tenant: repo.ID(t.ID), Catalogue: catalogue, Trust: Trust(o.Boxes)}, nil
}

// Trust believes the box keys of a key store or a kit.
func Trust(boxes keys.BoxKeys) repo.Trust {
	return func(key [32]byte, incarnation uint32, message, sig []byte) error {
		return boxes.Verify(keys.VerifyKey(key), incarnation, message, sig)
	}
}

// boxKeys is the key store as the repository needs it, for one tenant.
type boxKeys struct {
	box    *box.Box
	tenant box.Tenant
}

func (k boxKeys) Generation(t, d, g repo.ID) (repo.Secret, error) {
	key, err := k.box.Generation(keys.TenantID(t), keys.DatasetID(d), keys.GenerationID(g))
	if errors.Is(err, box.ErrNoKey) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return key, nil
}

func (k boxKeys) New(t, d, g repo.ID) (repo.Secret, error) {
	return k.box.NewGeneration(keys.TenantID(t), keys.DatasetID(d), keys.GenerationID(g))
}

func (k boxKeys) Capsule(t, d, g repo.ID) ([]byte, error) {
	key, err := k.box.Generation(keys.TenantID(t), keys.DatasetID(d), keys.GenerationID(g))
	if err != nil {
		return nil, err
	}
	return keys.SealGeneration(k.tenant.Key.Public, keys.TenantID(t), keys.DatasetID(d), keys.GenerationID(g), key)
}

// signer adapts the box's signing key.
type signer struct{ *keys.Signer }

func (s signer) Public() [32]byte { return [32]byte(s.Signer.Public()) }
