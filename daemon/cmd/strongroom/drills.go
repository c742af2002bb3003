package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
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

// releaseFlags name what opens a generation that this box cannot.
type releaseFlags struct{ kit, release, key string }

func (f *releaseFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.release, "release", "", "release file from the station, for a snapshot of a closed generation")
	c.Flags().StringVar(&f.kit, "kit", "", "with --release: kit file of the tenant")
	c.Flags().StringVar(&f.key, "key", "", "with --release: one-time key file, made with the request")
}

func (f *releaseFlags) open(a *app) (job.GenerationOpener, error) {
	switch {
	case f.release == "" && f.kit == "" && f.key == "":
		return nil, nil
	case f.release == "" || f.kit == "" || f.key == "":
		return nil, exit.With(exit.Usage, errors.New("--release, --kit and --key go together"))
	}
	kit, err := rescue.ReadKit(f.kit)
	if err != nil {
		return nil, err
	}
	o, err := rescue.OpenRelease(kit, f.release, f.key, time.Now())
	if err != nil {
		return nil, err
	}
	if o.Rehearsal {
		return nil, fmt.Errorf("%s: %w", f.release, keys.ErrRehearsal)
	}
	return o, nil
}

func (a *app) drillClosedCommand() *cobra.Command {
	var request string
	var valid time.Duration
	c := &cobra.Command{
		Use:   "closed TENANT --request FILE",
		Short: "Choose a closed generation to be drilled, and ask the station for its key",
		Long: `The key of a generation that is closed is on no box: of secret and top-secret
tenants only k shares open it, so only people can prove that it restores. Once a
quarter they should; the alarm proof-due says when it was not done.

Closed chooses one of the tenant's closed generations by the ledger's newest
checkpoint, so that nobody picks what is proven, and writes a request for it:

  1. here:        strongroom drill closed acme --request REQ
  2. the station: strongroom station release --request REQ --kit KIT --share-file F… --out REL
  3. here:        strongroom drill run acme/crm@SNAPSHOT --release REL --kit KIT --key REQ.key

The key is in memory for that drill alone; delete REQ.key and REL afterwards.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request == "" {
				return exit.With(exit.Usage, errors.New("--request is missing"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			c, err := site.ChooseClosed(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			code, err := rescue.WriteRequest(request, c.TenantID, []keys.SealedGeneration{c.Sealed}, valid)
			if err != nil {
				return err
			}
			return a.ui.Result(struct {
				*job.Closed
				Request string `json:"request"`
				Key     string `json:"key"`
				Code    string `json:"code"`
			}{c, request, request + ".key", code},
				"generation %d, one of %d that are closed, was chosen by checkpoint %.16s…\nrequest for its key written to %s\nits code is %s: the station must show the same\nnext, with the release: strongroom drill run %s/%s@%s --release REL --kit KIT --key %s.key\n",
				c.Epoch, c.Of, c.Checkpoint, request, code, c.Tenant, c.Dataset, c.Snapshot, request)
		},
	}
	c.Flags().StringVar(&request, "request", "", "write the request to this file, and its one-time key beside it as .key")
	c.Flags().DurationVar(&valid, "valid", 72*time.Hour, "how long the request is valid")
	return c
}
