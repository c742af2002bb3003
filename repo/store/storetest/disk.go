package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Power feeds disks, and is cut at one of their operations.
type Power struct {
	mu   sync.Mutex
	at   int  // the operation at which it is cut, from 1; 0: never
	done bool // that operation is done, unsynced like all before it
	seen int  // operations so far
	off  bool
}

// CutAt cuts the power at the nth operation from now on, before it is done or
// when it was; nobody hears of that one, and all after it fail.
func (p *Power) CutAt(nth int, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.done, p.seen = nth, done, 0
}

// Seen returns how many operations there were.
func (p *Power) Seen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Off reports whether the power was cut.
func (p *Power) Off() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}

// ErrNoPower is what a disk without power answers.
var ErrNoPower = fmt.Errorf("the power was cut: %w", syscall.EIO)

// draw does an operation if there is power for it.
func (p *Power) draw(op func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return ErrNoPower
	}
	if p.seen++; p.seen != p.at {
		return op()
	}
	p.off = true
	if p.done {
		op()
	}
	return ErrNoPower
}

// A Disk is a directory that forgets at a power cut what was not synced: of a
// file what came after its last fsync, of a directory each name that changed
// since its own. It assumes no more than POSIX promises. It serves as the
// System of a directory store.
type Disk struct {
	path  string
	power *Power

	// What follows is guarded by power.mu.
	files   map[uint64]*diskFile // by inode
	folders map[string]*folder   // by path below the disk's
}

type diskFile struct {
	now, synced []byte
}

// A folder's names lead to a file, or to nil: a folder.
type folder struct {
	now, synced map[string]*diskFile
}

// NewDisk returns a disk of what path holds, all of it synced.
func NewDisk(path string, power *Power) (*Disk, error) {
	d := &Disk{path: path, power: power, files: map[uint64]*diskFile{}, folders: map[string]*folder{}}
	return d, filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := d.rel(name)
		var f *diskFile
		if e.IsDir() {
			d.folders[rel] = &folder{map[string]*diskFile{}, map[string]*diskFile{}}
		} else if f, err = d.load(name); err != nil {
			return err
		}
		if rel != "." {
			in := d.folders[filepath.Dir(rel)]
			in.now[filepath.Base(rel)], in.synced[filepath.Base(rel)] = f, f
		}
		return nil
	})
}

func (d *Disk) rel(name string) string {
	rel, err := filepath.Rel(d.path, name)
	if err != nil {
		panic(err)
	}
	return rel
}

