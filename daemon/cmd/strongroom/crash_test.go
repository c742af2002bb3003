package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// seeded is a box whose one dataset is what generate makes of the seed that
// stands in a file.
func seeded(t *testing.T, size int64) (b *testBox, setSeed func(int)) {
	t.Helper()
	stores, _ := threeDirs(t)
	return seededOn(t, stores, size)
}

func seededOn(t *testing.T, stores string, size int64) (b *testBox, setSeed func(int)) {
	t.Helper()
	seed := filepath.Join(t.TempDir(), "seed")
	b = newBox(t, stores, commandDataset("dump", "/bin/sh", "-c", fmt.Sprintf("exec %s %d $(cat %s)", program(t, "generate"), size, seed)))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	return b, func(n int) {
		if err := os.WriteFile(seed, []byte(strconv.Itoa(n)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// restoresTo checks that the snapshot with label v<seed> is whole.
func (b *testBox) restoresTo(size int64, seed int) {
	b.t.Helper()
	want, got := sha256.New(), sha256.New()
	if err := generate(want, size, uint64(seed), 0); err != nil {
		b.t.Fatal(err)
	}
	cmd := b.command("restore", fmt.Sprintf("acme/dump@v%d", seed), "--to", "-")
	cmd.Stdout = got
	b.end(0, cmd)
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		b.t.Fatalf("snapshot v%d restores to other bytes", seed)
	}
}

// labels are those of the snapshots that are listed.
func (b *testBox) labels() (out map[int]bool) {
	b.t.Helper()
	// Exit code 3 is allowed: a manifest may be on some stores so far.
	o, err := b.try(b.command("snapshots", "--json"))
	if err != nil || o.code != 0 && o.code != 3 {
		b.t.Fatalf("snapshots: code %d, %v\n%s", o.code, err, o.stdout)
	}
	var list struct {
		Items []struct{ Catalogue struct{ Label string } }
	}
	for line := range strings.Lines(o.stdout) {
		if strings.Contains(line, `"type":"result"`) {
			if err := json.Unmarshal([]byte(line), &list); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	out = map[int]bool{}
	for _, i := range list.Items {
		n, err := strconv.Atoi(strings.TrimPrefix(i.Catalogue.Label, "v"))
		if err != nil {
			b.t.Fatal(err)
		}
		out[n] = true
	}
	return out
}

// A process that is killed at any moment loses nothing that was there, lists
// nothing that is not whole, and the next run goes on. STRONGROOM_FAULTS=1
// kills some hundred; STRONGROOM_SEED repeats a run.
func TestKilledBackupsLoseNothing(t *testing.T) {
	const size = 4_000_000
	rounds := 20
	if os.Getenv("STRONGROOM_FAULTS") != "" {
		rounds = 300
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("STRONGROOM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("STRONGROOM_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))

	b, setSeed := seeded(t, size)
	setSeed(0)
	began := time.Now()
	b.run(0, "backup", "acme/dump", "--label", "v0")
	whole := time.Since(began)
	must := map[int]bool{0: true} // committed by a run that said so, or listed once
	killed, committed := 0, 0
	for i := 1; i <= rounds; i++ {
		setSeed(i)
		cmd := b.command("backup", "acme/dump", "--label", fmt.Sprintf("v%d", i))
		after := time.Duration(r.Int64N(int64(whole * 11 / 10)))
		died, err := killAfter(cmd, after)
		if err != nil {
			t.Fatal(err)
		}
		if died {
			killed++
		} else {
			must[i] = true
		}
		now := b.labels()
		for n := range must {
			if !now[n] {
				t.Fatalf("round %d, killed after %v: snapshot v%d is not listed any more", i, after, n)
			}
		}
		if now[i] {
			must[i] = true
			if died {
				committed++
			}
			b.restoresTo(size, i)
		}
		// Not every time, so that several deaths follow one another too.
		if r.IntN(3) > 0 || i == rounds {
			again := 1_000_000 + i
			setSeed(again)
			b.run(0, "backup", "acme/dump", "--label", fmt.Sprintf("v%d", again))
			must[again] = true
			b.restoresTo(size, again)
		}
	}
	for n := range b.labels() {
		b.restoresTo(size, n)
	}
	b.run(0, "check", "--read-data")
	t.Logf("%d of %d runs were killed, %d of them after their commit; %d snapshots restore", killed, rounds, committed, len(b.labels()))
	if killed == 0 {
		t.Error("no run was killed")
	}
}

// killAfter starts a command and kills it, unless it ends before.
func killAfter(cmd *exec.Cmd, after time.Duration) (died bool, err error) {
	if err := cmd.Start(); err != nil {
		return false, err
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	if err == nil {
		return false, nil
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return true, nil
	}
	return false, err
}

// Init that is killed at any moment is simply run again.
func TestKilledInitIsRunAgain(t *testing.T) {
	rounds := 15
	if os.Getenv("STRONGROOM_FAULTS") != "" {
		rounds = 200
	}
	dir := t.TempDir()
	public := filepath.Join(dir, "r.pub")
	station := exec.Command(program(t, "strongroom"), "station", "keys", "init", "--out", filepath.Join(dir, "shares"), "--public", public, "--shares-on-networked-host")
	if out, err := station.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fresh := func() *testBox {
		stores, _ := threeDirs(t)
		return newBox(t, stores, commandDataset("dump", "/bin/echo", "hello"))
	}
	began := time.Now()
	fresh().run(0, "init", "--recovery-public", public)
	whole := time.Since(began)
	killed := 0
	for i := range rounds {
		b := fresh()
		after := whole * time.Duration(i+1) / time.Duration(rounds+1)
		died, err := killAfter(b.command("init", "--recovery-public", public), after)
		if err != nil {
			t.Fatal(err)
		}
		if died {
			killed++
		}
		b.run(0, "init", "--recovery-public", public)
		b.run(0, "backup", "acme/dump")
		b.run(0, "check", "--read-data")
		if left := b.glob("*.new"); len(left) > 0 {
			t.Errorf("killed after %v: %v is left", after, left)
		}
	}
	if killed == 0 {
		t.Error("no run was killed")
	}
	t.Logf("%d of %d runs were killed", killed, rounds)
}

// slow is a box with a dataset that takes some seconds and one that does not.
func slow(t *testing.T) (*testBox, []string) {
	t.Helper()
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("slow", program(t, "generate"), "400000000", "1", "3ms")+commandDataset("quick", "/bin/echo", "hello"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/quick")
	return b, paths
}

func TestSecondWriterIsTurnedAwayAndReadersAreNot(t *testing.T) {
	b, _ := slow(t)
	first := b.command("backup", "acme/slow")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		first.Process.Kill()
		first.Wait()
	}()
	until(t, "the first writer's journal", func() bool { return len(b.glob("datasets", "*", "*", "journal")) == 1 })
	if o := b.run(11, "backup", "acme/slow"); !strings.Contains(o.stderr, "another process is writing this dataset") {
		t.Error(o.stderr)
	}
	b.run(0, "snapshots")
	b.run(0, "check")
	b.run(0, "restore", "acme/quick", "--to", b.path("out"))
	b.run(0, "backup", "acme/quick")
	b.run(0, "init")
}

func (b *testBox) glob(elem ...string) []string {
	found, err := filepath.Glob(filepath.Join(append([]string{b.path("state")}, elem...)...))
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

func TestInterruptedBackupEndsCleanly(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		b, paths := slow(t)
		cmd := b.command("backup", "acme/slow")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		// What a person's Ctrl-C hits is the whole process group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "a pack", func() bool { return countShards(paths[0]) > 2 })
		if err := syscall.Kill(-cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("%v: exit code %d: %s", sig, code, stderr.String())
		}
		if stderr.String() != "strongroom: interrupted\n" {
			t.Errorf("%v: said %q", sig, stderr.String())
		}
		if left := running(t, "400000000"); len(left) > 0 {
			t.Errorf("%v: still running: %v", sig, left)
		}
		for _, dir := range append(paths, b.path("state")) {
			for name := range must(tree(dir))(t) {
				if strings.Contains(name, ".tmp/") || strings.HasPrefix(name, "scratch/") {
					t.Errorf("%v: left %s in %s", sig, name, dir)
				}
			}
		}
		if o := b.run(0, "snapshots"); strings.Contains(o.stdout, "acme/slow") {
			t.Errorf("%v: listed:\n%s", sig, o.stdout)
		}
		b.run(0, "check")
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// running lists the processes with that argument.
func running(t *testing.T, arg string) (out []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it ended
		}
		argv := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		for _, a := range argv[1:] {
			if a == arg {
				out = append(out, strings.Join(argv, " "))
			}
		}
	}
	return out
}

func TestInterruptedRestoreLeavesNothing(t *testing.T) {
	b, setSeed := seeded(t, 80_000_000)
	setSeed(1)
	b.run(0, "backup", "acme/dump")
	target := b.path("target")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := b.command("restore", "acme/dump", "--to", filepath.Join(target, "out"))
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the first bytes", func() bool {
		names, err := os.ReadDir(target)
		return err == nil && len(names) > 0
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d", code)
	}
	if names, err := os.ReadDir(target); err != nil || len(names) > 0 {
		t.Errorf("left %v (%v)", names, err)
	}
}
