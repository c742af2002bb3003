package box

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/share"
)

// Errors that callers branch on.
var (
	// ErrNotInitialised: the key store does not exist.
	ErrNotInitialised = errors.New("no key store here; `strongroom init` makes one")
	// ErrExists: what was to be made is there already.
	ErrExists = errors.New("exists already")
	// ErrNoRecoveryKey: the class has no recovery key yet.
	ErrNoRecoveryKey = errors.New("no recovery key of this class; `strongroom keys init` makes one")
	// ErrNoTenant: no tenant of that name has keys here.
	ErrNoTenant = errors.New("tenant has no keys on this box")
	// ErrNotRecoverable: the tenant is not yet recoverable.
	ErrNotRecoverable = errors.New("not yet recoverable")
)

const (
	organisationTitle = "strongroom box organisation 1"
	tenantTitle       = "strongroom box tenant 1"
	organisationFile  = "organisation.json"
	tenantsDir        = "tenants"
	slotsFile         = "keyslots"
	lockFile          = "lock"
	maxFile           = 1 << 20
	maxTenants        = 10_000
	maxDatasets       = 1000
	maxCopies         = 1000
)

// Organisation is what the box keeps for all tenants.
type Organisation struct {
	// Incarnation rises whenever the box may have lost state, so that it never
	// continues a generation that it no longer knows whole.
	Incarnation uint32                `json:"incarnation"`
	Boxes       keys.BoxKeys          `json:"boxes"`
	Recovery    []keys.RecoveryPublic `json:"recovery"`
}

