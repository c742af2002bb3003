package dir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// mountTmpfs returns a small real file system.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	path := t.TempDir()
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a tmpfs needs root and CAP_SYS_ADMIN (%v): a store on a small disk was not seen", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestAFullFileSystem(t *testing.T) {
	path := mountTmpfs(t, "size=1m")
	s := open(t, path)
	if err := storetest.Put(s, "t/small", storetest.Body(1, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := storetest.Put(s, "t/big", storetest.Body(2, 2<<20)); !errors.Is(err, store.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	wantNoLeftovers(t, path)
	if err := storetest.Put(s, "t/small-2", storetest.Body(1, 100_000)); err != nil {
		t.Errorf("what still fits: %v", err)
	}
	if list, err := storetest.List(s, ""); err != nil || len(list) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestAReadOnlyFileSystem(t *testing.T) {
	path := mountTmpfs(t, "size=1m")
	if err := storetest.Put(open(t, path), "t/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	for _, key := range []string{"t/l", "u/v/w", "l"} {
		if err := storetest.Put(s, key, []byte("x")); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("put %s: got %v, want ErrReadOnly", key, err)
		}
	}
	if got, err := storetest.Get(s, "t/k", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("get: %q, %v", got, err)
	}
	report, err := s.Probe(t.Context())
	if want := (store.Report{Reachable: true, Listable: true, CreateOnly: store.CreateUnknown}); report != want || !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("probe: %+v, %v", report, err)
	}
}

func TestADirectoryOfSomebodyElse(t *testing.T) {
	if asNobody(t) {
		return
	}
	path := t.TempDir()
	if err := storetest.Put(open(t, path), "t/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{filepath.Join(path, tmpDir), filepath.Join(path, "t"), path} {
		if err := os.Chmod(p, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(p, 0o755) })
	}
	s := open(t, path)
	for _, key := range []string{"t/l", "u/v", "l"} {
		if err := storetest.Put(s, key, []byte("x")); !errors.Is(err, store.ErrDenied) {
			t.Errorf("put %s: got %v, want ErrDenied", key, err)
		}
	}
	if got, err := storetest.Get(s, "t/k", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("get: %q, %v", got, err)
	}
	// A part that cannot be read must not look empty.
	if err := os.Chmod(filepath.Join(path, "t"), 0); err != nil {
		t.Fatal(err)
	}
	if list, err := storetest.List(s, ""); !errors.Is(err, store.ErrDenied) {
		t.Errorf("list: %v, %v", list, err)
	}
}

// asNobody runs the calling test again in a process of an ordinary user, if
// this one is root's, and reports whether it did: root is denied nothing.
func asNobody(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return false
	}
	base := t.TempDir()
	for d := base; d != filepath.Clean(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	exe, work := filepath.Join(base, "test"), filepath.Join(base, "work")
	if err := errors.Join(os.WriteFile(exe, b, 0o755), os.Mkdir(work, 0o777), os.Chmod(work, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Dir, cmd.Env = work, append(os.Environ(), "TMPDIR="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "PASS") {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	return true
}
