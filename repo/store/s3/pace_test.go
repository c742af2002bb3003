package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// Uploads keep to the bound, also where that is slower than what counts as
// a stall, and downloads do not.
func TestPaceBoundsUploads(t *testing.T) {
	config := storetest.StartGateway(t).CreateBucket(t, "strongroom")
	config.Pace, config.StallTimeout = store.NewPace(256<<10), 600*time.Millisecond
	s := open(t, config)
	body := bytes.Repeat([]byte("0123456789abcdef"), 32<<10) // 512 KiB: 2 s
	begun := time.Now()
	if err := s.Put(t.Context(), "a/b", body, sha256.Sum256(body)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 1800*time.Millisecond {
		t.Errorf("512 KiB at 256 KiB/s took %v", took)
	}
	begun = time.Now()
	r, err := s.Get(t.Context(), "a/b", 0, int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("reading took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun = time.Now()
	if err := s.Put(ctx, "a/c", body, sha256.Sum256(body)); err == nil || time.Since(begun) > time.Second {
		t.Errorf("an upload that was given up: %v after %v", err, time.Since(begun))
	}
}
