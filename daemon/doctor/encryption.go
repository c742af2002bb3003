package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// verdict says whether what is written to a place is ciphertext on the disk.
type verdict int

const (
	unknown verdict = iota
	plain
	encrypted
	memory // it never reaches a disk
)

// disk looks at what thieves of the box would read in the state directory:
// the catalogue's key and, today, those of all generations.
func (e *exam) disk() {
	dir := nearest(e.StateDir)
	v, how := e.place(dir)
	switch v {
	case encrypted:
		e.OK("disk-encryption", dir+" lies on "+how)
	case plain:
		e.Warn("disk-encryption", dir+" lies in clear on "+how,
			"who takes the disk has the keys of all snapshots; a disk that encrypts by itself, or below a virtual machine, cannot be told from here",
			"put the state directory on a LUKS volume or a directory under fscrypt")
	case memory:
		e.Warn("disk-encryption", dir+" lies in memory", "it is gone when the machine stops, and with it what opens the snapshots", "set state_dir to a place on a disk")
	default:
		e.Note("disk-encryption", "whether "+dir+" is encrypted cannot be told: "+how, "who takes an unencrypted disk has the keys of all snapshots", "")
	}
}

// place judges a file or directory. statx tells of fscrypt, and does so for
// whatever file system has it.
func (e *exam) place(path string) (verdict, string) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st); err != nil {
		return unknown, err.Error()
	}
	if st.Attributes&unix.STATX_ATTR_ENCRYPTED != 0 {
		return encrypted, "a directory under fscrypt"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return unknown, err.Error()
	}
	switch fs.Type {
	case unix.ECRYPTFS_SUPER_MAGIC:
		return encrypted, "eCryptfs"
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return memory, "it is in memory"
	}
	if st.Dev_major != 0 {
		return e.device(number(st.Dev_major, st.Dev_minor), 0)
	}
	// A file system on several devices, or on none: mountinfo names one.
	source, kind := e.mounted(number(st.Dev_major, st.Dev_minor))
	if !strings.HasPrefix(source, "/dev/") {
		return unknown, "it lies on " + kind
	}
	return e.deviceFile(source)
}

func number(major, minor uint32) string { return fmt.Sprintf("%d:%d", major, minor) }

// mounted finds a mount by its device number: what is mounted, and of which
// kind (proc(5), /proc/self/mountinfo).
func (e *exam) mounted(dev string) (source, kind string) {
	b, err := os.ReadFile(e.path("/proc/self/mountinfo"))
	if err != nil {
		return "", "an unknown file system"
	}
	for line := range strings.Lines(string(b)) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if ok && len(h) > 2 && h[2] == dev && len(t) > 1 {
			return t[1], t[0]
		}
	}
	return "", "an unknown file system"
}

func (e *exam) deviceFile(path string) (verdict, string) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return unknown, fmt.Sprintf("%s: %v", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return unknown, path + " is no block device"
	}
	return e.device(number(unix.Major(st.Rdev), unix.Minor(st.Rdev)), 0)
}

// device goes down from a block device to the disks below it. It is encrypted
// if every way down passes dm-crypt.
func (e *exam) device(dev string, depth int) (verdict, string) {
	dir, err := filepath.EvalSymlinks(e.path("/sys/dev/block/" + dev))
	if err != nil {
		return unknown, "device " + dev + " is not in /sys"
	}
	name := filepath.Base(dir)
	if depth > 16 {
		return unknown, "too many layers below it"
	}
	if strings.HasPrefix(name, "zram") {
		return memory, "compressed memory"
	}
	// cryptsetup also names verity and integrity so, which hide nothing.
	uuid := text(filepath.Join(dir, "dm", "uuid"))
	if strings.HasPrefix(uuid, "CRYPT-") && !strings.HasPrefix(uuid, "CRYPT-VERITY") && !strings.HasPrefix(uuid, "CRYPT-INTEGRITY") {
		return encrypted, "dm-crypt (" + text(filepath.Join(dir, "dm", "name")) + ")"
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return e.device(text(filepath.Join(filepath.Dir(dir), "dev")), depth+1)
	}
	if file := text(filepath.Join(dir, "loop", "backing_file")); file != "" {
		if v, how := e.place(file); v != unknown {
			return v, how
		}
		return unknown, "it is a file on " + name
	}
	return e.below(dir, name, depth)
}

// below judges the devices that one is made of, the weakest counts; a device
// that is made of none is a disk.
func (e *exam) below(dir, name string, depth int) (verdict, string) {
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return unknown, err.Error()
	}
	if len(slaves) == 0 {
		return plain, name
	}
	all, said := encrypted, ""
	for _, s := range slaves {
		v, how := e.device(text(filepath.Join(dir, "slaves", s.Name(), "dev")), depth+1)
		if v == plain {
			return plain, how
		}
		if said == "" || v == unknown {
			all, said = v, how
		}
	}
	return all, said
}

// text is a one-line file of the kernel's; "" where there is none.
func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// swap: keys in memory may be swapped out.
func (e *exam) swap() {
	b, err := os.ReadFile(e.path("/proc/swaps"))
	if err != nil {
		e.Note("swap", "whether there is swap cannot be told: "+err.Error(), "", "")
		return
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")[1:]
	var open, dark []string
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		file := unescape(f[0])
		judge := e.place
		if f[1] == "partition" {
			judge = e.deviceFile
		}
		switch v, _ := judge(file); v {
		case plain:
			open = append(open, file)
		case unknown:
			dark = append(dark, file)
		}
	}
	switch {
	case len(open) > 0:
		e.Warn("swap", "swap in clear on "+strings.Join(open, ", "), "keys and clients' rows in memory may be written there, and stay",
			"swapoff "+strings.Join(open, " ")+"; or encrypt it with a random key in crypttab; the service's unit forbids itself swap (MemorySwapMax=0)")
	case len(dark) > 0:
		e.Note("swap", "whether swap on "+strings.Join(dark, ", ")+" is encrypted cannot be told", "keys and clients' rows in memory may be written there", "")
	case len(lines) > 0:
		e.OK("swap", "encrypted, or in memory")
	default:
		e.OK("swap", "none")
	}
}

// unescape undoes the octal escapes of /proc/swaps.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// core: a core dump is a copy of memory. The kernel does not hold a program
// that takes dumps through a pipe to the limit (core(5)); systemd-coredump
// keeps to it by itself.
func (e *exam) core() {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		e.Note("core-dumps", "their limit cannot be told: "+err.Error(), "", "")
		return
	}
	e.judgeCore(l.Cur, text(e.path("/proc/sys/kernel/core_pattern")))
}

func (e *exam) judgeCore(limit uint64, pattern string) {
	const why = "a core dump holds keys and clients' rows, and is kept or sent elsewhere"
	piped := strings.HasPrefix(pattern, "|")
	switch {
	case limit > 0:
		e.Warn("core-dumps", "this process may leave core dumps, "+pattern, why, "ulimit -c 0; the service's unit has LimitCORE=0")
	case piped && !strings.Contains(strings.Fields(pattern)[0], "systemd-coredump"):
		e.Warn("core-dumps", "core dumps go to a program whatever their limit is: "+pattern, why, "sysctl kernel.core_pattern=core")
	default:
		e.OK("core-dumps", "none")
	}
}