func (d *Disk) load(name string) (*diskFile, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	f := &diskFile{b, b}
	d.files[inode(info)] = f
	return f, nil
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func (d *Disk) fileOf(f *os.File) (*diskFile, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if n := d.files[inode(info)]; n != nil {
		return n, nil
	}
	return nil, errors.New("a file that this disk does not know")
}

// name finds the folder of a name.
func (d *Disk) name(name string) (in *folder, base string, err error) {
	if in = d.folders[filepath.Dir(name)]; in == nil {
		return nil, "", &fs.PathError{Op: "name", Path: name, Err: fs.ErrNotExist}
	}
	return in, filepath.Base(name), nil
}

// Create implements dir.System.
func (d *Disk) Create(root *os.Root, name string) (f *os.File, err error) {
	err = d.power.draw(func() error {
		in, base, err := d.name(name)
		if err != nil {
			return err
		}
		if f, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		node := &diskFile{}
		d.files[inode(info)], in.now[base] = node, node
		return nil
	})
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// Write implements dir.System.
func (d *Disk) Write(f *os.File, b []byte) (n int, err error) {
	err = d.power.draw(func() error {
		node, err := d.fileOf(f)
		if err == nil {
			n, err = f.Write(b)
			node.now = append(slices.Clip(node.now), b[:n]...)
		}
		return err
	})
	return n, err
}

// Sync implements dir.System.
func (d *Disk) Sync(f *os.File) error {
	return d.power.draw(func() error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.IsDir() {
			node, err := d.fileOf(f)
			if err == nil {
				node.synced = node.now
			}
			return err
		}
		rel := d.rel(filepath.Clean(f.Name()))
		in := d.folders[rel]
		d.refresh(rel, in)
		in.synced = map[string]*diskFile{}
		for k, v := range in.now {
			in.synced[k] = v
		}
		return nil
	})
}

// refresh drops names that were removed past the disk, as a spool does.
func (d *Disk) refresh(rel string, in *folder) {
	for name := range in.now {
		if _, err := os.Lstat(filepath.Join(d.path, rel, name)); err != nil {
			delete(in.now, name)
		}
	}
}

// Mkdir implements dir.System.
func (d *Disk) Mkdir(root *os.Root, name string, mode os.FileMode) error {
	return d.power.draw(func() error {
		in, base, err := d.name(name)
		if err == nil {
			err = root.Mkdir(name, mode)
		}
		if err == nil {
			in.now[base] = nil
			d.folders[name] = &folder{map[string]*diskFile{}, map[string]*diskFile{}}
		}
		return err
	})
}

// Link implements dir.System.
func (d *Disk) Link(root *os.Root, from, to string) error {
	return d.power.draw(func() error {
		old, oldBase, err1 := d.name(from)
		in, base, err2 := d.name(to)
		err := errors.Join(err1, err2)
		if err == nil {
			err = root.Link(from, to)
		}
		if err == nil {
			in.now[base] = old.now[oldBase]
		}
		return err
	})
}

// Remove implements dir.System.
func (d *Disk) Remove(root *os.Root, name string) error {
	return d.power.draw(func() error {
		in, base, err := d.name(name)
		if err == nil {
			err = root.Remove(name)
		}
		if err == nil {
			delete(in.now, base)
		}
		return err
	})
}

// Survive writes what is left after the cut to an empty directory. Chance
// decides what became of all that was not synced: each name that changed is as
// before or as after, whatever became of the others, and a file that was not
// synced is as before, torn, of zeros, of rubbish, or whole.
func (d *Disk) Survive(to string, chance *rand.Rand) error {
	d.power.mu.Lock()
	defer d.power.mu.Unlock()
	bias := []int{0, 5, 10}[chance.IntN(3)] // nothing, half or all of it got through
	left := map[*diskFile][]byte{}
	var write func(rel string) error
	write = func(rel string) error {
		in := d.folders[rel]
		d.refresh(rel, in)
		for _, name := range names(in) {
			was, wasThere := in.synced[name]
			node, there := in.now[name]
			if wasThere != there || was != node {
				if chance.IntN(10) >= bias {
					node, there = was, wasThere
				}
			}
			path := filepath.Join(rel, name)
			if !there {
				continue
			}
			if node == nil {
				if err := os.Mkdir(filepath.Join(to, path), 0o755); err != nil {
					return err
				}
				if err := write(path); err != nil {
					return err
				}
				continue
			}
			if _, known := left[node]; !known {
				left[node] = node.survive(chance)
			}
			if err := os.WriteFile(filepath.Join(to, path), left[node], 0o444); err != nil {
				return err
			}
		}
		return nil
	}
	return write(".")
}

func names(in *folder) (out []string) {
	for n := range in.now {
		out = append(out, n)
	}
	for n := range in.synced {
		out = append(out, n)
	}
	slices.SortFunc(out, strings.Compare)
	return slices.Compact(out)
}

func (f *diskFile) survive(chance *rand.Rand) []byte {
	n := len(f.synced)
	if len(f.now) == n { // files only grow
		return f.now
	}
	part := n + chance.IntN(len(f.now)-n+1)
	switch chance.IntN(5) {
	case 0: // none of it
		return f.synced
	case 1: // torn
		return f.now[:part]
	case 2: // the length came first, and some of the blocks
		return append(bytes.Clone(f.now[:part]), make([]byte, len(f.now)-part)...)
	case 3: // what the blocks held before
		b := bytes.Clone(f.now)
		for i := part; i < len(b); i++ {
			b[i] = byte(chance.Uint32())
		}
		return b
	}
	return f.now
}
