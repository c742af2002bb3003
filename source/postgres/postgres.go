// Package postgres dumps one PostgreSQL database at one consistency point, as
// streams that end to end are a plain dump, and loads them back in parallel.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"strongroom/source"
)

// Engine is what Description.Engine says of this source.
const Engine = "postgres"

// Config says which database to dump and how.
type Config struct {
	// URL is a connection URL or keyword string as libpq and pgx take it. It
	// names one host. A password in it is used but given to no child process
	// by argument or environment; better none at all (peer, certificate), or
	// a passfile, service file, or PasswordFile.
	URL string
	// PasswordFile holds the password on its first line; "" where it is not
	// needed.
	PasswordFile string
	// Jobs is how many tables are read at once; 0 means 2, at most 16.
	Jobs int
	// LockTimeout is how long to wait for the lock on a table; 0 means 30 s.
	LockTimeout time.Duration
	// BinDir is where pg_dump and pg_restore are; "" looks under
	// /usr/lib/postgresql for those of the server's major version, else of
	// the next newer one.
	BinDir string
	// TempDir is where a private directory for a passfile is made; "" means
	// the system's.
	TempDir string
	// RestrictKey is the token between which psql obeys no backslash command,
	// letters and digits. Whoever owns the database must not be able to guess
	// it; equal dumps need an equal one. "" means a random one per snapshot.
	RestrictKey string

	// Plain heap tables of more bytes than splitOver are read in ranges of
	// rangeBlocks blocks; both are set by tests that split small tables, 0
	// means the constants below. A range's length may not change from one
	// snapshot to the next: range i is matched against range i of last week.
	splitOver   int64
	rangeBlocks int64
	// longTransaction is how long a transaction may be open before an
	// examination tells of it; 0 means an hour, tests have less.
	longTransaction time.Duration
}

const (
	defaultSplitOver   = 2 << 30
	defaultRangeBlocks = 131072 // 1 GiB
)

// Source is a PostgreSQL database.
type Source struct {
	cfg Config

	// Called, for tests, between the steps of the locking protocol.
	hookListed func() // tables were listed, nothing is locked
	hookLocked func() // tables are locked, there is no snapshot
}

var _ source.Source = (*Source)(nil)

// New returns a source; it connects to nothing yet.
func New(cfg Config) (*Source, error) {
	if cfg.Jobs == 0 {
		cfg.Jobs = 2
	}
	if cfg.Jobs < 0 || cfg.Jobs > 16 {
		return nil, fmt.Errorf("postgres: %d jobs: want 1 to 16", cfg.Jobs)
	}
	if cfg.splitOver == 0 {
		cfg.splitOver = defaultSplitOver
	}
	if cfg.rangeBlocks == 0 {
		cfg.rangeBlocks = defaultRangeBlocks
	}
	if cfg.longTransaction == 0 {
		cfg.longTransaction = time.Hour
	}
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = 30 * time.Second
	}
	if cfg.LockTimeout < time.Millisecond {
		return nil, fmt.Errorf("postgres: lock timeout %v is too short", cfg.LockTimeout)
	}
	if cfg.RestrictKey == "" {
		cfg.RestrictKey = randomKey()
	}
	if !validKey(cfg.RestrictKey) {
		return nil, errors.New("postgres: restrict key: want 1 to 128 letters and digits")
	}
	if _, err := newDialer(cfg.URL, cfg.PasswordFile); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, hookListed: func() {}, hookLocked: func() {}}, nil
}

// Probe checks that the server answers, that pg_dump is new enough for it,
// and that the role may read every table.
func (s *Source) Probe(ctx context.Context) (source.Description, error) {
	d, err := newDialer(s.cfg.URL, s.cfg.PasswordFile)
	if err != nil {
		return source.Description{}, err
	}
	c, err := d.connect(ctx)
	if err != nil {
		return source.Description{}, err
	}
	defer closeConn(c)
	desc, err := s.probe(ctx, c)
	if err != nil {
		return source.Description{}, fmt.Errorf("postgres: probe %s: %w", d.name(), err)
	}
	return desc, nil
}

func (s *Source) probe(ctx context.Context, c *pgx.Conn) (source.Description, error) {
	srv, err := readServer(ctx, c)
	if err != nil {
		return source.Description{}, err
	}
	if _, err := findPrograms(ctx, s.cfg.BinDir, srv.Major); err != nil {
		return source.Description{}, err
	}
	tables, err := readTables(ctx, c)
	if err != nil {
		return source.Description{}, err
	}
	if err := checkReadable(tables, srv.Role); err != nil {
		return source.Description{}, err
	}
	return describe(srv, tables), nil
}

func describe(srv server, tables []table) source.Description {
	d := source.Description{Engine: Engine, Version: srv.Version}
	for _, t := range tables {
		d.Size += t.Size
	}
	return d
}
