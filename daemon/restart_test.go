package daemon

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"strongroom/daemon/state"
)

// An upgrade asks for a restart: what runs is not interrupted, what is due after
// it waits for the next start, and nothing is lost between the two.
func TestARestartWaitsForWhatRuns(t *testing.T) {
	k := newDesk(t)
	if _, err := k.Restart(); !errors.Is(err, ErrUnmanaged) {
		t.Fatalf("without a service manager: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", t.TempDir()+"/nobody")
	begun, release := make(chan struct{}, 9), make(chan struct{})
	k.sets(func(ctx context.Context) (state.Outcome, error) {
		begun <- struct{}{}
		select {
		case <-release:
			return state.OK, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	k.passes(untilSunday)
	<-begun
	if running, err := k.Restart(); err != nil || !slices.Equal(running, []string{"backup:acme/one"}) {
		t.Fatalf("%q, %v", running, err)
	}
	for range 20 {
		k.passes(time.Minute)
		time.Sleep(time.Millisecond)
	}
	k.waits("one  1")
	close(release)
	for deadline := time.Now().Add(20 * time.Second); !k.hasStopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not end though nothing runs")
		}
	}
	k.waits("one ok 1")
	// Whoever asks in the last moment finds it again after the start.
	if _, err := k.Start(t.Context(), "backup:acme/one"); err != nil {
		t.Fatal(err)
	}
	k.waits("one  1", "one ok 1")
	if err := k.stop(); !errors.Is(err, ErrRestart) {
		t.Fatalf("ended with %v", err)
	}
	k.start()
	k.waits("two ok 1", "one ok 2", "one ok 1")
}

func (k *desk) hasStopped() bool {
	k.Daemon.mu.Lock()
	defer k.Daemon.mu.Unlock()
	return k.stopped
}
