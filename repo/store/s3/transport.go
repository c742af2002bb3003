package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"strongroom/repo/store"
)

var errStalled = errors.New("nothing moved on the connection")

// watched cancels requests on which nothing moves: while the body goes out,
// while the answer is awaited, and while its body is being read. net/http has
// no such limit for bodies, and a total one would have to fit every link.
type watched struct {
	next  http.RoundTripper
	stall time.Duration
	dates *dates
	pace  *store.Pace
}

// dates keeps what the last answer said the time is.
type dates struct {
	mu         sync.Mutex
	says, here time.Time // guarded by mu
}

func (d *dates) note(resp *http.Response) {
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.says, d.here = t, time.Now()
	}
}

func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	dog := &watchdog{ctx: ctx, cancel: cancel, stall: w.stall}
	dog.timer = time.AfterFunc(w.stall, func() {
		cancel(fmt.Errorf("%w for %s", errStalled, w.stall))
	})
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sending{ReadCloser: req.Body, dog: dog, pace: w.pace}
	}
	resp, err := w.next.RoundTrip(req)
	dog.answered()
	if err != nil {
		err = dog.explain(err)
		cancel(nil)
		return nil, err
	}
	w.dates.note(resp)
	resp.Body = &receiving{ReadCloser: resp.Body, dog: dog}
	return resp, nil
}

// watchdog belongs to one request.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
	timer  *time.Timer

	mu   sync.Mutex
	sent bool // the answer is there, the request counts no more; guarded by mu
}

// moved is called as the request's body moves. The transport may go on
// reading that after the answer has come.
func (d *watchdog) moved() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.sent {
		d.timer.Reset(d.stall)
	}
}

func (d *watchdog) answered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent = true
	d.timer.Stop()
}

// explain replaces the "context canceled" that our own cancelling causes.
func (d *watchdog) explain(err error) error {
	if cause := context.Cause(d.ctx); err != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// sending is the body of a request: each read means that the bytes before it
// found room on the way out.
type sending struct {
	io.ReadCloser
	dog  *watchdog
	pace *store.Pace
}

func (s *sending) Read(p []byte) (int, error) {
	s.dog.moved()
	if s.pace != nil {
		p = p[:min(len(p), store.Step)]
	}
	n, err := s.ReadCloser.Read(p)
	if werr := s.pace.Wait(s.dog.ctx, n); werr != nil {
		return n, werr
	}
	s.dog.moved() // waiting for our own bound is no stall
	return n, err
}

// receiving is the body of an answer. The timer runs only inside Read, so that
// a slow caller is no stall.
type receiving struct {
	io.ReadCloser
	dog *watchdog
}

func (r *receiving) Read(p []byte) (int, error) {
	r.dog.timer.Reset(r.dog.stall)
	n, err := r.ReadCloser.Read(p)
	r.dog.timer.Stop()
	if err != nil && err != io.EOF {
		err = r.dog.explain(err)
	}
	return n, err
}

func (r *receiving) Close() error {
	err := r.ReadCloser.Close()
	r.dog.timer.Stop()
	r.dog.cancel(nil)
	return err
}
