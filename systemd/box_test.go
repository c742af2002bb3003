package systemd_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"strongroom/systemd/systemdtest"
)

// A box is a machine with Strongroom on it: what tests ask of it from outside.
type box struct {
	*systemdtest.Machine
	t    testing.TB
	size int64 // of the database
}

// tickets makes the database that docs/install.md protects.
const tickets = `mkdir -p /srv/tickets
sqlite3 /srv/tickets/tickets.db 'CREATE TABLE tickets (id INTEGER PRIMARY KEY, text TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000) INSERT INTO tickets SELECT i, hex(randomblob(100)) FROM n;'`

// noMemory is what the configuration says where the kernel limits no memory: in a
// container, which has no controller for it.
const noMemory = "[confine]\nmissing = [\"memory\", \"swap\"]\n"

// newBox installs a package and follows docs/install.md to the first protected
// database. The configuration begins with what the machine needs.
func newBox(t testing.TB, m *systemdtest.Machine, config string) *box {
	t.Helper()
	b := &box{Machine: m, t: t}
	b.Run(tickets)
	began := time.Now()
	script := strings.Replace(commands(t, "First protected database"), "<<'END'\n", "<<'END'\n"+config, 1)
	b.Run("cd $(mktemp -d); cp /host/strongroom_1.0_amd64.deb .\n" + script)
	for deadline := began.Add(5 * time.Minute); !b.status().Protected; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no drill passes:\n%s", b.Run("strongroom status; for id in $(ls /var/lib/strongroom/receipts); do cat /var/lib/strongroom/receipts/$id; done; journalctl --no-pager -n 40 -u 'strongroom*'"))
		}
	}
	took := time.Since(began)
	t.Logf("first protected database after %v", took)
	if took > 5*time.Minute {
		t.Errorf("the first protected database took %v", took)
	}
	if s := b.status(); s.State != "ok" || !s.Protected || s.Drill != "ok" {
		t.Errorf("%+v", s)
	}
	return b
}

// grow makes the database so large, in MB, and the stores so slow, in MiB/s, that a
// backup of it can be caught in the middle.
func (b *box) grow(size, rate int) {
	b.t.Helper()
	b.size = int64(size) * 1e6
	b.Run(fmt.Sprintf(`sqlite3 /srv/tickets/tickets.db 'CREATE TABLE files (data BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < %d) INSERT INTO files SELECT randomblob(1000000) FROM n;'
sed -i 's,^kind = "dir",&\nbandwidth = "%dMiB/s",' /etc/strongroom/strongroom.toml
strongroom config check
systemctl reload strongroom`, size, rate))
}

// changes makes all of it new.
func (b *box) changes() {
	b.t.Helper()
	b.Run("sqlite3 /srv/tickets/tickets.db 'UPDATE files SET data = randomblob(1000000)'; sync")
}

// run is a run as the daemon tells it.
type run struct {
	ID              int
	Job, Kind       string
	Tenant, Dataset string
	Planned         time.Time
	ByHand          bool `json:"by_hand"`
	Attempts        int
	Phase           string
	Done            int64
	Outcome, Reason string
}

// runs are what a command of the program lists.
func (b *box) runs(args string) []run {
	b.t.Helper()
	var all struct{ Runs []run }
	if err := json.Unmarshal([]byte(b.Run("strongroom runs --json "+args)), &all); err != nil {
		b.t.Fatal(err)
	}
	return all.Runs
}

// backups are the last ones of the database, newest first.
func (b *box) backups() []run { b.t.Helper(); return b.backupsOf("acme/tickets") }

func (b *box) backupsOf(dataset string) (out []run) {
	b.t.Helper()
	for _, r := range b.runs(dataset) {
		if r.Job == "backup:"+dataset {
			out = append(out, r)
		}
	}
	return out
}

// begin starts a backup and waits until some of it is stored.
func (b *box) begin() run {
	b.t.Helper()
	b.Run("strongroom run acme/tickets")
	return b.waits("a backup in the middle", func(r run) bool { return r.Outcome == "" && r.Done > b.size/5 })
}

