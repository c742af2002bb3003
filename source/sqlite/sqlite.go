// Package sqlite dumps one SQLite database, page by page, as it stood at one
// moment while others go on using it, and puts it back as a file.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"strongroom/source"
	"strongroom/source/files/scratch"
)

// Engine is what Description.Engine says of this source.
const Engine = "sqlite"

// stream is the name of the one stream of a snapshot.
const stream = "database"

// Config says which database to dump.
type Config struct {
	// Path is the database file.
	Path string
	// Scratch is the directory for an encrypted, nameless copy of a database
	// that is not in WAL mode or that no one has open; it needs room for the
	// whole database.
	Scratch string
	// BusyTimeout is how long to wait for a lock that another process holds;
	// 0 means 30 s.
	BusyTimeout time.Duration
}

// Source is a SQLite database.
type Source struct {
	cfg Config

	hookCopied func() // called, for tests, when a quiet database was copied and not yet checked
}

var _ source.Source = (*Source)(nil)

// New returns a source; it opens nothing yet.
func New(cfg Config) (*Source, error) {
	if !filepath.IsAbs(cfg.Path) {
		return nil, fmt.Errorf("sqlite: path %q is not absolute", cfg.Path)
	}
	if cfg.Scratch == "" {
		return nil, errors.New("sqlite: no scratch directory")
	}
	if cfg.BusyTimeout == 0 {
		cfg.BusyTimeout = 30 * time.Second
	}
	if cfg.BusyTimeout < time.Millisecond || cfg.BusyTimeout > time.Hour {
		return nil, fmt.Errorf("sqlite: busy timeout %v: want 1ms to 1h", cfg.BusyTimeout)
	}
	return &Source{cfg: cfg, hookCopied: func() {}}, nil
}

// Probe checks that the file is a database that can be read.
func (s *Source) Probe(ctx context.Context) (source.Description, error) {
	r, err := s.beginQuiet(ctx)
	if r == nil && err == nil {
		r, err = s.begin(ctx, false)
	}
	if err != nil {
		return source.Description{}, err
	}
	return r.describe(), r.close()
}

// Open holds the database at one moment.
//
// In WAL mode the moment is a read transaction on the database itself: writers
// go on, but the WAL cannot be reset before Close and grows with what they
// write, so the pages need no copy. In the rollback modes a read transaction
// keeps every writer from committing, and an upload may take hours: there Open
// copies the pages to an encrypted nameless file first and lets go.
//
// Pages come from sqlite_dbpage, which reads them through the same pager as
// the backup API does (https://www.sqlite.org/dbpage.html), but needs no
// second database file in clear, leaves schema cookie and change counter as
// they are, and can be interrupted. Of a database that no one has open there
// is more in quiet.go.
func (s *Source) Open(ctx context.Context) (source.Snapshot, error) {
	if snap, err := s.openQuiet(ctx); snap != nil || err != nil {
		return snap, err
	}
	r, err := s.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	snap, err := s.hold(ctx, r, r.journal != "wal")
	if err != nil {
		return nil, err
	}
	return snap, nil
}

// hold makes a snapshot of a read transaction and owns it from here on.
func (s *Source) hold(ctx context.Context, r *reader, copied bool) (*snapshot, error) {
	snap := &snapshot{desc: r.describe(), time: r.time, pageSize: r.pageSize, pages: r.pages}
	var err error
	if snap.detail, err = inspect(ctx, r.conn); err != nil {
		r.close()
		return nil, fmt.Errorf("sqlite: inspect %s: %w", s.cfg.Path, err)
	}
	snap.detail.PageSize, snap.detail.Pages, snap.detail.Journal = r.pageSize, r.pages, r.journal
	if !copied {
		snap.live = r
		return snap, nil
	}
	snap.copied, err = s.copy(ctx, r)
	if err = errors.Join(err, r.close()); err != nil {
		snap.Close()
		return nil, fmt.Errorf("sqlite: copy %s: %w", s.cfg.Path, err)
	}
	return snap, nil
}

