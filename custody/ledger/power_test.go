package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"strongroom/custody/keys"
	"strongroom/repo/store/storetest"
)

// acked is what was promised: the text of entries, by log.
type acked map[keys.TenantID]map[int64]string

func (a acked) keep(t *testing.T, e Entry) {
	t.Helper()
	raw, err := e.bytes()
	if err != nil {
		t.Fatal(err)
	}
	if a[e.Tenant] == nil {
		a[e.Tenant] = map[int64]string{}
	}
	a[e.Tenant][e.Number] = string(raw)
}

// live opens a ledger and does random acts until the power is cut or there were
// enough. It counts intents whose outcome was acknowledged or not.
func live(t *testing.T, c Config, acts int, chance *rand.Rand, promised acked) {
	t.Helper()
	ctx := context.Background()
	l, _, err := Open(ctx, c)
	if err != nil {
		if !errors.Is(err, storetest.ErrNoPower) {
			t.Fatal(err)
		}
		return
	}
	defer func() { // the process is gone, and ends nothing
		l.drop()
	}()
	var open []*Intent
	for range acts {
		id := []keys.TenantID{{}, tenantA, tenantA, tenantB}[chance.IntN(4)]
		i, err := l.Intend(ctx, act(id, Backup))
		if err != nil {
			return
		}
		promised.keep(t, i.entry)
		open = append(open, i)
		if chance.IntN(3) == 0 {
			continue
		}
		n := chance.IntN(len(open))
		if err := open[n].Outcome(ctx, Done, map[string]string{"rows": fmt.Sprint(n)}); err != nil {
			return
		}
		e := entryOf(t, l, open[n].entry)
		promised.keep(t, e)
		open = append(open[:n], open[n+1:]...)
	}
}

// entryOf reads the outcome of an intent from memory: reading draws no power.
func entryOf(t *testing.T, l *Ledger, intent Entry) Entry {
	t.Helper()
	g := l.system
	if intent.Tenant != (keys.TenantID{}) {
		g = l.logs[intent.Tenant]
	}
	for i := len(g.records) - 1; i >= 0; i-- {
		if e, err := ParseEntry(g.records[i].entry); err == nil && e.Phase == Ended && e.Intent == intent.Number {
			return e
		}
	}
	t.Fatalf("no outcome of %d", intent.Number)
	return Entry{}
}

// check opens what is left of a ledger, as the next start does.
func (a acked) check(t *testing.T, c Config, what string) {
	t.Helper()
	l, r, err := Open(context.Background(), c)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer l.Close()
	for id, want := range a {
		for n, text := range want {
			e, err := l.Entries(context.Background(), id, n, n+1)
			if err != nil || len(e) != 1 {
				t.Fatalf("%s: entry %d of log %s was acknowledged and is gone: %v; %+v", what, n, logName(id), err, r)
			}
			if raw, err := e[0].bytes(); err != nil || string(raw) != text {
				t.Fatalf("%s: entry %d of log %s is\n%s, was\n%s", what, n, logName(id), raw, text)
			}
		}
	}
	report, err := Verify(context.Background(), c.Path, c.Trust, nil)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, log := range report.Logs {
		if len(log.Open) > 0 {
			t.Errorf("%s: %d acts of dead processes are open", what, len(log.Open))
		}
	}
}

// The power is cut at every operation (in the short tier, every third) of some acts, at the beginning of logs
// and where their segments become tiles, twice over: after what is left was
// opened, in the middle of that, and once more.
func TestPowerCutsLoseNothingThatWasAcknowledged(t *testing.T) {
	runs := storetest.CountRuns(t, "ledger: power cut at any operation, three times")
	for _, acts := range []int{1, 124} {
		template := filepath.Join(t.TempDir(), "template")
		l := newLedger(t, testConfig(template))
		for range acts {
			do(t, l, act(tenantA, Backup), Done)
		}
		l.Close()
		step := 3
		if storetest.Full() {
			step = 1
		} else if testing.Short() { // beside the race detector
			step = 10
		}
		runs.Seeds(2, 100, func(t *testing.T, seed uint64) {
			cuts := 0
			for at := 1 + int(seed)%step; powerLife(t, template, at, seed); at += step {
				cuts++
			}
			runs.Add(cuts - 1)
			if cuts*step < 20 { // six acts are some thirty operations
				t.Errorf("only %d operations", cuts*step)
			}
		})
	}
}

// powerLife reports whether the power was cut at all.
func powerLife(t *testing.T, template string, at int, seed uint64) bool {
	t.Helper()
	chance := rand.New(rand.NewPCG(seed, uint64(at)))
	c := testConfig(filepath.Join(t.TempDir(), "ledger"))
	c.Reserve = 1
	if err := os.CopyFS(c.Path, os.DirFS(template)); err != nil {
		t.Fatal(err)
	}
	promised := acked{}
	power := &storetest.Power{}
	for life := range 3 {
		disk, err := storetest.NewDisk(c.Path, power)
		if err != nil {
			t.Fatal(err)
		}
		c.System = disk
		power.CutAt(at+life*chance.IntN(5), chance.IntN(2) == 0)
		live(t, c, 6, chance, promised)
		if !power.Off() {
			if life == 0 {
				return false
			}
			break
		}
		c.Path = filepath.Join(t.TempDir(), fmt.Sprint("life-", life))
		if err := os.Mkdir(c.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := disk.Survive(c.Path, chance); err != nil {
			t.Fatal(err)
		}
		chmod(t, c.Path)
		power = &storetest.Power{}
	}
	c.System = lazy{}
	promised.check(t, c, fmt.Sprintf("cut at %d, seed %d", at, seed))
	return true
}

func chmod(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(name, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
