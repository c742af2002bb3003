// Package ledger is the record of every act: one Merkle log for each tenant
// under one of the system, in which nothing can be changed, dropped or put in
// another order without somebody seeing it who has one signed checkpoint.
//
// Before an act, Intend; after it, Intent.Outcome. Both return when the entry
// is on disk, with a checkpoint signed by the box over all entries up to it.
// An act whose intent cannot be written must not be done.
//
// After each entry of a tenant, the system log gets one that holds the new
// head of the tenant's log (a link). So one checkpoint of the system log
// commits to all logs, and a tenant's log that is put back from an older copy
// is behind its last link. Tenants' checkpoints are not entries as they stand:
// size and root are enough, since the system's checkpoint is signed by the same
// key. A tenant's own log and proofs show nothing of other tenants.
//
// A process opens the ledger once, calls CheckAnchors with the stores it can
// reach, then does its acts, and calls Copy for each store after a run and about
// hourly; Reserve beside that says whether a full disk is provided for. A box
// that was rebuilt calls Rebuild, Open, CheckAnchors and, where those are still
// ahead, Continue. People get Entries, Prove and Verify.
//
// Directory, all files mode 0600 (in bytes: FORMAT.md):
//
//	lock, reserve, sessions/…      what processes need
//	system/, <tenant id>/          a log each:
//	    tile/8/data/NNN            256 entries (c2sp.org/tlog-tiles bundles)
//	    tile/8/0/NNN, 8/1/NNN …    hash tiles, as golang.org/x/mod/sumdb/tlog
//	    segment.N                  entries after the last full tile, and the
//	                               checkpoint after each; see segment.go
package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
)

// Errors that callers branch on.
var (
	// ErrNoLedger: there is none; Create makes one.
	ErrNoLedger = errors.New("there is no ledger; `audit init` makes one")
	// ErrExists: there is one already, or a log of that tenant.
	ErrExists = errors.New("it exists already")
	// ErrNoTenant: there is no log of that tenant.
	ErrNoTenant = errors.New("the ledger has no log of this tenant")
	// ErrNoEntry: a log has no entry of that number.
	ErrNoEntry = errors.New("no such entry")
	// ErrLocked: another process keeps the ledger.
	ErrLocked = errors.New("another process holds the ledger")
	// ErrBroken: a write failed so that nobody knows what is on disk. Nothing
	// is written any more until the process is started again.
	ErrBroken = errors.New("the ledger takes no entries until the process is started again")
	// ErrTampered: entries, hashes or checkpoints do not fit each other.
	ErrTampered = errors.New("the ledger is not what was signed")
	// ErrFork: a checkpoint that was signed by the box is of another history.
	ErrFork = errors.New("a signed checkpoint is of another history")
	// ErrBehind: a checkpoint that was signed by the box knows more entries:
	// the state directory was put back from an older copy.
	ErrBehind = errors.New("a signed checkpoint is ahead of the ledger")
	// ErrOutdated: the box got a new incarnation while this process ran.
	ErrOutdated = errors.New("start this process again")
	// ErrNoSecret: the key that a log's copies are sealed under is gone.
	ErrNoSecret = errors.New("its copies cannot be opened")
	// ErrOpen: an intent that had its outcome has no second one.
	ErrOpen = errors.New("the act is not open")
)

// DefaultReserve is kept for acts that must leave a trace on a full disk.
const DefaultReserve = 64 << 20

// Config says where a ledger is and who signs.
type Config struct {
	Path        string // of the directory; Create makes it, in one that exists
	Signer      Signer
	Incarnation uint32       // of the box, for new checkpoints
	Trust       keys.BoxKeys // whose checkpoints are believed
	Now         func() time.Time
	// Reserve is how many bytes are kept; 0: DefaultReserve.
	Reserve int64
	System  System // nil: the kernel
}

