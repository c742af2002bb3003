package walls

import (
	"os"
	"slices"
	"syscall"
)

// Places are directories as they were when a process confined itself to them.
// Landlock allows what it was shown, by inode: a directory that comes later, or a
// file system that is mounted over it, stays closed to the process until it ends.
type Places map[string]place

// place is a directory's identity; the zero place is none.
type place struct{ device, inode uint64 }

// LookAt returns what directories are now. It is to be asked before Confine, so
// that one which comes in between is taken for new.
func LookAt(paths []string) Places {
	p := Places{}
	for _, path := range paths {
		p[path] = at(path)
	}
	return p
}

// Later returns those that are there and were not, or were others. It waits for
// file systems that do not answer.
func (p Places) Later() []string {
	var out []string
	for path, was := range p {
		if now := at(path); now != (place{}) && now != was {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

func at(path string) place {
	info, err := os.Stat(path)
	if err != nil {
		return place{}
	}
	st := info.Sys().(*syscall.Stat_t)
	return place{uint64(st.Dev), st.Ino}
}
