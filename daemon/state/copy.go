package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// copied are the tables whose rows a copy has that leaves the box. A table that
// is not named here leaves none, so that one with secrets of people, or one that
// can be made again, has to be let out and not to be kept in. What was not sent
// yet stays: after a disaster it would be old news.
var copied = []string{"meta", "goose_db_version", "processes", "jobs", "runs", "phases", "datasets", "alarms", "mutes"}

// Copy writes a consistent copy of the database for a backup to a file that does
// not exist, also while a daemon has it open. It holds no secret: see copied.
func Copy(ctx context.Context, cfg Config, to string) (err error) {
	path := filepath.Join(cfg.Dir, file)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrMissing, path)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy state to %s: it is there already", to)
	}
	db, err := open(path, "wal")
	if err != nil {
		return err
	}
	d := &DB{cfg: cfg, w: db}
	err = d.copyTo(ctx, to)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := strip(ctx, to); err != nil {
		return errors.Join(fmt.Errorf("copy state to %s: %w", to, err), os.Remove(to))
	}
	return nil
}

// strip empties all tables but those that may leave, and writes the file anew, so
// that free pages hold nothing of them either.
func strip(ctx context.Context, path string) error {
	db, err := open(path, "delete")
	if err != nil {
		return err
	}
	defer db.Close()
	tables, err := tablesOf(ctx, db)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if !slices.Contains(copied, t) {
			if _, err := db.ExecContext(ctx, `DELETE FROM "`+strings.ReplaceAll(t, `"`, `""`)+`"`); err != nil {
				return err
			}
		}
	}
	// Whoever has the code of a test alarm counts as told.
	if _, err := db.ExecContext(ctx, `UPDATE alarms SET code = NULL`); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `VACUUM`); err != nil {
		return err
	}
	return db.Close()
}

func tablesOf(ctx context.Context, db *sql.DB) (out []string, err error) {
	rows, err := db.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t string
		if err := rows.Scan(&t); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, rows.Err()
}

// maxRestored bounds what Restore takes.
const maxRestored = 16 << 30

// Restore makes the database of a copy, where there is none. What ran when the
// copy was made is found by the next start as what a dead process left.
func Restore(ctx context.Context, cfg Config, from string) error {
	fail := func(err error) error { return fmt.Errorf("restore state from %s: %w", from, err) }
	path := filepath.Join(cfg.Dir, file)
	tmp := path + ".restored" // what a crash leaves, the next try replaces
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	if err := duplicate(from, tmp); err != nil {
		return fail(err)
	}
	defer os.Remove(tmp)
	db, err := open(tmp, "delete")
	if err != nil {
		return fail(err)
	}
	d := &DB{cfg: cfg, w: db, r: db}
	have, err := d.schema(ctx)
	if err == nil {
		err = d.Check(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fail(err)
	}
	if know, err := newest(); err != nil || have > know {
		return fail(errors.Join(err, fmt.Errorf("%w: it has schema %d", ErrNewer, have)))
	}
	// Link, not rename: it fails where there is one.
	if err := os.Link(tmp, path); err != nil {
		return fail(err)
	}
	return syncDir(cfg.Dir)
}

func duplicate(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxRestored+1))
	if err == nil && n > maxRestored {
		err = errors.New("it is too large")
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
