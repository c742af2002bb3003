package ledger

import (
	"context"
	"errors"
	"fmt"
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

// ErrUnsettled: the end of a log is as a power cut leaves it. The next start of
// the daemon settles it, and says so in the log; an end that somebody cut off
// can look the same, which only a checkpoint kept elsewhere tells.
var ErrUnsettled = errors.New("the end of the ledger is not settled")

// A Report is what Verify found.
type Report struct {
	Ledger ID
	Logs   []LogReport // the system's first
}

// A LogReport is about one log.
type LogReport struct {
	Tenant      keys.TenantID
	Head        Checkpoint
	Open        []Entry // intents that have no outcome
	Interrupted int     // acts whose process died
	Gaps        []Entry // of this log, or of others where it is the system's
}

// Gaps counts the gaps.
func (r Report) Gaps() (n int) {
	for _, l := range r.Logs {
		n += len(l.Gaps)
	}
	return n
}

// Verify reads every entry and every hash of a ledger's directory and reports
// the first thing in each log that is not as the box signed it, with
// ErrTampered; or that the end is unsettled. It holds the logs against
// checkpoints that were kept elsewhere: ErrBehind says that this directory is
// an older copy, ErrFork that it is of another history, unless an entry in it
// admits that gap.
//
// It builds the trees again from the entries, by other code than that which
// wrote them, and writes nothing. Where there is a lock file, as beside a daemon
// that runs, it keeps writers away until it is done.
func Verify(ctx context.Context, dir string, trust keys.BoxKeys, known []Checkpoint) (Report, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, fmt.Errorf("verify ledger: %w", err)
	}
	defer root.Close()
	if f, err := root.OpenFile(lockName, os.O_RDONLY|unix.O_NOFOLLOW, 0); err == nil {
		defer f.Close()
		if err := flock(ctx, f, unix.LOCK_SH); err != nil {
			return Report{}, fmt.Errorf("verify ledger: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return Report{}, fmt.Errorf("verify ledger: %w", err)
	}
	v := &verifier{files: files{root, kernel{}}, trust: trust, known: known, links: map[keys.TenantID][]link{}}
	err = v.run()
	return v.report, err
}

type verifier struct {
	files
	trust  keys.BoxKeys
	known  []Checkpoint
	links  map[keys.TenantID][]link // all of them, from the system log
	gaps   []gap
	report Report
}

func (v *verifier) run() error {
	names, err := v.names(".")
	if err != nil {
		return fmt.Errorf("verify ledger: %w", err)
	}
	if !slices.Contains(names, systemName) {
		return fmt.Errorf("verify ledger: %w", ErrNoLedger)
	}
	err = v.log(keys.TenantID{})
	seen := map[keys.TenantID]bool{}
	for _, name := range names {
		switch name {
		case systemName, lockName, reserveName, sessionsDir:
			continue
		}
		t, bad := parseLogName(name)
		if bad != nil {
			err = errors.Join(err, fmt.Errorf("%w: %s is no part of it", ErrTampered, name))
			continue
		}
		seen[t] = true
		err = errors.Join(err, v.log(t))
	}
	lost := func(t keys.TenantID) bool {
		have := v.links[t]
		return slices.ContainsFunc(v.gaps, func(g gap) bool { return len(have) > 0 && g.whole(have[len(have)-1]) })
	}
	for t := range v.links {
		if !seen[t] && !lost(t) {
			err = errors.Join(err, fmt.Errorf("log %s: %w: it is gone", t, ErrTampered))
		}
	}
	for _, c := range v.known {
		if slices.ContainsFunc(v.gaps, func(g gap) bool { return g.covers(c) }) {
			continue
		}
		if !slices.ContainsFunc(v.report.Logs, func(l LogReport) bool { return l.Tenant == c.Tenant }) {
			err = errors.Join(err, fmt.Errorf("log %s: %w: there is none", logName(c.Tenant), ErrBehind))
		}
	}
	return err
}

// log verifies one log and adds it to the report.
func (v *verifier) log(t keys.TenantID) error {
	w := &walk{log: newLog(v.files, t, v.trust), v: v, open: map[int64]Entry{}, roots: map[int64]tlog.Hash{},
		links: map[keys.TenantID]link{}, report: LogReport{Tenant: t}}
	for _, l := range v.links[t] {
		w.roots[l.Size] = tlog.Hash{}
	}
	for _, c := range v.known {
		w.roots[c.Size] = tlog.Hash{}
	}
	err := w.run()
	w.report.Open = slices.SortedFunc(maps.Values(w.open), func(a, b Entry) int { return int(a.Number - b.Number) })
	v.report.Logs = append(v.report.Logs, w.report)
	if err != nil {
		return fmt.Errorf("log %s: %w", logName(t), err)
	}
	return nil
}

// A walk goes through one log from its first entry to its last.
type walk struct {
	*log
	v      *verifier
	sum    compact
	open   map[int64]Entry
	links  map[keys.TenantID]link
	roots  map[int64]tlog.Hash // of the sizes that something is to be held against
	levels [][]tlog.Hash       // hashes of the tile that is growing, by level
	last   uint32              // incarnation
	report LogReport
}

func (w *walk) run() error {
	seq, _, err := w.lastSegment()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrTampered, err)
	} else if err != nil {
		return err
	}
	b, err := w.read(w.segmentName(seq), int64(maxSegment))
	if err != nil {
		return err
	}
	s, err := parseSegment(b)
	if err != nil {
		return err
	}
	for n := range s.Base / tileWidth {
		if err := w.tile(n); err != nil {
			return fmt.Errorf("tile %d: %w", n, err)
		}
	}
	if err := w.checkHeader(s.header); err != nil {
		return err
	}
	for _, r := range s.records {
		if err := w.record(r); err != nil {
			return err
		}
	}
	if w.sum.n == 0 {
		return fmt.Errorf("%w: it is empty", ErrTampered)
	}
	if err := w.strangers(s.Base); err != nil {
		return err
	}
	err = errors.Join(w.checkLinks(), w.checkKnown())
	if s.torn > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d bytes of an unfinished record", ErrUnsettled, s.torn))
	}
	return err
}

