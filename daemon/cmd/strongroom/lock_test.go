package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// lockedStore makes a bucket that locks, with three users and a policy that the
// program itself prints, and returns its part of the configuration.
func lockedStore(t *testing.T, g *storetest.Gateway, name, mode string) (string, *storetest.LockedBucket) {
	t.Helper()
	bucket := g.CreateLockedBucket(t, name)
	dir := t.TempDir()
	text := fmt.Sprintf("[[store]]\nname = %q\nkind = \"s3\"\nendpoint = %q\nbucket = %q\npatience = \"5s\"\nlock = %q\n", name, g.Endpoint, name, mode)
	for prefix, u := range map[string]storetest.User{"": bucket.Write, "extend_": bucket.Extend, "delete_": bucket.Delete} {
		for file, line := range map[string]string{"access_key": u.AccessKey, "secret_key": u.Plain} {
			path := filepath.Join(dir, prefix+file)
			if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf("%s%s_file = %q\n", prefix, file, path)
		}
	}
	return text, bucket
}

func TestAStoreThatLocksKeepsWhatSnapshotsNeed(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	one, _ := dirStore(t, "one")
	two, _ := dirStore(t, "two")
	text, bucket := lockedStore(t, g, "offsite", "governance")
	b := newBox(t, one+two+text, commandDataset("dump", program(t, "generate"), "3000000"))
	bucket.SetPolicy(t, b.run(0, "store", "policy", "offsite", "--no-conditions").stdout)

	// The policy of a real service bounds locks, which this server cannot.
	o := b.run(0, "init", "--shares-dir", b.path("shares"))
	if !strings.Contains(o.stderr, `store "offsite": NOT IMMUTABLE: lock for more than 70 days`) || strings.Contains(o.stderr, "delete the version") {
		t.Errorf("init says: %s", o.stderr)
	}
	o = b.run(3, "store", "test", "--lock")
	if strings.Count(o.stdout, "FAILED") != 1 || !strings.Contains(o.stdout, `FAILED  lock for more than 70 days as "extend"`) || !strings.Contains(o.stdout, "stays: ") {
		t.Error(o.stdout)
	}
	b.run(0, "store", "test")
	b.run(0, "backup", "acme/dump")
	o = b.run(0, "check")
	if !strings.Contains(o.stdout, `acme on "offsite": `) || !strings.Contains(o.stdout, "99 % of the window") && !strings.Contains(o.stdout, "100 % of the window") || !strings.Contains(o.stdout, "NOT IMMUTABLE") {
		t.Error(o.stdout)
	}
	o = b.run(0, "lock", "list")
	if !strings.Contains(o.stdout, "0 due to be locked again") {
		t.Error(o.stdout)
	}

	// All that the box has cannot delete what it needs, whoever took it.
	c := bucket.Write.As(g.Config(bucket.Name))
	plain := openStore(t, c)
	n := 0
	for info, err := range plain.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(info.Key, "/") < 2 {
			continue
		}
		n++
		for who, u := range map[string]storetest.User{"write": bucket.Write, "extend": bucket.Extend, "delete": bucket.Delete} {
			if err := openStore(t, u.As(g.Config(bucket.Name))).Delete(t.Context(), info.Key); err == nil {
				t.Errorf("%s deleted %s", who, info.Key)
			}
		}
	}
	if n < 2 {
		t.Fatalf("%d objects", n)
	}
	// What no snapshot needs is not locked.
	orphan := "ab/cd/s-orphan"
	if err := plain.Put(t.Context(), orphan, []byte("x"), sha256.Sum256([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	b.run(0, "lock", "extend")
	if err := openStore(t, bucket.Delete.As(g.Config(bucket.Name))).Delete(t.Context(), orphan); err != nil {
		t.Errorf("an orphan: %v", err)
	}
	b.run(0, "check", "--read-data")

	// The credential that extends is taken back: backups go on, and say so.
	wrong := b.write("wrong.key", "not-the-secret-key")
	b.edit(t, "extend_secret_key_file = \"", "extend_secret_key_file = \""+wrong+"\" #")
	o = b.run(3, "backup", "acme/dump")
	if !strings.Contains(o.stdout, "complete; not locked on offsite") || !strings.Contains(o.stdout, "NOT LOCKED: ") {
		t.Error(o.stdout)
	}
	if o = b.run(21, "lock", "extend"); !strings.Contains(o.stdout, "PROBLEM") {
		t.Error(o.stdout)
	}
	b.edit(t, wrong+"\" #", "")
	if o = b.run(0, "lock", "extend", "--dry-run"); strings.Contains(o.stdout, " 0 to be locked") {
		t.Errorf("dry run: %s", o.stdout)
	}
	b.run(0, "lock", "extend", "acme/dump")
	if o = b.run(0, "lock", "extend", "--json"); !strings.Contains(o.stdout, `"due":0`) {
		t.Errorf("a repeated run: %s", o.stdout)
	}
	b.run(0, "check")
}

func openStore(t *testing.T, c s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// edit replaces a text in the configuration.
func (b *testBox) edit(t *testing.T, old, new string) {
	t.Helper()
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("the configuration has no %q", old)
	}
	b.write("c.toml", strings.Replace(string(text), old, new, 1))
}

// What is expired goes from the stores that do not lock, and from the one that
// does when its locks are over: until then that is no failure.
func TestExpiryWaitsForLocks(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	one, _ := dirStore(t, "one")
	text, bucket := lockedStore(t, g, "offsite", "compliance")
	b := newBox(t, one+text, commandDataset("dump", "/bin/echo", "some rows")+"[tenant.dataset.keep]\nlast = 1\ngrace = \"0h\"\n")
	b.edit(t, "confidential", "top-secret") // five snapshots a generation, 90 days
	bucket.SetPolicy(t, b.run(0, "store", "policy", "offsite", "--no-conditions").stdout)
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for range 8 {
		b.run(0, "backup", "acme/dump")
	}
	b.run(0, "expire", "acme/dump")
	dry := b.run(0, "expire", "acme/dump", "--dry-run")
	o := b.run(0, "expire", "acme/dump")
	if o.stdout != dry.stdout {
		t.Errorf("the dry run said %s, the real one %s", dry.stdout, o.stdout)
	}
	until := time.Now().Add(90 * 24 * time.Hour).UTC().Format("2006-01-")
	if !strings.Contains(o.stdout, `from "one"; 0 are left`) || strings.Contains(o.stdout, `from "offsite"`) || !strings.Contains(o.stdout, "waiting: generation 1, objects on offsite: they are locked, until "+until) {
		t.Errorf("it says %s", o.stdout)
	}
	manifests, err := filepath.Glob(filepath.Join(g.Backend, "offsite", "*", "*", "m-*"))
	if err != nil || len(manifests) != 8 {
		t.Errorf("%d manifests are there, %v", len(manifests), err)
	}
	b.run(0, "check")
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
}

// Before a service that bounds locks, as Amazon does by the policy, all steps
// hold; before one that lies the store is shown for what it is.
func TestAProbeSaysWhatALockIsWorth(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	p := storetest.StartProxy(t, g)
	honest := storetest.Capped(71 * 24 * time.Hour)
	p.Inject(honest)
	one, _ := dirStore(t, "one")
	text, bucket := lockedStore(t, g, "offsite", "governance")
	text = strings.Replace(text, g.Endpoint, p.Config("offsite").Endpoint, 1)
	b := newBox(t, one+text, commandDataset("dump", "/bin/echo", "rows"))
	bucket.SetPolicy(t, b.run(0, "store", "policy", "offsite", "--no-conditions").stdout)
	if o := b.run(0, "init", "--shares-dir", b.path("shares")); !strings.Contains(o.stderr, `store "offsite": immutable (governance), probed`) {
		t.Error(o.stderr)
	}
	b.run(0, "store", "test", "--lock", "offsite")
	b.run(64, "store", "test", "--lock", "one")
	b.run(64, "store", "test", "--lock", "nowhere")
	b.run(0, "backup", "acme/dump")
	if o := b.run(0, "check", "--json"); !strings.Contains(o.stdout, `"immutable":[{"store":"offsite","immutable":true`) {
		t.Error(o.stdout)
	}
	liar := storetest.Liars()[2]
	lies := liar.Choose()
	p.Inject(func(r *storetest.Request) storetest.Fault {
		if f := lies(r); f != nil {
			return f
		}
		return honest(r)
	})
	if o := b.run(3, "store", "test", "--lock", "--json"); !strings.Contains(o.stdout, `"immutable":false`) {
		t.Error(o.stdout)
	}
	p.Inject(honest)
	if o := b.run(0, "store", "test"); !strings.Contains(o.stdout, "NOT IMMUTABLE: "+liar.Step) {
		t.Error(o.stdout)
	}
	if o := b.run(0, "check"); !strings.Contains(o.stdout, `store "offsite": NOT IMMUTABLE`) {
		t.Error(o.stdout)
	}
	// The printed policy names what it denies, and what is put on a bucket is
	// nothing but JSON.
	o := b.run(0, "store", "policy", "offsite", "--write", "arn:aws:iam::123456789012:user/w")
	if !json.Valid([]byte(o.stdout)) || !strings.Contains(o.stdout, "arn:aws:iam::123456789012:user/w") || !strings.Contains(o.stdout, `"s3:object-lock-remaining-retention-days": "70"`) {
		t.Error(o.stdout)
	}
	b.run(64, "store", "policy", "one")
	b.run(64, "store", "policy", "offsite", "--delete", "x", "--write", "x")
}
