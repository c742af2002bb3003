package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
	"strongroom/repo"
)

func (a *app) repairCommand() *cobra.Command {
	var o job.RepairOptions
	c := &cobra.Command{
		Use:   "repair [TENANT[/DATASET]]",
		Short: "Make lost and bad shards again from the others; needs no generation key",
		Long: `Make shards again that a store lost, or that a check found bad, from any k good
ones; and put manifests on the stores that lack them. What is made is a new
object, read back before it counts. Nothing is overwritten or deleted: objects
that are bad are listed in the state directory for whoever may delete.

A store that is away is waited for; one that is gone for good is given up by
"store drain", or by "store replace" after another took its place in the
configuration. May be stopped at any moment and run again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				var err error
				if o.Tenant, o.Dataset, err = tenantOrDataset(args[0]); err != nil {
					return err
				}
			}
			return a.repair(cmd, o, (*job.Site).Repair, "")
		},
	}
	c.Flags().BoolVar(&o.ReadData, "read-data", false, "read every shard first, instead of believing the listings and the last check")
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "write nothing, print what would be done")
	return c
}

// tenantOrDataset reads TENANT or TENANT/DATASET.
func tenantOrDataset(s string) (tenant, dataset string, err error) {
	tenant, dataset, _ = strings.Cut(s, "/")
	if tenant == "" || strings.ContainsAny(dataset, "/@") || dataset == "" && strings.HasSuffix(s, "/") {
		err = exit.With(exit.Usage, fmt.Errorf("%q is not TENANT or TENANT/DATASET", s))
	}
	return tenant, dataset, err
}

// fillCommand is store add, or store replace.
func (a *app) fillCommand(verb string) *cobra.Command {
	var o job.RepairOptions
	c := &cobra.Command{
		Use:   verb + " NAME",
		Short: "Put a further shard of every pack on a store that was appended to the configuration",
		Long: `Take a new store into use. Append it to the stores of the configuration first.
It must be empty; it is marked, and gets a shard of every pack that no other
store has, so that one more store may be lost. Signed supplements to the
manifests say what it has. May be stopped at any moment and run again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.repair(cmd, o, func(s *job.Site, ctx context.Context, o job.RepairOptions) (*repo.Repaired, error) {
				return s.FillStore(ctx, args[0], o)
			}, fmt.Sprintf("store %q has a shard of every pack that can be read; new kits should name it: strongroom keys kit\n", args[0]))
		},
	}
	if verb == "replace" {
		c.Short = "Make what a lost store had on the one that takes its place"
		c.Long = `Fill the store that took the place of one that is gone: write where it is now
into the lost one's place in the configuration first. It must be empty; it is
marked, and gets the shards of its place made again from the others, and the
manifests. May be stopped at any moment and run again.`
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "write nothing, print what would be done")
	return c
}

func (a *app) drainCommand() *cobra.Command {
	var o job.RepairOptions
	c := &cobra.Command{
		Use:   "drain NAME",
		Short: "Put what a store has on the others, so that it may be taken away",
		Long: `Move off a store that will be taken away, dead or alive: its shards are copied to
the others, or made again, with as many further ones as it takes to survive the
loss of one more as a new snapshot would. Nothing on the store is changed. Take
it out of the configuration afterwards. May be stopped and run again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.repair(cmd, o, func(s *job.Site, ctx context.Context, o job.RepairOptions) (*repo.Repaired, error) {
				return s.DrainStore(ctx, args[0], o)
			}, fmt.Sprintf("no snapshot needs store %q any more: take it out of the configuration before the next backup, and issue new kits: strongroom keys kit\n", args[0]))
		},
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "write nothing, print what would be done")
	return c
}

// repair runs one of the verbs above and prints what it did. end is said when
// nothing is left to do.
func (a *app) repair(cmd *cobra.Command, o job.RepairOptions, run func(*job.Site, context.Context, job.RepairOptions) (*repo.Repaired, error), end string) error {
	site, err := a.site()
	if err != nil {
		return err
	}
	defer site.Close()
	o.Progress = a.ui.Progress
	r, err := run(site, cmd.Context(), o)
	if err != nil {
		return err
	}
	for _, p := range r.Problems {
		a.ui.Log("warning: %s", p)
	}
	var b strings.Builder
	for _, x := range r.Acts {
		fmt.Fprintln(&b, actText(x))
	}
	for _, l := range r.Left {
		fmt.Fprintf(&b, "PROBLEM: %s\n", rescue.OneLine(l))
	}
	fmt.Fprintf(&b, "%s looked at, %s in %s\n", rescue.Count(r.Packs, "pack"), rescue.Bytes(r.Written), rescue.Count(writes(r), "shard"))
	if o.DryRun {
		b.WriteString("dry run: nothing was written\n")
	} else if r.Whole() {
		b.WriteString(end)
	}
	if err := a.ui.Result(r, "%s", b.String()); err != nil {
		return err
	}
	switch {
	case r.Lost > 0:
		return exit.With(exit.Integrity, fmt.Errorf("%s cannot be made whole: too few good shards are left", rescue.Count(r.Lost, "pack")))
	case len(r.Left) > 0:
		return exit.With(exit.Incomplete, fmt.Errorf("%s left to do; run it again when that is mended", rescue.Count(len(r.Left), "thing")))
	case r.Away > 0:
		return exit.With(exit.TryLater, fmt.Errorf("%s may have shards on stores that are away; they were left alone", rescue.Count(r.Away, "pack")))
	}
	return nil
}

func writes(r *repo.Repaired) (n int) {
	for _, x := range r.Acts {
		if x.Act == "write" {
			n++
		}
	}
	return n
}

func actText(x repo.Act) string {
	text := x.Act
	if x.Store != "" {
		text += fmt.Sprintf(" on %q", x.Store)
	}
	text += ": " + x.Object
	if x.Bytes > 0 {
		text += ", " + rescue.Bytes(x.Bytes)
	}
	return text + ": " + rescue.OneLine(x.Why)
}

// marginWord says in a table how many stores may be lost.
func marginWord(n int) string {
	if n < 0 {
		return "NONE"
	}
	return fmt.Sprint(n)
}

func marginText(n int) string {
	switch {
	case n < 0:
		return "a snapshot cannot be restored from the stores that answer"
	case n == 0:
		return "no further store may be lost"
	}
	return rescue.Count(n, "further store") + " may be lost, whichever they are"
}
