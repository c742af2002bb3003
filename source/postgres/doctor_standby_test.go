package postgres

import (
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"strongroom/source"
	"strongroom/source/postgres/pgtest"
)

// standby starts a primary, runs statements on it, and starts a hot standby of
// it, which pgtest's cluster cannot have. It returns how a role reaches the
// standby.
func standby(t *testing.T, sql ...string) func(role string) string {
	t.Helper()
	bin, err := pgtest.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "standby-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var cred *syscall.Credential
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skipf("run as root, and nobody else to run a server (%v): what is told of a standby was not seen", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + dir, "PGHOST=" + dir, "PGUSER=postgres"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
		out, err := os.Create(filepath.Join(t.TempDir(), "out")) // a pipe would stay open with the server
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			text, _ := os.ReadFile(out.Name())
			t.Fatalf("%s: %v: %s", name, err, text)
		}
	}
	start := func(data, port string) {
		t.Helper()
		run("pg_ctl", "-w", "-D", data, "-l", data+".log", "-o", "-k "+dir+" -p "+port+" -c listen_addresses= -c fsync=off -c wal_level=replica", "start")
		t.Cleanup(func() { run("pg_ctl", "-D", data, "-m", "immediate", "stop") })
	}
	run("initdb", "-D", "primary", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8")
	start("primary", "5432")
	for _, statement := range sql {
		run("psql", "-c", statement)
	}
	run("pg_basebackup", "-D", "copy", "-c", "fast", "-X", "fetch", "-R")
	start("copy", "5433")
	return func(role string) string {
		return "postgres://" + role + "@/postgres?port=5433&host=" + url.QueryEscape(dir)
	}
}

func TestStandby(t *testing.T) {
	at := standby(t, `CREATE TABLE t (i int); INSERT INTO t VALUES (1); CREATE ROLE patient LOGIN SUPERUSER;
		CREATE ROLE odd LOGIN SUPERUSER; ALTER ROLE odd SET default_transaction_isolation = serializable; CREATE UNLOGGED TABLE u (i int)`)
	for role, want := range map[string]string{"patient": "bad unlogged-tables, warn standby, warn superuser", "odd": "bad connect"} {
		s := newSource(t, at(role))
		trouble, _ := examine(t, s)
		if got := codes(trouble); got != want {
			t.Errorf("%s: got %q, want %q: %v", role, got, want, trouble)
		}
		// The standby is the judge of what is bad.
		if _, err := dump(t.Context(), s); err == nil {
			t.Errorf("%s: a snapshot is taken all the same", role)
		}
		if f := trouble["connect"]; role == "odd" && !strings.Contains(f.Remedy, "RESET default_transaction_isolation") {
			t.Errorf("%+v", f)
		}
	}
}

// TestPatientStandby is one that a snapshot can be taken of.
func TestPatientStandby(t *testing.T) {
	at := standby(t, `CREATE TABLE t (i int); INSERT INTO t VALUES (1)`, `ALTER SYSTEM SET hot_standby_feedback = on`)
	s := newSource(t, at("postgres"))
	trouble, all := examine(t, s)
	if got := codes(trouble); got != "warn superuser" || find(t, all, "standby").Severity != source.OK {
		t.Errorf("%s: %+v", got, all)
	}
	if m := mustDump(t, s); m.report.Streams["data/public.t"].Rows != 1 {
		t.Error("the row is not in the snapshot")
	}
}
