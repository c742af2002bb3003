package state

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func waiting(t *testing.T, d *DB) string {
	t.Helper()
	all, err := d.Waiting(t.Context())
	must(t, err)
	var out []string
	for _, q := range all {
		out = append(out, q.Event+"→"+q.Channel)
	}
	return strings.Join(out, " ")
}

func msg(event string) Message { return Message{Event: event, Channel: "mail", Body: "{}"} }

func TestAnAlarmTellsOnceUntilItIsOver(t *testing.T) {
	d, c := newDB(t)
	a := Alarm{Key: "overdue acme/crm", Kind: "overdue", Tenant: "acme", Dataset: "crm", Reason: "no success"}
	id, told, err := d.Raise(t.Context(), a, msg("e1"))
	must(t, err)
	if !told {
		t.Error("the first time told nobody")
	}
	c.pass(time.Hour)
	again, told, err := d.Raise(t.Context(), a, msg("e2"))
	must(t, err)
	if told || again != id {
		t.Errorf("told again %v, alarm %d", told, again)
	}
	open, err := d.Alarms(t.Context())
	must(t, err)
	a.ID, a.Raised, a.Seen, a.Times, a.Notified = id, newYear, c.now, 2, newYear
	if len(open) != 1 || open[0] != a {
		t.Errorf("\n got %+v\nwant %+v", open, a)
	}
	was, err := d.Clear(t.Context(), a.Key, msg("e3"))
	must(t, err)
	if !was {
		t.Error("it was not open")
	}
	if was, _ := d.Clear(t.Context(), a.Key, msg("e4")); was {
		t.Error("it was open still")
	}
	if _, told, _ := d.Raise(t.Context(), a, msg("e5")); !told {
		t.Error("a new one told nobody")
	}
	if got := waiting(t, d); got != "e1→mail e3→mail e5→mail" {
		t.Errorf("queued %s", got)
	}
}

func TestAMuteEndsAndThenTells(t *testing.T) {
	d, c := newDB(t)
	a := Alarm{Key: "k", Kind: "overdue"}
	must(t, d.Mute(t.Context(), "k", c.now.Add(time.Hour), "anna", "moving the rack"))
	if _, told, _ := d.Raise(t.Context(), a, msg("e1")); told {
		t.Error("told while muted")
	}
	open, err := d.Alarms(t.Context())
	must(t, err)
	if len(open) != 1 || open[0].MutedUntil != newYear.Add(time.Hour) || open[0].MutedBy != "anna" || open[0].MuteReason != "moving the rack" {
		t.Errorf("%+v", open)
	}
	if was, _ := d.Clear(t.Context(), "k", msg("e2")); !was {
		t.Error("not open")
	}
	d.Raise(t.Context(), a, msg("e3"))
	must(t, d.Mute(t.Context(), "k", c.now.Add(2*time.Hour), "anna", "takes longer")) // in place of the first
	c.pass(90 * time.Minute)
	if _, told, _ := d.Raise(t.Context(), a, msg("e4")); told {
		t.Error("told while muted for longer")
	}
	c.pass(time.Hour)
	if _, told, _ := d.Raise(t.Context(), a, msg("e5")); !told {
		t.Error("not told when the mute had ended")
	}
	if got := waiting(t, d); got != "e5→mail" {
		t.Errorf("queued %s", got)
	}
	for _, until := range []time.Time{c.now, c.now.AddDate(2, 0, 0)} {
		if err := d.Mute(t.Context(), "k", until, "anna", "why"); err == nil {
			t.Errorf("muted until %v", until)
		}
	}
}

