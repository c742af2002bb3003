package state

import (
	"errors"
	"testing"
	"time"
)

func TestWhatRunsFoundAndHowJobsEnded(t *testing.T) {
	d, c := newDB(t)
	type found struct{ Margin int }
	ends := func(job string, kind Kind, o Outcome, margin int) RunID {
		t.Helper()
		id := claim(t, d, job, kind, c.pass(time.Hour))
		if margin >= 0 {
			must(t, d.Keep(t.Context(), id, found{margin + 1}))
			must(t, d.Keep(t.Context(), id, found{margin})) // the last one counts
		}
		c.pass(time.Minute)
		must(t, d.Finish(t.Context(), id, o, ""))
		return id
	}
	first := ends("backup:acme/crm", Backup, OK, 1)
	second := ends("backup:acme/crm", Backup, Partial, -1)
	whole := newYear.Add(time.Hour + time.Minute)
	partial := whole.Add(time.Hour + time.Minute)
	last := ends("backup:acme/crm", Backup, Failed, -1)
	ends("backup:acme/crm", Backup, Cancelled, -1)
	must(t, d.Skip(t.Context(), Claim{Job: "backup:acme/crm", Kind: Backup, Tenant: "acme", Dataset: "crm", Planned: c.pass(time.Hour)}, "late"))
	claim(t, d, "check:acme", Check, c.pass(time.Hour)) // goes on
	all, err := d.Ends(t.Context())
	must(t, err)
	want := Ends{Job: "backup:acme/crm", Kind: Backup, Tenant: "acme", Dataset: "crm", Good: partial, Whole: whole, Bad: partial.Add(time.Hour + time.Minute),
		Last: last, LastOutcome: Failed, LastFinished: partial.Add(time.Hour + time.Minute), Took: time.Minute, Found: first}
	if len(all) != 1 || all[0] != want {
		t.Errorf("got  %+v\nwant %+v", all, want)
	}
	var f found
	must(t, d.Result(t.Context(), first, &f))
	if f.Margin != 1 {
		t.Errorf("found %+v", f)
	}
	if err := d.Result(t.Context(), second, &f); !errors.Is(err, ErrNotFound) {
		t.Errorf("a run that left nothing: %v", err)
	}
	if err := d.Keep(t.Context(), first, f); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a run that has ended: %v", err)
	}
	tallies, err := d.Tallies(t.Context())
	must(t, err)
	n := map[Outcome]int64{}
	for _, x := range tallies {
		n[x.Outcome] += x.N
	}
	if n[OK] != 1 || n[Partial] != 1 || n[Failed] != 1 || n[Cancelled] != 1 || n[Skipped] != 1 || len(n) != 5 {
		t.Errorf("%+v", tallies)
	}
	since, err := d.RunsSince(t.Context(), whole)
	must(t, err)
	if len(since) != 4 || since[0].ID != second {
		t.Errorf("%+v", since)
	}
}

// A run of a whole tenant is no dataset of an empty name.
func TestARunOfATenantMakesNoDataset(t *testing.T) {
	d, _ := newDB(t)
	_, err := d.Claim(t.Context(), Claim{Job: "check:acme", Kind: Check, Tenant: "acme", Planned: newYear})
	must(t, err)
	if all, err := d.Datasets(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
