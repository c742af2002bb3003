// Package share splits a 32-byte seed into k-of-n paper shares and puts it
// together again, naming the share that is wrong when one is.
//
// The scheme is Shamir's (How to share a secret, CACM 22(11), 1979), byte by
// byte over GF(2^8): fewer than k shares say nothing about the seed.
package share

import (
	"crypto/rand"
	"errors"
	"fmt"

	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/secret"
)

// Bounds of k and n. 1-of-n would be a copy, not a share.
const (
	MinThreshold = 2
	MaxShares    = 16
)

// Errors that callers branch on; each is wrapped with the share's name.
var (
	// ErrTooFew: fewer than k different shares.
	ErrTooFew = errors.New("not enough shares")
	// ErrDuplicate: the same share was given twice.
	ErrDuplicate = errors.New("share given twice")
	// ErrOtherSet: the share belongs to another set, so to another key.
	ErrOtherSet = errors.New("share of another set")
	// ErrInconsistent: the share is well formed but not from this polynomial.
	ErrInconsistent = errors.New("share does not fit the others")
)

// Class says which recovery key a share belongs to.
type Class byte

// The custody classes. There is never one key for both.
const (
	Standard Class = 1
	Top      Class = 2
)

func (c Class) String() string {
	switch c {
	case Standard:
		return "standard"
	case Top:
		return "top"
	}
	return fmt.Sprintf("class %d", byte(c))
}

