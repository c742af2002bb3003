// Package probe tries what a unit must not let its process do. A probe changes
// nothing, takes milliseconds, and does no harm where it works.
package probe

import (
	"errors"
	"slices"
	"syscall"
)

// Names of the walls.
const (
	Devices     = "devices"
	Credentials = "credentials"
	RawNetwork  = "raw network"
	Network     = "network"
	Files       = "files outside"
	Homes       = "homes"
	Processes   = "other processes"
	Powers      = "capabilities"
	Namespaces  = "namespaces"
	Code        = "writable code"
	Calls       = "system calls"
	Memory      = "memory"
	Swap        = "swap"
	Cores       = "core dumps"
	Landlock    = "landlock"
)

// A Wall is something that must be impossible, and what came of trying.
type Wall struct {
	Name  string
	Tried string
	Got   string
	Holds bool
}

// Missing names the walls that do not hold, but for those that known names.
func Missing(walls []Wall, known []string) []string {
	var out []string
	for _, w := range walls {
		if !w.Holds && !slices.Contains(known, w.Name) {
			out = append(out, w.Name)
		}
	}
	return out
}

// refused makes a wall of the error that something ended with.
func refused(name, tried string, err error) Wall {
	if err == nil {
		return Wall{Name: name, Tried: tried, Got: "it worked"}
	}
	return Wall{Name: name, Tried: tried, Got: short(err), Holds: true}
}

// short is the reason of an error, without the names in it.
func short(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	return err.Error()
}
