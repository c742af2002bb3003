package daemon

import (
	"context"
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
