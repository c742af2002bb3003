package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
	"strongroom/repo/store/media/mount"
	"strongroom/repo/store/storetest"
)

// A disk is an ext4 file system on a loop device.
type disk struct {
	t           *testing.T
	image, path string
	loop        string // attached there; empty: it is not
}

func needLoop(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: no loop device can be attached and nothing mounted, so media on real file systems were not tested")
	}
	for _, name := range []string{"mkfs.ext4", "losetup", "mount", "umount"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (Debian packages e2fsprogs, mount): media on real file systems were not tested", name)
		}
	}
}

// command runs a program and returns what it prints.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newDisk makes a file system of so many MiB and mounts it.
func newDisk(t *testing.T, mib int64) *disk {
	t.Helper()
	needLoop(t)
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), path: filepath.Join(t.TempDir(), "disk")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, mib<<20), os.Mkdir(d.path, 0o700)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", d.image)
	t.Cleanup(d.detach)
	d.mount()
	return d
}

func (d *disk) mount(options ...string) {
	d.t.Helper()
	d.loop = command(d.t, "losetup", "--find", "--show", d.image)
	command(d.t, "mount", append(options, d.loop, d.path)...)
}

// detach unmounts, which writes out and forgets all, and takes the device away.
func (d *disk) detach() {
	d.t.Helper()
	if d.loop == "" {
		return
	}
	command(d.t, "umount", d.path)
	command(d.t, "losetup", "--detach", d.loop)
	d.loop = ""
}

func (d *disk) again(options ...string) {
	d.t.Helper()
	d.detach()
	d.mount(options...)
}

// config is that of a real medium.
func (d *disk) config() Config {
	c := config(d.path)
	c.Probe = nil
	return c
}

// use opens the medium for as long as run takes: while it is open it cannot be
// unmounted.
func (d *disk) use(run func(*Store)) {
	d.t.Helper()
	s := must(Open(d.t.Context(), d.config()))(d.t)
	defer s.Close()
	run(s)
}

func (d *disk) enrol(label string) {
	d.t.Helper()
	s := must(Enrol(d.t.Context(), d.config(), Identity{Label: label, Set: "A", Slot: 0}, box, 1, then))(d.t)
	if err := s.Close(); err != nil {
		d.t.Fatal(err)
	}
}

// small are objects of some megabytes together.
func small(seed uint64) map[string][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := map[string][]byte{}
	for i := range 12 {
		out[fmt.Sprintf("t/g/s-%d-%d", seed, i)] = storetest.Body(seed*100+uint64(i), 1+r.IntN(1<<(8+i)))
	}
	out[fmt.Sprintf("t/g/s-%d-large", seed)] = storetest.Body(seed*100+50, 5<<20)
	return out
}

func (d *disk) mustBeWhole(when string, objects map[string][]byte) {
	d.t.Helper()
	d.use(func(s *Store) {
		if r, err := s.Verify(d.t.Context(), nil); err != nil || !r.Whole() {
			d.t.Errorf("%s: %+v, %v", when, r, err)
		}
		wantAll(d.t, s, objects)
	})
}

// What cannot be written to is refused before anything is decided: the register
// has no entry of it.
func TestWhatCannotBeWrittenToCannotBeEnrolled(t *testing.T) {
	c := config(fastDir(t))
	if os.Geteuid() == 0 { // who may write to any directory
		d := newDisk(t, 16)
		d.again("-o", "ro")
		c = d.config()
	} else if err := os.Chmod(c.Path, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Enrollable(t.Context(), c); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		t.Errorf("got %v", err)
	}
}

