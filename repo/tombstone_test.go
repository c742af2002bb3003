package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// stone is a tombstone for some snapshots of one generation.
func (w *world) stone(snaps ...*Snapshot) Tombstone {
	t := Tombstone{Tenant: w.r.Tenant, Dataset: testDataset, Generation: snaps[0].Generation, Epoch: snaps[0].Epoch, Incarnation: 1,
		Time: w.clock, NotBefore: w.clock.Add(time.Hour), Reason: ByPolicy}
	for _, s := range snaps {
		t.Snapshots = append(t.Snapshots, Grave{s.Sequence, s.Hash()})
	}
	return t
}

func (w *world) putStone(t Tombstone, by Signer, at ...int) string {
	w.t.Helper()
	s, err := t.Seal(by)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range at {
		if err := w.r.Members[i].Store.Put(context.Background(), s.Key(), s.Raw, sha256.Sum256(s.Raw)); err != nil {
			w.t.Fatal(err)
		}
	}
	return s.Key()
}

// twoGenerations is a world with one generation of two snapshots and one of
// one.
func twoGenerations(t *testing.T) (w *world, old []*Snapshot) {
	w = newSmallWorld(t, 3)
	w.per = 2
	for n := range 3 {
		w.mustSave(namedBytes{"a", text(300<<10, uint64(n))})
	}
	l := w.list()
	if len(l.Snapshots) != 3 || l.Snapshots[1].Generation == l.Snapshots[2].Generation {
		t.Fatalf("%d snapshots", len(l.Snapshots))
	}
	return w, l.Snapshots[:2]
}

func TestATombstoneOnAnyStoreBuries(t *testing.T) {
	w, old := twoGenerations(t)
	for i := range 3 {
		w.putStone(w.stone(old...), w.signer, i)
		w.clock = w.clock.Add(time.Minute) // another tombstone each time: stores disagree
		l := w.list()
		if len(l.Snapshots) != 1 || len(l.Buried) != 2 || len(l.Tombstones) != i+1 || len(l.Problems) > 0 {
			t.Fatalf("with %d tombstones: %d listed, %d buried, %d tombstones, %q", i+1, len(l.Snapshots), len(l.Buried), len(l.Tombstones), l.texts())
		}
		if gaps := l.Gaps(testDataset); len(gaps) > 0 {
			t.Errorf("a gap that a tombstone explains: %q", gaps)
		}
	}
	// Whoever knows the id still gets what is there, and nobody by chance.
	w.mustRestore(old[0].ID(), namedBytes{"a", text(300<<10, 0)})
	w.mustRestore("", namedBytes{"a", text(300<<10, 2)})
	// The writer goes on beside it.
	w.mustSave(namedBytes{"a", text(300<<10, 3)})
	if l := w.list(); len(l.Snapshots) != 2 || len(l.Buried) != 2 {
		t.Errorf("%d listed, %d buried", len(l.Snapshots), len(l.Buried))
	}
}

