package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"

	"strongroom/repo/store"
)

const probeBody = "strongroom probe\n"

// createOnly returns how the service treats a conditional PUT, and finds out
// when no call has yet. The probe object always holds the same bytes, so that
// it does not matter when a service overwrites it.
func (s *Store) createOnly(ctx context.Context) (store.CreateOnly, error) {
	s.modeMu.Lock()
	defer s.modeMu.Unlock()
	if s.mode != store.CreateUnknown {
		return s.mode, nil
	}
	var mode store.CreateOnly
	err := s.retry.do(ctx, func() (err error) {
		mode, err = s.tryCreateOnly(ctx)
		return err
	})
	if err != nil {
		return store.CreateUnknown, err
	}
	s.mode = mode
	return mode, nil
}

// tryCreateOnly puts the probe object until one PUT finds it there: refused
// means native, accepted means that the condition is ignored.
func (s *Store) tryCreateOnly(ctx context.Context) (store.CreateOnly, error) {
	body := []byte(probeBody)
	sum := sha256.Sum256(body)
	for range 2 {
		err := s.putOnce(ctx, store.ProbeKey, body, sum, true)
		resp, answered := answer(err)
		switch {
		case err == nil:
			continue
		case answered && resp.StatusCode == http.StatusPreconditionFailed:
			return store.CreateNative, nil
		case answered && resp.StatusCode == http.StatusNotImplemented:
			// Backblaze B2 answers so. Make sure that it was the condition.
			return store.CreateUnsupported, s.putOnce(ctx, store.ProbeKey, body, sum, false)
		default:
			return store.CreateUnknown, err
		}
	}
	return store.CreateIgnored, nil
}

// Probe implements store.Prober.
func (s *Store) Probe(ctx context.Context) (store.Report, error) {
	r := store.Report{CreateOnly: store.CreateUnknown}
	err := s.probe(ctx, &r)
	if err != nil {
		err = fmt.Errorf("probe bucket %q at %s: %w", s.bucket, s.endpoint, err)
	}
	return r, err
}

func (s *Store) probe(ctx context.Context, r *store.Report) error {
	var listErr error
	for _, err := range s.List(ctx, "") {
		listErr = err
		break
	}
	r.Listable = listErr == nil
	// A refusal is an answer, too; the rest shows what else is refused.
	if r.Reachable = listErr == nil || errors.Is(listErr, store.ErrDenied); !r.Reachable {
		return listErr
	}
	mode, err := s.createOnly(ctx)
	if err != nil {
		return errors.Join(listErr, err)
	}
	r.Writable, r.CreateOnly = true, mode
	body, err := s.get(ctx, store.ProbeKey, 0, -1)
	if err != nil {
		return errors.Join(listErr, err)
	}
	defer body.Close()
	got, err := io.ReadAll(io.LimitReader(body, int64(len(probeBody))+1))
	if err == nil && string(got) != probeBody {
		err = fmt.Errorf("%w: the probe object came back changed", store.ErrTampered)
	}
	r.Readable = err == nil
	return errors.Join(listErr, err)
}
