package storetest_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

func newFaulty(t *testing.T) *storetest.Faulty {
	t.Helper()
	s, err := dir.Open(dir.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return storetest.NewFaulty(s)
}

func TestAFaultyStoreWithoutFaultsKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return newFaulty(t) })
}

func TestFaultsHappenAsTold(t *testing.T) {
	f := newFaulty(t)
	body := storetest.Body(1, 1000)
	put := func(key string) error { return storetest.Put(f, key, body) }
	exists := func(key string) bool {
		_, err := f.Stat(t.Context(), key)
		return err == nil
	}
	on := func(op storetest.Op, how storetest.How) {
		f.Inject(func(o storetest.Op, _ string) storetest.Mishap {
			if o == op {
				return storetest.Mishap{How: how}
			}
			return storetest.Mishap{}
		})
	}
	on(storetest.OpPut, storetest.Fail)
	if err := put("fail"); !errors.Is(err, store.ErrUnavailable) || exists("fail") {
		t.Errorf("fail: %v, exists is %v", err, exists("fail"))
	}
	on(storetest.OpPut, storetest.FailAfter)
	if err := put("after"); !errors.Is(err, store.ErrUnavailable) || !exists("after") {
		t.Errorf("fail after: %v, exists is %v", err, exists("after"))
	}
	on(storetest.OpPut, storetest.Lie)
	if err := put("lie"); err != nil || exists("lie") {
		t.Errorf("lie: %v, exists is %v", err, exists("lie"))
	}
	f.Full()
	if err := put("full"); !errors.Is(err, store.ErrFull) || exists("full") {
		t.Errorf("full: %v", err)
	}
	f.ReadOnly()
	if err := put("ro"); !errors.Is(err, store.ErrReadOnly) || !exists("after") {
		t.Errorf("read-only: %v", err)
	}
	f.Inject(storetest.Nth(storetest.OpPut, 2, storetest.Mishap{How: storetest.Fail, Err: store.ErrDenied}))
	if a, b, c := put("1"), put("2"), put("3"); a != nil || !errors.Is(b, store.ErrDenied) || c != nil {
		t.Errorf("second of three: %v, %v, %v", a, b, c)
	}
	f.Up()
	if n := f.Calls(storetest.OpPut); n != 8 {
		t.Errorf("counted %d puts, want 8", n)
	}
	for how, check := range map[storetest.How]func(got []byte, err error) bool{
		storetest.Flip:      func(got []byte, err error) bool { return err == nil && len(got) == 1000 && !bytes.Equal(got, body) },
		storetest.Truncate:  func(got []byte, err error) bool { return err == nil && bytes.Equal(got, body[:500]) },
		storetest.FailAfter: func(got []byte, err error) bool { return errors.Is(err, store.ErrUnavailable) && len(got) == 500 },
		storetest.Fail:      func(got []byte, err error) bool { return errors.Is(err, store.ErrUnavailable) && got == nil },
	} {
		on(storetest.OpGet, how)
		if got, err := storetest.Get(f, "after", 0, -1); !check(got, err) {
			t.Errorf("get with %v: %d bytes, %v", how, len(got), err)
		}
	}
	f.Inject(func(op storetest.Op, key string) storetest.Mishap {
		switch {
		case op == storetest.OpList && key == "2":
			return storetest.Mishap{How: storetest.Fail}
		case op == storetest.OpList && key == "3":
			return storetest.Mishap{How: storetest.Lie}
		case op == storetest.OpList && key == "a":
			return storetest.Mishap{How: storetest.FailAfter}
		}
		return storetest.Mishap{}
	})
	if list, err := storetest.List(f, ""); err != nil || len(list) != 2 { // "1" and "after"
		t.Errorf("list with a hidden key: %v, %v", list, err)
	}
	if list, err := storetest.List(f, "a"); !errors.Is(err, store.ErrUnavailable) || len(list) != 1 {
		t.Errorf("list that fails at the end: %v, %v", list, err)
	}
	f.Down()
	if _, err := storetest.List(f, ""); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("list while down: %v", err)
	}
}

func TestGatewayKeepsObjectsOverARestartAndTheSecretToItself(t *testing.T) {
	began := time.Now()
	g := storetest.StartGateway(t)
	t.Logf("started in %s", time.Since(began))
	s, err := s3.Open(g.CreateBucket(t, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := storetest.Put(s, "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	lines := processesWith(t, g.Backend)
	if len(lines) != 1 || strings.Contains(lines[0], g.SecretKey) {
		t.Errorf("command lines of the server: %q", lines)
	} else {
		t.Logf("command line: %s", lines[0])
	}
	g.Stop()
	if lines := processesWith(t, g.Backend); len(lines) != 0 {
		t.Errorf("after Stop there is still %q", lines)
	}
	g.Start(t)
	if got, err := storetest.Get(s, "k", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("after a restart: %q, %v", got, err)
	}
}

// processesWith returns the command lines that contain part.
func processesWith(t *testing.T, part string) (lines []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if line := strings.ReplaceAll(string(raw), "\x00", " "); err == nil && strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return slices.Clip(lines)
}

// The test binary starts itself as one that will be killed.
func TestGatewayDiesWithTheTestBinary(t *testing.T) {
	marker := os.Getenv("STRONGROOM_TEST_GATEWAY_BACKEND")
	if marker != "" {
		storetest.StartGatewayWith(t, storetest.GatewayOptions{Backend: marker})
		os.WriteFile(filepath.Join(filepath.Dir(marker), "ready"), nil, 0o600)
		select {}
	}
	marker = filepath.Join(t.TempDir(), "backend")
	if err := os.Mkdir(marker, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestGatewayDiesWithTheTestBinary$")
	// A directory of its own in there: the killed one cannot clean up.
	cmd.Env = append(os.Environ(), "STRONGROOM_TEST_GATEWAY_BACKEND="+marker, "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := filepath.Join(filepath.Dir(marker), "ready")
	await(t, "the server runs", func() bool { _, err := os.Stat(ready); return err == nil })
	if len(processesWith(t, marker)) == 0 {
		t.Fatal("no server runs")
	}
	cmd.Process.Kill()
	cmd.Wait()
	await(t, "the server is gone", func() bool { return len(processesWith(t, marker)) == 0 })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}
