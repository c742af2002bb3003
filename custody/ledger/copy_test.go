package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
	"strongroom/repo/store"
)

// shelf is a store in memory.
type shelf struct {
	t       *testing.T
	objects map[string][]byte
	fail    int // Puts that succeed before one fails; below 0: none does
	lost    bool
}

func newShelf(t *testing.T) *shelf { return &shelf{t: t, objects: map[string][]byte{}, fail: -1} }

var errShelf = errors.New("the store does not answer")

func (s *shelf) Put(_ context.Context, key string, body []byte, _ [32]byte) error {
	if !store.ValidKey(key) {
		s.t.Errorf("key %q", key)
	}
	s.fail--
	if s.fail == -1 {
		if s.lost { // the object is there, and the reply is not
			s.objects[key] = bytes.Clone(body)
		}
		return errShelf
	}
	if have, ok := s.objects[key]; ok && !bytes.Equal(have, body) {
		return errors.Join(fs.ErrExist, store.ErrExists)
	}
	s.objects[key] = bytes.Clone(body)
	return nil
}

func (s *shelf) Read(_ context.Context, key string, limit int64) ([]byte, error) {
	b, ok := s.objects[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if int64(len(b)) > limit {
		return nil, errors.New("too long")
	}
	return b, nil
}

func (s *shelf) List(_ context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(s.objects)) {
			if strings.HasPrefix(k, prefix) && !yield(k, nil) {
				return
			}
		}
	}
}

var catalogues = map[keys.TenantID]Secret{{}: keys.NewCatalogueKey(), tenantA: keys.NewCatalogueKey(), tenantB: keys.NewCatalogueKey()}

func secretOf(t keys.TenantID) (Secret, error) { return catalogues[t], nil }

// anchored checks the anchors and returns those that are against the ledger.
func anchored(t *testing.T, l *Ledger, places ...Place) (out []Anchor) {
	t.Helper()
	all, err := l.CheckAnchors(context.Background(), places)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a.conflicts() {
			out = append(out, a)
		} else if a.Err != nil {
			t.Error(a.Err)
		}
	}
	return out
}

func copyTo(t *testing.T, l *Ledger, p Place) {
	t.Helper()
	if err := l.Copy(context.Background(), p, secretOf); err != nil {
		t.Fatal(err)
	}
}

func TestRebuiltBoxReplaysTheCopies(t *testing.T) {
	ctx := context.Background()
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	secretText := act(tenantA, Backup)
	secretText.Fields["note"] = "planted-text"
	for n := range 150 { // through tiles of every width
		do(t, l, secretText, Done)
		if n%7 == 0 || n > 140 {
			copyTo(t, l, p)
		}
	}
	if _, err := l.Intend(ctx, act(tenantB, Drill)); err != nil {
		t.Fatal(err)
	}
	copyTo(t, l, p)
	want := map[keys.TenantID][]Entry{{}: entries(t, l, keys.TenantID{}), tenantA: entries(t, l, tenantA), tenantB: entries(t, l, tenantB)}
	for k, b := range s.objects {
		if bytes.Contains(b, []byte("planted-text")) || bytes.Contains(b, []byte("nora")) {
			t.Errorf("%s shows an entry", k)
		}
	}
	again := testConfig(filepath.Join(t.TempDir(), "ledger"))
	if err := Rebuild(ctx, again, p, secretOf); err == nil || !strings.Contains(err.Error(), "new one") {
		t.Errorf("of the same incarnation: %v", err)
	}
	again.Incarnation = 2
	if err := Rebuild(ctx, again, p, secretOf); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), again.Path, c.Trust, nil); err != nil {
		t.Fatal(err)
	}
	r, recovery, err := Open(ctx, again)
	if err != nil || len(recovery.Interrupted) != 1 {
		t.Fatal(recovery, err)
	}
	defer r.Close()
	for id, list := range want {
		got := entries(t, r, id)
		if len(got) < len(list) || fmt.Sprint(got[:len(list)]) != fmt.Sprint(list) {
			t.Errorf("log %s: %d entries, want %d and the same", logName(id), len(got), len(list))
		}
	}
	if bad := anchored(t, r, p); len(bad) > 0 {
		t.Errorf("anchors %+v", bad)
	}
	do(t, r, act(tenantA, "export"), Done)
	copyTo(t, r, p)
	head, err := l.Head(ctx, tenantA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), again.Path, c.Trust, []Checkpoint{head}); err != nil {
		t.Error(err)
	}
	if err := Rebuild(ctx, again, p, secretOf); !errors.Is(err, ErrExists) {
		t.Errorf("over a ledger: %v", err)
	}
}

