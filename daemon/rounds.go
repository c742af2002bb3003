package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// When the box looks after itself. The machine and the sources are examined the
// day before the weekly backups, so that somebody can act before them; what was
// stored is checked after them.
const (
	doctorAt    = "0 9 * * 6"
	lockProbeAt = "0 7 * * 0"
	checkAt     = "30 7 * * 0"
	roundsAt    = "0 6 * * *"
)

// checks is the resource that what reads from the stores shares.
const checks schedule.Class = "checks"

// boxSubject is the machine as the subject of an alarm; no tenant has the name.
const boxSubject = "(box)"

// fillsUpWithin is how long before something is full people hear of it: disks
// and quotas take weeks to get.
const fillsUpWithin = 28 * 24 * time.Hour

// roundsOf are the tasks that look for troubles before they are losses.
func roundsOf(s *job.Site) ([]Task, error) {
	var out []Task
	add := func(t Task, at string, id string) error {
		t.Job = string(t.Kind) + id
		spec, err := schedule.Compile(schedule.Config{At: at, Jitter: "20m"}, t.Job, time.LoadLocation)
		if err != nil {
			return fmt.Errorf("schedule of %s: %w", t.Job, err)
		}
		t.Spec = spec
		out = append(out, t)
		return nil
	}
	err := add(Task{Kind: state.Doctor, Settles: []notify.Kind{notify.DoctorBad}, Scope: boxSubject,
		Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
			return examined(r, job.DoctorBox(ctx, s.Config), job.BoxSubject, Trouble{Subject: boxSubject})
		}}, doctorAt, "")
	for _, t := range s.Config.Tenants {
		level, lerr := notify.ParseLevel(t.Level)
		err = errors.Join(err, lerr)
		for _, d := range t.Datasets {
			if t.Name == job.SelfTenant { // its source is there while it is read
				continue
			}
			name := t.Name + "/" + d.Name
			err = errors.Join(err, add(Task{Kind: state.Doctor, Tenant: t.Name, Dataset: d.Name, Level: level, Settles: []notify.Kind{notify.DoctorBad}, Scope: name,
				Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
					got, err := s.Doctor(ctx, t.Name, d.Name)
					if err != nil {
						return "", "", err
					}
					return examined(r, got, name, Trouble{Subject: name, Tenant: t.Name, Dataset: d.Name})
				}}, doctorAt, ":"+name))
		}
		err = errors.Join(err, add(Task{Kind: state.Check, Tenant: t.Name, Level: level, Uses: []schedule.Class{checks}, Settles: []notify.Kind{notify.MarginLost, notify.Damaged}, Scope: t.Name,
			Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) {
				return checkOf(ctx, s, t.Name, r)
			}}, checkAt, ":"+t.Name))
	}
	for _, c := range s.Config.Stores {
		if c.Lock == "" {
			continue
		}
		err = errors.Join(err, add(Task{Kind: state.LockProbe, Settles: []notify.Kind{notify.LockProbeFailed}, Scope: "store " + c.Name,
			Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) { return probe(ctx, s, c, r) }}, lockProbeAt, ":"+c.Name))
	}
	err = errors.Join(err, add(Task{Kind: state.Rounds, Uses: []schedule.Class{checks}, Settles: []notify.Kind{notify.FillingUp, notify.MediumDue, notify.LedgerTrouble, notify.ProofDue},
		Do: func(ctx context.Context, r Reporter) (state.Outcome, string, error) { return rounds(ctx, s, r) }}, roundsAt, ""))
	return out, err
}

// examined settles what an examination says of one subject.
func examined(r Reporter, got *job.DoctorResult, subject string, x Trouble) (state.Outcome, string, error) {
	r.Keep(got)
	bad := got.Bad(subject)
	if len(bad) == 0 {
		r.Settle(notify.DoctorBad, nil)
		return state.OK, "nothing is bad", nil
	}
	x.Reason = "a backup would fail or be refused: " + strings.Join(bad, ", ")
	r.Settle(notify.DoctorBad, []Trouble{x})
	return state.Partial, x.Reason, nil
}

// mostTold is how many problems a reason has.
const mostTold = 5

// firstOf are some of many lines.
func firstOf(all []string) string {
	if more := len(all) - mostTold; more > 0 {
		return strings.Join(all[:mostTold], "; ") + fmt.Sprintf("; and %d more", more)
	}
	return strings.Join(all, "; ")
}

