package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Wall is something that must be impossible inside, and what came of trying.
type Wall struct {
	Name  string `json:"name"`
	Tried string `json:"tried"`
	Got   string `json:"got"`
	Holds bool   `json:"holds"`
}

// order is what a probe is told: things that are there outside and must not be
// inside.
type order struct {
	Address  string   `json:"address"`  // of a listener
	Abstract string   `json:"abstract"` // name of a socket without a file
	Process  int      `json:"process"`
	Group    int      `json:"group"`
	Hidden   []string `json:"hidden"`
	Memory   int64    `json:"memory"`
	Disk     int64    `json:"disk"`
	File     int64    `json:"file"`
	Limit    uint64   `json:"limit"`
}

// wallNames are what a probe has to report; what whoever made the sandbox looked
// up comes after them.
func wallNames() []string {
	return []string{"network", "outside files", "outside sockets", "other processes", "write outside scratch", "programs in scratch",
		"memory", "scratch size", "file size", "processes", "environment", "descriptors", "capabilities", "namespaces"}
}

// Probe tries from inside what must be impossible there. What it tries to reach
// is there: a listener and a socket of this process, this process itself, and a
// file. An error means that it could not be tried.
func (b *Box) Probe(ctx context.Context) ([]Wall, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("probe: listen: %w", err)
	}
	defer l.Close()
	abstract := fmt.Sprintf("@strongroom-probe-%d-%d", os.Getpid(), time.Now().UnixNano())
	a, err := net.Listen("unix", abstract)
	if err != nil {
		return nil, fmt.Errorf("probe: listen: %w", err)
	}
	defer a.Close()
	f, err := os.CreateTemp("", "strongroom-probe-")
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(0o666); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	what, err := json.Marshal(order{Address: l.Addr().String(), Abstract: abstract, Process: os.Getpid(), Group: unix.Getpgrp(),
		Hidden: append([]string{f.Name(), "/etc/shadow", "/proc/self/environ", "/sys/kernel", "/root", "/home"}, b.cfg.Hidden...),
		Memory: b.cfg.Memory, Disk: b.cfg.Disk, File: b.cfg.File, Limit: uint64(b.cfg.Processes)})
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	if err := b.Run(ctx, Cmd{Argv: []string{Self, "probe", string(what)}, Stdout: &out, Stderr: &errs}); err != nil {
		return nil, fmt.Errorf("probe: %w: %.500s", err, errs.String())
	}
	var walls []Wall
	if err := json.Unmarshal(out.Bytes(), &walls); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	var names []string
	for _, w := range walls {
		names = append(names, w.Name)
	}
	if !slices.Equal(names, wallNames()) {
		return walls, fmt.Errorf("probe: it reports %q, want %q", names, wallNames())
	}
	return append(walls, b.swap), nil
}

// Missing lists the walls that do not hold, but for those that known names.
func Missing(walls []Wall, known []string) []string {
	var out []string
	for _, w := range walls {
		if !w.Holds && !slices.Contains(known, w.Name) {
			out = append(out, w.Name+": "+w.Got)
		}
	}
	return out
}

// probe runs inside.
func probe(args []string) error {
	var o order
	if len(args) != 1 {
		return errors.New("no order")
	}
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	signal.Ignore(unix.SIGXFSZ) // a file that grows too large is told by an error too
	walls := []Wall{
		dials("network", "tcp", o.Address), hidden(o.Hidden), dials("outside sockets", "unix", o.Abstract), kills(o), writes(), runs(),
		allocates(o.Memory), scratchSize(o.Disk), grows(o.File), processes(o.Limit), environment(), descriptors(), capabilities(), namespace(),
	}
	return json.NewEncoder(os.Stdout).Encode(walls)
}

func dials(name, network, address string) Wall {
	w := Wall{Name: name, Tried: "connect to a socket that listens outside"}
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, address)
	if err == nil {
		c.Close()
		w.Got = "connected"
		return w
	}
	w.Got, w.Holds = short(err), true
	if network == "tcp" {
		ifs, err := net.Interfaces()
		up := slices.ContainsFunc(ifs, func(i net.Interface) bool { return i.Flags&net.FlagUp != 0 })
		if err != nil || up {
			w.Got, w.Holds = "an interface is up", false
		}
	}
	return w
}

// short is the reason of an error, without the names in it.
func short(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

func hidden(paths []string) Wall {
	w := Wall{Name: "outside files", Tried: fmt.Sprintf("open %d paths that exist outside", len(paths)), Got: "no such file or directory", Holds: true}
	for _, p := range paths {
		f, err := os.Open(p)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, os.ErrNotExist) {
			w.Got, w.Holds = fmt.Sprintf("%s: %v", p, err), false
		}
	}
	return w
}

func kills(o order) Wall {
	w := Wall{Name: "other processes", Tried: "signal the process outside and its group"}
	err1, err2 := unix.Kill(o.Process, 0), unix.Kill(-o.Group, 0)
	w.Got, w.Holds = fmt.Sprintf("%v, %v", err1, err2), err1 == unix.ESRCH && err2 == unix.ESRCH
	return w
}

