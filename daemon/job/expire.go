package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/expire"
	"strongroom/repo/retain"
	"strongroom/repo/spread"
)

// ExpireResult is what an expiry does, or would do.
type ExpireResult struct {
	Tenant      string             `json:"tenant"`
	Dataset     string             `json:"dataset"`
	Frozen      []string           `json:"frozen"`
	Generations []ExpireGeneration `json:"generations"`
	Bury        []expire.Burial    `json:"bury"`
	Carry       []expire.Carry     `json:"carry"`
	Delete      []expire.Deletion  `json:"delete"`
	Waiting     []string           `json:"waiting"`
	Stuck       []string           `json:"stuck"`
}

// ExpireGeneration is a generation, what it costs, and why it stays.
type ExpireGeneration struct {
	Generation string           `json:"generation"`
	Epoch      uint32           `json:"epoch"`
	Objects    int              `json:"objects"`
	Bytes      int64            `json:"bytes"` // on all stores together
	Kept       []string         `json:"kept"`  // why it stays
	Snapshots  []ExpireSnapshot `json:"snapshots"`
}

// ExpireSnapshot is a snapshot and which rules keep it.
type ExpireSnapshot struct {
	Snapshot string    `json:"snapshot"`
	Sequence uint32    `json:"sequence"` // of a copy, its original's
	Time     time.Time `json:"time"`
	Label    string    `json:"label,omitempty"`
	Keep     bool      `json:"keep"`
	Reasons  []string  `json:"reasons"`
	Gone     string    `json:"gone,omitempty"`
}

// ExpireOptions are the choices of one expiry.
type ExpireOptions struct {
	DryRun bool
	// Plan is told the plan before anything is done.
	Plan func(*ExpireResult) error
	Now  func() time.Time // nil: the box's clock
}

// Expire buries generations that the dataset's policy does not keep, and
// deletes what was buried long enough ago. A frozen dataset is ErrRefused.
func (s *Site) Expire(ctx context.Context, tenant, dataset string, o ExpireOptions) error {
	if o.DryRun {
		_, err := s.expire(ctx, tenant, dataset, o)
		return err
	}
	return s.acting(ctx, tenant, ledger.Expire, map[string]string{"dataset": dataset}, func() (map[string]string, error) {
		r, err := s.expire(ctx, tenant, dataset, o)
		if r == nil {
			return nil, err
		}
		return map[string]string{"buried": fmt.Sprint(len(r.Bury)), "deleted": fmt.Sprint(len(r.Delete))}, err
	})
}

