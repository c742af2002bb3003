package schedule

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func compile(t testing.TB, c Config) *Spec {
	t.Helper()
	if c.TimeZone == "" {
		c.TimeZone = "UTC"
	}
	s, err := Compile(c, "test", time.LoadLocation)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	v, err := time.Parse("2006-01-02T15:04Z", text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The expected times were worked out by hand from the rules of each zone.
func TestRunsOnceWhereTheClockIsSet(t *testing.T) {
	for _, c := range []struct {
		at, zone, after string
		want            string
	}{
		// Spring: what does not exist runs right after. cron alone leaves it out.
		{"30 2 * * 0", "America/New_York", "2026-02-28T00:00Z", "2026-03-01T07:30Z 2026-03-08T07:00Z 2026-03-15T06:30Z"},
		{"30 2 * * 0", "Europe/Berlin", "2026-03-21T00:00Z", "2026-03-22T01:30Z 2026-03-29T01:00Z 2026-04-05T00:30Z"},
		{"15 2 * * 0", "Australia/Lord_Howe", "2026-09-30T00:00Z", "2026-10-03T15:30Z 2026-10-10T15:15Z"}, // half an hour
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-02T04:00Z", "2018-11-03T03:00Z 2018-11-04T03:00Z 2018-11-05T02:00Z"},
		{"15 0 * * 0", "America/Havana", "2026-03-02T00:00Z", "2026-03-08T05:00Z 2026-03-15T04:15Z"},
		{"30 1 * * 0", "Antarctica/Troll", "2026-03-23T00:00Z", "2026-03-29T01:00Z 2026-04-04T23:30Z"}, // two hours
		{"30 2 * * *", "Pacific/Apia", "2011-12-29T00:00Z", "2011-12-29T12:30Z 2011-12-30T10:00Z 2011-12-30T12:30Z"},
		// Two in the gap, and one at its end: one run.
		{"*/20 2,3 * * *", "America/New_York", "2026-03-08T06:59Z", "2026-03-08T07:00Z 2026-03-08T07:20Z 2026-03-08T07:40Z 2026-03-09T06:00Z"},
		// Autumn: the first of the two.
		{"30 1 * * 0", "America/New_York", "2026-10-24T00:00Z", "2026-10-25T05:30Z 2026-11-01T05:30Z 2026-11-08T06:30Z"},
		{"30 2 * * 0", "Europe/Berlin", "2026-10-17T00:00Z", "2026-10-18T00:30Z 2026-10-25T00:30Z 2026-11-01T01:30Z"},
		{"45 1 * * 0", "Australia/Lord_Howe", "2026-03-30T00:00Z", "2026-04-04T14:45Z 2026-04-11T15:15Z"},
		{"30 23 * * *", "America/Sao_Paulo", "2019-02-16T02:00Z", "2019-02-17T01:30Z 2019-02-18T02:30Z"},
		{"15 0 * * 0", "America/Havana", "2026-10-26T05:00Z", "2026-11-01T04:15Z 2026-11-08T05:15Z"},
		// Asked in the middle of the repeated hour: nothing of it again.
		{"30 1 * * *", "America/New_York", "2026-11-01T06:10Z", "2026-11-02T06:30Z"},
		{"0 * * * *", "America/New_York", "2026-11-01T04:30Z", "2026-11-01T05:00Z 2026-11-01T07:00Z"},
		// None of that.
		{"30 2 * * 0", "Asia/Ho_Chi_Minh", "2026-03-01T00:00Z", "2026-03-07T19:30Z 2026-03-14T19:30Z"},
		// Leap days; 2100 has none, and cron gives up after five years.
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00Z", "2028-02-29T00:00Z 2032-02-29T00:00Z"},
		{"0 0 29 2 *", "UTC", "2096-03-01T00:00Z", "2104-02-29T00:00Z 2108-02-29T00:00Z"},
		{"0 0 29 2 *", "UTC", "2098-03-01T00:00Z", "2104-02-29T00:00Z"},
		{"@weekly", "UTC", "2026-01-01T00:00Z", "2026-01-04T00:00Z"},
		{"", "UTC", "2026-01-01T00:00Z", "2026-01-04T02:30Z 2026-01-11T02:30Z"},
	} {
		s := compile(t, Config{At: c.at, TimeZone: c.zone})
		var got []string
		for after := at(t, c.after); len(got) <= strings.Count(c.want, " "); {
			tick, ok := s.Next(after)
			if !ok {
				t.Fatalf("%s %s: no run after %v", c.at, c.zone, after)
			}
			got = append(got, tick.Planned.Format("2006-01-02T15:04Z"))
			after = tick.Planned
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s in %s after %s:\n got %s\nwant %s", c.at, c.zone, c.after, g, c.want)
		}
	}
}

func TestMistakesSayWhereTheyAre(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want string
		at   int
	}{
		{Config{At: "TZ=UTC"}, "a time zone; it stands in time_zone", 0}, // panics in the parser
		{Config{At: "CRON_TZ=Asia/Taipei"}, "a time zone", 5},
		{Config{At: "30 2 30 2 *"}, "this never runs", 5},
		{Config{At: "30 2 31 4,6,9,11 *"}, "this never runs", 5},
		{Config{At: ", 2 * * *"}, "minute: nothing beside a comma", 0}, // never matches in cron
		{Config{At: "30 2 * * 0,"}, "day of week: nothing beside a comma", 11},
		{Config{At: "60 2 * * 0"}, `minute: "60": end of range (60) above maximum (59)`, 0},
		{Config{At: "30 1,24 * * 0"}, `hour: "24": end of range`, 5},
		{Config{At: "30 2 * * 7"}, "Sunday is 0", 9},
		{Config{At: "30 22-2 * * *"}, "write it as two", 3},
		{Config{At: "30 2 * * MON-SUN"}, "write it as two", 9},
		{Config{At: "30 2 L * *"}, "failed to parse", 5},
		{Config{At: "30 2 * * 5#3"}, "a number, a range", 9},
		{Config{At: "30 *-5 * * *"}, "a number, a range", 3},
		{Config{At: "30 2 ? * *"}, "a number, a range", 5},
		{Config{At: "*/0 2 * * *"}, "step of range", 0},
		{Config{At: "30 *,2 * * *"}, "* among others", 3},
		{Config{At: "0 3 1-7 * 0"}, "cron runs on each", 10},
		{Config{At: "30 2 * *"}, "4 fields instead of 5", 0},
		{Config{At: "0 30 2 * * 0"}, "6 fields instead of 5", 0},
		{Config{At: "@every 168h"}, "from each start", 0},
		{Config{At: "@sometimes"}, "unknown name", 0},
		{Config{At: strings.Repeat(" ", 300)}, "longer than", 256},
		{Config{TimeZone: "Asia/Saigon2"}, "no time zone", 0},
		{Config{CatchUp: "twice"}, "neither", 0},
		{Config{Jitter: "-1m"}, "no time span", 0},
		{Config{Jitter: "20"}, "no time span", 0},
		{Config{At: "@hourly", Jitter: "1h"}, "not less than the 1h0m0s", 0},
		{Config{Period: "9999w"}, "no time span", 0},
		{Config{Blackout: []string{"08:00-18:00", "Mon 8-18"}}, "no window", 0},
		{Config{Blackout: []string{"Mon-Fri 25:00-26:00"}}, "no time of the day", 8},
		{Config{Blackout: []string{"Mon-Fry 08:00-18:00"}}, "no days of the week", 0},
		{Config{Blackout: []string{"08:00-08:00"}}, "ends where it begins", 0},
		{Config{Blackout: []string{"00:00-12:00", "12:00-24:00"}}, "no minute of the week", 0},
	} {
		if c.c.TimeZone == "" {
			c.c.TimeZone = "UTC"
		}
		_, err := Compile(c.c, "test", time.LoadLocation)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || e.Offset != c.at {
			t.Errorf("%+v: %v, %+v; want %q at %d", c.c, err, e, c.want, c.at)
		}
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"30 2 * * 0", "TZ=UTC", "*/7 1-3,5 1-7/2 jan,FEB *", ",", "@weekly", "0/99 * * * *", "0 0 29 2 *"} {
		f.Add(s, "Mon-Fri,Sun 22:00-06:00")
	}
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text, blackout string) {
		s, err := Compile(Config{At: text, TimeZone: "Europe/Berlin", Blackout: []string{blackout}}, "test", time.LoadLocation)
		if err != nil {
			if e := new(Error); !errors.As(err, &e) || e.Offset > max(len(text), len(blackout)) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		a, ok := s.Next(from)
		b, ok2 := s.Next(a.Planned)
		if !ok || !ok2 || !a.Planned.After(from) || !b.Planned.After(a.Planned) || a.Due.Before(a.Planned) || b.Due.Before(a.Due) {
			t.Errorf("%q, %q: %v, then %v", text, blackout, a, b)
		}
		if s.Period() <= 0 || s.shortest <= 0 || s.shortest > s.gap {
			t.Errorf("%q: from %v to %v apart", text, s.shortest, s.gap)
		}
	})
}

