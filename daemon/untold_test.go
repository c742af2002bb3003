package daemon

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/state"
)

// leaves has a daemon die after it recorded how a run ended, before anybody was
// told.
func (k *desk) leaves(outcome state.Outcome) {
	k.t.Helper()
	if err := k.stop(); err != nil {
		k.t.Fatal(err)
	}
	k.mu.Lock()
	k.now = k.now.Add(time.Hour)
	k.mu.Unlock()
	ctx := context.Background()
	db, err := state.Open(ctx, state.Config{Dir: k.dir, Version: "test", Now: k.clock})
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	id, err := db.Claim(ctx, state.Claim{Job: "backup:acme/one", Kind: state.Backup, Tenant: "acme", Dataset: "one", Planned: k.clock(), ByHand: true})
	if err == nil {
		err = db.Finish(ctx, id, outcome, "away")
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

func TestWhatADeadDaemonDidNotTellIsTold(t *testing.T) {
	k := newDesk(t)
	k.leaves(state.Failed)
	k.start()
	k.hears("failed one")
	if all, err := k.Alarms(t.Context()); err != nil || len(all) != 1 || all[0].Reason != "away" {
		t.Fatalf("%+v, %v", all, err)
	}
	// Once, however often it starts.
	if err := k.stop(); err != nil {
		t.Fatal(err)
	}
	k.start()
	k.waits("one failed 1")
	k.leaves(state.Partial)
	k.start()
	k.hears("failed one", "recovered one")
	if all, err := k.Alarms(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// A disk that fails one write and takes the next must not leave a job that is
// thought to run for ever.
func TestTheDaemonEndsWhenItCannotRecordHowARunEnded(t *testing.T) {
	k := newDesk(t)
	raw, err := sql.Open("sqlite", filepath.Join(k.dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Exec(`CREATE TRIGGER fault BEFORE UPDATE ON runs WHEN NEW.outcome IS NOT NULL BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END`); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Start(t.Context(), "backup:acme/one"); err != nil {
		t.Fatal(err)
	}
	ended := func() bool {
		k.Daemon.mu.Lock()
		defer k.Daemon.mu.Unlock()
		return k.Daemon.stopped
	}
	for deadline := time.Now().Add(20 * time.Second); !ended(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on")
		}
	}
	if err := k.stop(); err == nil || !strings.Contains(err.Error(), "disk I/O error") {
		t.Errorf("it ends with %v", err)
	}
	if _, err := raw.Exec(`DROP TRIGGER fault`); err != nil {
		t.Fatal(err)
	}
	k.start()
	k.waits("one ok 2")
}