func (o Organisation) check() error {
	if o.Incarnation == 0 {
		return errors.New("incarnation is missing")
	}
	if err := o.Boxes.Check(); err != nil {
		return err
	}
	for _, r := range o.Recovery {
		if err := r.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Current returns the recovery key that new tenants of a class are sealed to:
// the one added last.
func (o Organisation) Current(class share.Class) (keys.RecoveryPublic, error) {
	for _, r := range slices.Backward(o.Recovery) {
		if r.Class == class {
			return r, nil
		}
	}
	return keys.RecoveryPublic{}, fmt.Errorf("class %s: %w", class, ErrNoRecoveryKey)
}

func (o Organisation) byFingerprint(f keys.Fingerprint) (keys.RecoveryPublic, error) {
	for _, r := range o.Recovery {
		if r.Fingerprint == f {
			return r, nil
		}
	}
	return keys.RecoveryPublic{}, fmt.Errorf("recovery key %s: %w", f, ErrNoRecoveryKey)
}

// Box is the key store of one box: state_dir/keys with its credential. Methods
// may be called concurrently and by several processes.
type Box struct {
	dir        string
	credential *Credential
	slots      *Slots
}

// Init makes a new key store in dir, which must not exist or be empty. It is
// made beside its place and moved there whole: a crash before leaves what the
// next Init replaces, since no key was ever in it.
func Init(dir string, c *Credential) error {
	return initWith(dir, c, func(b *Box) error {
		return b.writeOrganisation(Organisation{1, keys.BoxKeys{{Public: c.signer.Public(), First: 1}}, []keys.RecoveryPublic{}})
	})
}

func initWith(dir string, c *Credential, fill func(*Box) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make key store: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("make key store: %s %w and is not empty", dir, ErrExists)
	}
	unfinished := dir + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("make key store: %w", err)
	}
	if err := makeStore(unfinished, c, fill); err != nil {
		return fmt.Errorf("make key store: %w", errors.Join(err, os.RemoveAll(unfinished)))
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return fmt.Errorf("make key store: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

func makeStore(dir string, c *Credential, fill func(*Box) error) error {
	if err := os.MkdirAll(filepath.Join(dir, tenantsDir), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := lock.Close(); err != nil {
		return err
	}
	if err := CreateSlots(filepath.Join(dir, slotsFile), DefaultSlots, c); err != nil {
		return err
	}
	return fill(&Box{dir: dir, credential: c})
}

// Open opens an existing key store.
func Open(dir string, c *Credential) (*Box, error) {
	b := &Box{dir: dir, credential: c}
	if _, err := b.Organisation(); err != nil {
		return nil, err
	}
	slots, err := OpenSlots(filepath.Join(dir, slotsFile), c)
	if err != nil {
		return nil, err
	}
	b.slots = slots
	return b, nil
}

// Close releases the slot file.
func (b *Box) Close() error { return b.slots.Close() }

// Signer is the box's B.
func (b *Box) Signer() *keys.Signer { return b.credential.signer }

// Slots is the slot file, for listing and for clearing damaged slots.
func (b *Box) Slots() *Slots { return b.slots }

// update runs f while no other process updates the store. Readers need no
// lock: files are replaced whole.
func (b *Box) update(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(b.dir, lockFile), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("lock key store: %w", err)
	}
	defer lock.Close() // lets go of the lock
	if err := flock(lock, unix.LOCK_EX, lockPatience); err != nil {
		return err
	}
	return f()
}

// replace publishes body under name: temporary file, fsync, rename, fsync of
// the directory. A crash before the rename leaves the old file, and a stray
// temporary one that nothing reads; the next replace uses another name.
func replace(path string, body []byte) (err error) {
	var r [8]byte
	_, _ = rand.Read(r[:])
	tmp := path + ".tmp-" + hex.EncodeToString(r[:])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// Organisation reads the organisation's file.
func (b *Box) Organisation() (Organisation, error) {
	var o Organisation
	data, err := readOwned(filepath.Join(b.dir, organisationFile), true, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return o, fmt.Errorf("open %s: %w", b.dir, ErrNotInitialised)
	}
	if err != nil {
		return o, fmt.Errorf("read key store: %w", err)
	}
	if err := doc.Decode(organisationTitle, data, maxFile, &o); err != nil {
		return o, fmt.Errorf("%s: %w", organisationFile, err)
	}
	for i := range o.Recovery {
		o.Recovery[i] = o.Recovery[i].Complete()
	}
	if err := o.check(); err != nil {
		return o, fmt.Errorf("%s: %w", organisationFile, err)
	}
	return o, nil
}

func (b *Box) writeOrganisation(o Organisation) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("write %s: %w", organisationFile, err)
	}
	data, err := doc.Encode(organisationTitle, o)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(b.dir, organisationFile), data); err != nil {
		return fmt.Errorf("write %s: %w", organisationFile, err)
	}
	return nil
}

func (b *Box) changeOrganisation(f func(*Organisation) error) error {
	return b.update(func() error {
		o, err := b.Organisation()
		if err != nil {
			return err
		}
		if err := f(&o); err != nil {
			return err
		}
		return b.writeOrganisation(o)
	})
}

// AddRecovery takes the public half of a recovery key from the station. There
// is one per class; replacing it is a rotation, which re-seals every kit.
func (b *Box) AddRecovery(r keys.RecoveryPublic) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("add recovery key: %w", err)
	}
	if r.Rehearsal {
		return fmt.Errorf("add recovery key %s: %w", r.Fingerprint, keys.ErrRehearsal)
	}
	return b.changeOrganisation(func(o *Organisation) error {
		if have, err := o.Current(r.Class); err == nil {
			if have.Fingerprint == r.Fingerprint {
				return nil
			}
			return fmt.Errorf("add recovery key: class %s: %w: %s", r.Class, ErrExists, have.Fingerprint)
		}
		o.Recovery = append(o.Recovery, r)
		return nil
	})
}

// NextIncarnation counts one up, after the box lost state, and returns the new
// number. The same B goes on signing; kits issued before stay valid because
// its range is open-ended.
func (b *Box) NextIncarnation() (uint32, error) {
	var n uint32
	err := b.changeOrganisation(func(o *Organisation) error {
		o.Incarnation++
		n = o.Incarnation
		return nil
	})
	return n, err
}

// Dataset is a dataset's name and pseudonym.
type Dataset struct {
	Name string         `json:"name"`
	ID   keys.DatasetID `json:"id"`
}

// Tenant is what the box keeps of one tenant. It holds no secret: C and G's
// are in the slots, T's seed is nowhere on the box but in Key.Capsule.
type Tenant struct {
	Name     string            `json:"name"`
	ID       keys.TenantID     `json:"id"`
	Level    keys.Level        `json:"level"`
	Recovery keys.Recovery     `json:"recovery"`
	Key      keys.TenantRecord `json:"key"`
	Answer   keys.Hash         `json:"canary_answer"` // hash of the proof; opens nothing
	Proven   time.Time         `json:"canary_proven,omitzero"`
	Datasets []Dataset         `json:"datasets"`
	Copies   []Copy            `json:"copies"`
	Created  time.Time         `json:"created"`
}

