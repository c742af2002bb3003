package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"strongroom/chunker"
	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/spread"
)

// GenerationKeys keeps the keys of open generations on the box.
type GenerationKeys interface {
	// Generation returns the key of a generation, or nil if the box does not
	// have it (any more).
	Generation(tenant, dataset, generation ID) (Secret, error)
	// New makes the key of a new generation; it is durable on return.
	New(tenant, dataset, generation ID) (Secret, error)
	// Capsule seals a generation's key to the tenant's key, for the manifest.
	Capsule(tenant, dataset, generation ID) ([]byte, error)
}

// SaveConfig is what a Saver needs beside the repository.
type SaveConfig struct {
	Dataset ID
	// Dir holds the dataset's lock, journal and chunk index on the box. It
	// must exist.
	Dir   string
	Spool *Spool
	Keys  GenerationKeys
	// Signer is the box's key.
	Signer Signer
	// TenantKey is the fingerprint of T, for the manifest.
	TenantKey [32]byte
	// Incarnation counts the states of this box.
	Incarnation uint32
	// PerGeneration is how many snapshots a generation takes; at least 1.
	PerGeneration int
	// Now is the box's clock.
	Now func() time.Time
	// Log gets one line for each thing a person may want to know.
	Log func(format string, args ...any)

	// packBytes ends packs early, for tests of many packs; 0: full packs.
	packBytes int
}

// A Saver writes one snapshot. Add may be called concurrently; Commit or Abort
// once.
type Saver struct {
	r    *Repo
	c    SaveConfig
	lock *os.File

	set        *spread.Set
	listing    *Listing
	base       *Snapshot // the snapshot it builds on, nil in a new generation
	head       *Snapshot // the newest of the dataset, nil for the first
	generation ID
	epoch      uint32
	sequence   uint32
	key        Secret
	chunkKey   []byte
	geometry   erasure.Geometry
	previous   *Contents // of head, if it can be read
	carried    []PackRecord

	packer  *packer
	journal *journal
	index   *indexWriter
	known   []*chunkIndex
	recent  *recentChunks
	tables  []pack.Entry // the generation's table before this run

	mu      sync.Mutex // guards what follows
	streams []savedStream
	names   map[string]bool
	failed  error  // of the first stream that broke
	shared  *block // tails of streams; the next new bytes go here
	read    int64
	fresh   int64
}

// Previous returns the contents of the dataset's newest snapshot before this
// one, or nil.
func (s *Saver) Previous() *Contents { return s.previous }

// savedStream is a stream that ended well.
type savedStream struct {
	order   int
	info    Stream
	extents []Extent
}

// StreamSpec says what a stream is. Order is its place in the snapshot.
type StreamSpec struct {
	Order    int
	Name     string
	Kind     string
	PageSize int
}

// recentChunks finds what this run itself stored a while ago; it forgets the
// oldest, so memory is bounded.
type recentChunks struct {
	mu   sync.Mutex
	m    map[chunkID]Extent
	ring []chunkID
	at   int
}

const recentLimit = 1 << 16

func (c *recentChunks) lookup(id chunkID) (Extent, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[id]
	return e, ok
}

func (c *recentChunks) add(id chunkID, e Extent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) < recentLimit {
		c.ring = append(c.ring, id)
	} else {
		delete(c.m, c.ring[c.at])
		c.ring[c.at] = id
		c.at = (c.at + 1) % recentLimit
	}
	c.m[id] = e
}

// newGeneration starts a generation with a fresh key.
func (s *Saver) newGeneration() error {
	rand.Read(s.generation[:])
	var err error
	s.key, err = s.c.Keys.New(s.r.Tenant, s.c.Dataset, s.generation)
	return err
}

// Add reads a stream to its end and stores what is new of it. When it fails,
// the snapshot has failed: its chunks may stand in blocks that are gone.
func (s *Saver) Add(ctx context.Context, spec StreamSpec, r io.Reader) (Stream, error) {
	err := s.claim(spec.Name)
	var info Stream
	var w *streamWriter
	if err == nil {
		w = s.newStreamWriter()
		info, err = w.copy(ctx, spec, strictReader{r})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("stream %q: %w", spec.Name, err)
		s.failed = cmp.Or(s.failed, err)
		return Stream{}, err
	}
	s.streams = append(s.streams, savedStream{spec.Order, info, w.extents})
	s.read += info.Length
	s.fresh += w.fresh
	return info, nil
}

