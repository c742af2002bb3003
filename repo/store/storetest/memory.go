package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"strongroom/repo/store"
)

// A Memory is a store in memory, and its deleter. Objects may be looked at and
// changed while nothing else uses it.
type Memory struct {
	mu      sync.Mutex
	Objects map[string][]byte // guarded by mu in the methods
}

// NewMemory returns an empty one.
func NewMemory() *Memory { return &Memory{Objects: map[string][]byte{}} }

// Put stores an object as the contract says.
func (s *Memory) Put(_ context.Context, key string, body []byte, sum [32]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.Objects[key]; ok && !bytes.Equal(old, body) {
		return store.ErrExists
	}
	if sha256.Sum256(body) != sum {
		return errors.New("put: wrong hash")
	}
	s.Objects[key] = bytes.Clone(body)
	return nil
}

// Get reads a range.
func (s *Memory) Get(_ context.Context, key string, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.Objects[key]
	if !ok {
		return nil, store.ErrNotExist
	}
	if n < 0 {
		n = int64(len(b)) - off
	}
	if off < 0 || n < 0 || off+n > int64(len(b)) {
		return nil, store.ErrTampered
	}
	return io.NopCloser(bytes.NewReader(b[off : off+n])), nil
}

// Stat tells an object's size.
func (s *Memory) Stat(_ context.Context, key string) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.Objects[key]; ok {
		return store.Info{Key: key, Size: int64(len(b))}, nil
	}
	return store.Info{}, store.ErrNotExist
}

// List lists what was there when it was called.
func (s *Memory) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	s.mu.Lock()
	var found []store.Info
	for k, b := range s.Objects {
		if strings.HasPrefix(k, prefix) {
			found = append(found, store.Info{Key: k, Size: int64(len(b))})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b store.Info) int { return strings.Compare(a.Key, b.Key) })
	return func(yield func(store.Info, error) bool) {
		for _, i := range found {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// Delete removes an object.
func (s *Memory) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.Objects, key)
	return nil
}