func (t Tenant) check() error {
	if err := errors.Join(keys.CheckName(t.Name), t.Level.Check(), t.Recovery.Check(), t.Key.Check(), keys.CheckTime(t.Created)); err != nil {
		return err
	}
	if t.Level.Class() != t.Recovery.Class {
		return fmt.Errorf("level %s needs class %s", t.Level, t.Level.Class())
	}
	if !t.Proven.IsZero() {
		if err := keys.CheckTime(t.Proven); err != nil {
			return err
		}
	}
	if len(t.Datasets) > maxDatasets || len(t.Copies) > maxCopies {
		return fmt.Errorf("%d datasets and %d copies are too many", len(t.Datasets), len(t.Copies))
	}
	for _, d := range t.Datasets {
		if err := keys.CheckName(d.Name); err != nil {
			return fmt.Errorf("dataset: %w", err)
		}
	}
	return checkCopies(t.Copies)
}

// path is made of the pseudonym alone, so no tenant's name reaches the file
// system.
func (b *Box) tenantPath(id keys.TenantID) string {
	return filepath.Join(b.dir, tenantsDir, id.String()+".json")
}

func (b *Box) readTenant(id keys.TenantID) (Tenant, error) {
	var t Tenant
	data, err := readOwned(b.tenantPath(id), true, maxFile)
	if err != nil {
		return t, fmt.Errorf("read tenant %s: %w", id, err)
	}
	if err := doc.Decode(tenantTitle, data, maxFile, &t); err != nil {
		return t, fmt.Errorf("tenant %s: %w", id, err)
	}
	t.Recovery = t.Recovery.Complete()
	if err := t.check(); err != nil {
		return t, fmt.Errorf("tenant %s: %w", id, err)
	}
	if t.ID != id {
		return t, fmt.Errorf("tenant %s: file holds tenant %s", id, t.ID)
	}
	return t, nil
}

func (b *Box) writeTenant(t Tenant) error {
	if err := t.check(); err != nil {
		return fmt.Errorf("write tenant %s: %w", t.ID, err)
	}
	data, err := doc.Encode(tenantTitle, t)
	if err != nil {
		return err
	}
	if err := replace(b.tenantPath(t.ID), data); err != nil {
		return fmt.Errorf("write tenant %s: %w", t.ID, err)
	}
	return nil
}

// Tenants reads all tenants, sorted by name.
func (b *Box) Tenants() ([]Tenant, error) {
	entries, err := os.ReadDir(filepath.Join(b.dir, tenantsDir))
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	if len(entries) > maxTenants {
		return nil, fmt.Errorf("list tenants: %d files are too many", len(entries))
	}
	var all []Tenant
	for _, e := range entries {
		if strings.Contains(e.Name(), ".json.tmp-") { // of a replace that never finished
			continue
		}
		var id keys.TenantID
		base, ok := strings.CutSuffix(e.Name(), ".json")
		if err := id.UnmarshalText([]byte(base)); err != nil || !ok {
			return nil, fmt.Errorf("list tenants: %q is no file of this store", e.Name())
		}
		t, err := b.readTenant(id)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y Tenant) int { return strings.Compare(x.Name, y.Name) })
	return all, nil
}

// Tenant returns the tenant of that name, or ErrNoTenant.
func (b *Box) Tenant(name string) (Tenant, error) {
	all, err := b.Tenants()
	if err != nil {
		return Tenant{}, err
	}
	for _, t := range all {
		if t.Name == name {
			return t, nil
		}
	}
	return Tenant{}, fmt.Errorf("tenant %q: %w", name, ErrNoTenant)
}

// AddTenant makes a tenant's keys: T, sealed to the R of its level's class at
// once; C, into a slot; a canary. First the slot, then the file, which is the
// commit point: a crash in between leaves one slot that belongs to nobody.
func (b *Box) AddTenant(name string, level keys.Level, now time.Time) (Tenant, error) {
	if err := errors.Join(keys.CheckName(name), level.Check()); err != nil {
		return Tenant{}, fmt.Errorf("add tenant: %w", err)
	}
	var t Tenant
	err := b.update(func() error {
		if _, err := b.Tenant(name); !errors.Is(err, ErrNoTenant) {
			return errors.Join(err, fmt.Errorf("tenant %q: %w", name, ErrExists))
		}
		o, err := b.Organisation()
		if err != nil {
			return err
		}
		r, err := o.Current(level.Class())
		if err != nil {
			return fmt.Errorf("add tenant %q: %w", name, err)
		}
		if t, err = sealTenant(name, level, r, now); err != nil {
			return fmt.Errorf("add tenant %q: %w", name, err)
		}
		c := keys.NewCatalogueKey()
		defer c.Wipe()
		if err := b.slots.Put(Entry{Kind: KindCatalogue, Tenant: t.ID}, c.Key); err != nil {
			return err
		}
		return b.writeTenant(t)
	})
	if err != nil {
		return Tenant{}, err
	}
	return t, nil
}

