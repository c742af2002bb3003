package walls

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/systemd/probe"
)

// tried is what a confined process found.
type tried struct {
	Table   Table
	Inside  []string // errors where it may write
	Outside []string // reasons for which it could not where it may not; "" where it could
	Child   string   // the same of a program that it started
}

// TestMain is also the process that is confined: that cannot be undone.
func TestMain(m *testing.M) {
	dir := os.Getenv("STRONGROOM_CONFINE")
	if dir == "" {
		os.Exit(m.Run())
	}
	var r tried
	var err error
	r.Table, err = Confine(Config{StateDir: filepath.Join(dir, "state"), Writable: []string{filepath.Join(dir, "state"), filepath.Join(dir, "store"), filepath.Join(dir, "absent")},
		Self: "/bin/true", Now: time.Now})
	fail := func(into *[]string, err error) {
		text := ""
		if err != nil {
			text = err.Error()
		}
		*into = append(*into, text)
	}
	fail(&r.Inside, err)
	fail(&r.Inside, os.WriteFile(filepath.Join(dir, "state", "f"), []byte("x"), 0o600))
	fail(&r.Inside, os.Mkdir(filepath.Join(dir, "state", "d"), 0o700))
	fail(&r.Inside, os.Rename(filepath.Join(dir, "state", "f"), filepath.Join(dir, "state", "d", "f")))
	fail(&r.Inside, os.Rename(filepath.Join(dir, "state", "d", "f"), filepath.Join(dir, "store", "f")))
	_, err = os.ReadFile(filepath.Join(dir, "other", "theirs"))
	fail(&r.Inside, err)
	fail(&r.Outside, os.WriteFile(filepath.Join(dir, "other", "f"), nil, 0o600))
	fail(&r.Outside, os.WriteFile(filepath.Join(dir, "other", "theirs"), nil, 0o600))
	fail(&r.Outside, os.Truncate(filepath.Join(dir, "other", "theirs"), 0))
	fail(&r.Outside, os.Remove(filepath.Join(dir, "other", "theirs")))
	fail(&r.Outside, os.Rename(filepath.Join(dir, "store", "f"), filepath.Join(dir, "other", "f")))
	fail(&r.Outside, os.Mkdir(filepath.Join(dir, "absent"), 0o700))
	fail(&r.Outside, unix.Mount("tmpfs", filepath.Join(dir, "state"), "tmpfs", 0, ""))
	out, _ := exec.Command("/bin/sh", "-c", "echo x > "+filepath.Join(dir, "other", "g")).CombinedOutput()
	r.Child = string(out)
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func confined(t *testing.T) (tried, string) {
	t.Helper()
	if _, _, err := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1); err != 0 {
		t.Skipf("this kernel has no Landlock (%v): what it keeps away was not seen", err)
	}
	dir := t.TempDir()
	for _, d := range []string{"state", "store", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "other", "theirs"), []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), "STRONGROOM_CONFINE="+dir), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var r tried
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return r, dir
}

func TestAConfinedProcessWritesOnlyWhereItMay(t *testing.T) {
	r, dir := confined(t)
	for i, e := range r.Inside {
		if e != "" {
			t.Errorf("permitted act %d: %s", i, e)
		}
	}
	for i, e := range r.Outside {
		if !strings.Contains(e, "permission denied") && !strings.Contains(e, "not permitted") {
			t.Errorf("forbidden act %d: %q", i, e)
		}
	}
	if !strings.Contains(r.Child, "ermission denied") {
		t.Errorf("a program that it starts: %q", r.Child)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "other", "theirs")); err != nil || string(b) != "theirs" {
		t.Errorf("%q, %v", b, err)
	}
	var names []string
	for _, w := range r.Table.Walls {
		names = append(names, w.Name)
		if w.Tried == "" || w.Got == "" {
			t.Errorf("%+v", w)
		}
	}
	if !slices.Equal(names, Names()) {
		t.Errorf("the table has %q, want %q", names, Names())
	}
	missing := r.Table.Missing(nil)
	if slices.Contains(missing, probe.Landlock) {
		t.Errorf("missing: %q", missing)
	}
	// Tests run without a unit: whatever they may do must be found.
	for wall, can := range map[string]bool{
		probe.Powers: true, // nobody set "no new privileges" before
		probe.Calls:  true,
		probe.Code:   true,
		probe.Files:  os.Getuid() == 0,
		probe.RawNetwork: func() bool {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			unix.Close(fd)
			return err == nil
		}(),
	} {
		if can && !slices.Contains(missing, wall) {
			t.Errorf("wall %q is not there, and was not missed: %q", wall, missing)
		}
	}
	if left := r.Table.Missing(missing); len(left) > 0 {
		t.Errorf("missing, and known: %q", left)
	}
}

func TestTheTableIsKeptForOthers(t *testing.T) {
	dir := t.TempDir()
	if got, err := Read(dir); got != nil || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	r, _ := confined(t)
	if err := r.Table.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || !slices.Equal(got.Walls, r.Table.Walls) || got.Process != r.Table.Process || !got.Time.Equal(r.Table.Time) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, tableName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("half a table was read")
	}
}

func TestOutside(t *testing.T) {
	got := Outside([]string{"/a/b", "/a", "/ab", "/c/../a/x", "/"}, []string{"/a", "/d"})
	if !slices.Equal(got, []string{"/ab", "/"}) {
		t.Errorf("%q", got)
	}
}
