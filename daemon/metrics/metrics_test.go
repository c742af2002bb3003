package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"strongroom/daemon"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
)

var noon = time.Date(2026, 1, 4, 12, 0, 0, 0, time.UTC)

// known is a source that knows an overview, or why there is none.
type known struct {
	o   *daemon.Overview
	err error
}

func (k known) Overview(context.Context) (*daemon.Overview, error) { return k.o, k.err }

// everything is an overview that has all there can be.
func everything() *daemon.Overview {
	ago := func(h int) time.Time { return noon.Add(-time.Duration(h) * time.Hour) }
	ptr := func(t time.Time) *time.Time { return &t }
	one, two, bytes := 1, 2, int64(1<<40)
	return &daemon.Overview{
		Time:     noon,
		Datasets: []daemon.DatasetStatus{{Tenant: "acme", Dataset: "crm", State: "running", Protected: true, Margin: &one, Planned: &two, Run: &daemon.RunStatus{}}},
		Works: []daemon.WorkStatus{
			{Ends: state.Ends{Job: "backup:acme/crm", Kind: state.Backup, Tenant: "acme", Dataset: "crm", Good: ago(1), Whole: ago(100), Bad: ago(200), Last: 7, Took: 90 * time.Second},
				Deadline: ptr(noon.Add(time.Hour)), Next: ptr(noon), Amounts: &daemon.Amounts{Read: 1000, New: 100, Stored: 50, Coded: 75}},
			{Ends: state.Ends{Job: "drill:acme/crm", Kind: state.Drill, Tenant: "acme", Dataset: "crm", Good: ago(1), Whole: ago(100), Last: 8}},
			{Ends: state.Ends{Job: "check:acme", Kind: state.Check, Tenant: "acme", Whole: ago(3), Last: 8}},
			{Ends: state.Ends{Job: "must-fail:acme/crm", Kind: "must-fail", Tenant: "acme", Dataset: "crm", Whole: ago(4), Last: 8}},
			{Ends: state.Ends{Job: "lock-probe:vault", Kind: state.LockProbe, Whole: ago(5), Last: 8}},
			{Ends: state.Ends{Job: "rounds", Kind: state.Rounds}}, // never
		},
		Alarms: []state.Alarm{{Kind: "margin-lost", Key: "margin-lost acme/crm"}, {Kind: "overdue", Acked: noon}, {Kind: "test alarm", Code: "x"}},
		Room: &daemon.Room{Stores: []job.StoreUsage{{Store: "nas", Held: 10, Free: &bytes, PerWeek: &bytes, Full: &noon}, {Store: "acme-vault", Error: "away"}},
			Spools: []job.SpoolUsage{{Tenant: "acme", Dataset: "crm", Held: 5, Bound: 50, Full: &noon}}},
		Checked: []daemon.CheckStatus{{Tenant: "acme", CheckResult: job.CheckResult{Problems: []string{"a row: Anna"}, Lost: 3}}},
		Locks:   []daemon.LockStatus{{Store: "vault", Time: noon, Immutable: false}},
		Told:    true, Tested: &noon, Waiting: 2, Oldest: &noon,
		Tallies: []state.Tally{{Kind: state.Backup, Outcome: state.OK, N: 41}, {Kind: state.Backup, Outcome: state.Failed, N: 1}},
	}
}

func config(k known) Config {
	return Config{From: k, Version: "1.2.3", Log: slog.New(slog.DiscardHandler), Label: func(n string) string { return "n-" + n[:1] },
		Store: func(n string) string { return strings.ReplaceAll(n, "acme", "n-a") }}
}

