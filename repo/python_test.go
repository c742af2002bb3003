package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// RunPython runs one of the independent programs with Debian's interpreter and
// returns what it printed.
func RunPython(t *testing.T, stdin, program string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	const python = "/usr/bin/python3"
	for module, debian := range map[string]string{"cryptography": "python3-cryptography", "zstandard": "python3-zstandard"} {
		if out, err := exec.Command(python, "-c", "import "+module).CombinedOutput(); err != nil {
			t.Fatalf("%s with %s is needed: apt-get install python3 %s (%v: %s)", python, module, debian, err, out)
		}
	}
	cmd := exec.Command(python, append([]string{"-B", program}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// RestorePython is the program written from FORMAT.md alone.
const RestorePython = "testdata/restore.py"

// pythonArgs names the stores, the tenant and the box for restore.py.
func (w *world) pythonArgs(dirs []string) []string {
	var args []string
	for _, d := range dirs {
		args = append(args, "--store", d)
	}
	box := w.signer.Public()
	return append(args, "--tenant", w.r.Tenant.String(), "--box", fmt.Sprintf("%x:%d-0", box, w.inc))
}

// pythonRestore restores the newest snapshot from some of the stores.
func (w *world) pythonRestore(dirs []string) (map[string][]byte, string, error) {
	w.t.Helper()
	l, err := w.r.List(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if len(l.Snapshots) == 0 {
		w.t.Fatalf("no snapshot: %v", l.Problems)
	}
	snap := l.Snapshots[len(l.Snapshots)-1]
	key := w.keys.m[snap.Generation]
	to := filepath.Join(w.t.TempDir(), "out")
	out, errs, err := RunPython(w.t, hex.EncodeToString(key[:])+"\n", RestorePython, append(w.pythonArgs(dirs), "--key", "-", "--to", to)...)
	return w.restored(out), errs, err
}

// restored reads the files that restore.py says it wrote: length, path, name.
func (w *world) restored(out string) map[string][]byte {
	w.t.Helper()
	got := map[string][]byte{}
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		b, err := os.ReadFile(f[1])
		if err != nil || len(f) != 3 {
			w.t.Fatalf("%q: %v", line, err)
		}
		got[strings.Trim(f[2], `"`)] = b
	}
	return got
}

func (w *world) mustPythonRestore(dirs []string, want ...namedBytes) (stderr string) {
	w.t.Helper()
	got, errs, err := w.pythonRestore(dirs)
	if err != nil {
		w.t.Fatalf("restore.py: %v: %s", err, errs)
	}
	if len(got) != len(want) {
		w.t.Errorf("restore.py: %d streams, want %d", len(got), len(want))
	}
	for _, s := range want {
		if !bytes.Equal(got[s.name], s.data) {
			w.t.Errorf("restore.py: stream %q differs (%d bytes, want %d)", s.name, len(got[s.name]), len(s.data))
		}
	}
	return errs
}

func TestIndependentProgramRestoresEveryProfileAndLoss(t *testing.T) {
	for n := 1; n <= 5; n++ {
		w := newWorld(t, n)
		week1 := []namedBytes{{"table", text(300<<10, 1)}, {"noise", random(600<<10, 2)}, {"empty", nil}}
		w.mustSave(week1...)
		week2 := []namedBytes{{"table", append(text(300<<10, 1), "new"...)}, {"noise", random(600<<10, 2)}, {"more", random(70<<10, 3)}}
		w.mustSave(week2...)
		g, err := planFor(n)
		if err != nil {
			t.Fatal(err)
		}
		// The first stores hold the slices themselves, so these losses make it
		// calculate most.
		if errs := w.mustPythonRestore(w.dirs[g.N-g.K:], week2...); errs != "" {
			t.Errorf("%v: restore.py warns: %s", g, errs)
		}
		_, errs, err := w.pythonRestore(w.dirs[g.N-g.K+1:])
		if err == nil || g.K > 1 && !strings.Contains(errs, fmt.Sprintf("needs %d shards, found are %d", g.K, g.K-1)) {
			t.Errorf("%v, a store too few: %v, %s", g, err, errs)
		}
	}
}

// damage flips a byte in every object of a store whose name begins so.
func damage(t *testing.T, store, front string, at int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(store, "*", "*", front+"*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: no %s: %v", store, front, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 1
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o444); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIndependentProgramReadsAroundDamageAndSaysSo(t *testing.T) {
	w := newWorld(t, 3)
	want := []namedBytes{{"a", text(200<<10, 1)}, {"b", random(200<<10, 2)}}
	w.mustSave(want...)
	damage(t, w.dirs[1], "s-", 1000)
	damage(t, w.dirs[0], "m-", 100)
	errs := w.mustPythonRestore(w.dirs, want...)
	if !strings.Contains(errs, "is damaged") || !strings.Contains(errs, "bad signature") {
		t.Errorf("restore.py warns of %q", errs)
	}
	damage(t, w.dirs[2], "s-", 300)
	got, errs, err := w.pythonRestore(w.dirs)
	if err == nil || len(got) != 0 || !strings.Contains(errs, "needs 2 shards, found are 1") {
		t.Errorf("two of three damaged: %v, %s", err, errs)
	}
}

func TestIndependentProgramRefusesOtherKeysAndBoxes(t *testing.T) {
	w := newWorld(t, 1)
	w.mustSave(namedBytes{"a", []byte("x")})
	run := func(key string, args ...string) string {
		out, errs, err := RunPython(t, key, RestorePython, args...)
		if err == nil || out != "" {
			t.Errorf("%v: %v, %s", args, err, out)
		}
		return errs
	}
	to := []string{"--key", "-", "--to", filepath.Join(t.TempDir(), "out")}
	if errs := run(strings.Repeat("11", 32), append(w.pythonArgs(w.dirs), to...)...); !strings.Contains(errs, "the key is another's") {
		t.Errorf("another key: %s", errs)
	}
	box := newTestSigner(2).Public()
	for _, b := range []string{hex.EncodeToString(box[:]), fmt.Sprintf("%x:2-3", w.signer.Public())} {
		args := append(w.pythonArgs(w.dirs)[:4:4], "--box", b)
		if errs := run("", append(args, to...)...); !strings.Contains(errs, "signed by another box") {
			t.Errorf("box %s: %s", b, errs)
		}
	}
}

// One snapshot beside another of the same name is neither's restore.
func TestIndependentProgramNeverChoosesBetweenTwoManifests(t *testing.T) {
	w := newWorld(t, 3)
	w.mustSave(namedBytes{"a", []byte("x")})
	w.forge(w.dirs[:1], func(f *forgery) { f.m.Time = f.m.Time.AddDate(0, 0, 1) })
	if _, errs, err := w.pythonRestore(w.dirs); err == nil || !strings.Contains(errs, "two different manifests") {
		t.Errorf("restored: %v, %s", err, errs)
	}
	out, errs, err := RunPython(t, "", RestorePython, w.pythonArgs(w.dirs)...)
	if err != nil || strings.Count(out, "\n") != 2 {
		t.Errorf("lists %q, %v, %s; want both", out, err, errs)
	}
}

func TestIndependentProgramRestoresSnapshotsOfNothing(t *testing.T) {
	for _, want := range [][]namedBytes{{}, {{"empty", nil}}, {{"empty", nil}, {"void", nil}}} {
		w := newWorld(t, 2)
		w.mustSave(want...)
		w.mustRestore("", want...)
		w.mustPythonRestore(w.dirs, want...)
	}
}
