package objectlock

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// bookMagic begins a book: records of 24 bytes in ascending order of their ids,
// and the SHA-256 of all before.
const (
	bookMagic = "SRLOCKS1"
	recordLen = 16 + 8
	// maxRecords bounds it at 24 MiB; of more, any are forgotten and asked again.
	maxRecords = 1 << 20
)

// recordID names an object on a store: the front of SHA-256 of both names.
type recordID [16]byte

func recordOf(store, key string) recordID {
	sum := sha256.Sum256([]byte(store + "\x00" + key))
	return recordID(sum[:16])
}

// A Book is what is known of how long objects are locked: what was set, and
// what stores said when they were asked. It may be lost, then they are asked
// again. It is safe for concurrent use.
type Book struct {
	mu sync.Mutex
	m  map[recordID]int64 // seconds since 1970, 0: not locked; guarded by mu
}

// NewBook returns an empty one.
func NewBook() *Book { return &Book{m: map[recordID]int64{}} }

func (b *Book) until(store, key string) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, known := b.m[recordOf(store, key)]
	if s == 0 {
		return time.Time{}, known
	}
	return time.Unix(s, 0).UTC(), known
}

func (b *Book) set(store, key string, until time.Time) {
	s := int64(0)
	if !until.IsZero() {
		s = max(until.Unix(), 0)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.m[recordOf(store, key)] = s
}

func (b *Book) forget(store, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.m, recordOf(store, key))
}

// Format returns the book as a file, without the locks that are over.
func (b *Book) Format(now time.Time) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := make([]recordID, 0, len(b.m))
	for id, s := range b.m {
		if s > now.Unix() && len(ids) < maxRecords {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(x, y recordID) int { return bytes.Compare(x[:], y[:]) })
	out := append(make([]byte, 0, len(bookMagic)+len(ids)*recordLen+sha256.Size), bookMagic...)
	for _, id := range ids {
		out = binary.BigEndian.AppendUint64(append(out, id[:]...), uint64(b.m[id]))
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// ParseBook reads what Format wrote.
func ParseBook(raw []byte) (*Book, error) {
	body := len(raw) - len(bookMagic) - sha256.Size
	if body < 0 || body%recordLen != 0 || body/recordLen > maxRecords || string(raw[:len(bookMagic)]) != bookMagic {
		return nil, fmt.Errorf("%d bytes are no book of locks", len(raw))
	}
	end := len(raw) - sha256.Size
	if sum := sha256.Sum256(raw[:end]); !bytes.Equal(sum[:], raw[end:]) {
		return nil, errors.New("book of locks: wrong checksum")
	}
	b, last := NewBook(), []byte(nil)
	for r := raw[len(bookMagic):end]; len(r) > 0; r = r[recordLen:] {
		s := binary.BigEndian.Uint64(r[16:])
		if s == 0 || s > 1<<40 || bytes.Compare(last, r[:16]) >= 0 {
			return nil, errors.New("book of locks: bad record")
		}
		b.m[recordID(r[:16])] = int64(s)
		last = r[:16]
	}
	return b, nil
}
