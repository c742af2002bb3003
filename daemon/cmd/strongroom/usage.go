package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

func (a *app) usageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "usage",
		Short: "Say how full the stores are, how fast they fill, and when they will be full",
		Long: `Say how full each store is, and when it will be full if it goes on as in the last
26 weeks, not counting what expires. First backups are not counted: they say
nothing of the next. What a bucket still takes is known from the store's quota.
(box) is the state directory, with what waits there for stores that are away.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			now := time.Now()
			all, err := site.Usage(cmd.Context(), now)
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"stores": all}, "%s", usageText(all, now))
		},
	}
}

func usageText(all []job.StoreUsage, now time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STORE\tHELD\tA WEEK\tFREE\tFULL")
	bytes := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return rescue.Bytes(*n)
	}
	var soon []string
	for _, u := range all {
		when := u.Left(now)
		if u.Full != nil {
			when += u.Full.Format(" (2006-01-02)")
			if u.Full.Before(now.AddDate(0, 0, 28)) {
				soon = append(soon, fmt.Sprintf("warning: store %q will be full %s\n", u.Store, u.Left(now)))
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Store, rescue.Bytes(u.Held), bytes(u.PerWeek), bytes(u.Free), when)
	}
	w.Flush()
	for _, line := range soon {
		b.WriteString(line)
	}
	return b.String()
}
