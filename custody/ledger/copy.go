package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
	"strongroom/repo/seal"
)

// A Store takes copies. Keys are segments of [a-z0-9.-] joined by "/". Methods
// retry what is worth it themselves.
type Store interface {
	// Put stores body, whose SHA-256 is sum, and returns once it is durable.
	// It never overwrites: an error that is fs.ErrExist says that there is
	// another object of that name.
	Put(ctx context.Context, key string, body []byte, sum [32]byte) error
	// Read returns a whole object of at most limit bytes; an error that is
	// fs.ErrNotExist says that there is none.
	Read(ctx context.Context, key string, limit int64) ([]byte, error)
	// List yields the keys with a prefix, in ascending order.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// A Place is a store that takes copies, under the name that people know.
type Place struct {
	Name  string
	Store Store
}

// A Secret derives keys: C of a tenant. See keys.CatalogueKey.
type Secret interface {
	Derive(info []byte, n int) ([]byte, error)
}

// Secrets finds the key that a log's entries are sealed under: C of the tenant,
// and for the zero id whatever key the box keeps for the system log.
type Secrets func(keys.TenantID) (Secret, error)

// Copies are, below "ledger/":
//
//	checkpoint/<log>/<incarnation>/<size>     the note as it stands
//	tile/<log>/<incarnation>/8/<level>/NNN    hash tiles as they stand
//	tile/<log>/<incarnation>/8/data/NNN       entries, sealed under C
//
// with numbers of 10 and 20 digits, and tiles that are not full as tlog names
// them, NNN.p/<width>. An object is never replaced. A new incarnation of the
// box may have lost entries that were copied, so it begins anew beside the old.
const (
	checkpointKeys = "ledger/checkpoint/"
	tileKeys       = "ledger/tile/"
	maxTileObject  = maxBundle + maxBundle/1000 + 4096
)

func checkpointKey(c Checkpoint) string {
	return fmt.Sprintf("%s%s/%010d/%020d", checkpointKeys, logName(c.Tenant), c.Incarnation, c.Size)
}

// Key is the name of the checkpoint's copy in a store.
func (c Checkpoint) Key() string { return checkpointKey(c) }

// tileKey is tlog's name of the tile, "tile/8/…", with the log put in.
func tileKey(t keys.TenantID, incarnation uint32, tile tlog.Tile) string {
	return fmt.Sprintf("%s%s/%010d/%s", tileKeys, logName(t), incarnation, tile.Path()[len("tile/"):])
}

// sealTile seals entries for one name: at no other would they open.
func sealTile(s Secret, key string, plain []byte) ([]byte, error) {
	k, err := s.Derive([]byte("strongroom/ledger/1\x00"+key), seal.KeyLen)
	if err != nil {
		return nil, err
	}
	return seal.Seal(k, []byte("strongroom ledger tile 1\x00"+key), plain)
}

func openTile(s Secret, key string, sealed []byte) ([]byte, error) {
	k, err := s.Derive([]byte("strongroom/ledger/1\x00"+key), seal.KeyLen)
	if err != nil {
		return nil, err
	}
	return seal.Open(k, []byte("strongroom ledger tile 1\x00"+key), sealed)
}

// view is what a log was at one moment; full tiles never change.
type view struct {
	*log
	head    Checkpoint
	tree    tree
	entries [][]byte // of the segment
}

func (g *log) view() view {
	v := view{log: g, head: g.head, tree: tree{base: g.tree.base, edges: map[int]edge{}, read: g.readTile}}
	v.tree.leaves = append(v.tree.leaves, g.tree.leaves...)
	for _, r := range g.records {
		v.entries = append(v.entries, r.entry)
	}
	return v
}

// data returns the content of a data tile.
func (v view) data(t tlog.Tile) ([]byte, error) {
	if t.N == v.tree.base/tileWidth {
		return encodeBundle(v.entries[:t.W]), nil
	}
	return v.readTile(tlog.Tile{H: tileHeight, L: -1, N: t.N, W: tileWidth})
}

// Copy brings a place up to date: each log's tiles and then its checkpoint. It
// checks the place's anchors first, if this process did not yet, and refuses
// while any anchor is ahead of the ledger, since the place would then hold two
// histories. What is written meanwhile is left to the next call.
func (l *Ledger) Copy(ctx context.Context, p Place, secrets Secrets) error {
	if err := l.copy(ctx, p, secrets); err != nil {
		return fmt.Errorf("copy ledger to %s: %w", p.Name, err)
	}
	return nil
}

func (l *Ledger) copy(ctx context.Context, p Place, secrets Secrets) error {
	if !l.checked(p) {
		if _, err := l.CheckAnchors(ctx, []Place{p}); err != nil {
			return err
		}
	}
	views, err := l.views(ctx)
	if err != nil {
		return err
	}
	for _, v := range views {
		l.mu.Lock()
		have := l.copied[p.Name][v.tenant]
		l.mu.Unlock()
		if have.Incarnation != v.head.Incarnation {
			have.Size = 0
		}
		if have.Size >= v.head.Size {
			continue
		}
		secret, err := secrets(v.tenant)
		if err != nil {
			return fmt.Errorf("log %s: %w", v.dir, err)
		}
		if err := v.copy(ctx, p.Store, secret, have.Size); err != nil {
			return fmt.Errorf("log %s: %w", v.dir, err)
		}
		l.mu.Lock()
		l.copied[p.Name][v.tenant] = v.head
		l.mu.Unlock()
	}
	return nil
}

// views are taken together, so that the system log knows each head; its own
// goes last.
func (l *Ledger) views(ctx context.Context) (_ []view, err error) {
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock(&err)
	if l.gate != nil {
		return nil, l.gate
	}
	if err := l.system.refresh(); err != nil {
		return nil, err
	}
	var out []view
	for t := range l.system.links {
		if l.lost[t] {
			continue
		}
		g, err := l.fresh(t)
		if err == nil {
			err = l.link(g, false)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, g.view())
	}
	return append(out, l.system.view()), nil
}

func (l *Ledger) checked(p Place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.copied[p.Name] != nil
}

// copy writes what is new since a tree of that size. The checkpoint says that
// all of it is there, so it comes last.
func (v view) copy(ctx context.Context, s Store, secret Secret, since int64) error {
	for _, t := range tlog.NewTiles(tileHeight, since, v.head.Size) {
		hashes, err := v.tree.tile(t.L, t.N, t.W)
		if err != nil {
			return err
		}
		if err := put(ctx, s, tileKey(v.tenant, v.head.Incarnation, t), joinHashes(hashes), nil); err != nil {
			return err
		}
		if t.L > 0 {
			continue
		}
		b, err := v.data(t)
		if err != nil {
			return err
		}
		t.L = -1
		if err := put(ctx, s, tileKey(v.tenant, v.head.Incarnation, t), b, secret); err != nil {
			return err
		}
	}
	return put(ctx, s, checkpointKey(v.head), []byte(v.head.Note), nil)
}

// put stores an object that may be there already, from a call that a crash or
// a lost reply ended. Sealed, it is never the same twice, so it is read first.
func put(ctx context.Context, s Store, key string, body []byte, secret Secret) error {
	plain := body
	if err := holds(ctx, s, key, plain, secret); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	if secret != nil {
		if body, err = sealTile(secret, key, plain); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if err := s.Put(ctx, key, body, sha256.Sum256(body)); err != nil {
		if errors.Is(err, fs.ErrExist) && secret != nil && holds(ctx, s, key, plain, secret) == nil {
			return nil // another process was faster, and sealed the same
		}
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// holds reports whether an object says that, or is not there.
func holds(ctx context.Context, s Store, key string, want []byte, secret Secret) error {
	b, err := s.Read(ctx, key, maxTileObject)
	if err == nil && secret != nil {
		b, err = openTile(secret, key, b)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if !bytes.Equal(b, want) {
		return fmt.Errorf("%s: %w: it is there with other content", key, ErrFork)
	}
	return nil
}

// fetch reads all entries of a log from a place and holds them against its
// checkpoint there.
func fetch(ctx context.Context, s Store, c Checkpoint, secret Secret) ([][]byte, error) {
	var out [][]byte
	var sum compact
	for n := int64(0); n < c.Size; n += tileWidth {
		t := tlog.Tile{H: tileHeight, L: -1, N: n / tileWidth, W: int(min(tileWidth, c.Size-n))}
		key := tileKey(c.Tenant, c.Incarnation, t)
		b, err := s.Read(ctx, key, maxTileObject)
		if err == nil {
			b, err = openTile(secret, key, b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		entries, err := parseBundle(b, t.W)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		for _, raw := range entries {
			sum.add(tlog.RecordHash(raw))
		}
		out = append(out, entries...)
	}
	if sum.root() != c.Root {
		return nil, fmt.Errorf("%s: %w: its entries are not those that were signed", path.Dir(checkpointKey(c)), ErrTampered)
	}
	return out, nil
}
