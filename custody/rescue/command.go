package rescue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/erasure"
	"strongroom/repo"
	"strongroom/source/loader"
)

// flags of the recover command.
type flags struct {
	kit, release, key, request string
	shares, stores             []string
	networked                  bool
	to                         loader.Options
	valid                      time.Duration
}

// Command returns the recover command: `strongroom recover` and the whole of
// strongroom-recover.
func Command(u *UI) *cobra.Command {
	f := &flags{}
	c := &cobra.Command{
		Use:   "recover --kit FILE (--release FILE --key FILE | --share-file FILE… | --request FILE) [--store SPEC…] [DATASET[@SNAPSHOT]] [--to TARGET]",
		Short: "Recover a tenant from a kit and shares, without configuration or state",
		Long: `Recover a tenant on a machine that has nothing but this program, a kit, k of the
n shares, and enough stores. Without --to it lists what is there.

The safe way, in three steps, so that shares never meet a network:
  1. here:        recover --kit KIT --store S… DATASET --request REQ
  2. at the offline station, with the shares:
                  strongroom station release --request REQ --kit KIT --share-file F… --out REL
  3. here:        recover --kit KIT --store S… DATASET --release REL --key REQ.key --to TARGET

When offline media are the stores, one machine without network does it all:
                  recover --kit KIT --share-file F… --store media:/media/disk DATASET --to TARGET

A store is /path, dir:/path, media:/path (an offline medium), or s3:https://host/bucket?region=R&access_key_file=F&secret_key_file=F.
Without --store those of the kit are used.`,
		Args: func(c *cobra.Command, args []string) error {
			return exit.With(exit.Usage, cobra.MaximumNArgs(1)(c, args))
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			target := ""
			if len(args) == 1 {
				target = args[0]
			}
			return f.run(cmd.Context(), u, target)
		},
	}
	fs := c.Flags()
	fs.StringVar(&f.kit, "kit", "", "kit file of the tenant (required)")
	fs.StringArrayVar(&f.shares, "share-file", nil, "share file; k of them")
	fs.BoolVar(&f.networked, "shares-on-networked-host", false, "bring shares together on this machine although it has a network")
	fs.StringVar(&f.release, "release", "", "release file from the station")
	fs.StringVar(&f.key, "key", "", "one-time key file, made with the request")
	fs.StringVar(&f.request, "request", "", "write a release request to this file, and its one-time key beside it as .key")
	fs.DurationVar(&f.valid, "valid", 72*time.Hour, "how long the request is valid")
	fs.StringArrayVar(&f.stores, "store", nil, "store; instead of those of the kit")
	TargetFlags(c, &f.to)
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.With(exit.Usage, err) })
	return c
}

// TargetFlags adds the flags that say where a restore goes.
func TargetFlags(c *cobra.Command, o *loader.Options) {
	fs := c.Flags()
	fs.StringVar(&o.To, "to", "", "PATH, postgres://…, mariadb://… or - for stdout")
	fs.StringArrayVar(&o.Only, "only", nil, "only this table (schema.name, MariaDB: name) or path; may be repeated")
	fs.BoolVar(&o.Overwrite, "overwrite", false, "replace files at the target")
	fs.BoolVar(&o.NoOwner, "no-owner", false, "PostgreSQL, MariaDB: leave all objects to the loading role or user")
	fs.StringVar(&o.Role, "role", "", "PostgreSQL: SET ROLE after login")
	fs.BoolVar(&o.Create, "create", false, "PostgreSQL, MariaDB: make the database")
	fs.IntVar(&o.Jobs, "jobs", 0, "PostgreSQL, MariaDB: tables at once")
	fs.BoolVar(&o.Verify, "verify", false, "PostgreSQL, MariaDB: read every table again and compare its rows")
	fs.StringVar(&o.PasswordFile, "password-file", "", "PostgreSQL, MariaDB: file with the password on its first line")
}

func (f *flags) check() error {
	modes := 0
	for _, on := range []bool{f.release != "", len(f.shares) > 0, f.request != ""} {
		if on {
			modes++
		}
	}
	switch {
	case f.kit == "":
		return errors.New("--kit is missing")
	case modes != 1:
		return errors.New("give one of --share-file, --release, --request")
	case (f.release != "") != (f.key != ""):
		return errors.New("--release and --key go together")
	}
	return nil
}

func (f *flags) run(ctx context.Context, u *UI, target string) error {
	if err := f.check(); err != nil {
		return exit.With(exit.Usage, err)
	}
	if err := errors.Join(erasure.SelfTest(), keys.SelfTest()); err != nil {
		return err
	}
	u.ToStdout = f.to.To == "-"
	kit, err := ReadKit(f.kit)
	if err != nil {
		return err
	}
	open, err := f.opener(u, kit)
	if err != nil {
		return err
	}
	m, networked, err := members(kit, f.stores, open)
	if err != nil {
		return err
	}
	if len(f.shares) > 0 && networked && !f.networked {
		return refuseNetwork("a store is on the network")
	}
	l, err := list(ctx, kit, m)
	if err != nil {
		return err
	}
	r := &Rescue{Kit: kit, Listing: l, open: open, stores: max(len(m), len(kit.Stores))}
	for _, p := range l.Problems {
		u.Log("warning: %s", p.Text)
	}
	switch {
	case f.request != "":
		return r.request(u, target, f.request, f.valid)
	case f.to.To == "":
		return r.print(u)
	}
	return r.restore(ctx, u, target, f.to)
}

func refuseNetwork(why string) error {
	return exit.With(exit.Refused, fmt.Errorf("shares must not meet on a networked host, and %s; use --request and the offline station, or --shares-on-networked-host if that risk is taken", why))
}