func TestBlackoutHoldsARunUntilItsEnd(t *testing.T) {
	for _, c := range []struct {
		at, zone string
		blackout []string
		after    string
		due      string
	}{
		{"30 2 * * 0", "UTC", []string{"02:00-04:15"}, "2026-01-01T00:00Z", "2026-01-04T04:15Z"},
		{"30 2 * * 0", "UTC", []string{"Mon-Sat 02:00-04:15"}, "2026-01-01T00:00Z", "2026-01-04T02:30Z"},
		{"30 2 * * 0", "UTC", []string{"Sat 22:00-03:00"}, "2026-01-01T00:00Z", "2026-01-04T03:00Z"}, // over midnight
		{"30 2 * * 1", "UTC", []string{"Sat 22:00-03:00"}, "2026-01-01T00:00Z", "2026-01-05T02:30Z"},
		{"30 2 * * 0", "UTC", []string{"sat-mon 00:00-24:00", "Tue 00:00-09:00"}, "2026-01-01T00:00Z", "2026-01-06T09:00Z"},
		{"30 2 * * 0", "UTC", []string{"02:31-04:00"}, "2026-01-01T00:00Z", "2026-01-04T02:30Z"},
		{"30 2 * * 0", "UTC", []string{"01:00-02:30"}, "2026-01-01T00:00Z", "2026-01-04T02:30Z"},
		// 03:00 comes at once in spring; in autumn 02:00 is 01:00 again, and free.
		{"45 1 * * 0", "America/New_York", []string{"01:40-03:00"}, "2026-03-07T00:00Z", "2026-03-08T07:00Z"},
		{"45 1 * * 0", "America/New_York", []string{"01:40-03:00"}, "2026-10-31T12:00Z", "2026-11-01T06:00Z"},
	} {
		s := compile(t, Config{At: c.at, TimeZone: c.zone, Blackout: c.blackout})
		tick, _ := s.Next(at(t, c.after))
		if got := tick.Due.Format("2006-01-02T15:04Z"); got != c.due {
			t.Errorf("%s in %s, not in %q: due %s, want %s", c.at, c.zone, c.blackout, got, c.due)
		}
		if waits := strings.Contains(tick.Note, "blackout"); waits != tick.Due.After(tick.Planned) {
			t.Errorf("%s: note %q", c.at, tick.Note)
		}
	}
}

