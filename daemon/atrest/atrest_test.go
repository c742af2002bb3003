package atrest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kernel is a tree of files as the kernel shows them.
func kernel(t *testing.T, files map[string]string, links map[string]string) Kernel {
	t.Helper()
	root := t.TempDir()
	for p, text := range files {
		write(t, filepath.Join(root, p), text+"\n")
	}
	for p, to := range links {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, p)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(root, p)); err != nil {
			t.Fatal(err)
		}
	}
	return Kernel{Root: root}
}

func TestLayersBelowADirectoryAreFollowed(t *testing.T) {
	files := map[string]string{
		"sys/devices/sda/dev": "8:0", "sys/devices/sda/sda1/partition": "1", "sys/devices/sda/sda1/dev": "8:1",
		"sys/devices/dm-0/dev": "253:0", "sys/devices/dm-0/dm/uuid": "CRYPT-LUKS2-0123-vault", "sys/devices/dm-0/dm/name": "vault",
		"sys/devices/dm-1/dev": "253:1", "sys/devices/dm-1/dm/uuid": "LVM-abc", "sys/devices/dm-1/dm/name": "vg-state",
		"sys/devices/dm-2/dev": "253:2", "sys/devices/dm-2/dm/uuid": "CRYPT-VERITY-4567-root",
		"sys/devices/dm-3/dev": "253:3", "sys/devices/dm-3/dm/uuid": "CRYPT-PLAIN-swap", "sys/devices/dm-3/dm/name": "swap",
		"sys/devices/md0/dev": "9:0", "sys/devices/md1/dev": "9:1",
		"sys/devices/zram0/dev": "252:0", "sys/devices/loop0/dev": "7:0", "sys/devices/loop0/loop/backing_file": "/gone/away (deleted)",
	}
	links := map[string]string{
		"sys/devices/dm-0/slaves/sda1": "../../sda/sda1", "sys/devices/dm-1/slaves/dm-0": "../../dm-0", "sys/devices/dm-2/slaves/sda1": "../../sda/sda1",
		"sys/devices/md0/slaves/dm-0": "../../dm-0", "sys/devices/md0/slaves/sda1": "../../sda/sda1",
		"sys/devices/md1/slaves/dm-0": "../../dm-0", "sys/devices/md1/slaves/dm-3": "../../dm-3",
	}
	for dev, dir := range map[string]string{"8:0": "sda", "8:1": "sda/sda1", "253:0": "dm-0", "253:1": "dm-1", "253:2": "dm-2", "253:3": "dm-3",
		"9:0": "md0", "9:1": "md1", "252:0": "zram0", "7:0": "loop0"} {
		links["sys/dev/block/"+dev] = "../../devices/" + dir
	}
	k := kernel(t, files, links)
	for _, c := range []struct {
		dev  string
		want Verdict
		how  string
	}{
		{"8:0", Plain, "sda"}, {"8:1", Plain, "sda"},
		{"253:0", Encrypted, "dm-crypt (vault)"},
		{"253:1", Encrypted, "dm-crypt (vault)"}, // LVM on LUKS
		{"253:2", Plain, "sda"},                  // verity hides nothing
		{"9:0", Plain, "sda"},                    // one half of a mirror in clear
		{"9:1", Encrypted, "dm-crypt"},
		{"252:0", Memory, "compressed"}, {"7:0", Unknown, "loop0"}, {"99:9", Unknown, "not in /sys"},
	} {
		if v, how := k.device(c.dev, 0); v != c.want || !strings.Contains(how, c.how) {
			t.Errorf("%s: %d, %q; want %d, %q", c.dev, v, how, c.want, c.how)
		}
	}
}

func TestDevicesInACircleEnd(t *testing.T) {
	k := kernel(t, map[string]string{"sys/devices/dm-0/dev": "253:0"},
		map[string]string{"sys/devices/dm-0/slaves/dm-0": "../../dm-0", "sys/dev/block/253:0": "../../devices/dm-0"})
	if v, how := k.device("253:0", 0); v != Unknown {
		t.Errorf("%d, %s", v, how)
	}
}

// TestRealDisk compares with lsblk, which goes the same way by itself.
func TestRealDisk(t *testing.T) {
	dir := t.TempDir()
	k := Kernel{}
	v, how := k.Place(dir)
	src, err := exec.Command("findmnt", "-nvo", "SOURCE", "--target", dir).Output()
	if err != nil || !strings.HasPrefix(string(src), "/dev/") {
		t.Skipf("%s lies on %q (%v), not a device that lsblk knows; we say %d, %s", dir, src, err, v, how)
	}
	out, err := exec.Command("lsblk", "-nso", "TYPE", strings.TrimSpace(string(src))).Output()
	if err != nil {
		t.Skipf("lsblk of %s: %v; we say %d, %s", src, err, v, how)
	}
	if crypt := strings.Contains(string(out), "crypt"); crypt != (v == Encrypted) || !crypt && v != Plain {
		t.Errorf("lsblk says %q, we %d, %s", out, v, how)
	}
}

