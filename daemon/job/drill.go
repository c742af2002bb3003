package job

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/custody/receipt"
	"strongroom/daemon/config"
	"strongroom/daemon/drill"
	"strongroom/daemon/drill/sandbox"
	"strongroom/daemon/walls"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/spec"
	"strongroom/source"
	"strongroom/source/files/publish"
	"strongroom/source/loader"
)

// DrillOptions are the choices of one drill.
type DrillOptions struct {
	Steps   []string // of receipt.Names; nil: all but the degraded one
	Without []string // stores that are withheld
	// From are stores to read from instead of those of the configuration, as
	// recover takes them: media:/path for an offline medium.
	From  []string
	Fault string // put in on purpose
	Tool  string
	// Released opens the snapshot of a generation whose key is not on this box.
	Released GenerationOpener
}

// A drilling is one drill being planned and done.
type drilling struct {
	s       *Site
	o       DrillOptions
	t       box.Tenant
	dataset string
	cfg     config.Dataset
	members []spread.Member // with those withheld absent
	list    *repo.Listing
	snap    *repo.Snapshot
	started time.Time
}

// Drill restores a snapshot in a sandbox, compares it with what was recorded,
// and files the signed receipt, whatever it says.
func (s *Site) Drill(ctx context.Context, tenant, dataset, snapshot string, o DrillOptions) (*receipt.Receipt, error) {
	defer s.lease("drill", tenant, dataset)()
	fields := map[string]string{"dataset": dataset}
	if o.Fault != "" {
		fields["must-fail"] = o.Fault
	}
	var r *receipt.Receipt
	err := s.acting(ctx, tenant, ledger.Drill, fields, func() (came map[string]string, err error) {
		if r, err = s.drill(ctx, tenant, dataset, snapshot, o); err != nil {
			return nil, err
		}
		return s.file(r)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s *Site) drill(ctx context.Context, tenant, dataset, snapshot string, o DrillOptions) (*receipt.Receipt, error) {
	d := &drilling{s: s, o: o, dataset: dataset, started: time.Now()}
	if err := d.find(ctx, tenant, snapshot); err != nil {
		return nil, err
	}
	p, err := d.plan(ctx)
	if err != nil {
		return nil, err
	}
	r, err := drill.Run(ctx, p)
	if errors.Is(err, drill.ErrRefused) || errors.Is(err, drill.ErrFault) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return r, err
}

// find lists what the stores under test show, and picks the snapshot.
func (d *drilling) find(ctx context.Context, tenant, snapshot string) error {
	c, t, err := d.s.Tenant(tenant)
	if err != nil {
		return err
	}
	d.t = t
	d.cfg, _ = c.Dataset(d.dataset) // one that is configured no more can be drilled
	all, err := d.stores(ctx)
	if err != nil {
		return err
	}
	if d.members, err = withhold(all, d.o.Without); err != nil {
		return err
	}
	if d.list, err = d.listing(ctx, d.members); err != nil {
		return err
	}
	i := slices.IndexFunc(t.Datasets, func(b box.Dataset) bool { return b.Name == d.dataset })
	if i < 0 {
		return fmt.Errorf("%w: tenant %q has no dataset %q that was ever backed up", repo.ErrNoSnapshot, tenant, d.dataset)
	}
	id := repo.ID(t.Datasets[i].ID)
	head, err := repo.ReadHead(d.s.datasetDir(t, id))
	if err != nil {
		return err
	}
	if (snapshot == "" || snapshot == "latest") && len(d.o.From) == 0 {
		// A drill of an older one would be green for what nobody asked.
		if err := d.list.Behind(head, id); err != nil {
			return exit.With(exit.TryLater, fmt.Errorf("dataset %q: %w; an older one is drilled only by its name", d.dataset, err))
		}
	}
	d.snap, err = d.list.Find(id, snapshot)
	if err != nil {
		return fmt.Errorf("%s/%s: %w", tenant, d.dataset, err)
	}
	return nil
}

// stores are those under test. A medium is behind the others; the newest of what
// it has is what it is asked for.
func (d *drilling) stores(ctx context.Context) ([]spread.Member, error) {
	if len(d.o.From) == 0 {
		return d.s.Stores(ctx, false)
	}
	var out []spread.Member
	for _, text := range d.o.From {
		sp, err := spec.Parse(text)
		if err != nil {
			return nil, exit.With(exit.Usage, err)
		}
		st, err := sp.Open(nil)
		if err != nil {
			return nil, fmt.Errorf("store %q: %w", text, err)
		}
		out = append(out, spread.Member{Name: text, Store: st})
	}
	return out, nil
}

var errWithheld = fmt.Errorf("%w: withheld for a drill", store.ErrUnavailable)

// withhold replaces stores by absent ones.
func withhold(all []spread.Member, names []string) ([]spread.Member, error) {
	out := slices.Clone(all)
	for _, n := range names {
		i := slices.IndexFunc(out, func(m spread.Member) bool { return m.Name == n })
		if i < 0 {
			return nil, exit.With(exit.Usage, fmt.Errorf("there is no store %q to withhold", n))
		}
		out[i].Store = store.Absent(errWithheld)
	}
	return out, nil
}

func (d *drilling) listing(ctx context.Context, members []spread.Member) (*repo.Listing, error) {
	r, err := d.s.Repo(d.t, members)
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	d.s.spoil(d.t, l)
	return l, nil
}

// plan says what is to be done.
func (d *drilling) plan(ctx context.Context) (drill.Plan, error) {
	p := drill.Plan{Base: d.base(), Unit: drillUnit(), Asked: d.o.Steps, Fault: drill.Fault(d.o.Fault), Checker: d.cfg.Checker, Jobs: min(d.cfg.Jobs, 8), RTO: d.cfg.RTO.Duration, RPO: d.cfg.RPO.Duration,
		Inventory: d.inventory(), Blind: d.blind(), Degraded: d.degraded, Log: d.s.Log, Away: d.away(d.list, len(d.o.Without)), Hidden: d.hidden(), Known: mayLack(d.t.Level),
		Live: []string{d.s.Config.StateDir, d.cfg.Path}, Hashes: map[string]string{}}
	if c := d.s.Config.Drill; c.Scratch != nil {
		p.Disk = c.Scratch.Bytes
	}
	if c := d.s.Config.Drill; c.Memory != nil {
		p.Memory = c.Memory.Bytes
	}
	for _, a := range d.cfg.Assertions {
		p.Assertions = append(p.Assertions, drill.Assertion{Name: a.Name, SQL: a.SQL, Expect: a.Expect, Timeout: a.Timeout.Duration})
	}
	if e := d.snap.Entry; e != nil && e.Partial {
		p.Incomplete = "the snapshot itself is partial: something selected could not be read"
	}
	opened, err := d.open(ctx)
	if errors.Is(err, repo.ErrWrongKey) || errors.Is(err, ErrRefused) || errors.Is(err, keys.ErrNotReleased) || ctx.Err() != nil {
		return p, err // the key is away, or somebody stopped it: no drill
	}
	if err == nil {
		for _, st := range opened.Contents().Streams {
			p.Hashes[st.Name] = st.BLAKE3
		}
		p.Stored, err = loader.Stored(opened, nil)
	}
	p.Unreadable = err
	if p.Fault == drill.SwapTenant && err == nil {
		p.Stored, err = d.swap(ctx, p.Stored)
	} else {
		err = nil
	}
	return p, err
}

// open opens the snapshot, with a key of this box or one that was released for
// this drill. A generation whose key is here needs no release, and proves none.
func (d *drilling) open(ctx context.Context) (*repo.Opened, error) {
	if d.o.Released == nil {
		return d.s.OpenSnapshot(ctx, d.list, d.t, d.snap)
	}
	have, err := boxKeys{d.s.Box, d.t}.Generation(repo.ID(d.t.ID), d.snap.Dataset, d.snap.Generation)
	if err != nil {
		return nil, err
	}
	if have != nil {
		return nil, fmt.Errorf("%w: the key of its generation is on this box: a drill with a release would prove nothing of the shares", ErrRefused)
	}
	// The manifest's signature was checked when it was listed.
	key, err := d.o.Released.Generation(keys.DatasetID(d.snap.Dataset), keys.GenerationID(d.snap.Generation), d.snap.Capsule)
	if err != nil {
		return nil, exit.With(exit.WrongKey, err)
	}
	return d.list.Open(ctx, d.snap, key)
}

// drillSocket is where systemd listens for the unit strongroom-drill@. The daemon
// may make no namespaces, and need not where it is.
const drillSocket = "/run/strongroom-drill.sock"

func drillUnit() string {
	if info, err := os.Stat(drillSocket); err != nil || info.Mode()&fs.ModeSocket == 0 {
		return ""
	}
	return drillSocket
}

// mayLack are the walls of the sandbox that a level does without: what is
// confidential, and no more than that, may be swapped out in clear.
func mayLack(l keys.Level) []string {
	if l == keys.Confidential {
		return []string{sandbox.Swap}
	}
	return nil
}

func (d *drilling) base() receipt.Receipt {
	r := receipt.Receipt{Started: d.started, ID: d.started.UTC().Format("20060102t150405z-") + strings.ToLower(rand.Text()[:8]), Tenant: d.t.Name, Dataset: d.dataset, Level: string(d.t.Level),
		Tool: d.o.Tool, Snapshot: receipt.Snapshot{ID: d.snap.ID(), Manifest: d.snap.HexHash(), Generation: d.snap.Generation.String(),
			Epoch: d.snap.Epoch, Sequence: d.snap.Sequence, Point: d.snap.Time.UTC()}}
	if d.o.Released != nil {
		r.Kind = receipt.Closed
	}
	if e := d.snap.Entry; e != nil {
		r.Snapshot.Point, r.Snapshot.Engine, r.Snapshot.Version, r.Snapshot.Bytes = e.Point.UTC(), e.Engine, e.Version, e.Read
	}
	// The table of another process says nothing of this one.
	if t, err := walls.Read(d.s.Config.StateDir); err == nil && t != nil && t.Process == os.Getpid() {
		r.Daemon = t.Walls
	}
	for _, m := range d.members {
		if slices.Contains(d.o.Without, m.Name) {
			r.Stores.Withheld = append(r.Stores.Withheld, m.Name)
		} else {
			r.Stores.Tested = append(r.Stores.Tested, m.Name)
		}
	}
	return r
}

// inventory is what the listing says. That the manifest was signed by this box
// and sealed for this tenant the listing has made sure of; what it is called is
// compared here.
func (d *drilling) inventory() []receipt.Check {
	tenant, dataset, level := "unknown", "unknown", "unknown"
	if e := d.snap.Entry; e != nil {
		tenant, dataset, level = e.Tenant, e.Dataset, e.Level
	}
	out := []receipt.Check{same("tenant", d.t.Name, tenant), same("dataset", d.dataset, dataset), same("level", string(d.t.Level), level)}
	shards := receipt.Check{Name: "shards of every pack on the stores under test", Expected: "enough to restore", Actual: "too few"}
	if margin := d.list.Margin(d.snap); margin >= 0 {
		shards.Actual, shards.OK = fmt.Sprintf("%d more stores may be lost", margin), true
	} else if d.silent() > 0 {
		return out // nobody knows
	}
	return append(out, shards)
}

// silent is how many of the stores under test do not answer.
func (d *drilling) silent() int { return len(d.members) - len(d.o.Without) - d.list.Reached }

func (d *drilling) blind() error {
	if n := d.silent(); n > 0 && d.list.Margin(d.snap) < 0 {
		return fmt.Errorf("%d of the stores under test do not answer, and the others have too few shards", n)
	}
	return nil
}

func same(name, expected, actual string) receipt.Check {
	return receipt.Check{Name: name, Expected: expected, Actual: actual, OK: expected == actual}
}

// away tells errors of stores that do not answer, though they should: of all
// but those withheld some did not.
func (d *drilling) away(l *repo.Listing, withheld int) func(error) bool {
	all := l.Reached >= len(d.members)-withheld
	return func(err error) bool { return exit.Of(exit.Lost(err, all)) == exit.TryLater }
}

// hidden is what nobody in a sandbox may see.
func (d *drilling) hidden() []string {
	var out []string
	for _, p := range []string{d.s.Config.StateDir, credentialPath(d.s.Config), keysPath(d.s.Config), filepath.Dir(d.s.Config.Path), d.cfg.Path} {
		if p, err := filepath.Abs(p); err == nil && p != "/" && !strings.HasPrefix(p, "/usr/") && p != "/usr" && p != "/etc" && !slices.Contains(out, p) {
			if _, err := os.Lstat(p); err == nil && p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// degraded reads the snapshot with as many stores withheld as may be lost: each
// in turn, and those after it.
func (d *drilling) degraded(ctx context.Context) receipt.Step {
	step := receipt.Step{Name: receipt.Degraded, Status: receipt.Passed}
	tested := slices.DeleteFunc(slices.Clone(d.members), func(m spread.Member) bool { return slices.Contains(d.o.Without, m.Name) })
	margin := d.list.Margin(d.snap)
	switch {
	case len(tested) < 2:
		step.Status, step.Why = receipt.Absent, "there is one store: none can be withheld"
		return step
	case margin < 1:
		step.Status, step.Why = receipt.Partial, "no store may be lost now: the snapshot has no margin"
		return step
	}
	for i := range tested {
		var names []string
		for k := range margin {
			names = append(names, tested[(i+k)%len(tested)].Name)
		}
		c, infra := d.readWithout(ctx, names)
		step.Checks = append(step.Checks, c)
		switch {
		case c.OK:
		case infra && step.Status != receipt.Failed:
			step.Status, step.Why = receipt.Infra, c.Name+": "+c.Actual
		case !infra:
			step.Status, step.Why = receipt.Failed, c.Name+": "+c.Actual
		}
	}
	return step
}

func (d *drilling) readWithout(ctx context.Context, names []string) (c receipt.Check, infra bool) {
	c = receipt.Check{Name: "without " + strings.Join(names, " and "), Expected: "every stream, with its hash"}
	members, err := withhold(d.members, names)
	if err != nil {
		c.Actual = err.Error()
		return c, true
	}
	l, err := d.listing(ctx, members)
	if err == nil {
		err = d.readAll(ctx, l)
	}
	if err != nil {
		c.Actual = err.Error()
		return c, d.away(l, len(d.o.Without)+len(names))(err)
	}
	c.Actual, c.OK = c.Expected, true
	return c, false
}

// readAll reads a snapshot to its end; its streams end well only with their
// hash.
func (d *drilling) readAll(ctx context.Context, l *repo.Listing) error {
	i := slices.IndexFunc(l.Snapshots, func(s *repo.Snapshot) bool { return s.Hash() == d.snap.Hash() })
	if i < 0 {
		return fmt.Errorf("%w: the other stores have no manifest of it", repo.ErrNoSnapshot)
	}
	o, err := d.s.OpenSnapshot(ctx, l, d.t, l.Snapshots[i])
	if err != nil {
		return err
	}
	for _, st := range o.Contents().Streams {
		rc, err := o.Read(ctx, st.Name, 0, -1)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			return fmt.Errorf("stream %q: %w", st.Name, err)
		}
	}
	return nil
}

// swapped is a snapshot and one of somebody else.
type swapped struct {
	source.Stored
	other source.Stored
}

func (s swapped) Other() source.Stored { return s.other }

// swap finds another's newest snapshot of the same kind.
func (d *drilling) swap(ctx context.Context, own source.Stored) (source.Stored, error) {
	for _, c := range d.s.Config.Tenants {
		l, t, err := d.s.Listing(ctx, c.Name)
		if err != nil {
			continue // a tenant that is not set up has none
		}
		for _, snap := range slices.Backward(l.Snapshots) {
			if snap.Entry == nil || snap.Entry.Engine != own.Description().Engine || c.Name == d.t.Name && snap.Entry.Dataset == d.dataset {
				continue
			}
			o, err := d.s.OpenSnapshot(ctx, l, t, snap)
			if err != nil {
				continue
			}
			other, err := loader.Stored(o, nil)
			if err != nil {
				return nil, err
			}
			return swapped{own, other}, nil
		}
	}
	return nil, fmt.Errorf("%w: %w: no other dataset has a snapshot of that kind", ErrRefused, drill.ErrFault)
}

func (s *Site) receiptsDir() string { return filepath.Join(s.Config.StateDir, "receipts") }

// file signs a receipt and puts it beside the others. None is ever replaced. What
// it returns is for the ledger: the file's hash, so that none is taken away or
// put in its place unseen.
func (s *Site) file(r *receipt.Receipt) (map[string]string, error) {
	b, err := receipt.Sign(r, signer{s.Box.Signer()})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.receiptsDir(), 0o700); err != nil {
		return nil, err
	}
	f, err := publish.Create(filepath.Join(s.receiptsDir(), r.ID+".json"), false)
	if err != nil {
		return nil, fmt.Errorf("file receipt: %w", err)
	}
	defer f.Discard()
	if _, err := f.Write(b); err != nil {
		return nil, fmt.Errorf("file receipt: %w", err)
	}
	return map[string]string{"receipt": r.ID, "sha256": fmt.Sprintf("%x", sha256.Sum256(b)), "verdict": string(r.Verdict), "snapshot": r.Snapshot.ID}, f.Commit()
}

// Receipt reads a receipt by its id, as it was signed, and verifies it with any
// key that this box ever had.
func (s *Site) Receipt(id string) (*receipt.Receipt, []byte, error) {
	if id == "" || strings.ContainsAny(id, "/\\\x00") || id[0] == '.' {
		return nil, nil, exit.With(exit.Usage, fmt.Errorf("%q is no receipt's id", id))
	}
	root, err := os.OpenRoot(s.receiptsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, exit.With(exit.NoRepository, errors.New("no drill was ever run here"))
	} else if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	info, err := root.Stat(id + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, exit.With(exit.NoRepository, fmt.Errorf("there is no receipt %s", id))
	} else if err != nil {
		return nil, nil, err
	}
	if info.Size() > receipt.MaxFile {
		return nil, nil, exit.With(exit.Integrity, fmt.Errorf("receipt %s has %d bytes", id, info.Size()))
	}
	b, err := root.ReadFile(id + ".json")
	if err != nil {
		return nil, nil, err
	}
	r, err := s.verify(b)
	return r, b, err
}

func (s *Site) verify(b []byte) (*receipt.Receipt, error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return nil, err
	}
	err = errors.New("this box never had a key")
	for _, k := range o.Boxes {
		var r *receipt.Receipt
		if r, err = receipt.Verify(b, k.Public); err == nil {
			return r, nil
		}
	}
	return nil, exit.With(exit.Integrity, err)
}

// Receipts lists all, the newest first. One that does not verify is an error in
// its place.
func (s *Site) Receipts() (ids []string, err error) {
	entries, err := os.ReadDir(s.receiptsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range slices.Backward(entries) {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(id, ".") {
			ids = append(ids, id)
		}
	}
	return ids, err
}
