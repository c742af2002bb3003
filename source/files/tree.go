package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"strings"

	"strongroom/source"
)

// ErrTree: what stands where a snapshot's tree should be is none, by damage or
// by malice.
var ErrTree = errors.New("no tree")

// ReadTree yields the entries of a stored tree: a directory before what is in
// it, the names of a directory in ascending order of their bytes. After
// yielding an error it stops. Entries were checked: paths stay inside the
// tree, each is unique, its parent is a directory yielded before, and contents
// lie inside the stream "data". Memory does not grow with the tree.
func ReadTree(ctx context.Context, stored source.Stored) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if err := readTree(ctx, stored, func(e Entry) bool { return yield(e, nil) }); err != nil {
			yield(Entry{}, fmt.Errorf("files: read tree: %w", err))
		}
	}
}

func readTree(ctx context.Context, stored source.Stored, yield func(Entry) bool) (err error) {
	o := order{data: -1}
	for _, s := range stored.Streams() {
		if s.Name == dataStream {
			o.data = s.Length
		}
	}
	if o.data < 0 {
		return fmt.Errorf("%w: snapshot has no stream of file contents", ErrTree)
	}
	r, err := stored.Open(ctx, treeStream, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	br := bufio.NewReaderSize(r, maxLine)
	for n := 0; ; n++ {
		b, err := br.ReadSlice('\n')
		switch {
		case err == io.EOF && len(b) == 0 && n > 1:
			return nil
		case err == io.EOF:
			return fmt.Errorf("%w: line %d: %w", ErrTree, n+1, io.ErrUnexpectedEOF)
		case err != nil:
			return fmt.Errorf("line %d: %w", n+1, err)
		}
		if n == 0 {
			if string(b) != header {
				return fmt.Errorf("%w: line 1: unknown format", ErrTree)
			}
			continue
		}
		e, err := parse(b)
		if err == nil {
			err = o.check(&e)
		}
		if err != nil {
			return fmt.Errorf("%w: line %d: %w", ErrTree, n+1, err)
		}
		if !yield(e) {
			return nil
		}
	}
}

// order holds entries to the order in which a walk writes them.
type order struct {
	open []level // the directories that lead to the last entry
	data int64   // length of the stream "data"
	end  int64   // where the contents of the last file end in it
}

type level struct {
	path string
	last string // name of the last entry in it
}

func (o *order) check(e *Entry) error {
	if len(o.open) == 0 && o.end == 0 && e.Path == "." {
		o.open = append(o.open, level{path: "."})
		return nil
	}
	parent, name := split(e.Path)
	for len(o.open) > 0 && o.open[len(o.open)-1].path != parent {
		o.open = o.open[:len(o.open)-1]
	}
	if len(o.open) == 0 || e.Path == "." {
		return fmt.Errorf("%.200q does not follow its directory", e.Path)
	}
	top := &o.open[len(o.open)-1]
	if name <= top.last {
		return fmt.Errorf("%.200q is out of order", e.Path)
	}
	top.last = name
	switch {
	case e.Type == TypeDir:
		o.open = append(o.open, level{path: e.Path})
	case e.Type == TypeFile && e.Link != "":
		if e.Data+e.stored() > o.end {
			return fmt.Errorf("%.200q: contents are not those of an earlier file", e.Path)
		}
	case e.Type == TypeFile:
		if e.Data < o.end || e.Data+e.stored() > o.data {
			return fmt.Errorf("%.200q: contents out of order", e.Path)
		}
		o.end = e.Data + e.stored()
	}
	return nil
}

// split returns the path of the directory and the name in it.
func split(p string) (dir, name string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return ".", p
	}
	return p[:i], p[i+1:]
}

// A selection says which paths are wanted; none means all.
type selection struct {
	only []string
	seen []bool
}

func newSelection(only []string) (*selection, error) {
	s := &selection{seen: make([]bool, len(only))}
	for _, p := range only {
		c := path.Clean(strings.TrimLeft(p, "/"))
		if c != "." {
			if err := checkPath(c); err != nil {
				return nil, err
			}
		}
		s.only = append(s.only, c)
	}
	return s, nil
}

// has reports whether a path is wanted.
func (s *selection) has(p string) bool {
	ok := len(s.only) == 0
	for i, o := range s.only {
		if p == o || o == "." || strings.HasPrefix(p, o) && p[len(o)] == '/' {
			s.seen[i] = true
			ok = true
		}
	}
	return ok
}

// missing is an error that names what was wanted and is not in the tree.
func (s *selection) missing() error {
	for i, ok := range s.seen {
		if !ok {
			return fmt.Errorf("%q is not in the snapshot", s.only[i])
		}
	}
	return nil
}
