package sandbox

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/daemon/drill/sandbox/sandboxtest"
)

func unitOf(t *testing.T) string { t.Helper(); return sandboxtest.Unit(t, Program) }

func fromSystemd(t *testing.T) *Box {
	t.Helper()
	b, err := Start(t.Context(), Config{Memory: 256 << 20, Disk: 64 << 20, Processes: 64, Unit: unitOf(t), Hidden: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAUnitMakesTheSameSandbox(t *testing.T) {
	b := fromSystemd(t)
	if b.Kind() != "systemd" {
		t.Error(b.Kind())
	}
	walls, err := b.Probe(t.Context())
	if err != nil || len(Missing(walls, swapIsKnown)) > 0 {
		t.Errorf("%v: %q", err, Missing(walls, swapIsKnown))
	}
	var out bytes.Buffer
	if err := b.Run(t.Context(), Cmd{Argv: []string{"/bin/cat"}, Stdin: strings.NewReader("through the connection"), Stdout: &out}); err != nil || out.String() != "through the connection" {
		t.Errorf("%q, %v", &out, err)
	}
	p, err := b.Start(Cmd{Argv: []string{"/bin/sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := b.Close()
	if err != nil || !strings.Contains(gone, "reaped") || b.Alive() {
		t.Errorf("%q, %v", gone, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("a process outlives it: %v", err)
	}
}

// A connection to a socket inside is led in, and both ends see the other's end.
func TestADoorLeadsIn(t *testing.T) {
	b := fromSystemd(t)
	defer b.Close()
	path, err := b.Door(Scratch + "/run/echo")
	if err != nil {
		t.Fatal(err)
	}
	// Nobody listens yet.
	if c, err := net.Dial("unix", path); err != nil {
		t.Fatal(err)
	} else if rest, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
	server, err := b.Start(Cmd{Argv: []string{Self, "echo", Scratch + "/run/echo"}})
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var got []byte
	for deadline := time.Now().Add(10 * time.Second); len(got) == 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() { c.Write(sent); c.(*net.UnixConn).CloseWrite() }()
		got, _ = io.ReadAll(c)
		c.Close()
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back of %d", len(got), len(sent))
	}
	_ = server.Signal(syscall.SIGKILL)
	_ = server.Wait(t.Context())
	b.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the door is there still: %v", err)
	}
}

func TestNoUnitNoSandbox(t *testing.T) {
	_, err := Start(t.Context(), Config{Memory: 256 << 20, Disk: 64 << 20, Processes: 64, Unit: filepath.Join(t.TempDir(), "none")})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
