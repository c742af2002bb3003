package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"strongroom/daemon/walls"
	"strongroom/systemd/probe"
)

// A service is a daemon that runs.
type service struct {
	b    *testBox
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer // guarded by mu
}

func (s *service) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

// said is what it logged so far.
func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// serve starts the daemon and waits until it answers.
func (b *testBox) serve(flags ...string) *service {
	b.t.Helper()
	s := &service{b: b, cmd: b.command(append([]string{"daemon"}, flags...)...), done: make(chan struct{})}
	s.cmd.Stderr = s
	if err := s.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	go func() { s.cmd.Wait(); close(s.done) }()
	b.t.Cleanup(func() { s.cmd.Process.Kill(); <-s.done })
	until(b.t, "the daemon to answer", func() bool {
		o, err := b.try(b.command("status"))
		return err == nil && o.code == 0
	})
	return s
}

// ends sends a signal and waits.
func (s *service) ends(sig syscall.Signal, within time.Duration) {
	s.b.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.b.t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(within):
		s.b.t.Fatalf("it did not end within %v:\n%s", within, s.said())
	}
}

// outcomes lists how backups ended, newest first; one that goes on is "".
func (b *testBox) outcomes() (out []string) {
	b.t.Helper()
	var v struct {
		Runs []struct{ Kind, Tenant, Outcome string }
	}
	if err := json.Unmarshal([]byte(b.run(0, "runs", "--json").stdout), &v); err != nil {
		b.t.Fatal(err)
	}
	for _, r := range v.Runs {
		if r.Kind == "backup" && r.Tenant != "strongroom" { // which is the box's own
			out = append(out, r.Outcome)
		}
	}
	return out
}

func (b *testBox) awaits(want ...string) {
	b.t.Helper()
	b.t.Cleanup(func() {
		if b.t.Failed() {
			o, err := b.try(b.command("runs"))
			b.t.Logf("%s%v", o.stdout, err)
		}
	})
	until(b.t, strings.Join(want, ", "), func() bool { return strings.Join(b.outcomes(), ",") == strings.Join(want, ",") })
}

// A daemon is killed and stopped in the middle of backups: the same runs go on
// at the next start, and what they stored is used.
func TestTheDaemonGoesOnWhereItWas(t *testing.T) {
	stores, _ := threeDirs(t)
	gate := filepath.Join(t.TempDir(), "gate")
	script := filepath.Join(t.TempDir(), "dump")
	// It gives half, and the rest only once the gate is open.
	if err := os.WriteFile(script, []byte("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' a\nwhile ! test -e "+gate+"; do sleep 0.05; done\necho end\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, stores, commandDataset("crm", script))
	if o := b.run(10, "daemon"); !strings.Contains(o.stderr, "strongroom init") {
		t.Error(o.stderr)
	}
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(75, "status"); !strings.Contains(o.stderr, "no daemon runs on this box") {
		t.Error(o.stderr)
	}
	b.run(0, "schedule", "preview", "--weeks", "4")

	s := b.serve()
	if o := b.run(11, "daemon"); !strings.Contains(o.stderr, "another daemon") {
		t.Error(o.stderr)
	}
	b.run(0, "status")
	b.run(64, "run", "acme/other")
	b.run(0, "run", "acme/crm")
	b.awaits("")
	b.run(11, "run", "acme/crm")
	s.ends(syscall.SIGKILL, 10*time.Second)

	s = b.serve()
	b.awaits("")
	began := time.Now()
	s.ends(syscall.SIGTERM, 10*time.Second)
	if code := s.cmd.ProcessState.ExitCode(); code != 0 || time.Since(began) > 10*time.Second {
		t.Errorf("exit code %d after %v\n%s", code, time.Since(began), s.said())
	}

	s = b.serve()
	b.awaits("")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.awaits("ok")
	b.run(0, "restore", "acme/crm", "--to", b.path("out"))
	if info, err := os.Stat(b.path("out")); err != nil || info.Size() != 3_000_004 {
		t.Errorf("%v, %v", info, err)
	}

	// The first snapshot is drilled at once: only then it counts as protected.
	until(t, "the first drills, of the box's own state too", func() bool {
		return strings.Count(b.run(0, "status", "--json").stdout, `"protected":true`) == 2
	})
	if o := b.run(0, "drill", "list"); !strings.Contains(o.stdout, "PASS") {
		t.Error(o.stdout)
	}

	// A bad configuration changes nothing, and says so; a good one counts.
	good := string(must(os.ReadFile(b.config))(t))
	b.write("c.toml", good+"\nsurprise = 1\n")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "a refusal of the bad one", func() bool { return strings.Contains(s.said(), `unknown key \"tenant.dataset.surprise\"`) })
	if o := b.run(64, "reload"); !strings.Contains(o.stderr, "surprise") || !strings.Contains(o.stderr, "goes on with the old configuration") {
		t.Error(o.stderr)
	}
	b.write("c.toml", good)
	b.run(0, "run", "acme/crm")
	b.awaits("ok", "ok")
	b.run(64, "cancel", "1")
	b.run(0, "runs", "acme/crm", "--last", "1")
	b.write("c.toml", strings.Replace(good, `name = "crm"`, `name = "erp"`, 1))
	b.run(0, "reload") // waits until it was done
	if o := b.run(0, "status"); !strings.Contains(o.stdout, "acme/erp") {
		t.Error(o.stdout)
	}
	s.ends(syscall.SIGTERM, 10*time.Second)
	if n := regexp.MustCompile(`msg="goes on" .*job=backup:acme`).FindAllString(s.said(), -1); len(n) != 1 {
		t.Error(s.said())
	}
}

func TestStatusForMonitoring(t *testing.T) {
	stores, paths := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/echo", "hello"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(3, "status", "--check"); !strings.HasPrefix(o.stdout, "UNKNOWN: no daemon runs") {
		t.Error(o.stderr)
	}
	b.serve()
	if o := b.run(1, "status", "--check"); !strings.HasPrefix(o.stdout, "WARNING: acme/crm has no snapshot yet | ") {
		t.Error(o.stderr)
	}
	b.run(0, "run", "acme/crm")
	b.awaits("ok")
	until(t, "the state of the box to be backed up", func() bool {
		o, err := b.try(b.command("status", "--check"))
		return err == nil && o.stdout == "OK: 2 datasets | datasets=2 alarms=0\n"
	})
	for _, p := range paths[:2] {
		if err := os.Rename(p, p+".away"); err != nil {
			t.Fatal(err)
		}
	}
	b.run(0, "run", "acme/crm")
	b.awaits("failed", "ok")
	cmd := b.command("status", "--check")
	if o, err := b.try(cmd); err != nil || o.code != 2 || !strings.HasPrefix(o.stdout, "CRITICAL: acme/crm failed | ") {
		t.Errorf("%+v, %v", o, err)
	}
}

