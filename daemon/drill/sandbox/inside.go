package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// control is the descriptor of the socket inside.
const control = 3

// Inside is the main function of what runs inside; args are those after the
// program's name. It returns an exit code; work is what else the program can be
// asked for there.
func Inside(args []string, work map[string]func(args []string) error) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "this is started by strongroom alone")
		return 64
	}
	err := errors.New("unknown work")
	switch f := work[args[0]]; {
	case args[0] == "setup":
		err = setup(args[1:])
	case args[0] == "init":
		err = serve(args[1:])
	case args[0] == "exec":
		err = become(args[1:])
	case args[0] == "probe":
		err = probe(args[1:])
	case args[0] == "unit":
		err = unit()
	case args[0] == "connect":
		err = connect(args[1:])
	case f != nil:
		err = f(args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// inherited returns the socket inside, and a connection over a copy of its
// descriptor. The file is to be kept for as long as the descriptor is needed: the
// garbage collector closes what nobody holds.
func inherited() (*os.File, *net.UnixConn, error) {
	// What whoever started the daemon left open is not for anybody inside.
	if err := unix.CloseRange(control, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("descriptors: %w", err)
	}
	f := os.NewFile(control, "control")
	c, err := net.FileConn(f)
	if err != nil {
		return nil, nil, err
	}
	return f, c.(*net.UnixConn), nil
}

// setup builds the walls from inside the new namespaces and becomes init, which
// has no capability and can get none. It runs on one thread: what it gives up
// is that thread's, and the others end with the exec.
func setup(args []string) error {
	runtime.LockOSThread()
	f, c, err := inherited()
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(f) // init has it
	var r room
	if len(args) != 1 {
		return errors.New("no room")
	}
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return err
	}
	var cfg Config
	if err := receive(c, &cfg); err != nil {
		return err
	}
	if err := r.fits(cfg.Disk); err != nil {
		return send(c, reply{Error: err.Error()})
	}
	if err := build(cfg); err != nil {
		return send(c, reply{Error: err.Error()})
	}
	if _, err := unix.FcntlInt(control, unix.F_SETFD, 0); err != nil {
		return err
	}
	limits, err := json.Marshal(Config{Memory: cfg.Memory, File: cfg.File})
	if err != nil {
		return err
	}
	swap, err := json.Marshal(r.Wall)
	if err != nil {
		return err
	}
	return syscall.Exec(Self, []string{Program, "init", string(limits), string(swap)}, nil)
}

func build(cfg Config) error {
	if err := mounts(cfg); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("drill")); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	// Processes and threads of everything inside together; they count by user
	// within the namespace.
	n := uint64(cfg.Processes)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		return fmt.Errorf("limit of processes: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit of core dumps: %w", err)
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	if err := unix.Capset(&hdr, &caps[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	return errors.Join(unix.Setgroups(nil), unix.Setresgid(InsideID, InsideID, InsideID), unix.Setresuid(InsideID, InsideID, InsideID))
}

// server is the first process of the namespace.
type server struct {
	conn   *net.UnixConn
	limits string

	mu      sync.Mutex
	pids    map[int]int // request → process; guarded by mu
	ids     map[int]int // process → request; guarded by mu
	started *sync.Cond  // there may be something to reap
}

// serve starts what it is asked to, and reaps everything, until the other end
// closes.
func serve(args []string) error {
	f, c, err := inherited()
	if err != nil {
		return err
	}
	f.Close() // c has a copy
	if len(args) != 2 {
		return errors.New("no limits")
	}
	ready := reply{Swap: &Wall{}}
	if err := json.Unmarshal([]byte(args[1]), ready.Swap); err != nil {
		return err
	}
	s := &server{conn: c, limits: args[0], pids: map[int]int{}, ids: map[int]int{}}
	s.started = sync.NewCond(&s.mu)
	if err := send(c, ready); err != nil {
		return err
	}
	go s.reap()
	for {
		var r request
		files, err := receiveFiles(c, &r, 3)
		if err != nil {
			return nil // the end
		}
		if r.Signal != 0 {
			s.mu.Lock()
			if pid := s.pids[r.ID]; pid > 1 {
				_ = unix.Kill(pid, unix.Signal(r.Signal)) // it may have ended just now
			}
			s.mu.Unlock()
		} else if err := s.start(r, files); err != nil {
			_ = send(c, reply{ID: r.ID, Error: err.Error()}) // else nobody waits for it
		}
		for _, f := range files {
			f.Close()
		}
	}
}

func (s *server) start(r request, files []*os.File) error {
	if len(files) != 3 || len(r.Argv) == 0 {
		return errors.New("bad request")
	}
	bound := "free"
	if r.Bound {
		bound = "bound"
	}
	dir := r.Dir
	if dir == "" {
		dir = Scratch
	}
	argv := append([]string{Program, "exec", s.limits, bound}, r.Argv...)
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(Self, argv, &syscall.ProcAttr{Dir: dir, Env: r.Env,
		Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	s.pids[r.ID], s.ids[pid] = pid, r.ID
	s.started.Broadcast()
	return nil
}

// reap waits for every child, also for those that others left behind.
func (s *server) reap() {
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, 0, nil)
		s.mu.Lock()
		switch {
		case err == unix.ECHILD:
			if len(s.ids) == 0 {
				s.started.Wait()
			}
		case err == nil:
			if id, ok := s.ids[pid]; ok {
				delete(s.ids, pid)
				delete(s.pids, id)
				r := reply{ID: id, Code: st.ExitStatus()}
				if st.Signaled() {
					r.Code, r.Signal = 0, int(st.Signal())
				}
				_ = send(s.conn, r) // else the sandbox ends
			}
		}
		s.mu.Unlock()
	}
}

// foreign sets a program's limits of memory, in KiB, and becomes it.
const foreign = `ulimit -d "$1" && ulimit -v "$2" && shift 2 && exec "$@"`

// become limits this process and turns it into the program that was asked for.
//
// Foreign programs are also held to what they share with each other, by their
// address space. That of this very program is larger than what they may have: with
// such a limit its runtime would get no more memory, and now and then die in their
// place. So a shell, which needs nothing, sets it.
func become(args []string) error {
	if len(args) < 3 {
		return errors.New("no program")
	}
	var cfg Config
	if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
		return err
	}
	argv := args[2:]
	limits := map[int]int64{unix.RLIMIT_FSIZE: cfg.File, unix.RLIMIT_NOFILE: 1024}
	if args[1] == "bound" {
		if err := unix.Access(argv[0], unix.X_OK); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
		kib := cfg.Memory >> 10
		argv = append([]string{"/bin/sh", "-c", foreign, "sh", strconv.FormatInt(kib, 10), strconv.FormatInt(kib+kib/2, 10)}, argv...)
	} else {
		// Memory that is private and can be written to, but not what is only reserved.
		limits[unix.RLIMIT_DATA] = cfg.Memory
	}
	for what, n := range limits {
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
			return fmt.Errorf("limit %d: %w", what, err)
		}
	}
	return fmt.Errorf("%s: %w", argv[0], syscall.Exec(argv[0], argv, os.Environ()))
}
