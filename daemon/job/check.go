package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"strongroom/custody/keys/box"
	"strongroom/erasure"
	"strongroom/repo"
	"strongroom/repo/spread"
)

// CheckOptions say how closely a check looks.
type CheckOptions struct {
	Tenant string // "": all
	// Sample reads a random column of every shard and compares it with the
	// code.
	Sample bool
	// ReadData is how many percent of all bytes are read, those first that were
	// read longest ago; 0: none.
	ReadData int
	Now      func() time.Time
	Progress func(done, total int64)
}

// CheckResult is what a check found.
type CheckResult struct {
	Tenants   int      `json:"tenants"`
	Snapshots int      `json:"snapshots"`
	Packs     int      `json:"packs"`
	Shards    int      `json:"shards"`
	Good      int      `json:"good"`
	Objects   int      `json:"objects"`  // read whole
	Marked    int      `json:"marked"`   // replaced by a repair, to be deleted
	Read      int64    `json:"read"`     // bytes
	Problems  []string `json:"problems"` // each a line
	Lost      int      `json:"lost"`     // packs that cannot be read any more
	Away      int      `json:"away"`     // packs that cannot be read until a store is back
	Gone      int      `json:"gone"`     // snapshots that this box committed last and no store has
	Margin    int      `json:"margin"`   // how many stores may be lost before a snapshot is, the worst one

	Locks     []TenantStoreLocks `json:"locks"`     // how what is needed is locked, on stores that lock
	Immutable []StoreImmutable   `json:"immutable"` // what the last probe of each such store found
	Datasets  []DatasetChecked   `json:"datasets"`
}

// DatasetChecked is how safe a check found a dataset's snapshots.
type DatasetChecked struct {
	Tenant    string `json:"tenant"`
	Dataset   string `json:"dataset"`
	Snapshots int    `json:"snapshots"`
	// Margin is how many stores may be lost before a snapshot is, the worst one;
	// Planned what such a snapshot should bear on these stores.
	Margin  int `json:"margin"`
	Planned int `json:"planned"`
}

// Short reports whether it bears less than planned.
func (d DatasetChecked) Short() bool { return d.Margin < d.Planned }

