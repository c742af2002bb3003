package expire

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
	"strongroom/repo/store/storetest"
)

// memory is a store and its deleter.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memory) Put(_ context.Context, key string, body []byte, sum [32]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.m[key]; ok && !bytes.Equal(old, body) {
		return store.ErrExists
	}
	if sha256.Sum256(body) != sum {
		return errors.New("put: wrong hash")
	}
	s.m[key] = bytes.Clone(body)
	return nil
}

func (s *memory) Get(_ context.Context, key string, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.m[key]
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

func (s *memory) Stat(_ context.Context, key string) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.m[key]; ok {
		return store.Info{Key: key, Size: int64(len(b))}, nil
	}
	return store.Info{}, store.ErrNotExist
}

func (s *memory) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	s.mu.Lock()
	var found []store.Info
	for k, b := range s.m {
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

func (s *memory) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, key)
	return nil
}

// count counts the objects below a prefix.
func (s *memory) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.m {
		if strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

// removing is a deleter that goes wrong with its store.
type removing struct{ s *simStore }

func (d removing) Delete(ctx context.Context, key string) error {
	switch m := d.s.hook("delete", key); m.How {
	case storetest.Fail:
		return store.ErrUnavailable
	case storetest.Lie:
		return nil
	case storetest.FailAfter:
		d.s.mem.Delete(ctx, key)
		return store.ErrUnavailable
	}
	return d.s.mem.Delete(ctx, key)
}

// simStore is a store of the simulation: it may be ill for weeks, and besides
// one call of a step goes wrong.
type simStore struct {
	sim *sim
	mem *memory
	ill string // "", "down", "flips", "full", "denies listings"
}

func (s *simStore) hook(op storetest.Op, key string) storetest.Mishap {
	switch {
	case s.ill == "down",
		s.ill == "full" && op == storetest.OpPut,
		s.ill == "denies listings" && op == storetest.OpList:
		return storetest.Mishap{How: storetest.Fail}
	case s.ill == "flips" && op == storetest.OpGet:
		return storetest.Mishap{How: storetest.Flip}
	}
	return s.sim.step.meet()
}

// step is one step of the simulation: at its nth call something goes wrong.
type simStep struct {
	mu   sync.Mutex
	at   int // 0: all is well
	how  storetest.How
	seen int
}

func (s *simStep) meet() storetest.Mishap {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	switch {
	case s.at == 0 || s.seen < s.at:
	case s.how == cutOff:
		return storetest.Mishap{How: storetest.Fail}
	case s.seen == s.at:
		return storetest.Mishap{How: s.how}
	}
	return storetest.Mishap{}
}

// hit reports whether something went wrong in this step.
func (s *simStep) hit() bool { return s.at > 0 && s.seen >= s.at }
