package walls

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"strongroom/custody/receipt"
)

// tryAll tries everything but what Landlock is for. It changes nothing and takes
// milliseconds, and would do no harm where it worked.
func tryAll(c Config) []receipt.Wall {
	return []receipt.Wall{
		devices(), credentials(), network(), files(c.StateDir), homes(), processes(), powers(), namespaces(c), code(), calls(),
		limit(Memory, "memory.max", func(v string) bool { return v != "max" }),
		limit(Swap, "memory.swap.max", func(v string) bool { return v == "0" }),
		cores(),
	}
}

// refused makes a wall of the error that something ended with.
func refused(name, tried string, err error) receipt.Wall {
	if err == nil {
		return receipt.Wall{Name: name, Tried: tried, Got: "it worked"}
	}
	return receipt.Wall{Name: name, Tried: tried, Got: short(err), Holds: true}
}

// short is the reason of an error, without the names in it.
func short(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}

// devices: disks and memory. PrivateDevices= leaves no node of one, and making
// one takes a capability.
func devices() receipt.Wall {
	tried := "open disks and kernel memory"
	for _, pattern := range []string{"/dev/sd*", "/dev/vd*", "/dev/nvme*", "/dev/xvd*", "/dev/loop[0-9]*", "/dev/dm-*", "/dev/mem", "/dev/kmsg", "/dev/port"} {
		found, _ := filepath.Glob(pattern) // these patterns are right
		for _, p := range found {
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
				return receipt.Wall{Name: Devices, Tried: tried, Got: p + " opened"}
			} else if err != unix.EPERM { // by the rules of the unit, not by the node's mode
				return receipt.Wall{Name: Devices, Tried: tried, Got: fmt.Sprintf("%s is there: %v", p, err)}
			}
		}
	}
	return receipt.Wall{Name: Devices, Tried: tried, Got: "none can be opened", Holds: true}
}

// credentials: those of other units, and the system's passwords.
func credentials() receipt.Wall {
	tried := "read other units' credentials and /etc/shadow"
	own := os.Getenv("CREDENTIALS_DIRECTORY")
	paths := []string{"/etc/shadow"}
	if all, err := os.ReadDir("/run/credentials"); err == nil {
		for _, e := range all {
			if p := filepath.Join("/run/credentials", e.Name()); p != own {
				paths = append(paths, p)
			}
		}
	}
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		_, err = f.ReadDir(1)
		f.Close()
		if p == "/etc/shadow" || err == nil {
			return receipt.Wall{Name: Credentials, Tried: tried, Got: p + " can be read"}
		}
	}
	return receipt.Wall{Name: Credentials, Tried: tried, Got: fmt.Sprintf("none of %d", len(paths)), Holds: true}
}

// network: it needs TCP to its stores, and nothing below.
func network() receipt.Wall {
	tried := "make packet, netlink and raw sockets"
	for _, s := range []struct {
		what         string
		domain, kind int
	}{{"packet", unix.AF_PACKET, unix.SOCK_DGRAM}, {"netlink", unix.AF_NETLINK, unix.SOCK_RAW}, {"raw", unix.AF_INET, unix.SOCK_RAW}} {
		fd, err := unix.Socket(s.domain, s.kind|unix.SOCK_CLOEXEC, 0)
		if s.what == "raw" && err == unix.EPROTONOSUPPORT {
			continue // protocol 0 has no raw socket, and the kernel said that first
		}
		if err == nil {
			unix.Close(fd)
			return receipt.Wall{Name: Network, Tried: tried, Got: "made a " + s.what + " socket"}
		}
	}
	return receipt.Wall{Name: Network, Tried: tried, Got: "none could be made", Holds: true}
}

func files(state string) receipt.Wall {
	w := receipt.Wall{Name: Files, Tried: "make a file in /, /etc, /usr, /var, /var/lib, /opt, /srv, /run", Holds: true}
	made := func(dir string) bool {
		f, err := os.CreateTemp(dir, ".strongroom-probe-")
		if err != nil {
			w.Got = short(err)
			return false
		}
		f.Close()
		os.Remove(f.Name())
		return true
	}
	for _, d := range []string{"/", "/etc", "/usr", "/var", "/var/lib", "/opt", "/srv", "/run"} {
		if made(d) {
			w.Got, w.Holds = "made one in "+d, false
			return w
		}
	}
	reason := w.Got
	if !made(state) {
		w.Got, w.Holds = "nothing can be written to the state directory either: "+w.Got, false
		return w
	}
	w.Got = reason
	return w
}

