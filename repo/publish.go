package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strongroom/erasure"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// A Head is what this box committed last of a dataset, kept beside the index:
// the stores cannot be rolled back behind it unnoticed. The zero value is that
// of a dataset of which it has committed nothing.
type Head struct {
	Hash     string `json:"hash"`
	Epoch    uint32 `json:"epoch"`
	Sequence uint32 `json:"sequence"`

	path string
}

const headName = "head"

// ReadHead reads the head from a dataset's directory. Whoever compares it with
// a listing reads it before the stores are listed: a backup may commit between.
func ReadHead(dir string) (h Head, err error) {
	h.path = filepath.Join(dir, headName)
	b, err := os.ReadFile(h.path)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	} else if err != nil {
		return h, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, fmt.Errorf("%s: %w", h.path, err)
	}
	return h, nil
}

// Behind returns ErrIntegrity if a dataset's head is not in the listing: the
// stores were rolled back, or those that have it are away.
func (l *Listing) Behind(last Head, dataset ID) error {
	if last.Hash == "" || slices.ContainsFunc(l.Of(dataset), func(m *Snapshot) bool { return m.HexHash() == last.Hash }) {
		return nil
	}
	return fmt.Errorf("%w: snapshot %.10s, which this box committed as epoch %d, sequence %d, is on none of the stores that answer: they were rolled back, or those that have it are away",
		ErrIntegrity, last.Hash, last.Epoch, last.Sequence)
}

func writeHead(dir string, m *signed) error {
	b, err := json.Marshal(Head{Hash: fmt.Sprintf("%x", m.hash), Epoch: m.Epoch, Sequence: m.Sequence})
	if err != nil {
		return err
	}
	return ReplaceFile(filepath.Join(dir, headName), b)
}

// ReplaceFile makes a file of mode 0600 durable under a name on the box: after a
// crash it holds what it held before, or all of b. One writer at a time: the
// caller has a lock. What a crash leaves is path.new, which the next one
// overwrites.
func ReplaceFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return errors.Join(os.Rename(path+".new", path), syncDir(filepath.Dir(path)))
}

// ensureDurable makes sure that of every pack all shards are durable, on their
// stores or in the spool, enough of them in distinct fault domains, and k of
// them outside the box. All of it is confirmed by listings made now. What a
// store lost is made again there; what it cannot confirm since it is away, in
// the spool.
func (s *Saver) ensureDurable(ctx context.Context, packs []PackRecord) error {
	prefix := generationPrefix(s.r.Tenant, s.generation)
	members := append(slices.Clone(s.r.Members), spread.Member{Name: "spool", Store: s.c.Spool})
	reader := spread.NewReader(ctx, members, prefix)
	if err := ctx.Err(); err != nil {
		return err
	}
	inv := reader.Inventory()
	s.durable = inv
	spool := len(s.r.Members)
	for i := range s.r.Members {
		if err := inv.Failed(i); err != nil {
			s.set.Fail(i, errors.Unwrap(err))
		}
	}
	for _, p := range packs {
		present := inv.Present(prefix, p.Pack)
		for i := range present {
			if len(present[i]) > 0 {
				continue
			}
			shard, err := reader.Rebuild(ctx, p.Pack, i)
			if err != nil {
				return fmt.Errorf("%w: shard %d of a pack is gone and cannot be made again: %w", ErrIncomplete, i, err)
			}
			at, err := s.place(ctx, p, i, shard)
			if err != nil {
				return err
			}
			present[i] = []int{at}
		}
		if !survivesOne(p, present) {
			if err := s.spreadOut(ctx, reader, p, present); err != nil {
				return err
			}
		}
		if err := enough(p, present, spool); err != nil {
			return err
		}
	}
	return nil
}

// spreadOut stores every shard of a pack at home that lies elsewhere only. The
// stores may have been configured otherwise when it was written, and then two
// shards share one of them.
func (s *Saver) spreadOut(ctx context.Context, reader *spread.Reader, p PackRecord, present [][]int) error {
	for i := range min(len(present), len(s.r.Members)) {
		if slices.Contains(present[i], i) || s.set.Down(i) != nil {
			continue
		}
		shard, err := reader.Rebuild(ctx, p.Pack, i)
		if err != nil {
			return fmt.Errorf("%w: shard %d of a pack cannot be made again: %w", ErrIncomplete, i, err)
		}
		at, err := s.place(ctx, p, i, shard)
		if err != nil {
			return err
		}
		present[i] = append(present[i], at)
	}
	return nil
}

