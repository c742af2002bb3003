package files

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"strongroom/source"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("FILES_TEST_UNPRIVILEGED"); dir != "" {
		os.Exit(unprivileged(dir))
	}
	goleak.VerifyTestMain(m)
}

// stored hands out a snapshot kept in memory and counts how it is read.
type stored struct {
	streams map[string][]byte
	detail  json.RawMessage
	mu      sync.Mutex
	opens   int
}

func (s *stored) Description() source.Description { return source.Description{Engine: Engine} }
func (s *stored) Streams() []source.StreamInfo {
	return []source.StreamInfo{
		{Name: "data", Kind: source.KindFiles, Length: int64(len(s.streams["data"]))},
		{Name: "tree", Kind: source.KindTree, Length: int64(len(s.streams["tree"]))},
	}
}
func (s *stored) Detail() json.RawMessage { return s.detail }
func (s *stored) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "data" {
		s.opens++
	}
	b, ok := s.streams[name]
	if !ok || off > int64(len(b)) {
		return nil, fmt.Errorf("no stream %s at %d", name, off)
	}
	if b = b[off:]; n >= 0 {
		if n > int64(len(b)) {
			return nil, errors.New("range ends after the stream")
		}
		b = b[:n]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// trySave takes a snapshot of dir as the contract says.
func trySave(src *Source) (*stored, source.Report, error) {
	ctx := context.Background()
	snap, err := src.Open(ctx)
	if err != nil {
		return nil, source.Report{}, err
	}
	defer snap.Close()
	st := &stored{streams: map[string][]byte{}}
	for _, s := range snap.Streams() {
		r, err := s.Open(ctx)
		if err != nil {
			return nil, source.Report{}, err
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return nil, source.Report{}, err
		}
		st.streams[s.Name] = b
	}
	rep, err := snap.Finish(ctx)
	st.detail = rep.Detail
	return st, rep, err
}

func save(t *testing.T, dir string, exclude ...string) (*stored, source.Report) {
	t.Helper()
	src, err := New(Config{Path: dir, Exclude: exclude, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	st, rep, err := trySave(src)
	if err != nil {
		t.Fatal(err)
	}
	return st, rep
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, body string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(body), 0o644))
}

// describe lists a tree by means of its own, find(1) and sha256sum(1): every
// property that a restore must bring back. Hard links show by link count.
func describe(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", `cd "$1" && find . -printf '%P %y %m %U %G %T@ %n %l' \( -type d -printf '\0' -o -printf ' %s\0' \) | sort -z | tr '\0' '\n'
		find . -type f -print0 | sort -z | xargs -0r sha256sum -z | tr '\0' '\n'`, "sh", dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// zoo makes a tree of everything that this user may make.
func zoo(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "zoo")
	must(t, os.MkdirAll(filepath.Join(dir, "d", "empty"), 0o755))
	long := strings.Repeat("n", 255)
	for i, name := range []string{"plain", "new\nline", "bad\xff\xfeutf8", `quote"back\slash`, "%41percent", "<&>", "khách hàng", " ", "-rf", "\x01\x7f", long, "...", ".hidden", "d.x", "d-", "d/inner"} {
		write(t, filepath.Join(dir, name), strings.Repeat(name, i))
	}
	for i, mode := range []uint32{0o600, 0o4755, 0o2755, 0o1644, 0o777, 0o400, 0} {
		p := filepath.Join(dir, fmt.Sprintf("mode%d", i))
		write(t, p, "x")
		if mode == 0 && os.Geteuid() != 0 {
			continue
		}
		must(t, unix.Chmod(p, mode))
	}
	must(t, os.Symlink("../outside/\xff\n", filepath.Join(dir, "link")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "d", "abs")))
	must(t, os.Symlink("d", filepath.Join(dir, "dirlink")))
	must(t, os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "d", "hard2")))
	must(t, os.Link(filepath.Join(dir, "new\nline"), filepath.Join(dir, "z-hard")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	deep := filepath.Join(dir, "deep")
	for range 60 {
		deep = filepath.Join(deep, strings.Repeat("e", 20))
	}
	must(t, os.MkdirAll(deep, 0o750))
	write(t, filepath.Join(deep, "bottom"), "here")
	must(t, unix.Chmod(filepath.Join(dir, "d", "empty"), 0o3711))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(filepath.Join(dir, "link"), 1234, 5678))
		must(t, os.Chown(filepath.Join(dir, "plain"), 1, 54321))
		must(t, unix.Chmod(filepath.Join(dir, "plain"), 0o6755))
	}
	when := []unix.Timespec{{Sec: 1, Nsec: 1}, {Sec: 1234567890, Nsec: 987654321}}
	for _, p := range []string{"link", "d/abs", "plain", "deep", "d/empty", "d", "fifo", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, p), when, unix.AT_SYMLINK_NOFOLLOW))
	}
	before1970 := []unix.Timespec{{Sec: -5, Nsec: 5}, {Sec: -5, Nsec: 5}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "-rf"), before1970, 0))
	return dir
}

