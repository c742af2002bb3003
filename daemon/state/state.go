// Package state keeps what the daemon has to remember: runs, the health of
// datasets, alarms, and messages that are not sent yet, in one SQLite database.
package state

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver
)

// Config is what a database needs.
type Config struct {
	// Dir is the state directory. It exists, and is on a local disk: write-ahead
	// logging needs memory shared between processes.
	Dir string
	// Version is that of this program, for messages.
	Version string
	// Now is the clock.
	Now func() time.Time
}

// file is the database's name in the state directory.
const file = "state.db"

// A DB is the open database. Its methods may be called at the same time. A
// method that returned without an error has its change on the disk.
type DB struct {
	cfg     Config
	w       *sql.DB // one connection, so that writers wait in Go and not in SQLite
	r       *sql.DB
	lock    *os.File
	process int64 // of this start of the daemon
}

// What callers tell apart.
var (
	// ErrMissing is of a database that was never created, or was lost.
	ErrMissing = errors.New("there is no state database")
	// ErrInUse is of one that another daemon has open.
	ErrInUse = errors.New("another daemon has the state database open")
	// ErrNewer is of one that a newer program wrote.
	ErrNewer = errors.New("the state database was written by a newer version")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Create makes an empty database. It refuses where there is one.
func Create(ctx context.Context, cfg Config) (err error) {
	path := filepath.Join(cfg.Dir, file)
	// What a crash leaves is a file of another name, which the next try removes.
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create state: %w", err)
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("create state: %w", err)
	}
	defer f.Close()
	defer os.Remove(tmp)
	db, err := open(tmp, "delete")
	if err != nil {
		return err
	}
	err = migrate(ctx, db, 0)
	if err == nil {
		_, err = db.ExecContext(ctx, `INSERT INTO meta VALUES ('created_by', ?), ('written_by', ?)`, cfg.Version, cfg.Version)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create state: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("create state: %w", err)
	}
	// Link, not rename: it fails where there is one.
	if err := os.Link(tmp, path); err != nil {
		return fmt.Errorf("create state: %w", err)
	}
	return syncDir(cfg.Dir)
}

// Open opens the database for the one daemon that may have it, and brings it to
// this program's schema, with a copy of what was there before beside it.
func Open(ctx context.Context, cfg Config) (_ *DB, err error) {
	d := &DB{cfg: cfg}
	defer func() {
		if err != nil {
			d.shut()
		}
	}()
	path := filepath.Join(cfg.Dir, file)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s; `strongroom init` creates it, `box rebuild` restores it", ErrMissing, path)
	}
	// The kernel gives the lock back when the holder dies, however it dies. So
	// whoever holds it knows that every other process in the table is dead.
	if d.lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrInUse, path)
	}
	if d.w, err = open(path, "wal"); err != nil {
		return nil, err
	}
	d.w.SetMaxOpenConns(1)
	if err := d.upgrade(ctx, path); err != nil {
		return nil, err
	}
	if d.r, err = open(path, "wal"); err != nil {
		return nil, err
	}
	d.r.SetMaxOpenConns(4)
	now := ms(cfg.Now())
	err = d.w.QueryRowContext(ctx, `INSERT INTO processes (version, started, beat) VALUES (?, ?, ?) RETURNING id`, cfg.Version, now, now).Scan(&d.process)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return d, nil
}

// open opens a file that exists. FULL makes a commit wait for the disk: claims
// and acknowledgements must survive a power cut, not only a crash.
func open(path, journal string) (*sql.DB, error) {
	q := url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_pragma": {
		"busy_timeout(5000)", "journal_mode(" + journal + ")", "synchronous(full)", "foreign_keys(1)", "trusted_schema(0)", "mmap_size(0)", "cell_size_check(1)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	return db, nil
}

