package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/erasure"
	"strongroom/repo/store/storetest"
)

// said are the lines of an act in what a repair printed.
func said(o outcome, act string) (lines []string) {
	for line := range strings.Lines(o.stdout) {
		if strings.HasPrefix(line, act) {
			lines = append(lines, line)
		}
	}
	return lines
}

// sameActs runs a repair twice, first dry, and wants the same acts of both.
func (b *testBox) sameActs(want int, args ...string) outcome {
	b.t.Helper()
	dry := b.run(want, append(args, "--dry-run")...)
	o := b.run(want, args...)
	for _, act := range []string{"write", "mark", "manifest", "supplement", "PROBLEM"} {
		if x, y := said(dry, act), said(o, act); !slices.Equal(x, y) {
			b.t.Errorf("%v: the dry run said\n%v\ndone was\n%v", args, x, y)
		}
	}
	return o
}

// margin is what every snapshot's line says of how many stores may be lost.
func (b *testBox) margins() (out []int) {
	b.t.Helper()
	var v struct {
		Items []struct{ Margin int }
	}
	o := b.run(0, "snapshots", "--json")
	if err := json.Unmarshal([]byte(strings.TrimSpace(o.stdout)), &v); err != nil {
		b.t.Fatal(err)
	}
	for _, s := range v.Items {
		out = append(out, s.Margin)
	}
	return out
}

func (b *testBox) wantMargins(want ...int) {
	b.t.Helper()
	if got := b.margins(); !slices.Equal(got, want) {
		b.t.Errorf("margins %v, want %v", got, want)
	}
}

// shards are a store's shards.
func shardsIn(t *testing.T, store string) []string {
	t.Helper()
	return must(filepath.Glob(filepath.Join(store, "*", "*", "s-*")))(t)
}

// overwrite changes an object behind the store's back.
func overwrite(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	body := change(must(os.ReadFile(path))(t))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o444); err != nil {
		t.Fatal(err)
	}
}

// editConfig replaces text in the configuration.
func (b *testBox) editConfig(old, with string) {
	b.t.Helper()
	text := string(must(os.ReadFile(b.config))(b.t))
	if !strings.Contains(text, old) {
		b.t.Fatalf("the configuration has no %q", old)
	}
	b.write("c.toml", strings.Replace(text, old, with, 1))
}

// twoWeeks is a box with three directories and two snapshots of a dataset of
// which each has the bytes of the one before and some of its own.
func twoWeeks(t *testing.T) (*testBox, []string) {
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", program(t, "generate"), "3000000")+commandDataset("small", "/bin/echo", "hello"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for _, d := range []string{"dump", "small"} {
		b.run(0, "backup", "acme/"+d)
		b.run(0, "backup", "acme/"+d)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("want"))
	return b, paths
}

func (b *testBox) restores(when string) {
	b.t.Helper()
	out := b.path("out-" + strings.ReplaceAll(when, " ", "-"))
	b.run(0, "restore", "acme/dump", "--to", out)
	sameBytes(b.t, out, b.path("want"))
}