func TestRestoredTreeIsTheSame(t *testing.T) {
	dir := zoo(t)
	st, rep := save(t, dir)
	if rep.Partial || len(rep.Warnings) > 0 {
		t.Errorf("partial %v, warnings %q", rep.Partial, rep.Warnings)
	}
	out := filepath.Join(t.TempDir(), "out")
	res, err := Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	if len(res.Notes) > 0 {
		t.Errorf("notes %q", res.Notes)
	}
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Errorf("restored tree:\n%s\nwant:\n%s", got, want)
	}
	if st.opens != 1 {
		t.Errorf("data was opened %d times", st.opens)
	}
	// And the same again into a tree that holds it, with other contents.
	write(t, filepath.Join(out, "-rf"), "changed")
	must(t, os.Remove(filepath.Join(out, "dirlink")))
	must(t, os.Symlink("/etc", filepath.Join(out, "dirlink")))
	_, err = Restore(context.Background(), st, Target{Path: out, Overwrite: true})
	must(t, err)
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Errorf("after overwrite:\n%s\nwant:\n%s", got, want)
	}
}

func TestTwoSnapshotsOfAQuietTreeAreEqual(t *testing.T) {
	dir := zoo(t)
	a, _ := save(t, dir)
	b, _ := save(t, dir)
	for name := range a.streams {
		if !bytes.Equal(a.streams[name], b.streams[name]) {
			t.Errorf("stream %s differs", name)
		}
	}
}

func TestHardLinkedContentsAreStoredOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b"), strings.Repeat("x", 1000))
	for _, n := range []string{"a", "c", "d"} {
		must(t, os.Link(filepath.Join(dir, "b"), filepath.Join(dir, n)))
	}
	st, _ := save(t, dir)
	if n := len(st.streams["data"]); n != 1000 {
		t.Errorf("data has %d bytes, want 1000", n)
	}
	out := filepath.Join(t.TempDir(), "out")
	// Without the first link, the others are still one file.
	_, err := Restore(context.Background(), st, Target{Path: out, Only: []string{"c", "/d"}})
	must(t, err)
	var c, d unix.Stat_t
	must(t, unix.Stat(filepath.Join(out, "c"), &c))
	must(t, unix.Stat(filepath.Join(out, "d"), &d))
	if c.Ino != d.Ino || c.Nlink != 2 || c.Size != 1000 {
		t.Errorf("c is inode %d with %d links and %d bytes, d inode %d", c.Ino, c.Nlink, c.Size, d.Ino)
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestHolesStayHoles(t *testing.T) {
	dir := t.TempDir()
	sparse := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		for _, o := range at {
			_, err := f.WriteAt(bytes.Repeat([]byte("D"), 5000), o)
			must(t, err)
		}
		must(t, f.Truncate(size))
		must(t, f.Close())
	}
	sparse("ends", 64<<20, 0, 64<<20-5000)
	sparse("tail", 64<<20, 1<<20)
	sparse("none", 32<<20)
	if allocated(t, filepath.Join(dir, "none")) != 0 {
		t.Skip("the file system of the temporary directory has no sparse files: that holes stay holes was not seen")
	}
	st, _ := save(t, dir)
	if n := len(st.streams["data"]); n > 100<<10 {
		t.Errorf("data has %d bytes: holes were stored", n)
	}
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
	for _, n := range []string{"ends", "tail", "none"} {
		if got, want := allocated(t, filepath.Join(out, n)), allocated(t, filepath.Join(dir, n)); got > want+64<<10 {
			t.Errorf("%s: %d bytes allocated, at the source %d", n, got, want)
		}
	}
}

func TestManyExtentsAreBounded(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "comb"))
	must(t, err)
	for i := range int64(maxExtents + 100) {
		_, err := f.WriteAt([]byte("x"), i*(8<<10))
		must(t, err)
	}
	must(t, f.Close())
	st, _ := save(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	_, err = Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Errorf("restored:\n%s\nwant:\n%s", got, want)
	}
}

func TestTenThousandSmallFilesInFewReads(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		sub := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.Mkdir(sub, 0o755))
		for j := range 100 {
			write(t, filepath.Join(sub, fmt.Sprint(j)), fmt.Sprintf("file %d of %d", j, i))
		}
	}
	start := time.Now()
	st, rep := save(t, dir)
	t.Logf("saved in %v, tree %d bytes", time.Since(start), len(st.streams["tree"]))
	if f := rep.Streams["data"].Rows; f != 10000 {
		t.Errorf("%d files reported", f)
	}
	start = time.Now()
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	t.Logf("restored in %v", time.Since(start))
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Error("restored tree differs")
	}
	st.opens = 0
	_, err = Restore(context.Background(), st, Target{Path: filepath.Join(t.TempDir(), "out"), Only: []string{"7", "42/13", "99"}})
	must(t, err)
	if st.opens > 8 {
		t.Errorf("a part was restored with %d reads", st.opens)
	}
}

