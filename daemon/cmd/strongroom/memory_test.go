package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// peak is the largest resident set a process had, in bytes (getrusage(2)).
func peak(s *os.ProcessState) int64 {
	if u, ok := s.SysUsage().(*syscall.Rusage); ok {
		return u.Maxrss * 1024
	}
	return 0
}

const memoryLimit = 400 << 20

// Peak memory of backup and restore stays below the limit and does not grow
// with the stream. STRONGROOM_FAULTS=1 adds 2 GB and 10 GB.
func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	sizes := []int64{300e6}
	if os.Getenv("STRONGROOM_FAULTS") != "" {
		sizes = append(sizes, 2e9, 10e9)
	}
	var backups, restores []int64
	for _, size := range sizes {
		backup, restore := measure(t, size)
		t.Logf("%6.1f GB: backup %d MiB, restore %d MiB", float64(size)/1e9, backup>>20, restore>>20)
		backups, restores = append(backups, backup), append(restores, restore)
		if backup > memoryLimit || restore > memoryLimit {
			t.Errorf("%d bytes: backup took %d MiB, restore %d MiB, the limit is %d MiB", size, backup>>20, restore>>20, memoryLimit>>20)
		}
	}
	for _, kind := range [][]int64{backups, restores} {
		// The first stream is too short for the collector to reach its limit.
		if last := kind[len(kind)-1]; last > kind[0]+96<<20 {
			t.Errorf("peak memory grew from %d to %d MiB", kind[0]>>20, last>>20)
		}
	}
}

func measure(t *testing.T, size int64) (backup, restore int64) {
	t.Helper()
	stores, paths := threeDirs(t)
	defer func() {
		for _, p := range paths {
			os.RemoveAll(p)
		}
	}()
	b := newBox(t, stores, commandDataset("big", program(t, "generate"), fmt.Sprint(size)))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	backup = b.run(0, "backup", "acme/big").maxRSS
	check := exec.Command("sha256sum")
	want, err := exec.Command("sh", "-c", fmt.Sprintf("%s %d | sha256sum", program(t, "generate"), size)).Output()
	if err != nil {
		t.Fatal(err)
	}
	out, err := check.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	got, err := check.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := b.command("restore", "acme/big", "--to", "-")
	cmd.Stdout = out.(*os.File)
	restore = b.end(0, cmd).maxRSS
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	sum := make([]byte, 64)
	if _, err := got.Read(sum); err != nil || string(sum) != string(want[:64]) {
		t.Errorf("restored %s, want %s (%v)", sum, want[:64], err)
	}
	if err := check.Wait(); err != nil {
		t.Error(err)
	}
	return backup, restore
}
