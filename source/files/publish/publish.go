// Package publish writes one file beside its place and moves it there when it
// is whole.
package publish

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrExists: something is at the path already and was not touched.
var ErrExists = errors.New("exists already")

// A File is being written under a temporary name in the directory of its
// place. Until Commit nobody can take it for whole; after a crash the
// temporary file `.strongroom-*` is what is left.
type File struct {
	*os.File
	path    string
	replace bool
	ended   bool
	written int64
	back    Writeback
}

// Write appends.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.written += int64(n)
	f.back.Wrote(f.File, f.written)
	return n, err
}

// ReadFrom hides that of os.File, which would go round Write.
func (f *File) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, 1<<20))
}

// A Writeback has the kernel begin to write a file while it grows: the flush at
// the end then waits for the last of it alone. It is a hint and has no errors;
// those of the disk show at the flush.
type Writeback struct{ from int64 }

// writebackBytes are handed to the disk at a time.
const writebackBytes = 8 << 20

// Wrote says that f has bytes up to to, written in ascending order.
func (w *Writeback) Wrote(f *os.File, to int64) {
	if to-w.from >= writebackBytes {
		_ = unix.SyncFileRange(int(f.Fd()), w.from, to-w.from, unix.SYNC_FILE_RANGE_WRITE)
		w.from = to
	}
}

// Create starts a file that will stand at path. A file that is there already
// is ErrExists, unless replace is set: then the new one takes over its owner
// and mode. Anything but a regular file is refused. A new file has mode 0600.
func Create(path string, replace bool) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	old, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return nil, err
	case !old.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w and is no regular file: it is not replaced", path, ErrExists)
	case !replace:
		return nil, fmt.Errorf("%s: %w", path, ErrExists)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".strongroom-*")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("directory %s: %w", filepath.Dir(path), fs.ErrNotExist)
	} else if err != nil {
		return nil, err
	}
	f := &File{File: tmp, path: path, replace: replace}
	if old != nil {
		if err := f.likeOld(old); err != nil {
			f.Discard()
			return nil, err
		}
	}
	return f, nil
}

// likeOld gives the new file the owner and mode of the one it replaces, so
// that the program that used the old one can use the new one.
func (f *File) likeOld(old os.FileInfo) error {
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.path, err)
	}
	if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return fmt.Errorf("keep the owner of %s: %w", f.path, err)
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// Commit makes the file durable and moves it to its place. On an error the
// temporary file is gone; only if the last fsync of the directory failed may
// the new file stand at its place.
func (f *File) Commit() error {
	if f.ended {
		return fmt.Errorf("%s: was committed or discarded before", f.path)
	}
	defer f.Discard()
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.move(); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(f.path))
}

func (f *File) move() error {
	if f.replace {
		return os.Rename(f.Name(), f.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w", f.path, ErrExists)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		// File systems without RENAME_NOREPLACE (NFS): link(2) does not
		// replace either. The temporary name goes with Discard.
		if err := os.Link(f.Name(), f.path); err != nil {
			return err
		}
		return nil
	}
	return fmt.Errorf("rename to %s: %w", f.path, err)
}

// Discard closes the file and removes it if it was not committed. It may be
// called at any time and more than once.
func (f *File) Discard() {
	if f.ended {
		return
	}
	f.ended = true
	f.Close()
	os.Remove(f.Name())
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
