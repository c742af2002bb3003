package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/daemon/config"
	"strongroom/daemon/walls"
)

// confine takes from this process what it does not need, tries what it must not
// be able to do, and leaves the table of that where doctor finds it. A wall that
// is missing, and that the configuration does not name, is an error.
func confine(ctx context.Context, c *config.Config, log *slog.Logger) error {
	if err := c.Confine.CheckWalls(walls.Names()); err != nil {
		return exit.With(exit.Usage, fmt.Errorf("%s: %w", c.Path, err))
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	t, err := walls.Confine(walls.Config{StateDir: c.StateDir, Writable: c.WritablePaths(), Self: self, Args: []string{"version"}, Now: time.Now})
	if err != nil {
		return err
	}
	for _, w := range t.Walls {
		level := slog.LevelInfo
		if !w.Holds {
			level = slog.LevelWarn
		}
		log.Log(ctx, level, "wall", "name", w.Name, "holds", w.Holds, "tried", w.Tried, "got", w.Got)
	}
	if err := t.Write(c.StateDir); err != nil {
		return err
	}
	if missing := t.Missing(c.Confine.Missing); len(missing) > 0 {
		return exit.With(exit.Refused, fmt.Errorf("%w: %s. The unit was loosened, or this system cannot keep it up; where that is known and meant, [confine] names them: missing = [\"%s\"]",
			walls.ErrMissing, strings.Join(missing, ", "), strings.Join(missing, `", "`)))
	}
	return nil
}

// stillConfined refuses a configuration that a confined process cannot carry
// out: what Landlock took stays taken until the process ends.
func stillConfined(now, first *config.Config) error {
	if out := walls.Outside(now.WritablePaths(), first.WritablePaths()); len(out) > 0 {
		return fmt.Errorf("the daemon is confined and may not write to %s; restart it", strings.Join(out, ", "))
	}
	return nil
}
