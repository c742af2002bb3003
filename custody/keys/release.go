package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/secret"
)

// A Request asks the station for keys. Who restores makes it, so nothing in it
// is trusted: the station's people read it on the screen and compare Code.
type Request struct {
	Tenant TenantID `json:"tenant_id"`
	// Generations are asked for one by one; none: the whole tenant's key.
	Generations []SealedGeneration `json:"generations"`
	OneTime     PublicKey          `json:"one_time_key"`
	Created     time.Time          `json:"created"`
	Expires     time.Time          `json:"expires"`
}

// SealedGeneration is a capsule with G: in a request sealed to T, as found in
// a manifest, in a release sealed to the one-time key.
type SealedGeneration struct {
	Dataset    DatasetID    `json:"dataset_id"`
	Generation GenerationID `json:"generation_id"`
	Capsule    []byte       `json:"capsule"`
}

// A Release is the station's answer; only the one-time key opens it.
type Release struct {
	Request     Hash               `json:"request_sha256"` // of the request file
	Tenant      TenantID           `json:"tenant_id"`
	Generations []SealedGeneration `json:"generations"`
	// TenantSeed is a capsule with T's seed if the whole tenant is released.
	TenantSeed []byte          `json:"tenant_seed,omitempty"`
	Access     []ReleaseAccess `json:"access"`
	Created    time.Time       `json:"created"`
	Expires    time.Time       `json:"expires"`
	Rehearsal  bool            `json:"rehearsal,omitempty"`
}

// ReleaseAccess is a capsule with the credentials of one store.
type ReleaseAccess struct {
	Store   string `json:"store"`
	Capsule []byte `json:"capsule"`
}

const (
	requestTitle   = "strongroom release request 1"
	releaseTitle   = "strongroom release 1"
	oneTimeTitle   = "strongroom one-time key 1"
	maxDocument    = 512 << 10
	maxGenerations = 64
	// MaxValidity bounds how long a request may wait.
	MaxValidity = 30 * 24 * time.Hour
)

// Errors that callers of requests and releases branch on.
var (
	// ErrExpired: the request or release is past its end.
	ErrExpired = errors.New("expired")
	// ErrNotReleased: the release does not hold that generation.
	ErrNotReleased = errors.New("not in this release")
)

// OneTimeKey is the recovering host's secret half. It opens one release and is
// deleted after the restore.
type OneTimeKey struct {
	secret.Redacted
	seed secret.Key
}

// NewRequest makes a request and the key that will open its release.
func NewRequest(tenant TenantID, gens []SealedGeneration, now time.Time, valid time.Duration) (Request, *OneTimeKey, error) {
	key := &OneTimeKey{seed: secret.Random()}
	public, err := publicOf(key.seed)
	if err != nil {
		return Request{}, nil, fmt.Errorf("make request: %w", err)
	}
	if gens == nil {
		gens = []SealedGeneration{}
	}
	r := Request{tenant, gens, public, stamp(now), stamp(now.Add(valid))}
	if err := r.Check(); err != nil {
		return Request{}, nil, fmt.Errorf("make request: %w", err)
	}
	return r, key, nil
}

func checkGenerations(gens []SealedGeneration) error {
	if gens == nil || len(gens) > maxGenerations {
		return fmt.Errorf("want a list of at most %d generations", maxGenerations)
	}
	seen := make(map[GenerationID]bool)
	for _, g := range gens {
		if len(g.Capsule) != CapsuleSize {
			return fmt.Errorf("generation %s: capsule has %d bytes, want %d", g.Generation, len(g.Capsule), CapsuleSize)
		}
		if seen[g.Generation] {
			return fmt.Errorf("generation %s is listed twice", g.Generation)
		}
		seen[g.Generation] = true
	}
	return nil
}

func checkValidity(created, expires time.Time) error {
	if err := errors.Join(CheckTime(created), CheckTime(expires)); err != nil {
		return err
	}
	if d := expires.Sub(created); d <= 0 || d > MaxValidity {
		return fmt.Errorf("valid for %s, want more than 0 and at most %s", d, MaxValidity)
	}
	return nil
}

// Check reports whether every field is possible.
func (r Request) Check() error {
	if r.OneTime.IsZero() {
		return errors.New("one-time key is missing")
	}
	if err := checkGenerations(r.Generations); err != nil {
		return err
	}
	return checkValidity(r.Created, r.Expires)
}

// Encode returns the request file.
func (r Request) Encode() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	return doc.Encode(requestTitle, r)
}

