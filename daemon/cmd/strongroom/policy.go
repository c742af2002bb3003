package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/custody/rescue"
	"strongroom/daemon/job"
	"strongroom/repo"
)

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "Look at what is kept, and why"}
	c.AddCommand(&cobra.Command{
		Use:   "explain [TENANT/DATASET]",
		Short: "Say which rule keeps each snapshot, what it costs, and what expire would do",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			if len(args) == 1 {
				tenant, dataset, err := datasetArg(args[0])
				if err != nil {
					return err
				}
				return a.explain(cmd, site, tenant, dataset)
			}
			for _, t := range site.Config.Tenants {
				for _, d := range t.Datasets {
					err := a.explain(cmd, site, t.Name, d.Name)
					if errors.Is(err, repo.ErrNoSnapshot) {
						a.ui.Log("%v", err)
					} else if err != nil {
						return err
					}
				}
			}
			return nil
		},
	})
	return c
}

func (a *app) explain(cmd *cobra.Command, site *job.Site, tenant, dataset string) error {
	r, err := site.Explain(cmd.Context(), tenant, dataset)
	if err != nil {
		return fmt.Errorf("%s/%s: %w", tenant, dataset, err)
	}
	return a.ui.Result(r, "%s", explainText(r))
}

func explainText(r *job.ExpireResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s\n", r.Tenant, r.Dataset)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, g := range r.Generations {
		why := "may go"
		if len(g.Kept) > 0 {
			why = "stays: " + rescue.OneLine(g.Kept[0])
		}
		fmt.Fprintf(w, "generation %d\t%s\t%s\t%s\n", g.Epoch, rescue.Count(g.Objects, "object"), rescue.Bytes(g.Bytes), why)
		for _, s := range g.Snapshots {
			text := strings.Join(s.Reasons, ", ")
			if !s.Keep {
				text = "EXPIRED"
				if s.Gone != "" {
					text += ": " + rescue.OneLine(s.Gone)
				} else if len(g.Kept) > 0 {
					text += ", and stays while its generation does"
				}
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", s.Snapshot, s.Time.UTC().Format("2006-01-02 15:04"), s.Label, text)
		}
	}
	w.Flush()
	return b.String() + expireText(r)
}
