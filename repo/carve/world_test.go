package carve_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"strongroom/repo"
	"strongroom/repo/carve"
	"strongroom/repo/spread"
	"strongroom/repo/store/dir"
)

type testKey [32]byte

func (k testKey) Derive(info []byte, n int) ([]byte, error) {
	return hkdf.Key(sha512.New384, k[:], nil, string(info), n)
}

// testKeys is one key for every generation.
type testKeys struct{}

func (testKeys) Generation(_, _, _ repo.ID) (repo.Secret, error) { return testKey{1}, nil }
func (testKeys) New(_, _, _ repo.ID) (repo.Secret, error)        { return testKey{1}, nil }
func (testKeys) Capsule(_, _, g repo.ID) ([]byte, error)         { return g[:], nil }

type testSigner struct{ key ed25519.PrivateKey }

func (s testSigner) Public() [32]byte     { return [32]byte(s.key.Public().(ed25519.PublicKey)) }
func (s testSigner) Sign(m []byte) []byte { return ed25519.Sign(s.key, m) }

var box = testSigner{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))}

func trust(b [32]byte, _ uint32, message, sig []byte) error {
	if b != box.Public() || !ed25519.Verify(b[:], message, sig) {
		return errors.New("not by the box")
	}
	return nil
}

// open returns a repository on directories, and what lets go of them.
func open(t *testing.T, dirs ...string) (*repo.Repo, func()) {
	t.Helper()
	var stores []*dir.Store
	r := &repo.Repo{Tenant: repo.ID{7}, Catalogue: testKey{8}, Trust: trust}
	for i, path := range dirs {
		s, err := dir.Open(dir.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		stores = append(stores, s)
		r.Members = append(r.Members, spread.Member{Name: fmt.Sprint("store-", i), Store: s})
	}
	return r, func() {
		for _, s := range stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// save makes snapshots of a dataset of n bytes, a tenth of it new each time, on
// as many stores, and returns what each holds.
func save(t *testing.T, snapshots, n int, dirs ...string) (want []map[string][sha256.Size]byte) {
	t.Helper()
	state := t.TempDir()
	spool, err := repo.OpenSpool(filepath.Join(state, "spool"), 0)
	if err != nil {
		t.Fatal(err)
	}
	clock := time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC)
	config := repo.SaveConfig{Dataset: repo.ID{9}, Dir: state, Spool: spool, Keys: testKeys{}, Signer: box, Incarnation: 1, PerGeneration: 26,
		BaseCache: 1 << 40, Now: func() time.Time { clock = clock.Add(time.Minute); return clock }, Log: t.Logf}
	ctx := context.Background()
	data := noise(n, 1)
	for i := range snapshots {
		copy(data[i*n/10:], noise(n/10, byte(2+i)))
		r, done := open(t, dirs...)
		s, err := r.Begin(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		streams := map[string][]byte{"all": data, "zeros": make([]byte, 3<<20), "few": []byte("few")}
		w := map[string][sha256.Size]byte{}
		for name, b := range streams {
			if _, err := s.Add(ctx, repo.StreamSpec{Name: name, Kind: "opaque"}, bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			w[name] = sha256.Sum256(b)
		}
		if _, err := s.Commit(ctx, repo.Commit{Catalogue: repo.Catalogue{Dataset: "crm"}, Detail: json.RawMessage(`{}`)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, w)
		done()
	}
	return want
}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// restore holds what directories restore against what was saved.
func restore(t *testing.T, want []map[string][sha256.Size]byte, dirs ...string) {
	t.Helper()
	ctx := context.Background()
	repository, done := open(t, dirs...)
	defer done()
	l, err := repository.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Problems) > 0 || len(l.Snapshots) != len(want) {
		t.Fatalf("%d snapshots, want %d; problems %v", len(l.Snapshots), len(want), l.Problems)
	}
	for i, s := range l.Snapshots {
		o, err := l.Open(ctx, s, testKey{1})
		if err != nil {
			t.Fatal(err)
		}
		for name, sum := range want[i] {
			r, err := o.Read(ctx, name, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			_, err = io.Copy(h, r)
			if err := errors.Join(err, r.Close()); err != nil || [32]byte(h.Sum(nil)) != sum {
				t.Errorf("snapshot %d, stream %q: %v, or other bytes", i, name, err)
			}
		}
	}
}

// run runs a program of the system.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// disk makes an ext4 file system in a file and mounts it; unmount takes it away.
func disk(t *testing.T, mib int, options ...string) (image, path string, unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root: that a destroyed one gives its shards was not seen")
	}
	top := t.TempDir()
	image, path = filepath.Join(top, "image"), filepath.Join(top, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, int64(mib)<<20), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", append(append([]string{"-q", "-F", "-m", "0"}, options...), image)...)
	if out, err := exec.Command("mount", "-o", "loop", image, path).CombinedOutput(); err != nil {
		t.Skipf("this system mounts no file as a disk: %s", out)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			run(t, "umount", path)
		}
	}
	t.Cleanup(unmount)
	return image, path, unmount
}

var (
	backupForm = regexp.MustCompile(`(?:Primary|Backup) superblock at (\d+)`)
	tableForm  = regexp.MustCompile(`Inode table at (\d+)-(\d+)`)
	blockForm  = regexp.MustCompile(`Block size:\s+(\d+)`)
)

// destroy overwrites all superblocks with their group descriptors, the whole
// journal of names, and all inode tables, at the places that dumpe2fs gives.
func destroy(t *testing.T, image string) {
	t.Helper()
	out := run(t, "dumpe2fs", image)
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	block := number(blockForm.FindStringSubmatch(out)[1])
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zero := func(from, to int64) {
		if _, err := f.WriteAt(make([]byte, (to-from+1)*block), from*block); err != nil {
			t.Fatal(err)
		}
	}
	supers, tables := backupForm.FindAllStringSubmatch(out, -1), tableForm.FindAllStringSubmatch(out, -1)
	if len(supers) == 0 || len(tables) == 0 {
		t.Fatalf("dumpe2fs says\n%s", out)
	}
	for _, m := range supers {
		zero(number(m[1]), number(m[1]))
	}
	for _, m := range tables {
		zero(number(m[1]), number(m[2]))
	}
	if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dumpe2fs", image).CombinedOutput(); err == nil {
		t.Fatalf("the file system is still there:\n%s", out)
	}
	if out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput(); err == nil {
		t.Fatalf("e2fsck repairs it:\n%s", out)
	}
}

// extents counts the pieces of the objects below a directory with filefrag, and
// how many objects are in more than one.
func extents(t *testing.T, top string) (pieces, broken int) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f := strings.Fields(strings.TrimPrefix(run(t, "filefrag", path), path+":"))
		n, err := strconv.Atoi(f[0])
		if err != nil {
			return err
		}
		pieces += n
		if n > 1 {
			broken++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pieces, broken
}

// carved looks through an image and returns the directory of what was found.
func carved(t *testing.T, image string, believe repo.Trust) (string, *carve.Report) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	s, err := dir.Open(dir.Config{Path: to})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var done, total int64
	report, err := carve.Run(context.Background(), carve.Config{Medium: f, Size: info.Size(), To: s, Trust: believe,
		Progress: func(d, of int64) { done, total = d, of }})
	if err != nil {
		t.Fatal(err)
	}
	if total-done > 4096*int64(1+total/info.Size()) || done > total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	t.Logf("%d MiB at %.0f MB/s: %d shards, %d of them in pieces, %d unlisted; %d manifests; %d damaged %v", report.Read>>20, float64(report.Read)/1e6/report.Took.Seconds(),
		report.Shards, report.InPieces, report.Unlisted, report.Manifests, report.Damaged, report.Damages)
	return to, report
}

// copyTree copies a directory, each file with one write.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// golden unpacks the stores of the golden repository.
func golden(t *testing.T, to string) {
	t.Helper()
	f, err := os.Open("../testdata/golden-1/stores.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		path := filepath.Join(to, filepath.Clean("/"+h.Name))
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// objects reads all files below a directory, by name.
func objects(t *testing.T, top string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		out[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
