package systemdtest

import (
	"testing"
	"time"
)

// What the tests of limits and power cuts rely on.
func TestAVMForgetsWhatWasNotSynced(t *testing.T) {
	began := time.Now()
	v := Boot(t, Config{Files: map[string]string{"here": "vm_test.go"}})
	t.Logf("booted in %v", time.Since(began))
	if out, code := v.Try("echo out; echo err >&2; exit 7"); out != "out\nerr\n" || code != 7 {
		t.Errorf("%q, %d", out, code)
	}
	v.Run("test -s /host/here")
	if out, code := v.Try("systemd-run --quiet --pipe --wait -p MemoryMax=32M -p MemorySwapMax=0 bash -c 'head -c 100M /dev/zero | tail'"); code == 0 {
		t.Errorf("MemoryMax is no wall: %s", out)
	}
	v.Run("echo kept >/root/kept; sync; echo lost >/root/lost")
	v.Cut()
	v.Power()
	v.Run("test -s /root/kept; not test -s /root/lost")
}