// serve serves on a port of its own and returns the answer to one request.
func serve(t *testing.T, k known, path string) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := Start(l, config(k))
	defer stop()
	resp, err := http.Get("http://" + l.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestEverythingIsShown(t *testing.T) {
	code, text := serve(t, known{o: everything()}, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, text)
	}
	for _, want := range []string{
		`strongroom_last_success_timestamp_seconds{dataset="n-c",kind="backup",store="",tenant="n-a"} 1.7675244e+09`, // a reduced one counts
		`strongroom_last_success_timestamp_seconds{dataset="n-c",kind="drill",store="",tenant="n-a"} 1.767168e+09`,   // a partial one does not
		`strongroom_last_success_timestamp_seconds{dataset="",kind="check",store="",tenant="n-a"} 1.7675172e+09`,
		`strongroom_last_success_timestamp_seconds{dataset="n-c",kind="must-fail",store="",tenant="n-a"} 1.7675136e+09`,
		`strongroom_last_success_timestamp_seconds{dataset="",kind="lock-probe",store="vault",tenant=""} 1.76751e+09`,
		`strongroom_last_run_duration_seconds{dataset="n-c",kind="backup",store="",tenant="n-a"} 90`,
		`strongroom_backup_stored_bytes{dataset="n-c",tenant="n-a"} 50`,
		`strongroom_margin_stores{dataset="n-c",tenant="n-a"} 1`,
		`strongroom_margin_planned_stores{dataset="n-c",tenant="n-a"} 2`,
		`strongroom_store_full_timestamp_seconds{store="nas"} 1.767528e+09`,
		`strongroom_store_away{store="n-a-vault"} 1`,
		`strongroom_spool_bytes{dataset="n-c",tenant="n-a"} 5`,
		`strongroom_store_immutable{store="vault"} 0`,
		`strongroom_alarms{kind="margin-lost"} 1`, `strongroom_alarms{kind="drill-failed"} 0`, `strongroom_alarms_unacknowledged 1`,
		`strongroom_runs_total{kind="backup",outcome="ok"} 41`, `strongroom_runs_running 1`, `strongroom_check_lost_packs{tenant="n-a"} 3`,
		`strongroom_build_info{goversion="go1.`, `go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(text, `kind="rounds"`) {
		t.Error("work that never was has a time")
	}
	for _, name := range []string{"acme", "crm", "Anna", "kind=\"test alarm", "kind=\"test-alarm"} {
		if strings.Contains(text, name) {
			t.Errorf("%q is shown", name)
		}
	}
	// Every metric that is described has come.
	for _, name := range described() {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
	families, err := NewRegistry(config(known{o: everything()})).Gather()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("%+v, %v", problems, err)
	}
	if code, _ := serve(t, known{o: everything()}, "/"); code != http.StatusNotFound {
		t.Errorf("another page: %d", code)
	}
}

// A state that cannot be read fails the scrape, and tells nobody why.
func TestWhatCannotBeReadIsNoMetric(t *testing.T) {
	code, text := serve(t, known{err: errors.New("open /var/lib/acme: Anna")}, "/metrics")
	if code != http.StatusInternalServerError || strings.Contains(text, "Anna") || strings.Contains(text, "acme") {
		t.Errorf("%d: %s", code, text)
	}
}

var fqName = regexp.MustCompile(`fqName: "(\w+)"`)

func described() (out []string) {
	for _, d := range all {
		out = append(out, fqName.FindStringSubmatch(d.String())[1])
	}
	return out
}

const rules = "../../docs/strongroom.rules.yml"

// A rule on a metric or a label that does not exist never fires, and nobody
// notices.
func TestAlertRulesNameWhatExists(t *testing.T) {
	b, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	_, shown := serve(t, known{o: everything()}, "/metrics")
	exprs := regexp.MustCompile(`(?m)^        expr: (.*)$`).FindAllStringSubmatch(string(b), -1)
	alerts := regexp.MustCompile(`(?m)^      - alert: (\w+)$`).FindAllStringSubmatch(string(b), -1)
	if len(exprs) < 10 || len(exprs) != len(alerts) {
		t.Fatalf("%d alerts, %d expressions", len(alerts), len(exprs))
	}
	metric := regexp.MustCompile(`strongroom_\w+`)
	used := map[string]bool{}
	for _, e := range exprs {
		names := metric.FindAllString(e[1], -1)
		if len(names) == 0 && !strings.Contains(e[1], `up{job="strongroom"}`) {
			t.Errorf("%s names nothing of ours", e[1])
		}
		for _, n := range names {
			if used[n] = true; !slices.Contains(described(), n) {
				t.Errorf("%s: there is no %s", e[1], n)
			}
		}
	}
	for _, l := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(string(b), -1) {
		if l[1] != "instance" && !strings.Contains(shown, l[1]+`="`) {
			t.Errorf("there is no label %s", l[1])
		}
	}
	for _, n := range []string{"strongroom_deadline_timestamp_seconds", "strongroom_margin_stores", "strongroom_store_full_timestamp_seconds", "strongroom_spool_full_timestamp_seconds",
		"strongroom_store_immutable", "strongroom_last_success_timestamp_seconds", "strongroom_alarms_unacknowledged"} {
		if !used[n] {
			t.Errorf("nobody hears of %s", n)
		}
	}
	if path, err := exec.LookPath("promtool"); err != nil {
		t.Log("promtool, of Debian's prometheus, is not installed: that Prometheus takes the rules was not seen")
	} else if out, err := exec.Command(path, "check", "rules", rules).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