func TestJitterIsFixedAndSpreads(t *testing.T) {
	seen := map[time.Duration]bool{}
	for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		one, err := Compile(Config{TimeZone: "UTC", Jitter: "2h"}, id, time.LoadLocation)
		two, err2 := Compile(Config{TimeZone: "UTC", Jitter: "2h"}, id, time.LoadLocation)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if one.jitter != two.jitter || one.jitter < 0 || one.jitter >= 2*time.Hour {
			t.Errorf("%s: %v and %v", id, one.jitter, two.jitter)
		}
		tick, _ := one.Next(at(t, "2026-01-01T00:00Z"))
		if tick.Due.Sub(tick.Planned) != one.jitter || tick.Planned != at(t, "2026-01-04T02:30Z") {
			t.Errorf("%s: planned %v, due %v", id, tick.Planned, tick.Due)
		}
		seen[one.jitter] = true
	}
	if len(seen) < 9 {
		t.Errorf("%d delays of ten jobs", len(seen))
	}
	// sha256("strongroom schedule jitter\0acme/crm") begins with 718c3e1308b7b671,
	// as sha256sum says; its first eight bytes modulo 3600 are 865.
	if got, want := delay("acme/crm", time.Hour), 865*time.Second; got != want {
		t.Errorf("delay of acme/crm: %v, want %v", got, want)
	}
}

func TestPeriodIsTheLongestTimeBetweenRuns(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want time.Duration
	}{
		{Config{}, 7 * 24 * time.Hour},
		{Config{At: "30 2 * * 1-5"}, 3 * 24 * time.Hour},
		{Config{At: "@monthly"}, 31 * 24 * time.Hour},
		{Config{At: "0 0 29 2 *"}, 1461 * 24 * time.Hour},
		{Config{At: "@hourly", Blackout: []string{"08:00-18:00"}}, 11 * time.Hour},
		{Config{Period: "8d"}, 8 * 24 * time.Hour},
	} {
		s := compile(t, c.c)
		if got := s.Period(); got.Round(time.Hour) != c.want {
			t.Errorf("%+v: %v, want %v", c.c, got, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for at, want := range map[string]string{"": "", "*/5 * * * *": "runs every 5m0s", "@yearly": "up to 366 days between two runs"} {
		if got := strings.Join(compile(t, Config{At: at}).Warnings(), ", "); got != want {
			t.Errorf("%q: %q, want %q", at, got, want)
		}
	}
}

func TestPreviewListsTheRunsWithWhatIsSpecial(t *testing.T) {
	s := compile(t, Config{TimeZone: "America/New_York"})
	var got []string
	for _, tick := range s.Preview(at(t, "2026-03-01T12:00Z"), 3) {
		got = append(got, tick.Due.In(s.Location()).Format("Mon 01-02 15:04 MST")+" "+tick.Note)
	}
	want := []string{"Sun 03-08 03:00 EDT the clock is set forward over 02:30: runs right after", "Sun 03-15 02:30 EDT ", "Sun 03-22 02:30 EDT "}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	s = compile(t, Config{At: "0 * * * *", Blackout: []string{"08:00-18:00"}})
	day := s.Preview(at(t, "2026-01-01T00:00Z"), 1)
	if len(day) != 7*14 {
		t.Errorf("%d runs in a week of which ten hours a day are shut", len(day))
	}
}
