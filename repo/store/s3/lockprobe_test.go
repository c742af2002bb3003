package s3_test

import (
	"strings"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

const lockCap = 70 * 24 * time.Hour

func probe(t *testing.T, s *s3.Locking) store.LockReport {
	t.Helper()
	r, err := s.ProbeLock(t.Context(), lockCap)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range r.Steps {
		t.Logf("%-5v %s: %s%s", st.OK, st.Step, st.Found, st.Skipped)
	}
	return r
}

func TestAnHonestServiceIsImmutable(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	for _, mode := range []store.LockMode{store.Governance, store.Compliance} {
		t.Run(string(mode), func(t *testing.T) {
			b := lockedBucket(t, g, string(mode))
			p := storetest.StartProxy(t, g)
			p.Inject(storetest.Capped(lockCap + 24*time.Hour))
			s := openLocking(t, b.Write.As(p.Config(b.Name)), b.Lock(mode))
			r := probe(t, s)
			if ok, bad := r.Immutable(); !ok {
				t.Errorf("%+v", bad)
			}
			if len(r.Steps) < 15 {
				t.Errorf("only %d steps", len(r.Steps))
			}
			for info, err := range s.List(t.Context(), "") {
				t.Errorf("the probe shows: %v, %v", info, err)
			}
			probe(t, s) // what the first one left is in nobody's way
		})
	}
}

func TestEachLiarIsFound(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	for i, liar := range storetest.Liars() {
		t.Run(liar.Name, func(t *testing.T) {
			b := lockedBucket(t, g, "liar-"+string(rune('a'+i)))
			p := storetest.StartProxy(t, g)
			lies, honest := liar.Choose(), storetest.Capped(lockCap+24*time.Hour)
			p.Inject(func(r *storetest.Request) storetest.Fault {
				if f := lies(r); f != nil {
					return f
				}
				return honest(r)
			})
			r := probe(t, openLocking(t, b.Write.As(p.Config(b.Name)), b.Lock(liar.Mode)))
			ok, bad := r.Immutable()
			if ok || !strings.HasPrefix(bad[0].Step, liar.Step) {
				t.Errorf("want it found at %q, got %+v", liar.Step, bad)
			}
		})
	}
}

// Credentials that may do everything are no separate roles.
func TestAProbeFindsCredentialsThatMayTooMuch(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	b := g.CreateLockedBucket(t, "root")
	r := probe(t, openLocking(t, g.Config(b.Name), s3.LockConfig{Mode: store.Governance}))
	ok, bad := r.Immutable()
	if ok || bad[0].Step != `delete the version as "write", bypassing governance` {
		t.Errorf("%v, %+v", ok, bad)
	}
}

// A bucket without a lock cannot be made to look like one that has it.
func TestABucketWithoutALockIsNotImmutable(t *testing.T) {
	g := storetest.StartGateway(t)
	r := probe(t, openLocking(t, g.CreateBucket(t, "plain"), s3.LockConfig{Mode: store.Compliance}))
	if ok, bad := r.Immutable(); ok || len(bad) != 2 || bad[0].Step != "keep versions" || bad[1].Step != "lock" {
		t.Errorf("%v, %+v", ok, bad)
	}
}
