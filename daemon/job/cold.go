package job

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
	"strongroom/daemon/drill/sandbox"
)

// Recover is what a program does inside of a sandbox that it is asked to recover
// in: the whole of strongroom-recover.
const Recover = "recover"

const (
	canary = "canary"
	// coldLabel is on every receipt of a cold drill.
	coldLabel = "cold drill of the program: tenant canary, a test recovery key and stores that were made for it; says nothing of the real shares and of who holds them"
)

// coldDrill is a whole life of a tenant in a directory that goes with it.
type coldDrill struct {
	dir      string
	cfg      *config.Config
	want     map[string][]byte
	shares   []string
	kit      string
	bag      []byte // all that the cold machine gets, as an archive
	left     string // what of all there was is in it
	snapshot *BackupResult
	out      receipt.Receipt
}

// Cold makes a tenant of its own with a recovery key of its own, backs it up,
// destroys the box that did, and one store, and recovers it in a sandbox that
// has nothing but the program, a kit, k share files and the other stores. It
// proves the program, and the formats. What the real shares and their holders
// are worth only people at a station can show.
//
// Crash story: all of it lies in a directory below the state directory, which
// the next one removes. It holds nothing of any client.
func (s *Site) Cold(ctx context.Context, tool string) (*receipt.Receipt, error) {
	parent := filepath.Join(s.Config.StateDir, "cold")
	if err := errors.Join(os.RemoveAll(parent), os.Mkdir(parent, 0o700)); err != nil {
		return nil, fmt.Errorf("cold drill: %w", err)
	}
	defer os.RemoveAll(parent)
	now := time.Now()
	d := &coldDrill{dir: parent, out: receipt.Receipt{Format: receipt.Format, Kind: "cold", ID: now.UTC().Format("20060102t150405z-") + strings.ToLower(rand.Text()[:8]),
		Tenant: canary, Dataset: canary, Level: "confidential", Tool: tool, Started: now, Engine: "strongroom recover", Notes: []string{coldLabel}}}
	d.out.Sandbox.Kind = "none"
	start := time.Now()
	if err := d.live(ctx, tool, s.Log); err != nil {
		return nil, fmt.Errorf("cold drill: %w", err)
	}
	d.phase("make a tenant and back it up", start)
	start = time.Now()
	d.out.Steps = d.recover(ctx)
	d.phase("recover", start)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.out.Finished = time.Now()
	d.out.Verdict, d.out.Why = receipt.Judge(d.out.Steps)
	return &d.out, s.acting(ctx, "", ledger.Drill, map[string]string{"kind": "cold"}, func() (map[string]string, error) { return s.file(&d.out) })
}

func (d *coldDrill) phase(name string, start time.Time) {
	d.out.Phases = append(d.out.Phases, receipt.Phase{Name: name, Milliseconds: time.Since(start).Milliseconds()})
}

// live makes a box, lets it back up once, issues a kit, and destroys the box.
func (d *coldDrill) live(ctx context.Context, tool string, log func(string, ...any)) error {
	d.cfg = &config.Config{StateDir: filepath.Join(d.dir, "state"), Recovery: config.Recovery{Standard: config.Shares{Shares: 5, Threshold: 3}},
		Tenants: []config.Tenant{{Name: canary, Level: "confidential", Datasets: []config.Dataset{{Name: canary, Source: "files", Path: filepath.Join(d.dir, "data")}}}}}
	for _, n := range []string{"one", "two", "three"} {
		path := filepath.Join(d.dir, n)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		d.cfg.Stores = append(d.cfg.Stores, config.Store{Name: n, Kind: "dir", Path: path})
	}
	if err := d.data(); err != nil {
		return err
	}
	s, err := d.site(ctx, log)
	if err != nil {
		return err
	}
	defer s.Close()
	if d.snapshot, err = s.Backup(ctx, canary, canary, BackupOptions{Tool: tool}); err != nil {
		return err
	}
	if !d.snapshot.Complete() {
		return fmt.Errorf("its snapshot is %s", d.snapshot.State)
	}
	if err := d.issueKit(s); err != nil {
		return err
	}
	// The box is gone with all its keys, the source, and a store.
	if err := errors.Join(s.Close(), os.RemoveAll(d.cfg.StateDir), os.RemoveAll(filepath.Join(d.dir, "data")), os.RemoveAll(filepath.Join(d.dir, "one"))); err != nil {
		return err
	}
	return d.pack()
}

// pack makes an archive of what is left: kit, shares and stores.
func (d *coldDrill) pack() error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.AddFS(os.DirFS(d.dir)), w.Close()); err != nil {
		return err
	}
	d.bag = b.Bytes()
	return d.count()
}

