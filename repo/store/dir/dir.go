// Package dir keeps objects as files of one directory tree, each written,
// synced and only then given its name.
package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"strongroom/repo/store"
)

const (
	// tmpDir holds files that have no name yet. It lies in the store because
	// link(2) and rename(2) do not cross file systems.
	tmpDir    = ".tmp"
	tmpPrefix = "put-"
	tmpRandom = 16 // bytes
	// tmpAge is far above the time any Put takes, so that a leftover is never
	// confused with the file of a writer at work, in this process or another.
	tmpAge = 24 * time.Hour
)

// Config says where the store is.
type Config struct {
	// Path is an existing directory. Symbolic links in it are followed when it
	// is opened; below it none leads out.
	Path string
	// Root, if not nil, is that directory opened already; the store closes it.
	Root *os.Root
	// Now decides which leftovers of a crash are old; nil means time.Now.
	Now func() time.Time
	// Pace bounds what is written; nil: nothing does.
	Pace *store.Pace
	// Window is when the store is written to; nil: always.
	Window *store.Window
	// System, if not nil, takes the calls that change the directory: a test's
	// disk that forgets what was not synced.
	System System
}

// A System does what the functions of package os of the same names do.
type System interface {
	// Create makes a new file below root, open for writing.
	Create(root *os.Root, name string) (*os.File, error)
	Write(f *os.File, b []byte) (int, error)
	// Sync syncs a file, or a directory below root.
	Sync(f *os.File) error
	Mkdir(root *os.Root, name string, mode os.FileMode) error
	Link(root *os.Root, from, to string) error
	Remove(root *os.Root, name string) error
}

// A Store keeps objects below one directory. It is safe for concurrent use,
// by several processes too. The kernel offers no way to give up on a file
// system that hangs: ctx is looked at between system calls only.
type Store struct {
	path   string
	root   *os.Root
	ops    ops
	pace   *store.Pace
	window *store.Window

	mu sync.Mutex
	// synced holds the directories whose own entry this process has synced
	// into their parent. Guarded by mu.
	synced map[string]bool
	// lost is set for good when syncing a directory failed. Guarded by mu.
	lost error
}

// ops are the steps that change the directory; tests make them fail.
type ops struct {
	create   func(root *os.Root, name string) (*os.File, error)
	write    func(*os.File, []byte) (int, error)
	syncFile func(*os.File) error
	syncDir  func(*os.File) error
	mkdir    func(root *os.Root, name string, mode os.FileMode) error
	link     func(root *os.Root, from, to string) error
	remove   func(root *os.Root, name string) error
}

// kernel are the real ones.
var kernel = ops{
	create: func(root *os.Root, name string) (*os.File, error) {
		return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	},
	write:    (*os.File).Write,
	syncFile: (*os.File).Sync,
	syncDir:  (*os.File).Sync,
	mkdir:    (*os.Root).Mkdir,
	link:     publish,
	remove:   (*os.Root).Remove,
}

