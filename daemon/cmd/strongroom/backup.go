package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
)

func (a *app) initCommand() *cobra.Command {
	var sharesDir string
	var publics []string
	c := &cobra.Command{
		Use:   "init [--shares-dir DIR | --recovery-public FILE…]",
		Short: "Set up state, recovery keys, tenants and stores that are not there yet",
		Long: `Init makes what is missing: the box's credential and key store, keys for new
tenants, markers on new stores. It changes nothing that is there and may be
repeated.

The recovery key is made at the offline station (strongroom station keys init)
and only its public half comes here, by --recovery-public. With --shares-dir it
is made on this machine and its shares are written to files: for demonstrations
and tests, since whoever reads this machine or that directory then has them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if sharesDir != "" && len(publics) > 0 {
				return exit.With(exit.Usage, errors.New("--shares-dir and --recovery-public exclude each other"))
			}
			cfg, err := a.load()
			if err != nil {
				return err
			}
			o := job.InitOptions{SharesDir: sharesDir, Now: time.Now(), Actor: operator()}
			if err := readPublics(&o, publics); err != nil {
				return err
			}
			r, err := job.Init(cmd.Context(), cfg, o, a.ui.Log)
			if errors.Is(err, job.ErrNeedRecovery) && a.onTerminal() {
				if err := a.askRecovery(cfg, &o); err != nil {
					return err
				}
				r, err = job.Init(cmd.Context(), cfg, o, a.ui.Log)
			}
			if err != nil {
				return err
			}
			if err := state.Create(cmd.Context(), stateConfig(cfg)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			return a.printInit(r)
		},
	}
	c.Flags().StringVar(&sharesDir, "shares-dir", "", "make missing recovery keys here and write their shares to this directory")
	c.Flags().StringArrayVar(&publics, "recovery-public", nil, "public file of a recovery key, from the station")
	return c
}

func readPublics(o *job.InitOptions, paths []string) error {
	for _, p := range paths {
		b, err := rescue.ReadBounded(p, 64<<10)
		if err != nil {
			return fmt.Errorf("read public half of the recovery key: %w", err)
		}
		pub, err := keys.ParseRecoveryPublic(b)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		o.Public = append(o.Public, pub)
	}
	return nil
}

func (a *app) onTerminal() bool {
	f, ok := a.in.(*os.File)
	return ok && !a.ui.JSON && term.IsTerminal(int(f.Fd()))
}

// askRecovery asks where the recovery key comes from.
func (a *app) askRecovery(cfg *config.Config, o *job.InitOptions) error {
	out, in := a.ui.Out(), bufio.NewReader(a.in)
	fmt.Fprintf(out, `No recovery key is known yet. It is what restores everything when this box is lost.
  1  take the public file that the offline station made (recommended)
  2  make it on this machine and write %d share files (for trials: who reads this machine has the key)
Which? `, cfg.Recovery.Standard.Shares)
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	switch n, _ := strconv.Atoi(strings.TrimSpace(line)); n {
	case 1:
		fmt.Fprint(out, "Path of the public file: ")
		path, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		return readPublics(o, []string{strings.TrimSpace(path)})
	case 2:
		fmt.Fprint(out, "Directory for the share files: ")
		path, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		o.SharesDir = strings.TrimSpace(path)
		if o.SharesDir == "" {
			return exit.With(exit.Usage, errors.New("no directory"))
		}
		return nil
	}
	return exit.With(exit.Usage, errors.New("answer 1 or 2"))
}

func (a *app) printInit(r *job.InitResult) error {
	var b strings.Builder
	for _, s := range r.Stores {
		fmt.Fprintf(&b, "store %q is ready\n", s)
	}
	if len(r.Stores)+len(r.Shares)+len(r.Tenants) == 0 {
		b.WriteString("nothing to do: everything is set up\n")
	}
	for _, s := range r.Recovery {
		fmt.Fprintf(&b, "recovery key %s\n", s)
	}
	if len(r.Shares) > 0 {
		fmt.Fprintf(&b, "%d share files were written, each with a page to print; give each to another person, on paper, and delete the files:\n", len(r.Shares))
		for _, s := range r.Shares {
			fmt.Fprintf(&b, "  %s\n", s)
		}
		b.WriteString("WARNING: this machine has held the whole recovery key. Whoever read its memory or these files can open every kit.\n")
	}
	for _, s := range r.Tenants {
		fmt.Fprintf(&b, "tenant %q has keys; it is not yet recoverable: next, strongroom keys kit %s\n", s, s)
	}
	if !r.Ledger {
		b.WriteString("nobody records yet who does what: next, strongroom audit init\n")
	}
	return a.ui.Result(r, "%s", b.String())
}

func (a *app) backupCommand() *cobra.Command {
	var label, keep string
	c := &cobra.Command{
		Use:   "backup TENANT/DATASET",
		Short: "Take a snapshot of a dataset",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err == nil && snapshot != "" {
				err = exit.With(exit.Usage, fmt.Errorf("%q names a snapshot; give TENANT/DATASET", args[0]))
			}
			if err != nil {
				return err
			}
			o := job.BackupOptions{Label: label, Tool: "strongroom " + version, Progress: a.ui.Progress}
			if o.Keep, err = parseKeep(keep); err != nil {
				return err
			}
			if err := checkLabel(label); err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			started := time.Now()
			r, err := site.Backup(cmd.Context(), tenant, dataset, o)
			if err != nil {
				return fmt.Errorf("backup %s/%s: %w", tenant, dataset, err)
			}
			return a.printBackup(r, time.Since(started))
		},
	}
	c.Flags().StringVar(&label, "label", "", "a name for the snapshot")
	c.Flags().StringVar(&keep, "keep", "", "promise to keep it so long, e.g. 90d or 12w")
	return c
}

// checkLabel keeps labels apart from snapshot ids and short enough to print.
func checkLabel(s string) error {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == '@' || r == 0x7f }) || s == "latest" {
		return exit.With(exit.Usage, errors.New("a label has at most 64 bytes, no @ and no control characters, and is not \"latest\""))
	}
	return nil
}

// parseKeep reads 90d, 12w or a Go duration.
func parseKeep(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	bad := exit.With(exit.Usage, fmt.Errorf("--keep %q is not a time such as 90d, 12w or 48h", s))
	unit := map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[len(s)-1]]
	if unit == 0 {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return 0, bad
		}
		return d, nil
	}
	n, err := strconv.Atoi(s[:len(s)-1])
	if err != nil || n <= 0 || n > 36500 {
		return 0, bad
	}
	return time.Duration(n) * unit, nil
}

func (a *app) printBackup(r *job.BackupResult, took time.Duration) error {
	var b strings.Builder
	c := r.Catalogue
	fmt.Fprintf(&b, "snapshot %s of %s/%s: %s\n", r.Snapshot, r.Tenant, r.Dataset, r.State)
	fmt.Fprintf(&b, "  read %s in %s, %s of it new, stored %s (%s with parity) in %s\n", rescue.Bytes(c.Read), rescue.Count(c.Streams, "stream"),
		rescue.Bytes(c.New), rescue.Bytes(c.Stored), rescue.Bytes(c.Coded), rescue.Rate(c.Read, took))
	switch {
	case c.Engine == "postgres", c.Engine == "mariadb":
		fmt.Fprintf(&b, "  %s, counted by the server too\n", rescue.Count(int(c.Rows), "row"))
	case c.Engine == "files":
		fmt.Fprintf(&b, "  %s of the tree: files, directories and links\n", rescue.Count(int(c.Rows), "name"))
	case c.Rows > 0:
		fmt.Fprintf(&b, "  %s\n", rescue.Count(int(c.Rows), "row"))
	}
	for _, s := range c.Anomalies {
		fmt.Fprintf(&b, "ANOMALY: %s\n", rescue.OneLine(s))
	}
	for _, s := range c.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", rescue.OneLine(s))
	}
	for _, s := range r.Failures {
		fmt.Fprintf(&b, "warning: %s\n", rescue.OneLine(s))
	}
	for _, s := range r.Unlocked {
		fmt.Fprintf(&b, "NOT LOCKED: %s; when that is mended: strongroom lock extend\n", rescue.OneLine(s))
	}
	if !r.Recoverable {
		fmt.Fprintf(&b, "note: tenant %q is not yet recoverable without this box: %s\n", r.Tenant, strings.Join(r.Missing, "; "))
	}
	if err := a.ui.Result(r, "%s", b.String()); err != nil {
		return err
	}
	if !r.Complete() {
		return exit.With(exit.Partial, fmt.Errorf("snapshot %s is committed, but %s", r.Snapshot, incompleteBecause(r)))
	}
	return nil
}

func incompleteBecause(r *job.BackupResult) string {
	var why []string
	if r.Stores < r.Of || len(r.Unlocked) > 0 {
		why = append(why, r.State)
	}
	if r.Catalogue.Partial {
		why = append(why, "partial: something selected could not be read")
	}
	return strings.Join(why, ", ")
}