// claim takes a stream's name, which readers find it by.
func (s *Saver) claim(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" || !utf8.ValidString(name) {
		return errors.New("the name of a stream must be text in UTF-8, and not empty")
	}
	if s.names[name] {
		return errors.New("the snapshot has a stream of that name already")
	}
	if s.names == nil {
		s.names = map[string]bool{}
	}
	s.names[name] = true
	return nil
}

// A strictReader ends only with io.EOF itself. An error that merely wraps it,
// like that of a connection which was cut, is a stream that broke.
type strictReader struct{ r io.Reader }

func (s strictReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF && errors.Is(err, io.EOF) {
		err = fmt.Errorf("broke off: %v", err)
	}
	return n, err
}

// streamWriter turns one stream into extents.
type streamWriter struct {
	s        *Saver
	predict  []predictor
	ids      *blake3.Hasher
	whole    *blake3.Hasher
	cur      *block
	extents  []Extent
	records  []byte // of the index, not yet handed over
	fresh    int64
	compress *pack.Compressor // set after settle: blocks are added at once
}

func (s *Saver) newStreamWriter() *streamWriter {
	w := &streamWriter{s: s, whole: blake3.New()}
	w.ids, _ = blake3.NewKeyed(s.chunkKey) // fails only for keys of other lengths
	for _, x := range s.known {
		w.predict = append(w.predict, predictor{x: x})
	}
	return w
}

func (w *streamWriter) copy(ctx context.Context, spec StreamSpec, r io.Reader) (Stream, error) {
	c, err := chunker.New(r, spec.PageSize)
	if err != nil {
		return Stream{}, err
	}
	var length int64
	for {
		if err := ctx.Err(); err != nil {
			return Stream{}, err
		}
		chunk, err := c.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return Stream{}, err
		}
		length += int64(len(chunk))
		w.whole.Write(chunk)
		if err := w.chunk(chunk); err != nil {
			return Stream{}, err
		}
	}
	if err := w.finish(); err != nil {
		return Stream{}, err
	}
	return Stream{Name: spec.Name, Kind: spec.Kind, PageSize: spec.PageSize, Length: length,
		BLAKE3: hex.EncodeToString(w.whole.Sum(nil)), Extents: int64(len(w.extents))}, nil
}

// chunk finds a chunk or stores it, and notes its place.
func (w *streamWriter) chunk(p []byte) error {
	w.ids.Reset()
	w.ids.Write(p)
	id := chunkID(w.ids.Sum(nil))
	e, ok := w.find(id, len(p))
	if !ok {
		var err error
		if e, err = w.store(id, p); err != nil {
			return err
		}
	}
	w.extents = appendExtent(w.extents, e)
	w.records = appendRecord(w.records, id, e)
	if len(w.records) >= 1024*chunkRecord {
		w.s.index.add(w.records)
		w.records = w.records[:0]
	}
	return nil
}

func (w *streamWriter) find(id chunkID, n int) (Extent, bool) {
	for i := range w.predict {
		// The length is part of what the id promises; a damaged index is no
		// reason to believe it.
		if e, ok := w.predict[i].lookup(id); ok && int(e.Length) == n && w.s.holds(e) {
			return e, true
		}
	}
	return w.s.recent.lookup(id)
}

// holds reports whether an extent from an index lies in a block that exists.
func (s *Saver) holds(e Extent) bool { return within(s.tables, e) }

func within(table []pack.Entry, e Extent) bool {
	return int(e.Block) < len(table) && e.Offset+e.Length <= table[e.Block].Raw
}

