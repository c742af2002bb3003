// Package keys makes, seals, opens and releases the keys of tenants and
// generations, so that the box can write without being able to read what it
// has closed, and k holders of paper shares can always read.
//
// Section 10 of repo/FORMAT.md says the same in bytes. Types that hold secrets perform
// operations and show "[redacted]" wherever they are printed.
package keys

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"strongroom/custody/keys/share"
)

// Pseudonyms: random, the only names that stores, slots and capsules see.
type (
	TenantID     [16]byte
	DatasetID    [16]byte
	GenerationID [16]byte
)

// Hash is a SHA-256.
type Hash [32]byte

// NewTenantID returns a random id.
func NewTenantID() (id TenantID) { _, _ = rand.Read(id[:]); return id }

// NewDatasetID returns a random id.
func NewDatasetID() (id DatasetID) { _, _ = rand.Read(id[:]); return id }

// NewGenerationID returns a random id.
func NewGenerationID() (id GenerationID) { _, _ = rand.Read(id[:]); return id }

func (id TenantID) String() string     { return hex.EncodeToString(id[:]) }
func (id DatasetID) String() string    { return hex.EncodeToString(id[:]) }
func (id GenerationID) String() string { return hex.EncodeToString(id[:]) }
func (h Hash) String() string          { return hex.EncodeToString(h[:]) }

func (id TenantID) MarshalText() ([]byte, error)     { return []byte(id.String()), nil }
func (id DatasetID) MarshalText() ([]byte, error)    { return []byte(id.String()), nil }
func (id GenerationID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
func (h Hash) MarshalText() ([]byte, error)          { return []byte(h.String()), nil }

func (id *TenantID) UnmarshalText(b []byte) error     { return parseHex(id[:], b) }
func (id *DatasetID) UnmarshalText(b []byte) error    { return parseHex(id[:], b) }
func (id *GenerationID) UnmarshalText(b []byte) error { return parseHex(id[:], b) }
func (h *Hash) UnmarshalText(b []byte) error          { return parseHex(h[:], b) }

// parseHex takes lower-case hex of exactly len(dst) bytes: one encoding.
func parseHex(dst, text []byte) error {
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(dst) || hex.EncodeToString(raw) != string(text) {
		return fmt.Errorf("want %d lower-case hex digits", 2*len(dst))
	}
	copy(dst, raw)
	return nil
}

// Level is a tenant's confidentiality level.
type Level string

// The levels.
const (
	TopSecret    Level = "top-secret"
	Secret       Level = "secret"
	Confidential Level = "confidential"
)

// Check reports whether l is one of the three.
func (l Level) Check() error {
	switch l {
	case TopSecret, Secret, Confidential:
		return nil
	}
	return fmt.Errorf("no level %q; there are %s, %s and %s", string(l), TopSecret, Secret, Confidential)
}

// Class is the recovery key that holds tenants of this level.
func (l Level) Class() share.Class {
	if l == TopSecret {
		return share.Top
	}
	return share.Standard
}

// MaxName bounds names of tenants, stores, holders and places, in bytes.
const MaxName = 128

// CheckName reports whether s is a name: printable UTF-8, 1 to MaxName bytes.
func CheckName(s string) error {
	if s == "" || len(s) > MaxName || !utf8.ValidString(s) {
		return fmt.Errorf("name must be 1 to %d bytes of UTF-8", MaxName)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("name %q has a character that does not print", s)
		}
	}
	return nil
}

// CheckTime holds times in documents to UTC and whole seconds, so that each
// has one text form.
func CheckTime(t time.Time) error {
	if t.IsZero() || t.Location() != time.UTC || t.Nanosecond() != 0 || t.Year() > 9999 || t.Year() < 2000 {
		return errors.New("time must be UTC in whole seconds, years 2000 to 9999")
	}
	return nil
}

// stamp brings a clock's time into the form of CheckTime.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
