package repo_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/custody/keys"
	"strongroom/custody/keys/share"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store/dir"
)

// A golden repository is kept for ever: every later program must restore it. So
// the flag is for a new format version, whose number goes into goldenDir.
var updateGolden = flag.Bool("update-golden", false, "write testdata/golden-1 anew; only while format 1 is not in use anywhere")

const (
	goldenDir    = "testdata/golden-1"
	goldenStores = 3
	// goldenLimit keeps the repository small for everybody who clones it.
	goldenLimit = 400 << 10
)

// goldenFacts is expected.json: what a reader has to find, and the keys in the
// open. They protect nothing but test data.
type goldenFacts struct {
	Comment       string            `json:"comment"`
	Tenant        keys.TenantID     `json:"tenant"`
	Dataset       keys.DatasetID    `json:"dataset"`
	Generation    keys.GenerationID `json:"generation"`
	GenerationKey string            `json:"generation_key"`
	Snapshots     []goldenSnapshot  `json:"snapshots"`
}

type goldenSnapshot struct {
	Sequence uint32         `json:"sequence"`
	Label    string         `json:"label"`
	Streams  []goldenStream `json:"streams"`
}

type goldenStream struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

// golden is the golden repository, unpacked for one test.
type golden struct {
	goldenFacts
	kit    keys.Kit
	stores []string
}

