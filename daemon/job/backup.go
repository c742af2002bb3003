package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/pack"
	"strongroom/repo/store"
	"strongroom/source"
)

// BackupOptions are the choices of one backup.
type BackupOptions struct {
	Label string
	Keep  time.Duration // 0: no promise
	Tool  string        // version of this program
	// Progress is told the bytes read so far and the estimated total (0:
	// unknown), from several goroutines.
	Progress func(done, total int64)
}

// BackupResult is what a backup did.
type BackupResult struct {
	Tenant      string         `json:"tenant"`
	Dataset     string         `json:"dataset"`
	Snapshot    string         `json:"snapshot"`
	Generation  string         `json:"generation"`
	Epoch       uint32         `json:"epoch"`
	Sequence    uint32         `json:"sequence"`
	State       string         `json:"state"`
	Catalogue   repo.Catalogue `json:"catalogue"`
	Stores      int            `json:"stores"`
	Of          int            `json:"of"`
	Failures    []string       `json:"failures,omitempty"`
	Unlocked    []string       `json:"unlocked,omitempty"` // stores that did not lock it, and why
	Recoverable bool           `json:"recoverable"`
	Missing     []string       `json:"missing,omitempty"` // until the tenant is recoverable
}

// Complete reports whether nothing is left to worry about.
func (r *BackupResult) Complete() bool {
	return r.Stores == r.Of && len(r.Unlocked) == 0 && !r.Catalogue.Partial
}

// Backup takes one snapshot of a dataset.
func (s *Site) Backup(ctx context.Context, tenant, dataset string, o BackupOptions) (*BackupResult, error) {
	if len(s.Config.Stores) == 1 {
		s.Log("with one store nothing survives its loss: add a second and a third one")
	}
	s.warnOfRoles()
	var r *BackupResult
	err := s.acting(ctx, tenant, ledger.Backup, map[string]string{"dataset": dataset}, func() (came map[string]string, err error) {
		if r, err = s.backup(ctx, tenant, dataset, o); err != nil {
			return nil, err
		}
		return map[string]string{"snapshot": r.Snapshot, "state": r.State}, nil
	})
	if boxFull(err) {
		// Full stores do not fail a backup. What was confirmed so far is kept.
		err = exit.With(exit.Incomplete, fmt.Errorf("no room in the state directory %s: %w; make some and run it again", s.Config.StateDir, err))
	}
	return r, err
}

