package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "owner" {
		owner()
	}
	if filepath.Base(os.Args[0]) == Program {
		os.Exit(Inside(os.Args[1:], map[string]func([]string) error{"hang": func([]string) error { time.Sleep(time.Hour); return nil }, "echo": echo}))
	}
	os.Exit(m.Run())
}

func newBox(t *testing.T, change func(*Config)) *Box {
	t.Helper()
	cfg := Config{Memory: 256 << 20, Disk: 16 << 20, Processes: 64}
	if change != nil {
		change(&cfg)
	}
	b, err := Start(t.Context(), cfg)
	if errors.Is(err, ErrUnavailable) && os.Geteuid() != 0 {
		t.Skipf("this machine allows no namespaces to a user (%v): the sandbox and its walls were not seen", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func sh(t *testing.T, b *Box, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := b.Run(t.Context(), Cmd{Argv: []string{"/bin/sh", "-c", "exec 2>&1\n" + script}, Stdout: &out, Foreign: true})
	return out.String(), err
}

func TestEveryWallHolds(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, func(c *Config) { c.Hidden = []string{secret} })
	walls, err := b.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range walls {
		t.Logf("%-22s %-45s %s", w.Name, w.Tried, w.Got)
	}
	if m := Missing(walls, swapIsKnown); m != nil {
		t.Errorf("missing: %q", m)
	}
}

// A probe that would say so of any machine proves nothing: without walls it
// finds none.
func TestProbeSeesThatThereAreNoWalls(t *testing.T) {
	l := fmt.Sprintf(`{"address":"127.0.0.1:0","abstract":"@x","process":%d,"group":%d,"hidden":[%q],"memory":%d,"disk":1,"file":1,"limit":7}`,
		os.Getpid(), unix.Getpgrp(), os.Args[0], 64<<20)
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{Program, "probe", l}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"outside files", "other processes", "memory", "processes", "environment"} {
		if !strings.Contains(string(out), fmt.Sprintf(`{"name":%q`, name)) {
			t.Errorf("no %s in %s", name, out)
		}
		_, rest, _ := strings.Cut(string(out), fmt.Sprintf(`{"name":%q`, name))
		entry, _, _ := strings.Cut(rest, "}")
		if !strings.Contains(entry, `"holds":false`) {
			t.Errorf("%s holds where there is no wall: %s", name, entry)
		}
	}
}

func TestProgramsRunWithNothingOfOurs(t *testing.T) {
	t.Setenv("STRONGROOM_SECRET", "planted")
	b := newBox(t, nil)
	out, err := sh(t, b, "id -u; pwd; /usr/bin/env; ls -a /; echo hello > f && cat f")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.HasPrefix(out, fmt.Sprintf("%d\n/scratch\n", InsideID)) || strings.Contains(out, "planted") || !strings.HasSuffix(out, "hello\n") {
		t.Errorf("%s", out)
	}
	for _, dir := range []string{"home", "root", "var", "tmp/", "proc", "sys", "opt"} {
		if strings.Contains(out, "\n"+dir+"\n") {
			t.Errorf("/%s is there", dir)
		}
	}
}

func TestFailuresAreTold(t *testing.T) {
	b := newBox(t, func(c *Config) { c.Memory = 4 << 30 }) // the race detector wants much
	var e *ExitError
	if _, err := sh(t, b, "exit 7"); !errors.As(err, &e) || e.Code != 7 {
		t.Error(err)
	}
	if _, err := sh(t, b, "kill -9 $$"); !errors.As(err, &e) || e.Signal != syscall.SIGKILL {
		t.Error(err)
	}
	if err := b.Run(t.Context(), Cmd{Argv: []string{"/bin/nothing"}}); !errors.As(err, &e) {
		t.Error(err)
	}
	if out, err := sh(t, b, "head -c 12000000 /dev/zero > a && head -c 12000000 /dev/zero > b"); err == nil || !strings.Contains(out, "No space") {
		t.Errorf("more than scratch holds: %v %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := b.Run(ctx, Cmd{Argv: []string{Self, "hang"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// What is started inside ends with the sandbox, also what has left its session,
// and whether it is closed or its owner dies.
func TestNothingOutlivesTheSandbox(t *testing.T) {
	b := newBox(t, nil)
	if out, err := sh(t, b, "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo started"); err != nil || out != "started\n" {
		t.Fatalf("%v %s", err, out)
	}
	pid := b.cmd.Process.Pid
	if n := inNamespaceOf(t, pid); n < 2 {
		t.Fatalf("%d processes inside", n)
	}
	ns := namespaceOf(t, pid)
	gone, err := b.Close()
	if err != nil || gone == "" {
		t.Fatal(gone, err)
	}
	if n := inNamespace(t, ns); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if err := b.Run(t.Context(), Cmd{Argv: []string{"/bin/true"}}); err == nil {
		t.Error("a closed sandbox runs programs")
	}
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func inNamespaceOf(t *testing.T, pid int) int { return inNamespace(t, namespaceOf(t, pid)) }

func inNamespace(t *testing.T, ns string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if got, err := os.Readlink(p); err == nil && got == ns {
			n++
		}
	}
	return n
}

func TestPathsThatAreShownCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("seen"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, func(c *Config) { c.ReadOnly = []string{dir} })
	out, err := sh(t, b, fmt.Sprintf("cat %s/f; echo x > %s/f", dir, dir))
	if err == nil || !strings.Contains(out, "seen") || !strings.Contains(out, "Read-only") {
		t.Errorf("%v %s", err, out)
	}
}

// owner holds a sandbox with a process in it until it is killed.
func owner() {
	b, err := Start(context.Background(), Config{Memory: 256 << 20, Disk: 16 << 20, Processes: 64})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if _, err := b.Start(Cmd{Argv: []string{"/bin/sleep", "1000"}}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", b.cmd.Process.Pid))
	fmt.Println(ns, err)
	time.Sleep(time.Hour)
}

// A daemon that is killed leaves no copy of a client's database behind.
func TestSandboxDiesWithItsOwner(t *testing.T) {
	newBox(t, nil) // or skip
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"owner"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ns, rest string
	if _, err := fmt.Fscan(out, &ns, &rest); err != nil || rest != "<nil>" {
		t.Fatalf("%q %q %v", ns, rest, err)
	}
	if inNamespace(t, ns) == 0 {
		t.Error("nothing runs inside")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for deadline := time.Now().Add(20 * time.Second); inNamespace(t, ns) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes outlived the owner", inNamespace(t, ns))
		}
	}
}

// echo sends back what comes, on a socket.
func echo(args []string) error {
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
}

// The limits of a program are not those of what starts it, which is ours and has
// more address space than some programs may: it could die of them.
func TestProgramsStartWithLittleMemory(t *testing.T) {
	b := newBox(t, func(c *Config) { c.Memory = 64 << 20 })
	var failed sync.Map
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				var said, errs bytes.Buffer
				argv := append([]string{"/bin/sh", "-c", "ulimit -v; ulimit -d"}, strings.Fields(strings.Repeat("argument ", 2000))...)
				if err := b.Run(t.Context(), Cmd{Argv: argv, Stdout: &said, Stderr: &errs, Foreign: true}); err != nil {
					failed.Store(fmt.Sprintf("%v: %.200s", err, &errs), true)
				} else if !strings.Contains(said.String(), fmt.Sprint(96<<10)) || !strings.Contains(said.String(), fmt.Sprint(64<<10)) {
					failed.Store("limits: "+said.String(), true)
				}
			}
		})
	}
	wg.Wait()
	failed.Range(func(why, _ any) bool { t.Error(why); return true })
	var said bytes.Buffer
	if err := b.Run(t.Context(), Cmd{Argv: []string{"/bin/nonesuch"}, Stderr: &said, Foreign: true}); err == nil || !strings.Contains(said.String(), "no such file") {
		t.Errorf("a program that is not there: %v, %s", err, &said)
	}
}