// A disk that is not there leaves a directory, and nothing is written to that.
func TestAnUnmountedPathIsNoMedium(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: unmounted path").Seeds(1, 20, func(t *testing.T, seed uint64) {
		d := newDisk(t, 64)
		d.enrol("A-1")
		d.use(func(s *Store) { write(t, s, small(seed)) })
		d.detach()
		if _, err := Open(t.Context(), d.config()); !errors.Is(err, ErrNotMounted) {
			t.Errorf("open: %v", err)
		}
		if _, err := Enrol(t.Context(), d.config(), Identity{Label: "A-1", Set: "A"}, box, 1, then); !errors.Is(err, ErrNotMounted) {
			t.Errorf("enrol: %v", err)
		}
		if left := must(os.ReadDir(d.path))(t); len(left) > 0 {
			t.Errorf("%v was written to the empty directory", left)
		}
		// Taken away while it was open, it is still the disk that is written to.
		d.mount()
		s := must(Open(t.Context(), d.config()))(t)
		command(t, "umount", "--lazy", d.path)
		write(t, s, map[string][]byte{"t/g/late": []byte("x")})
		s.Close()
		command(t, "losetup", "--detach", d.loop)
		if left := must(os.ReadDir(d.path))(t); len(left) > 0 {
			t.Errorf("%v was written to the empty directory", left)
		}
		d.mount()
		want := small(seed)
		want["t/g/late"] = []byte("x")
		d.mustBeWhole("after all", want)
	})
}

// What can be told of a copy: two of one UUID at once, the files on another file
// system, and the use counter of one that was left behind.
func TestACopyIsNotTheMedium(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: cloned or copied disk").Seeds(1, 20, func(t *testing.T, seed uint64) {
		d := newDisk(t, 64)
		d.enrol("A-1")
		d.use(func(s *Store) { write(t, s, small(seed)) })
		d.detach()
		clone := &disk{t: t, image: filepath.Join(t.TempDir(), "clone"), path: filepath.Join(t.TempDir(), "disk")}
		if err := errors.Join(os.WriteFile(clone.image, must(os.ReadFile(d.image))(t), 0o600), os.Mkdir(clone.path, 0o700)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(clone.detach)
		d.mount()
		clone.mount()
		for _, one := range []*disk{d, clone} {
			if _, err := Open(t.Context(), one.config()); !errors.Is(err, ErrCopied) || !strings.Contains(err.Error(), "mounted at") {
				t.Errorf("two at once: %v", err)
			}
		}
		// Files copied onto another file system.
		other := newDisk(t, 64)
		command(t, "cp", "--archive", d.path+"/.", other.path)
		if _, err := Open(t.Context(), other.config()); !errors.Is(err, ErrCopied) {
			t.Errorf("copied files: %v", err)
		}
		// The clone alone passes here: loop devices have no serial number. Its
		// counter and its head tell it from the one that went on.
		clone.detach()
		var uses uint32
		var head [32]byte
		d.use(func(s *Store) {
			write(t, s, map[string][]byte{"t/g/more": storetest.Body(seed, 1000)})
			uses, head = s.Uses(), s.Head()
		})
		d.detach()
		clone.mount()
		clone.use(func(s *Store) {
			if s.Uses() >= uses || s.Head() == head {
				t.Errorf("the clone has %d uses, the medium %d", s.Uses(), uses)
			}
			write(t, s, map[string][]byte{"t/g/other": storetest.Body(seed+1, 1000)})
			if s.Uses() != uses || s.Head() == head {
				t.Errorf("a clone that was written to has the head of the medium")
			}
		})
		// On a disk with a serial number it does not pass.
		c := clone.config()
		c.Probe = func(f *os.File) (mount.Device, error) {
			dev, err := mount.Identify(f)
			dev.Serial = "WD-2"
			return dev, err
		}
		if _, err := Open(t.Context(), c); !errors.Is(err, ErrCopied) {
			t.Errorf("another serial number: %v", err)
		}
	})
}

