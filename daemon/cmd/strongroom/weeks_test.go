package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"strongroom/daemon/notify/notifytest"
	"strongroom/source/mariadb/mariadbtest"
	"strongroom/source/postgres/pgtest"
	"strongroom/source/remote/ssh/sshtest"
)

// weekOf is how long a week takes here: snapshots are due at its begin, drills
// in its middle.
const weekOf = 2 * time.Minute

// A household is three tenants of one box, which runs by itself.
type household struct {
	*testBox
	s     *service
	began time.Time
	pg    *pgtest.Server
	my    *mariadbtest.Server
	pgdb  string
	mydb  string
	lite  string
	third string // a store's directory
	mails *notifytest.Sink
}

func newHousehold(t *testing.T) *household {
	h := &household{pg: pgtest.Start(t), my: mariadbtest.Start(t)}
	h.pgdb, h.mydb = h.pg.CreateDatabase(t), h.my.CreateDatabase(t)
	h.pg.Exec(t, h.pgdb, `CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, note text);
		INSERT INTO customers SELECT g, 'customer ' || g, 'asked for a call back about order ' || g % 97 FROM generate_series(1, 50000) g`)
	h.my.Exec(t, h.mydb, `CREATE TABLE orders (id INT PRIMARY KEY, what VARCHAR(60)); INSERT INTO orders SELECT seq, CONCAT('order ', seq) FROM seq_1_to_30000`)
	far := t.TempDir()
	h.lite = filepath.Join(far, "tickets.db")
	h.sqlite(t, `CREATE TABLE ticket (id INTEGER PRIMARY KEY, text TEXT);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 20000) INSERT INTO ticket SELECT i, 'ticket number ' || i FROM n`)
	reader := filepath.Join(far, "reader.toml")
	if err := os.WriteFile(reader, fmt.Appendf(nil, "scratch = %q\n[[dataset]]\nname = \"gamma/tickets\"\nsource = \"sqlite\"\npath = %q\n", far, h.lite), 0o600); err != nil {
		t.Fatal(err)
	}
	ssh := sshtest.Start(t)
	ssh.Authorize(t, fmt.Sprintf(`restrict,command="%s source serve %s"`, program(t, "strongroom"), reader))
	var ca string
	h.mails, ca = notifytest.Start(t, nil)

	stores, paths := threeDirs(t)
	h.third = paths[2]
	h.testBox = newBox(t, stores, "")
	minutes := int(weekOf / time.Minute)
	when := fmt.Sprintf("[tenant.dataset.schedule]\nat = \"*/%d * * * *\"\n[tenant.dataset.drill_schedule]\nat = \"%d-59/%d * * * *\"\n[tenant.dataset.keep]\nlast = 3\n", minutes, minutes/2, minutes)
	secret := h.write("mail-password", "right")
	h.write("c.toml", fmt.Sprintf("state_dir = %q\n", h.path("state"))+stores+
		"[metrics]\nlisten = \"127.0.0.1:0\"\nnames = true\n"+
		fmt.Sprintf("[notify]\nbox = \"box-1\"\n[[notify.mail]]\nname = \"ops\"\nhost = \"127.0.0.1\"\nport = %d\nfrom = \"box@strongroom.example\"\nto = [\"ops@strongroom.example\"]\nusername = \"me\"\npassword_file = %q\nca_file = %q\n", h.mails.Port, secret, ca)+
		"[[tenant]]\nname = \"acme\"\nlevel = \"secret\"\n"+pgDataset("crm", h.pg.URL(h.pgdb, "postgres"))+when+
		"[[tenant]]\nname = \"beta\"\nlevel = \"confidential\"\n"+mariaDataset("shop", h.my.URL(h.mydb, "root"))+when+
		"[[tenant]]\nname = \"gamma\"\nlevel = \"confidential\"\n"+"[[tenant.dataset]]\nname = \"tickets\"\nsource = \"sqlite\"\n"+viaSSH(ssh, ssh.Addr)+when)
	h.run(0, "init", "--shares-dir", h.path("shares"))
	h.run(0, "audit", "init")
	return h
}

