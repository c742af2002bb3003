package repo

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

func (w *world) list() *Listing {
	w.t.Helper()
	l, err := w.r.List(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// objects are the paths of a store's objects whose names begin with front.
func (w *world) objects(i int, front string) []string {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(w.dirs[i], w.r.Tenant.String(), "*", front+"*"))
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

// replaceFile changes an object behind the store's back.
func replaceFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o444); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// problems are the texts of a listing's problems.
func (l *Listing) texts() string {
	var out []string
	for _, p := range l.Problems {
		out = append(out, p.Text)
	}
	return strings.Join(out, "\n")
}

func TestAFlippedManifestIsNeverBelieved(t *testing.T) {
	w := newSmallWorld(t, 3)
	week1 := namedBytes{"a", text(600<<10, 1)}
	w.mustSave(week1)
	name := w.objects(1, "m-")[0]
	good := readFile(t, name)
	key := strings.TrimPrefix(name, w.dirs[1]+"/")
	if _, err := w.r.parse(key, good); err != nil {
		t.Fatal(err)
	}
	for at := range good {
		b := bytes.Clone(good)
		b[at] ^= 1 << (at % 8)
		if _, err := w.r.parse(key, b); !errors.Is(err, ErrIntegrity) {
			t.Fatalf("with byte %d of %d flipped: %v", at, len(good), err)
		}
	}
	for n := range len(good) {
		if n%7 == 0 || n < 100 {
			if _, err := w.r.parse(key, good[:n]); !errors.Is(err, ErrIntegrity) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(good), err)
			}
		}
	}
	if _, err := w.r.parse(key, append(bytes.Clone(good), 0)); !errors.Is(err, ErrIntegrity) {
		t.Errorf("with a byte more: %v", err)
	}
	// On one store it is reported, and the others serve.
	b := bytes.Clone(good)
	b[len(b)/2] ^= 1
	replaceFile(t, name, b)
	l := w.list()
	if len(l.Snapshots) != 1 || len(l.Snapshots[0].Stores) != 2 || !strings.Contains(l.texts(), "store1") || !strings.Contains(l.texts(), key) {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	w.mustRestore("", week1)
	// Nor does it cost the store: what is new goes there all the same.
	saved := w.mustSave(namedBytes{"a", text(700<<10, 2)})
	if saved.State() != "complete" {
		t.Errorf("the next snapshot is %s: %v", saved.State(), saved.Failures)
	}
	if n := len(w.objects(1, "m-")); n != 2 {
		t.Errorf("the store has %d manifests", n)
	}
}

