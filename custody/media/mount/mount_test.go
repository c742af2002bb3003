package mount

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// disk is a file behind a loop device with a new file system.
func disk(t *testing.T, image string) (device string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices and mounting need root: what the mount helper does was not seen")
	}
	if image == "" {
		image = filepath.Join(t.TempDir(), "image")
		run(t, "truncate", "-s", "16M", image)
		run(t, "mkfs.ext4", "-q", image)
	}
	device = strings.TrimSpace(run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	return device
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// mounter is what Direct and Socket have in common.
type mounter interface {
	List(ctx context.Context) ([]FileSystem, error)
	Mount(ctx context.Context, uuid string, write bool) (string, error)
	Unmount(ctx context.Context, uuid string) error
}

// each runs a test with both.
func each(t *testing.T, f func(t *testing.T, m mounter, dir string)) {
	t.Run("itself", func(t *testing.T) {
		dir := t.TempDir()
		f(t, Direct{Dir: dir}, dir)
	})
	t.Run("helper", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				Helper{Direct: Direct{Dir: dir}}.Serve(context.Background(), conn, conn)
				conn.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
		f(t, Socket{Path: path}, dir)
	})
}

func uuidOf(t *testing.T, m mounter, device string) string {
	t.Helper()
	all, err := m.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.Device == device {
			if f.Type != "ext4" || f.Bytes != 16<<20 || !ValidUUID(f.UUID) {
				t.Errorf("%+v", f)
			}
			return f.UUID
		}
	}
	t.Fatalf("%s is not among %+v", device, all)
	return ""
}

func TestAMediumIsMountedWrittenAndReadFromTheDisk(t *testing.T) {
	each(t, func(t *testing.T, m mounter, dir string) {
		device := disk(t, "")
		uuid := uuidOf(t, m, device)
		if want := strings.ReplaceAll(strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "UUID", device)), "-", ""); uuid != want {
			t.Errorf("UUID %s, blkid says %s", uuid, want)
		}
		at, err := m.Mount(t.Context(), uuid, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Unmount(context.Background(), uuid) })
		if at != filepath.Join(dir, uuid) {
			t.Errorf("mounted at %s", at)
		}
		options := run(t, "findmnt", "-n", "-o", "OPTIONS", at)
		for _, o := range []string{"rw", "nosuid", "nodev", "noexec"} {
			if !strings.Contains(options, o) {
				t.Errorf("without %s: %s", o, options)
			}
		}
		if err := os.WriteFile(filepath.Join(at, "f"), []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		if at, err = m.Mount(t.Context(), uuid, false); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(at, "f")); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		if err := os.WriteFile(filepath.Join(at, "g"), nil, 0o600); err == nil {
			t.Error("it can be written to")
		}
		f, err := os.Open(filepath.Join(at, "f"))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Unmount(t.Context(), uuid); !errors.Is(err, ErrBusy) {
			t.Errorf("with an open file: %v", err)
		}
		f.Close()
		for range 2 {
			if err := m.Unmount(t.Context(), uuid); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(at); !os.IsNotExist(err) {
			t.Errorf("the mount point stays: %v", err)
		}
	})
}

