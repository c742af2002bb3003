package repo

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/zeebo/blake3"

	"strongroom/chunker"
)

// A snapshot map says of the last committed snapshot, for every piece of about
// 1 MiB of its streams: which chunks it has, which extents its bytes are, and
// which anchors lie in it. The next snapshot is matched by it. It is local and
// disposable: without it a snapshot stores more, never less, and no restore
// reads it. Four files beside each other:
//
//	.map     pieces end to end, then the directory of them, then a footer
//	.sorted  the fronts of the chunks' ids, sorted, with their places
//	.sparse  some of the anchors, for what moved far
//
// Every piece, and the directory, ends with a keyed BLAKE3 of it: what a
// damaged disk made of a piece, or somebody who can write the directory, must
// not point a snapshot at wrong bytes. Memory is a directory entry a piece: 40
// bytes a MiB.

const (
	pieceAnchor = 8  // end 4, hash 4
	pieceChunk  = 36 // id 32, end 4
	macLen      = 16
	entryLen    = 36
	sparseLen   = 12 // piece 4, end 4, hash 4
	sparseMost  = 1 << 20

	mapMagic   = "SRSNMAP1"
	mapFooter  = 8 + 4 + 8 // magic, pieces, where the directory begins
	maxPieces  = 1 << 26
	maxAnchors = chunker.SegmentSize
)

type chunkID [32]byte

// piece is a directory entry.
type piece struct {
	stream  uint32 // by order of opening
	start   int64  // offset in its stream
	length  uint32
	at      int64 // offset in the file
	anchors uint32
	extents uint32
	chunks  uint32

	tape int64 // offset in the base: all streams end to end; not stored
}

func (p piece) size() int64 {
	return int64(p.anchors)*pieceAnchor + int64(p.extents)*extentLen + int64(p.chunks)*pieceChunk + macLen
}

func (p piece) append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, p.stream)
	b = be.AppendUint64(b, uint64(p.start))
	b = be.AppendUint32(b, p.length)
	b = be.AppendUint64(b, uint64(p.at))
	b = be.AppendUint32(b, p.anchors)
	b = be.AppendUint32(b, p.extents)
	return be.AppendUint32(b, p.chunks)
}

func parsePiece(b []byte) piece {
	be := binary.BigEndian
	return piece{stream: be.Uint32(b), start: int64(be.Uint64(b[4:])), length: be.Uint32(b[12:]), at: int64(be.Uint64(b[16:])),
		anchors: be.Uint32(b[24:]), extents: be.Uint32(b[28:]), chunks: be.Uint32(b[32:])}
}

// A mapWriter writes the map of a run. Its methods are safe for concurrent
// use.
type mapWriter struct {
	dir, name string
	key       []byte

	mu      sync.Mutex // guards what follows until finish
	f       *os.File
	w       *bufio.Writer
	fronts  *frontSorter
	sparse  *os.File
	sw      *bufio.Writer
	sparsed int
	mask    uint32
	record  []byte // for the sparse file
	at      int64
	pieces  []piece
	names   []string
	lengths []int64
	err     error
}

