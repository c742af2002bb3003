package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/receipt"
	"strongroom/custody/receipt/report"
	"strongroom/daemon"
	"strongroom/daemon/api"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
	"strongroom/repo"
)

func (a *app) reportCommand() *cobra.Command {
	var quarter string
	var html, pdf bool
	c := &cobra.Command{
		Use:   "report TENANT --quarter 2026Q4 [--html | --pdf]",
		Short: "Say what became of a tenant's backups and drills in a quarter",
		Long: `Report lists every snapshot that was taken in a quarter, every drill, and by name
what was planned and failed, was skipped, or did not happen. It is made of what
the stores list, of the signed receipts, and of what the daemon remembers. It
carries the tenant's level and goes to a recipient of that tenant.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to, err := report.Bounds(quarter)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			if html && pdf {
				return exit.With(exit.Usage, errors.New("--html or --pdf, not both"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			q := &report.Quarter{Quarter: strings.ToUpper(quarter), From: from, To: to, Made: time.Now().UTC(), Notes: []string{}}
			if err := a.fillReport(cmd.Context(), site, args[0], q); err != nil {
				return err
			}
			var page []byte
			switch {
			case html:
				page, err = q.HTML()
			case pdf:
				page, err = q.PDF()
			default:
				return a.ui.Result(q, "%s", quarterText(q))
			}
			if err == nil {
				_, err = a.ui.Out().Write(page)
			}
			return err
		},
	}
	c.Flags().StringVar(&quarter, "quarter", "", "such as 2026Q4 (required)")
	c.Flags().BoolVar(&html, "html", false, "as a page to print")
	c.Flags().BoolVar(&pdf, "pdf", false, "as a PDF")
	return c
}

func (a *app) fillReport(ctx context.Context, site *job.Site, tenant string, q *report.Quarter) error {
	c, t, err := site.Tenant(tenant)
	if err != nil {
		return err
	}
	q.Tenant, q.Level, q.Box = t.Name, string(t.Level), site.Box.Signer().Public().String()
	if q.Whole = !q.Made.Before(q.To); !q.Whole {
		q.To = q.Made
	}
	if q.To.Before(q.From) {
		return exit.With(exit.Usage, fmt.Errorf("%s has not begun", q.Quarter))
	}
	l, _, err := site.Listing(ctx, tenant)
	if err != nil {
		return err
	}
	if l.Reached < len(site.Config.Stores) {
		q.Notes = append(q.Notes, fmt.Sprintf("%d of %d stores answered: snapshots may be missing here.", l.Reached, len(site.Config.Stores)))
	}
	receipts, err := site.Recent(q.From)
	if err != nil {
		return err
	}
	receipts = slices.DeleteFunc(receipts, func(r *receipt.Receipt) bool { return r.Started.Before(q.From) || !r.Started.Before(q.To) })
	proofs(q, receipts)
	runs, err := a.runsOf(ctx, site, tenant)
	if errors.Is(err, errNoRuns) {
		q.Notes = append(q.Notes, "The daemon was never set up: what was planned and missed is not known.")
	} else if err != nil {
		return err
	}
	tasks, err := daemon.TasksOf(site, version)
	if err != nil {
		return err
	}
	for _, d := range c.Datasets {
		x := report.Dataset{Name: d.Name, Snapshots: []report.Snapshot{}, Bad: []report.Lapse{}, Drills: drillsOf(receipts, tenant, d.Name), Undrilled: []report.Lapse{}}
		if i := slices.IndexFunc(t.Datasets, func(b box.Dataset) bool { return b.Name == d.Name }); i >= 0 {
			x.Snapshots = snapshotsOf(l, repo.ID(t.Datasets[i].ID), q, len(site.Config.Stores), receipts)
		}
		if err == nil && runs != nil {
			x.Bad = lapses(tasks, runs, string(state.Backup)+":"+tenant+"/"+d.Name, q)
			x.Undrilled = lapses(tasks, runs, string(state.Drill)+":"+tenant+"/"+d.Name, q)
		}
		q.Datasets = append(q.Datasets, x)
	}
	return nil
}

func snapshotsOf(l *repo.Listing, dataset repo.ID, q *report.Quarter, stores int, receipts []*receipt.Receipt) []report.Snapshot {
	out := []report.Snapshot{}
	for _, s := range l.Of(dataset) {
		if s.Time.Before(q.From) || !s.Time.Before(q.To) {
			continue
		}
		x := report.Snapshot{ID: s.ID(), Manifest: s.HexHash(), Time: s.Time.UTC(), State: s.State(stores)}
		if s.Entry != nil {
			x.Bytes = s.Entry.Read
		}
		var verdicts []string
		for _, r := range slices.Backward(receipts) {
			if r.Snapshot.Manifest == x.Manifest && r.MustFail == "" {
				verdicts = append(verdicts, string(r.Verdict))
			}
		}
		x.Drilled = strings.Join(verdicts, ", ")
		out = append(out, x)
	}
	return out
}

func drillsOf(receipts []*receipt.Receipt, tenant, dataset string) []report.Drill {
	out := []report.Drill{}
	for _, r := range slices.Backward(receipts) {
		if r.Tenant != tenant || r.Dataset != dataset || r.MustFail != "" || r.Kind != "" {
			continue
		}
		out = append(out, report.Drill{ID: r.ID, Time: r.Started, Snapshot: r.Snapshot.ID, Point: r.Snapshot.Point, Verdict: string(r.Verdict),
			Without: append([]string{}, r.Stores.Withheld...), RTO: targetText(r.RTO), Why: append([]string{}, r.Why...)})
	}
	return out
}

// proofs counts the drills of the box.
func proofs(q *report.Quarter, receipts []*receipt.Receipt) {
	for _, r := range slices.Backward(receipts) {
		p, good := &q.MustFail, r.Verdict == receipt.FAIL
		if r.Kind == "cold" {
			p, good = &q.Cold, r.Verdict == receipt.PASS
		} else if r.MustFail == "" {
			continue
		}
		if !good {
			p.Bad++
			continue
		}
		p.Good++
		p.Last = r.Started
	}
}

// maxRuns bounds what is read of a tenant's runs: twenty years of a hundred
// weekly datasets.
const maxRuns = 200000

var errNoRuns = errors.New("no runs are remembered")

// runsOf asks the daemon, or reads its database where it does not run. Without
// one there were no runs.
func (a *app) runsOf(ctx context.Context, site *job.Site, tenant string) ([]daemon.RunStatus, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	runs, err := client.Runs(ctx, tenant, "", maxRuns)
	if !errors.Is(err, api.ErrNoDaemon) {
		return runs, err
	}
	db, err := state.Open(ctx, stateConfig(site.Config))
	if errors.Is(err, state.ErrMissing) {
		return nil, errNoRuns
	} else if err != nil {
		return nil, err
	}
	all, err := db.Runs(ctx, tenant, "", maxRuns)
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	out := []daemon.RunStatus{}
	for _, r := range all {
		out = append(out, daemon.StatusOf(r))
	}
	return out, nil
}

// lapses names what a job planned in the quarter and what did not come of it:
// runs that ended badly, and times that no run was begun for, from when the
// daemon first saw the job.
func lapses(tasks []daemon.Task, runs []daemon.RunStatus, name string, q *report.Quarter) []report.Lapse {
	out := []report.Lapse{}
	mine := slices.DeleteFunc(slices.Clone(runs), func(r daemon.RunStatus) bool { return r.Job != name })
	var first time.Time
	for _, r := range mine {
		if first.IsZero() || r.Planned.Before(first) {
			first = r.Planned
		}
		bad := r.Outcome == string(state.Failed) || r.Outcome == string(state.Skipped) || r.Outcome == string(state.Interrupted) || r.Outcome == string(state.Cancelled) || r.Outcome == string(state.Infra)
		if bad && !r.Planned.Before(q.From) && r.Planned.Before(q.To) {
			out = append(out, report.Lapse{Planned: r.Planned.UTC(), What: r.Outcome + ": " + r.Reason})
		}
	}
	i := slices.IndexFunc(tasks, func(t daemon.Task) bool { return t.Job == name })
	if i < 0 || first.IsZero() {
		return out
	}
	for _, p := range daemon.Preview(tasks[i:i+1], later(q.From, first).Add(-time.Second), 15) {
		due := p.Due
		if !due.Before(q.To) {
			break
		}
		if slices.ContainsFunc(mine, func(r daemon.RunStatus) bool { return r.Planned.Equal(p.Planned) }) {
			continue
		}
		what := "missed: no run was begun"
		if i := slices.IndexFunc(mine, func(r daemon.RunStatus) bool {
			return r.Missed > 0 && r.FirstMissed != nil && !p.Planned.Before(*r.FirstMissed) && p.Planned.Before(r.Planned)
		}); i >= 0 {
			what = "missed: the box was off; made up for on " + mine[i].Began.UTC().Format("2006-01-02 15:04")
		}
		out = append(out, report.Lapse{Planned: p.Planned.UTC(), What: what})
	}
	slices.SortStableFunc(out, func(a, b report.Lapse) int { return a.Planned.Compare(b.Planned) })
	return out
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func quarterText(q *report.Quarter) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s] %s in %s\n%s\n", strings.ToUpper(q.Level), q.Tenant, q.Quarter, q.Summary())
	for _, n := range q.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	for _, d := range q.Datasets {
		fmt.Fprintf(&b, "\n%s/%s\n", q.Tenant, d.Name)
		for _, s := range d.Snapshots {
			fmt.Fprintf(&b, "  snapshot %s  %s  %s  drilled: %s\n", s.ID, s.Time.Format("2006-01-02 15:04"), s.State, orDash(s.Drilled))
		}
		for _, l := range d.Bad {
			fmt.Fprintf(&b, "  BACKUP of %s %s\n", l.Planned.Format("2006-01-02 15:04"), l.What)
		}
		for _, x := range d.Drills {
			fmt.Fprintf(&b, "  drill %s  %-7s of %s, RTO %s\n", x.ID, x.Verdict, x.Snapshot, x.RTO)
		}
		for _, l := range d.Undrilled {
			fmt.Fprintf(&b, "  DRILL of %s %s\n", l.Planned.Format("2006-01-02 15:04"), l.What)
		}
	}
	return b.String()
}
