package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/repo/store/storetest"
)

// A life is a box with three services and offline disks, week after week.
type life struct {
	*testBox
	t     *testing.T
	gs    map[string]*storetest.Gateway
	weeks []string          // labels of snapshots that were taken
	disks map[string]string // image files by label
}

var services = []string{"north", "south", "west"}

func newLife(t *testing.T) *life {
	if os.Geteuid() != 0 {
		t.Skip("mounting disks and leaving the network need root: the life of offline media was not seen")
	}
	w := &life{t: t, gs: map[string]*storetest.Gateway{}, disks: map[string]string{}}
	stores := ""
	for _, name := range services {
		w.gs[name] = storetest.StartGateway(t)
		stores += bucketStore(t, w.gs[name], name)
	}
	data := filepath.Join(t.TempDir(), "data")
	w.testBox = newBox(t, stores+"[media]\n", commandDataset("crm", "/bin/cat", data))
	w.run(0, "init", "--shares-dir", w.path("shares"))
	w.run(0, "media", "init")
	if err := os.MkdirAll(w.path("want"), 0o700); err != nil {
		t.Fatal(err)
	}
	generateTo(t, data, 4_000_000, 1)
	return w
}

func generateTo(t *testing.T, path string, n int64, seed uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := generate(f, n, seed, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// week lets the data grow and takes a snapshot, of which a copy is kept.
func (w *life) week(code int) {
	w.t.Helper()
	data := w.data()
	label := fmt.Sprintf("week-%d", len(w.weeks)+1)
	generateTo(w.t, data, 300_000, uint64(len(w.weeks)+2))
	w.run(code, "backup", "acme/crm", "--label", label)
	w.weeks = append(w.weeks, label)
	tool(w.t, "cp", data, w.path("want", label))
}

func (w *life) data() string {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), `"/bin/cat","`)
	path, _, _ := strings.Cut(rest, `"`)
	return path
}