// MarshalText implements encoding.TextMarshaler.
func (c Class) MarshalText() ([]byte, error) {
	if c != Standard && c != Top {
		return nil, fmt.Errorf("no custody class has number %d", byte(c))
	}
	return []byte(c.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Class) UnmarshalText(b []byte) error {
	switch string(b) {
	case "standard":
		*c = Standard
	case "top":
		*c = Top
	default:
		return fmt.Errorf("no custody class %q; there are standard and top", b)
	}
	return nil
}

// SetID tells the sets of shares apart: random, new with every split.
type SetID [8]byte

func (s SetID) String() string { return paper.Group(paper.Encode(s[:]), "-") }

// MarshalText implements encoding.TextMarshaler.
func (s SetID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it takes only the form
// String writes.
func (s *SetID) UnmarshalText(b []byte) error {
	raw, err := paper.Decode(string(b), len(s))
	if err != nil {
		return fmt.Errorf("set id: %w", err)
	}
	if got := SetID(raw); got.String() != string(b) {
		return errors.New("set id: not in canonical form")
	}
	*s = SetID(raw)
	return nil
}

// KeyPrefix is the beginning of the recovery key's fingerprint: 160 bits, so
// that no other key can be made to fit a set of shares.
type KeyPrefix [20]byte

func (p KeyPrefix) String() string { return paper.Group(paper.Encode(p[:]), "-") }

// Set is what the shares of one split have in common.
type Set struct {
	ID        SetID     `json:"set"`
	Class     Class     `json:"class"`
	K         int       `json:"k"`
	N         int       `json:"n"`
	Rehearsal bool      `json:"rehearsal,omitempty"` // made in a rehearsal: protects nothing
	Key       KeyPrefix `json:"-"`
}

// NewSet returns a set with a fresh id.
func NewSet(class Class, k, n int, key KeyPrefix, rehearsal bool) (Set, error) {
	s := Set{Class: class, K: k, N: n, Key: key, Rehearsal: rehearsal}
	_, _ = rand.Read(s.ID[:])
	return s, s.Check()
}

// Check reports whether class, k and n are possible.
func (s Set) Check() error {
	if s.Class != Standard && s.Class != Top {
		return fmt.Errorf("no custody class has number %d", byte(s.Class))
	}
	if s.K < MinThreshold || s.K > s.N || s.N > MaxShares {
		return fmt.Errorf("%d of %d shares is not possible: want %d ≤ k ≤ n ≤ %d", s.K, s.N, MinThreshold, MaxShares)
	}
	return nil
}

// A Share is one holder's part.
type Share struct {
	Set
	Index int    // 1..N, the abscissa
	Label string // for people, e.g. where it is kept; not covered by the checks
	y     secret.Key
}

// Name names a share in messages.
func (s Share) Name() string { return fmt.Sprintf("share %d of set %s", s.Index, s.ID) }

// String hides the secret part.
func (s Share) String() string { return s.Name() }

// Split makes set.N shares, any set.K of which give seed. labels has one text
// per share, or is nil.
func Split(set Set, seed secret.Key, labels []string) ([]Share, error) {
	coeffs := make([]byte, secret.Size*max(set.K-1, 0))
	_, _ = rand.Read(coeffs)
	defer clear(coeffs)
	return split(set, seed, labels, coeffs)
}

// split takes the random coefficients from outside, K-1 per byte of the seed,
// so that fixed vectors can be checked.
func split(set Set, seed secret.Key, labels []string, coeffs []byte) ([]Share, error) {
	if err := set.Check(); err != nil {
		return nil, err
	}
	if labels != nil && len(labels) != set.N {
		return nil, fmt.Errorf("%d labels for %d shares", len(labels), set.N)
	}
	shares := make([]Share, set.N)
	poly := make([]byte, set.K)
	defer clear(poly)
	for i := range shares {
		var y [secret.Size]byte
		for b := range y {
			poly[0] = seed.Reveal()[b]
			copy(poly[1:], coeffs[b*(set.K-1):])
			y[b] = eval(poly, byte(i+1))
		}
		key, err := secret.FromBytes(y[:])
		clear(y[:])
		if err != nil {
			return nil, err
		}
		shares[i] = Share{Set: set, Index: i + 1, y: key}
		if labels != nil {
			shares[i].Label = labels[i]
		}
		if err := checkLabel(shares[i].Label); err != nil {
			return nil, fmt.Errorf("%s: %w", shares[i].Name(), err)
		}
	}
	return shares, nil
}

// Combine returns the seed. It needs at least K distinct shares of one set;
// more than K are checked against the first K. The caller must still compare
// the key made from the seed with its fingerprint: shares that were forged
// together combine to something.
func Combine(shares []Share) (secret.Key, Set, error) {
	if len(shares) == 0 {
		return secret.Key{}, Set{}, fmt.Errorf("combine shares: %w: none given", ErrTooFew)
	}
	set := shares[0].Set
	if err := checkSet(set, shares); err != nil {
		return secret.Key{}, set, fmt.Errorf("combine shares: %w", err)
	}
	xs := make([]byte, set.K)
	for i := range xs {
		xs[i] = byte(shares[i].Index)
	}
	for _, extra := range shares[set.K:] {
		if !interpolate(shares[:set.K], weights(xs, byte(extra.Index))).Equal(extra.y) {
			return secret.Key{}, set, fmt.Errorf("combine shares: %w: one of these %d was not made with the rest; leave out %s, then others in turn",
				ErrInconsistent, len(shares), extra.Name())
		}
	}
	return interpolate(shares[:set.K], weights(xs, 0)), set, nil
}

func checkSet(set Set, shares []Share) error {
	if err := set.Check(); err != nil {
		return err
	}
	seen := make(map[int]bool, len(shares))
	for _, s := range shares {
		switch {
		case s.Set != set:
			return fmt.Errorf("%w: %s (%s) beside %s (%s)", ErrOtherSet, s.Name(), s.Class, shares[0].Name(), set.Class)
		case s.y.IsZero() || s.Index < 1 || s.Index > s.N:
			return fmt.Errorf("%s is empty", s.Name())
		case seen[s.Index]:
			return fmt.Errorf("%w: %s", ErrDuplicate, s.Name())
		}
		seen[s.Index] = true
	}
	if len(shares) < set.K {
		return fmt.Errorf("%w: %d given, %d needed of set %s", ErrTooFew, len(shares), set.K, set.ID)
	}
	return nil
}

func interpolate(shares []Share, w []byte) secret.Key {
	var out [secret.Size]byte
	for i, s := range shares {
		y := s.y.Reveal()
		for b := range out {
			out[b] ^= mul(w[i], y[b])
		}
	}
	defer clear(out[:])
	key, err := secret.FromBytes(out[:])
	if err != nil {
		panic(err) // an array of Size bytes has Size bytes
	}
	return key
}

// Wipe overwrites the secret parts of shares.
func Wipe(shares []Share) {
	for _, s := range shares {
		s.y.Wipe()
	}
}
