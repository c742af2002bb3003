package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a program in a process group of its own, read through its
// standard output.
//
// The leader is not reaped before its group was killed: as long as it is a
// zombie no stranger can get its id, so the signal can hit nobody else. A
// process that leaves the group (setsid) escapes; in the daemon its unit's
// cgroup catches it.
type process struct {
	cmd   *exec.Cmd
	grace time.Duration
	begun time.Time
	out   *os.File // read by Read alone
	errs  *tail

	exited  chan struct{} // closed when the leader has exited, not yet reaped
	release chan struct{} // closed to have the leader reaped
	reaped  chan struct{} // closed when all is over; then waitErr is set
	waitErr error
	seconds float64 // set before exited is closed

	mu   sync.Mutex
	gone bool // guarded by mu: reaped, the id may be a stranger's

	stop    func() bool // detaches from the context
	closing sync.Once
	why     atomic.Pointer[error] // why the group was killed, first reason

	bytes   int64 // owned by Read, then by outcome
	readErr error // what Read ended with
}

// start runs the program. It is aborted when ctx ends.
func start(ctx context.Context, cfg Config) (*process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...)
	cmd.Dir = cfg.Dir
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/"}, cfg.Env...)
	cmd.Stdout = w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{
		cmd: cmd, grace: cfg.Grace, begun: time.Now(), out: out, errs: &tail{},
		exited: make(chan struct{}), release: make(chan struct{}), reaped: make(chan struct{}),
	}
	cmd.Stderr = p.errs
	// A grandchild that keeps standard error open must not hold up Wait.
	cmd.WaitDelay = 100 * time.Millisecond
	started := make(chan error)
	go p.tend(started)
	err = <-started
	w.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	timeout := func() {}
	if cfg.Timeout > 0 {
		t := time.AfterFunc(cfg.Timeout, func() {
			p.abort(fmt.Errorf("did not end within %v", cfg.Timeout))
		})
		timeout = func() { t.Stop() }
	}
	detach := context.AfterFunc(ctx, func() { p.abort(context.Cause(ctx)) })
	p.stop = func() bool { timeout(); return detach() }
	return p, nil
}

// tend starts, watches and reaps the leader, all on one thread: Pdeathsig
// fires when the thread that started the child ends, and the Go runtime ends
// threads.
func (p *process) tend(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		close(p.exited)
		close(p.reaped)
		return
	}
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	p.seconds = time.Since(p.begun).Seconds()
	// Whoever waits for output of a process left behind waits no longer than
	// the grace from here on.
	p.out.SetReadDeadline(time.Now().Add(p.grace))
	close(p.exited)
	<-p.release
	p.mu.Lock()
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.waitErr = p.cmd.Wait()
	p.gone = true
	p.mu.Unlock()
	close(p.reaped)
}

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		syscall.Kill(-p.cmd.Process.Pid, sig)
	}
}

func (p *process) over() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Read reads the output and returns io.EOF only after exit status 0.
func (p *process) Read(b []byte) (int, error) {
	if p.readErr != nil {
		return 0, p.readErr
	}
	if p.over() {
		p.out.SetReadDeadline(time.Now().Add(p.grace))
	}
	n, err := p.out.Read(b)
	p.bytes += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	p.readErr = p.ending(err)
	return 0, p.readErr
}

// ending says what the end of the output means.
func (p *process) ending(err error) error {
	if why := p.why.Load(); why != nil {
		return p.failed(*why)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return p.failed(fmt.Errorf("ended, but a process that it started kept its output open for %v more", p.grace))
	}
	if err != io.EOF {
		return p.failed(err)
	}
	<-p.exited // a program may close its output early; the context and the timeout end this wait
	p.reap()
	if why := p.why.Load(); why != nil {
		return p.failed(*why)
	}
	if p.waitErr != nil && !errors.Is(p.waitErr, exec.ErrWaitDelay) {
		return p.failed(p.waitErr)
	}
	return io.EOF
}

// failed adds the last lines of standard error to what went wrong.
func (p *process) failed(err error) error {
	p.reap()
	if said := p.errs.lines(3); said != "" {
		return fmt.Errorf("command %s: %w; it said: %s", p.cmd.Path, err, said)
	}
	return fmt.Errorf("command %s: %w", p.cmd.Path, err)
}

// abort ends the whole group: SIGTERM, and SIGKILL when the leader is gone or
// the grace over.
func (p *process) abort(why error) {
	if p.over() && p.why.Load() == nil {
		// The leader has gone by itself. Its verdict stands unless its output
		// is still being written, which the deadline ends now.
		p.why.CompareAndSwap(nil, &why)
		p.out.SetReadDeadline(time.Now())
		p.reap()
		return
	}
	p.why.CompareAndSwap(nil, &why)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(p.grace):
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
	p.out.SetReadDeadline(time.Now())
	p.reap()
}

// reap kills what is left of the group and waits for the leader, which has
// exited or is killed here.
func (p *process) reap() {
	p.closing.Do(func() { close(p.release) })
	select {
	case <-p.exited:
	default:
		p.signal(syscall.SIGKILL)
	}
	<-p.reaped
}

// Close ends the program if it still runs, and everything in its group.
func (p *process) Close() error {
	p.stop()
	select {
	case <-p.reaped:
	default:
		p.abort(errors.New("aborted"))
	}
	if err := p.out.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// outcome is what Finish may report: an error unless Read saw io.EOF.
func (p *process) outcome() (Detail, error) {
	switch p.readErr {
	case io.EOF:
		return Detail{Program: p.cmd.Path, Bytes: p.bytes, Seconds: p.seconds, Stderr: p.errs.lines(20)}, nil
	case nil:
		return Detail{}, fmt.Errorf("command %s: output was not read to its end", p.cmd.Path)
	}
	return Detail{}, p.readErr
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailMax = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) >= tailMax {
		t.buf = append(t.buf[:0], p[len(p)-tailMax:]...)
		return len(p), nil
	}
	if over := len(t.buf) + len(p) - tailMax; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return len(p), nil
}

// lines returns the last n lines joined by " | ", without control characters.
func (t *tail) lines(n int) string {
	t.mu.Lock()
	s := strings.ToValidUTF8(string(bytes.TrimSpace(t.buf)), "?")
	t.mu.Unlock()
	all := strings.Split(s, "\n")
	s = strings.Join(all[max(0, len(all)-n):], " | ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