// Open opens the store at c.Path, which must exist: a store that is made on
// the fly is how backups end up in the empty mount point of an absent disk.
func Open(c Config) (*Store, error) {
	root, err := c.Root, error(nil)
	if root == nil {
		root, err = os.OpenRoot(c.Path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open store %s: %w: no such directory; mount it, or create it with: mkdir %s",
			c.Path, store.ErrUnavailable, c.Path)
	case err != nil:
		return nil, fmt.Errorf("open store %s: %w", c.Path, classify(err))
	}
	s := &Store{
		path:   c.Path,
		root:   root,
		synced: make(map[string]bool),
		ops:    kernel,
		pace:   c.Pace,
		window: c.Window,
	}
	if y := c.System; y != nil {
		s.ops = ops{create: y.Create, write: y.Write, syncFile: y.Sync, syncDir: y.Sync, mkdir: y.Mkdir, link: y.Link, remove: y.Remove}
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if err := s.removeLeftovers(now().Add(-tmpAge)); err != nil {
		root.Close()
		return nil, fmt.Errorf("open store %s: remove leftovers of a crash: %w", c.Path, err)
	}
	return s, nil
}

// Close releases the directory. Readers that Get returned stay usable.
func (s *Store) Close() error { return s.root.Close() }

// removeLeftovers removes temporary files that a crash left behind: regular
// files of exactly our name pattern, last written before limit. A store that
// cannot be written is still good for reading, so that is no error.
func (s *Store) removeLeftovers(limit time.Time) error {
	info, err := s.root.Lstat(tmpDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	entries, err := s.readDir(tmpDir)
	if err != nil {
		return ignoreUnwritable(err)
	}
	for _, e := range entries {
		if !isTmpName(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.ModTime().Before(limit) {
			continue
		}
		// A crash between link and remove leaves a second name of a published
		// object here; removing this one does not touch the other.
		if err := s.ops.remove(s.root, tmpDir+"/"+e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ignoreUnwritable(err)
		}
	}
	return nil
}

func isTmpName(name string) bool {
	random, ok := strings.CutPrefix(name, tmpPrefix)
	if !ok || len(random) != 2*tmpRandom {
		return false
	}
	_, err := hex.DecodeString(random)
	return err == nil
}

func ignoreUnwritable(err error) error {
	err = classify(err)
	if errors.Is(err, store.ErrReadOnly) || errors.Is(err, store.ErrDenied) {
		return nil
	}
	return err
}

// Probe implements store.Prober.
func (s *Store) Probe(ctx context.Context) (store.Report, error) {
	r := store.Report{CreateOnly: store.CreateUnknown}
	fail := func(err error) (store.Report, error) {
		return r, fmt.Errorf("probe %s: %w", s.path, err)
	}
	if err := s.present(); err != nil {
		return fail(err)
	}
	r.Reachable = true
	for _, err := range s.List(ctx, "") {
		if err != nil {
			return fail(err)
		}
		break
	}
	r.Listable = true
	body := []byte("strongroom probe\n")
	sum := sha256.Sum256(body)
	if err := s.put(ctx, store.ProbeKey, body, sum); err != nil {
		return fail(err)
	}
	r.Writable = true
	// The name exists now, so publishing over it has to fail.
	err := s.overwriteProbe(ctx)
	if !errors.Is(err, fs.ErrExist) {
		if err == nil {
			r.CreateOnly = store.CreateIgnored
			err = errors.New("the file system replaces existing names")
		}
		return fail(err)
	}
	r.CreateOnly = store.CreateNative
	if _, err := s.sameContent(store.ProbeKey, int64(len(body)), sum); err != nil {
		return fail(err)
	}
	r.Readable = true
	return r, nil
}

// classify adds the store's own error to those of the system that callers
// branch on.
func classify(err error) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), isErrno(err, syscall.ENOTDIR):
		kind = store.ErrNotExist
	case isErrno(err, syscall.ENOSPC, syscall.EDQUOT):
		kind = store.ErrFull
	case isErrno(err, syscall.EROFS):
		kind = store.ErrReadOnly
	case errors.Is(err, fs.ErrPermission):
		kind = store.ErrDenied
	case isErrno(err, syscall.ESTALE, syscall.ENOTCONN, syscall.ENODEV, syscall.ENXIO,
		syscall.EHOSTDOWN, syscall.ETIMEDOUT):
		// What network and FUSE mounts answer when the other end is gone.
		kind = store.ErrUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func isErrno(err error, list ...syscall.Errno) bool {
	for _, e := range list {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// present tells a missing object from a missing store: below a directory that
// was removed every name gives ENOENT and every listing is empty.
func (s *Store) present() error {
	info, err := s.root.Stat(".")
	if err != nil {
		return classify(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink == 0 {
		return fmt.Errorf("%w: directory %s was removed", store.ErrUnavailable, s.path)
	}
	return nil
}

// absent turns ENOENT into ErrNotExist, but only while the store is there.
func (s *Store) absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || isErrno(err, syscall.ENOTDIR) {
		if gone := s.present(); gone != nil {
			return gone
		}
	}
	return classify(err)
}
