package iso_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/repo/store/media/iso"
)

var (
	when   = time.Date(2026, 1, 5, 9, 8, 7, 0, time.UTC)
	config = iso.Config{Volume: "STRONGROOM_0001", Time: when}
)

// content is a file of random bytes.
func content(path string, size int64) iso.File {
	seed := sha256.Sum256([]byte(path))
	return iso.File{Path: path, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(rand.NewChaCha8(seed), size)), nil
	}}
}

func bodyOf(t *testing.T, f iso.File) []byte {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// medium is a tree as a medium has it: names of every length, directories of
// many sectors, empty files, sizes around a sector's.
func medium() []iso.File {
	files := []iso.File{content("RECOVER.txt", 1000), content("FORMAT.md", 33_000), content("strongroom", 60), content("empty", 0)}
	files = append(files, content("strongroom-recover", 70_001))
	files[4].Executable = true
	for g := range 3 {
		prefix := fmt.Sprintf("%032x/%032x/", 7, g)
		for i := range 60 {
			files = append(files, content(fmt.Sprintf("%ss-%032x-%032x-%02x-00", prefix, i*i*i, g, i%5), int64(2040+i)))
		}
		files = append(files, content(prefix+"m-00000001", int64(g)))
	}
	for _, n := range []int{1, 8, 9, 64, 65, 103, 104, 160, 161, 162, 163, 200, 249, 250} {
		files = append(files, content("names/"+strings.Repeat("x", n-1)+"1", int64(n)), content("names/"+strings.Repeat("x", n-1)+"2", int64(n)))
	}
	return append(files, content("a/b/c/d/e/f/g/deep.file", 4096), content("a.b/c.d.e", 2048), content("plain.txt", 2047))
}

func write(t *testing.T, c iso.Config, files []iso.File) []byte {
	t.Helper()
	i, err := iso.Plan(c, files)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := i.WriteTo(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != i.Size() || b.Len()%iso.Sector != 0 {
		t.Fatalf("image has %d bytes, planned were %d", b.Len(), i.Size())
	}
	return b.Bytes()
}

func TestTheSameFilesMakeTheSameImage(t *testing.T) {
	first := write(t, config, medium())
	if !bytes.Equal(first, write(t, config, medium())) {
		t.Error("two images of the same files differ")
	}
	i, err := iso.Plan(config, medium())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // one plan, written twice
		var b bytes.Buffer
		if err := i.WriteTo(context.Background(), &b); err != nil || !bytes.Equal(b.Bytes(), first) {
			t.Errorf("another image of one plan: %v", err)
		}
	}
	later := config
	later.Time = when.In(time.FixedZone("", 3600))
	if !bytes.Equal(first, write(t, later, medium())) {
		t.Error("the zone of the clock is in the image")
	}
	later.Time = when.Add(time.Second)
	if bytes.Equal(first, write(t, later, medium())) {
		t.Error("the time is not in the image")
	}
}

// The parser of the tests, read_test.go, was written from the standards and
// shares nothing with the writer.
func TestAllNameSpacesLeadToTheSameBytes(t *testing.T) {
	files := medium()
	image := write(t, config, files)
	for _, space := range []string{"rockridge", "joliet", "plain"} {
		got, err := parse(image, space)
		if err != nil {
			t.Fatalf("%s: %v", space, err)
		}
		if len(got) != len(files) {
			t.Errorf("%s: %d files, want %d", space, len(got), len(files))
		}
		if space == "plain" { // its names are numbers; every body must be there
			bodies := map[string]bool{}
			for _, f := range got {
				bodies[string(f.body)] = true
			}
			for _, f := range files {
				if !bodies[string(bodyOf(t, f))] {
					t.Errorf("plain: the bytes of %s are missing", f.Path)
				}
			}
			if string(got["RECOVER.TXT"].body) != string(bodyOf(t, files[0])) || string(got["FORMAT.MD"].body) != string(bodyOf(t, files[1])) {
				t.Error("plain: RECOVER.txt and FORMAT.md have not kept their names")
			}
			continue
		}
		for _, f := range files {
			dir, base := filepath.Split(f.Path)
			if space == "joliet" && len(base) > 103 {
				base = base[:86] + "~" + fmt.Sprintf("%x", sha256.Sum256([]byte(base)))[:16]
			}
			g, ok := got[dir+base]
			if !ok {
				t.Errorf("%s: %s is missing", space, f.Path)
				continue
			}
			if !bytes.Equal(g.body, bodyOf(t, f)) {
				t.Errorf("%s: %s has other bytes", space, f.Path)
			}
			if mode := map[bool]uint32{false: 0o100444, true: 0o100555}[f.Executable]; space == "rockridge" && g.mode != mode {
				t.Errorf("%s: %s has mode %o", space, f.Path, g.mode)
			}
		}
	}
}

// xorriso is a reader that others wrote.
func TestXorrisoExtractsEveryFile(t *testing.T) {
	files := medium()
	dir := t.TempDir()
	image := filepath.Join(dir, "image.iso")
	if err := os.WriteFile(image, write(t, config, files), 0o644); err != nil {
		t.Fatal(err)
	}
	// -abort_on: a warning about the format fails the test.
	out, err := run(t, "xorriso", "-abort_on", "WARNING", "-indev", image, "-pvd_info", "-osirrox", "on", "-extract", "/", filepath.Join(dir, "out"))
	if err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	if !strings.Contains(out, "Volume id    : 'STRONGROOM_0001'") || !strings.Contains(out, "2026010509080700") {
		t.Errorf("xorriso says\n%s", out)
	}
	compareTree(t, filepath.Join(dir, "out"), files)
	// Names of up to 103 characters are whole in Joliet as well.
	out, err = run(t, "xorriso", "-read_fs", "norock", "-indev", image, "-find", "/", "-type", "f")
	if err != nil {
		t.Fatalf("xorriso: %v\n%s", err, out)
	}
	for _, f := range files {
		if len(filepath.Base(f.Path)) <= 64 && !strings.Contains(out, "'/"+f.Path+"'") {
			t.Errorf("xorriso finds no %s in Joliet", f.Path)
		}
	}
}

// compareTree holds a directory against files: all of them, and no others.
func compareTree(t *testing.T, dir string, files []iso.File) {
	t.Helper()
	want := map[string]iso.File{}
	for _, f := range files {
		want[f.Path] = f
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		f, ok := want[rel]
		if !ok {
			t.Errorf("%s is none of the files", rel)
			return nil
		}
		delete(want, rel)
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if sha256.Sum256(got) != sha256.Sum256(bodyOf(t, f)) {
			t.Errorf("%s has other bytes", rel)
		}
		if info, err := d.Info(); err != nil || (info.Mode()&0o111 != 0) != f.Executable {
			t.Errorf("%s has mode %v, %v", rel, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range want {
		t.Errorf("%s is missing", path)
	}
}

func TestTheKernelMountsIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may mount an image: that the kernel reads it was not seen")
	}
	if types, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(types), "iso9660") {
		// A module that is not loaded is not listed: mount(8) would load it.
		if out, err := run(t, "modprobe", "isofs"); err != nil {
			t.Skipf("this kernel has no iso9660: %v %s", err, out)
		}
	}
	files := medium()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image.iso"), filepath.Join(dir, "at")
	if err := os.WriteFile(image, write(t, config, files), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "mount", "-t", "iso9660", "-o", "loop,ro", image, at); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	defer func() {
		if err := syscall.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	compareTree(t, at, files)
}

func TestAnImageThatDoesNotFitIsRefusedBeforeItIsWritten(t *testing.T) {
	files := medium()
	whole, err := iso.Plan(config, files)
	if err != nil {
		t.Fatal(err)
	}
	c := config
	c.Capacity = whole.Size()
	if _, err := iso.Plan(c, files); err != nil {
		t.Errorf("to the byte: %v", err)
	}
	c.Capacity--
	if _, err := iso.Plan(c, files); !errors.Is(err, iso.ErrTooLarge) {
		t.Errorf("a byte too large: %v", err)
	}
	never := func() (io.ReadCloser, error) { t.Error("a file was opened"); return nil, io.EOF }
	large := []iso.File{{Path: "a", Size: 2 << 30, Open: never}, {Path: "b", Size: 2 << 30, Open: never}, {Path: "c", Size: 1 << 30, Open: never}}
	for capacity, fits := range map[int64]bool{iso.DVD: false, iso.BluRay: true} {
		c.Capacity = capacity
		if _, err := iso.Plan(c, large); errors.Is(err, iso.ErrTooLarge) == fits {
			t.Errorf("5 GiB on %d bytes: %v", capacity, err)
		}
	}
}

func TestFilesThatCannotBeInAnImage(t *testing.T) {
	for what, files := range map[string][]iso.File{
		"no name":             {content("", 1)},
		"an absolute path":    {content("/a", 1)},
		"a path to nowhere":   {content("a/", 1)},
		"an empty segment":    {content("a//b", 1)},
		"the directory above": {content("../a", 1)},
		"itself":              {content("./a", 1)},
		"a space":             {content("a b", 1)},
		"a zero byte":         {content("a\x00b", 1)},
		"no ASCII":            {content("ä", 1)},
		"too long a name":     {content(strings.Repeat("x", 251), 1)},
		"too deep":            {content("1/2/3/4/5/6/7/8/9", 1)},
		"one twice":           {content("a/b", 1), content("a/b", 1)},
		"a file as directory": {content("a", 1), content("a/b", 1)},
		"a directory as file": {content("a/b", 1), content("a", 1)},
		"names of one case":   {content("README", 1), content("readme", 1)},
		"two cases of a path": {content("A/x", 1), content("a/y", 1)},
		"more than an extent": {content("a", 1<<32)},
		"less than nothing":   {content("a", -1)},
	} {
		if _, err := iso.Plan(config, files); err == nil {
			t.Errorf("%s: planned", what)
		}
	}
	for what, c := range map[string]iso.Config{
		"no volume":       {Time: when},
		"a small volume":  {Volume: "strongroom", Time: when},
		"too long a name": {Volume: "ABCDEFGHIJKLMNOPQ", Time: when},
		"no time":         {Volume: "A"},
	} {
		if _, err := iso.Plan(c, nil); err == nil {
			t.Errorf("%s: planned", what)
		}
	}
}

func TestAFileThatIsNotAsPlannedFailsTheImage(t *testing.T) {
	broken := errors.New("the disk clicks")
	for what, open := range map[string]func() (io.ReadCloser, error){
		"shorter":  func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("12345")), nil },
		"longer":   func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("1234567")), nil },
		"unopened": func() (io.ReadCloser, error) { return nil, broken },
		"unread": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("123"), badReader{broken})), nil
		},
	} {
		i, err := iso.Plan(config, []iso.File{{Path: "a", Size: 6, Open: open}})
		if err != nil {
			t.Fatal(err)
		}
		if err := i.WriteTo(context.Background(), io.Discard); err == nil || !strings.Contains(err.Error(), " a: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	i, err := iso.Plan(config, medium())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := i.WriteTo(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := i.WriteTo(context.Background(), badWriter{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
}

type badReader struct{ err error }

func (r badReader) Read([]byte) (int, error) { return 0, r.err }

type badWriter struct{}

func (badWriter) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// blkid reads the UUID out of the volume's dates.
func TestUUIDIsWhatBlkidFinds(t *testing.T) {
	image := filepath.Join(t.TempDir(), "image.iso")
	if err := os.WriteFile(image, write(t, config, medium()), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "blkid", "-p", "-o", "export", image)
	if err != nil {
		t.Fatalf("blkid: %v %s", err, out)
	}
	for _, want := range []string{"TYPE=iso9660", "LABEL=STRONGROOM_0001", "UUID=" + iso.UUID(when)} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("blkid says no %s:\n%s", want, out)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("RECOVER.txt\na/b/c\na/b/d", uint16(3000))
	f.Add(strings.Repeat("x", 250)+"/"+strings.Repeat("y", 250)+"\n"+strings.Repeat("x", 249)+"\n1\n00000000\nA.B\nA.B1\na1.b", uint16(1))
	f.Add("00000000/q-\n00000001.\nq-/x\n.hidden\nx.tar.gz", uint16(0))
	f.Fuzz(func(t *testing.T, names string, size uint16) {
		var files []iso.File
		for i, path := range strings.Split(names, "\n") {
			files = append(files, content(path, int64(size)*int64(i%3)/2))
		}
		i, err := iso.Plan(config, files)
		if err != nil || i.Size() > 16<<20 {
			return
		}
		var b bytes.Buffer
		if err := i.WriteTo(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		for _, space := range []string{"rockridge", "joliet", "plain"} {
			got, err := parse(b.Bytes(), space)
			if err != nil || len(got) != len(files) {
				t.Fatalf("%s: %d of %d files, %v", space, len(got), len(files), err)
			}
			if space != "rockridge" {
				continue
			}
			for _, f := range files {
				if !bytes.Equal(got[f.Path].body, bodyOf(t, f)) {
					t.Errorf("%s has other bytes", f.Path)
				}
			}
		}
	})
}