func (s *Site) expire(ctx context.Context, tenant, dataset string, o ExpireOptions) (*ExpireResult, error) {
	c, t, id, err := s.expireConfig(ctx, tenant, dataset, o.Now)
	if err != nil {
		return nil, err
	}
	// No writer of the dataset beside it, nor another expiry.
	lock, err := repo.Lock(c.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	p, err := expire.Prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	r := planned(tenant, dataset, p)
	if err := o.Plan(r); err != nil {
		return nil, err
	}
	if !o.DryRun {
		if err := p.Do(ctx); err != nil {
			return r, err
		}
		for _, text := range p.Later {
			s.Log("waiting: %s", text)
		}
		if err := s.dropKeys(t, id, p.Gone()); err != nil {
			return nil, err
		}
	}
	switch {
	case len(r.Frozen) > 0:
		return r, fmt.Errorf("%w: %s/%s is frozen: %s", ErrRefused, tenant, dataset, strings.Join(r.Frozen, "; "))
	case len(r.Stuck) > 0:
		return r, fmt.Errorf("%w: %s", repo.ErrIncomplete, strings.Join(r.Stuck, "; "))
	}
	return r, nil
}

// Explain says what an expiry would do and why, without keeping anybody from
// the dataset.
func (s *Site) Explain(ctx context.Context, tenant, dataset string) (*ExpireResult, error) {
	c, _, _, err := s.expireConfig(ctx, tenant, dataset, nil)
	if err != nil {
		return nil, err
	}
	p, err := expire.Prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	return planned(tenant, dataset, p), nil
}

// known finds a dataset that was backed up before, and its directory.
func (s *Site) known(tenant, dataset string) (config.Dataset, box.Tenant, repo.ID, string, error) {
	c, t, err := s.Tenant(tenant)
	if err != nil {
		return config.Dataset{}, t, repo.ID{}, "", err
	}
	d, ok := c.Dataset(dataset)
	if !ok {
		return d, t, repo.ID{}, "", exit.With(exit.Usage, fmt.Errorf("tenant %q has no dataset %q in %s", tenant, dataset, s.Config.Path))
	}
	// Box.Dataset would make a pseudonym.
	i := slices.IndexFunc(t.Datasets, func(d box.Dataset) bool { return d.Name == dataset })
	if i < 0 {
		return d, t, repo.ID{}, "", fmt.Errorf("%w: %s/%s was never backed up", repo.ErrNoSnapshot, tenant, dataset)
	}
	id := repo.ID(t.Datasets[i].ID)
	dir := s.datasetDir(t, id)
	return d, t, id, dir, os.MkdirAll(dir, 0o700)
}

func (s *Site) expireConfig(ctx context.Context, tenant, dataset string, now func() time.Time) (expire.Config, box.Tenant, repo.ID, error) {
	fail := func(err error) (expire.Config, box.Tenant, repo.ID, error) {
		return expire.Config{}, box.Tenant{}, repo.ID{}, err
	}
	d, t, id, dir, err := s.known(tenant, dataset)
	if err != nil {
		return fail(err)
	}
	members, err := s.Stores(ctx, true)
	if err != nil {
		return fail(err)
	}
	r, err := s.Repo(t, members)
	if err != nil {
		return fail(err)
	}
	org, err := s.Box.Organisation()
	if err != nil {
		return fail(err)
	}
	holds, err := s.holdsOn(tenant, dataset)
	if err != nil {
		return fail(err)
	}
	spool, err := repo.OpenSpool(filepath.Join(dir, "spool"), 0)
	if err != nil {
		return fail(err)
	}
	deleters, err := s.deleters(members)
	if err != nil {
		return fail(err)
	}
	if now == nil {
		now = time.Now
	}
	policy, grace := policyOf(d)
	return expire.Config{Repo: r, Dataset: id, Dir: dir, Spool: spool, Policy: policy, Grace: grace, Holds: holds, Verdict: s.verdict(t),
		Signer: signer{s.Box.Signer()}, Incarnation: org.Incarnation, Deleters: deleters, Now: now}, t, id, nil
}

func policyOf(d config.Dataset) (retain.Policy, time.Duration) {
	k := d.Keep
	if k == nil {
		return retain.Policy{}, config.DefaultGrace
	}
	grace := config.DefaultGrace
	if k.Grace != nil {
		grace = k.Grace.Duration
	}
	return retain.Policy{Last: k.Last, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly, Yearly: k.Yearly, Within: k.Within.Duration, Labels: k.Labels}, grace
}

// deleters opens what may delete from each store: a directory by the rights of
// this process, a bucket by its own credentials.
func (s *Site) deleters(members []spread.Member) ([]expire.Deleter, error) {
	out := make([]expire.Deleter, len(members))
	for i, c := range s.Config.Stores {
		st := members[i].Store
		if c.Kind == "s3" {
			if c.DeleteAccessKeyFile == "" {
				continue
			}
			spec := SpecOf(c)
			spec.AccessKeyFile, spec.SecretKeyFile = c.DeleteAccessKeyFile, c.DeleteSecretKeyFile
			var err error
			if st, err = spec.Open(nil); err != nil {
				return nil, fmt.Errorf("store %q: credentials that delete: %w", c.Name, err)
			}
		}
		if d, ok := st.(expire.Deleter); ok {
			out[i] = d
		}
	}
	return out, nil
}

// dropKeys erases the keys of generations of which no store has anything left:
// there is nothing that they could open.
func (s *Site) dropKeys(t box.Tenant, id repo.ID, gone []repo.ID) error {
	for _, g := range gone {
		err := s.Box.DiscardGeneration(t.ID, keys.DatasetID(id), keys.GenerationID(g))
		if err != nil && !errors.Is(err, box.ErrNoKey) {
			return fmt.Errorf("key of a generation that is gone: %w", err)
		}
	}
	return nil
}

func planned(tenant, dataset string, p *expire.Plan) *ExpireResult {
	r := &ExpireResult{Tenant: tenant, Dataset: dataset, Frozen: orEmpty(p.Frozen), Generations: []ExpireGeneration{}, Bury: orEmpty(p.Burials),
		Carry: orEmpty(p.Carries), Delete: orEmpty(p.Deletions), Waiting: orEmpty(p.Waiting), Stuck: orEmpty(p.Stuck)}
	for _, f := range p.Fates {
		g := ExpireGeneration{Generation: f.ID, Epoch: f.Epoch, Objects: f.Objects, Bytes: f.Bytes, Kept: orEmpty(f.Kept), Snapshots: []ExpireSnapshot{}}
		for _, d := range f.Snapshots {
			g.Snapshots = append(g.Snapshots, ExpireSnapshot{Snapshot: d.ID, Sequence: d.Sequence, Time: d.When(), Label: d.Label,
				Keep: d.Keep(), Reasons: orEmpty(d.Reasons), Gone: d.Gone})
		}
		r.Generations = append(r.Generations, g)
	}
	return r
}

// orEmpty makes JSON say [] and not null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Accept records that the anomalies of a snapshot are right, or that its time is
// known to be wrong, so that they freeze its dataset no longer. It returns the
// snapshot's ID and what was accepted.
func (s *Site) Accept(ctx context.Context, tenant, dataset, snapshot, reason string, now time.Time) (string, []string, error) {
	if strings.TrimSpace(reason) == "" || len(reason) > 500 {
		return "", nil, exit.With(exit.Usage, errors.New("--reason must say why the anomaly is right, in at most 500 bytes"))
	}
	var id string
	var what []string
	fields := map[string]string{"dataset": ledger.Text(dataset), "snapshot": ledger.Text(snapshot), "reason": ledger.Text(reason)}
	err := s.acting(ctx, tenant, acceptAct, fields, func() (_ map[string]string, err error) {
		id, what, err = s.accept(ctx, tenant, dataset, snapshot, reason, now)
		return nil, err
	})
	return id, what, err
}

func (s *Site) accept(ctx context.Context, tenant, dataset, snapshot, reason string, now time.Time) (string, []string, error) {
	_, _, id, dir, err := s.known(tenant, dataset)
	if err != nil {
		return "", nil, err
	}
	l, _, err := s.Listing(ctx, tenant)
	if err != nil {
		return "", nil, err
	}
	snap, err := l.Find(id, snapshot)
	if err != nil {
		return "", nil, err
	}
	var what []string
	if snap.Entry != nil {
		what = append(what, snap.Entry.Anomalies...)
	}
	if as, wrong := expire.Redated(l, snap, now); wrong {
		what = append(what, fmt.Sprintf("its time, %s: it counts as %s", snap.Time.UTC().Format(time.DateTime), as.UTC().Format(time.DateTime)))
	}
	if len(what) == 0 {
		return "", nil, fmt.Errorf("%w: snapshot %s has no anomaly, and its time is in line with the others", ErrRefused, snap.ID())
	}
	lock, err := repo.Lock(dir)
	if err != nil {
		return "", nil, err
	}
	defer lock.Close()
	state, err := expire.ReadState(dir)
	if err != nil {
		return "", nil, err
	}
	state.Accepted[snap.HexHash()] = reason
	return snap.ID(), what, state.Write(dir)
}
