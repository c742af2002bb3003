package job

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/config"
	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// lockedSite is a site with two directories and a bucket that locks, and
// returns its configuration too.
func lockedSite(t *testing.T, g *storetest.Gateway, bucket string) (*Site, string, *storetest.LockedBucket) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("state_dir = %q\n", filepath.Join(dir, "state"))
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", name, filepath.Join(dir, name))
	}
	b := newLockedBucket(t, g, bucket)
	text += bucketText(t, dir, g, b)
	text += "[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n[[tenant.dataset]]\nname = \"crm\"\nsource = \"command\"\ncommand = [\"/bin/echo\", \"rows\"]\n"
	c := parsed(t, text)
	if _, err := Init(t.Context(), c, InitOptions{SharesDir: filepath.Join(dir, "shares"), Now: time.Now()}, t.Logf); err != nil {
		t.Fatal(err)
	}
	return siteOf(t, c), text, b
}

func newLockedBucket(t *testing.T, g *storetest.Gateway, bucket string) *storetest.LockedBucket {
	t.Helper()
	b := g.CreateLockedBucket(t, bucket)
	policy, err := s3.Policy(bucket, "", s3.Roles{Write: b.Write.AccessKey, Extend: b.Extend.AccessKey, Delete: b.Delete.AccessKey}, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.SetPolicy(t, string(policy))
	return b
}

func bucketText(t *testing.T, dir string, g *storetest.Gateway, b *storetest.LockedBucket) string {
	t.Helper()
	text := fmt.Sprintf("[[store]]\nname = \"offsite\"\nkind = \"s3\"\nendpoint = %q\nbucket = %q\npatience = \"5s\"\nlock = \"governance\"\n", g.Endpoint, b.Name)
	for prefix, u := range map[string]storetest.User{"": b.Write, "extend_": b.Extend} {
		for file, line := range map[string]string{"access_key": u.AccessKey, "secret_key": u.Plain} {
			path := filepath.Join(dir, b.Name+prefix+file)
			if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
			text += fmt.Sprintf("%s%s_file = %q\n", prefix, file, path)
		}
	}
	return text
}

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse("c.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func siteOf(t *testing.T, c *config.Config) *Site {
	t.Helper()
	s, err := OpenSite(c, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// in returns a clock that is so much ahead.
func in(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }

func checked40(t *testing.T, s *Site, later time.Duration) []string {
	t.Helper()
	r, err := s.Check(t.Context(), CheckOptions{Now: in(later)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Problems
}

func TestACheckFindsLocksThatNobodyExtends(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	s, _, bucket := lockedSite(t, g, "locked")
	mustBackup(t, s)
	if p := checked40(t, s, 20*day); len(p) > 0 {
		t.Errorf("with 15 days left: %v", p)
	}
	// 40 % of 35 days are 14.
	p := checked40(t, s, 21*day+time.Hour)
	if len(p) != 1 || !strings.Contains(p[0], `store "offsite": of `) || !strings.Contains(p[0], "less than 40 % left of their lock of 35 days") {
		t.Errorf("with less than 14 days left: %v", p)
	}
	all, err := s.ExtendLocks(t.Context(), LockOptions{Now: in(22 * day)})
	if err != nil || len(all) != 2 || len(all[0].Problems) > 0 || all[0].Stores[0].Due != all[0].Stores[0].Objects || all[0].Stores[0].Percent < 99 {
		t.Fatalf("extended: %+v, %v", all, err)
	}
	if p := checked40(t, s, 22*day); len(p) > 0 {
		t.Errorf("after that: %v", p)
	}
	// What the box believes is not enough: some are asked for.
	l, _, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	var key string
	for _, o := range l.Needs(nil) {
		if o.Member == 2 {
			key = o.Key
		}
	}
	bucket.Unlock(t, key)
	if p := checked40(t, s, 22*day); len(p) != 1 || !strings.Contains(p[0], key) {
		t.Errorf("with an object unlocked: %v", p)
	}
	if all, err := s.ExtendLocks(t.Context(), LockOptions{Now: in(22 * day)}); err != nil || all[0].Stores[0].Due != 1 {
		t.Errorf("extended: %+v, %v", all, err)
	}
	if p := checked40(t, s, 22*day); len(p) > 0 {
		t.Errorf("after that: %v", p)
	}
}

func TestACheckFindsWhatSomebodyWroteOver(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	s, _, bucket := lockedSite(t, g, "locked")
	mustBackup(t, s)
	if p := checked40(t, s, 0); len(p) > 0 {
		t.Fatal(p)
	}
	l, _, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range l.Needs(nil) {
		if o.Member == 2 {
			keys = append(keys, o.Key)
		}
	}
	bucket.Overwrite(t, keys[0], "garbage")
	bucket.Hide(t, keys[1])
	p := strings.Join(checked40(t, s, 0), "\n")
	for _, want := range []string{keys[0] + " has 2 versions: somebody wrote over it", keys[1] + " is hidden behind a delete marker"} {
		if !strings.Contains(p, want) {
			t.Errorf("%q is not in:\n%s", want, p)
		}
	}
}

// A store in another's place has objects of the same names, and none of the
// locks that the box remembers.
func TestAReplacedStoreIsLocked(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	s, text, old := lockedSite(t, g, "first")
	mustBackup(t, s)
	mustBackup(t, s)
	s.Close()
	fresh := newLockedBucket(t, g, "second")
	i, j := strings.Index(text, "[[store]]\nname = \"offsite\""), strings.Index(text, "[[tenant]]")
	s = siteOf(t, parsed(t, text[:i]+bucketText(t, t.TempDir(), g, fresh)+text[j:]))
	r, err := s.FillStore(t.Context(), "offsite", RepairOptions{})
	if err != nil || !r.Whole() || len(r.Acts) == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	all, err := s.Locks(t.Context(), LockOptions{})
	if err != nil || len(all) != 2 || len(all[0].Stores) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if st := all[0].Stores[0]; st.Objects < 4 || st.Short > 0 || st.Percent < 99 {
		t.Errorf("on %s, after %s: %+v", fresh.Name, old.Name, st)
	}
}

func TestAFindingAboutALockGetsStale(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := &LockFinding{Store: "offsite", Time: now, LockReport: store.LockReport{Mode: store.Compliance, Steps: []store.LockStep{{Step: "lock", OK: true, Found: "yes"}, {Step: "skip", Skipped: "why"}}}}
	if got := f.State(now.Add(7 * day)); got != "immutable (compliance), probed 2026-03-01 12:00Z" {
		t.Error(got)
	}
	if got := f.State(now.Add(7*day + time.Minute)); !strings.Contains(got, "stale after 7 days") {
		t.Error(got)
	}
	f.Steps[0].OK, f.Steps[0].Found = false, "no"
	if got := f.State(now); !strings.HasPrefix(got, "NOT IMMUTABLE: lock: no, probed") {
		t.Error(got)
	}
	if got := (*LockFinding)(nil).State(now); !strings.Contains(got, "never probed") {
		t.Error(got)
	}
}

// A bucket that is somewhere else now is another bucket.
func TestAFindingIsOfOnePlace(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{Versions: true})
	s, text, _ := lockedSite(t, g, "locked")
	if f, err := ReadLockFinding(s.Config, s.Config.Stores[2]); err != nil || f == nil || len(f.Steps) < 10 {
		t.Fatalf("init kept %+v, %v", f, err)
	}
	c := parsed(t, strings.Replace(text, `bucket = "locked"`, `bucket = "another"`, 1))
	if f, err := ReadLockFinding(c, c.Stores[2]); err != nil || f != nil {
		t.Errorf("%+v, %v", f, err)
	}
}
