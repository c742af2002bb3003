// Package mariadb dumps one MariaDB database at one consistency point, as
// streams that end to end are a plain dump, and loads them back in parallel.
//
// Several sessions see one moment: commits wait, under BACKUP STAGE
// BLOCK_COMMIT or a read lock, while the sessions begin, and only then. DDL on
// a table, view or sequence waits for the end of the dump; a routine or event
// that is defined anew during it fails it.
//
// The user needs SELECT, SHOW VIEW, TRIGGER and EVENT on the database, SELECT
// on mysql.proc, and RELOAD or LOCK TABLES. With less it is refused: a server
// does not list what it hides. Refused are also tables without transactions,
// unless Lock keeps writers out of them to the end; system-versioned tables,
// whose history no statement of older servers can write; engines and types
// whose values are not known to come back; MySQL.
//
// Not in a dump are users and their rights. Views, routines, triggers and
// events keep their DEFINER, by name; NoOwner leaves it out.
//
// The plain dump is loaded by mariadb --binary-mode --max-allowed-packet=1G, of
// a version that knows the sandbox mode of the dump's first line (10.5.25,
// 10.6.18, 10.11.8 or later).
package mariadb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"strongroom/source"
)

// Engine is what Description.Engine says of this source.
const Engine = "mariadb"

// Config says which database to dump and how.
type Config struct {
	// URL is mariadb://user@host:port/database, with socket=/path in its query
	// for a server of this host. Over a network there is TLS and the server's
	// certificate is verified: against ca=/file where the system does not know
	// who signed it; cert=/file and key=/file are the client's own. tls=off
	// turns that off. A password in it is refused.
	URL string
	// PasswordFile holds the password on its first line; "" where it is not
	// needed.
	PasswordFile string
	// Jobs is how many tables are read at once; 0 means 2, at most 16.
	Jobs int
	// LockTimeout is how long to wait for a lock; 0 means 30 s.
	LockTimeout time.Duration
	// Lock allows tables of engines without transactions: nobody can write to
	// them from the beginning of a snapshot to its end. Without it they are
	// refused.
	Lock bool
}

// Source is a MariaDB database.
type Source struct {
	cfg    Config
	stands time.Duration // after which the server takes a lock on commits back

	// Called, for tests, between the steps of the locking protocol.
	hookListed  func() // tables were listed, nothing is locked
	hookJoined  func() // after each session but the last joined the snapshot
	hookStarted func() // the snapshot is fixed and nothing but DDL is locked
	// breakLock leaves the lock out under which sessions join.
	breakLock bool
}

var _ source.Source = (*Source)(nil)

// New returns a source; it connects to nothing yet.
func New(cfg Config) (*Source, error) {
	if cfg.Jobs == 0 {
		cfg.Jobs = 2
	}
	if cfg.Jobs < 0 || cfg.Jobs > 16 {
		return nil, fmt.Errorf("mariadb: %d jobs: want 1 to 16", cfg.Jobs)
	}
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = 30 * time.Second
	}
	if cfg.LockTimeout < time.Second {
		return nil, fmt.Errorf("mariadb: lock timeout %v is too short: the server knows whole seconds", cfg.LockTimeout)
	}
	if _, err := newDialer(cfg.URL, cfg.PasswordFile); err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, stands: 5 * time.Minute, hookListed: func() {}, hookJoined: func() {}, hookStarted: func() {}}, nil
}

// Probe checks that the server answers, that its version is known, that every
// table can be dumped, and that the user may see all there is.
func (s *Source) Probe(ctx context.Context) (_ source.Description, err error) {
	d, err := newDialer(s.cfg.URL, s.cfg.PasswordFile)
	if err != nil {
		return source.Description{}, err
	}
	c, err := d.connect(ctx)
	if err != nil {
		return source.Description{}, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	srv, tables, err := s.look(ctx, c)
	if err != nil {
		return source.Description{}, fmt.Errorf("mariadb: probe %s: %w", d.name(), err)
	}
	return describe(srv, tables), nil
}

// look reads what there is and refuses what cannot be dumped.
func (s *Source) look(ctx context.Context, c *session) (server, []table, error) {
	srv, err := readServer(ctx, c)
	if err != nil {
		return server{}, nil, err
	}
	if err := checkRights(ctx, c, srv); err != nil {
		return server{}, nil, err
	}
	tables, err := readTables(ctx, c)
	if err != nil {
		return server{}, nil, err
	}
	return srv, tables, s.cfg.checkTables(tables)
}

func describe(srv server, tables []table) source.Description {
	d := source.Description{Engine: Engine, Version: srv.Version}
	for _, t := range tables {
		d.Size += t.Size
	}
	return d
}
