package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
)

// A log is one Merkle log below the ledger's directory: full tiles in the
// layout of tlog, with the entries in data tiles, and one segment.
type log struct {
	files
	tenant keys.TenantID
	dir    string
	trust  keys.BoxKeys

	// The ledger's lock guards what follows; another process may have made it
	// old, which refresh finds out.
	seq     uint64 // of the segment
	bytes   int64  // of the segment's file
	torn    int64  // bytes that a crash left after them
	header  header
	records []record
	tree    *tree
	head    Checkpoint
	pending map[int64]Entry        // intents that are open
	links   map[keys.TenantID]link // in the system log

	// bundle holds the entries of the data tile that was read last; full tiles
	// never change.
	bundle   [][]byte
	bundleAt int64
}

const segmentPrefix = "segment."

func (g *log) segmentName(seq uint64) string {
	return path.Join(g.dir, segmentPrefix+strconv.FormatUint(seq, 10))
}

func (g *log) tileName(t tlog.Tile) string { return path.Join(g.dir, t.Path()) }

func newLog(f files, tenant keys.TenantID, trust keys.BoxKeys) *log {
	return &log{files: f, tenant: tenant, dir: logName(tenant), trust: trust}
}

// lastSegment finds the newest segment. It was whole and synced before it had
// its name, so an older one is of no use any more.
func (g *log) lastSegment() (last uint64, older []string, err error) {
	names, err := g.names(g.dir)
	if err != nil {
		return 0, nil, err
	}
	var all []uint64
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, segmentPrefix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
			return 0, nil, fmt.Errorf("%w: %s is no segment", ErrTampered, path.Join(g.dir, name))
		}
		all = append(all, n)
	}
	if len(all) == 0 {
		return 0, nil, fmt.Errorf("log %s: no segment: %w", g.dir, fs.ErrNotExist)
	}
	slices.Sort(all)
	for _, n := range all[:len(all)-1] {
		older = append(older, g.segmentName(n))
	}
	return all[len(all)-1], older, nil
}

// load reads the log's end and checks that its last checkpoint is signed and
// fits the tiles and entries. What lies deeper is checked by Verify.
func (g *log) load() error {
	if err := g.loadSegment(); err != nil {
		return fmt.Errorf("log %s: %w", g.dir, err)
	}
	return nil
}

func (g *log) loadSegment() error {
	seq, _, err := g.lastSegment()
	if err != nil {
		return err
	}
	b, err := g.read(g.segmentName(seq), int64(maxSegment))
	if err != nil {
		return err
	}
	s, err := parseSegment(b)
	if err != nil {
		return err
	}
	if s.Base == 0 && len(s.records) == 0 {
		return fmt.Errorf("%w: no entry is left of it", ErrTampered)
	}
	g.seq, g.bytes, g.torn, g.header, g.records = seq, s.whole, s.torn, s.header, s.records
	g.tree = &tree{base: s.Base, edges: map[int]edge{}, read: g.readTile}
	for _, r := range s.records {
		g.tree.leaves = append(g.tree.leaves, r.leaf)
	}
	last := s.Checkpoint
	if n := len(s.records); n > 0 {
		last = string(s.records[n-1].note)
	}
	if g.head, err = OpenCheckpoint([]byte(last), g.trust); err != nil {
		return err
	}
	if err := g.checkHead(); err != nil {
		return err
	}
	return g.replay()
}

func (g *log) checkHead() error {
	root, err := g.tree.root(g.tree.size())
	if err != nil {
		return err
	}
	if g.head.Tenant != g.tenant || g.head.Size != g.tree.size() || g.head.Root != root {
		return fmt.Errorf("%w: its %d entries are not those that were signed", ErrTampered, g.tree.size())
	}
	return nil
}

// replay finds the open intents and the links, from the header and the records.
func (g *log) replay() error {
	g.pending, g.links = map[int64]Entry{}, map[keys.TenantID]link{}
	for _, n := range g.header.Pending {
		e, err := g.entry(n)
		if err != nil {
			return err
		}
		g.pending[n] = e
	}
	for _, l := range g.header.Links {
		g.links[l.Tenant] = l
	}
	for i, r := range g.records {
		e, err := ParseEntry(r.entry)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTampered, err)
		}
		if e.Number != g.tree.base+int64(i) || e.Tenant != g.tenant {
			return fmt.Errorf("%w: entry %d stands at %d", ErrTampered, e.Number, g.tree.base+int64(i))
		}
		if err := g.note(e); err != nil {
			return err
		}
	}
	return nil
}

// note keeps what an entry changes: the open intents and the links.
func (g *log) note(e Entry) error {
	switch {
	case e.Phase == Intended:
		g.pending[e.Number] = e
	case e.Phase == Ended:
		delete(g.pending, e.Intent)
	case e.Act == Link:
		l, err := parseLink(e)
		if err != nil {
			return err
		}
		g.links[l.Tenant] = l
	}
	return nil
}

