package keys

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/secret"
	"strongroom/custody/keys/share"
)

// Errors that callers of the recovery side branch on.
var (
	// ErrWrongKey: the shares combine, but not to the key they name.
	ErrWrongKey = errors.New("shares do not give the recovery key they name")
	// ErrOtherKey: a kit, request or release is for another key than this one.
	ErrOtherKey = errors.New("made for another key")
)

// Recovery describes R: all that anyone but the holders of shares may have.
type Recovery struct {
	share.Set
	Fingerprint Fingerprint `json:"fingerprint"`
}

// RecoveryPublic is R's public half as the station hands it out.
type RecoveryPublic struct {
	Recovery
	Public  PublicKey `json:"public"`
	Created time.Time `json:"created"`
}

const (
	recoveryTitle = "strongroom recovery key 1"
	maxRecovery   = 16 << 10
)

// describe builds Recovery; the prefix on shares follows from the fingerprint.
func describe(set share.Set, f Fingerprint) Recovery {
	set.Key = prefix(f)
	return Recovery{Set: set, Fingerprint: f}
}

func prefix(f Fingerprint) (p share.KeyPrefix) {
	copy(p[:], f[:])
	return p
}

// Complete fills in what documents do not repeat: the prefix on the shares.
func (r Recovery) Complete() Recovery { return describe(r.Set, r.Fingerprint) }

// Complete fills in what documents do not repeat.
func (p RecoveryPublic) Complete() RecoveryPublic {
	p.Recovery = p.Recovery.Complete()
	return p
}

// Check reports whether the fields fit each other.
func (p RecoveryPublic) Check() error {
	if err := p.Set.Check(); err != nil {
		return err
	}
	if p.Public.IsZero() || p.Public.Fingerprint() != p.Fingerprint || p.Set.Key != prefix(p.Fingerprint) {
		return errors.New("fingerprint does not fit the public key")
	}
	return CheckTime(p.Created)
}

// Encode returns the public file.
func (p RecoveryPublic) Encode() ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("write recovery key: %w", err)
	}
	return doc.Encode(recoveryTitle, p)
}

// ParseRecoveryPublic reads a public file.
func ParseRecoveryPublic(b []byte) (RecoveryPublic, error) {
	var p RecoveryPublic
	if err := doc.Decode(recoveryTitle, b, maxRecovery, &p); err != nil {
		return RecoveryPublic{}, err
	}
	p = p.Complete()
	if err := p.Check(); err != nil {
		return RecoveryPublic{}, fmt.Errorf("read recovery key: %w", err)
	}
	return p, nil
}

// RecoveryKey is R with its secret half: it exists only where k shares met.
type RecoveryKey struct {
	secret.Redacted
	recovery Recovery
	seed     secret.Key
}

// InitRecovery makes R at the station and splits it at once: k of n shares,
// one label each (or labels nil), and the public file. Before it returns, it
// recombines the shares as they will be read from paper. A rehearsal marks
// everything it makes, and no box accepts such a key.
func InitRecovery(class share.Class, k, n int, labels []string, now time.Time, rehearsal bool) ([]share.Share, RecoveryPublic, error) {
	fail := func(err error) ([]share.Share, RecoveryPublic, error) {
		return nil, RecoveryPublic{}, fmt.Errorf("make recovery key: %w", err)
	}
	seed := secret.Random()
	defer seed.Wipe()
	public, err := publicOf(seed)
	if err != nil {
		return fail(err)
	}
	set, err := share.NewSet(class, k, n, prefix(public.Fingerprint()), rehearsal)
	if err != nil {
		return fail(err)
	}
	shares, err := share.Split(set, seed, labels)
	if err != nil {
		return fail(err)
	}
	if err := reread(shares, k); err != nil {
		return fail(err)
	}
	return shares, RecoveryPublic{describe(set, public.Fingerprint()), public, stamp(now)}, nil
}

// reread parses every share's text and opens the key with the first and with
// the last k of them, so that all shares took part.
func reread(shares []share.Share, k int) error {
	read := make([]share.Share, len(shares))
	for i, s := range shares {
		var err error
		if read[i], err = share.Parse(s.Format()); err != nil {
			return fmt.Errorf("self-check: %w", err)
		}
	}
	defer share.Wipe(read)
	for _, some := range [][]share.Share{read[:k], read[len(read)-k:], read} {
		r, err := OpenRecovery(some)
		if err != nil {
			return fmt.Errorf("self-check: %w", err)
		}
		r.Wipe()
	}
	return nil
}

// OpenRecovery combines at least k shares and compares the key they give with
// the fingerprint they carry. See share.Combine for errors.
func OpenRecovery(shares []share.Share) (*RecoveryKey, error) {
	seed, set, err := share.Combine(shares)
	if err != nil {
		return nil, err
	}
	public, err := publicOf(seed)
	if err != nil {
		return nil, err
	}
	if prefix(public.Fingerprint()) != set.Key {
		seed.Wipe()
		return nil, fmt.Errorf("%w: set %s names %s, the shares give %s", ErrWrongKey, set.ID, set.Key, prefix(public.Fingerprint()))
	}
	return &RecoveryKey{recovery: describe(set, public.Fingerprint()), seed: seed}, nil
}

// Recovery describes the key.
func (r *RecoveryKey) Recovery() Recovery { return r.recovery }

// Wipe overwrites the seed.
func (r *RecoveryKey) Wipe() { r.seed.Wipe() }

// OpenKit returns the tenant's key. The kit must be sealed to this R, and the
// key must be the one the kit names.
func (r *RecoveryKey) OpenKit(kit Kit) (*TenantKey, error) {
	seed, err := r.openTenant(kit)
	if err != nil {
		return nil, fmt.Errorf("open kit %d of %s: %w", kit.Copy, kit.Tenant, err)
	}
	return newTenantKey(seed, kit.ID, kit.Key.Public.Fingerprint())
}

func (r *RecoveryKey) openTenant(kit Kit) (secret.Key, error) {
	if kit.Recovery.Fingerprint != r.recovery.Fingerprint {
		return secret.Key{}, fmt.Errorf("%w: the kit needs shares of set %s (recovery key %s), these give %s",
			ErrOtherKey, kit.Recovery.ID, kit.Recovery.Fingerprint, r.recovery.Fingerprint)
	}
	return openKey(r.seed, PurposeTenantSeed, scope{tenant: kit.ID}, kit.Key.Capsule)
}

// OpenAccess returns the credentials of the kit's store of that name, or nil
// where the kit carries none for it.
func (r *RecoveryKey) OpenAccess(kit Kit, store string) ([]byte, error) {
	for _, s := range kit.Stores {
		if s.Name != store {
			continue
		}
		if s.Access == nil {
			return nil, nil
		}
		b, err := openAccess(r.seed, PurposeAccess, kit.ID, s.Access)
		if err != nil {
			return nil, fmt.Errorf("credentials of store %s: %w", store, err)
		}
		return bytes.Clone(b), nil
	}
	return nil, fmt.Errorf("kit %d of %s has no store %q", kit.Copy, kit.Tenant, store)
}
