package carve_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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

func TestShardsInPiecesArePutTogether(t *testing.T) {
	for _, c := range []struct {
		block string
		piece int
	}{{"1024", 300 << 10}, {"4096", 200 << 10}, {"4096", 1 << 20}} {
		t.Run(fmt.Sprintf("%s-%d", c.block, c.piece>>10), func(t *testing.T) {
			image, path, unmount := disk(t, 128, "-b", c.block)
			fragment(t, path, c.piece)
			a, b := filepath.Join(path, "a"), filepath.Join(path, "b")
			from := []string{t.TempDir(), t.TempDir(), t.TempDir()}
			want := save(t, 2, 24<<20, from...)
			copyTree(t, from[0], a)
			copyTree(t, from[2], b)
			run(t, "sync", "-f", path)
			pieces, broken := extents(t, a)
			if pieces < 12 || broken < 1 {
				t.Fatalf("the disk is not fragmented: %d pieces, %d objects in several", pieces, broken)
			}
			t.Logf("%d pieces, %d objects in several", pieces, broken)
			unmount()
			destroy(t, image)
			to, report := carved(t, image, trust)
			if report.Damaged > 0 || report.Unlisted > 0 || report.Manifests != 2 || report.InPieces < broken {
				t.Errorf("%+v", report)
			}
			restore(t, want, to)
		})
	}
}
