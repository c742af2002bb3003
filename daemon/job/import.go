package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/ledger"
	"strongroom/repo"
	"strongroom/source"
	"strongroom/source/command"
)

// A Dump is an old dump to import.
type Dump struct {
	// Path is the file, or "-" for In.
	Path string
	In   io.Reader
	// Time is when it was made; zero: when the file was last written to.
	Time time.Time
}

// Import takes each dump as one snapshot of a dataset, in the order of their
// times. A dataset's history grows at its end only: the box's own count, by
// which snapshots are ordered, then agrees with the times that the rules of
// retention look at. So a dump that is older than the newest one is refused.
// What was imported before one failed stays.
func (s *Site) Import(ctx context.Context, tenant, dataset string, dumps []Dump, o BackupOptions, done func(Dump, *BackupResult) error) error {
	return s.acting(ctx, tenant, importAct, map[string]string{"dataset": ledger.Text(dataset), "dumps": fmt.Sprint(len(dumps))}, func() (map[string]string, error) {
		taken := 0
		err := s.imports(ctx, tenant, dataset, dumps, o, func(x Dump, r *BackupResult) error {
			taken++
			return done(x, r)
		})
		return map[string]string{"taken": fmt.Sprint(taken)}, err
	})
}

func (s *Site) imports(ctx context.Context, tenant, dataset string, dumps []Dump, o BackupOptions, done func(Dump, *BackupResult) error) error {
	c, t, err := s.Tenant(tenant)
	if err != nil {
		return err
	}
	d, ok := c.Dataset(dataset)
	if !ok {
		return exit.With(exit.Usage, fmt.Errorf("tenant %q has no dataset %q in %s", tenant, dataset, s.Config.Path))
	}
	if d.Source != repo.SourceImport {
		return fmt.Errorf("%w: dataset %q is read from its own source; old dumps go into a dataset of source = %q", ErrRefused, dataset, repo.SourceImport)
	}
	dumps = slices.Clone(dumps)
	for i := range dumps {
		if err := dumps[i].date(time.Now()); err != nil {
			return err
		}
	}
	slices.SortStableFunc(dumps, func(a, b Dump) int { return a.Time.Compare(b.Time) })
	for _, x := range dumps {
		saver, err := s.begin(ctx, t, d, "")
		if err != nil {
			return err
		}
		for _, old := range saver.History() {
			if e := old.Entry; e != nil && !e.Point.Before(x.Time) {
				err := fmt.Errorf("%w: %s is of %s, and snapshot %s of %s is there already: history is imported oldest first", ErrRefused,
					x.Path, x.Time.Format(time.RFC3339), old.ID(), e.Point.Format(time.RFC3339))
				saver.Abort(err)
				return err
			}
		}
		if how := x.compressed(); how != "" {
			s.Log("%s is compressed with %s: decompressed, by way of stdin, only its changes would be stored", x.Path, how)
		}
		r, err := s.take(ctx, saver, t, d, x, o)
		if err != nil {
			return fmt.Errorf("%s: %w", x.Path, err)
		}
		if err := done(x, r); err != nil {
			return err
		}
	}
	return nil
}

// date finds out when a dump was made.
func (x *Dump) date(now time.Time) error {
	if x.Time.IsZero() {
		if x.Path == "-" {
			return exit.With(exit.Usage, errors.New("what comes from stdin needs --time"))
		}
		info, err := os.Stat(x.Path)
		if err != nil {
			return err
		}
		x.Time = info.ModTime()
	}
	x.Time = x.Time.UTC().Truncate(time.Second)
	if x.Time.After(now) {
		return exit.With(exit.Usage, fmt.Errorf("%s is of %s, which is in the future", x.Path, x.Time.Format(time.RFC3339)))
	}
	return nil
}

// compressed names the compression of a file: two such dumps have nothing in
// common, however little changed between them.
func (x Dump) compressed() string {
	if x.Path == "-" {
		return ""
	}
	f, err := os.Open(x.Path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var b [4]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return ""
	}
	for how, magic := range map[string]string{"gzip": "\x1f\x8b", "zstd": "\x28\xb5\x2f\xfd", "xz": "\xfd7zX", "bzip2": "BZh"} {
		if strings.HasPrefix(string(b[:]), magic) {
			return how
		}
	}
	return ""
}

// Probe checks that the dump is there.
func (x Dump) Probe(context.Context) (source.Description, error) {
	// It is restored as a command's output is: as it came.
	d := source.Description{Engine: command.Engine, Version: repo.SourceImport}
	if x.Path == "-" {
		return d, nil
	}
	info, err := os.Stat(x.Path)
	if err != nil {
		return d, err
	}
	if !info.Mode().IsRegular() {
		return d, fmt.Errorf("%s is not a file; what a program writes comes from stdin, with -", x.Path)
	}
	d.Size = info.Size()
	return d, nil
}

// Open opens the dump.
func (x Dump) Open(ctx context.Context) (source.Snapshot, error) {
	d, err := x.Probe(ctx)
	if err != nil {
		return nil, err
	}
	s := &dumpSnapshot{dump: x, desc: d, r: io.NopCloser(x.In)}
	if x.Path != "-" {
		if s.file, err = os.Open(x.Path); err != nil {
			return nil, err
		}
		if s.before, err = s.file.Stat(); err != nil {
			return nil, errors.Join(err, s.file.Close())
		}
		s.r = s.file
	}
	return s, nil
}

// dumpSnapshot is a dump that is being read.
type dumpSnapshot struct {
	dump   Dump
	desc   source.Description
	r      io.ReadCloser
	file   *os.File // nil for stdin
	before os.FileInfo
	bytes  int64
}

func (s *dumpSnapshot) Description() source.Description { return s.desc }
func (s *dumpSnapshot) Time() time.Time                 { return s.dump.Time }
func (s *dumpSnapshot) Parallel() int                   { return 1 }
func (s *dumpSnapshot) Close() error                    { return s.r.Close() }

func (s *dumpSnapshot) Streams() []source.Stream {
	return []source.Stream{{Name: "output", Kind: source.KindOpaque, SizeHint: s.desc.Size, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			n, err := s.r.Read(p)
			s.bytes += int64(n)
			return n, err
		})), nil
	}}}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Finish compares the file with what it was when it was opened.
func (s *dumpSnapshot) Finish(context.Context) (source.Report, error) {
	if s.file != nil {
		after, err := s.file.Stat()
		if err != nil {
			return source.Report{}, err
		}
		if s.bytes != s.before.Size() || after.Size() != s.before.Size() || !after.ModTime().Equal(s.before.ModTime()) {
			return source.Report{}, errors.New("it was written to while it was read")
		}
	}
	detail, err := json.Marshal(map[string]any{"imported": s.dump.Time, "bytes": s.bytes})
	return source.Report{Detail: detail}, err
}
