package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"strongroom/erasure"
	"strongroom/repo/objectlock"
	"strongroom/repo/pack"
	"strongroom/repo/spread"
	"strongroom/repo/store"
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
	// Fresh, if not empty, begins a new generation and says why.
	Fresh string
	// BaseCache is how many bytes of packs are kept on the box to compare the
	// next snapshot with; 0: none, so that only whole chunks are found.
	BaseCache int64
	// Locks, if not nil, locks what a snapshot needs when it commits.
	Locks *objectlock.Keeper
	// Level is how hard blocks are compressed.
	Level pack.Level
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
	began      string // why a new generation begins
	key        Secret
	chunkKey   []byte
	geometry   erasure.Geometry
	durable    *spread.Inventory // what ensureDurable confirmed
	unlocked   map[string]error  // stores that did not lock what they should
	previous   *Contents         // of head, if it can be read
	carried    []PackRecord

	packer     *packer
	journal    *journal
	maps       *mapWriter
	spill      *spillFile
	known      []*snapMap   // what chunks are found in; baseMap is the first
	baseMap    *snapMap     // of base; nil if it is lost
	baseBlocks *blockReader // of the base cache
	cache      *packCache
	spool      store.Store // c.Spool, for which the cache makes room
	recent     *recentChunks
	tables     []pack.Entry // the generation's table before this run
	units      unitPool
	hashers    sync.Pool // of *blake3.Hasher with chunkKey
	sampler    sampler

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

// Streams returns the streams that ended well so far, in no order and without
// facts.
func (s *Saver) Streams() []Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Stream, len(s.streams))
	for i, st := range s.streams {
		out[i] = st.info
	}
	return out
}

// History returns the dataset's snapshots before this one, oldest first.
func (s *Saver) History() []*Snapshot { return s.listing.Of(s.c.Dataset) }

// savedStream is a stream that ended well.
type savedStream struct {
	order   int
	info    Stream
	extents *extentSpill
}

// StreamSpec says what a stream is. Order is its place in the snapshot.
type StreamSpec struct {
	Order    int
	Name     string
	Kind     string
	PageSize int
	// Stop, if not nil, is called when the stream is given up: a Read that
	// waits for its source must then return.
	Stop func()
}

// recentChunks finds what this run itself stored a while ago; it forgets the
// oldest, so memory is bounded.
type recentChunks struct {
	mu   sync.Mutex
	m    map[chunkID]Extent
	ring []chunkID
	at   int
}

// recentLimit chunks are about 2 GiB.
const recentLimit = 1 << 15

func newRecentChunks() *recentChunks {
	return &recentChunks{m: map[chunkID]Extent{}}
}

func (c *recentChunks) lookup(id chunkID, n int) (Extent, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[id]
	return e, ok && int(e.Length) == n
}

func (c *recentChunks) has(id chunkID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.m[id]
	return ok
}

func (c *recentChunks) add(id chunkID, e Extent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.m[id]; known {
		return
	}
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

// holds reports whether an extent from a map lies in a block that exists.
func (s *Saver) holds(e Extent) bool { return within(s.tables, e) }

// inBlock is a last look, whatever the maps said: an extent of no block would
// be a snapshot that cannot be restored.
func (s *Saver) inBlock(e Extent) error {
	if !within(s.packer.table, e) {
		return fmt.Errorf("extent %+v is in no block", e)
	}
	return nil
}

func within(table []pack.Entry, e Extent) bool {
	return int(e.Block) < len(table) && e.Offset+e.Length <= table[e.Block].Raw
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
	Unlocked   map[string]error // stores that have it and did not lock it, and why
}

// State says on how many stores the snapshot is, and which did not lock it.
func (s *Saved) State() string {
	state := "complete"
	if s.Stores < s.Of {
		state = fmt.Sprintf("reduced: %d of %d stores", s.Stores, s.Of)
	}
	if len(s.Unlocked) > 0 {
		state += "; not locked on " + strings.Join(slices.Sorted(maps.Keys(s.Unlocked)), ", ")
	}
	return state
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
	if s.maps != nil {
		s.maps.discard()
	}
	s.release()
}

func (s *Saver) release() {
	if s.journal != nil {
		s.journal.close()
	}
	if s.spill != nil {
		s.spill.f.Close()
	}
	for _, m := range s.known {
		m.close()
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
	// The map is complete before the manifest exists: it is found by the
	// manifest's hash, so that of a run that dies here is never used.
	if err := s.finishMap(object); err != nil {
		s.c.Log("the map of this snapshot is lost, the next one will store more: %v", err)
		removeMap(s.c.Dir, "new") // where the disk is full, what must be kept takes its place
	}
	return s.publish(ctx, object, c.Catalogue)
}

// finishContents writes the extent list and the block table and fills in the
// counts.
func (s *Saver) finishContents(ctx context.Context, c Commit) (*Contents, error) {
	if err := s.submitShared(); err != nil {
		return nil, err
	}
	if err := s.packer.settle(); err != nil {
		return nil, err
	}
	slices.SortFunc(s.streams, func(a, b savedStream) int { return a.order - b.order })
	contents := &Contents{Description: c.Description, Detail: c.Detail, Streams: []Stream{}}
	list := &listEncoder{check: s.inBlock}
	for _, st := range s.streams {
		st.info.Facts = c.Facts[st.info.Name]
		contents.Streams = append(contents.Streams, st.info)
		list.streams = append(list.streams, st.extents.reader())
	}
	var err error
	if contents.ExtentList, err = s.addList(ctx, listOfExtents, list); err != nil {
		return nil, err
	}
	var table []byte
	for _, e := range s.packer.table {
		table = e.Append(table)
	}
	if contents.BlockTable, err = s.addList(ctx, listOfBlocks, bytes.NewReader(table)); err != nil {
		return nil, err
	}
	contents.Roots = s.roots(contents.ExtentList, contents.BlockTable)
	return contents, s.packer.drain()
}

// Names of the lists in the map: no stream has such a name.
const (
	listOfExtents = "\x00extents"
	listOfBlocks  = "\x00blocks"
)

// addList stores a list like any stream, compared with the one of the last
// snapshot. Its blocks have their places when it returns.
func (s *Saver) addList(ctx context.Context, name string, r io.Reader) (List, error) {
	w := s.newStreamWriter(ctx, name)
	w.least = listLeast
	info, err := w.copy(ctx, StreamSpec{}, r)
	if err != nil {
		return List{}, err
	}
	if err := s.submitShared(); err != nil {
		return List{}, err
	}
	if err := s.packer.settle(); err != nil {
		return List{}, err
	}
	l := List{Length: info.Length, BLAKE3: info.BLAKE3, Extents: []Extent{}}
	raw, err := io.ReadAll(w.extents.reader())
	if err != nil {
		return List{}, err
	}
	for ; len(raw) > 0; raw = raw[extentLen:] {
		e, err := parseExtent(raw[:extentLen])
		if err != nil {
			return List{}, err
		}
		l.Extents = append(l.Extents, e)
	}
	return l, nil
}

// listLeast is the shortest match in a list: its extents stand in the manifest
// as they are, and a record of the list is worth three bytes.
const listLeast = 256

// submitShared hands over the block that streams share.
func (s *Saver) submitShared() error {
	s.mu.Lock()
	b := s.shared
	s.shared = nil
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	return s.packer.submit(b)
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
	if s.sequence == 1 {
		c.Began = s.began
	}
	c.Streams, c.Read, c.New, c.Stored = len(s.streams), s.read, s.fresh, s.packer.stored
	for _, p := range s.packer.packs {
		c.Coded += p.Stored()
	}
}
