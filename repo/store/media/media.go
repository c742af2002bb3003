// Package media keeps objects on a removable disk that says who it is, records
// what was written to it, and repairs its own bad sectors while it is read.
package media

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"

	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/media/mount"
)

// Errors that callers branch on.
var (
	// ErrNotMounted: the path is a directory of the file system above it. What
	// is written there fills the wrong disk.
	ErrNotMounted = errors.New("no medium is mounted there")
	// ErrUnknown: the medium has no identity, or one that this box does not
	// believe. It is never adopted: enrolling is an act of its own.
	ErrUnknown = errors.New("unknown medium")
	// ErrCopied: the identity is that of another file system or device.
	ErrCopied = errors.New("medium is a copy")
	// ErrNotEmpty: what shall be enrolled has something on it.
	ErrNotEmpty = errors.New("medium is not empty")
)

// A Signer signs with the box's Ed25519 key.
type Signer interface {
	Public() [ed25519.PublicKeySize]byte
	Sign(message []byte) []byte
}

// Config says which medium is expected where.
type Config struct {
	// Path is where the medium is mounted.
	Path string
	// Trust checks signatures of box keys, for an incarnation of the box.
	Trust func(box [ed25519.PublicKeySize]byte, incarnation uint32, message, signature []byte) error
	// Organisation is whose the medium must be.
	Organisation [16]byte
	// Pace bounds what is written; nil: nothing does.
	Pace *store.Pace
	// Probe, if not nil, identifies the device in place of mount.Identify.
	Probe func(dir *os.File) (mount.Device, error)
	// System, if not nil, takes the calls that change the directory, as that of
	// dir.Config does.
	System dir.System
}

// A Store is a medium. As a store.Store it is read-only; what is written goes
// through a Session. It is safe for concurrent use.
type Store struct {
	files    *dir.Store
	root     *os.File // for what concerns the whole file system
	trust    func([ed25519.PublicKeySize]byte, uint32, []byte, []byte) error
	id       Identity
	problems []string // of loading
	newest   uint32   // highest session number seen, committed or not

	mu       sync.Mutex
	sessions []*session          // committed, ascending; guarded by mu
	objects  map[string]place    // committed, by key; guarded by mu
	tables   map[tableKey]*table // guarded by mu
	open     *Session            // guarded by mu
}

// A place is an object in a session.
type place struct {
	s *session
	n int
}

// The medium's own objects are of these names, twice where there is no parity
// for them. The second is a directory of its own at the top since ext4 puts
// those far from each other (Orlov's allocator).
const (
	ownPrefix  = "medium/"
	copyPrefix = "medium-copy/"
)

func own(key string) bool {
	return strings.HasPrefix(key, ownPrefix) || strings.HasPrefix(key, copyPrefix)
}

// Open opens a medium of this box for reading, and for sessions. It refuses a
// path at which nothing is mounted, and a medium that is not the one which its
// identity names.
func Open(ctx context.Context, c Config) (*Store, error) {
	s, device, err := open(ctx, c)
	if err == nil {
		err = s.id.fits(c, device)
	}
	if err != nil {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
		return nil, fmt.Errorf("open medium at %s: %w", c.Path, err)
	}
	return s, nil
}

// open loads what is at the path and identifies its device. That nothing is
// mounted goes before all else that may be wrong with what is there.
func open(ctx context.Context, c Config) (s *Store, d mount.Device, err error) {
	s, err = load(ctx, c)
	if s == nil {
		return nil, d, err
	}
	identify := c.Probe
	if identify == nil {
		identify = mount.Identify
	}
	d, perr := identify(s.root)
	switch {
	case perr != nil:
		err = perr
	case !d.Mounted:
		err = fmt.Errorf("%w: %s is on the file system of the directory above it", ErrNotMounted, c.Path)
	}
	return s, d, err
}

// Read opens whatever is at a path for reading only: a medium in a strange
// machine, mounted anywhere or copied into a directory. It believes nobody and
// need not: lists of sessions only say where damage is and how to repair it,
// and whoever reads authenticates the bytes.
func Read(ctx context.Context, path string) (*Store, error) {
	s, err := load(ctx, Config{Path: path})
	if errors.Is(err, ErrUnknown) && s != nil {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("read medium at %s: %w", path, err)
	}
	return s, nil
}

