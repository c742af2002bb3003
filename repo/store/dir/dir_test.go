package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, t.TempDir()) })
}

// The same again where link(2) does not work, as on vfat.
func TestConformanceWithoutHardLinks(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := open(t, t.TempDir())
		s.ops.link = func(root *os.Root, from, to string) error { return renameNoReplace(root, from, to) }
		return s
	})
}

func TestOpenNeverMakesAStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	_, err := Open(Config{Path: path})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "mkdir "+path) {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, store.ErrNotExist) {
		t.Error("a missing store reads as a missing object")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open made something: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: file}); err == nil {
		t.Error("a file was opened as a store")
	}
}

func TestObjectsAreReadOnlyFilesUnderTheirKey(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if err := storetest.Put(s, "t/g/k", []byte("body")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(path, "t/g/k"))
	if err != nil || info.Mode() != 0o444 {
		t.Errorf("got mode %v, %v", info.Mode(), err)
	}
	wantNoLeftovers(t, path)
}

func wantNoLeftovers(t *testing.T, path string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(path, tmpDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("left in %s: %v", tmpDir, left)
	}
}

// Every step of Put fails once, in each way, on the way to one object.
func TestAFailedStepLeavesNoObjectOrTheWholeOne(t *testing.T) {
	body := storetest.Body(1, 5<<20)
	for _, c := range []struct {
		name     string
		breakOps func(*Store, error)
		persists bool // the object is there all the same
		final    bool // the store refuses further writes
	}{
		{name: "write fails", breakOps: func(s *Store, e error) {
			s.ops.write = func(*os.File, []byte) (int, error) { return 0, e }
		}},
		{name: "write fails half-way", breakOps: func(s *Store, e error) {
			n := 0
			s.ops.write = func(f *os.File, p []byte) (int, error) {
				if n++; n == 2 {
					m, _ := f.Write(p[:len(p)/2])
					return m, e
				}
				return f.Write(p)
			}
		}},
		{name: "sync fails", breakOps: func(s *Store, e error) {
			s.ops.syncFile = func(*os.File) error { return e }
		}},
		{name: "sync fails but persisted", breakOps: func(s *Store, e error) {
			s.ops.syncFile = func(f *os.File) error { f.Sync(); return e }
		}},
		{name: "link fails", breakOps: func(s *Store, e error) {
			s.ops.link = func(*os.Root, string, string) error { return e }
		}},
		{name: "link fails but persisted", persists: true, breakOps: func(s *Store, e error) {
			s.ops.link = func(r *os.Root, a, b string) error { publish(r, a, b); return e }
		}},
		{name: "sync of the object's directory fails", persists: true, final: true, breakOps: func(s *Store, e error) {
			s.ops.syncDir = failNth(3, e) // root (for t), t (for g), t/g
		}},
		{name: "sync of a new parent directory fails", final: true, breakOps: func(s *Store, e error) {
			s.ops.syncDir = failNth(1, e)
		}},
	} {
		for errno, kind := range map[syscall.Errno]error{
			syscall.EIO: syscall.EIO, syscall.ENOSPC: store.ErrFull,
		} {
			t.Run(fmt.Sprintf("%s with %s", c.name, unix.ErrnoName(errno)), func(t *testing.T) {
				path := t.TempDir()
				s := open(t, path)
				healthy := s.ops
				c.breakOps(s, &os.PathError{Op: "op", Path: "p", Err: errno})
				if err := storetest.Put(s, "t/g/k", body); !errors.Is(err, kind) {
					t.Errorf("put: got %v, want %v", err, kind)
				}
				wantNoLeftovers(t, path)
				s.ops = healthy
				err := storetest.Put(s, "t/g/k", body)
				if c.final && !errors.Is(err, store.ErrUnavailable) || !c.final && err != nil {
					t.Errorf("put again: got %v, final is %v", err, c.final)
				}
				reopened := open(t, path)
				got, err := storetest.Get(reopened, "t/g/k", 0, -1)
				if c.final && !c.persists {
					if !errors.Is(err, store.ErrNotExist) {
						t.Errorf("after reopening: got %v, want no object", err)
					}
				} else if err != nil || !bytes.Equal(got, body) {
					t.Errorf("after reopening: got %d bytes, %v", len(got), err)
				}
			})
		}
	}
}

