package daemon

import (
	"context"
	"errors"
	"syscall"

	"strongroom/daemon/notify"
	"strongroom/daemon/state"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/source"
)

// causes are what may be told outside of an error: a word of a fixed list, never
// its text, which has paths, hosts and names. The first that fits counts.
var causes = []struct {
	err   error
	cause notify.Cause
}{
	{context.DeadlineExceeded, notify.TimedOut},
	{repo.ErrSpoolFull, notify.NoRoom},
	{store.ErrFull, notify.NoRoom},
	{syscall.ENOSPC, notify.NoRoom},
	{syscall.EDQUOT, notify.NoRoom},
	{repo.ErrWrongKey, notify.KeyMissing},
	{repo.ErrIntegrity, notify.Mismatch},
	{store.ErrTampered, notify.Mismatch},
	{store.ErrDenied, notify.StoreRefused},
	{store.ErrReadOnly, notify.StoreRefused},
	{store.ErrLocked, notify.StoreRefused},
	{store.ErrUnavailable, notify.StoreAway},
	{context.Canceled, notify.Interrupted},
}

// causeOf is why a run failed. A drill that failed without an error has compared,
// and found a difference.
func causeOf(t Task, outcome state.Outcome, err error) notify.Cause {
	if err == nil {
		if outcome == state.Failed && t.Kind == state.Drill {
			return notify.Mismatch
		}
		return notify.Unknown
	}
	// A source says of itself what its errors mean, and reads no store.
	switch source.ClassOf(err) {
	case source.Temporary:
		return notify.SourceAway
	case source.Refused:
		return notify.SourceRights
	case source.Drift:
		return notify.SourceChanged
	}
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.cause
		}
	}
	if few := (*spread.TooFewError)(nil); errors.As(err, &few) {
		return notify.StoreAway
	}
	return notify.Unknown
}
