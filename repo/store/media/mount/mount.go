// Package mount finds out which file system on which device is mounted at a
// directory.
package mount

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Device is what the system knows of the file system at a path.
type Device struct {
	// Mounted: it is another file system than that of the directory above.
	Mounted bool
	// FileSystem is its UUID as lower-case hex without hyphens; empty: unknown.
	FileSystem string
	// Serial is the device's serial number; empty: it has none that can be
	// seen, as with loop devices, whose backing file may be anywhere and is no
	// identity. A copy of such a medium is told by its use counter only.
	Serial string
	// Twin is where a file system of the same UUID on another device is
	// mounted.
	Twin string
}

// Identify finds out what is mounted at an open directory. It needs no
// privileges, and asks of what is open, not of a path: what is mounted there a
// moment later is another matter.
func Identify(dir *os.File) (Device, error) {
	dev, err := deviceOf(dir.Stat())
	if err != nil {
		return Device{}, err
	}
	var above unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), "..", &above, 0); err != nil {
		return Device{}, fmt.Errorf("directory above %s: %w", dir.Name(), err)
	}
	d := Device{Mounted: dev != above.Dev}
	if !d.Mounted {
		return d, nil
	}
	node := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	udev := readUdev("/run/udev/data/b" + node)
	if d.FileSystem = fileSystemUUID(dir); d.FileSystem == "" {
		d.FileSystem = strings.ToLower(strings.ReplaceAll(udev["ID_FS_UUID"], "-", ""))
	}
	if d.Serial = udev["ID_SERIAL_SHORT"]; d.Serial == "" {
		d.Serial = sysSerial("/sys", node)
	}
	d.Twin = twin(d.FileSystem, dev)
	return d, nil
}

func deviceOf(info os.FileInfo, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("this system does not tell devices apart")
	}
	return st.Dev, nil
}

// getFSUUID is FS_IOC_GETFSUUID of Linux 6.9, _IOR(0x15, 0, struct fsuuid2):
// the length of the UUID in a byte, and up to 16 bytes.
const getFSUUID = 0x80111500

// fileSystemUUID asks the mounted file system itself, where the kernel knows
// how, and returns "" where not. Of other lengths than 16 udev and the kernel
// have different spellings; those are left to udev.
//
// x/sys has no function for this call and package unsafe is not for us: the one
// for terminals passes a structure of 44 bytes, of which the kernel fills 17.
func fileSystemUUID(f *os.File) string {
	t, err := unix.IoctlGetTermios(int(f.Fd()), getFSUUID)
	if err != nil {
		return ""
	}
	var b []byte
	for _, word := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	b = append(b, t.Line)
	if b[0] != 16 {
		return ""
	}
	return hex.EncodeToString(b[1:])
}

// readUdev reads the properties that udev keeps of a device, if it runs.
func readUdev(path string) map[string]string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	out := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if property, ok := strings.CutPrefix(lines.Text(), "E:"); ok {
			name, value, _ := strings.Cut(property, "=")
			out[name] = value
		}
	}
	return out
}

// sysSerial looks for the serial number of a block device in sysfs, from the
// disk upwards: NVMe and MMC have it beside the disk, USB devices a few
// directories above.
func sysSerial(sys, node string) string {
	path, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", node))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
		path = filepath.Dir(path)
	}
	top, err := filepath.EvalSymlinks(filepath.Join(sys, "devices"))
	if err != nil {
		return ""
	}
	for ; strings.HasPrefix(path, top+"/"); path = filepath.Dir(path) {
		for _, name := range []string{"serial", "device/serial"} {
			b, err := os.ReadFile(filepath.Join(path, name))
			if serial := strings.TrimSpace(string(b)); err == nil && serial != "" {
				return serial
			}
		}
	}
	return ""
}

// twin returns where else a file system with that UUID is mounted, on another
// device. Only disks are looked at: what is on the network may not answer.
func twin(uuid string, dev uint64) string {
	f, err := os.Open("/proc/self/mountinfo")
	if uuid == "" || err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 36 35 98:0 /root /mount/point options … - type source options (proc(5))
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(source) < 2 || !strings.HasPrefix(source[1], "/dev/") {
			continue
		}
		at := mountPath.Replace(fields[4])
		if at != "" && sameUUID(at, uuid, dev) {
			return at
		}
	}
	return ""
}

// mountPath undoes what the kernel does to paths in mountinfo.
var mountPath = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func sameUUID(path, uuid string, dev uint64) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	other, err := deviceOf(f.Stat())
	return err == nil && other != dev && fileSystemUUID(f) == uuid
}