// TestFscryptDirectory sets a real policy, on a real ext4.
func TestFscryptDirectory(t *testing.T) {
	if os.Geteuid() != 0 || strings.TrimSpace(text("/sys/fs/ext4/features/encryption")) != "supported" {
		t.Skip("needs root and a kernel with encryption in ext4: a directory under fscrypt was not seen")
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("mkfs.ext4", "-q", "-O", "encrypt", image)
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	loop := run("losetup", "--find", "--show", image)
	t.Cleanup(func() { exec.Command("losetup", "-d", loop).Run() })
	if err := syscall.Mount(loop, mnt, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(mnt, syscall.MNT_DETACH) })
	vault := filepath.Join(mnt, "vault")
	if err := os.Mkdir(vault, 0o700); err != nil {
		t.Fatal(err)
	}
	k := Kernel{}
	outside, _ := k.Place(dir)
	if v, how := k.Place(vault); v != outside { // a file on this very disk
		t.Errorf("before: %d, %s; the disk below is %d", v, how, outside)
	}
	// struct fscrypt_policy_v1: version, AES-256-XTS, AES-256-CTS, padding, key descriptor.
	run("python3", "-c", `import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x800c6613, bytes([0, 1, 4, 0]) + b"abcdefgh")`, vault)
	if v, how := k.Place(vault); v != Encrypted || !strings.Contains(how, "fscrypt") {
		t.Errorf("after: %d, %s", v, how)
	}
	if v, _ := k.Place(mnt); v != outside {
		t.Errorf("the directory above it: %d", v)
	}
}

func TestSwaps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "swap file")
	write(t, file, "")
	onDisk, _ := Kernel{}.Place(file)
	files := map[string]string{
		"proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" + strings.ReplaceAll(file, " ", `\040`) + "  file\t2048\t1024\t-2\n" +
			"/dev/gone-0  partition\t4096\t0\t-3\n/dev/gone/1  partition\t4096\t96\t-4",
		"sys/class/block/gone-0/dev": "253:0", "sys/class/block/gone!1/dev": "8:7",
		"sys/devices/dm-0/dm/uuid": "CRYPT-PLAIN-swap", "sys/devices/dm-0/dm/name": "swap", "sys/devices/x/dev": "8:7",
	}
	k := kernel(t, files, map[string]string{"sys/dev/block/253:0": "../../devices/dm-0", "sys/dev/block/8:7": "../../devices/x"})
	got, err := k.Swaps()
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	// The file lies on a device of this machine, which is not in that tree.
	if got[0].File != file || got[0].Free != 1<<20 || onDisk != Memory && got[0].Verdict != Unknown {
		t.Errorf("%+v", got[0])
	}
	if want := (Swap{"/dev/gone-0", Encrypted, "dm-crypt (swap)", 4 << 20}); got[1] != want {
		t.Errorf("%+v, want %+v", got[1], want)
	}
	if want := (Swap{"/dev/gone/1", Plain, "x", 4000 << 10}); got[2] != want {
		t.Errorf("%+v, want %+v", got[2], want)
	}
	for _, line := range []string{"/dev/x partition 1", "/dev/x partition 1 x", "/dev/x partition 99999999999999999999 0"} {
		k := kernel(t, map[string]string{"proc/swaps": "Filename\n" + line}, nil)
		if got, err := k.Swaps(); err == nil {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// A device of compressed memory may have a disk behind it.
func TestCompressedMemoryWithADiskBehindIt(t *testing.T) {
	k := kernel(t, map[string]string{"sys/devices/zram0/backing_dev": "/dev/behind", "sys/devices/zram1/backing_dev": "none", "sys/class/block/behind/dev": "8:1",
		"sys/devices/behind/dev": "8:1"},
		map[string]string{"sys/dev/block/252:0": "../../devices/zram0", "sys/dev/block/252:1": "../../devices/zram1", "sys/dev/block/8:1": "../../devices/behind"})
	if v, how := k.device("252:0", 0); v != Plain || how != "behind" {
		t.Errorf("%d, %s", v, how)
	}
	if v, how := k.device("252:1", 0); v != Memory {
		t.Errorf("%d, %s", v, how)
	}
}
