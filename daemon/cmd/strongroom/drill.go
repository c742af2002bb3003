package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/receipt"
	"strongroom/custody/receipt/report"
	"strongroom/custody/rescue"
	"strongroom/daemon/drill"
	"strongroom/daemon/job"
)

func (a *app) drillCommand() *cobra.Command {
	c := &cobra.Command{Use: "drill", Short: "Prove that snapshots restore: into a real engine, in a sandbox"}
	c.AddCommand(a.drillRunCommand(), a.drillMustFailCommand(), a.drillColdCommand(), a.drillClosedCommand(), a.drillListCommand(), a.drillShowCommand())
	return c
}

func (a *app) drillRunCommand() *cobra.Command {
	var o job.DrillOptions
	var released releaseFlags
	c := &cobra.Command{
		Use:   "run TENANT/DATASET[@SNAPSHOT]",
		Short: "Restore a snapshot in a sandbox, compare it, and sign a receipt",
		Long: `Restore the newest snapshot of a dataset, or the one named, into a real engine
that is made for this drill in a sandbox without a network, and compare it with
what was recorded when the snapshot was taken. Nothing that lives is touched.

The steps are ` + strings.Join(receipt.Names(), ", ") + `.
All but the last are done unless --step names some; the last reads the snapshot
with each store withheld in turn. A drill is a PASS only if every step was done.
What this machine cannot do (no engine of that version, no room) is INFRA and
says nothing about the backup.

--from media:/path drills what an offline medium has, by itself, wherever it is
mounted.

--release drills a snapshot of a closed generation, whose key is not on this box:
drill closed chooses one and asks the station.

--must-fail puts a fault in on purpose, and ends well only if the drill is red.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err != nil {
				return err
			}
			if o.Steps, err = drillSteps(o.Steps); err != nil {
				return err
			}
			if o.Fault != "" && !slices.Contains(drill.Faults(), drill.Fault(o.Fault)) {
				return exit.With(exit.Usage, fmt.Errorf("there is no fault %q; there are %v", o.Fault, drill.Faults()))
			}
			if o.Released, err = released.open(a); err != nil {
				return err
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o.Tool = "strongroom " + version
			r, err := site.Drill(cmd.Context(), tenant, dataset, snapshot, o)
			if err != nil {
				return err
			}
			if err := a.ui.Result(r, "%s", drillText(r)); err != nil {
				return err
			}
			return drillError(r)
		},
	}
	c.Flags().StringSliceVar(&o.Steps, "step", nil, "do these steps alone, or \"all\"")
	c.Flags().StringSliceVar(&o.Without, "without", nil, "withhold this store")
	c.Flags().StringArrayVar(&o.From, "from", nil, "read from this store instead of those configured: media:/path for an offline medium")
	c.Flags().StringVar(&o.Fault, "must-fail", "", "put this fault in")
	released.add(c)
	return c
}

func drillSteps(names []string) ([]string, error) {
	if len(names) == 1 && names[0] == "all" {
		return receipt.Names(), nil
	}
	for _, n := range names {
		if !slices.Contains(receipt.Names(), n) {
			return nil, exit.With(exit.Usage, fmt.Errorf("there is no step %q; there are %s", n, strings.Join(receipt.Names(), ", ")))
		}
	}
	return names, nil
}

// drillError gives the verdict its exit code.
func drillError(r *receipt.Receipt) error {
	if r.MustFail != "" {
		if r.Verdict == receipt.FAIL {
			return nil
		}
		return exit.With(exit.Failed, fmt.Errorf("a drill with the fault %q ended with %s: drills here cannot be trusted", r.MustFail, r.Verdict))
	}
	reason := strings.Join(r.Why, "; ")
	switch r.Verdict {
	case receipt.PASS:
		return nil
	case receipt.PARTIAL:
		return exit.With(exit.Partial, errors.New("not all was done: "+reason))
	case receipt.INFRA:
		return exit.With(exit.Inconclusive, errors.New("it could not be tried here, which says nothing about the backup: "+reason))
	}
	return exit.With(exit.Integrity, errors.New("the snapshot does not restore as it should: "+reason))
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func drillText(r *receipt.Receipt) string {
	var b strings.Builder
	snapshot := " on " + r.Started.Format("2006-01-02 15:04Z") // a cold drill has one of its own
	if r.Snapshot.ID != "" {
		snapshot = fmt.Sprintf("@%s of %s", r.Snapshot.ID, r.Snapshot.Point.Format("2006-01-02 15:04Z"))
	}
	fmt.Fprintf(&b, "%s  %s/%s%s, %s\n", r.Verdict, r.Tenant, r.Dataset, snapshot, r.Level)
	if r.MustFail != "" {
		fmt.Fprintf(&b, "with the fault %q put in: it had to fail\n", r.MustFail)
	}
	for _, s := range r.Steps {
		ok := 0
		for _, c := range s.Checks {
			if c.OK {
				ok++
			}
		}
		fmt.Fprintf(&b, "%-11s %-8s %d of %s", s.Name, s.Status, ok, rescue.Count(len(s.Checks), "check"))
		if s.Why != "" {
			fmt.Fprintf(&b, "  %s", rescue.OneLine(s.Why))
		}
		b.WriteByte('\n')
	}
	for _, p := range r.Phases {
		fmt.Fprintf(&b, "%-30s %v\n", p.Name, milliseconds(p.Milliseconds))
	}
	fmt.Fprintf(&b, "RTO %s, RPO %s\n", targetText(r.RTO), targetText(r.RPO))
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", rescue.OneLine(n))
	}
	fmt.Fprintf(&b, "receipt %s\n", r.ID)
	return b.String()
}

func targetText(t receipt.Target) string {
	switch {
	case !t.Measured:
		return "not measured"
	case t.Promised == 0:
		return milliseconds(t.Milliseconds).String()
	case t.Met():
		return fmt.Sprintf("%v, within %v", milliseconds(t.Milliseconds), milliseconds(t.Promised))
	}
	return fmt.Sprintf("%v, MISSED %v", milliseconds(t.Milliseconds), milliseconds(t.Promised))
}

func (a *app) drillListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the receipts, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			ids, err := site.Receipts()
			if err != nil {
				return err
			}
			var lines []drillLine
			var b strings.Builder
			bad := 0
			for _, id := range ids {
				l := drillLine{ID: id, Verdict: "UNREADABLE"}
				if r, _, err := site.Receipt(id); err == nil {
					l = drillLine{id, r.Tenant, r.Dataset, r.Snapshot.ID, string(r.Verdict), r.MustFail, ""}
				} else {
					l.Error = err.Error()
					bad++
				}
				lines = append(lines, l)
				fmt.Fprintf(&b, "%s  %-10s %s/%s", l.ID, l.Verdict, l.Tenant, l.Dataset)
				if l.Snapshot != "" {
					fmt.Fprintf(&b, "@%s", l.Snapshot)
				}
				if l.MustFail != "" {
					fmt.Fprintf(&b, "  must fail: %s", l.MustFail)
				}
				b.WriteString(rescue.OneLine(l.Error) + "\n")
			}
			if len(ids) == 0 {
				b.WriteString("no drills\n")
			}
			if err := a.ui.Result(map[string]any{"drills": lines}, "%s", b.String()); err != nil {
				return err
			}
			if bad > 0 {
				return exit.With(exit.Integrity, fmt.Errorf("%s not as this box signed it", rescue.Count(bad, "receipt")))
			}
			return nil
		},
	}
}

type drillLine struct {
	ID       string `json:"id"`
	Tenant   string `json:"tenant"`
	Dataset  string `json:"dataset"`
	Snapshot string `json:"snapshot"`
	Verdict  string `json:"verdict"`
	MustFail string `json:"must_fail,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (a *app) drillShowCommand() *cobra.Command {
	var html, pdf, raw bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Verify a receipt and show it",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			r, signed, err := site.Receipt(args[0])
			if err != nil {
				return err
			}
			switch {
			case html && raw || html && pdf || pdf && raw:
				return exit.With(exit.Usage, errors.New("one of --html, --pdf and --signed"))
			case pdf:
				page, err := report.PDF(r)
				if err != nil {
					return err
				}
				_, err = a.ui.Out().Write(page)
				return err
			case raw:
				_, err = a.ui.Out().Write(signed)
				return err
			case html:
				page, err := r.Page()
				if err != nil {
					return err
				}
				_, err = a.ui.Out().Write(page)
				return err
			}
			return a.ui.Result(r, "%s", drillText(r))
		},
	}
	c.Flags().BoolVar(&html, "html", false, "as a page to print")
	c.Flags().BoolVar(&pdf, "pdf", false, "as a PDF")
	c.Flags().BoolVar(&raw, "signed", false, "as it was signed, for strongroom-verify")
	return c
}
