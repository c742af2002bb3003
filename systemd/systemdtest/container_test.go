package systemdtest

import (
	"testing"
	"time"
)

// What the tests of units rely on: a unit's walls are there in a container.
func TestAContainerHasWalls(t *testing.T) {
	began := time.Now()
	m := Container(t, Config{Files: map[string]string{"here": "container_test.go"}})
	t.Logf("booted in %v", time.Since(began))
	if out, code := m.Try("echo out; exit 7"); out != "out\n" || code != 7 {
		t.Errorf("%q, %d", out, code)
	}
	m.Run("cmp /host/here <(cat /host/here) && test -s /host/here")
	// What has to fail, and does not, ends a script wherever it stands.
	if out, code := m.Try("set -e\n" + not + "\nnot test -e /nowhere; not false; not test -d /; echo on"); code != 1 || out != "it works: test -d /\n" {
		t.Errorf("%q, %d", out, code)
	}
	// Not even root writes through a wall, and without it it does.
	for _, property := range []string{"ReadOnlyPaths=/srv", "ProtectSystem=strict", "SystemCallFilter=~openat"} {
		script := "systemd-run --quiet --pipe --wait -p " + property + " touch /srv/file"
		if out, code := m.Try(script); code == 0 {
			t.Errorf("%s is no wall: %s", property, out)
		}
		m.Run("systemd-run --quiet --pipe --wait touch /srv/file")
	}
	if out, code := m.Try("systemd-run --quiet --pipe --wait -p IPAddressDeny=any bash -c 'echo >/dev/udp/127.0.0.1/9'"); code == 0 {
		t.Errorf("IPAddressDeny is no wall: %s", out)
	}
	m.Run("systemd-run --quiet --pipe --wait bash -c 'echo >/dev/udp/127.0.0.1/9'")
}

func TestTwoContainersKeepApart(t *testing.T) {
	a, b := Container(t, Config{}), Container(t, Config{})
	a.Run("touch /srv/a; systemd-run --quiet --unit=only-a sleep 600")
	b.Run("not test -e /srv/a; not systemctl is-active only-a")
	a.Run("systemctl is-active only-a")
}
