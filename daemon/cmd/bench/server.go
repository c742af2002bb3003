package main

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
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// A server is a PostgreSQL cluster of the benchmark's own. Unlike the tests'
// one it can be copied by pg_basebackup, and its data stay where they are.
type server struct {
	bin, data, socket string
	cred              *syscall.Credential
	cmd               *exec.Cmd
	exited            chan struct{}
	log               bytes.Buffer // of the postmaster; read after exited
}

// pgBin is the directory of the newest installed server.
func pgBin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	best, major := "", 0
	for _, f := range found {
		dir := filepath.Dir(f)
		if n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir))); err == nil && n > major {
			best, major = dir, n
		}
	}
	if best == "" {
		return "", errors.New("no PostgreSQL server under /usr/lib/postgresql: install the Debian package postgresql")
	}
	return best, nil
}

// pgUser is who runs the server: PostgreSQL refuses root.
func pgUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// newServer prepares a cluster in an empty or absent directory, without files.
func newServer(data string) (*server, error) {
	bin, err := pgBin()
	if err != nil {
		return nil, err
	}
	cred, err := pgUser()
	if err != nil {
		return nil, err
	}
	s := &server{bin: bin, data: data, cred: cred}
	if err := errors.Join(os.RemoveAll(data), os.MkdirAll(data, 0o700)); err != nil {
		return nil, err
	}
	// A socket's path must stay below 108 bytes, wherever the data are.
	if s.socket, err = os.MkdirTemp("/tmp", "bench-"); err != nil {
		return nil, err
	}
	return s, errors.Join(s.own(data), s.own(s.socket))
}

func (s *server) own(path string) error {
	if s.cred == nil {
		return nil
	}
	return os.Chown(path, int(s.cred.Uid), int(s.cred.Gid))
}

// initdb makes an empty cluster.
func (s *server) initdb(ctx context.Context) error {
	c := s.command(ctx, "initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// unpack makes the cluster that pg_basebackup wrote to a directory.
func (s *server) unpack(ctx context.Context, dir string) error {
	for _, t := range []struct{ file, to string }{{"base.tar", s.data}, {"pg_wal.tar", filepath.Join(s.data, "pg_wal")}} {
		c := exec.CommandContext(ctx, "tar", "-x", "-f", filepath.Join(dir, t.file), "-C", t.to)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", t.file, err, out)
		}
	}
	if s.cred == nil {
		return nil
	}
	return filepath.WalkDir(s.data, func(path string, _ os.DirEntry, err error) error { return errors.Join(err, s.own(path)) })
}

// start runs the server; durability is off for it, as for what is compared with
// it: the disk is not what is measured.
func (s *server) start(ctx context.Context) error {
	s.cmd = s.command(context.Background(), "postgres", "-D", s.data, "-k", s.socket, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_wal_size=4GB", "-c", "autovacuum=off",
		"-c", "shared_buffers=512MB", "-c", "maintenance_work_mem=256MB", "-c", "max_parallel_maintenance_workers=0", "-c", "wal_level=replica")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.exited = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// Pdeathsig follows the thread that forked.
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
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := s.exec(ctx, "postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("PostgreSQL ended: %s", s.log.String())
		default:
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("PostgreSQL is not ready: %w", err)
		}
	}
}

// stop ends the server, and removes what it had.
func (s *server) stop() error {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // may have ended just now
		<-s.exited
	}
	return errors.Join(os.RemoveAll(s.data), os.RemoveAll(s.socket))
}

func (s *server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	c.Dir = s.socket
	c.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + s.socket}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT, Credential: s.cred}
	return c
}

// url is how the superuser reaches a database.
func (s *server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database, RawQuery: url.Values{"host": {s.socket}}.Encode()}
	return u.String()
}

func (s *server) session(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, s.url(database))
	if err != nil {
		return err
	}
	return errors.Join(do(c), c.Close(ctx))
}

// exec runs statements one by one, so that VACUUM may be among them.
func (s *server) exec(ctx context.Context, database string, statements ...string) error {
	return s.session(ctx, database, func(c *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := c.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}
