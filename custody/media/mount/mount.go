// Package mount mounts file systems of removable disks by their UUIDs: itself,
// where it may, or by asking the helper that may.
package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors that callers branch on.
var (
	// ErrAbsent: no such file system is connected.
	ErrAbsent = errors.New("no device with that file system is connected")
	// ErrTwins: two are, and one of them is a copy.
	ErrTwins = errors.New("two devices have that file system, one of them a copy: take one away and look which")
	// ErrElsewhere: it is mounted already, by somebody else.
	ErrElsewhere = errors.New("it is mounted already")
	// ErrBusy: somebody has files open there.
	ErrBusy = errors.New("it is in use")
)

// A FileSystem is one that is connected.
type FileSystem struct {
	UUID   string `json:"uuid"` // lower-case hex without hyphens
	Type   string `json:"type"` // "ext4", "xfs", "btrfs" or "iso9660"
	Device string `json:"device"`
	Bytes  int64  `json:"bytes"` // of the device
	// Mounted is where it is mounted, if it is.
	Mounted string `json:"mounted,omitempty"`

	node string // major:minor
}

// Direct mounts itself; that takes CAP_SYS_ADMIN. A file system with UUID u is
// mounted at Dir/u and nowhere else, without set-user-ids, devices and programs.
type Direct struct {
	// Dir is the directory, which only root can write to.
	Dir string
}

// flags are those of every mount: what is on a medium comes from outside.
const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME

// options are those of a type. What is wrong with an ext4 its superblock has the
// kernel answer, up to a panic: here it is written to no more.
var options = map[string]string{"ext4": "errors=remount-ro"}

// ValidUUID reports whether u is one as FileSystem has them.
func ValidUUID(u string) bool {
	return len(u) >= 8 && len(u) <= 32 && !strings.ContainsFunc(u, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// Mount mounts a file system and returns where. If it is mounted there already
// it is mounted anew: what is in the kernel's cache of it goes, and reads come
// from the disk.
func (d Direct) Mount(ctx context.Context, uuid string, write bool) (string, error) {
	fs, err := d.find(ctx, uuid)
	if err != nil {
		return "", err
	}
	at := filepath.Join(d.Dir, uuid)
	if fs.Mounted == at {
		if err := unmount(at); err != nil {
			return "", fmt.Errorf("mount %s: %w", uuid, err)
		}
	} else if fs.Mounted != "" {
		return "", fmt.Errorf("mount %s: %w at %s", uuid, ErrElsewhere, fs.Mounted)
	}
	if err := makeDir(at); err != nil {
		return "", fmt.Errorf("mount %s: %w", uuid, err)
	}
	var readOnly uintptr
	if !write {
		readOnly = unix.MS_RDONLY
	}
	if err := unix.Mount(fs.Device, at, fs.Type, flags|readOnly, options[fs.Type]); err != nil {
		// Left behind it would look like a medium with nothing on it.
		return "", errors.Join(fmt.Errorf("mount %s (%s on %s): %w", uuid, fs.Type, fs.Device, err), os.Remove(at))
	}
	return at, nil
}

// makeDir makes a mount point that others may pass, whatever the umask.
func makeDir(at string) error {
	err := os.MkdirAll(at, 0o755)
	for _, dir := range []string{filepath.Dir(at), at} {
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
	}
	return err
}

// Unmount writes back what is to be written and unmounts; then the disk may be
// taken away. It is no error if it is not mounted.
func (d Direct) Unmount(_ context.Context, uuid string) error {
	if !ValidUUID(uuid) {
		return fmt.Errorf("unmount: %q is no UUID", uuid)
	}
	at := filepath.Join(d.Dir, uuid)
	mounted, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range mounted {
		if m.at == at {
			if err := unmount(at); err != nil {
				return fmt.Errorf("unmount %s: %w", uuid, err)
			}
		}
	}
	// Left behind it would look like a medium with nothing on it.
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unmount %s: %w", uuid, err)
	}
	return nil
}

func unmount(at string) error {
	err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// find returns the one connected file system with a UUID.
func (d Direct) find(ctx context.Context, uuid string) (FileSystem, error) {
	if !ValidUUID(uuid) {
		return FileSystem{}, fmt.Errorf("mount: %q is no UUID", uuid)
	}
	all, err := d.List(ctx)
	if err != nil {
		return FileSystem{}, err
	}
	all = slices.DeleteFunc(all, func(f FileSystem) bool { return f.UUID != uuid })
	switch len(all) {
	case 0:
		return FileSystem{}, fmt.Errorf("mount %s: %w", uuid, ErrAbsent)
	case 1:
		return all[0], nil
	}
	return FileSystem{}, fmt.Errorf("mount %s: %w: %s and %s", uuid, ErrTwins, all[0].Device, all[1].Device)
}

// List returns the file systems that are connected and could be media.
func (d Direct) List(ctx context.Context) ([]FileSystem, error) {
	mounted, err := mounts()
	if err != nil {
		return nil, err
	}
	devices, err := devices("/proc/partitions")
	if err != nil {
		return nil, err
	}
	var out []FileSystem
	for _, name := range devices {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		fs, ok := look(filepath.Join("/dev", name))
		if !ok {
			continue
		}
		for _, m := range mounted {
			if m.node == fs.node {
				fs.Mounted = m.at
			}
		}
		out = append(out, fs)
	}
	return out, nil
}

// devices lists the names of block devices in the form of /proc/partitions:
// two lines of heading, then major, minor, blocks, name.
func devices(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if c := strings.Fields(lines.Text()); len(c) == 4 && c[0] != "major" && !strings.ContainsAny(c[3], "/") {
			out = append(out, strings.ReplaceAll(c[3], "!", "/")) // the kernel's stand-in for "/", as in cciss!c0d0
		}
	}
	return out, nil
}

// A mounted file system.
type mounted struct{ node, at string }

// mounts reads /proc/self/mountinfo (proc(5)): id, parent, major:minor, root,
// mount point, options, a hyphen, type, source.
func mounts() ([]mounted, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []mounted
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		c, of := strings.Fields(before), strings.Fields(after)
		if len(c) < 5 {
			continue
		}
		m := mounted{c[2], escapes.Replace(c[4])}
		// Its major:minor is of no device (btrfs may have several).
		if len(of) > 1 && of[0] == "btrfs" {
			var st unix.Stat_t
			if unix.Stat(escapes.Replace(of[1]), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
				m.node = nodeOf(st.Rdev)
			}
		}
		out = append(out, m)
	}
	return out, lines.Err()
}

// nodeOf is a device's major:minor.
func nodeOf(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// At returns the UUID of the file system that is mounted at a path, as its
// device says: for file systems that do not tell theirs, as those of discs.
// Reading the device takes root.
func At(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	node := nodeOf(st.Dev)
	names, err := devices("/proc/partitions")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if fs, ok := look(filepath.Join("/dev", name)); ok && fs.node == node {
			return fs.UUID, nil
		}
	}
	return "", fmt.Errorf("%s: %w", path, ErrAbsent)
}
