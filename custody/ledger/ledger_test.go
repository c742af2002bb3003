package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
)

// lazy is the kernel without its slowest duty, for tests that are not about it.
type lazy struct{ kernel }

func (lazy) Sync(*os.File) error { return nil }

func testSigner(n byte) *keys.Signer {
	seed, err := secret.FromBytes(append(make([]byte, secret.Size-1), n))
	if err != nil {
		panic(err)
	}
	return keys.NewSigner(seed)
}

var (
	tenantA = keys.TenantID{0xa}
	tenantB = keys.TenantID{0xb}
)

func testConfig(path string) Config {
	s := testSigner(1)
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var mu sync.Mutex
	return Config{Path: path, Signer: s, Incarnation: 1, Trust: keys.BoxKeys{{Public: s.Public(), First: 1}},
		Reserve: 4 << 20, System: lazy{}, Now: func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			now = now.Add(time.Second)
			return now
		}}
}

func act(t keys.TenantID, k Kind) Act {
	return Act{Tenant: t, Kind: k, Actor: "nora", Role: "operator", Source: "tty1", Fields: map[string]string{"dataset": "crm"}}
}

// newLedger makes a ledger with the logs of two tenants.
func newLedger(t *testing.T, c Config) *Ledger {
	t.Helper()
	if _, err := Create(c, act(keys.TenantID{}, "x")); err != nil {
		t.Fatal(err)
	}
	l := open(t, c)
	for _, id := range []keys.TenantID{tenantA, tenantB} {
		if err := l.AddTenant(context.Background(), act(id, "x")); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func open(t *testing.T, c Config) *Ledger {
	t.Helper()
	l, _, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// do does an act from end to end.
func do(t *testing.T, l *Ledger, a Act, r Result) *Intent {
	t.Helper()
	i, err := l.Intend(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Outcome(context.Background(), r, nil); err != nil {
		t.Fatal(err)
	}
	return i
}

func entries(t *testing.T, l *Ledger, id keys.TenantID) []Entry {
	t.Helper()
	all, err := l.Entries(context.Background(), id, 0, maxSize)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestActsAreInTheirTenantsLogAndLinkedFromTheSystems(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	i := do(t, l, act(tenantA, Backup), Done)
	if n := i.Entry().Number; n != 1 {
		t.Errorf("first act is entry %d", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, c)
	a, b := entries(t, l, tenantA), entries(t, l, tenantB)
	if len(a) != 3 || len(b) != 1 {
		t.Fatalf("%d and %d entries", len(a), len(b))
	}
	if a[1].Phase != Intended || a[2].Phase != Ended || a[2].Intent != 1 || a[2].Result != Done || a[2].Actor != "nora" || a[1].Fields["dataset"] != "crm" {
		t.Errorf("entries %+v", a)
	}
	var last link
	for _, e := range entries(t, l, keys.TenantID{}) {
		if e.Act == Link && e.Fields["log"] == tenantA.String() {
			var err error
			if last, err = parseLink(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	head, err := l.Head(context.Background(), tenantA)
	if err != nil || last.Size != 3 || tlog.Hash(last.Root) != head.Root || head.Size != 3 {
		t.Errorf("link %+v, head %+v, %v", last, head, err)
	}
}

func TestLogGrowsOverTilesAndIsWhatTlogSays(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	open1, err := l.Intend(context.Background(), act(tenantA, Drill)) // open over several segments
	if err != nil {
		t.Fatal(err)
	}
	for range 260 {
		do(t, l, act(tenantA, Backup), Failed)
	}
	l2 := open(t, c)
	defer l2.Close()
	for _, l := range []*Ledger{l, l2, l} { // each finds what the other wrote
		do(t, l, act(tenantA, Backup), Done)
	}
	if err := open1.Outcome(context.Background(), Done, nil); err != nil {
		t.Errorf("outcome of an act from before: %v", err)
	}
	for _, id := range []keys.TenantID{{}, tenantA} {
		all, stored := entries(t, l2, id), []tlog.Hash{}
		reader := tlog.HashReaderFunc(func(x []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, i := range x {
				out = append(out, stored[i])
			}
			return out, nil
		})
		for n, e := range all {
			raw, err := e.bytes()
			if err != nil || e.Number != int64(n) {
				t.Fatalf("entry %d: number %d, %v", n, e.Number, err)
			}
			h, err := tlog.StoredHashes(int64(n), raw, reader)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, h...)
		}
		want, err := tlog.TreeHash(int64(len(all)), reader)
		head, err2 := l2.Head(context.Background(), id)
		if err != nil || err2 != nil || head.Root != want || head.Size != int64(len(all)) || len(all) < 2*tileWidth {
			t.Errorf("log %s: %d entries, head %+v, want root %s; %v %v", logName(id), len(all), head, want, err, err2)
		}
	}
}

func TestWhatAProcessLeftOpenIsInterrupted(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	if _, err := l.Intend(context.Background(), act(tenantB, Backup)); err != nil {
		t.Fatal(err)
	}
	other, r, err := Open(context.Background(), c)
	if err != nil || len(r.Interrupted) != 0 {
		t.Fatalf("beside a process that lives: %+v, %v", r, err)
	}
	other.Close()
	l.alive.Close() // as the kernel does when it dies
	after, r, err := Open(context.Background(), c)
	if err != nil || len(r.Interrupted) != 1 || r.Interrupted[0].Act != Backup || r.Interrupted[0].Number != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := entries(t, after, tenantB)
	if e := all[len(all)-1]; e.Result != Interrupted || e.Intent != 1 || e.Actor != self {
		t.Errorf("last entry %+v", e)
	}
	after.Close()
	if after, r, err = Open(context.Background(), c); err != nil || len(r.Interrupted) != 0 {
		t.Errorf("again: %+v, %v", r, err)
	}
	after.Close()
}

func TestOutcomeIsWrittenOnce(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	i := do(t, l, act(tenantA, Backup), Done)
	ctx := context.Background()
	if err := i.Outcome(ctx, Done, nil); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := i.Outcome(ctx, Failed, nil); !errors.Is(err, ErrOpen) {
		t.Errorf("another: %v", err)
	}
	if err := i.Outcome(ctx, Interrupted, nil); err == nil {
		t.Error("interrupted is the ledger's word")
	}
	if n := len(entries(t, l, tenantA)); n != 3 {
		t.Errorf("%d entries", n)
	}
	for _, k := range []Kind{Link, "Backup", "", "a--b", "-a"} {
		if _, err := l.Record(ctx, act(tenantA, k)); err == nil {
			t.Errorf("kind %q was taken", k)
		}
	}
	if _, err := l.Intend(ctx, act(keys.TenantID{9}, Backup)); !errors.Is(err, ErrNoTenant) {
		t.Errorf("unknown tenant: %v", err)
	}
	bad := act(tenantA, Backup)
	bad.Fields = map[string]string{"why": "a\nb"}
	if _, err := l.Intend(ctx, bad); err == nil {
		t.Error("a field of two lines was taken")
	}
}

func TestProcessesWriteAtOnce(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	var wg sync.WaitGroup
	for p := range 4 {
		mine := l
		if p%2 == 1 {
			mine = open(t, c)
		}
		wg.Go(func() {
			for n := range 40 {
				a := act([]keys.TenantID{{}, tenantA, tenantB}[(n+p)%3], Backup)
				i, err := mine.Intend(context.Background(), a)
				if err == nil {
					err = i.Outcome(context.Background(), Done, nil)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 { // an auditor looks on
			if _, err := Verify(context.Background(), c.Path, c.Trust, nil); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	l.Close()
	after, r, err := Open(context.Background(), c)
	if err != nil || len(r.Interrupted) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	defer after.Close()
	n := 0
	for _, id := range []keys.TenantID{{}, tenantA, tenantB} {
		for _, e := range entries(t, after, id) {
			if e.Phase == Ended {
				n++
			}
		}
	}
	if n != 160 {
		t.Errorf("%d outcomes of 160 acts", n)
	}
}

func TestMissingLedgerIsNotMadeByOpening(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	if _, _, err := Open(context.Background(), c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("no directory: %v", err)
	}
	l := newLedger(t, c)
	l.Close()
	if _, err := Create(c, act(keys.TenantID{}, "x")); !errors.Is(err, ErrExists) {
		t.Errorf("made over another: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(c.Path, systemName)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(context.Background(), c); !errors.Is(err, ErrNoLedger) {
		t.Errorf("no system log: %v", err)
	}
	if _, err := Create(c, act(keys.TenantID{}, "x")); !errors.Is(err, ErrExists) {
		t.Errorf("made over tenants' logs: %v", err)
	}
}

func TestTornTailIsDroppedAndDamageIsNot(t *testing.T) {
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	l := newLedger(t, c)
	for range 5 {
		do(t, l, act(tenantA, Backup), Done)
	}
	l.Close()
	name := l.logs[tenantA].segmentName(l.logs[tenantA].seq)
	whole, err := os.ReadFile(filepath.Join(c.Path, name))
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(c.Path, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(append(whole, "\x00\x00\x02\x00a torn record"...))
	l, r, err := Open(context.Background(), c)
	if err != nil || r.Dropped[tenantA] != 17 {
		t.Fatalf("%+v, %v", r, err)
	}
	all := entries(t, l, tenantA)
	if e := all[len(all)-1]; e.Act != Repaired || e.Fields["dropped-bytes"] != "17" || len(all) != 12 {
		t.Errorf("%d entries, last %+v", len(all), e)
	}
	l.Close()
	open(t, c).Close() // what was torn is no more in the way
	// The system log too, of which no other knows how long it is.
	for _, log := range []string{logName(tenantA), systemName} {
		list, err := fs.Glob(os.DirFS(c.Path), log+"/"+segmentPrefix+"*")
		if err != nil || len(list) != 1 {
			t.Fatalf("files %v, %v", list, err)
		}
		flipAll(t, c, list[0])
	}
}

// flipAll flips bits before the last record of a segment: none of them may be
// taken for what a crash leaves.
func flipAll(t *testing.T, c Config, name string) {
	t.Helper()
	path := filepath.Join(c.Path, name)
	whole := mustRead(t, path)
	chance := rand.New(rand.NewPCG(1, 2))
	last := bytes.LastIndex(whole, []byte(`{"number"`)) - 6 // begins the last record
	for range 150 {
		b := bytes.Clone(whole)
		at := chance.IntN(last)
		b[at] ^= 1 << chance.IntN(8)
		mustWrite(t, path, b)
		if l, r, err := Open(context.Background(), c); !errors.Is(err, ErrTampered) {
			if err == nil {
				l.Close()
			}
			t.Fatalf("%s: bit of byte %d of %d flipped: %+v, %v", name, at, last, r, err)
		}
	}
	mustWrite(t, path, whole)
}

func TestTreeReadsTilesOfManyLevels(t *testing.T) {
	const size = tileWidth*tileWidth + 3*tileWidth + 5
	stored := []tlog.Hash{}
	reader := tlog.HashReaderFunc(func(x []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range x {
			out = append(out, stored[i])
		}
		return out, nil
	})
	tr := &tree{edges: map[int]edge{}, read: func(at tlog.Tile) ([]byte, error) { return tlog.ReadTileData(at, reader) }}
	for n := range int64(size) {
		leaf := tlog.RecordHash(fmt.Append(nil, n))
		h, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, h...)
		if len(tr.leaves) == tileWidth {
			tr.base, tr.leaves = tr.base+tileWidth, nil
		}
		tr.leaves = append(tr.leaves, leaf)
		if n%1009 != 0 && n < size-300 {
			continue
		}
		want, err := tlog.TreeHash(n+1, reader)
		got, err2 := tr.root(n + 1)
		if err != nil || err2 != nil || got != want {
			t.Fatalf("root of %d: %s, want %s; %v %v", n+1, got, want, err, err2)
		}
	}
}
