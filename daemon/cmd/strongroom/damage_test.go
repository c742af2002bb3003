package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One store's damage is found and read around; that of two is an integrity
// failure, not something to try again later.
func TestDamagedShards(t *testing.T) {
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", program(t, "generate"), "3000000"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.run(0, "backup", "acme/dump")
	b.run(0, "restore", "acme/dump", "--to", b.path("want"))

	flip := func(store string) {
		for _, shard := range must(filepath.Glob(filepath.Join(store, "*", "*", "s-*")))(t) {
			body := must(os.ReadFile(shard))(t)
			for i := 3000; i < len(body); i += 20_000 {
				body[i] ^= 1
			}
			if err := os.Remove(shard); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(shard, body, 0o444); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip(paths[0])
	b.run(0, "check") // lists only
	if o := b.run(3, "check", "--read-data"); !strings.Contains(o.stdout, `shard 0 on "one" is damaged`) {
		t.Error(o.stdout)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out"))
	sameBytes(t, b.path("out"), b.path("want"))

	flip(paths[1])
	if o := b.run(65, "check", "--read-data"); !strings.Contains(o.stdout, "is lost: 1 good shards of the 2 needed") {
		t.Error(o.stdout)
	}
	if o := b.run(65, "restore", "acme/dump", "--to", b.path("none")); !strings.Contains(o.stderr, "needs 2 good shards, but: shard ") {
		t.Error(o.stderr)
	}
	if _, err := os.Lstat(b.path("none")); err == nil {
		t.Error("a failed restore left its target")
	}
	// A truncated manifest on one store is a problem; the others have it.
	m := must(filepath.Glob(filepath.Join(paths[2], "*", "*", "m-*")))(t)[0]
	body := must(os.ReadFile(m))(t)
	if err := os.Remove(m); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m, body[:len(body)/2], 0o444); err != nil {
		t.Fatal(err)
	}
	if o := b.run(3, "snapshots"); !strings.Contains(o.stdout, "reduced: 2 of 3 stores") || !strings.Contains(o.stderr, `store "three": manifest`) {
		t.Error(o.stdout, o.stderr)
	}
}
