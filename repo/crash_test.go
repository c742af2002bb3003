package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/dir"
)

// fixedKeys knows the key of every generation, in every process.
type fixedKeys struct{}

func (fixedKeys) Generation(_, _, g ID) (Secret, error) {
	return testKey(sha256.Sum256(append([]byte("key of "), g[:]...))), nil
}
func (k fixedKeys) New(t, d, g ID) (Secret, error) { return k.Generation(t, d, g) }
func (fixedKeys) Capsule(_, _, g ID) ([]byte, error) {
	return append([]byte("capsule of "), g[:]...), nil
}

// A fuse kills the process at one operation of any store or of the spool.
type fuse struct {
	at    int64 // which, from 1; 0: never
	after bool  // when it was done
	seen  atomic.Int64
}

func (f *fuse) burn(n int64, after bool) {
	if n == f.at && after == f.after {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

// around runs an operation and counts it.
func (f *fuse) around(op func()) {
	n := f.seen.Add(1)
	f.burn(n, false)
	op()
	f.burn(n, true)
}

// fused is a store with a fuse on each operation.
type fused struct {
	store.Store
	f *fuse
}

func (s fused) Put(ctx context.Context, key string, body []byte, sum [32]byte) (err error) {
	s.f.around(func() { err = s.Store.Put(ctx, key, body, sum) })
	return err
}

func (s fused) Get(ctx context.Context, key string, off, n int64) (rc io.ReadCloser, err error) {
	s.f.around(func() { rc, err = s.Store.Get(ctx, key, off, n) })
	return rc, err
}

func (s fused) Stat(ctx context.Context, key string) (i store.Info, err error) {
	s.f.around(func() { i, err = s.Store.Stat(ctx, key) })
	return i, err
}

func (s fused) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		s.f.around(func() { s.Store.List(ctx, prefix)(yield) })
	}
}

