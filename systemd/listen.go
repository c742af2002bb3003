package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Listener returns the one socket that the service manager listens on for this
// process (sd_listen_fds(3)), or nil where it does not.
func Listener() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("sd_listen_fds: %.10q sockets, want one", n)
	}
	for _, k := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} { // not for what we start
		if err := os.Unsetenv(k); err != nil {
			return nil, err
		}
	}
	const first = 3
	unix.CloseOnExec(first)
	f := os.NewFile(first, "listener")
	if f == nil {
		return nil, errors.New("sd_listen_fds: no descriptor 3")
	}
	l, err := net.FileListener(f) // a copy
	return l, errors.Join(err, f.Close())
}