// count looks at what is left of kit, shares, stores and the box's state.
func (d *coldDrill) count() error {
	all, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	kits, stores, other := 0, 0, []string{}
	for _, e := range all {
		switch {
		case e.Name() == filepath.Base(d.kit):
			kits++
		case slices.ContainsFunc(d.cfg.Stores, func(c config.Store) bool { return c.Path == filepath.Join(d.dir, e.Name()) }):
			stores++
		case e.Name() != "shares":
			other = append(other, e.Name())
		}
	}
	d.left = fmt.Sprintf("%d, %d, %d of %d, %q", kits, len(d.shares), stores, len(d.cfg.Stores), other)
	return nil
}

// data makes files of which some compress and some do not.
func (d *coldDrill) data() error {
	noise := make([]byte, 300<<10)
	rand.Read(noise)
	d.want = map[string][]byte{"noise": noise, "empty": {}, "sub/text": bytes.Repeat([]byte("This was said before the fire. "), 5000), "moment": []byte(time.Now().Format(time.RFC3339Nano))}
	for name, b := range d.want {
		path := filepath.Join(d.dir, "data", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

// site makes a box with a credential of its own, whatever this process has in
// its environment.
func (d *coldDrill) site(ctx context.Context, log func(string, ...any)) (*Site, error) {
	if err := os.Mkdir(d.cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	cred := box.NewCredential()
	if err := box.Init(keysPath(d.cfg), cred); err != nil {
		return nil, err
	}
	b, err := box.Open(keysPath(d.cfg), cred)
	if err != nil {
		return nil, err
	}
	s := &Site{Config: d.cfg, Box: b, Log: log, record: newRecord()}
	fresh, err := surveyStores(ctx, d.cfg, nil)
	r := &InitResult{}
	if err == nil {
		err = s.markStores(ctx, fresh, r)
	}
	if err == nil {
		err = s.recoveryKeys(ctx, InitOptions{SharesDir: filepath.Join(d.dir, "shares"), Now: time.Now()}, r)
	}
	if err == nil {
		_, err = b.AddTenant(canary, keys.Confidential, time.Now())
	}
	for _, f := range r.Shares {
		if strings.HasSuffix(f, ".txt") {
			d.shares = append(d.shares, f)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (d *coldDrill) issueKit(s *Site) error {
	var stores []box.StoreInfo
	for _, c := range d.cfg.Stores {
		stores = append(stores, box.StoreInfo{Name: c.Name, Spec: SpecOf(c).String()})
	}
	_, file, err := s.Box.IssueKit(canary, box.Issue{Holder: "nobody", Place: "a cold drill", Stores: stores, Now: time.Now()})
	if err != nil {
		return err
	}
	d.kit = filepath.Join(d.dir, "kit")
	return WriteNew(d.kit, file)
}

// coldDir is where the cold machine has what it got.
const coldDir = sandbox.Scratch + "/cold"

// Unpack puts what comes over standard input where a cold drill looks for it. It
// runs inside of the sandbox.
func Unpack(r io.Reader) error {
	if err := errors.Join(os.RemoveAll(coldDir), os.Mkdir(coldDir, 0o700)); err != nil {
		return err
	}
	root, err := os.OpenRoot(coldDir)
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag == tar.TypeDir {
			err = root.MkdirAll(name, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(io.LimitReader(t, 64<<20)); err == nil {
				err = errors.Join(root.MkdirAll(filepath.Dir(name), 0o700), root.WriteFile(name, b, 0o600))
			}
		}
		if err != nil {
			return err
		}
	}
}

// recover does it, and looks at what came out.
func (d *coldDrill) recover(ctx context.Context) []receipt.Step {
	b, err := d.enter(ctx)
	if err != nil {
		return d.steps(receipt.Step{Name: receipt.Inventory, Status: receipt.Infra, Why: err.Error()})
	}
	defer func() {
		gone, err := b.Close()
		if d.out.Sandbox.Gone = gone; err != nil {
			d.out.Notes = append(d.out.Notes, err.Error())
		}
	}()
	var tarball, said bytes.Buffer
	few := b.Run(ctx, d.command(2, &said, canary, "--to", "-")) // shares: one less than it takes
	said.Reset()
	start := time.Now()
	cmd := d.command(3, &said, canary+"@"+d.snapshot.Snapshot, "--to", "-")
	cmd.Stdout = &tarball
	err = b.Run(ctx, cmd)
	inventory := receipt.Step{Name: receipt.Inventory, Checks: []receipt.Check{same("kits, shares, stores, and what else is left of the box", "1, 5, 2 of 3, []", d.left),
		same("with 2 of its 3 shares it ends with", fmt.Sprint(int(exit.WrongKey)), endedWith(few)), same("with 3 shares it ends with", "0", endedWith(err))}}
	load := receipt.Step{Name: receipt.Load, Checks: []receipt.Check{same("errors while it was recovered", "none", cmp.Or(failure(err, &said), "none"))}}
	got, err := untar(&tarball)
	if err == nil {
		d.out.RTO = receipt.Target{Milliseconds: time.Since(start).Milliseconds(), Measured: true}
	}
	structure := receipt.Step{Name: receipt.Structure, Checks: []receipt.Check{same("the archive can be read to its end", "yes", cmp.Or(text(err), "yes")), same("files", fmt.Sprint(len(d.want)), fmt.Sprint(len(got)))}}
	content, sizes := receipt.Step{Name: receipt.Content}, receipt.Step{Name: receipt.Bytes}
	for name := range d.want {
		content.Checks = append(content.Checks, same("SHA-256 of "+name, fmt.Sprintf("%x", sha256.Sum256(d.want[name])), fmt.Sprintf("%x", sha256.Sum256(got[name]))))
		sizes.Checks = append(sizes.Checks, same("bytes of "+name, fmt.Sprint(len(d.want[name])), fmt.Sprint(len(got[name]))))
	}
	return d.steps(inventory, sizes, structure, load, content)
}

func (d *coldDrill) enter(ctx context.Context) (*sandbox.Box, error) {
	cfg := sandbox.Config{Memory: 1 << 30, Disk: 64 << 20, Processes: 64, Unit: drillUnit()}
	b, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	d.out.Sandbox = receipt.Sandbox{Kind: b.Kind(), Memory: cfg.Memory, Disk: cfg.Disk}
	walls, err := b.Probe(ctx)
	for _, w := range walls {
		d.out.Sandbox.Walls = append(d.out.Sandbox.Walls, receipt.Wall(w))
	}
	if m := sandbox.Missing(walls, mayLack(keys.Confidential)); err == nil && m != nil {
		err = fmt.Errorf("the sandbox has no wall: %s", strings.Join(m, "; "))
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (d *coldDrill) command(shares int, said *bytes.Buffer, args ...string) sandbox.Cmd {
	argv := []string{sandbox.Self, Recover, "--kit", coldDir + "/" + filepath.Base(d.kit), "--store", coldDir + "/two", "--store", coldDir + "/three"}
	for _, f := range d.shares[:min(shares, len(d.shares))] {
		argv = append(argv, "--share-file", coldDir+"/shares/"+filepath.Base(f))
	}
	return sandbox.Cmd{Argv: append(argv, args...), Stdin: bytes.NewReader(d.bag), Stderr: said}
}

// steps puts those that were done into their order; those that a cold drill has
// not are absent, and without the sandbox all others are skipped.
func (d *coldDrill) steps(done ...receipt.Step) (out []receipt.Step) {
	for _, n := range receipt.Names() {
		i := slices.IndexFunc(done, func(s receipt.Step) bool { return s.Name == n })
		switch {
		case i >= 0 && done[i].Status == "":
			s := done[i]
			s.Status = receipt.Passed
			if bad := slices.IndexFunc(s.Checks, func(c receipt.Check) bool { return !c.OK }); bad >= 0 {
				s.Status, s.Why = receipt.Failed, fmt.Sprintf("%s: expected %s, found %s", s.Checks[bad].Name, s.Checks[bad].Expected, s.Checks[bad].Actual)
			}
			out = append(out, s)
		case i >= 0:
			out = append(out, done[i])
		case n == receipt.Checks || n == receipt.Assertions || n == receipt.Degraded:
			out = append(out, receipt.Step{Name: n, Status: receipt.Absent, Why: "a cold drill has none"})
		default:
			out = append(out, receipt.Step{Name: n, Status: receipt.Skipped, Why: "there was no sandbox"})
		}
	}
	return out
}

// endedWith is a program's exit code as text.
func endedWith(err error) string {
	var e *sandbox.ExitError
	switch {
	case err == nil:
		return "0"
	case errors.As(err, &e) && e.Signal == 0:
		return fmt.Sprint(e.Code)
	}
	return err.Error()
}

func failure(err error, said *bytes.Buffer) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%v: %.500s", err, said.String())
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// untar reads the files of an archive, none larger than those that were made.
func untar(r io.Reader) (map[string][]byte, error) {
	out := map[string][]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return out, nil
		} else if err != nil {
			return out, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(t, 1<<20))
		if err != nil {
			return out, err
		}
		out[strings.TrimPrefix(h.Name, "./")] = b
	}
}