// load opens the directory and reads what it says of itself. With ErrUnknown
// it returns the Store too.
func load(ctx context.Context, c Config) (*Store, error) {
	root, err := os.OpenRoot(c.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	here, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	files, err := dir.Open(dir.Config{Path: c.Path, Root: root, Pace: c.Pace, System: c.System})
	if err != nil {
		return nil, errors.Join(err, here.Close())
	}
	s := &Store{files: files, root: here, trust: c.Trust, objects: map[string]place{}, tables: map[tableKey]*table{}}
	idErr := s.loadIdentity(ctx)
	if idErr != nil && !errors.Is(idErr, ErrUnknown) {
		return nil, errors.Join(idErr, s.Close())
	}
	if err := s.loadSessions(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, idErr
}

// Close releases the medium. An open session is lost with it, see Session.
func (s *Store) Close() error { return errors.Join(s.files.Close(), s.root.Close()) }

// Identity returns who the medium is; the zero value after Read of one that
// does not say.
func (s *Store) Identity() Identity { return s.id }

// Uses counts the sessions that were begun on the medium and left a trace, 0 at
// first. Whoever remembers it knows a medium that was set back, or one of two
// copies that both were written to, with Head.
func (s *Store) Uses() uint32 { return s.newest }

// Head is the SHA-256 of the newest session's list; zeros without one.
func (s *Store) Head() (sum [32]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.sessions); n > 0 {
		sum = s.sessions[n-1].hash
	}
	return sum
}

// Problems says what was wrong with the medium's own lists when it was opened.
func (s *Store) Problems() []string { return s.problems }

func (s *Store) find(key string) (place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.objects[key]
	return p, ok
}

// Put implements store.Store: a medium is written to in sessions only.
func (s *Store) Put(_ context.Context, key string, _ []byte, _ [32]byte) error {
	return fmt.Errorf("put %s: %w: no session is open on the medium", key, store.ErrReadOnly)
}

// Get implements store.Store. What a session recorded comes back as it was
// written, repaired if need be, or as an error.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	p, recorded := s.find(key)
	if !recorded || off < 0 {
		return s.files.Get(ctx, key, off, n)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	size := p.s.entries[p.n].Size
	if n < 0 {
		n = size - off
	}
	if off > size || n > size-off || n < 0 {
		return nil, fmt.Errorf("get %s: %w: it has %d bytes, %d from offset %d were asked for", key, store.ErrTampered, size, max(n, 0), off)
	}
	return &reader{s: s, ctx: ctx, at: p, off: off, end: off + n}, nil
}

// Stat implements store.Store. What a session recorded is there even if its
// file is not: parity may have it.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if p, ok := s.find(key); ok && ctx.Err() == nil {
		return store.Info{Key: key, Size: p.s.entries[p.n].Size}, nil
	}
	return s.files.Stat(ctx, key)
}

// List implements store.Store; the medium's own objects are left out.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		missing := s.recorded(prefix)
		next := 0
		for info, err := range s.files.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			for ; next < len(missing) && missing[next].Key < info.Key; next++ {
				if !yield(missing[next], nil) {
					return
				}
			}
			if next < len(missing) && missing[next].Key == info.Key {
				info = missing[next] // the size that it should have
				next++
			}
			if !own(info.Key) && !yield(info, nil) {
				return
			}
		}
		for ; next < len(missing) && ctx.Err() == nil; next++ {
			if !yield(missing[next], nil) {
				return
			}
		}
	}
}

// recorded returns what sessions recorded below prefix, in order.
func (s *Store) recorded(prefix string) []store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []store.Info
	for key, p := range s.objects {
		if strings.HasPrefix(key, prefix) && !own(key) {
			out = append(out, store.Info{Key: key, Size: p.s.entries[p.n].Size})
		}
	}
	slices.SortFunc(out, func(a, b store.Info) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// readOwn reads one of the medium's own objects, of at most limit bytes.
func (s *Store) readOwn(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := s.files.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err = errors.Join(err, r.Close()); err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", key, limit)
	}
	return b, err
}