func TestCopyGoesOnAfterAnyPutFailed(t *testing.T) {
	for _, lost := range []bool{false, true} {
		for n := 0; ; n++ {
			c := testConfig(filepath.Join(t.TempDir(), "ledger"))
			l, s := newLedger(t, c), newShelf(t)
			p := Place{"s", s}
			do(t, l, act(tenantA, Backup), Done)
			s.fail, s.lost = n, lost
			err := l.Copy(context.Background(), p, secretOf)
			if done := s.fail >= 0; done {
				if err != nil || n < 8 {
					t.Errorf("%d objects, %v", n, err)
				}
				break
			}
			if !errors.Is(err, errShelf) {
				t.Errorf("put %d failed: %v", n, err)
			}
			l.Close()
			l = open(t, c) // forgets what it copied
			do(t, l, act(tenantB, Backup), Done)
			copyTo(t, l, p)
			l.Close()
			c.Path, c.Incarnation = filepath.Join(t.TempDir(), "again"), 2
			if err := Rebuild(context.Background(), c, p, secretOf); err != nil {
				t.Errorf("put %d failed: %v", n, err)
			}
		}
	}
}

func TestCopyThatEndedBetweenLogsIsRebuilt(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	copyTo(t, l, p)
	for range 3 {
		do(t, l, act(tenantA, Backup), Done)
	}
	before := maps.Clone(s.objects)
	copyTo(t, l, p)
	for k := range s.objects {
		if strings.Contains(k, "/"+systemName+"/") && before[k] == nil {
			delete(s.objects, k)
		}
	}
	c.Path, c.Incarnation = filepath.Join(t.TempDir(), "again"), 2
	if err := Rebuild(context.Background(), c, p, secretOf); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(context.Background(), c.Path, c.Trust, nil); err != nil {
		t.Error(err)
	}
	r := open(t, c)
	if n := len(entries(t, r, tenantA)); n != 7 {
		t.Errorf("%d entries", n)
	}
}

// A state directory that was put back is behind its anchors; it goes on with
// backups, and after Continue with all.
func TestOldStateDirectoryIsFoundByItsAnchors(t *testing.T) {
	ctx := context.Background()
	for _, more := range []int{0, 40} { // acts before the anchors are looked at
		c := testConfig(filepath.Join(t.TempDir(), "ledger"))
		l, s := newLedger(t, c), newShelf(t)
		p := Place{"s", s}
		for range 5 {
			do(t, l, act(tenantA, Backup), Done)
			copyTo(t, l, p)
		}
		old := filepath.Join(t.TempDir(), "old")
		if err := os.CopyFS(old, os.DirFS(c.Path)); err != nil {
			t.Fatal(err)
		}
		for range 9 {
			do(t, l, act(tenantA, Backup), Done)
			copyTo(t, l, p)
		}
		lostHead, err := l.Head(ctx, keys.TenantID{})
		if err != nil {
			t.Fatal(err)
		}
		c.Path = old
		l = open(t, c)
		for range more {
			do(t, l, act(tenantA, Backup), Done)
		}
		want := ErrBehind
		if more > 0 {
			want = ErrFork
		}
		bad := anchored(t, l, p)
		if len(bad) != 2 || !errors.Is(bad[0].Err, want) || bad[0].From != 11 || bad[1].From != 13 {
			t.Fatalf("anchors %+v", bad)
		}
		if _, err := l.Intend(ctx, act(tenantA, "export")); !errors.Is(err, want) {
			t.Errorf("export: %v", err)
		}
		do(t, l, act(tenantA, Backup), Done)
		if err := l.Copy(ctx, p, secretOf); !errors.Is(err, want) {
			t.Errorf("copy: %v", err)
		}
		if _, err := l.Continue(ctx, act(keys.TenantID{}, "x")); err == nil {
			t.Error("continued in the same incarnation")
		}
		l.Close()
		c.Incarnation = 2
		l = open(t, c)
		anchored(t, l, p)
		gaps, err := l.Continue(ctx, act(keys.TenantID{}, "x"))
		if err != nil || len(gaps) != 2 {
			t.Fatal(gaps, err)
		}
		do(t, l, act(tenantA, "export"), Done)
		copyTo(t, l, p)
		if _, err := Verify(context.Background(), c.Path, c.Trust, nil); err != nil {
			t.Error(err)
		}
		if r, err := Verify(context.Background(), c.Path, c.Trust, []Checkpoint{lostHead}); err != nil || r.Gaps() != 2 {
			t.Errorf("with the anchor that is admitted: %+v, %v", r, err)
		}
		l.Close()
		l = open(t, c)
		if bad := anchored(t, l, p); len(bad) > 0 {
			t.Errorf("after the gap was admitted: %+v", bad)
		}
		if _, err := l.Continue(ctx, act(keys.TenantID{}, "x")); err == nil {
			t.Error("continued where nothing is ahead")
		}
		do(t, l, act(tenantA, "export"), Done)
	}
}

