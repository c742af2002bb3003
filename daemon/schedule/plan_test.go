package schedule

import (
	"strings"
	"testing"
	"time"
)

// job is one that was seen first on Thursday, 1 January 2026.
func job(t testing.TB, id string, c Config, uses ...Class) Job {
	return Job{ID: id, Spec: compile(t, c), Last: at(t, "2026-01-01T00:00Z"), Uses: uses}
}

// said tells a decision in one line.
func said(d Decision) string {
	var out []string
	for _, k := range []struct {
		name  string
		turns []Turn
	}{{"start", d.Start}, {"skip", d.Skip}, {"wait", d.Wait}} {
		for _, turn := range k.turns {
			s := k.name + " " + turn.Job + " of " + turn.Planned.Format("02T15:04")
			if turn.Missed > 0 {
				s += " and " + turn.FirstMissed.Format("02T15:04") + "…"
			}
			if turn.CatchUp {
				s += " late"
			}
			if turn.Reason != "" {
				s += ": " + turn.Reason
			}
			out = append(out, s)
		}
	}
	if !d.Next.IsZero() {
		out = append(out, "next "+d.Next.Format("02T15:04"))
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	weekly, never := Config{}, Config{CatchUp: "never"}
	ran := job(t, "a", weekly, Media)
	ran.Last = at(t, "2026-01-04T02:30Z")
	for _, c := range []struct {
		name    string
		now     string
		jobs    []Job
		running []Running
		want    string
	}{
		{"nothing is due", "2026-01-04T02:29Z", []Job{job(t, "a", weekly)}, nil, "next 04T02:30"},
		{"due", "2026-01-04T02:30Z", []Job{job(t, "a", weekly)}, nil, "start a of 04T02:30; next 11T02:30"},
		{"one missed", "2026-01-07T12:00Z", []Job{job(t, "a", weekly)}, nil, "start a of 04T02:30 late; next 11T02:30"},
		{"three missed are one", "2026-01-20T12:00Z", []Job{job(t, "a", weekly)}, nil, "start a of 18T02:30 and 04T02:30… late; next 25T02:30"},
		{"missed, not to be caught up", "2026-01-04T12:30Z", []Job{job(t, "a", never)}, nil, "skip a of 04T02:30 late: missed by 10h0m0s; next 11T02:30"},
		{"late within reason", "2026-01-04T02:44Z", []Job{job(t, "a", never)}, nil, "start a of 04T02:30; next 11T02:30"},
		{"still running", "2026-01-04T02:30Z", []Job{job(t, "a", weekly)}, []Running{{Job: "a", Since: at(t, "2026-01-03T23:00Z")}},
			"skip a of 04T02:30: still running since 2026-01-03 23:00 UTC; next 11T02:30"},
		{"another is running", "2026-01-04T02:30Z", []Job{job(t, "a", weekly)}, []Running{{Job: "b"}}, "start a of 04T02:30; next 11T02:30"},
		{"one writer of media, the one that is due first", "2026-01-04T02:35Z",
			[]Job{job(t, "a", Config{At: "31 2 * * 0"}, Media), job(t, "b", weekly, Media), job(t, "c", weekly)}, nil,
			"start b of 04T02:30; start c of 04T02:30; wait a of 04T02:31: waits for media; next 11T02:30"},
		{"the writer is busy by hand", "2026-01-04T02:30Z", []Job{job(t, "a", weekly, Media)}, []Running{{Job: "by hand", Uses: []Class{Media}}},
			"wait a of 04T02:30: waits for media; next 11T02:30"},
		{"whoever has waited for a week is first", "2026-01-11T02:30Z", []Job{ran, job(t, "b", weekly, Media)}, nil,
			"start b of 11T02:30 and 04T02:30… late; wait a of 11T02:30: waits for media; next 18T02:30"},
		{"two may upload", "2026-01-04T02:30Z", []Job{job(t, "a", weekly, "upload"), job(t, "b", weekly, "upload"), job(t, "c", weekly, "upload")}, nil,
			"start a of 04T02:30; start b of 04T02:30; wait c of 04T02:30: waits for upload; next 11T02:30"},
		{"waited for too long", "2026-01-04T03:30Z", []Job{job(t, "a", never, Media)}, []Running{{Job: "b", Uses: []Class{Media}}},
			"skip a of 04T02:30 late: missed by 1h0m0s, waiting for media; next 11T02:30"},
		{"in a blackout", "2026-01-04T03:00Z", []Job{job(t, "a", Config{Blackout: []string{"02:00-05:00"}})}, nil, "next 04T05:00"},
		{"after it, on time", "2026-01-04T05:00Z", []Job{job(t, "a", Config{Blackout: []string{"02:00-05:00"}})}, nil, "start a of 04T02:30; next 11T05:00"},
		{"no jobs", "2026-01-04T02:30Z", nil, nil, ""},
	} {
		d := Plan(at(t, c.now), c.jobs, c.running, map[Class]int{Media: 1, "upload": 2})
		if got := said(d); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestTenYearsOffAreOneRunAndSoonPlanned(t *testing.T) {
	began := time.Now()
	d := Plan(at(t, "2036-01-01T00:00Z"), []Job{job(t, "a", Config{At: "* * * * *"}), job(t, "b", Config{At: "0 0 29 2 *"})}, nil, nil)
	if len(d.Start) != 2 || d.Start[0].Planned != at(t, "2036-01-01T00:00Z") || d.Start[0].Missed != maxMissed {
		t.Errorf("every minute: %s", said(d))
	}
	if d.Start[1].Planned != at(t, "2032-02-29T00:00Z") || d.Start[1].FirstMissed != at(t, "2028-02-29T00:00Z") || d.Start[1].Missed != 1 {
		t.Errorf("leap days: %s", said(d))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestOverdue(t *testing.T) {
	last, week := at(t, "2026-01-04T02:30Z"), 7*24*time.Hour
	for _, c := range []struct {
		now  string
		by   time.Duration
		want string
	}{
		{"2026-01-04T02:30Z", 0, ""},
		{"2026-01-12T20:30Z", 0, ""}, // 8 days and 18 hours: 1.25 weeks
		{"2026-01-12T20:31Z", time.Minute, "no success for 210h1m0s"},
		{"2026-01-04T02:00Z", 0, ""}, // a clock that was a little ahead
		{"2025-12-30T00:00Z", 0, "lies 122h30m0s in the future"},
	} {
		by, why, overdue := Overdue(at(t, c.now), last, week)
		if overdue != (c.want != "") || !strings.Contains(why, c.want) || by != c.by {
			t.Errorf("%s: %v by %v, %q; want %q", c.now, overdue, by, why, c.want)
		}
	}
}

func TestThePlannerDoesWhatThePreviewSays(t *testing.T) {
	for _, c := range []Config{
		{TimeZone: "Europe/Berlin"},
		{At: "*/20 * * * *", TimeZone: "America/New_York", Blackout: []string{"Sat,Sun 00:10-09:00", "23:00-02:30"}, Jitter: "9m"},
		{At: "30 1,2 * * *", TimeZone: "Australia/Lord_Howe", Jitter: "50m"},
		{At: "0 12 * * *", TimeZone: "Africa/Cairo", Blackout: []string{"Mon-Fri 00:00-24:00"}},
	} {
		for _, from := range []string{"2026-03-05T00:00Z", "2026-10-01T00:00Z"} {
			j := Job{ID: "a", Spec: compile(t, c), Last: at(t, from)}
			said, did := j.Spec.Preview(j.Last, 6), []Tick(nil)
			for now := j.Last; len(did) < len(said); {
				d := Plan(now, []Job{j}, nil, nil)
				for _, turn := range d.Start {
					if !turn.Due.Equal(now) {
						t.Errorf("%+v: %v at %v", c, turn.Tick, now)
					}
					did, j.Last = append(did, turn.Tick), turn.Planned
				}
				now = d.Next
			}
			for i := range said {
				if !said[i].Planned.Equal(did[i].Planned) || !said[i].Due.Equal(did[i].Due) {
					t.Fatalf("%+v, number %d: said %v, did %v", c, i, said[i], did[i])
				}
			}
			if len(said) < 6 {
				t.Errorf("%+v: %d runs in six weeks", c, len(said))
			}
		}
	}
}
