// Command strongroom-mountd mounts and unmounts offline media for the daemon,
// which may not: systemd starts it for one request on a socket.
package main

import (
	"context"
	"fmt"
	"os"

	"strongroom/custody/media/mount"
)

// dir is where media appear: a directory of root's, not one that the daemon may
// change.
const dir = "/run/strongroom-media"

func main() {
	if len(os.Args) != 1 {
		fmt.Fprintln(os.Stderr, "strongroom-mountd: takes no arguments; systemd starts it behind strongroom-mountd.socket")
		os.Exit(64)
	}
	if err := mount.Serve(context.Background(), mount.Direct{Dir: dir}, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "strongroom-mountd:", err)
		os.Exit(1)
	}
}
