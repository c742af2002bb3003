package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

func (a *app) lockCommand() *cobra.Command {
	c := &cobra.Command{Use: "lock", Short: "Keep what snapshots need from being deleted from the stores that lock objects"}
	c.AddCommand(a.lockExtendCommand(), a.lockListCommand())
	return c
}

func (a *app) lockExtendCommand() *cobra.Command {
	var o job.LockOptions
	c := &cobra.Command{
		Use:   "extend [TENANT[/DATASET]]",
		Short: "Lock what live snapshots need for the whole window again; to be run every week",
		Long: `Lock every object that a live snapshot needs, on every store that has a "lock" in
the configuration, for the window of the tenant's level from now. What a policy
does not keep any more, what was buried, and what no snapshot needs is left
alone. Locks that have nine tenths of the window left are too.

May be stopped at any moment and run again. Exit code 21: a store is away or
refused.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := a.locks(cmd, args, o, (*job.Site).ExtendLocks)
			if err != nil {
				return err
			}
			verb := "locked"
			if o.DryRun {
				verb = "to be locked"
			}
			if err := a.printLocks(all, verb, time.Now()); err != nil {
				return err
			}
			if o.DryRun {
				a.ui.Log("dry run: no lock was set")
				return nil
			}
			if n := lockProblems(all); n > 0 {
				return exit.With(exit.Incomplete, fmt.Errorf("%s; run it again when that is mended", rescue.Count(n, "problem")))
			}
			return lockAlarm(all)
		},
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "set no lock, print what would be done")
	return c
}

func (a *app) lockListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list [TENANT[/DATASET]]",
		Short: "Ask every store how long what live snapshots need is locked",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := a.locks(cmd, args, job.LockOptions{}, (*job.Site).Locks)
			if err != nil {
				return err
			}
			if err := a.printLocks(all, "due to be locked again", time.Now()); err != nil {
				return err
			}
			if err := lockAlarm(all); err != nil {
				return err
			}
			if n := lockProblems(all); n > 0 {
				return exit.With(exit.Partial, fmt.Errorf("%s: not all could be asked", rescue.Count(n, "problem")))
			}
			return nil
		},
	}
}

type lockRun func(*job.Site, context.Context, job.LockOptions) ([]job.TenantLocks, error)

func (a *app) locks(cmd *cobra.Command, args []string, o job.LockOptions, run lockRun) ([]job.TenantLocks, error) {
	if len(args) == 1 {
		var err error
		if o.Tenant, o.Dataset, err = tenantOrDataset(args[0]); err != nil {
			return nil, err
		}
	}
	site, err := a.site()
	if err != nil {
		return nil, err
	}
	defer site.Close()
	o.Progress = a.ui.CountProgress("object")
	return run(site, cmd.Context(), o)
}

func (a *app) printLocks(all []job.TenantLocks, verb string, now time.Time) error {
	var b strings.Builder
	for _, t := range all {
		for _, p := range t.Problems {
			fmt.Fprintf(&b, "PROBLEM: %s\n", rescue.OneLine(p))
		}
		for _, s := range t.Stores {
			fmt.Fprintf(&b, "%s on %q: %s needed, %d %s; ", t.Tenant, s.Store, rescue.Count(s.Objects, "object"), s.Due, verb)
			switch {
			case s.Unknown > 0:
				fmt.Fprintf(&b, "%d could not be asked\n", s.Unknown)
			case s.Until.IsZero():
				fmt.Fprintf(&b, "%s is not locked\n", s.Object)
			default:
				fmt.Fprintf(&b, "locked until %s at least, %d %% of %d days\n", s.Until.Format("2006-01-02 15:04Z"), s.Percent, t.Days)
			}
		}
		for _, x := range t.Alarms() {
			fmt.Fprintf(&b, "ALARM: %s\n", x)
		}
	}
	if b.Len() == 0 {
		b.WriteString("nothing that a snapshot needs is on a store that locks\n")
	}
	return a.ui.Result(all, "%s", b.String())
}

func lockProblems(all []job.TenantLocks) (n int) {
	for _, t := range all {
		n += len(t.Problems)
	}
	return n
}

func lockAlarm(all []job.TenantLocks) error {
	n := 0
	for _, t := range all {
		n += len(t.Alarms())
	}
	if n > 0 {
		return exit.With(exit.Partial, fmt.Errorf("what snapshots need could be deleted soon: %s", rescue.Count(n, "alarm")))
	}
	return nil
}