func TestWhatIsNotMounted(t *testing.T) {
	each(t, func(t *testing.T, m mounter, dir string) {
		image := filepath.Join(t.TempDir(), "image")
		device := disk(t, "")
		uuid := uuidOf(t, m, device)
		if _, err := m.Mount(t.Context(), strings.Repeat("0", 32), false); !errors.Is(err, ErrAbsent) {
			t.Errorf("unknown: %v", err)
		}
		for _, bad := range []string{"", "..", "../../etc", "ABCDEF12", strings.Repeat("a", 33), "aaaa-bbbb"} {
			if _, err := m.Mount(t.Context(), bad, false); err == nil || !strings.Contains(err.Error(), "is no UUID") {
				t.Errorf("%q: %v", bad, err)
			}
			if err := m.Unmount(t.Context(), bad); err == nil {
				t.Errorf("unmount %q succeeds", bad)
			}
		}
		elsewhere := t.TempDir()
		run(t, "mount", device, elsewhere)
		if _, err := m.Mount(t.Context(), uuid, false); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), elsewhere) {
			t.Errorf("mounted elsewhere: %v", err)
		}
		run(t, "umount", elsewhere)
		run(t, "cp", device, image)
		disk(t, image)
		if _, err := m.Mount(t.Context(), uuid, false); !errors.Is(err, ErrTwins) {
			t.Errorf("a clone: %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestTheHelperRefusesOtherRequests(t *testing.T) {
	for _, q := range []string{"", "x\n", `{"verb":"format","uuid":"00000000"}`, `{"verb":"list","dir":"/"}`, `{"verb":"mount","uuid":"/dev/vda"}`, `{"verb":"` + strings.Repeat("a", maxRequest) + `"}`} {
		var out strings.Builder
		if err := (Helper{Direct: Direct{Dir: t.TempDir()}}).Serve(t.Context(), strings.NewReader(q), &out); err == nil || !strings.Contains(out.String(), `"error":`) {
			t.Errorf("%.40q: %v, answered %s", q, err, out.String())
		}
	}
}

// Of btrfs the system tells a number of its own where of others it tells the
// device's.
func TestABtrfsIsKnownToBeMounted(t *testing.T) {
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		t.Skip("mkfs.btrfs is not installed (Debian package btrfs-progs): media with btrfs were not tested")
	}
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "btrfs") {
		t.Skip("this kernel has no btrfs: media with it were not tested")
	}
	image := filepath.Join(t.TempDir(), "image")
	run(t, "truncate", "-s", "128M", image)
	run(t, "mkfs.btrfs", "-q", image)
	device := disk(t, image)
	m, uuid := Direct{Dir: t.TempDir()}, strings.ReplaceAll(strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "UUID", device)), "-", "")
	elsewhere := t.TempDir()
	run(t, "mount", device, elsewhere)
	t.Cleanup(func() { exec.Command("umount", elsewhere).Run() })
	if at, err := m.Mount(t.Context(), uuid, true); !errors.Is(err, ErrElsewhere) {
		t.Errorf("mounted elsewhere: %q, %v", at, err)
		m.Unmount(t.Context(), uuid)
	}
	run(t, "umount", elsewhere)
	for _, write := range []bool{true, false} { // written, and mounted anew
		if _, err := m.Mount(t.Context(), uuid, write); err != nil {
			t.Errorf("write %v: %v", write, err)
		}
	}
	if err := m.Unmount(t.Context(), uuid); err != nil {
		t.Error(err)
	}
}

func TestAFailedMountLeavesNoDirectory(t *testing.T) {
	each(t, func(t *testing.T, m mounter, dir string) {
		device := disk(t, "")
		uuid := uuidOf(t, m, device)
		f, err := os.OpenFile(device, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		// A feature that no kernel knows, in s_feature_incompat.
		_, err = f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 1024+0x60)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Mount(t.Context(), uuid, true); err == nil {
			t.Fatal("it is mounted")
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// What is on a medium comes from outside: also what the kernel does when it finds
// it damaged.
func TestAMediumCannotStopTheMachine(t *testing.T) {
	each(t, func(t *testing.T, m mounter, dir string) {
		device := disk(t, "")
		run(t, "tune2fs", "-e", "panic", device)
		uuid := uuidOf(t, m, device)
		for _, write := range []bool{true, false} {
			at, err := m.Mount(t.Context(), uuid, write)
			if err != nil {
				t.Fatal(err)
			}
			if options := run(t, "findmnt", "-n", "-o", "OPTIONS", at); !strings.Contains(options, "errors=remount-ro") {
				t.Errorf("write %v: mounted with %s", write, options)
			}
		}
		if err := m.Unmount(t.Context(), uuid); err != nil {
			t.Error(err)
		}
	})
}