// place stores a shard that was made again: on its store if that takes it and
// then shows it, else in the spool. It returns the member that has it.
func (s *Saver) place(ctx context.Context, p PackRecord, i int, shard []byte) (int, error) {
	prefix := generationPrefix(s.r.Tenant, s.generation)
	if i < len(s.r.Members) && s.set.Down(i) == nil {
		key, err := s.putAttempt(ctx, i, p.Key(prefix, i, 0), shard, p.Shards[i])
		if err == nil {
			// It is here because this store did not have what it should: its word
			// alone is not enough.
			err = confirm(ctx, s.r.Members[i].Store, key, len(shard))
		}
		if err == nil {
			s.durable.Add(i, store.Info{Key: key, Size: int64(len(shard))})
			return i, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		s.set.Fail(i, err)
	}
	key := p.Key(prefix, i, 0)
	err := s.spool.Put(ctx, key, shard, p.Shards[i])
	if errors.Is(err, store.ErrExists) {
		// Damaged on the box's own disk; nothing there is write-once.
		if err = s.c.Spool.Remove(key); err == nil {
			err = s.spool.Put(ctx, key, shard, p.Shards[i])
		}
	}
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	return len(s.r.Members), nil
}

// confirm asks a store for an object that it said it has stored.
func confirm(ctx context.Context, st store.Store, key string, size int) error {
	info, err := st.Stat(ctx, key)
	if err == nil && info.Size == int64(size) {
		return nil
	}
	return fmt.Errorf("%s was stored and is not there: %w", key, cmp.Or(err, store.ErrTampered))
}

// putAttempt stores a shard on member i under key, or, where something else has
// that name (a shard that was cut off, say), as the next attempt: nothing is
// ever overwritten. It returns the key it got.
func (s *Saver) putAttempt(ctx context.Context, i int, key string, shard []byte, sum [32]byte) (string, error) {
	base, err := key[:len(key)-2], error(nil)
	for attempt := range spread.MaxAttempts {
		key = fmt.Sprintf("%s%02x", base, attempt)
		if err = s.r.Members[i].Store.Put(ctx, key, shard, sum); !errors.Is(err, store.ErrExists) {
			return key, err
		}
	}
	return key, err
}

// survivesOne reports whether a pack's shards lie as a commit asks for: enough
// of them in distinct fault domains, or, where there are fewer domains than
// when it was written, so many in each that any one may go.
func survivesOne(p PackRecord, present [][]int) bool {
	return spread.Domains(present) >= p.Geometry.CommitShards() || spread.Margin(present, p.Geometry.K) >= 1
}

// enough is the commit rule for one pack.
func enough(p PackRecord, present [][]int, spool int) error {
	if got, want := spread.Domains(present), p.Geometry.CommitShards(); !survivesOne(p, present) {
		return fmt.Errorf("%w: pack %v has shards in %d fault domains, a commit needs %d", ErrIncomplete, p.ID, got, want)
	}
	outside := make([][]int, len(present))
	for i, at := range present {
		for _, m := range at {
			if m != spool {
				outside[i] = append(outside[i], m)
			}
		}
	}
	if got := spread.Domains(outside); got < p.Geometry.K && !survivesOne(p, outside) {
		return fmt.Errorf("%w: pack %v has %d shards on stores, a commit needs %d", ErrIncomplete, p.ID, got, p.Geometry.K)
	}
	return nil
}

// finishMap completes the map under the name of the new manifest.
func (s *Saver) finishMap(m *signed) error {
	if err := s.maps.finish(); err != nil {
		return fmt.Errorf("snapshot map: %w", err)
	}
	name := filepath.Join(s.c.Dir, mapName(m.hash))
	for _, ext := range []string{".sparse", ".sorted", ".map"} {
		if err := os.Rename(filepath.Join(s.c.Dir, "new"+ext), name+ext); err != nil {
			return err
		}
	}
	return nil
}

// publish writes the manifest: first into the spool, then store by store.
//
// Crash story. Before the spool has it, nothing is committed and the packs are
// there to be adopted; where a store locks them, they are kept for the window,
// and nothing else that no snapshot needs ever is. Once it is durable in the spool it is a commit, because
// every shard was confirmed: the next run lists the spool beside the stores
// and finishes it. A store gets it only when it has its shards, so a store
// that has the manifest is never behind it.
func (s *Saver) publish(ctx context.Context, m *signed, c Catalogue) (*Saved, error) {
	key := m.Key()
	sum := sha256.Sum256(m.raw)
	// Two writers with the same state meet here: the first store that has
	// another manifest of this sequence ends the run before ours is anywhere.
	for i, member := range s.r.Members {
		if s.set.Down(i) != nil {
			continue
		}
		if _, err := member.Store.Stat(ctx, key); err == nil {
			if err := s.taken(ctx, i, m); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, store.ErrNotExist) {
			s.set.Fail(i, err)
		}
	}
	if err := s.lockNeeded(ctx, m); err != nil {
		return nil, err
	}
	if err := s.spool.Put(ctx, key, m.raw, sum); err != nil {
		return nil, fmt.Errorf("spool manifest: %w", err)
	}
	done, err := s.putManifest(ctx, m)
	if errors.Is(err, ErrConflict) && done == 0 {
		// Ours is nowhere but in the spool, and must not be finished later.
		err = errors.Join(err, s.c.Spool.Remove(key))
	}
	if err != nil {
		return nil, err
	}
	saved := &Saved{ID: fmt.Sprintf("%x", m.hash[:5]), Generation: m.Generation, Epoch: m.Epoch, Sequence: m.Sequence,
		Catalogue: c, Stores: done, Of: len(s.r.Members), Failures: s.set.Failures(), Unlocked: s.unlocked}
	if err := writeHead(s.c.Dir, m); err != nil {
		return nil, fmt.Errorf("snapshot %s is committed, but the box could not note it: %w", saved.ID, err)
	}
	if done < s.geometry.K {
		return nil, fmt.Errorf("%w: the manifest is on %d stores, needs %d; it is kept and the next run finishes it", ErrIncomplete, done, s.geometry.K)
	}
	if done == len(s.r.Members) {
		err = s.c.Spool.Remove(key)
	}
	if err = errors.Join(err, removeJournal(s.c.Dir)); err != nil {
		return nil, fmt.Errorf("snapshot %s is committed, but not all is done on the box: %w", saved.ID, err)
	}
	dropOtherMaps(s.c.Dir, mapName(m.hash))
	return saved, nil
}

// taken judges what store i has under m's name. A manifest that this box
// believes is another writer's: ErrConflict. Anything else nobody wrote who
// may, and must not keep the snapshot from the other stores.
func (s *Saver) taken(ctx context.Context, i int, m *signed) error {
	member := s.r.Members[i]
	other, err := s.readTaken(ctx, member.Store, m.Key())
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		s.set.Fail(i, fmt.Errorf("%s is taken by something that is no manifest: %w", m.Key(), err))
	case other.hash != m.hash:
		return fmt.Errorf("%w: store %q has a manifest of epoch %d, sequence %d already", ErrConflict, member.Name, m.Epoch, m.Sequence)
	}
	return nil
}

