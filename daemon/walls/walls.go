// Package walls confines the daemon with Landlock, and tries what the daemon's and
// the readers' units must not let them do.
package walls

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"

	"strongroom/custody/receipt"
	"strongroom/systemd/probe"
)

// Names returns those of the daemon's walls, in the order of the table.
func Names() []string {
	return []string{probe.Devices, probe.Credentials, probe.RawNetwork, probe.Files, probe.Homes, probe.Processes, probe.Powers, probe.Namespaces,
		probe.Code, probe.Calls, probe.Memory, probe.Swap, probe.Cores, probe.Landlock}
}

// ErrMissing is a wall that does not hold and that nobody expects to be absent.
var ErrMissing = errors.New("a wall is missing")

// Config says what is tried, and what the process keeps.
type Config struct {
	StateDir string   // can be written: the positive control
	Writable []string // directories below which the process may go on to write
	Self     string   // a program that can be started, and ends at once with these:
	Args     []string
	Now      func() time.Time
}

// Confine tries what the unit must not let this process do, and then takes from
// it, for good and in all threads, the right to write anywhere but below
// c.Writable. Programs that it starts inherit that. A directory that is not
// there is left out: nothing can be written to it until the next start (Places tell
// when that is due). Where the kernel has no Landlock the table says so.
//
// The unit's ProtectSystem= does the same with mounts. Landlock also holds where
// a drop-in loosens the unit, and keeps the process from mounting anything.
func Confine(c Config) (Table, error) {
	t := Table{Time: c.Now().UTC().Truncate(time.Second), Process: os.Getpid(), Walls: tryAll(c)}
	// Moving a file from one directory to another is an ability of its own (ABI 2).
	err := landlock.V3.BestEffort().RestrictPaths(landlock.RODirs("/"), landlock.RWFiles("/dev/null").IgnoreIfMissing(),
		landlock.RWDirs(c.Writable...).WithRefer().IgnoreIfMissing())
	if err != nil {
		return t, fmt.Errorf("landlock: %w", err)
	}
	t.Walls = append(t.Walls, receipt.Wall(probe.MakeShared()))
	return t, nil
}

// tryAll tries everything but what Landlock is for. It needs TCP to its stores, and
// nothing below.
func tryAll(c Config) []receipt.Wall {
	var out []receipt.Wall
	for _, w := range []probe.Wall{
		probe.OpenDisks(), probe.ReadCredentials(), probe.MakeRawSockets(), probe.MakeFiles(c.StateDir), probe.ListHomes(), probe.SeeProcesses(),
		unprivileged(), probe.MakeNamespace(c.Self, c.Args...), probe.MapCode(), probe.MakeCall(), probe.LookUpMemory(), probe.LookUpSwap(), probe.DumpCores(),
	} {
		out = append(out, receipt.Wall(w))
	}
	return out
}

// unprivileged: root owns too much to need capabilities.
func unprivileged() probe.Wall {
	w := probe.HavePowers(0)
	if os.Getuid() == 0 {
		w.Got, w.Holds = w.Got+", root", false
	}
	return w
}

// Outside returns those of paths that a process confined to writable may not
// write to.
func Outside(paths, writable []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		return slices.ContainsFunc(writable, func(w string) bool {
			rel, err := filepath.Rel(w, p)
			return err == nil && filepath.IsLocal(rel)
		})
	})
}

// A Table is what came of trying, and when.
type Table struct {
	Time    time.Time      `json:"time"`
	Process int            `json:"process"`
	Walls   []receipt.Wall `json:"walls"`
}

// Missing names the walls that do not hold, but for those that known names.
func (t Table) Missing(known []string) []string {
	var out []string
	for _, w := range t.Walls {
		if !w.Holds && !slices.Contains(known, w.Name) {
			out = append(out, w.Name)
		}
	}
	return out
}

const tableName = "walls.json"

// Write keeps the table in the state directory for others to show. Nothing
// depends on it, so it is not synced.
func (t Table) Write(dir string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, tableName+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("table of walls: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, tableName))
}

// Read returns the table that the daemon wrote when it last started, or nil.
func Read(dir string) (*Table, error) {
	b, err := os.ReadFile(filepath.Join(dir, tableName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t := &Table{}
	if err == nil {
		err = json.Unmarshal(b, t)
	}
	if err != nil {
		return nil, fmt.Errorf("table of walls: %w", err)
	}
	return t, nil
}
