package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/daemon"
	"strongroom/daemon/api"
	"strongroom/daemon/state"
)

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "watch [RUN]",
		Short: "Follow what the daemon does as it happens, or one run to its end",
		Long: `Watch prints what the daemon does, a line for each thing that happens, until it
is interrupted. With the number of a run it follows that one to its end, and exits
with 0 if it went well, with 3 if its snapshot is reduced, else with 1.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := follower{a: a}
			if len(args) == 1 {
				n, err := strconv.ParseInt(args[0], 10, 64)
				if err != nil || n < 1 {
					return exit.With(exit.Usage, fmt.Errorf("%q is no number of a run", args[0]))
				}
				f.run = state.RunID(n)
			}
			var err error
			if f.client, err = a.client(); err != nil {
				return err
			}
			err = f.client.Watch(cmd.Context(), func(h daemon.Happening) error { return f.see(cmd, h) })
			if errors.Is(err, errEnded) {
				return f.verdict
			}
			if cmd.Context().Err() != nil && f.run == 0 {
				return cmd.Context().Err()
			}
			return asked(err)
		},
	}
}

// errEnded ends a watch of one run, whose outcome is the verdict.
var errEnded = errors.New("it has ended")

type follower struct {
	a       *app
	client  *api.Client
	run     state.RunID // 0: all
	seen    bool
	verdict error
}

func (f *follower) see(cmd *cobra.Command, h daemon.Happening) error {
	switch {
	case h.What == "ready" && f.run != 0 && !f.seen:
		return f.ended(cmd)
	case h.What == "ready" || f.run != 0 && h.Run != f.run:
		return nil
	}
	f.seen = true
	if err := f.a.ui.Event("happening", h, happeningText(h)); err != nil {
		return err
	}
	if f.run != 0 && h.What == "ended" {
		f.verdict = verdictOf(h.Run, h.Outcome)
		return errEnded
	}
	return nil
}

// ended looks for a run that does not go on any more.
func (f *follower) ended(cmd *cobra.Command) error {
	all, err := f.client.RunsBefore(cmd.Context(), "", "", f.run+1, 1)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.ID == f.run && r.Finished != nil {
			h := daemon.Happening{Time: *r.Finished, What: "ended", Run: r.ID, Job: r.Job, Outcome: r.Outcome, Reason: r.Reason}
			f.verdict = errors.Join(f.a.ui.Event("happening", h, happeningText(h)), verdictOf(r.ID, r.Outcome))
			return errEnded
		}
	}
	return fmt.Errorf("%w: %d", daemon.ErrNoRun, f.run)
}

func verdictOf(run state.RunID, outcome string) error {
	switch state.Outcome(outcome) {
	case state.OK:
		return nil
	case state.Partial:
		return exit.With(exit.Partial, fmt.Errorf("run %d ended as %s", run, outcome))
	}
	return exit.With(exit.Failed, fmt.Errorf("run %d ended as %s", run, outcome))
}

func happeningText(h daemon.Happening) string {
	s := h.Time.Local().Format("15:04:05")
	if h.Run != 0 {
		s += fmt.Sprintf("  run %d  %s  ", h.Run, h.Job)
	} else {
		s += "  "
	}
	switch h.What {
	case "phase":
		return s + "enters phase " + h.Phase
	case "progress":
		return s + amount(h.Done, h.Total)
	case "goes on":
		return strings.TrimSpace(s + "goes on: " + h.Phase + " " + amount(h.Done, h.Total))
	case "ended":
		s += "ended: " + h.Outcome
		if h.Reason != "" {
			s += ", " + h.Reason
		}
		return s
	case "alarm", "alarm over":
		return s + h.What + ": " + h.Alarm
	}
	return s + h.What
}
