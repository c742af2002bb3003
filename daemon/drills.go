package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"strongroom/custody/receipt"
	"strongroom/daemon/job"
	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
	"strongroom/repo"
)

// unprovenAfter is how long drills are believed that nobody has seen fail, and a
// recovery from nothing that nobody has seen work.
const unprovenAfter = 40 * 24 * time.Hour

// boxDrills are monthly tasks of the box itself. Their schedule is nobody's to
// set: what proves the drills is not switched off by a line in a file.
func boxDrills(s *job.Site, tool string) []Task {
	task := func(kind state.Kind, at string, do func(context.Context, Reporter) (state.Outcome, string, error)) Task {
		id := string(kind) + ":box"
		spec, err := schedule.Compile(schedule.Config{At: at}, id, time.LoadLocation)
		if err != nil {
			panic(err) // it stands two lines below
		}
		return Task{Job: id, Kind: kind, Spec: spec, Uses: []schedule.Class{backups}, Within: unprovenAfter, Do: do}
	}
	return []Task{
		task(state.MustFail, "30 5 5 * *", func(ctx context.Context, r Reporter) (state.Outcome, string, error) { return mustFail(ctx, s, tool, r) }),
		task(state.Cold, "30 5 6 * *", func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
			r.Phase("cold drill")
			done, err := s.Cold(ctx, tool)
			if err != nil {
				return "", "", err
			}
			tellWalls(s, done)
			return outcomeOf(done)
		}),
	}
}

func mustFail(ctx context.Context, s *job.Site, tool string, r Reporter) (state.Outcome, string, error) {
	done, err := s.MustFail(ctx, tool, r.Phase)
	switch {
	case errors.Is(err, repo.ErrNoSnapshot):
		return state.Skipped, err.Error(), nil
	case err != nil:
		return "", "", err
	case len(done.Wrong) > 0:
		return state.Failed, "not red as they have to be: " + strings.Join(done.Wrong, "; "), nil
	case len(done.Infra) > 0 || len(done.Red) == 0:
		return state.Infra, "could not be tried here: " + strings.Join(done.Infra, "; "), nil
	}
	reason := fmt.Sprintf("%d red, as they have to be", len(done.Red))
	if len(done.Nothing) > 0 {
		reason += "; nothing to put it into: " + strings.Join(done.Nothing, ", ")
	}
	return state.OK, reason, nil
}

// drillOf drills what is due of a dataset, and says what that showed.
func drillOf(ctx context.Context, s *job.Site, tenant, dataset, tool string, r Reporter) (state.Outcome, string, error) {
	round, err := s.DrillRound(ctx, tenant, dataset, tool, r.Phase)
	if err != nil {
		return "", "", err
	}
	if round.Later != "" {
		return state.Skipped, round.Later, nil
	}
	tellWalls(s, round.Newest)
	outcome, reason, err := outcomeOf(round.Newest)
	if err != nil || round.Older == nil {
		return outcome, reason, err
	}
	// What was saved before and does not restore is a failure of the dataset. That
	// an older one could not be tried, or only in part, is a remark.
	older, why, err := outcomeOf(round.Older)
	if older == state.Failed {
		outcome = older
	}
	without := ""
	if w := round.Older.Stores.Withheld; len(w) > 0 {
		without = ", without " + strings.Join(w, " and ")
	}
	return outcome, fmt.Sprintf("%s; the older one of %s%s: %s", reason, round.Older.Snapshot.Point.Format("2006-01-02"), without, why), err
}

// tellWalls has the journal say what the sandbox of a drill kept away, as units
// tell of theirs. Its words are on the list of those that stay (daemon/plain).
func tellWalls(s *job.Site, r *receipt.Receipt) {
	var hold, miss []string
	for _, w := range r.Sandbox.Walls {
		if w.Holds {
			hold = append(hold, w.Name)
		} else {
			miss = append(miss, w.Name+" ("+w.Got+")")
		}
	}
	if len(hold)+len(miss) > 0 {
		s.Log("walls of the sandbox, made by %s, that hold: %s; that are missing: %s", r.Sandbox.Kind, strings.Join(hold, ", "), cmp.Or(strings.Join(miss, ", "), "none"))
	}
}

func outcomeOf(r *receipt.Receipt) (state.Outcome, string, error) {
	outcome, ok := map[receipt.Verdict]state.Outcome{receipt.PASS: state.OK, receipt.PARTIAL: state.Partial, receipt.FAIL: state.Failed, receipt.INFRA: state.Infra}[r.Verdict]
	if !ok {
		return "", "", fmt.Errorf("drill %s has verdict %q", r.ID, r.Verdict)
	}
	return outcome, "receipt " + r.ID + ": " + string(r.Verdict), nil
}

// lookForUnproven raises what of the box had no success for too long.
func (d *Daemon) lookForUnproven(ctx context.Context, t Task, now time.Time) error {
	last, err := d.c.DB.LastOK(ctx, t.Job)
	if err != nil || last.IsZero() || now.Sub(last) < t.Within {
		return err
	}
	e := d.event(notify.Unproven, t)
	e.LastSuccess, e.Since = last, last.Add(t.Within)
	d.raise(ctx, t, e, fmt.Sprintf("%s has not ended well since %s", t.Kind, last.Format("2006-01-02")))
	return nil
}