func sealTenant(name string, level keys.Level, r keys.RecoveryPublic, now time.Time) (Tenant, error) {
	t := Tenant{
		Name: name, ID: keys.NewTenantID(), Level: level, Recovery: r.Recovery,
		Datasets: []Dataset{}, Copies: []Copy{}, Created: now.UTC().Truncate(time.Second),
	}
	var err error
	if t.Key.Public, t.Key.Capsule, err = keys.SealTenant(r.Public, t.ID); err != nil {
		return Tenant{}, err
	}
	t.Key.Fingerprint = t.Key.Public.Fingerprint()
	t.Key.Canary, t.Answer, err = keys.SealCanary(t.Key.Public, t.ID)
	return t, err
}

// changeTenant reads, changes and replaces one tenant's file.
func (b *Box) changeTenant(name string, f func(*Tenant) error) error {
	return b.update(func() error {
		t, err := b.Tenant(name)
		if err != nil {
			return err
		}
		if err := f(&t); err != nil {
			return fmt.Errorf("tenant %q: %w", name, err)
		}
		return b.writeTenant(t)
	})
}

func (t Tenant) dataset(name string) (keys.DatasetID, bool) {
	for _, d := range t.Datasets {
		if d.Name == name {
			return d.ID, true
		}
	}
	return keys.DatasetID{}, false
}

// Dataset returns a dataset's pseudonym, made at its first use.
func (b *Box) Dataset(tenant, name string) (keys.DatasetID, error) {
	have, err := b.Tenant(tenant)
	if err != nil {
		return keys.DatasetID{}, err
	}
	if id, ok := have.dataset(name); ok {
		return id, nil
	}
	id := keys.NewDatasetID()
	err = b.changeTenant(tenant, func(t *Tenant) error {
		if other, ok := t.dataset(name); ok { // another process was faster
			id = other
			return nil
		}
		t.Datasets = append(t.Datasets, Dataset{name, id})
		return nil
	})
	return id, err
}

// Catalogue returns C of a tenant.
func (b *Box) Catalogue(t keys.TenantID) (keys.CatalogueKey, error) {
	k, err := b.slots.Get(Entry{Kind: KindCatalogue, Tenant: t})
	return keys.CatalogueKey{Key: k}, err
}

func generationEntry(t keys.TenantID, d keys.DatasetID, g keys.GenerationID) Entry {
	return Entry{KindGeneration, t, d, g}
}

// NewGeneration makes G of a new generation; it is durable in its slot when
// the call returns.
func (b *Box) NewGeneration(t keys.TenantID, d keys.DatasetID, g keys.GenerationID) (keys.GenerationKey, error) {
	k := keys.NewGenerationKey()
	if err := b.slots.Put(generationEntry(t, d, g), k.Key); err != nil {
		k.Wipe()
		return keys.GenerationKey{}, err
	}
	return k, nil
}

// Generation returns G of an open generation, or ErrNoKey.
func (b *Box) Generation(t keys.TenantID, d keys.DatasetID, g keys.GenerationID) (keys.GenerationKey, error) {
	k, err := b.slots.Get(generationEntry(t, d, g))
	return keys.GenerationKey{Key: k}, err
}

// ForgetGeneration erases G of a generation that is closed, unless the tenant
// is not yet recoverable: then nobody could read it any more.
func (b *Box) ForgetGeneration(tenant string, d keys.DatasetID, g keys.GenerationID) error {
	t, err := b.Tenant(tenant)
	if err != nil {
		return err
	}
	if r := t.Recoverable(); !r.Ready {
		return fmt.Errorf("forget generation %s: tenant %q: %w: %s", g, tenant, ErrNotRecoverable, strings.Join(r.Missing, "; "))
	}
	return b.slots.Forget(generationEntry(t.ID, d, g))
}

// DiscardGeneration erases G of a generation that never got a manifest. Only
// the writer that made it knows that; nothing here can check it.
func (b *Box) DiscardGeneration(t keys.TenantID, d keys.DatasetID, g keys.GenerationID) error {
	return b.slots.Forget(generationEntry(t, d, g))
}

// hash is SHA-256 of a tag, a zero byte and b.
func hash(tag string, b []byte) keys.Hash {
	return sha256.Sum256(append([]byte(tag+"\x00"), b...))
}
