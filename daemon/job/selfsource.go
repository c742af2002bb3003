package job

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"strongroom/custody/keys"
	"strongroom/daemon/state"
	"strongroom/source"
	"strongroom/source/files"
)

// What the box knows, as it stands in a snapshot of its state:
//
//	state.db                    runs, health, alarms; see state.Copy
//	box.json                    who the box, its tenants and their datasets are
//	config.toml                 the configuration, for whoever writes it anew
//	ledger.checkpoint           the head of the system log, if there is a ledger
//	holds, media                legal holds; the register of offline media
//	receipts/…                  of drills
//	datasets/<tenant>/<id>/…    what was committed last, decided and confirmed
//
// Each is put there by name. Keys, capsules, shares, credentials of stores and
// databases, and what can be made again, are not: nothing walks the state
// directory.
const (
	stageName      = "stage"
	stageDB        = "state.db"
	stageMemory    = "box.json"
	stageConfig    = "config.toml"
	stageAnchor    = "ledger.checkpoint"
	stageDatasets  = "datasets"
	maxStagedFile  = 64 << 20
	stagedReceipts = "receipts"
)

var (
	// stagedFiles are taken as they are, if they are there.
	stagedFiles = []string{holdsName, "media"}
	// stagedOfDataset are those of a dataset's directory.
	stagedOfDataset = []string{"head", "expire"}
)

// selfSource reads what the box knows: it gathers it in a directory, which is
// read as a tree, and removed.
type selfSource struct{ s *Site }

func (x selfSource) path() string { return filepath.Join(x.s.Config.StateDir, stageName) }

// Probe says what will be read.
func (x selfSource) Probe(context.Context) (source.Description, error) {
	return source.Description{Engine: files.Engine}, nil
}

// Open gathers. The dataset's lock keeps a second one away; what a crash left is
// removed first.
func (x selfSource) Open(ctx context.Context) (_ source.Snapshot, err error) {
	dir := x.path()
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("gather the box's state: %w", err), os.RemoveAll(dir))
		}
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := x.gather(ctx, dir); err != nil {
		return nil, err
	}
	tree, err := files.New(files.Config{Path: dir, Scratch: filepath.Join(x.s.Config.StateDir, "scratch")})
	if err != nil {
		return nil, err
	}
	snap, err := tree.Open(ctx)
	if err != nil {
		return nil, err
	}
	return gathered{snap, dir}, nil
}

// gathered removes what was gathered.
type gathered struct {
	source.Snapshot
	dir string
}

func (g gathered) Close() error { return errors.Join(g.Snapshot.Close(), os.RemoveAll(g.dir)) }

func (x selfSource) gather(ctx context.Context, dir string) error {
	c := x.s.Config
	m, err := x.s.Box.Memory()
	if err != nil {
		return err
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if err := WriteNew(filepath.Join(dir, stageMemory), b); err != nil {
		return err
	}
	// The ledger's head goes before the database, which may tell of acts that
	// are not in it.
	l, err := x.s.Ledger(ctx)
	if err != nil {
		return err
	}
	if l != nil {
		head, err := l.Head(ctx, keys.TenantID{})
		if err != nil {
			return err
		}
		if err := WriteNew(filepath.Join(dir, stageAnchor), []byte(head.Note)); err != nil {
			return err
		}
		// So that a box that is rebuilt from this finds copies of all of it.
		if done, err := x.s.CopyLedger(ctx); err != nil || done.Failed != nil || done.Ahead != nil {
			x.s.Log("warning: the ledger was not copied to every store: %v", errors.Join(err, done.Failed, done.Ahead))
		}
	}
	if err := state.Copy(ctx, state.Config{Dir: c.StateDir}, filepath.Join(dir, stageDB)); err != nil {
		return err
	}
	if err := take(c.Path, filepath.Join(dir, stageConfig)); err != nil {
		return err
	}
	for _, name := range stagedFiles {
		if err := take(filepath.Join(c.StateDir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, t := range m.Tenants {
		for _, d := range t.Datasets {
			at := filepath.Join(stageDatasets, t.ID.String(), d.ID.String())
			if err := takeAll(filepath.Join(c.StateDir, at), filepath.Join(dir, at), stagedOfDataset); err != nil {
				return err
			}
		}
	}
	names, err := namesIn(filepath.Join(c.StateDir, stagedReceipts))
	if err != nil {
		return err
	}
	return takeAll(filepath.Join(c.StateDir, stagedReceipts), filepath.Join(dir, stagedReceipts), names)
}

// namesIn lists the regular files of a directory, which need not be there.
func namesIn(dir string) (out []string, err error) {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range all {
		if e.Type().IsRegular() && e.Name()[0] != '.' { // not what is being written
			out = append(out, e.Name())
		}
	}
	return out, err
}

func takeAll(from, to string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		if err := take(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// take copies a file, if it is there, with its time, so that what did not change
// is the same every day.
func take(from, to string) error {
	f, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxStagedFile {
		return fmt.Errorf("%s is no file of at most %d bytes", from, maxStagedFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxStagedFile))
	if err != nil {
		return err
	}
	return errors.Join(WriteNew(to, b), os.Chtimes(to, info.ModTime(), info.ModTime()))
}
