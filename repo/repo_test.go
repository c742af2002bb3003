package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	crand "crypto/rand"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/repo/objectlock"
	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/storetest"
)

// testKey is a key in the open.
type testKey [32]byte

func (k testKey) Derive(info []byte, n int) ([]byte, error) {
	return hkdf.Key(sha512.New384, k[:], nil, string(info), n)
}

// testKeys keeps generation keys in memory; its capsules are marked copies.
type testKeys struct {
	mu sync.Mutex
	m  map[ID]testKey
}

func (k *testKeys) Generation(_, _, g ID) (Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.m[g]; ok {
		return key, nil
	}
	return nil, nil
}

func (k *testKeys) New(_, _, g ID) (Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var key testKey
	crand.Read(key[:])
	k.m[g] = key
	return key, nil
}

func (k *testKeys) Capsule(_, _, g ID) ([]byte, error) {
	return append([]byte("capsule of "), g[:]...), nil
}

type testSigner struct{ key ed25519.PrivateKey }

func (s testSigner) Public() [32]byte     { return [32]byte(s.key.Public().(ed25519.PublicKey)) }
func (s testSigner) Sign(m []byte) []byte { return ed25519.Sign(s.key, m) }
func newTestSigner(seed byte) testSigner {
	return testSigner{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
}

// trust believes one box key.
func (s testSigner) trust(box [32]byte, _ uint32, message, sig []byte) error {
	if box != s.Public() || !ed25519.Verify(box[:], message, sig) {
		return errors.New("not by the box")
	}
	return nil
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// text is n bytes that compress like a table.
func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d\tcustomer %d\t%x\t2026-01-%02d\tsome words that repeat\n", i, r.IntN(1e6), r.Uint64(), r.IntN(28)+1)
	}
	return b.Bytes()[:n]
}

// world is a repository on directory stores, and the box that writes it.
type world struct {
	t      *testing.T
	dirs   []string
	r      *Repo
	keys   *testKeys
	signer testSigner
	state  string
	inc    uint32
	per    int
	logged strings.Builder
	clock  time.Time
	faulty []*storetest.Faulty // what the members of r are
	small  int                 // packs end at so many bytes
	keep   *Spool              // opened once
	locks  *objectlock.Keeper

	cacheLimit int64 // of the base cache; 0: plenty, below: none
}

// fastDir is a directory in memory where there is one: these tests wait for
// thousands of fsyncs otherwise, and what a directory store does with them is
// tested there.
func fastDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("/dev/shm", "strongroom-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func newWorld(t *testing.T, stores int) *world {
	t.Helper()
	w := &world{t: t, keys: &testKeys{m: map[ID]testKey{}}, signer: newTestSigner(1), state: fastDir(t), inc: 1, per: 26,
		clock: time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)}
	w.r = &Repo{Tenant: ID{7}, Catalogue: testKey{8}, Trust: w.signer.trust}
	for i := range stores {
		d := fastDir(t)
		s, err := dir.Open(dir.Config{Path: d})
		if err != nil {
			t.Fatal(err)
		}
		w.dirs = append(w.dirs, d)
		w.faulty = append(w.faulty, storetest.NewFaulty(s))
		w.r.Members = append(w.r.Members, spread.Member{Name: fmt.Sprintf("store%d", i), Store: w.faulty[i]})
	}
	return w
}

// newSmallWorld makes many packs of little data.
func newSmallWorld(t *testing.T, stores int) *world {
	w := newWorld(t, stores)
	w.small = 256 << 10
	return w
}

var testDataset = ID{9}

func (w *world) config() SaveConfig {
	if w.keep == nil {
		var err error
		if w.keep, err = OpenSpool(filepath.Join(w.state, "spool"), 0); err != nil {
			w.t.Fatal(err)
		}
	}
	return SaveConfig{Dataset: testDataset, Dir: w.state, Spool: w.keep, packBytes: w.small, Keys: w.keys, Signer: w.signer, Incarnation: w.inc,
		PerGeneration: w.per, Locks: w.locks, BaseCache: cmp.Or(max(w.cacheLimit, 0), 1<<40*(1+w.cacheLimit)), Now: func() time.Time { w.clock = w.clock.Add(time.Minute); return w.clock },
		Log: func(f string, a ...any) { fmt.Fprintf(&w.logged, f+"\n", a...) }}
}