func (s *Saver) readTaken(ctx context.Context, st store.Store, key string) (*Snapshot, error) {
	inv := spread.List(ctx, []spread.Member{{Store: st}}, key)
	if err := inv.Failed(0); err != nil {
		return nil, err
	}
	one := Repo{Members: inv.Members(), Tenant: s.r.Tenant, Catalogue: s.r.Catalogue, Trust: s.r.Trust}
	return one.readManifest(ctx, inv, key, 0, nil)
}

// putManifest puts a manifest on every store that has its shards, and counts
// the stores that show it then.
func (s *Saver) putManifest(ctx context.Context, m *signed) (done int, err error) {
	waiting, err := s.waitingFor(ctx)
	if err != nil {
		return 0, err
	}
	for i, member := range s.r.Members {
		if s.set.Down(i) != nil || waiting[i] {
			continue
		}
		err := member.Store.Put(ctx, m.Key(), m.raw, sha256.Sum256(m.raw))
		if err == nil {
			// Shards were confirmed by a listing; nothing comes after this.
			err = confirm(ctx, member.Store, m.Key(), len(m.raw))
		}
		switch {
		case err == nil:
			done++
			if err := s.lockManifest(ctx, i, m.Key()); err != nil {
				return done, err
			}
		case errors.Is(err, store.ErrExists):
			if err := s.taken(ctx, i, m); err != nil {
				return done, err
			}
		case ctx.Err() != nil:
			return done, ctx.Err()
		default:
			s.set.Fail(i, err)
		}
	}
	return done, nil
}

