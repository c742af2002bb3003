// Package sandbox runs programs on restored contents, which are hostile, in
// namespaces of their own: no network, no credentials, no environment, nothing
// to write to but a memory file system of limited size, and the installed
// programs read-only.
//
// Whoever may make namespaces makes it himself. A daemon that may not asks the
// unit strongroom-drill@ behind its socket, which makes the same sandbox within
// walls of its own: another user, a cgroup that bounds the memory of all
// processes together, and a filter of system calls.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Program is the name under which a program of ours that links this package
// starts itself inside: its main calls Inside when it was started by it.
const Program = "strongroom-drill"

// Scratch is the one place inside that can be written to.
const Scratch = "/scratch"

// Self is this program, inside.
const Self = "/" + Program

// ErrUnavailable: this machine, or this user on it, cannot have a sandbox.
var ErrUnavailable = errors.New("no sandbox can be made here")

// Config says how large a sandbox is.
type Config struct {
	// Memory is how many bytes of memory of its own each process may have.
	Memory int64
	// Disk is the size of Scratch in bytes. It is memory too, and may be swapped
	// out where what swap there is is encrypted.
	Disk int64
	// File is how large a file may be, holes included, where that is more than Disk.
	File int64
	// Processes is how many processes and threads there may be at once.
	Processes int
	// ReadOnly are further absolute paths to be seen inside, at the same place.
	ReadOnly []string
	// Hidden are paths of files and directories that must not be seen; Probe
	// tries to open them.
	Hidden []string
	// Unit is the socket of the unit strongroom-drill@, which makes the sandbox
	// for whoever may make none; "": it is made here.
	Unit string `json:"-"`
}

func (c Config) check() error {
	if c.Memory < 64<<20 || c.Disk < 1<<20 || c.Processes < 16 {
		return fmt.Errorf("sandbox: %d bytes of memory, %d of scratch, %d processes: too little for anything", c.Memory, c.Disk, c.Processes)
	}
	for _, p := range append(c.ReadOnly, c.Hidden...) {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			return fmt.Errorf("sandbox: path %q is not an absolute one below /", p)
		}
	}
	return nil
}

// A Box is a running sandbox. It is safe for concurrent use.
type Box struct {
	cfg  Config
	cmd  *exec.Cmd // nil where a unit made it
	conn *net.UnixConn
	swap Wall          // looked up by whoever made it
	dead chan struct{} // closed when the first process, and with it all, is gone

	mu      sync.Mutex
	next    int              // guarded by mu
	waiting map[int]*Process // guarded by mu
	closed  bool             // guarded by mu
	gone    bool             // the unit says that nothing inside is left; guarded by mu
	doors   []*door          // guarded by mu
	stderr  tail
}

// Start makes a sandbox. It ends with Close, and with this process.
//
// The first process inside is this very program. It holds one end of a socket,
// and everything inside dies with it when the other end is closed, by whatever
// death of whoever holds that.
func Start(ctx context.Context, cfg Config) (*Box, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.File = max(cfg.File, cfg.Disk)
	if cfg.Unit != "" {
		return fromUnit(ctx, cfg)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: socket: %w", ErrUnavailable, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "inside")
	defer theirs.Close()
	defer ours.Close() // FileConn has a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("%w: socket: %w", ErrUnavailable, err)
	}
	b := &Box{cfg: cfg, conn: conn.(*net.UnixConn), dead: make(chan struct{}), waiting: map[int]*Process{}}
	if b.cmd, err = firstProcess(theirs); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.cmd.Stderr = &b.stderr
	if err := b.cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: namespaces: %w; whoever may make none has the unit behind strongroom-drill.socket", ErrUnavailable, err)
	}
	theirs.Close()
	go func() {
		_ = b.cmd.Wait() // how it ended, its error messages say
		close(b.dead)
	}()
	if err := b.greet(ctx); err != nil {
		b.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w%s", ErrUnavailable, err, b.stderr.said())
	}
	go b.listen()
	return b, nil
}

// InsideID is the user and group of everything inside. It is not 0: database
// servers refuse root, also one that is root of nothing.
const InsideID = 1000

// outsideID is whom InsideID is outside, where root starts it: nobody at all.
// It lies between the ranges of containers and those that are signed
// (systemd's list of user and group ids).
const outsideID = 1_900_000_000

