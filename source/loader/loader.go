// Package loader hands a repository's snapshot to the source that can load it,
// into whatever kind of target a person named.
package loader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"strongroom/repo"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/files/publish"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
	"strongroom/source/sqlite"
)

// ErrTarget: the target does not fit the snapshot.
var ErrTarget = errors.New("the target does not fit")

// Options say where a restore goes, and how.
type Options struct {
	// To is an absolute or relative path, a postgres:// or mariadb:// URL, or "-" for Stdout.
	To           string
	Stdout       io.Writer
	PasswordFile string   // postgres, mariadb
	Only         []string // tables, or paths of a tree
	Overwrite    bool     // files and databases in files
	NoOwner      bool     // postgres, mariadb
	Role         string   // postgres
	Create       bool     // postgres, mariadb: make the database
	Jobs         int      // postgres, mariadb
	Verify       bool     // postgres, mariadb: read every table again
	// Progress is told the bytes read so far and the total.
	Progress func(done, total int64)
}

// Result is what a restore did.
type Result struct {
	Engine   string   `json:"engine"`
	To       string   `json:"to"`
	Bytes    int64    `json:"bytes"` // read of the snapshot
	Tables   int      `json:"tables,omitempty"`
	Rows     int64    `json:"rows,omitempty"`
	Verified int      `json:"verified,omitempty"` // tables read again and found equal
	Warnings []string `json:"warnings,omitempty"`
}

// stored is an opened snapshot as sources see it.
type stored struct {
	o        *repo.Opened
	desc     source.Description
	streams  []source.StreamInfo
	total    int64
	read     atomic.Int64
	progress func(done, total int64)
}

// Stored returns a snapshot as sources see it.
func Stored(o *repo.Opened, progress func(done, total int64)) (source.Stored, error) {
	s := &stored{o: o, progress: progress}
	c := o.Contents()
	if err := json.Unmarshal(c.Description, &s.desc); err != nil {
		return nil, fmt.Errorf("snapshot %s: description: %w", o.Snapshot().ID(), err)
	}
	for _, st := range c.Streams {
		info := source.StreamInfo{Name: st.Name, Kind: source.Kind(st.Kind), PageSize: st.PageSize, Length: st.Length}
		if len(st.Facts) > 0 {
			info.Facts = &source.Facts{}
			if err := json.Unmarshal(st.Facts, info.Facts); err != nil {
				return nil, fmt.Errorf("snapshot %s: facts of %q: %w", o.Snapshot().ID(), st.Name, err)
			}
		}
		s.streams = append(s.streams, info)
		s.total += st.Length
	}
	return s, nil
}

func (s *stored) Description() source.Description { return s.desc }
func (s *stored) Streams() []source.StreamInfo    { return s.streams }
func (s *stored) Detail() json.RawMessage         { return s.o.Contents().Detail }

func (s *stored) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	rc, err := s.o.Read(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return &counted{rc, s}, nil
}

type counted struct {
	io.ReadCloser
	s *stored
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		done := c.s.read.Add(int64(n))
		if c.s.progress != nil {
			c.s.progress(done, c.s.total)
		}
	}
	return n, err
}

// Restore loads a snapshot into the target. It does not touch what is there
// unless Overwrite says so.
func Restore(ctx context.Context, o *repo.Opened, opt Options) (*Result, error) {
	st, err := Stored(o, opt.Progress)
	if err != nil {
		return nil, err
	}
	s := st.(*stored)
	r := &Result{Engine: s.desc.Engine, To: opt.To}
	switch {
	case strings.HasPrefix(opt.To, "postgres://"), strings.HasPrefix(opt.To, "postgresql://"):
		err = s.toPostgres(ctx, opt, r)
	case strings.HasPrefix(opt.To, "mariadb://"):
		err = s.toMariaDB(ctx, opt, r)
	case opt.To == "-":
		if len(opt.Only) > 0 && s.desc.Engine != "files" {
			return nil, fmt.Errorf("%w: --only with --to - works for trees of files", ErrTarget)
		}
		err = s.plain(ctx, opt.Stdout, opt.Only)
	case opt.To == "":
		return nil, fmt.Errorf("%w: --to is missing", ErrTarget)
	default:
		err = s.toPath(ctx, opt, r)
	}
	if err != nil {
		return nil, err
	}
	r.Bytes = s.read.Load()
	r.Warnings = append(r.Warnings, o.Damage()...)
	return r, nil
}

