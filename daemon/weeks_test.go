package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
	"strongroom/daemon/state"
)

// A calendar is a daemon that runs for weeks of a bubble's time, with the real
// database and the real notifier, of which nothing is delivered: what people
// would get stays in the outbox.
type calendar struct {
	*Daemon
	t      *testing.T
	cfg    state.Config
	db     *state.DB
	tell   *notify.Notifier
	ends   func()
	found  map[notify.Kind][]Trouble
	checks int
	fails  bool
	drills []state.Outcome // what they show, one after the other; none: nothing is drilled
}

// testTasks are a dataset's backup, and a check whose troubles a test sets.
func (k *calendar) tasks() ([]Task, error) {
	out := []Task{
		{Job: "backup:acme/crm", Kind: state.Backup, Tenant: "acme", Dataset: "crm", Level: notify.Secret, Uses: []schedule.Class{backups},
			Do: func(context.Context, Reporter) (state.Outcome, string, error) {
				if k.fails {
					return "", "", fmt.Errorf("row (4711, 'Anna') is locked")
				}
				return state.OK, "", nil
			}},
		{Job: "check:acme", Kind: state.Check, Tenant: "acme", Level: notify.Secret, Settles: []notify.Kind{notify.MarginLost, notify.Damaged}, Scope: "acme",
			Do: func(_ context.Context, r Reporter) (state.Outcome, string, error) {
				k.checks++
				for _, kind := range []notify.Kind{notify.MarginLost, notify.Damaged} {
					r.Settle(kind, k.found[kind])
				}
				return state.OK, "", nil
			}},
	}
	var err error
	for i, at := range []string{"30 2 * * 0", "30 5 * * 0"} {
		if out[i].Spec, err = schedule.Compile(schedule.Config{At: at}, out[i].Job, time.LoadLocation); err != nil {
			return nil, err
		}
	}
	if len(k.drills) > 0 {
		drill := Task{Job: "drill:acme/crm", Kind: state.Drill, Tenant: "acme", Dataset: "crm", Spec: out[1].Spec,
			Do: func(context.Context, Reporter) (state.Outcome, string, error) {
				o := k.drills[0]
				k.drills = k.drills[1:]
				return o, "", nil
			}}
		out = append(out, drill)
	}
	return out, nil
}

// newCalendar begins at midnight on Saturday, 2000-01-01, as bubbles do.
func newCalendar(t *testing.T, ways ...notify.Webhook) *calendar {
	k := &calendar{t: t, found: map[notify.Kind][]Trouble{}}
	k.cfg = state.Config{Dir: t.TempDir(), Version: "test", Now: time.Now}
	if err := state.Create(t.Context(), k.cfg); err != nil {
		t.Fatal(err)
	}
	k.begin(k.cfg, ways)
	return k
}

func (k *calendar) begin(cfg state.Config, ways []notify.Webhook) {
	var err error
	if k.db, err = state.Open(context.Background(), cfg); err != nil {
		k.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if k.tell, err = notify.New(notify.Config{Box: "box-1", Webhook: ways}, notify.Deps{DB: k.db, Now: time.Now, Rand: rand.Reader, Log: log}); err != nil {
		k.t.Fatal(err)
	}
	names, err := notify.NewNames("acme", "crm", "nas")
	if err != nil {
		k.t.Fatal(err)
	}
	if k.Daemon, err = New(Config{DB: k.db, Tasks: k.tasks, Tell: k.tell, Names: func() notify.Names { return names }, Log: log, Now: time.Now}); err != nil {
		k.t.Fatal(err)
	}
	k.sleeps = 30 * time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	k.ends = func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Error(err)
		}
		if err := k.db.Close(); err != nil {
			k.t.Error(err)
		}
	}
}

// until lets time pass.
func (k *calendar) until(day string) {
	k.t.Helper()
	at, err := time.ParseInLocation("Mon 2006-01-02 15:04", day, time.Local)
	if err != nil {
		k.t.Fatal(err)
	}
	time.Sleep(time.Until(at))
	synctest.Wait()
}

