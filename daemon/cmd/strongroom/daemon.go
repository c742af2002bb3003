package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"
	_ "time/tzdata" // schedules name time zones, also where the system has none

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon"
	"strongroom/daemon/api"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
	"strongroom/daemon/walls"
	"strongroom/systemd"
)

func (a *app) daemonCommand() *cobra.Command {
	var confined bool
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Run by itself: take snapshots when they are due",
		Long: `Daemon takes snapshots as [tenant.dataset.schedule] says, weekly on Sunday at
02:30 by default; renews locks and lets go what no rule keeps; and remembers what
became of every run. SIGTERM stops it within seconds, and the next start goes on
with what was not finished; SIGHUP reads the configuration again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDaemon(cmd.Context(), confined) },
	}
	c.Flags().BoolVar(&confined, "confined", false, "take from this process what it does not need, try what its unit must not let it do, and stop where a wall is missing")
	return c
}

func (a *app) runDaemon(ctx context.Context, confined bool) error {
	level := &slog.LevelVar{}
	records := a.newLog(level)
	log := slog.New(records)
	site, err := a.site()
	if err != nil {
		return err
	}
	defer site.Close()
	var places walls.Places
	if confined {
		if places, err = confine(ctx, site.Config, log); err != nil {
			return err
		}
	}
	db, err := openState(ctx, site.Config)
	if err != nil {
		return err
	}
	defer db.Close()
	c, err := a.newControl(site, db, records, level, confined)
	if err != nil {
		return err
	}
	site.Log = c.says
	l, err := api.Listen(site.Config.ControlSocket())
	if err != nil {
		return err
	}
	log.Info("daemon begins", "version", version, "socket", site.Config.ControlSocket())
	c.serveMetrics(c.force.Load())
	defer func() { c.stopMetrics() }()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return api.Serve(gctx, l, c) })
	g.Go(func() error { return c.deliver(gctx) })
	g.Go(func() error { return c.KeepLedger(gctx, c.kept) })
	g.Go(func() error { reloads(gctx, c); return nil })
	if confined {
		g.Go(func() error { return c.follow(gctx, places) })
	}
	g.Go(func() error { return errors.Join(c.Run(gctx), context.Cause(gctx)) })
	if err := g.Wait(); ctx.Err() == nil && !errors.Is(err, daemon.ErrRestart) {
		return err
	}
	log.Info("daemon ends")
	return nil
}

// keptLedger is the ledger on the stores of the newest configuration.
type keptLedger struct{ atomic.Pointer[job.Site] }

func (k *keptLedger) LedgerChanged() <-chan struct{} { return k.Load().LedgerChanged() }
func (k *keptLedger) CopyLedger(ctx context.Context) (job.Copied, error) {
	return k.Load().CopyLedger(ctx)
}

// reloads reads the configuration again on SIGHUP. A bad one changes nothing.
func reloads(ctx context.Context, d *control) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			systemd.Notify("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", systemd.Monotonic()))
			_ = d.Reload(ctx) // it said what is wrong
			systemd.Notify("READY=1")
		}
	}
}

// openState opens the database of runs.
func openState(ctx context.Context, c *config.Config) (*state.DB, error) {
	db, err := state.Open(ctx, stateConfig(c))
	switch {
	case errors.Is(err, state.ErrMissing):
		return nil, exit.With(exit.NoRepository, fmt.Errorf("%w; run: strongroom init", err))
	case errors.Is(err, state.ErrInUse):
		return nil, exit.With(exit.Locked, err)
	case errors.Is(err, state.ErrNewer):
		return nil, exit.With(exit.Refused, err)
	}
	return db, err
}

func stateConfig(c *config.Config) state.Config {
	return state.Config{Dir: c.StateDir, Version: version, Now: time.Now}
}

func (a *app) client() (*api.Client, error) {
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	return api.NewClient(c.ControlSocket()), nil
}

// asked gives an answer of the daemon its exit code.
func asked(err error) error {
	switch {
	case errors.Is(err, api.ErrNoDaemon):
		return exit.With(exit.TryLater, err)
	case errors.Is(err, daemon.ErrNoJob), errors.Is(err, daemon.ErrNoRun), errors.Is(err, daemon.ErrNoAlarm):
		return exit.With(exit.Usage, err)
	case errors.Is(err, state.ErrRunning):
		return exit.With(exit.Locked, err)
	case errors.Is(err, daemon.ErrUnmanaged):
		return exit.With(exit.Refused, err)
	}
	return err
}

func amount(done, total int64) string {
	switch {
	case done == 0:
		return ""
	case total > 0:
		return rescue.Bytes(done) + " of about " + rescue.Bytes(total)
	}
	return rescue.Bytes(done)
}

func moment(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func (a *app) runsCommand() *cobra.Command {
	n := 20
	c := &cobra.Command{
		Use:   "runs [TENANT/DATASET]",
		Short: "List what the daemon did",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tenant, dataset, _ := strings.Cut(strings.Join(args, ""), "/")
			if len(args) == 1 && dataset == "" {
				return exit.With(exit.Usage, fmt.Errorf("%q is not TENANT/DATASET", args[0]))
			}
			if n < 1 {
				return exit.With(exit.Usage, fmt.Errorf("--last %d is not 1 or more", n))
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			all, err := client.Runs(cmd.Context(), tenant, dataset, n)
			if err != nil {
				return asked(err)
			}
			var b strings.Builder
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "RUN\tJOB\tPLANNED\tBEGAN\tOUTCOME\tNOTES")
			for _, r := range all {
				outcome, notes := r.Outcome, r.Reason
				if r.Finished == nil {
					outcome, notes = "running", r.Phase+" "+amount(r.Done, r.Total)
				}
				if r.Missed > 0 {
					notes = fmt.Sprintf("stands for %d missed; %s", r.Missed, notes)
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", r.ID, r.Job, moment(&r.Planned), moment(&r.Began), outcome, rescue.OneLine(notes))
			}
			w.Flush()
			return a.ui.Result(map[string]any{"runs": all}, "%s", b.String())
		},
	}
	c.Flags().IntVar(&n, "last", n, "how many")
	return c
}

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run TENANT/DATASET | JOB",
		Short: "Have the daemon take a snapshot now, or do another of its jobs",
		Long: `Run has the daemon take a snapshot now, or do another of its jobs, which
strongroom schedule plan names: check:TENANT, doctor:TENANT/DATASET, rounds …`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			job := args[0]
			if !strings.Contains(job, ":") && strings.Contains(job, "/") {
				job = string(state.Backup) + ":" + job
			}
			id, err := client.Start(cmd.Context(), job)
			if err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"run": id}, "run %d begins; strongroom watch %d follows it\n", id, id)
		},
	}
}

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel RUN",
		Short: "Stop a run for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return exit.With(exit.Usage, fmt.Errorf("%q is no number of a run", args[0]))
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.Cancel(cmd.Context(), state.RunID(id)); err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"run": id}, "run %d stops at its next checkpoint\n", id)
		},
	}
}

func (a *app) scheduleCommand() *cobra.Command {
	weeks := 10
	command := func(use, short string, list func(cmd *cobra.Command) ([]daemon.Planned, error)) *cobra.Command {
		c := &cobra.Command{
			Use:   use,
			Short: short,
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if weeks < 1 || weeks > 520 {
					return exit.With(exit.Usage, errors.New("--weeks is not 1 to 520"))
				}
				all, err := list(cmd)
				if err != nil {
					return err
				}
				return a.ui.Result(map[string]any{"planned": all}, "%s", planText(all))
			},
		}
		c.Flags().IntVar(&weeks, "weeks", weeks, "how far ahead")
		return c
	}
	c := &cobra.Command{Use: "schedule", Short: "What the daemon will do when"}
	c.AddCommand(command("preview", "List what the configuration file plans", func(*cobra.Command) ([]daemon.Planned, error) {
		c, err := a.load()
		if err != nil {
			return nil, err
		}
		// Whoever writes the file may have no keys.
		tasks, err := daemon.TasksOf(job.Unopened(c), version)
		if err != nil {
			return nil, err
		}
		return daemon.Preview(tasks, time.Now(), weeks), nil
	}), command("plan", "List what the daemon plans, by the configuration that it has", func(cmd *cobra.Command) ([]daemon.Planned, error) {
		client, err := a.client()
		if err != nil {
			return nil, err
		}
		all, err := client.Plan(cmd.Context(), weeks)
		return all, asked(err)
	}))
	return c
}

func planText(all []daemon.Planned) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PLANNED\tBEGINS\tJOB\tNOTES")
	for _, p := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Planned.Local().Format("Mon 2006-01-02 15:04 MST"), p.Due.Local().Format("15:04:05"), p.Job, p.Note)
	}
	w.Flush()
	return b.String()
}
