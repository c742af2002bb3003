package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/state"
)

func (a *app) alarmsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "alarms",
		Short: "List what is wrong; acknowledge or mute it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			all, err := client.Alarms(cmd.Context())
			if err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"alarms": all}, "%s", alarmsText(all))
		},
	}
	c.AddCommand(a.acknowledgeCommand(), a.muteCommand())
	return c
}

func alarmsText(all []state.Alarm) string {
	if len(all) == 0 {
		return "nothing is wrong\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ALARM\tKEY\tSINCE\tTIMES\tKNOWN TO\tREASON")
	for _, x := range all {
		known := orDash(x.AckedBy)
		if x.MutedUntil.After(time.Now()) {
			known = "muted by " + x.MutedBy + " until " + day(x.MutedUntil)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%s\n", x.ID, x.Key, moment(&x.Raised), x.Times, known, rescue.OneLine(x.Reason))
	}
	w.Flush()
	return b.String()
}

func (a *app) acknowledgeCommand() *cobra.Command {
	var who, why string
	c := &cobra.Command{
		Use:   "acknowledge ALARM --why TEXT",
		Short: "Say that you know of an alarm",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return exit.With(exit.Usage, fmt.Errorf("%q is no number of an alarm", args[0]))
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.Acknowledge(cmd.Context(), state.AlarmID(id), who, why); err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"alarm": id}, "alarm %d is known to %s\n", id, who)
		},
	}
	c.Flags().StringVar(&who, "by", whoActs(), "who does it, for the record")
	c.Flags().StringVar(&why, "why", "", "why, for the record")
	return c
}

func (a *app) muteCommand() *cobra.Command {
	var who, why, span string
	c := &cobra.Command{
		Use:   "mute KEY --for 7d --why TEXT",
		Short: "Keep an alarm from being told for a time",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, ok := config.ParseSpan(span)
			if !ok || d <= 0 {
				return exit.With(exit.Usage, fmt.Errorf("--for %q is not a time such as 7d or 12h", span))
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			until := time.Now().Add(d)
			if err := client.Mute(cmd.Context(), args[0], until, who, why); err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"key": args[0], "until": until}, "%q is not told until %s\n", args[0], moment(&until))
		},
	}
	c.Flags().StringVar(&who, "by", whoActs(), "who does it, for the record")
	c.Flags().StringVar(&why, "why", "", "why, for the record")
	c.Flags().StringVar(&span, "for", "", "how long")
	return c
}

func (a *app) notifyCommand() *cobra.Command {
	c := &cobra.Command{Use: "notify", Short: "How people are told"}
	kind := "failed"
	test := &cobra.Command{
		Use:   "test",
		Short: "Send exactly what a real event sends, by every way, and say what became of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			lines, err := client.TestNotify(cmd.Context(), kind)
			if err != nil {
				return asked(err)
			}
			if err := a.ui.Result(map[string]any{"ways": lines}, "%s\n", strings.Join(lines, "\n")); err != nil {
				return err
			}
			for _, l := range lines {
				if strings.Contains(l, "FAILED") {
					return exit.With(exit.TryLater, errors.New("not every way took it"))
				}
			}
			return nil
		},
	}
	test.Flags().StringVar(&kind, "event", kind, "failed, overdue, recovered, digest …")
	var who string
	answer := &cobra.Command{
		Use:   "answer CODE",
		Short: "Answer a test alarm with its code",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.Answer(cmd.Context(), args[0], who); err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{}, "answered by %s\n", who)
		},
	}
	answer.Flags().StringVar(&who, "by", whoActs(), "who does it, for the record")
	c.AddCommand(test, answer)
	return c
}