func (g *log) readTile(t tlog.Tile) ([]byte, error) {
	limit := int64(tileWidth * tlog.HashSize)
	if t.L < 0 {
		limit = maxBundle
	}
	b, err := g.read(g.tileName(t), limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: tile is gone: %w", ErrTampered, err)
	}
	return b, err
}

// raw returns entry n as it stands in the log, held against the hash that the
// tree has of it.
func (g *log) raw(n int64) ([]byte, error) {
	if n < 0 || n >= g.tree.size() {
		return nil, fmt.Errorf("log %s: entry %d of %d: %w", g.dir, n, g.tree.size(), ErrNoEntry)
	}
	if n >= g.tree.base {
		return g.records[n-g.tree.base].entry, nil
	}
	tile := n / tileWidth
	if g.bundle == nil || g.bundleAt != tile {
		entries, err := g.readBundle(tile)
		if err != nil {
			return nil, fmt.Errorf("log %s: tile %d: %w", g.dir, tile, err)
		}
		g.bundle, g.bundleAt = entries, tile
	}
	return g.bundle[n%tileWidth], nil
}

// readBundle reads a data tile and holds it against the tree's head, so that a
// changed hash tile does not vouch for a changed entry.
func (g *log) readBundle(tile int64) ([][]byte, error) {
	b, err := g.readTile(tlog.Tile{H: tileHeight, L: -1, N: tile, W: tileWidth})
	if err != nil {
		return nil, err
	}
	entries, err := parseBundle(b, tileWidth)
	if err != nil {
		return nil, err
	}
	indexes := make([]int64, tileWidth)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, tile*tileWidth+int64(i))
	}
	want, err := g.hashes().ReadHashes(indexes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	for i, raw := range entries {
		if tlog.RecordHash(raw) != want[i] {
			return nil, fmt.Errorf("%w: entry %d was changed", ErrTampered, tile*tileWidth+int64(i))
		}
	}
	return entries, nil
}

func (g *log) entry(n int64) (Entry, error) {
	raw, err := g.raw(n)
	if err != nil {
		return Entry{}, err
	}
	e, err := ParseEntry(raw)
	if err != nil || e.Number != n || e.Tenant != g.tenant {
		return Entry{}, errors.Join(err, fmt.Errorf("log %s: %w: entry %d stands at %d", g.dir, ErrTampered, e.Number, n))
	}
	return e, nil
}

// hashes reads hashes that are proven against the signed head.
func (g *log) hashes() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: g.head.Size, Hash: g.head.Root}, tileReader{g.tree})
}

// tileReader serves a tree's tiles to tlog, which proves them.
type tileReader struct{ t *tree }

func (tileReader) Height() int { return tileHeight }

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		hashes, err := r.t.tile(t.L, t.N, t.W)
		if err != nil {
			return nil, err
		}
		out[i] = joinHashes(hashes)
	}
	return out, nil
}

func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// refresh reads the log again if another process wrote to it.
func (g *log) refresh() error {
	if seq, _, err := g.lastSegment(); err != nil {
		return err
	} else if seq == g.seq {
		info, err := g.root.Lstat(g.segmentName(seq))
		if err != nil {
			return err
		}
		if info.Size() == g.bytes+g.torn {
			return nil
		}
	}
	if err := g.load(); err != nil {
		return err
	}
	// Who gave the segment its name may not have come to this.
	if err := g.syncDir(g.dir); err != nil {
		return errors.Join(err, errUnsure)
	}
	return nil
}

// append writes an entry, signed over with all before it, and returns it once
// it is durable. If it returns an error, the log is as it was; errUnsure alone
// says that nobody can know that.
//
// A crash leaves the record whole, in part, or not at all; nobody heard of it
// yet, so each is right. See parseSegment.
//
// A process that runs since before the box got a new incarnation writes nothing
// any more: within a log incarnations never go down.
func (g *log) append(e Entry, s Signer, incarnation uint32) (Entry, error) {
	if g.head.Incarnation > incarnation {
		return Entry{}, fmt.Errorf("log %s: %w: it is written by incarnation %d of the box now, this process is of %d", g.dir, ErrOutdated, g.head.Incarnation, incarnation)
	}
	if len(g.records) == tileWidth {
		if err := g.settle(); err != nil {
			return Entry{}, err
		}
	}
	e.Number = g.tree.size()
	if e.Number >= maxSize {
		return Entry{}, errors.New("log is full")
	}
	raw, err := e.bytes()
	if err != nil {
		return Entry{}, err
	}
	r := record{entry: raw, leaf: tlog.RecordHash(raw)}
	head, err := g.push(&r, s, incarnation)
	if err == nil {
		err = g.write(r.frame())
	}
	if err != nil {
		g.pop()
		return Entry{}, err
	}
	g.records, g.head = append(g.records, r), head
	return e, g.note(e)
}

