package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Cached is a snapshot as the stores had it.
type Cached struct {
	Dataset, Snapshot string
	Epoch, Sequence   uint32
	Taken             time.Time
	Entry             json.RawMessage // all that is listed of it
}

// ErrOlder: the database is of an older schema; the daemon's next start changes
// that.
var ErrOlder = errors.New("the state database is of an older version; start the daemon once")

// SetCatalogue replaces what is known of a tenant, by a listing of a time.
func (d *DB) SetCatalogue(ctx context.Context, tenant string, at time.Time, all []Cached) error {
	return d.write(ctx, func(tx *sql.Tx) error { return setCatalogue(ctx, tx, tenant, at, all) })
}

func setCatalogue(ctx context.Context, tx *sql.Tx, tenant string, at time.Time, all []Cached) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM catalogue WHERE tenant = ?`, tenant); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO catalogues VALUES (?, ?) ON CONFLICT (tenant) DO UPDATE SET at = excluded.at`, tenant, ms(at))
	if err != nil {
		return err
	}
	for _, c := range all {
		_, err := tx.ExecContext(ctx, `INSERT INTO catalogue VALUES (?, ?, ?, ?, ?, ?, ?)`, tenant, c.Dataset, c.Snapshot, c.Epoch, c.Sequence, ms(c.Taken), string(c.Entry))
		if err != nil {
			return fmt.Errorf("catalogue of %s: snapshot %s: %w", tenant, c.Snapshot, err)
		}
	}
	return nil
}

// A Shelf is the catalogue for who is not the daemon: it may be read and written
// beside one, since each change is whole and the last listing is the right one.
type Shelf struct{ db *sql.DB }

// OpenShelf opens the catalogue of a database that exists.
func OpenShelf(ctx context.Context, cfg Config) (*Shelf, error) {
	path := filepath.Join(cfg.Dir, file)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrMissing, path)
	}
	db, err := open(path, "wal")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	have, err := (&DB{w: db}).schema(ctx)
	if err == nil && have < 3 {
		err = ErrOlder
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Shelf{db}, nil
}

// Close closes it.
func (s *Shelf) Close() error { return s.db.Close() }

// Set replaces what is known of a tenant.
func (s *Shelf) Set(ctx context.Context, tenant string, at time.Time, all []Cached) error {
	return (&DB{w: s.db}).SetCatalogue(ctx, tenant, at, all)
}

// Keep forgets tenants that are not among these.
func (s *Shelf) Keep(ctx context.Context, tenants []string) error {
	list, err := json.Marshal(tenants)
	if err != nil {
		return err
	}
	_, err = s.db.ExecContext(ctx, `DELETE FROM catalogues WHERE tenant NOT IN (SELECT value FROM json_each(?))`, string(list))
	return err
}

// Of returns what is known of a tenant, by dataset and oldest first, and of when
// that is; the zero time: nothing is.
func (s *Shelf) Of(ctx context.Context, tenant string) (at time.Time, all []Cached, err error) {
	var when sql.NullInt64
	err = s.db.QueryRowContext(ctx, `SELECT at FROM catalogues WHERE tenant = ?`, tenant).Scan(&when)
	if errors.Is(err, sql.ErrNoRows) {
		return at, nil, nil
	} else if err != nil {
		return at, nil, fmt.Errorf("catalogue of %s: %w", tenant, err)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT dataset, snapshot, epoch, sequence, taken, entry FROM catalogue WHERE tenant = ? ORDER BY dataset, epoch, sequence, taken`, tenant)
	if err != nil {
		return at, nil, fmt.Errorf("catalogue of %s: %w", tenant, err)
	}
	defer rows.Close()
	for rows.Next() {
		var c Cached
		var taken int64
		var entry string
		if err := rows.Scan(&c.Dataset, &c.Snapshot, &c.Epoch, &c.Sequence, &taken, &entry); err != nil {
			return at, nil, fmt.Errorf("catalogue of %s: %w", tenant, err)
		}
		c.Taken, c.Entry = time.UnixMilli(taken).UTC(), json.RawMessage(entry)
		all = append(all, c)
	}
	return time.UnixMilli(when.Int64).UTC(), all, rows.Err()
}
