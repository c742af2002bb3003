package config

import (
	"fmt"
	"path/filepath"
	"slices"
)

// Confine is about the walls around a confined daemon.
type Confine struct {
	// Writable are directories that hooks and sources may write to besides; the
	// unit needs a ReadWritePaths= of them too.
	Writable []string `toml:"writable"`
	// Missing names walls that this machine does not have, and that is known.
	Missing []string `toml:"missing"`
}

// ReaderConfine is about the walls around a reader.
type ReaderConfine struct {
	// Missing is that of Confine.
	Missing []string `toml:"missing"`
}

func (c Confine) check() error {
	for _, p := range c.Writable {
		if !filepath.IsAbs(p) || filepath.Clean(p) == "/" {
			return bad("writable", "writable: %q must be the absolute path of a directory, and not /", p)
		}
	}
	return nil
}

// WritablePaths are the directories that the daemon writes to.
func (c *Config) WritablePaths() []string {
	out := []string{c.StateDir, filepath.Dir(c.ControlSocket()), "/tmp", "/var/tmp"}
	for _, s := range c.Stores {
		if s.Kind == "dir" {
			out = append(out, s.Path)
		}
	}
	if c.Media != nil && c.Media.Helper != "" {
		out = append(out, "/run/strongroom-media") // where strongroom-mountd mounts them
	}
	out = append(out, c.Confine.Writable...)
	for i, p := range out {
		out[i] = filepath.Clean(p)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CheckWalls wants names that there are: one that is mistyped would excuse
// nothing.
func CheckWalls(missing, names []string) error {
	for _, m := range missing {
		if !slices.Contains(names, m) {
			return fmt.Errorf("[confine] missing: there is no wall %q; there are %q", m, names)
		}
	}
	return nil
}
