package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// An Anchor is the last checkpoint of a log, of one incarnation of the box,
// that a place holds; or why it cannot be read there.
type Anchor struct {
	Place      string
	Checkpoint Checkpoint
	// Err is nil where the ledger continues the checkpoint, or admits the gap;
	// ErrBehind or ErrFork where not, and From is then the last size that both
	// are known to have had. Anything else says that the place did not answer
	// or holds no checkpoint that the box signed: it is no anchor then, as one
	// that never was.
	Err  error
	From int64
}

func (a Anchor) conflicts() bool { return errors.Is(a.Err, ErrBehind) || errors.Is(a.Err, ErrFork) }

// CheckAnchors holds the ledger against the checkpoints that were copied to
// each place. From then on, while one of them is of more or of other entries,
// Intend and Record refuse all but a few kinds with ErrBehind or ErrFork: this
// state directory is older than what the box has signed. A box that was
// rebuilt, or must live with that, calls Continue.
//
// The error is about places that could not be read; the anchors of the others
// count. A process calls it at its start.
func (l *Ledger) CheckAnchors(ctx context.Context, places []Place) ([]Anchor, error) {
	var all []Anchor
	var failed error
	for _, p := range places {
		found, err := l.anchorsOf(ctx, p)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("anchors in %s: %w", p.Name, err))
			continue
		}
		all = append(all, found...)
	}
	return all, failed
}

const (
	maxAnchors = 1 << 20 // names of checkpoints in one place
	maxJunk    = 16      // of them that no box signed, before the last is given up
)

// anchorsOf checks one place.
func (l *Ledger) anchorsOf(ctx context.Context, p Place) (_ []Anchor, err error) {
	groups, err := listCheckpoints(ctx, p.Store)
	if err != nil {
		return nil, err
	}
	var all []Anchor
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		a := Anchor{Place: p.Name}
		if a.Checkpoint, a.Err = last(ctx, p.Store, groups[key], l.c.Trust); a.Err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, a)
	}
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock(&err)
	copied := map[keys.TenantID]Checkpoint{}
	for i := range all {
		a := &all[i]
		if a.Err != nil {
			continue
		}
		if a.Err, err = l.against(a.Checkpoint); err != nil {
			return nil, err
		}
		if a.conflicts() {
			a.From = l.common(ctx, p.Store, groups[groupOf(a.Checkpoint)])
		} else if a.Checkpoint.Incarnation == l.c.Incarnation {
			copied[a.Checkpoint.Tenant] = a.Checkpoint
		}
	}
	if l.copied == nil {
		l.copied, l.conflicts = map[string]map[keys.TenantID]Checkpoint{}, map[string][]Anchor{}
	}
	l.copied[p.Name] = copied
	l.conflicts[p.Name] = slices.DeleteFunc(slices.Clone(all), func(a Anchor) bool { return !a.conflicts() })
	l.close()
	return all, nil
}

// close sets the gate by what is known of all places.
func (l *Ledger) close() {
	l.gate = nil
	for _, name := range slices.Sorted(maps.Keys(l.conflicts)) {
		for _, a := range l.conflicts[name] {
			if l.gate == nil || errors.Is(a.Err, ErrFork) && !errors.Is(l.gate, ErrFork) {
				l.gate = fmt.Errorf("anchor in %s: %w", name, a.Err)
			}
		}
	}
}

// groupOf is where a log's checkpoints of one incarnation are.
func groupOf(c Checkpoint) string {
	k := checkpointKey(c)
	return k[:strings.LastIndexByte(k, '/')]
}

// listCheckpoints returns the names of checkpoints by log and incarnation, in
// ascending order of size.
func listCheckpoints(ctx context.Context, s Store) (map[string][]string, error) {
	groups, n := map[string][]string{}, 0
	for key, err := range s.List(ctx, checkpointKeys) {
		if err != nil {
			return nil, err
		}
		if n++; n > maxAnchors {
			return nil, fmt.Errorf("more than %d checkpoints", maxAnchors)
		}
		if c, err := parseCheckpointKey(key); err == nil {
			groups[groupOf(c)] = append(groups[groupOf(c)], key)
		}
	}
	return groups, nil
}

func parseCheckpointKey(key string) (c Checkpoint, err error) {
	f := strings.Split(strings.TrimPrefix(key, checkpointKeys), "/")
	if len(f) != 3 {
		return c, fmt.Errorf("%q is no checkpoint's name", key)
	}
	var incarnation uint64
	var err2, err3 error
	c.Tenant, err = parseLogName(f[0])
	incarnation, err2 = strconv.ParseUint(f[1], 10, 32)
	c.Incarnation = uint32(incarnation)
	c.Size, err3 = strconv.ParseInt(f[2], 10, 64)
	if err = errors.Join(err, err2, err3); err == nil && checkpointKey(c) != key {
		err = fmt.Errorf("%q is no checkpoint's name", key)
	}
	return c, err
}

