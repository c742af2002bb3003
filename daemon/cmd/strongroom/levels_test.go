package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"strongroom/repo/store/storetest"
)

// onDisk moves a directory of the house to the disk, and leaves so much room
// there. The function it returns gives the room back.
func (h house) onDisk(disk, name string, room int64) (free func()) {
	h.t.Helper()
	if out, err := exec.Command("mv", h.path(name), disk).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	h.editConfig(fmt.Sprintf("%q", h.path(name)), fmt.Sprintf("%q", filepath.Join(disk, name)))
	h.t.Cleanup(func() { os.RemoveAll(filepath.Join(disk, name)) })
	ballast := must(os.Create(filepath.Join(disk, "ballast")))(h.t)
	defer ballast.Close()
	h.t.Cleanup(func() { os.Remove(ballast.Name()) })
	unix.Syncfs(int(ballast.Fd())) // what was removed before is free only then
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err != nil {
		h.t.Fatal(err)
	}
	n := int64(fs.Bavail)*fs.Bsize - room
	err := unix.Fallocate(int(ballast.Fd()), 0, 0, n)
	if err != nil && room < 1<<20 { // its own extents have to lie somewhere
		err = unix.Fallocate(int(ballast.Fd()), 0, 0, n-64<<10)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(ballast.Name()); err != nil {
			h.t.Fatal(err)
		}
	}
}

// blocks is what a tree occupies.
func blocks(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A filling is a disk that gets full during a backup.
type filling struct {
	name string // the directory on it
	away string // a store that is away
	need float64
}

// The disk of a store gets full in the middle of a backup, at any point of it, or
// that of the state directory, which may have to keep what is for a store that is
// away: all that was committed restores, also while it is full, a backup that
// ends well is one, and when there is room the same backup again brings
// everything up to date.
func TestDiskFullAtAnyLevel(t *testing.T) {
	disk, _ := diskIn(t, fastDir(t), 32)
	start := newHouse(t, 6_000_000)
	// Whose cache would make room, see TestBaseCacheMakesRoomForTheSpool.
	start.editConfig("[tenant.dataset.keep]", "base_cache = \"0\"\n[tenant.dataset.keep]")
	start.weeks(2)
	start.becomes("v3")
	s := struck{verb: verbs[1], start: start} // v3 after v1 and v2
	fillings := []filling{{name: "two"}, {name: "state"}, {name: "state", away: "three"}}
	for i, f := range fillings {
		h := start.fork(t)
		code := 0
		if f.away != "" {
			h.away(f.away, true)
			code = 3
		}
		h.run(code, s.args...)
		n := blocks(t, h.path(f.name))
		if f.name != "state" { // where the new map lies beside the old one for a while
			n -= blocks(t, start.path(f.name))
		}
		fillings[i].need = float64(n)
	}
	ends := map[string]int{}
	storetest.CountRuns(t, "disk full at fill levels of a loop-mounted ext4").Seeds(8, 32, func(t *testing.T, seed uint64) {
		// Any number of seeds is spread over all levels, and beyond: a run needs
		// more than what it leaves.
		_, level := math.Modf(float64(seed) * math.Phi)
		for _, f := range fillings {
			o := f.run(t, s, disk, level*1.25)
			ends[fmt.Sprintf("%s, away %q: %d", f.name, f.away, o.code)]++
		}
	})
	t.Logf("how the runs ended: %v", ends)
}

func (f filling) run(t *testing.T, s struck, disk string, level float64) outcome {
	h := s.start.fork(t)
	free := h.onDisk(disk, f.name, int64(level*f.need))
	if f.away != "" {
		h.away(f.away, true)
	}
	o, err := h.try(h.command(s.args...))
	if err != nil {
		t.Fatal(err)
	}
	when := fmt.Sprintf("%s with room for %.0f %% of %.0f bytes, away is %q (it ended with %d)", f.name, level*100, f.need, f.away, o.code)
	if err := keepsPromises("strongroom", s.args, o.code, o.stdout, o.stderr); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	keeps := s.keeps
	switch said := o.stdout + o.stderr; {
	case o.code == 0, o.code == 3 && (f.away != "" || strings.Contains(said, "store is full")):
		keeps = []string{"v1", "v2", "v3"}
	case o.code == 21 && f.name == "state" && strings.Contains(said, "no room in the state directory"):
	default:
		t.Errorf("%s: it says %s", when, said)
	}
	if all := h.mustHold(when, keeps...); len(all) > len(keeps) && !toldOf(o) {
		t.Errorf("%s: it failed and the snapshot is listed: %s", when, o.stderr)
	}
	free()
	if f.away != "" {
		h.away(f.away, false)
	}
	s.converges(h, when)
	for _, dir := range []string{disk, h.dir} {
		if left := must(filepath.Glob(filepath.Join(dir, f.name, ".tmp", "*")))(t); len(left) > 0 {
			t.Errorf("%s: left are %v", when, left)
		}
	}
	if err := os.RemoveAll(filepath.Join(disk, f.name)); err != nil {
		t.Fatal(err)
	}
	return o
}
