package rescue

import (
	"context"
	"io"

	"strongroom/custody/exit"
)

// Main is the whole of strongroom-recover.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer, version string) exit.Code {
	u := NewUI(stdout, stderr)
	u.Program = "strongroom-recover"
	c := Command(u)
	c.Use = u.Program + c.Use[len("recover"):]
	c.Version = version
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetArgs(args)
	c.SetOut(stdout)
	c.SetErr(stderr)
	c.Flags().BoolVar(&u.JSON, "json", WantsJSON(args), "print JSON, one object a line")
	return u.End(ctx, c.ExecuteContext(ctx))
}
