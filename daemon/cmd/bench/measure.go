package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A cost is what a program took, with the children that it waited for.
type cost struct {
	Wall, CPU time.Duration
	RSS       int64 // bytes, of the largest process
}

func (c cost) plus(d cost) cost { return cost{c.Wall + d.Wall, c.CPU + d.CPU, max(c.RSS, d.RSS)} }

// middle is the median of walls, of CPU times, and the largest memory.
func middle(costs []cost) cost {
	var walls, cpus []time.Duration
	var out cost
	for _, c := range costs {
		walls, cpus = append(walls, c.Wall), append(cpus, c.CPU)
		out.RSS = max(out.RSS, c.RSS)
	}
	out.Wall, out.CPU = median(walls), median(cpus)
	return out
}

// median of an even number is the mean of the two in the middle.
func median[T time.Duration | float64](v []T) T {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// A program is one command to run and measure.
type program struct {
	name   string
	args   []string
	env    []string // added to a small one
	dir    string
	stdout io.Writer // nil: returned
}

// run runs the program to its end. It is started by another process of ours,
// not by this one: Linux counts the memory of whom a program was forked from
// into the program's peak, and this process grows with the data it makes.
func (p program) run(ctx context.Context) (cost, []byte, error) {
	self, err := os.Executable()
	if err != nil {
		return cost{}, nil, err
	}
	c := exec.CommandContext(ctx, self, append([]string{measuredFlag, p.name}, p.args...)...)
	c.Dir, c.Env = p.dir, append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}, p.env...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 20 * time.Second
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if p.stdout != nil {
		c.Stdout = p.stdout
	}
	r, w, err := os.Pipe()
	if err != nil {
		return cost{}, nil, err
	}
	defer r.Close()
	c.ExtraFiles = []*os.File{w}
	err = c.Run()
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return cost{}, nil, fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(p.name), strings.Join(p.args, " "), err, tail(stdout.Bytes()), tail(stderr.Bytes()))
	}
	var took cost
	if err := json.NewDecoder(r).Decode(&took); err != nil {
		return cost{}, nil, fmt.Errorf("%s: its cost: %w", p.name, err)
	}
	return took, stdout.Bytes(), nil
}

// tail is the end of what a program said.
func tail(b []byte) []byte { return b[max(0, len(b)-4000):] }

// measuredFlag makes this program the one that starts another and writes what
// it took, as JSON, to descriptor 3.
const measuredFlag = "-measured"

func measured(args []string) error {
	runtime.LockOSThread() // Pdeathsig follows the thread that forked
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out := os.NewFile(3, "cost")
	syscall.CloseOnExec(3)
	start := time.Now()
	err := c.Run()
	wall := time.Since(start)
	if err != nil {
		return err
	}
	u := c.ProcessState.SysUsage().(*syscall.Rusage)
	return errors.Join(json.NewEncoder(out).Encode(cost{wall, c.ProcessState.UserTime() + c.ProcessState.SystemTime(), u.Maxrss << 10}), out.Close())
}
