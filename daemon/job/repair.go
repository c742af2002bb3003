package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// RepairOptions are the choices of a repair.
type RepairOptions struct {
	Tenant, Dataset string // "": all
	ReadData        bool   // read every shard first
	DryRun          bool
	Now             func() time.Time
	Progress        func(done, total int64)

	fill, drain string      // stores
	instead     *freshStore // a store that has no marker yet, in a dry run
}

// Repair makes lost and bad shards again. It needs no generation key.
func (s *Site) Repair(ctx context.Context, o RepairOptions) (*repo.Repaired, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tenant != "" {
		if _, _, err := s.Tenant(o.Tenant); err != nil {
			return nil, err
		}
	}
	sum := &repo.Repaired{Acts: []repo.Act{}, Left: []string{}, Problems: []string{}}
	members, err := s.Stores(ctx, true)
	if err != nil {
		return nil, err
	}
	if o.instead != nil {
		i := slices.IndexFunc(members, func(m spread.Member) bool { return m.Name == o.instead.name })
		members[i].Store = o.instead.store
	}
	for _, c := range s.Config.Tenants {
		if o.Tenant != "" && c.Name != o.Tenant {
			continue
		}
		do := func() error { return s.repairTenant(ctx, c.Name, members, o, sum) }
		if !o.DryRun {
			do = func() error { return s.repairing(ctx, c.Name, members, o, sum) }
		}
		if err := do(); err != nil {
			return sum, fmt.Errorf("tenant %q: %w", c.Name, err)
		}
	}
	return sum, nil
}

// repairing is repairTenant as an act.
func (s *Site) repairing(ctx context.Context, tenant string, members []spread.Member, o RepairOptions, sum *repo.Repaired) error {
	fields := map[string]string{}
	for name, v := range map[string]string{"dataset": o.Dataset, "fill": o.fill, "drain": o.drain} {
		if v != "" {
			fields[name] = ledger.Text(v)
		}
	}
	before := len(sum.Acts)
	return s.acting(ctx, tenant, ledger.Repair, orNone(fields), func() (map[string]string, error) {
		err := s.repairTenant(ctx, tenant, members, o, sum)
		return map[string]string{"shards": fmt.Sprint(len(sum.Acts) - before)}, err
	})
}

