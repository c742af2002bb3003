package job

import (
	"testing"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/receipt"
	"strongroom/repo"
)

// The checkpoint chooses, each tenant another one, and in the long run all of them.
func TestWhatIsDrilledIsChosenByTheCheckpoint(t *testing.T) {
	all := make([]*repo.Snapshot, 5)
	for i := range all {
		all[i] = &repo.Snapshot{}
	}
	hits, differs := map[*repo.Snapshot]int{}, 0
	for i := range 500 {
		root := []byte{byte(i), byte(i >> 8), 7}
		a, b := chosen(all, root, keys.TenantID{1}), chosen(all, root, keys.TenantID{2})
		if a != chosen(all, root, keys.TenantID{1}) {
			t.Fatal("the same checkpoint chooses another one")
		}
		hits[a]++
		if a != b {
			differs++
		}
	}
	for _, s := range all {
		if n := hits[s]; n < 60 || n > 140 {
			t.Errorf("one of five is chosen %d times of 500", n)
		}
	}
	if differs < 300 {
		t.Errorf("two tenants differ %d times of 500", differs)
	}
}

func TestProofsOfPeopleFallDue(t *testing.T) {
	now := time.Date(2027, 5, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		created, proven int // days ago; 0: never
		due             bool
	}{{13, 0, false}, {14, 0, true}, {500, 399, false}, {500, 400, true}, {3, 2, false}} {
		tenant := box.Tenant{Name: "acme", Created: now.Add(-time.Duration(c.created) * day)}
		if c.proven > 0 {
			tenant.Proven = now.Add(-time.Duration(c.proven) * day)
		}
		if p, due := kitProof(tenant, now); due != c.due || p.Tenant != "acme" || due && p.By.After(now) {
			t.Errorf("%+v: %+v, %t", c, p, due)
		}
	}
	at := func(days int) *repo.Snapshot {
		return &repo.Snapshot{Entry: &repo.Catalogue{Point: now.Add(-time.Duration(days) * day)}}
	}
	for name, c := range map[string]struct {
		all []*repo.Snapshot
		due bool
	}{"none": {nil, false}, "young": {[]*repo.Snapshot{at(10), at(104)}, false}, "old": {[]*repo.Snapshot{at(105), at(10)}, true}} {
		if p, due := closedProof("acme", c.all, now); due != c.due {
			t.Errorf("%s: %+v, %t", name, p, due)
		}
	}
	for _, c := range []struct {
		r    receipt.Receipt
		want bool
	}{
		{receipt.Receipt{Tenant: "acme", Kind: receipt.Closed, Verdict: receipt.PASS}, true},
		{receipt.Receipt{Tenant: "acme", Kind: receipt.Closed, Verdict: receipt.INFRA}, false},
		{receipt.Receipt{Tenant: "acme", Verdict: receipt.PASS}, false},
		{receipt.Receipt{Tenant: "other", Kind: receipt.Closed, Verdict: receipt.PASS}, false},
	} {
		if got := drilledClosed([]*receipt.Receipt{&c.r}, "acme"); got != c.want {
			t.Errorf("%+v: %t", c.r, got)
		}
	}
}