// A silent flip is found by reading, remembered by every later check, made good
// by a repair, and its object is left for whoever deletes.
func TestDamageIsRememberedRepairedAndMarked(t *testing.T) {
	b, paths := twoWeeks(t)
	b.wantMargins(1, 1, 1, 1)
	flipped := shardsIn(t, paths[1])[0]
	good := must(os.ReadFile(flipped))(t)
	overwrite(t, flipped, func(x []byte) []byte { x[5000] ^= 1; return x })
	b.run(0, "check")
	if o := b.run(3, "check", "--read-data"); !strings.Contains(o.stdout, `on "two" is damaged: 1 of`) {
		t.Error(o.stdout)
	}
	if o := b.run(3, "check"); !strings.Contains(o.stdout, `on "two" is damaged: found at 20`) || !strings.Contains(o.stdout, "no further store may be lost") {
		t.Errorf("a later check has forgotten it:\n%s", o.stdout)
	}
	if m := b.margins(); slices.Min(m) != 0 {
		t.Errorf("margins %v", m)
	}
	o := b.sameActs(0, "repair")
	if len(said(o, `write on "two"`)) != 1 || len(said(o, `mark on "two"`)) != 1 {
		t.Error(o.stdout)
	}
	made := must(os.ReadFile(strings.TrimSuffix(flipped, "00") + "01"))(t)
	if string(made) != string(good) {
		t.Error("the shard that was made again is another")
	}
	if o := b.run(0, "check", "--read-data"); !strings.Contains(o.stdout, "1 object that a repair replaced wait") {
		t.Error(o.stdout)
	}
	b.wantMargins(1, 1, 1, 1)
	list := string(must(os.ReadFile(must(filepath.Glob(b.path("state", "datasets", "*", "marked.json")))(t)[0]))(t))
	if !strings.Contains(list, filepath.Base(flipped)) || !strings.Contains(list, `"two"`) {
		t.Error(list)
	}
	if o := b.run(0, "repair", "--read-data"); len(said(o, "write")) != 0 {
		t.Errorf("a second repair writes:\n%s", o.stdout)
	}
	if err := os.Remove(flipped); err != nil {
		t.Fatal(err)
	}
	b.run(0, "repair")
	b.run(0, "check", "--read-data")
	b.wantMargins(1, 1, 1, 1)
	b.restores("deleted")
	// All that is known of it may be lost.
	for _, f := range must(filepath.Glob(b.path("state", "datasets", "*", "checked")))(t) {
		if err := os.WriteFile(f, []byte("SRCHECK1 nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.run(0, "check", "--read-data=50%")
	b.run(64, "check", "--read-data=0")
}

// Each run reads what was read longest ago, so that ten runs of a tenth read
// all.
func TestTenthsOfACheckReadAll(t *testing.T) {
	b, paths := twoWeeks(t)
	n := 0
	for _, p := range paths {
		n += len(shardsIn(t, p))
	}
	overwrite(t, shardsIn(t, paths[2])[0], func(x []byte) []byte { x[300] ^= 1; return x })
	found := false
	for range 10 {
		cmd := b.command("check", "--read-data=10%")
		o, err := b.try(cmd)
		if err != nil || o.code != 0 && o.code != 3 {
			t.Fatal(err, o)
		}
		found = found || o.code == 3
	}
	if !found {
		t.Errorf("the damaged one of %d objects was not found", n)
	}
}

// A store with wrong bytes behind right headers and checksums is named for the
// price of a column.
func TestASampleNamesALiar(t *testing.T) {
	b, paths := twoWeeks(t)
	b.run(0, "check", "--sample")
	for _, p := range shardsIn(t, paths[0]) {
		overwrite(t, p, func(x []byte) []byte {
			h, err := erasure.ParseHeader(x[:erasure.HeaderLen])
			if err != nil {
				t.Fatal(err)
			}
			payload := x[erasure.HeaderLen:erasure.PayloadOffset(h.Columns())]
			for i := 9; i < len(payload); i += erasure.Column {
				payload[i] ^= 8
			}
			return must(erasure.BuildShard(h, payload))(t)
		})
	}
	b.run(0, "check")
	o := b.run(3, "check", "--sample")
	if !strings.Contains(o.stdout, `on "one" is damaged`) || strings.Contains(o.stdout, `on "two" is`) || strings.Contains(o.stdout, `on "three" is`) {
		t.Error(o.stdout)
	}
	b.sameActs(0, "repair")
	b.run(0, "check", "--sample")
	b.run(0, "check", "--read-data")
}

// A store is replaced by an empty one, alive or not; killed wherever it is, the
// replacement goes on.
func TestALostStoreIsReplacedByAnEmptyOne(t *testing.T) {
	b, paths := twoWeeks(t)
	if err := os.RemoveAll(paths[1]); err != nil {
		t.Fatal(err)
	}
	if o := b.run(75, "repair"); len(said(o, "write")) > 0 {
		t.Errorf("what is away is not lost:\n%s", o.stdout)
	}
	_, other := dirStore(t, "new")
	b.editConfig(paths[1], other)
	if o := b.run(75, "repair"); len(said(o, "write")) > 0 {
		t.Errorf("an unmarked directory is no store:\n%s", o.stdout)
	}
	b.write("foreign", "")
	if err := os.WriteFile(filepath.Join(other, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(20, "store", "replace", "two")
	if err := os.Remove(filepath.Join(other, "notes.txt")); err != nil {
		t.Fatal(err)
	}
	dry := b.run(0, "store", "replace", "two", "--dry-run")
	if names := must(os.ReadDir(other))(t); len(names) > 0 {
		t.Errorf("a dry run wrote %v", names)
	}
	total := len(said(dry, "write")) + len(said(dry, "manifest"))
	for n := range 4 {
		// Killed once a few more objects are there.
		cmd := b.command("store", "replace", "two")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		for stop := false; !stop; {
			select {
			case <-done:
				stop = true
			case <-time.After(time.Millisecond):
				if countShards(other) > n*2 {
					cmd.Process.Kill()
				}
			}
		}
	}
	o := b.run(0, "store", "replace", "two")
	if !strings.Contains(o.stdout, `store "two" has a shard of every pack`) {
		t.Error(o.stdout)
	}
	if got := countShards(other); got != total {
		t.Errorf("%d objects are there, the dry run named %d", got, total)
	}
	b.run(0, "check", "--read-data")
	b.wantMargins(1, 1, 1, 1)
	if err := os.RemoveAll(paths[0]); err != nil {
		t.Fatal(err)
	}
	b.restores("from the new one")
	b.run(0, "store", "test", "two")
}

// A bucket is added to three directories, then two of those are drained, the
// second one dead; backups go on in the same generation, and a kit recovers.
func TestStoresComeAndGo(t *testing.T) {
	g := storetest.StartGateway(t)
	b, paths := twoWeeks(t)
	bucket := bucketStore(t, g, "offsite")
	b.editConfig("[[tenant]]", bucket+"\n[[tenant]]")
	if o := b.sameActs(0, "store", "add", "offsite", "--dry-run"); len(said(o, "supplement")) == 0 {
		t.Error(o.stdout)
	}
	o := b.run(0, "store", "add", "offsite")
	if len(said(o, "supplement")) != 2 || len(said(o, "manifest")) != 4 {
		t.Error(o.stdout)
	}
	b.wantMargins(2, 2, 2, 2)
	b.run(0, "check", "--read-data")
	if o := b.run(0, "store", "add", "offsite"); len(said(o, "write"))+len(said(o, "supplement")) > 0 {
		t.Errorf("added twice:\n%s", o.stdout)
	}

	// "one" is drained while it is there.
	b.sameActs(0, "store", "drain", "one")
	b.removeStore(paths[0])
	if err := os.RemoveAll(paths[0]); err != nil {
		t.Fatal(err)
	}
	b.wantMargins(1, 1, 1, 1)
	b.run(0, "check", "--read-data")
	o = b.run(0, "backup", "acme/small")
	if !strings.Contains(o.stdout, "complete") {
		t.Error(o.stdout)
	}

	// "two" dies and is drained all the same.
	if err := os.RemoveAll(paths[1]); err != nil {
		t.Fatal(err)
	}
	b.sameActs(0, "store", "drain", "two")
	b.removeStore(paths[1])
	b.run(0, "check", "--read-data")
	b.wantMargins(1, 1, 1, 1, 1)
	if o := b.run(0, "backup", "acme/small"); !strings.Contains(o.stdout, "complete") {
		t.Error(o.stdout)
	}
	if o := b.run(0, "snapshots", "-v"); strings.Count(o.stdout, "a full snapshot") != 2 {
		t.Errorf("a new generation began:\n%s", o.stdout)
	}
	kit := b.run(0, "keys", "kit", "acme", "--out", b.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	if err := os.RemoveAll(paths[2]); err != nil {
		t.Fatal(err)
	}
	b.run(0, "restore", "acme/dump", "--to", b.path("out-last"))
	sameBytes(t, b.path("out-last"), b.path("want"))
	b.rescue(0, append(b.shares(1, 3, 5), "--kit", kit, "dump", "--to", b.path("out-kit"))...)
	sameBytes(t, b.path("out-kit"), b.path("want"))
}

// removeStore takes a directory out of the configuration.
func (b *testBox) removeStore(path string) {
	b.t.Helper()
	b.editConfig(fmt.Sprintf("[[store]]\nname = %q\nkind = \"dir\"\npath = %q\n", filepath.Base(path), path), "")
}