// told are all events that were ever queued for a way, oldest first.
func (k *calendar) told(way string) (out []notify.Event) {
	k.t.Helper()
	all, err := k.db.Waiting(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, m := range all {
		if m.Channel != way {
			continue
		}
		var e notify.Event
		if err := json.Unmarshal([]byte(m.Body), &e); err != nil {
			k.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// days are when events came and what they were.
func (k *calendar) days(way string) (out []string) {
	for _, e := range k.told(way) {
		out = append(out, e.Time.Local().Format("Mon 01-02 15:04 ")+e.Kind.String())
	}
	return out
}

func (k *calendar) hears(way string, want ...string) {
	k.t.Helper()
	if got := k.days(way); !slices.Equal(got, want) {
		k.t.Errorf("%s gets\n  %s\nwant\n  %s", way, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func hooks(t *testing.T, names ...string) (out []notify.Webhook) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		out = append(out, notify.Webhook{Name: n, URL: "http://127.0.0.1:1/", SecretFile: secret})
	}
	return out
}

func TestWeeksOfDigestsAndTestAlarms(t *testing.T) {
	ways := hooks(t, "one", "two")
	synctest.Test(t, func(t *testing.T) {
		k := newCalendar(t, ways...)
		k.until("Tue 2000-01-04 11:00")
		k.hears("webhook one", "Mon 01-03 08:00 digest", "Tue 01-04 10:00 test-alarm")
		k.hears("webhook two", "Mon 01-03 08:00 digest")
		code := k.told("webhook one")[1].Code.String()
		if err := k.tell.Answer(t.Context(), code, "anna"); err != nil {
			t.Fatal(err)
		}
		k.until("Sat 2000-01-22 00:00")
		// The second week asks by the other way, nobody answers, and the first is
		// told after 72 hours; the third asks the first again.
		k.hears("webhook one", "Mon 01-03 08:00 digest", "Tue 01-04 10:00 test-alarm", "Mon 01-10 08:00 digest", "Fri 01-14 10:00 test-unanswered",
			"Mon 01-17 08:00 digest", "Tue 01-18 10:00 test-alarm")
		k.hears("webhook two", "Mon 01-03 08:00 digest", "Mon 01-10 08:00 digest", "Tue 01-11 10:00 test-alarm", "Mon 01-17 08:00 digest", "Fri 01-21 10:00 test-unanswered")
		digests := 0
		for _, e := range k.told("webhook two") {
			if e.Week == nil {
				continue
			}
			digests++
			if want := e.Time.Add(week); !e.Week.Next.Equal(want) {
				t.Errorf("the digest of %v says that the next comes %v", e.Time, e.Week.Next)
			}
			if len(e.Week.Datasets) != 1 || e.Week.Datasets[0].Runs != 1 || e.Week.Datasets[0].State != notify.NotYetProtected || e.Level != notify.Secret {
				t.Errorf("digest %+v, level %v", e.Week, e.Level)
			}
		}
		// The test alarm that waits for an answer is no trouble of the box; that
		// nobody answered is.
		if w := k.told("webhook two")[3].Week; digests != 3 || w.Alarms != 1 {
			t.Errorf("%d digests, the last with %d alarms", digests, w.Alarms)
		}
		o, err := k.Overview(t.Context())
		if err != nil || !o.Told || o.Tested == nil || o.NextDigest == nil || !o.NextDigest.Equal(time.Date(2000, 1, 24, 8, 0, 0, 0, time.Local)) {
			t.Errorf("%+v, %v", o, err)
		}
		k.ends()
	})
}

// A digest that fell into a time when the box was off comes once, when it is on
// again, and says what the time since the last one brought.
func TestADigestThatWasMissedComesOnce(t *testing.T) {
	ways := hooks(t, "one")
	synctest.Test(t, func(t *testing.T) {
		k := newCalendar(t, ways...)
		k.until("Wed 2000-01-05 00:00")
		k.ends()
		time.Sleep(2 * week) // off
		k.begin(k.cfg, ways)
		k.until("Wed 2000-01-19 01:00")
		var digests []notify.Event
		for _, e := range k.told("webhook one") {
			if e.Kind == notify.Digest {
				digests = append(digests, e)
			}
		}
		if len(digests) != 2 || !digests[1].Week.From.Equal(digests[0].Time) || !digests[1].Week.Next.Equal(time.Date(2000, 1, 24, 8, 0, 0, 0, time.Local)) {
			t.Errorf("%d digests; %+v", len(digests), digests[len(digests)-1].Week)
		}
		k.ends()
	})
}

func TestTroublesAreToldOnceLookedAtDailyAndEnd(t *testing.T) {
	ways := hooks(t, "one")
	for i := range ways {
		ways[i].Events = []string{"margin-lost", "damaged", "recovered", "failed", "overdue"}
	}
	synctest.Test(t, func(t *testing.T) {
		k := newCalendar(t, ways...)
		one := 1
		k.found[notify.MarginLost] = []Trouble{{Subject: "acme/crm", Tenant: "acme", Dataset: "crm", Margin: &one, Reason: "store nas is away"}}
		k.until("Sun 2000-01-02 06:00")
		k.hears("webhook one", "Sun 01-02 05:30 margin-lost")
		e := k.told("webhook one")[0]
		if e.Tenant.String() != "acme" || e.Dataset.String() != "crm" || *e.Margin != 1 || e.Level != notify.Secret || e.Run == 0 {
			t.Errorf("%+v", e)
		}
		k.until("Tue 2000-01-04 12:00") // it is looked at each day, and told no more
		if k.checks < 3 || len(k.told("webhook one")) != 2 {
			t.Errorf("%d checks, told %v", k.checks, k.days("webhook one"))
		}
		k.found[notify.MarginLost] = nil
		k.until("Wed 2000-01-05 12:00")
		told := k.told("webhook one")
		last := told[len(told)-1]
		if last.Kind != notify.Recovered || last.Was != notify.MarginLost || last.Dataset.String() != "crm" || len(told) != 3 {
			t.Errorf("%v; %+v", k.days("webhook one"), last)
		}
		before := k.checks
		k.until("Sat 2000-01-08 12:00")
		if k.checks != before {
			t.Errorf("%d more checks of what is well", k.checks-before)
		}

		// What fails is told without what it said, which may be a row.
		k.fails = true
		k.until("Sun 2000-01-09 04:00")
		all, err := k.db.Waiting(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if strings.Contains(m.Body, "Anna") || strings.Contains(m.Body, "4711") {
				t.Errorf("a row is in %s", m.Body)
			}
		}
		k.fails = false
		k.until("Sun 2000-01-16 04:00")
		var got []string // of the backup: test alarms come to every way
		for _, e := range k.told("webhook one")[3:] {
			if e.Kind != notify.TestAlarm && e.Kind != notify.TestUnanswered {
				got = append(got, e.Time.Local().Format("Mon 01-02 ")+e.Kind.String())
			}
		}
		if want := []string{"Sun 01-09 failed", "Mon 01-10 overdue", "Sun 01-16 recovered"}; !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
		k.ends()
	})
}

// A dataset that goes from the configuration takes its alarms with it: nothing
// would ever find them over.
func TestAlarmsOfWhatIsGoneEnd(t *testing.T) {
	ways := hooks(t, "one")
	synctest.Test(t, func(t *testing.T) {
		k := newCalendar(t, ways...)
		k.until("Sat 2000-01-01 01:00")
		for _, key := range []string{"failed backup:acme/gone", "margin-lost other/crm", "margin-lost acme/crm", "failed backup:acme/crm", "lock-probe-failed store old", "test alarm"} {
			kind, _, _ := strings.Cut(key, " ")
			if key == "test alarm" {
				kind = key
			}
			if _, _, err := k.db.Raise(t.Context(), state.Alarm{Key: key, Kind: kind, Tenant: "acme"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		open, err := k.Alarms(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, a := range open {
			keys = append(keys, a.Key)
		}
		if want := []string{"margin-lost acme/crm", "failed backup:acme/crm", "test alarm"}; !slices.Equal(keys, want) {
			t.Errorf("open %q, want %q", keys, want)
		}
		k.ends()
	})
}

// A drill that could not say anything is done again within hours, and not in a
// week: until then the dataset is not proven.
func TestADrillThatSaidNothingIsDoneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCalendar(t)
		k.drills = []state.Outcome{state.Infra, state.Infra, state.OK, state.Failed}
		if err := k.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.until("Sun 2000-01-02 03:15") // the backup, and at once the first drill
		if all, err := k.Status(t.Context()); err != nil || len(k.drills) != 3 || all[0].Protected {
			t.Errorf("%+v, %v, drills left %v", all, err, k.drills)
		}
		k.until("Sun 2000-01-02 05:15")
		if all, err := k.Status(t.Context()); err != nil || len(k.drills) != 1 || !all[0].Protected {
			t.Errorf("%+v, %v, drills left %v", all, err, k.drills)
		}
		k.ends()
	})
}
