// Package sandboxtest stands in for systemd where the tests of sandboxes need its
// unit.
package sandboxtest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Unit listens as systemd would for strongroom-drill@: for each connection it
// starts this test's program, under the given name, as an instance of the unit
// with it as its standard input, as another user where the test may.
func Unit(t testing.TB, name string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "unit-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unixpacket", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, name) // where another user may read it
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.UnixConn).File()
			c.Close()
			if err != nil {
				continue
			}
			// What the unit says of privileges: none, no new ones, and no way to any.
			args := []string{"--no-new-privs", program, "unit"}
			if os.Geteuid() == 0 { // of DynamicUser's the first
				args = append([]string{"--reuid=61184", "--regid=61184", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"}, args...)
			}
			cmd := exec.Command("/usr/bin/setpriv", args...)
			cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stderr = []string{}, "/", f, os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			f.Close()
			go cmd.Wait()
		}
	}()
	return socket
}
