package s3_test

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// startFake serves a bucket from memory, in this process: a third server of
// another make, and one that needs no program.
func startFake(t *testing.T, bucket string) s3.Config {
	t.Helper()
	back := s3mem.New()
	if err := back.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(back, gofakes3.WithLogger(gofakes3.DiscardLog())).Server())
	t.Cleanup(server.Close)
	return s3.Config{Endpoint: server.URL, Bucket: bucket, Region: "us-east-1", AccessKey: "any", SecretKey: s3.NewSecret("any"),
		Style: s3.StylePath, StallTimeout: 10 * time.Second, RetryBudget: 10 * time.Second}
}

func TestConformanceOfGofakes3(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, startFake(t, "strongroom")) })
}

// It closes the connection on requests for locks that it does not know, so
// nothing can be said of them: that is an error, never a lock that holds.
func TestALockThatCannotBeTriedIsNotSaidToHold(t *testing.T) {
	c := startFake(t, "strongroom")
	c.RetryBudget = time.Second
	s := openLocking(t, c, s3.LockConfig{Mode: store.Governance})
	if found, err := s.Probe(t.Context()); err != nil || found.CreateOnly != store.CreateNative {
		t.Errorf("%+v, %v", found, err)
	}
	r, err := s.ProbeLock(t.Context(), lockCap)
	if ok, bad := r.Immutable(); ok || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("immutable %v, %+v, %v", ok, bad, err)
	}
}