// openCrashWorld is a world at a place on disk, as each process sees it.
func openCrashWorld(t *testing.T, base string, f *fuse) *world {
	t.Helper()
	w := &world{t: t, signer: newTestSigner(1), state: filepath.Join(base, "state"), inc: 1, per: 26, small: 256 << 10, clock: time.Now()}
	w.r = &Repo{Tenant: ID{7}, Catalogue: testKey{8}, Trust: w.signer.trust}
	for i := range 3 {
		d := filepath.Join(base, fmt.Sprintf("store%d", i))
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := dir.Open(dir.Config{Path: d})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		w.dirs = append(w.dirs, d)
		w.r.Members = append(w.r.Members, spread.Member{Name: fmt.Sprintf("store%d", i), Store: fused{s, f}})
	}
	spool, err := OpenSpool(filepath.Join(w.state, "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	spool.Store = fused{spool.Store, f}
	w.keep = spool
	return w
}

// crashWeek is what a week's stream is; each has several packs.
func crashWeek(n int) namedBytes {
	data := random(3<<20, 1)
	if n == 2 {
		copy(data[1<<20:], random(1800<<10, 2))
	}
	return namedBytes{"a", data}
}

func (w *world) crashSave(week int) (*Saved, error) {
	ctx := context.Background()
	c := w.config()
	c.Keys = fixedKeys{}
	s, err := w.r.Begin(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := s.Add(ctx, StreamSpec{Name: "a"}, bytes.NewReader(crashWeek(week).data)); err != nil {
		return nil, errors.Join(err)
	}
	return s.Commit(ctx, Commit{})
}

// TestCrashHelper is the process that is killed; by itself it does nothing.
func TestCrashHelper(t *testing.T) {
	base := os.Getenv("STRONGROOM_CRASH_DIR")
	if base == "" {
		t.Skip("runs in a process of its own, started by the tests of crashes")
	}
	week, _ := strconv.Atoi(os.Getenv("STRONGROOM_CRASH_WEEK"))
	at, _ := strconv.ParseInt(os.Getenv("STRONGROOM_CRASH_AT"), 10, 64)
	f := &fuse{at: at, after: os.Getenv("STRONGROOM_CRASH_AFTER") != ""}
	w := openCrashWorld(t, base, f)
	if d, err := time.ParseDuration(os.Getenv("STRONGROOM_CRASH_IN")); err == nil {
		time.AfterFunc(d, func() { syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	}
	if _, err := w.crashSave(week); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("operations %d\n", f.seen.Load())
}

// runHelper runs a backup in a process of its own. It returns how many
// operations it had, or killed.
func runHelper(t *testing.T, base string, week int, env ...string) (operations int, killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$")
	cmd.Env = append(os.Environ(), append(env, "STRONGROOM_CRASH_DIR="+base, fmt.Sprintf("STRONGROOM_CRASH_WEEK=%d", week))...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return 0, true
	}
	if err != nil {
		t.Fatalf("the backup failed: %v\n%s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "operations ")
	if _, err := fmt.Sscan(rest, &operations); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return operations, false
}

// template is a directory with n weeks in it.
func crashTemplate(t *testing.T, weeks int) string {
	t.Helper()
	base := fastDir(t)
	openCrashWorld(t, base, &fuse{})
	for n := 1; n <= weeks; n++ {
		runHelper(t, base, n)
	}
	return base
}

// A backup is killed before and after each operation on a store or the spool:
// the next one succeeds, what was committed restores, nothing is half-listed.
func TestCrashAtAnyOperation(t *testing.T) {
	every := faultsEverywhere(t)
	for week := 1; week <= 2; week++ {
		t.Run(fmt.Sprintf("week %d", week), func(t *testing.T) {
			template := crashTemplate(t, week-1)
			dry := copyDir(t, template)
			total, _ := runHelper(t, dry, week)
			adopted, kills := 0, 0
			for n := 1; n <= total; n++ {
				// The operations about the manifest are the last ones.
				late := n > total-6 && (n%2 == 0 || !testing.Short())
				if !every && n%5 != 0 && !late {
					continue
				}
				for _, after := range []string{"", "1"} {
					if !every && (!late || testing.Short()) && (after == "") == (n%3 == 0) {
						continue
					}
					base := copyDir(t, template)
					if _, killed := runHelper(t, base, week, fmt.Sprintf("STRONGROOM_CRASH_AT=%d", n), "STRONGROOM_CRASH_AFTER="+after); killed {
						kills++
					}
					when := fmt.Sprintf("killed at operation %d of %d (after: %q)", n, total, after)
					if checkAfterCrash(t, base, week, n%2 == 0, when) {
						adopted++
					}
					os.RemoveAll(base)
				}
			}
			t.Logf("%d operations, %d kills, %d times packs were adopted", total, kills, adopted)
			if kills == 0 || adopted == 0 {
				t.Errorf("%d kills, packs were adopted %d times", kills, adopted)
			}
		})
	}
}

// A backup is killed at any time, between operations too.
func TestCrashAtAnyTime(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	if faultsEverywhere(t) {
		rounds = 150
	}
	template := crashTemplate(t, 1)
	start := time.Now()
	runHelper(t, copyDir(t, template), 2)
	whole := time.Since(start)
	for n := range rounds {
		base := copyDir(t, template)
		in := whole * time.Duration(n) / time.Duration(rounds)
		_, killed := runHelper(t, base, 2, "STRONGROOM_CRASH_IN="+in.String())
		checkAfterCrash(t, base, 2, n%3 == 0, fmt.Sprintf("killed after %v (%v)", in, killed))
		os.RemoveAll(base)
	}
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := fastDir(t)
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// checkAfterCrash looks at what a killed backup of a week left, runs it again,
// and reports whether that had less to store than a whole one.
func checkAfterCrash(t *testing.T, base string, week int, deleteOrphans bool, when string) (adopted bool) {
	t.Helper()
	w := openCrashWorld(t, base, &fuse{})
	listed := w.crashRestore(when)
	if listed < week-1 || listed > week {
		t.Fatalf("%s: %d snapshots are listed", when, listed)
	}
	if deleteOrphans {
		w.deleteOrphans()
	}
	saved, err := w.crashSave(week)
	if err != nil {
		t.Fatalf("%s: the next backup: %v", when, err)
	}
	if saved.State() != "complete" {
		t.Errorf("%s: the next backup is %s: %v", when, saved.State(), saved.Failures)
	}
	if got := w.crashRestore(when + ", then again"); got < week || got > week+1 {
		t.Errorf("%s: then %d snapshots are listed", when, got)
	}
	w.mustBeWhole(when)
	if left, _ := filepath.Glob(filepath.Join(w.state, "*.runs")); len(left) > 0 {
		t.Errorf("%s: %v are left", when, left)
	}
	whole := map[int]int64{1: 3 << 20, 2: 1800 << 10}[week]
	return saved.Catalogue.New < whole && saved.Sequence == uint32(week)
}

// crashRestore restores every snapshot that is listed, and returns how many.
func (w *world) crashRestore(when string) int {
	w.t.Helper()
	ctx := context.Background()
	l := w.list()
	if len(l.Problems) > 0 {
		w.t.Errorf("%s: problems %q", when, l.texts())
	}
	for n, s := range l.Snapshots {
		key, _ := fixedKeys{}.Generation(ID{}, ID{}, s.Generation)
		o, err := l.Open(ctx, s, key)
		if err != nil {
			w.t.Errorf("%s: snapshot %d: %v", when, n+1, err)
			continue
		}
		r, err := o.Read(ctx, "a", 0, -1)
		if err != nil {
			w.t.Error(err)
			continue
		}
		got, err := io.ReadAll(r)
		r.Close()
		if want := crashWeek(min(n+1, 2)).data; err != nil || !bytes.Equal(got, want) && !bytes.Equal(got, crashWeek(1).data) {
			w.t.Errorf("%s: snapshot %d differs: %v", when, n+1, err)
		}
	}
	return len(l.Snapshots)
}

// deleteOrphans removes what no manifest lists, as the deleter of orphans does.
func (w *world) deleteOrphans() {
	w.t.Helper()
	known := map[string]bool{}
	for _, from := range append([]string{filepath.Join(w.state, "spool")}, w.dirs...) {
		found, _ := filepath.Glob(filepath.Join(from, w.r.Tenant.String(), "*", "m-*"))
		for _, f := range found {
			key, _ := filepath.Rel(from, f)
			m, err := w.r.parse(key, readFile(w.t, f))
			if err != nil {
				w.t.Error(err)
				continue
			}
			for _, p := range m.Packs {
				known[p.ID.String()] = true
			}
		}
	}
	for i := range w.dirs {
		for _, f := range w.objects(i, "s-") {
			if !known[strings.Split(filepath.Base(f), "-")[1]] {
				os.Remove(f)
			}
		}
	}
}
