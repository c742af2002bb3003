package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"strongroom/source"
)

// find returns the finding of that code.
func find(t *testing.T, all source.Findings, code string) source.Finding {
	t.Helper()
	for _, f := range all {
		if f.Code == code {
			return f
		}
	}
	t.Fatalf("nothing is said of %s: %v", code, all)
	return source.Finding{}
}

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func TestWhoMayReadWhat(t *testing.T) {
	dir := t.TempDir()
	c := Config{StateDir: filepath.Join(dir, "state"), ConfigFile: write(t, filepath.Join(dir, "c.toml"), "", 0o644),
		Secrets: []Secret{{"access key", write(t, filepath.Join(dir, "id"), "s3cret", 0o600)}}}
	for _, step := range []struct {
		do   func()
		code string
		want source.Severity
	}{
		{func() {}, "state-dir", source.Note},
		{func() { os.Mkdir(c.StateDir, 0o700) }, "state-dir", source.OK},
		{func() { os.Chmod(c.StateDir, 0o750) }, "state-dir", source.Warn},
		{func() { os.Remove(c.StateDir); os.WriteFile(c.StateDir, nil, 0o600) }, "state-dir", source.Bad},
		{func() {}, "config-file", source.OK},
		{func() { os.Chmod(c.ConfigFile, 0o664) }, "config-file", source.Warn},
		{func() {}, "secret-file", source.OK},
		{func() { os.Chmod(c.Secrets[0].Path, 0o640) }, "secret-file", source.Warn},
		{func() { os.Remove(c.Secrets[0].Path) }, "secret-file", source.Bad},
	} {
		step.do()
		all := Examine(c)
		if f := find(t, all, step.code); f.Severity != step.want {
			t.Errorf("want %s: %+v", step.want, f)
		}
		for _, f := range all {
			if strings.Contains(f.What+f.Why+f.Remedy, "s3cret") {
				t.Errorf("a secret shows: %+v", f)
			}
		}
	}
}

func TestBoundsAreComparedWithTheDisk(t *testing.T) {
	dir := t.TempDir()
	for bound, want := range map[int64]source.Severity{1 << 20: source.OK, 1 << 60: source.Warn} {
		if f := find(t, Examine(Config{StateDir: dir, Bound: bound}), "space"); f.Severity != want {
			t.Errorf("bound %d: %+v", bound, f)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root: that bounds are compared with it was not seen")
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8M"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(small, unix.MNT_DETACH) })
	all := Examine(Config{StateDir: small, Bound: 1 << 20})
	if f := find(t, all, "space"); f.Severity != source.Bad {
		t.Errorf("%+v", f)
	}
	if f := find(t, all, "disk-encryption"); f.Severity != source.Warn || !strings.Contains(f.What, "in memory") {
		t.Errorf("%+v", f)
	}
}

// TestClock: what the kernel returns is told as adjtimex(2) says, and the real
// one is asked.
func TestClock(t *testing.T) {
	for _, c := range []struct {
		state, status int
		want          source.Severity
	}{{0, 0x2001, source.OK}, {0, 0x40, source.Warn}, {5, 0, source.Warn}, {5, 0x40, source.Warn}} {
		e := &exam{}
		e.judgeClock(c.state, c.status, 2000)
		if e.Findings[0].Severity != c.want {
			t.Errorf("%+v: %+v", c, e.Findings[0])
		}
	}
	e := &exam{}
	e.clock()
	f := find(t, e.Findings, "clock")
	// The same, asked through the C library.
	out, err := exec.Command("python3", "-c", `import ctypes
b = ctypes.create_string_buffer(1024)
r = ctypes.CDLL(None).adjtimex(b)
print(r == 5 or bool(int.from_bytes(b[40:44], "little") & 0x40))`).Output()
	if err != nil {
		t.Skipf("python3 cannot ask the kernel for its clock (%v): our own reading was not compared with it", err)
	}
	if unsynchronised := strings.TrimSpace(string(out)) == "True"; unsynchronised != (f.Severity == source.Warn) {
		t.Errorf("libc says %s, we %+v", out, f)
	}
}

// kernel is a tree of files as the kernel shows them.
func kernel(t *testing.T, files map[string]string, links map[string]string) *exam {
	t.Helper()
	root := t.TempDir()
	for p, text := range files {
		write(t, filepath.Join(root, p), text+"\n", 0o600)
	}
	for p, to := range links {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, p)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(root, p)); err != nil {
			t.Fatal(err)
		}
	}
	return &exam{Config: Config{root: root}}
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
	e := kernel(t, files, links)
	for _, c := range []struct {
		dev  string
		want verdict
		how  string
	}{
		{"8:0", plain, "sda"}, {"8:1", plain, "sda"},
		{"253:0", encrypted, "dm-crypt (vault)"},
		{"253:1", encrypted, "dm-crypt (vault)"}, // LVM on LUKS
		{"253:2", plain, "sda"},                  // verity hides nothing
		{"9:0", plain, "sda"},                    // one half of a mirror in clear
		{"9:1", encrypted, "dm-crypt"},
		{"252:0", memory, "compressed"}, {"7:0", unknown, "loop0"}, {"99:9", unknown, "not in /sys"},
	} {
		if v, how := e.device(c.dev, 0); v != c.want || !strings.Contains(how, c.how) {
			t.Errorf("%s: %d, %q; want %d, %q", c.dev, v, how, c.want, c.how)
		}
	}
}