// store appends a new chunk to the stream's block. A chunk never straddles two
// blocks, so that its place is always one extent.
func (w *streamWriter) store(id chunkID, p []byte) (Extent, error) {
	for {
		if w.cur == nil {
			w.borrow()
		}
		if len(w.cur.raw)+len(p) <= pack.MaxBlock {
			break
		}
		if err := w.submit(); err != nil {
			return Extent{}, err
		}
	}
	e := Extent{Block: w.cur.number, Offset: uint32(len(w.cur.raw)), Length: uint32(len(p))}
	w.cur.raw = append(w.cur.raw, p...)
	w.cur.chunks = appendRecord(w.cur.chunks, id, e)
	w.fresh += int64(len(p))
	w.s.recent.add(id, e)
	return e, nil
}

func (w *streamWriter) submit() error {
	b := w.cur
	w.cur = nil
	if w.compress != nil {
		return w.s.packer.addNow(w.compress, b)
	}
	return w.s.packer.submit(b)
}

// finish hands over what is left. A block that is far from full is lent to the
// next stream: many small tables share blocks.
func (w *streamWriter) finish() error {
	w.s.index.add(w.records)
	w.records = nil
	if w.cur == nil {
		return nil
	}
	w.s.mu.Lock()
	lend := w.compress == nil && w.s.shared == nil && len(w.cur.raw) < pack.MaxBlock/2
	if lend {
		w.s.shared, w.cur = w.cur, nil
	}
	w.s.mu.Unlock()
	if lend {
		return nil
	}
	return w.submit()
}

// borrow takes the shared block, or a new one.
func (w *streamWriter) borrow() {
	w.s.mu.Lock()
	w.cur, w.s.shared = w.s.shared, nil
	w.s.mu.Unlock()
	if w.cur == nil {
		w.cur = w.s.packer.newBlock()
	}
}

// A Commit is what Saver.Commit records beside the streams.
type Commit struct {
	Catalogue   Catalogue // counts are filled in
	KeepUntil   time.Time
	Description json.RawMessage
	Detail      json.RawMessage
	Facts       map[string]json.RawMessage // per stream name
}

// A Saved is a committed snapshot.
type Saved struct {
	ID         string
	Generation ID
	Epoch      uint32
	Sequence   uint32
	Catalogue  Catalogue
	Stores     int // that hold the manifest
	Of         int
	Failures   map[string]error // stores that failed, and why
}

// State says on how many stores the snapshot is.
func (s *Saved) State() string {
	if s.Stores < s.Of {
		return fmt.Sprintf("reduced: %d of %d stores", s.Stores, s.Of)
	}
	return "complete"
}

// Abort stops a run. What it stored stays as orphans, which the next run may
// adopt.
func (s *Saver) Abort(cause error) {
	if cause == nil {
		cause = errors.New("aborted")
	}
	s.packer.abort(cause)
	s.discard()
}

// discard drops what only this run could use, then releases the rest.
func (s *Saver) discard() {
	// Before the lock goes: the next run writes files of the same names.
	if s.index != nil {
		s.index.discard()
	}
	s.release()
}

func (s *Saver) release() {
	if s.journal != nil {
		s.journal.close()
	}
	for _, x := range s.known {
		x.close()
	}
	s.lock.Close() // releases the lock too
}

// Commit stores the lists and writes the manifest. On success the snapshot is
// there; on ErrIncomplete it will be when the stores answer again.
func (s *Saver) Commit(ctx context.Context, c Commit) (*Saved, error) {
	saved, err := s.commit(ctx, c)
	if err != nil {
		s.Abort(err)
		return nil, err
	}
	s.release()
	return saved, nil
}

func (s *Saver) commit(ctx context.Context, c Commit) (*Saved, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	contents, err := s.finishContents(ctx, c)
	if err != nil {
		return nil, err
	}
	s.fillCounts(&c.Catalogue)
	m, err := s.buildManifest(c, contents)
	if err != nil {
		return nil, err
	}
	if err := s.ensureDurable(ctx, m.Packs); err != nil {
		return nil, err
	}
	c.Catalogue.Finished = s.c.Now().UTC()
	object, err := sealManifest(m, s.r.Catalogue, s.key, &c.Catalogue, contents, s.c.Signer)
	if err != nil {
		return nil, err
	}
	// The index is complete before the manifest exists: it is found by the
	// manifest's hash, so that of a run that dies here is never used.
	if err := s.finishIndex(object); err != nil {
		s.c.Log("the chunk index is lost, the next snapshot will store more: %v", err)
	}
	return s.publish(ctx, object, c.Catalogue)
}

