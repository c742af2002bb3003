package exit

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/paper"
	"strongroom/custody/keys/share"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/source"
	"strongroom/source/files"
	"strongroom/source/files/publish"
	"strongroom/source/loader"
	"strongroom/source/sqlite"
)

// The codes of the policy, typed a second time.
func TestCodesAreThoseOfThePolicy(t *testing.T) {
	for want, got := range map[int]Code{0: OK, 1: Failed, 3: Partial, 10: NoRepository, 11: Locked, 12: WrongKey, 20: Refused, 21: Incomplete,
		22: Inconclusive, 23: Validation, 64: Usage, 65: Integrity, 75: TryLater, 130: Interrupted} {
		if int(got) != want {
			t.Errorf("%d is %d", want, got)
		}
	}
}

func TestErrorsHaveTheirCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{nil, OK},
		{errors.New("anything"), Failed},
		{context.Canceled, 130},
		{repo.ErrLocked, 11}, {repo.ErrConflict, 11}, {box.ErrLocked, 11},
		{share.ErrTooFew, 12}, {share.ErrDuplicate, 12}, {share.ErrOtherSet, 12}, {share.ErrChecksum, 12}, {&paper.LineError{Line: 1}, 12},
		{keys.ErrOtherKey, 12}, {keys.ErrCapsule, 12}, {keys.ErrOtherCopy, 12}, {keys.ErrProof, 12}, {repo.ErrWrongKey, 12},
		{keys.ErrExpired, 20}, {keys.ErrRehearsal, 20}, {keys.ErrOnline, 20}, {box.ErrNoCopy, 20},
		{store.ErrReadOnly, 20}, {store.ErrDenied, 20}, {store.ErrFull, 20}, {publish.ErrExists, 20}, {files.ErrNotEmpty, 20},
		{repo.ErrIncomplete, 21},
		{repo.ErrNoSnapshot, 10}, {box.ErrNoCredential, 10}, {box.ErrNotInitialised, 10},
		{doc.ErrOther, 64}, {loader.ErrTarget, 64},
		{doc.ErrDamaged, 65}, {repo.ErrIntegrity, 65}, {store.ErrTampered, 65},
		{files.ErrTree, 65}, {files.ErrContents, 65}, {sqlite.ErrDamaged, 65},
		{store.ErrUnavailable, 75}, {&spread.TooFewError{}, 75},
		{source.WithClass(source.Temporary, errors.New("locked")), 75}, {source.WithClass(source.Refused, errors.New("host key")), 20},
		{source.WithClass(source.Drift, errors.New("schema")), 1}, {source.WithClass(source.Temporary, context.Canceled), 130},
		// A snapshot cannot be made because stores are away: it can be made
		// later, whatever kept them away.
		{fmt.Errorf("%w: %w", repo.ErrIncomplete, store.ErrUnavailable), 21},
		{fmt.Errorf("manifest: %w: %w", repo.ErrIntegrity, keys.ErrUnknownBox), 65},
		{With(Usage, repo.ErrLocked), Usage},
	} {
		if c.err != nil {
			c.err = fmt.Errorf("what failed: %w", c.err)
		}
		if got := Of(c.err); got != c.want {
			t.Errorf("%v: code %d, want %d", c.err, got, c.want)
		}
	}
	few := fmt.Errorf("restore: %w", &spread.TooFewError{})
	if Of(Lost(few, true)) != Integrity || Of(Lost(few, false)) != TryLater || Lost(nil, true) != nil || Of(Lost(repo.ErrLocked, true)) != Locked {
		t.Error("damage and absence have each other's code")
	}
	if With(Usage, nil) != nil {
		t.Error("no error became one")
	}
}
