package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/storetest"
)

// powered is a store that does not answer once its power is off.
type powered struct {
	store.Store
	power *storetest.Power
}

func (s powered) lost() error {
	if s.power.Off() {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, storetest.ErrNoPower)
	}
	return nil
}

func (s powered) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if err := s.lost(); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, sum)
}

func (s powered) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := s.lost(); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, key, off, n)
}

func (s powered) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := s.lost(); err != nil {
		return store.Info{}, err
	}
	return s.Store.Stat(ctx, key)
}

func (s powered) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for i, err := range s.Store.List(ctx, prefix) {
			if lost := s.lost(); lost != nil {
				yield(store.Info{}, lost)
				return
			}
			if !yield(i, err) || err != nil {
				return
			}
		}
	}
}

// A grid is a world whose stores and spool are disks that forget.
type grid struct {
	*world
	base  string
	disks []*storetest.Disk // the stores', then the spool's
}

const gridSize = 400 << 10

// gridWeek is what the stream holds in a week; a third of it changes.
func gridWeek(n int) []byte {
	data := random(gridSize, 1)
	copy(data[gridSize/3*(n%3):], random(gridSize/3, byte(10+n)))
	return data
}

// openGrid opens a world at a place on disk, as another process does. Member i
// is fed by power[i], the spool by the last.
func openGrid(t *testing.T, base string, power []*storetest.Power) *grid {
	t.Helper()
	g := &grid{base: base, world: &world{t: t, signer: newTestSigner(1), state: filepath.Join(base, "state"), inc: 1, per: 3, small: 100 << 10,
		clock: time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)}}
	g.r = &Repo{Tenant: ID{7}, Catalogue: testKey{8}, Trust: g.signer.trust}
	open := func(path string, p *storetest.Power) store.Store {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := storetest.NewDisk(path, p)
		if err != nil {
			t.Fatal(err)
		}
		s, err := dir.Open(dir.Config{Path: path, System: d})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		g.disks = append(g.disks, d)
		return powered{s, p}
	}
	for i := range len(power) - 1 {
		d := g.path(i)
		g.dirs = append(g.dirs, d)
		f := storetest.NewFaulty(open(d, power[i]))
		g.faulty = append(g.faulty, f)
		g.r.Members = append(g.r.Members, spread.Member{Name: fmt.Sprintf("store%d", i), Store: f})
	}
	at := filepath.Join(g.state, "spool")
	g.keep = &Spool{Store: open(at, power[len(power)-1]), path: at}
	return g
}

func (g *grid) path(i int) string { return filepath.Join(g.base, fmt.Sprintf("store%d", i)) }

