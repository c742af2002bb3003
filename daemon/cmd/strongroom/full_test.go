package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// smallDisk makes an ext4 file system of some MiB in a file and mounts it.
// grow makes it larger.
func smallDisk(t *testing.T, mib int) (path string, grow func(mib int)) {
	t.Helper()
	return diskIn(t, t.TempDir(), mib)
}

// diskIn is a small disk whose file lies in a directory.
func diskIn(t *testing.T, dir string, mib int) (path string, grow func(mib int)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root: what a full disk does was not seen")
	}
	image, path := filepath.Join(dir, "image"), filepath.Join(t.TempDir(), "disk")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	mount := func() { t.Helper(); run("mount", "-o", "loop", image, path) }
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	run("truncate", "-s", fmt.Sprintf("%dM", mib), image)
	run("mkfs.ext4", "-q", "-F", "-m", "0", image)
	if out, err := exec.Command("mount", "-o", "loop", image, path).CombinedOutput(); err != nil {
		t.Skipf("this system mounts no file as a disk (%s): what a full one does was not seen", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { run("umount", path) })
	return path, func(mib int) {
		t.Helper()
		run("umount", path)
		run("truncate", "-s", fmt.Sprintf("%dM", mib), image)
		run("e2fsck", "-fp", image)
		run("resize2fs", image)
		mount()
	}
}

// random is a dataset of fresh bytes that do not compress.
func random(name string, bytes int) string {
	return commandDataset(name, "/usr/bin/head", "-c", fmt.Sprint(bytes), "/dev/urandom")
}

// A disk that is full in the middle of a backup makes the snapshot reduced,
// again and again, and gets all of it once it has room.
func TestStoreThatIsFull(t *testing.T) {
	disk, grow := smallDisk(t, 16)
	one, onePath := dirStore(t, "one")
	three, threePath := dirStore(t, "three")
	two := fmt.Sprintf("[[store]]\nname = \"two\"\nkind = \"dir\"\npath = %q\n", disk)
	b := newBox(t, one+two+three, random("dump", 40_000_000))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for n := 1; n <= 2; n++ {
		o := b.run(3, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", n))
		if !strings.Contains(o.stdout, `warning: store "two"`) || !strings.Contains(o.stdout, "store is full") || !strings.Contains(o.stderr, "reduced: 2 of 3 stores") {
			t.Errorf("backup %d: %s%s", n, o.stdout, o.stderr)
		}
		b.run(0, "restore", fmt.Sprintf("acme/dump@v%d", n), "--to", b.path(fmt.Sprintf("before%d", n)))
	}
	if left, _ := filepath.Glob(filepath.Join(disk, ".tmp", "*")); len(left) > 0 {
		t.Errorf("half objects stay on the full disk: %v", left)
	}
	b.run(3, "check", "--read-data")
	grow(256)
	b.run(0, "backup", "acme/dump", "--label", "v3")
	if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "reduced") {
		t.Errorf("not finished:\n%s", o.stdout)
	}
	b.run(0, "check", "--read-data")
	for i, path := range []string{onePath, threePath} { // it counts: another may go now
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= 2; n++ {
			out := b.path(fmt.Sprintf("after%d-%d", i, n))
			b.run(0, "restore", fmt.Sprintf("acme/dump@v%d", n), "--to", out)
			sameBytes(t, out, b.path(fmt.Sprintf("before%d", n)))
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
}

// The box's own disk is full: the backup says so and is taken up again, and
// what was committed before is as it was.
func TestStateDirectoryThatIsFull(t *testing.T) {
	disk, grow := smallDisk(t, 16)
	stores, paths := threeDirs(t)
	b := newBox(t, stores, random("dump", 60_000_000)+random("small", 100_000))
	text := string(must(os.ReadFile(b.config))(t))
	state := filepath.Join(disk, "state")
	b.write("c.toml", strings.Replace(text, b.path("state"), state, 1))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/small", "--label", "before")
	// A store is away, and the spool cannot take what it should have got.
	if err := os.Rename(paths[1], paths[1]+".away"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if o := b.run(21, "backup", "acme/dump"); !strings.Contains(o.stderr, "no room in the state directory "+state) {
			t.Error(o.stderr)
		}
	}
	if o := b.run(3, "snapshots", "acme/dump"); !strings.Contains(o.stdout, "no snapshots") {
		t.Errorf("listed:\n%s", o.stdout)
	}
	b.run(0, "restore", "acme/small@before", "--to", b.path("out"))
	grow(256)
	b.run(3, "backup", "acme/dump", "--label", "v1") // the store is still away
	b.run(0, "restore", "acme/dump@v1", "--to", b.path("dump"))
	if err := os.Rename(paths[1]+".away", paths[1]); err != nil {
		t.Fatal(err)
	}
	b.run(0, "backup", "acme/dump", "--label", "v2")
	b.run(0, "check", "--read-data")
	b.run(0, "restore", "acme/dump@v1", "--to", b.path("dump2"))
	sameBytes(t, b.path("dump"), b.path("dump2"))
}

// A restore onto a disk that is too small leaves nothing there.
func TestRestoreTargetThatIsFull(t *testing.T) {
	disk, _ := smallDisk(t, 16)
	stores, _ := threeDirs(t)
	b := newBox(t, stores, random("dump", 40_000_000))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump")
	before := must(tree(disk))(t)
	if o := b.run(1, "restore", "acme/dump", "--to", filepath.Join(disk, "out")); !strings.Contains(o.stderr, "no space left") {
		t.Error(o.stderr)
	}
	if after := must(tree(disk))(t); len(after) != len(before) {
		t.Errorf("left behind: %v", after)
	}
}

// What is kept to compare with is disposable: it makes room when the spool
// needs it.
func TestBaseCacheMakesRoomForTheSpool(t *testing.T) {
	disk, _ := smallDisk(t, 24)
	stores, paths := threeDirs(t)
	data := filepath.Join(t.TempDir(), "data")
	b := newBox(t, stores, commandDataset("dump", "/bin/cat", data))
	text := string(must(os.ReadFile(b.config))(t))
	b.write("c.toml", strings.Replace(text, b.path("state"), filepath.Join(disk, "state"), 1))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	fill := func(n int64) {
		t.Helper()
		if out, err := exec.Command("/bin/sh", "-c", fmt.Sprintf("head -c %d /dev/urandom >> %s", n, data)).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	fill(14_000_000)
	b.run(0, "backup", "acme/dump", "--label", "v1") // its cache takes most of the disk
	if err := os.Rename(paths[1], paths[1]+".away"); err != nil {
		t.Fatal(err)
	}
	fill(4_000_000)
	b.run(3, "backup", "acme/dump", "--label", "v2") // 9 MB for the store that is away
	b.run(0, "restore", "acme/dump@v2", "--to", b.path("out"))
	sameBytes(t, b.path("out"), data)
}
