package expire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo"
	"strongroom/repo/retain"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/storetest"
)

type testKey [32]byte

func (k testKey) Derive(info []byte, n int) ([]byte, error) {
	return hkdf.Key(sha512.New384, k[:], nil, string(info), n)
}

// testKeys knows the key of every generation.
type testKeys struct{}

func (testKeys) Generation(_, _, g repo.ID) (repo.Secret, error) {
	return testKey(sha256.Sum256(append([]byte("key of "), g[:]...))), nil
}
func (k testKeys) New(t, d, g repo.ID) (repo.Secret, error) { return k.Generation(t, d, g) }
func (testKeys) Capsule(_, _, g repo.ID) ([]byte, error)    { return g[:], nil }

type testSigner struct{ key ed25519.PrivateKey }

func newSigner(seed byte) testSigner {
	return testSigner{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
}
func (s testSigner) Public() [32]byte     { return [32]byte(s.key.Public().(ed25519.PublicKey)) }
func (s testSigner) Sign(m []byte) []byte { return ed25519.Sign(s.key, m) }

const week = 7 * 24 * time.Hour

var dataset = repo.ID{9}

// world is a box that saves and expires, and its stores.
type world struct {
	t      *testing.T
	base   string
	n      int
	r      *repo.Repo
	faulty []*storetest.Faulty
	del    []*deleter
	signer testSigner
	clock  time.Time
	policy retain.Policy
	grace  time.Duration
	holds  []retain.Hold
	per    int
	saved  map[string][]byte // what each snapshot holds, by its id
	spool  *repo.Spool
	guard  map[int]Deleter // instead of those of del
}

// deleter goes wrong as told.
type deleter struct {
	st   *dir.Store
	hook storetest.Hook
	n    int // objects deleted
}

func (d *deleter) Delete(ctx context.Context, key string) error {
	m := storetest.Mishap{}
	if d.hook != nil {
		m = d.hook("delete", key)
	}
	switch m.How {
	case storetest.Fail:
		return store.ErrUnavailable
	case storetest.Lie:
		return nil
	}
	d.n++
	err := d.st.Delete(ctx, key)
	if m.How == storetest.FailAfter {
		err = store.ErrUnavailable
	}
	return err
}

func fastDir(t *testing.T) string {
	d, err := os.MkdirTemp("/dev/shm", "strongroom-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func newWorld(t *testing.T, stores int) *world {
	w := &world{t: t, base: fastDir(t), n: stores, clock: time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC), policy: retain.Policy{Last: 3},
		grace: 24 * time.Hour, per: 3, saved: map[string][]byte{}}
	w.open()
	return w
}

// open opens everything anew, as another process does.
func (w *world) open() {
	w.t.Helper()
	w.signer = newSigner(1)
	w.r = &repo.Repo{Tenant: repo.ID{7}, Catalogue: testKey{8}, Trust: func(box [32]byte, _ uint32, m, sig []byte) error {
		if box != w.signer.Public() || !ed25519.Verify(box[:], m, sig) {
			return errors.New("not by the box")
		}
		return nil
	}}
	w.faulty, w.del = nil, nil
	for i := range w.n {
		if err := os.MkdirAll(w.dir(i), 0o700); err != nil {
			w.t.Fatal(err)
		}
		s, err := dir.Open(dir.Config{Path: w.dir(i)})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { s.Close() })
		w.faulty = append(w.faulty, storetest.NewFaulty(s))
		w.del = append(w.del, &deleter{st: s})
		w.r.Members = append(w.r.Members, spread.Member{Name: fmt.Sprintf("store%d", i), Store: w.faulty[i]})
	}
	if err := os.MkdirAll(w.state(), 0o700); err != nil {
		w.t.Fatal(err)
	}
	var err error
	if w.spool, err = repo.OpenSpool(filepath.Join(w.state(), "spool"), 0); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) dir(i int) string { return filepath.Join(w.base, fmt.Sprintf("store%d", i)) }
func (w *world) state() string    { return filepath.Join(w.base, "state") }

// fork is a copy of the world, on disk too.
func (w *world) fork() *world {
	w.t.Helper()
	f := *w
	f.base = fastDir(w.t)
	if out, err := exec.Command("cp", "-a", w.base+"/.", f.base).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
	f.saved = map[string][]byte{}
	for k, v := range w.saved {
		f.saved[k] = v
	}
	f.open()
	return &f
}

