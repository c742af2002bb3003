package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"strongroom/daemon/state"
)

// answerWithin is how long people have for an answer to a test alarm.
const answerWithin = 72 * time.Hour

// TestKind is the kind of the alarm that a test alarm is kept as until it is
// answered.
const TestKind = "test alarm"

const (
	testKind       = TestKind
	unansweredKind = "test alarm unanswered"
)

// ErrNoWay is of a test alarm that nobody would get.
var ErrNoWay = errors.New("no way to tell people is configured")

// SendTestAlarm sends this week's test alarm, by the way after last week's, to be
// answered with its code. Only that a person answers shows that an alarm would
// reach one: a server that takes mails proves nothing about who reads them.
func (n *Notifier) SendTestAlarm(ctx context.Context) error {
	if err := n.CheckTestAlarm(ctx); err != nil { // the last one makes room
		return err
	}
	last, err := n.deps.DB.LastAlarm(ctx, testKind)
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	var people []*way
	for _, w := range n.ways {
		if w.person() {
			people = append(people, w)
		}
	}
	if len(people) == 0 {
		return fmt.Errorf("notify: send a test alarm: %w", ErrNoWay)
	}
	after := slices.IndexFunc(people, func(w *way) bool { return w.name == last.Channel })
	by := people[(after+1)%len(people)]

	now := n.deps.Now()
	e := Event{Kind: TestAlarm, Until: now.Add(answerWithin)}
	if _, err := io.ReadFull(n.deps.Rand, e.Code[:]); err != nil {
		return fmt.Errorf("notify: send a test alarm: %w", err)
	}
	messages, err := n.messages(e, func(w *way) bool { return w == by })
	if err != nil {
		return err
	}
	if _, err := n.deps.DB.Clear(ctx, testKind); err != nil {
		return err
	}
	_, _, err = n.deps.DB.Raise(ctx, state.Alarm{Key: testKind, Kind: testKind, Code: e.Code.String(), Channel: by.name, Reason: "waits for an answer"}, messages...)
	if err == nil {
		n.Wake()
	}
	return err
}

// CheckTestAlarm tells the other ways when nobody answered in time. Call it
// with every plan; it tells once.
func (n *Notifier) CheckTestAlarm(ctx context.Context) error {
	open, err := n.deps.DB.Alarms(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(open, func(a state.Alarm) bool { return a.Kind == testKind })
	if i < 0 || n.deps.Now().Sub(open[i].Raised) < answerWithin {
		return nil
	}
	silent := open[i].Channel
	if slices.ContainsFunc(open, func(a state.Alarm) bool { return a.Key == unansweredKind+" "+silent && !a.Notified.IsZero() }) {
		return nil
	}
	others := func(w *way) bool { return w.name != silent }
	if !slices.ContainsFunc(n.ways, func(w *way) bool { return w.person() && others(w) }) {
		others = func(*way) bool { return true } // there is none: once more by this one
	}
	messages, err := n.messages(Event{Kind: TestUnanswered, Since: open[i].Raised}, others)
	if err != nil {
		return err
	}
	_, told, err := n.deps.DB.Raise(ctx, state.Alarm{Key: unansweredKind + " " + silent, Kind: unansweredKind, Channel: silent,
		Reason: "nobody answered the test alarm by " + silent}, messages...)
	if told {
		n.Wake()
	}
	return err
}

// Answer takes a test alarm's code from a person.
func (n *Notifier) Answer(ctx context.Context, text, who string) error {
	var code Code
	if err := code.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("answer a test alarm: %w", err)
	}
	last, err := n.deps.DB.LastAlarm(ctx, testKind)
	if err != nil {
		return err
	}
	if err := n.deps.DB.Answer(ctx, code.String(), who); err != nil {
		return err
	}
	// That way works.
	_, err = n.deps.DB.Clear(ctx, unansweredKind+" "+last.Channel)
	return err
}
