// Package atrest tells what of a machine's disks holds ciphertext: where a thief of
// them reads nothing.
package atrest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Verdict says whether what is written to a place is ciphertext on the disk.
type Verdict int

// The verdicts. Plain is also what a disk is that encrypts by itself, or below a
// virtual machine: that cannot be told from here.
const (
	Unknown Verdict = iota
	Plain
	Encrypted
	Memory // it never reaches a disk
)

// Kernel is where the kernel shows its files.
type Kernel struct {
	// Root is "", or a tree with a /proc and a /sys of a test.
	Root string
}

func (k Kernel) path(p string) string { return k.Root + p }

// Swap is a place that memory may be swapped out to.
type Swap struct {
	File    string // as swapon was given it, or the device behind that
	Verdict Verdict
	How     string // what the verdict goes by
	Free    int64  // bytes
}

// Swaps returns all that are in use (proc(5), /proc/swaps).
func (k Kernel) Swaps() ([]Swap, error) {
	b, err := os.ReadFile(k.path("/proc/swaps"))
	if err != nil {
		return nil, err
	}
	var out []Swap
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n")[1:] {
		f := strings.Fields(line)
		if len(f) < 4 {
			return nil, fmt.Errorf("/proc/swaps: line %q", line)
		}
		size, err1 := strconv.ParseInt(f[2], 10, 53)
		used, err2 := strconv.ParseInt(f[3], 10, 53)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("/proc/swaps: %w", err)
		}
		s := Swap{File: unescape(f[0]), Free: (size - used) << 10}
		if f[1] == "partition" {
			s.Verdict, s.How = k.deviceFile(s.File)
		} else {
			s.Verdict, s.How = k.Place(s.File)
		}
		out = append(out, s)
	}
	return out, nil
}

// Place judges a file or directory. statx tells of fscrypt, and does so for
// whatever file system has it.
func (k Kernel) Place(path string) (Verdict, string) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st); err != nil {
		return Unknown, err.Error()
	}
	if st.Attributes&unix.STATX_ATTR_ENCRYPTED != 0 {
		return Encrypted, "a directory under fscrypt"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Unknown, err.Error()
	}
	switch fs.Type {
	case unix.ECRYPTFS_SUPER_MAGIC:
		return Encrypted, "eCryptfs"
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return Memory, "it is in memory"
	}
	if st.Dev_major != 0 {
		return k.device(number(st.Dev_major, st.Dev_minor), 0)
	}
	// A file system on several devices, or on none: mountinfo names one.
	source, kind := k.mounted(number(st.Dev_major, st.Dev_minor))
	if !strings.HasPrefix(source, "/dev/") {
		return Unknown, "it lies on " + kind
	}
	return k.deviceFile(source)
}

func number(major, minor uint32) string { return fmt.Sprintf("%d:%d", major, minor) }

// mounted finds a mount by its device number: what is mounted, and of which
// kind (proc(5), /proc/self/mountinfo).
func (k Kernel) mounted(dev string) (source, kind string) {
	b, err := os.ReadFile(k.path("/proc/self/mountinfo"))
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

func (k Kernel) deviceFile(path string) (Verdict, string) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, unix.ENOENT) {
		// Within a unit's walls there are no devices, but the kernel's list of them.
		name, _ := strings.CutPrefix(path, "/dev/")
		if dev := text(k.path("/sys/class/block/" + strings.ReplaceAll(name, "/", "!") + "/dev")); dev != "" {
			return k.device(dev, 0)
		}
		return Unknown, fmt.Sprintf("%s: %v", path, err)
	} else if err != nil {
		return Unknown, fmt.Sprintf("%s: %v", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Unknown, path + " is no block device"
	}
	return k.device(number(unix.Major(st.Rdev), unix.Minor(st.Rdev)), 0)
}

// device goes down from a block device to the disks below it. It is encrypted
// if every way down passes dm-crypt.
func (k Kernel) device(dev string, depth int) (Verdict, string) {
	dir, err := filepath.EvalSymlinks(k.path("/sys/dev/block/" + dev))
	if err != nil {
		return Unknown, "device " + dev + " is not in /sys"
	}
	name := filepath.Base(dir)
	if depth > 16 {
		return Unknown, "too many layers below it"
	}
	if strings.HasPrefix(name, "zram") {
		if file := text(filepath.Join(dir, "backing_dev")); file != "" && file != "none" { // it writes there what it holds for idle
			return k.deviceFile(file)
		}
		return Memory, "compressed memory"
	}
	// cryptsetup also names verity and integrity so, which hide nothing.
	uuid := text(filepath.Join(dir, "dm", "uuid"))
	if strings.HasPrefix(uuid, "CRYPT-") && !strings.HasPrefix(uuid, "CRYPT-VERITY") && !strings.HasPrefix(uuid, "CRYPT-INTEGRITY") {
		return Encrypted, "dm-crypt (" + text(filepath.Join(dir, "dm", "name")) + ")"
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return k.device(text(filepath.Join(filepath.Dir(dir), "dev")), depth+1)
	}
	if file := text(filepath.Join(dir, "loop", "backing_file")); file != "" {
		if v, how := k.Place(file); v != Unknown {
			return v, how
		}
		return Unknown, "it is a file on " + name
	}
	return k.below(dir, name, depth)
}

// below judges the devices that one is made of, the weakest counts; a device
// that is made of none is a disk.
func (k Kernel) below(dir, name string, depth int) (Verdict, string) {
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Unknown, err.Error()
	}
	if len(slaves) == 0 {
		return Plain, name
	}
	all, said := Encrypted, ""
	for _, s := range slaves {
		v, how := k.device(text(filepath.Join(dir, "slaves", s.Name(), "dev")), depth+1)
		if v == Plain {
			return Plain, how
		}
		if said == "" || v == Unknown {
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