// tile goes through a full data tile and holds the hash tiles against it.
func (w *walk) tile(n int64) error {
	b, err := w.readTile(tlog.Tile{H: tileHeight, L: -1, N: n, W: tileWidth})
	if err != nil {
		return err
	}
	entries, err := parseBundle(b, tileWidth)
	if err != nil {
		return err
	}
	var hashes []tlog.Hash
	for _, raw := range entries {
		if err := w.entry(raw); err != nil {
			return err
		}
		hashes = append(hashes, tlog.RecordHash(raw))
	}
	return w.level(0, n, hashes)
}

// level compares a full hash tile and what it completes.
func (w *walk) level(level int, n int64, hashes []tlog.Hash) error {
	b, err := w.readTile(tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth})
	if err != nil {
		return err
	}
	if string(b) != string(joinHashes(hashes)) {
		return fmt.Errorf("%w: hash tile %d/%d is not of the entries", ErrTampered, level, n)
	}
	if len(w.levels) == level {
		w.levels = append(w.levels, nil)
	}
	var c compact
	for _, h := range hashes {
		c.add(h)
	}
	w.levels[level] = append(w.levels[level], c.root())
	if len(w.levels[level]) < tileWidth {
		return nil
	}
	above := w.levels[level]
	w.levels[level] = nil
	return w.level(level+1, n/tileWidth, above)
}

// entry takes the next entry of the log.
func (w *walk) entry(raw []byte) error {
	e, err := ParseEntry(raw)
	if err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrTampered, w.sum.n, err)
	}
	if e.Number != w.sum.n || e.Tenant != w.tenant {
		return fmt.Errorf("%w: entry %d stands at %d", ErrTampered, e.Number, w.sum.n)
	}
	if err := w.follow(e); err != nil {
		return fmt.Errorf("%w: entry %d: %w", ErrTampered, e.Number, err)
	}
	w.sum.add(tlog.RecordHash(raw))
	if _, wanted := w.roots[w.sum.n]; wanted {
		w.roots[w.sum.n] = w.sum.root()
	}
	return nil
}

// follow holds an entry against the rules: one outcome for each intent, links
// that only grow, the ledger's own kinds where they belong.
func (w *walk) follow(e Entry) error {
	system := w.tenant == keys.TenantID{}
	if own := strings.HasPrefix(string(e.Act), ownPrefix); own && e.Phase != Recorded {
		return fmt.Errorf("%s is a record", e.Act)
	}
	if first := e.Act == Genesis && system || e.Act == Begin && !system; first != (e.Number == 0) || !first && (e.Act == Genesis || e.Act == Begin) {
		return fmt.Errorf("%s stands here", e.Act)
	}
	switch {
	case e.Phase == Intended:
		w.open[e.Number] = e
	case e.Phase == Ended:
		intent, open := w.open[e.Intent]
		if !open || intent.Act != e.Act {
			return fmt.Errorf("outcome of %d, which is no open %s", e.Intent, e.Act)
		}
		delete(w.open, e.Intent)
		if e.Result == Interrupted {
			w.report.Interrupted++
		}
	case e.Act == Link:
		l, err := parseLink(e)
		if err != nil {
			return err
		}
		if l.Size <= w.links[l.Tenant].Size {
			return fmt.Errorf("link to entry %d of log %s after one to %d", l.Size, l.Tenant, w.links[l.Tenant].Size)
		}
		w.links[l.Tenant] = l
		w.v.links[l.Tenant] = append(w.v.links[l.Tenant], l)
	case e.Act == Gap:
		g, err := parseGap(e)
		if err != nil {
			return err
		}
		w.v.gaps, w.report.Gaps = append(w.v.gaps, g), append(w.report.Gaps, e)
	}
	return nil
}

// record takes an entry of the segment, and its checkpoint.
func (w *walk) record(r record) error {
	if err := w.entry(r.entry); err != nil {
		return err
	}
	return w.checkpoint(string(r.note))
}