// ParseRequest reads a request file.
func ParseRequest(b []byte) (Request, error) {
	var r Request
	if err := doc.Decode(requestTitle, b, maxDocument, &r); err != nil {
		return Request{}, err
	}
	if err := r.Check(); err != nil {
		return Request{}, fmt.Errorf("read request: %w", err)
	}
	return r, nil
}

// Code is a line that the host and the station both show: equal lines mean
// that nobody exchanged the request, and so the one-time key, on its way.
func (r Request) Code() (string, error) {
	b, err := r.Encode()
	if err != nil {
		return "", err
	}
	h := domainHash("strongroom request code v1", b)
	return oneLine("request", h[:12]), nil
}

// Release opens what the request asks for with the kit and seals it to the
// one-time key, together with the kit's store credentials. Generation capsules
// of another tenant do not open. A rehearsal is stamped, and so is whatever
// comes of shares made in one.
func (r *RecoveryKey) Release(req Request, kit Kit, now time.Time, rehearsal bool) (Release, error) {
	fail := func(err error) (Release, error) {
		return Release{}, fmt.Errorf("release keys of %s: %w", kit.Tenant, err)
	}
	file, err := req.Encode() // checks it, too
	if err != nil {
		return fail(err)
	}
	if req.Tenant != kit.ID {
		return fail(fmt.Errorf("%w: request is for tenant %s, kit for %s", ErrOtherKey, req.Tenant, kit.ID))
	}
	if !now.Before(req.Expires) {
		return fail(fmt.Errorf("request: %w on %s", ErrExpired, req.Expires.Format(time.DateTime)))
	}
	t, err := r.OpenKit(kit)
	if err != nil {
		return Release{}, err
	}
	defer t.Wipe()
	out := Release{
		Request: sha256.Sum256(file), Tenant: kit.ID, Generations: []SealedGeneration{}, Access: []ReleaseAccess{},
		Created: req.Created, Expires: req.Expires, Rehearsal: rehearsal || r.recovery.Rehearsal,
	}
	if len(req.Generations) == 0 {
		out.TenantSeed, err = seal(req.OneTime, PurposeReleaseTenant, scope{tenant: kit.ID}, t.seed.Reveal())
		if err != nil {
			return fail(err)
		}
	}
	for _, g := range req.Generations {
		if g.Capsule, err = t.reseal(g, req.OneTime); err != nil {
			return fail(err)
		}
		out.Generations = append(out.Generations, g)
	}
	if out.Access, err = r.releaseAccess(kit, req.OneTime); err != nil {
		return fail(err)
	}
	return out, nil
}

func (t *TenantKey) reseal(g SealedGeneration, to PublicKey) ([]byte, error) {
	key, err := t.OpenGeneration(g.Dataset, g.Generation, g.Capsule)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return seal(to, PurposeReleaseOne, scope{t.tenant, g.Dataset, g.Generation}, key.Reveal())
}

func (r *RecoveryKey) releaseAccess(kit Kit, to PublicKey) ([]ReleaseAccess, error) {
	out := []ReleaseAccess{}
	for _, s := range kit.Stores {
		access, err := r.OpenAccess(kit, s.Name)
		if err != nil {
			return nil, err
		}
		if access == nil {
			continue
		}
		capsule, err := sealAccess(to, PurposeReleaseAccess, kit.ID, access)
		clear(access)
		if err != nil {
			return nil, err
		}
		out = append(out, ReleaseAccess{s.Name, capsule})
	}
	return out, nil
}

// Check reports whether every field is possible.
func (r Release) Check() error {
	if err := checkGenerations(r.Generations); err != nil {
		return err
	}
	if (r.TenantSeed != nil) == (len(r.Generations) > 0) {
		return errors.New("want either generations or the tenant's seed")
	}
	if r.TenantSeed != nil && len(r.TenantSeed) != CapsuleSize {
		return fmt.Errorf("tenant capsule has %d bytes, want %d", len(r.TenantSeed), CapsuleSize)
	}
	if r.Access == nil || len(r.Access) > maxStores {
		return fmt.Errorf("want a list of at most %d credentials", maxStores)
	}
	for _, a := range r.Access {
		if err := errors.Join(CheckName(a.Store), checkAccessSize(a.Capsule)); err != nil {
			return fmt.Errorf("credentials of store %q: %w", a.Store, err)
		}
	}
	return checkValidity(r.Created, r.Expires)
}

// Encode returns the release file.
func (r Release) Encode() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("write release: %w", err)
	}
	return doc.Encode(releaseTitle, r)
}

// ParseRelease reads a release file.
func ParseRelease(b []byte) (Release, error) {
	var r Release
	if err := doc.Decode(releaseTitle, b, maxDocument, &r); err != nil {
		return Release{}, err
	}
	if err := r.Check(); err != nil {
		return Release{}, fmt.Errorf("read release: %w", err)
	}
	return r, nil
}