// last reads the last checkpoint of a group that the box signed. Junk that
// somebody put there must not hide those before it.
func last(ctx context.Context, s Store, names []string, trust keys.BoxKeys) (c Checkpoint, err error) {
	for i := range min(maxJunk, len(names)) {
		var e error
		if c, e = readCheckpoint(ctx, s, names[len(names)-1-i], trust); e == nil {
			return c, nil
		}
		err = errors.Join(err, e)
	}
	return Checkpoint{}, err
}

func readCheckpoint(ctx context.Context, s Store, key string, trust keys.BoxKeys) (Checkpoint, error) {
	b, err := s.Read(ctx, key, maxCheckpoint)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%s: %w", key, err)
	}
	c, err := OpenCheckpoint(b, trust)
	if err == nil && checkpointKey(c) != key {
		err = fmt.Errorf("%w: it is another checkpoint's", ErrTampered)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%s: %w", key, err)
	}
	return c, nil
}

// against holds the ledger against a checkpoint, under the lock. The first
// error is what it says of the checkpoint, the second that it cannot be said.
func (l *Ledger) against(c Checkpoint) (conflict, err error) {
	if conflict, err = l.compare(c); conflict == nil || err != nil {
		return nil, err
	}
	gaps, err := l.gaps()
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(gaps, func(g gap) bool { return g.covers(c) }) {
		return nil, nil
	}
	return conflict, nil
}

func (l *Ledger) compare(c Checkpoint) (conflict, err error) {
	if c.Ledger != l.system.head.Ledger {
		return fmt.Errorf("%w: it is of ledger %s, this is %s", ErrFork, c.Ledger, l.system.head.Ledger), nil
	}
	g, err := l.fresh(c.Tenant)
	if errors.Is(err, ErrNoTenant) {
		return fmt.Errorf("%w: it has no log %s", ErrBehind, c.Tenant), nil
	} else if err != nil {
		return nil, err
	}
	if c.Size > g.head.Size || c.Incarnation > l.c.Incarnation {
		return fmt.Errorf("%w: log %s: %d entries by incarnation %d, here are %d", ErrBehind, g.dir, c.Size, c.Incarnation, g.head.Size), nil
	}
	root, err := tlog.TreeHash(c.Size, g.hashes())
	if err != nil {
		return nil, err
	}
	if root != c.Root {
		return fmt.Errorf("%w: log %s: its first %d entries", ErrFork, g.dir, c.Size), nil
	}
	return nil, nil
}

// common finds the last checkpoint of a group that the ledger continues, by
// halving: one that it does not continue is followed by none that it does.
func (l *Ledger) common(ctx context.Context, s Store, names []string) (size int64) {
	sort.Search(len(names), func(i int) bool {
		c, err := readCheckpoint(ctx, s, names[i], l.c.Trust)
		if err != nil {
			return true // not known to be common
		}
		if conflict, err := l.compare(c); conflict != nil || err != nil {
			return true
		}
		size = max(size, c.Size)
		return false
	})
	return size
}

// gaps returns the gaps that the system log admits.
func (l *Ledger) gaps() ([]gap, error) {
	var out []gap
	for n := range l.system.tree.size() {
		e, err := l.system.entry(n)
		if err != nil {
			return nil, err
		}
		if e.Act == Gap {
			g, err := parseGap(e)
			if err != nil {
				return nil, err
			}
			out = append(out, g)
		}
	}
	return out, nil
}

// Continue admits what the anchors know and the ledger lost: an entry in the
// system log for each conflict that CheckAnchors found. The approval of that is
// the caller's, and goes into by.Fields with its reason; so is a new
// incarnation of the box, which Config must have, so that checkpoints of two
// histories are never of the same one.
func (l *Ledger) Continue(ctx context.Context, by Act) (_ []Entry, err error) {
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock(&err)
	if l.gate == nil {
		return nil, fmt.Errorf("continue ledger: %w: no anchor is ahead", ErrOpen)
	}
	if err := l.system.refresh(); err != nil {
		return nil, err
	}
	by.Kind, by.Tenant = Gap, keys.TenantID{}
	var out []Entry
	for _, name := range slices.Sorted(maps.Keys(l.conflicts)) {
		for len(l.conflicts[name]) > 0 {
			e, err := l.admitGap(l.conflicts[name][0], by)
			if err != nil {
				return out, fmt.Errorf("continue ledger: %w", err)
			}
			out = append(out, e)
			l.conflicts[name] = l.conflicts[name][1:]
			l.close()
		}
	}
	return out, nil
}

func (l *Ledger) admitGap(a Anchor, by Act) (Entry, error) {
	c := a.Checkpoint
	if c.Ledger != l.system.head.Ledger {
		return Entry{}, fmt.Errorf("anchor in %s: %w", a.Place, a.Err)
	}
	if c.Incarnation >= l.c.Incarnation {
		return Entry{}, fmt.Errorf("anchor in %s is of incarnation %d, and so is the box: it needs a new one: %w", a.Place, c.Incarnation, a.Err)
	}
	e := newEntry(by, l.c.Now())
	if e.Fields == nil {
		e.Fields = map[string]string{}
	}
	maps.Copy(e.Fields, gap{c.Tenant, a.From, c.Size, c.Root, c.Incarnation}.fields())
	e.Fields["place"], e.Phase = a.Place, Recorded
	return l.append(l.system, e, false)
}