// A medium that is full in the middle of a session keeps what fitted, and the
// parity and lists of that.
func TestAFullMediumKeepsWhatItHas(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: full while writing").Seeds(1, 20, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := newDisk(t, 40+int64(r.IntN(60)))
		d.enrol("A-1")
		have := map[string][]byte{}
		d.use(func(s *Store) {
			w := must(s.Begin(t.Context(), sessionConfig()))(t)
			largest := 3 << 20 // and smaller ones once these do not fit, to the last cell
			for i := 0; largest > 1000 && i < 1000; i++ {
				key, body := fmt.Sprintf("t/g/s-%d", i), storetest.Body(seed*1000+uint64(i), 1+r.IntN(largest))
				switch err := storetest.Put(w, key, body); {
				case err == nil:
					have[key] = body
				case errors.Is(err, store.ErrFull):
					largest /= 2
				default:
					t.Fatal(err)
				}
			}
			if largest > 1000 {
				t.Fatal("it was never full")
			}
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		d.again("-o", "ro")
		d.mustBeWhole("full", have)
	})
}

// shutdown is EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), and noFlush its flag by
// which not even the journal is written: from then on the file system gives
// errors, and what was not synced is lost. It is how xfstests pull a disk out.
const (
	shutdown = 0x8004587d
	noFlush  = 2
)

func (d *disk) pullOut() {
	d.t.Helper()
	f := must(os.Open(d.path))(d.t)
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noFlush); err != nil {
		d.t.Fatal(err)
	}
}

// Pulled out at a random moment of a session, a medium has all that was
// committed before, and the next session makes it what it should have been.
func TestAMediumPulledOutWhileItIsWrittenLosesNothing(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: pulled out while writing").Seeds(2, 20, func(t *testing.T, seed uint64) {
		d := newDisk(t, 160)
		d.enrol("A-1")
		before, objects := small(seed), small(seed+1000)
		objects["t/g/s-long"] = storetest.Body(seed, 30<<20) // a stripe ends in it
		d.use(func(s *Store) { write(t, s, before) })
		r := rand.New(rand.NewPCG(seed, 3))
		d.use(func(s *Store) {
			w := must(s.Begin(t.Context(), sessionConfig()))(t)
			keys := sorted(objects)
			r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			at := r.IntN(len(keys) + 2)
			for i, key := range keys {
				if i == at {
					d.pullOut()
				}
				if err := storetest.Put(w, key, objects[key]); (err == nil) != (i < at) {
					t.Errorf("object %d, pulled out at %d: %v", i, at, err)
				}
			}
			if at == len(keys) {
				d.pullOut()
			}
			if err := w.Close(t.Context()); (err == nil) != (at > len(keys)) {
				t.Errorf("close, pulled out at %d of %d: %v", at, len(keys), err)
			}
			if at > len(keys) {
				d.pullOut() // the very moment after
			}
		})
		d.again()
		d.use(func(s *Store) {
			report, err := s.Verify(t.Context(), nil)
			if err != nil || len(report.Bad)+len(report.Lost) > 0 {
				t.Errorf("%+v, %v", report, err)
			}
			for key, want := range before {
				if got, err := storetest.Get(s, key, 0, -1); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: %v", key, err)
				}
			}
			write(t, s, objects)
		})
		for key, body := range before {
			objects[key] = body
		}
		d.again("-o", "ro")
		d.mustBeWhole("finished", objects)
	})
}

// sectors says where on the image the cells of objects lie.
func (d *disk) sectors(objects map[string][]byte) map[string][]int64 {
	d.t.Helper()
	image := must(os.ReadFile(d.image))(d.t)
	at := map[[4096]byte]int64{}
	for off := 0; off+4096 <= len(image); off += 4096 {
		at[[4096]byte(image[off:])] = int64(off)
	}
	out := map[string][]int64{}
	for key, body := range objects {
		for len(body) >= 4096 { // the last, shorter one has unknown bytes behind it
			off, ok := at[[4096]byte(body)]
			if !ok {
				d.t.Fatalf("a cell of %s is not on the image", key)
			}
			out[key] = append(out[key], off)
			body = body[4096:]
		}
	}
	return out
}

// flip changes sectors of the image under the mounted file system.
func (d *disk) flip(off, n int64) { d.t.Helper(); damage(d.t, d.image, off, n) }