func TestDevicesInACircleEnd(t *testing.T) {
	e := kernel(t, map[string]string{"sys/devices/dm-0/dev": "253:0"},
		map[string]string{"sys/devices/dm-0/slaves/dm-0": "../../dm-0", "sys/dev/block/253:0": "../../devices/dm-0"})
	if v, how := e.device("253:0", 0); v != unknown {
		t.Errorf("%d, %s", v, how)
	}
}

// TestRealDisk compares with lsblk, which goes the same way by itself.
func TestRealDisk(t *testing.T) {
	dir := t.TempDir()
	e := &exam{}
	v, how := e.place(dir)
	src, err := exec.Command("findmnt", "-nvo", "SOURCE", "--target", dir).Output()
	if err != nil || !strings.HasPrefix(string(src), "/dev/") {
		t.Skipf("%s lies on %q (%v), not a device that lsblk knows; we say %d, %s", dir, src, err, v, how)
	}
	out, err := exec.Command("lsblk", "-nso", "TYPE", strings.TrimSpace(string(src))).Output()
	if err != nil {
		t.Skipf("lsblk of %s: %v; we say %d, %s", src, err, v, how)
	}
	if crypt := strings.Contains(string(out), "crypt"); crypt != (v == encrypted) || !crypt && v != plain {
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
	e := &exam{}
	outside, _ := e.place(dir)
	if v, how := e.place(vault); v != outside { // a file on this very disk
		t.Errorf("before: %d, %s; the disk below is %d", v, how, outside)
	}
	// struct fscrypt_policy_v1: version, AES-256-XTS, AES-256-CTS, padding, key descriptor.
	run("python3", "-c", `import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x800c6613, bytes([0, 1, 4, 0]) + b"abcdefgh")`, vault)
	if v, how := e.place(vault); v != encrypted || !strings.Contains(how, "fscrypt") {
		t.Errorf("after: %d, %s", v, how)
	}
	if v, _ := e.place(mnt); v != outside {
		t.Errorf("the directory above it: %d", v)
	}
}

func TestSwap(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	file := write(t, filepath.Join(t.TempDir(), "swap file"), "", 0o600)
	onDisk, _ := (&exam{}).place(file)
	want := map[verdict]source.Severity{plain: source.Warn, encrypted: source.OK, memory: source.OK, unknown: source.Note}[onDisk]
	for lines, want := range map[string]source.Severity{
		"": source.OK,
		strings.ReplaceAll(file, " ", `\040`) + "  file\t1024\t0\t-2": want,
		"/dev/nonesuch  partition\t1024\t0\t-2":                       source.Note,
	} {
		e := kernel(t, map[string]string{"proc/swaps": head + lines}, map[string]string{"sys/dev": "/sys/dev"})
		e.swap()
		if f := e.Findings[0]; f.Severity != want {
			t.Errorf("%q: want %s: %+v", lines, want, f)
		}
	}
}

func TestCoreDumps(t *testing.T) {
	for _, c := range []struct {
		limit   uint64
		pattern string
		want    source.Severity
	}{
		{0, "core", source.OK}, {1 << 20, "core", source.Warn}, {0, "|/usr/lib/systemd/systemd-coredump %P", source.OK},
		{0, "|/usr/share/apport/apport %p", source.Warn}, {0, "|", source.Warn}, {0, "", source.OK},
	} {
		e := &exam{}
		e.judgeCore(c.limit, c.pattern)
		if f := e.Findings[0]; f.Severity != c.want {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}
