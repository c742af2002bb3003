package systemd_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A fresh Debian becomes a box by docs/install.md alone; then its package is
// upgraded, and it is stopped, in the middle of backups.
func TestABoxInAContainer(t *testing.T) {
	t.Parallel()
	one, two := packageOf(t, "1.0", ""), packageOf(t, "2.0", "")
	m := boot(t, one, two)
	b := newBox(t, m, noMemory)
	// Root would make a state that the daemon cannot open.
	if out, code := b.Try("strongroom init"); code != 20 || !strings.Contains(out, "runuser -u strongroom") {
		t.Errorf("init by root: %d, %s", code, out)
	}
	b.restores()
	b.Until("the walls of the first drill", time.Minute, "journalctl --no-pager --output=cat -u strongroom | grep -q 'walls of the sandbox, made by systemd, that hold: network, outside files, .*, swap; that are missing: none'")
	if found := b.examined("", "drill-walls"); len(found["ok"]) != 15 || len(found) != 1 {
		t.Errorf("doctor tells of the walls of drills %q", found)
	}

	for _, part := range []struct {
		name string
		do   func(*testing.T, *box)
	}{
		{"an upgrade waits for what runs", upgrade},
		{"a stop is a pause", stopped},
		{"a store that was away comes back", away},
		{"the credential is sealed", sealed},
		{"a newer state is refused", newer},
		{"a mistake in the configuration is told once", mistaken},
		{"a removed package leaves the keys", removed},
	} {
		began := time.Now()
		part.do(t, b)
		t.Logf("%s: %v", part.name, time.Since(began))
	}
}

// upgrade installs another version in the middle of a backup: the same process
// ends it, and only then is it another one.
func upgrade(t *testing.T, b *box) {
	b.grow(100, 6)
	r, before := b.begin(), b.pid()
	if out := b.Run("dpkg -i /host/strongroom_2.0_amd64.deb"); !strings.Contains(out, "restarts when these have ended: backup:acme/tickets") {
		t.Errorf("the upgrade says %q", out)
	}
	if now := b.pid(); now != before {
		t.Fatalf("the upgrade made process %d of %d", now, before)
	}
	if all := b.backups(); all[0].ID != r.ID || all[0].Outcome != "" {
		t.Fatalf("%+v: the run ended before it was looked at", all[0])
	}
	b.Until("the restart", 2*time.Minute, fmt.Sprintf(`test "$(systemctl show --value -p MainPID strongroom)" != %d && strongroom status`, before))
	if r := b.ends(r.ID); r.Outcome != "ok" || r.Attempts != 1 {
		t.Errorf("%+v, want ok at the first attempt", r)
	}
	b.Run(`cmp /proc/$(systemctl show --value -p MainPID strongroom)/exe /usr/bin/strongroom; strongroom version | grep -F "strongroom 2.0"`)
	if said := b.said(); strings.Count(said, "nothing runs: ends, to be started again") != 1 || !strings.Contains(said, "version=2.0") {
		t.Errorf("the daemon says %s", said)
	}
	if n := b.Run("systemctl show --value -p Result strongroom"); n != "success" {
		t.Errorf("the restart counts as %s", n)
	}
	// With nothing to wait for it is a matter of a moment.
	b.Run("dpkg -i /host/strongroom_1.0_amd64.deb && dpkg -i /host/strongroom_2.0_amd64.deb")
	b.Until("the restart", time.Minute, "strongroom status && cmp /proc/$(systemctl show --value -p MainPID strongroom)/exe /usr/bin/strongroom")
	b.restores()
}

// stopped stops the daemon in the middle of a backup: the same run goes on.
func stopped(t *testing.T, b *box) {
	b.changes()
	r := b.begin()
	began := time.Now()
	b.Run("systemctl stop strongroom")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v to stop", took)
	}
	if result := b.Run("systemctl show --value -p Result strongroom"); result != "success" {
		t.Errorf("stopped with result %s", result)
	}
	b.Run("systemctl start strongroom")
	b.answers()
	if r := b.ends(r.ID); r.Outcome != "ok" || r.Attempts != 2 {
		t.Errorf("%+v, want ok at the second attempt", r)
	}
	b.restores()
}

