package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/source"
)

// Config says what to read and how to reach who reads it.
type Config struct {
	// Dataset is what the other side calls it.
	Dataset string
	// Engine is what it has to be: "files", "sqlite" or "command".
	Engine string
	// Where names the other side in messages.
	Where string
	// Dial reaches it. Close of what it returns ends a Read and a Write that
	// wait; if that has a method Complaint() string, what it returns is told
	// beside a failure.
	Dial func(ctx context.Context) (io.ReadWriteCloser, error)
	// Timeout is how long we wait for the other side in all; how long it waits
	// for us does not count. 0 means a day. A side that keeps saying that it
	// lives ends with it.
	Timeout time.Duration
	// Silence is after how long without any sign of life it is given up; 0
	// means a minute.
	Silence time.Duration
	// MaxBytes is how much it may send in one snapshot; 0 means 1 TiB.
	MaxBytes int64
}

// Defaults of Config.
const (
	DefaultTimeout  = 24 * time.Hour
	DefaultSilence  = time.Minute
	DefaultMaxBytes = 1 << 40
)

// Source is a dataset that somebody else reads for us.
type Source struct{ cfg Config }

var _ source.Source = (*Source)(nil)

// New returns a source; it connects to nothing yet.
func New(cfg Config) (*Source, error) {
	if !Carries(cfg.Engine) {
		return nil, fmt.Errorf("remote: snapshots of %q cannot be carried", cfg.Engine)
	}
	if cfg.Dataset == "" || !plain(cfg.Dataset, 140) || cfg.Dial == nil {
		return nil, fmt.Errorf("remote: bad dataset name %q, or no way there", cfg.Dataset)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.Timeout < 0 || cfg.Silence < 0 || cfg.MaxBytes < 0 {
		return nil, errors.New("remote: negative bounds")
	}
	return &Source{cfg: cfg}, nil
}

// Unix returns how to reach a reader on this machine.
func Unix(path string) func(context.Context) (io.ReadWriteCloser, error) {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		d := net.Dialer{Timeout: 20 * time.Second}
		c, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			return nil, source.WithClass(source.Temporary, err)
		}
		return c, nil
	}
}

// call is one conversation. It belongs to one goroutine at a time, but for
// abort.
type call struct {
	cfg    Config
	conn   io.ReadWriteCloser
	wire   wire
	waited time.Duration // for the other side, in spans that are over
	since  time.Time     // when this one began
	tool   string        // what it says it is

	why  atomic.Pointer[error] // why the connection was closed; the first counts
	done chan struct{}
	wg   sync.WaitGroup
}

// abort closes the connection; whoever uses it gets why.
func (c *call) abort(why error) {
	if c.why.CompareAndSwap(nil, &why) {
		c.conn.Close()
	}
}

// waits begins a span of time that counts as waiting for the other side: all
// of it, also what we do with what comes. One that sends a flood of nothing
// uses up its time as well as one that sends none.
func (c *call) waits() (ends func()) {
	c.since = time.Now()
	return func() { c.waited += time.Since(c.since) }
}

// Read reads from the connection and does not wait for ever.
func (c *call) Read(b []byte) (int, error) {
	wait, why := c.cfg.Silence, source.WithClass(source.Temporary, fmt.Errorf("nothing came for %v", c.cfg.Silence))
	if left := c.cfg.Timeout - c.waited - time.Since(c.since); left < wait {
		wait, why = left, source.WithClass(source.Temporary, fmt.Errorf("it was not done when we had waited for it for %v", c.cfg.Timeout))
	}
	if wait <= 0 {
		c.abort(why)
		return 0, why
	}
	defer time.AfterFunc(wait, func() { c.abort(why) }).Stop()
	return c.conn.Read(b)
}

// begin connects and asks for one thing. The context ends the call, until
// release.
func (s *Source) begin(ctx context.Context, verb string) (_ *call, err error) {
	conn, err := s.cfg.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.cfg.Where, err)
	}
	c := &call{cfg: s.cfg, conn: conn, done: make(chan struct{})}
	c.wire = newWire(c, conn, fromServer)
	defer func() {
		if err != nil {
			err = c.failed(err)
			c.close()
		}
	}()
	defer c.until(ctx)()
	if err := c.greet(); err != nil {
		return nil, err
	}
	if err := c.wire.sendValue(kindRequest, request{Verb: verb, Dataset: s.cfg.Dataset, Engine: s.cfg.Engine}); err != nil {
		return nil, err
	}
	c.wg.Go(c.live)
	var w welcome
	if err := c.expect(kindWelcome, &w); err != nil {
		return nil, err
	}
	if w.Tool == "" || !plain(w.Tool, 100) {
		return nil, fmt.Errorf("%w: it does not say what it is", errProtocol)
	}
	c.tool = w.Tool
	return c, nil
}

