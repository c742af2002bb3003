package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/source"
)

func TestCausesOfFailures(t *testing.T) {
	in := func(err error) error { return fmt.Errorf("backup of acme/crm: %w", err) }
	for _, c := range []struct {
		err  error
		want notify.Cause
	}{
		{in(source.WithClass(source.Temporary, errors.New("no route to host"))), notify.SourceAway},
		{in(source.WithClass(source.Refused, errors.New("permission denied for table customers"))), notify.SourceRights},
		{in(source.WithClass(source.Drift, errors.New("a table was altered"))), notify.SourceChanged},
		{in(fmt.Errorf("store %q: %w", "one", store.ErrUnavailable)), notify.StoreAway},
		{in(&spread.TooFewError{}), notify.StoreAway},
		{in(store.ErrDenied), notify.StoreRefused},
		{in(repo.ErrSpoolFull), notify.NoRoom},
		{in(&os.PathError{Op: "write", Path: "/var/lib/strongroom/datasets", Err: syscall.ENOSPC}), notify.NoRoom},
		{in(context.DeadlineExceeded), notify.TimedOut},
		{in(repo.ErrWrongKey), notify.KeyMissing},
		{in(repo.ErrIntegrity), notify.Mismatch},
		{in(errors.New("anything")), notify.Unknown},
	} {
		if got := causeOf(Task{Kind: state.Backup}, state.Failed, c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if got := causeOf(Task{Kind: state.Drill}, state.Failed, nil); got != notify.Mismatch {
		t.Errorf("a drill with verdict FAIL: %v", got)
	}
	if got := causeOf(Task{Kind: state.Backup}, state.Failed, nil); got != notify.Unknown {
		t.Errorf("a failure without an error: %v", got)
	}
}
