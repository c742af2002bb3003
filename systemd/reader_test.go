package systemd_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// crm has what nobody else reads, at home, where the daemon sees nothing; the
// reader's file names it, and what the container lacks.
const crm = `useradd --create-home --home-dir /home/crm crm
chmod 0700 /home/crm
runuser -u crm -- bash -c 'umask 077; cd; mkdir -p files/a/b; seq 100000 >files/a/b/c; ln -s a files/link
sqlite3 crm.db "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000) INSERT INTO t SELECT i FROM n"'
install -m 0600 -D /dev/stdin /etc/strongroom/source/crm.toml <<'END'
[confine]
missing = ["memory", "swap"]
[[dataset]]
name = "acme/crm-files"
source = "files"
path = "/home/crm/files"
[[dataset]]
name = "acme/crm-db"
source = "sqlite"
path = "/home/crm/crm.db"
END
cat >>/etc/strongroom/strongroom.toml <<'END'
[[tenant.dataset]]
name = "crm-files"
source = "files"
via = "unix:/run/strongroom-source/crm.sock"
[[tenant.dataset]]
name = "crm-db"
source = "sqlite"
via = "unix:/run/strongroom-source/crm.sock"
END
not runuser -u strongroom -- ls /home/crm
systemctl enable --now strongroom-source@crm.socket
strongroom reload`

// backup has the daemon take a snapshot, and returns how that ended.
func (b *box) backup(dataset string) run {
	b.t.Helper()
	b.Run("strongroom run " + dataset)
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if all := b.backupsOf(dataset); len(all) > 0 && all[0].Outcome != "" {
			return all[0]
		}
	}
	b.t.Fatalf("a backup of %s does not end:\n%s", dataset, b.Run("journalctl --no-pager -n 60 -u 'strongroom*'"))
	return run{}
}

// wall is one as the journal has it.
var wall = regexp.MustCompile(`wall name="?([a-z ]+?)"? holds=(true|false) .*`)

// walls are those that a unit told since it was asked last, by whether they hold.
func (b *box) walls(unit string) (hold, miss []string) {
	b.t.Helper()
	said := b.Run("journalctl --sync; journalctl --no-pager --output=cat -u '" + unit + "'; journalctl --rotate --vacuum-time=1s >/dev/null 2>&1")
	for _, m := range wall.FindAllStringSubmatch(said, -1) {
		if m[2] == "true" {
			hold = append(hold, m[1])
		} else {
			miss = append(miss, m[1])
		}
	}
	return hold, miss
}

// readersWalls are those of a reader that hold in a container.
var readersWalls = []string{"devices", "credentials", "raw network", "network", "files outside", "homes", "other processes", "capabilities", "namespaces",
	"writable code", "system calls", "core dumps"}

// A reader has one user's rights within walls that it tries: without one of them it
// serves nothing, says which, and is asked again all the same.
func TestAReaderInAContainer(t *testing.T) {
	t.Parallel()
	b := newBox(t, boot(t, packageOf(t, "1.0", "")), noMemory)
	b.Run(crm)
	for _, dataset := range []string{"acme/crm-files", "acme/crm-db"} {
		if r := b.backup(dataset); r.Outcome != "ok" {
			t.Errorf("%s: %+v", dataset, r)
		}
	}
	b.Run(`d=$(mktemp -d); chown strongroom $d
runuser -u strongroom -- strongroom restore acme/crm-files --to $d/files
runuser -u strongroom -- strongroom restore acme/crm-db --to $d/crm.db
diff -r /home/crm/files $d/files
cmp <(sqlite3 /home/crm/crm.db .dump) <(sqlite3 $d/crm.db .dump)
rm -r $d`)
	hold, miss := b.walls("strongroom-source@crm.service")
	if !slices.Equal(hold, readersWalls) || !slices.Equal(miss, []string{"memory", "swap"}) {
		t.Errorf("walls %q, missing %q", hold, miss)
	}
	// doctor tells the daemon's first, then those of the reader.
	if found := b.examined("acme/crm-files", "walls"); len(found["warn"]) > 0 || !slices.Equal(found["note"], []string{"memory", "swap", "memory", "swap"}) ||
		len(found["ok"]) != 12+len(readersWalls) || !slices.Equal(found["ok"][12:], readersWalls) {
		t.Errorf("doctor tells of the walls %q", found)
	}

	// Root is in the group that sees all processes, whatever it may not do to them.
	b.Run(`mkdir -m 0700 /root/files; seq 1000 >/root/files/a
sed '/crm-db/,$d; s,crm-files,root-files,; s,/home/crm/,/root/,; s,"swap",&\, "other processes",' /etc/strongroom/source/crm.toml | sed '$d' | install -m 0600 /dev/stdin /etc/strongroom/source/root.toml
printf '[[tenant.dataset]]\nname = "root-files"\nsource = "files"\nvia = "unix:/run/strongroom-source/root.sock"\n' >>/etc/strongroom/strongroom.toml
systemctl enable --now strongroom-source@root.socket; strongroom reload`)
	if r := b.backup("acme/root-files"); r.Outcome != "ok" {
		t.Errorf("root's: %+v", r)
	}
	if hold, miss := b.walls("strongroom-source@root.service"); len(hold) != 11 || !slices.Equal(miss, []string{"other processes", "memory", "swap"}) {
		t.Errorf("root's: walls %q, missing %q", hold, miss)
	}

	for _, c := range []struct{ setting, wall string }{
		{"PrivateNetwork=no\nIPAddressDeny=", "network"},
		{"ProtectSystem=no", "files outside"},
		{"ProtectHome=no\nProtectSystem=no\nReadOnlyPaths=/\nReadWritePaths=/home /tmp", "homes"},
		{"RestrictAddressFamilies=AF_NETLINK", "raw network"},
		{"ProtectProc=default", "other processes"},
		{"CapabilityBoundingSet=CAP_SYS_CHROOT\nAmbientCapabilities=CAP_SYS_CHROOT", "capabilities"},
		{"RestrictNamespaces=no", "namespaces"},
		{"MemoryDenyWriteExecute=no", "writable code"},
		{"LimitCORE=1", "core dumps"},
	} {
		b.loosened(c.setting)
		r := b.backup("acme/crm-files")
		if r.Outcome == "ok" || !strings.Contains(r.Reason, "a wall is missing: "+c.wall+". ") {
			t.Errorf("%q: %+v", c.setting, r)
		}
		b.Until("the reader to end with 20", time.Minute, `test "$(systemctl show --value -p ExecMainStatus strongroom-source@crm)" = 20 && systemctl is-active strongroom-source@crm.socket`)
		if _, miss := b.walls("strongroom-source@crm.service"); !slices.Contains(miss, c.wall) {
			t.Errorf("%q: missing %q", c.setting, miss)
		}
	}
	b.loosened("PrivateNetwork=no\nIPAddressDeny=")
	b.Run(`sed -i 's/^missing = .*/missing = ["memory", "swap", "network"]/' /etc/strongroom/source/crm.toml`)
	if r := b.backup("acme/crm-files"); r.Outcome != "ok" {
		t.Errorf("with a network that is named: %+v", r)
	}
}

// loosened gives the reader's unit a drop-in, of that alone.
func (b *box) loosened(settings string) {
	b.t.Helper()
	b.Run(strings.ReplaceAll(`mkdir -p /etc/systemd/system/strongroom-source@crm.service.d
cat >/etc/systemd/system/strongroom-source@crm.service.d/test.conf <<'END'
[Service]
@@
END
systemctl daemon-reload; systemctl stop strongroom-source@crm.service`, "@@", settings))
}
