package dir

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"

	"strongroom/repo/store"
)

func TestPaceBoundsWriting(t *testing.T) {
	s, err := Open(Config{Path: t.TempDir(), Pace: store.NewPace(256 << 10)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	body := bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // 256 KiB: 1 s
	begun := time.Now()
	if err := s.Put(t.Context(), "a/b", body, sha256.Sum256(body)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("256 KiB at 256 KiB/s took %v", took)
	}
}
