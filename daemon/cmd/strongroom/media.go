package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/media"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

func (a *app) mediaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "media",
		Short: "Offline media: enrol, write, verify, hand over",
		Long: `Offline media are disks, or discs, with copies of the snapshots that need no
store and no network to be restored. They rotate: media due says what to put in
next and by when.

    media init                    once: makes the register
    media enrol LABEL …           makes an empty file system a medium
    media insert LABEL            mounts it, writes it, verifies every byte
    media eject LABEL             then it may be taken away
    media move LABEL …            who has it now, where, under which seal`,
	}
	var by string
	c.PersistentFlags().StringVar(&by, "by", whoActs(), "who does it, for the record")
	m := &mediaApp{app: a, by: &by}
	c.AddCommand(m.initCommand(), m.devicesCommand(), m.enrolCommand(), m.insertCommand(), m.verifyCommand(), m.ejectCommand(),
		m.imageCommand(), m.carveCommand(), m.listCommand(), m.dueCommand(), m.logCommand(), m.moveCommand(), m.assignCommand(),
		m.goneCommand("retire", "Take a medium out of use for ever", (*job.Media).Retire),
		m.goneCommand("lose", "Note that nobody knows where a medium is", (*job.Media).Lose), m.findCommand())
	return c
}

// whoActs is the person at the keyboard, as far as the system knows.
func whoActs() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

type mediaApp struct {
	*app
	by *string
}

// with opens the register and does something.
func (m *mediaApp) with(act func(*job.Media) error) error {
	site, err := m.site()
	if err != nil {
		return err
	}
	defer site.Close()
	media, err := site.Media(*m.by)
	if err != nil {
		return err
	}
	return act(media)
}

func (m *mediaApp) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the register of media",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := m.site()
			if err != nil {
				return err
			}
			defer site.Close()
			if err := site.InitMedia(cmd.Context()); err != nil {
				return err
			}
			return m.ui.Result(map[string]any{}, "the register of media is there; strongroom media enrol adds the first one\n")
		},
	}
}

func (m *mediaApp) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List media, what they count for and who has them",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return m.with(func(r *job.Media) error {
				all, err := r.List()
				if err != nil {
					return err
				}
				return m.ui.Result(map[string]any{"media": all}, "%s", mediaText(all))
			})
		},
	}
}

func mediaText(all []job.MediumState) string {
	if len(all) == 0 {
		return "no media; strongroom media enrol adds one\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LABEL\tSET\tSTATE\tWRITTEN\tVERIFIED\tHOLDER\tPLACE\tSEAL\tCOUNTS")
	for _, x := range all {
		counts := "yes"
		if !x.Trusted {
			counts = "no: " + x.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Label, x.Set, x.State, day(x.Written), day(x.Verified), x.Holder, x.Place, orDash(x.Seal), counts)
	}
	w.Flush()
	return b.String()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (m *mediaApp) dueCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "due",
		Short: "Say what to do with which medium, and by when",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return m.with(func(r *job.Media) error {
				all, err := r.Due()
				if err != nil {
					return err
				}
				return m.ui.Result(map[string]any{"due": all}, "%s", dueText(all, time.Now()))
			})
		},
	}
}

func dueText(all []media.Due, now time.Time) string {
	if len(all) == 0 {
		return "nothing is to be done\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BY\tDO\tMEDIUM\tWHERE\tWHY")
	for _, d := range all {
		label, where, by := "a new one", "-", day(d.By)
		if d.Medium != nil {
			label, where = d.Medium.Label, d.Medium.Holder+", "+d.Medium.Place
		}
		switch {
		case d.Overdue:
			by += " OVERDUE"
		case d.From.After(now):
			by += " (from " + day(d.From) + ")"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", by, d.Task, label, where, d.Reason)
	}
	w.Flush()
	return b.String()
}

func (m *mediaApp) logCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "log [LABEL]",
		Short: "Print the chain of custody: every act, signed, each naming the one before",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return m.with(func(r *job.Media) error {
				chain, err := r.Chain(strings.Join(args, ""))
				if err != nil {
					return err
				}
				all, err := r.List()
				if err != nil {
					return err
				}
				return m.ui.Result(map[string]any{"acts": chain}, "%s", chainText(chain, all))
			})
		},
	}
}

func chainText(chain []media.Entry, all []job.MediumState) string {
	labels := map[media.ID]string{}
	for _, x := range all {
		labels[x.ID] = x.Label
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NO\tTIME (UTC)\tMEDIUM\tACT\tBY\tWHAT")
	for _, e := range chain {
		var what []string
		if e.Custody != nil {
			what = append(what, fmt.Sprintf("to %s, %s, seal %s", e.Custody.Holder, e.Custody.Place, orDash(e.Custody.Seal)))
		}
		if e.Uses > 0 {
			what = append(what, fmt.Sprintf("session %d", e.Uses))
		}
		for _, s := range []string{e.Set, e.Damage, e.Reason} {
			if s != "" {
				what = append(what, s)
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", e.Number, e.Time.Format("2006-01-02 15:04"), labels[e.Medium], e.Act, e.By, strings.Join(what, "; "))
	}
	w.Flush()
	return b.String()
}

// custodyFlags are who has a medium, where, under which seal.
func custodyFlags(c *cobra.Command, to *media.Custody) {
	c.Flags().StringVar(&to.Holder, "holder", "", "who has it")
	c.Flags().StringVar(&to.Place, "place", "", "where it is")
	c.Flags().StringVar(&to.Seal, "seal", "", "number of the seal on it, if it has one")
}

func (m *mediaApp) moveCommand() *cobra.Command {
	var to media.Custody
	c := &cobra.Command{
		Use:   "move LABEL --holder NAME --place PLACE",
		Short: "Note who has a medium now, where, under which seal",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.act(func(r *job.Media) (job.MediumState, error) { return r.Move(cmd.Context(), args[0], to) })
		},
	}
	custodyFlags(c, &to)
	return c
}

func (m *mediaApp) assignCommand() *cobra.Command {
	var set string
	c := &cobra.Command{
		Use:   "assign LABEL --set SET",
		Short: "Put a medium into another set, as a monthly one that is kept as the yearly",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.act(func(r *job.Media) (job.MediumState, error) { return r.Assign(cmd.Context(), args[0], set) })
		},
	}
	c.Flags().StringVar(&set, "set", "", "A to Z, monthly or yearly")
	return c
}

func (m *mediaApp) goneCommand(verb, short string, act func(*job.Media, context.Context, string, string) (job.MediumState, error)) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   verb + " LABEL --reason TEXT",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.act(func(r *job.Media) (job.MediumState, error) { return act(r, cmd.Context(), args[0], reason) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}

func (m *mediaApp) findCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "find LABEL",
		Short: "Note that a lost medium is there again; it counts for nothing until verified",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.act(func(r *job.Media) (job.MediumState, error) { return r.Find(cmd.Context(), args[0]) })
		},
	}
}

// act does something to a medium and prints what became of it.
func (m *mediaApp) act(f func(*job.Media) (job.MediumState, error)) error {
	return m.with(func(r *job.Media) error {
		x, err := f(r)
		if err != nil {
			return err
		}
		return m.printMedium(x)
	})
}

func (m *mediaApp) printMedium(x job.MediumState) error {
	counts := "it counts as a copy"
	if !x.Trusted {
		counts = "it does not count as a copy: " + x.Why
	}
	return m.ui.Result(x, "medium %s of set %s: %s, with %s, %s; %s\n", x.Label, x.Set, x.State, x.Holder, x.Place, rescue.OneLine(counts))
}