func TestATombstoneThatIsNotBelievedBuriesNothing(t *testing.T) {
	w, old := twoGenerations(t)
	foreign := newTestSigner(9)
	tenant := w.stone(old...)
	tenant.Tenant = ID{8}
	good, err := w.stone(old...).Seal(w.signer)
	if err != nil {
		t.Fatal(err)
	}
	other, err := tenant.Seal(w.signer)
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := w.stone(old...).Seal(foreign)
	if err != nil {
		t.Fatal(err)
	}
	inPrefix := func(s *StandingTombstone) string { // replayed under this tenant's generation
		return strings.Replace(s.Key(), s.Tenant.String(), w.r.Tenant.String(), 1)
	}
	newest := w.list().Snapshots[2].Generation
	for name, o := range map[string]struct {
		key string
		raw []byte
	}{
		"unknown key":        {unknown.Key(), unknown.Raw},
		"other tenant":       {inPrefix(other), other.Raw},
		"other generation":   {strings.Replace(good.Key(), old[0].Generation.String(), newest.String(), 1), good.Raw},
		"other name":         {good.Key()[:len(good.Key())-1] + "x", good.Raw},
		"cut off":            {tombstones.key(w.r.Tenant, old[0].Generation, good.Raw[:90]), good.Raw[:90]},
		"not one":            {tombstones.key(w.r.Tenant, old[0].Generation, []byte("x")), []byte("x")},
		"manifest signature": {tombstones.key(w.r.Tenant, old[0].Generation, old[0].raw), old[0].raw},
	} {
		replaceFile(t, filepath.Join(w.dirs[1], o.key), o.raw)
		l := w.list()
		if len(l.Snapshots) != 3 || len(l.Buried) > 0 || len(l.Tombstones) > 0 || !strings.Contains(l.texts(), "tombstone") {
			t.Errorf("%s: %d listed, %d buried, problems %q", name, len(l.Snapshots), len(l.Buried), l.texts())
		}
		os.Remove(filepath.Join(w.dirs[1], o.key))
	}
	// A hash that is another's, a box of before, another dataset: signed, and
	// yet none of these snapshots is meant.
	for name, change := range map[string]func(*Tombstone){
		"hash":        func(s *Tombstone) { s.Snapshots[0].Manifest[0] ^= 1; s.Snapshots[1].Manifest[0] ^= 1 },
		"incarnation": func(s *Tombstone) { s.Incarnation = 0 },
		"dataset":     func(s *Tombstone) { s.Dataset = ID{3} },
		"epoch":       func(s *Tombstone) { s.Epoch = 7 },
	} {
		s := w.stone(old...)
		change(&s)
		key := w.putStone(s, w.signer, 0)
		if l := w.list(); len(l.Snapshots) != 3 || len(l.Buried) > 0 {
			t.Errorf("%s: %d listed", name, len(l.Snapshots))
		}
		os.Remove(filepath.Join(w.dirs[0], key))
	}
}

