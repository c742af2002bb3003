package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// base is where the new root is built. Everybody has this directory, and
// nothing in it is needed inside.
const base = "/sys"

// mounts makes the file system of the sandbox its root and lets go of
// everything else. Binds are recursive: the kernel does not let a user
// namespace look under a mount.
func mounts(cfg Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	// By its path: what /proc/self/exe leads to is a mount of the namespace that
	// we came from, which cannot be shown here.
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("this program: %w", err)
	}
	// As long as /proc is there: afterwards nobody can make a namespace in which
	// he would have capabilities again.
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0\n"), 0); err != nil {
		return fmt.Errorf("forbid further namespaces: %w", err)
	}
	sources, err := openAll(append([]string{self}, cfg.ReadOnly...))
	if err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if err := unix.Mount("tmpfs", base, "tmpfs", flags, "size=4m,nr_inodes=4096,mode=0755"); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := system(); err != nil {
		return err
	}
	for i, p := range append([]string{Self}, cfg.ReadOnly...) {
		if err := bind(fmt.Sprintf("/proc/self/fd/%d", sources[i]), base+p, true); err != nil {
			return err
		}
	}
	if err := os.Mkdir(base+Scratch, 0o700); err != nil {
		return err
	}
	// Nothing in it is a program, also no library that a restored function of a
	// database names.
	size := fmt.Sprintf("size=%d,mode=0700,uid=%d,gid=%d", cfg.Disk, InsideID, InsideID)
	if err := unix.Mount("tmpfs", base+Scratch, "tmpfs", flags|unix.MS_NOEXEC, size); err != nil {
		return fmt.Errorf("scratch space: %w", err)
	}
	for _, dir := range []string{"/tmp", "/run"} {
		if err := errors.Join(os.Mkdir(base+Scratch+dir, 0o700), os.Chown(base+Scratch+dir, InsideID, InsideID)); err != nil {
			return err
		}
	}
	if err := os.Symlink(Scratch+"/tmp", base+"/tmp"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err // there it is where something below it is shown
	}
	return pivot()
}

// openAll opens paths before the new root hides any.
func openAll(paths []string) ([]int, error) {
	var fds []int
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", p, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// system shows the installed programs, and as much of /etc and /dev as they
// need to start.
func system() error {
	if err := bind("/usr", base+"/usr", true); err != nil {
		return err
	}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		to, err := os.Readlink(dir)
		if err == nil {
			if err := os.Symlink(to, base+dir); err != nil {
				return err
			}
		} else if info, err := os.Stat(dir); err == nil && info.IsDir() {
			if err := bind(dir, base+dir, true); err != nil {
				return err
			}
		}
	}
	for _, f := range []string{"/etc/ld.so.cache", "/etc/alternatives", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"} {
		if err := bind(f, base+f, f != "/dev/null" && f != "/dev/zero" && f != "/dev/full"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for name, text := range map[string]string{
		"/etc/passwd": fmt.Sprintf("drill:x:%d:%d:drill:%s:/bin/false\n", InsideID, InsideID, Scratch),
		"/etc/group":  fmt.Sprintf("drill:x:%d:\n", InsideID),
	} {
		if err := os.WriteFile(base+name, []byte(text), 0o444); err != nil {
			return err
		}
	}
	return nil
}

// bind shows a file or directory. Devices work on it only if it is one.
func bind(from, to string, readOnly bool) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(to, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(to, os.O_CREATE|os.O_RDONLY, 0o444); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", to[len(base):], err)
	}
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if info.Mode()&os.ModeDevice == 0 {
		set.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if readOnly || info.Mode().IsRegular() {
		set.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, to, unix.AT_RECURSIVE, &set); err != nil {
		return fmt.Errorf("show %s read-only: %w", to[len(base):], err)
	}
	return nil
}

// pivot makes base the root (pivot_root(2), "pivot_root(".", ".")").
func pivot() error {
	if err := unix.Chdir(base); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	set := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &set); err != nil {
		return fmt.Errorf("root read-only: %w", err)
	}
	return nil
}
