package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenDevices tries nodes by patterns, those of filepath.Glob. What refuses it has
// to be the rules of the unit, not a node's mode.
func OpenDevices(tried string, patterns ...string) Wall {
	for _, pattern := range patterns {
		found, _ := filepath.Glob(pattern) // these patterns are right
		for _, p := range found {
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
				return Wall{Name: Devices, Tried: tried, Got: p + " opened"}
			} else if err != unix.EPERM {
				return Wall{Name: Devices, Tried: tried, Got: fmt.Sprintf("%s is there: %v", p, err)}
			}
		}
	}
	return Wall{Name: Devices, Tried: tried, Got: "none can be opened", Holds: true}
}

// OpenDisks is for PrivateDevices=, which leaves no node of a disk and of memory;
// making one takes a capability.
func OpenDisks() Wall {
	return OpenDevices("open disks and kernel memory", "/dev/sd*", "/dev/vd*", "/dev/nvme*", "/dev/xvd*", "/dev/loop[0-9]*", "/dev/dm-*", "/dev/mem", "/dev/kmsg", "/dev/port")
}

// ReadCredentials tries those of other units, and the system's passwords, which
// are root's own.
func ReadCredentials() Wall {
	tried := "read other units' credentials and /etc/shadow"
	own := os.Getenv("CREDENTIALS_DIRECTORY")
	paths := []string{"/etc/shadow"}
	if os.Getuid() == 0 {
		tried, paths = "read other units' credentials", nil
	}
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
			return Wall{Name: Credentials, Tried: tried, Got: p + " can be read"}
		}
	}
	return Wall{Name: Credentials, Tried: tried, Got: fmt.Sprintf("none of %d", len(paths)), Holds: true}
}

// MakeRawSockets tries what is below TCP.
func MakeRawSockets() Wall {
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
			return Wall{Name: RawNetwork, Tried: tried, Got: "made a " + s.what + " socket"}
		}
	}
	return Wall{Name: RawNetwork, Tried: tried, Got: "none could be made", Holds: true}
}

// ReachNetwork makes a socket of the internet, and compares the network name space
// that this process makes sockets in with that of a socket which the service
// manager made and passed: a unit with a network of its own makes them elsewhere.
func ReachNetwork(passed syscall.Conn) Wall {
	w := Wall{Name: Network, Tried: "make internet sockets, and look in which network"}
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
			w.Got = "made one"
			return w
		}
		w.Got = short(err)
	}
	own, system, err := networks(passed)
	switch {
	case err != nil:
		w.Got = "which network this is cannot be told: " + short(err)
	case own == system:
		w.Got = "this is the system's network"
	default:
		w.Got, w.Holds = w.Got+", and the network is its own", true
	}
	return w
}