func TestEveryByteOfATombstoneCounts(t *testing.T) {
	w, old := twoGenerations(t)
	s, err := w.stone(old...).Seal(w.signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseTombstone(s.Key(), s.Raw, w.r.Tenant, w.r.Trust)
	if err != nil || !slices.Equal(parsed.Snapshots, s.Snapshots) || parsed.NotBefore != s.NotBefore || parsed.Reason != ByPolicy {
		t.Fatalf("%+v, %v", parsed, err)
	}
	for at := range s.Raw {
		b := bytes.Clone(s.Raw)
		b[at] ^= 1 << (at % 8)
		if _, err := ParseTombstone(tombstones.key(w.r.Tenant, old[0].Generation, b), b, w.r.Tenant, w.r.Trust); !errors.Is(err, ErrIntegrity) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
		if b = s.Raw[:at]; at > 0 {
			if _, err := ParseTombstone(tombstones.key(w.r.Tenant, old[0].Generation, b), b, w.r.Tenant, w.r.Trust); !errors.Is(err, ErrIntegrity) {
				t.Fatalf("cut to %d: %v", at, err)
			}
		}
	}
	for name, change := range map[string]func(*Tombstone){
		"no snapshots": func(s *Tombstone) { s.Snapshots = nil },
		"order":        func(s *Tombstone) { slices.Reverse(s.Snapshots) },
		"reason":       func(s *Tombstone) { s.Reason = 3 },
		"grace":        func(s *Tombstone) { s.NotBefore = s.Time.Add(-time.Second) },
	} {
		s := w.stone(old...)
		change(&s)
		if _, err := s.Seal(w.signer); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

func TestAGapIsToldApartFromExpiry(t *testing.T) {
	w, old := twoGenerations(t)
	for i := range 3 {
		for _, name := range w.objects(i, "m-") {
			if strings.Contains(name, old[0].Generation.String()) {
				os.Remove(name)
			}
		}
	}
	if gaps := w.list().Gaps(testDataset); len(gaps) != 1 {
		t.Errorf("manifests vanished: %q", gaps)
	}
}

func FuzzTombstone(f *testing.F) {
	s, err := Tombstone{Tenant: ID{7}, Generation: ID{1}, Epoch: 1, Time: time.Unix(5, 0), NotBefore: time.Unix(6, 0), Reason: ByPolicy,
		Snapshots: []Grave{{1, [32]byte{1}}, {2, [32]byte{2}}}}.Seal(newTestSigner(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Raw[12 : len(s.Raw)-64])
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseTombClear(b); err == nil && !bytes.Equal(s.appendClear(nil), b) {
			t.Errorf("%x parses and formats as %x", b, s.appendClear(nil))
		}
	})
}

func TestLeases(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	holders := func() (out []string) {
		t.Helper()
		ls, err := Leases(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range ls {
			out = append(out, l.Holder)
		}
		slices.Sort(out)
		return out
	}
	if got := holders(); got != nil {
		t.Errorf("none taken: %q", got)
	}
	a, err := TakeLease(dir, "restore", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := TakeLease(dir, "media", now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if got := holders(); !slices.Equal(got, []string{"media", "restore"}) {
		t.Errorf("two taken: %q", got)
	}
	// The holders die: what has no end of its own ends.
	a.f.Close()
	b.f.Close()
	if got := holders(); !slices.Equal(got, []string{"media"}) {
		t.Errorf("holders died: %q", got)
	}
	now = now.Add(2 * time.Hour)
	if got := holders(); got != nil {
		t.Errorf("ended: %q", got)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, leaseDir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	c, err := TakeLease(dir, "check", now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	c.Release()
	if got := holders(); got != nil {
		t.Errorf("released: %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, leaseDir, "x"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Leases(dir, now); err == nil {
		t.Error("a lease that cannot be read does not count")
	}
}

func TestTheSampleTellsCiphertext(t *testing.T) {
	w := newSmallWorld(t, 1)
	w.mustSave(namedBytes{"text", text(600<<10, 1)}, namedBytes{"noise", random(600<<10, 1)}, namedBytes{"tiny", []byte("x")})
	l := w.list()
	key, _ := w.keys.Generation(ID{}, ID{}, l.Snapshots[0].Generation)
	o, err := l.Open(context.Background(), l.Snapshots[0], key)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, s := range o.Contents().Streams {
		got[s.Name] = s.Packed
	}
	if got["noise"] != 1000 || got["text"] < 100 || got["text"] > 700 || got["tiny"] != 0 {
		t.Errorf("thousandths %v", got)
	}
}

// Every store is replaced, one after the other, and nothing expires meanwhile: what
// was deleted before stays deleted, and nobody takes its absence for a loss.
func TestTombstonesOutliveTheStoresTheyWereWrittenTo(t *testing.T) {
	w, old := twoGenerations(t)
	key := w.putStone(w.stone(old...), w.signer, 0, 1, 2)
	prefix := generationPrefix(w.r.Tenant, old[0].Generation)
	for i := range 3 { // its objects are deleted
		for _, p := range w.objects(i, "") {
			if strings.HasPrefix(p, prefix) && p != key {
				if err := os.Remove(filepath.Join(w.dirs[i], p)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for i := range 3 {
		w.wipe(i)
		c := w.repairConfig(nil)
		c.Fill = w.r.Members[i].Name
		dry := c
		dry.DryRun = true
		planned, err := w.r.Repair(context.Background(), dry)
		if err != nil {
			t.Fatal(err)
		}
		done, err := w.r.Repair(context.Background(), c)
		if err != nil || !done.Whole() {
			t.Fatalf("store %d: %+v, %v", i, done, err)
		}
		want := Act{"tombstone", w.r.Members[i].Name, key, done.Acts[0].Bytes, "it is not there"}
		if done.Acts[0] != want || planned.Acts[0] != want {
			t.Errorf("store %d: first %+v, and %+v when dry; want %+v", i, done.Acts[0], planned.Acts[0], want)
		}
		l := w.list()
		if len(l.Tombstones) != 1 || len(l.Tombstones[0].Stores) != 3 || len(l.Snapshots) != 1 {
			t.Errorf("store %d: tombstones %+v, %d snapshots", i, l.Tombstones, len(l.Snapshots))
		}
		if gaps := l.Gaps(testDataset); len(gaps) > 0 {
			t.Errorf("store %d: %q", i, gaps)
		}
	}
	w.mustRestore("", namedBytes{"a", text(300<<10, 2)})
}