func (s *stored) toPostgres(ctx context.Context, opt Options, r *Result) error {
	if s.desc.Engine != "postgres" {
		return fmt.Errorf("%w: a snapshot of %s does not go into a PostgreSQL database", ErrTarget, s.desc.Engine)
	}
	rep, err := postgres.Restore(ctx, s, postgres.Target{URL: opt.To, PasswordFile: opt.PasswordFile, Create: opt.Create, NoOwner: opt.NoOwner,
		Role: opt.Role, Jobs: opt.Jobs, Only: opt.Only, Verify: opt.Verify})
	if err != nil {
		return err
	}
	r.Tables, r.Rows, r.Verified, r.Warnings = rep.Tables, rep.Rows, rep.Verified, rep.Warnings
	return nil
}

func (s *stored) toMariaDB(ctx context.Context, opt Options, r *Result) error {
	if s.desc.Engine != mariadb.Engine {
		return fmt.Errorf("%w: a snapshot of %s does not go into a MariaDB database", ErrTarget, s.desc.Engine)
	}
	if opt.Role != "" {
		return fmt.Errorf("%w: --role is for PostgreSQL", ErrTarget)
	}
	rep, err := mariadb.Restore(ctx, s, mariadb.Target{URL: opt.To, PasswordFile: opt.PasswordFile, Create: opt.Create, NoOwner: opt.NoOwner,
		Jobs: opt.Jobs, Only: opt.Only, Verify: opt.Verify})
	if err != nil {
		return err
	}
	r.Tables, r.Rows, r.Verified, r.Warnings = rep.Tables, rep.Rows, rep.Verified, rep.Warnings
	return nil
}

// plain writes the snapshot as one stream: SQL, the database file, the
// command's output, or a tar.
func (s *stored) plain(ctx context.Context, w io.Writer, only []string) error {
	switch s.desc.Engine {
	case "postgres":
		return postgres.WritePlain(ctx, s, w)
	case mariadb.Engine:
		return mariadb.WritePlain(ctx, s, w)
	case "sqlite":
		return sqlite.WritePlain(ctx, s, w)
	case "command":
		return command.WritePlain(ctx, s, w)
	case "files":
		return files.WriteTar(ctx, s, only, w)
	}
	return s.unknown()
}

// toFile writes the plain form to a file that appears when it is whole.
func (s *stored) toFile(ctx context.Context, path string, overwrite bool) error {
	f, err := publish.Create(path, overwrite)
	if err != nil {
		return err
	}
	defer f.Discard()
	if err := s.plain(ctx, f, nil); err != nil {
		return err
	}
	return f.Commit()
}

func (s *stored) unknown() error {
	return fmt.Errorf("%w: this program does not know how to load snapshots of %q", ErrTarget, s.desc.Engine)
}

func (s *stored) toPath(ctx context.Context, opt Options, r *Result) error {
	path, err := filepath.Abs(opt.To)
	if err != nil {
		return err
	}
	r.To = path
	if len(opt.Only) > 0 && s.desc.Engine != "files" {
		return fmt.Errorf("%w: --only works for trees of files, and for PostgreSQL and MariaDB into a database", ErrTarget)
	}
	switch s.desc.Engine {
	case "postgres", mariadb.Engine:
		return s.toFile(ctx, path, opt.Overwrite)
	case "sqlite":
		return sqlite.Restore(ctx, s, sqlite.Target{Path: path, Overwrite: opt.Overwrite})
	case "command":
		return command.Restore(ctx, s, command.Target{Path: path, Overwrite: opt.Overwrite})
	case "files":
		return s.toTree(ctx, path, opt, r)
	}
	return s.unknown()
}

// toTree restores files. A directory that was made for nothing goes again; half
// a tree stays, because after damage it may be all there is, and is named.
func (s *stored) toTree(ctx context.Context, path string, opt Options, r *Result) error {
	info, missing := os.Stat(path)
	if missing == nil && !info.IsDir() {
		return fmt.Errorf("files: restore to %s: %w and is no directory", path, publish.ErrExists)
	}
	rep, err := files.Restore(ctx, s, files.Target{Path: path, Only: opt.Only, Overwrite: opt.Overwrite})
	r.Warnings = append(r.Warnings, rep.Notes...)
	if err != nil && errors.Is(missing, fs.ErrNotExist) {
		if names, rerr := os.ReadDir(path); rerr == nil && len(names) > 0 {
			return fmt.Errorf("%w; a part of the tree is in %s", err, path)
		}
		_ = os.Remove(path) // an empty directory at worst
	}
	return err
}
