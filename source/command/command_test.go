package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"strongroom/source"
	"strongroom/source/files/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sh returns a source that runs a script; the shell is the program under
// test, not a part of ours.
func sh(t *testing.T, script string, change func(*Config)) *Source {
	t.Helper()
	cfg := Config{Argv: []string{"/bin/sh", "-c", script}, Grace: 500 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, ctx context.Context, s *Source) (source.Snapshot, io.ReadCloser) {
	t.Helper()
	snap, err := s.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { snap.Close() })
	r, err := snap.Streams()[0].Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return snap, r
}

// dump reads a whole snapshot.
func dump(t *testing.T, s *Source) ([]byte, source.Report, error) {
	t.Helper()
	snap, r := open(t, context.Background(), s)
	b, err := io.ReadAll(r)
	r.Close()
	rep, ferr := snap.Finish(context.Background())
	if (err == nil) != (ferr == nil) {
		t.Errorf("stream ended with %v, finish with %v", err, ferr)
	}
	return b, rep, err
}

func TestOutputOfASuccessIsWhole(t *testing.T) {
	b, rep, err := dump(t, sh(t, `head -c 3000000 /dev/zero; echo careful >&2`, nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 3000000 {
		t.Errorf("%d bytes, want 3000000", len(b))
	}
	var d Detail
	if err := json.Unmarshal(rep.Detail, &d); err != nil {
		t.Fatal(err)
	}
	if d.Bytes != 3000000 || d.Stderr != "careful" || d.Program != "/bin/sh" {
		t.Errorf("detail %+v", d)
	}
}

func TestFailureIsAnErrorWithTheLastWords(t *testing.T) {
	for _, c := range []struct{ script, want string }{
		{`echo rows; echo "cannot reach host" >&2; exit 3`, "exit status 3; it said: cannot reach host"},
		{`echo rows; kill -9 $$`, "signal: killed"},
		{`echo rows; exec >&-; sleep 0.2; exit 4`, "exit status 4"},
		{`seq 100000 >&2; exit 1`, "99998 | 99999 | 100000"},
		{`printf 'a\033[31mb' >&2; exit 1`, "a [31mb"},
	} {
		_, _, err := dump(t, sh(t, c.script, nil))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.script, err, c.want)
		} else if len(err.Error()) > 5000 {
			t.Errorf("%s: error of %d bytes", c.script, len(err.Error()))
		}
	}
}

func TestMissingProgramAndRelativePathAreRefused(t *testing.T) {
	if _, err := New(Config{Argv: []string{"sh"}}); err == nil {
		t.Error("relative path accepted")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no program accepted")
	}
	for _, p := range []string{"/no/such/program", "/etc/passwd", "/tmp"} {
		s, err := New(Config{Argv: []string{p}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Probe(context.Background()); err == nil {
			t.Errorf("probe accepted %s", p)
		}
	}
}

func TestEnvironmentIsMinimal(t *testing.T) {
	t.Setenv("CANARY_SECRET", "leak")
	s, err := New(Config{Argv: []string{"/usr/bin/env"}, Env: []string{"MORE=x=y"}})
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := dump(t, s)
	if err != nil {
		t.Fatal(err)
	}
	want := "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nLANG=C.UTF-8\nHOME=/\nMORE=x=y\n"
	if string(b) != want {
		t.Errorf("environment %q, want %q", b, want)
	}
}

func TestEmptyOutputIsWarnedOf(t *testing.T) {
	_, rep, err := dump(t, sh(t, `exit 0`, nil))
	if err != nil || len(rep.Warnings) != 1 || !strings.Contains(rep.Warnings[0], "wrote nothing") {
		t.Errorf("%v, warnings %q", err, rep.Warnings)
	}
}

// gone waits until no process of the group is left; zombies of other parents
// do not count.
func gone(t *testing.T, pgid int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left := members(pgid)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("processes of group %d left: %v", pgid, left)
		}
	}
}

func members(pgid int) (left []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[2] == strconv.Itoa(pgid) && f[0] != "Z" && f[0] != "X" {
			left = append(left, p)
		}
	}
	return left
}

const tree = `(trap '' TERM; while :; do sleep 1; done) & (sleep 100 & sleep 100) & echo $$; while :; do sleep 1; echo x; done`