// away starts the daemon while a store is not there. When it is back, nobody has to
// tell the daemon, to which Landlock would keep it closed.
func away(t *testing.T, b *box) {
	b.Run("systemctl stop strongroom; mv /srv/strongroom/three /srv/strongroom/away; systemctl start strongroom")
	b.answers()
	before := b.pid()
	b.Run("mv /srv/strongroom/away /srv/strongroom/three")
	b.restarts(before)
	if r := b.backup("acme/tickets"); r.Outcome != "ok" {
		t.Errorf("%+v", r)
	}
}

// sealed follows docs/install.md: the daemon gets its credential from systemd, and
// there is none on the disk.
func sealed(t *testing.T, b *box) {
	out := b.Run(commands(t, "Sealing the credential"))
	if !strings.Contains(out, "acme/tickets") {
		t.Errorf("a command with the sealed credential lists %s", out)
	}
	b.answers()
	b.Run("not test -e /var/lib/strongroom/credential; not runuser -u strongroom -- strongroom snapshots")
	b.Run("sed -i '/^bandwidth/d' /etc/strongroom/strongroom.toml; systemctl restart strongroom")
	b.answers()
	if r := b.backup("acme/tickets"); r.Outcome != "ok" {
		t.Errorf("%+v", r)
	}
}

func newer(t *testing.T, b *box) {
	b.Run(`systemctl stop strongroom; sqlite3 /var/lib/strongroom/state.db "UPDATE meta SET value = value + 1 WHERE key = 'schema'"`)
	b.refuses("the state database was written by a newer version", "20")
	b.Run(`sqlite3 /var/lib/strongroom/state.db "UPDATE meta SET value = value - 1 WHERE key = 'schema'"; systemctl start strongroom`)
	b.answers()
}

func mistaken(t *testing.T, b *box) {
	b.Run("sed -i s/acme/ACME/ /etc/strongroom/strongroom.toml")
	b.refuses("name must be 1 to 63 of", "64")
	b.Run("sed -i s/ACME/acme/ /etc/strongroom/strongroom.toml; systemctl start strongroom")
	b.answers()
}

func removed(t *testing.T, b *box) {
	b.Run("dpkg --purge strongroom; not systemctl is-active strongroom; not test -e /usr/bin/strongroom; test -s /var/lib/strongroom/keys")
	b.Run("dpkg -i /host/strongroom_2.0_amd64.deb; systemctl start strongroom")
	b.answers()
	b.Run("grep -q acme /etc/strongroom/strongroom.toml")
}

// The watchdog bites: a daemon whose planner blocks, in a program built for that,
// is killed and started again by systemd, with the unit's own times. A planner that
// does not block lives longer than that.
func TestTheWatchdogBites(t *testing.T) {
	t.Parallel()
	good, blocks := packageOf(t, "1.0", ""), packageOf(t, "1.1~blocks", "blockplanner")
	b := newBox(t, boot(t, good, blocks), noMemory)
	b.Run("dpkg -i /host/strongroom_1.1~blocks_amd64.deb")
	b.Until("the restart after the upgrade", time.Minute, "cmp /proc/$(systemctl show --value -p MainPID strongroom)/exe /usr/bin/strongroom")
	before, began := b.pid(), time.Now()
	b.Until("the watchdog", 2*time.Minute, `pid=$(systemctl show --value -p MainPID strongroom); test $pid != 0 && test $pid != `+strconv.Itoa(before)+` && systemctl is-active strongroom`)
	t.Logf("restarted after %v", time.Since(began))
	if took := time.Since(began); took < 80*time.Second {
		t.Errorf("restarted after %v: that was not the watchdog", took)
	}
	if out := b.Run("journalctl --no-pager --output=cat -u strongroom"); strings.Count(out, "Watchdog timeout") != 1 || !strings.Contains(out, "daemon.hang") {
		t.Errorf("the journal says %s", out)
	}
	// One that plans is left alone, with a watchdog that is as short as a test wants.
	b.Run(`dpkg -i /host/strongroom_1.0_amd64.deb
printf '[Service]\nWatchdogSec=6s\n' >/etc/systemd/system/strongroom.service.d/watchdog.conf
systemctl daemon-reload; systemctl restart strongroom`)
	b.answers()
	before = b.pid()
	time.Sleep(15 * time.Second)
	if now := b.pid(); now != before {
		t.Errorf("a daemon that plans was process %d, and is %d", before, now)
	}
}