// save takes a snapshot of streams, in the order of their names' first letter.
func (w *world) save(streams ...namedBytes) (*Saved, error) {
	ctx := context.Background()
	s, err := w.r.Begin(ctx, w.config())
	if err != nil {
		return nil, err
	}
	for i, st := range streams {
		if _, err := s.Add(ctx, StreamSpec{Order: i, Name: st.name, Kind: "opaque"}, bytes.NewReader(st.data)); err != nil {
			s.Abort(err)
			return nil, err
		}
	}
	return s.Commit(ctx, Commit{Catalogue: Catalogue{Dataset: "crm"}, Detail: json.RawMessage(`{"a":1}`)})
}

func (w *world) mustSave(streams ...namedBytes) *Saved {
	w.t.Helper()
	saved, err := w.save(streams...)
	if err != nil {
		w.t.Fatal(err)
	}
	return saved
}

type namedBytes struct {
	name string
	data []byte
}

// restore reads every stream of a snapshot.
func (w *world) restore(spec string) (map[string][]byte, error) {
	ctx := context.Background()
	l, err := w.r.List(ctx)
	if err != nil {
		return nil, err
	}
	snap, err := l.Find(testDataset, spec)
	if err != nil {
		return nil, err
	}
	key, _ := w.keys.Generation(ID{}, ID{}, snap.Generation)
	if key == nil {
		return nil, fmt.Errorf("no key")
	}
	o, err := l.Open(ctx, snap, key)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, s := range o.Contents().Streams {
		r, err := o.Read(ctx, s.Name, 0, -1)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, err
		}
		out[s.Name] = b
	}
	return out, nil
}

func (w *world) mustRestore(spec string, want ...namedBytes) {
	w.t.Helper()
	got, err := w.restore(spec)
	if err != nil {
		w.t.Fatalf("restore %q: %v", spec, err)
	}
	if len(got) != len(want) {
		w.t.Errorf("restore %q: %d streams, want %d", spec, len(got), len(want))
	}
	for _, s := range want {
		if !bytes.Equal(got[s.name], s.data) {
			w.t.Errorf("restore %q: stream %q differs (%d bytes, want %d)", spec, s.name, len(got[s.name]), len(s.data))
		}
	}
}

func TestSnapshotsComeBack(t *testing.T) {
	w := newWorld(t, 3)
	size := 34 << 20 // more than one full pack
	if testing.Short() {
		size = 5 << 20
	}
	big := text(size, 1)
	week1 := []namedBytes{{"big", big}, {"empty", nil}, {"one", []byte("x")}, {"noise", random(3<<20, 2)}}
	first := w.mustSave(week1...)
	changed := bytes.Clone(big)
	copy(changed[size/2:], "CHANGED")
	week2 := []namedBytes{{"big", changed}, {"empty", nil}, {"new", []byte("y")}, {"noise", random(3<<20, 2)}}
	second := w.mustSave(week2...)
	w.mustRestore(first.ID, week1...)
	w.mustRestore(second.ID, week2...)
	w.mustRestore("", week2...)
	if n := second.Catalogue.New; n == 0 || n > 600<<10 {
		t.Errorf("the second snapshot stored %d new bytes", n)
	}
	if first.State() != "complete" || first.Sequence != 1 || second.Sequence != 2 || second.Generation != first.Generation {
		t.Errorf("first %+v, second %+v", first, second)
	}
	if left, err := w.keep.keys(context.Background(), ""); err != nil || len(left) > 0 {
		t.Errorf("spool holds %v, %v", left, err)
	}
}

func TestAnyLossWithinTheProfileRestores(t *testing.T) {
	for n := 1; n <= 5; n++ {
		w := newSmallWorld(t, n)
		want := []namedBytes{{"a", text(3<<20, 1)}, {"b", random(1<<20, 3)}}
		w.mustSave(want...)
		g, _ := planFor(n)
		for lost := range 1 << n {
			members := w.r.Members
			var left []spread.Member
			down := 0
			for i, m := range members {
				if lost>>i&1 == 1 {
					down++
					m.Store = goneStore{}
				}
				left = append(left, m)
			}
			w.r.Members = left
			got, err := w.restore("")
			w.r.Members = members
			if down <= g.N-g.K {
				if err != nil || !bytes.Equal(got["a"], want[0].data) || !bytes.Equal(got["b"], want[1].data) {
					t.Errorf("%v, lost %b: %v", g, lost, err)
				}
			} else if err == nil {
				t.Errorf("%v, lost %b: restored", g, lost)
			} else if down < n && !strings.Contains(err.Error(), "needs") {
				t.Errorf("%v, lost %b: unclear error: %v", g, lost, err)
			}
		}
	}
}

// goneStore is a store that does not answer.
type goneStore struct{ store.Store }
