package keys

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/custody/keys/share"
)

// runPython runs the independent program with Debian's interpreter.
func runPython(t *testing.T, args ...string) (string, error) {
	t.Helper()
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import cryptography").CombinedOutput(); err != nil {
		t.Fatalf("%s with cryptography is needed: apt-get install python3 python3-cryptography (%v: %s)", python, err, out)
	}
	cmd := exec.Command(python, append([]string{"-B", filepath.Join("testdata", "capsule.py")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func put(t *testing.T, dir, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func putShares(t *testing.T, dir string, shares []share.Share) []string {
	t.Helper()
	var args []string
	for i, s := range shares {
		b := s.Format()
		if i == 1 { // one as a person types it
			b = []byte(strings.ToLower(strings.Join(s.Lines(), "\n")))
		}
		args = append(args, "--share", put(t, dir, fmt.Sprintf("share-%d", s.Index), b))
	}
	return args
}

func TestIndependentProgramOpensKitAndGeneration(t *testing.T) {
	w := newWorld(t, Confidential)
	dir := t.TempDir()
	file, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	args := append(putShares(t, dir, []share.Share{w.shares[4], w.shares[1], w.shares[3]}), "--kit", put(t, dir, "kit", file))
	out, err := runPython(t, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tk := w.tenantKey(t)
	seed := hex.EncodeToString(tk.seed.Reveal())
	proof, err := tk.ProveCanary(w.kit, false)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("tenant seed %s\ncanary proof %s\n", seed, strings.ReplaceAll(proof, "  ", " "))
	if out != want {
		t.Errorf("program says\n%swant\n%s", out, want)
	}
	_, _, g, key := w.request(t)
	out, err = runPython(t, "--seed", put(t, dir, "seed", []byte(seed+"\n")), "--capsule",
		put(t, dir, "capsule", g.Capsule), "2", w.kit.ID.String(), g.Dataset.String(), g.Generation.String())
	if want := hex.EncodeToString(key.Reveal()) + "\n"; err != nil || out != want {
		t.Errorf("program says %q, %v; want %q", out, err, want)
	}
}

func TestIndependentProgramOpensGoldenCapsules(t *testing.T) {
	dir := t.TempDir()
	g := readGolden(t)
	for i, c := range g.Capsules {
		raw, err := hex.DecodeString(c.Capsule)
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		if i == 0 {
			for j, s := range g.Shares {
				args = append(args, "--share", put(t, dir, fmt.Sprint("golden-share-", j), []byte(s)))
			}
		} else {
			args = []string{"--seed", put(t, dir, "golden-seed", []byte(c.Seed))}
		}
		args = append(args, "--capsule", put(t, dir, "golden-capsule", raw), fmt.Sprint(byte(c.Purpose)),
			c.Tenant.String(), c.Dataset.String(), c.Generation.String())
		if out, err := runPython(t, args...); err != nil || out != c.Secret+"\n" {
			t.Errorf("capsule %d: program says %q, %v; want %q", i, out, err, c.Secret)
		}
	}
}

func TestIndependentProgramCatchesWrongSharesAndCapsules(t *testing.T) {
	w := newWorld(t, Confidential)
	dir := t.TempDir()
	file, err := w.kit.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kit := put(t, dir, "kit", file)
	other := newWorld(t, Confidential)
	good := func(n int) []string { return putShares(t, t.TempDir(), w.shares[:n]) }
	typo := strings.Replace(string(w.shares[2].Format()), "\n4  ", "\n4  0", 1)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"too few":   {good(2), "3 different shares"},
		"twice":     {append(good(2), good(1)...), "3 different shares"},
		"other set": {append(good(2), putShares(t, t.TempDir(), other.shares[2:3])...), "not of one set"},
		"mistyped":  {append(good(2), "--share", put(t, dir, "typo", []byte(typo))), "line 4 is mistyped"},
		"other kit": {putShares(t, t.TempDir(), other.shares[:3]), "InvalidTag"},
	} {
		out, err := runPython(t, append(c.args, "--kit", kit)...)
		if err == nil || !strings.Contains(out, c.says) {
			t.Errorf("%s: %v, says %q; want %q", name, err, out, c.says)
		}
	}
}
