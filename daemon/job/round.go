package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"strongroom/custody/receipt"
	"strongroom/repo"
)

const (
	// week is in how long every dataset is drilled, with leave for jitter.
	week = 6 * 24 * time.Hour
	// monthly is how long a dataset may go without a drill for want of time, and
	// without one that withholds stores: the next weekly round makes it a month.
	monthly = 21 * 24 * time.Hour
)

// A Round is one dataset's turn: its newest snapshot, and a random older one.
type Round struct {
	// Later is why nothing was drilled this time; "" if something was.
	Later  string
	Newest *receipt.Receipt
	Older  *receipt.Receipt // nil: there is none, or none whose key is here
}

// DrillRound does what is due for one dataset. What was done before it reads from
// the receipts that are filed; they are all the memory there is.
//
// The newest snapshot is read from all stores, as a restore would, and about
// monthly with each of them withheld, too. The older one is read without one
// store or more, as many as may be lost, those first that went longest without:
// so that in turn every shard has to serve.
func (s *Site) DrillRound(ctx context.Context, tenant, dataset, tool string, phase func(string)) (*Round, error) {
	past, err := s.Recent(time.Now().Add(-90 * 24 * time.Hour))
	if err != nil {
		return nil, err
	}
	if later := s.later(past, tenant, dataset, time.Now()); later != "" {
		return &Round{Later: later}, nil
	}
	o := DrillOptions{Tool: tool}
	if degradedDue(past, tenant, dataset, time.Now()) {
		o.Steps = receipt.Names()
	}
	phase("drill")
	r := &Round{}
	if r.Newest, err = s.Drill(ctx, tenant, dataset, "", o); err != nil {
		return nil, err
	}
	phase("drill of an older one")
	r.Older, err = s.drillOlder(ctx, r.Newest, past, tool)
	return r, err
}

// Recent returns what was filed since, the newest first, without drills that had
// to fail. A receipt that does not verify is told, and counts for nothing.
func (s *Site) Recent(since time.Time) ([]*receipt.Receipt, error) {
	ids, err := s.Receipts()
	if err != nil {
		return nil, err
	}
	var out []*receipt.Receipt
	for _, id := range ids {
		if at, err := time.Parse("20060102t150405z", strings.SplitN(id, "-", 2)[0]); err == nil && at.Before(since) {
			break
		}
		r, _, err := s.Receipt(id)
		if err != nil {
			s.Log("receipt %s: %v", id, err)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// conclusive are the drills of a dataset that say something about it.
func conclusive(past []*receipt.Receipt, tenant, dataset string) (out []*receipt.Receipt) {
	for _, r := range past {
		if r.Tenant == tenant && r.Dataset == dataset && r.MustFail == "" && r.Kind == "" && r.Verdict != receipt.INFRA {
			out = append(out, r)
		}
	}
	return out
}

// later says why a dataset's drill waits: the week's time is spent, others have
// waited longer for what is left of it, and it was drilled not long ago.
func (s *Site) later(past []*receipt.Receipt, tenant, dataset string, now time.Time) string {
	budget := s.Config.Drill.Budget.Duration
	mine := conclusive(past, tenant, dataset)
	if budget == 0 || len(mine) == 0 || now.Sub(mine[0].Started) > monthly {
		return ""
	}
	if t, ok := s.Config.Tenant(tenant); ok && t.Level == "top-secret" {
		return "" // every snapshot is drilled
	}
	left := budget
	for _, r := range past {
		if now.Sub(r.Started) < week {
			left -= r.Finished.Sub(r.Started)
		}
	}
	for _, t := range s.Config.Tenants {
		for _, d := range t.Datasets {
			other := conclusive(past, t.Name, d.Name)
			waits := len(other) > 0 && other[0].Started.Before(mine[0].Started) && now.Sub(other[0].Started) > week
			if waits {
				left -= other[0].Finished.Sub(other[0].Started)
			}
		}
	}
	if left >= mine[0].Finished.Sub(mine[0].Started) {
		return ""
	}
	return fmt.Sprintf("the %v a week for drills are spent, or others have waited longer; last drilled on %s, and again within %d days of that",
		budget, mine[0].Started.Format("2006-01-02"), int(monthly/(24*time.Hour))+7)
}

func degradedDue(past []*receipt.Receipt, tenant, dataset string, now time.Time) bool {
	for _, r := range conclusive(past, tenant, dataset) {
		i := slices.IndexFunc(r.Steps, func(s receipt.Step) bool { return s.Name == receipt.Degraded })
		if i >= 0 && r.Steps[i].Status != receipt.Unasked && now.Sub(r.Started) < monthly {
			return false
		}
	}
	return true
}

// drillOlder drills a random snapshot but the newest, of those that open.
func (s *Site) drillOlder(ctx context.Context, newest *receipt.Receipt, past []*receipt.Receipt, tool string) (*receipt.Receipt, error) {
	l, t, err := s.Listing(ctx, newest.Tenant)
	if err != nil {
		return nil, err
	}
	var older []*repo.Snapshot
	for _, d := range t.Datasets {
		if d.Name != newest.Dataset {
			continue
		}
		older = slices.DeleteFunc(l.Of(repo.ID(d.ID)), func(s *repo.Snapshot) bool { return s.HexHash() == newest.Snapshot.Manifest })
	}
	rand.Shuffle(len(older), func(i, j int) { older[i], older[j] = older[j], older[i] })
	for _, snap := range older {
		r, err := s.Drill(ctx, newest.Tenant, newest.Dataset, snap.ID(), DrillOptions{Tool: tool, Without: leastWithheld(newest, past, l.Margin(snap))})
		if errors.Is(err, repo.ErrWrongKey) {
			continue // its generation is closed
		}
		return r, err
	}
	return nil, nil
}

// leastWithheld picks n stores of those that a dataset lies on: who went longest
// without being withheld.
func leastWithheld(newest *receipt.Receipt, past []*receipt.Receipt, n int) []string {
	last := map[string]time.Time{}
	for _, r := range slices.Backward(conclusive(past, newest.Tenant, newest.Dataset)) {
		for _, name := range r.Stores.Withheld {
			last[name] = r.Started
		}
	}
	stores := slices.Clone(newest.Stores.Tested)
	slices.SortStableFunc(stores, func(a, b string) int { return last[a].Compare(last[b]) })
	return stores[:max(0, min(n, len(stores)-1))]
}
