package job

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/source/loader"
)

// retained is a site with generations of five snapshots, three stores, and one
// dataset: a database, or a directory if that is empty.
func retained(t *testing.T, keep string) (*Site, string) {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("state_dir = %q\n", filepath.Join(dir, "state"))
	for _, name := range []string{"one", "two", "three"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", name, filepath.Join(dir, name))
	}
	text += fmt.Sprintf("[[tenant]]\nname = \"acme\"\nlevel = \"top-secret\"\n[[tenant.dataset]]\nname = \"crm\"\nsource = \"sqlite\"\npath = %q\n[tenant.dataset.keep]\ngrace = \"24h\"\n%s\n", filepath.Join(dir, "crm.db"), keep)
	c, err := config.Parse(filepath.Join(dir, "c.toml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), c, InitOptions{SharesDir: filepath.Join(dir, "shares"), Now: time.Now()}, t.Logf); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSite(c, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

// query changes the database.
func query(t *testing.T, dir, q string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "crm.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(q, args...); err != nil {
		t.Fatal(err)
	}
}

func customers(t *testing.T, dir string) {
	query(t, dir, `CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, address TEXT, note TEXT);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 4000)
		INSERT INTO customer SELECT i, 'Customer number ' || i, (i * 7919 % 997) || ' Example Road, Sampletown', 'ordered ' || (i % 13) || ' items, asked for a call back about the delivery' FROM n`)
}

func mustBackup(t *testing.T, s *Site) *BackupResult {
	t.Helper()
	r, err := s.Backup(t.Context(), "acme", "crm", BackupOptions{Tool: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expireAt runs an expiry some time from now and returns its plan.
func expireAt(t *testing.T, s *Site, later time.Duration, dry bool) (*ExpireResult, error) {
	t.Helper()
	var plan *ExpireResult
	err := s.Expire(t.Context(), "acme", "crm", ExpireOptions{DryRun: dry, Now: func() time.Time { return time.Now().Add(later).Truncate(time.Hour) },
		Plan: func(r *ExpireResult) error { plan = r; return nil }})
	return plan, err
}

// Somebody encrypts columns in place: no row is missing, the schema is the same.
// The next backup says so, and from then on nothing older expires, however many
// backups of the ciphertext follow.
func TestColumnsEncryptedInPlaceFreezeTheDataset(t *testing.T) {
	s, dir := retained(t, "last = 1")
	customers(t, dir)
	var clean *BackupResult
	for i := range 3 {
		query(t, dir, "UPDATE customer SET note = 'called on day ' || ? WHERE id % 50 = ?", i, i)
		if clean = mustBackup(t, s); len(clean.Catalogue.Anomalies) > 0 {
			t.Fatalf("a week like any: %q", clean.Catalogue.Anomalies)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "crm.db"))
	if err != nil {
		t.Fatal(err)
	}
	encryptColumns(t, dir)
	r := mustBackup(t, s)
	if len(r.Catalogue.Anomalies) != 1 || !strings.Contains(r.Catalogue.Anomalies[0], "looks encrypted") {
		t.Fatalf("ciphertext: %q", r.Catalogue.Anomalies)
	}
	for range 9 { // generations of five: the clean ones lie in one that is closed
		mustBackup(t, s)
	}
	p, err := expireAt(t, s, time.Hour, false)
	if exit.Of(err) != exit.Refused || len(p.Frozen) != 1 || !strings.Contains(p.Frozen[0], "looks encrypted") || len(p.Bury) > 0 {
		t.Fatalf("%v, %+v", err, p)
	}
	out := filepath.Join(dir, "out.db")
	if _, _, err := s.Restore(t.Context(), "acme", "crm", clean.Snapshot, loader.Options{To: out}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, before) {
		t.Errorf("what was there before is not what comes back: %v", err)
	}
	// A person says that it is right, and it expires like any.
	if _, _, err := s.Accept(t.Context(), "acme", "crm", r.Snapshot, " ", time.Now()); exit.Of(err) != exit.Usage {
		t.Errorf("accepted without a reason: %v", err)
	}
	if _, _, err := s.Accept(t.Context(), "acme", "crm", clean.Snapshot, "it looks well", time.Now()); exit.Of(err) != exit.Refused {
		t.Errorf("nothing was wrong with it, and it was accepted: %v", err)
	}
	if _, what, err := s.Accept(t.Context(), "acme", "crm", r.Snapshot, "column encryption was introduced", time.Now()); err != nil || len(what) != 1 {
		t.Fatalf("%q, %v", what, err)
	}
	if p, err = expireAt(t, s, time.Hour, true); err != nil || len(p.Frozen) > 0 || len(p.Bury) != 2 {
		t.Errorf("accepted: %v, %d frozen, %d buried", err, len(p.Frozen), len(p.Bury))
	}
}

func encryptColumns(t *testing.T, dir string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "crm.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	stream := cipher.NewCTR(block, make([]byte, 16))
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for id := 1; id <= 4000; id++ {
		var address, note string
		if err := tx.QueryRow("SELECT address, note FROM customer WHERE id = ?", id).Scan(&address, &note); err != nil {
			t.Fatal(err)
		}
		for _, v := range []*string{&address, &note} {
			b := []byte(*v)
			stream.XORKeyStream(b, b)
			*v = base64.StdEncoding.EncodeToString(b)
		}
		if _, err := tx.Exec("UPDATE customer SET address = ?, note = ? WHERE id = ?", address, note, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestADryRunPrintsWhatTheRealOneDoes(t *testing.T) {
	s, dir := retained(t, "last = 1")
	customers(t, dir)
	for range 9 {
		mustBackup(t, s)
	}
	acted := 0
	for _, later := range []time.Duration{time.Hour, 2 * time.Hour, 48 * time.Hour, 49 * time.Hour} {
		before := storeFiles(t, dir)
		dry, err := expireAt(t, s, later, true)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(before, storeFiles(t, dir)) {
			t.Fatal("a dry run changed a store")
		}
		real, err := expireAt(t, s, later, false)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(dry)
		b, _ := json.Marshal(real)
		if !bytes.Equal(a, b) {
			t.Errorf("dry %s\nreal %s", a, b)
		}
		// What it says it does is what happens.
		after := storeFiles(t, dir)
		buried, deleted := 3*len(real.Bury), 0
		for _, d := range real.Delete {
			deleted += d.Objects
		}
		if len(after) != len(before)+buried-deleted {
			t.Errorf("%d files before, %d after, %d tombstones, %d deletions", len(before), len(after), buried, deleted)
		}
		acted += buried + deleted
	}
	if acted < 20 {
		t.Errorf("the runs did %d things", acted)
	}
}

func storeFiles(t *testing.T, dir string) (out []string) {
	t.Helper()
	for _, name := range []string{"one", "two", "three"} {
		found, err := filepath.Glob(filepath.Join(dir, name, "*", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

func TestHoldsLastAndAreStrict(t *testing.T) {
	s, dir := retained(t, "last = 1")
	customers(t, dir)
	for range 6 {
		mustBackup(t, s)
	}
	for _, scope := range []string{"acme", "acme/crm", "acme/crm@latest"} {
		if _, err := s.AddHold(t.Context(), scope, "lawsuit", time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AddHold(t.Context(), scope, "lawsuit", time.Now()); exit.Of(err) != exit.Refused {
			t.Errorf("%s twice: %v", scope, err)
		}
		if p, err := expireAt(t, s, time.Hour, false); exit.Of(err) != exit.Refused || len(p.Frozen) != 1 {
			t.Errorf("%s: %v", scope, err)
		}
		if err := s.RemoveHold(t.Context(), scope); err != nil {
			t.Fatal(err)
		}
	}
	for _, scope := range []string{"other", "acme/crm2", "acm"} {
		if _, err := s.AddHold(t.Context(), scope, "lawsuit", time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := expireAt(t, s, time.Hour, true); err != nil || len(p.Frozen) > 0 {
		t.Errorf("holds on others: %v", err)
	}
	if err := s.RemoveHold(t.Context(), "acme"); exit.Of(err) != exit.Usage {
		t.Errorf("none to remove: %v", err)
	}
	if _, err := s.AddHold(t.Context(), "acme", "two\nlines", time.Now()); exit.Of(err) != exit.Usage {
		t.Errorf("two lines: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state", holdsName), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := expireAt(t, s, time.Hour, true); err == nil {
		t.Error("expires without knowing the holds")
	}
}

func compactSite(t *testing.T, s *Site, without string) (*CompactResult, error) {
	t.Helper()
	var plan *CompactResult
	o := CompactOptions{Without: without, Tool: "test", Plan: func(r *CompactResult) error { plan = r; return nil }, Copied: func(*repo.Snapshot, string) {}}
	if without != "" {
		o.Reason = "asked for"
	}
	return plan, s.Compact(t.Context(), "acme", "crm", o)
}

func TestCompactWithoutASnapshot(t *testing.T) {
	s, dir := retained(t, "last = 4")
	customers(t, dir)
	held := map[string][]byte{}
	var ids []string
	for i := range 6 {
		query(t, dir, "UPDATE customer SET note = 'called on day ' || ? WHERE id % 50 = ?", i, i)
		r := mustBackup(t, s)
		b, err := os.ReadFile(filepath.Join(dir, "crm.db"))
		if err != nil {
			t.Fatal(err)
		}
		held[r.Snapshot], ids = b, append(ids, r.Snapshot)
	}
	want := []string{ids[1], ids[2], ids[3], ids[5]} // the last four without it
	p, err := compactSite(t, s, ids[4])
	if err != nil || !slices.Equal(p.Copy, want) || p.Without != ids[4] {
		t.Fatalf("%v: %+v", err, p)
	}
	if p, err = compactSite(t, s, ""); err != nil || len(p.Copy) > 0 {
		t.Errorf("again: %v, %+v", err, p)
	}
	for n, later := range []time.Duration{time.Hour, 48 * time.Hour, 49 * time.Hour, 50 * time.Hour, 51 * time.Hour} {
		if r, err := expireAt(t, s, later, false); err != nil || n == 0 && len(r.Bury) != 2 {
			t.Fatalf("%v: %+v", err, r)
		}
	}
	l, tenant, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Snapshots) != 4 || len(l.Buried) > 0 {
		t.Fatalf("%d listed, %d buried", len(l.Snapshots), len(l.Buried))
	}
	for i, snap := range l.Snapshots {
		out := filepath.Join(dir, fmt.Sprint("out", i))
		if _, _, err := s.Restore(t.Context(), "acme", "crm", snap.ID(), loader.Options{To: out}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, held[want[i]]) {
			t.Errorf("copy %d is not %s: %v", i, want[i], err)
		}
		if epoch, sequence := snap.Place(); fmt.Sprint(epoch, sequence) != []string{"1 2", "1 3", "1 4", "2 1"}[i] {
			t.Errorf("copy %d has place %d.%d", i, epoch, sequence)
		}
	}
	// The next one builds on the copies, and a key that opens nothing is gone.
	if r := mustBackup(t, s); r.Epoch != 3 || r.Sequence != 5 {
		t.Errorf("the next is %d.%d", r.Epoch, r.Sequence)
	}
	for _, stone := range l.Tombstones {
		if key, err := (boxKeys{s.Box, tenant}).Generation(repo.ID(tenant.ID), stone.Dataset, stone.Generation); err != nil || key != nil {
			t.Errorf("the key of generation %d: %v, %v", stone.Epoch, key != nil, err)
		}
	}
}

func TestCompactNeedsTheKeysOfWhatItCopies(t *testing.T) {
	s, dir := retained(t, "last = 4")
	customers(t, dir)
	for range 6 {
		mustBackup(t, s)
	}
	l, tenant, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	first := l.Snapshots[0]
	if err := s.Box.DiscardGeneration(tenant.ID, keys.DatasetID(first.Dataset), keys.GenerationID(first.Generation)); err != nil {
		t.Fatal(err)
	}
	before := storeFiles(t, dir)
	if _, err := compactSite(t, s, ""); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "released first") {
		t.Errorf("a closed generation: %v", err)
	}
	if !slices.Equal(before, storeFiles(t, dir)) {
		t.Error("refused, and yet a store changed")
	}
}

// A compaction is interrupted after each copy: what is newest is never an old
// one, and the next run goes on.
func TestCompactGoesOnWhereItWas(t *testing.T) {
	s, dir := retained(t, "last = 4")
	customers(t, dir)
	for range 6 {
		mustBackup(t, s)
	}
	l, _, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	newest := l.Snapshots[5]
	stop := errors.New("stop")
	for n := range 4 {
		o := CompactOptions{Tool: "test", Plan: func(r *CompactResult) error {
			if len(r.Copy) != 4-n || len(r.Done) != n {
				t.Errorf("run %d: copies %q, done %q", n, r.Copy, r.Done)
			}
			return nil
		}, Copied: func(*repo.Snapshot, string) { panic(stop) }}
		func() {
			defer func() {
				if r := recover(); r != stop {
					t.Errorf("run %d ended with %v", n, r)
				}
			}()
			t.Errorf("run %d: %v", n, s.Compact(t.Context(), "acme", "crm", o))
		}()
		l, _, err := s.Listing(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Find(newest.Dataset, "latest")
		if err != nil {
			t.Fatal(err)
		}
		if epoch, sequence := got.Place(); epoch != 2 || sequence != 1 || (n < 3) != (got.Hash() == newest.Hash()) {
			t.Errorf("after %d copies the newest is %d.%d of place %d.%d", n+1, got.Epoch, got.Sequence, epoch, sequence)
		}
	}
	if p, err := compactSite(t, s, ""); err != nil || len(p.Copy) > 0 {
		t.Errorf("all copied: %v, %+v", err, p)
	}
	if l, _, err = s.Listing(t.Context(), "acme"); err != nil || len(l.Snapshots) != 10 {
		t.Errorf("%d snapshots, %v", len(l.Snapshots), err)
	}
}

// What a reading found bad does not count as passed, though every listing shows
// it: what came before it stays until it was made again.
func TestWhatWasReadBadDoesNotPass(t *testing.T) {
	s, dir := retained(t, "last = 1")
	customers(t, dir)
	for range 9 { // generations of five: the first may go
		mustBackup(t, s)
	}
	newest := generationOf(t, s, 2)
	flipShards(t, filepath.Join(dir, "one"), newest)
	if plan, err := expireAt(t, s, time.Hour, true); err != nil || len(plan.Bury) != 1 {
		t.Fatalf("before anybody read it: %+v, %v", plan, err)
	}
	if r, err := s.Check(t.Context(), CheckOptions{ReadData: 100}); err != nil || r.Good == r.Shards || r.Margin != 0 {
		t.Fatalf("the check found nothing: %+v, %v", r, err)
	}
	plan, err := expireAt(t, s, time.Hour, true)
	if err != nil || len(plan.Bury) != 0 || !strings.Contains(strings.Join(plan.Generations[0].Kept, "; "), "no newer generation is proven to restore") {
		t.Errorf("after: %+v, %v", plan, err)
	}
	if r, err := s.Repair(t.Context(), RepairOptions{}); err != nil || !r.Whole() {
		t.Fatalf("repair: %+v, %v", r, err)
	}
	if plan, err := expireAt(t, s, time.Hour, true); err != nil || len(plan.Bury) != 1 {
		t.Errorf("after a repair: %+v, %v", plan, err)
	}
}

// generationOf returns the id of the dataset's generation of an epoch.
func generationOf(t *testing.T, s *Site, epoch uint32) string {
	t.Helper()
	l, _, err := s.Listing(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, snap := range l.Snapshots {
		if snap.Epoch == epoch {
			return snap.Generation.String()
		}
	}
	t.Fatalf("no generation %d", epoch)
	return ""
}

// flipShards changes a byte in each shard of a generation on a store.
func flipShards(t *testing.T, store, generation string) {
	t.Helper()
	shards, err := filepath.Glob(filepath.Join(store, "*", generation, "s-*"))
	if err != nil || len(shards) == 0 {
		t.Fatal(shards, err)
	}
	for _, path := range shards {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}
