package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"strongroom/source"
)

// tracked reports to its snapshot how a stream ended.
type tracked struct {
	n     *snapshot
	name  string
	r     io.ReadCloser
	facts func() source.Facts // nil for text
	after func()              // after r was closed; may be nil
	once  sync.Once
	ended bool // owned by the reader
}

// track wires a stream's reader to the snapshot: its end, its first error,
// and that it dies with the snapshot.
func (n *snapshot) track(ctx context.Context, name string, r io.ReadCloser, facts func() source.Facts, after func()) (io.ReadCloser, error) {
	t := &tracked{n: n, name: name, r: r, facts: facts, after: after}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		err := errors.Join(context.Cause(n.ctx), r.Close())
		if after != nil {
			after()
		}
		return nil, err
	}
	n.active[t] = true
	return t, nil
}

func (t *tracked) Read(p []byte) (int, error) {
	k, err := t.r.Read(p)
	if err == nil || t.ended {
		return k, err
	}
	t.ended = true
	if err != io.EOF {
		return k, t.n.fail(err)
	}
	t.n.mu.Lock()
	defer t.n.mu.Unlock()
	delete(t.n.left, t.name)
	if t.facts != nil {
		t.n.facts[t.name] = t.facts()
	}
	return k, io.EOF
}

func (t *tracked) Close() error {
	t.once.Do(func() {
		_ = t.r.Close() // readers that stop early have nothing to say
		if t.after != nil {
			t.after()
		}
		t.n.mu.Lock()
		delete(t.n.active, t)
		t.n.mu.Unlock()
	})
	return nil
}

// fail keeps the first failure for Finish.
func (n *snapshot) fail(err error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failed == nil {
		n.failed = fmt.Errorf("failed before: %w", err)
	}
	return err
}
