package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// measuredMain is a program: measured FILE PROGRAM ARGS… runs a program and
// writes the largest resident set that it had to FILE, in MiB (getrusage(2)).
// Linux counts the memory of whom a program was forked from into it, and the
// process of the tests is larger than what they measure.
func measuredMain() {
	c := exec.Command(os.Args[2], os.Args[3:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	if c.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	u := c.ProcessState.SysUsage().(*syscall.Rusage)
	if err := os.WriteFile(os.Args[1], fmt.Append(nil, u.Maxrss>>10), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(c.ProcessState.ExitCode())
}

// measured runs strongroom, which must end well, and returns its peak in MiB.
func (b *testBox) measured(stdout *os.File, args ...string) (mib int64) {
	b.t.Helper()
	cmd := b.command(args...)
	cmd.Args = append([]string{"measured", b.path("peak"), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = program(b.t, "measured")
	if stdout != nil {
		cmd.Stdout = stdout
	}
	b.end(0, cmd)
	text, err := os.ReadFile(b.path("peak"))
	if err != nil {
		b.t.Fatal(err)
	}
	if mib, err = strconv.ParseInt(string(text), 10, 64); err != nil {
		b.t.Fatal(err)
	}
	return mib
}

const memoryLimit = 400 // MiB

// Peak memory of backup and restore stays below the limit and does not grow
// with the stream. In the later week a third is as it was and the rest is new,
// so that matching and full packs are in memory at once, as they are in a large
// database of which little changes. STRONGROOM_FAULTS=1 adds 2 GB and 10 GB.
func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	sizes := []int64{300e6}
	if os.Getenv("STRONGROOM_FAULTS") != "" {
		sizes = append(sizes, 2e9, 10e9)
	}
	var peaks []peaks3
	for _, size := range sizes {
		p := measure(t, size)
		t.Logf("%6.1f GB: first backup %d MiB, later week %d MiB, restore %d MiB", float64(size)/1e9, p[0], p[1], p[2])
		peaks = append(peaks, p)
	}
	for i, what := range []string{"first backup", "later week", "restore"} {
		for _, p := range peaks {
			if p[i] > memoryLimit {
				t.Errorf("%s: %d MiB, the limit is %d", what, p[i], memoryLimit)
			}
		}
		// 300 MB are too few for every buffer to have been full at once.
		if first, last := peaks[0][i], peaks[len(peaks)-1][i]; last > first+48 {
			t.Errorf("%s: peak memory grew from %d to %d MiB", what, first, last)
		}
	}
}

// peaks3 are those of a first backup, of one a week later, and of a restore of
// that, in MiB.
type peaks3 [3]int64

func measure(t *testing.T, size int64) (p peaks3) {
	t.Helper()
	stores, paths := threeDirs(t)
	defer func() {
		for _, p := range paths {
			os.RemoveAll(p)
		}
	}()
	generate := fmt.Sprintf("exec %s %d $(cat %s)", program(t, "generate"), size, filepath.Join(paths[0], "../week"))
	b := newBox(t, stores, commandDataset("big", "/bin/sh", "-c", generate))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for week := range 2 {
		if err := os.WriteFile(filepath.Join(paths[0], "../week"), fmt.Append(nil, week), 0o600); err != nil {
			t.Fatal(err)
		}
		p[week] = b.measured(nil, "backup", "acme/big")
	}
	sum := exec.Command("sha256sum")
	want, err := exec.Command("sh", "-c", generate+" | sha256sum").Output()
	if err != nil {
		t.Fatal(err)
	}
	in, err := sum.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	sum.Stdout = &got
	if err := sum.Start(); err != nil {
		t.Fatal(err)
	}
	p[2] = b.measured(in.(*os.File), "restore", "acme/big", "--to", "-")
	if err := errors.Join(in.Close(), sum.Wait()); err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("restored %s, want %s", got.String(), want)
	}
	return p
}
