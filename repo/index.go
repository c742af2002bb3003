package repo

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// The chunk index says where the chunks of the last committed snapshot lie. It
// is local and disposable: without it a snapshot stores more, never less. Two
// files: the chunks in the order in which they were met, and their positions
// there sorted by the front of their ids. Lookups read both by pread, so
// memory does not grow with the database.

const (
	chunkRecord = 46 // id 32, extent 10, CRC32C of both 4
	sortRecord  = 16 // front of the id 8, position 8
	fenceEvery  = 128
	// sortRun entries are sorted in memory at a time: 16 MiB.
	sortRun = 1 << 20
)

type chunkID [32]byte

// An indexWriter writes the index of a run. Its methods are safe for
// concurrent use.
type indexWriter struct {
	dir  string
	name string
	run  int // entries sorted in memory at a time

	mu  sync.Mutex // guards what follows until finish
	f   *os.File
	w   *bufio.Writer
	n   int64
	err error
}

func newIndexWriter(dir, name string) (*indexWriter, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".chunks"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &indexWriter{dir: dir, name: name, run: sortRun, f: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

// add appends chunks that follow each other in a stream; keeping them together
// lets the next run predict each from the one before.
func (x *indexWriter) add(records []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		_, x.err = x.w.Write(records)
		x.n += int64(len(records) / chunkRecord)
	}
}

// appendRecord appends the record of a chunk. Its checksum keeps a damaged disk
// from pointing a snapshot at wrong bytes: the id alone vouches for no extent.
func appendRecord(b []byte, id chunkID, e Extent) []byte {
	at := len(b)
	b = e.append(append(b, id[:]...))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// parseRecord returns the extent of a record, if all of it is undamaged.
func parseRecord(rec []byte) (e Extent, ok bool) {
	const sum = chunkRecord - 4
	if crc32.Checksum(rec[:sum], castagnoli) != binary.BigEndian.Uint32(rec[sum:]) {
		return e, false
	}
	e, err := parseExtent(rec[32:sum])
	return e, err == nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// finish sorts and closes the index. It is synced: after a power failure a file
// of the right length must not hold what the disk had there before.
func (x *indexWriter) finish() error {
	err := errors.Join(x.err, x.w.Flush())
	if err == nil {
		err = errors.Join(x.sort(), x.f.Sync())
	}
	return errors.Join(err, x.f.Close())
}

// discard removes the files.
func (x *indexWriter) discard() {
	x.f.Close()
	removeIndex(x.dir, x.name)
}

func removeIndex(dir, name string) {
	os.Remove(filepath.Join(dir, name+".chunks"))
	os.Remove(filepath.Join(dir, name+".sorted"))
	os.Remove(filepath.Join(dir, name+".runs"))
}

// sort writes the sorted file: runs of sortRun records, merged.
func (x *indexWriter) sort() error {
	out, err := os.OpenFile(filepath.Join(x.dir, x.name+".sorted"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// Always the same name, so that a crash leaves no more than one.
	tmp, err := os.OpenFile(filepath.Join(x.dir, x.name+".runs"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	runs, err := x.sortRuns(tmp)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 256<<10)
	if err := mergeRuns(tmp, runs, w); err != nil {
		return err
	}
	return errors.Join(w.Flush(), out.Sync(), out.Close())
}

// sortRuns writes sorted runs to tmp and returns their ends in bytes.
func (x *indexWriter) sortRuns(tmp io.Writer) (ends []int64, err error) {
	if _, err := x.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(x.f, 256<<10)
	w := bufio.NewWriterSize(tmp, 256<<10)
	type pair struct{ front, pos uint64 }
	run := make([]pair, 0, min(x.n, int64(x.run)))
	var rec [chunkRecord]byte
	end := int64(0)
	for pos := int64(0); pos < x.n; {
		for run = run[:0]; len(run) < x.run && pos < x.n; pos++ {
			if _, err := io.ReadFull(r, rec[:]); err != nil {
				return nil, err
			}
			run = append(run, pair{binary.BigEndian.Uint64(rec[:]), uint64(pos)})
		}
		slices.SortFunc(run, func(a, b pair) int { return cmp.Or(cmp.Compare(a.front, b.front), cmp.Compare(a.pos, b.pos)) })
		for _, p := range run {
			var b [sortRecord]byte
			binary.BigEndian.PutUint64(b[:], p.front)
			binary.BigEndian.PutUint64(b[8:], p.pos)
			if _, err := w.Write(b[:]); err != nil {
				return nil, err
			}
		}
		end += int64(len(run)) * sortRecord
		ends = append(ends, end)
	}
	return ends, w.Flush()
}

// A runHeap merges sorted runs.
type runHeap []*sortedRun

type sortedRun struct {
	r    *bufio.Reader
	head [sortRecord]byte
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
		r := &sortedRun{r: bufio.NewReaderSize(io.NewSectionReader(tmp, start, end-start), 64<<10)}
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

// A chunkIndex answers lookups. It is safe for concurrent use.
type chunkIndex struct {
	chunks, sorted *os.File
	n              int64
	fence          []uint64 // every fenceEvery-th front
}

// openIndex opens a finished index; any defect of it is an error, and the
// caller goes on without.
func openIndex(dir, name string) (*chunkIndex, error) {
	chunks, err := os.Open(filepath.Join(dir, name+".chunks"))
	if err != nil {
		return nil, err
	}
	sorted, err := os.Open(filepath.Join(dir, name+".sorted"))
	if err != nil {
		chunks.Close()
		return nil, err
	}
	x := &chunkIndex{chunks: chunks, sorted: sorted}
	if err := x.load(); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *chunkIndex) load() error {
	a, err := x.chunks.Stat()
	if err != nil {
		return err
	}
	b, err := x.sorted.Stat()
	if err != nil {
		return err
	}
	x.n = a.Size() / chunkRecord
	if a.Size()%chunkRecord != 0 || b.Size() != x.n*sortRecord {
		return fmt.Errorf("chunk index: %d and %d bytes do not fit each other", a.Size(), b.Size())
	}
	for i := int64(0); i < x.n; i += fenceEvery {
		var rec [8]byte
		if _, err := x.sorted.ReadAt(rec[:], i*sortRecord); err != nil {
			return err
		}
		x.fence = append(x.fence, binary.BigEndian.Uint64(rec[:]))
	}
	return nil
}

func (x *chunkIndex) close() { x.chunks.Close(); x.sorted.Close() }

// A predictor looks chunks up for one stream: the chunk after the last hit is
// tried first, read ahead in one go.
type predictor struct {
	x    *chunkIndex
	next int64 // position expected
	buf  []byte
	at   int64 // position of buf's first record
}

func (p *predictor) lookup(id chunkID) (Extent, bool) {
	if p.x == nil {
		return Extent{}, false
	}
	if rec := p.record(p.next); rec != nil && chunkID(rec[:32]) == id {
		return p.hit(p.next, rec)
	}
	return p.search(id)
}

func (p *predictor) hit(pos int64, rec []byte) (Extent, bool) {
	e, ok := parseRecord(rec)
	if ok {
		p.next = pos + 1
	}
	return e, ok
}

// record returns the chunk record at pos, or nil.
func (p *predictor) record(pos int64) []byte {
	if pos < 0 || pos >= p.x.n {
		return nil
	}
	if pos < p.at || pos >= p.at+int64(len(p.buf)/chunkRecord) {
		n := min(256, p.x.n-pos)
		p.buf = slices.Grow(p.buf[:0], 256*chunkRecord)[:n*chunkRecord]
		if _, err := p.x.chunks.ReadAt(p.buf, pos*chunkRecord); err != nil {
			p.buf = p.buf[:0]
			return nil
		}
		p.at = pos
	}
	off := (pos - p.at) * chunkRecord
	return p.buf[off : off+chunkRecord]
}

// search finds id by the sorted file: fence, one read of a page, scan.
func (p *predictor) search(id chunkID) (Extent, bool) {
	front := binary.BigEndian.Uint64(id[:])
	i, _ := slices.BinarySearch(p.x.fence, front)
	first := max(int64(i-1), 0) * fenceEvery
	var page [fenceEvery * sortRecord]byte
	for ; first < p.x.n; first += fenceEvery {
		n := min(fenceEvery, p.x.n-first)
		b := page[:n*sortRecord]
		if _, err := p.x.sorted.ReadAt(b, first*sortRecord); err != nil {
			return Extent{}, false
		}
		for ; len(b) > 0; b = b[sortRecord:] {
			switch f := binary.BigEndian.Uint64(b); {
			case f > front:
				return Extent{}, false
			case f == front:
				var rec [chunkRecord]byte
				pos := int64(binary.BigEndian.Uint64(b[8:]))
				if _, err := p.x.chunks.ReadAt(rec[:], pos*chunkRecord); err == nil && chunkID(rec[:32]) == id {
					if e, ok := p.hit(pos, rec[:]); ok {
						return e, true
					}
				}
			}
		}
	}
	return Extent{}, false
}
