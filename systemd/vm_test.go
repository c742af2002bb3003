package systemd_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/systemd/systemdtest"
)

// The same box on a kernel of its own: what a container cannot show. Memory limits
// bite, and all walls hold; a medium is mounted; a reboot and a power cut in the
// middle of a backup are made up for by the next start, with nobody there.
func TestABoxInAVM(t *testing.T) {
	if testing.Short() {
		t.Skip("boots an emulated machine, which takes minutes: with -short, power cuts and memory limits were not seen")
	}
	t.Parallel()
	one := packageOf(t, "1.0", "")
	began := time.Now()
	v := systemdtest.Boot(t, systemdtest.Config{Files: map[string]string{"strongroom_1.0_amd64.deb": one}, Disks: []int64{128 << 20}})
	t.Logf("booted in %v", time.Since(began))
	b := newBox(t, v.Machine, "")
	part := func(name string, do func(*testing.T, *box)) {
		began := time.Now()
		do(t, b)
		t.Logf("%s: %v", name, time.Since(began))
	}
	part("a medium", offline)
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

	part("limits", limited)
	part("a reader", reads)
}

// offline has the mount helper mount a disk for whoever may not: the snapshots are
// copied to it, and restored from it in a drill.
func offline(t *testing.T, b *box) {
	uuid := b.Run(`mkfs.ext4 -q -m 0 -E root_owner=$(id -u strongroom):$(id -g strongroom) /dev/vdc
printf '[media]\nhelper = "/run/strongroom-mount.sock"\n' >>/etc/strongroom/strongroom.toml
systemctl enable --quiet --now strongroom-mountd.socket; systemctl restart strongroom
blkid -o value -s UUID /dev/vdc | tr -d -`)
	b.answers()
	at := "/run/strongroom-media/" + uuid
	as := func(args string) string {
		t.Helper()
		return b.Run("cd /; runuser -u strongroom -- strongroom " + args)
	}
	as("media init")
	if said := as("media devices"); !regexp.MustCompile(uuid + ` +ext4 .*/dev/vdc +-`).MatchString(said) {
		t.Errorf("media devices: %s", said)
	}
	as("media enrol A-1 --set A --uuid " + uuid + " --holder somebody --place here")
	b.Run("not findmnt " + at + "; not test -e " + at)
	as("media insert A-1")
	if options := strings.Split(b.Run("findmnt -n -o OPTIONS --source /dev/vdc --mountpoint "+at), ","); !slices.Contains(options, "ro") ||
		!slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") || !slices.Contains(options, "noexec") {
		t.Errorf("mounted with %q", options)
	}
	// What it mounts everybody sees, also a daemon that had to start anew for it: where
	// media are mounted was no directory before.
	b.Until("the daemon to see the medium", 3*time.Minute, "grep -F "+at+" /proc/$(systemctl show --value -p MainPID strongroom)/mountinfo")
	if said := as("media list"); !regexp.MustCompile(`(?m)^A-1 .* yes$`).MatchString(said) {
		t.Errorf("media list: %s", said)
	}
	if said := as("drill run acme/tickets --from media:" + at); !strings.Contains(said, "PASS") {
		t.Errorf("a drill from the medium: %s", said)
	}
	as("media eject A-1")
	b.Run("not findmnt --source /dev/vdc; not test -e " + at)
	want := []string{"devices", "raw network", "network", "capabilities", "namespaces", "writable code", "system calls", "memory", "core dumps"}
	if found := b.examined("", "mount-helper"); len(found) != 1 || !slices.Equal(found["ok"], want) {
		t.Errorf("doctor tells of the helper's walls %q", found)
	}
	hold, miss := b.walls("strongroom-mountd@*")
	requests := len(hold) / len(want)
	if requests < 6 || !slices.Equal(hold, slices.Repeat(want, requests)) || len(miss) > 0 {
		t.Errorf("the helper's walls %q, missing %q", hold, miss)
	}
}

// reads has a reader whose file names no missing wall: those of memory, which a
// container lacks, hold, and are missed.
func reads(t *testing.T, b *box) {
	b.Run(strings.Replace(crm, "[confine]\nmissing = [\"memory\", \"swap\"]\n", "", 1))
	if r := b.backup("acme/crm-files"); r.Outcome != "ok" {
		t.Errorf("%+v", r)
	}
	hold, miss := b.walls("strongroom-source@crm.service")
	want := slices.Insert(slices.Clone(readersWalls), 11, "memory", "swap")
	if !slices.Equal(hold, want) || len(miss) > 0 {
		t.Errorf("the reader's walls %q, missing %q", hold, miss)
	}
	if found := b.examined("acme/crm-files", "walls"); len(found) != 1 || len(found["ok"]) != 14+len(want) {
		t.Errorf("doctor tells of the walls %q", found)
	}
	for setting, wall := range map[string]string{"MemoryMax=infinity": "memory", "MemorySwapMax=infinity": "swap"} {
		b.loosened(setting)
		if r := b.backup("acme/crm-files"); r.Outcome == "ok" || !strings.Contains(r.Reason, "a wall is missing: "+wall+". ") {
			t.Errorf("%q: %+v", setting, r)
		}
	}
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
