package systemd_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/daemon/notify/notifytest"
)

// weekOf is how long a week takes here: snapshots are due at its begin, drills
// in its middle.
const weekOf = 2 * time.Minute

// A household is three tenants of one box, which runs by itself: a PostgreSQL
// database, one of MariaDB, and one of SQLite behind ssh.
type household struct {
	*box
	began time.Time
	mails *notifytest.Sink
}

// databases makes what is to be protected, and users that can read it: those that
// strongroom doctor prints, for the box's own user on the servers' sockets.
const databases = `systemctl start postgresql mariadb ssh
cd /
runuser -u postgres -- createdb crm
runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 crm <<'END'
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, note text);
INSERT INTO customers SELECT g, 'customer ' || g, 'asked for a call back about order ' || g % 97 FROM generate_series(1, 50000) g;
CREATE ROLE strongroom LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 10;
ALTER ROLE strongroom SET default_transaction_read_only = on;
GRANT CONNECT ON DATABASE crm TO strongroom;
GRANT USAGE ON SCHEMA public TO strongroom;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO strongroom;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO strongroom;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO strongroom;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON SEQUENCES TO strongroom;
ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT USAGE ON SCHEMAS TO strongroom;
END
mariadb <<'END'
CREATE DATABASE shop; USE shop;
CREATE TABLE orders (id INT PRIMARY KEY, what VARCHAR(60));
INSERT INTO orders SELECT seq, CONCAT('order ', seq) FROM seq_1_to_30000;
CREATE USER 'strongroom'@'localhost' IDENTIFIED VIA unix_socket;
GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON shop.* TO 'strongroom'@'localhost';
GRANT SELECT ON mysql.proc TO 'strongroom'@'localhost';
END
mkdir -p /srv/tickets
sqlite3 /srv/tickets/tickets.db "CREATE TABLE ticket (id INTEGER PRIMARY KEY, text TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 20000) INSERT INTO ticket SELECT i, 'ticket number ' || i FROM n"`

// reader is docs/remote.md, with this machine as its own client's server; /etc/strongroom
// is not for others to look into.
const reader = `useradd --system --create-home --shell /bin/sh strongroom-reader
cat >/etc/reader.toml <<'END'
[[dataset]]
name = "gamma/tickets"
source = "sqlite"
path = "/srv/tickets/tickets.db"
END
ssh-keygen -q -t ed25519 -N '' -f /etc/strongroom/ssh-gamma
chown strongroom /etc/strongroom/ssh-gamma
install -d -o strongroom-reader -m 0700 ~strongroom-reader/.ssh
echo "restrict,command=\"/usr/bin/strongroom source serve /etc/reader.toml\" $(cat /etc/strongroom/ssh-gamma.pub)" >~strongroom-reader/.ssh/authorized_keys
chmod 0644 ~strongroom-reader/.ssh/authorized_keys; chown strongroom-reader ~strongroom-reader/.ssh/authorized_keys`

func newHousehold(t *testing.T) *household {
	one := packageOf(t, "1.0", "")
	h := &household{box: &box{Machine: boot(t, one), t: t}}
	var ca string
	h.Network(func() { h.mails, ca = notifytest.Start(t, nil) })
	authority, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	h.Run(databases)
	h.Run("dpkg -i /host/strongroom_1.0_amd64.deb\ninstall -d -o strongroom -g strongroom -m 0700 /srv/strongroom /srv/strongroom/one /srv/strongroom/two /srv/strongroom/three")
	h.Run(reader)
	h.Run("cat >/etc/strongroom/mail-ca.pem <<'END'\n" + string(authority) + "END\nprintf right >/etc/strongroom/mail-password; chown strongroom /etc/strongroom/mail-password; chmod 0600 /etc/strongroom/mail-password")
	h.Run("cat >/etc/strongroom/strongroom.toml <<'END'\n" + h.config() + "END\nstrongroom config check")
	h.Run(`mkdir -p /etc/systemd/system/strongroom.service.d
printf '[Service]\nReadWritePaths=/srv/strongroom\n' >/etc/systemd/system/strongroom.service.d/stores.conf
systemctl daemon-reload
runuser -u strongroom -- strongroom init --shares-dir /var/lib/strongroom/shares
runuser -u strongroom -- strongroom audit init
runuser -u strongroom -- strongroom doctor`)
	return h
}

