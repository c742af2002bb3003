package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"strongroom/source"
	"strongroom/source/files/publish"
)

// ErrDamaged: the snapshot came back as it was stored, but SQLite's
// integrity_check finds fault with it, so the database was damaged before it
// was saved. WritePlain hands it out all the same.
var ErrDamaged = errors.New("integrity_check found damage")

// Target says where to restore to.
type Target struct {
	// Path is the file to make.
	Path string
	// Overwrite replaces a database at Path, its -wal, -shm and -journal with
	// it. No process may have it open.
	Overwrite bool
}

// sidecars are the files that SQLite would apply to a database found beside
// them.
var sidecars = [...]string{"-wal", "-shm", "-journal"}

// Restore writes the database to a file. Path holds either what it held
// before or the whole database, checked: a crash in between leaves a file
// `.strongroom-*` beside it, and with Overwrite perhaps the old database
// without its -wal.
func Restore(ctx context.Context, stored source.Stored, t Target) (err error) {
	path, err := filepath.Abs(t.Path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("sqlite: restore to %s: %w", path, err)
		}
	}()
	for _, s := range sidecars {
		if _, err := os.Lstat(path + s); err == nil && !t.Overwrite {
			return fmt.Errorf("%s%s: %w and would be applied to the restored database", path, s, publish.ErrExists)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := publish.Create(path, t.Overwrite)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := WritePlain(ctx, stored, f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := integrity(ctx, f.Name()); err != nil {
		return err
	}
	// Before the rename: an old -wal beside the new database would corrupt
	// it; the old database without its -wal is only older.
	for _, s := range sidecars {
		if err := os.Remove(path + s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return f.Commit()
}

// WritePlain writes the database file's bytes.
func WritePlain(ctx context.Context, stored source.Stored, w io.Writer) error {
	r, err := stored.Open(ctx, stream, 0, -1)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return errors.Join(err, r.Close())
}

// integrity runs SQLite's own check, of what it can check. immutable keeps it from
// making -wal and -shm files.
func integrity(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"ro"}, "immutable": {"1"}, "_pragma": {"trusted_schema(0)"}}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return checkFailed(ctx, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	found, _, err := Check(ctx, conn)
	if err != nil {
		return checkFailed(ctx, err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: %s", ErrDamaged, strings.Join(found, "; "))
	}
	return nil
}

func checkFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}
