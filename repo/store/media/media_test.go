package media

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/media/mount"
	"strongroom/repo/store/media/parity"
	"strongroom/repo/store/storetest"
)

type signer struct{ key ed25519.PrivateKey }

func newSigner(seed byte) signer {
	return signer{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))}
}

func (s signer) Public() [32]byte     { return [32]byte(s.key.Public().(ed25519.PublicKey)) }
func (s signer) Sign(m []byte) []byte { return ed25519.Sign(s.key, m) }

func (s signer) trust(box [32]byte, _ uint32, message, sig []byte) error {
	if box != s.Public() || !ed25519.Verify(box[:], message, sig) {
		return errors.New("not by the box")
	}
	return nil
}

var (
	box  = newSigner(1)
	then = time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
)

// config is of a directory that is taken for a mounted file system.
func config(path string) Config {
	return Config{Path: path, Trust: box.trust, Organisation: [16]byte{7}, Probe: func(*os.File) (mount.Device, error) {
		return mount.Device{Mounted: true, FileSystem: "0102030405060708090a0b0c0d0e0f10", Serial: "S 1"}, nil
	}}
}

// fastDir is a directory in memory where there is one: these tests would wait for
// fsyncs otherwise. Real file systems are tested with loop devices.
func fastDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("/dev/shm", "strongroom-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func sessionConfig() SessionConfig {
	return SessionConfig{Signer: box, Incarnation: 1, Now: func() time.Time { return then }}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func enrolled(t *testing.T, c Config) *Store {
	t.Helper()
	s := must(Enrol(t.Context(), c, Identity{Label: "A-1", Set: "A", Slot: 0}, box, 1, then))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

func reopened(t *testing.T, c Config) *Store {
	t.Helper()
	s := must(Open(t.Context(), c))(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// write puts objects in one session.
func write(t *testing.T, s *Store, objects map[string][]byte) {
	t.Helper()
	w := must(s.Begin(t.Context(), sessionConfig()))(t)
	for _, key := range sorted(objects) {
		if err := storetest.Put(w, key, objects[key]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func sorted(m map[string][]byte) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// wantAll reads every object whole and a few ranges of it.
func wantAll(t *testing.T, s store.Store, objects map[string][]byte) {
	t.Helper()
	for key, want := range objects {
		if got, err := storetest.Get(s, key, 0, -1); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, %v", key, len(got), len(want), err)
		}
		if n := len(want); n > 10 {
			from := rand.IntN(n - 1)
			count := rand.IntN(n - from)
			if got, err := storetest.Get(s, key, int64(from), int64(count)); err != nil || !bytes.Equal(got, want[from:from+count]) {
				t.Errorf("%s: range [%d,+%d): %d bytes, %v", key, from, count, len(got), err)
			}
		}
		if info, err := s.Stat(t.Context(), key); err != nil || info.Size != int64(len(want)) {
			t.Errorf("%s: %+v, %v", key, info, err)
		}
	}
	list, err := storetest.List(s, "")
	if err != nil || len(list) != len(objects) {
		t.Errorf("%d objects listed, want %d: %v", len(list), len(objects), err)
	}
}

// some are objects of all kinds of sizes, of more than a stripe together.
func some(seed uint64) map[string][]byte {
	out := map[string][]byte{"t/g/empty": {}, "FORMAT.md": []byte("x")}
	for i, n := range []int{1, 4095, 4096, 4097, 70000, 1 << 20, 1<<20 + 1, 5 << 20, 300, 30 << 20, 12345} {
		out[fmt.Sprintf("t/g/s-%d-%d", seed, i)] = storetest.Body(seed*100+uint64(i), n)
	}
	return out
}

func TestASessionIsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return must(enrolled(t, config(fastDir(t))).Begin(t.Context(), sessionConfig()))(t)
	})
}

// What a session committed is held to the contract of reading too.
func TestWhatWasCommittedComesBack(t *testing.T) {
	c := config(fastDir(t))
	s := enrolled(t, c)
	all := some(1)
	write(t, s, all)
	wantAll(t, s, all)
	more := some(2)
	delete(more, "FORMAT.md")
	delete(more, "t/g/empty")
	w := must(s.Begin(t.Context(), sessionConfig()))(t)
	for _, objects := range []map[string][]byte{all, more} { // what is there already is not written again
		for key, body := range objects {
			if err := storetest.Put(w, key, body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := storetest.Put(w, "FORMAT.md", []byte("y")); !errors.Is(err, store.ErrExists) {
		t.Errorf("other content: %v", err)
	}
	for _, key := range []string{"medium/identity", "medium-copy/session-00000009"} {
		if err := storetest.Put(w, key, []byte("y")); err == nil {
			t.Errorf("%s was written", key)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, body := range more {
		all[key] = body
	}
	for _, s := range []*Store{s, reopened(t, c), must(Read(t.Context(), c.Path))(t)} {
		wantAll(t, s, all)
		if s.Uses() != 2 || s.Head() == [32]byte{} || len(s.Problems()) > 0 || s.Identity().Label != "A-1" || s.Identity().Serial != "S 1" {
			t.Errorf("%d uses, %v, %+v", s.Uses(), s.Problems(), s.Identity())
		}
		r, err := s.Verify(t.Context(), nil)
		if err != nil || !r.Whole() || r.Sessions != 2 || r.Objects != len(all)+2 || r.Loose != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if _, err := storetest.Get(s, "t/g/s-1-4", 70001, -1); !errors.Is(err, store.ErrTampered) {
			t.Errorf("a range outside: %v", err)
		}
		if _, err := storetest.Get(s, "t/g/none", 0, -1); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("an absent object: %v", err)
		}
		if err := storetest.Put(s, "t/new", nil); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("put without a session: %v", err)
		}
	}
	if n := len(reopened(t, c).committed()[1].entries); n != len(more)+1 {
		t.Errorf("the second session lists %d objects, it wrote %d and the index", n, len(more))
	}
}

// damage changes bytes of a file behind the store's back.
func damage(t *testing.T, path string, off, n int64) {
	t.Helper()
	f := must(os.OpenFile(path, os.O_RDWR, 0))(t)
	defer f.Close()
	b := make([]byte, n)
	must(f.ReadAt(b, off))(t)
	for i := range b {
		b[i] ^= 0x55
	}
	must(f.WriteAt(b, off))(t)
}

// Any three cells of every row, of data and of parity, may be bad.
func TestScatteredBadSectorsAreRepaired(t *testing.T) {
	runs := storetest.CountRuns(t, "media: bad sectors, three of each row, chosen at random")
	runs.Seeds(2, 20, func(t *testing.T, seed uint64) {
		c := config(fastDir(t))
		s := enrolled(t, c)
		all := some(seed)
		write(t, s, all)
		r := rand.New(rand.NewPCG(seed, 0))
		l, bad, objects := s.committed()[0], 0, map[string]bool{}
		for stripe := range l.stripes() {
			h := l.shape(stripe)
			for row := range h.Rows {
				for _, col := range r.Perm(parity.Data + parity.Spare)[:parity.Spare] {
					if col >= parity.Data {
						damage(t, filepath.Join(c.Path, parityKey(1, stripe)), h.At(col-parity.Data, row)+r.Int64N(parity.Cell), 1)
						continue
					}
					n := col*parity.Rows + row
					if n >= h.Cells {
						continue
					}
					at := stripe*parity.Stripe + int64(n)
					e := l.entries[l.entryAt(at)]
					off := (at - l.starts[l.entryAt(at)]) * parity.Cell
					damage(t, filepath.Join(c.Path, e.Key), off+r.Int64N(min(parity.Cell, e.Size-off)), 1)
					bad++
					objects[e.Key] = true
				}
			}
		}
		s = reopened(t, c)
		report, err := s.Verify(t.Context(), nil)
		if err != nil || report.Whole() || !report.Restores() {
			t.Fatalf("%+v, %v", report, err)
		}
		var cells int64
		for _, b := range report.Bad {
			if !b.Repaired || !objects[b.Key] {
				t.Errorf("%+v", b)
			}
			cells += (b.Length + parity.Cell - 1) / parity.Cell
		}
		if cells != int64(bad) {
			t.Errorf("found %d bad cells of %d", cells, bad)
		}
		wantAll(t, s, all)
		wantAll(t, must(Read(t.Context(), c.Path))(t), all)
	})
}

// A fourth bad cell in a row is an error, and never wrong bytes.
func TestTooMuchDamageIsAnError(t *testing.T) {
	c := config(fastDir(t))
	s := enrolled(t, c)
	all := map[string][]byte{"t/g/a": storetest.Body(1, 6<<20), "t/g/b": storetest.Body(2, 1<<20)}
	write(t, s, all)
	for i := range int64(4) {
		damage(t, filepath.Join(c.Path, "t/g/a"), i<<20+8192, 1)
	}
	s = reopened(t, c)
	if got, err := storetest.Get(s, "t/g/a", 0, -1); !errors.Is(err, store.ErrTampered) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := storetest.Get(s, "t/g/a", 3<<20+12288, 100); err != nil || !bytes.Equal(got, all["t/g/a"][3<<20+12288:][:100]) {
		t.Errorf("beside the damage: %v", err)
	}
	r := must(s.Verify(t.Context(), nil))(t)
	if r.Restores() || !slices.Equal(r.Lost, []string{"t/g/a"}) || len(r.Bad) != 4 || r.Bad[0] != (Range{"t/g/a", 8192, 4096, false}) {
		t.Errorf("%+v", r)
	}
	delete(all, "t/g/a")
	if got, err := storetest.Get(s, "t/g/b", 0, -1); err != nil || !bytes.Equal(got, all["t/g/b"]) {
		t.Error(err)
	}
}

// Where parity and checksums are gone too, the object's hash decides.
func TestDamageWithoutParityIsAnError(t *testing.T) {
	c := config(fastDir(t))
	all := map[string][]byte{"t/g/a": storetest.Body(1, 3<<20), "t/g/b": storetest.Body(2, 50000)}
	write(t, enrolled(t, c), all)
	if err := os.Remove(filepath.Join(c.Path, parityKey(1, 0))); err != nil {
		t.Fatal(err)
	}
	damage(t, filepath.Join(c.Path, "t/g/a"), 2<<20, 1)
	s := reopened(t, c)
	for _, off := range []int64{0, 2 << 20} {
		if got, err := storetest.Get(s, "t/g/a", off, 100); !errors.Is(err, store.ErrTampered) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
	if got, err := storetest.Get(s, "t/g/b", 0, -1); err != nil || !bytes.Equal(got, all["t/g/b"]) {
		t.Errorf("the one that is whole: %v", err)
	}
	if r := must(s.Verify(t.Context(), nil))(t); !slices.Equal(r.Lost, []string{"t/g/a"}) {
		t.Errorf("%+v", r)
	}
}

// A run of bad sectors of three megabytes, small objects that are gone or were
// cut off, and any of the medium's own objects are survived.
func TestRunsAndLostFilesAreRepaired(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, path string){
		"3 MiB": func(t *testing.T, path string) {
			damage(t, filepath.Join(path, "t/g/s-1-9"), 7<<20+4096, 3<<20-4096)
		},
		"1 MiB over objects": func(t *testing.T, path string) {
			damage(t, filepath.Join(path, "t/g/s-1-6"), 600<<10, 1<<20+1-600<<10)
			damage(t, filepath.Join(path, "t/g/s-1-7"), 0, 600<<10)
		},
		"gone": func(t *testing.T, path string) {
			for _, key := range []string{"t/g/s-1-0", "t/g/s-1-5", "t/g/s-1-10"} {
				if err := os.Remove(filepath.Join(path, key)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"cut off and grown": func(t *testing.T, path string) {
			if err := errors.Join(os.Truncate(filepath.Join(path, "t/g/s-1-4"), 5000), os.Truncate(filepath.Join(path, "t/g/s-1-8"), 5000)); err != nil {
				t.Fatal(err)
			}
		},
		"first table": func(t *testing.T, path string) {
			damage(t, filepath.Join(path, parityKey(1, 0)), 0, 9*parity.Cell)
			damage(t, filepath.Join(path, "t/g/s-1-9"), 1<<20, 1)
		},
		"both tables in different pages": func(t *testing.T, path string) {
			h := parity.ShapeOf(parity.Stripe, 0)
			damage(t, filepath.Join(path, parityKey(1, 0)), 0, 4*parity.Cell)
			damage(t, filepath.Join(path, parityKey(1, 0)), h.Tables(4)[1], int64(h.Pages()-4)*parity.Cell)
			damage(t, filepath.Join(path, "t/g/s-1-9"), 1<<20, 1)
		},
		"parity gone": func(t *testing.T, path string) {
			if err := os.Remove(filepath.Join(path, parityKey(1, 0))); err != nil {
				t.Fatal(err)
			}
		},
		"list": func(t *testing.T, path string) { damage(t, filepath.Join(path, "medium/session-00000001"), 100, 1) },
		"copy of the list": func(t *testing.T, path string) {
			if err := os.Remove(filepath.Join(path, "medium-copy/session-00000001")); err != nil {
				t.Fatal(err)
			}
		},
		"identity": func(t *testing.T, path string) { damage(t, filepath.Join(path, "medium/identity"), 30, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(fastDir(t))
			all := some(1)
			write(t, enrolled(t, c), all)
			harm(t, c.Path)
			s := reopened(t, c)
			wantAll(t, s, all)
			if r := must(s.Verify(t.Context(), nil))(t); r.Whole() || !r.Restores() {
				t.Errorf("%+v", r)
			}
			// And a further session leaves no more wrong than there was.
			more := map[string][]byte{"t/g/more": storetest.Body(9, 5000)}
			write(t, s, more)
			all["t/g/more"] = more["t/g/more"]
			wantAll(t, reopened(t, c), all)
		})
	}
}

// Without lists, or with a list that is not the box's, nothing is repaired and
// nothing is lost.
func TestWithoutListsObjectsAreReadAsTheyAre(t *testing.T) {
	c := config(fastDir(t))
	all := some(1)
	write(t, enrolled(t, c), all)
	for _, name := range []string{"medium/session-00000001", "medium-copy/session-00000001"} {
		damage(t, filepath.Join(c.Path, name), 100, 1)
	}
	s := reopened(t, c)
	wantAll(t, s, all)
	if r := must(s.Verify(t.Context(), nil))(t); r.Whole() || r.Objects != 0 || r.Loose != len(all) {
		t.Errorf("%+v", r)
	}
}

func TestAMediumThatIsNotTheOneIsRefused(t *testing.T) {
	c := config(fastDir(t))
	write(t, enrolled(t, c), map[string][]byte{"t/g/a": []byte("x")})
	probe := func(d mount.Device) func(*os.File) (mount.Device, error) {
		return func(*os.File) (mount.Device, error) { return d, nil }
	}
	good := must(c.Probe(nil))(t)
	for name, x := range map[string]struct {
		change func(*Config, *mount.Device)
		want   error
	}{
		"not mounted":        {func(_ *Config, d *mount.Device) { d.Mounted = false }, ErrNotMounted},
		"other file system":  {func(_ *Config, d *mount.Device) { d.FileSystem = "ff" }, ErrCopied},
		"no file system":     {func(_ *Config, d *mount.Device) { d.FileSystem = "" }, ErrCopied},
		"other device":       {func(_ *Config, d *mount.Device) { d.Serial = "S 2" }, ErrCopied},
		"no serial":          {func(_ *Config, d *mount.Device) { d.Serial = "" }, ErrCopied},
		"twin":               {func(_ *Config, d *mount.Device) { d.Twin = "/mnt/x" }, ErrCopied},
		"other organisation": {func(c *Config, _ *mount.Device) { c.Organisation[0]++ }, ErrUnknown},
		"other box":          {func(c *Config, _ *mount.Device) { c.Trust = newSigner(2).trust }, ErrUnknown},
		"empty":              {func(c *Config, _ *mount.Device) { c.Path = fastDir(t) }, ErrUnknown},
		"absent":             {func(c *Config, _ *mount.Device) { c.Path += "/none" }, store.ErrUnavailable},
	} {
		other, d := c, good
		x.change(&other, &d)
		other.Probe = probe(d)
		if s, err := Open(t.Context(), other); !errors.Is(err, x.want) || s != nil {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
	if _, err := Open(t.Context(), c); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	// This process has nothing mounted there.
	c.Probe = nil
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNotMounted) {
		t.Errorf("a directory: %v", err)
	}
}

func TestEnrollingTakesEmptyMediaOnly(t *testing.T) {
	id := Identity{Label: "A-1", Set: "A"}
	c := config(fastDir(t))
	enrolled(t, c)
	if _, err := Enrol(t.Context(), c, id, box, 1, then); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("enrolled twice: %v", err)
	}
	foreign := config(fastDir(t))
	if err := os.WriteFile(filepath.Join(foreign.Path, ".hidden"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Enrol(t.Context(), foreign, id, box, 1, then); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a foreign file: %v", err)
	}
	for _, label := range []string{"", " A", "A\nB", "A\x7f", "\xff", strings.Repeat("x", 70)} {
		bad := config(fastDir(t))
		if _, err := Enrol(t.Context(), bad, Identity{Label: label, Set: "A"}, box, 1, then); err == nil {
			t.Errorf("label %q was taken", label)
		}
		if left := must(os.ReadDir(bad.Path))(t); len(left) > 0 {
			t.Errorf("label %q: %v is there", label, left)
		}
	}
	unmounted := config(fastDir(t))
	unmounted.Probe = nil
	if _, err := Enrol(t.Context(), unmounted, id, box, 1, then); !errors.Is(err, ErrNotMounted) {
		t.Errorf("a directory: %v", err)
	}
	unknown := config(fastDir(t))
	unknown.Probe = func(*os.File) (mount.Device, error) { return mount.Device{Mounted: true}, nil }
	if _, err := Enrol(t.Context(), unknown, id, box, 1, then); err == nil || len(must(os.ReadDir(unknown.Path))(t)) > 0 {
		t.Errorf("without a UUID: %v", err)
	}
}

// A session that dies at any of its writes leaves what was committed before, and
// the next one ends where an undisturbed one does.
func TestASessionKilledAtAnyWriteIsMadeGoodByTheNext(t *testing.T) {
	before := map[string][]byte{"t/g/s-0": storetest.Body(1, 50000)}
	objects := map[string][]byte{"t/g/s-1": storetest.Body(2, 33<<20), "t/g/s-2": storetest.Body(3, 5000), "t/g/m-1": storetest.Body(4, 9000)}
	step := int64(9)
	if storetest.Full() {
		step = 1
	}
	for nth, finished := int64(1), false; !finished; nth += step {
		if nth > 200 {
			t.Fatal("it never ends")
		}
		c := config(fastDir(t))
		write(t, enrolled(t, c), before)
		dying := &dyingSystem{at: nth}
		d := c
		d.System = dying
		s := must(Open(t.Context(), d))(t)
		err := runSession(s, objects)
		finished = dying.n < nth
		if (err == nil) != finished {
			t.Fatalf("killed at call %d of %d: %v", nth, dying.n, err)
		}
		s.Close()
		s = reopened(t, c)
		wantSome := map[string][]byte{}
		for key, body := range objects {
			if _, err := s.Stat(t.Context(), key); err == nil {
				wantSome[key] = body
			}
		}
		wantSome["t/g/s-0"] = before["t/g/s-0"]
		wantAll(t, s, wantSome)
		if r := must(s.Verify(t.Context(), nil))(t); !r.Restores() || len(r.Bad) > 0 {
			t.Errorf("killed at call %d: %+v", nth, r)
		}
		if err := runSession(s, objects); err != nil {
			t.Fatalf("killed at call %d: %v", nth, err)
		}
		s = reopened(t, c)
		wantSome = map[string][]byte{"t/g/s-0": before["t/g/s-0"]}
		for key, body := range objects {
			wantSome[key] = body
		}
		wantAll(t, s, wantSome)
		if r := must(s.Verify(t.Context(), nil))(t); !r.Whole() || r.Loose != 0 {
			t.Errorf("killed at call %d, and finished: %+v", nth, r)
		}
	}
}

func runSession(s *Store, objects map[string][]byte) error {
	w, err := s.Begin(context.Background(), sessionConfig())
	if err != nil {
		return err
	}
	defer w.Abandon()
	for _, key := range sorted(objects) {
		if err := storetest.Put(w, key, objects[key]); err != nil {
			return err
		}
	}
	return w.Close(context.Background())
}