func (s *Source) copy(ctx context.Context, r *reader) (*scratch.File, error) {
	if err := checkRoom(s.cfg.Scratch, r.pages*int64(r.pageSize)); err != nil {
		return nil, err
	}
	f, err := scratch.Create(s.cfg.Scratch)
	if err != nil {
		return nil, err
	}
	if err := r.writePages(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// A reader is a connection inside a read transaction.
type reader struct {
	db       *sql.DB
	conn     *sql.Conn
	time     time.Time
	pageSize int
	pages    int64
	journal  string // "wal", else a rollback mode
	quiet    stamp  // of a file read without locks
}

// begin opens the file read-only and starts a read transaction. It never opens
// the file other than through SQLite: closing any descriptor of a file drops
// all POSIX locks that this process holds on it, also those of another
// connection (https://www.sqlite.org/howtocorrupt.html, 2.2), and the daemon's
// own state database is backed up by the daemon.
func (s *Source) begin(ctx context.Context, immutable bool) (*reader, error) {
	st, err := os.Stat(s.cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("sqlite: %s is not a regular file", s.cfg.Path)
	}
	if st.Size() == 0 {
		return nil, fmt.Errorf("sqlite: %s is empty, not a SQLite database", s.cfg.Path)
	}
	db, err := sql.Open("sqlite", dsn(s.cfg.Path, url.Values{
		"mode":      {"ro"},
		"immutable": {strconv.FormatBool(immutable)},
		"_pragma": {
			"busy_timeout(" + strconv.FormatInt(s.cfg.BusyTimeout.Milliseconds(), 10) + ")",
			"query_only(1)", "trusted_schema(0)",
		},
	}))
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", s.cfg.Path, err)
	}
	r := &reader{db: db}
	if err := r.start(ctx); err != nil {
		r.close()
		return nil, fmt.Errorf("sqlite: open %s: %w", s.cfg.Path, s.explain(err))
	}
	return r, nil
}

func (r *reader) start(ctx context.Context) (err error) {
	if r.conn, err = r.db.Conn(ctx); err != nil {
		return err
	}
	if _, err := r.conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	// BEGIN takes no lock; the first read does, and fixes the moment.
	var n int64
	if err := r.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n); err != nil {
		return err
	}
	r.time = time.Now()
	if err := r.conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&r.journal); err != nil {
		return err
	}
	if err := r.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&r.pages); err != nil {
		return err
	}
	var first []byte
	if err := r.conn.QueryRowContext(ctx, "SELECT data FROM sqlite_dbpage('main') WHERE pgno = 1").Scan(&first); err != nil {
		return fmt.Errorf("read page 1: %w", err)
	}
	if r.pageSize, err = pageSize(first); err != nil {
		return err
	}
	if first[18] == 2 { // what the pragma says of an immutable file is not it
		r.journal = "wal"
	}
	if len(first) != r.pageSize {
		return fmt.Errorf("page 1 has %d bytes, its header says %d", len(first), r.pageSize)
	}
	return nil
}

// explain turns SQLite's codes into what a person can act on.
func (s *Source) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case lib.SQLITE_READONLY_ROLLBACK, lib.SQLITE_READONLY_RECOVERY:
		return fmt.Errorf("a writer crashed and left a journal that only a connection with write access can play back; "+
			"open it once with its own program: %w", err)
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return source.WithClass(source.Temporary, fmt.Errorf("busy: another process kept it locked for %v: %w", s.cfg.BusyTimeout, err))
	case lib.SQLITE_NOTADB:
		return fmt.Errorf("not a SQLite database, or an encrypted one: %w", err)
	case lib.SQLITE_CANTOPEN, lib.SQLITE_READONLY:
		return fmt.Errorf("cannot be read; with a -wal file a reader needs to read that and -shm, "+
			"and where there is no -shm to make one: %w", err)
	}
	return err
}

func (r *reader) describe() source.Description {
	return source.Description{Engine: Engine, Version: "3", Size: r.pages * int64(r.pageSize)}
}

func (r *reader) close() error {
	var err error
	if r.conn != nil {
		// The transaction has written nothing; its end can only free locks.
		r.conn.ExecContext(context.Background(), "ROLLBACK")
		err = r.conn.Close()
	}
	return errors.Join(err, r.db.Close())
}

func dsn(path string, q url.Values) string {
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// Detail is what this source stores in Report.Detail.
type Detail struct {
	PageSize int    `json:"page_size"`
	Pages    int64  `json:"pages"`
	Journal  string `json:"journal"`
	Content
}
