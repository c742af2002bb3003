package notify

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"testing"

	"strongroom/daemon/state"
)

// Between the other side's yes and the note of it a crash sends a message again,
// under the same ID. The other way round it would be lost.
func TestACrashAfterTheAnswerSendsAgainUnderTheSameID(t *testing.T) {
	var b *bench
	r, cfg := newReceiver(t, func(nth int, _ http.ResponseWriter) bool {
		if nth == 1 {
			b.db.Close() // and answers 200
		}
		return false
	})
	b = newBench(t, Config{Webhook: []Webhook{cfg}})
	must(t, b.Send(t.Context(), Event{Kind: DrillFailed}))
	if _, err := b.flush(t.Context(), b.ways[0], nil); err == nil {
		t.Fatal("it was noted in a closed database")
	}
	db, err := state.Open(t.Context(), b.cfg)
	must(t, err)
	defer db.Close()
	again, err := New(Config{Box: "box-1", Webhook: []Webhook{cfg}}, Deps{DB: db, Now: b.now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	for range 2 {
		if _, err := again.flush(t.Context(), again.ways[0], nil); err != nil {
			t.Fatal(err)
		}
	}
	if r.kinds() != "drill-failed drill-failed" || r.ids[0] != r.ids[1] {
		t.Errorf("got %s, IDs %q", r.kinds(), r.ids)
	}
}

// stops is a way whose other side says yes while the daemon is told to stop.
type stops struct {
	channel
	stop context.CancelFunc
}

func (s stops) send(context.Context, Event, string) error { s.stop(); return nil }

func TestAYesIsNotedWhileTheDaemonStops(t *testing.T) {
	_, cfg := newReceiver(t, nil)
	b := newBench(t, Config{Webhook: []Webhook{cfg}})
	ctx, cancel := context.WithCancel(t.Context())
	b.ways[0].channel = stops{b.ways[0].channel, cancel}
	must(t, b.Send(t.Context(), Event{Kind: DrillFailed}))
	b.flush(ctx, b.ways[0], nil)
	if q := b.waiting(t); len(q) != 0 {
		t.Errorf("waiting %+v", q)
	}
}