func TestJunkInAStoreIsNoAnchor(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	copyTo(t, l, p)
	head, err := l.Head(context.Background(), keys.TenantID{})
	if err != nil {
		t.Fatal(err)
	}
	forged := head
	forged.Size, forged.Incarnation = 1000, 1
	if err := forged.sign(testSigner(9)); err != nil {
		t.Fatal(err)
	}
	s.objects[checkpointKey(forged)] = []byte(forged.Note)
	forged.Incarnation = 7
	s.objects[checkpointKey(forged)] = []byte(forged.Note)
	s.objects[checkpointKeys+"x"] = nil
	all, err := l.CheckAnchors(context.Background(), []Place{p})
	if err != nil {
		t.Fatal(err)
	}
	junk := 0
	for _, a := range all {
		if a.conflicts() {
			t.Errorf("%+v", a)
		}
		if errors.Is(a.Err, keys.ErrUnknownBox) {
			junk++
		}
	}
	if junk != 1 || len(all) != 4 {
		t.Errorf("%d anchors, %d of them junk", len(all), junk)
	}
	do(t, l, act(tenantA, "export"), Done)
	again := c
	again.Path, again.Incarnation = filepath.Join(t.TempDir(), "again"), 2
	if err := Rebuild(context.Background(), again, p, secretOf); err != nil {
		t.Errorf("rebuild beside junk: %v", err)
	}
	forged.Incarnation = 1 // and one that the box did sign
	if err := forged.sign(c.Signer); err != nil {
		t.Fatal(err)
	}
	s.objects[checkpointKey(forged)] = []byte(forged.Note)
	if bad := anchored(t, open(t, c), Place{"s", &shelf{t: t, objects: map[string][]byte{checkpointKey(forged): []byte(forged.Note)}}}); len(bad) != 1 {
		t.Errorf("anchors %+v", bad)
	}
}

func TestHarmedCopyIsNotRebuilt(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	for range 140 {
		do(t, l, act(tenantA, Backup), Done)
	}
	copyTo(t, l, p)
	c.Incarnation = 2
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		whole := s.objects[key]
		if strings.HasPrefix(key, tileKeys) && !strings.Contains(key, "/data/") {
			continue // hashes are computed from the entries
		}
		s.objects[key] = bytes.Clone(whole)
		s.objects[key][len(whole)/2] ^= 1
		c.Path = filepath.Join(t.TempDir(), "again")
		if err := Rebuild(context.Background(), c, p, secretOf); err == nil {
			t.Errorf("%s: a bit was flipped, and the ledger rebuilt", key)
		}
		if _, err := os.Lstat(c.Path); err == nil {
			t.Errorf("%s: something is left", key)
		}
		s.objects[key] = whole
	}
}

// Who has the catalogue key, and not the box's, can seal other entries.
func TestEntriesOfAnotherHandAreNotRebuilt(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	do(t, l, act(tenantA, Backup), Done)
	copyTo(t, l, p)
	key := tileKey(tenantA, 1, tlog.Tile{H: tileHeight, L: -1, N: 0, W: 3})
	plain, err := openTile(catalogues[tenantA], key, s.objects[key])
	if err != nil {
		t.Fatal(err)
	}
	if s.objects[key], err = sealTile(catalogues[tenantA], key, bytes.Replace(plain, []byte(`"nora"`), []byte(`"nina"`), 1)); err != nil {
		t.Fatal(err)
	}
	c.Path, c.Incarnation = filepath.Join(t.TempDir(), "again"), 2
	if err := Rebuild(context.Background(), c, p, secretOf); !errors.Is(err, ErrTampered) {
		t.Errorf("rebuilt of changed entries: %v", err)
	}
}

