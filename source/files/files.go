// Package files dumps a directory tree as two streams, the contents of its
// files and the list of its entries, and restores it.
package files

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/source"
	"strongroom/source/files/scratch"
)

// Engine is what Description.Engine says of this source.
const Engine = "files"

const (
	dataStream = "data"
	treeStream = "tree"
)

// Config says which tree to dump.
type Config struct {
	// Path is the directory; if it is a symbolic link, the one it points to.
	// No link below it is followed. Mounts below it are part of it.
	Path string
	// Exclude are patterns of path.Match; one with a "/" is held against the
	// path relative to Path, one without against the name. An excluded
	// directory is not entered.
	Exclude []string
	// Scratch is where the list of entries is kept, encrypted, until it is
	// read; "" means the system's directory for temporary files.
	Scratch string
}

// Source is a directory tree.
type Source struct {
	cfg Config

	hookRead func(path string) // called, for tests, between the reading of a file and the check whether it changed
}

var _ source.Source = (*Source)(nil)

// New returns a source; it reads nothing yet.
func New(cfg Config) (*Source, error) {
	if !filepath.IsAbs(cfg.Path) {
		return nil, fmt.Errorf("files: path %q is not absolute", cfg.Path)
	}
	for _, p := range cfg.Exclude {
		if _, err := path.Match(p, ""); err != nil || p == "" || strings.HasPrefix(p, "/") {
			return nil, fmt.Errorf("files: exclude pattern %q: want a relative pattern as of path.Match", p)
		}
	}
	return &Source{cfg: cfg, hookRead: func(string) {}}, nil
}

// Probe checks that the root can be read.
func (s *Source) Probe(context.Context) (source.Description, error) {
	f, err := s.root()
	if err != nil {
		return source.Description{}, err
	}
	return source.Description{Engine: Engine}, f.Close()
}

func (s *Source) root() (*os.File, error) {
	fd, err := unix.Open(s.cfg.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("files: open %s: %w", s.cfg.Path, err)
	}
	return os.NewFile(uintptr(fd), s.cfg.Path), nil
}

// Open begins a snapshot. Files have no common moment: each is read as it is
// when its turn comes, and what changes meanwhile is reported.
func (s *Source) Open(context.Context) (source.Snapshot, error) {
	f, err := s.root()
	if err != nil {
		return nil, err
	}
	tree, err := scratch.Create(s.cfg.Scratch)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("files: %w", err)
	}
	return &snapshot{src: s, root: f, tree: tree, time: time.Now(), done: make(chan struct{})}, nil
}

// Detail is what this source stores in Report.Detail.
type Detail struct {
	Root     string `json:"root"` // percent-encoded like the names in the tree
	Entries  int64  `json:"entries"`
	Files    int64  `json:"files"` // regular files, each hard link counted
	Dirs     int64  `json:"dirs"`
	Bytes    int64  `json:"bytes"` // sum of the files' sizes, holes included
	Excluded int64  `json:"excluded,omitempty"`
	Failed   int64  `json:"failed,omitempty"`  // not in the tree, or a directory without what is in it
	Changed  int64  `json:"changed,omitempty"` // in the tree, but they changed while read
}

type snapshot struct {
	src  *Source
	root *os.File
	tree *scratch.File
	time time.Time

	done chan struct{} // closed when the walk ended; then walk and err are set
	walk *walker
	err  error

	mu        sync.Mutex
	pipe      *io.PipeReader // set when "data" was opened
	treeTaken bool
	treeWhole bool
	closed    bool
}

func (s *snapshot) Description() source.Description { return source.Description{Engine: Engine} }
func (s *snapshot) Time() time.Time                 { return s.time }
func (s *snapshot) Parallel() int                   { return 1 }

func (s *snapshot) Streams() []source.Stream {
	return []source.Stream{
		{Name: dataStream, Kind: source.KindFiles, Open: s.openData},
		{Name: treeStream, Kind: source.KindTree, Open: s.openTree},
	}
}

func (s *snapshot) openData(ctx context.Context) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pipe != nil || s.closed {
		return nil, errors.New("files: stream was opened before, or its snapshot is closed")
	}
	r, w := io.Pipe()
	s.pipe = r
	go func() {
		defer close(s.done)
		out := bufio.NewWriterSize(w, bufferBytes/4) // long writes go past it
		s.walk = newWalker(ctx, s.src, out, s.tree)
		s.err = s.walk.run(s.root)
		if s.err == nil {
			s.err = out.Flush()
		}
		w.CloseWithError(s.err)
	}()
	return r, nil
}

// openTree waits for the end of "data": until then the tree is not known.
func (s *snapshot) openTree(ctx context.Context) (io.ReadCloser, error) {
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.treeTaken || s.closed {
		return nil, errors.New("files: stream was opened before, or its snapshot is closed")
	}
	s.treeTaken = true
	return &treeReader{r: io.NewSectionReader(s.tree, 0, s.tree.Size()), snap: s, ctx: ctx}, nil
}

type treeReader struct {
	r    io.Reader
	snap *snapshot
	ctx  context.Context
}

func (t *treeReader) Read(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := t.r.Read(p)
	if err == io.EOF {
		t.snap.mu.Lock()
		t.snap.treeWhole = true
		t.snap.mu.Unlock()
	}
	return n, err
}

func (t *treeReader) Close() error { return nil }

// Finish reports what was read and what could not be.
func (s *snapshot) Finish(context.Context) (source.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.treeWhole {
		return source.Report{}, errors.New("files: the tree was not read to its end")
	}
	d := s.walk.detail
	raw, err := json.Marshal(d)
	if err != nil {
		return source.Report{}, fmt.Errorf("files: encode detail: %w", err)
	}
	return source.Report{
		Streams:  map[string]source.Facts{dataStream: {Rows: d.Files}, treeStream: {Rows: d.Entries}},
		Warnings: s.walk.warned(),
		Partial:  d.Failed > 0 || d.Changed > 0,
		Detail:   raw,
	}, nil
}

// Close ends the walk and gives everything back.
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.pipe != nil {
		s.pipe.CloseWithError(errors.New("files: snapshot was closed"))
		<-s.done
	}
	return errors.Join(s.root.Close(), s.tree.Close())
}
