package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// traceable: this system's calls are known to the tracer.
const traceable = true

// A durableCall changes what a disk holds. Its arguments say on what: a
// descriptor, or a path and the directory it is relative to.
type durableCall struct {
	name  string
	nr    uint32
	paths [][2]int // {directory or -1, path or -1}, by argument
}

// openat counts where it makes or empties a file.
var durable = []durableCall{
	{"write", unix.SYS_WRITE, [][2]int{{0, -1}}},
	{"pwrite64", unix.SYS_PWRITE64, [][2]int{{0, -1}}},
	{"writev", unix.SYS_WRITEV, [][2]int{{0, -1}}},
	{"pwritev", unix.SYS_PWRITEV, [][2]int{{0, -1}}},
	{"pwritev2", unix.SYS_PWRITEV2, [][2]int{{0, -1}}},
	{"copy_file_range", unix.SYS_COPY_FILE_RANGE, [][2]int{{2, -1}}},
	{"sendfile", unix.SYS_SENDFILE, [][2]int{{0, -1}}},
	{"splice", unix.SYS_SPLICE, [][2]int{{2, -1}}},
	{"fsync", unix.SYS_FSYNC, [][2]int{{0, -1}}},
	{"fdatasync", unix.SYS_FDATASYNC, [][2]int{{0, -1}}},
	{"sync_file_range", unix.SYS_SYNC_FILE_RANGE, [][2]int{{0, -1}}},
	{"syncfs", unix.SYS_SYNCFS, [][2]int{{0, -1}}},
	{"ftruncate", unix.SYS_FTRUNCATE, [][2]int{{0, -1}}},
	{"truncate", unix.SYS_TRUNCATE, [][2]int{{-1, 0}}},
	{"fallocate", unix.SYS_FALLOCATE, [][2]int{{0, -1}}},
	{"fchmod", unix.SYS_FCHMOD, [][2]int{{0, -1}}},
	{"fchmodat", unix.SYS_FCHMODAT, [][2]int{{0, 1}}},
	{"openat", unix.SYS_OPENAT, [][2]int{{0, 1}}},
	{"mkdir", unix.SYS_MKDIR, [][2]int{{-1, 0}}},
	{"mkdirat", unix.SYS_MKDIRAT, [][2]int{{0, 1}}},
	{"rmdir", unix.SYS_RMDIR, [][2]int{{-1, 0}}},
	{"unlink", unix.SYS_UNLINK, [][2]int{{-1, 0}}},
	{"unlinkat", unix.SYS_UNLINKAT, [][2]int{{0, 1}}},
	{"link", unix.SYS_LINK, [][2]int{{-1, 0}, {-1, 1}}},
	{"linkat", unix.SYS_LINKAT, [][2]int{{0, 1}, {2, 3}}},
	{"symlinkat", unix.SYS_SYMLINKAT, [][2]int{{1, 2}}},
	{"rename", unix.SYS_RENAME, [][2]int{{-1, 0}, {-1, 1}}},
	{"renameat", unix.SYS_RENAMEAT, [][2]int{{0, 1}, {2, 3}}},
	{"renameat2", unix.SYS_RENAMEAT2, [][2]int{{0, 1}, {2, 3}}},
}

// filteredMain is the program that asks to be stopped at every durable call
// and becomes another: filtered PROGRAM ARGS…
func filteredMain() {
	runtime.LockOSThread()                                                           // the filter is the thread's, and goes with it through exec
	prog := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // seccomp_data.nr
	for i, d := range durable {
		prog = append(prog, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: d.nr, Jt: uint8(len(durable) - i)})
	}
	prog = append(prog, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_TRACE})
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
	}
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "filtered:", err)
	os.Exit(notTraced)
}

// A tracer counts the durable calls of a program below some directory, and
// does something at one of them.
type tracer struct {
	under string
	fault string
	at    int

	root  int          // the program's process
	known map[int]bool // threads whose first stop was seen
	n     int
	full  string // a file on which every write fails from now on
	log   bytes.Buffer
}

