package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"strongroom/source"
)

// patience is how long an examination waits for a lock.
const patience = time.Second

// Examine looks at what decides whether the database can be read while its
// program uses it. It opens it as Probe does, but not where that would make a
// file beside it.
func (s *Source) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	st, err := os.Stat(s.cfg.Path)
	if err != nil {
		f.Bad("readable", "sqlite: "+err.Error(), "there is nothing to read", "correct the path, or let the service's user into the directory")
		return f, nil
	}
	if st.Mode().Perm()&0o002 != 0 {
		f.Warn("file-mode", fmt.Sprintf("%s has mode %04o", s.cfg.Path, st.Mode().Perm()), "everybody on this machine can change the client's data", "chmod o-w "+s.cfg.Path)
	}
	if s.torn() {
		time.Sleep(patience / 4) // a program that opens it makes one after the other
	}
	if s.torn() {
		f.Warn("wal-files", s.cfg.Path+" has a -wal file and no -shm", "its program crashed, or the file was copied without it; a reader has to make one, which may then lock the program out",
			"open the database once with its own program")
		return f, nil
	}
	quick := *s
	quick.cfg.BusyTimeout = min(s.cfg.BusyTimeout, patience)
	r, err := quick.beginQuiet(ctx)
	if r == nil && err == nil {
		r, err = quick.begin(ctx, false)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		s.unreadable(&f, err)
		return f, nil
	}
	live := r.journal == "wal" && r.quiet == stamp{}
	bytes := r.pages * int64(r.pageSize)
	if err := r.close(); err != nil {
		return nil, fmt.Errorf("sqlite: examine %s: %w", s.cfg.Path, err)
	}
	f.OK("readable", fmt.Sprintf("%s, %d bytes in pages of %d", s.cfg.Path, bytes, r.pageSize))
	s.journal(&f, r.journal, live)
	if live {
		f.OK("scratch", "no copy is needed")
	} else if err := checkRoom(nearest(s.cfg.Scratch), bytes); err != nil {
		f.Bad("scratch", err.Error(), "the database is copied before it is saved", "make room, or put the database into WAL mode and keep it open")
	} else {
		f.OK("scratch", "there is room for a copy")
	}
	return f, nil
}

func (s *Source) torn() bool { return there(s.cfg.Path+"-wal") && !there(s.cfg.Path+"-shm") }

// unreadable tells a lock, which may be gone on Sunday, from what will not.
func (s *Source) unreadable(f *source.Findings, err error) {
	var e *sqlite.Error
	if errors.As(err, &e) && (e.Code()&0xff == lib.SQLITE_BUSY || e.Code()&0xff == lib.SQLITE_LOCKED) {
		f.Warn("locked", s.cfg.Path+" is locked exclusively just now",
			fmt.Sprintf("a snapshot waits %v for it, then fails; a program with locking_mode = EXCLUSIVE never lets go", s.cfg.BusyTimeout),
			"take snapshots at another hour, or PRAGMA journal_mode = WAL with locking_mode = NORMAL in its program")
		return
	}
	f.Bad("readable", err.Error(), "a snapshot would fail in the same way",
		"let the service's user read "+s.cfg.Path+", -wal and -shm")
}

func (s *Source) journal(f *source.Findings, mode string, live bool) {
	switch {
	case live:
		f.OK("journal", "WAL: a snapshot and writers do not wait for each other")
	case mode == "wal":
		f.OK("journal", "WAL, and nobody has it open")
	default:
		f.Note("journal", "journal mode "+mode, "while a snapshot copies the database its writers wait, and it waits for them", "PRAGMA journal_mode = WAL; in its own program")
	}
	if st, err := os.Stat(s.cfg.Path + "-wal"); err == nil && st.Size() > 256<<20 {
		f.Note("wal-size", fmt.Sprintf("the -wal file has %d bytes", st.Size()), "some reader keeps it from being reset, and everything that reads it is slow", "")
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// nearest is the directory, or the next one above that is there.
func nearest(dir string) string {
	for !there(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}
