package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/dir"
)

// A Spool keeps, fsynced on the box, the objects that a store could not take
// yet: encrypted shards, and manifests on their way. It counts as a fault
// domain of its own. One process writes to it, the one with the dataset's lock.
type Spool struct {
	store.Store
	path  string
	limit int64

	mu   sync.Mutex
	held int64 // bytes in it, or more; guarded by mu
}

// ErrSpoolFull: more would wait on the box than may.
var ErrSpoolFull = errors.New("the spool is full")

// OpenSpool opens the spool at path, making it if need be. It takes limit
// bytes of shards; 0 is no limit.
func OpenSpool(path string, limit int64) (*Spool, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	d, err := dir.Open(dir.Config{Path: path})
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{Store: d, path: path, limit: limit, held: limit + 1} // counted when it matters
	return s, nil
}

// Put keeps an object. A shard beyond the limit is refused with ErrSpoolFull,
// and with it its snapshot: nothing that waits is given up for another. A
// manifest is always taken: it is small, and everything it lists is safe.
func (s *Spool) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if s.limit > 0 && shardIndex(key) >= 0 {
		if err := s.reserve(ctx, int64(len(body))); err != nil {
			return err
		}
	}
	return s.Store.Put(ctx, key, body, sum)
}

// reserve counts n bytes more. What was removed since, and what came twice,
// makes the count too high: at the limit it is made anew.
func (s *Spool) reserve(ctx context.Context, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held+n > s.limit {
		objects, err := s.keys(ctx, "")
		if err != nil {
			return err
		}
		s.held = 0
		for _, o := range objects {
			s.held += o.Size
		}
		if s.held+n > s.limit {
			return fmt.Errorf("%w: %d MiB wait in it for stores that are away, of %d MiB that may", ErrSpoolFull, s.held>>20, s.limit>>20)
		}
	}
	s.held += n
	return nil
}

// Remove removes an object that its store has confirmed, or that was given up.
// Its directory stays: the store inside may have synced it and count on it.
func (s *Spool) Remove(key string) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("spool: bad key %q", key)
	}
	name := filepath.Join(s.path, filepath.FromSlash(key))
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// Forget removes the directory of a generation that is gone, if it is empty:
// nothing of it will ever wait again, and a listing looks into every directory.
func (s *Spool) Forget(tenant, generation ID) error {
	err := os.Remove(filepath.Join(s.path, tenant.String(), generation.String()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// oldestFirst lists the objects under prefix in the order in which they came:
// what has waited longest is what a snapshot needs that was committed longest
// ago. It goes by the files' times, which a copy of the state directory may
// have lost; then only the order is.
func (s *Spool) oldestFirst(ctx context.Context, prefix string) ([]store.Info, error) {
	objects, err := s.keys(ctx, prefix)
	if err != nil {
		return nil, err
	}
	came := make(map[string]time.Time, len(objects))
	for _, o := range objects {
		if info, err := os.Stat(filepath.Join(s.path, filepath.FromSlash(o.Key))); err == nil {
			came[o.Key] = info.ModTime()
		}
	}
	slices.SortStableFunc(objects, func(a, b store.Info) int { return came[a.Key].Compare(came[b.Key]) })
	return objects, nil
}

// read returns a whole object.
func readObject(ctx context.Context, s store.Store, key string, size int64) ([]byte, error) {
	rc, err := s.Get(ctx, key, 0, size)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(rc, b)
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	return b, nil
}

// keys lists the objects under prefix.
func (s *Spool) keys(ctx context.Context, prefix string) ([]store.Info, error) {
	var out []store.Info
	for info, err := range s.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		out = append(out, info)
	}
	return out, nil
}

// shardIndex returns the index in a shard's key, or -1.
func shardIndex(key string) int {
	name := key[strings.LastIndexByte(key, '/')+1:]
	f := strings.Split(name, "-")
	if len(f) != 5 || f[0] != "s" {
		return -1
	}
	var i int
	if _, err := fmt.Sscanf(f[3], "%02x", &i); err != nil || i < 0 {
		return -1
	}
	return i
}