func TestSystemErrorsBecomeTheStores(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOENT: store.ErrNotExist, syscall.ENOTDIR: store.ErrNotExist, syscall.ENOSPC: store.ErrFull,
		syscall.EDQUOT: store.ErrFull, syscall.EROFS: store.ErrReadOnly, syscall.EACCES: store.ErrDenied,
		syscall.EPERM: store.ErrDenied, syscall.ESTALE: store.ErrUnavailable, syscall.ENOTCONN: store.ErrUnavailable,
		syscall.EIO: syscall.EIO,
	} {
		if got := classify(&os.PathError{Op: "op", Path: "p", Err: errno}); !errors.Is(got, want) || !errors.Is(got, errno) {
			t.Errorf("%s: got %v, want %v", unix.ErrnoName(errno), got, want)
		}
	}
}

func failNth(n int, err error) func(*os.File) error {
	return func(f *os.File) error {
		if n--; n == 0 {
			return err
		}
		return f.Sync()
	}
}

// Durability has an order: content before name, name before success, and a
// directory before what lies in it.
func TestPutSyncsContentThenNameAndNewParents(t *testing.T) {
	s := open(t, t.TempDir())
	var steps []string
	healthy := s.ops
	s.ops.syncFile = func(f *os.File) error { steps = append(steps, "file"); return healthy.syncFile(f) }
	s.ops.syncDir = func(f *os.File) error {
		steps = append(steps, "dir "+f.Name()[len(s.path):])
		return healthy.syncDir(f)
	}
	s.ops.link = func(r *os.Root, a, b string) error { steps = append(steps, "link"); return healthy.link(r, a, b) }
	run := func(key, want string) {
		t.Helper()
		steps = nil
		if err := storetest.Put(s, key, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(steps, ", "); got != want {
			t.Errorf("put %s:\n got %s\nwant %s", key, got, want)
		}
	}
	run("t/g/k", "dir /., dir /t, file, link, dir /t/g")
	run("t/g/l", "file, link, dir /t/g")
	run("t/g/l", "file, dir /t/g") // an equal object is synced too: its writer may have died before
	run("u/k", "dir /., file, link, dir /u")
}

func TestDirectoriesRemovedMeanwhileAreMadeAgain(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if err := storetest.Put(s, "t/g/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(path, "t")); err != nil {
		t.Fatal(err)
	}
	if err := storetest.Put(s, "t/g/l", []byte("y")); err != nil {
		t.Fatal(err)
	}
}

func TestLeftoversOfACrash(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if err := storetest.Put(s, "t/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	random := strings.Repeat("0a", tmpRandom)
	files := map[string]struct {
		age    time.Duration
		remove bool
	}{
		tmpDir + "/put-" + random:                  {25 * time.Hour, true},
		tmpDir + "/put-f" + random[1:]:             {23 * time.Hour, false},
		tmpDir + "/put-" + random + "0":            {99 * time.Hour, false},
		tmpDir + "/put-" + random[:30] + "zz":      {99 * time.Hour, false},
		tmpDir + "/notes":                          {99 * time.Hour, false},
		"put-" + random:                            {99 * time.Hour, false},
		"t/put-" + random:                          {99 * time.Hour, false},
		tmpDir + "/sub/put-" + random:              {99 * time.Hour, false},
		tmpDir + "/put-1" + random[1:] + "/inside": {99 * time.Hour, false},
	}
	for name, f := range files {
		full := filepath.Join(path, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(full, now.Add(-f.age), now.Add(-f.age)); err != nil {
			t.Fatal(err)
		}
	}
	// A crash between link and remove: the same file under both names.
	linked := filepath.Join(path, tmpDir, "put-2"+random[1:])
	if err := os.Link(filepath.Join(path, "t/k"), linked); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now, now.Add(30 * time.Hour)} {
		s, err := Open(Config{Path: path, Now: func() time.Time { return at }})
		if err != nil {
			t.Fatal(err)
		}
		list, err := storetest.List(s, "")
		if err != nil || len(list) != 3 { // the object and the two look-alikes outside .tmp
			t.Errorf("list: got %v, %v", list, err)
		}
		if got, err := storetest.Get(s, "t/k", 0, -1); err != nil || string(got) != "x" {
			t.Errorf("object: got %q, %v", got, err)
		}
		s.Close()
		for name, f := range files {
			_, err := os.Lstat(filepath.Join(path, name))
			wantGone := f.remove || at != now && strings.HasPrefix(name, tmpDir+"/put-f")
			if gone := errors.Is(err, fs.ErrNotExist); gone != wantGone {
				t.Errorf("%s: removed is %v, want %v", name, gone, wantGone)
			}
		}
	}
	if _, err := os.Lstat(linked); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second name of an object was left: %v", err)
	}
}

func TestWhatIsNoPlainFileIsNoObject(t *testing.T) {
	path, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, mk := range map[string]func(string) error{
		"link out":        func(p string) error { return os.Symlink(secret, p) },
		"relative out":    func(p string) error { return os.Symlink("../../../../../.."+secret, p) },
		"link inside":     func(p string) error { return os.Symlink("real", p) },
		"dangling":        func(p string) error { return os.Symlink("nothing", p) },
		"fifo":            func(p string) error { return syscall.Mkfifo(p, 0o644) },
		"unix socket":     func(p string) error { return syscall.Mknod(p, syscall.S_IFSOCK|0o644, 0) },
		"directory link":  func(p string) error { return os.Symlink(outside, p) },
		"directory cycle": func(p string) error { return os.Symlink(".", p) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, path)
			if err := storetest.Put(s, "t/real", []byte("real")); err != nil {
				t.Fatal(err)
			}
			p := filepath.Join(path, "t", "odd")
			if err := mk(p); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(p)
			for _, key := range []string{"t/odd", "t/odd/secret"} {
				if got, err := storetest.Get(s, key, 0, -1); err == nil {
					t.Errorf("get %s gave %q", key, got)
				}
				if key == "t/odd" {
					if err := storetest.Put(s, key, []byte("real")); err == nil {
						t.Errorf("put %s succeeded", key)
					}
				}
			}
			if err := storetest.Put(s, "t/odd/new", []byte("new")); err == nil {
				t.Error("put below it succeeded")
			}
			if _, err := storetest.List(s, ""); err == nil {
				t.Error("list is called complete")
			}
			if got, err := os.ReadFile(secret); err != nil || string(got) != "outside" {
				t.Errorf("outside file: %q, %v", got, err)
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("outside directory: %v, %v", names, err)
			}
		})
	}
}