func newMapWriter(dir, name string, key []byte) (*mapWriter, error) {
	open := func(ext string) (*os.File, error) {
		return os.OpenFile(filepath.Join(dir, name+ext), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	f, err := open(".map")
	if err != nil {
		return nil, err
	}
	sparse, err := open(".sparse")
	if err != nil {
		f.Close()
		return nil, err
	}
	fronts, err := newFrontSorter(dir, name)
	if err != nil {
		f.Close()
		sparse.Close()
		return nil, err
	}
	return &mapWriter{dir: dir, name: name, key: key, f: f, w: bufio.NewWriterSize(f, 256<<10), fronts: fronts,
		sparse: sparse, sw: bufio.NewWriterSize(sparse, 64<<10)}, nil
}

// stream opens a stream of the map and returns its number.
func (x *mapWriter) stream(name string) uint32 {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.names, x.lengths = append(x.names, name), append(x.lengths, 0)
	return uint32(len(x.names) - 1)
}

// add appends a piece, which goes on where the last one of its stream ended.
// raw is the three lists in the order of the file. ids are the fronts of the
// chunks' ids.
func (x *mapWriter) add(p piece, raw []byte, anchors []chunker.Anchor, ids []chunkID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil {
		return
	}
	p.at, p.start = x.at, x.lengths[p.stream]
	x.lengths[p.stream] += int64(p.length)
	mac := pieceMAC(x.key, p, raw)
	_, err := x.w.Write(raw)
	_, err2 := x.w.Write(mac[:])
	x.err = errors.Join(err, err2)
	x.at += p.size()
	number := uint32(len(x.pieces))
	x.pieces = append(x.pieces, p)
	for i, id := range ids {
		x.fronts.add(binary.BigEndian.Uint64(id[:]), uint64(number)<<32|uint64(i))
	}
	x.record = x.record[:0]
	for _, a := range anchors {
		if a.Hash&x.mask != 0 {
			continue
		}
		if x.sparsed++; x.sparsed%sparseMost == 0 {
			// From here on half as many; when it is read, those before are thinned
			// in the same way.
			x.mask = x.mask<<1 | 1
			x.sparsed /= 2
		}
		b := binary.BigEndian.AppendUint32(x.record, number)
		b = binary.BigEndian.AppendUint32(b, a.End)
		x.record = binary.BigEndian.AppendUint32(b, a.Hash)
	}
	if _, err := x.sw.Write(x.record); err != nil {
		x.err = err
	}
}

// pieceMAC binds a piece to its place in its stream.
func pieceMAC(key []byte, p piece, raw []byte) (mac [macLen]byte) {
	h, _ := blake3.NewKeyed(key) // fails only for keys of other lengths
	h.Write(p.append(make([]byte, 0, entryLen)))
	h.Write(raw)
	h.Digest().Read(mac[:])
	return mac
}

// finish completes the map. It is synced: after a power failure a file of the
// right length must not hold what the disk had there before.
func (x *mapWriter) finish() error {
	err := x.err
	if err == nil {
		err = x.directory()
	}
	if err == nil {
		err = errors.Join(x.w.Flush(), x.sw.Flush())
	}
	if err == nil {
		err = errors.Join(x.fronts.finish(), x.f.Sync(), x.sparse.Sync())
	}
	return errors.Join(err, x.f.Close(), x.sparse.Close())
}

// directory writes what the pieces are: count of streams, their names, the
// pieces in the order of the file, and the footer.
func (x *mapWriter) directory() error {
	be := binary.BigEndian
	b := be.AppendUint32(nil, uint32(len(x.names)))
	for _, n := range x.names {
		b = append(be.AppendUint32(b, uint32(len(n))), n...)
	}
	for _, p := range x.pieces {
		b = p.append(b)
	}
	mac := pieceMAC(x.key, piece{at: x.at, chunks: uint32(len(x.pieces))}, b)
	b = append(b, mac[:]...)
	b = append(b, mapMagic...)
	b = be.AppendUint32(b, uint32(len(x.pieces)))
	b = be.AppendUint64(b, uint64(x.at))
	_, err := x.w.Write(b)
	return err
}

// discard removes the files.
func (x *mapWriter) discard() {
	x.f.Close()
	x.sparse.Close()
	x.fronts.close()
	removeMap(x.dir, x.name)
}

// mapFiles are the endings of a map's files.
var mapFiles = []string{".map", ".sparse", ".sorted", ".fronts", ".runs"}

func removeMap(dir, name string) {
	for _, ext := range mapFiles {
		os.Remove(filepath.Join(dir, name+ext))
	}
}

// A snapMap is a finished map that is read. It is safe for concurrent use.
type snapMap struct {
	key    []byte
	f      *os.File
	pieces []piece // in the order of the tape: by stream, then offset
	places []uint32
	starts map[string]int64 // of the streams on the tape
	length int64            // of the tape
	sorted *frontIndex

	sparseOnce sync.Once
	sparse     *chunker.Sparse
	path       string // of .sparse

	mu    sync.Mutex // guards what follows
	cache map[int]*mapPiece
	ring  []int
}

// openMap opens a finished map; any defect of it is an error, and the caller
// goes on without.
func openMap(dir, name string, key []byte) (*snapMap, error) {
	f, err := os.Open(filepath.Join(dir, name+".map"))
	if err != nil {
		return nil, err
	}
	m := &snapMap{key: key, f: f, cache: map[int]*mapPiece{}, starts: map[string]int64{}, path: filepath.Join(dir, name+".sparse")}
	if err := m.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("snapshot map: %w", err)
	}
	if m.sorted, err = openFronts(dir, name); err != nil {
		f.Close()
		return nil, err
	}
	return m, nil
}

func (m *snapMap) close() {
	m.sparseOnce.Do(func() {}) // waits for who fills it
	m.f.Close()
	m.sorted.close()
}

func (m *snapMap) load() error {
	st, err := m.f.Stat()
	if err != nil {
		return err
	}
	be := binary.BigEndian
	foot := make([]byte, mapFooter)
	if _, err := m.f.ReadAt(foot, st.Size()-mapFooter); err != nil {
		return err
	}
	count, at := int64(be.Uint32(foot[8:])), int64(be.Uint64(foot[12:]))
	if string(foot[:8]) != mapMagic || count > maxPieces || at < 0 || at > st.Size()-mapFooter-macLen-4-count*entryLen {
		return fmt.Errorf("footer %x in %d bytes", foot, st.Size())
	}
	b := make([]byte, st.Size()-mapFooter-at)
	if _, err := m.f.ReadAt(b, at); err != nil {
		return err
	}
	b, mac := b[:len(b)-macLen], b[len(b)-macLen:]
	if want := pieceMAC(m.key, piece{at: at, chunks: uint32(count)}, b); subtle.ConstantTimeCompare(mac, want[:]) != 1 {
		return errors.New("the directory is not what was written")
	}
	return m.directory(b, int(count))
}

// directory parses what load has authenticated and lays the streams on the
// tape.
func (m *snapMap) directory(b []byte, count int) error {
	be := binary.BigEndian
	names := make([]string, be.Uint32(b))
	b = b[4:]
	for i := range names {
		n := int(be.Uint32(b))
		names[i], b = string(b[4:4+n]), b[4+n:]
	}
	if len(b) != count*entryLen {
		return fmt.Errorf("%d bytes are not %d pieces", len(b), count)
	}
	lengths := make([]int64, len(names))
	pieces := make([]piece, count)
	for i := range pieces {
		pieces[i] = parsePiece(b[i*entryLen:])
		lengths[pieces[i].stream] += int64(pieces[i].length)
	}
	for i, n := range names {
		m.starts[n] = m.length
		m.length += lengths[i]
	}
	// Pieces of streams that ran side by side are mixed in the file. On the tape
	// they are in order.
	first := make([]int, len(names)+1)
	for _, p := range pieces {
		first[p.stream+1]++
	}
	for i := range names {
		first[i+1] += first[i]
	}
	m.pieces, m.places = make([]piece, count), make([]uint32, count)
	for i, p := range pieces {
		p.tape = m.starts[names[p.stream]] + p.start
		m.pieces[first[p.stream]] = p
		m.places[i] = uint32(first[p.stream])
		first[p.stream]++
	}
	return nil
}

// find returns the index of the piece that holds offset off of the tape, or -1.
func (m *snapMap) find(off int64) int {
	if off < 0 || off >= m.length {
		return -1
	}
	lo, hi := 0, len(m.pieces)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; m.pieces[mid].tape <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// A mapPiece is a piece in memory. It is never changed.
type mapPiece struct {
	piece
	anchors []byte
	extents []byte
	chunks  []byte
}

func (p *mapPiece) chunkCount() int { return len(p.chunks) / pieceChunk }

// chunk returns chunk i of the piece: its id and where it lies on the tape.
func (p *mapPiece) chunk(i int) (id chunkID, from int64, n int) {
	start := uint32(0)
	if i > 0 {
		start = binary.BigEndian.Uint32(p.chunks[i*pieceChunk-4:])
	}
	c := p.chunks[i*pieceChunk : (i+1)*pieceChunk]
	return chunkID(c), p.tape + int64(start), int(binary.BigEndian.Uint32(c[32:]) - start)
}

// cachedPieces are kept in memory: those around the places of some streams.
const cachedPieces = 48

// get returns piece i, or an error if it is damaged.
func (m *snapMap) get(i int) (*mapPiece, error) {
	m.mu.Lock()
	p := m.cache[i]
	m.mu.Unlock()
	if p != nil {
		return p, nil
	}
	p, err := m.read(i)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache[i] == nil {
		if len(m.ring) >= cachedPieces {
			delete(m.cache, m.ring[0])
			m.ring = m.ring[1:]
		}
		m.ring = append(m.ring, i)
		m.cache[i] = p
	}
	return m.cache[i], nil
}

func (m *snapMap) read(i int) (*mapPiece, error) {
	p := m.pieces[i]
	if p.anchors > maxAnchors || p.extents > chunker.SegmentSize || p.chunks > chunker.SegmentSize {
		return nil, fmt.Errorf("snapshot map: piece %d is too large", i)
	}
	b := make([]byte, p.size())
	if _, err := m.f.ReadAt(b, p.at); err != nil {
		return nil, fmt.Errorf("snapshot map: %w", err)
	}
	raw, mac := b[:len(b)-macLen], b[len(b)-macLen:]
	if want := pieceMAC(m.key, p, raw); !bytes.Equal(mac, want[:]) {
		return nil, fmt.Errorf("snapshot map: piece %d is damaged", i)
	}
	out := &mapPiece{piece: p}
	out.anchors, raw = raw[:p.anchors*pieceAnchor], raw[p.anchors*pieceAnchor:]
	out.extents, out.chunks = raw[:p.extents*extentLen], raw[p.extents*extentLen:]
	return out, nil
}

// finder returns the table of far anchors, made when it is first asked for.
func (m *snapMap) finder() *chunker.Sparse {
	m.sparseOnce.Do(func() {
		s := chunker.NewSparse(m.length)
		f, err := os.Open(m.path)
		if err == nil {
			defer f.Close()
			err = m.readSparse(f, s)
		}
		if err == nil { // else far places are not found: bytes, no more
			m.sparse = s
		}
	})
	return m.sparse
}

// readSparse fills s from a file. Many records are parsed in one loop without a
// call, since nearly each of them misses the processor's caches: so the misses
// overlap.
func (m *snapMap) readSparse(r io.Reader, s *chunker.Sparse) error {
	buf := make([]byte, 4096*sparseLen)
	for {
		got, err := io.ReadFull(r, buf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF || got%sparseLen != 0 {
			return fmt.Errorf("snapshot map: far anchors: %d bytes, %w", got, err)
		}
		for b := buf[:got]; len(b) > 0; b = b[sparseLen:] {
			n, end, hash := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
			if int(n) >= len(m.places) {
				return errors.New("snapshot map: an anchor in no piece")
			}
			// A wrong one costs a look at a wrong place: it is a hint.
			s.Add(m.pieces[m.places[n]].tape+int64(end), hash)
		}
		if err != nil {
			return nil
		}
	}
}

// A chunk record, in the journal of a run: id 32, extent 10, CRC32C of both 4.
const chunkRecord = 46

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

// addRecords adds the chunks of a pack that a dead run left.
func (x *mapWriter) addRecords(stream uint32, records []byte) {
	var extents, chunks []byte
	var ids []chunkID
	length := uint32(0)
	flush := func() {
		if len(ids) > 0 {
			x.add(piece{stream: stream, length: length, extents: uint32(len(ids)), chunks: uint32(len(ids))}, append(extents, chunks...), nil, ids)
		}
		extents, chunks, ids, length = extents[:0], chunks[:0], ids[:0], 0
	}
	for ; len(records) > 0; records = records[chunkRecord:] {
		e, ok := parseRecord(records[:chunkRecord])
		if !ok {
			continue
		}
		if length+e.Length > chunker.SegmentSize {
			flush()
		}
		length += e.Length
		id := chunkID(records[:32])
		extents, ids = e.append(extents), append(ids, id)
		chunks = binary.BigEndian.AppendUint32(append(chunks, id[:]...), length)
	}
	flush()
}