// readGolden unpacks the stores into a directory of the test, with only the
// files and directories that a store has.
func readGolden(t *testing.T) *golden {
	t.Helper()
	g := &golden{}
	facts, err := os.ReadFile(filepath.Join(goldenDir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(facts, &g.goldenFacts); err != nil {
		t.Fatal(err)
	}
	kit, err := os.ReadFile(filepath.Join(goldenDir, "kit"))
	if err != nil {
		t.Fatal(err)
	}
	if g.kit, err = keys.ParseKit(kit); err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	f, err := os.Open(filepath.Join(goldenDir, "stores.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(top, filepath.Clean("/"+h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range goldenStores {
		g.stores = append(g.stores, filepath.Join(top, fmt.Sprint("store-", i)))
	}
	return g
}

// open returns the repository on the stores.
func (g *golden) open(t *testing.T, stores []string) *repo.Repo {
	t.Helper()
	r := &repo.Repo{Tenant: repo.ID(g.Tenant), Catalogue: g.kit.Catalogue,
		Trust: func(box [32]byte, incarnation uint32, message, sig []byte) error {
			return g.kit.Boxes.Verify(keys.VerifyKey(box), incarnation, message, sig)
		}}
	for i, path := range stores {
		s, err := dir.Open(dir.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		r.Members = append(r.Members, spread.Member{Name: fmt.Sprint("store-", i), Store: s})
	}
	return r
}

// recoverKey goes from three shares and the kit to T, and from T and the
// manifest's capsule to G.
func (g *golden) recoverKey(t *testing.T, capsule []byte) keys.GenerationKey {
	t.Helper()
	var shares []share.Share
	for _, path := range goldenShares(t) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := share.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	r, err := keys.OpenRecovery(shares)
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := r.OpenKit(g.kit)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tenant.OpenGeneration(g.Dataset, g.Generation, capsule)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func goldenShares(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(goldenDir, "share-*"))
	if err != nil || len(paths) != 3 {
		t.Fatalf("shares %v, %v; want 3", paths, err)
	}
	return paths
}

// losses yields the stores, all of them and then each one missing.
func (g *golden) losses(yield func(name string, stores []string) bool) {
	if !yield("all stores", g.stores) {
		return
	}
	for lost := range g.stores {
		left := append(append([]string(nil), g.stores[:lost]...), g.stores[lost+1:]...)
		if !yield(fmt.Sprintf("without store %d", lost), left) {
			return
		}
	}
}

func TestGoldenRepositoryRestoresWithAnyOneStoreMissing(t *testing.T) {
	if *updateGolden {
		writeGolden(t)
	}
	g := readGolden(t)
	for name, stores := range g.losses {
		t.Run(name, func(t *testing.T) { checkGolden(t, g, stores) })
	}
}

func checkGolden(t *testing.T, g *golden, stores []string) {
	ctx := context.Background()
	l, err := g.open(t, stores).List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Problems) != 0 || len(l.Snapshots) != len(g.Snapshots) {
		t.Fatalf("%d snapshots, problems %v; want %d snapshots", len(l.Snapshots), l.Problems, len(g.Snapshots))
	}
	for i, want := range g.Snapshots {
		s := l.Snapshots[i]
		if s.Sequence != want.Sequence || s.Generation != repo.ID(g.Generation) || s.Entry == nil || s.Entry.Label != want.Label {
			t.Fatalf("snapshot %d is %+v", i, s.Manifest)
		}
		key := g.recoverKey(t, s.Capsule)
		if got := hex.EncodeToString(key.Reveal()); got != g.GenerationKey {
			t.Errorf("generation key %s, want %s", got, g.GenerationKey)
		}
		o, err := l.Open(ctx, s, key)
		if err != nil {
			t.Fatal(err)
		}
		got := []goldenStream{}
		for _, st := range o.Contents().Streams {
			r, err := o.Read(ctx, st.Name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			n, err := io.Copy(h, r)
			if err := errors.Join(err, r.Close()); err != nil {
				t.Errorf("snapshot %d, stream %q: %v", i, st.Name, err)
			}
			got = append(got, goldenStream{st.Name, st.Kind, n, hex.EncodeToString(h.Sum(nil))})
		}
		if fmt.Sprint(got) != fmt.Sprint(want.Streams) {
			t.Errorf("snapshot %d has streams\n%v, want\n%v", i, got, want.Streams)
		}
	}
}

// goldenPython restores a snapshot with restore.py and returns what came back.
func (g *golden) goldenPython(t *testing.T, stores []string, key, snapshot string) []goldenStream {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out")
	out := runPython(t, key+"\n", repo.RestorePython, append(g.pythonArgs(stores), "--key", "-", "--snapshot", snapshot, "--to", to)...)
	got := []goldenStream{}
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		b, err := os.ReadFile(f[1])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		got = append(got, goldenStream{Name: strings.Trim(f[2], `"`), Length: int64(len(b)), SHA256: hex.EncodeToString(sum[:])})
	}
	return got
}

func (g *golden) pythonArgs(stores []string) []string {
	args := []string{"--tenant", g.Tenant.String()}
	for _, s := range stores {
		args = append(args, "--store", s)
	}
	for _, b := range g.kit.Boxes {
		args = append(args, "--box", fmt.Sprintf("%x:%d-%d", b.Public[:], b.First, b.Last))
	}
	return args
}

// runPython runs a program that must succeed without a word on stderr.
func runPython(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	out, errs, err := repo.RunPython(t, stdin, program, args...)
	if err != nil || errs != "" {
		t.Fatalf("%s %v: %v: %s", program, args, err, errs)
	}
	return out
}

func (s goldenSnapshot) checkPython(t *testing.T, got []goldenStream) {
	t.Helper()
	want := []goldenStream{}
	for _, st := range s.Streams {
		st.Kind = "" // the program does not print it
		want = append(want, st)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("snapshot %d has streams\n%v, want\n%v", s.Sequence, got, want)
	}
}

func TestIndependentProgramRestoresGoldenRepositoryWithAnyOneStoreMissing(t *testing.T) {
	g := readGolden(t)
	for name, stores := range g.losses {
		t.Run(name, func(t *testing.T) {
			for _, s := range g.Snapshots {
				s.checkPython(t, g.goldenPython(t, stores, g.GenerationKey, fmt.Sprintf("%v/%08x", g.Generation, s.Sequence)))
			}
		})
	}
}

// From paper to bytes with no program of ours: three shares and the kit give T,
// T and the capsule of a manifest give G, G gives the streams. Everything else
// that the programs need is taken from what they print.
func TestSharesAndKitRestoreWithPythonAlone(t *testing.T) {
	g := readGolden(t)
	const capsule = "../custody/keys/testdata/capsule.py"
	dir := t.TempDir()
	args := []string{"--kit", filepath.Join(goldenDir, "kit")}
	for _, path := range goldenShares(t) {
		args = append(args, "--share", path)
	}
	seed, ok := strings.CutPrefix(strings.Split(runPython(t, "", capsule, args...), "\n")[0], "tenant seed ")
	if !ok {
		t.Fatal("capsule.py prints no seed")
	}
	c := put(t, dir, "catalogue", hex.AppendEncode(nil, g.kit.Catalogue.Reveal()))
	stores := g.stores[:2]
	list := runPython(t, "", repo.RestorePython, append(g.pythonArgs(stores), "--catalogue-key", c)...)
	lines := strings.Split(strings.TrimSpace(list), "\n")
	if len(lines) != len(g.Snapshots) {
		t.Fatalf("restore.py lists\n%s", list)
	}
	for i, line := range lines {
		f := strings.Fields(line) // generation/sequence "dataset" dataset …
		if len(f) < 3 || f[1] != "dataset" || !strings.Contains(line, fmt.Sprintf("%q", g.Snapshots[i].Label)) {
			t.Fatalf("restore.py lists %q", line)
		}
		generation, _, _ := strings.Cut(f[0], "/")
		sealed := filepath.Join(dir, fmt.Sprint("capsule-", i))
		runPython(t, "", repo.RestorePython, append(g.pythonArgs(stores), "--capsule", sealed, "--snapshot", f[0])...)
		key := runPython(t, "", capsule, "--seed", put(t, dir, "seed", []byte(seed+"\n")), "--capsule", sealed, "2", g.Tenant.String(), f[2], generation)
		g.Snapshots[i].checkPython(t, g.goldenPython(t, stores, strings.TrimSpace(key), f[0]))
	}
}

// The golden repository is worth only what it holds of the format's cases.
func TestGoldenRepositoryHoldsTheFormatsCases(t *testing.T) {
	g := readGolden(t)
	ctx := context.Background()
	l, err := g.open(t, g.stores).List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	reused := map[uint32]bool{}
	for i, s := range l.Snapshots {
		o, err := l.Open(ctx, s, g.recoverKey(t, s.Capsule))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Packs {
			seen["several segments"] = seen["several segments"] || p.Segments() > 1
			reused[p.Number] = reused[p.Number] || i == 0
			seen["pack of an earlier snapshot"] = seen["pack of an earlier snapshot"] || i > 0 && reused[p.Number]
		}
		for _, st := range o.Contents().Streams {
			seen["empty stream"] = seen["empty stream"] || st.Length == 0
			seen["page stream"] = seen["page stream"] || st.PageSize > 0
			seen["stream over several blocks"] = seen["stream over several blocks"] || st.Length > 1<<20
			seen["stream of many extents"] = seen["stream of many extents"] || st.Extents > 40
			seen["name that is no file name"] = seen["name that is no file name"] || strings.ContainsAny(st.Name, "/")
		}
		codecs, err := repo.Codecs(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		seen["raw block"] = seen["raw block"] || codecs[0] > 0
		seen["zstd block"] = seen["zstd block"] || codecs[1] > 0
	}
	for _, what := range []string{"several segments", "pack of an earlier snapshot", "empty stream", "page stream",
		"stream over several blocks", "stream of many extents", "name that is no file name", "raw block", "zstd block"} {
		if !seen[what] {
			t.Errorf("no %s", what)
		}
	}
	if n := treeSize(t, goldenDir); n > goldenLimit {
		t.Errorf("%s has %d bytes, more than %d", goldenDir, n, goldenLimit)
	}
}

func treeSize(t *testing.T, top string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(top, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