// Released is an opened release: it opens what was asked for, no more.
type Released struct {
	secret.Redacted
	Rehearsal bool // print it on whatever comes of it
	tenant    TenantID
	whole     *TenantKey
	gens      map[GenerationID]releasedGeneration
	access    map[string][]byte // each a capsule's content, opened on demand
	key       *OneTimeKey
}

type releasedGeneration struct {
	dataset DatasetID
	key     GenerationKey
}

// Open opens a release made for this key. kit says which tenant key a release
// of a whole tenant must hold.
func (o *OneTimeKey) Open(rel Release, kit Kit, now time.Time) (*Released, error) {
	fail := func(err error) (*Released, error) { return nil, fmt.Errorf("open release: %w", err) }
	if err := rel.Check(); err != nil {
		return fail(err)
	}
	if rel.Tenant != kit.ID {
		return fail(fmt.Errorf("%w: release is for tenant %s, kit for %s", ErrOtherKey, rel.Tenant, kit.ID))
	}
	if !now.Before(rel.Expires) {
		return fail(fmt.Errorf("%w on %s", ErrExpired, rel.Expires.Format(time.DateTime)))
	}
	out := &Released{
		Rehearsal: rel.Rehearsal, tenant: rel.Tenant, key: o,
		gens: make(map[GenerationID]releasedGeneration), access: make(map[string][]byte),
	}
	for _, g := range rel.Generations {
		key, err := openKey(o.seed, PurposeReleaseOne, scope{rel.Tenant, g.Dataset, g.Generation}, g.Capsule)
		if err != nil {
			return fail(fmt.Errorf("generation %s: %w", g.Generation, err))
		}
		out.gens[g.Generation] = releasedGeneration{g.Dataset, GenerationKey{key}}
	}
	if rel.TenantSeed != nil {
		seed, err := openKey(o.seed, PurposeReleaseTenant, scope{tenant: rel.Tenant}, rel.TenantSeed)
		if err != nil {
			return fail(err)
		}
		if out.whole, err = newTenantKey(seed, rel.Tenant, kit.Key.Public.Fingerprint()); err != nil {
			return fail(err)
		}
	}
	for _, a := range rel.Access {
		out.access[a.Store] = a.Capsule
	}
	return out, nil
}

// Generation returns G. The capsule from the manifest is needed, and used,
// only when the whole tenant was released.
func (r *Released) Generation(dataset DatasetID, gen GenerationID, capsule []byte) (GenerationKey, error) {
	if r.whole != nil {
		return r.whole.OpenGeneration(dataset, gen, capsule)
	}
	g, ok := r.gens[gen]
	if !ok || g.dataset != dataset {
		return GenerationKey{}, fmt.Errorf("generation %s: %w", gen, ErrNotReleased)
	}
	return g.key, nil
}

// Access returns the credentials of a store, or nil where none were released.
func (r *Released) Access(store string) ([]byte, error) {
	capsule, ok := r.access[store]
	if !ok {
		return nil, nil
	}
	b, err := openAccess(r.key.seed, PurposeReleaseAccess, r.tenant, capsule)
	if err != nil {
		return nil, fmt.Errorf("credentials of store %s: %w", store, err)
	}
	return bytes.Clone(b), nil
}

// Wipe overwrites every key.
func (r *Released) Wipe() {
	for _, g := range r.gens {
		g.key.Wipe()
	}
	if r.whole != nil {
		r.whole.Wipe()
	}
}

type oneTimeFile struct {
	Seed string `json:"seed"`
}

// EncodeSecret returns the key as a file that only its owner may read; the
// recovering host keeps it between request and release.
func (o *OneTimeKey) EncodeSecret() ([]byte, error) {
	return doc.Encode(oneTimeTitle, oneTimeFile{hex.EncodeToString(o.seed.Reveal())})
}

// ParseOneTimeKey reads what EncodeSecret wrote.
func ParseOneTimeKey(b []byte) (*OneTimeKey, error) {
	var f oneTimeFile
	if err := doc.Decode(oneTimeTitle, b, 1024, &f); err != nil {
		return nil, err
	}
	var raw [secret.Size]byte
	defer clear(raw[:])
	if err := parseHex(raw[:], []byte(f.Seed)); err != nil {
		return nil, errors.New("read one-time key: seed is not 64 hex digits")
	}
	seed, err := secret.FromBytes(raw[:])
	if err != nil {
		return nil, err
	}
	return &OneTimeKey{seed: seed}, nil
}

// Wipe overwrites the seed.
func (o *OneTimeKey) Wipe() { o.seed.Wipe() }
