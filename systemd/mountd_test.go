package systemd_test

import (
	"slices"
	"strings"
	"testing"
)

// asks has the mount helper list what is connected, as the daemon's user.
const asks = `runuser -u strongroom -- perl -MIO::Socket::UNIX -e '
$s = IO::Socket::UNIX->new(Peer => "/run/strongroom-mount.sock") or die "$!";
print $s qq({"verb":"list"}\n); $s->flush; print <$s>'`

// The mount helper tries its walls before each request, and refuses where one is
// missing that its command line does not name.
func TestTheMountHelperInAContainer(t *testing.T) {
	t.Parallel()
	b := &box{Machine: boot(t, packageOf(t, "1.0", "")), t: t}
	b.Run(`dpkg -i /host/strongroom_1.0_amd64.deb && systemctl enable --now strongroom-mountd.socket
cat >/etc/strongroom/strongroom.toml <<'END'
[[store]]
name = "one"
kind = "dir"
path = "/srv/one"
[[tenant]]
name = "acme"
level = "confidential"
[media]
helper = "/run/strongroom-mount.sock"
END`)
	loosen := func(missing, settings string) {
		b.Run(strings.NewReplacer("@missing", missing, "@settings", settings).Replace(`mkdir -p /etc/systemd/system/strongroom-mountd@.service.d
cat >/etc/systemd/system/strongroom-mountd@.service.d/test.conf <<'END'
[Service]
ExecStart=
ExecStart=/usr/lib/strongroom/strongroom-mountd @missing
@settings
END
systemctl daemon-reload`))
	}
	// The container has no controller for memory.
	if said := b.Run(asks); !strings.Contains(said, "a wall is missing: memory. ") {
		t.Errorf("unnamed: %s", said)
	}
	want := []string{"devices", "raw network", "network", "capabilities", "namespaces", "writable code", "system calls", "core dumps"}
	// It tells what it tried also where it does nothing else.
	if found := b.examined("", "mount-helper"); !slices.Equal(found["ok"], want) || !slices.Equal(found["warn"], []string{"memory"}) || len(found["note"]) > 0 {
		t.Errorf("unnamed: doctor tells of the walls %q", found)
	}
	b.walls("strongroom-mountd@*")

	loosen("--missing=memory", "")
	if said := b.Run(asks); said != "{}" {
		t.Errorf("with all walls: %s", said)
	}
	hold, miss := b.walls("strongroom-mountd@*")
	if !slices.Equal(hold, want) || !slices.Equal(miss, []string{"memory"}) {
		t.Errorf("walls %q, missing %q", hold, miss)
	}
	if found := b.examined("", "mount-helper"); !slices.Equal(found["ok"], want) || !slices.Equal(found["note"], []string{"memory"}) || len(found["warn"]) > 0 {
		t.Errorf("doctor tells of the walls %q", found)
	}
	for _, c := range []struct{ settings, wall string }{
		{"PrivateNetwork=no\nPrivateMounts=no\nIPAddressDeny=", "network"},
		{"DevicePolicy=auto\nDeviceAllow=", "devices"},
		{"RestrictAddressFamilies=\nRestrictAddressFamilies=AF_NETLINK", "raw network"},
		{"CapabilityBoundingSet=CAP_SYS_CHROOT", "capabilities"},
		{"RestrictNamespaces=no", "namespaces"},
		{"MemoryDenyWriteExecute=no", "writable code"},
		{"LimitCORE=1", "core dumps"},
	} {
		loosen("--missing=memory", c.settings)
		if said := b.Run(asks); !strings.Contains(said, "a wall is missing: "+c.wall+". ") {
			t.Errorf("%q: %s", c.settings, said)
		}
		if _, miss := b.walls("strongroom-mountd@*"); !slices.Contains(miss, c.wall) {
			t.Errorf("%q: missing %q", c.settings, miss)
		}
	}
	loosen("--missing=memory --missing=network", "PrivateNetwork=no\nPrivateMounts=no\nIPAddressDeny=")
	if said := b.Run(asks); said != "{}" {
		t.Errorf("with a network that is named: %s", said)
	}
	if found := b.examined("", "mount-helper"); !slices.Equal(found["note"], []string{"network", "memory"}) || len(found["warn"]) > 0 {
		t.Errorf("with a network that is named doctor tells of the walls %q", found)
	}
	loosen("--missing=memroy", "")
	if said := b.Run(asks + "; journalctl --sync; journalctl --no-pager --output=cat -u 'strongroom-mountd@*'"); !strings.Contains(said, `there is no wall "memroy"`) || strings.Contains(said, "{}") {
		t.Errorf("a mistake: %s", said)
	}
}
