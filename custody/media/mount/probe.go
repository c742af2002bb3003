package mount

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// look says what file system is on a block device, if it is one that a medium
// can have.
func look(path string) (fs FileSystem, ok bool) {
	// An empty drive must not make us wait.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fs, false
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return fs, false
	}
	fs.Device, fs.node = path, nodeOf(st.Rdev)
	if fs.Bytes, err = f.Seek(0, io.SeekEnd); err != nil {
		return fs, false
	}
	fs.Type, fs.UUID = probe(f)
	return fs, fs.Type != ""
}

// probe recognises a file system by its superblock, as libblkid does: the
// offsets are those of the kernel's ext4_super_block, xfs_dsb and
// btrfs_super_block, and of ECMA-119's primary volume descriptor.
func probe(r io.ReaderAt) (kind, uuid string) {
	at := func(off int64, n int) []byte {
		b := make([]byte, n)
		if _, err := r.ReadAt(b, off); err != nil {
			return nil
		}
		return b
	}
	is := func(off int64, magic string) bool { return bytes.Equal(at(off, len(magic)), []byte(magic)) }
	switch {
	case is(0x438, "\x53\xef"):
		return named("ext4", at(0x468, 16))
	case is(0, "XFSB"):
		return named("xfs", at(32, 16))
	case is(0x10040, "_BHRfS_M"):
		return named("btrfs", at(0x10020, 16))
	case is(0x8001, "CD001"):
		// An image has no UUID; its time of creation, 16 digits, is taken for one.
		d := at(0x8000+813, 16)
		for _, c := range d {
			if c < '0' || c > '9' {
				return "", ""
			}
		}
		return "iso9660", string(d)
	}
	return "", ""
}

func named(kind string, uuid []byte) (string, string) {
	if len(uuid) != 16 || bytes.Equal(uuid, make([]byte, 16)) {
		return "", ""
	}
	return kind, hex.EncodeToString(uuid)
}