func (c *call) greet() error {
	defer c.waits()()
	if err := c.wire.greet(); err != nil {
		return err
	}
	_, err := c.wire.greeted()
	return err
}

// live sends signs of life. While we do not read, the other side's own may
// wait in the connection; that is no harm.
func (c *call) live() {
	t := time.NewTicker(c.cfg.Silence / 4)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
			if err := c.wire.send(kindAlive, nil); err != nil {
				c.abort(err)
				return
			}
		}
	}
}

// until ends the call with the context, until the function returned is called.
func (c *call) until(ctx context.Context) (release func() bool) {
	return context.AfterFunc(ctx, func() { c.abort(context.Cause(ctx)) })
}

// expect reads a frame of one kind, or the other side's error.
func (c *call) expect(kind byte, v any) error {
	defer c.waits()()
	got, n, err := c.wire.header()
	switch {
	case err != nil:
		return err
	case got == kind:
		return c.wire.value(kind, n, v)
	}
	return c.instead(got, n)
}

// instead says what a frame means that is not the one expected.
func (c *call) instead(got byte, n int) error {
	if got != kindError {
		return fmt.Errorf("%w: frame of kind %q where it has no place", errProtocol, got)
	}
	var f failure
	if err := c.wire.value(got, n, &f); err != nil {
		return err
	}
	return f.theirs()
}

// failed says who failed, prefers the reason why a connection was closed to
// what that did, and adds what the other side complained of elsewhere.
func (c *call) failed(err error) error {
	lost := errors.Is(err, io.ErrUnexpectedEOF)
	if why := c.why.Load(); why != nil {
		err = *why
	} else if lost || source.ClassOf(err) == source.Failed && !errors.Is(err, errProtocol) && isIO(err) {
		err = source.WithClass(source.Temporary, fmt.Errorf("the connection ended too early: %w", err))
	}
	c.abort(err)
	if x, ok := c.conn.(interface{ Complaint() string }); ok {
		if said := printable(x.Complaint(), 300); said != "" {
			err = fmt.Errorf("%w; it complains: %s", err, said)
		}
	}
	return fmt.Errorf("%s: dataset %q: %w", c.cfg.Where, c.cfg.Dataset, err)
}

func isIO(err error) bool {
	_, net := errors.AsType[net.Error](err)
	return net || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.EOF)
}

// close ends the call and waits for what it started.
func (c *call) close() {
	c.abort(errors.New("it was closed"))
	select {
	case <-c.done:
	default:
		close(c.done)
	}
	c.wg.Wait()
}

// Probe asks the other side to.
func (s *Source) Probe(ctx context.Context) (source.Description, error) {
	c, err := s.begin(ctx, verbProbe)
	if err != nil {
		return source.Description{}, err
	}
	defer c.close()
	defer c.until(ctx)()
	var d source.Description
	if err = c.expect(kindDescription, &d); err == nil {
		err = checkDescription(d, s.cfg.Engine)
	}
	if err != nil {
		return source.Description{}, c.failed(err)
	}
	return d, nil
}

// Examination is what the other side says of a dataset and of itself.
type Examination struct {
	Tool     string   // its program and version
	Datasets []string // all that it lets us read
	Findings source.Findings
}

// Ask has the other side examine the dataset.
func (s *Source) Ask(ctx context.Context) (Examination, error) {
	c, err := s.begin(ctx, verbExamine)
	if err != nil {
		return Examination{}, err
	}
	defer c.close()
	defer c.until(ctx)()
	var f findings
	if err = c.expect(kindFindings, &f); err == nil {
		err = checkFindings(&f)
	}
	if err != nil {
		return Examination{}, c.failed(err)
	}
	return Examination{c.tool, f.Datasets, f.Findings}, nil
}

// Examine says who reads the dataset and what that one found.
func (s *Source) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	x, err := s.Ask(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f.Bad("reader", err.Error(), "a backup would fail in the same way", "")
		return f, nil
	}
	f.OK("reader", fmt.Sprintf("%s answers, %s, and reads for us: %s", s.cfg.Where, x.Tool, list(x.Datasets)))
	return append(f, x.Findings...), nil
}

func list(names []string) string {
	s := ""
	for i, n := range names {
		if i == 10 {
			return s + fmt.Sprintf(" and %d more", len(names)-i)
		}
		if i > 0 {
			s += ", "
		}
		s += n
	}
	return s
}