// waitingFor says which members have shards waiting in the spool.
func (s *Saver) waitingFor(ctx context.Context) (map[int]bool, error) {
	objects, err := s.c.Spool.keys(ctx, s.r.Tenant.String()+"/")
	if err != nil {
		return nil, err
	}
	waiting := map[int]bool{}
	for _, o := range objects {
		if i := shardIndex(o.Key); i >= 0 {
			waiting[i] = true
		}
	}
	return waiting, nil
}

// flushSpool sends shards that wait in the spool to their stores, oldest first.
// A store that fails keeps the rest waiting.
func (s *Saver) flushSpool(ctx context.Context) error {
	objects, err := s.c.Spool.oldestFirst(ctx, s.r.Tenant.String()+"/")
	if err != nil {
		return err
	}
	sent := 0
	for _, o := range objects {
		i := shardIndex(o.Key)
		if i < 0 || i >= len(s.r.Members) || s.set.Down(i) != nil {
			continue
		}
		b, err := readObject(ctx, s.c.Spool, o.Key, o.Size)
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		if _, damaged, err := erasure.CheckShard(b); err != nil || len(damaged) > 0 {
			// It must not take the good one's name on a store.
			s.c.Log("%s was damaged in the spool and is made again from the others", o.Key)
			if err := s.c.Spool.Remove(o.Key); err != nil {
				return err
			}
			continue
		}
		if _, err := s.putAttempt(ctx, i, o.Key, b, sha256.Sum256(b)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.set.Fail(i, err)
			continue
		}
		if err := s.c.Spool.Remove(o.Key); err != nil {
			return err
		}
		sent++
	}
	if sent > 0 {
		s.c.Log("%d objects that waited in the spool are on their stores now", sent)
	}
	return nil
}

// finishOthers puts manifests that some store lacks onto it, once it has its
// shards: a valid manifest found anywhere is a commit.
func (s *Saver) finishOthers(ctx context.Context) error {
	waiting, err := s.waitingFor(ctx)
	if err != nil {
		return err
	}
	inv := s.listing.inventory
	for _, snap := range s.listing.Of(s.c.Dataset) {
		missing := 0
		for i, member := range s.r.Members {
			if slices.Contains(snap.Stores, member.Name) {
				continue
			}
			if s.set.Down(i) != nil || waiting[i] || !hasShards(inv, snap, i) {
				missing++
				continue
			}
			if err := s.lockDelivered(ctx, snap, i); err != nil {
				return err
			}
			if err := member.Store.Put(ctx, snap.Key(), snap.raw, snap.hash); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				missing++
				if errors.Is(err, store.ErrExists) {
					// The listing has told what is wrong with it. For all else the
					// store is as good as ever.
					continue
				}
				s.set.Fail(i, err)
				continue
			}
			if err := s.lockManifest(ctx, i, snap.Key()); err != nil {
				return err
			}
			snap.Stores = append(snap.Stores, member.Name)
			s.c.Log("snapshot %s is on store %q now", snap.ID(), member.Name)
		}
		if slices.Contains(snap.Stores, "spool") && missing == 0 {
			if err := s.c.Spool.Remove(snap.Key()); err != nil {
				return err
			}
		}
		snap.Stores = slices.DeleteFunc(snap.Stores, func(n string) bool { return n == "spool" })
	}
	return nil
}

// hasShards reports whether member i holds its shard of every pack.
func hasShards(inv *spread.Inventory, snap *Snapshot, i int) bool {
	prefix := strings.TrimSuffix(snap.Key(), filepath.Base(snap.Key()))
	for _, p := range snap.Packs {
		if i < p.Geometry.N && !slices.Contains(inv.Present(prefix, p.Pack)[i], i) {
			return false
		}
	}
	return true
}
