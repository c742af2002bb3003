package s3_test

import (
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// A server of another make, which knows no versions, is a store all the same.
func TestConformanceOfRclone(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, storetest.StartRclone(t, "strongroom")) })
}

func TestRcloneIsFoundToKeepNothing(t *testing.T) {
	s := openLocking(t, storetest.StartRclone(t, "strongroom"), s3.LockConfig{Mode: store.Governance})
	found, err := s.Probe(t.Context())
	if err != nil || found.CreateOnly != store.CreateNative { // older ones ignored the condition
		t.Errorf("%+v, %v", found, err)
	}
	r := probe(t, s)
	if ok, bad := r.Immutable(); ok || bad[0].Step != "keep versions" {
		t.Errorf("%v, %+v", ok, bad)
	}
}
