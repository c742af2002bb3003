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
	v := systemdtest.Boot(t, systemdtest.Config{Files: map[string]string{"strongroom_1.0_amd64.deb": one}, Disks: []int64{128 << 20, 1 << 30}})
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
	part("swap", swapped)
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
	before := b.Run("systemctl show --value -p MainPID strongroom")
	as("media insert A-1")
	if options := strings.Split(b.Run("findmnt -n -o OPTIONS --source /dev/vdc --mountpoint "+at), ","); !slices.Contains(options, "ro") ||
		!slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") || !slices.Contains(options, "noexec") {
		t.Errorf("mounted with %q", options)
	}
	// What it mounts everybody sees, also the daemon that was there before.
	b.Run("test " + before + " = $(systemctl show --value -p MainPID strongroom); grep -F " + at + " /proc/" + before + "/mountinfo")
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

// swapped has drills of more than their memory holds: what swap they may use and what
// of it is encrypted decides whether they have room, and whether they may begin.
func swapped(t *testing.T, b *box) {
	unit := func(settings string) {
		b.Run("mkdir -p /run/systemd/system/strongroom-drill@.service.d\nprintf '[Service]\n" + settings + "' >/run/systemd/system/strongroom-drill@.service.d/test.conf; systemctl daemon-reload")
	}
	drills := func(dataset string, want int, text string) string {
		t.Helper()
		said, code := b.Try("cd /; runuser -u strongroom -- strongroom drill run " + dataset)
		if code != want || !strings.Contains(said, text) {
			t.Errorf("a drill of %s ends with %d, want %d and %q: %s", dataset, code, want, text, said)
		}
		id, _, _ := strings.Cut(said[strings.LastIndex(said, "receipt ")+len("receipt "):], "\n")
		return b.Run("cd /; runuser -u strongroom -- strongroom drill show " + id + " --json | grep -o '\"name\":\"swap\"[^}]*' || echo no wall")
	}
	const infra = 22
	b.Run(`cat >>/etc/strongroom/strongroom.toml <<'END'
[[tenant]]
name = "vault"
level = "secret"
[[tenant.dataset]]
name = "tickets"
source = "sqlite"
path = "/srv/tickets/tickets.db"
END
cd /; runuser -u strongroom -- strongroom init --shares-dir /var/lib/strongroom/vault; runuser -u strongroom -- strongroom backup vault/tickets`)

	unit(`MemoryMax=64M\n`)
	drills("vault/tickets", infra, "MiB of memory and no encrypted swap to use")
	unit(`MemoryMax=64M\nMemorySwapMax=infinity\n`)
	b.Run(`echo 'scratch /dev/vdd /dev/urandom swap,cipher=aes-xts-plain64,size=512' >/etc/crypttab
echo '/dev/mapper/scratch none swap defaults 0 0' >>/etc/fstab
systemctl daemon-reload; systemctl start dev-mapper-scratch.swap`)
	const out = "awk '$1 == \"pswpout\" { print $2 }' /proc/vmstat"
	before := b.Run(out)
	if wall := drills("vault/tickets", 0, "PASS"); !strings.Contains(wall, `"got":"dm-crypt (scratch)","holds":true`) {
		t.Errorf("encrypted: %s", wall)
	}
	if after := b.Run(out); after == before {
		t.Errorf("nothing was swapped out: %s pages before and after", after)
	}

	unit(`MemorySwapMax=infinity\n`)
	b.Run("systemctl stop dev-mapper-scratch.swap systemd-cryptsetup@scratch; sed -i /scratch/d /etc/fstab /etc/crypttab; mkswap -f /dev/vdd; swapon /dev/vdd")
	drills("vault/tickets", infra, "the sandbox has no wall: swap: /dev/vdd in clear")
	if wall := drills("acme/tickets", 0, "PASS"); !strings.Contains(wall, "/dev/vdd in clear") || !strings.Contains(wall, `"holds":false`) {
		t.Errorf("of a confidential tenant: %s", wall)
	}
	b.Run("rm /run/systemd/system/strongroom-drill@.service.d/test.conf; systemctl daemon-reload")
	if wall := drills("vault/tickets", 0, "PASS"); !strings.Contains(wall, "memory.swap.max") {
		t.Errorf("with the unit as it comes: %s", wall)
	}
	b.Run("swapoff /dev/vdd")
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