func TestGapCoversWhatWasLostAndNoMore(t *testing.T) {
	g := gap{tenant: tenantA, from: 10, to: 20, root: tlog.Hash{1}, incarnation: 3}
	for _, c := range []struct {
		what string
		c    Checkpoint
		want bool
	}{
		{"the anchor", Checkpoint{Tenant: tenantA, Size: 20, Root: tlog.Hash{1}, Incarnation: 3}, true},
		{"another of its size", Checkpoint{Tenant: tenantA, Size: 20, Root: tlog.Hash{2}, Incarnation: 3}, false},
		{"one between", Checkpoint{Tenant: tenantA, Size: 11, Root: tlog.Hash{9}, Incarnation: 3}, true},
		{"an earlier incarnation's", Checkpoint{Tenant: tenantA, Size: 11, Root: tlog.Hash{9}, Incarnation: 2}, true},
		{"of what both have", Checkpoint{Tenant: tenantA, Size: 10, Root: tlog.Hash{9}, Incarnation: 3}, false},
		{"beyond", Checkpoint{Tenant: tenantA, Size: 21, Root: tlog.Hash{1}, Incarnation: 3}, false},
		{"a later incarnation's", Checkpoint{Tenant: tenantA, Size: 11, Root: tlog.Hash{9}, Incarnation: 4}, false},
		{"another log's", Checkpoint{Tenant: tenantB, Size: 20, Root: tlog.Hash{1}, Incarnation: 3}, false},
	} {
		if g.covers(c.c) != c.want {
			t.Errorf("%s: covered %v, want %v", c.what, !c.want, c.want)
		}
	}
}

func TestLogWhoseKeyIsGoneIsAdmittedToBeLost(t *testing.T) {
	ctx := context.Background()
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l, s := newLedger(t, c), newShelf(t)
	p := Place{"s", s}
	do(t, l, act(tenantA, Backup), Done)
	do(t, l, act(tenantB, Backup), Done)
	copyTo(t, l, p)
	lost, err := l.Head(ctx, tenantA)
	if err != nil {
		t.Fatal(err)
	}
	c.Path, c.Incarnation = filepath.Join(t.TempDir(), "again"), 2
	without := func(id keys.TenantID) (Secret, error) {
		if id == tenantA {
			return nil, ErrNoSecret
		}
		return secretOf(id)
	}
	if err := Rebuild(ctx, c, p, without); err != nil {
		t.Fatal(err)
	}
	ask := python(t)
	key := c.Signer.Public()
	for range 2 { // also after it was opened once more, and written to
		r := open(t, c)
		if bad := anchored(t, r, p); len(bad) > 0 {
			t.Errorf("anchors %+v", bad)
		}
		if err := r.AddTenant(ctx, act(tenantA, Begin)); !errors.Is(err, ErrNoTenant) {
			t.Errorf("a lost log began again: %v", err)
		}
		do(t, r, act(tenantB, "export"), Done)
		if err := r.Copy(ctx, p, without); err != nil {
			t.Error(err)
		}
		r.Close()
		report, err := Verify(ctx, c.Path, c.Trust, []Checkpoint{lost})
		if err != nil || report.Gaps() != 1 {
			t.Errorf("%+v, %v", report, err)
		}
		if said, ok := ask("ledger", c.Path, key.String()); !ok {
			t.Error(said)
		}
	}
	// The gap is of that log, and of no other.
	if err := os.RemoveAll(filepath.Join(c.Path, tenantB.String())); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(ctx, c.Path, c.Trust, nil); !errors.Is(err, ErrTampered) {
		t.Errorf("another log is gone: %v", err)
	}
	if said, ok := ask("ledger", c.Path, key.String()); ok {
		t.Errorf("another log is gone: %s", said)
	}
	if _, _, err := Open(ctx, c); !errors.Is(err, ErrTampered) {
		t.Errorf("another log is gone: %v", err)
	}
}
