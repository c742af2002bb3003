package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if !store.ValidKey(key) {
		return nil, fmt.Errorf("get %q: invalid key", key)
	}
	if off < 0 {
		return nil, fmt.Errorf("get %s: negative offset %d", key, off)
	}
	f, info, err := s.openRegular(key)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", key, err)
	}
	size := info.Size()
	if n < 0 {
		n = size - off
	}
	if off > size || n > size-off {
		f.Close()
		return nil, fmt.Errorf("get %s: %w: it has %d bytes, %d from offset %d were asked for",
			key, store.ErrTampered, size, max(n, 0), off)
	}
	if _, err := f.Seek(off, io.SeekStart); err != nil {
		f.Close()
		return nil, fmt.Errorf("get %s: %w", key, classify(err))
	}
	return &reader{ctx: ctx, key: key, f: f, left: n}, nil
}

// reader gives exactly left bytes of f.
type reader struct {
	ctx  context.Context
	key  string
	f    *os.File
	left int64
}

func (r *reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.key, err)
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case err == io.EOF:
		// Shortened since it was opened.
		return n, fmt.Errorf("read %s: %w: %d bytes are missing", r.key, store.ErrTampered, r.left)
	case err != nil:
		return n, fmt.Errorf("read %s: %w", r.key, classify(err))
	}
	return n, nil
}

func (r *reader) Close() error { return r.f.Close() }

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if !store.ValidKey(key) {
		return store.Info{}, fmt.Errorf("stat %q: invalid key", key)
	}
	if err := ctx.Err(); err != nil {
		return store.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	info, err := s.root.Lstat(key)
	if err == nil {
		err = mustBeRegular(info)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %s: %w", key, s.absent(err))
	}
	return store.Info{Key: key, Size: info.Size()}, nil
}

// DropCache makes the next reading of an object come from the disk: of pages
// that are synced the kernel forgets its copy.
func (s *Store) DropCache(key string) error {
	f, _, err := s.openRegular(key)
	if err != nil {
		return fmt.Errorf("drop cache of %s: %w", key, err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cache of %s: %w", key, classify(err))
	}
	return nil
}

// openRegular opens the file of one object. It must be a plain file under its
// own name: a link would make one object stand for another, a FIFO would hang
// the reader (hence O_NONBLOCK, which plain files ignore).
func (s *Store) openRegular(key string) (*os.File, fs.FileInfo, error) {
	named, err := s.root.Lstat(key)
	if err == nil {
		err = mustBeRegular(named)
	}
	if err != nil {
		return nil, nil, s.absent(err)
	}
	f, err := s.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, s.absent(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = mustBeRegular(info)
	}
	if err != nil {
		f.Close()
		return nil, nil, classify(err)
	}
	return f, info, nil
}

func mustBeRegular(info fs.FileInfo) error {
	if info.IsDir() {
		return fs.ErrNotExist // "a" is not an object where "a/b" is one
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is no regular file but %s", store.ErrTampered, info.Name(), info.Mode().Type())
	}
	return nil
}

// List implements store.Store. Names that are no ValidKey are yielded too, so
// that a foreign directory can be told from an empty one; names beginning
// with a dot (our temporary files, a NAS's snapshots) and a file system's
// lost+found are no objects and are left out.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		w := walker{s: s, ctx: ctx, prefix: prefix, yield: yield}
		err := w.walk("")
		if err == nil {
			// A directory removed under us looks empty.
			err = s.present()
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(store.Info{}, fmt.Errorf("list %q: %w", prefix, err))
		}
	}
}

var errStopped = errors.New("the caller stopped the listing")

// walker yields the objects with a prefix in the order of their whole keys.
type walker struct {
	s      *Store
	ctx    context.Context
	prefix string
	yield  func(store.Info, error) bool
}

// walk lists below dir, which is "" or ends with a slash.
func (w *walker) walk(dir string) error {
	entries, err := w.s.readDir(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		return nil // removed since its name was read: nothing is in it
	}
	if err != nil {
		return w.s.absent(err)
	}
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.visit(dir, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) visit(dir string, e fs.DirEntry) error {
	name := dir + e.Name()
	if strings.HasPrefix(e.Name(), ".") || name == "lost+found" {
		return nil
	}
	if e.IsDir() {
		name += "/"
		if strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name) {
			return w.walk(name)
		}
		return nil
	}
	if !strings.HasPrefix(name, w.prefix) {
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return classify(err)
	}
	// A link may hide objects behind it: such a listing is not complete.
	if err := mustBeRegular(info); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !w.yield(store.Info{Key: name, Size: info.Size()}, nil) {
		return errStopped
	}
	return nil
}

// readDir returns the entries of dir in the order of the keys below them: a
// directory sorts as if its slash were part of the name, so "a-b" and "a.b"
// come before "a/b" and "a0" after it.
func (s *Store) readDir(dir string) ([]fs.DirEntry, error) {
	f, err := s.root.Open("./" + dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	sortName := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	return entries, nil
}