func (s *Site) repairTenant(ctx context.Context, tenant string, members []spread.Member, o RepairOptions, sum *repo.Repaired) error {
	defer s.lease("repair", tenant, "")()
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return err
	}
	r, err := s.Repo(t, members)
	if err != nil {
		return err
	}
	l, err := r.List(ctx)
	if err != nil {
		return err
	}
	datasets, err := datasetsToRepair(l, t, o.Dataset)
	if err != nil {
		return err
	}
	for _, p := range l.Problems {
		sum.Problems = append(sum.Problems, fmt.Sprintf("%s: %s", tenant, p.Text))
	}
	org, err := s.Box.Organisation()
	if err != nil {
		return err
	}
	known, marked := s.loadChecked(t), s.loadMarks(t)
	marked.dropGone(l)
	for _, d := range datasets {
		c := repo.RepairConfig{Dataset: &d, Fill: o.fill, Drain: o.drain, ReadData: o.ReadData, DryRun: o.DryRun, Signer: signer{s.Box.Signer()},
			Incarnation: org.Incarnation, Now: o.Now, Mark: marked.add, Progress: o.Progress,
			Suspect: func(store, key string, attempt int) bool {
				// A repair that died may not have read back what it wrote.
				r, ok := known.get(store, key)
				return ok && !r.good || !ok && attempt > 0 || marked.has(store, key)
			},
			Seen: func(store, key string, good bool) { known.set(store, key, good, o.Now()) }}
		if c.Spool, err = s.spoolOf(t, d); err != nil {
			return err
		}
		got, err := r.Repair(ctx, c)
		if err == nil && !o.DryRun {
			err = s.lockRepaired(ctx, t, r, d, o.Now, got)
		}
		if got != nil {
			add(sum, got)
		}
		if !o.DryRun {
			// What was found counts, however it ended.
			err = errors.Join(err, known.saveNow(), marked.save())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func add(sum, r *repo.Repaired) {
	sum.Packs += r.Packs
	sum.Acts = append(sum.Acts, r.Acts...)
	sum.Written += r.Written
	sum.Left = append(sum.Left, r.Left...)
	sum.Lost += r.Lost
	sum.Away += r.Away
}

// datasetsToRepair are the one that was named, or all that have snapshots, also
// those that the box does not know.
func datasetsToRepair(l *repo.Listing, t box.Tenant, name string) ([]repo.ID, error) {
	if name != "" {
		i := slices.IndexFunc(t.Datasets, func(d box.Dataset) bool { return d.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: it has no dataset %q that was ever backed up", repo.ErrNoSnapshot, name)
		}
		return []repo.ID{repo.ID(t.Datasets[i].ID)}, nil
	}
	var out []repo.ID
	for _, snap := range l.Snapshots {
		if !slices.Contains(out, snap.Dataset) {
			out = append(out, snap.Dataset)
		}
	}
	return out, nil
}

// spoolOf opens a dataset's spool if there is one.
func (s *Site) spoolOf(t box.Tenant, dataset repo.ID) (store.Store, error) {
	path := filepath.Join(s.datasetDir(t, dataset), "spool")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return repo.OpenSpool(path, 0)
}

// FillStore marks a store if it is new and empty, and puts a shard of every
// pack on it that no other store has: its own where that was lost, or a further
// one. It may be stopped and run again.
func (s *Site) FillStore(ctx context.Context, name string, o RepairOptions) (*repo.Repaired, error) {
	c, err := s.configured(name)
	if err != nil {
		return nil, err
	}
	if err := Distinct(s.Config.Stores); err != nil {
		return nil, err
	}
	marker, err := s.marker()
	if err != nil {
		return nil, err
	}
	opened, failed := openStores(ctx, anytime([]config.Store{c}), marker)
	if err := failed[0]; errors.Is(err, ErrNotInitialised) {
		if err := mustBeEmpty(ctx, opened[0]); err != nil {
			return nil, fmt.Errorf("store %q: %w", name, err)
		}
		fresh := freshStore{name, opened[0]}
		if o.DryRun {
			o.instead = &fresh
		} else if err := s.prepare(ctx, fresh); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("store %q: %w", name, err)
	}
	o.fill = name
	return s.Repair(ctx, o)
}

// prepare probes a new store and marks it.
func (s *Site) prepare(ctx context.Context, f freshStore) error {
	if p, ok := f.store.(store.Prober); ok {
		if _, err := p.Probe(ctx); err != nil {
			return fmt.Errorf("store %q: %w", f.name, err)
		}
	}
	err := s.acting(ctx, "", storeAdd, map[string]string{"store": f.name}, func() (map[string]string, error) {
		return nil, s.markStores(ctx, []freshStore{f}, &InitResult{})
	})
	if err != nil {
		return err
	}
	probeNewLock(ctx, s.Config, f.name, time.Now(), s.Log)
	return nil
}

// DrainStore puts what a store has on the others, so that it may be taken away.
// Nothing on it changes; it need not even be there.
func (s *Site) DrainStore(ctx context.Context, name string, o RepairOptions) (*repo.Repaired, error) {
	if _, err := s.configured(name); err != nil {
		return nil, err
	}
	if len(s.Config.Stores) == 1 {
		return nil, fmt.Errorf("%w: %q is the only store", ErrRefused, name)
	}
	o.drain = name
	return s.Repair(ctx, o)
}

func (s *Site) configured(name string) (config.Store, error) {
	i := slices.IndexFunc(s.Config.Stores, func(c config.Store) bool { return c.Name == name })
	if i < 0 {
		return config.Store{}, exit.With(exit.Usage, fmt.Errorf("%s has no store %q", s.Config.Path, name))
	}
	return s.Config.Stores[i], nil
}
