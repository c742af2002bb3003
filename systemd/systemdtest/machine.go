// Package systemdtest boots a Debian tree with systemd, in a container or in an
// emulated machine, and runs scripts in it: tests see a box from outside.
package systemdtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Machine is a booted Debian, a container or an emulated one: what a test does
// in it does not tell them apart.
type Machine struct {
	t  testing.TB
	in inside
}

// inside is how scripts get in. A script is one of bash, run as root with the
// rights that the machine's own services may have. Calls may be concurrent.
type inside interface {
	run(ctx context.Context, script string) (output string, code int, err error)
	// log is what the machine printed on its console.
	log() string
}

// Config says what a machine is given.
type Config struct {
	// Files stand in /host, by name, read-only.
	Files map[string]string
	// Disks are further ones of an emulated machine, by their sizes: /dev/vdc and on,
	// with nothing on them at first. They keep what was brought to them.
	Disks []int64
}

// patience is how long one script may take. An emulated machine on a busy one is
// slow.
const patience = 6 * time.Minute

// Try runs a script and returns what it printed, and its exit code.
func (m *Machine) Try(script string) (string, int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	out, code, err := m.in.run(ctx, script)
	if err != nil {
		m.t.Fatalf("%v\n%s\n%s\nconsole:\n%s", err, script, out, m.in.log())
	}
	return out, code
}

// not is for what has to fail: "set -e" passes over a command behind "!", whatever
// becomes of it.
const not = `not() { if "$@"; then echo "it works: $*" >&2; return 1; fi; }`

// Run runs a script in which all has to succeed, and what stands behind "not" to
// fail, and returns what it printed without blanks around it.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	out, code := m.Try("set -e\n" + not + "\n" + script)
	if code != 0 {
		m.t.Fatalf("exit %d\n%s\n%s", code, script, out)
	}
	return strings.TrimSpace(out)
}

// Until runs a script until it succeeds, for a time.
func (m *Machine) Until(what string, within time.Duration, script string) string {
	m.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		out, code := m.Try(script)
		if code == 0 {
			return strings.TrimSpace(out)
		}
		if time.Now().After(deadline) {
			journal, _ := m.Try("journalctl --no-pager -o short-monotonic | grep -v 'run-u[0-9]*.service' | tail -n 80")
			m.t.Fatalf("%s: not within %v\n%s\n%s\njournal:\n%s", what, within, script, out, journal)
		}
	}
}

// tree finds what .ci/tree made, and skips the test where there is none.
func tree(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		} else if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, "var", "tree")
	if _, err := os.Stat(path + ".made"); errors.Is(err, os.ErrNotExist) {
		t.Skipf("there is no %s: .ci/tree makes it, as root", path)
	} else if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("only root boots a Debian tree: what the units do in a running systemd was not seen")
	}
	return path
}

// console collects what a machine prints.
type console struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}
