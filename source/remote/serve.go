package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/source"
)

// An Offer is a dataset that may be read.
type Offer struct {
	Engine string
	Source source.Source
}

// Server answers one client a connection.
type Server struct {
	// Tool is this program and its version.
	Tool string
	// Offers are all that may be read, by name. A client says which; it says
	// nothing else, no path and no argument.
	Offers map[string]Offer
	// Unit is what an examination says first: of what this program runs in, and
	// not of the dataset.
	Unit source.Findings
	// Refuses is why nothing is served: every request ends with it.
	Refuses error
	// Silence is after how long without a sign of life a client is given up;
	// 0 means two minutes.
	Silence time.Duration
}

// serving is one conversation.
type serving struct {
	*Server
	wire   wire
	frames chan byte // what the client sends, in its order; closed by nobody
	stop   context.CancelCauseFunc
}

// lingering is how long the server waits, when all is said, for the client to
// hang up: a socket that is closed with something unread in it takes what it
// sent last away from the other side.
const lingering = 10 * time.Second

// Serve answers one client and closes the connection. When the client goes, or
// is silent for too long, whatever is done for it is stopped. Close of the
// connection must end a Read and a Write that wait.
func (s *Server) Serve(ctx context.Context, conn io.ReadWriteCloser) error {
	ctx, stop := context.WithCancelCause(ctx)
	silence := s.Silence
	if silence == 0 {
		silence = 2 * DefaultSilence
	}
	v := &serving{Server: s, frames: make(chan byte), stop: stop}
	v.wire = newWire(watched{conn, silence, stop}, conn, fromClient)
	detach := context.AfterFunc(ctx, func() { conn.Close() })
	var wg sync.WaitGroup
	defer func() {
		detach()
		stop(nil)
		conn.Close()
		wg.Wait()
	}()
	r, err := v.receive()
	if err != nil {
		wg.Go(func() { v.drain() })
	} else {
		wg.Go(func() { v.listen(ctx) })
		wg.Go(func() { v.live(ctx, silence/8) })
		err = v.act(ctx, r)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // what that did to whatever went on is of no interest
	}
	if err != nil {
		if serr := v.wire.sendValue(kindError, failure{source.ClassOf(source.Unsaid(err)), printable(err.Error(), 2*maxText)}); serr != nil {
			return errors.Join(err, serr)
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(lingering):
	}
	return err
}

// receive takes the request.
func (v *serving) receive() (r request, err error) {
	if _, err := v.wire.greeted(); err != nil {
		return r, errors.Join(err, v.wire.greet()) // for who has to say which versions there are
	}
	if err := v.wire.greet(); err != nil {
		return r, err
	}
	kind, n, err := v.wire.header()
	if err == nil && kind != kindRequest {
		err = fmt.Errorf("%w: frame of kind %q before the request", errProtocol, kind)
	}
	if err == nil {
		err = v.wire.value(kind, n, &r)
	}
	if err != nil {
		return r, err
	}
	return r, v.wire.sendValue(kindWelcome, welcome{Tool: v.Tool})
}

// watched gives up a client that is silent.
type watched struct {
	r       io.Reader
	silence time.Duration
	stop    context.CancelCauseFunc
}

func (w watched) Read(b []byte) (int, error) {
	timer := time.AfterFunc(w.silence, func() { w.stop(fmt.Errorf("the client was silent for %v", w.silence)) })
	defer timer.Stop()
	return w.r.Read(b)
}

// listen hands on what the client sends; that it goes ends everything.
func (v *serving) listen(ctx context.Context) {
	for {
		kind, n, err := v.wire.header()
		if err == nil && n > 0 {
			err = fmt.Errorf("%w: a second request", errProtocol)
		}
		if err != nil {
			v.stop(fmt.Errorf("the client went: %w", err))
			return
		}
		select {
		case v.frames <- kind:
		case <-ctx.Done():
			return
		}
	}
}

// drain waits for a client that was not understood to hang up.
func (v *serving) drain() {
	_, _ = io.Copy(io.Discard, io.LimitReader(v.wire.r, 1<<20))
	v.stop(errors.New("the client went"))
}

func (v *serving) live(ctx context.Context, every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := v.wire.send(kindAlive, nil); err != nil {
				v.stop(err)
				return
			}
		}
	}
}

