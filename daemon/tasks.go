package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// backups is the resource that backups share: each uses all cores by itself.
const backups schedule.Class = "backups"

// TasksOf returns the tasks of a configuration.
func TasksOf(s *job.Site, version string) ([]Task, error) {
	var out []Task
	for _, t := range s.Config.Tenants {
		level, err := notify.ParseLevel(t.Level)
		if err != nil {
			return nil, fmt.Errorf("tenant %q: %w", t.Name, err)
		}
		for _, d := range t.Datasets {
			if d.Source == "import" { // nothing to read: somebody brings it
				continue
			}
			id := fmt.Sprintf("%s:%s/%s", state.Backup, t.Name, d.Name)
			spec, err := schedule.Compile(d.ScheduleOf(), id, time.LoadLocation)
			if err != nil {
				return nil, fmt.Errorf("schedule of %s/%s: %w", t.Name, d.Name, err)
			}
			out = append(out, Task{Job: id, Kind: state.Backup, Tenant: t.Name, Dataset: d.Name, Level: level, Spec: spec, Uses: []schedule.Class{backups},
				Settles: []notify.Kind{notify.Frozen}, Scope: t.Name + "/" + d.Name,
				List:   func(ctx context.Context) ([]state.Cached, error) { return s.Catalogue(ctx, t.Name) },
				AtOnce: t.Name == job.SelfTenant, // until then nothing brings a fresh machine back
				Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
					return backup(ctx, s, t, d, "strongroom "+version, r)
				}})
			id = fmt.Sprintf("%s:%s/%s", state.Drill, t.Name, d.Name)
			if spec, err = schedule.Compile(d.DrillScheduleOf(), id, time.LoadLocation); err != nil {
				return nil, fmt.Errorf("drill_schedule of %s/%s: %w", t.Name, d.Name, err)
			}
			out = append(out, Task{Job: id, Kind: state.Drill, Tenant: t.Name, Dataset: d.Name, Level: level, Spec: spec, Uses: []schedule.Class{backups},
				Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
					return drillOf(ctx, s, t.Name, d.Name, "strongroom "+version, r)
				}})
		}
	}
	more, err := roundsOf(s)
	return append(append(out, boxDrills(s, "strongroom "+version)...), more...), err
}

// backup takes a snapshot, and does what a snapshot makes possible: it renews
// locks and lets go what no rule keeps. What goes wrong with these makes no
// snapshot worse, and is told.
func backup(ctx context.Context, s *job.Site, t config.Tenant, d config.Dataset, tool string, r Reporter) (state.Outcome, string, error) {
	r.Phase("backup")
	done, err := s.Backup(ctx, t.Name, d.Name, job.BackupOptions{Tool: tool, Progress: r.Progress})
	if err != nil {
		return "", "", err
	}
	r.Keep(Amounts{done.Catalogue.Read, done.Catalogue.New, done.Catalogue.Stored, done.Catalogue.Coded})
	outcome, reasons := state.OK, []string{"snapshot " + done.Snapshot}
	if !done.Complete() {
		outcome = state.Partial
		reasons = append(reasons, done.State)
		reasons = append(reasons, done.Failures...)
	}
	after := func(phase string, do func() error) error {
		r.Phase(phase)
		if err := do(); ctx.Err() != nil {
			return err
		} else if err != nil {
			outcome, reasons = state.Partial, append(reasons, phase+": "+err.Error())
		}
		return nil
	}
	if slices.ContainsFunc(s.Config.Stores, func(c config.Store) bool { return c.Lock != "" }) {
		err = after("locks", func() error {
			_, err := s.ExtendLocks(ctx, job.LockOptions{Tenant: t.Name, Dataset: d.Name})
			return err
		})
	}
	if err == nil {
		err = after("expiry", func() error {
			frozen, err := expiry(ctx, s, t.Name, d)
			if err != nil {
				return err
			}
			reasons = append(reasons, frozen...)
			r.Settle(notify.Frozen, frozenBy(t.Name, d.Name, frozen))
			return nil
		})
	}
	if err != nil {
		// The snapshot is there. The next run does the rest.
		reasons = append(reasons, "stopped before all was done")
	}
	return outcome, strings.Join(reasons, "; "), nil
}

// expiry lets go what no rule keeps; without a rule nothing goes. It returns why
// nothing may: that is what freezing is for, and no failure.
func expiry(ctx context.Context, s *job.Site, tenant string, d config.Dataset) (frozen []string, err error) {
	if d.Keep == nil {
		p, err := s.Explain(ctx, tenant, d.Name)
		if err != nil {
			return nil, err
		}
		return p.Frozen, nil
	}
	err = s.Expire(ctx, tenant, d.Name, job.ExpireOptions{Plan: func(p *job.ExpireResult) error {
		frozen = p.Frozen
		return nil
	}})
	if errors.Is(err, job.ErrRefused) {
		err = nil
	}
	return frozen, err
}

// frozenBy is the trouble of a dataset that looks wrong. A hold is none, somebody
// meant it; what a store that is away makes of it, checks tell.
func frozenBy(tenant, dataset string, why []string) []Trouble {
	why = slices.DeleteFunc(slices.Clone(why), func(w string) bool { return !strings.HasPrefix(w, "anomaly ") && !strings.HasPrefix(w, "clock: ") })
	if len(why) == 0 {
		return nil
	}
	return []Trouble{{Subject: tenant + "/" + dataset, Tenant: tenant, Dataset: dataset, Reason: "nothing expires: " + firstOf(why)}}
}
