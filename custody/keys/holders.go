package keys

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"

	"strongroom/custody/keys/secret"
)

// GenerationKey is G, one generation's key.
type GenerationKey struct{ secret.Key }

// CatalogueKey is C, one tenant's key of names and times; it opens no data.
type CatalogueKey struct{ secret.Key }

// NewGenerationKey returns a random G.
func NewGenerationKey() GenerationKey { return GenerationKey{secret.Random()} }

// NewCatalogueKey returns a random C.
func NewCatalogueKey() CatalogueKey { return CatalogueKey{secret.Random()} }

// Derive returns n bytes of HKDF-SHA384 with the key as secret, no salt, and
// info, which must name one use. Suits keys of G and C alike.
func (k GenerationKey) Derive(info []byte, n int) ([]byte, error) { return derive(k.Key, info, n) }

// Derive is GenerationKey.Derive.
func (k CatalogueKey) Derive(info []byte, n int) ([]byte, error) { return derive(k.Key, info, n) }

func derive(k secret.Key, info []byte, n int) ([]byte, error) {
	out, err := hkdf.Key(sha512.New384, k.Reveal(), nil, string(info), n)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return out, nil
}

// TenantKey is T, which opens every generation of one tenant. It exists only
// where k shares met a kit, or where a tenant was released.
type TenantKey struct {
	secret.Redacted
	tenant TenantID
	public PublicKey
	seed   secret.Key
}

// SealTenant makes a tenant's key pair and seals its seed to R. The seed is in
// memory only within this call.
func SealTenant(r PublicKey, tenant TenantID) (t PublicKey, capsule []byte, err error) {
	seed := secret.Random()
	defer seed.Wipe()
	if t, err = publicOf(seed); err != nil {
		return PublicKey{}, nil, err
	}
	if capsule, err = seal(r, PurposeTenantSeed, scope{tenant: tenant}, seed.Reveal()); err != nil {
		return PublicKey{}, nil, err
	}
	return t, capsule, nil
}

// newTenantKey holds the seed's public half against the expected one: the
// capsule authenticates nobody, so anyone could have sealed another seed.
func newTenantKey(seed secret.Key, tenant TenantID, want Fingerprint) (*TenantKey, error) {
	public, err := publicOf(seed)
	if err != nil {
		return nil, err
	}
	if got := public.Fingerprint(); got != want {
		return nil, fmt.Errorf("%w: capsule of tenant %s holds tenant key %s, the kit names %s", ErrOtherKey, tenant, got, want)
	}
	return &TenantKey{tenant: tenant, public: public, seed: seed}, nil
}

// Tenant is whose key it is.
func (t *TenantKey) Tenant() TenantID { return t.tenant }

// Public is the half the box keeps.
func (t *TenantKey) Public() PublicKey { return t.public }

// Wipe overwrites the seed.
func (t *TenantKey) Wipe() { t.seed.Wipe() }

// SealGeneration seals G to T for the clear part of a manifest.
func SealGeneration(t PublicKey, tenant TenantID, dataset DatasetID, gen GenerationID, g GenerationKey) ([]byte, error) {
	c, err := seal(t, PurposeGeneration, scope{tenant, dataset, gen}, g.Reveal())
	if err != nil {
		return nil, fmt.Errorf("generation %s: %w", gen, err)
	}
	return c, nil
}

// OpenGeneration opens what SealGeneration made. The result is only as good
// as the manifest the capsule came from: check its signature first.
func (t *TenantKey) OpenGeneration(dataset DatasetID, gen GenerationID, capsule []byte) (GenerationKey, error) {
	k, err := openKey(t.seed, PurposeGeneration, scope{t.tenant, dataset, gen}, capsule)
	if err != nil {
		return GenerationKey{}, fmt.Errorf("generation %s of tenant %s: %w", gen, t.tenant, err)
	}
	return GenerationKey{k}, nil
}

// Signer is B, the box's key for manifests, receipts and the ledger.
type Signer struct {
	secret.Redacted
	public VerifyKey
	seed   secret.Key
}

// NewSigner makes a signer of a 32-byte Ed25519 seed (RFC 8032).
func NewSigner(seed secret.Key) *Signer {
	key := ed25519.NewKeyFromSeed(seed.Reveal())
	defer clear(key)
	return &Signer{public: VerifyKey(key.Public().(ed25519.PublicKey)), seed: seed}
}

// Public is the key that verifies.
func (s *Signer) Public() VerifyKey { return s.public }

// Sign signs message as it stands (plain Ed25519). It must begin with a line
// or magic that names what is signed, so that no message of one kind is ever
// valid as one of another.
func (s *Signer) Sign(message []byte) []byte {
	key := ed25519.NewKeyFromSeed(s.seed.Reveal())
	defer clear(key)
	return ed25519.Sign(key, message)
}

// VerifyKey is the public half of a B.
type VerifyKey [ed25519.PublicKeySize]byte

func (k VerifyKey) String() string { return Hash(k).String() }

// MarshalText writes hex.
func (k VerifyKey) MarshalText() ([]byte, error) { return Hash(k).MarshalText() }

// UnmarshalText reads lower-case hex.
func (k *VerifyKey) UnmarshalText(b []byte) error { return parseHex(k[:], b) }

// BoxKey says for which incarnations of a box a key signs. Ranges are over
// incarnations, not times or sequence numbers: sequences count inside each
// generation, and box time is whatever the signer writes, while an incarnation
// names one box and one unbroken state, and a generation belongs to exactly one.
type BoxKey struct {
	Public VerifyKey `json:"public"`
	First  uint32    `json:"first_incarnation"`
	Last   uint32    `json:"last_incarnation"` // inclusive; 0: still in use
}

// BoxKeys are all keys whose signatures a reader accepts.
type BoxKeys []BoxKey

// Errors of BoxKeys.Verify.
var (
	// ErrUnknownBox: no listed key has this public half and incarnation.
	ErrUnknownBox = errors.New("signed by a key that is not listed")
	// ErrSignature: the signature is not one of this key for this message.
	ErrSignature = errors.New("signature is wrong")
)

// Verify accepts a signature only by a listed key within its incarnations.
func (ks BoxKeys) Verify(key VerifyKey, incarnation uint32, message, sig []byte) error {
	for _, k := range ks {
		if k.Public != key || incarnation < k.First || (k.Last != 0 && incarnation > k.Last) {
			continue
		}
		if !ed25519.Verify(key[:], message, sig) {
			return fmt.Errorf("%w: key %s", ErrSignature, key)
		}
		return nil
	}
	return fmt.Errorf("%w: key %s, incarnation %d", ErrUnknownBox, key, incarnation)
}

const maxBoxKeys = 64

// Check reports whether the ranges are possible.
func (ks BoxKeys) Check() error {
	if len(ks) == 0 || len(ks) > maxBoxKeys {
		return fmt.Errorf("%d box keys, want 1 to %d", len(ks), maxBoxKeys)
	}
	for _, k := range ks {
		if k.First == 0 || (k.Last != 0 && k.Last < k.First) {
			return fmt.Errorf("box key %s has impossible incarnations %d to %d", k.Public, k.First, k.Last)
		}
	}
	return nil
}

// domainHash is SHA-256 of a tag, a zero byte and the parts, which must have
// fixed lengths except the last.
func domainHash(tag string, parts ...[]byte) Hash {
	h := sha256.New()
	h.Write([]byte(tag + "\x00"))
	for _, p := range parts {
		h.Write(p)
	}
	return Hash(h.Sum(nil))
}