// checkpoint holds one against the entries up to here.
func (w *walk) checkpoint(text string) error {
	c, err := OpenCheckpoint([]byte(text), w.trust)
	if err != nil {
		return fmt.Errorf("after entry %d: %w", w.sum.n-1, err)
	}
	if c.Tenant != w.tenant || c.Size != w.sum.n || c.Root != w.sum.root() {
		return fmt.Errorf("%w: checkpoint after entry %d is not of the entries before it", ErrTampered, w.sum.n-1)
	}
	if w.v.report.Ledger == (ID{}) {
		w.v.report.Ledger = c.Ledger
	}
	if c.Ledger != w.v.report.Ledger || c.Incarnation < w.last {
		return fmt.Errorf("%w: checkpoint after entry %d is of ledger %s, incarnation %d", ErrTampered, w.sum.n-1, c.Ledger, c.Incarnation)
	}
	w.last, w.report.Head = c.Incarnation, c
	return nil
}

// checkHeader derives a segment's header again.
func (w *walk) checkHeader(h header) error {
	if h.Base == 0 {
		if len(h.Pending)+len(h.Links) > 0 {
			return fmt.Errorf("%w: header of the first segment", ErrTampered)
		}
		return nil
	}
	if !slices.Equal(h.Pending, slices.Sorted(maps.Keys(w.open))) || len(h.Links) != len(w.links) {
		return fmt.Errorf("%w: header of the segment at entry %d", ErrTampered, h.Base)
	}
	for _, l := range h.Links {
		if w.links[l.Tenant] != l {
			return fmt.Errorf("%w: header of the segment at entry %d: link to %s", ErrTampered, h.Base, l.Tenant)
		}
	}
	return w.checkpoint(h.Checkpoint)
}

// strangers looks for files that do not belong to the log. Tiles of a segment
// that is full may be there already.
func (w *walk) strangers(base int64) error {
	return fs.WalkDir(w.root.FS(), w.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(name, temporary) {
			return err
		}
		rel := strings.TrimPrefix(name, w.dir+"/")
		if strings.HasPrefix(rel, segmentPrefix) && path.Dir(rel) == "." {
			return nil
		}
		t, err := tlog.ParseTilePath(rel)
		if err == nil && t.H == tileHeight && t.W == tileWidth {
			under := int64(1) << (tileHeight * (max(t.L, 0) + 1))
			if (t.N+1)*under <= max(base, w.sum.n) {
				return nil
			}
		}
		return fmt.Errorf("%w: %s is no part of it", ErrTampered, rel)
	})
}

// checkLinks holds a tenant's log against what the system log says of it.
func (w *walk) checkLinks() error {
	if w.tenant == (keys.TenantID{}) {
		return nil
	}
	last := int64(0)
	for _, l := range w.v.links[w.tenant] {
		if l.Size > w.sum.n {
			return fmt.Errorf("%w: the system log knows %d entries of it, it has %d", ErrTampered, l.Size, w.sum.n)
		}
		if w.roots[l.Size] != tlog.Hash(l.Root) {
			return fmt.Errorf("%w: the system log knows another history of its first %d entries", ErrTampered, l.Size)
		}
		last = l.Size
	}
	switch w.sum.n - last {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: its last entry is not in the system log", ErrUnsettled)
	}
	return fmt.Errorf("%w: it has %d entries, the system log knows %d: the system log was cut off", ErrTampered, w.sum.n, last)
}

// checkKnown holds the log against checkpoints that were kept elsewhere.
func (w *walk) checkKnown() (err error) {
	for _, c := range w.v.known {
		if c.Tenant != w.tenant {
			continue
		}
		if c.Ledger != w.v.report.Ledger {
			err = errors.Join(err, fmt.Errorf("%w: a checkpoint is of ledger %s, this is %s", ErrFork, c.Ledger, w.v.report.Ledger))
			continue
		}
		root := w.roots[c.Size]
		if c.Size <= w.sum.n && root == c.Root || slices.ContainsFunc(w.v.gaps, func(g gap) bool { return g.covers(c) }) {
			continue
		}
		what := ErrFork
		if c.Size > w.sum.n {
			what = ErrBehind
		}
		err = errors.Join(err, fmt.Errorf("%w: checkpoint of %s entries, here are %d", what, strconv.FormatInt(c.Size, 10), w.sum.n))
	}
	return err
}

// compact is a tree of which only the roots of its full subtrees are kept, as
// many as n has bits (RFC 6962, section 2.1).
type compact struct {
	n     int64
	roots []tlog.Hash
}

func (c *compact) add(h tlog.Hash) {
	c.roots = append(c.roots, h)
	for k := c.n; k&1 == 1; k >>= 1 {
		last := len(c.roots) - 1
		c.roots[last-1] = tlog.NodeHash(c.roots[last-1], c.roots[last])
		c.roots = c.roots[:last]
	}
	c.n++
}

func (c *compact) root() tlog.Hash {
	h := c.roots[len(c.roots)-1]
	for i := len(c.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(c.roots[i], h)
	}
	return h
}
