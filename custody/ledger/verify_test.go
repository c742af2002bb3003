package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"strongroom/custody/keys"
)

// python starts the second verifier and returns what asks it: what it says,
// and whether it is content.
func python(t *testing.T) func(args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command("/usr/bin/python3", "-B", "testdata/verify.py", "-")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error("second verifier:", err)
		}
	})
	lines := bufio.NewReader(out)
	return func(args ...string) (string, bool) {
		t.Helper()
		if _, err := fmt.Fprintln(in, strings.Join(args, " ")); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if ok := strings.HasPrefix(line, "ok "); err == nil && (ok || strings.HasPrefix(line, "bad: ")) {
			return line, ok
		}
		t.Fatalf("second verifier (needs apt-get install python3 python3-cryptography): %q, %v", line, err)
		return "", false
	}
}

// specimen is a ledger of some tiles, and one from before the last acts of it.
type specimen struct {
	dir, older string
	trust      keys.BoxKeys
	head       Checkpoint
	proof      []byte
	second     func(args ...string) (string, bool)
}

func makeSpecimen(t *testing.T, before, after int) specimen {
	t.Helper()
	base := t.TempDir()
	c := testConfig(filepath.Join(base, "ledger"))
	l := newLedger(t, c)
	chance := rand.New(rand.NewPCG(3, 4))
	acts := func(n int) {
		for i := range n {
			a := act([]keys.TenantID{{}, tenantA, tenantA, tenantA, tenantB}[chance.IntN(5)], []Kind{Backup, Drill, "export"}[chance.IntN(3)])
			a.Fields["note"] = strings.Repeat("é<&>\"\\ ", i%5)
			do(t, l, a, []Result{Done, Failed, Refused}[chance.IntN(3)])
		}
	}
	acts(before)
	s := specimen{dir: c.Path, older: filepath.Join(base, "older"), trust: c.Trust, second: python(t)}
	if err := os.CopyFS(s.older, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	acts(after)
	if _, err := l.Intend(context.Background(), act(tenantA, Drill)); err != nil { // open
		t.Fatal(err)
	}
	var err error
	if s.head, err = l.Head(context.Background(), keys.TenantID{}); err != nil {
		t.Fatal(err)
	}
	if s.proof, err = l.Prove(context.Background(), tenantA, 5); err != nil {
		t.Fatal(err)
	}
	return s
}

// copy returns a copy to be harmed.
func (s specimen) copy(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// files lists what a ledger is made of, without locks and reserve.
func (s specimen) files(t *testing.T) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(os.DirFS(s.dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.ContainsAny(name, "0123456789/") && !strings.HasPrefix(name, sessionsDir) {
			out = append(out, name)
		}
		return err
	})
	if err != nil || len(out) < 5 {
		t.Fatal(out, err)
	}
	return out
}

// both runs both verifiers; they must agree on whether it is sound.
func (s specimen) both(t *testing.T, what, dir string, known ...Checkpoint) error {
	t.Helper()
	_, err := Verify(context.Background(), dir, s.trust, known)
	args := []string{"ledger", dir, s.trust[0].Public.String()}
	for i, k := range known {
		name := filepath.Join(t.TempDir(), fmt.Sprint("checkpoint-", i))
		if err := os.WriteFile(name, []byte(k.Note), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	if out, ok := s.second(args...); ok != (err == nil) {
		t.Errorf("%s: verifier: %v; second verifier: %s", what, err, out)
	}
	return err
}

func mustWrite(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSoundLedgerIsFoundSound(t *testing.T) {
	t.Parallel()
	s := makeSpecimen(t, 200, 100)
	old, err := Verify(context.Background(), s.older, s.trust, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.both(t, "sound", s.dir, s.head, old.Logs[0].Head, old.Logs[1].Head); err != nil {
		t.Error(err)
	}
	r, err := Verify(context.Background(), s.dir, s.trust, nil)
	if err != nil || len(r.Logs) != 3 || r.Gaps() != 0 || len(r.Logs[1].Open) != 1 || r.Logs[0].Head.Note != s.head.Note {
		t.Errorf("%+v, %v", r, err)
	}
	if r.Logs[0].Head.Size < tileWidth || r.Logs[1].Head.Size < tileWidth {
		t.Error("no full tiles")
	}
}

// edit changes a segment by its records.
func edit(t *testing.T, dir, log string, f func(h *header, records []record) []record) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, log, segmentPrefix+"*"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	s, err := parseSegment(mustRead(t, list[0]))
	if err != nil {
		t.Fatal(err)
	}
	records := f(&s.header, slices.Clone(s.records))
	s.header.Carried = min(s.header.Carried, len(records))
	b, err := encodeSegment(s.header, records)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, list[0], b)
}

func TestTamperingIsFoundByBothVerifiers(t *testing.T) {
	t.Parallel()
	s := makeSpecimen(t, 150, 100)
	a := tenantA.String()
	cut := func(log string, n int) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			edit(t, dir, log, func(_ *header, r []record) []record { return r[:len(r)-n] })
		}
	}
	tear := func(log string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			list, err := filepath.Glob(filepath.Join(dir, log, segmentPrefix+"*"))
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			b := mustRead(t, list[0])
			mustWrite(t, list[0], b[:len(b)-100])
		}
	}
	cases := map[string]struct {
		harm  func(t *testing.T, dir string)
		known []Checkpoint
		want  error
	}{
		"tenant's log cut off by an entry":     {harm: cut(a, 1), want: ErrTampered},
		"tenant's log cut off by ten":          {harm: cut(a, 10), want: ErrTampered},
		"system log cut off by ten":            {harm: cut(systemName, 10), want: ErrTampered},
		"system log cut off by an entry":       {harm: cut(systemName, 1), want: ErrUnsettled},
		"tenant's segment cut off in a record": {harm: tear(a), want: ErrTampered},
		"system's segment cut off in a record": {harm: tear(systemName), want: ErrUnsettled},
		"two entries change places": {harm: func(t *testing.T, dir string) {
			edit(t, dir, a, func(_ *header, r []record) []record {
				r[2], r[3] = r[3], r[2]
				return r
			})
		}, want: ErrTampered},
		"an entry is taken out": {harm: func(t *testing.T, dir string) {
			edit(t, dir, a, func(_ *header, r []record) []record { return slices.Delete(r, 2, 3) })
		}, want: ErrTampered},
		"an entry says something else": {harm: func(t *testing.T, dir string) {
			edit(t, dir, a, func(_ *header, r []record) []record {
				r[2].entry = bytes.Replace(r[2].entry, []byte(`"nora"`), []byte(`"nina"`), 1)
				return r
			})
		}, want: ErrTampered},
		"an entry of the system log says something else": {harm: func(t *testing.T, dir string) {
			edit(t, dir, systemName, func(_ *header, r []record) []record {
				r[2].entry = bytes.Replace(r[2].entry, []byte(`"salt":"`), []byte(`"salt":"0123`), 1)
				r[2].entry = append(r[2].entry[:len(r[2].entry)-6], `"}`...)
				return r
			})
		}, want: ErrTampered},
		"a tenant's log of a fork, as long": {harm: func(t *testing.T, dir string) {
			fork := filepath.Join(t.TempDir(), "fork")
			if err := os.CopyFS(fork, os.DirFS(s.older)); err != nil {
				t.Fatal(err)
			}
			head, err := Verify(context.Background(), dir, s.trust, nil)
			if err != nil {
				t.Fatal(err)
			}
			l := open(t, testConfig(fork))
			for int64(len(entries(t, l, tenantA))) < head.Logs[1].Head.Size {
				if _, err := l.Record(context.Background(), act(tenantA, Check)); err != nil {
					t.Fatal(err)
				}
			}
			putBack(t, fork, dir, a)
		}, want: ErrTampered},
		"an entry of a full tile says something else": {harm: func(t *testing.T, dir string) {
			name := filepath.Join(dir, a, "tile/8/data/000")
			mustWrite(t, name, bytes.Replace(mustRead(t, name), []byte(`"nora"`), []byte(`"nina"`), 1))
		}, want: ErrTampered},
		"entry and hash tile say something else": {harm: func(t *testing.T, dir string) {
			data, hashes := filepath.Join(dir, a, "tile/8/data/000"), filepath.Join(dir, a, "tile/8/0/000")
			b := bytes.Replace(mustRead(t, data), []byte(`"nora"`), []byte(`"nina"`), 1)
			list, err := parseBundle(b, tileWidth)
			if err != nil {
				t.Fatal(err)
			}
			var c []byte
			for _, e := range list {
				r, _ := parseRecord(append([]byte{byte(len(e) >> 8), byte(len(e))}, e...))
				c = append(c, r.leaf[:]...)
			}
			mustWrite(t, data, b)
			mustWrite(t, hashes, c)
		}, want: ErrTampered},
		"a tile is gone": {harm: func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, a, "tile/8/0/000")); err != nil {
				t.Fatal(err)
			}
		}, want: ErrTampered},
		"a tenant's log is gone": {harm: func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, a)); err != nil {
				t.Fatal(err)
			}
		}, want: ErrTampered},
		"a tenant's log is put back": {harm: func(t *testing.T, dir string) {
			putBack(t, s.older, dir, a)
		}, want: ErrTampered},
		"the system log is put back": {harm: func(t *testing.T, dir string) {
			putBack(t, s.older, dir, systemName)
		}, want: ErrTampered},
		"all of it is put back": {harm: func(t *testing.T, dir string) {
			putBack(t, s.older, dir, systemName, a, tenantB.String())
		}, known: []Checkpoint{s.head}, want: ErrBehind},
		"all of it is put back and goes on": {harm: func(t *testing.T, dir string) {
			putBack(t, s.older, dir, systemName, a, tenantB.String())
			l := open(t, testConfig(dir))
			for range 130 {
				do(t, l, act(tenantA, Backup), Done)
			}
		}, known: []Checkpoint{s.head}, want: ErrFork},
		"another ledger by the same box": {harm: func(t *testing.T, dir string) {
			other := makeSpecimen(t, 100, 150)
			putBack(t, other.dir, dir, systemName, a, tenantB.String())
		}, known: []Checkpoint{s.head}, want: ErrFork},
		"a tenant's log of another ledger": {harm: func(t *testing.T, dir string) {
			other := makeSpecimen(t, 150, 100)
			putBack(t, other.dir, dir, a)
		}, want: ErrTampered},
		"an open intent is hidden": {harm: func(t *testing.T, dir string) {
			edit(t, dir, a, func(h *header, r []record) []record {
				h.Pending = append(h.Pending, h.Base-1)
				return r
			})
		}, want: ErrTampered},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		dir := s.copy(t)
		c.harm(t, dir)
		err := s.both(t, name, dir, c.known...)
		if !errors.Is(err, c.want) || c.want == ErrUnsettled && errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// putBack puts logs of one ledger into another.
