package box

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
)

func newSlots(t testing.TB, n int) (string, *Credential, *Slots) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyslots")
	c := NewCredential()
	if err := CreateSlots(path, n, c); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSlots(path, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return path, c, s
}

func generation(i byte) Entry {
	return Entry{KindGeneration, keys.TenantID{1}, keys.DatasetID{2}, keys.GenerationID{3, i}}
}

func TestSlotsKeepForgetAndSurviveReopening(t *testing.T) {
	path, c, s := newSlots(t, 8)
	catalogue := Entry{Kind: KindCatalogue, Tenant: keys.TenantID{1}}
	want := map[Entry]secret.Key{generation(1): secret.Random(), generation(2): secret.Random(), catalogue: secret.Random()}
	for e, k := range want {
		if err := s.Put(e, k); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(e, k); err != nil {
			t.Errorf("storing %s again: %v", e, err)
		}
		if err := s.Put(e, secret.Random()); !errors.Is(err, ErrKeyExists) {
			t.Errorf("another key as %s: %v", e, err)
		}
	}
	again, err := OpenSlots(path, c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for e, k := range want {
		if got, err := again.Get(e); err != nil || !got.Equal(k) {
			t.Errorf("%s: %v", e, err)
		}
	}
	if entries, damaged, err := again.Entries(); err != nil || len(entries) != 3 || damaged != nil {
		t.Errorf("entries %v, damaged %v, %v", entries, damaged, err)
	}
	if err := again.Forget(generation(1)); err != nil {
		t.Fatal(err)
	}
	for _, one := range []*Slots{s, again} {
		if _, err := one.Get(generation(1)); !errors.Is(err, ErrNoKey) {
			t.Errorf("forgotten key: %v", err)
		}
		if got, err := one.Get(generation(2)); err != nil || !got.Equal(want[generation(2)]) {
			t.Errorf("the other key: %v", err)
		}
	}
	if err := again.Forget(generation(1)); !errors.Is(err, ErrNoKey) {
		t.Errorf("forgetting twice: %v", err)
	}
}

func TestForgottenSectorKeepsNoByteOfTheWrap(t *testing.T) {
	path, _, s := newSlots(t, 4)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(generation(1), secret.Random()); err != nil {
		t.Fatal(err)
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(generation(1)); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := -1
	for i := range 5 {
		sector := func(b []byte) []byte { return b[i*slotSize : (i+1)*slotSize] }
		if !bytes.Equal(sector(before), sector(stored)) {
			if changed >= 0 {
				t.Errorf("sectors %d and %d changed, want one", changed, i)
			}
			changed = i
			same := 0
			for j, b := range sector(after) {
				if b == sector(stored)[j] {
					same++
				}
			}
			if same > 20 { // 2 are expected of 512 random bytes
				t.Errorf("%d of 512 bytes are as before", same)
			}
		} else if !bytes.Equal(sector(stored), sector(after)) {
			t.Errorf("sector %d changed when another was forgotten", i)
		}
	}
	if changed < 1 {
		t.Error("no slot was written")
	}
}

func TestFullSlotsRefuseAndReuseFreedOnes(t *testing.T) {
	_, _, s := newSlots(t, 2)
	for i := range byte(2) {
		if err := s.Put(generation(i), secret.Random()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(generation(9), secret.Random()); !errors.Is(err, ErrFull) {
		t.Errorf("third of two: %v", err)
	}
	if err := s.Forget(generation(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(generation(9), secret.Random()); err != nil {
		t.Errorf("freed slot: %v", err)
	}
}

func TestAnotherCredentialOrFileDoesNotOpenSlots(t *testing.T) {
	path, c, s := newSlots(t, 2)
	if err := s.Put(generation(1), secret.Random()); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSlots(path, NewCredential()); !errors.Is(err, ErrWrongBoxKey) {
		t.Errorf("another credential: %v", err)
	}
	if _, err := OpenSlots(path+"x", c); !errors.Is(err, ErrNotInitialised) {
		t.Errorf("missing file: %v", err)
	}
	if err := CreateSlots(path, 2, c); err == nil {
		t.Error("slots were made anew over existing ones")
	}
	if err := os.Truncate(path, 2*slotSize); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSlots(path, c); err == nil {
		t.Error("a short file was opened")
	}
}

// corrupt writes b over slot number at offset off inside it.
func corrupt(t *testing.T, path string, number, off int, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, int64(number*slotSize+off)); err != nil {
		t.Fatal(err)
	}
}

func TestTornOrMovedSlotsAreReportedAndNeverUsed(t *testing.T) {
	path, _, s := newSlots(t, 3)
	k1, k2 := secret.Random(), secret.Random()
	for i, k := range []secret.Key{k1, k2} {
		if err := s.Put(generation(byte(i)), k); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	corrupt(t, path, 2, 0, all[slotSize:2*slotSize]) // slot 1's sector in slot 2's place
	if _, err := s.Get(generation(1)); !errors.Is(err, ErrNoKey) || !strings.Contains(err.Error(), "[2]") {
		t.Errorf("error %v, want ErrNoKey that names slot 2", err)
	}
	if got, err := s.Get(generation(0)); err != nil || !got.Equal(k1) {
		t.Errorf("slot 1: %v", err)
	}
	if _, damaged, err := s.Entries(); err != nil || len(damaged) != 1 || damaged[0] != 2 {
		t.Errorf("damaged %v, %v", damaged, err)
	}
	if err := s.Put(generation(5), secret.Random()); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(generation(6), secret.Random()); !errors.Is(err, ErrFull) {
		t.Errorf("a damaged slot was reused: %v", err)
	}
	if err := s.ClearDamaged(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(generation(6), secret.Random()); err != nil {
		t.Errorf("cleared slot: %v", err)
	}
	torn := make([]byte, 100)
	_, _ = rand.Read(torn)
	corrupt(t, path, 1, 300, torn)
	if _, err := s.Get(generation(0)); !errors.Is(err, ErrNoKey) {
		t.Errorf("torn slot: %v", err)
	}
}

func TestForgetFailsWhenTheFileDoesNotTakeIt(t *testing.T) {
	path, _, s := newSlots(t, 2)
	if err := s.Put(generation(1), secret.Random()); err != nil {
		t.Fatal(err)
	}
	ro, err := os.Open(path) // a descriptor that cannot write, whoever we are
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	rw := s.file
	s.file = ro
	err = s.Forget(generation(1))
	s.file = rw
	if !errors.Is(err, ErrNotForgotten) {
		t.Errorf("error %v, want ErrNotForgotten", err)
	}
	if _, err := s.Get(generation(1)); err != nil {
		t.Errorf("the key is gone all the same: %v", err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	path, c, s := newSlots(t, 40)
	other, err := OpenSlots(path, c)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var wg sync.WaitGroup
	errs := make(chan error, 40)
	for i := range byte(40) {
		wg.Go(func() { errs <- []*Slots{s, other}[i%2].Put(generation(i), secret.Random()) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if entries, _, err := s.Entries(); err != nil || len(entries) != 40 {
		t.Errorf("%d entries, %v; want 40", len(entries), err)
	}
}

// A second process holds the lock; util-linux's flock takes the same one.
func TestLockOfAnotherProcessIsRespected(t *testing.T) {
	path, _, s := newSlots(t, 2)
	cmd := exec.Command("flock", path, "sh", "-c", "echo held; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("flock is needed: apt-get install util-linux: %v", err)
	}
	defer func() { _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if err := flock(s.file, unix.LOCK_EX, 50*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("error %v, want ErrLocked", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(generation(1), secret.Random()); err != nil {
		t.Errorf("after the other let go: %v", err)
	}
}

func FuzzSlot(f *testing.F) {
	k := secret.Random()
	f.Add(generation(1).encode(k))
	f.Add(Entry{Kind: KindCatalogue, Tenant: keys.TenantID{1}}.encode(k))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, k, err := parseEntry(b); err == nil && !bytes.Equal(e.encode(k), b) {
			t.Fatalf("%x formats as %x", b, e.encode(k))
		}
	})
}

func FuzzCredential(f *testing.F) {
	f.Add(NewCredential().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCredential(b); err == nil && !bytes.Equal(c.encode(), b) {
			t.Fatalf("%q formats as %q", b, c.encode())
		}
	})
}

func TestCredentialFileIsOwnersAloneAndNeverReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "credential")
	if _, err := LoadCredential(path, ""); !errors.Is(err, ErrNoCredential) {
		t.Errorf("missing: %v", err)
	}
	c := NewCredential()
	if err := CreateCredential(path, c); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	got, err := LoadCredential(path, "")
	if err != nil || !got.boxKey.Equal(c.boxKey) || got.Signer().Public() != c.Signer().Public() {
		t.Fatalf("read back: %v", err)
	}
	if err := CreateCredential(path, NewCredential()); !errors.Is(err, os.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o700, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadCredential(path, ""); !errors.Is(err, ErrExposed) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredential(link, ""); !errors.Is(err, ErrExposed) {
		t.Errorf("symbolic link: %v", err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredential(filepath.Join(dir, "fifo"), ""); !errors.Is(err, ErrExposed) {
		t.Errorf("fifo: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user: that such a credential is refused was not seen")
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredential(path, ""); !errors.Is(err, ErrExposed) {
		t.Errorf("another owner: %v", err)
	}
}

func TestSystemdCredentialGoesFirst(t *testing.T) {
	dir := t.TempDir()
	file, passed := NewCredential(), NewCredential()
	path := filepath.Join(dir, "file")
	if err := CreateCredential(path, file); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCredential(path, dir); !errors.Is(err, ErrNoCredential) {
		t.Errorf("directory without ours: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "strongroom"), passed.encode(), 0o440); err != nil {
		t.Fatal(err)
	}
	got, err := LoadCredential(path, dir)
	if err != nil || got.Signer().Public() != passed.Signer().Public() {
		t.Errorf("systemd's credential was not taken: %v", err)
	}
}

func TestDamagedCredentialIsRefusedWithoutShowingIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credential")
	c := NewCredential()
	text := c.encode()
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": text[:len(text)-1], "long": append(bytes.Clone(text), '\n'),
		"digit":   bytes.Replace(text, []byte("box-key "), []byte("box-keyx"), 1),
		"flipped": append(append(bytes.Clone(text[:50]), text[50]^1), text[51:]...),
		"upper":   bytes.ToUpper(text),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadCredential(path, "")
		if err == nil {
			t.Errorf("%s was accepted", name)
			continue
		}
		if strings.Contains(err.Error(), fmt.Sprintf("%x", c.boxKey.Reveal()[4:10])) {
			t.Errorf("%s: error shows the key: %v", name, err)
		}
	}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %s %x %d", c, c, c, c, c, *c) + string(j)
	if strings.Contains(out, fmt.Sprintf("%x", c.boxKey.Reveal()[:6])) {
		t.Errorf("credential prints as %s", out)
	}
}
