package daemon

import (
	"testing"
	"time"

	"strongroom/daemon/job"
)

func TestWhatFillsUpIsToldFourWeeksBefore(t *testing.T) {
	now := time.Date(2026, 1, 4, 6, 0, 0, 0, time.UTC)
	in := func(days int) *time.Time { at := now.Add(time.Duration(days) * 24 * time.Hour); return &at }
	got := fillingUp(Room{
		Stores: []job.StoreUsage{{Store: "nas", Full: in(27)}, {Store: "far", Full: in(29)}, {Store: "new"}, {Store: "full", Full: in(-3)}},
		Spools: []job.SpoolUsage{{Tenant: "acme", Dataset: "crm", Held: 5, Bound: 50, Full: in(10)}, {Tenant: "acme", Dataset: "www"}},
	}, now)
	want := []struct {
		subject, store, dataset string
		days                    int
	}{{"store nas", "nas", "", 27}, {"store full", "full", "", 0}, {"spool acme/crm", "", "crm", 10}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if x := got[i]; x.Subject != w.subject || x.Store != w.store || x.Dataset != w.dataset || x.Days != w.days || x.Reason == "" {
			t.Errorf("%+v, want %+v", x, w)
		}
	}
}