func (h *household) config() string {
	h.t.Helper()
	var b strings.Builder
	b.WriteString(noMemory + "[metrics]\nlisten = \"127.0.0.1:9465\"\nnames = true\n")
	for _, n := range []string{"one", "two", "three"} {
		fmt.Fprintf(&b, "[[store]]\nname = %q\nkind = \"dir\"\npath = \"/srv/strongroom/%s\"\n", n, n)
	}
	fmt.Fprintf(&b, "[notify]\nbox = \"box-1\"\n[[notify.mail]]\nname = \"ops\"\nhost = \"127.0.0.1\"\nport = %d\nfrom = \"box@strongroom.example\"\nto = [\"ops@strongroom.example\"]\n"+
		"username = \"me\"\npassword_file = \"/etc/strongroom/mail-password\"\nca_file = \"/etc/strongroom/mail-ca.pem\"\n", h.mails.Port)
	minutes := int(weekOf / time.Minute)
	dataset := func(tenant, level, name, source, settings string) {
		fmt.Fprintf(&b, "[[tenant]]\nname = %q\nlevel = %q\n[[tenant.dataset]]\nname = %q\nsource = %q\n%s\n"+
			"[tenant.dataset.schedule]\nat = \"*/%d * * * *\"\n[tenant.dataset.drill_schedule]\nat = \"%d-59/%d * * * *\"\n[tenant.dataset.keep]\nlast = 3\n",
			tenant, level, name, source, settings, minutes, minutes/2, minutes)
	}
	dataset("acme", "secret", "crm", "postgres", `url = "postgres://strongroom@/crm?host=/run/postgresql"`)
	dataset("beta", "confidential", "shop", "mariadb", `url = "mariadb://strongroom@/shop?socket=/run/mysqld/mysqld.sock"`)
	key := strings.Fields(h.Run("cat /etc/ssh/ssh_host_ed25519_key.pub"))
	dataset("gamma", "confidential", "tickets", "sqlite", fmt.Sprintf("via = \"ssh://strongroom-reader@127.0.0.1\"\nhost_key = \"%s %s\"\nssh_key_file = \"/etc/strongroom/ssh-gamma\"", key[0], key[1]))
	return b.String()
}

func (h *household) postgres(sql string) {
	h.t.Helper()
	h.Run("cd /; runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 crm <<'END'\n" + sql + ";\nEND")
}

func (h *household) mariadb(sql string) {
	h.t.Helper()
	h.Run("mariadb shop <<'END'\n" + sql + ";\nEND")
}

func (h *household) sqlite(sql string) {
	h.t.Helper()
	h.Run("sqlite3 /srv/tickets/tickets.db <<'END'\n" + sql + ";\nEND")
}

// sleep waits until so much of a week is over, counted from the first one.
func (h *household) sleep(weeks float64) {
	time.Sleep(time.Until(h.began.Add(time.Duration(weeks * float64(weekOf)))))
}

// killed kills the daemon; systemd starts it again.
func (h *household) killed() {
	h.t.Helper()
	before := h.pid()
	h.Run(fmt.Sprintf("kill -KILL %d", before))
	h.restarts(before)
}

