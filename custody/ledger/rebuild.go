package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"strongroom/custody/keys"
)

// Rebuild makes the ledger of a rebuilt box from the copies in one place, in a
// directory that is not there yet. c.Incarnation must be a new one. A tenant's log
// for which secrets says ErrNoSecret is admitted to be lost. The place
// should be the one whose anchors are furthest; CheckAnchors, after Open, tells
// when another one is ahead.
func Rebuild(ctx context.Context, c Config, p Place, secrets Secrets) error {
	if err := rebuild(ctx, c, p, secrets); err != nil {
		return fmt.Errorf("rebuild ledger from %s: %w", p.Name, err)
	}
	return nil
}

func rebuild(ctx context.Context, c Config, p Place, secrets Secrets) (err error) {
	if _, err := os.Lstat(c.Path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s: %w", c.Path, ErrExists))
	}
	heads, err := newest(ctx, p.Store, c)
	if err != nil {
		return err
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	made := c
	made.Path = c.Path + temporary + hex.EncodeToString(random[:])
	if err := os.Mkdir(made.Path, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(made.Path))
		}
	}()
	if err := fill(ctx, made, p.Store, heads, secrets); err != nil {
		return err
	}
	// The directory appears with all that is in it.
	if err := os.Rename(made.Path, c.Path); err != nil {
		return err
	}
	return syncAbove(c.Path)
}

// A head is the last checkpoint of a log in a place, and the names of it and of
// those before it.
type head struct {
	Checkpoint
	names []string
}

// newest returns the last checkpoint of each log in a place.
func newest(ctx context.Context, s Store, c Config) ([]head, error) {
	groups, err := listCheckpoints(ctx, s)
	if err != nil {
		return nil, err
	}
	best := map[keys.TenantID]head{}
	for _, names := range groups {
		k, err := last(ctx, s, names, c.Trust)
		if errors.Is(err, keys.ErrUnknownBox) || errors.Is(err, ErrTampered) {
			continue // somebody's junk; a log that is missed by it is told below
		} else if err != nil {
			return nil, err
		}
		if k.Incarnation >= c.Incarnation {
			return nil, fmt.Errorf("the copies are of incarnation %d; the box needs a new one", k.Incarnation)
		}
		if have := best[k.Tenant]; k.Incarnation > have.Incarnation {
			best[k.Tenant] = head{k, names}
		}
	}
	system, ok := best[keys.TenantID{}]
	if !ok {
		return nil, ErrNoLedger
	}
	for t, k := range best {
		if k.Ledger != system.Ledger {
			return nil, fmt.Errorf("log %s: %w: it is of another ledger", logName(t), ErrTampered)
		}
	}
	return slices.SortedFunc(maps.Values(best), func(a, b head) int { return slices.Compare(a.Tenant[:], b.Tenant[:]) }), nil
}

// fill writes all logs. One of a tenant may be ahead of the system's by what
// the last copy did not come to; its head is linked.
func fill(ctx context.Context, c Config, s Store, heads []head, secrets Secrets) error {
	f, err := openFiles(c)
	if err != nil {
		return err
	}
	defer f.root.Close()
	l := &Ledger{c: c, files: f, reserve: reserve{files: f}}
	var logs []*log
	var lost []Checkpoint
	for _, head := range heads {
		secret, err := secrets(head.Tenant)
		if errors.Is(err, ErrNoSecret) && head.Tenant != (keys.TenantID{}) {
			lost = append(lost, head.Checkpoint)
			continue
		} else if err != nil {
			return fmt.Errorf("log %s: %w", logName(head.Tenant), err)
		}
		entries, err := fetchLast(ctx, s, head, secret, c.Trust)
		if err != nil {
			return err
		}
		g := newLog(f, head.Tenant, c.Trust)
		g.head.Ledger = head.Ledger
		if err := g.replace(entries, c.Signer, c.Incarnation); err != nil {
			return fmt.Errorf("log %s: %w", g.dir, err)
		}
		logs = append(logs, g)
	}
	l.system = logs[0] // the zero id sorts first
	if err := l.admitLost(lost); err != nil {
		return err
	}
	for t := range l.system.links {
		if l.lost[t] {
			continue
		}
		if !slices.ContainsFunc(logs, func(g *log) bool { return g.tenant == t }) {
			return fmt.Errorf("log %s: %w: there is no copy of it", t, ErrTampered)
		}
	}
	for _, g := range logs[1:] {
		if err := l.relink(g); err != nil {
			return err
		}
	}
	return nil
}

// fetchLast reads the entries up to the last checkpoint of which the tiles are
// there: one may stand alone, put back from elsewhere. CheckAnchors then says that
// it is ahead.
func fetchLast(ctx context.Context, s Store, h head, secret Secret, trust keys.BoxKeys) ([][]byte, error) {
	entries, err := fetch(ctx, s, h.Checkpoint, secret)
	for i := len(h.names) - 2; i >= max(0, len(h.names)-maxJunk) && errors.Is(err, fs.ErrNotExist); i-- {
		k, e := readCheckpoint(ctx, s, h.names[i], trust)
		if e != nil {
			continue
		}
		entries, err = fetch(ctx, s, k, secret)
	}
	return entries, err
}

// admitLost records the logs whose key is gone. Their hashes stay in the stores,
// and what was proven of them can be checked; what they said cannot be read.
func (l *Ledger) admitLost(lost []Checkpoint) error {
	l.lost = map[keys.TenantID]bool{}
	for _, c := range lost {
		fields := gap{c.Tenant, 0, c.Size, c.Root, c.Incarnation}.fields()
		fields["reason"] = ErrNoSecret.Error()
		e := newEntry(Act{Kind: Gap, Actor: self, Role: selfRole, Source: selfRole, Fields: fields}, l.c.Now())
		e.Phase = Recorded
		if _, err := l.append(l.system, e, true); err != nil {
			return err
		}
		l.lost[c.Tenant] = true
	}
	return nil
}

// replace writes a log of these entries, with checkpoints of this incarnation.
func (g *log) replace(entries [][]byte, s Signer, incarnation uint32) error {
	if err := g.mkdirAll(g.dir); err != nil {
		return err
	}
	g.tree = &tree{edges: map[int]edge{}, read: g.readTile}
	g.header = header{Pending: []int64{}, Links: []link{}}
	g.pending, g.links = map[int64]Entry{}, map[keys.TenantID]link{}
	for i, raw := range entries {
		if len(g.records) == tileWidth {
			if err := g.settle(); err != nil {
				return err
			}
		}
		e, err := ParseEntry(raw)
		if err != nil || e.Number != int64(i) || e.Tenant != g.tenant {
			return errors.Join(err, fmt.Errorf("%w: entry %d stands at %d", ErrTampered, e.Number, i))
		}
		r := record{entry: raw}
		if r.leaf, err = e.Hash(); err != nil {
			return err
		}
		if g.head, err = g.push(&r, s, incarnation); err != nil {
			return err
		}
		g.records = append(g.records, r)
		if err := g.note(e); err != nil {
			return err
		}
	}
	return g.rewrite()
}

// relink is link for a log of which the system log may know any earlier head.
func (l *Ledger) relink(g *log) error {
	have := l.system.links[g.tenant]
	if have.Size > g.head.Size {
		return fmt.Errorf("log %s: %w: the system log knows %d entries of it, the copy has %d", g.dir, ErrTampered, have.Size, g.head.Size)
	}
	if have.Size == g.head.Size {
		return nil
	}
	return l.addLink(g, true)
}
