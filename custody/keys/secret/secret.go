// Package secret holds 32 key bytes that no formatter, logger or encoder shows.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// Size is the length of every symmetric key and every KEM seed here, in bytes.
const Size = 32

const placeholder = "[redacted]"

// Redacted, when embedded, keeps a type out of fmt, slog and encoding/json.
// fmt does not call methods on unexported fields, so a holder keeps its bytes
// in a Key and nowhere else.
type Redacted struct{}

func (Redacted) String() string               { return placeholder }
func (Redacted) GoString() string             { return placeholder }
func (Redacted) LogValue() slog.Value         { return slog.StringValue(placeholder) }
func (Redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + placeholder + `"`), nil }
func (Redacted) MarshalText() ([]byte, error) { return []byte(placeholder), nil }

// Format covers every verb, %x and %d included.
func (Redacted) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, placeholder) }

// A Key is 32 secret bytes. Copies share the bytes, so Wipe reaches all of
// them. The zero Key holds nothing; Reveal panics on it.
type Key struct {
	Redacted
	// bytes is a function because a Key also stands in unexported fields, where
	// fmt prints by reflection: there it follows a plain pointer for verbs it
	// does not know (fmt's badVerb), but of a function it shows an address. It
	// also makes == on keys, which is not constant time, a compile error.
	bytes func() *[Size]byte
}

func hold(b *[Size]byte) Key { return Key{bytes: func() *[Size]byte { return b }} }

// Random returns a new key from the system's generator, which crypto/rand
// guarantees not to fail.
func Random() Key {
	b := new([Size]byte)
	_, _ = rand.Read(b[:])
	return hold(b)
}

// FromBytes returns a key with a copy of b, which must have Size bytes.
func FromBytes(b []byte) (Key, error) {
	if len(b) != Size {
		return Key{}, fmt.Errorf("key has %d bytes, want %d", len(b), Size)
	}
	held := new([Size]byte)
	copy(held[:], b)
	return hold(held), nil
}

// Reveal returns the bytes themselves, not a copy: the one door through which
// they leave. Do not keep the slice, log it, or send it anywhere.
func (k Key) Reveal() []byte { return k.bytes()[:] }

// IsZero reports whether k holds no key.
func (k Key) IsZero() bool { return k.bytes == nil }

// Equal compares in constant time. Zero keys equal nothing.
func (k Key) Equal(o Key) bool {
	return k.bytes != nil && o.bytes != nil && subtle.ConstantTimeCompare(k.Reveal(), o.Reveal()) == 1
}

// Wipe overwrites the bytes. What the runtime or the kernel copied elsewhere
// stays; it narrows the window, no more.
func (k Key) Wipe() {
	if k.bytes != nil {
		clear(k.Reveal())
	}
}
