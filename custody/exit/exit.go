// Package exit is the one table of exit codes.
package exit

import (
	"context"
	"errors"

	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/share"
	"strongroom/custody/ledger"
	"strongroom/custody/media"
	"strongroom/repo"
	"strongroom/repo/pack"
	"strongroom/repo/seal"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/source"
	"strongroom/source/files"
	"strongroom/source/files/publish"
	"strongroom/source/loader"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
	"strongroom/source/sqlite"
)

// Code is what a program of ours exits with. 2 is never used: a Go program
// that panics exits with it.
type Code int

const (
	OK           Code = 0
	Failed       Code = 1
	Partial      Code = 3   // done, but something selected is missing or a store lacks it
	NoRepository Code = 10  // nothing is initialised, or no snapshot is there
	Locked       Code = 11  // another process or box is writing
	WrongKey     Code = 12  // a key, kit or share does not open it
	Refused      Code = 20  // nothing was written
	Incomplete   Code = 21  // waiting or resumable
	Inconclusive Code = 22  // or quarantined
	Validation   Code = 23  // awaiting a person's validation
	Usage        Code = 64  // wrong command line or configuration
	Integrity    Code = 65  // bytes are not what was signed or sealed
	TryLater     Code = 75  // a store or server does not answer now
	Interrupted  Code = 130 // by a signal
)

type coded struct {
	code Code
	err  error
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// With gives err a code of its own.
func With(code Code, err error) error {
	if err == nil {
		return nil
	}
	return &coded{code, err}
}

// Lost gives Integrity to an error about too few shards where every store
// answered: then it is not a matter of time.
func Lost(err error, everyStoreAnswered bool) error {
	if few := (*spread.TooFewError)(nil); everyStoreAnswered && errors.As(err, &few) {
		return With(Integrity, err)
	}
	return err
}

// table maps errors to codes; the first that fits counts, so the more telling
// ones stand first.
var table = []struct {
	err  error
	code Code
}{
	{context.Canceled, Interrupted},
	{repo.ErrLocked, Locked},
	{repo.ErrConflict, Locked},
	{repo.ErrWrongKey, WrongKey},
	{share.ErrTooFew, WrongKey},
	{share.ErrDuplicate, WrongKey},
	{share.ErrOtherSet, WrongKey},
	{share.ErrInconsistent, WrongKey},
	{share.ErrChecksum, WrongKey},
	{keys.ErrWrongKey, WrongKey},
	{keys.ErrOtherKey, WrongKey},
	{keys.ErrCapsule, WrongKey},
	{keys.ErrNotReleased, WrongKey},
	{keys.ErrOtherCopy, WrongKey},
	{keys.ErrProof, WrongKey},
	{keys.ErrRehearsal, Refused},
	{box.ErrNoCopy, Refused},
	{keys.ErrExpired, Refused},
	{keys.ErrOnline, Refused},
	{ledger.ErrTampered, Integrity},
	{ledger.ErrFork, Integrity},
	{ledger.ErrBehind, Integrity},
	{ledger.ErrUnsettled, Inconclusive},
	{ledger.ErrNoLedger, NoRepository},
	{ledger.ErrLocked, Locked},
	{ledger.ErrExists, Refused},
	{ledger.ErrNoTenant, Refused},
	{ledger.ErrNoEntry, Refused},
	{ledger.ErrBroken, Refused},
	{media.ErrTampered, Integrity},
	{media.ErrNoRegister, NoRepository},
	{media.ErrUnknown, Refused},
	{media.ErrGone, Refused},
	{media.ErrClone, Refused},
	{media.ErrBehind, Refused},
	{media.ErrState, Refused},
	{media.ErrExists, Refused},
	{repo.ErrIncomplete, Incomplete},
	{repo.ErrSpoolFull, Incomplete},
	{repo.ErrIntegrity, Integrity},
	{pack.ErrCorrupt, Integrity},
	{seal.ErrAuth, Integrity},
	{store.ErrTampered, Integrity},
	{doc.ErrDamaged, Integrity},
	{files.ErrTree, Integrity},
	{files.ErrContents, Integrity},
	{sqlite.ErrDamaged, Integrity},
	{doc.ErrOther, Usage},
	{repo.ErrNoSnapshot, NoRepository},
	{box.ErrNoCredential, NoRepository},
	{box.ErrNotInitialised, NoRepository},
	{box.ErrLocked, Locked},
	{publish.ErrExists, Refused},
	{files.ErrNotEmpty, Refused},
	{postgres.ErrNotEmpty, Refused},
	{postgres.ErrNoDatabase, Refused},
	{mariadb.ErrNotEmpty, Refused},
	{mariadb.ErrNoDatabase, Refused},
	{mariadb.ErrTooSmall, Refused},
	{loader.ErrTarget, Usage},
	{store.ErrReadOnly, Refused},
	{store.ErrFull, Refused},
	{store.ErrLocked, Incomplete},
	{store.ErrDenied, Refused},
	{store.ErrUnavailable, TryLater},
	{keys.ErrUnknownBox, WrongKey}, // where nothing says that it is damage
}

// Of returns the code for an error.
func Of(err error) Code {
	if err == nil {
		return OK
	}
	var c *coded
	if errors.As(err, &c) {
		return c.code
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	var line *paper.LineError // a code, proof or share that was mistyped
	if errors.As(err, &line) {
		return WrongKey
	}
	var few *spread.TooFewError
	if errors.As(err, &few) {
		return TryLater
	}
	switch source.ClassOf(err) {
	case source.Temporary:
		return TryLater
	case source.Refused:
		return Refused
	}
	return Failed
}
