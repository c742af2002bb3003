package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/daemon/job"
)

func (a *app) importCommand() *cobra.Command {
	var times []string
	var label string
	c := &cobra.Command{
		Use:   "import TENANT/DATASET FILE…",
		Short: "Take old dumps as history",
		Long: `Import takes each FILE as one snapshot of a dataset with source = "import", as of
--time, or else of when the file was last written to. Several files go in the
order of their times; a file that is older than the newest that is there is
refused. - is stdin, for dumps that are compressed:

    zcat crm-2024-03-03.sql.gz | strongroom import acme/crm-history - --time 2024-03-03

A restore writes the file as it was. The rules of [tenant.dataset.keep] go by
these times.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, snapshot, err := splitTarget(args[0])
			if err == nil && snapshot != "" {
				err = exit.With(exit.Usage, fmt.Errorf("%q names a snapshot; give TENANT/DATASET", args[0]))
			}
			if err != nil {
				return err
			}
			if err := checkLabel(label); err != nil {
				return err
			}
			dumps := make([]job.Dump, len(args)-1)
			if len(times) > 0 && len(times) != len(dumps) {
				return exit.With(exit.Usage, fmt.Errorf("%d times for %d files: give one --time a file, or none", len(times), len(dumps)))
			}
			for i, path := range args[1:] {
				dumps[i] = job.Dump{Path: path, In: a.in}
				if path == "-" && len(dumps) > 1 {
					return exit.With(exit.Usage, errors.New("- stands alone"))
				}
				if len(times) > 0 {
					if dumps[i].Time, err = parseTime(times[i]); err != nil {
						return err
					}
				}
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			started := time.Now()
			o := job.BackupOptions{Label: label, Tool: "strongroom " + version, Progress: a.ui.Progress}
			worst := error(nil)
			err = site.Import(cmd.Context(), tenant, dataset, dumps, o, func(x job.Dump, r *job.BackupResult) error {
				a.ui.Log("%s of %s:", x.Path, x.Time.Format(time.RFC3339))
				err := a.printBackup(r, time.Since(started))
				started = time.Now()
				if exit.Of(err) == exit.Partial { // reduced: the others go on
					worst, err = err, nil
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("import into %s/%s: %w", tenant, dataset, err)
			}
			return worst
		},
	}
	c.Flags().StringArrayVar(&times, "time", nil, "when the dump was made: 2024-03-03, 2024-03-03T02:30:00Z or with an offset; once a file")
	c.Flags().StringVar(&label, "label", "", "a name for the snapshots")
	return c
}

// parseTime reads a day, or a time with its zone.
func parseTime(s string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil && t.Year() >= 1970 {
			return t, nil
		}
	}
	return time.Time{}, exit.With(exit.Usage, fmt.Errorf("--time %q is not a day such as 2024-03-03 or a time such as 2024-03-03T02:30:00Z", s))
}
