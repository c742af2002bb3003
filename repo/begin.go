package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"strongroom/erasure"
	"strongroom/repo/pack"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// Begin opens a dataset for one new snapshot. Its first acts are those that a
// dead run left undone: objects in the spool go to their stores, a manifest
// that is on one store goes to the others. It returns ErrLocked if another
// process writes the dataset, ErrConflict if another box does.
func (r *Repo) Begin(ctx context.Context, c SaveConfig) (*Saver, error) {
	geometry, err := erasure.Plan(len(r.Members))
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	s := &Saver{r: r, c: c, lock: lock, set: spread.NewSet(r.Members), geometry: geometry, recent: newRecentChunks(), unlocked: map[string]error{}}
	if err := s.begin(ctx); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

// Lock takes the lock of a dataset's directory without waiting, as a writer of
// the dataset does; closing it releases it. ErrLocked: another process has it.
func Lock(dir string) (io.Closer, error) { return lockDir(dir) }

// lockDir takes the lock of a dataset's directory without waiting.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: another process is writing this dataset (%s)", ErrLocked, f.Name())
	}
	return f, nil
}

func (s *Saver) begin(ctx context.Context) error {
	// A manifest in the spool counts as committed: the run that put it there
	// had confirmed every shard. So it is listed, and finished, like one on a
	// store.
	if err := s.flushSpool(ctx); err != nil {
		return err
	}
	var err error
	withSpool := *s.r
	withSpool.Members = append(slices.Clone(s.r.Members), spread.Member{Name: "spool", Store: s.c.Spool})
	if s.listing, err = withSpool.List(ctx); err != nil {
		return err
	}
	if err := s.reached(); err != nil {
		return err
	}
	for _, p := range s.listing.Problems {
		if p.Object != "" {
			s.c.Log("%s", p.Text)
		}
	}
	if err := s.checkWriters(); err != nil {
		return err
	}
	if err := s.finishOthers(ctx); err != nil {
		return err
	}
	if err := s.chooseGeneration(ctx); err != nil {
		return err
	}
	return s.start(ctx)
}

// reached gives up the stores that did not answer the listing and refuses when
// fewer than k are left: nothing could be committed.
func (s *Saver) reached() error {
	var why []error
	up := 0
	for i := range s.r.Members {
		if err := s.listing.inventory.Failed(i); err != nil {
			s.set.Fail(i, errors.Unwrap(err))
			why = append(why, err)
		} else {
			up++
		}
	}
	if k := s.geometry.K; up < k {
		return fmt.Errorf("%w: %d of %d stores answer, a snapshot needs %d: %w", ErrIncomplete, up, len(s.r.Members), k, errors.Join(why...))
	}
	return nil
}

// checkWriters refuses to write beside another writer, and notices stores that
// show an older state than this box has committed.
func (s *Saver) checkWriters() error {
	all := s.listing.Of(s.c.Dataset)
	for _, m := range all {
		// What went wrong before this box was replaced is history: it opens a
		// generation of its own. Among boxes of one state none may go on.
		if m.Conflict && m.Incarnation >= s.c.Incarnation {
			return fmt.Errorf("%w: two manifests of epoch %d, sequence %d exist (%s): find out which box is the right one before writing on", ErrConflict, m.Epoch, m.Sequence, m.ID())
		}
		if m.Incarnation > s.c.Incarnation {
			return fmt.Errorf("%w: snapshot %s was written by incarnation %d of the box, this is incarnation %d: this box was replaced and must not write any more", ErrConflict, m.ID(), m.Incarnation, s.c.Incarnation)
		}
	}
	if len(all) > 0 {
		s.head = all[len(all)-1]
	}
	last, err := ReadHead(s.c.Dir) // under its lock
	if err != nil {
		return err
	}
	if err := s.listing.Behind(last, s.c.Dataset); err != nil {
		return fmt.Errorf("%w; only if it is gone for good, move %s out of the way", err, last.path)
	}
	return nil
}

