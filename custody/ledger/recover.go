package ledger

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
)

// A Recovery is what Open found and put right.
type Recovery struct {
	// Interrupted are the intents of processes that died, which now have that
	// outcome. How much of each act was done, the caller finds out.
	Interrupted []Entry
	// Dropped counts, by log, the bytes of a record that a crash left
	// unfinished. Nobody was told of that entry.
	Dropped map[keys.TenantID]int64
	// Reserve is how many bytes are kept for a full disk.
	Reserve int64
}

// recover is the start of a process, under the lock.
func (l *Ledger) recover() (r Recovery, err error) {
	died, err := l.begin()
	if err != nil {
		return r, err
	}
	if err := l.loadAll(); err != nil {
		return r, err
	}
	if r.Dropped, err = l.repair(died); err != nil {
		return r, err
	}
	if r.Interrupted, err = l.reconcile(); err != nil {
		return r, err
	}
	r.Reserve, err = l.reserve.fill()
	return r, err
}

func (s session) path() string { return path.Join(sessionsDir, string(hexText(s[:]))) }

// begin starts a session: a file that is locked while the process lives, so
// that another can tell an act that goes on from one whose process died. It is
// not synced; after a power cut no process lives. It reports whether one died.
func (l *Ledger) begin() (died bool, err error) {
	if err := l.files.root.Mkdir(sessionsDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("ledger: %w", err)
	}
	names, err := l.files.names(sessionsDir)
	if err != nil {
		return false, fmt.Errorf("ledger: %w", err)
	}
	for _, name := range names {
		var s session
		if err := s.UnmarshalText([]byte(name)); err != nil || l.lives(s) {
			continue
		}
		died = true
		_ = l.files.root.Remove(s.path()) // or the next time
	}
	_, _ = rand.Read(l.session[:])
	err = l.reserve.with(true, func() error {
		l.alive, err = l.files.root.OpenFile(l.session.path(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err == nil {
		err = unix.Flock(int(l.alive.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return false, fmt.Errorf("ledger: session: %w", err)
	}
	return died, nil
}

// lives reports whether the process of a session does. The kernel lets go of
// its lock when it ends, however it ends.
func (l *Ledger) lives(s session) bool {
	if s == l.session && l.alive != nil {
		return true
	}
	f, err := l.files.root.OpenFile(s.path(), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// loadAll reads the end of every log and holds tenants' against the system's.
func (l *Ledger) loadAll() error {
	l.system = newLog(l.files, keys.TenantID{}, l.c.Trust)
	if err := l.system.load(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrNoLedger, err)
		}
		return err
	}
	if l.system.head.Incarnation > l.c.Incarnation {
		return fmt.Errorf("%w: it was written by incarnation %d, this is %d", ErrTampered, l.system.head.Incarnation, l.c.Incarnation)
	}
	names, err := l.files.names(".")
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	for _, name := range names {
		t, err := parseLogName(name)
		if err != nil || name == systemName {
			continue
		}
		g := newLog(l.files, t, l.c.Trust)
		if _, _, err := g.lastSegment(); errors.Is(err, fs.ErrNotExist) && l.system.links[t].Size == 0 {
			continue // a crash came before its first entry
		}
		if err := g.load(); err != nil {
			return err
		}
		if g.head.Ledger != l.system.head.Ledger {
			return fmt.Errorf("log %s: %w: it is of another ledger", name, ErrTampered)
		}
		l.logs[t] = g
	}
	return l.findLost()
}

// findLost wants each log that is linked to be there, or admitted to be lost.
func (l *Ledger) findLost() error {
	l.lost = map[keys.TenantID]bool{}
	var gaps []gap
	for t, have := range l.system.links {
		if l.logs[t] != nil {
			continue
		}
		if gaps == nil {
			var err error
			if gaps, err = l.gaps(); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(gaps, func(g gap) bool { return g.whole(have) }) {
			return fmt.Errorf("log %s: %w: it is gone", t, ErrTampered)
		}
		l.lost[t] = true
	}
	return nil
}

func (l *Ledger) all() []*log {
	list := slices.SortedFunc(maps.Values(l.logs), func(a, b *log) int {
		return slices.Compare(a.tenant[:], b.tenant[:])
	})
	return append([]*log{l.system}, list...)
}

// repair begins new segments where a process or the machine died: a torn
// record goes, and what a process left in the page cache without having synced
// it is written again. Then each log's head is linked.
func (l *Ledger) repair(died bool) (map[keys.TenantID]int64, error) {
	dropped := map[keys.TenantID]int64{}
	for _, g := range l.all() {
		torn := g.torn
		if died || torn > 0 {
			if err := l.reserve.with(true, g.rewrite); err != nil {
				return nil, err
			}
		} else if err := l.files.syncDir(g.dir); err != nil {
			return nil, err
		}
		g.clean()
		if err := l.link(g, true); err != nil {
			return nil, err
		}
		if torn == 0 {
			continue
		}
		dropped[g.tenant] = torn
		e := newEntry(Act{Tenant: g.tenant, Kind: Repaired, Actor: self, Role: selfRole, Source: selfRole,
			Fields: map[string]string{"dropped-bytes": strconv.FormatInt(torn, 10)}}, l.c.Now())
		e.Phase = Recorded
		if _, err := l.write(g, e, true); err != nil {
			return nil, err
		}
	}
	return dropped, nil
}

// reconcile ends the intents of processes that are no more.
func (l *Ledger) reconcile() ([]Entry, error) {
	var out []Entry
	for _, g := range l.all() {
		for _, n := range slices.Sorted(maps.Keys(g.pending)) {
			e := g.pending[n]
			if l.lives(e.Session) {
				continue
			}
			by := Act{Kind: e.Act, Tenant: e.Tenant, Actor: self, Role: selfRole, Source: selfRole}
			end := newEntry(by, l.c.Now())
			end.Phase, end.Intent, end.Result = Ended, n, Interrupted
			if _, err := l.write(g, end, true); err != nil {
				return nil, fmt.Errorf("close what was interrupted: %w", err)
			}
			out = append(out, e)
		}
	}
	return out, nil
}
