package job

import (
	"context"
	"fmt"

	"strongroom/custody/keys/box"
	"strongroom/repo"
	"strongroom/source/loader"
)

// Listing lists a tenant's snapshots on the stores that answer.
func (s *Site) Listing(ctx context.Context, tenant string) (*repo.Listing, box.Tenant, error) {
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return nil, t, err
	}
	members, err := s.Stores(ctx)
	if err != nil {
		return nil, t, err
	}
	r, err := s.Repo(t, members)
	if err != nil {
		return nil, t, err
	}
	l, err := r.List(ctx)
	return l, t, err
}

// Open finds and opens a snapshot of a dataset.
func (s *Site) Open(ctx context.Context, tenant, dataset, snapshot string) (*repo.Opened, *repo.Listing, error) {
	l, t, err := s.Listing(ctx, tenant)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range l.Problems {
		s.Log("warning: %s", p.Text)
	}
	id, err := s.Box.Dataset(t.Name, dataset)
	if err != nil {
		return nil, nil, err
	}
	snap, err := l.Find(repo.ID(id), snapshot)
	if err != nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", tenant, dataset, err)
	}
	o, err := s.OpenSnapshot(ctx, l, t, snap)
	return o, l, err
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
func (s *Site) Restore(ctx context.Context, tenant, dataset, snapshot string, o loader.Options) (*repo.Snapshot, *loader.Result, error) {
	opened, l, err := s.Open(ctx, tenant, dataset, snapshot)
	if err != nil {
		return nil, nil, err
	}
	snap := opened.Snapshot()
	s.Log("restoring snapshot %s of %s/%s, sequence %d.%d of %s, found on %d of %d stores", snap.ID(), tenant, dataset, snap.Epoch, snap.Sequence,
		snap.Time.Format("2006-01-02 15:04:05Z"), len(snap.Stores), len(s.Config.Stores))
	_ = l
	r, err := loader.Restore(ctx, opened, o)
	if err != nil {
		return snap, nil, fmt.Errorf("restore %s/%s@%s: %w", tenant, dataset, snap.ID(), err)
	}
	return snap, r, nil
}
