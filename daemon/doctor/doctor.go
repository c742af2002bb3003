// Package doctor examines the machine that backups depend on: its clock, its
// disks, and who could read the secrets on it. It reads and changes nothing.
package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"strongroom/daemon/atrest"
	"strongroom/source"
)

// Config says what the machine is used for.
type Config struct {
	StateDir string
	// ConfigFile says what is run as the service user.
	ConfigFile string
	// Secrets are files that nobody but the service user should read.
	Secrets []Secret
	// Bound is how many bytes spools and caches together may take.
	Bound int64

	root string // "" for the machine, or a tree with a /proc and a /sys of a test
}

// A Secret is a file by what is in it.
type Secret struct{ What, Path string }

// exam is one examination.
type exam struct {
	source.Findings
	Config
}

// Examine returns what a person should know of the machine. What cannot be
// found out is a note that says so.
func Examine(c Config) source.Findings {
	e := &exam{Config: c}
	e.state()
	e.configFile()
	e.secrets()
	e.space()
	e.clock()
	e.disk()
	e.swap()
	e.core()
	return e.Findings
}

// path is where the machine has a file of the kernel's.
func (e *exam) path(p string) string { return e.root + p }

func (e *exam) kernel() atrest.Kernel { return atrest.Kernel{Root: e.root} }

// state looks at the directory with keys, maps and what waits for stores.
func (e *exam) state() {
	st, err := os.Stat(e.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Note("state-dir", e.StateDir+" is not there yet", "this box is not set up", "strongroom init")
	case err != nil:
		e.Bad("state-dir", "state directory: "+err.Error(), "keys and what waits for stores lie there", "run this as the service's user")
	case !st.IsDir():
		e.Bad("state-dir", e.StateDir+" is no directory", "keys and what waits for stores lie there", "correct state_dir")
	case st.Mode().Perm()&0o077 != 0:
		e.Warn("state-dir", fmt.Sprintf("%s has mode %04o", e.StateDir, st.Mode().Perm()),
			"others on this machine see whose data is kept and when, and a group that may write can make snapshots fail", "chmod 700 "+e.StateDir)
	case unix.Access(e.StateDir, unix.W_OK|unix.X_OK) != nil:
		e.Bad("state-dir", e.StateDir+" cannot be written by this user", "every backup writes there", "run this as the service's user, or chown it")
	default:
		e.OK("state-dir", e.StateDir+" is its owner's alone")
	}
}

func (e *exam) configFile() {
	st, err := os.Stat(e.ConfigFile)
	switch {
	case err != nil:
		e.Note("config-file", "configuration file: "+err.Error(), "who may change it cannot be told", "")
	case st.Mode().Perm()&0o022 != 0:
		e.Warn("config-file", fmt.Sprintf("%s has mode %04o", e.ConfigFile, st.Mode().Perm()),
			"who can write it chooses what is read, where it goes, and which programs run as the service's user", "chmod go-w "+e.ConfigFile)
	default:
		e.OK("config-file", e.ConfigFile+" is changed by its owner alone")
	}
}

// secrets looks at files, never into them.
func (e *exam) secrets() {
	good := 0
	for _, s := range e.Secrets {
		st, err := os.Stat(s.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.Bad("secret-file", fmt.Sprintf("%s: %s is not there", s.What, s.Path), "what needs it fails", "")
		case err != nil:
			e.Bad("secret-file", fmt.Sprintf("%s: %v", s.What, err), "what needs it fails", "run this as the service's user")
		case st.Mode().Perm()&0o077 != 0:
			e.Warn("secret-file", fmt.Sprintf("%s: %s has mode %04o", s.What, s.Path, st.Mode().Perm()),
				"others on this machine can use it", "chmod 600 "+s.Path+", and replace it by a new one")
		default:
			good++
		}
	}
	if good == len(e.Secrets) {
		e.OK("secret-file", fmt.Sprintf("%d files with secrets are their owner's alone", good))
	}
}

// space compares what spools and caches may take with what there is for them.
// They grow to their bounds just when a store is away.
func (e *exam) space() {
	dir := nearest(e.StateDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		e.Note("space", "how much is free cannot be told: "+err.Error(), "", "")
		return
	}
	free := int64(st.Bavail) * st.Bsize
	held := bytesBelow(filepath.Join(e.StateDir, "datasets"))
	switch room := free + held; {
	case free < 1<<30:
		e.Bad("space", fmt.Sprintf("%s are free in %s", size(free), dir), "a snapshot needs room for its map and for packs on their way", "make room")
	case room < e.Bound:
		e.Warn("space", fmt.Sprintf("spools and caches may take %s, and there are %s for them in %s", size(e.Bound), size(room), dir),
			"when a store is away for long the disk is full before a bound is reached, and then everything on it stops",
			"a larger disk, or smaller spool and base_cache in the datasets")
	default:
		e.OK("space", fmt.Sprintf("spools and caches may take %s of %s", size(e.Bound), size(room)))
	}
}

// nearest is the directory, or the next one above that is there.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func bytesBelow(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

func size(n int64) string { return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30)) }

// clock asks the kernel whether anything keeps its clock right: ntpd, chrony
// and timesyncd all tell it (adjtimex(2)), so that none of them has to be
// found and asked.
func (e *exam) clock() {
	var tx unix.Timex // no mode bits: read only
	state, err := unix.Adjtimex(&tx)
	if err != nil {
		e.Note("clock", "whether the clock is kept right cannot be told: "+err.Error(), "", "")
		return
	}
	e.judgeClock(state, int(tx.Status), int64(tx.Maxerror))
}

// judgeClock takes what adjtimex returned; maxError is in microseconds.
func (e *exam) judgeClock(state, status int, maxError int64) {
	if state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0 {
		e.Warn("clock", "the kernel's clock is not synchronised", "locks, expiry and cooling-off times go by it: while it disagrees with the stores nothing may be deleted",
			"apt-get install chrony, with rtcsync in its configuration; or timedatectl set-ntp true")
		return
	}
	e.OK("clock", fmt.Sprintf("synchronised, wrong by %d ms at most", maxError/1000))
}
