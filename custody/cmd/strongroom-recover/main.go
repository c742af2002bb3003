// Command strongroom-recover recovers a tenant on a machine that has nothing
// else: one static binary, to be kept beside the kits and on offline media.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
)

// version is set when a release is built.
var version = "dev"

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(320 << 20)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	u := rescue.NewUI(os.Stdout, os.Stderr)
	c := rescue.Command(u)
	c.Use = "strongroom-recover" + c.Use[len("recover"):]
	c.Version = version
	c.SilenceUsage, c.SilenceErrors = true, true
	c.Flags().BoolVar(&u.JSON, "json", false, "print JSON, one object a line")
	err := c.ExecuteContext(ctx)
	u.Done()
	code := exit.Of(err)
	if err != nil {
		if ctx.Err() != nil {
			code = exit.Interrupted
		}
		u.Error(err, int(code))
	}
	stop()
	os.Exit(int(code))
}