// upgrade migrates. Each step is one transaction, so a crash leaves one schema
// or the next, and the next start goes on.
func (d *DB) upgrade(ctx context.Context, path string) error {
	have, err := d.schema(ctx)
	if err != nil {
		return fmt.Errorf("open state %s: %w", path, err)
	}
	know, err := newest()
	if err != nil {
		return err
	}
	if have > know {
		var by string
		d.w.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'written_by'`).Scan(&by) // may say nothing
		return fmt.Errorf("%w: %s has schema %d, by strongroom %s, and strongroom %s knows up to %d; install the newer one again, or put %s.before-%d in its place, which lacks what happened since",
			ErrNewer, path, have, by, d.cfg.Version, know, file, know+1)
	}
	if have == know {
		return nil
	}
	if err := d.copyTo(ctx, fmt.Sprintf("%s.before-%d", path, have+1)); err != nil {
		return err
	}
	if err := migrate(ctx, d.w, 0); err != nil {
		return fmt.Errorf("upgrade state %s from schema %d: %w", path, have, err)
	}
	_, err = d.w.ExecContext(ctx, `INSERT INTO meta VALUES ('written_by', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, d.cfg.Version)
	return err
}

func (d *DB) schema(ctx context.Context) (int, error) {
	var text string
	if err := d.w.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'schema'`).Scan(&text); err != nil {
		return 0, fmt.Errorf("read its schema: %w", err)
	}
	return strconv.Atoi(text)
}

// newest is the last schema that this program knows.
func newest() (int, error) {
	all, err := fs.Glob(migrations, "migrations/*.sql")
	return len(all), err
}

// migrate runs the migrations up to one, 0 for all.
func migrate(ctx context.Context, db *sql.DB, to int64) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	if to > 0 {
		_, err = p.UpTo(ctx, to)
	} else {
		_, err = p.Up(ctx)
	}
	return err
}

// Backup writes a consistent copy to a file that does not exist, and syncs it.
func (d *DB) Backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("back up state to %s: it is there already", path)
	}
	return d.copyTo(ctx, path)
}

func (d *DB) copyTo(ctx context.Context, path string) error {
	tmp := path + ".part"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy state: %w", err)
	}
	// VACUUM INTO takes an empty file, and this one nobody else can read.
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("copy state: %w", err)
	}
	defer f.Close()
	defer os.Remove(tmp)
	if _, err := d.w.ExecContext(ctx, `VACUUM INTO ?`, tmp); err != nil {
		return fmt.Errorf("copy state to %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("copy state: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("copy state: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Check has SQLite look over the whole file.
func (d *DB) Check(ctx context.Context) error {
	var said string
	if err := d.r.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&said); err != nil {
		return fmt.Errorf("check state: %w", err)
	}
	if said != "ok" {
		return fmt.Errorf("check state: %s", said)
	}
	return nil
}

// Beat writes that the daemon lives. A watchdog that is fed only after it bites
// when the database hangs, too.
func (d *DB) Beat(ctx context.Context) error {
	_, err := d.w.ExecContext(ctx, `UPDATE processes SET beat = ? WHERE id = ?`, ms(d.cfg.Now()), d.process)
	return err
}

// Close says that this was no crash and closes the database.
func (d *DB) Close() error {
	_, err := d.w.Exec(`UPDATE processes SET stopped = ? WHERE id = ?`, ms(d.cfg.Now()), d.process)
	return errors.Join(err, d.shut())
}

func (d *DB) shut() error {
	var err error
	for _, db := range []*sql.DB{d.r, d.w} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if d.lock != nil { // last: until here nobody else may open it
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// write runs a transaction that holds the write lock from its beginning.
func (d *DB) write(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := d.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		tx.Rollback()
		return err
	}
	return tx.Commit()
}

func ms(t time.Time) int64 { return t.UnixMilli() }

// null is a time as a column that may be NULL.
func null(t time.Time) sql.NullInt64 { return sql.NullInt64{Int64: ms(t), Valid: !t.IsZero()} }

func when(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMilli(n.Int64).UTC()
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
