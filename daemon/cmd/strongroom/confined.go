package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/receipt"
	"strongroom/daemon/config"
	"strongroom/daemon/walls"
	"strongroom/systemd/probe"
)

// confine takes from this process what it does not need, tries what it must not
// be able to do, and leaves the table of that where doctor finds it. A wall that
// is missing, and that the configuration does not name, is an error. It returns
// what the directories were to which the process may go on to write.
func confine(ctx context.Context, c *config.Config, log *slog.Logger) (walls.Places, error) {
	if err := knownWalls(c); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	places := walls.LookAt(c.WritablePaths())
	t, err := walls.Confine(walls.Config{StateDir: c.StateDir, Writable: c.WritablePaths(), Self: self, Args: []string{"version"}, Now: time.Now})
	if err != nil {
		return nil, err
	}
	for _, w := range t.Walls {
		logWall(ctx, log, probe.Wall(w))
	}
	if err := t.Write(c.StateDir); err != nil {
		return nil, err
	}
	if missing := t.Missing(c.Confine.Missing); len(missing) > 0 {
		return nil, missed(missing)
	}
	return places, nil
}

// lookForStores is how often a confined daemon looks whether a store came back.
const lookForStores = 5 * time.Second

// follow has the daemon start anew when a directory is there that was not, or was
// another, when it confined itself: a disk that was away, a mount that came late.
// Until then that store would be closed to it, week after week, with nobody there
// to see why. What runs goes on to its end.
func (c *control) follow(ctx context.Context, places walls.Places) error {
	tick := time.NewTicker(lookForStores)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		later := make(chan []string, 1)
		go func() { later <- places.Later() }() // a dead file system holds nobody up but this
		select {
		case <-ctx.Done():
			return nil
		case paths := <-later:
			if len(paths) == 0 {
				continue
			}
			running, err := c.Restart()
			if err != nil {
				c.log.Error("a store's directory is there again, which this process may not write to", "directories", paths, "error", err)
			} else {
				c.log.Warn("a store's directory is there again: the daemon restarts when nothing runs", "directories", paths, "running", running)
			}
			return nil
		}
	}
}

// confineReader tries what the unit of a reader must not let it do, and returns
// what came of it.
func confineReader(ctx context.Context, r *config.Reader, passed syscall.Conn, log *slog.Logger) ([]receipt.Wall, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	tried := walls.TryReader(passed, self, "version")
	var all []receipt.Wall
	for _, w := range tried {
		logWall(ctx, log, w)
		all = append(all, receipt.Wall(w))
	}
	if missing := probe.Missing(tried, r.Confine.Missing); len(missing) > 0 {
		return all, missed(missing)
	}
	return all, nil
}

func logWall(ctx context.Context, log *slog.Logger, w probe.Wall) {
	level := slog.LevelInfo
	if !w.Holds {
		level = slog.LevelWarn
	}
	log.Log(ctx, level, "wall", "name", w.Name, "holds", w.Holds, "tried", w.Tried, "got", w.Got)
}

// missed is the error of walls that are missing and that nobody named.
func missed(missing []string) error {
	return exit.With(exit.Refused, fmt.Errorf("%w: %s. The unit was loosened, or this system cannot keep it up; where that is known and meant, [confine] names them: missing = [\"%s\"]",
		walls.ErrMissing, strings.Join(missing, ", "), strings.Join(missing, `", "`)))
}

// stillConfined refuses a configuration that a confined process cannot carry
// out: what Landlock took stays taken until the process ends.
func stillConfined(now, first *config.Config) error {
	if out := walls.Outside(now.WritablePaths(), first.WritablePaths()); len(out) > 0 {
		return fmt.Errorf("the daemon is confined and may not write to %s; restart it", strings.Join(out, ", "))
	}
	return nil
}

// knownWalls wants [confine] to name walls that there are.
func knownWalls(c *config.Config) error {
	if err := config.CheckWalls(c.Confine.Missing, walls.Names()); err != nil {
		return exit.With(exit.Usage, fmt.Errorf("%s: %w", c.Path, err))
	}
	return nil
}
