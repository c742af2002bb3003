package drill

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// refuse keeps a drill away from anything that lives. What it restores into is
// made by it in namespaces of its own, and no address, path or device of a
// target is ever taken from a configuration; what is left is what it shows
// inside: the programs that check.
func (p *Plan) refuse() error {
	if len(p.Checker) == 0 {
		return nil
	}
	path := p.Checker[0]
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%w: checker %q is not an absolute path", ErrRefused, path)
	}
	return notLive(path, p.Live)
}

// notLive refuses paths of what is, or could be, a running instance. Links are
// followed: what they lead to is what would be reached.
func notLive(path string, live []string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if m := info.Mode() & (fs.ModeSocket | fs.ModeDevice | fs.ModeCharDevice | fs.ModeNamedPipe); m != 0 {
		return fmt.Errorf("%w: %s is a socket, a device or a pipe", ErrRefused, path)
	}
	for _, l := range live {
		if l == "" {
			continue
		}
		if r, err := filepath.EvalSymlinks(l); err == nil {
			l = r
		}
		if within(real, l) || within(l, real) {
			return fmt.Errorf("%w: %s and %s, which is in use, are one or in one another", ErrRefused, path, l)
		}
	}
	for dir := real; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, "PG_VERSION")); err == nil {
			return fmt.Errorf("%w: %s is in the data of a PostgreSQL server", ErrRefused, path)
		}
	}
	return nil
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
