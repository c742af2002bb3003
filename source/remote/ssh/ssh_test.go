package ssh

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/remote"
	"strongroom/source/remote/ssh/sshtest"
	"strongroom/source/sourcetest"
	"strongroom/source/sqlite"
)

// readerDir in the environment makes of this test program a reader of what
// real put into that directory.
const readerDir = "STRONGROOM_TEST_READER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(readerDir); dir != "" {
		os.Exit(reader(dir))
	}
	goleak.VerifyTestMain(m)
}

func reader(dir string) int {
	srv := &remote.Server{Tool: "strongroom test", Offers: map[string]remote.Offer{}}
	all, err := sources(dir)
	if err == nil {
		for engine, src := range all {
			srv.Offers["acme/"+engine] = remote.Offer{Engine: engine, Source: src}
		}
		err = srv.Serve(context.Background(), stdio{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		return 1
	}
	return 0
}

type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }
func (stdio) Close() error                { os.Exit(0); return nil } // what waits would go on waiting

// forced are the options beside a key that start this program as the reader.
func forced(t testing.TB, dir string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`restrict,command="%s='%s' '%s'"`, readerDir, dir, exe)
}

func endpoint(t testing.TB, s *sshtest.Server, change func(*Config)) *Endpoint {
	t.Helper()
	cfg := Config{Via: s.Via(), HostKey: s.HostKey, KeyFile: s.KeyFile}
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// served is a source that is read at the other end.
func served(t testing.TB, s *sshtest.Server, engine string, change func(*Config)) Served {
	t.Helper()
	e := endpoint(t, s, change)
	src, err := remote.New(remote.Config{Dataset: "acme/" + engine, Engine: engine, Where: e.String(), Dial: e.Start})
	if err != nil {
		t.Fatal(err)
	}
	return Served{src, e}
}

// real makes something of each kind that is carried.
func real(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, b := range map[string][]byte{"a/b/c.txt": []byte("hello"), "big": bytes.Repeat([]byte("0123456789abcdef"), 60000), "empty": nil, "bad\xffname": []byte("x")} {
		p := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, b, 0o640)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "crm.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'row ' || i FROM n")
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources are those that real made; the command writes 100000 lines.
func sources(dir string) (map[string]source.Source, error) {
	f, err1 := files.New(files.Config{Path: filepath.Join(dir, "tree"), Scratch: dir})
	s, err2 := sqlite.New(sqlite.Config{Path: filepath.Join(dir, "crm.db"), Scratch: dir})
	c, err3 := command.New(command.Config{Argv: []string{"/bin/sh", "-c", "seq 100000; if [ -e " + dir + "/wait ]; then sleep 1000; fi; echo careful >&2"}})
	return map[string]source.Source{"files": f, "sqlite": s, "command": c}, errors.Join(err1, err2, err3)
}

func TestSnapshotIsCarriedAsItIs(t *testing.T) {
	dir := real(t)
	srv := sshtest.Start(t)
	srv.Authorize(t, forced(t, dir))
	all, err := sources(dir)
	if err != nil {
		t.Fatal(err)
	}
	for engine, src := range all {
		if !remote.Carries(engine) {
			t.Errorf("%s is not carried", engine)
		}
		t.Run(engine, func(t *testing.T) {
			ctx := context.Background()
			want, wantList, wantReport, err := sourcetest.Dump(ctx, src)
			if err != nil {
				t.Fatal(err)
			}
			far := served(t, srv, engine, nil)
			got, list, report, err := sourcetest.Dump(ctx, far)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Error("the bytes differ")
			}
			if !reflect.DeepEqual(list, wantList) {
				t.Errorf("streams %+v, want %+v", list, wantList)
			}
			if engine == "command" { // it says how long it took
				report.Detail, wantReport.Detail = withoutSeconds(t, report.Detail), withoutSeconds(t, wantReport.Detail)
			}
			if !reflect.DeepEqual(report, wantReport) {
				t.Errorf("report %+v %s, want %+v %s", report, report.Detail, wantReport, wantReport.Detail)
			}
			wantDesc, err := src.Probe(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if desc, err := far.Probe(ctx); err != nil || desc != wantDesc {
				t.Errorf("probe: %+v, %v, want %+v", desc, err, wantDesc)
			}
		})
	}
}

func withoutSeconds(t *testing.T, b json.RawMessage) json.RawMessage {
	var d command.Detail
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	d.Seconds = 0
	b, _ = json.Marshal(d)
	return b
}

func TestServerAndKeyAreTheOnesPinned(t *testing.T) {
	dir := real(t)
	srv := sshtest.Start(t)
	srv.Authorize(t, forced(t, dir))
	other := sshtest.NewKey(t, filepath.Join(dir, "other"))
	locked := filepath.Join(dir, "locked")
	if err := os.WriteFile(locked, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		change func(*Config)
		want   string
		class  source.Class
	}{
		"host key": {func(c *Config) { c.HostKey = other }, "is pinned: either somebody stands between", source.Refused},
		"our key":  {func(c *Config) { c.KeyFile = filepath.Join(dir, "other") }, "the server does not take our key", source.Refused},
		"user":     {func(c *Config) { c.Via = strings.Replace(c.Via, srv.User, "nobody-of-that-name", 1) }, "the server does not take our key for nobody-of-that-name", source.Refused},
		"no key":   {func(c *Config) { c.KeyFile = filepath.Join(dir, "none") }, "no such file", source.Refused},
		"bad key":  {func(c *Config) { c.KeyFile = locked }, "is no private key", source.Refused},
		"nobody":   {func(c *Config) { c.Via = "ssh://x@127.0.0.1:1" }, "connection refused", source.Temporary},
	} {
		s := served(t, srv, "command", c.change)
		if _, _, _, err := sourcetest.Dump(context.Background(), s); err == nil || !strings.Contains(err.Error(), c.want) || source.ClassOf(err) != c.class {
			t.Errorf("%s: %v (%s)", what, err, source.ClassOf(err))
		}
		f, err := s.Examine(context.Background())
		if err != nil || f[len(f)-1].Severity != source.Bad {
			t.Errorf("%s: examined: %+v, %v", what, f, err)
		}
	}
	for _, bad := range []Config{
		{Via: "ssh://h", HostKey: other}, {Via: "ssh://u:p@h", HostKey: other}, {Via: "ssh://u@h/x", HostKey: other}, {Via: "ssh://u@h:0", HostKey: other}, {Via: "ssh://-oProxyCommand=x@h", HostKey: other},
		{Via: "ssh://u@h", HostKey: "ssh-ed25519 AAAA"}, {Via: "ssh://u@h", HostKey: other + "\n" + other}, {Via: "ssh://u@h", HostKey: `command="x" ` + other},
	} {
		if _, err := New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestWhereThereIsNoReader(t *testing.T) {
	srv := sshtest.Start(t)
	for options, want := range map[string]string{
		`restrict,command="echo hello; echo sorry >&2"`: "hello",
		`restrict,command="/nonexistent/strongroom"`:    "/nonexistent/strongroom",
		`restrict,command="sleep 0; exit 3"`:            "ended too early",
	} {
		srv.Authorize(t, options)
		_, err := served(t, srv, "command", nil).Probe(context.Background())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", options, err, want)
		}
	}
}

// gone waits until no process has the word in its arguments.
func gone(t *testing.T, word string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); running(word); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a process with %q in its arguments goes on", word)
		}
	}
}