// disk makes a file system in a file, connects it, and enrols it.
func (w *life) disk(label, set string, mib int64) {
	w.t.Helper()
	image := filepath.Join(w.t.TempDir(), label)
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Truncate(image, mib<<20); err != nil {
		w.t.Fatal(err)
	}
	tool(w.t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	w.disks[label] = image
	w.connected(label, func() {
		w.run(0, "media", "enrol", label, "--set", set, "--uuid", w.uuid(label), "--holder", "h", "--place", "p")
	})
}

func (w *life) uuid(label string) string {
	w.t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "UUID", w.disks[label]).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// connected does something while a disk is connected.
func (w *life) connected(label string, do func()) {
	w.t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", w.disks[label]).Output()
	if err != nil {
		w.t.Fatal(err)
	}
	device := strings.TrimSpace(string(out))
	defer tool(w.t, "losetup", "-d", device)
	// Where a failed test leaves it mounted.
	defer exec.Command("umount", "-q", device).Run()
	do()
}

// turn connects a disk, has it written and verified, and takes it away.
func (w *life) turn(label string, code int) (o outcome) {
	w.t.Helper()
	w.connected(label, func() {
		o = w.run(code, "media", "insert", label)
		w.run(0, "media", "eject", label)
	})
	return o
}

// whole wants every snapshot back bit by bit, from the services.
func (w *life) whole(when string) {
	w.t.Helper()
	w.run(0, "check", "--read-data")
	for _, label := range w.weeks {
		w.run(0, "restore", "acme/crm@"+label, "--to", w.path("out"), "--overwrite")
		sameBytes(w.t, w.path("want", label), w.path("out"))
	}
	w.t.Logf("%s: %d snapshots come back", when, len(w.weeks))
}

// alone restores snapshots with nothing but a store, a kit and shares: without
// network, with an empty home.
func (w *life) alone(store, kit string, labels []string) {
	w.t.Helper()
	home := w.t.TempDir()
	for _, label := range labels {
		args := []string{"--net", program(w.t, "strongroom-recover"), "--kit", kit, "--store", store, "crm@" + label, "--to", w.path("out"), "--overwrite"}
		for _, i := range []int{1, 3, 4} {
			args = append(args, "--share-file", w.path("shares", fmt.Sprintf("share-standard-%d-of-5.txt", i)))
		}
		cmd := exec.Command("unshare", args...)
		cmd.Env, cmd.Dir = []string{"HOME=" + home, "PATH="}, home
		if o, err := w.try(cmd); err != nil || o.code != 0 {
			w.t.Fatalf("%s from %s: %+v, %v", label, store, o, err)
		}
		sameBytes(w.t, w.path("want", label), w.path("out"))
	}
}

// Weekly backups to three services and a rotation of disks, through a service
// that is away for two weeks, bytes that flip on another, a third that loses
// everything, and a disk that is full. At the end every snapshot comes back, from
// the services, from disk A alone, and from the image of a disc.
func TestNothingIsEverLost(t *testing.T) {
	w := newLife(t)
	w.week(0)
	w.disk("A-1", "A", 96)
	w.disk("B-1", "B", 24) // too small
	w.turn("A-1", 0)

	w.gs["south"].Stop()
	w.week(3)
	w.week(3)
	w.gs["south"].Start(t)
	w.week(0)
	w.whole("after two weeks without one service")

	// Nobody notices a flipped byte until somebody reads it.
	shards, err := filepath.Glob(filepath.Join(w.gs["west"].Objects("west"), "*", "*", "s-*"))
	if err != nil || len(shards) == 0 {
		t.Fatalf("%v, %v", shards, err)
	}
	overwrite(t, shards[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	w.run(0, "check")
	w.run(3, "check", "--read-data")
	w.run(0, "repair")
	w.whole("after a flip")

	if err := os.RemoveAll(w.gs["north"].Objects("north")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.gs["north"].Objects("north"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.run(0, "store", "replace", "north")
	w.week(0)
	w.whole("after one was replaced")

	if o := w.turn("B-1", 20); !strings.Contains(o.stderr, `"B-1" is full`) {
		t.Error(o.stderr)
	}
	if o := w.run(0, "media", "list"); !strings.Contains(o.stdout, "it was full before everything was on it") {
		t.Errorf("a full disk counts:\n%s", o.stdout)
	}
	w.run(0, "media", "retire", "B-1", "--reason", "too small")
	w.disk("B-2", "B", 96)
	w.turn("B-2", 0)
	w.run(0, "media", "move", "A-1", "--holder", "k", "--place", "q", "--seal", "7")
	w.week(0)
	w.turn("A-1", 0)

	// What is put in must be what it says.
	copied := w.disks["A-1"] + ".copy"
	tool(t, "cp", w.disks["A-1"], copied)
	w.week(0)
	w.turn("A-1", 0)
	w.disks["A-1"], copied = copied, w.disks["A-1"]
	w.connected("A-1", func() {
		if o := w.run(20, "media", "insert", "A-1"); !strings.Contains(o.stderr, "it is a copy, or was restored from an image") {
			t.Error(o.stderr)
		}
	})
	w.disks["A-1"] = copied
	onA := slices.Clone(w.weeks)

	w.run(0, "media", "enrol", "disc-1", "--set", "yearly", "--disc", "dvd", "--holder", "h", "--place", "p")
	w.run(0, "media", "image", "disc-1", "--out", w.path("disc.iso"))
	w.run(0, "media", "verify", "disc-1", "--device", w.path("disc.iso"))
	w.week(0)
	w.whole("at the end")
	w.run(0, "media", "log")
	w.run(0, "media", "due")

	kit := w.run(0, "keys", "kit", "acme", "--out", w.path("kits"), "--holder", "h", "--place", "p", "--json").result(t).File
	for _, g := range w.gs {
		g.Stop()
	}
	if err := os.RemoveAll(w.path("state")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", "-o", "loop,ro", w.disks["A-1"], at)
	defer tool(t, "umount", at)
	w.alone("media:"+at, kit, onA)

	disc := t.TempDir()
	tool(t, "xorriso", "-report_about", "WARNING", "-osirrox", "on", "-indev", w.path("disc.iso"), "-extract", "/", disc)
	w.alone("media:"+disc, kit, onA)
}
