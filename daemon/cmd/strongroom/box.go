package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/share"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

func (a *app) boxCommand() *cobra.Command {
	c := &cobra.Command{Use: "box", Short: "This machine as a whole"}
	c.AddCommand(a.rebuildCommand())
	return c
}

// rebuildFlags are those of box rebuild.
type rebuildFlags struct {
	kits, shares, without []string
	networked, noLedger   bool
	requests, releases    string
	valid                 time.Duration
}

func (a *app) rebuildCommand() *cobra.Command {
	f := &rebuildFlags{}
	c := &cobra.Command{
		Use:   "rebuild --kit FILE… (--requests DIR | --releases DIR | --share-file FILE… --shares-on-networked-host)",
		Short: "Make a fresh machine the box again, from stores, kits and shares",
		Long: `Box rebuild needs a configuration that names the stores and an empty state
directory, the kit of each tenant, and the kit of the box itself, which is that of
tenant "strongroom" (strongroom keys kit strongroom). It brings back the keys of
tenants and of what their levels leave on a box, runs, holds, registers and the
ledger; the box gets a new signing key, as the next incarnation. The lost one, if
it was stolen and not lost, signs nothing any more that is believed.

In steps, so that shares never meet a network:
  1. here:        box rebuild --kit K… --requests DIR
  2. at the offline station, for each tenant:
                  strongroom station release --request DIR/T.request --kit K --share-file F… --out DIR/T.release
  3. here:        box rebuild --kit K… --releases DIR

Kits that were issued before do not know the new key: issue new ones at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.rebuild(cmd, f) },
	}
	fs := c.Flags()
	fs.StringArrayVar(&f.kits, "kit", nil, "kit file of a tenant, or of the box itself")
	fs.StringVar(&f.requests, "requests", "", "write a request for the station for each tenant into this directory, and the one-time keys")
	fs.StringVar(&f.releases, "releases", "", "directory with the station's releases and the one-time keys")
	fs.StringArrayVar(&f.shares, "share-file", nil, "share file; k of each recovery key")
	fs.BoolVar(&f.networked, "shares-on-networked-host", false, "bring shares together on this machine although it has a network")
	fs.StringArrayVar(&f.without, "without", nil, "a tenant that the box had and whose kit is lost")
	fs.BoolVar(&f.noLedger, "without-ledger", false, "go on without the ledger, where all its copies are gone")
	fs.DurationVar(&f.valid, "valid", 72*time.Hour, "how long requests are valid")
	return c
}

func (f *rebuildFlags) check() error {
	modes := 0
	for _, on := range []bool{f.requests != "", f.releases != "", len(f.shares) > 0} {
		if on {
			modes++
		}
	}
	switch {
	case len(f.kits) == 0:
		return errors.New("--kit is missing")
	case modes != 1:
		return errors.New("give one of --requests, --releases and --share-file")
	case len(f.shares) > 0 && !f.networked:
		return errors.New("shares must not meet on a machine that reaches stores over a network: use --requests and the offline station, or --shares-on-networked-host if that risk is taken")
	}
	return nil
}

func (a *app) rebuild(cmd *cobra.Command, f *rebuildFlags) error {
	if err := f.check(); err != nil {
		return exit.With(exit.Usage, err)
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	var kits []keys.Kit
	for _, path := range f.kits {
		k, err := rescue.ReadKit(path)
		if err != nil {
			return err
		}
		kits = append(kits, k)
	}
	r, err := job.BeginRebuild(cmd.Context(), cfg, kits, a.ui.Log)
	if err != nil {
		return err
	}
	if f.requests != "" {
		return a.requestAll(r, kits, f)
	}
	o := job.RebuildOptions{Without: f.without, WithoutLedger: f.noLedger, Version: version, Actor: operator(), Now: time.Now()}
	if len(f.shares) > 0 {
		a.ui.Log("WARNING: shares meet on a networked host. Treat the recovery key as exposed: make a new one and re-issue all kits afterwards.")
		o.Open, err = withShares(kits, f.shares)
	} else {
		o.Open, err = withReleases(kits, f.releases)
	}
	if err != nil {
		return err
	}
	done, err := r.Rebuild(cmd.Context(), o)
	if err != nil {
		return err
	}
	return a.printRebuilt(done)
}

// requestAll writes what the station has to release.
func (a *app) requestAll(r *job.Rebuilding, kits []keys.Kit, f *rebuildFlags) error {
	if err := os.MkdirAll(f.requests, 0o700); err != nil {
		return err
	}
	var lines strings.Builder
	for _, k := range kits {
		needs := r.Needs(k.ID)
		if len(needs) == 0 {
			continue // an empty request would ask for all that is
		}
		base := filepath.Join(f.requests, k.Tenant)
		code, err := rescue.WriteRequest(base+".request", k.ID, needs, f.valid)
		if err != nil {
			return err
		}
		fmt.Fprintf(&lines, "%s.request asks for %s of tenant %q; the station must show: %s\n", base, rescue.Count(len(needs), "generation"), k.Tenant, code)
	}
	return a.ui.Result(map[string]any{"requests": f.requests}, "%snext, at the station, for each: strongroom station release --request … --kit … --share-file … --out …/TENANT.release\n", lines.String())
}

// fromTenantKey opens with the key that shares opened.
type fromTenantKey struct{ *keys.TenantKey }

func (t fromTenantKey) Generation(d keys.DatasetID, g keys.GenerationID, capsule []byte) (keys.GenerationKey, error) {
	return t.OpenGeneration(d, g, capsule)
}

// withShares combines the shares of each recovery key and opens the kits.
func withShares(kits []keys.Kit, paths []string) (map[keys.TenantID]job.GenerationOpener, error) {
	all, err := rescue.ReadShares(paths)
	if err != nil {
		return nil, err
	}
	defer share.Wipe(all)
	sets := map[share.Set][]share.Share{}
	for _, s := range all {
		sets[s.Set] = append(sets[s.Set], s)
	}
	recovery := map[keys.Fingerprint]*keys.RecoveryKey{}
	for _, some := range sets {
		r, err := keys.OpenRecovery(some)
		if err != nil {
			return nil, err
		}
		defer r.Wipe()
		recovery[r.Recovery().Fingerprint] = r
	}
	out := map[keys.TenantID]job.GenerationOpener{}
	for _, k := range kits {
		r := recovery[k.Recovery.Fingerprint]
		if r == nil {
			continue // of another class: it comes back closed
		}
		t, err := r.OpenKit(k)
		if err != nil {
			return nil, err
		}
		out[k.ID] = fromTenantKey{t}
	}
	return out, nil
}

// withReleases opens the releases that are there.
func withReleases(kits []keys.Kit, dir string) (map[keys.TenantID]job.GenerationOpener, error) {
	out := map[keys.TenantID]job.GenerationOpener{}
	for _, k := range kits {
		base := filepath.Join(dir, k.Tenant)
		if !fileExists(base + ".release") {
			continue
		}
		opened, err := rescue.OpenRelease(k, base+".release", base+".request.key", time.Now())
		if err != nil {
			return nil, err
		}
		if opened.Rehearsal {
			return nil, fmt.Errorf("%s.release: %w", base, keys.ErrRehearsal)
		}
		out[k.ID] = opened
	}
	return out, nil
}

func (a *app) printRebuilt(r *job.Rebuilt) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the box is back, as incarnation %d\n", r.Incarnation)
	if r.Taken != nil {
		fmt.Fprintf(&b, "its state is that of %s UTC; the configuration of then is %s in the state directory\n", r.Taken.UTC().Format("2006-01-02 15:04:05"), job.OldConfig)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tDATASETS\tSNAPSHOTS\tOPEN\tCLOSED")
	for _, t := range r.Tenants {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", t.Tenant, t.Datasets, t.Snapshots, t.Generations, t.Closed)
	}
	w.Flush()
	for _, t := range r.Lost {
		fmt.Fprintf(&b, "tenant %q did not come back; if it is configured, init gives it new keys\n", t)
	}
	if r.Entries > 0 {
		fmt.Fprintf(&b, "the ledger goes on at entry %d of its system log\n", r.Entries)
	}
	b.WriteString("ungoverned: nobody else approved this\nnext: issue new kits (strongroom keys kit TENANT), for those before do not know the new key; then strongroom audit verify, strongroom check, a backup of each dataset\n")
	if err := a.ui.Result(r, "%s", b.String()); err != nil {
		return err
	}
	if len(r.Ahead) > 0 {
		return exit.With(exit.Integrity, fmt.Errorf("the box is back, but its ledger lacks entries that it signed, as %s: what destroys or hands out is refused until: strongroom audit continue", strings.Join(r.Ahead, ", ")))
	}
	return nil
}
