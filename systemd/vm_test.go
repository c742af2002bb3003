package systemd_test

import (
	"strings"
	"testing"
	"time"

	"strongroom/systemd/systemdtest"
)

// The same box on a kernel of its own: what a container cannot show. Memory limits
// bite; a reboot and a power cut in the middle of a backup are made up for by the
// next start, with nobody there.
func TestABoxInAVM(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine, which takes minutes: with -short, power cuts and memory limits were not seen")
	}
	t.Parallel()
	one := packageOf(t, "1.0", "")
	began := time.Now()
	v := systemdtest.Boot(t, systemdtest.Config{Files: map[string]string{"strongroom_1.0_amd64.deb": one}})
	t.Logf("booted in %v", time.Since(began))
	b := newBox(t, v.Machine, "")
	b.grow(16, 1) // emulation is slow, too

	began = time.Now()
	r := b.begin()
	v.Reboot()
	b.answers()
	if r := b.ends(r.ID); r.Outcome != "ok" || r.Attempts != 2 {
		t.Errorf("after a reboot %+v, want ok at the second attempt", r)
	}
	t.Logf("reboot: %v", time.Since(began))
	b.restores()

	began = time.Now()
	b.changes()
	r = b.begin()
	v.Cut()
	v.Power()
	b.answers()
	if r := b.ends(r.ID); r.Outcome != "ok" || r.Attempts != 2 {
		t.Errorf("after a power cut %+v, want ok at the second attempt", r)
	}
	t.Logf("power cut: %v", time.Since(began))
	b.restores()
	b.Run("runuser -u strongroom -- strongroom check --read-data")

	limited(t, b)
}

// limited: the unit's limit is one that the kernel enforces, and what hits it is told
// and made up for.
func limited(t *testing.T, b *box) {
	if max := b.Run("cat /sys/fs/cgroup/system.slice/strongroom.service/memory.max"); max != "1073741824" {
		t.Errorf("the daemon may have %s bytes", max)
	}
	b.Run(`mkdir -p /run/systemd/system/strongroom.service.d
printf '[Service]\nMemoryMax=48M\n' >/run/systemd/system/strongroom.service.d/memory.conf
systemctl daemon-reload; systemctl restart strongroom`)
	b.changes()
	b.Try("strongroom run acme/tickets")
	b.Until("the kernel to end it", 4*time.Minute, "journalctl --no-pager -u strongroom | grep -q \"result 'oom-kill'\"")
	b.Run("rm /run/systemd/system/strongroom.service.d/memory.conf; systemctl daemon-reload; systemctl restart strongroom")
	b.answers()
	if r := b.waits("the run that was killed", func(r run) bool { return r.Outcome != "" }); r.Outcome != "ok" || r.Attempts < 2 {
		t.Errorf("after it was killed for its memory %+v", r)
	}
	if said := b.said(); !strings.Contains(said, "goes on") {
		t.Errorf("the daemon says %s", said)
	}
}
