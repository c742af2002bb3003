// Package store is the smallest object-store contract a repository needs:
// write-once objects with hashed bodies, ranged reads and ordered listings.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Errors that callers branch on. Implementations wrap them with what failed
// on which key.
var (
	// ErrNotExist: no object has that key.
	ErrNotExist = errors.New("object does not exist")
	// ErrExists: an object with that key but other content is there. The
	// object was not touched.
	ErrExists = errors.New("object exists with other content")
	// ErrReadOnly: the store takes no writes at all.
	ErrReadOnly = errors.New("store is read-only")
	// ErrFull: no space or quota is left.
	ErrFull = errors.New("store is full")
	// ErrDenied: the store refused the credentials or the rights they carry.
	ErrDenied = errors.New("store denied access")
	// ErrUnavailable: the store could not be reached, or kept failing until
	// the retry budget was spent. The same call may succeed later.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrTampered: the store returned other bytes than it was asked for, e.g.
	// a short body or a wrong length.
	ErrTampered = errors.New("store returned a wrong body")
)

// Info describes one stored object.
type Info struct {
	Key  string
	Size int64
}

// A Store keeps immutable objects. Keys are 1 to 250 bytes of [a-z0-9.-] in
// segments joined by "/"; ValidKey says which. All methods may be called
// concurrently.
type Store interface {
	// Put stores body under key and returns once it is durable. The SHA-256 of
	// body is sum; the store checks it where the protocol can. Put never
	// overwrites: if key exists with the same content it returns nil (so a
	// retry after a lost reply succeeds), with other content ErrExists. A Put
	// that fails leaves no readable object, or the whole one. Implementations
	// retry transient faults themselves, within ctx and their own budget.
	// body is not modified and not kept after Put returns.
	Put(ctx context.Context, key string, body []byte, sum [32]byte) error

	// Get returns a reader of exactly n bytes from offset off; n < 0 reads to
	// the end. A read that ends early returns an error other than io.EOF. The
	// bytes are not authenticated: the caller checks them. The caller closes
	// the reader.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)

	// Stat returns size and key of one object, or ErrNotExist.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose key begins with prefix, in ascending key
	// order. After yielding an error it stops, and the listing is incomplete:
	// nothing may be concluded from the absence of a key.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// ValidKey reports whether key has the one allowed form: segments of
// [a-z0-9.-] joined by "/", none empty, ".", ".." or beginning with a dot,
// at most 250 bytes. RECOVER.txt and FORMAT.md, which are written for people,
// are the two exceptions.
func ValidKey(key string) bool {
	if key == "RECOVER.txt" || key == "FORMAT.md" {
		return true
	}
	if len(key) == 0 || len(key) > 250 {
		return false
	}
	start := true
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '/':
			if start {
				return false
			}
			start = true
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
		case c == '.':
			if start {
				return false
			}
		default:
			return false
		}
		start = false
	}
	return !start
}
