package keys

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// ErrOnline: the machine has a network interface that is up.
var ErrOnline = errors.New("a network interface is up")

// CheckOffline refuses where shares must not meet: on a machine with any
// interface up but loopback.
func CheckOffline() error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	return checkOffline(all)
}

func checkOffline(all []net.Interface) error {
	var up []string
	for _, i := range all {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			up = append(up, i.Name)
		}
	}
	if len(up) > 0 {
		return fmt.Errorf("%w: %s; unplug it, or take it down with `ip link set NAME down`", ErrOnline, strings.Join(up, ", "))
	}
	return nil
}