// A Ledger is open for writing. Methods may be called concurrently, and
// several processes may have the same one open.
type Ledger struct {
	c       Config
	files   files
	reserve reserve
	lockFD  *os.File
	session session
	alive   *os.File // locked as long as this process lives

	mu     sync.Mutex // guards what follows, with the lock file beside it
	system *log
	logs   map[keys.TenantID]*log
	lost   map[keys.TenantID]bool // linked, and admitted to be lost whole
	broken error
	gate   error // ErrBehind or ErrFork: what the anchors say
	// By name of a place whose anchors were checked: what it holds of this
	// incarnation, and the anchors that are against the ledger.
	copied    map[string]map[keys.TenantID]Checkpoint
	conflicts map[string][]Anchor
	closed    bool
}

const (
	lockName    = "lock"
	sessionsDir = "sessions"
	lockWait    = 10 * time.Second
	lockPoll    = 5 * time.Millisecond
)

func openFiles(c Config) (files, error) {
	root, err := os.OpenRoot(c.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return files{}, fmt.Errorf("ledger %s: %w", c.Path, ErrNoLedger)
	} else if err != nil {
		return files{}, fmt.Errorf("ledger: %w", err)
	}
	f := files{root, c.System}
	if f.sys == nil {
		f.sys = kernel{}
	}
	return f, nil
}

// Create makes a ledger whose first entry is the act, of kind Genesis by rule.
// It is an act of its own and of its own command: one that is gone must not
// begin anew by itself. The directory above c.Path exists, and is synced.
func Create(c Config, by Act) (ID, error) {
	if err := os.Mkdir(c.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return ID{}, fmt.Errorf("make ledger: %w", err)
	}
	f, err := openFiles(c)
	if err != nil {
		return ID{}, err
	}
	defer f.root.Close()
	// A crash may have come before the first entry; more is not replaced.
	if names, err := f.names("."); err != nil || len(names) > 1 || len(names) == 1 && names[0] != systemName {
		return ID{}, errors.Join(err, fmt.Errorf("make ledger %s: %w", c.Path, ErrExists))
	}
	var id ID
	_, _ = rand.Read(id[:])
	by.Kind, by.Tenant = Genesis, keys.TenantID{}
	g := newLog(f, by.Tenant, c.Trust)
	err = g.create(id, newEntry(by, c.Now()), c.Signer, c.Incarnation)
	if err == nil {
		err = syncAbove(c.Path)
	}
	if err != nil {
		return ID{}, fmt.Errorf("make ledger %s: %w", c.Path, err)
	}
	return id, nil
}

func syncAbove(name string) error {
	d, err := os.Open(path.Dir(path.Clean(name)))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// create makes a log whose entry 0 is e: it appears with it.
func (g *log) create(id ID, e Entry, s Signer, incarnation uint32) error {
	if _, _, err := g.lastSegment(); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("log %s: %w", g.dir, ErrExists))
	}
	if err := g.mkdirAll(g.dir); err != nil {
		return err
	}
	e.Phase = Recorded
	raw, err := e.bytes()
	if err != nil {
		return err
	}
	g.tree = &tree{edges: map[int]edge{}, read: g.readTile}
	g.head.Ledger = id
	r := record{entry: raw}
	r.leaf, err = e.Hash()
	if err != nil {
		return err
	}
	if g.head, err = g.push(&r, s, incarnation); err != nil {
		return err
	}
	h := header{Pending: []int64{}, Links: []link{}}
	if err := g.begin(h, []record{r}); err != nil {
		return err
	}
	return g.replay()
}

// lock takes the ledger's lock; the caller calls unlock.
func (l *Ledger) lock(ctx context.Context) error {
	l.mu.Lock()
	if err := l.lockFile(ctx); err != nil {
		l.mu.Unlock()
		return err
	}
	return nil
}