func (g *grid) saveWeek(n int) (*Saved, error) {
	ctx := context.Background()
	c := g.config()
	c.Keys = fixedKeys{}
	s, err := g.r.Begin(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := s.Add(ctx, StreamSpec{Name: "a", Kind: "opaque"}, bytes.NewReader(gridWeek(n))); err != nil {
		s.Abort(err)
		return nil, err
	}
	return s.Commit(ctx, Commit{Catalogue: Catalogue{Dataset: "crm", Label: fmt.Sprint(n)}})
}

func onGrid(n int) []*storetest.Power { // each of its own, never cut
	var out []*storetest.Power
	for range n + 1 {
		out = append(out, &storetest.Power{})
	}
	return out
}

// mustKeep restores all that is listed and wants those weeks among it.
func (g *grid) mustKeep(when string, weeks map[int]bool) {
	g.t.Helper()
	ctx := context.Background()
	l := g.list()
	found := map[int]bool{}
	for _, s := range l.Snapshots {
		key, _ := fixedKeys{}.Generation(ID{}, ID{}, s.Generation)
		var week int
		fmt.Sscan(s.Entry.Label, &week)
		o, err := l.Open(ctx, s, key)
		if err != nil {
			g.t.Fatalf("%s: snapshot of week %d: %v", when, week, err)
		}
		r, err := o.Read(ctx, "a", 0, -1)
		if err != nil {
			g.t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, gridWeek(week)) {
			g.t.Fatalf("%s: the snapshot of week %d does not restore: %v", when, week, err)
		}
		found[week] = true
	}
	for n := range weeks {
		if !found[n] {
			g.t.Fatalf("%s: the snapshot of week %d is gone; problems %q", when, n, l.texts())
		}
	}
}

// A cutting is a kind of work during which the power goes.
type cutting struct {
	name   string
	stores int
	weeks  int         // that are there before
	spoil  func(*grid) // what happened to the stores before
	work   func(*grid) error
	commit int // the week that is committed when work returns nil
}

var cuttings = []cutting{
	{"the first backup on one store", 1, 0, nil, func(g *grid) error { _, err := g.saveWeek(1); return err }, 1},
	{"the first backup on three stores", 3, 0, nil, func(g *grid) error { _, err := g.saveWeek(1); return err }, 1},
	{"a backup on two stores", 2, 2, nil, func(g *grid) error { _, err := g.saveWeek(3); return err }, 3},
	{"a backup that begins a generation", 3, 3, nil, func(g *grid) error { _, err := g.saveWeek(4); return err }, 4},
	{"a backup that finishes another", 3, 1, func(g *grid) {
		g.faulty[1].Down()
		if _, err := g.saveWeek(2); err != nil {
			g.t.Fatal(err)
		}
		g.faulty[1].Up()
	}, func(g *grid) error { _, err := g.saveWeek(3); return err }, 3},
	{"a repair of a lost store", 3, 2, func(g *grid) { g.wipe(1) }, (*grid).mend, 0},
	{"a repair of damage", 4, 2, func(g *grid) {
		for i := range 2 {
			p := g.objects(i, "s-")[0]
			replaceFile(g.t, p, append([]byte{0}, readFile(g.t, p)[1:]...))
		}
	}, (*grid).mend, 0},
}

func (g *grid) mend() error {
	r, err := g.r.Repair(context.Background(), g.repairConfig(nil))
	if err == nil && !r.Whole() {
		err = fmt.Errorf("not whole: %v", r.Left)
	}
	return err
}

// begin makes the world as it is before the work.
func (c cutting) begin(t *testing.T) string {
	base := fastDir(t)
	g := openGrid(t, base, onGrid(c.stores))
	for n := 1; n <= c.weeks; n++ {
		if _, err := g.saveWeek(n); err != nil {
			t.Fatal(err)
		}
	}
	if c.spoil != nil {
		c.spoil(g)
	}
	return base
}

// At any moment the power of the house goes, or of one store, and what was not
// synced is lost, in any order or in part: what a run said it has committed
// restores, whatever is listed restores, and the next run brings all of it to
// where it would have been.
func TestPowerCut(t *testing.T) {
	starts, total := make([]string, len(cuttings)), make([]int, len(cuttings))
	for i, c := range cuttings {
		starts[i] = c.begin(t)
		p := &storetest.Power{}
		g := openGrid(t, copyDir(t, starts[i]), sharing(c.stores, p))
		p.CutAt(0, false)
		if err := c.work(g); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		total[i] = p.Seen()
	}
	storetest.CountRuns(t, "power cut in backup, commit, repair").Seeds(75, 1500, func(t *testing.T, seed uint64) {
		i := int(seed) % len(cuttings)
		cuttings[i].cut(t, starts[i], total[i], rand.New(rand.NewPCG(seed, 2)))
	})
}

// sharing is one power for the house.
func sharing(stores int, p *storetest.Power) []*storetest.Power {
	out := make([]*storetest.Power, stores+1)
	for i := range out {
		out[i] = p
	}
	return out
}

func (c cutting) cut(t *testing.T, start string, total int, chance *rand.Rand) {
	base, p := copyDir(t, start), &storetest.Power{}
	feeds, hit := sharing(c.stores, p), -1
	if c.stores > 1 && chance.IntN(4) == 0 { // one store of several
		hit = chance.IntN(c.stores)
		feeds = onGrid(c.stores)
		feeds[hit], total = p, max(total/(c.stores+1), 1)
	}
	g := openGrid(t, base, feeds)
	at, done := 1+chance.IntN(total), chance.IntN(2) == 0
	p.CutAt(at, done)
	err := c.work(g)
	when := fmt.Sprintf("%s, store %d, power cut at operation %d of %d (done: %v; the run: %v)", c.name, hit, at, total, done, err)
	must := map[int]bool{}
	for n := 1; n <= c.weeks; n++ {
		must[n] = true
	}
	if err == nil && c.commit > 0 {
		must[c.commit] = true
	}
	after := fastDir(t)
	survive(t, g, after, hit, chance)
	if hit < 0 {
		forget(t, filepath.Join(after, "state"), filepath.Join(start, "state"), chance)
	}
	g = openGrid(t, after, onGrid(c.stores))
	g.mustKeep(when, must)
	// A later run converges by itself.
	if c.commit == 0 {
		if err := g.mend(); err != nil {
			t.Fatalf("%s: the next repair: %v", when, err)
		}
	}
	next := c.weeks + 2
	saved, err := g.saveWeek(next)
	if err != nil || saved.State() != "complete" {
		t.Fatalf("%s: the next backup: %+v, %v", when, saved, err)
	}
	must[next] = true
	g.mustKeep(when+", then again", must)
	if c.commit > 0 {
		g.mustBeWhole(when)
	} else if m := g.list().Margin(g.list().Snapshots[0]); m < 1 {
		t.Errorf("%s: margin %d after a repair", when, m)
	}
}

// survive takes over what is left: of every disk, or of one.
func survive(t *testing.T, g *grid, to string, hit int, chance *rand.Rand) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(g.base)); err != nil {
		t.Fatal(err)
	}
	for i, d := range g.disks {
		path := filepath.Join(to, "state", "spool")
		if i < len(g.dirs) {
			path = filepath.Join(to, fmt.Sprintf("store%d", i))
		}
		if hit >= 0 && i != hit {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := d.Survive(path, chance); err != nil {
			t.Fatal(err)
		}
	}
}

// forget does to the box's own files what is allowed to become of them: what is
// disposable is gone, torn or as it was before the run.
func forget(t *testing.T, state, before string, chance *rand.Rand) {
	t.Helper()
	switch chance.IntN(4) {
	case 0: // all of it is as it was
	case 1: // the end of the journal is torn
		name := filepath.Join(state, journalName)
		if b, err := os.ReadFile(name); err == nil && len(b) > 0 {
			replaceFile(t, name, b[:chance.IntN(len(b))])
		}
	case 2: // no map, no base cache, no journal
		names, err := os.ReadDir(state)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if n.Name() != "spool" && n.Name() != "lock" && n.Name() != headName {
				if err := os.RemoveAll(filepath.Join(state, n.Name())); err != nil {
					t.Fatal(err)
				}
			}
		}
	case 3: // the head was renamed, and the directory not synced
		if b, err := os.ReadFile(filepath.Join(before, headName)); err == nil {
			replaceFile(t, filepath.Join(state, headName), b)
		}
	}
}
