// Package mariadbtest runs a private MariaDB server for the tests of one
// package.
package mariadbtest

import (
	"bytes"
	"context"
	"database/sql"
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

	"github.com/go-sql-driver/mysql"
)

// Server is one running server that listens on a unix socket alone, unless
// told otherwise. Its user root has no password: the directory keeps others out.
type Server struct {
	Dir    string // holds the socket and the data; 0700, removed at the end
	Socket string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the server was reaped
	log    *bytes.Buffer // written by the server until exited is closed
}

// shared is the server of a test binary whose TestMain calls Main.
var shared struct {
	sync.Mutex
	wanted bool
	srv    *Server
	err    error
}

// Main runs a package's tests with one server for all of them, started by the
// first that needs it, and returns the exit code for os.Exit.
func Main(m *testing.M) int {
	shared.Lock()
	shared.wanted = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.srv != nil {
		if err := shared.srv.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "mariadbtest:", err)
			return max(code, 1)
		}
	}
	return code
}

// Start returns the package's server, or where TestMain does not call Main a
// server of this test's own.
func Start(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.wanted {
		return Own(t)
	}
	if shared.srv == nil && shared.err == nil {
		shared.srv, shared.err = start(nil)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.srv
}

// Own starts a server for one test alone, with further options.
func Own(t testing.TB, options ...string) *Server {
	t.Helper()
	s, err := start(options)
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

// unprivileged is who runs the server: MariaDB refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"mysql", "nobody"} {
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
	return nil, errors.New("run as root, but there is neither a user mysql nor nobody to run the server")
}

func start(options []string) (*Server, error) {
	if _, err := os.Stat("/usr/sbin/mariadbd"); err != nil {
		return nil, fmt.Errorf("no MariaDB server: install the Debian package `mariadb-server-core`: %w", err)
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	sweep()
	// Not under TMPDIR: a socket's path must stay below 108 bytes.
	dir, err := os.MkdirTemp("/tmp", "mariadbtest-")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "sock"), exited: make(chan struct{}), log: new(bytes.Buffer)}
	if cred != nil {
		if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	if err := s.boot(cred, options); err != nil {
		return nil, errors.Join(fmt.Errorf("start MariaDB: %w", err), s.stop())
	}
	return s, nil
}

// sweep removes what test binaries that crashed left more than an hour ago:
// their servers died with them, their directories did not.
func sweep() {
	old, _ := filepath.Glob("/tmp/mariadbtest-*")
	for _, dir := range old {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if c, err := (&Server{Socket: filepath.Join(dir, "sock")}).connect("mysql"); err == nil {
			_ = c.Close() // in use
			continue
		}
		_ = os.RemoveAll(dir) // another user's stays
	}
}

// noAIO: servers of one user share what it may lock in memory for io_uring.
const noAIO = "--innodb-use-native-aio=0"

func (s *Server) boot(cred *syscall.Credential, options []string) error {
	data := filepath.Join(s.Dir, "data")
	install := s.command(cred, "/usr/bin/mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal",
		"--skip-test-db", "--skip-name-resolve", "--tmpdir="+s.Dir, noAIO, "--innodb-flush-method=nosync")
	if out, err := install.CombinedOutput(); err != nil {
		close(s.exited)
		return fmt.Errorf("mariadb-install-db: %w: %s", err, out)
	}
	args := []string{"--no-defaults", "--datadir=" + data, "--socket=" + s.Socket, "--pid-file=" + filepath.Join(s.Dir, "pid"), "--tmpdir=" + s.Dir,
		"--skip-networking", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=128M",
		"--innodb-log-file-size=64M", "--innodb-flush-method=nosync", "--innodb-doublewrite=0", "--sync-frm=0", noAIO, "--log-bin-trust-function-creators", "--server-id=1", "--log-bin=binlog", "--sync-binlog=0", "--character-set-server=utf8mb4",
		"--max-allowed-packet=64M", "--performance-schema=OFF",
		"--lock-wait-timeout=20"} // a test that would wait for its own dump fails instead
	s.cmd = s.command(cred, "/usr/sbin/mariadbd", append(args, options...)...)
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

func (s *Server) command(cred *syscall.Credential, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = s.Dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + s.Dir, "TZ=America/St_Johns"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: cred}
	return cmd
}

func (s *Server) waitReady() error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		c, err := s.connect("mysql")
		if err == nil {
			return c.Close()
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
			_ = s.cmd.Process.Kill() // nobody needs the data again
		}
	}
	<-s.exited
	return os.RemoveAll(s.Dir)
}