// A box runs by itself for four weeks, of two minutes each, in a Debian with
// systemd: three databases of three tenants, one of them over ssh. It is killed
// every week and systemd starts it again, a store is away for a week, a database
// grows by half; then a table is encrypted in place. STRONGROOM_WEEKS=1 (make
// weeks) takes this time.
func TestFourWeeksUnattended(t *testing.T) {
	if os.Getenv("STRONGROOM_WEEKS") == "" {
		t.Skip("it takes 12 minutes of the clock: STRONGROOM_WEEKS=1, or make weeks")
	}
	h := newHousehold(t)
	time.Sleep(time.Until(time.Now().Truncate(weekOf).Add(weekOf - 30*time.Second)))
	h.began = time.Now().Truncate(weekOf).Add(weekOf)
	h.Run("systemctl enable --now strongroom-drill.socket strongroom; strongroom status")
	for week := range 4 {
		h.postgres(fmt.Sprintf("UPDATE customers SET note = 'called back in week %d' WHERE id %% 50 = %d", week, week))
		h.mariadb(fmt.Sprintf("INSERT INTO orders SELECT 100000 * %d + seq, 'more' FROM seq_1_to_500", week+1))
		h.sqlite(fmt.Sprintf("UPDATE ticket SET text = 'closed in week %d' WHERE id %% 40 = %d", week, week))
		switch week {
		case 1:
			h.Run("mv /srv/strongroom/three /srv/strongroom/away")
		case 2:
			h.Run("mv /srv/strongroom/away /srv/strongroom/three")
			h.postgres("INSERT INTO customers SELECT 100000 + g, 'customer ' || g, 'new this month' FROM generate_series(1, 25000) g")
		}
		// In the middle of the backups, or after them: whichever it meets.
		h.sleep(float64(week) + float64(1+2*week)/120)
		h.killed()
		h.sleep(float64(week) + 0.9)
		t.Logf("week %d:\n%s", week+1, h.Run("strongroom runs"))
	}
	h.judge(t)

	// Columns are encrypted in place.
	h.postgres("UPDATE customers SET name = encode(sha256(('a' || id || name)::bytea), 'hex') || encode(sha256(('b' || id || name)::bytea), 'hex'), note = encode(sha256(('c' || id || name)::bytea), 'hex')")
	h.sleep(4.6)
	if out := h.Run("strongroom alarms"); !strings.Contains(out, "frozen acme/crm") || !strings.Contains(out, "looks encrypted") {
		t.Errorf("nobody is alarmed:\n%s", out)
	}
	if out, code := h.Try("runuser -u strongroom -- strongroom expire acme/crm --dry-run"); code != 20 || !strings.Contains(out, "looks encrypted") {
		t.Errorf("it is not frozen: %d\n%s", code, out)
	}
	if mails := strings.Join(h.mails.Mails(), "\n"); !strings.Contains(mails, "LOOKS WRONG") {
		t.Errorf("no mail says so:\n%s", mails)
	}
}

// judge looks back on the four weeks.
func (h *household) judge(t *testing.T) {
	t.Helper()
	times := map[string][]time.Time{} // of each job, as planned
	for _, r := range h.runs("--last 1000") {
		if r.ByHand || r.Kind != "backup" && r.Kind != "drill" || r.Tenant == "strongroom" {
			continue
		}
		times[r.Job] = append(times[r.Job], r.Planned)
		away := !r.Planned.Before(h.began.Add(weekOf)) && r.Planned.Before(h.began.Add(2*weekOf))
		if r.Outcome != "ok" && !(away && r.Outcome == "partial") {
			t.Errorf("%s of %v: %s: %s", r.Job, r.Planned, r.Outcome, r.Reason)
		}
	}
	receipts := h.Run("runuser -u strongroom -- strongroom drill list")
	metrics := h.Run("exec 3<>/dev/tcp/127.0.0.1/9465; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
	for _, d := range []string{"acme/crm", "beta/shop", "gamma/tickets"} {
		at := times["backup:"+d]
		slices.SortFunc(at, time.Time.Compare)
		if len(at) != 4 {
			t.Errorf("%s: %d backups in four weeks: %v", d, len(at), at)
		}
		for i := 1; i < len(at); i++ {
			if at[i].Sub(at[i-1]) != weekOf {
				t.Errorf("%s: a run at %v follows one at %v", d, at[i], at[i-1])
			}
		}
		if n := len(times["drill:"+d]); n < 4 { // the first one is besides those of the schedule
			t.Errorf("%s: %d drills", d, n)
		}
		green := 0
		for line := range strings.Lines(receipts) {
			if strings.Contains(line, d) && strings.Contains(line, "PASS") {
				green++
			}
		}
		if green < 4 {
			t.Errorf("%s: %d green receipts:\n%s", d, green, receipts)
		}
		tenant, dataset, _ := strings.Cut(d, "/")
		if !strings.Contains(metrics, fmt.Sprintf(`strongroom_last_success_timestamp_seconds{dataset=%q,kind="backup",store="",tenant=%q}`, dataset, tenant)) {
			t.Errorf("metrics say nothing of %s:\n%s", d, metrics)
		}
	}
	h.digest(t)
	h.Run("runuser -u strongroom -- strongroom audit verify")
	t.Logf("status:\n%s", h.Run("strongroom status"))
}

// digest looks at the mail that comes weekly.
func (h *household) digest(t *testing.T) {
	t.Helper()
	h.Run("strongroom run digest")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		for _, m := range h.mails.Mails() {
			if strings.Contains(m, "weekly digest") {
				if !strings.Contains(strings.ToLower(m), "next") || strings.Contains(m, "customer") {
					t.Errorf("the digest:\n%s", m)
				}
				t.Logf("digest:\n%s", m)
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no digest; mails:\n%s", strings.Join(h.mails.Mails(), "\n"))
		}
	}
}
