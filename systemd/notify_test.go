package systemd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestNotifySendsLinesToTheManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Notify("READY=1", "STATUS=planning"); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "READY=1\nSTATUS=planning\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "relative")
	if err := Notify("READY=1"); err == nil {
		t.Error("a relative address is taken")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("without a manager: %v", err)
	}
}

func TestWatchdogIsForThisProcess(t *testing.T) {
	for _, tc := range []struct {
		pid, usec string
		want      time.Duration
	}{
		{"", "", 0}, {"", "90000000", 90 * time.Second}, {strconv.Itoa(os.Getpid()), "1000", time.Millisecond},
		{"1", "90000000", 0}, {"", "-5", 0}, {"", "soon", 0},
	} {
		t.Setenv("WATCHDOG_PID", tc.pid)
		t.Setenv("WATCHDOG_USEC", tc.usec)
		if got := Watchdog(); got != tc.want {
			t.Errorf("pid %q, %q: %v, want %v", tc.pid, tc.usec, got, tc.want)
		}
	}
}