func running(word string) bool {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range lines {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(word)) {
			return true
		}
	}
	return false
}

func TestCancelStopsWhatRunsAtTheOtherEnd(t *testing.T) {
	for what, end := range map[string]func(*sshtest.Server, context.CancelFunc, source.Snapshot, io.Closer){
		"context":  func(_ *sshtest.Server, c context.CancelFunc, _ source.Snapshot, _ io.Closer) { c() },
		"stream":   func(_ *sshtest.Server, _ context.CancelFunc, _ source.Snapshot, r io.Closer) { r.Close() },
		"snapshot": func(_ *sshtest.Server, _ context.CancelFunc, s source.Snapshot, _ io.Closer) { s.Close() },
		"network":  func(s *sshtest.Server, _ context.CancelFunc, _ source.Snapshot, _ io.Closer) { s.Cut() },
	} {
		t.Run(what, func(t *testing.T) {
			dir := real(t)
			if err := os.WriteFile(filepath.Join(dir, "wait"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			srv := sshtest.Start(t)
			srv.Authorize(t, forced(t, dir))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			snap, err := served(t, srv, "command", nil).Open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer snap.Close()
			r, err := snap.Streams()[0].Open(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 500000)); err != nil {
				t.Fatal(err)
			}
			if !running(dir + "/wait") {
				t.Fatal("nothing runs there")
			}
			end(srv, cancel, snap, r)
			if _, err := io.Copy(io.Discard, r); err == nil {
				t.Error("half a stream ended well")
			}
			gone(t, dir+"/wait")
			if _, err := snap.Finish(ctx); err == nil {
				t.Error("half a snapshot is good")
			}
		})
	}
}

// TestCutAnywhereIsNeverASnapshot cuts the encrypted connection, so that the
// marks of every layer are met.
func TestCutAnywhereIsNeverASnapshot(t *testing.T) {
	dir := real(t)
	srv := sshtest.Start(t)
	srv.Authorize(t, forced(t, dir))
	proxy := sshtest.StartProxy(t, srv.Addr)
	src := served(t, srv, "sqlite", func(c *Config) { c.Via = strings.Replace(c.Via, srv.Addr, proxy.Addr, 1) })
	want, _, _, err := sourcetest.Dump(context.Background(), src)
	if err != nil {
		t.Fatal(err)
	}
	total := proxy.After(-1)
	var cuts []int64
	points := int64(6)
	if testing.Short() { // under the race detector each reader takes long to start
		points = 1
	}
	for i := range points {
		cuts = append(cuts, (2*i+1)*total/(2*points), total-400-i*97)
	}
	for _, n := range cuts {
		proxy.After(n)
		got, _, _, err := sourcetest.Dump(context.Background(), src)
		if err == nil && sha256.Sum256(got["database"]) != sha256.Sum256(want["database"]) {
			t.Errorf("cut after %d of %d bytes: a good snapshot of %d bytes, not %d", n, total, len(got["database"]), len(want["database"]))
		}
		if err == nil && n < total-1000 {
			t.Errorf("cut after %d of %d bytes and good", n, total)
		}
		if err != nil && source.ClassOf(err) != source.Temporary {
			t.Errorf("cut after %d of %d bytes: %v (%s)", n, total, err, source.ClassOf(err))
		}
	}
}

// TestAServerThatHangsIsGivenUp: one that keeps the connection open and says
// nothing more.
func TestAServerThatHangsIsGivenUp(t *testing.T) {
	dir := real(t)
	srv := sshtest.Start(t)
	srv.Authorize(t, forced(t, dir))
	proxy := sshtest.StartProxy(t, srv.Addr)
	src := served(t, srv, "sqlite", func(c *Config) {
		c.Via, c.alive = strings.Replace(c.Via, srv.Addr, proxy.Addr, 1), 100*time.Millisecond
	})
	proxy.Hang(50000)
	begun := time.Now()
	_, _, _, err := sourcetest.Dump(context.Background(), src)
	if err == nil || !strings.Contains(err.Error(), "no sign of life") || time.Since(begun) > 20*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
}

func TestExaminationTellsWhatTheKeyCouldDo(t *testing.T) {
	dir := real(t)
	srv := sshtest.Start(t)
	e := endpoint(t, srv, nil)
	for options, want := range map[string]map[string]source.Severity{
		forced(t, dir): {"ssh": source.OK, "ssh-command": source.OK, "ssh-forward": source.OK, "ssh-listen": source.OK},
		"":             {"ssh": source.OK, "ssh-command": source.Warn, "ssh-forward": source.Warn, "ssh-listen": source.Warn},
		`restrict,port-forwarding,permitopen="127.0.0.1:5432",command="/bin/false"`: {"ssh-command": source.OK, "ssh-forward": source.OK},
	} {
		srv.Authorize(t, options)
		var f source.Findings
		if !e.examine(context.Background(), &f, nil) {
			t.Errorf("%s: not reached: %+v", options, f)
		}
		got := map[string]source.Severity{}
		for _, x := range f {
			got[x.Code] = x.Severity
		}
		for code, severity := range want {
			if got[code] != severity {
				t.Errorf("%q: %s is %q, want %q", options, code, got[code], severity)
			}
		}
	}
	srv.Authorize(t, forced(t, dir))
	f, err := served(t, srv, "files", nil).Examine(context.Background())
	last := f[len(f)-1]
	if err != nil || !strings.HasPrefix(last.What, "there: ") {
		t.Errorf("%+v, %v", f, err)
	}
}
