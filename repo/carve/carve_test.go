package carve_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store/media/iso"
	"strongroom/repo/store/storetest"
)

// All that is on a disk of a golden repository's stores comes back to the byte
// and under its name, with no key and no trust.
func TestTheGoldenRepositoryIsFoundOnADiskWithoutAFileSystem(t *testing.T) {
	for _, block := range []string{"1024", "4096"} {
		t.Run(block, func(t *testing.T) {
			image, path, unmount := disk(t, 48, "-b", block)
			for i := range 40 { // other files between
				if err := os.WriteFile(filepath.Join(path, fmt.Sprint("other-", i)), noise(1+i*3000, byte(i)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, path)
			want := map[string][]byte{}
			for name, b := range objects(t, path) {
				if _, key, ok := strings.Cut(name, "/"); ok && strings.HasPrefix(name, "store-") {
					want[key] = b
				}
			}
			unmount()
			destroy(t, image)
			to, report := carved(t, image, nil)
			got := objects(t, to)
			for key, b := range want {
				if !bytes.Equal(got[key], b) {
					t.Errorf("%s is missing or other", key)
				}
				delete(got, key)
			}
			for key := range got {
				t.Errorf("%s was never there", key)
			}
			if report.Damaged > 0 || report.Unlisted > 0 || report.Shards == 0 || report.Manifests != 3 {
				t.Errorf("%+v", report)
			}
		})
	}
}

func TestARepositoryIsRestoredFromADiskWithoutAFileSystem(t *testing.T) {
	image, path, unmount := disk(t, 128)
	want := save(t, 3, 40<<20, path)
	unmount()
	destroy(t, image)
	to, report := carved(t, image, trust)
	if report.Damaged > 0 || report.Unlisted > 0 || report.Manifests != 3 {
		t.Errorf("%+v", report)
	}
	restore(t, want, to)
}

// fragment fills a disk with files of some size and removes every other one,
// so that what comes then is cut into pieces of that size.
func fragment(t *testing.T, path string, size int) {
	t.Helper()
	filler := filepath.Join(path, "filler")
	if err := os.Mkdir(filler, 0o755); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		if err := os.WriteFile(filepath.Join(filler, fmt.Sprint(n)), noise(size, byte(n)), 0o644); err != nil {
			break
		}
	}
	run(t, "sync", "-f", path)
	for i := 0; i < n; i += 2 {
		if err := os.Remove(filepath.Join(filler, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "sync", "-f", path)
}

// Each seed is another block size and another degree of fragmentation. Two
// stores of three are on the disk, so every shard is needed.
func TestShardsInPiecesArePutTogether(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root: that a destroyed one gives its shards was not seen")
	}
	from := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	want := save(t, 2, 24<<20, from...)
	runs := storetest.CountRuns(t, "medium: superblocks and inode tables zeroed, shards in pieces")
	runs.Seeds(3, 20, func(t *testing.T, seed uint64) {
		block := []int{4096, 1024, 2048}[seed%3]
		piece := 160<<10 + rand.New(rand.NewPCG(seed, 5)).IntN(1<<20)
		image, path, unmount := disk(t, 128, "-b", fmt.Sprint(block))
		fragment(t, path, piece)
		a, b := filepath.Join(path, "a"), filepath.Join(path, "b")
		copyTree(t, from[0], a)
		copyTree(t, from[2], b)
		run(t, "sync", "-f", path)
		pieces, broken := extents(t, a)
		if pieces < 10 || broken < 1 {
			t.Fatalf("the disk is not fragmented: %d pieces, %d objects in several", pieces, broken)
		}
		t.Logf("blocks of %d, pieces of %d: %d of them, %d objects in several", block, piece, pieces, broken)
		unmount()
		destroy(t, image)
		to, report := carved(t, image, trust)
		if report.Damaged > 0 || report.Unlisted > 0 || report.Manifests != 2 || report.InPieces < broken {
			t.Errorf("%+v", report)
		}
		restore(t, want, to)
	})
}

// A disc whose directories cannot be read any more is a medium without a file
// system as well.
func TestADiscWithoutDirectoriesIsCarved(t *testing.T) {
	top := t.TempDir()
	want := save(t, 2, 8<<20, top)
	var files []iso.File
	first := int64(0)
	for key, b := range objects(t, top) {
		files = append(files, iso.File{Path: key, Size: int64(len(b)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
		first += (int64(len(b)) + iso.Sector - 1) / iso.Sector * iso.Sector
	}
	plan, err := iso.Plan(iso.Config{Volume: "TEST", Time: time.Unix(1e9, 0)}, files)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := plan.WriteTo(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	first = plan.Size() - first - 150*iso.Sector // where the files begin
	clear(b.Bytes()[:first])
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	to, report := carved(t, image, trust)
	if report.Damaged > 0 || report.InPieces > 0 || report.Manifests != 2 {
		t.Errorf("%+v", report)
	}
	restore(t, want, to)
}