func TestAManifestUnderAnotherNameIsRefused(t *testing.T) {
	w := newSmallWorld(t, 2)
	w.mustSave(namedBytes{"a", []byte("week 1")})
	second := w.mustSave(namedBytes{"a", []byte("week 2")})
	ms := w.objects(0, "m-")
	old := readFile(t, ms[0])
	// Replayed as the newest, into another generation, and as another tenant's.
	replaceFile(t, strings.Replace(ms[0], "m-00000001", "m-00000003", 1), old)
	replaceFile(t, filepath.Join(w.dirs[0], w.r.Tenant.String(), ID{3}.String(), "m-00000001"), old)
	l := w.list()
	if len(l.Snapshots) != 2 || len(l.Problems) != 2 {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	s, err := l.Find(testDataset, "")
	if err != nil || s.ID() != second.ID {
		t.Errorf("the newest is %v, %v", s, err)
	}
	w2 := newSmallWorld(t, 1)
	w2.r.Tenant = ID{8}
	replaceFile(t, filepath.Join(w2.dirs[0], w2.r.Tenant.String(), s.Generation.String(), "m-00000001"), old)
	if l := w2.list(); len(l.Snapshots) != 0 || !errors.Is(l.Problems[0].Err, ErrIntegrity) {
		t.Errorf("another tenant lists %d, problems %q", len(l.Snapshots), l.texts())
	}
	// The forged successor does not stop the next backup; the store that has it
	// is reported, the other one takes the snapshot.
	saved := w.mustSave(namedBytes{"a", []byte("week 3")})
	if saved.Sequence != 3 || saved.Stores != 1 || len(saved.Failures) != 1 {
		t.Errorf("sequence %d on %d stores, failures %v", saved.Sequence, saved.Stores, saved.Failures)
	}
	w.mustRestore("", namedBytes{"a", []byte("week 3")})
}

func TestAManifestOfAnUnknownSignerIsRefused(t *testing.T) {
	w := newSmallWorld(t, 2)
	w.mustSave(namedBytes{"a", []byte("x")})
	w.signer = newTestSigner(2)
	l := w.list()
	if len(l.Snapshots) != 1 {
		t.Fatal("the right signer was refused")
	}
	w.r.Trust = w.signer.trust
	if l = w.list(); len(l.Snapshots) != 0 || len(l.Problems) != 2 || !errors.Is(l.Problems[0].Err, ErrIntegrity) || !strings.Contains(l.texts(), "signed by box key") {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	// The key is believed for some incarnations only.
	old := newTestSigner(1)
	w.r.Trust = func(box [ed25519.PublicKeySize]byte, inc uint32, m, sig []byte) error {
		if inc != 2 {
			return errors.New("not of that incarnation")
		}
		return old.trust(box, inc, m, sig)
	}
	if l = w.list(); len(l.Snapshots) != 0 {
		t.Error("a signature of another incarnation was believed")
	}
}

func TestAManifestOnOneStoreIsACommitAndIsFinished(t *testing.T) {
	w := newSmallWorld(t, 4)
	week1 := namedBytes{"a", text(500<<10, 1)}
	first := w.mustSave(week1)
	for i := range 3 {
		if err := os.Remove(w.objects(i, "m-")[0]); err != nil {
			t.Fatal(err)
		}
	}
	w.mustRestore(first.ID, week1)
	if s := w.list().Snapshots[0]; s.State(4) != "reduced: 1 of 4 stores" {
		t.Error(s.State(4))
	}
	w.mustSave(namedBytes{"a", text(500<<10, 2)})
	for _, s := range w.list().Snapshots {
		if s.State(4) != "complete" {
			t.Errorf("snapshot %s is %s", s.ID(), s.State(4))
		}
	}
}

func TestTwoManifestsOfOneSequenceStopTheWriter(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", []byte("x")})
	w.forge(w.dirs[:1], func(f *forgery) { f.m.Time = f.m.Time.AddDate(0, 0, 1) })
	l := w.list()
	if len(l.Snapshots) != 2 || !l.Snapshots[0].Conflict || !l.Snapshots[1].Conflict || !errors.Is(l.Problems[0].Err, ErrConflict) ||
		!strings.Contains(l.texts(), "store0") || !strings.Contains(l.texts(), "store2") {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	for _, s := range l.Snapshots {
		if found, err := l.Find(testDataset, s.ID()); err != nil || found != s {
			t.Errorf("snapshot %s cannot be asked for: %v", s.ID(), err)
		}
	}
	if _, err := w.save(namedBytes{"a", []byte("y")}); !errors.Is(err, ErrConflict) {
		t.Errorf("a backup: %v", err)
	}
	// A person looked, and made the box a new one: it opens a generation.
	w.inc = 2
	if saved := w.mustSave(namedBytes{"a", []byte("z")}); saved.Epoch != 2 {
		t.Errorf("epoch %d", saved.Epoch)
	}
	w.mustRestore("", namedBytes{"a", []byte("z")})
}

func TestStoresThatWereRolledBackAreNoticed(t *testing.T) {
	w := newSmallWorld(t, 3)
	w.mustSave(namedBytes{"a", []byte("week 1")})
	second := w.mustSave(namedBytes{"a", []byte("week 2")})
	for i := range 3 {
		os.Remove(w.objects(i, "m-00000002")[0])
	}
	_, err := w.save(namedBytes{"a", []byte("week 3")})
	if !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), second.ID) || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("error is %v", err)
	}
	if n := len(w.list().Snapshots); n != 1 {
		t.Errorf("%d snapshots", n)
	}
}

