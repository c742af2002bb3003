package job

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/custody/receipt"
	"strongroom/daemon/config"
)

// drilledAt is the receipt of a drill some days ago that took some minutes.
func drilledAt(now time.Time, days, minutes int, dataset string, change ...func(*receipt.Receipt)) *receipt.Receipt {
	start := now.Add(-time.Duration(days) * day)
	r := &receipt.Receipt{Tenant: "acme", Dataset: dataset, Started: start, Finished: start.Add(time.Duration(minutes) * time.Minute), Verdict: receipt.PASS,
		Stores: receipt.Stores{Tested: []string{"a", "b", "c"}}}
	for _, f := range change {
		f(r)
	}
	return r
}

func TestABudgetOfTimeIsSharedOut(t *testing.T) {
	now := time.Date(2026, 11, 29, 4, 30, 0, 0, time.UTC)
	s := &Site{Config: &config.Config{Tenants: []config.Tenant{{Name: "acme", Level: "secret", Datasets: []config.Dataset{{Name: "x"}, {Name: "y"}, {Name: "z"}}}}}}
	with := func(level string, budget time.Duration) *Site {
		c := *s.Config
		c.Tenants = slices.Clone(c.Tenants)
		c.Tenants[0].Level, c.Drill.Budget.Duration = level, budget
		return &Site{Config: &c}
	}
	failed := func(r *receipt.Receipt) { r.MustFail = "byte" }
	infra := func(r *receipt.Receipt) { r.Verdict = receipt.INFRA }
	for name, c := range map[string]struct {
		site *Site
		past []*receipt.Receipt
		want string
	}{
		"no budget":               {with("secret", 0), []*receipt.Receipt{drilledAt(now, 1, 90, "y"), drilledAt(now, 7, 90, "x")}, ""},
		"enough":                  {with("secret", 3*time.Hour), []*receipt.Receipt{drilledAt(now, 1, 30, "y"), drilledAt(now, 7, 30, "x")}, ""},
		"never drilled":           {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 90, "y")}, ""},
		"spent":                   {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 45, "y"), drilledAt(now, 7, 30, "x")}, "the 1h0m0s a week for drills are spent"},
		"spent on must-fail":      {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 45, "y", failed), drilledAt(now, 7, 30, "x")}, "spent"},
		"others waited longer":    {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 7, 30, "x"), drilledAt(now, 14, 45, "y")}, "have waited longer"},
		"its own turn":            {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 7, 45, "y"), drilledAt(now, 14, 30, "x")}, ""},
		"a month, whatever":       {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 90, "y"), drilledAt(now, 22, 30, "x")}, ""},
		"INFRA is none":           {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 90, "y"), drilledAt(now, 7, 30, "x", infra), drilledAt(now, 22, 30, "x")}, ""},
		"a top-secret snapshot":   {with("top-secret", time.Hour), []*receipt.Receipt{drilledAt(now, 1, 90, "y"), drilledAt(now, 7, 30, "x")}, ""},
		"of the week before last": {with("secret", time.Hour), []*receipt.Receipt{drilledAt(now, 7, 90, "y"), drilledAt(now, 7, 30, "x")}, ""},
	} {
		if got := c.site.later(c.past, "acme", "x", now); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// In a year of weekly rounds with a budget for two of three every dataset is
// drilled at least monthly, and each store withheld as often as the others.
func TestAYearOfRounds(t *testing.T) {
	s := &Site{Config: &config.Config{Tenants: []config.Tenant{{Name: "acme", Level: "secret"}}}}
	s.Config.Drill.Budget.Duration = 2 * time.Hour
	for i := range 5 {
		s.Config.Tenants[0].Datasets = append(s.Config.Tenants[0].Datasets, config.Dataset{Name: fmt.Sprint("d", i)})
	}
	var past []*receipt.Receipt // the newest first
	last, longest, drills, withheld, degraded := map[string]time.Time{}, time.Duration(0), 0, map[string]int{}, 0
	start := time.Date(2026, 1, 4, 4, 30, 0, 0, time.UTC)
	for week := range 52 {
		for i, d := range s.Config.Tenants[0].Datasets {
			now := start.Add(time.Duration(week)*7*day + time.Duration(i)*50*time.Minute)
			if s.later(past, "acme", d.Name, now) != "" {
				continue
			}
			r := drilledAt(now, 0, 50, d.Name)
			if degradedDue(past, "acme", d.Name, now) {
				r.Steps = []receipt.Step{{Name: receipt.Degraded, Status: receipt.Passed}}
				degraded++
			}
			r.Stores.Withheld = leastWithheld(r, past, 1)
			withheld[r.Stores.Withheld[0]]++
			past = slices.Insert(past, 0, r)
			if t, ok := last[d.Name]; ok {
				longest = max(longest, now.Sub(t))
			}
			last[d.Name] = now
			drills++
		}
	}
	if len(last) != 5 || longest > 31*day || drills > 52*5*2/3 || drills < 52*5/4 {
		t.Errorf("%d datasets, %v between two drills at most, %d drills", len(last), longest, drills)
	}
	if degraded < 5*9 || degraded == drills {
		t.Errorf("%d degraded of %d", degraded, drills)
	}
	for _, store := range []string{"a", "b", "c"} {
		if n := withheld[store]; n < drills/3-5 || n > drills/3+5 {
			t.Errorf("store %s was withheld %d times of %d", store, n, drills)
		}
	}
	t.Logf("%d drills, longest %v, degraded %d, withheld %v", drills, longest, degraded, withheld)
}

// The daemon asks where systemd listens.
func TestTheDrillSocketIsThatOfTheUnit(t *testing.T) {
	b, err := os.ReadFile("../../systemd/strongroom-drill.socket")
	if err != nil || !strings.Contains(string(b), "\nListenSequentialPacket="+drillSocket+"\n") {
		t.Errorf("%v\n%s", err, b)
	}
}
