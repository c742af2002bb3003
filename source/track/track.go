// Package track keeps what becomes of the streams of a snapshot of a database:
// which were read to their end, what they had, and what failed first.
package track

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"strongroom/source"
)

// Streams are the streams of one snapshot. They are read at once; all of them
// are added before the first is opened.
type Streams struct {
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	all    []source.Stream

	mu     sync.Mutex
	left   map[string]bool         // not read to their end; guarded by mu
	facts  map[string]source.Facts // guarded by mu
	failed error                   // the first failure; guarded by mu
	active map[io.Closer]bool      // readers not closed yet; guarded by mu
}

// New returns none.
func New() *Streams {
	t := &Streams{left: map[string]bool{}, facts: map[string]source.Facts{}, active: map[io.Closer]bool{}}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// Add adds one.
func (t *Streams) Add(s source.Stream) {
	t.left[s.Name] = true
	t.all = append(t.all, s)
}

// AddText adds SQL that is known already.
func (t *Streams) AddText(name string, text []byte) {
	t.Add(source.Stream{Name: name, Kind: source.KindSQL, SizeHint: int64(len(text)), Open: func(context.Context) (io.ReadCloser, error) {
		return t.Reader(name, io.NopCloser(bytes.NewReader(text)), nil, nil)
	}})
}

// All returns them in the order in which they were added.
func (t *Streams) All() []source.Stream { return slices.Clone(t.all) }

// Closed is closed when the snapshot is; Cause says why.
func (t *Streams) Closed() <-chan struct{} { return t.ctx.Done() }

// Cause is why nothing can be opened any more, nil as long as it can.
func (t *Streams) Cause() error { return context.Cause(t.ctx) }

// Reader wires what reads a stream to the snapshot: its end, its first error,
// and that it dies with the snapshot. At its end facts says what was read, one
// stream at a time; it is nil for text. after runs when r was closed; it may be
// nil.
func (t *Streams) Reader(name string, r io.ReadCloser, facts func() source.Facts, after func()) (io.ReadCloser, error) {
	d := &reader{t: t, name: name, r: r, facts: facts, after: after}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		err := errors.Join(context.Cause(t.ctx), r.Close())
		if after != nil {
			after()
		}
		return nil, err
	}
	t.active[d] = true
	return d, nil
}

// Fail keeps the first failure for Finish, and returns err.
func (t *Streams) Fail(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = fmt.Errorf("failed before: %w", err)
	}
	return err
}

// Finish returns what the streams had, or why the snapshot is not whole.
func (t *Streams) Finish() (map[string]source.Facts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil {
		return nil, t.failed
	}
	for _, s := range t.all {
		if t.left[s.Name] {
			return nil, fmt.Errorf("stream %s was not read to its end", s.Name)
		}
	}
	return t.facts, nil
}

// Close ends all readers; the second call does nothing.
func (t *Streams) Close() {
	t.cancel(errors.New("snapshot closed"))
	for {
		t.mu.Lock()
		var r io.Closer
		for r = range t.active {
			break
		}
		t.mu.Unlock()
		if r == nil {
			return
		}
		_ = r.Close() // takes itself out of active
	}
}

// reader reports to its snapshot how a stream ended.
type reader struct {
	t     *Streams
	name  string
	r     io.ReadCloser
	facts func() source.Facts
	after func()
	once  sync.Once
	ended bool // owned by the reader
}

func (d *reader) Read(p []byte) (int, error) {
	k, err := d.r.Read(p)
	if err == nil || d.ended {
		return k, err
	}
	d.ended = true
	if err != io.EOF {
		return k, d.t.Fail(err)
	}
	d.t.mu.Lock()
	defer d.t.mu.Unlock()
	delete(d.t.left, d.name)
	if d.facts != nil {
		d.t.facts[d.name] = d.facts()
	}
	return k, io.EOF
}

func (d *reader) Close() error {
	d.once.Do(func() {
		_ = d.r.Close() // readers that stop early have nothing to say
		if d.after != nil {
			d.after()
		}
		d.t.mu.Lock()
		delete(d.t.active, d)
		d.t.mu.Unlock()
	})
	return nil
}