func TestABoxThatWasReplacedStops(t *testing.T) {
	w := newSmallWorld(t, 2)
	w.mustSave(namedBytes{"a", []byte("x")})
	next := *w
	next.state, next.keep, next.inc, next.keys = fastDir(t), nil, 2, &testKeys{m: map[ID]testKey{}}
	saved := (&next).mustSave(namedBytes{"a", []byte("y")})
	if saved.Epoch != 2 || saved.Sequence != 1 {
		t.Errorf("the new box wrote epoch %d, sequence %d", saved.Epoch, saved.Sequence)
	}
	if _, err := w.save(namedBytes{"a", []byte("z")}); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "incarnation 2") {
		t.Errorf("the old box: %v", err)
	}
	if n := len(w.list().Snapshots); n != 2 {
		t.Errorf("%d snapshots", n)
	}
}

func TestASecondWriterOfOneStateIsLockedOut(t *testing.T) {
	w := newSmallWorld(t, 2)
	s, err := w.r.Begin(context.Background(), w.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.save(namedBytes{"a", nil}); !errors.Is(err, ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	s.Abort(nil)
	w.mustSave(namedBytes{"a", []byte("x")})
}

// clone copies the box's state, as a virtual machine's snapshot does.
func (w *world) clone() *world {
	c := *w
	c.state, c.keep = fastDir(w.t), nil
	if err := os.CopyFS(c.state, os.DirFS(w.state)); err != nil {
		w.t.Fatal(err)
	}
	return &c
}

// Two boxes of one state write at once: whoever reaches the stores first wins,
// the other leaves no manifest, also not one that a later run would finish.
func TestOfTwoWritersWithClonedStateOneWins(t *testing.T) {
	w := newSmallWorld(t, 3)
	ctx := context.Background()
	week1 := namedBytes{"a", text(300<<10, 1)}
	first := w.mustSave(week1)
	c := w.clone()
	begin := func(w *world, data []byte) *Saver {
		s, err := w.r.Begin(ctx, w.config())
		if err == nil {
			_, err = s.Add(ctx, StreamSpec{Name: "a"}, bytes.NewReader(data))
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mine, theirs := text(300<<10, 2), text(300<<10, 3)
	s1, s2 := begin(w, mine), begin(c, theirs)
	if _, err := s1.Commit(ctx, Commit{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s2.Commit(ctx, Commit{}); !errors.Is(err, ErrConflict) {
		t.Errorf("the second writer: %v", err)
	}
	w.mustRestore(first.ID, week1)
	w.mustRestore("", namedBytes{"a", mine})
	// The clone's next run sees the other's and goes on behind it.
	if saved := c.mustSave(namedBytes{"a", theirs}); saved.Sequence != 3 {
		t.Errorf("sequence %d", saved.Sequence)
	}
	if l := w.list(); len(l.Snapshots) != 3 || len(l.Problems) != 0 {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
}

// Both commit at the same moment: the first store decides.
func TestOfTwoCommitsAtOnceOneWins(t *testing.T) {
	w := newSmallWorld(t, 3)
	ctx := context.Background()
	w.mustSave(namedBytes{"a", []byte("x")})
	c := w.clone()
	s1, err := w.r.Begin(ctx, w.config())
	if err != nil {
		t.Fatal(err)
	}
	s2, err := c.r.Begin(ctx, c.config())
	if err != nil {
		t.Fatal(err)
	}
	// When the first writer has looked and begins to write, the second goes.
	done := make(chan error, 1)
	w.faulty[0].Inject(func(op storetest.Op, key string) storetest.Mishap {
		if op == storetest.OpPut && isManifest(key) {
			w.faulty[0].Up()
			_, err := s2.Commit(ctx, Commit{})
			done <- err
		}
		return storetest.Mishap{}
	})
	if _, err := s1.Commit(ctx, Commit{}); !errors.Is(err, ErrConflict) {
		t.Errorf("the slower writer: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("the faster writer: %v", err)
	}
	if l := w.list(); len(l.Snapshots) != 2 || len(l.Problems) != 0 {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	w.mustSave(namedBytes{"a", []byte("y")})
}

// Both open a generation: nothing they write has the same name, so only the
// listing can tell.
func TestTwoGenerationsOfOneEpochAreAlarmed(t *testing.T) {
	w := newSmallWorld(t, 2)
	c := w.clone()
	ctx := context.Background()
	s1, err1 := w.r.Begin(ctx, w.config())
	s2, err2 := c.r.Begin(ctx, c.config())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	_, err1 = s1.Commit(ctx, Commit{})
	_, err2 = s2.Commit(ctx, Commit{})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	l := w.list()
	if len(l.Snapshots) != 2 || !l.Snapshots[0].Conflict || len(l.Problems) != 1 || !errors.Is(l.Problems[0].Err, ErrConflict) {
		t.Errorf("%d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	if _, err := w.save(); !errors.Is(err, ErrConflict) {
		t.Errorf("the next backup: %v", err)
	}
}

func TestWrongKeysAreToldFromDamage(t *testing.T) {
	w := newSmallWorld(t, 2)
	ctx := context.Background()
	w.mustSave(namedBytes{"a", []byte("x")})
	l := w.list()
	if _, err := l.Open(ctx, l.Snapshots[0], testKey{1}); !errors.Is(err, ErrWrongKey) || errors.Is(err, ErrIntegrity) {
		t.Errorf("with a wrong generation key: %v", err)
	}
	w.r.Catalogue = testKey{1}
	if l = w.list(); len(l.Snapshots) != 1 || l.Snapshots[0].Entry != nil || len(l.Problems) != 0 {
		t.Errorf("with a wrong catalogue key: %d snapshots, problems %q", len(l.Snapshots), l.texts())
	}
	w.mustRestore("", namedBytes{"a", []byte("x")})
}

// Objects that are none of ours, in the tenant's part of a store, harm nobody.
func TestForeignObjectsAreNoObstacle(t *testing.T) {
	w := newSmallWorld(t, 2)
	week1 := namedBytes{"a", []byte("x")}
	saved := w.mustSave(week1)
	gen := filepath.Join(w.dirs[0], w.r.Tenant.String(), saved.Generation.String())
	for _, name := range []string{"m-0000000", "m-00000000", "m-zzzzzzzz", "m-00000009", "s-", "s-1-2-3-4", "s-x-y-00-00", "readme", "s-00-00-ff-00"} {
		replaceFile(t, filepath.Join(gen, name), []byte("what"))
	}
	w.mustRestore("", week1)
	if saved := w.mustSave(namedBytes{"a", []byte("y")}); saved.State() != "complete" {
		t.Errorf("%s: %v", saved.State(), saved.Failures)
	}
}

// A store that answers with sizes that cannot be must not crash a listing.
func TestListedSizesThatCannotBeAreRefused(t *testing.T) {
	w := newSmallWorld(t, 2)
	saved := w.mustSave(namedBytes{"a", []byte("x")})
	inv := w.list().inventory
	for _, size := range []int64{-1, -1 << 63, 1 << 62, 0, 1} {
		key := manifestKey(w.r.Tenant, saved.Generation, 1)
		inv.Add(0, store.Info{Key: key, Size: size})
		if _, err := w.r.readManifest(context.Background(), inv, key, 0, nil); err == nil {
			t.Errorf("a manifest of %d bytes was read", size)
		}
	}
}
