package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// ErrLocked: the object is kept from deletion for some time yet. It is a
// LockedError where the time is known.
var ErrLocked = errors.New("object is locked")

// A LockedError says how long an object is kept.
type LockedError struct{ Until time.Time }

func (e *LockedError) Error() string {
	return fmt.Sprintf("%v until %s", ErrLocked, e.Until.UTC().Format(time.RFC3339))
}

// Unwrap makes it an ErrLocked.
func (e *LockedError) Unwrap() error { return ErrLocked }

// A LockMode says who may take a lock off before its time.
type LockMode string

const (
	// Governance: whoever has the right to bypass it.
	Governance LockMode = "governance"
	// Compliance: nobody.
	Compliance LockMode = "compliance"
)

// A Retention is what keeps an object from deletion. The zero value keeps
// nothing.
type Retention struct {
	Until time.Time
	Mode  LockMode
}

// A Locker is a store that can keep objects from deletion for a time, also from
// whoever has its write credentials. Both methods may be called concurrently,
// and retry transient faults like those of Store.
type Locker interface {
	// Lock keeps the object that key names now, and the versions of it that
	// something was put over, from deletion until that time at least, and returns when the store has confirmed it. It never shortens a
	// lock, so repeating it does no harm; a lock that lasts longer stays as it is.
	// ErrNotExist: there is no object. A Locker whose clock is not the caller's
	// refuses, rather than lock for another time than was meant.
	Lock(ctx context.Context, key string, until time.Time) error
	// Retained returns what the store says keeps the object that key names now.
	Retained(ctx context.Context, key string) (Retention, error)
}

// A History is an object that is not as it was put: names are used once, so
// somebody else wrote or deleted it.
type History struct {
	Key      string
	Versions int
	Hidden   bool // behind a delete marker: no listing shows it
}

// A Historian is a store that keeps versions.
type Historian interface {
	// Overwritten yields the objects below prefix that have more than one version,
	// or that a delete marker hides, in ascending order of their keys. After
	// yielding an error it stops.
	Overwritten(ctx context.Context, prefix string) iter.Seq2[History, error]
}

// A LockStep is one thing that a LockProber tried.
type LockStep struct {
	Step string `json:"step"`
	// OK: it ended as an immutable store would end it.
	OK bool `json:"ok"`
	// Skipped says why it was not tried; then OK means nothing.
	Skipped string `json:"skipped,omitempty"`
	Found   string `json:"found"`
}

// A LockReport is what a LockProber found.
type LockReport struct {
	Mode  LockMode   `json:"mode"`
	Steps []LockStep `json:"steps"`
	// Stays says what the probe left behind, and for how long.
	Stays []string `json:"stays"`
}

// Immutable reports whether every step that was tried ended as it should, and
// the ones that did not.
func (r LockReport) Immutable() (bool, []LockStep) {
	var bad []LockStep
	tried := 0
	for _, s := range r.Steps {
		if s.Skipped != "" {
			continue
		}
		tried++
		if !s.OK {
			bad = append(bad, s)
		}
	}
	return tried > 0 && len(bad) == 0, bad
}

// A LockProber is a Locker that can find out whether its locks hold.
type LockProber interface {
	// ProbeLock locks an object of its own for a minute or two and tries with
	// every credential it has to get rid of it, to weaken its lock, and to lock
	// one for longer than most from now. What a step finds is in the report; an
	// error means that there is no finding.
	ProbeLock(ctx context.Context, most time.Duration) (LockReport, error)
}
