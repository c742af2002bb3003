package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/custody/keys"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/repo"
	"strongroom/repo/store/media"
)

// boxSigner is the box's key as media and repositories want it.
type boxSigner struct{ *keys.Signer }

func (s boxSigner) Public() [32]byte { return [32]byte(s.Signer.Public()) }

// copyToMedium enrols the disk that is mounted at a path and copies everything of
// the tenant onto it.
func copyToMedium(t *testing.T, b *testBox, path, program string) {
	t.Helper()
	ctx := t.Context()
	c, err := config.Load(b.config)
	if err != nil {
		t.Fatal(err)
	}
	site, err := job.OpenSite(c, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	members, err := site.Stores(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	_, tenant, err := site.Tenant("acme")
	if err != nil {
		t.Fatal(err)
	}
	r, err := site.Repo(tenant, members)
	if err != nil {
		t.Fatal(err)
	}
	by := boxSigner{site.Box.Signer()}
	s, err := media.Enrol(ctx, media.Config{Path: path, Trust: r.Trust}, media.Identity{Label: "A-1", Set: "A"}, by, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w, err := s.Begin(ctx, media.SessionConfig{Signer: by, Incarnation: 1, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	copied, err := r.CopyTo(ctx, repo.CopyConfig{To: w, Program: program, Signer: by, Incarnation: 1, Now: time.Now})
	if err != nil || len(copied.Snapshots) != 2 || len(copied.Problems) > 0 {
		t.Fatalf("%+v, %v", copied, err)
	}
	if err := w.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// A disk, mounted read-only in a machine that has no network and nothing else,
// restores with its own program, a kit and shares; after bad sectors too.
func TestAMediumRestoresInAStrangeMachine(t *testing.T) {
	disk, image := mediumDisk(t, 96)
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", program(t, "generate"), "9000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump", "--label", "v1")
	b.run(0, "backup", "acme/dump", "--label", "v2")
	b.run(0, "restore", "acme/dump@v1", "--to", b.path("want"))
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	binary := b.path("recover")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "strongroom/custody/cmd/strongroom-recover")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	copyToMedium(t, b, disk, binary)
	for _, gone := range append(paths, b.path("state"), binary) {
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
	}
	remount(t, disk, image)
	home := t.TempDir()
	found, err := filepath.Glob(filepath.Join(disk, "strongroom-recover-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil || !strings.HasSuffix(found[0], fmt.Sprintf("-%.8x", sha256.Sum256(raw))) {
		t.Errorf("%s, %v", found[0], err)
	}
	copied := filepath.Join(home, "strongroom-recover")
	if err := os.WriteFile(copied, raw, 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"--net", copied, "--kit", kit, "--store", "media:" + disk, "dump@v1"}
	for _, i := range []int{1, 3, 4} {
		args = append(args, "--share-file", b.path("shares", fmt.Sprintf("share-standard-%d-of-5.txt", i)))
	}
	restore := func(name string) {
		t.Helper()
		cmd := exec.Command("unshare", append(args, "--to", b.path(name))...)
		cmd.Env, cmd.Dir = []string{"HOME=" + home, "PATH="}, home
		if o, err := b.try(cmd); err != nil || o.code != 0 || strings.Contains(o.stderr, "warning") {
			t.Fatalf("%+v, %v", o, err)
		}
		sameBytes(t, b.path("want"), b.path(name))
	}
	restore("out")
	// A megabyte of the largest shard and a byte of every other one go bad.
	shards, err := filepath.Glob(filepath.Join(disk, "*", "*", "s-*"))
	if err != nil || len(shards) < 2 {
		t.Fatalf("%v, %v", shards, err)
	}
	slices.SortStableFunc(shards, func(a, b string) int { return cmp.Compare(sizeOf(t, b), sizeOf(t, a)) })
	harm(t, image, shards)
	before := sumOf(t, shards[0])
	remount(t, disk, image)
	if sumOf(t, shards[0]) == before {
		t.Fatal("the sectors that went bad are not those of the shard")
	}
	restore("again")
}

func sizeOf(t *testing.T, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func sumOf(t *testing.T, name string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// harm flips a megabyte of the first shard on the image, and a byte of the
// others.
func harm(t *testing.T, image string, shards []string) {
	t.Helper()
	text, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range shards {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := 1
		if i == 0 {
			bad = 1 << 20
		}
		for from := 4096; bad > 0 && from+4096 <= len(b); from += 4096 { // behind the header, which a restore does not need
			at := bytes.Index(text, b[from:from+4096])
			if at < 0 {
				t.Fatalf("%s is not on the image", name)
			}
			n := min(bad, 4096)
			for j := range n {
				text[at+j] ^= 1
			}
			bad -= n
		}
	}
	if err := os.WriteFile(image, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// mediumDisk makes a file system in a file and mounts it.
func mediumDisk(t *testing.T, mib int64) (path, image string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a disk and leaving the network need root: that a medium restores in a strange machine was not seen")
	}
	image, path = filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, mib<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", image)
	tool(t, "mount", "-o", "loop", image, path)
	t.Cleanup(func() { tool(t, "umount", path) })
	return path, image
}

func remount(t *testing.T, path, image string) {
	t.Helper()
	tool(t, "umount", path)
	tool(t, "mount", "-o", "loop,ro", image, path)
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
