package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon"
	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how everything is doing: datasets, stores, alarms, and whether people are told",
		Long: `Status asks the daemon how everything is doing. Its first line says whether all
is well. MARGIN is how many stores may be lost before a snapshot is, and how many
should, by the last check.

With --check it prints one line and exits as Nagios plugins do: 0 ok, 1 warning,
2 critical, 3 unknown. An alarm that somebody acknowledged or muted is no more
than a warning.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			o, err := client.Overview(cmd.Context())
			if check {
				return a.nagios(o, err)
			}
			if err != nil {
				return asked(err)
			}
			return a.ui.Result(o, "%s", statusText(o, time.Now()))
		},
	}
	c.Flags().BoolVar(&check, "check", false, "one line, and an exit code for monitoring")
	return c
}

// wrong is one thing that is wrong, and how much it matters.
type wrong struct {
	what string
	bad  bool // else it is a warning
}

// warnings are the alarms that can wait until somebody is at work.
var warnings = []notify.Kind{notify.MediumDue, notify.FillingUp, notify.DoctorBad, notify.ProofDue}

// wrongs are all of them, what matters most first.
func wrongs(o *daemon.Overview) []wrong {
	var out []wrong
	for _, s := range o.Datasets {
		name := s.Tenant + "/" + s.Dataset
		switch s.State {
		case "overdue", "failed":
			out = append(out, wrong{name + " " + s.State, !known(o.Alarms, s.State+" "+string(state.Backup)+":"+name)})
		case "never":
			out = append(out, wrong{name + " has no snapshot yet", false})
		}
	}
	for _, x := range o.Alarms {
		// Those of backups are in the states, as the daemon did not have to find them.
		if daemon.Waits(x) || strings.HasPrefix(x.Key, "failed "+string(state.Backup)+":") || strings.HasPrefix(x.Key, "overdue "+string(state.Backup)+":") {
			continue
		}
		kind, err := notify.ParseKind(x.Kind)
		later := err == nil && slices.Contains(warnings, kind) || known(o.Alarms, x.Key)
		out = append(out, wrong{x.Key, !later})
	}
	slices.SortStableFunc(out, func(a, b wrong) int {
		switch {
		case a.bad == b.bad:
			return 0
		case a.bad:
			return -1
		}
		return 1
	})
	return out
}

// known reports whether somebody said that he knows of an alarm, or shall not hear
// of it.
func known(all []state.Alarm, key string) bool {
	return slices.ContainsFunc(all, func(x state.Alarm) bool { return x.Key == key && (!x.Acked.IsZero() || !x.MutedUntil.IsZero()) })
}

// nagios is the one place where an exit code is not that of the table.
func (a *app) nagios(o *daemon.Overview, failed error) error {
	code, word, text := exit.Code(0), "OK", ""
	if failed != nil {
		code, word, text = 3, "UNKNOWN", failed.Error()
		o = &daemon.Overview{}
	} else {
		all := wrongs(o)
		var what []string
		for _, w := range all {
			what = append(what, w.what)
		}
		text = strings.Join(what, ", ")
		switch {
		case len(all) == 0:
			text = rescue.Count(len(o.Datasets), "dataset")
		case all[0].bad:
			code, word = 2, "CRITICAL"
		default:
			code, word = 1, "WARNING"
		}
	}
	// Plugins are read by their first line on stdout; what comes after a bar is
	// numbers, so there is none in the text.
	line := rescue.OneLine(word + ": " + strings.ReplaceAll(text, "|", "/"))
	if err := a.ui.Result(map[string]any{"state": word, "text": text}, "%s | datasets=%d alarms=%d\n", line, len(o.Datasets), len(o.Alarms)); err != nil {
		return err
	}
	if code == 0 {
		return nil
	}
	return exit.With(code, errors.New(line))
}

func statusText(o *daemon.Overview, now time.Time) string {
	var b strings.Builder
	headline(&b, o)
	fmt.Fprintln(&b)
	datasetsText(&b, o, now)
	storesText(&b, o, now)
	openText(&b, o)
	toldText(&b, o)
	return b.String()
}

// headline says the worst first: who looks at one line only has seen it.
func headline(b *strings.Builder, o *daemon.Overview) {
	all := wrongs(o)
	running := 0
	for _, s := range o.Datasets {
		if s.Run != nil {
			running++
		}
	}
	switch {
	case len(all) == 0:
		fmt.Fprintf(b, "All is well: %s", rescue.Count(len(o.Datasets), "dataset"))
	case len(all) == 1:
		fmt.Fprintf(b, "NOT WELL: %s", all[0].what)
	default:
		fmt.Fprintf(b, "NOT WELL: %s, and %d more", all[0].what, len(all)-1)
	}
	if running > 0 {
		fmt.Fprintf(b, "; %s", rescue.Count(running, "backup")+" going on")
	}
	fmt.Fprintln(b)
}

func datasetsText(b *strings.Builder, o *daemon.Overview, now time.Time) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATASET\tSTATE\tLAST SNAPSHOT\tNEXT\tDRILL\tMARGIN\tNOTES")
	for _, s := range o.Datasets {
		notes := s.Reason
		if s.Run != nil {
			notes = strings.TrimSpace(fmt.Sprintf("run %d: %s %s", s.Run.ID, s.Run.Phase, amount(s.Run.Done, s.Run.Total)))
		}
		drilled := "never: not protected yet"
		if s.Drill != nil {
			drilled = day(*s.Drill) + " " + s.Outcome
		}
		margin := "-"
		if s.Margin != nil && s.Planned != nil {
			margin = fmt.Sprintf("%d of %d", max(*s.Margin, 0), *s.Planned)
			if *s.Margin < 0 {
				margin = "LOST"
			}
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%s%s\t%s\t%s\t%s\t%s\n", s.Tenant, s.Dataset, s.State, moment(s.Success), ago(s.Success, now), moment(s.Next), drilled, margin, rescue.OneLine(notes))
	}
	w.Flush()
}

// ago is how old something is, in words that need no reckoning.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	switch d := now.Sub(*t); {
	case d < -time.Minute:
		return " (in the future)"
	case d < time.Hour:
		return fmt.Sprintf(" (%d min)", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf(" (%d h)", int(d.Hours()))
	default:
		return fmt.Sprintf(" (%d d)", int(d.Hours()/24))
	}
}

func storesText(b *strings.Builder, o *daemon.Overview, now time.Time) {
	if o.Room == nil {
		return
	}
	fmt.Fprintln(b)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STORE\tHELD\tFREE\tFULL\tLOCK")
	for _, u := range o.Room.Stores {
		lock := "-"
		for _, l := range o.Locks {
			if l.Store == u.Store {
				lock = "immutable"
				if !l.Immutable {
					lock = "NOT IMMUTABLE"
				}
				lock += ", probed " + day(l.Time)
			}
		}
		free := "?"
		if u.Free != nil {
			free = rescue.Bytes(*u.Free)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Store, rescue.Bytes(u.Held), free, u.Left(now), lock)
	}
	w.Flush()
	fmt.Fprintf(b, "(as of %s)\n", moment(o.RoomAt))
}

func openText(b *strings.Builder, o *daemon.Overview) {
	var open []state.Alarm
	for _, x := range o.Alarms {
		if !daemon.Waits(x) {
			open = append(open, x)
		}
	}
	if len(open) > 0 {
		fmt.Fprintln(b)
		b.WriteString(alarmsText(open))
	}
}

// toldText says whether silence means that all is well.
func toldText(b *strings.Builder, o *daemon.Overview) {
	fmt.Fprintln(b)
	if !o.Told {
		fmt.Fprintln(b, "Nobody is told of what goes wrong: [notify] has no mail and no webhook.")
		return
	}
	fmt.Fprintf(b, "The next digest comes %s. ", moment(o.NextDigest))
	if o.Tested == nil {
		fmt.Fprintln(b, "No person has answered a test alarm yet.")
	} else {
		fmt.Fprintf(b, "A person answered a test alarm on %s.\n", day(*o.Tested))
	}
	if o.Waiting > 0 {
		fmt.Fprintf(b, "%s not delivered yet, the oldest since %s.\n", rescue.Count(o.Waiting, "message"), moment(o.Oldest))
	}
}
