package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
	"strongroom/repo"
)

// datasetArg reads TENANT/DATASET.
func datasetArg(s string) (tenant, dataset string, err error) {
	tenant, dataset, snapshot, err := splitTarget(s)
	if err == nil && snapshot != "" {
		err = exit.With(exit.Usage, fmt.Errorf("%q names a snapshot; give TENANT/DATASET", s))
	}
	return tenant, dataset, err
}

func (a *app) expireCommand() *cobra.Command {
	var o job.ExpireOptions
	c := &cobra.Command{
		Use:   "expire TENANT/DATASET [--dry-run]",
		Short: "Let generations go that the dataset's policy does not keep",
		Long: `Expire writes a signed tombstone for each generation of which the policy keeps no
snapshot, on every store; from then on its snapshots are listed no more. A later
run, after the policy's grace, deletes its objects, at most a quarter of a store
at a time. The newest three snapshots that pass a check always stay.

Nothing goes while the dataset is frozen: by a legal hold (strongroom hold), an
anomaly that nobody has accepted (strongroom hold accept), clocks that disagree,
or snapshots that fail their check. "strongroom policy explain" says what is kept
why. Exit codes: 20 frozen, 21 a store is missing or failed; run it again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, err := datasetArg(args[0])
			if err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o.Plan = func(r *job.ExpireResult) error { return a.ui.Result(r, "%s", expireText(r)) }
			if err := site.Expire(cmd.Context(), tenant, dataset, o); err != nil {
				return err
			}
			if o.DryRun {
				a.ui.Log("dry run: nothing was changed")
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "print what would be done and do nothing")
	return c
}

// expireText is what an expiry does, or would do.
func expireText(r *job.ExpireResult) string {
	var b strings.Builder
	name := r.Tenant + "/" + r.Dataset
	for _, f := range r.Frozen {
		fmt.Fprintf(&b, "FROZEN: %s: %s\n", name, rescue.OneLine(f))
	}
	for _, x := range r.Bury {
		fmt.Fprintf(&b, "bury generation %d (%s): %s (%s), %s, %s on all stores; deleted from %s on\n", x.Epoch, x.Reason, rescue.Count(len(x.Snapshots), "snapshot"),
			strings.Join(x.Snapshots, ", "), rescue.Count(x.Objects, "object"), rescue.Bytes(x.Bytes), x.NotBefore.Format(time.DateOnly))
	}
	for _, x := range r.Carry {
		fmt.Fprintf(&b, "put the tombstone of %s on store %q, which lacks it\n", x.Generation, x.Store)
	}
	for _, x := range r.Delete {
		fmt.Fprintf(&b, "delete %s, %s, of generation %s from %q; %d are left there\n", rescue.Count(x.Objects, "object"), rescue.Bytes(x.Bytes), x.Generation, x.Store, x.Left)
	}
	for _, w := range r.Waiting {
		fmt.Fprintf(&b, "waiting: %s\n", rescue.OneLine(w))
	}
	for _, w := range r.Stuck {
		fmt.Fprintf(&b, "STUCK: %s\n", rescue.OneLine(w))
	}
	if b.Len() == 0 {
		fmt.Fprintf(&b, "nothing of %s is to go\n", name)
	}
	return b.String()
}

func (a *app) compactCommand() *cobra.Command {
	var o job.CompactOptions
	c := &cobra.Command{
		Use:   "compact TENANT/DATASET [--without SNAPSHOT --reason TEXT] [--dry-run]",
		Short: "Copy what survives of a dataset into a fresh generation",
		Long: `Compact restores every snapshot that the policy keeps and saves it again in a
fresh generation, reads each copy back from the stores and compares it. The
generations before then go by strongroom expire, with tombstone and grace as
always. Copies keep their place and time.

--without leaves one snapshot out, for good: the way to have a single snapshot
deleted. A run that was interrupted goes on where it was.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, err := datasetArg(args[0])
			if err != nil {
				return err
			}
			if (o.Without == "") != (strings.TrimSpace(o.Reason) == "") {
				return exit.With(exit.Usage, errors.New("--without and --reason go together"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o.Tool = "strongroom " + version
			o.Plan = func(r *job.CompactResult) error { return a.ui.Result(r, "%s", compactText(r)) }
			o.Copied = func(old *repo.Snapshot, made string) {
				a.ui.Log("snapshot %s is %s in the new generation, read back and equal", old.ID(), made)
			}
			if err := site.Compact(cmd.Context(), tenant, dataset, o); err != nil {
				return fmt.Errorf("compact %s/%s: %w", tenant, dataset, err)
			}
			if o.DryRun {
				a.ui.Log("dry run: nothing was changed")
			}
			return nil
		},
	}
	c.Flags().StringVar(&o.Without, "without", "", "a snapshot to leave out")
	c.Flags().StringVar(&o.Reason, "reason", "", "why it is left out")
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "print what would be done and do nothing")
	return c
}

func compactText(r *job.CompactResult) string {
	var b strings.Builder
	line := func(n []string, format string) {
		if len(n) > 0 {
			fmt.Fprintf(&b, format+": %s\n", rescue.Count(len(n), "snapshot"), strings.Join(n, ", "))
		}
	}
	line(r.Done, "copied before, %s")
	line(r.Expired, "not kept by the policy and not copied, %s")
	if r.Without != "" {
		fmt.Fprintf(&b, "left out: %s\n", r.Without)
	}
	line(r.Copy, "copy %s")
	if len(r.Copy) > 0 {
		fmt.Fprintf(&b, "%s to be read and stored again\n", rescue.Bytes(r.Bytes))
	} else {
		b.WriteString("nothing to copy: all that stays is in the newest generation\n")
	}
	return b.String()
}
