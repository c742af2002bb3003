package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
)

func (a *app) drillMustFailCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "must-fail",
		Short: "Put every fault into a drill, and see that each turns it red",
		Long: `Of each kind of snapshot the smallest newest one is drilled without a fault, which
has to pass, and with each fault that fits, which has to fail where that fault
shows. The daemon does it monthly, and an alarm says when it has not for 40 days.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			r, err := site.MustFail(cmd.Context(), "strongroom "+version, func(s string) { a.ui.Log("%s", s) })
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, l := range []struct {
				what string
				list []string
			}{{"red, as it has to be", r.Red}, {"WRONG", r.Wrong}, {"could not be tried here", r.Infra}, {"nothing to put it into", r.Nothing}} {
				for _, t := range l.list {
					fmt.Fprintf(&b, "%s: %s\n", l.what, rescue.OneLine(t))
				}
			}
			if err := a.ui.Result(r, "%s", b.String()); err != nil {
				return err
			}
			switch {
			case len(r.Wrong) > 0:
				return exit.With(exit.Failed, errors.New("drills here cannot be trusted: "+r.Wrong[0]))
			case len(r.Infra) > 0:
				return exit.With(exit.Inconclusive, fmt.Errorf("%s could not be tried here", rescue.Count(len(r.Infra), "fault")))
			}
			return nil
		},
	}
}

func (a *app) drillColdCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cold",
		Short: "Recover a tenant made for it from nothing but its kit, shares and stores",
		Long: `Cold makes a tenant named canary with a test recovery key and stores of its own,
backs it up, destroys the box that did and one of the stores, and recovers it in a
sandbox that has nothing but this program, a kit, k share files and the stores that
are left. It proves the program. The real shares, and who holds them, are proven at
the station. The daemon does it monthly.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			r, err := site.Cold(cmd.Context(), "strongroom "+version)
			if err != nil {
				return err
			}
			if err := a.ui.Result(r, "%s", drillText(r)); err != nil {
				return err
			}
			return drillError(r)
		},
	}
}
