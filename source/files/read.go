package files

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errFile marks an error that concerns one file and not the snapshot.
type errFile struct{ error }

// file saves a regular file, or notes that it is a further link to one saved.
func (w *walker) file(dir int, name, p string, st *unix.Stat_t) error {
	if l := w.links[inode{st.Dev, st.Ino}]; l != nil {
		return w.link(p, inode{st.Dev, st.Ino}, l)
	}
	e, err := w.read(dir, name, p, st)
	if err == nil && e.Changed {
		// Its bytes are in "data" and nothing points there; they stay.
		e, err = w.read(dir, name, p, st)
	}
	var one errFile
	if errors.As(err, &one) {
		w.fail(p, "not saved", one.error)
		return nil
	}
	if err != nil {
		return err
	}
	if e.Changed {
		w.detail.Changed++
		w.warn(fmt.Sprintf("%q: changed while it was read, twice", p))
	}
	off := w.tree.Size()
	if err := w.put(&e); err != nil {
		return err
	}
	if st.Nlink > 1 {
		w.links[inode{st.Dev, st.Ino}] = &linked{off: off, len: int(w.tree.Size() - off), left: uint64(st.Nlink) - 1}
	}
	return nil
}

// link writes the entry of a further link: that of the first with another
// path.
func (w *walker) link(p string, id inode, l *linked) error {
	b := make([]byte, l.len)
	if _, err := w.tree.ReadAt(b, l.off); err != nil {
		return fmt.Errorf("files: look up the first link of %q: %w", p, err)
	}
	e, err := parse(b)
	if err != nil {
		return fmt.Errorf("files: look up the first link of %q: %w", p, err)
	}
	if l.left--; l.left == 0 {
		delete(w.links, id)
	}
	e.Link, e.Path = e.Path, p
	return w.put(&e)
}

// tick is longer than the kernel's coarse clock, which stamps files, stands
// still (10 ms at HZ=100).
const tick = 20 * time.Millisecond

// read appends a file's data to the stream and describes it; before becomes
// what the file was when it was opened. A change is
// found by size, mtime and ctime before and after. Not found is a write
// through mmap whose page was dirty already: the kernel stamps only the first.
func (w *walker) read(dir int, name, p string, before *unix.Stat_t) (Entry, error) {
	f, err := openAt(dir, name, 0)
	if err != nil {
		return Entry{}, errFile{err}
	}
	defer f.Close()
	fd := int(f.Fd())
	var after unix.Stat_t
	if err := unix.Fstat(fd, before); err != nil {
		return Entry{}, errFile{err}
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return Entry{}, errFile{errors.New("is no regular file any more")}
	}
	// A second write in the same tick would leave the same stamp: wait until
	// the tick of the last one is over.
	if age := time.Since(time.Unix(before.Ctim.Sec, before.Ctim.Nsec)); age >= 0 && age < tick {
		time.Sleep(tick - age)
	}
	e := w.entry(p, TypeFile, before)
	e.Size, e.Data = before.Size, w.pos
	e.Xattrs = w.xattrs(fd, p)
	if before.Blocks*512 < before.Size {
		if e.Extents, err = extents(fd, before.Size); err != nil {
			return Entry{}, errFile{err}
		}
	}
	if err := w.contents(f, &e); err != nil {
		return Entry{}, err
	}
	w.src.hookRead(p)
	if err := unix.Fstat(fd, &after); err != nil {
		return Entry{}, errFile{err}
	}
	e.Changed = e.Size != after.Size || before.Size != after.Size || before.Mtim != after.Mtim || before.Ctim != after.Ctim
	return e, nil
}

// contents copies the ranges of a file and hashes them. Where the file ends
// early, the entry is cut to what was read.
func (w *walker) contents(f *os.File, e *Entry) error {
	h := newHashing()
	err := w.ranges(f, e, h)
	e.Sum = h.sum()
	return err
}

func (w *walker) ranges(f *os.File, e *Entry, h *hashing) error {
	turn := 0
	for i, x := range e.ranges() {
		for done := int64(0); done < x.Len; turn++ {
			if err := w.ctx.Err(); err != nil {
				return err
			}
			b := w.buf[turn%2][:min(bufferBytes, x.Len-done)]
			n, err := f.ReadAt(b, x.Off+done)
			done += int64(n)
			w.pos += int64(n)
			h.write(b[:n])
			if _, werr := w.out.Write(b[:n]); werr != nil {
				return werr
			}
			if err == io.EOF && done < x.Len {
				e.cut(i, done)
				return nil
			}
			if err != nil && err != io.EOF {
				return errFile{err}
			}
		}
	}
	return nil
}

// cut ends the file after done bytes of its i-th range.
func (e *Entry) cut(i int, done int64) {
	if e.Extents == nil {
		e.Size = done
		return
	}
	e.Size = e.Extents[i].Off + done
	e.Extents[i].Len = done
	if done == 0 {
		e.Extents = e.Extents[:i]
	} else {
		e.Extents = e.Extents[:i+1]
	}
}

// extents lists the ranges of data between holes. A file with more of them
// than maxExtents has its smallest holes counted as data.
func extents(fd int, size int64) ([]Extent, error) {
	all := []Extent{}
	gap := int64(4096)
	for pos := int64(0); pos < size; {
		start, err := unix.Seek(fd, pos, unix.SEEK_DATA)
		if err == unix.ENXIO || start >= size {
			break
		}
		if err == unix.EINVAL {
			return nil, nil // this file system does not tell
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		end = min(end, size)
		all = append(all, Extent{start, end - start})
		for len(all) > maxExtents && gap < math.MaxInt64/4 {
			gap *= 2
			all = merge(all, gap)
		}
		pos = end
	}
	if len(all) == 1 && all[0] == (Extent{0, size}) {
		return nil, nil
	}
	return all, nil
}

// merge joins neighbours with less than gap between them.
func merge(all []Extent, gap int64) []Extent {
	out := all[:1]
	for _, x := range all[1:] {
		last := &out[len(out)-1]
		if end := last.Off + last.Len; x.Off-end < gap {
			last.Len = x.Off + x.Len - last.Off
		} else {
			out = append(out, x)
		}
	}
	return out
}