// A confined daemon tries its walls at the start: without a unit nearly none
// stands, and it does not start unless all of them are named. Then it works, and
// does not take a store that it could not write to.
func TestAConfinedDaemonStopsWhereAWallIsMissing(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/echo"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	o := b.run(20, "daemon", "--confined")
	for _, name := range []string{"capabilities", "system calls", "writable code"} {
		if !strings.Contains(o.stderr, `"`+name+`"`) {
			t.Errorf("%q is not missed: %s", name, o.stderr)
		}
	}
	if o := b.run(0, "doctor"); !strings.Contains(o.stdout, "the daemon could do that") {
		t.Error(o.stdout)
	}
	b.editConfig("state_dir", "confine.missing = [\"capabilitis\"]\nstate_dir")
	if o := b.run(64, "config", "check"); !strings.Contains(o.stderr, `there is no wall "capabilitis"`) {
		t.Error(o.stderr)
	}
	if o := b.run(64, "daemon", "--confined"); !strings.Contains(o.stderr, `there is no wall "capabilitis"`) {
		t.Error(o.stderr)
	}
	var all []string
	for _, name := range walls.Names() {
		if name != probe.Landlock {
			all = append(all, `"`+name+`"`)
		}
	}
	b.editConfig(`"capabilitis"`, strings.Join(all, ", "))
	s := b.serve("--confined")
	b.run(0, "run", "acme/crm")
	b.awaits("ok")
	if o := b.run(0, "doctor", "--json"); strings.Count(o.stdout, "[confine] says that it is known") < 3 || strings.Contains(o.stdout, `"the daemon could do that"`) {
		t.Error(o.stdout)
	}
	// The receipt of its first drill has the table; without the drill's unit there
	// is no sandbox for it, and it says so.
	until(t, "the first drill", func() bool { return strings.Contains(b.run(0, "drill", "list").stdout, "acme/crm") })
	id := regexp.MustCompile(`\d{8}t\d{6}z-\w+`).FindString(regexp.MustCompile(`.*acme/crm.*`).FindString(b.run(0, "drill", "list").stdout))
	if o, err := b.try(b.command("drill", "show", id, "--json")); err != nil || !strings.Contains(o.stdout, `"daemon":[{"name":"devices"`) {
		t.Errorf("%v, %+v", err, o)
	}
	const elsewhere = "/var/lib/elsewhere" // it need not be there
	b.editConfig("[[tenant]]", "[[store]]\nname = \"four\"\nkind = \"dir\"\npath = \""+elsewhere+"\"\n[[tenant]]")
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, "the reload to be refused", func() bool { return strings.Contains(s.said(), "may not write to "+elsewhere) })
	if o := b.run(1, "reload"); !strings.Contains(o.stderr, "may not write to "+elsewhere) {
		t.Error(o.stderr)
	}
	s.ends(syscall.SIGTERM, 10*time.Second)
}

// What is planned can be seen before there are keys, and by whoever may not open them.
func TestThePreviewReadsTheConfigurationAlone(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/true")+"[tenant.dataset.schedule]\nat = \"15 3 * * 1\"\ntime_zone = \"Asia/Kolkata\"\n")
	o := b.run(0, "schedule", "preview", "--weeks", "3")
	if strings.Count(o.stdout, " backup:acme/crm") != 3 || !strings.Contains(o.stdout, " backup:strongroom/state") {
		t.Error(o.stdout)
	}
	if _, err := os.Stat(b.path("state")); err == nil {
		t.Error("it made a state directory")
	}
}

// A port that is taken is no mistake in the file, which nobody would try again.
func TestAPortThatIsTakenIsTriedAgain(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("crm", "/bin/true"))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.editConfig("[[tenant]]", fmt.Sprintf("[metrics]\nlisten = %q\n[[tenant]]", taken.Addr()))
	if o := b.run(75, "daemon"); !strings.Contains(o.stderr, "address already in use") {
		t.Error(o.stderr)
	}
}