func TestActsNameWhoAndWhy(t *testing.T) {
	d, c := newDB(t)
	id, _, err := d.Raise(t.Context(), Alarm{Key: "k"})
	must(t, err)
	for _, p := range [][2]string{{"", "why"}, {"who", " "}} {
		if err := d.Acknowledge(t.Context(), id, p[0], p[1]); !errors.Is(err, ErrNoReason) {
			t.Errorf("%q: %v", p, err)
		}
		if err := d.Mute(t.Context(), "k", c.now.Add(time.Hour), p[0], p[1]); !errors.Is(err, ErrNoReason) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if err := d.Acknowledge(t.Context(), id, "anna", strings.Repeat("x", maxWords)); err == nil {
		t.Error("a novel")
	}
	must(t, d.Acknowledge(t.Context(), id, "anna", "on it"))
	open, _ := d.Alarms(t.Context())
	if len(open) != 1 || open[0].AckedBy != "anna" || open[0].AckReason != "on it" || open[0].Acked != newYear {
		t.Errorf("%+v", open)
	}
	if err := d.Acknowledge(t.Context(), 99, "anna", "on it"); !errors.Is(err, ErrNotFound) {
		t.Errorf("alarm 99: %v", err)
	}
}

func TestATestAlarmIsAnsweredByItsCode(t *testing.T) {
	d, _ := newDB(t)
	for _, code := range []string{"AAAA", "BBBB"} {
		_, _, err := d.Raise(t.Context(), Alarm{Key: "test " + code, Kind: "test", Code: code, Channel: "mail"})
		must(t, err)
	}
	if err := d.Answer(t.Context(), "CCCC", "anna"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a wrong code: %v", err)
	}
	must(t, d.Answer(t.Context(), "AAAA", "anna"))
	if err := d.Answer(t.Context(), "AAAA", "anna"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
	open, err := d.Alarms(t.Context())
	must(t, err)
	if len(open) != 1 || open[0].Code != "BBBB" || open[0].Channel != "mail" {
		t.Errorf("open %+v", open)
	}
	last, err := d.LastAlarm(t.Context(), "test")
	if err != nil || last.Code != "BBBB" {
		t.Errorf("%+v, %v", last, err)
	}
	if _, err := d.LastAlarm(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestOutboxKeepsAMessageUntilItIsSettled(t *testing.T) {
	d, c := newDB(t)
	must(t, d.Enqueue(t.Context(), msg("a"), msg("b"), Message{Event: "a", Channel: "hook"}, msg("a")))
	if got := waiting(t, d); got != "a→mail b→mail a→hook" {
		t.Fatalf("queued %s", got)
	}
	due, next, err := d.Due(t.Context(), "mail", 10)
	must(t, err)
	if len(due) != 2 || due[0].Event != "a" || !next.IsZero() {
		t.Fatalf("due %+v, next %v", due, next)
	}
	must(t, d.Retry(t.Context(), due[0].ID, c.now.Add(time.Minute), "no answer"))
	must(t, d.Sent(t.Context(), due[1].ID))
	if err := d.Sent(t.Context(), due[1].ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("sent twice: %v", err)
	}
	if due, next, _ := d.Due(t.Context(), "mail", 10); len(due) != 0 || next != newYear.Add(time.Minute) {
		t.Errorf("due %+v, next %v", due, next)
	}
	c.pass(time.Minute)
	due, _, err = d.Due(t.Context(), "mail", 10)
	must(t, err)
	if len(due) != 1 || due[0].Tries != 1 || due[0].Error != "no answer" || due[0].Created != newYear {
		t.Fatalf("due %+v", due)
	}
	must(t, d.Drop(t.Context(), due[0].ID, "for a week"))
	if got := waiting(t, d); got != "a→hook" {
		t.Errorf("waiting %s", got)
	}
	c.pass(keepSent + time.Hour)
	must(t, d.Enqueue(t.Context(), msg("c")))
	var n int
	must(t, d.r.QueryRow(`SELECT count(*) FROM outbox`).Scan(&n))
	if n != 2 {
		t.Errorf("%d rows, and what waits is not forgotten: want 2", n)
	}
}

func TestARunAndItsMessagesAreOneChange(t *testing.T) {
	d, c := newDB(t)
	id := claim(t, d, "j", Backup, c.now)
	must(t, d.Finish(t.Context(), id, Failed, "no room", msg("failed")))
	if err := d.Finish(t.Context(), id, Failed, "no room", msg("again")); !errors.Is(err, ErrNotRunning) {
		t.Errorf("%v", err)
	}
	if got := waiting(t, d); got != "failed→mail" {
		t.Errorf("queued %s", got)
	}
}
