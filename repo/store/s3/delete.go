package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// Delete removes an object with all its versions and delete markers; nil if
// there is none. A version under an object lock is ErrLocked; those that are
// not go all the same.
func (s *Store) Delete(ctx context.Context, key string) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("delete %q: invalid key", key)
	}
	if err := s.retry.do(ctx, func() error { return s.remove(ctx, key) }); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, key string) error {
	versions, err := s.versions(ctx, key)
	if err != nil {
		return err
	}
	var locked error
	for _, v := range versions {
		err := s.core.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{VersionID: v})
		if err != nil {
			err = s.locked(ctx, key, v, err)
		}
		switch {
		case err == nil:
		case errors.Is(err, store.ErrLocked):
			locked = later(locked, err)
		default:
			return err
		}
	}
	if locked != nil {
		return locked
	}
	// Whether it was versioned or not, the name must be free now. A service
	// without versions had none to list.
	switch _, err := s.stat(ctx, key); {
	case errors.Is(err, store.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if err := s.core.RemoveObject(ctx, s.bucket, s.prefix+key, minio.RemoveObjectOptions{}); err != nil {
		return err
	}
	if _, err := s.stat(ctx, key); !errors.Is(err, store.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("%w: the service says it is deleted and still has it", store.ErrTampered)
		}
		return err
	}
	return nil
}

// later returns the one of two refusals that lasts longer.
func later(a, b error) error {
	var x, y *store.LockedError
	if errors.As(a, &x) && errors.As(b, &y) && x.Until.After(y.Until) {
		return a
	}
	return b
}

// unversioned reports whether a service says that it does not know the question
// for versions. One that refuses the answer to this credential may well have
// some: deleting plainly would hide them behind a marker, and look like success.
func unversioned(err error) bool {
	resp, answered := answer(err)
	if !answered {
		return false
	}
	if kind, _ := classifyAnswer(resp); errors.Is(kind, store.ErrDenied) {
		return false
	}
	return slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotImplemented}, resp.StatusCode)
}

// versions lists the versions of one object. Services that know none refuse the
// question or give the object itself, as "null" or with no version.
func (s *Store) versions(ctx context.Context, key string) ([]string, error) {
	var out []string
	for obj, err := range s.history(ctx, key) {
		if unversioned(err) {
			return nil, nil // stat tells whether plain deleting was enough
		} else if err != nil {
			return nil, err
		}
		if obj.Key == s.prefix+key && obj.VersionID != "" {
			out = append(out, obj.VersionID)
		}
	}
	return out, nil
}

// Clock returns what the service says the time is, in the Date of an answer
// made now, and the box's time when it came. Its seconds are whole.
func (s *Store) Clock(ctx context.Context) (says, here time.Time, err error) {
	if _, err := s.stat(ctx, store.ProbeKey); err != nil && !errors.Is(err, store.ErrNotExist) {
		return says, here, fmt.Errorf("clock: %w", err)
	}
	s.dates.mu.Lock()
	defer s.dates.mu.Unlock()
	if s.dates.says.IsZero() {
		return says, here, errors.New("clock: the service sends no Date")
	}
	return s.dates.says, s.dates.here, nil
}
