package keys

import (
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

// A Kit is one numbered copy of all that k shares need to recover one tenant.
// It is not secret in the sense of a key, but not public: with C it shows
// names and times to whoever also reads a store.
type Kit struct {
	Tenant    string
	ID        TenantID
	Level     Level
	Recovery  Recovery
	Key       TenantRecord
	Catalogue CatalogueKey
	Boxes     BoxKeys
	Stores    []KitStore
	Binary    Hash // SHA-256 of the recovery program
	Copy      int  // 1, 2, …; never reused
	Created   time.Time
}

// TenantRecord is what a kit and the box keep of T.
type TenantRecord struct {
	Fingerprint Fingerprint `json:"fingerprint"`
	Public      PublicKey   `json:"public"`
	Capsule     []byte      `json:"capsule"` // T's seed, sealed to R
	Canary      []byte      `json:"canary"`  // sealed to T
}

// KitStore names one store.
type KitStore struct {
	Name string `json:"name"`
	Spec string `json:"spec"` // the caller's own text, without secrets
	// Access is a capsule with read-only credentials, sealed to R; nil: none.
	Access []byte `json:"access,omitempty"`
}

const (
	kitTitle  = "strongroom kit 1"
	maxKit    = 256 << 10
	maxStores = 32
	maxSpec   = 4096
	maxCopy   = 9999
)

// kitFile is the kit as it is written; only here does C stand in the clear.
type kitFile struct {
	Tenant    string       `json:"tenant"`
	ID        TenantID     `json:"tenant_id"`
	Level     Level        `json:"level"`
	Recovery  Recovery     `json:"recovery"`
	Key       TenantRecord `json:"tenant_key"`
	Catalogue string       `json:"catalogue_key"`
	Boxes     BoxKeys      `json:"boxes"`
	Stores    []KitStore   `json:"stores"`
	Binary    Hash         `json:"recovery_program_sha256"`
	Copy      int          `json:"copy"`
	Created   time.Time    `json:"created"`
}

// Check reports whether the record is one whole tenant key.
func (t TenantRecord) Check() error {
	if t.Public.IsZero() || t.Public.Fingerprint() != t.Fingerprint {
		return errors.New("tenant key: fingerprint does not fit the public key")
	}
	if len(t.Capsule) != CapsuleSize || len(t.Canary) != CapsuleSize {
		return fmt.Errorf("tenant key: capsule and canary have %d and %d bytes, want %d", len(t.Capsule), len(t.Canary), CapsuleSize)
	}
	return nil
}

func checkStores(stores []KitStore) error {
	if len(stores) > maxStores || stores == nil {
		return fmt.Errorf("want a list of at most %d stores", maxStores)
	}
	seen := make(map[string]bool)
	for _, s := range stores {
		if err := CheckName(s.Name); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if seen[s.Name] {
			return fmt.Errorf("store %s is listed twice", s.Name)
		}
		seen[s.Name] = true
		if len(s.Spec) > maxSpec || !utf8.ValidString(s.Spec) {
			return fmt.Errorf("store %s: specification is not UTF-8 of at most %d bytes", s.Name, maxSpec)
		}
		for _, r := range s.Spec {
			if r != '\n' && !unicode.IsPrint(r) {
				return fmt.Errorf("store %s: specification has a character that does not print", s.Name)
			}
		}
		if s.Access != nil {
			if err := checkAccessSize(s.Access); err != nil {
				return fmt.Errorf("store %s: %w", s.Name, err)
			}
		}
	}
	return nil
}

// Check reports whether every field is possible and fits the others.
func (k Kit) Check() error {
	if err := CheckName(k.Tenant); err != nil {
		return fmt.Errorf("tenant: %w", err)
	}
	if err := k.Level.Check(); err != nil {
		return err
	}
	if err := k.Recovery.Check(); err != nil {
		return err
	}
	if k.Level.Class() != k.Recovery.Class {
		return fmt.Errorf("level %s needs recovery class %s, not %s", k.Level, k.Level.Class(), k.Recovery.Class)
	}
	if err := k.Key.Check(); err != nil {
		return err
	}
	if k.Catalogue.IsZero() {
		return errors.New("catalogue key is missing")
	}
	if err := k.Boxes.Check(); err != nil {
		return err
	}
	if err := checkStores(k.Stores); err != nil {
		return err
	}
	if k.Copy < 1 || k.Copy > maxCopy {
		return fmt.Errorf("copy number %d is not 1 to %d", k.Copy, maxCopy)
	}
	return CheckTime(k.Created)
}

// Encode returns the kit file.
func (k Kit) Encode() ([]byte, error) {
	if err := k.Check(); err != nil {
		return nil, fmt.Errorf("write kit: %w", err)
	}
	return doc.Encode(kitTitle, kitFile{
		k.Tenant, k.ID, k.Level, k.Recovery, k.Key, hex.EncodeToString(k.Catalogue.Reveal()),
		k.Boxes, k.Stores, k.Binary, k.Copy, k.Created,
	})
}

// ParseKit reads a kit file.
func ParseKit(b []byte) (Kit, error) {
	var f kitFile
	if err := doc.Decode(kitTitle, b, maxKit, &f); err != nil {
		return Kit{}, err
	}
	var c [secret.Size]byte
	defer clear(c[:])
	if err := parseHex(c[:], []byte(f.Catalogue)); err != nil {
		return Kit{}, fmt.Errorf("read kit: catalogue key: %w", err)
	}
	key, err := secret.FromBytes(c[:])
	if err != nil {
		return Kit{}, fmt.Errorf("read kit: %w", err)
	}
	k := Kit{
		f.Tenant, f.ID, f.Level, f.Recovery.Complete(), f.Key, CatalogueKey{key},
		f.Boxes, f.Stores, f.Binary, f.Copy, f.Created,
	}
	if err := k.Check(); err != nil {
		return Kit{}, fmt.Errorf("read kit: %w", err)
	}
	return k, nil
}

// SealAccess seals a store's credentials to R, for KitStore.Access.
func SealAccess(r PublicKey, tenant TenantID, access []byte) ([]byte, error) {
	return sealAccess(r, PurposeAccess, tenant, access)
}

const (
	copyTag  = "copy"
	copySize = 12
)

// CopyCode is the code on a copy that its holder reads back: it follows from
// the kit file's every byte, so it also says that the file is whole.
func CopyCode(kitFile []byte) string {
	h := domainHash("strongroom kit copy v1", kitFile)
	return oneLine(copyTag, h[:copySize])
}

// ErrOtherCopy: a code was typed right but belongs to another copy.
var ErrOtherCopy = errors.New("code of another copy")

// CheckCopyCode compares a typed code with the one of a copy. A typing error
// gives a *paper.LineError.
func CheckCopyCode(want, typed string) error {
	w, err := paper.ParseLines(copyTag, []string{want}, copySize)
	if err != nil {
		return fmt.Errorf("check copy: recorded code: %w", err)
	}
	got, err := paper.ParseLines(copyTag, []string{typed}, copySize)
	if err != nil {
		return fmt.Errorf("check copy: %w", err)
	}
	if subtle.ConstantTimeCompare(w, got) != 1 {
		return fmt.Errorf("check copy: %w", ErrOtherCopy)
	}
	return nil
}
