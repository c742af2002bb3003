package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/source"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [TENANT/DATASET]",
		Short: "Examine the machine and what is backed up: rights too weak and too strong, what would be missing, what would fail",
		Long: `Examine the machine, and one dataset or all: before the first snapshot, and
weekly. It needs no init, changes nothing, and prints for each finding what to
do, and for a PostgreSQL database the SQL of the role to read it with.

  bad   a backup would fail or be refused
  warn  a backup works, and something should be changed
  note  worth knowing
  ok    looked at and as it should be

It ends with 20 if anything is bad, since a backup would be refused, and else
with 0: warnings keep nobody from taking a snapshot that is whole, which is what
3 would say.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			var tenant, dataset string
			if len(args) == 1 {
				if tenant, dataset, err = datasetArg(args[0]); err != nil {
					return err
				}
			}
			r, err := a.examine(cmd.Context(), cfg, tenant, dataset)
			if err != nil {
				return err
			}
			if err := a.ui.Result(r, "%s", doctorText(r)); err != nil || r.Worst != source.Bad {
				return err
			}
			return exit.With(exit.Refused, fmt.Errorf("a backup would fail or be refused: %s", whatIsBad(r)))
		},
	}
}

// examine knows more where this user can open the box, and is for those who cannot,
// and for the time before there is one, too.
func (a *app) examine(ctx context.Context, c *config.Config, tenant, dataset string) (*job.DoctorResult, error) {
	site, err := job.OpenSite(c, a.ui.Log)
	if err != nil {
		return job.Doctor(ctx, c, tenant, dataset)
	}
	defer site.Close()
	return site.Doctor(ctx, tenant, dataset)
}

// doctorText has the worst of each subject first; remedies follow the table
// of what they are for, in lines that can be copied.
func doctorText(r *job.DoctorResult) string {
	var b strings.Builder
	for i, x := range r.Examined {
		if i > 0 {
			b.WriteString("\n")
		}
		all := slices.Clone(x.Findings)
		slices.SortStableFunc(all, func(a, b source.Finding) int {
			switch {
			case a.Severity.Worse(b.Severity):
				return -1
			case b.Severity.Worse(a.Severity):
				return 1
			}
			return 0
		})
		fmt.Fprintln(&b, x.Subject)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, f := range all {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", f.Severity, f.Code, rescue.OneLine(f.What))
			if f.Why != "" {
				fmt.Fprintf(w, "\t\t  %s\n", rescue.OneLine(f.Why))
			}
		}
		w.Flush()
		b.WriteString(remedies(all))
	}
	return b.String()
}

func remedies(all []source.Finding) string {
	var b strings.Builder
	for _, f := range all {
		if f.Remedy == "" {
			continue
		}
		if b.Len() == 0 {
			b.WriteString("  What to do:\n")
		}
		fmt.Fprintf(&b, "  %s:\n    %s\n", f.Code, strings.ReplaceAll(f.Remedy, "\n", "\n    "))
	}
	return b.String()
}

func whatIsBad(r *job.DoctorResult) string {
	var all []string
	for _, x := range r.Examined {
		for _, f := range x.Findings {
			if f.Severity == source.Bad {
				all = append(all, x.Subject+": "+f.Code)
			}
		}
	}
	return strings.Join(all, ", ")
}
