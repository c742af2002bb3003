package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"strongroom/source"
)

// Open has the other side fix a consistency point.
func (s *Source) Open(ctx context.Context) (source.Snapshot, error) {
	asked := time.Now()
	c, err := s.begin(ctx, verbOpen)
	if err != nil {
		return nil, err
	}
	defer c.until(ctx)()
	var o opened
	if err = c.expect(kindOpened, &o); err == nil {
		err = checkOpened(o, s.cfg.Engine)
	}
	if err != nil {
		err = c.failed(err)
		c.close()
		return nil, err
	}
	snap := &snapshot{call: c, opened: o}
	snap.at, snap.skew = moment(o.Time, asked, time.Now())
	return snap, nil
}

type snapshot struct {
	call   *call
	opened opened
	at     time.Time
	skew   string // a warning about clocks

	mu     sync.Mutex
	next   int   // guarded by mu: the stream whose turn it is
	busy   bool  // guarded by mu: a stream is being read, or a report
	closed bool  // guarded by mu
	bytes  int64 // of whoever is busy: of all streams so far
}

func (s *snapshot) Description() source.Description { return s.opened.Description }
func (s *snapshot) Time() time.Time                 { return s.at }

// Parallel is 1 whatever it is at the other side: one connection, one stream.
func (s *snapshot) Parallel() int { return 1 }

func (s *snapshot) Streams() []source.Stream {
	var out []source.Stream
	for i, st := range s.opened.Streams {
		out = append(out, source.Stream{Name: st.Name, Kind: st.Kind, PageSize: st.PageSize, SizeHint: st.SizeHint,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return s.open(ctx, i) }})
	}
	return out
}

// take claims the connection for the i-th stream, or after the last one for
// the report.
func (s *snapshot) take(i int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errors.New("remote: the snapshot is closed")
	case s.busy || s.next != i:
		return fmt.Errorf("remote: streams are opened one after the other, each to its end: it is the turn of %d, not of %d", s.next, i)
	}
	s.busy = true
	return nil
}

func (s *snapshot) open(ctx context.Context, i int) (io.ReadCloser, error) {
	if err := s.take(i); err != nil {
		return nil, err
	}
	r := &reader{snap: s, release: s.call.until(ctx)}
	if err := s.call.wire.send(kindNext, nil); err != nil {
		return nil, r.fail(err)
	}
	return r, nil
}

// reader is one stream on its way. It ends with io.EOF after the other side's
// own mark alone, and only if as many bytes came as that says.
type reader struct {
	snap    *snapshot
	release func() bool
	left    int   // of the current frame
	bytes   int64 // so far
	err     error // what every further Read returns
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	defer r.snap.call.waits()()
	for r.left == 0 {
		if err := r.frame(); err != nil {
			return 0, err
		}
	}
	n, err := r.snap.call.Read(p[:min(len(p), r.left)])
	r.left -= n
	r.bytes += int64(n)
	if n > 0 {
		return n, nil // an error comes again
	}
	if err != nil {
		return 0, r.fail(noEnd(err))
	}
	return 0, nil
}

// frame begins the next one.
func (r *reader) frame() error {
	c := r.snap.call
	kind, n, err := c.wire.header()
	if err != nil {
		return r.fail(err)
	}
	switch kind {
	case kindData:
		if n == 0 {
			return r.fail(fmt.Errorf("%w: a frame of data without any", errProtocol))
		}
		if r.snap.bytes += int64(n); r.snap.bytes > c.cfg.MaxBytes {
			return r.fail(source.WithClass(source.Refused, fmt.Errorf("it sends more than %d bytes, which is all that max_size allows", c.cfg.MaxBytes)))
		}
		r.left = n
		return nil
	case kindEnd:
		var e end
		if err := c.wire.value(kind, n, &e); err != nil {
			return r.fail(err)
		}
		if e.Bytes != r.bytes {
			return r.fail(fmt.Errorf("%w: the stream had %d bytes there and %d here", errProtocol, e.Bytes, r.bytes))
		}
		r.finish()
		return io.EOF
	}
	return r.fail(c.instead(kind, n))
}

// finish hands the connection to the next stream.
func (r *reader) finish() {
	r.release()
	r.err = io.EOF
	s := r.snap
	s.mu.Lock()
	s.next++
	s.busy = false
	s.mu.Unlock()
}

// fail ends the whole snapshot: after half a stream nothing can follow.
func (r *reader) fail(err error) error {
	r.release()
	r.err = r.snap.call.failed(err)
	return r.err
}

// Close of a stream that was not read to its end ends the snapshot.
func (r *reader) Close() error {
	if r.err == nil {
		_ = r.fail(errors.New("its reader stopped before the end"))
	}
	return nil
}

// Finish asks for the report.
func (s *snapshot) Finish(ctx context.Context) (source.Report, error) {
	if err := s.take(len(s.opened.Streams)); err != nil {
		return source.Report{}, err
	}
	c := s.call
	defer c.until(ctx)()
	var r source.Report
	err := c.wire.send(kindFinish, nil)
	if err == nil {
		err = c.expect(kindReport, &r)
	}
	if err == nil {
		err = checkReport(&r, s.opened.Description.Engine)
	}
	if err != nil {
		return source.Report{}, c.failed(err)
	}
	c.close() // all is said, and a commit may take long
	if s.skew != "" {
		r.Warnings = append([]string{s.skew}, r.Warnings...)
	}
	return r, nil
}

// Close ends the conversation, and with it what the other side does for it.
func (s *snapshot) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.call.close()
	return nil
}
