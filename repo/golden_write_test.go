package repo_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
	"strongroom/custody/keys/share"
	"strongroom/repo"
)

// goldenKeys holds the one generation's key; capsules are real.
type goldenKeys struct {
	kit keys.Kit
	key keys.GenerationKey
	gen repo.ID
}

func (k *goldenKeys) Generation(_, _, g repo.ID) (repo.Secret, error) {
	if g != k.gen || k.gen == (repo.ID{}) {
		return nil, nil
	}
	return k.key, nil
}

func (k *goldenKeys) New(_, _, g repo.ID) (repo.Secret, error) {
	if k.gen != (repo.ID{}) {
		return nil, errors.New("a second generation")
	}
	k.gen, k.key = g, keys.NewGenerationKey()
	return k.key, nil
}

func (k *goldenKeys) Capsule(tenant, dataset, g repo.ID) ([]byte, error) {
	return keys.SealGeneration(k.kit.Key.Public, keys.TenantID(tenant), keys.DatasetID(dataset), keys.GenerationID(g), k.key)
}

type goldenSigner struct{ *keys.Signer }

func (s goldenSigner) Public() [32]byte { return s.Signer.Public() }

var goldenTime = time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)

// writeGolden makes the repository anew: three weeks of one dataset.
func writeGolden(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(goldenDir), os.MkdirAll(goldenDir, 0o755)); err != nil {
		t.Fatal(err)
	}
	g := &golden{goldenFacts: goldenFacts{Comment: "keys in the open: they protect only this test data",
		Tenant: keys.NewTenantID(), Dataset: keys.NewDatasetID()}}
	signer := goldenSigner{keys.NewSigner(secret.Random())}
	writeGoldenKeys(t, g, signer.Public())
	top := t.TempDir()
	for i := range goldenStores {
		g.stores = append(g.stores, filepath.Join(top, fmt.Sprint("store-", i)))
		if err := os.Mkdir(g.stores[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	state := t.TempDir()
	spool, err := repo.OpenSpool(filepath.Join(state, "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	holder, clock := &goldenKeys{kit: g.kit}, goldenTime
	config := repo.SaveConfig{Dataset: repo.ID(g.Dataset), Dir: state, Spool: spool, Keys: holder, Signer: signer,
		TenantKey: g.kit.Key.Fingerprint, Incarnation: 1, PerGeneration: 26, BaseCache: 1 << 30,
		Now: func() time.Time { clock = clock.Add(time.Minute); return clock }, Log: t.Logf}
	for week := range 3 {
		saveGolden(t, g, config, week)
		clock = clock.Add(7 * 24 * time.Hour)
	}
	g.Generation, g.GenerationKey = keys.GenerationID(holder.gen), hex.EncodeToString(holder.key.Reveal())
	b, err := json.MarshalIndent(g.goldenFacts, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	put(t, goldenDir, "expected.json", append(b, '\n'))
	put(t, goldenDir, "stores.tar.gz", archive(t, top))
}

// writeGoldenKeys makes R, its shares, T and the kit.
func writeGoldenKeys(t *testing.T, g *golden, box [32]byte) {
	t.Helper()
	shares, public, err := keys.InitRecovery(share.Standard, 3, 5, nil, goldenTime, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 2, 4} {
		put(t, goldenDir, fmt.Sprint("share-", i+1), shares[i].Format())
	}
	tenant, capsule, err := keys.SealTenant(public.Public, g.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	canary, _, err := keys.SealCanary(tenant, g.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	kit := keys.Kit{Tenant: "golden", ID: g.Tenant, Level: keys.Confidential, Recovery: public.Recovery,
		Key:       keys.TenantRecord{Fingerprint: tenant.Fingerprint(), Public: tenant, Capsule: capsule, Canary: canary},
		Catalogue: keys.NewCatalogueKey(), Boxes: keys.BoxKeys{{Public: box, First: 1}},
		Stores: []keys.KitStore{{Name: "store-0", Spec: "dir store-0"}, {Name: "store-1", Spec: "dir store-1"}, {Name: "store-2", Spec: "dir store-2"}},
		Binary: keys.Hash{1}, Copy: 1, Created: goldenTime}
	file, err := kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(t, goldenDir, "kit", file)
	if g.kit, err = keys.ParseKit(file); err != nil {
		t.Fatal(err)
	}
}

// saveGolden takes one snapshot and notes what a reader must find in it.
func saveGolden(t *testing.T, g *golden, config repo.SaveConfig, week int) {
	t.Helper()
	ctx := context.Background()
	s, err := g.open(t, g.stores).Begin(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	snap := goldenSnapshot{Label: fmt.Sprint("week-", week+1)}
	for i, st := range goldenStreams(week) {
		spec := repo.StreamSpec{Order: i, Name: st.name, Kind: st.kind, PageSize: st.page}
		if _, err := s.Add(ctx, spec, bytes.NewReader(st.data)); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(st.data)
		snap.Streams = append(snap.Streams, goldenStream{st.name, st.kind, int64(len(st.data)), hex.EncodeToString(sum[:])})
	}
	saved, err := s.Commit(ctx, repo.Commit{Catalogue: repo.Catalogue{Tenant: "golden", Dataset: "crm", Level: "confidential",
		Source: "command", Label: snap.Label, Tool: "golden_test.go"}, KeepUntil: goldenTime.AddDate(1, 0, 0),
		Detail: json.RawMessage(`{"made":"for the test"}`), Facts: map[string]json.RawMessage{"rows": json.RawMessage(`{"rows":3}`)}})
	if err != nil {
		t.Fatal(err)
	}
	snap.Sequence = saved.Sequence
	g.Snapshots = append(g.Snapshots, snap)
}

type goldenInput struct {
	name, kind string
	page       int
	data       []byte
}

// goldenStreams is what a week holds. In the second rows went and moved, so
// that their stream is many extents of the first week's blocks. All that is new
// in the third is noise, so that its block is stored raw.
func goldenStreams(week int) []goldenInput {
	noise := func(n int, seed byte) []byte {
		b := make([]byte, n)
		rand.NewChaCha8([32]byte{seed}).Read(b)
		return b
	}
	var rows bytes.Buffer
	for i := 0; rows.Len() < 1<<20+300<<10; i++ {
		fmt.Fprintf(&rows, "%d\tcustomer %d\tDüsseldorf\t2026-01-%02d\tsome words that every row repeats, and some more of them\n", i, i/3, i%28+1)
	}
	table := rows.Bytes()
	if week > 0 {
		var kept [][]byte
		for i, line := range bytes.SplitAfter(table, []byte("\n")) {
			if i%300 != 7 {
				kept = append(kept, line)
			}
		}
		table = bytes.Join(append(slices.Clone(kept[3000:]), kept[:3000]...), nil)
	}
	pages := bytes.Repeat([]byte("page of a database file\x00"), 4096/24+1)[:4096]
	pages = append(bytes.Repeat(pages, 5), noise(4096, 1)...)
	in := []goldenInput{
		{"public/customers", "rows", 0, table},
		{"empty", "opaque", 0, nil},
		{"one byte", "opaque", 0, []byte("x")},
		{"database", "pages", 4096, pages},
		{"noise", "opaque", 0, noise(20<<10, 2)},
	}
	if week > 1 {
		copy(pages[2*4096:], noise(4096, 3))
		in = append(in, goldenInput{"new", "opaque", 0, noise(9000, 4)})
	}
	return in
}

func put(t *testing.T, folder, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// archive packs the objects of the stores; what a directory store keeps beside
// them is left out.
func archive(t *testing.T, top string) []byte {
	t.Helper()
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	w := tar.NewWriter(z)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o444, Size: int64(len(data)), ModTime: goldenTime}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