// chooseGeneration goes on in the newest generation if this box wrote it, still
// has its key and can read its block table; else it starts a new one.
func (s *Saver) chooseGeneration(ctx context.Context) error {
	var old journalHead
	var packs []journalPack
	head, found, err := readJournal(s.c.Dir)
	if err == nil {
		old, packs = head, found
	} else if !errors.Is(err, fs.ErrNotExist) {
		s.c.Log("the journal of an interrupted run cannot be read and is dropped: %v", err)
	}
	why := ""
	if s.head != nil {
		if why = s.appendable(ctx); why == "" {
			why = cmp.Or(s.c.Fresh, s.outgrown())
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if why == "" {
			s.base = s.head
			s.generation, s.epoch, s.sequence = s.base.Generation, s.base.Epoch, s.base.Sequence+1
			s.carried = s.base.Packs
			return s.adopt(ctx, old, packs)
		}
		s.c.Log("a new generation begins: %s", why)
		s.epoch = s.head.Epoch
	}
	s.base, s.tables, s.began = nil, nil, cmp.Or(why, "it is the first snapshot of the dataset")
	s.epoch, s.sequence = s.epoch+1, 1
	if old.Epoch == s.epoch && old.Sequence == 1 && old.Base == s.headHash() {
		key, err := s.c.Keys.Generation(s.r.Tenant, s.c.Dataset, old.Generation)
		if err != nil {
			return err
		}
		if key != nil {
			s.generation, s.key = old.Generation, key
			return s.adopt(ctx, old, packs)
		}
	}
	if err := s.newGeneration(); err != nil {
		return err
	}
	return s.adopt(ctx, journalHead{}, nil)
}

func (s *Saver) headHash() (h [32]byte) {
	if s.head != nil {
		h = s.head.hash
	}
	return h
}

// appendable says why the newest generation cannot be gone on with, or "".
func (s *Saver) appendable(ctx context.Context) string {
	h := s.head
	key, err := s.c.Keys.Generation(s.r.Tenant, s.c.Dataset, h.Generation)
	if err != nil {
		return fmt.Sprintf("the key of the last one cannot be read: %v", err)
	} else if key == nil {
		return "this box does not have the key of the last one"
	}
	snap, err := openSnapshot(ctx, s.listing.inventory, h, key)
	if err != nil {
		return fmt.Sprintf("the last one cannot be read: %v", err)
	}
	s.previous = snap.Contents()
	switch {
	case h.Box != s.c.Signer.Public() || h.Incarnation != s.c.Incarnation:
		return "the last one belongs to another box"
	case int(h.Sequence) >= s.c.PerGeneration:
		return fmt.Sprintf("the last one has its %d snapshots", h.Sequence)
	}
	if s.tables, err = snap.blockTable(ctx); err != nil {
		return fmt.Sprintf("the block table of the last one cannot be read: %v", err)
	}
	prefix := generationPrefix(h.Tenant, h.Generation)
	for _, p := range h.Packs {
		left := 0
		for _, at := range s.listing.inventory.Present(prefix, p.Pack) {
			left += min(len(at), 1)
		}
		if left < p.Geometry.K {
			// Nothing could be committed on top of it.
			return fmt.Sprintf("of pack %v of the last one %d shards are left, %d are needed", p.ID, left, p.Geometry.K)
		}
	}
	s.key = key
	return ""
}

// worthwhile is how many bytes must be at stake before a generation ends for
// its size: what is smaller costs nothing either way.
const worthwhile = 16 << 20

// outgrown says why a generation that could be gone on with is better ended,
// or "": a restore from it reads ever more packs that hold ever less of the
// newest snapshot, and nothing of it can be deleted before all of it.
func (s *Saver) outgrown() string {
	h := s.head.Entry
	if h == nil {
		return "" // without the catalogue key it cannot be told
	}
	if s.head.Sequence > 1 && h.New > worthwhile && h.New > h.Read/2 {
		return fmt.Sprintf("more than half of the last snapshot was new (%d of %d bytes)", h.New, h.Read)
	}
	var full, growth int64 // what a full snapshot would store now, and what was stored since
	for _, m := range s.listing.Of(s.c.Dataset) {
		switch {
		case m.Generation != s.head.Generation || m.Entry == nil:
		case m.Sequence == 1 && m.Entry.Read > 0:
			full = int64(float64(m.Entry.Stored) * float64(h.Read) / float64(m.Entry.Read))
		case m.Sequence > 1:
			growth += m.Entry.Stored
		}
	}
	if growth > worthwhile && growth > full && full > 0 {
		return fmt.Sprintf("what was stored since its full snapshot, %d bytes, is more than a full one takes now, about %d", growth, full)
	}
	return ""
}

// adopt takes over the packs of a dead run of which every shard is durable,
// and opens journal and index for this one.
func (s *Saver) adopt(ctx context.Context, old journalHead, packs []journalPack) error {
	var base [32]byte
	if s.base != nil {
		base = s.base.hash
	} else {
		base = s.headHash()
	}
	same := old.Generation == s.generation && old.Base == base && old.Sequence == s.sequence
	var kept []journalPack
	if same && len(packs) > 0 {
		prefix := generationPrefix(s.r.Tenant, s.generation)
		for _, j := range packs {
			p, err := j.record()
			if err != nil {
				return err
			}
			if present := s.listing.inventory.Present(prefix, p.Pack); spread.Domains(present) == p.Geometry.N && s.adoptable(j) {
				kept = append(kept, j)
				s.carried = append(slices.Clip(s.carried), p)
			}
		}
		s.c.Log("an interrupted run left %d packs; %d of them are whole and are kept", len(packs), len(kept))
	}
	var err error
	s.journal, err = createJournal(s.c.Dir, journalHead{Generation: s.generation, Epoch: s.epoch, Base: base, Sequence: s.sequence}, kept)
	if err != nil {
		return err
	}
	return s.openMaps(ctx, kept)
}

// adoptable enters the blocks of a pack into the table.
func (s *Saver) adoptable(j journalPack) bool {
	entries := make([]pack.Entry, 0, len(j.Entries)/pack.EntryLen)
	for b := j.Entries; len(b) > 0; b = b[pack.EntryLen:] {
		e, err := pack.ParseEntry(b[:pack.EntryLen])
		if err != nil || e.Void() || e.Index > 1<<28 || int(e.Index) < len(s.tables) && !s.tables[e.Index].Void() {
			return false
		}
		entries = append(entries, e)
	}
	for _, e := range entries {
		for int(e.Index) >= len(s.tables) {
			s.tables = append(s.tables, pack.Entry{})
		}
		n := e.Index
		e.Index = j.Number
		s.tables[n] = e
	}
	return true
}

// openMaps opens the map of the snapshot it builds on and makes one of the
// adopted packs.
func (s *Saver) openMaps(ctx context.Context, kept []journalPack) error {
	var err error
	if s.chunkKey, err = deriveKey(s.key, kindChunkID, s.generation, ID{}); err != nil {
		return err
	}
	key, err := deriveKey(s.key, kindMap, s.generation, ID{})
	if err != nil {
		return err
	}
	if s.cache, err = openPackCache(s.c.Dir, s.generation, s.c.BaseCache); err != nil {
		s.c.Log("there is no base cache in this run: %v", err)
	}
	s.spool = roomySpool{s.c.Spool, s.cache}
	if s.base != nil {
		m, err := openMap(s.c.Dir, mapName(s.base.hash), key)
		if err != nil {
			s.c.Log("the map of the last snapshot is gone (%v): this one stores what it cannot find", err)
		} else {
			s.known, s.baseMap = append(s.known, m), m
			go m.finder() // it takes a quarter of a second for a GiB
			s.baseBlocks = newBlockReader(s.base.Manifest, s.key, s.cache, nil)
			s.baseBlocks.table = slices.Clone(s.tables)
		}
	}
	if len(kept) > 0 {
		m, err := mapAdopted(s.c.Dir, key, kept)
		if err != nil {
			return err
		}
		s.known = append(s.known, m)
	}
	if s.spill, err = newSpillFile(s.c.Dir); err != nil {
		return err
	}
	s.maps, err = newMapWriter(s.c.Dir, "new", key)
	return err
}

// mapAdopted makes a map of the chunks of adopted packs.
func mapAdopted(dir string, key []byte, kept []journalPack) (*snapMap, error) {
	w, err := newMapWriter(dir, "adopted", key)
	if err != nil {
		return nil, err
	}
	number := w.stream("")
	for _, j := range kept {
		w.addRecords(number, j.Chunks)
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	return openMap(dir, "adopted", key)
}

// start makes the packer.
func (s *Saver) start(ctx context.Context) error {
	next := uint32(0)
	for _, p := range s.carried {
		next = max(next, p.Number+1)
	}
	p := &packer{tenant: s.r.Tenant, generation: s.generation, key: s.key, prefix: generationPrefix(s.r.Tenant, s.generation),
		set: s.set, spool: s.spool, journal: s.journal, cache: s.cache, level: s.c.Level, geometry: s.geometry, nextPack: next, table: slices.Clone(s.tables), packBytes: s.c.packBytes}
	var err error
	s.packer, err = newPacker(ctx, p)
	return err
}

func mapName(hash [32]byte) string { return fmt.Sprintf("map-%x", hash[:8]) }

// dropOtherMaps removes every map but one.
func dropOtherMaps(dir, keep string) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return // they cost space only, and go next time
	}
	for _, n := range names {
		ext := filepath.Ext(n.Name())
		if base := strings.TrimSuffix(n.Name(), ext); base != keep && slices.Contains(mapFiles, ext) {
			os.Remove(filepath.Join(dir, n.Name()))
		}
	}
}

var _ store.Store = (*Spool)(nil)