// act does what was asked for.
func (v *serving) act(ctx context.Context, r request) error {
	if v.Refuses != nil {
		return source.WithClass(source.Refused, v.Refuses)
	}
	offer, ok := v.Offers[r.Dataset]
	if !ok {
		return source.WithClass(source.Refused, fmt.Errorf("dataset %q is not among those that this reader may read: %s",
			printable(r.Dataset, 140), strings.Join(v.names(), ", ")))
	}
	if offer.Engine != r.Engine {
		return source.WithClass(source.Refused, fmt.Errorf("dataset %q is of kind %q here, not %q", r.Dataset, offer.Engine, printable(r.Engine, 40)))
	}
	switch r.Verb {
	case verbProbe:
		d, err := offer.Source.Probe(ctx)
		if err != nil {
			return err
		}
		return v.wire.sendValue(kindDescription, d)
	case verbExamine:
		return v.examine(ctx, offer.Source)
	case verbOpen:
		return v.snapshot(ctx, offer.Source)
	}
	return source.WithClass(source.Refused, fmt.Errorf("nobody here knows how to %q", printable(r.Verb, 40)))
}

func (s *Server) names() []string {
	var out []string
	for name := range s.Offers {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (v *serving) examine(ctx context.Context, src source.Source) error {
	out := findings{Datasets: v.names(), Findings: slices.Clone(v.Unit)}
	if e, ok := src.(interface {
		Examine(context.Context) ([]source.Finding, error)
	}); ok {
		found, err := e.Examine(ctx)
		if err != nil {
			return err
		}
		out.Findings = append(out.Findings, found...)
	}
	return v.wire.sendValue(kindFindings, out)
}

// snapshot sends one, at the client's pace.
func (v *serving) snapshot(ctx context.Context, src source.Source) (err error) {
	snap, err := src.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	o := opened{Description: snap.Description(), Time: snap.Time()}
	streams := snap.Streams()
	for _, s := range streams {
		o.Streams = append(o.Streams, stream{s.Name, s.Kind, s.PageSize, s.SizeHint})
	}
	if err := v.wire.sendValue(kindOpened, o); err != nil {
		return err
	}
	for _, s := range streams {
		if err := v.want(ctx, kindNext); err != nil {
			return err
		}
		if err := v.stream(ctx, s); err != nil {
			return fmt.Errorf("stream %q: %w", s.Name, err)
		}
	}
	if err := v.want(ctx, kindFinish); err != nil {
		return err
	}
	report, err := snap.Finish(ctx)
	if err != nil {
		return err
	}
	return v.wire.sendValue(kindReport, report)
}

// want waits until the client asks for something.
func (v *serving) want(ctx context.Context, kind byte) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case got := <-v.frames:
		if got != kind {
			return fmt.Errorf("%w: frame of kind %q where %q has its turn", errProtocol, got, kind)
		}
		return nil
	}
}

// stream sends one. The mark at its end goes out only after the source's own.
func (v *serving) stream(ctx context.Context, s source.Stream) (err error) {
	rc, err := s.Open(ctx)
	if err != nil {
		return err
	}
	closed := false
	defer func() {
		if !closed {
			rc.Close() // the error that is returned came first
		}
	}()
	buf := make([]byte, maxData)
	var total int64
	for {
		n, err := rc.Read(buf)
		if n > 0 {
			if err := v.wire.send(kindData, buf[:n]); err != nil {
				return err
			}
			total += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	closed = true
	if err := rc.Close(); err != nil {
		return err
	}
	return v.wire.sendValue(kindEnd, end{total})
}
