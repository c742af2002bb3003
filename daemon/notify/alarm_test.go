package notify

import (
	"errors"
	"testing"
	"time"

	"strongroom/daemon/state"
)

func TestTestAlarmsAreAnsweredOrTold(t *testing.T) {
	one, a := newReceiver(t, nil)
	two, c := newReceiver(t, nil)
	a.Name, c.Name, c.Events = "one", "two", []string{"overdue"} // gets test alarms all the same
	b := newBench(t, Config{Webhook: []Webhook{a, c}})
	week := func() {
		t.Helper()
		must(t, b.SendTestAlarm(t.Context()))
		b.deliver(t)
	}
	check := func(wantOne, wantTwo string) {
		t.Helper()
		must(t, b.CheckTestAlarm(t.Context()))
		must(t, b.CheckTestAlarm(t.Context())) // tells once
		b.deliver(t)
		if one.kinds() != wantOne || two.kinds() != wantTwo {
			t.Fatalf("one got %q, want %q; two got %q, want %q", one.kinds(), wantOne, two.kinds(), wantTwo)
		}
	}
	week()
	check("test-alarm", "")
	code := one.events[0].Code.String()
	if err := b.Answer(t.Context(), "00000000", "anna"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a wrong code: %v", err)
	}
	must(t, b.Answer(t.Context(), code, "anna"))
	b.pass(answerWithin + time.Hour)
	check("test-alarm", "")

	week() // by the other way, and nobody answers
	check("test-alarm", "test-alarm")
	b.pass(answerWithin)
	check("test-alarm test-unanswered", "test-alarm")
	open, err := b.db.Alarms(t.Context())
	must(t, err)
	if len(open) != 2 || open[1].Kind != unansweredKind || open[1].Channel != "webhook two" {
		t.Errorf("open %+v", open)
	}
	// Two weeks later it is that way's turn again, and somebody answers.
	for range 2 {
		b.pass(7 * 24 * time.Hour)
		week()
	}
	must(t, b.Answer(t.Context(), two.events[len(two.events)-1].Code.String(), "anna"))
	if open, _ := b.db.Alarms(t.Context()); len(open) != 1 || open[0].Key != unansweredKind+" webhook one" {
		t.Errorf("open %+v", open)
	}

	alone := newBench(t, Config{})
	if err := alone.SendTestAlarm(t.Context()); !errors.Is(err, ErrNoWay) {
		t.Errorf("without a way: %v", err)
	}
}