// push adds a leaf and signs the tree that it ends.
func (g *log) push(r *record, s Signer, incarnation uint32) (Checkpoint, error) {
	g.tree.leaves = append(g.tree.leaves, r.leaf)
	root, err := g.tree.root(g.tree.size())
	if err != nil {
		return Checkpoint{}, err
	}
	head := Checkpoint{Ledger: g.head.Ledger, Tenant: g.tenant, Size: g.tree.size(), Root: root, Incarnation: incarnation}
	if err := head.sign(s); err != nil {
		return Checkpoint{}, err
	}
	r.note = []byte(head.Note)
	return head, nil
}

func (g *log) pop() {
	g.tree.leaves = g.tree.leaves[:len(g.tree.leaves)-1]
	g.tree.edges = map[int]edge{} // a tile that the leaf completed may be in there
}

// errUnsure: something was neither written nor taken back.
var errUnsure = errors.New("what is on disk is not known")

// write appends to the segment. After a failed fsync the kernel drops what it
// could not write, and later ones succeed (Rebello et al., USENIX ATC 2020), so
// the record is taken back from the page cache: no process may find it there
// and build on it.
func (g *log) write(frame []byte) error {
	f, err := g.root.OpenFile(g.segmentName(g.seq), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	n, err := g.sys.Write(f, frame)
	if err == nil && n < len(frame) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = g.sys.Sync(f)
	}
	if err != nil {
		if back := f.Truncate(g.bytes); back != nil {
			err = errors.Join(err, errUnsure, back)
		}
		return errors.Join(fmt.Errorf("log %s: write: %w", g.dir, err), f.Close())
	}
	g.bytes += int64(len(frame))
	return f.Close()
}

// settle turns a full segment into tiles and begins the next. Each step may be
// the last before a crash: the segment has all of it until the next one is
// there, and tiles that are there already are compared.
func (g *log) settle() error {
	if err := g.putTiles(); err != nil {
		return err
	}
	h := g.newHeader(g.tree.base + tileWidth)
	h.Checkpoint = g.head.Note
	if err := g.begin(h, nil); err != nil {
		return err
	}
	g.tree.base, g.tree.leaves = h.Base, nil
	return nil
}

// putTiles writes the tiles that 256 records complete.
func (g *log) putTiles() error {
	n := g.tree.base / tileWidth
	var entries [][]byte
	for _, r := range g.records {
		entries = append(entries, r.entry)
	}
	put := func(t tlog.Tile, b []byte) error {
		name := g.tileName(t)
		if err := g.mkdirAll(path.Dir(name)); err != nil {
			return err
		}
		return g.publish(name, b)
	}
	if err := put(tlog.Tile{H: tileHeight, L: -1, N: n, W: tileWidth}, encodeBundle(entries)); err != nil {
		return err
	}
	for level := 0; ; level++ {
		hashes, err := g.tree.tile(level, n, tileWidth)
		if err != nil {
			return err
		}
		if err := put(tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth}, joinHashes(hashes)); err != nil {
			return err
		}
		if n%tileWidth != tileWidth-1 {
			return nil
		}
		n /= tileWidth
	}
}

// newHeader says what was open and linked before base, which is where the
// segment begins or ends.
func (g *log) newHeader(base int64) header {
	h := header{Base: base, Pending: []int64{}, Links: []link{}, Checkpoint: g.header.Checkpoint}
	if base == g.header.Base { // what the records say need not stand there too
		h.Pending, h.Links = g.header.Pending, g.header.Links
		return h
	}
	h.Pending = slices.AppendSeq(h.Pending, maps.Keys(g.pending))
	slices.Sort(h.Pending)
	h.Links = slices.AppendSeq(h.Links, maps.Values(g.links))
	slices.SortFunc(h.Links, func(a, b link) int { return strings.Compare(a.Tenant.String(), b.Tenant.String()) })
	return h
}

// begin makes the next segment; that it has its name is the commit point.
func (g *log) begin(h header, records []record) error {
	h.Carried = len(records)
	b, err := encodeSegment(h, records)
	if err != nil {
		return fmt.Errorf("log %s: %w", g.dir, err)
	}
	if err := g.publish(g.segmentName(g.seq+1), b); err != nil {
		return fmt.Errorf("log %s: %w", g.dir, err)
	}
	g.seq, g.bytes, g.torn, g.header, g.records = g.seq+1, int64(len(b)), 0, h, records
	g.clean()
	return nil
}

// clean removes the segments before the last, and what a crash left.
func (g *log) clean() {
	if _, older, err := g.lastSegment(); err == nil {
		for _, name := range older {
			_ = g.sys.Remove(g.root, name) // or the next time
		}
	}
	g.sweep(g.dir)
}

// rewrite makes a segment of the same records, whose bytes this process wrote
// and synced itself, and drops what was torn.
func (g *log) rewrite() error { return g.begin(g.newHeader(g.header.Base), g.records) }