func TestOnlyTakesASubtreeAndWhatLeadsThere(t *testing.T) {
	dir := zoo(t)
	st, _ := save(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), st, Target{Path: out, Only: []string{"d/inner", "deep/", "link"}})
	must(t, err)
	var names []string
	d, _ := os.ReadDir(out)
	for _, e := range d {
		names = append(names, e.Name())
	}
	if want := []string{"d", "deep", "link"}; !slices.Equal(names, want) {
		t.Errorf("restored %q, want %q", names, want)
	}
	if got, want := describe(t, filepath.Join(out, "deep")), describe(t, filepath.Join(dir, "deep")); got != want {
		t.Errorf("deep is %s, want %s", got, want)
	}
	var a, b unix.Stat_t
	must(t, unix.Stat(filepath.Join(out, "d"), &a))
	must(t, unix.Stat(filepath.Join(dir, "d"), &b))
	if a.Mtim != b.Mtim || a.Mode != b.Mode {
		t.Error("the directory on the way has other time or mode")
	}
	for _, bad := range []string{"nowhere", "../etc", "d/../../x"} {
		if _, err := Restore(context.Background(), st, Target{Path: filepath.Join(t.TempDir(), "o"), Only: []string{bad}}); err == nil {
			t.Errorf("only %q succeeded", bad)
		}
	}
}

func TestFullDirectoryIsRefusedUntouched(t *testing.T) {
	st, _ := save(t, zoo(t))
	out := t.TempDir()
	write(t, filepath.Join(out, "plain"), "mine")
	before := describe(t, out)
	if _, err := Restore(context.Background(), st, Target{Path: out}); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("got %v, want ErrNotEmpty", err)
	}
	if describe(t, out) != before {
		t.Error("the directory was touched")
	}
}

func TestExcludedIsLeftOut(t *testing.T) {
	st, rep := save(t, zoo(t), "deep", "d/*", "*.hidden")
	for e, err := range ReadTree(context.Background(), st) {
		must(t, err)
		if strings.HasPrefix(e.Path, "deep") || strings.HasPrefix(e.Path, "d/") || e.Path == ".hidden" {
			t.Errorf("%q is in the tree", e.Path)
		}
	}
	var d Detail
	must(t, json.Unmarshal(rep.Detail, &d))
	if d.Excluded != 6 || rep.Partial {
		t.Errorf("excluded %d, partial %v", d.Excluded, rep.Partial)
	}
}

func TestExtendedAttributesComeBack(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, "x")
	value := []byte("a\x00\xffb")
	if err := unix.Setxattr(p, "user.note", value, 0); err != nil {
		t.Skipf("the file system of the temporary directory has no user attributes (%v): that they come back was not seen", err)
	}
	must(t, unix.Setxattr(dir, "user.dir", value, 0))
	st, _ := save(t, dir)
	out := filepath.Join(t.TempDir(), "out")
	_, err := Restore(context.Background(), st, Target{Path: out})
	must(t, err)
	for _, c := range [][2]string{{filepath.Join(out, "f"), "user.note"}, {out, "user.dir"}} {
		b := make([]byte, 100)
		n, err := unix.Getxattr(c[0], c[1], b)
		if err != nil || !bytes.Equal(b[:n], value) {
			t.Errorf("%s %s: %q, %v", c[0], c[1], b[:max(n, 0)], err)
		}
	}
}

func TestTarIsTheSameTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("as an ordinary user, tar sets no owners")
	}
	dir := zoo(t)
	st, _ := save(t, dir)
	out := t.TempDir()
	r, w := io.Pipe()
	go func() { w.CloseWithError(WriteTar(context.Background(), st, nil, w)) }()
	cmd := exec.Command("tar", "-xpf", "-", "--numeric-owner", "-C", out)
	cmd.Stdin = r
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, b)
	}
	r.Close()
	if got, want := describe(t, out), describe(t, dir); got != want {
		t.Errorf("unpacked:\n%s\nwant:\n%s", got, want)
	}
}

func TestHashIsThatOfTheFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "hello")
	st, _ := save(t, dir)
	for e, err := range ReadTree(context.Background(), st) {
		must(t, err)
		// As b3sum has it.
		if got := fmt.Sprintf("%x", e.Sum); e.Type == TypeFile && got != "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f" {
			t.Errorf("hash %s", got)
		}
	}
	st.streams["data"] = []byte("jello")
	out := filepath.Join(t.TempDir(), "out")
	if _, err := Restore(context.Background(), st, Target{Path: out}); !errors.Is(err, ErrContents) {
		t.Errorf("got %v, want ErrContents", err)
	}
	if names, _ := os.ReadDir(out); len(names) != 0 {
		t.Error("a file with wrong contents was left")
	}
}
