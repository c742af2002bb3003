// Command strongroom-mountd mounts and unmounts offline media for the daemon,
// which may not: systemd starts it for one request on a socket.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"strongroom/custody/media/mount"
	"strongroom/systemd/probe"
)

// dir is where media appear: a directory of root's, not one that the daemon may
// change.
const dir = "/run/strongroom-media"

// Exit codes, those of strongroom.
const (
	failed  = 1
	refused = 20
	usage   = 64
)

func main() {
	known, err := knownMissing(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "strongroom-mountd:", err)
		os.Exit(usage)
	}
	h := mount.Helper{Direct: mount.Direct{Dir: dir}}
	self, err := os.Executable()
	if err == nil {
		h.Walls, err = confined(self, known)
	}
	h.Refuses = err
	err = h.Serve(context.Background(), os.Stdin, os.Stdout)
	switch {
	case h.Refuses != nil: // whoever asked may be gone
		fmt.Fprintln(os.Stderr, "strongroom-mountd:", h.Refuses)
		os.Exit(refused)
	case err != nil:
		fmt.Fprintln(os.Stderr, "strongroom-mountd:", err)
		os.Exit(failed)
	}
}

// knownMissing reads the arguments: walls that this machine does not have, and that
// is known. One that is mistyped would excuse nothing.
func knownMissing(args []string) (known []string, err error) {
	for _, arg := range args {
		name, ok := strings.CutPrefix(arg, "--missing=")
		switch {
		case !ok:
			return nil, fmt.Errorf("%.40q is no argument: systemd starts it behind strongroom-mountd.socket, with --missing=WALL for each wall that is missing, and known to be", arg)
		case !slices.Contains(mount.WallNames(), name):
			return nil, fmt.Errorf("--missing: there is no wall %.40q; there are %q", name, mount.WallNames())
		case slices.Contains(known, name):
			return nil, fmt.Errorf("--missing=%s stands there twice", name)
		}
		known = append(known, name)
	}
	return known, nil
}

// confined tries what the unit must not let this process do, and tells each wall of
// mount.WallNames to the journal. It has the system's mounts and the rights to look
// anywhere, or it could not mount: no wall is around files. self is a program that
// ends at once with "help", as this one does.
func confined(self string, known []string) (table []mount.Wall, err error) {
	all := []probe.Wall{
		// What is no disk. Opening one of these does nothing by itself.
		probe.OpenDevices("open kernel memory and character devices", "/dev/mem", "/dev/kmsg", "/dev/port", "/dev/kvm", "/dev/fuse", "/dev/net/tun",
			"/dev/uinput", "/dev/hidraw*", "/dev/sg[0-9]*", "/dev/nvme[0-9]"),
		probe.MakeRawSockets(), probe.ReachNetwork(os.Stdin),
		probe.HavePowers(1<<21 | 1<<2), // CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, capabilities(7)
		probe.MakeNamespace(self, "help"), probe.MapCode(), probe.MakeCall(), probe.LookUpMemory(), probe.DumpCores(),
	}
	for _, w := range all {
		priority := 6 // sd-daemon(3)
		if !w.Holds {
			priority = 4
		}
		fmt.Fprintf(os.Stderr, "<%d>wall name=%q holds=%t tried=%q got=%q\n", priority, w.Name, w.Holds, w.Tried, w.Got)
		table = append(table, mount.Wall{Name: w.Name, Tried: w.Tried, Got: w.Got, Holds: w.Holds, Known: slices.Contains(known, w.Name)})
	}
	if missing := probe.Missing(all, known); len(missing) > 0 {
		return table, fmt.Errorf("a wall is missing: %s. The unit was loosened, or this system cannot keep it up; where that is known and meant, a drop-in has \"--missing=%s\"",
			strings.Join(missing, ", "), strings.Join(missing, `" "--missing=`))
	}
	return table, nil
}
