package s3_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// lockedBucket makes a bucket with the policy that we print, as far as
// versitygw knows policies.
func lockedBucket(t *testing.T, g *storetest.Gateway, name string) *storetest.LockedBucket {
	t.Helper()
	b := g.CreateLockedBucket(t, name)
	policy, err := s3.Policy(name, "", s3.Roles{Write: b.Write.AccessKey, Extend: b.Extend.AccessKey, Delete: b.Delete.AccessKey}, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.SetPolicy(t, string(policy))
	return b
}

func openLocking(t *testing.T, c s3.Config, l s3.LockConfig) *s3.Locking {
	t.Helper()
	s, err := s3.OpenLocking(c, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s store.Store, key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(body), sha256.Sum256([]byte(body))); err != nil {
		t.Fatal(err)
	}
}

// The suite that every store must pass, in a bucket with versions and locks and
// with credentials that may not delete.
func TestConformanceInALockedBucket(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		b := lockedBucket(t, g, "locked-"+string(rune('a'+n/26))+string(rune('a'+n%26)))
		return threeRoles{openLocking(t, b.Write.As(g.Config(b.Name)), b.Lock(store.Governance)), open(t, b.Delete.As(g.Config(b.Name)))}
	})
}

// threeRoles deletes with the credentials that may.
type threeRoles struct {
	*s3.Locking
	deleter *s3.Store
}

func (s threeRoles) Delete(ctx context.Context, key string) error { return s.deleter.Delete(ctx, key) }

func TestALockKeepsAnObjectUntilItsTime(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	for _, mode := range []store.LockMode{store.Governance, store.Compliance} {
		t.Run(string(mode), func(t *testing.T) {
			b := lockedBucket(t, g, string(mode))
			s := openLocking(t, b.Write.As(g.Config(b.Name)), b.Lock(mode))
			deleter := open(t, b.Delete.As(g.Config(b.Name)))
			put(t, s, "a/b", "an object")
			if r, err := s.Retained(t.Context(), "a/b"); err != nil || !r.Until.IsZero() {
				t.Fatalf("before: %+v, %v", r, err)
			}
			if err := s.Lock(t.Context(), "a/none", time.Now().Add(time.Hour)); !errors.Is(err, store.ErrNotExist) {
				t.Errorf("lock of nothing: %v", err)
			}
			until := time.Now().Add(3 * time.Second).UTC().Truncate(time.Second)
			lock := func(until time.Time) {
				t.Helper()
				if err := s.Lock(t.Context(), "a/b", until); err != nil {
					t.Fatal(err)
				}
			}
			lock(until)
			lock(until.Add(-2 * time.Second)) // never shortens
			if r, err := s.Retained(t.Context(), "a/b"); err != nil || !r.Until.Equal(until) || r.Mode != mode {
				t.Fatalf("locked: %+v, %v; want until %v", r, err, until)
			}
			err := deleter.Delete(t.Context(), "a/b")
			var locked *store.LockedError
			if !errors.As(err, &locked) || !locked.Until.Equal(until) {
				t.Fatalf("delete of what is locked: %v", err)
			}
			if err := s.Delete(t.Context(), "a/b"); err == nil || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("delete with what writes: %v", err)
			}
			if _, err := s.Stat(t.Context(), "a/b"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Until(until) + 1100*time.Millisecond)
			if err := deleter.Delete(t.Context(), "a/b"); err != nil {
				t.Errorf("delete after its time: %v", err)
			}
			if _, err := s.Stat(t.Context(), "a/b"); !errors.Is(err, store.ErrNotExist) {
				t.Errorf("after that: %v", err)
			}
		})
	}
}

// A lock has a date, so a clock that is wrong would make it last for years.
func TestNothingIsLockedByAClockThatIsWrong(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	b := lockedBucket(t, g, "locked")
	p := storetest.StartProxy(t, g)
	s := openLocking(t, b.Write.As(p.Config(b.Name)), b.Lock(store.Compliance))
	put(t, s, "a/b", "an object")
	p.Inject(func(*storetest.Request) storetest.Fault { return storetest.Dated(time.Now().Add(-26 * time.Hour)) })
	err := s.Lock(t.Context(), "a/b", time.Now().Add(time.Hour))
	if !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "26h0m") {
		t.Errorf("lock: %v", err)
	}
	p.Inject(nil)
	if r, err := s.Retained(t.Context(), "a/b"); err != nil || !r.Until.IsZero() {
		t.Errorf("retained: %+v, %v", r, err)
	}
}

// Who has the credential that writes can put other bytes over a name. The
// version below it is kept as long as the one on top, and it is told.
func TestWhatLiesBelowAnotherVersionIsKept(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	b := lockedBucket(t, g, "locked")
	c := b.Write.As(g.Config(b.Name))
	c.Prefix = "pre/"
	s := openLocking(t, c, b.Lock(store.Governance))
	for _, key := range []string{"a/1", "a/2", "a/3", "b/1"} {
		put(t, s, key, "an object")
	}
	soon := time.Now().Add(2 * time.Second)
	if err := s.Lock(t.Context(), "a/2", soon); err != nil {
		t.Fatal(err)
	}
	old := b.Overwrite(t, "pre/a/2", "garbage")
	b.Hide(t, "pre/a/3")
	b.Hide(t, "pre/b/1")
	var got []store.History
	for h, err := range s.Overwritten(t.Context(), "a/") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h)
	}
	if want := []store.History{{Key: "a/2", Versions: 2}, {Key: "a/3", Versions: 1, Hidden: true}}; !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	if err := s.Lock(t.Context(), "a/2", until); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Retained(t.Context(), "a/2"); err != nil || !r.Until.Equal(until) {
		t.Errorf("on top: %+v, %v", r, err)
	}
	time.Sleep(time.Until(soon) + 1100*time.Millisecond)
	if b.CanDelete(t, "pre/a/2", old) {
		t.Error("what lies below can be deleted")
	}
}

func TestALockIsSetOverABadNetwork(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	b := lockedBucket(t, g, "locked")
	p := storetest.StartProxy(t, g)
	c := b.Write.As(p.Config(b.Name))
	c.Sleep = func(context.Context, time.Duration) error { return nil }
	s := openLocking(t, c, b.Lock(store.Governance))
	for name, fault := range map[string]storetest.Fault{"reply lost": storetest.DropReply, "request lost": storetest.DropRequest,
		"busy": storetest.Refuse(503, "SlowDown", "slow down"), "broken": storetest.Refuse(500, "InternalError", "try again")} {
		key := "a/" + strings.ReplaceAll(name, " ", "-")
		put(t, s, key, "an object")
		met := 0
		p.Inject(func(r *storetest.Request) storetest.Fault {
			if r.URL.Query().Has("retention") && r.Nth <= 2 {
				met++
				return fault
			}
			return nil
		})
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		if err := s.Lock(t.Context(), key, until); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p.Inject(nil)
		if r, err := s.Retained(t.Context(), key); err != nil || !r.Until.Equal(until) || met < 3 {
			t.Errorf("%s: %+v, %v after %d faults", name, r, err, met)
		}
	}
}