// checkOf compares a tenant's stores with its manifests: what they list, and a
// random column of every pack.
func checkOf(ctx context.Context, s *job.Site, tenant string, r Reporter) (state.Outcome, string, error) {
	r.Phase("check")
	got, err := s.Check(ctx, job.CheckOptions{Tenant: tenant, Sample: true, Progress: r.Progress})
	if err != nil {
		return "", "", err
	}
	why := firstOf(got.Problems)
	kept := *got
	if len(kept.Problems) > 100 {
		kept.Problems = kept.Problems[:100]
	}
	r.Keep(kept)
	var short, damaged []Trouble
	for _, d := range got.Datasets {
		if d.Short() {
			short = append(short, Trouble{Subject: d.Tenant + "/" + d.Dataset, Tenant: d.Tenant, Dataset: d.Dataset, Margin: &d.Margin,
				Reason: fmt.Sprintf("%d further stores may be lost, of %d planned: %s", d.Margin, d.Planned, why)})
		}
	}
	// What is away makes margins short and is told by that. All else that a check
	// finds is told here: bytes that changed, locks that run out.
	if got.Lost+got.Away+got.Gone > 0 || len(got.Problems) > 0 && len(short) == 0 {
		damaged = append(damaged, Trouble{Subject: tenant, Tenant: tenant, Reason: why})
	}
	r.Settle(notify.MarginLost, short)
	r.Settle(notify.Damaged, damaged)
	if len(short)+len(damaged) > 0 {
		return state.Partial, why, nil
	}
	return state.OK, fmt.Sprintf("%d of %d shards of %d packs are good", got.Good, got.Shards, got.Packs), nil
}

// probe finds out what a store's lock is worth.
func probe(ctx context.Context, s *job.Site, c config.Store, r Reporter) (state.Outcome, string, error) {
	got, err := job.ProbeLock(ctx, s.Config, c, time.Now())
	if err != nil {
		return "", "", err
	}
	r.Keep(got)
	text := got.State(time.Now())
	if ok, _ := got.Immutable(); !ok {
		r.Settle(notify.LockProbeFailed, []Trouble{{Subject: "store " + c.Name, Store: c.Name, Reason: text}})
		return state.Partial, text, nil
	}
	r.Settle(notify.LockProbeFailed, nil)
	return state.OK, text, nil
}

// Room is what the rounds find of the room that there is.
type Room struct {
	Stores []job.StoreUsage `json:"stores"`
	Spools []job.SpoolUsage `json:"spools"`
}

// rounds looks at what fills up, which media and which proofs of people are due,
// and the ledger. What cannot be looked at keeps nobody from looking at the rest.
func rounds(ctx context.Context, s *job.Site, r Reporter) (state.Outcome, string, error) {
	now := time.Now()
	var errs error
	if room, err := roomOf(ctx, s, now); err == nil {
		r.Keep(room)
		r.Settle(notify.FillingUp, fillingUp(room, now))
	} else {
		errs = errors.Join(errs, fmt.Errorf("room: %w", err))
	}
	if due, err := s.MediaDue(); err == nil {
		var all []Trouble
		for _, d := range due {
			x := Trouble{Subject: "set " + d.Set + " " + string(d.Task), Reason: d.Reason, Until: d.By}
			if d.Medium != nil {
				x.Subject, x.Medium = "medium "+d.Medium.Label, d.Medium.Label
			}
			if d.Overdue { // people hear of it again
				x.Subject += " overdue"
			}
			all = append(all, x)
		}
		r.Settle(notify.MediumDue, all)
	} else {
		errs = errors.Join(errs, fmt.Errorf("media: %w", err))
	}
	if due, err := s.ProofsDue(ctx, now); err == nil {
		var all []Trouble
		for _, p := range due {
			all = append(all, Trouble{Subject: p.Tenant + " " + p.What, Tenant: p.Tenant, Reason: p.Reason, Until: p.By})
		}
		r.Settle(notify.ProofDue, all)
	} else {
		errs = errors.Join(errs, fmt.Errorf("proofs: %w", err))
	}
	if err := s.CheckLedger(ctx); ctx.Err() == nil {
		var all []Trouble
		if err != nil {
			all = append(all, Trouble{Subject: boxSubject, Reason: err.Error()})
		}
		r.Settle(notify.LedgerTrouble, all)
	}
	if err := errors.Join(ctx.Err(), errs); err != nil {
		return "", "", err
	}
	return state.OK, "", nil
}

func roomOf(ctx context.Context, s *job.Site, now time.Time) (room Room, err error) {
	if room.Stores, err = s.Usage(ctx, now); err != nil {
		return room, err
	}
	room.Spools, err = s.Spools(now)
	return room, err
}

// fillingUp are the stores and spools that will be full soon.
func fillingUp(room Room, now time.Time) (out []Trouble) {
	soon := func(full *time.Time) bool { return full != nil && full.Sub(now) < fillsUpWithin }
	days := func(full *time.Time) int { return max(int(full.Sub(now)/(24*time.Hour)), 0) }
	for _, u := range room.Stores {
		if soon(u.Full) {
			out = append(out, Trouble{Subject: "store " + u.Store, Store: u.Store, Days: days(u.Full), Until: *u.Full, Reason: "full " + u.Left(now)})
		}
	}
	for _, u := range room.Spools {
		if soon(u.Full) {
			out = append(out, Trouble{Subject: "spool " + u.Tenant + "/" + u.Dataset, Tenant: u.Tenant, Dataset: u.Dataset, Days: days(u.Full), Until: *u.Full,
				Reason: fmt.Sprintf("%d of %d bytes wait for stores that are away, full in %d days", u.Held, u.Bound, days(u.Full))})
		}
	}
	return out
}
