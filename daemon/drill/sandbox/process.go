package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Cmd is a program to run inside. Its environment is Env alone.
type Cmd struct {
	Argv   []string // the program by its absolute path inside
	Env    []string
	Dir    string // "": Scratch
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Foreign programs are bound in address space too. Those in Go reserve
	// hundreds of megabytes of it that they never use.
	Foreign bool
}

// request is what goes in.
type request struct {
	ID     int      `json:"id"`
	Argv   []string `json:"argv,omitempty"`
	Env    []string `json:"env,omitempty"`
	Dir    string   `json:"dir,omitempty"`
	Bound  bool     `json:"bound,omitempty"`
	Signal int      `json:"signal,omitempty"` // for the process of that id
}

// reply is what comes out: once when all is set up, and once for each process
// that ended.
type reply struct {
	ID     int    `json:"id"`
	Error  string `json:"error,omitempty"`
	Code   int    `json:"code,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Swap   *Wall  `json:"swap,omitempty"` // of the first reply, which says that all is set up
}

// A Process runs inside.
type Process struct {
	box  *Box
	id   int
	name string
	done chan struct{}
	end  reply // set before done is closed
	copy sync.WaitGroup

	mu      sync.Mutex
	copyErr error // guarded by mu
}

func (p *Process) ended(r reply) {
	p.end = r
	close(p.done)
}

// An ExitError says how a program ended that did not end well.
type ExitError struct {
	Program string
	Code    int
	Signal  syscall.Signal // 0: by itself
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s was ended by signal %d (%v)", e.Program, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%s ended with code %d", e.Program, e.Code)
}

// Start starts a program. Wait has to be called.
func (b *Box) Start(c Cmd) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("sandbox: no program")
	}
	p := &Process{box: b, name: c.Argv[0], done: make(chan struct{})}
	theirs, err := p.pipes(c)
	defer func() {
		for _, f := range theirs {
			f.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.New("sandbox: it is closed" + b.stderr.said())
	}
	b.next++
	p.id = b.next
	b.waiting[p.id] = p
	if err := send(b.conn, request{ID: p.id, Argv: c.Argv, Env: c.Env, Dir: c.Dir, Bound: c.Foreign}, theirs...); err != nil {
		delete(b.waiting, p.id)
		return nil, fmt.Errorf("sandbox: start %s: %w", p.name, err)
	}
	return p, nil
}

// pipes makes the three streams. Only pipes go in, never a file of ours.
func (p *Process) pipes(c Cmd) (theirs []*os.File, err error) {
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if i == 0 {
			theirs = append(theirs, r)
			p.pump(w, func() error {
				if c.Stdin == nil {
					return nil
				}
				_, err := io.Copy(w, c.Stdin)
				if errors.Is(err, syscall.EPIPE) {
					return nil // it has read enough; how it ends says whether that is well
				}
				return err
			})
			continue
		}
		theirs = append(theirs, w)
		out := [3]io.Writer{nil, c.Stdout, c.Stderr}[i]
		if out == nil {
			out = io.Discard
		}
		p.pump(r, func() error {
			_, err := io.Copy(out, r)
			return err
		})
	}
	return theirs, nil
}

func (p *Process) pump(f *os.File, work func() error) {
	p.copy.Go(func() {
		defer f.Close()
		if err := work(); err != nil {
			p.mu.Lock()
			p.copyErr = errors.Join(p.copyErr, err)
			p.mu.Unlock()
		}
	})
}

// Signal sends a signal to the program, if it still runs.
func (p *Process) Signal(s syscall.Signal) error {
	p.box.mu.Lock()
	defer p.box.mu.Unlock()
	if p.box.closed {
		return nil
	}
	return send(p.box.conn, request{ID: p.id, Signal: int(s)})
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the program and of its streams, and ends it when
// ctx does.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = p.Signal(syscall.SIGKILL) // should that fail, the sandbox is closing
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
		}
		return fmt.Errorf("sandbox: %s: %w", p.name, context.Cause(ctx))
	}
	p.copy.Wait()
	p.mu.Lock()
	err := p.copyErr
	p.mu.Unlock()
	switch e := p.end; {
	case e.Error != "":
		return fmt.Errorf("sandbox: %s: %s", p.name, e.Error)
	case e.Signal != 0 || e.Code != 0:
		return fmt.Errorf("sandbox: %w", &ExitError{p.name, e.Code, syscall.Signal(e.Signal)})
	case err != nil:
		return fmt.Errorf("sandbox: %s: %w", p.name, err)
	}
	return nil
}

// Run runs a program to its end.
func (b *Box) Run(ctx context.Context, c Cmd) error {
	p, err := b.Start(c)
	if err != nil {
		return err
	}
	return p.Wait(ctx)
}
