package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/source"
)

// A database in WAL mode that no one has open has no -wal and -shm. Reading it
// the ordinary way makes them, needs write access to the directory for it, and
// leaves them behind as files of ours, which can lock its own program out of
// its database. Such a database is read as immutable, without locks; that
// nobody came meanwhile is checked afterwards, and if somebody did, their -wal
// and -shm are there now and the ordinary way makes none.

// tick is longer than the kernel's coarse clock, which stamps files, stands
// still (10 ms at HZ=100).
const tick = 20 * time.Millisecond

// stamp tells versions of a file apart.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// quiet returns the file's stamp if no journal of any kind is beside it.
func (s *Source) quiet() (stamp, bool) {
	for _, suffix := range sidecars {
		if _, err := os.Lstat(s.cfg.Path + suffix); !errors.Is(err, fs.ErrNotExist) {
			return stamp{}, false
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(s.cfg.Path, &st); err != nil {
		return stamp{}, false
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, true
}

// beginQuiet begins reading a quiet database in WAL mode; nil if it is none.
func (s *Source) beginQuiet(ctx context.Context) (*reader, error) {
	at, ok := s.quiet()
	if !ok {
		return nil, nil
	}
	// A write in the tick of the last one would leave the same stamp.
	if age := time.Since(time.Unix(at.ctime.Sec, at.ctime.Nsec)); age >= 0 && age < tick {
		time.Sleep(tick - age)
	}
	if again, ok := s.quiet(); !ok || again != at {
		return nil, nil
	}
	r, err := s.begin(ctx, true)
	if err != nil {
		// Either it is unreadable, which the ordinary way says better, or
		// somebody is changing it.
		return nil, ctx.Err()
	}
	if r.journal != "wal" {
		return nil, r.close()
	}
	r.quiet = at
	return r, nil
}

// openQuiet makes a snapshot of a quiet database; nil if it is none or did not
// stay so. The copy goes to scratch, so that the time in which somebody may
// come is short.
func (s *Source) openQuiet(ctx context.Context) (source.Snapshot, error) {
	r, err := s.beginQuiet(ctx)
	if r == nil || err != nil {
		return nil, err
	}
	at := r.quiet
	snap, err := s.hold(ctx, r, true)
	s.hookCopied()
	now, ok := s.quiet()
	switch {
	case ok && now == at && err != nil:
		return nil, err
	case ok && now == at:
		return snap, nil
	case ctx.Err() != nil:
		err = fmt.Errorf("sqlite: copy %s: %w", s.cfg.Path, ctx.Err())
	default:
		err = nil // whatever it was came from reading a moving file
	}
	if snap != nil {
		snap.Close()
	}
	return nil, err
}