// networks returns the cookies of two name spaces: the one of this process and the
// one of a socket. A pair of sockets can be made where no other socket can
// (systemd.exec(5), RestrictAddressFamilies=).
func networks(passed syscall.Conn) (own, other uint64, err error) {
	if passed == nil {
		return 0, 0, errors.New("no socket was passed")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	own, err = unix.GetsockoptUint64(pair[0], unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	unix.Close(pair[0])
	unix.Close(pair[1])
	if err != nil {
		return 0, 0, err
	}
	raw, err := passed.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	cerr := raw.Control(func(fd uintptr) { other, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) })
	return own, other, errors.Join(cerr, err)
}

// outside are directories where no unit has anything to write. What lies below may
// be given to one by a drop-in.
func outside() []string {
	return []string{"/", "/etc", "/usr", "/var", "/var/lib", "/opt", "/srv", "/run"}
}

// MakeFiles makes files outside. In state a file can be made: else nothing was
// tried.
func MakeFiles(state string) Wall {
	w := Wall{Name: Files, Tried: "make a file in " + strings.Join(outside(), ", "), Holds: true}
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
	for _, d := range outside() {
		if made(d) {
			w.Got, w.Holds = "made one in "+d, false
			return w
		}
	}
	reason := w.Got
	if !made(state) {
		w.Got, w.Holds = "nothing can be made in "+state+" either: "+w.Got, false
		return w
	}
	w.Got = reason
	return w
}

// MakeFilesByMount is MakeFiles for who is not confined by Landlock: that a mode
// is against it is no wall then, the mount has to be.
func MakeFilesByMount(state string) Wall {
	w := MakeFiles(state)
	for _, d := range outside() {
		if err := changed(d); w.Holds && err != unix.EROFS && err != unix.ENOENT {
			w.Got, w.Holds = fmt.Sprintf("only the mode of %s is against it (%s)", d, w.Got), false
		}
	}
	return w
}

// ListHomes is for ProtectHome=yes, which leaves empty directories that nobody may look into.
func ListHomes() Wall {
	w := Wall{Name: Homes, Tried: "list /home and /root", Got: "closed", Holds: true}
	for _, d := range []string{"/home", "/root"} {
		if _, err := os.ReadDir(d); err == nil {
			w.Got, w.Holds = d+" can be listed", false
		}
	}
	return w
}

// WriteHomes is for ProtectHome=read-only: homes may be read, as far as their modes
// let, and nobody changes anything there.
func WriteHomes() Wall {
	w := Wall{Name: Homes, Tried: "write to /home, /root and its own", Got: "read-only", Holds: true}
	for _, d := range []string{"/home", "/root", os.Getenv("HOME")} {
		if d == "" || d == "/" {
			continue
		}
		if err := changed(d); err != unix.EROFS && err != unix.ENOENT {
			w.Got, w.Holds = d+" is not read-only", false
		}
	}
	return w
}

// changed removes an attribute that a directory does not have. On a file system
// that is mounted read-only that ends with EROFS, before anybody asks for rights.
func changed(dir string) error { return unix.Removexattr(dir, "user.strongroom-probe") }

// SeeProcesses looks for those of others.
func SeeProcesses() Wall {
	_, err := os.ReadFile("/proc/1/stat")
	if os.Getpid() == 1 { // a container's only process
		err = errors.New("there are no others")
	}
	return refused(Processes, "look at the first process", err)
}

// HavePowers wants exactly those capabilities, and no way to gain others.
func HavePowers(want uint64) Wall {
	w := Wall{Name: Powers, Tried: "list them, and gain some"}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		w.Got = short(err)
		return w
	}
	set := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	has := set(data[0].Permitted, data[1].Permitted) | set(data[0].Effective, data[1].Effective) | set(data[0].Inheritable, data[1].Inheritable)
	nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	w.Got = fmt.Sprintf("%#x of %#x, no new ones: %t", has, want, nnp == 1)
	w.Holds = has == want && nnp == 1
	return w
}

// MakeNamespace starts a program that ends at once with these arguments: whoever
// can make a user name space is root in it, and has all of the kernel to attack.
func MakeNamespace(self string, args ...string) Wall {
	tried := "make a user namespace"
	pid, err := syscall.ForkExec(self, append([]string{self}, args...), &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}})
	if err == nil {
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	} else if errors.Is(err, os.ErrNotExist) { // nothing was tried
		return Wall{Name: Namespaces, Tried: tried, Got: self + " is not there"}
	}
	return refused(Namespaces, tried, err)
}

// MapCode maps memory for what was not on a disk.
func MapCode() Wall {
	m, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		_ = unix.Munmap(m)
	}
	return refused(Code, "map memory that is writable and executable", err)
}

// MakeCall makes one that the unit's filter has not, that anybody may make elsewhere, and
// that fails with these arguments in any case.
func MakeCall() Wall {
	w := Wall{Name: Calls, Tried: "take a descriptor from a process"}
	_, _, err := unix.RawSyscall(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0)
	w.Got, w.Holds = err.Error(), err == unix.EPERM
	return w
}

// LookUpMemory wants a limit of memory.
func LookUpMemory() Wall {
	return limit(Memory, "memory.max", func(v string) bool { return v != "max" })
}

// LookUpSwap wants no swap: what is there stays when the process is gone.
func LookUpSwap() Wall {
	return limit(Swap, "memory.swap.max", func(v string) bool { return v == "0" })
}

// limit reads what the unit's control group allows: going past it would end
// the process.
func limit(name, file string, ok func(string) bool) Wall {
	w := Wall{Name: name, Tried: "look up " + file + " of the control group"}
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

// DumpCores wants none to be written.
func DumpCores() Wall {
	w := Wall{Name: Cores, Tried: "look up the limit of core dumps, and raise it"}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		w.Got = short(err)
		return w
	}
	w.Got, w.Holds = fmt.Sprintf("%d, at most %d", l.Cur, l.Max), l.Cur == 0 && l.Max == 0
	return w
}

// MakeShared makes a file in /dev/shm: anybody may, so that what refuses
// it is Landlock.
func MakeShared() Wall {
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
