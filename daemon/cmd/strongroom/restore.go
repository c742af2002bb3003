package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
	"strongroom/source/loader"
)

func (a *app) restoreCommand() *cobra.Command {
	var o loader.Options
	c := &cobra.Command{
		Use:   "restore TENANT/DATASET[@SNAPSHOT] --to TARGET",
		Short: "Restore a snapshot to a path, a PostgreSQL or MariaDB database, or stdout",
		Long: `Restore the newest snapshot of a dataset, or the one named by the front of its
id or by its label.

--to PATH writes a database file, a directory tree, a command's output, or for
PostgreSQL and MariaDB a plain SQL dump. --to postgres://… or mariadb://… loads
an empty database in parallel. --to - writes to stdout: SQL, the database file, the output, or a tar.
What is at the target stays as it is unless --overwrite is given.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.To == "" {
				return exit.With(exit.Usage, errors.New("--to is missing: a path, postgres://…, mariadb://…, or - for stdout"))
			}
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err != nil {
				return err
			}
			a.ui.ToStdout = o.To == "-"
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o.Stdout, o.Progress = a.ui.Out(), a.ui.Progress
			started := time.Now()
			snap, res, err := site.Restore(cmd.Context(), tenant, dataset, snapshot, o)
			if err != nil {
				return err
			}
			return rescue.PrintRestored(a.ui, snap, res, time.Since(started))
		},
	}
	rescue.TargetFlags(c, &o)
	return c
}

func (a *app) checkCommand() *cobra.Command {
	var o job.CheckOptions
	var readData string
	c := &cobra.Command{
		Use:   "check [--sample | --read-data[=PERCENT%]]",
		Short: "Compare the stores with the manifests; needs no generation key",
		Long: `Compare what the stores list with the signed manifests.

--sample also reads the same 64 KiB of every shard of a pack, at a random place,
and compares them with the erasure code: a store that lies is found for less
than a hundredth of the bytes. --read-data reads every byte and compares its
SHA-256; --read-data=10% reads a tenth, those first that were read longest ago.
What is found bad is made good again by: strongroom repair`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if readData != "" {
				n, err := strconv.Atoi(strings.TrimSuffix(readData, "%"))
				if err != nil || n < 1 || n > 100 {
					return exit.With(exit.Usage, fmt.Errorf("--read-data=%s is not a percentage such as 10%%", readData))
				}
				o.ReadData = n
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o.Progress = a.ui.Progress
			r, err := site.Check(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.printCheck(r, o)
		},
	}
	c.Flags().BoolVar(&o.Sample, "sample", false, "compare a random column of every pack with the erasure code")
	c.Flags().StringVar(&readData, "read-data", "", "read every shard, or so many percent of all, and compare its SHA-256")
	c.Flags().Lookup("read-data").NoOptDefVal = "100%"
	return c
}

func (a *app) printCheck(r *job.CheckResult, o job.CheckOptions) error {
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM: %s\n", rescue.OneLine(p))
	}
	how := "listed with their lengths"
	switch {
	case o.ReadData == 100:
		how = "read whole and right, " + rescue.Bytes(r.Read)
	case o.ReadData > 0:
		how = fmt.Sprintf("good, %s of them read whole in this run, %s", rescue.Count(r.Objects, "object"), rescue.Bytes(r.Read))
	case o.Sample:
		how = "good as far as sampled, " + rescue.Bytes(r.Read)
	}
	fmt.Fprintf(&b, "%s, %s, %d of %s %s\n", rescue.Count(r.Snapshots, "snapshot"), rescue.Count(r.Packs, "pack"), r.Good, rescue.Count(r.Shards, "shard"), how)
	if r.Marked > 0 {
		fmt.Fprintf(&b, "%s that a repair replaced wait to be deleted\n", rescue.Count(r.Marked, "object"))
	}
	for _, l := range r.Locks {
		fmt.Fprintf(&b, "%s on %q: %s locked, the first until %s, %d %% of the window\n", l.Tenant, l.Store, rescue.Count(l.Objects, "object"), l.Until.Format("2006-01-02 15:04Z"), l.Percent)
	}
	for _, s := range r.Immutable {
		fmt.Fprintf(&b, "store %q: %s\n", s.Store, rescue.OneLine(s.State))
	}
	if r.Snapshots > 0 {
		fmt.Fprintf(&b, "margin: %s\n", marginText(r.Margin))
	}
	if err := a.ui.Result(r, "%s", b.String()); err != nil {
		return err
	}
	switch {
	case r.Gone > 0:
		return exit.With(exit.Integrity, fmt.Errorf("%s that this box committed last: no store has it", rescue.Count(r.Gone, "snapshot")))
	case r.Lost > 0:
		return exit.With(exit.Integrity, fmt.Errorf("%s cannot be read any more", rescue.Count(r.Lost, "pack")))
	case r.Away > 0:
		return exit.With(exit.TryLater, fmt.Errorf("%s cannot be read until a store is back", rescue.Count(r.Away, "pack")))
	case len(r.Problems) > 0:
		return exit.With(exit.Partial, fmt.Errorf("%s; every pack can still be read", rescue.Count(len(r.Problems), "problem")))
	}
	return nil
}