// boxFull reports whether the box's own disk is full.
func boxFull(err error) bool {
	if errors.Is(err, repo.ErrIncomplete) {
		return false // about stores, and says what is wrong with them
	}
	return errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (s *Site) backup(ctx context.Context, tenant, dataset string, o BackupOptions) (*BackupResult, error) {
	c, t, err := s.Tenant(tenant)
	if err != nil {
		return nil, err
	}
	d, ok := c.Dataset(dataset)
	if !ok {
		return nil, exit.With(exit.Usage, fmt.Errorf("tenant %q has no dataset %q in %s", tenant, dataset, s.Config.Path))
	}
	if d.Source == repo.SourceImport {
		return nil, fmt.Errorf("%w: dataset %q has no source to read: strongroom import puts old dumps into it", ErrRefused, dataset)
	}
	saver, err := s.begin(ctx, t, d, "")
	if err != nil {
		return nil, err
	}
	// The saver has the dataset's lock: nobody else's hooks run now.
	taking := false
	r, err := s.hooked(ctx, t, d, func() (*BackupResult, error) {
		taking = true
		src, err := s.source(t, d)
		if err != nil {
			saver.Abort(err)
			return nil, err
		}
		return s.take(ctx, saver, t, d, src, o)
	})
	if err != nil && !taking {
		saver.Abort(err)
	}
	return r, err
}

// take reads the source into the saver, and ends it.
func (s *Site) take(ctx context.Context, saver *repo.Saver, t box.Tenant, d config.Dataset, src source.Source, o BackupOptions) (*BackupResult, error) {
	started := time.Now()
	snap, err := src.Open(ctx)
	if err = source.Unsaid(err); err != nil {
		saver.Abort(err)
		return nil, err
	}
	defer snap.Close()
	report, err := s.stream(ctx, saver, snap, o.Progress)
	if err != nil {
		saver.Abort(err)
		return nil, err
	}
	commit, err := describe(saver, snap, report)
	if err != nil {
		saver.Abort(err)
		return nil, err
	}
	desc := snap.Description()
	commit.Catalogue.Tenant, commit.Catalogue.Dataset, commit.Catalogue.Level = t.Name, d.Name, string(t.Level)
	commit.Catalogue.Source, commit.Catalogue.Engine, commit.Catalogue.Version = d.Source, desc.Engine, desc.Version
	commit.Catalogue.Label, commit.Catalogue.Tool = o.Label, o.Tool
	commit.Catalogue.Started, commit.Catalogue.Point = started.UTC(), snap.Time().UTC()
	if o.Keep > 0 {
		commit.Catalogue.Keep = o.Keep.String()
		commit.KeepUntil = started.Add(o.Keep)
	}
	saved, err := saver.Commit(ctx, commit)
	if err != nil {
		return nil, err
	}
	return result(t, d, saved), nil
}

func result(t box.Tenant, d config.Dataset, saved *repo.Saved) *BackupResult {
	rec := t.Recoverable()
	r := &BackupResult{Tenant: t.Name, Dataset: d.Name, Snapshot: saved.ID, Generation: saved.Generation.String(), Epoch: saved.Epoch,
		Sequence: saved.Sequence, State: saved.State(), Catalogue: saved.Catalogue, Stores: saved.Stores, Of: saved.Of,
		Recoverable: rec.Ready, Missing: rec.Missing}
	for _, err := range saved.Failures {
		r.Failures = append(r.Failures, err.Error())
	}
	for _, err := range saved.Unlocked {
		r.Unlocked = append(r.Unlocked, err.Error())
	}
	slices.Sort(r.Failures)
	slices.Sort(r.Unlocked)
	return r
}

// datasetDir is where a dataset's index, journal and spool are.
func (s *Site) datasetDir(t box.Tenant, id repo.ID) string {
	return filepath.Join(s.Config.StateDir, "datasets", repo.ID(t.ID).String(), id.String())
}

// begin opens a dataset for a snapshot; fresh, if not empty, says why it begins
// a generation.
func (s *Site) begin(ctx context.Context, t box.Tenant, d config.Dataset, fresh string) (*repo.Saver, error) {
	members, err := s.Stores(ctx, true)
	if err != nil {
		return nil, err
	}
	r, err := s.Repo(t, members)
	if err != nil {
		return nil, err
	}
	s.warnOfClocks(ctx, members)
	id, err := s.Box.Dataset(t.Name, d.Name)
	if err != nil {
		return nil, err
	}
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, err
	}
	dir := s.datasetDir(t, repo.ID(id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	limit := int64(config.DefaultSpool)
	if d.Spool != nil {
		limit = d.Spool.Bytes
	}
	spool, err := repo.OpenSpool(filepath.Join(dir, "spool"), limit)
	if err != nil {
		return nil, err
	}
	level, cache := pack.Default, int64(config.DefaultBaseCache)
	if d.Compression == "fastest" {
		level = pack.Fastest
	}
	if d.BaseCache != nil {
		cache = d.BaseCache.Bytes
	}
	return r.Begin(ctx, repo.SaveConfig{Dataset: repo.ID(id), Dir: dir, Spool: spool, Keys: boxKeys{s.Box, t}, Signer: signer{s.Box.Signer()},
		TenantKey: [32]byte(t.Key.Fingerprint), Incarnation: o.Incarnation, PerGeneration: PerGeneration(string(t.Level)), Fresh: fresh,
		Locks: s.keeper(t, members, time.Now), BaseCache: cache, Level: level, Now: time.Now, Log: s.Log})
}

// stream feeds every stream of a snapshot to the saver.
func (s *Site) stream(ctx context.Context, saver *repo.Saver, snap source.Snapshot, progress func(done, total int64)) (source.Report, error) {
	streams := snap.Streams()
	var total int64
	for _, st := range streams {
		total += st.SizeHint
	}
	var done atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, snap.Parallel()))
	for _, i := range opening(streams, snap.Parallel()) {
		st := streams[i]
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			sctx, stop := context.WithCancel(gctx)
			defer stop()
			rc, err := st.Open(sctx)
			if err != nil {
				return fmt.Errorf("stream %q: %w", st.Name, err)
			}
			r := &counted{r: rc, n: &done, total: total, progress: progress}
			_, err = saver.Add(gctx, repo.StreamSpec{Order: i, Name: st.Name, Kind: string(st.Kind), PageSize: st.PageSize, Stop: stop}, r)
			if cerr := rc.Close(); err == nil { // else it tells what the stop did
				err = cerr
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return source.Report{}, err
	}
	return snap.Finish(ctx)
}

// opening is the order in which to open streams: where several are read at
// once the largest first, or the last may be read alone.
func opening(streams []source.Stream, parallel int) []int {
	order := make([]int, len(streams))
	for i := range order {
		order[i] = i
	}
	if parallel > 1 {
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(streams[b].SizeHint, streams[a].SizeHint) })
	}
	return order
}

// counted counts what is read.
type counted struct {
	r        io.Reader
	n        *atomic.Int64
	total    int64
	progress func(done, total int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 && c.progress != nil {
		c.progress(c.n.Add(int64(n)), c.total)
	}
	return n, err
}

// maxWarnings bounds the warnings that a catalogue entry keeps.
const maxWarnings = 100

// describe turns a source's report into what the manifest records.
func describe(saver *repo.Saver, snap source.Snapshot, report source.Report) (repo.Commit, error) {
	desc, err := json.Marshal(snap.Description())
	if err != nil {
		return repo.Commit{}, err
	}
	c := repo.Commit{Description: desc, Detail: report.Detail, Facts: map[string]json.RawMessage{}}
	if len(report.Detail) > 1<<20 {
		return c, fmt.Errorf("the source's own record has %d bytes, more than 1 MiB", len(report.Detail))
	}
	for name, f := range report.Streams {
		b, err := json.Marshal(f)
		if err != nil {
			return c, err
		}
		c.Facts[name] = b
		c.Catalogue.Rows += f.Rows
	}
	c.Catalogue.Partial = report.Partial
	c.Catalogue.Warnings = report.Warnings
	if n := len(report.Warnings); n > maxWarnings {
		c.Catalogue.Warnings = append(report.Warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more", n-maxWarnings))
	}
	c.Catalogue.Anomalies = append(anomalies(saver.Previous(), saver.Streams(), report), sizes(saver.History(), saver.Streams())...)
	return c, nil
}
