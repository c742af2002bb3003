package repo

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// spillAt is how many bytes of extents a stream keeps in memory.
const spillAt = 32 << 10

// A spillFile holds the extents of streams until they become the snapshot's
// list: memory does not grow with the database. It has no name, so that nothing
// is left of it.
type spillFile struct {
	mu sync.Mutex
	f  *os.File
	at int64 // guarded by mu
}

func newSpillFile(dir string) (*spillFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, "extents.new"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &spillFile{f: f}, os.Remove(f.Name())
}

func (s *spillFile) append(b []byte) (at int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at = s.at
	_, err = s.f.WriteAt(b, at)
	s.at += int64(len(b))
	return at, err
}

// An extentSpill is the extents of one stream.
type extentSpill struct {
	file  *spillFile
	n     int64 // extents so far
	last  Extent
	buf   []byte // encoded, without last
	parts []spillPart
}

type spillPart struct{ at, n int64 }

// add appends extents, joined where they go on.
func (x *extentSpill) add(list []Extent) error {
	for _, e := range list {
		l := &x.last
		if l.Length > 0 && l.Block == e.Block && l.Offset+l.Length == e.Offset {
			l.Length += e.Length
			continue
		}
		if l.Length > 0 {
			x.buf = l.append(x.buf)
		}
		x.n++
		*l = e
	}
	if len(x.buf) < spillAt {
		return nil
	}
	at, err := x.file.append(x.buf)
	x.parts = append(x.parts, spillPart{at, int64(len(x.buf))})
	x.buf = x.buf[:0]
	return err
}

// reader reads the list. Nothing is added after it.
func (x *extentSpill) reader() io.Reader {
	var rs []io.Reader
	for _, p := range x.parts {
		rs = append(rs, io.NewSectionReader(x.file.f, p.at, p.n))
	}
	tail := x.buf
	if x.last.Length > 0 {
		tail = x.last.append(tail)
	}
	return io.MultiReader(append(rs, bytes.NewReader(tail))...)
}