// URL is how a user reaches a database.
func (s *Server) URL(database, user string) string {
	u := url.URL{Scheme: "mariadb", User: url.User(user), Host: "localhost", Path: "/" + database, RawQuery: url.Values{"socket": {s.Socket}}.Encode()}
	return u.String()
}

type silent struct{}

func (silent) Print(...any) {}

func (s *Server) connect(database string) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.DBName = "root", "unix", s.Socket, database
	cfg.MultiStatements, cfg.MaxAllowedPacket, cfg.Logger = true, 0, silent{}
	cfg.Collation = "utf8mb4_general_ci"
	conn, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(conn)
	if err := db.Ping(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Exec runs statements in a database as root.
func (s *Server) Exec(t testing.TB, database, statements string) {
	t.Helper()
	db := s.Connect(t, database)
	defer db.Close()
	if _, err := db.Exec(statements); err != nil {
		t.Fatalf("%s: %v", database, err)
	}
}

// Query returns the first column of the first row, as text; "" for NULL.
func (s *Server) Query(t testing.TB, database, query string) string {
	t.Helper()
	db := s.Connect(t, database)
	defer db.Close()
	var v sql.NullString
	if err := db.QueryRow(query).Scan(&v); err != nil {
		t.Fatalf("%s: %s: %v", database, query, err)
	}
	return v.String
}

// Connect opens sessions of root that end with the test. Several statements
// may be in one text.
func (s *Server) Connect(t testing.TB, database string) *sql.DB {
	t.Helper()
	db, err := s.connect(database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // the server is going away anyway
	return db
}

// CreateDatabase makes an empty database that goes with the test, and returns
// its name.
func (s *Server) CreateDatabase(t testing.TB, options ...string) string {
	t.Helper()
	name := fmt.Sprintf("db_%d", time.Now().UnixNano())
	s.Exec(t, "mysql", "CREATE DATABASE "+name+" "+strings.Join(options, " "))
	t.Cleanup(func() { s.DropDatabase(t, name) })
	return name
}

// DropDatabase drops a database, if it is there.
func (s *Server) DropDatabase(t testing.TB, name string) {
	t.Helper()
	s.Exec(t, "mysql", "DROP DATABASE IF EXISTS `"+strings.ReplaceAll(name, "`", "``")+"`")
}

// CreateUser makes a user, with the given options, e.g. IDENTIFIED BY, and
// grants; %s in them stands for the user.
func (s *Server) CreateUser(t testing.TB, options string, grants ...string) string {
	t.Helper()
	name := fmt.Sprintf("u%d", time.Now().UnixNano()%1e12)
	s.Exec(t, "mysql", "CREATE USER "+name+" "+options)
	for _, g := range grants {
		s.Exec(t, "mysql", fmt.Sprintf(g, name))
	}
	t.Cleanup(func() { s.Exec(t, "mysql", "DROP USER "+name) })
	return name
}

// Program runs one of MariaDB's client programs as root and returns its output.
func (s *Server) Program(t testing.TB, stdin string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "/usr/bin/"+name, append([]string{"--no-defaults", "--socket=" + s.Socket, "-uroot"}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + s.Dir}
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, errs.String())
	}
	return string(out)
}

// Dump is mariadb-dump's own view of a database, without its name.
func (s *Server) Dump(t testing.TB, database string, more ...string) string {
	t.Helper()
	args := append([]string{"--single-transaction", "--hex-blob", "--routines", "--events", "--triggers", "--skip-dump-date", "--order-by-primary",
		"--default-character-set=utf8mb4", "--tz-utc", "--skip-comments", "--skip-extended-insert", "--max-allowed-packet=512M"}, more...)
	return strings.ReplaceAll(s.Program(t, "", "mariadb-dump", append(args, database)...), database, "DATABASE")
}