func TestAbortLeavesNoProcessBehind(t *testing.T) {
	ways := map[string]func(context.CancelFunc, source.Snapshot, io.ReadCloser){
		"cancel":         func(c context.CancelFunc, _ source.Snapshot, _ io.ReadCloser) { c() },
		"close stream":   func(_ context.CancelFunc, _ source.Snapshot, r io.ReadCloser) { r.Close() },
		"close snapshot": func(_ context.CancelFunc, s source.Snapshot, _ io.ReadCloser) { s.Close() },
	}
	for name, end := range ways {
		t.Run(name, func(t *testing.T) {
			for _, script := range []string{tree, "trap '' TERM; " + tree} {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				snap, r := open(t, ctx, sh(t, script, nil))
				pgid := leader(t, r)
				if len(members(pgid)) < 4 {
					t.Fatalf("group has only %v", members(pgid))
				}
				end(cancel, snap, r)
				if _, err := io.Copy(io.Discard, r); err == nil {
					t.Error("an aborted stream ended well")
				}
				gone(t, pgid)
				if _, err := snap.Finish(context.Background()); err == nil {
					t.Error("finish accepted an aborted run")
				}
			}
		})
	}
}

// leader reads the process id in the output's first line.
func leader(t *testing.T, r io.Reader) int {
	t.Helper()
	var b []byte
	for c := make([]byte, 1); c[0] != '\n'; b = append(b, c[0]) {
		if _, err := io.ReadFull(r, c); err != nil {
			t.Fatal(err)
		}
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	// The children start after the parent's first line at the latest.
	time.Sleep(50 * time.Millisecond)
	return n
}

func TestTimeoutEndsTheRun(t *testing.T) {
	start := time.Now()
	_, _, err := dump(t, sh(t, `echo x; sleep 100`, func(c *Config) { c.Timeout = 300 * time.Millisecond }))
	if err == nil || !strings.Contains(err.Error(), "did not end within 300ms") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestGrandchildThatKeepsThePipeOpenDoesNotHang(t *testing.T) {
	for _, script := range []string{
		`echo $$; sleep 100 & exit 0`,
		// Out of the group: no signal of ours reaches it.
		`echo $$; setsid sleep 3 & exit 0`,
	} {
		start := time.Now()
		_, r := open(t, context.Background(), sh(t, script, nil))
		pgid := leader(t, r)
		_, err := io.ReadAll(r)
		if err == nil || !strings.Contains(err.Error(), "kept its output open") {
			t.Errorf("%s: got %v", script, err)
		}
		if d := time.Since(start); d > 2500*time.Millisecond {
			t.Errorf("%s: took %v", script, d)
		}
		gone(t, pgid)
	}
}

func TestOutputLeftInThePipeIsReadByASlowReader(t *testing.T) {
	_, r := open(t, context.Background(), sh(t, `head -c 60000 /dev/zero`, func(c *Config) { c.Grace = 100 * time.Millisecond }))
	time.Sleep(400 * time.Millisecond) // the leader and the grace have long ended
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 60000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestStandardErrorHeldOpenDoesNotHang(t *testing.T) {
	start := time.Now()
	b, _, err := dump(t, sh(t, `setsid sleep 4 >/dev/null & echo done`, nil))
	if err != nil || string(b) != "done\n" || time.Since(start) > 3*time.Second {
		t.Errorf("%q, %v, after %v", b, err, time.Since(start))
	}
}

func TestChildDiesWithUs(t *testing.T) {
	_, r := open(t, context.Background(), sh(t, `exec sleep 100`, nil))
	p := r.(*process)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if f[2] != strconv.Itoa(p.cmd.Process.Pid) {
		t.Errorf("process group %s, want its own", f[2])
	}
	if p.cmd.SysProcAttr.Pdeathsig != syscall.SIGKILL {
		t.Error("would outlive us")
	}
	r.Close()
}

type stored struct {
	source.Stored
	data []byte
	err  error
}

func (s *stored) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	end := s.err
	if end == nil {
		end = io.EOF
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(s.data), failing{end})), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestRestoreIsWholeOrNothing(t *testing.T) {
	ctx := context.Background()
	out := filepath.Join(t.TempDir(), "out")
	if err := Restore(ctx, &stored{data: []byte("half"), err: errors.New("cut")}, Target{Path: out}); err == nil {
		t.Error("a broken stream was restored")
	}
	if names, _ := os.ReadDir(filepath.Dir(out)); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
	if err := Restore(ctx, &stored{data: []byte("new")}, Target{Path: out}); err != nil {
		t.Fatal(err)
	}
	if err := Restore(ctx, &stored{data: []byte("newer")}, Target{Path: out}); !errors.Is(err, publish.ErrExists) {
		t.Errorf("second restore: %v, want ErrExists", err)
	}
	if b, _ := os.ReadFile(out); string(b) != "new" {
		t.Errorf("file holds %q", b)
	}
	if err := Restore(ctx, &stored{data: []byte("newer")}, Target{Path: out, Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(out); string(b) != "newer" {
		t.Errorf("file holds %q after overwrite", b)
	}
}
