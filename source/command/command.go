// Package command dumps whatever a program writes to its standard output, and
// only if that program succeeds.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"strongroom/source"
	"strongroom/source/files/publish"
)

// Engine is what Description.Engine says of this source.
const Engine = "command"

// stream is the name of the one stream of a snapshot.
const stream = "output"

// Config says what to run.
type Config struct {
	// Argv is the program by its absolute path, and its arguments. No shell
	// sees it. Arguments are visible to every process of the machine: secrets
	// belong into a file that the program reads.
	Argv []string
	// Dir is the working directory; "" means "/".
	Dir string
	// Env is added to the minimal environment (PATH, LANG=C.UTF-8, HOME=/).
	Env []string
	// Timeout is how long the program may run; 0: without limit.
	Timeout time.Duration
	// Grace is how long it has between SIGTERM and SIGKILL, and how long a
	// process that it left behind may keep its output open in silence; 0
	// means 5 s.
	Grace time.Duration
}

// Source is a command.
type Source struct{ cfg Config }

var _ source.Source = (*Source)(nil)

// New returns a source; it starts nothing yet.
func New(cfg Config) (*Source, error) {
	if len(cfg.Argv) == 0 {
		return nil, errors.New("command: no program")
	}
	if !filepath.IsAbs(cfg.Argv[0]) {
		return nil, fmt.Errorf("command: program %q is not an absolute path", cfg.Argv[0])
	}
	for i, a := range cfg.Argv {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, fmt.Errorf("command: argument %d contains a zero byte", i)
		}
	}
	for i, e := range cfg.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.IndexByte(e, 0) >= 0 {
			return nil, fmt.Errorf("command: environment entry %d is not KEY=VALUE", i)
		}
	}
	if cfg.Dir == "" {
		cfg.Dir = "/"
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Timeout < 0 || cfg.Grace < 0 {
		return nil, errors.New("command: negative timeout or grace")
	}
	return &Source{cfg: cfg}, nil
}

// Probe checks that the program is there and may be executed; it does not
// start it.
func (s *Source) Probe(context.Context) (source.Description, error) {
	fi, err := os.Stat(s.cfg.Argv[0])
	if err != nil {
		return source.Description{}, fmt.Errorf("command: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
		return source.Description{}, fmt.Errorf("command: %s is not an executable file", s.cfg.Argv[0])
	}
	if fi, err = os.Stat(s.cfg.Dir); err != nil {
		return source.Description{}, fmt.Errorf("command: working directory: %w", err)
	} else if !fi.IsDir() {
		return source.Description{}, fmt.Errorf("command: working directory %s is not a directory", s.cfg.Dir)
	}
	return source.Description{Engine: Engine}, nil
}

// Open prepares a snapshot. The program starts when its stream is opened; the
// consistency point is whatever the program makes of it.
func (s *Source) Open(ctx context.Context) (source.Snapshot, error) {
	desc, err := s.Probe(ctx)
	if err != nil {
		return nil, err
	}
	return &snapshot{cfg: s.cfg, desc: desc, time: time.Now()}, nil
}

// Detail is what this source stores in Report.Detail. It has no arguments,
// which may name what is nobody's business.
type Detail struct {
	Program string  `json:"program"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	// Stderr is the end of what the program wrote there.
	Stderr string `json:"stderr,omitempty"`
}

type snapshot struct {
	cfg  Config
	desc source.Description
	time time.Time

	mu     sync.Mutex
	closed bool
	run    *process // nil until the stream was opened
}

func (s *snapshot) Description() source.Description { return s.desc }
func (s *snapshot) Time() time.Time                 { return s.time }
func (s *snapshot) Parallel() int                   { return 1 }

func (s *snapshot) Streams() []source.Stream {
	return []source.Stream{{Name: stream, Kind: source.KindOpaque, Open: s.open}}
}

func (s *snapshot) open(ctx context.Context) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil || s.closed {
		return nil, errors.New("command: stream was opened before, or its snapshot is closed")
	}
	p, err := start(ctx, s.cfg)
	if err != nil {
		return nil, fmt.Errorf("command: start %s: %w", s.cfg.Argv[0], err)
	}
	s.run = p
	return p, nil
}

// Finish reports how the program went.
func (s *snapshot) Finish(context.Context) (source.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return source.Report{}, errors.New("command: was not run")
	}
	d, err := s.run.outcome()
	if err != nil {
		return source.Report{}, err
	}
	raw, err := json.Marshal(d)
	if err != nil {
		return source.Report{}, fmt.Errorf("command: encode detail: %w", err)
	}
	rep := source.Report{Detail: raw}
	if d.Bytes == 0 {
		rep.Warnings = []string{fmt.Sprintf("%s wrote nothing", s.cfg.Argv[0])}
	}
	return rep, nil
}

// Close kills what still runs.
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.run != nil {
		return s.run.Close()
	}
	return nil
}

// Target says where to restore to.
type Target struct {
	Path      string
	Overwrite bool // replace a file that is there
}

// Restore writes the output to a file, which appears at its place when it is
// whole.
func Restore(ctx context.Context, stored source.Stored, t Target) error {
	f, err := publish.Create(t.Path, t.Overwrite)
	if err != nil {
		return fmt.Errorf("command: restore: %w", err)
	}
	defer f.Discard()
	if err := WritePlain(ctx, stored, f); err != nil {
		return fmt.Errorf("command: restore to %s: %w", t.Path, err)
	}
	if err := f.Commit(); err != nil {
		return fmt.Errorf("command: restore to %s: %w", t.Path, err)
	}
	return nil
}

// WritePlain writes the output as it was.
func WritePlain(ctx context.Context, stored source.Stored, w io.Writer) error {
	r, err := stored.Open(ctx, stream, 0, -1)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return errors.Join(err, r.Close())
}

// Run runs a program to its end; what it writes to its output is not kept.
// Anything but exit status 0 in time is an error, with the last lines that it
// wrote to standard error. What it leaves running in its group is killed.
func Run(ctx context.Context, cfg Config) error {
	s, err := New(cfg)
	if err != nil {
		return err
	}
	p, err := start(ctx, s.cfg)
	if err != nil {
		return fmt.Errorf("command: start %s: %w", cfg.Argv[0], err)
	}
	defer p.Close()
	_, err = io.Copy(io.Discard, struct{ io.Reader }{p})
	return err
}