// homes: ProtectHome= leaves empty directories that nobody may look into.
func homes() receipt.Wall {
	w := receipt.Wall{Name: Homes, Tried: "list /home and /root", Got: "closed", Holds: true}
	for _, d := range []string{"/home", "/root"} {
		if _, err := os.ReadDir(d); err == nil {
			w.Got, w.Holds = d+" can be listed", false
		}
	}
	return w
}

func processes() receipt.Wall {
	_, err := os.ReadFile("/proc/1/stat")
	if os.Getpid() == 1 { // a container's only process
		err = errors.New("there are no others")
	}
	return refused(Processes, "look at the first process", err)
}

func powers() receipt.Wall {
	w := receipt.Wall{Name: Powers, Tried: "list them, and gain some"}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		w.Got = short(err)
		return w
	}
	none := data[0].Effective|data[0].Permitted|data[0].Inheritable|data[1].Effective|data[1].Permitted|data[1].Inheritable == 0
	nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	w.Got = fmt.Sprintf("none: %t, no new ones: %t, root: %t", none, nnp == 1, os.Getuid() == 0)
	w.Holds = none && nnp == 1 && os.Getuid() != 0
	return w
}

// namespaces: whoever can make one is root in it, and has all of the kernel to
// attack.
func namespaces(c Config) receipt.Wall {
	tried := "make a user namespace"
	pid, err := syscall.ForkExec(c.Self, append([]string{c.Self}, c.Args...), &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}})
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	} else if errors.Is(err, os.ErrNotExist) { // nothing was tried
		return receipt.Wall{Name: Namespaces, Tried: tried, Got: c.Self + " is not there"}
	}
	return refused(Namespaces, tried, err)
}

func code() receipt.Wall {
	m, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		_ = unix.Munmap(m)
	}
	return refused(Code, "map memory that is writable and executable", err)
}

// calls: one that the unit's filter has not, that anybody may make elsewhere, and
// that fails with these arguments in any case.
func calls() receipt.Wall {
	w := receipt.Wall{Name: Calls, Tried: "take a descriptor from a process"}
	_, _, err := unix.RawSyscall(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0)
	w.Got, w.Holds = err.Error(), err == unix.EPERM
	return w
}

// limit reads what the unit's control group allows: going past it would end
// the process.
func limit(name, file string, ok func(string) bool) receipt.Wall {
	w := receipt.Wall{Name: name, Tried: "look up " + file + " of the control group"}
	b, err := os.ReadFile("/proc/self/cgroup")
	if err == nil {
		path := ""
		for line := range strings.Lines(string(b)) {
			if p, found := strings.CutPrefix(line, "0::"); found {
				path = strings.TrimSpace(p)
			}
		}
		b, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", path, file))
	}
	if err != nil {
		w.Got = short(err)
		return w
	}
	w.Got = strings.TrimSpace(string(b))
	w.Holds = ok(w.Got)
	return w
}

func cores() receipt.Wall {
	w := receipt.Wall{Name: Cores, Tried: "look up the limit of core dumps, and raise it"}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		w.Got = short(err)
		return w
	}
	w.Got, w.Holds = fmt.Sprintf("%d, at most %d", l.Cur, l.Max), l.Cur == 0 && l.Max == 0
	return w
}

// confinement: anybody may make files in /dev/shm, so that what refuses it is
// Landlock.
func confinement() receipt.Wall {
	const dir = "/dev/shm"
	f, err := os.CreateTemp(dir, ".strongroom-probe-")
	if err == nil {
		f.Close()
		os.Remove(f.Name())
	}
	w := refused(Landlock, "make a file where only Landlock is against it", err)
	if err != nil && !errors.Is(err, unix.EACCES) {
		w.Holds = false // something else was: nothing is known
	}
	return w
}