func (h *household) sqlite(t *testing.T, q string) {
	t.Helper()
	db, err := sql.Open("sqlite", h.lite)
	if err == nil {
		_, err = db.Exec(q)
		db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A ran is a run as the command line tells of it.
type ran struct {
	Run                                         int
	Job, Kind, Tenant, Dataset, Outcome, Reason string
	Planned                                     time.Time
	ByHand                                      bool `json:"by_hand"`
}

func (h *household) runs() (out []ran) {
	h.t.Helper()
	var v struct{ Runs []ran }
	if err := json.Unmarshal([]byte(h.run(0, "runs", "--json", "--last", "1000").stdout), &v); err != nil {
		h.t.Fatal(err)
	}
	return v.Runs
}

// sleep waits until so much of a week is over, counted from the first one.
func (h *household) sleep(weeks float64) {
	time.Sleep(time.Until(h.began.Add(time.Duration(weeks * float64(weekOf)))))
}

// A box runs by itself for four weeks, of two minutes each: three databases of
// three tenants, one of them over ssh. It is killed every week and started
// again, a store is away for a week, a database grows by half; then a table is
// encrypted in place. STRONGROOM_WEEKS=1 (make weeks) takes this time.
func TestFourWeeksUnattended(t *testing.T) {
	if os.Getenv("STRONGROOM_WEEKS") == "" {
		t.Skip("it takes 12 minutes of the clock: STRONGROOM_WEEKS=1, or make weeks")
	}
	h := newHousehold(t)
	time.Sleep(time.Until(time.Now().Truncate(weekOf).Add(weekOf - 30*time.Second)))
	h.began = time.Now().Truncate(weekOf).Add(weekOf)
	h.s = h.serve()
	for week := range 4 {
		h.pg.Exec(t, h.pgdb, "UPDATE customers SET note = 'called back in week "+fmt.Sprint(week)+"' WHERE id % 50 = "+fmt.Sprint(week))
		h.my.Exec(t, h.mydb, fmt.Sprintf("INSERT INTO orders SELECT 100000 * %d + seq, 'more' FROM seq_1_to_500", week+1))
		h.sqlite(t, fmt.Sprintf("UPDATE ticket SET text = 'closed in week %d' WHERE id %% 40 = %d", week, week))
		switch week {
		case 1:
			if err := os.Rename(h.third, h.third+".away"); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := os.Rename(h.third+".away", h.third); err != nil {
				t.Fatal(err)
			}
			h.pg.Exec(t, h.pgdb, "INSERT INTO customers SELECT 100000 + g, 'customer ' || g, 'new this month' FROM generate_series(1, 25000) g")
		}
		// In the middle of the backups, or after them: whichever it meets.
		h.sleep(float64(week) + float64(1+2*week)/120)
		h.s.ends(syscall.SIGKILL, 10*time.Second)
		h.s = h.serve()
		h.sleep(float64(week) + 0.9)
		t.Logf("week %d:\n%s", week+1, h.run(0, "runs").stdout)
	}
	h.judge(t)

	// Columns are encrypted in place.
	h.pg.Exec(t, h.pgdb, "UPDATE customers SET name = encode(sha256(('a' || id || name)::bytea), 'hex') || encode(sha256(('b' || id || name)::bytea), 'hex'), note = encode(sha256(('c' || id || name)::bytea), 'hex')")
	h.sleep(4.6)
	if o := h.run(0, "alarms"); !strings.Contains(o.stdout, "frozen acme/crm") && !strings.Contains(o.stdout, "looks encrypted") {
		t.Errorf("nobody is alarmed:\n%s", o.stdout)
	}
	if o := h.run(20, "expire", "acme/crm", "--dry-run"); !strings.Contains(o.stdout+o.stderr, "looks encrypted") {
		t.Errorf("it is not frozen:\n%s%s", o.stdout, o.stderr)
	}
	if mails := strings.Join(h.mails.Mails(), "\n"); !strings.Contains(mails, "LOOKS WRONG") {
		t.Errorf("no mail says so:\n%s", mails)
	}
}

// judge looks back on the four weeks.
func (h *household) judge(t *testing.T) {
	t.Helper()
	times := map[string][]time.Time{} // of each job, as planned
	for _, r := range h.runs() {
		if r.ByHand || r.Kind != "backup" && r.Kind != "drill" || r.Tenant == "strongroom" {
			continue
		}
		times[r.Job] = append(times[r.Job], r.Planned)
		away := !r.Planned.Before(h.began.Add(weekOf)) && r.Planned.Before(h.began.Add(2*weekOf))
		if r.Outcome != "ok" && !(away && r.Outcome == "partial") {
			t.Errorf("%s of %v: %s: %s", r.Job, r.Planned, r.Outcome, r.Reason)
		}
	}
	receipts := h.run(0, "drill", "list").stdout
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
	}
	h.run(0, "run", "digest")
	until(t, "the digest", func() bool { return strings.Contains(strings.Join(h.mails.Mails(), "\n"), "weekly digest") })
	digest := h.mails.Mails()[len(h.mails.Mails())-1]
	if !regexp.MustCompile(`(?i)next`).MatchString(digest) || strings.Contains(digest, "customer") {
		t.Errorf("the digest:\n%s", digest)
	}
	metrics := get(t, served.FindStringSubmatch(h.s.said())[1])
	for _, d := range []string{"acme/crm", "beta/shop", "gamma/tickets"} {
		tenant, dataset, _ := strings.Cut(d, "/")
		if !strings.Contains(metrics, fmt.Sprintf(`strongroom_last_success_timestamp_seconds{dataset=%q,kind="backup",store="",tenant=%q}`, dataset, tenant)) {
			t.Errorf("metrics say nothing of %s:\n%s", d, metrics)
		}
	}
	h.run(0, "audit", "verify")
	t.Logf("digest:\n%s\nstatus:\n%s", digest, h.run(0, "status").stdout)
}
