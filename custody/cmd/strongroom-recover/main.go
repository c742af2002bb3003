// Command strongroom-recover recovers a tenant on a machine that has nothing
// else: one static binary, to be kept beside the kits and on offline media.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"strongroom/custody/rescue"
	"strongroom/repo"
)

// version is set when a release is built.
var version = "dev"

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		repo.LimitMemory()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := rescue.Main(ctx, os.Args[1:], os.Stdout, os.Stderr, version)
	stop()
	os.Exit(int(code))
}
