package s3_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// What the policy is for, written down apart from it: role and action, "" is
// everybody.
var denied = map[string][]string{
	"w": {"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutBucketPolicy", "s3:PutObjectRetention"},
	"e": {"s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutBucketPolicy", "s3:PutObject"},
	"d": {"s3:BypassGovernanceRetention", "s3:PutObjectRetention", "s3:PutObject"},
}

type parsedPolicy struct {
	Statement []struct {
		Effect    string
		Principal any
		Action    []string
		Resource  []string
		Condition map[string]map[string]string
	}
}

func TestThePolicyDeniesWhatItIsFor(t *testing.T) {
	raw, err := s3.Policy("bucket", "pre/", s3.Roles{Write: "w", Extend: "e", Delete: "d"}, 70)
	if err != nil {
		t.Fatal(err)
	}
	var p parsedPolicy
	if err := json.Unmarshal(raw, &p); err != nil {
		t.Fatal(err)
	}
	capped := false
	got := map[string][]string{}
	for _, s := range p.Statement {
		text, _ := json.Marshal(s.Principal)
		switch {
		case s.Effect == "Deny" && s.Condition == nil:
			for _, who := range []string{"w", "e", "d"} {
				if strings.Contains(string(text), `"`+who+`"`) {
					got[who] = append(got[who], s.Action...)
				}
			}
		case s.Effect == "Deny" && string(text) == `"*"`:
			capped = slices.Contains(s.Action, "s3:PutObjectRetention") && s.Condition["NumericGreaterThan"]["s3:object-lock-remaining-retention-days"] == "70"
		}
	}
	for who, actions := range denied {
		for _, a := range actions {
			if !slices.Contains(got[who], a) {
				t.Errorf("%s is not denied to %q", a, who)
			}
		}
	}
	if !capped {
		t.Error("nobody keeps anybody from locking for longer")
	}
	if _, err := s3.Policy("bucket", "", s3.Roles{Write: "w", Delete: "w"}, 70); err == nil {
		t.Error("one credential that writes and deletes was taken")
	}
}

// versitygw enforces all of it but the conditions, which it does not take.
func TestARealServerEnforcesThePolicy(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	b := lockedBucket(t, g, "locked")
	c := g.Config(b.Name)
	writer := openLocking(t, b.Write.As(c), b.Lock(store.Governance))
	put(t, writer, "a/b", "an object")
	as := func(u storetest.User) *s3.Locking {
		return openLocking(t, u.As(c), s3.LockConfig{Mode: store.Governance})
	}
	until := time.Now().Add(time.Minute)
	for _, tc := range []struct {
		what string
		do   func() error
		may  bool
	}{
		{"the extender locks", func() error { return as(b.Extend).Lock(t.Context(), "a/b", until) }, true},
		{"the writer locks", func() error { return as(b.Write).Lock(t.Context(), "a/b", until.Add(time.Minute)) }, false},
		{"the deleter locks", func() error { return as(b.Delete).Lock(t.Context(), "a/b", until.Add(time.Minute)) }, false},
		{"the extender writes", func() error { return storetest.Put(as(b.Extend), "c", []byte("c")) }, false},
		{"the deleter writes", func() error { return storetest.Put(as(b.Delete), "c", []byte("c")) }, false},
		{"the writer writes", func() error { return storetest.Put(as(b.Write), "c", []byte("c")) }, true},
		{"the writer deletes", func() error { return as(b.Write).Delete(t.Context(), "c") }, false},
		{"the extender deletes", func() error { return as(b.Extend).Delete(t.Context(), "c") }, false},
		{"the deleter deletes", func() error { return as(b.Delete).Delete(t.Context(), "c") }, true},
		{"the deleter deletes what is locked", func() error { return as(b.Delete).Delete(t.Context(), "a/b") }, false},
	} {
		if err := tc.do(); (err == nil) != tc.may {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}