func TestAStoreThatVanishedIsNotAnEmptyOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if err := storetest.Put(s, "t/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	_, statErr := s.Stat(t.Context(), "t/k")
	_, getErr := storetest.Get(s, "t/k", 0, -1)
	_, listErr := storetest.List(s, "")
	_, probeErr := s.Probe(t.Context())
	for what, err := range map[string]error{
		"stat": statErr, "get": getErr, "list": listErr, "probe": probeErr,
		"put": storetest.Put(s, "t/l", []byte("x")), "put at the top": storetest.Put(s, "l", []byte("x")),
	} {
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotExist) {
			t.Errorf("%s: got %v, want ErrUnavailable", what, err)
		}
	}
}

func TestForeignFilesAreListed(t *testing.T) {
	path := t.TempDir()
	for _, dir := range []string{"lost+found", ".Trash-1000", "Photos"} {
		if err := os.Mkdir(filepath.Join(path, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, dir, "IMG 1.JPG"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := storetest.List(open(t, path), "")
	if err != nil || len(list) != 1 || list[0].Key != "Photos/IMG 1.JPG" {
		t.Errorf("got %v, %v", list, err)
	}
}

func TestAnObjectCutWhileItIsReadIsAnError(t *testing.T) {
	path := t.TempDir()
	s := open(t, path)
	if err := storetest.Put(s, "k", storetest.Body(1, 1000)); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Chmod(filepath.Join(path, "k"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(path, "k"), 600); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if len(got) != 600 || !errors.Is(err, store.ErrTampered) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