func putBack(t *testing.T, from, to string, logs ...string) {
	t.Helper()
	for _, log := range logs {
		if err := os.RemoveAll(filepath.Join(to, log)); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(to, log), os.DirFS(filepath.Join(from, log))); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlippedBitsAreFoundByBothVerifiers(t *testing.T) {
	t.Parallel()
	s := makeSpecimen(t, 150, 0)
	chance := rand.New(rand.NewPCG(5, 6))
	dir := s.copy(t)
	flips := 15
	if testing.Short() { // beside the race detector
		flips = 3
	}
	for _, name := range s.files(t) {
		path := filepath.Join(dir, name)
		whole := mustRead(t, path)
		for n := range flips {
			b := bytes.Clone(whole)
			at, bit := chance.IntN(len(b)), chance.IntN(8)
			b[at] ^= 1 << bit
			mustWrite(t, path, b)
			what := fmt.Sprintf("%s: bit %d of byte %d", name, bit, at)
			var err error
			if n < 3 {
				err = s.both(t, what, dir)
			} else {
				_, err = Verify(context.Background(), dir, s.trust, nil)
			}
			if !errors.Is(err, ErrTampered) && !errors.Is(err, ErrUnsettled) && !errors.Is(err, keys.ErrUnknownBox) {
				t.Errorf("%s: %v", what, err)
			}
		}
		mustWrite(t, path, whole)
	}
	if err := s.both(t, "after all", dir); err != nil {
		t.Error(err)
	}
}

func TestProofsAreVerifiedByBothVerifiers(t *testing.T) {
	t.Parallel()
	s := makeSpecimen(t, 150, 10)
	name := filepath.Join(t.TempDir(), "proof")
	both := func(what string, b []byte) error {
		t.Helper()
		mustWrite(t, name, b)
		_, err := VerifyProof(b, s.trust)
		if out, ok := s.second("proof", name, s.trust[0].Public.String()); ok != (err == nil) {
			t.Errorf("%s: %v; second verifier: %s", what, err, out)
		}
		return err
	}
	if err := both("sound", s.proof); err != nil {
		t.Fatal(err)
	}
	chance := rand.New(rand.NewPCG(7, 8))
	for n := range 3 * len(s.proof) {
		b := bytes.Clone(s.proof)
		b[n%len(b)] ^= 1 << chance.IntN(8)
		var err error
		if n%100 == 0 {
			err = both("flipped", b)
		} else {
			_, err = VerifyProof(b, s.trust)
		}
		if err == nil {
			t.Errorf("byte %d of the proof changed: no error", n%len(b))
		}
	}
	// 68 bytes leave two bits of the last digit of base64 unused.
	loose := bytes.Clone(s.proof)
	last := len(loose) - len("X=\n")
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	loose[last] = digits[strings.IndexByte(digits, loose[last])^1]
	if err := both("bits that say nothing", loose); err == nil {
		t.Error("a proof has two texts")
	}
	for n := range len(s.proof) {
		if _, err := VerifyProof(s.proof[:n], s.trust); err == nil {
			t.Errorf("proof cut off at %d: no error", n)
		}
	}
	retired := keys.BoxKeys{{Public: s.trust[0].Public, First: 2}}
	if _, err := VerifyProof(s.proof, retired); !errors.Is(err, keys.ErrUnknownBox) {
		t.Errorf("key of other incarnations: %v", err)
	}
	if _, err := VerifyProof(s.proof, keys.BoxKeys{{Public: testSigner(2).Public(), First: 1}}); !errors.Is(err, keys.ErrUnknownBox) {
		t.Errorf("another key: %v", err)
	}
}

// The box itself refuses to go on with logs that do not belong together.
func TestOpenRefusesLogsThatWerePutBack(t *testing.T) {
	s := makeSpecimen(t, 20, 20)
	for _, log := range []string{tenantA.String(), systemName} {
		dir := s.copy(t)
		putBack(t, s.older, dir, log)
		if _, _, err := Open(context.Background(), testConfig(dir)); !errors.Is(err, ErrTampered) {
			t.Errorf("log %s is put back: %v", log, err)
		}
	}
	other := makeSpecimen(t, 20, 20)
	dir := s.copy(t)
	putBack(t, other.dir, dir, tenantA.String())
	if _, _, err := Open(context.Background(), testConfig(dir)); !errors.Is(err, ErrTampered) {
		t.Errorf("log of another ledger: %v", err)
	}
	dir = s.copy(t)
	if err := os.RemoveAll(filepath.Join(dir, tenantA.String())); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(context.Background(), testConfig(dir)); !errors.Is(err, ErrTampered) {
		t.Errorf("log is gone: %v", err)
	}
}
