package s3

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"strongroom/repo/store"
)

// LockConfig says how a bucket with an object lock is used.
type LockConfig struct {
	Mode store.LockMode
	// ExtendAccessKey and ExtendSecretKey set retention, and need no other right;
	// empty: the store's own do it, and roles are not separated.
	ExtendAccessKey string
	ExtendSecretKey Secret
	// DeleteAccessKey and DeleteSecretKey, if not empty, are tried by ProbeLock
	// too: what may delete must not be able to delete what is locked.
	DeleteAccessKey string
	DeleteSecretKey Secret
}

// A Locking is a Store in a bucket with versions and an object lock.
type Locking struct {
	*Store
	lock      LockConfig
	retention minio.RetentionMode
	extend    *minio.Core
	delete    *minio.Core // nil: there are no such credentials here
}

// OpenLocking checks both configurations and returns the store. It does not
// connect, and does not find out whether locks hold: ProbeLock does.
func OpenLocking(c Config, l LockConfig) (*Locking, error) {
	s, err := Open(c)
	if err != nil {
		return nil, err
	}
	out := &Locking{Store: s, lock: l, extend: s.core}
	switch l.Mode {
	case store.Governance:
		out.retention = minio.Governance
	case store.Compliance:
		out.retention = minio.Compliance
	default:
		err = fmt.Errorf("lock mode %q is not %q or %q", l.Mode, store.Governance, store.Compliance)
	}
	if err == nil && l.ExtendAccessKey != "" {
		out.extend, err = s.another(l.ExtendAccessKey, l.ExtendSecretKey)
	}
	if err == nil && l.DeleteAccessKey != "" {
		out.delete, err = s.another(l.DeleteAccessKey, l.DeleteSecretKey)
	}
	if err != nil {
		return nil, fmt.Errorf("open S3 store with bucket %q: %w", c.Bucket, err)
	}
	return out, nil
}

// Lock implements store.Locker. It looks before it writes: a service that would
// let a lock be shortened is not asked to.
func (s *Locking) Lock(ctx context.Context, key string, until time.Time) error {
	if !store.ValidKey(key) {
		return fmt.Errorf("lock %q: invalid key", key)
	}
	err := s.retry.do(ctx, func() error {
		have, err := s.retained(ctx, s.extend, key, "")
		if err != nil {
			return err
		}
		if err := s.clockAgrees(); err != nil {
			return err
		}
		if have.Until.IsZero() {
			// It is new, or it lies over one that was locked: then both are kept.
			err = s.lockCovered(ctx, key, until)
		}
		return cmp.Or(err, s.prolong(ctx, key, "", have, until))
	})
	if err != nil {
		return fmt.Errorf("lock %s: %w", key, err)
	}
	return nil
}

// prolong locks a version until then, unless it is longer.
func (s *Locking) prolong(ctx context.Context, key, version string, have store.Retention, until time.Time) error {
	if !have.Until.Before(until.Truncate(time.Second)) {
		return nil
	}
	mode := s.retention
	if have.Mode == store.Compliance && have.Until.After(time.Now()) {
		mode = minio.Compliance // governance would be less
	}
	return s.setRetention(ctx, s.extend, key, version, mode, until, false)
}

// lockCovered locks the versions of an object that are not the current one.
func (s *Locking) lockCovered(ctx context.Context, key string, until time.Time) error {
	for v, err := range s.history(ctx, key) {
		if err != nil {
			return err
		}
		if v.Key != s.prefix+key || v.IsLatest || v.IsDeleteMarker || v.VersionID == "" {
			continue
		}
		have, err := s.retained(ctx, s.extend, key, v.VersionID)
		if err == nil {
			err = s.prolong(ctx, key, v.VersionID, have, until)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// history lists the versions of everything below a prefix.
func (s *Store) history(ctx context.Context, prefix string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		no := false
		for obj := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, WithVersions: true, Recursive: true, FetchOwner: &no}) {
			if !yield(obj, obj.Err) || obj.Err != nil {
				return
			}
		}
		// The library ends the iteration without an error when ctx is done.
		if err := ctx.Err(); err != nil {
			yield(minio.ObjectInfo{}, err)
		}
	}
}

// Overwritten implements store.Historian. It takes the listing in any order:
// versitygw (1.8.0) puts the markers of a page before its versions.
func (s *Locking) Overwritten(ctx context.Context, prefix string) iter.Seq2[store.History, error] {
	return func(yield func(store.History, error) bool) {
		all := map[string]store.History{}
		for v, err := range s.history(ctx, prefix) {
			if err != nil {
				err, _ = classify(err)
				yield(store.History{}, fmt.Errorf("versions below %q: %w", prefix, err))
				return
			}
			h := all[v.Key]
			h.Key = strings.TrimPrefix(v.Key, s.prefix)
			if !v.IsDeleteMarker {
				h.Versions++
			} else if v.IsLatest {
				h.Hidden = true
			}
			all[v.Key] = h
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if h := all[key]; (h.Versions > 1 || h.Hidden) && !yield(h, nil) {
				return
			}
		}
	}
}

