// Package systemd speaks to the service manager: the few lines of sd_notify(3)
// and sd_listen_fds(3) that services need.
package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notify sends states such as "READY=1", each a line. Without a service manager
// it does nothing.
func Notify(states ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] != '/' && path[0] != '@' {
		return fmt.Errorf("sd_notify: NOTIFY_SOCKET %q is no address of a socket", path)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("sd_notify: %w", err)
	}
	defer conn.Close()
	text := ""
	for _, s := range states {
		text += s + "\n"
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return fmt.Errorf("sd_notify: %w", err)
	}
	return nil
}

// Managed says whether a service manager started this process and listens to it.
func Managed() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Watchdog returns how often the service manager wants to hear "WATCHDOG=1", 0:
// not at all (sd_watchdog_enabled(3)).
func Watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}

// Monotonic is the time since boot without what was slept, in microseconds, as
// RELOADING=1 wants it with it.
func Monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano() / 1000
}
