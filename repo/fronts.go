package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// The chunks of a snapshot map are found by the fronts of their ids: sorted in
// a file of its own and read by pread, so that memory does not grow with the
// database.

const (
	frontRecord = 16 // front of the id 8, place 8: piece 4, chunk in it 4
	fenceEvery  = 128
	// frontRun entries are sorted in memory at a time: 4 MiB.
	frontRun = 1 << 18
)

// A frontSorter collects fronts and sorts them at the end.
type frontSorter struct {
	dir, name string
	run       int // entries sorted in memory at a time
	f         *os.File
	w         *bufio.Writer
	n         int64
	err       error
}

func newFrontSorter(dir, name string) (*frontSorter, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".fronts"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &frontSorter{dir: dir, name: name, run: frontRun, f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (s *frontSorter) add(front, place uint64) {
	var b [frontRecord]byte
	binary.BigEndian.PutUint64(b[:], front)
	binary.BigEndian.PutUint64(b[8:], place)
	if _, err := s.w.Write(b[:]); err != nil && s.err == nil {
		s.err = err
	}
	s.n++
}

func (s *frontSorter) close() { s.f.Close() }

// finish sorts into the final file, which is synced, and removes the others.
func (s *frontSorter) finish() error {
	err := errors.Join(s.err, s.w.Flush())
	if err == nil {
		err = s.sort()
	}
	return errors.Join(err, s.f.Close(), os.Remove(s.f.Name()))
}

// sort writes the sorted file: runs of s.run records, merged.
func (s *frontSorter) sort() error {
	out, err := os.OpenFile(filepath.Join(s.dir, s.name+".sorted"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// Always the same name, so that a crash leaves no more than one.
	tmp, err := os.OpenFile(filepath.Join(s.dir, s.name+".runs"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	runs, err := s.sortRuns(tmp)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 64<<10)
	if err := mergeRuns(tmp, runs, w); err != nil {
		return err
	}
	return errors.Join(w.Flush(), out.Sync(), out.Close())
}

// sortRuns writes sorted runs to tmp and returns their ends in bytes.
func (s *frontSorter) sortRuns(tmp io.Writer) (ends []int64, err error) {
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(s.f, 64<<10)
	w := bufio.NewWriterSize(tmp, 64<<10)
	type pair struct{ front, place uint64 }
	run := make([]pair, 0, min(s.n, int64(s.run)))
	var rec [frontRecord]byte
	end := int64(0)
	for read := int64(0); read < s.n; {
		for run = run[:0]; len(run) < s.run && read < s.n; read++ {
			if _, err := io.ReadFull(r, rec[:]); err != nil {
				return nil, err
			}
			run = append(run, pair{binary.BigEndian.Uint64(rec[:]), binary.BigEndian.Uint64(rec[8:])})
		}
		slices.SortFunc(run, func(a, b pair) int { return cmp.Or(cmp.Compare(a.front, b.front), cmp.Compare(a.place, b.place)) })
		for _, p := range run {
			binary.BigEndian.PutUint64(rec[:], p.front)
			binary.BigEndian.PutUint64(rec[8:], p.place)
			if _, err := w.Write(rec[:]); err != nil {
				return nil, err
			}
		}
		end += int64(len(run)) * frontRecord
		ends = append(ends, end)
	}
	return ends, w.Flush()
}

// A runHeap merges sorted runs.
type runHeap []*sortedRun

type sortedRun struct {
	r    *bufio.Reader
	head [frontRecord]byte
}

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return bytes.Compare(h[i].head[:], h[j].head[:]) < 0 }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(v any)        { *h = append(*h, v.(*sortedRun)) }
func (h *runHeap) Pop() any {
	old := *h
	v := old[len(old)-1]
	*h = old[:len(old)-1]
	return v
}

func mergeRuns(tmp io.ReaderAt, ends []int64, w io.Writer) error {
	var h runHeap
	start := int64(0)
	for _, end := range ends {
		r := &sortedRun{r: bufio.NewReaderSize(io.NewSectionReader(tmp, start, end-start), 16<<10)}
		if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
			return err
		}
		h, start = append(h, r), end
	}
	heap.Init(&h)
	for len(h) > 0 {
		if _, err := w.Write(h[0].head[:]); err != nil {
			return err
		}
		switch _, err := io.ReadFull(h[0].r, h[0].head[:]); {
		case err == io.EOF:
			heap.Pop(&h)
		case err != nil:
			return err
		default:
			heap.Fix(&h, 0)
		}
	}
	return nil
}

// A frontIndex finds the places of chunks. It is safe for concurrent use.
type frontIndex struct {
	f     *os.File
	n     int64
	fence []uint64 // every fenceEvery-th front
}

func openFronts(dir, name string) (*frontIndex, error) {
	f, err := os.Open(filepath.Join(dir, name+".sorted"))
	if err != nil {
		return nil, err
	}
	x := &frontIndex{f: f}
	if err := x.load(); err != nil {
		f.Close()
		return nil, err
	}
	return x, nil
}

func (x *frontIndex) load() error {
	st, err := x.f.Stat()
	if err != nil {
		return err
	}
	if x.n = st.Size() / frontRecord; st.Size()%frontRecord != 0 {
		return fmt.Errorf("sorted chunks: %d bytes", st.Size())
	}
	for i := int64(0); i < x.n; i += fenceEvery {
		var rec [8]byte
		if _, err := x.f.ReadAt(rec[:], i*frontRecord); err != nil {
			return err
		}
		x.fence = append(x.fence, binary.BigEndian.Uint64(rec[:]))
	}
	return nil
}

func (x *frontIndex) close() { x.f.Close() }

// each calls f with the places of the chunks whose ids begin with front, until
// it returns true. The caller compares the whole id.
func (x *frontIndex) each(front uint64, f func(place uint64) bool) {
	i, _ := slices.BinarySearch(x.fence, front)
	var page [fenceEvery * frontRecord]byte
	for first := max(int64(i-1), 0) * fenceEvery; first < x.n; first += fenceEvery {
		n := min(fenceEvery, x.n-first)
		b := page[:n*frontRecord]
		if _, err := x.f.ReadAt(b, first*frontRecord); err != nil {
			return
		}
		for ; len(b) > 0; b = b[frontRecord:] {
			switch g := binary.BigEndian.Uint64(b); {
			case g > front:
				return
			case g == front && f(binary.BigEndian.Uint64(b[8:])):
				return
			}
		}
	}
}