// finishContents writes the extent list and the block table and fills in the
// counts.
func (s *Saver) finishContents(ctx context.Context, c Commit) (*Contents, error) {
	if s.shared != nil {
		if err := s.packer.submit(s.shared); err != nil {
			return nil, err
		}
		s.shared = nil
	}
	if err := s.packer.settle(); err != nil {
		return nil, err
	}
	slices.SortFunc(s.streams, func(a, b savedStream) int { return a.order - b.order })
	contents := &Contents{Description: c.Description, Detail: c.Detail, Streams: []Stream{}}
	var list []byte
	for i, st := range s.streams {
		st.info.Facts = c.Facts[st.info.Name]
		contents.Streams = append(contents.Streams, st.info)
		for _, e := range st.extents {
			// A last look, whatever the indexes said: an extent of no block would
			// be a snapshot that cannot be restored.
			if !within(s.packer.table, e) {
				return nil, fmt.Errorf("internal error: stream %q: extent %+v is in no block", st.info.Name, e)
			}
			list = e.append(list)
		}
		s.streams[i].extents = nil
	}
	var err error
	if contents.ExtentList, err = s.addList(ctx, list); err != nil {
		return nil, err
	}
	var table []byte
	for _, e := range s.packer.table {
		table = e.Append(table)
	}
	if contents.BlockTable, err = s.addList(ctx, table); err != nil {
		return nil, err
	}
	contents.Roots = s.roots(contents.ExtentList, contents.BlockTable)
	return contents, s.packer.drain()
}

// addList stores a list like any stream, but in the caller's goroutine, so that
// its blocks have their place when it returns.
func (s *Saver) addList(ctx context.Context, b []byte) (List, error) {
	c, err := pack.NewCompressor()
	if err != nil {
		return List{}, err
	}
	w := s.newStreamWriter()
	w.compress = c
	info, err := w.copy(ctx, StreamSpec{}, bytes.NewReader(b))
	if err != nil {
		return List{}, err
	}
	return List{Length: info.Length, BLAKE3: info.BLAKE3, Extents: append([]Extent{}, w.extents...)}, nil
}

// roots returns where the blocks of the lists lie, each once.
func (s *Saver) roots(lists ...List) []Root {
	roots := []Root{}
	seen := map[uint32]bool{}
	for _, l := range lists {
		for _, x := range l.Extents {
			if !seen[x.Block] {
				seen[x.Block] = true
				e := s.packer.table[x.Block]
				roots = append(roots, Root{Block: x.Block, Pack: e.Index, Offset: e.Offset, Stored: e.Stored, Raw: e.Raw, Codec: e.Codec})
			}
		}
	}
	return roots
}

func (s *Saver) buildManifest(c Commit, contents *Contents) (*Manifest, error) {
	capsule, err := s.c.Keys.Capsule(s.r.Tenant, s.c.Dataset, s.generation)
	if err != nil {
		return nil, fmt.Errorf("seal generation key: %w", err)
	}
	m := &Manifest{Tenant: s.r.Tenant, Dataset: s.c.Dataset, Generation: s.generation, Epoch: s.epoch, Sequence: s.sequence,
		Incarnation: s.c.Incarnation, Time: s.c.Now().UTC().Truncate(time.Second), KeepUntil: c.KeepUntil.UTC().Truncate(time.Second),
		TenantKey: s.c.TenantKey, Capsule: capsule}
	if c.KeepUntil.IsZero() {
		m.KeepUntil = time.Time{}
	}
	if s.head != nil {
		m.Previous = s.head.hash
	}
	m.Packs = append(slices.Clone(s.carried), s.packer.packs...)
	slices.SortFunc(m.Packs, func(a, b PackRecord) int { return int(a.Number) - int(b.Number) })
	return m, nil
}

// fillCounts completes a catalogue entry.
func (s *Saver) fillCounts(c *Catalogue) {
	c.Streams, c.Read, c.New, c.Stored = len(s.streams), s.read, s.fresh, s.packer.stored
	for _, p := range s.packer.packs {
		c.Coded += p.Stored()
	}
}
