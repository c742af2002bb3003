package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/repo/retain"
)

func (a *app) holdCommand() *cobra.Command {
	c := &cobra.Command{Use: "hold", Short: "Keep anything from expiring: legal holds, and anomalies"}
	c.AddCommand(a.holdAddCommand(), a.holdListCommand(), a.holdRemoveCommand(), a.holdAcceptCommand())
	return c
}

// checkScope wants TENANT, TENANT/DATASET or TENANT/DATASET@SNAPSHOT. The name
// may be of what is configured no more.
func checkScope(s string) error {
	if !strings.ContainsAny(s, "/@") && s != "" {
		return nil
	}
	_, _, _, err := splitTarget(s)
	return err
}

func (a *app) holdAddCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "add TENANT[/DATASET[@SNAPSHOT]] --reason TEXT",
		Short: "Freeze a tenant, a dataset, or the dataset of a snapshot",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkScope(args[0]); err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			tenant, dataset, _ := strings.Cut(strings.Split(args[0], "@")[0], "/")
			if _, _, err := site.Tenant(tenant); err != nil {
				return err
			}
			if dataset != "" && !a.configured(site, tenant, dataset) {
				// A hold on a name that was mistyped would protect nothing.
				return exit.With(exit.Usage, fmt.Errorf("tenant %q has no dataset %q", tenant, dataset))
			}
			h, err := site.AddHold(cmd.Context(), args[0], reason, time.Now())
			if err != nil {
				return err
			}
			return a.ui.Result(h, "%s is on hold: nothing of it expires\n", h.Scope)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever comes later")
	return c
}

func (a *app) holdListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List legal holds",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			all, err := site.Holds()
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, h := range all {
				fmt.Fprintf(&b, "%s  %s  %s\n", h.Since.Format(time.DateOnly), h.Scope, h.Reason)
			}
			if len(all) == 0 {
				all = []retain.Hold{}
				b.WriteString("no holds\n")
			}
			return a.ui.Result(all, "%s", b.String())
		},
	}
}

func (a *app) holdRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove TENANT[/DATASET[@SNAPSHOT]]",
		Short: "End a legal hold",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			if err := site.RemoveHold(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.ui.Result(map[string]string{"removed": args[0]}, "%s is no longer on hold\n", args[0])
		},
	}
}

func (a *app) holdAcceptCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "accept TENANT/DATASET@SNAPSHOT --reason TEXT",
		Short: "Say that the anomalies of a snapshot are right, or its time known to be wrong, so that they freeze nothing",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err == nil && snapshot == "" {
				err = exit.With(exit.Usage, fmt.Errorf("%q names no snapshot; give TENANT/DATASET@SNAPSHOT", args[0]))
			}
			if err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			id, what, err := site.Accept(cmd.Context(), tenant, dataset, snapshot, reason, time.Now())
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"snapshot": id, "accepted": what}, "accepted of %s:\n  %s\n", id, strings.Join(what, "\n  "))
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why they are right")
	return c
}