// waits until the newest backup is as wanted.
func (b *box) waits(what string, ok func(run) bool) run {
	b.t.Helper()
	var last run
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if all := b.backups(); len(all) > 0 {
			if last = all[0]; ok(last) {
				return last
			}
		}
	}
	b.t.Fatalf("%s: not in five minutes; last %+v\n%s", what, last, b.Run("journalctl --no-pager -n 40 -u strongroom"))
	return run{}
}

// ends waits for the end of a run.
func (b *box) ends(id int) run {
	b.t.Helper()
	r := b.waits("the end of the run", func(r run) bool { return r.Outcome != "" })
	if r.ID != id {
		b.t.Errorf("run %d ended, want %d: it is to be the same", r.ID, id)
	}
	return r
}

func (b *box) pid() int {
	b.t.Helper()
	n, err := strconv.Atoi(b.Run("systemctl show --value -p MainPID strongroom"))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// restarts waits until another process than before answers.
func (b *box) restarts(before int) {
	b.t.Helper()
	b.Until("the restart", time.Minute, fmt.Sprintf(`pid=$(systemctl show --value -p MainPID strongroom); test "$pid" != 0 && test "$pid" != %d && strongroom status`, before))
}

// answers waits until a daemon answers.
func (b *box) answers() { b.Until("the daemon to answer", 3*time.Minute, "strongroom status") }

// restores compares what comes back with what is there.
func (b *box) restores() {
	b.t.Helper()
	b.Run(`d=$(mktemp -d); chown strongroom $d
runuser -u strongroom -- strongroom restore acme/tickets --to $d/back.db
cmp <(sqlite3 /srv/tickets/tickets.db .dump) <(sqlite3 $d/back.db .dump)
rm -r $d`)
}

// status is what the daemon says of the dataset.
func (b *box) status() status {
	b.t.Helper()
	var all struct{ Datasets []status }
	if err := json.Unmarshal([]byte(b.Run("strongroom status --json")), &all); err != nil {
		b.t.Fatal(err)
	}
	i := slices.IndexFunc(all.Datasets, func(s status) bool { return s.Tenant == "acme" && s.Dataset == "tickets" })
	if i < 0 {
		b.t.Fatalf("status lists %+v", all.Datasets)
	}
	return all.Datasets[i]
}

// status is of one dataset.
type status struct {
	Tenant, Dataset string
	State           string
	Protected       bool
	Drill           string
}

// said is what the daemon logged.
func (b *box) said() string {
	b.t.Helper()
	return b.Run("journalctl --no-pager --output=cat -u strongroom")
}

// examined are the walls that an examination tells below a code, by how much each
// matters. With args "" it is of all that there is.
func (b *box) examined(args, code string) map[string][]string {
	b.t.Helper()
	var all struct {
		Examined []struct {
			Findings []struct{ Code, Severity, What string }
		}
	}
	out := b.Run("runuser -u strongroom -- strongroom doctor --json " + args + " || test $? = 20")
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&all); err != nil { // what is bad is an error, too, behind it
		b.t.Fatalf("%v: %s", err, out)
	}
	found := map[string][]string{}
	for _, x := range all.Examined {
		for _, f := range x.Findings {
			if f.Code == code {
				name, _, _ := strings.Cut(strings.TrimPrefix(f.What, "there: "), ": ")
				found[f.Severity] = append(found[f.Severity], name)
			}
		}
	}
	return found
}

// refuses starts the daemon, which has to say why it does not run, once, and to end
// with a code.
func (b *box) refuses(want, code string) {
	b.t.Helper()
	b.Run("systemctl stop strongroom; journalctl --rotate --vacuum-time=1s >/dev/null 2>&1; not systemctl start strongroom; sleep 7")
	// On a busy machine the journal may be behind by more than that.
	b.Until("the journal to say why it does not run", time.Minute, fmt.Sprintf("journalctl --sync; journalctl --no-pager --output=cat -u strongroom | grep -qF %q", want))
	if said := b.said(); !strings.Contains(said, want) || strings.Count(said, want) != 1 {
		b.t.Errorf("it says %q, want %q once", said, want)
	}
	if got := b.Run("systemctl show --value -p ExecMainStatus strongroom; systemctl reset-failed strongroom"); got != code {
		b.t.Errorf("it ends with %s, want %s", got, code)
	}
}