// namespaces makes all that there are, so that the sandbox also holds for
// somebody who is not root. The capabilities are those over the new namespaces
// that setup needs; it gives them up. Root is root there until then, of nothing
// but its own files: what is to be shown may lie where only it may go.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_SYS_RESOURCE},
		Setsid:      true,
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid != 0 {
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: InsideID, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: InsideID, HostID: gid, Size: 1}}
		return attr
	}
	nobody := outsideID
	if !mapped(outsideID) {
		nobody = 65534
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: InsideID, HostID: nobody, Size: 1}}
	attr.UidMappings, attr.GidMappings, attr.GidMappingsEnableSetgroups = ids, ids, true
	attr.Credential = &syscall.Credential{}
	return attr
}

// mapped reports whether there is such a user id here: in a container there may
// not be.
func mapped(id uint64) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		first, err1 := strconv.ParseUint(f[0], 10, 64)
		n, err2 := strconv.ParseUint(f[2], 10, 64)
		if err1 == nil && err2 == nil && id >= first && id-first < n {
			return true
		}
	}
	return false
}

// setupTime is how long the namespaces may take to be ready.
const setupTime = 60 * time.Second

// greet sends the configuration and waits until it was put into force.
func (b *Box) greet(ctx context.Context) error {
	deadline := time.Now().Add(setupTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = b.conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = b.conn.SetDeadline(time.Now()) })
	defer stop()
	if err := send(b.conn, b.cfg); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	var r reply
	if err := receive(b.conn, &r); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if r.Swap == nil || r.Swap.Name != Swap {
		return errors.New("set up: nothing is said of swap")
	}
	b.swap = *r.Swap
	return b.conn.SetDeadline(time.Time{})
}

// listen tells processes that they ended.
func (b *Box) listen() {
	for {
		var r reply
		err := receive(b.conn, &r)
		b.mu.Lock()
		if err != nil {
			for id, p := range b.waiting {
				p.ended(reply{Error: "the sandbox ended" + b.stderr.said()})
				delete(b.waiting, id)
			}
			b.closed = true
			b.mu.Unlock()
			if b.cmd == nil {
				close(b.dead)
			}
			return
		}
		b.gone = b.gone || r.ID == goneID
		if p := b.waiting[r.ID]; p != nil {
			delete(b.waiting, r.ID)
			p.ended(r)
		}
		b.mu.Unlock()
	}
}

// Path is how a path inside is reached from outside, by whoever may trace the
// processes there: this user and root. Sockets can be connected to by it. It
// must not be handed to anything that follows links in it.
func (b *Box) Path(inside string) string {
	return fmt.Sprintf("/proc/%d/root%s", b.cmd.Process.Pid, inside)
}

// Alive reports whether the sandbox is there.
func (b *Box) Alive() bool {
	select {
	case <-b.dead:
		return false
	default:
		return true
	}
}

// Close ends everything inside and waits until it is gone, and says how that is
// known. The scratch space goes with the last process that sees it.
func (b *Box) Close() (gone string, err error) {
	b.mu.Lock()
	b.closed = true
	doors := b.doors
	b.doors = nil
	b.mu.Unlock()
	for _, d := range doors {
		d.close()
	}
	if b.cmd == nil {
		return b.leaveUnit()
	}
	_ = b.conn.Close()
	select {
	case <-b.dead:
	case <-time.After(5 * time.Second):
		// The kernel ends a PID namespace with its first process.
		_ = b.cmd.Process.Kill()
		<-b.dead
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", b.cmd.Process.Pid, Scratch)); err == nil {
		return "", errors.New("sandbox: its scratch space is still there")
	}
	return "the first process of its PID namespace was reaped, all others died before it, and the memory file system went with the last of them", nil
}

// tail keeps the first bytes of what was said on standard error.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[:min(len(p), 2048-min(len(t.buf), 2048))]...)
	return len(p), nil
}

func (t *tail) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buf) == 0 {
		return ""
	}
	return "; it said: " + strings.Join(strings.Fields(strings.ToValidUTF8(string(t.buf), "?")), " ")
}

// maxMessage bounds one message over the socket.
const maxMessage = 128 << 10

// send writes one message, with files if there are any.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

func receive(c *net.UnixConn, v any) error {
	_, err := receiveFiles(c, v, 0)
	return err
}

// receiveFiles reads one message and the files that came with it.
func receiveFiles(c *net.UnixConn, v any, most int) ([]*os.File, error) {
	b, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*max(most, 1)))
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("the other end is gone")
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return nil, errors.New("message is too long")
	}
	var files []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, json.Unmarshal(b[:n], v)
}
