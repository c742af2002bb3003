// Package pgtest runs a private PostgreSQL cluster for the tests of one
// package.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PasswordRole is a group role: its members must log in with a password
// (SCRAM), everybody else is trusted.
const PasswordRole = "needs_password"

// Server is one running cluster that listens on a unix socket alone.
type Server struct {
	BinDir string // where its programs are
	Dir    string // holds the socket and the data; 0700, removed at the end

	cmd    *exec.Cmd
	exited chan struct{} // closed when the postmaster was reaped
	log    *bytes.Buffer // written by the postmaster until exited is closed
}

// shared is the cluster of a test binary whose TestMain calls Main.
var shared struct {
	sync.Mutex
	wanted bool
	srv    *Server
	err    error
}

// Main runs a package's tests with one cluster for all of them, started by
// the first that needs it, and returns the exit code for os.Exit.
func Main(m *testing.M) int {
	shared.Lock()
	shared.wanted = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.srv != nil {
		if err := shared.srv.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			return max(code, 1)
		}
	}
	return code
}

// Start returns the package's cluster, or where TestMain does not call Main a
// cluster of this test's own.
func Start(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.wanted {
		return Own(t)
	}
	if shared.srv == nil && shared.err == nil {
		shared.srv, shared.err = start()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.srv
}

// Own starts a cluster for one test alone.
func Own(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// FindBin returns the directory with the newest installed server programs.
func FindBin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	best, bestMajor := "", 0
	for _, f := range found {
		dir := filepath.Dir(f)
		major, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && major > bestMajor {
			best, bestMajor = dir, major
		}
	}
	if best == "" {
		return "", errors.New("no PostgreSQL server under /usr/lib/postgresql/*/bin: install the Debian package `postgresql`")
	}
	return best, nil
}

// unprivileged is who runs the server: PostgreSQL refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("run as root, but there is neither a user postgres nor nobody to run the server")
}

func start() (*Server, error) {
	bin, err := FindBin()
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	sweep()
	// Not under TMPDIR: a socket's path must stay below 108 bytes.
	dir, err := os.MkdirTemp("/tmp", "pgtest-")
	if err != nil {
		return nil, err
	}
	s := &Server{BinDir: bin, Dir: dir, exited: make(chan struct{}), log: new(bytes.Buffer)}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err := s.boot(cred); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL from %s: %w", bin, err), s.stop())
	}
	return s, nil
}

// sweep removes what test binaries that crashed left more than an hour ago:
// their servers died with them, their directories did not.
func sweep() {
	old, _ := filepath.Glob("/tmp/pgtest-*")
	for _, dir := range old {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "data", "postmaster.pid")); errors.Is(err, os.ErrNotExist) {
			_ = os.RemoveAll(dir) // another user's stays
		}
	}
}

func (s *Server) boot(cred *syscall.Credential) error {
	data := filepath.Join(s.Dir, "data")
	initdb := s.command(cred, "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := initdb.CombinedOutput(); err != nil {
		close(s.exited)
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	hba := "local all +" + PasswordRole + " scram-sha-256\nlocal all all trust\n"
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		close(s.exited)
		return err
	}
	s.cmd = s.command(cred, "postgres", "-D", data, "-k", s.Dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_wal_size=4GB", "-c", "autovacuum=off",
		"-c", "max_prepared_transactions=4", "-c", "password_encryption=scram-sha-256", "-c", "wal_level=minimal", "-c", "max_wal_senders=0")
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	started := make(chan error, 1)
	go func() {
		// Pdeathsig follows the thread that forked, so that thread has to
		// live as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.exited)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is in the log
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	return s.waitReady()
}

func (s *Server) command(cred *syscall.Credential, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.BinDir, name), args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + s.Dir}
	// SIGQUIT is the postmaster's immediate shutdown: it takes its children along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT, Credential: cred}
	return cmd
}

func (s *Server) waitReady() error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := s.exec("postgres", "CREATE ROLE "+PasswordRole)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("server ended: %s", s.log)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after 60 s: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *Server) stop() error {
	if s.cmd != nil && s.cmd.Process != nil {
		select {
		case <-s.exited:
		default:
			_ = s.cmd.Process.Signal(syscall.SIGQUIT) // may have ended just now
		}
	}
	<-s.exited
	return os.RemoveAll(s.Dir)
}

// URL is how a role reaches a database.
func (s *Server) URL(database, role string) string {
	u := url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: url.Values{"host": {s.Dir}}.Encode()}
	return u.String()
}

func (s *Server) exec(database, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.URL(database, "postgres"))
	if err != nil {
		return err
	}
	_, err = c.PgConn().Exec(ctx, sql).ReadAll()
	return errors.Join(err, c.Close(ctx))
}

// Exec runs statements in a database as the superuser.
func (s *Server) Exec(t testing.TB, database, sql string) {
	t.Helper()
	if err := s.exec(database, sql); err != nil {
		t.Fatalf("%s: %v", database, err)
	}
}

// Query returns the first column of the first row, as text; "" for NULL.
func (s *Server) Query(t testing.TB, database, sql string) string {
	t.Helper()
	c := s.Connect(t, database)
	res, err := c.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", database, err)
	}
	last := res[len(res)-1]
	if len(last.Rows) == 0 {
		t.Fatalf("%s: no row from %s", database, sql)
	}
	return string(last.Rows[0][0])
}

// Connect opens a superuser's session that ends with the test.
func (s *Server) Connect(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), s.URL(database, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // the server is going away anyway
	return c
}

// CreateDatabase makes an empty database, named after the test, that goes
// with it, and returns its name.
func (s *Server) CreateDatabase(t testing.TB, options ...string) string {
	t.Helper()
	name := fmt.Sprintf("db_%d", time.Now().UnixNano())
	s.Exec(t, "postgres", "CREATE DATABASE "+name+" "+strings.Join(options, " "))
	t.Cleanup(func() { s.DropDatabase(t, name) })
	return name
}

// DropDatabase drops a database, if it is there, with whoever uses it.
func (s *Server) DropDatabase(t testing.TB, name string) {
	t.Helper()
	s.Exec(t, "postgres", "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
}

// CreateRole makes a role with the given options, e.g. "LOGIN BYPASSRLS",
// that lives as long as the cluster: other databases may come to depend on it.
func (s *Server) CreateRole(t testing.TB, options string) string {
	t.Helper()
	name := fmt.Sprintf("role_%d", time.Now().UnixNano())
	s.Exec(t, "postgres", "CREATE ROLE "+name+" "+options)
	return name
}

// Program runs one of PostgreSQL's client programs and returns its output.
func (s *Server) Program(t testing.TB, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.BinDir, name), args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + s.Dir, "PGHOST=" + s.Dir, "PGUSER=postgres", "PGTZ=UTC"}
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, errs.String())
	}
	return string(out)
}
