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

// Conflicts reports whether the anchor is ahead of the ledger, or of another one.
func (a Anchor) Conflicts() bool { return a.conflicts() }

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

// ReadAnchors reads the anchors of a place without holding a ledger against
// them; Err says which cannot be read.
func ReadAnchors(ctx context.Context, p Place, trust keys.BoxKeys) ([]Anchor, error) {
	all, _, err := readAnchors(ctx, p, trust)
	if err != nil {
		return nil, fmt.Errorf("anchors in %s: %w", p.Name, err)
	}
	return all, nil
}

func readAnchors(ctx context.Context, p Place, trust keys.BoxKeys) (all []Anchor, groups map[string][]string, err error) {
	if groups, err = listCheckpoints(ctx, p.Store); err != nil {
		return nil, nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		a := Anchor{Place: p.Name}
		if a.Checkpoint, a.Err = last(ctx, p.Store, groups[key], trust); a.Err != nil && ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		all = append(all, a)
	}
	return all, groups, nil
}

// anchorsOf checks one place.
func (l *Ledger) anchorsOf(ctx context.Context, p Place) (_ []Anchor, err error) {
	all, groups, err := readAnchors(ctx, p, l.c.Trust)
	if err != nil {
		return nil, err
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
	gaps, err := l.gaps()
	if err != nil {
		return nil, err
	}
	if c.Ledger == l.system.head.Ledger && slices.ContainsFunc(gaps, func(g gap) bool { return g.covers(c) }) {
		return nil, nil
	}
	return l.compare(c)
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
	var out []Entry
	for _, name := range slices.Sorted(maps.Keys(l.conflicts)) {
		for len(l.conflicts[name]) > 0 {
			made, err := l.admitOnce(l.conflicts[name][0], by)
			out = append(out, made...)
			if err != nil {
				return out, fmt.Errorf("continue ledger: %w", err)
			}
			l.conflicts[name] = l.conflicts[name][1:]
			l.close()
		}
	}
	return out, nil
}

// admitOnce admits what no entry admits yet; several places know the same.
func (l *Ledger) admitOnce(a Anchor, by Act) ([]Entry, error) {
	known, err := l.gaps()
	if err != nil || slices.ContainsFunc(known, func(g gap) bool { return g.covers(a.Checkpoint) }) {
		return nil, err
	}
	e, err := l.admitGap(a, by)
	if err != nil {
		return nil, err
	}
	return []Entry{e}, nil
}

func (l *Ledger) admitGap(a Anchor, by Act) (Entry, error) {
	c := a.Checkpoint
	if c.Ledger != l.system.head.Ledger {
		return Entry{}, fmt.Errorf("anchor in %s: %w", a.Place, a.Err)
	}
	if c.Incarnation >= l.c.Incarnation {
		return Entry{}, fmt.Errorf("anchor in %s is of incarnation %d, and so is the box: it needs a new one: %w", a.Place, c.Incarnation, a.Err)
	}
	fields := map[string]string{}
	maps.Copy(fields, by.Fields)
	maps.Copy(fields, gap{c.Tenant, a.From, c.Size, c.Root, c.Incarnation}.fields())
	fields["place"] = a.Place
	by.Fields = fields
	// First in the log itself: its head then is of the new incarnation, and is
	// not copied to where that of the lost entries is. A crash in between leaves
	// the gap to be admitted again.
	if err := l.continueLog(c.Tenant, by); err != nil {
		return Entry{}, err
	}
	by.Kind, by.Tenant = Gap, keys.TenantID{}
	e := newEntry(by, l.c.Now())
	e.Phase = Recorded
	return l.append(l.system, e, false)
}

// continueLog says in a tenant's log that it lost entries, for whoever sees no
// other log.
func (l *Ledger) continueLog(t keys.TenantID, by Act) error {
	if t == (keys.TenantID{}) {
		return nil
	}
	g, err := l.fresh(t)
	if errors.Is(err, ErrNoTenant) {
		return nil // all of it is lost
	} else if err != nil {
		return err
	}
	by.Kind, by.Tenant = Continued, t
	e := newEntry(by, l.c.Now())
	e.Phase = Recorded
	_, err = l.write(g, e, false)
	return err
}