// save takes a snapshot that holds something new.
func (w *world) save() (*repo.Saved, error) {
	ctx := context.Background()
	data := make([]byte, 3000)
	rand.NewChaCha8([32]byte{byte(len(w.saved)), 1}).Read(data)
	s, err := w.r.Begin(ctx, repo.SaveConfig{Dataset: dataset, Dir: w.state(), Spool: w.spool, Keys: testKeys{}, Signer: w.signer, Incarnation: 1,
		PerGeneration: w.per, Now: func() time.Time { return w.clock }, Log: func(string, ...any) {}})
	if err != nil {
		return nil, err
	}
	if _, err := s.Add(ctx, repo.StreamSpec{Name: "a", Kind: "opaque"}, bytes.NewReader(data)); err != nil {
		s.Abort(err)
		return nil, err
	}
	saved, err := s.Commit(ctx, repo.Commit{Catalogue: repo.Catalogue{Dataset: "crm"}})
	if err == nil {
		w.saved[saved.ID] = data
	}
	return saved, err
}

// weeks backs up every week.
func (w *world) weeks(n int) {
	w.t.Helper()
	for range n {
		w.clock = w.clock.Add(week)
		if _, err := w.save(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) config() Config {
	c := Config{Repo: w.r, Dataset: dataset, Dir: w.state(), Spool: w.spool, Policy: w.policy, Grace: w.grace, Holds: w.holds, Verdict: Listed,
		Signer: w.signer, Incarnation: 1, Now: func() time.Time { return w.clock }}
	for i, d := range w.del {
		if g := w.guard[i]; g != nil {
			c.Deleters = append(c.Deleters, g)
			continue
		}
		c.Deleters = append(c.Deleters, d)
	}
	return c
}

// expire plans and does, as a run does.
func (w *world) expire() (*Plan, error) {
	p, err := Prepare(context.Background(), w.config())
	if err != nil {
		return nil, err
	}
	return p, p.Do(context.Background())
}

func (w *world) mustExpire() *Plan {
	w.t.Helper()
	p, err := w.expire()
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) list() *repo.Listing {
	w.t.Helper()
	l, err := w.r.List(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// mustHold checks the invariants: what is listed restores bit-exactly, it is
// the newest three at least, and nothing of it is missing on any store that is
// asked.
func (w *world) mustHold(when string) {
	w.t.Helper()
	l := w.list()
	if len(l.Snapshots) < min(3, len(w.saved)) {
		w.t.Fatalf("%s: %d snapshots are left", when, len(l.Snapshots))
	}
	for _, s := range l.Snapshots {
		want, ok := w.saved[s.ID()]
		if !ok {
			w.t.Fatalf("%s: snapshot %s is listed and was never saved", when, s.ID())
		}
		key, _ := testKeys{}.Generation(repo.ID{}, repo.ID{}, s.Generation)
		o, err := l.Open(context.Background(), s, key)
		if err != nil {
			w.t.Fatalf("%s: snapshot %d.%d: %v", when, s.Epoch, s.Sequence, err)
		}
		r, err := o.Read(context.Background(), "a", 0, -1)
		if err != nil {
			w.t.Fatalf("%s: %v", when, err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil || !bytes.Equal(got, want) {
			w.t.Fatalf("%s: snapshot %d.%d does not restore: %v", when, s.Epoch, s.Sequence, err)
		}
	}
}

// objects are the names of a store's objects, tombstones apart.
func (w *world) objects(i int) (data, stones []string) {
	w.t.Helper()
	err := filepath.WalkDir(w.dir(i), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "/.") {
			if rel, _ := filepath.Rel(w.dir(i), path); strings.HasPrefix(filepath.Base(path), "t-") {
				stones = append(stones, rel)
			} else {
				data = append(data, rel)
			}
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(data)
	slices.Sort(stones)
	return data, stones
}

// of counts names of a generation.
func of(names []string, g repo.ID) (n int) {
	for _, s := range names {
		if strings.Contains(s, g.String()) {
			n++
		}
	}
	return n
}

// converge runs until nothing is to be done, and checks that all that is buried
// is gone from every store.
func (w *world) converge(when string) {
	w.t.Helper()
	for n := range 20 {
		p, err := w.expire()
		if err != nil {
			w.t.Fatalf("%s: run %d: %v", when, n, err)
		}
		if len(p.Frozen)+len(p.Stuck) > 0 {
			w.t.Fatalf("%s: run %d: frozen %q, stuck %q", when, n, p.Frozen, p.Stuck)
		}
		if len(p.Burials)+len(p.Carries)+len(p.Deletions)+len(p.Waiting) == 0 {
			w.mustHold(when)
			l := w.list()
			if len(l.Buried) > 0 || len(l.Tombstones) == 0 {
				w.t.Fatalf("%s: %d snapshots are buried and there, %d tombstones", when, len(l.Buried), len(l.Tombstones))
			}
			for i := range w.n {
				data, stones := w.objects(i)
				for _, t := range l.Tombstones {
					if of(data, t.Generation) > 0 || of(stones, t.Generation) == 0 {
						w.t.Fatalf("%s: store %d has %d objects and %d tombstones of a generation that is gone", when, i, of(data, t.Generation), of(stones, t.Generation))
					}
				}
			}
			return
		}
		w.clock = w.clock.Add(25 * time.Hour)
	}
	w.t.Fatalf("%s: does not come to an end", when)
}