// Check compares what the stores hold with the manifests. It needs no
// generation key.
func (s *Site) Check(ctx context.Context, o CheckOptions) (*CheckResult, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &CheckResult{Problems: []string{}, Margin: max(len(s.Config.Stores)-1, 0), Locks: []TenantStoreLocks{}, Immutable: []StoreImmutable{}, Datasets: []DatasetChecked{}}
	if err := s.checkImmutable(o.Now(), r); err != nil {
		return nil, err
	}
	for _, c := range s.Config.Tenants {
		if o.Tenant != "" && c.Name != o.Tenant {
			continue
		}
		if err := s.checkTenant(ctx, c.Name, o, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (s *Site) checkTenant(ctx context.Context, tenant string, o CheckOptions, r *CheckResult) error {
	defer s.lease("check", tenant, "")()
	l, t, err := s.Listing(ctx, tenant)
	if err != nil {
		return err
	}
	r.Tenants++
	for _, p := range l.Problems {
		r.Problems = append(r.Problems, fmt.Sprintf("%s: %s", t.Name, p.Text))
		if b := (*behindError)(nil); errors.As(p.Err, &b) && l.Reached == len(s.Config.Stores) {
			r.Gone++
		}
	}
	k := &checking{s: s, o: o, l: l, tenant: t, r: r, checked: s.loadChecked(t), marks: s.loadMarks(t), known: map[erasure.ID]bool{}, verdicts: map[objectAt]spread.Verdict{}}
	for _, snap := range l.Snapshots {
		r.Snapshots++
		if len(snap.Stores) < l.Reached {
			r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s is %s", t.Name, snap.ID(), s.State(l, snap)))
		}
		k.add(snap)
	}
	if err := k.run(ctx); err != nil {
		return err
	}
	s.spoil(t, l) // what was found bad just now bears nothing
	if err := s.checkLocks(ctx, t, l, o, r); err != nil {
		return err
	}
	return r.measure(l, t)
}

// measure finds the margins. A snapshot that was coded for fewer stores than
// there are now need not bear more than it was made for.
func (r *CheckResult) measure(l *repo.Listing, t box.Tenant) error {
	planned, err := erasure.Plan(len(l.Inventory().Members()))
	if err != nil {
		return err
	}
	for _, snap := range l.Snapshots {
		margin, bears := l.Margin(snap), planned.N-planned.K
		for _, p := range snap.Packs {
			bears = min(bears, p.Geometry.N-p.Geometry.K)
		}
		r.Margin = min(r.Margin, margin)
		i := slices.IndexFunc(t.Datasets, func(d box.Dataset) bool { return repo.ID(d.ID) == snap.Dataset })
		if i < 0 {
			continue // of one whose name this box does not have
		}
		k := slices.IndexFunc(r.Datasets, func(d DatasetChecked) bool { return d.Tenant == t.Name && d.Dataset == t.Datasets[i].Name })
		if k < 0 {
			r.Datasets = append(r.Datasets, DatasetChecked{Tenant: t.Name, Dataset: t.Datasets[i].Name, Margin: margin, Planned: bears})
			k = len(r.Datasets) - 1
		}
		d := &r.Datasets[k]
		d.Snapshots++
		if margin-bears < d.Margin-d.Planned { // the worst one
			d.Margin, d.Planned = margin, bears
		}
	}
	return nil
}

// checking is the check of one tenant.
type checking struct {
	s       *Site
	o       CheckOptions
	l       *repo.Listing
	tenant  box.Tenant
	r       *CheckResult
	checked *checked
	marks   *marks

	packs    []checkedPack
	known    map[erasure.ID]bool         // encodings in packs
	verdicts map[objectAt]spread.Verdict // of what was read in this run
}

// checkedPack is a pack and the first snapshot that needs it.
type checkedPack struct {
	spread.Pack
	snapshot string
	reader   *spread.Reader
	prefix   string
}

// objectAt is an object on a store.
type objectAt struct {
	member int
	key    string
}

func (k *checking) name(c spread.Copy) string { return k.l.Inventory().Members()[c.Member].Name }

func (k *checking) add(snap *repo.Snapshot) {
	reader := k.l.PackReader(snap)
	for _, p := range snap.Packs {
		if !k.known[p.Encode] {
			k.known[p.Encode] = true
			k.packs = append(k.packs, checkedPack{p.Pack, snap.ID(), reader, reader.Prefix()})
		}
	}
}

func (k *checking) run(ctx context.Context) error {
	if k.o.ReadData > 0 {
		if err := k.readData(ctx); err != nil {
			return err
		}
	}
	if k.o.Sample {
		if err := k.sample(ctx); err != nil {
			return err
		}
	}
	for _, p := range k.packs {
		h := p.reader.Judge(p.Pack, k.look)
		k.r.add(k.tenant.Name, p.snapshot, h)
		k.second(p, h)
	}
	return ctx.Err()
}

// look says what is known of a copy.
func (k *checking) look(c spread.Copy) spread.Verdict {
	if v, read := k.verdicts[objectAt{c.Member, c.Key}]; read {
		v.Read = 0 // counted when it was
		return v
	}
	if !c.Spoiled {
		return spread.Verdict{State: spread.Good} // it is listed with its length
	}
	v := spread.Verdict{State: spread.Damaged, Detail: "marked by a repair"}
	if r, ok := k.checked.get(k.name(c), c.Key); ok && !r.good {
		v.Detail = fmt.Sprintf("found at %s", time.Unix(int64(r.at), 0).UTC().Format("2006-01-02 15:04:05Z"))
	}
	return v
}

// second tells of bad copies of shards that have good ones. Those that a repair
// has seen are marked and no problem.
func (k *checking) second(p checkedPack, h spread.Health) {
	for _, c := range k.l.Inventory().Copies(p.prefix, p.Pack) {
		v := k.look(c)
		switch {
		case k.marks.has(k.name(c), c.Key):
			k.r.Marked++
		case v.State == spread.Damaged && h.Shard(c.Index).State == spread.Good:
			k.r.Problems = append(k.r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v: shard %d on %q has a copy that is damaged (%s) beside a good one", k.tenant.Name, p.snapshot, p.ID, c.Index, k.name(c), v.Detail))
		}
	}
}

// readData reads what was read longest ago, and what was bad then before that.
func (k *checking) readData(ctx context.Context) error {
	tasks := k.tasks()
	var total, done int64
	for _, t := range tasks {
		total += t.Pack.ShardLen()
	}
	total = (total*int64(k.o.ReadData) + 99) / 100
	n, sum := 0, int64(0)
	for n < len(tasks) && sum < total {
		sum += tasks[n].Pack.ShardLen()
		n++
	}
	err := k.l.Inventory().Scrubber().Run(ctx, tasks[:n], func(t spread.Task, v spread.Verdict) error {
		k.verdicts[objectAt{t.Member, t.Key}] = v
		k.r.Read += v.Read
		if v.State != spread.Unknown {
			k.r.Objects++
			k.checked.set(k.name(t.Copy), t.Key, v.State == spread.Good, k.o.Now())
		}
		if done += t.Pack.ShardLen(); k.o.Progress != nil {
			k.o.Progress(done, sum)
		}
		return k.checked.save(k.o.Now())
	})
	// What was read counts, also when the rest was not.
	return errors.Join(err, k.checked.saveNow())
}

// tasks are all copies in the order in which they are to be read.
func (k *checking) tasks() []spread.Task {
	type dated struct {
		spread.Task
		at uint32 // 0: bad or never read
	}
	var all []dated
	live := map[checkedID]bool{}
	for _, p := range k.packs {
		for _, c := range k.l.Inventory().Copies(p.prefix, p.Pack) {
			name := k.name(c)
			live[checkedIDOf(name, c.Key)] = true
			if k.marks.has(name, c.Key) {
				continue // it is known to be bad and waits to be deleted
			}
			d := dated{Task: spread.Task{Pack: p.Pack, Copy: c}}
			if r, ok := k.checked.get(name, c.Key); ok && r.good {
				d.at = r.at
			}
			all = append(all, d)
		}
	}
	if k.l.Reached == len(k.s.Config.Stores) {
		k.checked.keepOnly(live)
	}
	slices.SortStableFunc(all, func(a, b dated) int {
		if a.Spoiled != b.Spoiled {
			return map[bool]int{true: -1, false: 1}[a.Spoiled]
		}
		return cmp.Compare(a.at, b.at)
	})
	out := make([]spread.Task, len(all))
	for i, d := range all {
		out[i] = d.Task
	}
	return out
}

// sample reads a random column of every pack.
func (k *checking) sample(ctx context.Context) error {
	samplers := map[string]*spread.Sampler{}
	for i, p := range k.packs {
		if samplers[p.prefix] == nil {
			samplers[p.prefix] = k.l.Inventory().Sampler(p.prefix)
		}
		got, err := samplers[p.prefix].Column(ctx, p.Pack, rand.IntN(p.Header(0).Columns()))
		if err != nil {
			return err
		}
		k.r.Read += got.Read
		for _, f := range got.Wrong {
			k.verdicts[objectAt{f.Member, f.Key}] = f.Verdict
			k.checked.set(k.name(f.Copy), f.Key, false, k.o.Now())
		}
		if got.Doubt != "" {
			k.r.Problems = append(k.r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v: %s; check --read-data reads all of it", k.tenant.Name, p.snapshot, p.ID, got.Doubt))
		}
		if k.o.Progress != nil {
			// What is left is estimated from what the packs so far took.
			k.o.Progress(k.r.Read, k.r.Read/int64(i+1)*int64(len(k.packs)))
		}
	}
	return k.checked.saveNow()
}

func (r *CheckResult) add(tenant, snapshot string, h spread.Health) {
	r.Packs++
	unknown := 0
	for _, sh := range h.Shards {
		r.Shards++
		switch sh.State {
		case spread.Good:
			r.Good++
			continue
		case spread.Unknown: // that its store is away has been said once
			unknown++
			continue
		}
		text := fmt.Sprintf("%s: snapshot %s: pack %v: shard %d", tenant, snapshot, h.Pack, sh.Index)
		if sh.Store != "" {
			text += fmt.Sprintf(" on %q", sh.Store)
		}
		text += fmt.Sprintf(" is %s", sh.State)
		if sh.Detail != "" {
			text += ": " + sh.Detail
		}
		r.Problems = append(r.Problems, text)
	}
	if h.Lost() && h.Good+unknown >= h.Need {
		r.Away++
		r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v cannot be read now: %d good shards of the %d needed, %d on stores that are away", tenant, snapshot, h.Pack, h.Good, h.Need, unknown))
	} else if h.Lost() {
		r.Lost++
		r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v is lost: %d good shards of the %d needed", tenant, snapshot, h.Pack, h.Good, h.Need))
	}
}
