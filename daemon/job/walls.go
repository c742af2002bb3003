package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/media/mount"
	"strongroom/custody/receipt"
	"strongroom/daemon/config"
	"strongroom/daemon/walls"
	"strongroom/source"
)

// A party is a program that tries the walls of its unit, in the words of
// findings.
type party struct {
	code, name string
	// known is who may say that a wall is missing, and naming how one does; "":
	// nobody can.
	known, naming string
}

// found makes findings of what a party tried. Walls that known names are missing,
// and somebody said so.
func (p party) found(all []receipt.Wall, known []string) (f source.Findings) {
	for _, w := range all {
		what, could := fmt.Sprintf("%s: %s: %s", w.Name, w.Tried, w.Got), p.name+" could do that"
		switch {
		case w.Holds:
			f.OK(p.code, what)
		case slices.Contains(known, w.Name):
			f.Note(p.code, what, could+", and "+p.known+" says that it is known", "")
		default:
			remedy := "undo what loosened its unit"
			if p.naming != "" {
				remedy += ", or name it " + p.naming
			}
			f.Warn(p.code, what, could, remedy)
		}
	}
	return f
}

// wallsOf is what the daemon found when it last started with --confined.
func wallsOf(c *config.Config) (f source.Findings) {
	t, err := walls.Read(c.StateDir)
	switch {
	case err != nil:
		f.Warn("walls", err.Error(), "whether the daemon is confined is not known", "restart the daemon")
	case t == nil:
		f.Note("walls", "no daemon has tried its walls here", "what it may do besides its work is not known", "run it by its unit, or with --confined")
	default:
		return party{"walls", "the daemon", "[confine]", "in [confine] missing"}.found(t.Walls, c.Confine.Missing)
	}
	return f
}

// ReaderWalls is what a reader says of its unit: what it tried before it served,
// nil if it tried nothing.
func ReaderWalls(all []receipt.Wall, known []string) (f source.Findings) {
	if all == nil {
		f.Note("walls", "the reader has not tried its walls", "what it may do besides reading is not known", "start it with --confined, as strongroom-source@.service does")
		return f
	}
	return party{"walls", "the reader", "[confine] in its file", "in [confine] missing, in its file"}.found(all, known)
}

// drillWalls is what the newest drill tried from inside its sandbox.
func (s *Site) drillWalls() (f source.Findings) {
	const code = "drill-walls"
	past, err := s.Recent(time.Now().Add(-90 * day))
	if err != nil {
		f.Note(code, "which walls drills have cannot be told: "+err.Error(), "", "")
		return f
	}
	for _, r := range past {
		if len(r.Sandbox.Walls) > 0 {
			return party{code, "what was restored", "the level of its tenant", ""}.found(r.Sandbox.Walls, mayLack(keys.Level(r.Level)))
		}
	}
	f.Note(code, "no drill has tried its walls here", "what is restored is hostile", "strongroom drill run")
	return f
}

// helperPatience is how long an examination waits for the mount helper.
const helperPatience = 10 * time.Second

// mountHelper is what the mount helper tries before each request, and so now.
func mountHelper(ctx context.Context, c *config.Config) (f source.Findings) {
	if c.Media == nil || c.Media.Helper == "" {
		return nil
	}
	const code = "mount-helper"
	asked, done := context.WithTimeout(ctx, helperPatience)
	defer done()
	tried, err := mount.Socket{Path: c.Media.Helper}.Walls(asked)
	switch {
	case errors.Is(err, mount.ErrNoRequest):
		f.Note(code, "the mount helper tells nobody what its walls are", "it is of an older version", "")
		return f
	case err != nil:
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("mount helper: no answer within %v", helperPatience)
		}
		f.Warn(code, err.Error(), "no medium would be mounted", "systemctl status strongroom-mountd.socket; journalctl -t strongroom-mountd")
		return f
	}
	var all []receipt.Wall
	var known []string
	for _, w := range tried {
		all = append(all, receipt.Wall{Name: w.Name, Tried: w.Tried, Got: w.Got, Holds: w.Holds})
		if w.Known {
			known = append(known, w.Name)
		}
	}
	return party{code, "the mount helper", "its command line", "in a drop-in, as --missing=WALL; it mounts nothing until then"}.found(all, known)
}