// Retained implements store.Locker.
func (s *Locking) Retained(ctx context.Context, key string) (r store.Retention, err error) {
	if !store.ValidKey(key) {
		return r, fmt.Errorf("retention of %q: invalid key", key)
	}
	err = s.retry.do(ctx, func() error {
		r, err = s.retained(ctx, s.extend, key, "")
		return err
	})
	if err != nil {
		return r, fmt.Errorf("retention of %s: %w", key, err)
	}
	return r, nil
}

// clockTolerance is how far the service's clock may be from the box's. A lock
// has a date and no duration: with a clock that is years ahead it would last
// for years, and nobody could shorten it.
const clockTolerance = time.Hour

// clockAgrees compares the clocks by the answer that came last.
func (s *Locking) clockAgrees() error {
	s.dates.mu.Lock()
	defer s.dates.mu.Unlock()
	switch d := s.dates.says.Sub(s.dates.here).Abs(); {
	case s.dates.says.IsZero():
		return fmt.Errorf("%w: the service sends no Date, so nothing tells whether the lock would last as long as is meant", store.ErrDenied)
	case d > clockTolerance:
		return fmt.Errorf("%w: the service's clock and this machine's are %s apart, and the lock would last as much too long or too short", store.ErrDenied, d.Round(time.Second))
	}
	return nil
}

// retained asks for the retention of a version; "" is the current one.
func (s *Store) retained(ctx context.Context, core *minio.Core, key, version string) (store.Retention, error) {
	mode, until, err := core.GetObjectRetention(ctx, s.bucket, s.prefix+key, version)
	if resp, ok := answer(err); ok && resp.Code == "NoSuchObjectLockConfiguration" {
		return store.Retention{}, nil
	}
	if other := xml.UnmarshalError(""); errors.As(err, &other) {
		return s.readRetention(ctx, core, key, version)
	}
	if err != nil {
		return store.Retention{}, err
	}
	r := store.Retention{}
	if mode != nil {
		r.Mode = store.LockMode(strings.ToLower(string(*mode)))
	}
	if until == nil || r.Mode != store.Governance && r.Mode != store.Compliance {
		return store.Retention{}, nil // locked with nothing that we know
	}
	r.Until = until.UTC()
	return r, nil
}

// readRetention asks once more and takes the answer by any name: versitygw
// (1.8.0) calls it ObjectLockRetention where Amazon calls it Retention, and the
// library takes no other.
func (s *Store) readRetention(ctx context.Context, core *minio.Core, key, version string) (r store.Retention, err error) {
	q := url.Values{"retention": {""}}
	if version != "" {
		q.Set("versionId", version)
	}
	u, err := core.Presign(ctx, http.MethodGet, s.bucket, s.prefix+key, time.Minute, q)
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return r, err
	}
	resp, err := s.tripper.RoundTrip(req)
	if err != nil {
		return r, errors.New("the service did not answer") // err may quote the signed address
	}
	defer resp.Body.Close()
	var x struct {
		Mode  string    `xml:"Mode"`
		Until time.Time `xml:"RetainUntilDate"`
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil {
		err = xml.Unmarshal(b, &x)
	}
	r = store.Retention{Until: x.Until.UTC(), Mode: store.LockMode(strings.ToLower(x.Mode))}
	if resp.StatusCode != http.StatusOK || err != nil || r.Mode != store.Governance && r.Mode != store.Compliance {
		return store.Retention{}, fmt.Errorf("%w: the service's answer to what retains an object cannot be read (%d)", store.ErrTampered, resp.StatusCode)
	}
	return r, nil
}

func (s *Store) setRetention(ctx context.Context, core *minio.Core, key, version string, mode minio.RetentionMode, until time.Time, bypass bool) error {
	until = until.UTC().Truncate(time.Second)
	return core.PutObjectRetention(ctx, s.bucket, s.prefix+key, minio.PutObjectRetentionOptions{
		Mode: &mode, RetainUntilDate: &until, VersionID: version, GovernanceBypass: bypass})
}

// locked tells whether it is an object's lock that kept a version from being
// deleted, and not a missing right: services give one code for both.
func (s *Store) locked(ctx context.Context, key, version string, refusal error) error {
	resp, ok := answer(refusal)
	if !ok || resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
		return refusal
	}
	r, err := s.retained(ctx, s.core, key, version)
	switch {
	case err == nil && r.Until.After(time.Now()):
		return &store.LockedError{Until: r.Until}
	case err != nil && saysLocked(resp):
		return fmt.Errorf("%w: %w", store.ErrLocked, err) // until when, it does not tell
	}
	return refusal
}

// saysLocked recognises the refusals of a locked object: Amazon's and
// versitygw's "Access Denied because object protected by object lock", and
// "Object is WORM protected and cannot be overwritten" of MinIO and others.
func saysLocked(resp minio.ErrorResponse) bool {
	text := strings.ToLower(resp.Message)
	return resp.Code == "ObjectLocked" || strings.Contains(text, "object lock") || strings.Contains(text, "worm protected")
}

var (
	_ store.Locker    = (*Locking)(nil)
	_ store.Historian = (*Locking)(nil)
)
