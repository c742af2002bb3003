package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/repo"
	"strongroom/source/loader"
)

// Listing lists a tenant's snapshots on the stores that answer.
func (s *Site) Listing(ctx context.Context, tenant string) (*repo.Listing, box.Tenant, error) {
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return nil, t, err
	}
	members, err := s.Stores(ctx, false)
	if err != nil {
		return nil, t, err
	}
	r, err := s.Repo(t, members)
	if err != nil {
		return nil, t, err
	}
	heads := make([]repo.Head, len(t.Datasets))
	for i, d := range t.Datasets {
		if heads[i], err = repo.ReadHead(s.datasetDir(t, repo.ID(d.ID))); err != nil {
			return nil, t, err
		}
	}
	l, err := r.List(ctx)
	if err != nil {
		return nil, t, err
	}
	s.spoil(t, l)
	for i, d := range t.Datasets {
		if err := l.Behind(heads[i], repo.ID(d.ID)); err != nil {
			err = &behindError{d.Name, fmt.Errorf("dataset %q: %w", d.Name, err)}
			l.Problems = append(l.Problems, repo.Problem{Err: err, Text: err.Error()})
		}
	}
	return l, t, nil
}

// A behindError says that the stores show an older state of a dataset than
// this box has committed.
type behindError struct {
	dataset string
	err     error
}

func (e *behindError) Error() string { return e.err.Error() }
func (e *behindError) Unwrap() error { return e.err }

// behind returns what a listing says about a dataset's newest snapshot.
func (s *Site) behind(l *repo.Listing, dataset string) error {
	for _, p := range l.Problems {
		if b := (*behindError)(nil); errors.As(p.Err, &b) && b.dataset == dataset {
			code := exit.Integrity
			if l.Reached < len(s.Config.Stores) {
				code = exit.TryLater
			}
			return exit.With(code, b)
		}
	}
	return nil
}

// State says on how many stores a snapshot is. A store that is away is said
// to be away: whether it has the snapshot nobody knows.
func (s *Site) State(l *repo.Listing, snap *repo.Snapshot) string {
	n := len(s.Config.Stores)
	if away := n - l.Reached; away > 0 && len(snap.Stores) >= l.Reached {
		return fmt.Sprintf("on %d of %d stores, %d away", len(snap.Stores), n, away)
	}
	return snap.State(n)
}

// Open finds and opens a snapshot of a dataset.
func (s *Site) Open(ctx context.Context, tenant, dataset, snapshot string) (*repo.Opened, error) {
	l, t, err := s.Listing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	o, err := s.openIn(ctx, l, t, dataset, snapshot)
	return o, s.lost(l, err)
}

func (s *Site) lost(l *repo.Listing, err error) error {
	return exit.Lost(err, l.Reached == len(s.Config.Stores))
}

func (s *Site) openIn(ctx context.Context, l *repo.Listing, t box.Tenant, dataset, snapshot string) (*repo.Opened, error) {
	for _, p := range l.Problems {
		if b := (*behindError)(nil); !errors.As(p.Err, &b) {
			s.Log("warning: %s", p.Text)
		}
	}
	// Box.Dataset would make a pseudonym for whatever name was mistyped.
	i := slices.IndexFunc(t.Datasets, func(d box.Dataset) bool { return d.Name == dataset })
	if i < 0 {
		return nil, fmt.Errorf("%w: tenant %q has no dataset %q that was ever backed up", repo.ErrNoSnapshot, t.Name, dataset)
	}
	if snapshot == "" || snapshot == "latest" {
		// Whoever asks for the newest must not get an older one unawares.
		if err := s.behind(l, dataset); err != nil {
			return nil, fmt.Errorf("%w; an older one is restored only by its name", err)
		}
	}
	snap, err := l.Find(repo.ID(t.Datasets[i].ID), snapshot)
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", t.Name, dataset, err)
	}
	return s.OpenSnapshot(ctx, l, t, snap)
}

// OpenSnapshot opens a snapshot with the generation key on the box.
func (s *Site) OpenSnapshot(ctx context.Context, l *repo.Listing, t box.Tenant, snap *repo.Snapshot) (*repo.Opened, error) {
	key, err := boxKeys{s.Box, t}.Generation(repo.ID(t.ID), snap.Dataset, snap.Generation)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("%w: this box does not have the key of generation %v: recover with a kit", repo.ErrWrongKey, snap.Generation)
	}
	return l.Open(ctx, snap, key)
}

// Restore restores a snapshot of a dataset.
func (s *Site) Restore(ctx context.Context, tenant, dataset, snapshot string, o loader.Options) (snap *repo.Snapshot, r *loader.Result, err error) {
	err = s.acting(ctx, tenant, ledger.Restore, map[string]string{"dataset": dataset, "to": targetKind(o.To)}, func() (map[string]string, error) {
		snap, r, err = s.restore(ctx, tenant, dataset, snapshot, o)
		if snap == nil {
			return nil, err
		}
		return map[string]string{"snapshot": snap.ID()}, err
	})
	return snap, r, err
}

// targetKind says where a restore goes, without saying where exactly.
func targetKind(to string) string {
	scheme, _, url := strings.Cut(to, "://")
	switch {
	case to == "-":
		return "stdout"
	case url:
		return scheme
	}
	return "path"
}

func (s *Site) restore(ctx context.Context, tenant, dataset, snapshot string, o loader.Options) (*repo.Snapshot, *loader.Result, error) {
	defer s.lease("restore", tenant, dataset)()
	l, t, err := s.Listing(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	opened, err := s.openIn(ctx, l, t, dataset, snapshot)
	if err != nil {
		return nil, nil, s.lost(l, err)
	}
	snap := opened.Snapshot()
	if snap.Tombstone != nil {
		s.Log("warning: snapshot %s has expired: its tombstone is of %s, and nothing of it is kept beyond %s", snap.ID(),
			snap.Tombstone.Time.Format(time.DateOnly), snap.Tombstone.NotBefore.Format(time.DateOnly))
	}
	s.Log("restoring snapshot %s of %s/%s, sequence %d.%d of %s, found on %d of %d stores", snap.ID(), tenant, dataset, snap.Epoch, snap.Sequence,
		snap.Time.Format("2006-01-02 15:04:05Z"), len(snap.Stores), len(s.Config.Stores))
	r, err := loader.Restore(ctx, opened, o)
	if err != nil {
		return snap, nil, s.lost(l, fmt.Errorf("restore %s/%s@%s: %w", tenant, dataset, snap.ID(), err))
	}
	return snap, r, nil
}
