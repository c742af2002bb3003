package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/walls"
	"strongroom/source"
	"strongroom/source/mariadb/mariadbtest"
	"strongroom/source/postgres/pgtest"
	"strongroom/source/remote/ssh/sshtest"
)

// far is a client's server: a tree, a SQLite database and a command, and what
// its reader may read of them.
type far struct {
	dir, reader string
	local       string // the datasets as a daemon there would have them
}

func newFar(t *testing.T, suffix string) far {
	t.Helper()
	f := far{dir: t.TempDir()}
	tree, db := filepath.Join(f.dir, "tree"), filepath.Join(f.dir, "crm.db")
	err := errors.Join(os.MkdirAll(tree+"/a/b", 0o755), os.WriteFile(tree+"/a/b/c", []byte(strings.Repeat("hello ", 100000)), 0o640),
		os.WriteFile(tree+"/empty", nil, 0o600), os.Symlink("../..", tree+"/link"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := sql.Open("sqlite", db)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, 'row ' || i FROM n")
	if err = errors.Join(err, conn.Close()); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{
		fmt.Sprintf("source = \"files\"\npath = %q\nexclude = [\"*.tmp\"]\n", tree),
		fmt.Sprintf("source = \"sqlite\"\npath = %q\n", db),
		"source = \"command\"\ncommand = [\"/usr/bin/seq\", \"100000\"]\n",
	} {
		kind := strings.Split(d, "\"")[1]
		f.local += fmt.Sprintf("[[tenant.dataset]]\nname = %q\n%s", kind, d)
		f.reader += fmt.Sprintf("[[dataset]]\nname = \"acme/%s-%s\"\n%s", kind, suffix, d)
	}
	f.reader = "scratch = \"" + f.dir + "\"\n" + f.reader
	if err := os.WriteFile(f.file(), []byte(f.reader), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f far) file() string { return filepath.Join(f.dir, "reader.toml") }

// forced starts the reader for whoever has the key.
func (f far) forced(t *testing.T) string {
	return fmt.Sprintf(`restrict,command="%s source serve %s"`, program(t, "strongroom"), f.file())
}

// viaSSH is what makes a dataset one that is reached by SSH.
func viaSSH(s *sshtest.Server, addr string) string {
	return fmt.Sprintf("via = %q\nhost_key = %q\nssh_key_file = %q\n", strings.Replace(s.Via(), s.Addr, addr, 1), s.HostKey, s.KeyFile)
}

func remoteDataset(kind, suffix, via string) string {
	return fmt.Sprintf("[[tenant.dataset]]\nname = \"%s-%s\"\nsource = %q\n%s", kind, suffix, kind, via)
}

// restricts are the lines that differ between datasets by intention.
var restricts = regexp.MustCompile(`(?m)^\\(un)?restrict .*$`)

func TestEveryKindIsTheSameFromElsewhere(t *testing.T) {
	pg, my := pgtest.Start(t), mariadbtest.Start(t)
	pgdb, mydb := pg.CreateDatabase(t), my.CreateDatabase(t)
	pg.Exec(t, pgdb, smallZoo)
	my.Exec(t, mydb, smallMariaDB)
	f := newFar(t, "ssh")
	reader, tunnels := sshtest.Start(t), sshtest.Start(t)
	reader.Authorize(t, f.forced(t))
	tunnels.Authorize(t, `restrict,port-forwarding,command="/bin/false"`)
	pgURL, myURL := fmt.Sprintf("url = %q\n", pg.URL(pgdb, "postgres")), fmt.Sprintf("url = %q\n", my.URL(mydb, "root"))
	datasets := f.local + "[[tenant.dataset]]\nname = \"postgres\"\nsource = \"postgres\"\n" + pgURL + "[[tenant.dataset]]\nname = \"mariadb\"\nsource = \"mariadb\"\n" + myURL +
		remoteDataset("postgres", "ssh", pgURL+viaSSH(tunnels, tunnels.Addr)) + remoteDataset("mariadb", "ssh", myURL+viaSSH(tunnels, tunnels.Addr))
	for _, kind := range []string{"files", "sqlite", "command"} {
		datasets += remoteDataset(kind, "ssh", viaSSH(reader, reader.Addr))
	}
	stores, _ := threeDirs(t)
	b := newBox(t, stores, datasets)
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for _, kind := range []string{"files", "sqlite", "command", "postgres", "mariadb"} {
		for code, x := range b.doctor(0, "acme/"+kind+"-ssh") {
			if x.Severity == source.Bad || strings.HasPrefix(code, "ssh") && x.Severity == source.Warn && kind != "postgres" && kind != "mariadb" {
				t.Errorf("%s: %s: %+v", kind, code, x)
			}
			if code == "walls" {
				t.Errorf("%s: walls where there is no unit: %+v", kind, x)
			}
		}
		local, far := b.run(0, "backup", "acme/"+kind), b.run(0, "backup", "acme/"+kind+"-ssh")
		if counted := regexp.MustCompile(`\d+ rows?, .*`); counted.FindString(local.stdout) != counted.FindString(far.stdout) {
			t.Errorf("%s: counted differently:\n%s%s", kind, local.stdout, far.stdout)
		}
		want := b.run(0, "restore", "acme/"+kind, "--to", "-").stdout
		got := b.run(0, "restore", "acme/"+kind+"-ssh", "--to", "-").stdout
		if restricts.ReplaceAllString(got, "") != restricts.ReplaceAllString(want, "") || len(got) < 1000 {
			t.Errorf("%s: %d bytes come back, %d of what was read here", kind, len(got), len(want))
		}
	}
	if said := b.said.String(); strings.Contains(said, "PRIVATE KEY") {
		t.Error("a key was printed")
	}
}

func TestReaderOfThisMachine(t *testing.T) {
	f := newFar(t, "unix")
	socket := filepath.Join(t.TempDir(), "crm.sock")
	cmd := exec.Command("systemd-socket-activate", "-l", socket, program(t, "strongroom"), "source", "serve", f.file())
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err == nil || t.Failed() {
			t.Logf("%v\n%s", err, said.String())
		}
	})
	until(t, "the socket", func() bool { _, err := os.Stat(socket); return err == nil })
	via := fmt.Sprintf("via = %q\n", "unix:"+socket)
	datasets := f.local
	for _, kind := range []string{"files", "sqlite", "command"} {
		datasets += remoteDataset(kind, "unix", via)
	}
	stores, _ := threeDirs(t)
	b := newBox(t, stores, datasets+remoteDataset("files", "other", via))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for _, kind := range []string{"files", "sqlite", "command"} {
		b.run(0, "backup", "acme/"+kind)
		b.run(0, "backup", "acme/"+kind+"-unix")
		if b.run(0, "restore", "acme/"+kind, "--to", "-").stdout != b.run(0, "restore", "acme/"+kind+"-unix", "--to", "-").stdout {
			t.Errorf("%s comes back differently", kind)
		}
	}
	if o := b.run(20, "backup", "acme/files-other"); !strings.Contains(o.stderr, `"acme/files-other" is not among those that this reader may read: acme/command-unix, acme/files-unix, acme/sqlite-unix`) {
		t.Error(o.stderr)
	}
	if x := b.doctor(20, "acme/files-other")["reader"]; x.Severity != source.Bad {
		t.Errorf("%+v", x)
	}
	if x := b.doctor(0, "acme/files-unix")["reader"]; !strings.Contains(x.What, "strongroom dev, and reads for us: acme/command-unix, acme/files-unix") {
		t.Errorf("%+v", x)
	}
	if x := b.doctor(0, "acme/files-unix")["walls"]; x.Severity != source.Note || x.What != "there: the reader has not tried its walls" {
		t.Errorf("a reader that is not confined: %+v", x)
	}
}

func TestWhatGoesWrongOnTheWayLeavesNoSnapshot(t *testing.T) {
	f := newFar(t, "ssh")
	srv := sshtest.Start(t)
	srv.Authorize(t, f.forced(t))
	other := sshtest.NewKey(t, filepath.Join(f.dir, "other"))
	proxy := sshtest.StartProxy(t, srv.Addr)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	closed.Close()
	right := viaSSH(srv, proxy.Addr)
	datasets := remoteDataset("sqlite", "ssh", right) + remoteDataset("files", "imposter", strings.Replace(right, srv.HostKey, other, 1)) +
		remoteDataset("files", "unlisted", right) + remoteDataset("files", "away", viaSSH(srv, nobody)) + remoteDataset("files", "ssh", right+"max_size = \"4KiB\"\n")
	stores, _ := threeDirs(t)
	b := newBox(t, stores, datasets)
	b.run(0, "init", "--shares-dir", b.path("shares"))
	for name, c := range map[string]struct {
		code int
		want string
	}{
		"files-imposter": {20, "somebody stands between"},
		"files-unlisted": {20, "is not among those"},
		"files-away":     {75, "connection refused"},
		"files-ssh":      {20, "max_size"},
	} {
		if o := b.run(c.code, "backup", "acme/"+name); !strings.Contains(o.stderr, c.want) {
			t.Errorf("%s: %s", name, o.stderr)
		}
		b.run(10, "restore", "acme/"+name, "--to", b.path("nothing"))
	}
	if _, err := os.Stat(b.path("nothing")); err == nil {
		t.Error("nothing was restored to a place")
	}
	proxy.After(-1)
	b.run(0, "backup", "acme/sqlite-ssh")
	total := proxy.After(-1)
	for _, n := range []int64{0, 1000, total / 3, total / 2, total - 3000} {
		proxy.After(n)
		if o := b.run(75, "backup", "acme/sqlite-ssh"); !strings.Contains(o.stderr, "ssh://") {
			t.Error(o.stderr)
		}
	}
	if o := b.run(0, "snapshots", "acme/sqlite-ssh", "--json"); strings.Count(o.stdout, `"snapshot"`)+strings.Count(o.stdout, `"id"`) != 1 {
		t.Errorf("not one snapshot:\n%s", o.stdout)
	}
	// The network is back, and nothing is in the way.
	proxy.After(-1)
	time.Sleep(10 * time.Millisecond)
	b.run(0, "backup", "acme/sqlite-ssh")
	b.run(0, "restore", "acme/sqlite-ssh", "--to", b.path("crm.db"))
	sameBytes(t, b.path("crm.db"), filepath.Join(f.dir, "crm.db"))
}

func TestReaderReadsNothingElse(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"":                                 "it names no dataset",
		"[[dataset]]\nname = \"acme/x\"\n": "source \"\"",
		"[[dataset]]\nname = \"../x\"\nsource = \"files\"\npath = \"/x\"\n":                         "is not TENANT/DATASET",
		"[[dataset]]\nname = \"acme/x\"\nsource = \"files\"\npath = \"x\"\n":                        ":4:8: dataset 1 (\"acme/x\"): path \"x\" is not an absolute path",
		"[[dataset]]\nname = \"acme/x\"\nsource = \"postgres\"\n":                                   "is read through a tunnel",
		"[[dataset]]\nname = \"acme/x\"\nsource = \"files\"\npath = \"/x\"\nvia = \"ssh://u@h\"\n":  "unknown key",
		"[[dataset]]\nname = \"acme/x\"\nsource = \"command\"\ncommand = [\"sh\", \"-c\", \"x\"]\n": "absolute path of a program",
	} {
		file := filepath.Join(dir, "reader.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b := &testBox{t: t, dir: dir}
		if o := b.run(64, "source", "serve", file); !strings.Contains(o.stderr, want) || o.stdout != "" {
			t.Errorf("%q: %s%s", text, o.stdout, o.stderr)
		}
	}
	f := newFar(t, "x")
	if err := os.Chmod(f.file(), 0o666); err != nil {
		t.Fatal(err)
	}
	if o := (&testBox{t: t, dir: dir}).run(64, "source", "serve", f.file()); !strings.Contains(o.stderr, "lets others write to it") {
		t.Error(o.stderr)
	}
}

// A confined reader tries its walls before it serves: without a unit nearly none
// stands. Who asks is told which, and not only the journal.
func TestAConfinedReaderServesNothingWhereAWallIsMissing(t *testing.T) {
	f := newFar(t, "unix")
	socket := filepath.Join(t.TempDir(), "crm.sock")
	stores, _ := threeDirs(t)
	b := newBox(t, stores, remoteDataset("files", "unix", fmt.Sprintf("via = %q\n", "unix:"+socket)))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	serve := func(missing string) (ends func() (code int, said string)) {
		t.Helper()
		if err := os.WriteFile(f.file(), []byte("confine.missing = ["+missing+"]\n"+f.reader), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-socket-activate", "-l", socket, program(t, "strongroom"), "source", "serve", "--confined", f.file())
		var said strings.Builder
		cmd.Stderr = &said
		os.Remove(socket)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		until(t, "the socket", func() bool { _, err := os.Stat(socket); return err == nil })
		return func() (int, string) {
			_ = cmd.Wait()
			return cmd.ProcessState.ExitCode(), said.String()
		}
	}
	ends := serve("")
	if o := b.run(20, "backup", "acme/files-unix"); !strings.Contains(o.stderr, "a wall is missing") || !strings.Contains(o.stderr, `"network"`) {
		t.Error(o.stderr)
	}
	if code, said := ends(); code != 20 || !strings.Contains(said, `"network"`) || strings.Count(said, "msg=wall") != len(walls.ReaderNames()) {
		t.Errorf("%d, %s", code, said)
	}
	serve(`"` + strings.Join(walls.ReaderNames(), `", "`) + `"`)
	b.run(0, "backup", "acme/files-unix")
	said := b.run(0, "doctor", "acme/files-unix").stdout
	for _, name := range walls.ReaderNames() {
		if !regexp.MustCompile(`(?m)^  (note|ok) +walls +there: ` + name + `: `).MatchString(said) {
			t.Errorf("doctor does not tell of %q", name)
		}
	}
	if !strings.Contains(said, "the reader could do that, and [confine] in its file says that it is known") || regexp.MustCompile(`warn +walls +there`).MatchString(said) {
		t.Errorf("doctor says %s", said)
	}
	if err := os.WriteFile(f.file(), []byte("confine.missing = [\"landlock\"]\n"+f.reader), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := b.run(64, "source", "serve", f.file()); !strings.Contains(o.stderr, `there is no wall "landlock"`) {
		t.Error(o.stderr)
	}
	if err := os.WriteFile(f.file(), []byte("confine.writable = [\"/srv\"]\n"+f.reader), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := b.run(64, "source", "serve", f.file()); !strings.Contains(o.stderr, "unknown key") {
		t.Error(o.stderr)
	}
}