func writes() Wall {
	w := Wall{Name: "write outside scratch", Tried: "make a file in /, /usr, /etc, /dev", Holds: true}
	for _, d := range []string{"/", "/usr", "/etc", "/dev"} {
		f, err := os.CreateTemp(d, "probe-")
		if err == nil {
			f.Close()
			w.Got, w.Holds = "made one in "+d, false
			return w
		}
		w.Got = short(err)
	}
	f, err := os.CreateTemp(Scratch, "probe-") // the positive control
	if err != nil {
		w.Got, w.Holds = "nothing can be written in scratch either: "+short(err), false
		return w
	}
	f.Close()
	os.Remove(f.Name())
	return w
}

func runs() Wall {
	w := Wall{Name: "programs in scratch", Tried: "run a program from scratch"}
	path := Scratch + "/probe-program"
	defer os.Remove(path)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		w.Got = short(err)
		return w
	}
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{})
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		w.Got = "it ran"
		return w
	}
	w.Got, w.Holds = short(err), errors.Is(err, unix.EACCES)
	return w
}

func allocates(limit int64) Wall {
	w := Wall{Name: "memory", Tried: fmt.Sprintf("allocate %d MiB", limit>>20)}
	m, err := unix.Mmap(-1, 0, int(limit), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		_ = unix.Munmap(m)
		w.Got = "got it"
		return w
	}
	w.Got, w.Holds = short(err), err == unix.ENOMEM
	return w
}

func scratchSize(limit int64) Wall {
	w := Wall{Name: "scratch size", Tried: "look how large scratch is"}
	var st unix.Statfs_t
	if err := unix.Statfs(Scratch, &st); err != nil {
		w.Got = short(err)
		return w
	}
	n := int64(st.Blocks) * st.Bsize
	const tmpfs = 0x01021994
	w.Got, w.Holds = fmt.Sprintf("%d bytes of memory", n), st.Type == tmpfs && n > 0 && n <= limit+st.Bsize
	return w
}

func grows(limit int64) Wall {
	w := Wall{Name: "file size", Tried: "make a file larger than any may be"}
	f, err := os.CreateTemp(Scratch, "probe-")
	if err != nil {
		w.Got = short(err)
		return w
	}
	defer os.Remove(f.Name())
	defer f.Close()
	err = f.Truncate(limit + 1)
	w.Got, w.Holds = "made it", false
	if err != nil {
		w.Got, w.Holds = short(err), errors.Is(err, unix.EFBIG)
	}
	return w
}

func processes(limit uint64) Wall {
	w := Wall{Name: "processes", Tried: "look at the limit, and raise it"}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &l); err != nil {
		w.Got = short(err)
		return w
	}
	err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: limit + 1, Max: limit + 1})
	w.Got, w.Holds = fmt.Sprintf("%d; raise: %v", l.Cur, err), l.Cur == limit && l.Max == limit && err == unix.EPERM
	return w
}

func environment() Wall {
	n := len(os.Environ())
	return Wall{"environment", "read it", fmt.Sprintf("%d variables", n), n == 0}
}

// descriptors: the runtime has some of its own, which are no files.
func descriptors() Wall {
	w := Wall{Name: "descriptors", Tried: "use every descriptor", Got: "only the three streams", Holds: true}
	for fd := range 1024 {
		var st unix.Stat_t
		if fd < 3 || unix.Fstat(fd, &st) != nil {
			continue
		}
		// epoll, eventfd and the like have no type of file.
		if kind := st.Mode & unix.S_IFMT; kind != 0 {
			w.Got, w.Holds = fmt.Sprintf("%d is open, type %o", fd, kind), false
		}
	}
	return w
}

func capabilities() Wall {
	w := Wall{Name: "capabilities", Tried: "list them, and mount a file system"}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		w.Got = short(err)
		return w
	}
	none := data[0].Effective|data[0].Permitted|data[0].Inheritable|data[1].Effective|data[1].Permitted|data[1].Inheritable == 0
	nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	err := unix.Mount("tmpfs", Scratch, "tmpfs", 0, "")
	w.Got = fmt.Sprintf("none: %t, no new ones: %t, mount: %v", none, nnp == 1, err)
	w.Holds = none && nnp == 1 && err == unix.EPERM
	return w
}

// namespace: whoever can make one is root in it, and has all of the kernel to
// attack.
func namespace() Wall {
	w := Wall{Name: "namespaces", Tried: "make a user namespace"}
	pid, err := syscall.ForkExec(Self, []string{Program}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}})
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		w.Got = "made one"
		return w
	}
	w.Got = short(err)
	w.Holds = errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EUSERS)
	if strings.Contains(w.Got, "no space") {
		w.Got = "limit reached" // what the kernel says about namespaces in words about disks
	}
	return w
}
