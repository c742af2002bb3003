// Command strongroom-recover recovers a tenant on a machine that has nothing
// else: one static binary, to be kept beside the kits and on offline media.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"strongroom/custody/rescue"
)

// version is set when a release is built.
var version = "dev"

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(320 << 20)
		// Buffers are pooled, so there is little to collect, and collecting it
		// early keeps the peak near what is in use, however long a run is.
		debug.SetGCPercent(40)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := rescue.Main(ctx, os.Args[1:], os.Stdout, os.Stderr, version)
	stop()
	os.Exit(int(code))
}