// tracedMain is the program traced: traced -fault F -at N -under DIR -log FILE
// PROGRAM ARGS… It ends as the program does, with 137 where that was killed.
//
// strace could do the same but for two things: it counts by thread, and which
// thread of a Go program makes a call is chance, so that most points of a run
// have no number; and it cannot make a write short.
func tracedMain() {
	runtime.LockOSThread() // ptrace knows its tracer by the thread
	t := &tracer{known: map[int]bool{}}
	flag.StringVar(&t.under, "under", "", "")
	flag.StringVar(&t.fault, "fault", "", "")
	flag.IntVar(&t.at, "at", 0, "")
	log := flag.String("log", "", "")
	flag.Parse()
	code, err := t.run(flag.Args())
	if err == nil {
		err = os.WriteFile(*log, t.log.Bytes(), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traced:", err)
		os.Exit(notTraced)
	}
	os.Exit(code)
}

func (t *tracer) run(args []string) (code int, err error) {
	filtered, err := exec.LookPath("filtered")
	if err != nil {
		return 0, err
	}
	p, err := os.StartProcess(filtered, append([]string{"filtered"}, args...),
		&os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return 0, err
	}
	t.root = p.Pid
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(t.root, &ws, 0, nil); err != nil || !ws.Stopped() {
		return 0, fmt.Errorf("the program did not stop: %v %v", ws, err)
	}
	const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL
	if err := syscall.PtraceSetOptions(t.root, options); err != nil {
		return 0, err
	}
	t.known[t.root] = true
	if err := syscall.PtraceCont(t.root, 0); err != nil {
		return 0, err
	}
	for {
		pid, err := syscall.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return code, nil
		case err != nil:
			return 0, err
		case ws.Stopped():
			// One that was killed meanwhile is not there to go on.
			if err := syscall.PtraceCont(pid, t.stopped(pid, ws)); err != nil && !errors.Is(err, syscall.ESRCH) {
				return 0, err
			}
		case pid == t.root && ws.Signaled():
			code = 128 + int(ws.Signal())
		case pid == t.root:
			code = ws.ExitStatus()
		}
	}
}

// stopped looks at why a thread stopped, and returns the signal to give it.
func (t *tracer) stopped(pid int, ws syscall.WaitStatus) int {
	sig := ws.StopSignal()
	switch {
	case sig == syscall.SIGTRAP:
		if ws.TrapCause() == unix.PTRACE_EVENT_SECCOMP {
			t.call(pid)
		}
		return 0
	case sig == syscall.SIGSTOP && !t.known[pid]: // a new thread begins so
		t.known[pid] = true
		return 0
	}
	return int(sig)
}

// call sees a thread about to make a call.
func (t *tracer) call(pid int) {
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return // killed
	}
	i := slices.IndexFunc(durable, func(d durableCall) bool { return uint64(d.nr) == regs.Orig_rax })
	if i < 0 {
		return
	}
	d, args := durable[i], []uint64{regs.Rdi, regs.Rsi, regs.Rdx, regs.R10}
	if d.name == "openat" && args[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return
	}
	var path string
	for _, p := range d.paths {
		if at := where(pid, args, p[0], p[1]); path == "" && strings.HasPrefix(at, t.under+"/") {
			path = at[len(t.under)+1:]
		}
	}
	if path == "" {
		return
	}
	if path == t.full && strings.Contains(d.name, "write") {
		fail(pid, &regs, syscall.ENOSPC)
		return
	}
	t.n++
	mark := ""
	if t.n == t.at {
		if t.act(pid, d.name, path, &regs) {
			mark = " !"
		}
	}
	fmt.Fprintf(&t.log, "%s %s%s\n", d.name, path, mark)
}

// act does what the fault is, and reports whether this call can have it.
func (t *tracer) act(pid int, name, path string, regs *syscall.PtraceRegs) bool {
	errno, isErrno := map[string]syscall.Errno{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EINTR": syscall.EINTR}[t.fault]
	switch {
	case t.fault == "SIGKILL": // the call is not made any more: seccomp(2), under SECCOMP_RET_TRACE
		return syscall.Kill(t.root, syscall.SIGKILL) == nil
	case isErrno:
		return fail(pid, regs, errno)
	case (name == "write" || name == "pwrite64") && regs.Rdx > 1:
		if t.fault == "full" { // as a disk does: a part gets there, and the rest does not
			t.full = path
		}
		regs.Rdx /= 2
		return syscall.PtraceSetRegs(pid, regs) == nil
	}
	return false
}

// fail makes the call fail without having been made.
func fail(pid int, regs *syscall.PtraceRegs, errno syscall.Errno) bool {
	regs.Orig_rax, regs.Rax = ^uint64(0), -uint64(errno)
	return syscall.PtraceSetRegs(pid, regs) == nil
}

// where resolves a path as the thread would.
func where(pid int, args []uint64, dir, path int) string {
	name := ""
	if path >= 0 {
		b := make([]byte, 4096)
		n, err := syscall.PtracePeekData(pid, uintptr(args[path]), b)
		if end := bytes.IndexByte(b[:n], 0); end >= 0 {
			name = string(b[:end])
		} else if err != nil {
			return ""
		}
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	link := fmt.Sprintf("/proc/%d/cwd", pid)
	if dir >= 0 && int32(args[dir]) != unix.AT_FDCWD {
		link = fmt.Sprintf("/proc/%d/fd/%d", pid, int32(args[dir]))
	}
	at, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	return filepath.Join(strings.TrimSuffix(at, " (deleted)"), name)
}