// Scattered sectors and a run of a megabyte are flipped under the mounted file
// system, while the kernel has the right ones in memory.
func TestFlippedSectorsOfADiskAreFoundAndRepaired(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: bad sectors, flipped").Seeds(1, 20, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 4))
		d := newDisk(t, 64)
		d.enrol("A-1")
		objects := small(seed)
		d.use(func(s *Store) { write(t, s, objects) })
		d.again("-o", "ro")
		d.use(func(s *Store) { wantAll(t, s, objects) }) // now it is cached
		where, flipped := d.sectors(objects), int64(0)
		large := where[fmt.Sprintf("t/g/s-%d-large", seed)]
		first := r.IntN(len(large) - 257)
		for _, off := range large[first : first+256] {
			d.flip(off, 4096)
			flipped += 4096
		}
		for _, key := range sorted(objects) { // one cell of each other object: at most twelve rows
			if sectors := where[key]; len(sectors) > 0 && !strings.HasSuffix(key, "large") {
				d.flip(sectors[r.IntN(len(sectors))]+r.Int64N(4096), 1)
				flipped += 4096
			}
		}
		d.use(func(s *Store) {
			report, err := s.Verify(t.Context(), nil)
			if err != nil || !report.Restores() {
				t.Errorf("%+v, %v", report, err)
			}
			var found int64
			for _, b := range report.Bad {
				found += b.Length
			}
			if found != flipped {
				t.Errorf("%d bytes were flipped and %d found", flipped, found)
			}
			wantAll(t, s, objects)
		})
	})
}

// diskWithDataAtItsEnd writes objects to a disk on which parity and lists lie
// before them, since another file has all the room behind them, and returns
// where the last of their cells begin.
func diskWithDataAtItsEnd(t *testing.T, objects map[string][]byte, cells int) (*disk, int64) {
	t.Helper()
	d := newDisk(t, 64)
	d.enrol("A-1")
	d.use(func(s *Store) {
		room := filepath.Join(d.path, ".room")
		if err := os.WriteFile(room, storetest.Body(99, 8<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		command(t, "sync", "--file-system", d.path)
		w := must(s.Begin(t.Context(), sessionConfig()))(t)
		for _, key := range sorted(objects) {
			if err := storetest.Put(w, key, objects[key]); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(d.path, ".full"), storetest.Body(98, 64<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		command(t, "sync", "--file-system", d.path)
		if err := os.Remove(room); err != nil {
			t.Fatal(err)
		}
		command(t, "sync", "--file-system", d.path)
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	parity := must(os.ReadFile(filepath.Join(d.path, parityKey(1, 0))))(t)
	d.again("-o", "ro")
	var all []int64
	for _, sectors := range d.sectors(objects) {
		all = append(all, sectors...)
	}
	slices.Sort(all)
	cut := all[len(all)-cells]
	if slices.Max(d.sectors(map[string][]byte{"parity": parity})["parity"]) > cut {
		t.Fatal("parity lies behind the objects: the end of the disk is not what this test needs")
	}
	return d, cut
}

// The end of the device goes away, so that sectors cannot be read at all.
func TestUnreadableSectorsOfADiskAreRepaired(t *testing.T) {
	needLoop(t)
	storetest.CountRuns(t, "media: bad sectors, unreadable").Seeds(1, 20, func(t *testing.T, seed uint64) {
		objects := small(seed)
		d, cut := diskWithDataAtItsEnd(t, objects, 1+int(seed*7%200))
		if err := os.Truncate(d.image, cut); err != nil {
			t.Fatal(err)
		}
		command(t, "losetup", "--set-capacity", d.loop)
		d.use(func(s *Store) {
			report, err := s.Verify(t.Context(), nil)
			if err != nil || len(report.Bad) == 0 || !report.Restores() {
				t.Errorf("%+v, %v", report, err)
			}
			raw := 0
			for _, b := range report.Bad {
				f := must(os.Open(filepath.Join(d.path, b.Key)))(t)
				if _, err := f.ReadAt(make([]byte, 1), b.Offset); err != nil && err != io.EOF {
					raw++
				}
				f.Close()
			}
			if raw == 0 {
				t.Error("every sector could be read")
			}
			wantAll(t, s, objects)
		})
	})
}
