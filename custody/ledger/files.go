package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A System does what must survive a power cut. It is the kernel, except where
// a test cuts the power. (*storetest.Disk is one.)
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

type kernel struct{}

func (kernel) Create(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
func (kernel) Write(f *os.File, b []byte) (int, error) { return f.Write(b) }
func (kernel) Sync(f *os.File) error                   { return f.Sync() }
func (kernel) Mkdir(root *os.Root, name string, mode os.FileMode) error {
	return root.Mkdir(name, mode)
}
func (kernel) Link(root *os.Root, from, to string) error { return root.Link(from, to) }
func (kernel) Remove(root *os.Root, name string) error   { return root.Remove(name) }

// files are those of a ledger's directory.
type files struct {
	root *os.Root
	sys  System
}

const temporary = ".tmp-" // what a crash may leave, and nothing reads

// read returns a whole file of at most limit bytes.
func (f files) read(name string, limit int64) ([]byte, error) {
	in, err := f.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, limit)
	}
	return b, nil
}

// publish makes a file that is there whole or not at all, and durable when the
// call returns. One of that name with the same content is as good; with
// another, it is an error.
func (f files) publish(name string, b []byte) (err error) {
	have, err := f.read(name, int64(len(b)))
	if err == nil && bytes.Equal(have, b) {
		return f.syncDir(path.Dir(name)) // a crash may have come before that
	} else if !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s: %w: it is there with other content", name, ErrTampered))
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	tmp := name + temporary + hex.EncodeToString(random[:])
	out, err := f.sys.Create(f.root, tmp)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() { _ = f.sys.Remove(f.root, tmp) }() // or sweep does
	n, err := f.sys.Write(out, b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = f.sys.Sync(out)
	}
	// The name appears only over synced bytes.
	if err = errors.Join(err, out.Close()); err == nil {
		err = f.sys.Link(f.root, tmp, name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.syncDir(path.Dir(name))
}

func (f files) syncDir(name string) error {
	d, err := f.root.Open(name)
	if err != nil {
		return err
	}
	err = f.sys.Sync(d)
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w: %w", name, errUnsure, err)
	}
	return nil
}

// mkdirAll makes a directory and those above it, durably.
func (f files) mkdirAll(name string) error {
	if name == "." {
		return nil
	}
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	if err := f.sys.Mkdir(f.root, name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", name, err)
	}
	// Also when it was there: a crash may have come between the two.
	return f.syncDir(path.Dir(name))
}

// names lists a directory, without what a crash left.
func (f files) names(dir string) ([]string, error) {
	list, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range list {
		if !strings.Contains(e.Name(), temporary) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// sweep removes what a crash left of publish, where it can.
func (f files) sweep(dir string) {
	list, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil {
		return
	}
	for _, e := range list {
		if strings.Contains(e.Name(), temporary) {
			_ = f.sys.Remove(f.root, path.Join(dir, e.Name())) // or the next time
		}
	}
}
