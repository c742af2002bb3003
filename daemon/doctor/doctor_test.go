package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

func TestSwap(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	root := t.TempDir()
	write(t, filepath.Join(root, "sys/class/block/dm-0/dev"), "253:0\n", 0o600)
	write(t, filepath.Join(root, "sys/dev/block/253:0/dm/uuid"), "CRYPT-PLAIN-swap\n", 0o600)
	write(t, filepath.Join(root, "sys/class/block/sdnone/dev"), "8:4000\n", 0o600)
	write(t, filepath.Join(root, "sys/dev/block/8:4000/dev"), "8:4000\n", 0o600)
	for lines, want := range map[string]source.Severity{
		"":                                      source.OK,
		"/dev/dm-0  partition\t1024\t0\t-2\n":   source.OK,
		"/dev/sdnone  partition\t1024\t0\t-2\n": source.Warn,
		"/dev/none  partition\t1024\t0\t-2\n":   source.Note,
		"/dev/none  partition\tmuch\t0\t-2\n":   source.Note,
	} {
		write(t, filepath.Join(root, "proc/swaps"), head+lines, 0o600)
		e := &exam{Config: Config{root: root}}
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