func (l *Ledger) lockFile(ctx context.Context) error {
	if l.closed {
		return fmt.Errorf("ledger: %w", os.ErrClosed)
	}
	if l.broken != nil {
		return fmt.Errorf("%w: %w", ErrBroken, l.broken)
	}
	return flock(ctx, l.lockFD, unix.LOCK_EX)
}

// flock waits for a lock as long as somebody at a terminal would.
func flock(ctx context.Context, f *os.File, how int) error {
	give := time.Now().Add(lockWait) // a deadline of the process, not a time in the record
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock ledger: %w", err)
		}
		if time.Now().After(give) {
			return ErrLocked
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// unlock lets others at the ledger. After a write of which nobody knows what is
// on disk, it does not: others would take what is in the page cache for
// durable. The lock then ends with the process.
func (l *Ledger) unlock(err *error) {
	if errors.Is(*err, errUnsure) && l.broken == nil {
		l.broken = *err
		*err = fmt.Errorf("%w: %w", ErrBroken, *err)
	}
	if l.broken == nil {
		_ = unix.Flock(int(l.lockFD.Fd()), unix.LOCK_UN)
	}
	l.mu.Unlock()
}

// Open opens a ledger, checks the end of each log and that each tenant's is
// where the system log knows it, and closes what a process that died left
// open: see Recovery. What lies deeper is checked by Verify.
func Open(ctx context.Context, c Config) (_ *Ledger, _ Recovery, err error) {
	if c.Reserve == 0 {
		c.Reserve = DefaultReserve
	}
	f, err := openFiles(c)
	if err != nil {
		return nil, Recovery{}, err
	}
	l := &Ledger{c: c, files: f, reserve: reserve{f, c.Reserve}, logs: map[keys.TenantID]*log{}}
	defer func() {
		if err != nil {
			l.drop()
		}
	}()
	if _, err := f.root.Lstat(systemName); errors.Is(err, fs.ErrNotExist) {
		return nil, Recovery{}, fmt.Errorf("ledger %s: %w", c.Path, ErrNoLedger)
	}
	if l.lockFD, err = f.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, Recovery{}, fmt.Errorf("lock ledger: %w", err)
	}
	if err := l.lock(ctx); err != nil {
		return nil, Recovery{}, err
	}
	defer l.unlock(&err)
	r, err := l.recover()
	return l, r, err
}

// Close ends the process's session; what it left open is interrupted.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	err := l.files.root.Remove(l.session.path())
	l.drop()
	if err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

func (l *Ledger) drop() {
	for _, f := range []*os.File{l.alive, l.lockFD} {
		if f != nil {
			_ = f.Close() // read-only in effect: they hold locks
		}
	}
	_ = l.files.root.Close()
}

// Reserve fills up what is kept for a full disk and returns how much it is.
// Less than configured is an alarm.
func (l *Ledger) Reserve(ctx context.Context) (n int64, err error) {
	if err := l.lock(ctx); err != nil {
		return 0, err
	}
	defer l.unlock(&err)
	return l.reserve.fill()
}

// AddTenant begins a tenant's log.
func (l *Ledger) AddTenant(ctx context.Context, by Act) (err error) {
	if by.Tenant == (keys.TenantID{}) {
		return fmt.Errorf("begin log: %w", ErrNoTenant)
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock(&err)
	if err := l.system.refresh(); err != nil {
		return err
	}
	if l.lost[by.Tenant] {
		return fmt.Errorf("log %s: %w: it was lost, and does not begin again", by.Tenant, ErrNoTenant)
	}
	if l.logs[by.Tenant] != nil {
		return fmt.Errorf("log %s: %w", by.Tenant, ErrExists)
	}
	by.Kind = Begin
	g := newLog(l.files, by.Tenant, l.c.Trust)
	if err := g.create(l.system.head.Ledger, newEntry(by, l.c.Now()), l.c.Signer, l.c.Incarnation); err != nil {
		return err
	}
	l.logs[by.Tenant] = g
	return l.link(g, false)
}