// opener combines shares or opens a release; a request needs neither.
func (f *flags) opener(u *UI, kit keys.Kit) (opener, error) {
	switch {
	case len(f.shares) > 0:
		if err := keys.CheckOffline(); errors.Is(err, keys.ErrOnline) {
			if !f.networked {
				return nil, refuseNetwork("a network interface of this machine is up")
			}
			u.Log("WARNING: shares meet on a networked host. Treat the recovery key as exposed: make a new one and re-issue all kits afterwards.")
		} else if err != nil {
			return nil, err
		}
		return withShares(kit, f.shares)
	case f.release != "":
		o, err := OpenRelease(kit, f.release, f.key, time.Now())
		if err != nil {
			return nil, err
		}
		if o.Rehearsal {
			u.Log("REHEARSAL: this release was made for practice")
		}
		return o, nil
	}
	return nil, nil
}

// request asks the station for the generation of one snapshot.
func (r *Rescue) request(u *UI, target, path string, valid time.Duration) error {
	snap, err := r.Find(target)
	if err != nil {
		return err
	}
	gens := []keys.SealedGeneration{{Dataset: keys.DatasetID(snap.Dataset), Generation: keys.GenerationID(snap.Generation), Capsule: snap.Capsule}}
	code, err := WriteRequest(path, r.Kit.ID, gens, valid)
	if err != nil {
		return err
	}
	return u.Result(map[string]string{"request": path, "key": path + ".key", "code": code, "snapshot": snap.ID()},
		"request for the generation of %s@%s written to %s\nits code is %s: the station must show the same\nkeep %s.key here; it opens the release and nothing else does\n",
		snap.Entry.Dataset, snap.ID(), path, code, path)
}

// WriteRequest writes what asks the station for generations of a tenant, and
// path.key, which alone opens what the station gives. Neither replaces anything,
// and where one cannot be written the other does not stay. It returns the code
// that the station has to show.
func WriteRequest(path string, tenant keys.TenantID, gens []keys.SealedGeneration, valid time.Duration) (code string, err error) {
	req, key, err := keys.NewRequest(tenant, gens, time.Now(), valid)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	body, err := req.Encode()
	if err != nil {
		return "", err
	}
	secret, err := key.EncodeSecret()
	if err != nil {
		return "", err
	}
	defer clear(secret)
	if code, err = req.Code(); err != nil {
		return "", err
	}
	if err := writeNew(path+".key", secret); err != nil {
		return "", err
	}
	if err := writeNew(path, body); err != nil {
		return "", errors.Join(err, os.Remove(path+".key")) // useless without its request
	}
	return code, nil
}

func writeNew(path string, body []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return exit.With(exit.Refused, fmt.Errorf("%s exists already", path))
	} else if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// print lists what can be recovered.
func (r *Rescue) print(u *UI) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATASET\tSNAPSHOT\tTIME\tSOURCE\tSIZE\tSTORES")
	items := []map[string]any{}
	for _, s := range r.Snapshots("") {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Entry.Dataset, s.ID(), s.Time.Format("2006-01-02 15:04"), s.Entry.Source, Bytes(s.Entry.Read), strings.Join(s.Stores, ", "))
		items = append(items, map[string]any{"dataset": s.Entry.Dataset, "snapshot": s.ID(), "time": s.Time, "stores": s.Stores, "catalogue": s.Entry})
	}
	w.Flush()
	return u.Result(map[string]any{"tenant": r.Kit.Tenant, "snapshots": items}, "tenant %s, %s\n%s", r.Kit.Tenant, Count(r.stores, "store"), b.String())
}

func (r *Rescue) restore(ctx context.Context, u *UI, target string, o loader.Options) error {
	snap, err := r.Find(target)
	if err != nil {
		return err
	}
	opened, err := r.Open(ctx, snap)
	if err != nil {
		return exit.Lost(fmt.Errorf("open snapshot %s: %w", snap.ID(), err), r.Listing.Reached == r.stores)
	}
	u.Log("recovering snapshot %s of %s/%s, sequence %d.%d of %s, found on %d of %d stores (ungoverned: no roster exists)", snap.ID(), r.Kit.Tenant,
		snap.Entry.Dataset, snap.Epoch, snap.Sequence, snap.Time.Format("2006-01-02 15:04:05Z"), len(snap.Stores), r.stores)
	o.Stdout, o.Progress = u.Out(), u.Progress
	started := time.Now()
	res, err := loader.Restore(ctx, opened, o)
	if err != nil {
		return exit.Lost(fmt.Errorf("recover %s@%s: %w", snap.Entry.Dataset, snap.ID(), err), r.Listing.Reached == r.stores)
	}
	return PrintRestored(u, snap, res, time.Since(started))
}

// PrintRestored says what a restore did.
func PrintRestored(u *UI, snap *repo.Snapshot, res *loader.Result, took time.Duration) error {
	var b strings.Builder
	to := res.To
	if to == "-" {
		to = "stdout"
	}
	fmt.Fprintf(&b, "restored %s to %s: %s in %s", snap.ID(), to, Bytes(res.Bytes), Rate(res.Bytes, took))
	if res.Tables > 0 {
		fmt.Fprintf(&b, ", %s, %s", Count(res.Tables, "table"), Count(int(res.Rows), "row"))
	}
	if res.Verified > 0 {
		fmt.Fprintf(&b, ", %s read again and equal", Count(res.Verified, "table"))
	}
	b.WriteString("\n")
	for _, w := range res.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", OneLine(w))
	}
	b.WriteString("ungoverned: no roster exists yet, nobody approved this restore\n")
	return u.Result(map[string]any{"snapshot": snap.ID(), "governed": false, "seconds": took.Seconds(), "result": res}, "%s", b.String())
}
