package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// hook is a webhook that keeps what it gets.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string // guarded by mu
}

func newHook(t *testing.T) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.bodies = append(h.bodies, string(b))
	}))
	t.Cleanup(h.Close)
	return h
}

// events are those that it got.
func (h *hook) events() (out []map[string]any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.bodies {
		var v map[string]any
		if json.Unmarshal([]byte(b), &v) == nil {
			out = append(out, v)
		}
	}
	return out
}

func (h *hook) kinds() (out []string) {
	for _, e := range h.events() {
		out = append(out, e["kind"].(string))
	}
	return out
}

func (h *hook) config(t *testing.T, b *testBox, name string) string {
	return fmt.Sprintf("[[notify.webhook]]\nname = %q\nurl = %q\nsecret_file = %q\n", name, h.URL, b.write("hook-secret", "0123456789abcdef"))
}

func get(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var served = regexp.MustCompile(`msg="metrics are served" address=(\S+)`)

// The daemon tells, shows and takes another configuration while it runs, all of
// it or nothing.
func TestTheDaemonTellsShowsAndReloads(t *testing.T) {
	stores, paths := threeDirs(t)
	script := filepath.Join(t.TempDir(), "dump")
	does := func(text string) {
		if err := os.WriteFile(script+".new", []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(script+".new", script); err != nil {
			t.Fatal(err)
		}
	}
	does("echo hello")
	b := newBox(t, stores, commandDataset("crm", script))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	whole := string(must(os.ReadFile(b.config))(t))
	first, second := newHook(t), newHook(t)
	b.write("c.toml", whole+"[metrics]\nlisten = \"127.0.0.1:0\"\n[notify]\nbox = \"box-1\"\n"+first.config(t, b, "first"))
	s := b.serve()
	until(t, "the examination before the first snapshot", func() bool { return strings.Contains(b.run(0, "runs").stdout, "doctor:acme/crm") })
	address := served.FindStringSubmatch(s.said())[1]
	defer func() {
		if t.Failed() {
			t.Logf("it did\n%sand said\n%s", b.said.String()[max(0, b.said.Len()-3000):], s.said())
		}
	}()

	watched := &bytes.Buffer{}
	watch := b.command("watch", "--json")
	watch.Stdout = watched
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	id := b.started("acme/crm")
	if o := b.run(0, "watch", id); !strings.Contains(o.stdout, "ended: ok, snapshot ") {
		t.Error(o.stdout)
	}
	until(t, "the first drill", func() bool {
		return strings.Contains(get(t, address), "strongroom_dataset_protected{dataset=\"n-") && protected.MatchString(get(t, address))
	})
	if text := get(t, address); strings.Contains(text, "acme") || strings.Contains(text, "crm") {
		t.Error("metrics have names")
	}

	// A failure is told without what was said, and the log has no more.
	does("echo 'row (4711, Annabelle) is bad' >&2; exit 3")
	id = b.started("acme/crm")
	if o := b.run(1, "watch", id); !strings.Contains(o.stdout, "Annabelle") {
		t.Errorf("on the box it is told: %s", o.stdout)
	}
	until(t, "the failure to be told", func() bool { return slices.Equal(first.kinds(), []string{"failed"}) })
	if e := first.events()[0]; e["box"] != "box-1" || e["dataset"] != "crm" || strings.Contains(first.bodies[0], "4711") {
		t.Errorf("%s", first.bodies[0])
	}
	if strings.Contains(s.said(), "Annabelle") || strings.Contains(s.said(), "4711") || !strings.Contains(s.said(), "exit status 3") {
		t.Errorf("the log: %s", s.said())
	}
	if o := b.run(0, "status"); !strings.HasPrefix(o.stdout, "NOT WELL: acme/crm failed") || !strings.Contains(o.stdout, "No person has answered a test alarm yet.") {
		t.Error(o.stdout)
	}
	does("echo hello")
	b.run(0, "watch", b.started("acme/crm"))
	until(t, "the recovery to be told", func() bool { return slices.Equal(first.kinds(), []string{"failed", "recovered"}) })

	// A store goes: the check finds it out, and, when it is back, that it is over.
	if err := os.Rename(paths[0], paths[0]+".away"); err != nil {
		t.Fatal(err)
	}
	b.run(3, "watch", b.started("check:acme"))
	until(t, "the margin to be told", func() bool { return strings.Contains(strings.Join(first.kinds(), " "), "margin-lost") })
	if o := b.run(2, "status", "--check"); !strings.HasPrefix(o.stdout, "CRITICAL: margin-lost acme/crm | ") {
		t.Error(o.stdout)
	}
	var alarms struct {
		Alarms []struct{ ID int }
	}
	if err := json.Unmarshal([]byte(b.run(0, "alarms", "--json").stdout), &alarms); err != nil || len(alarms.Alarms) != 1 {
		t.Fatalf("%+v, %v", alarms, err)
	}
	b.run(0, "alarms", "acknowledge", fmt.Sprint(alarms.Alarms[0].ID), "--by", "berta", "--why", "the disk is on its way")
	b.run(1, "status", "--check") // known to somebody, and no more than a warning
	if err := os.Rename(paths[0]+".away", paths[0]); err != nil {
		t.Fatal(err)
	}
	b.run(0, "watch", b.started("check:acme"))
	until(t, "its end to be told", func() bool {
		return slices.Equal(first.kinds(), []string{"failed", "recovered", "margin-lost", "recovered"})
	})
	if e := first.events()[3]; e["was"] != "margin-lost" || e["dataset"] != "crm" {
		t.Errorf("%v", e)
	}

	// Of a bad file nothing is taken, though its other parts are good.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	b.write("c.toml", whole+fmt.Sprintf("[metrics]\nlisten = %q\n[notify]\nbox = \"box-2\"\n", taken.Addr())+second.config(t, b, "second"))
	s.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "a refusal", func() bool { return strings.Contains(s.said(), "the configuration was not taken") })
	get(t, address)
	if o := b.run(0, "notify", "test", "--event", "digest"); o.stdout != "webhook first: taken\n" {
		t.Error(o.stdout)
	}
	b.write("c.toml", whole+"[metrics]\nlisten = \"127.0.0.1:0\"\nnames = true\n[log]\nlevel = \"debug\"\n[notify]\nbox = \"box-2\"\n"+second.config(t, b, "second"))
	s.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "the new one", func() bool { return strings.Contains(s.said(), "the configuration was read again") })
	if o := b.run(0, "notify", "test"); o.stdout != "webhook second: taken\n" || second.events()[0]["box"] != "box-2" {
		t.Error(o.stdout, second.events())
	}
	if text := get(t, address); !strings.Contains(text, `tenant="acme"`) {
		t.Error("metrics have no names")
	}
	b.run(0, "watch", b.started("check:acme"))
	if !strings.Contains(s.said(), `level=DEBUG msg="run enters phase"`) {
		t.Error("the level was not taken")
	}
	if o := b.run(0, "schedule", "plan", "--weeks", "1"); !strings.Contains(o.stdout, "test-alarm") || !strings.Contains(o.stdout, "check:acme") {
		t.Error(o.stdout)
	}
	// Without [metrics] nobody listens.
	b.write("c.toml", whole)
	s.cmd.Process.Signal(syscall.SIGHUP)
	until(t, "no metrics", func() bool { _, err := net.Dial("tcp", address); return err != nil })
	if o := b.run(0, "status"); !strings.Contains(o.stdout, "Nobody is told of what goes wrong") {
		t.Error(o.stdout)
	}

	s.ends(syscall.SIGTERM, 10*time.Second)
	err = watch.Wait()
	for _, want := range []string{`"what":"begins","run":`, `"what":"phase"`, `"what":"ended"`, `"alarm":"failed backup:acme/crm"`, `"what":"alarm over"`, `"type":"error"`} {
		if !strings.Contains(watched.String(), want) {
			t.Errorf("watch has no %s; it ended with %v:\n%s", want, err, watched)
		}
	}
}

var protected = regexp.MustCompile(`strongroom_dataset_protected\{[^}]*\} 1`)

// started has the daemon do something and returns the number of the run.
func (b *testBox) started(job string) string {
	b.t.Helper()
	var v struct{ Run int64 }
	if err := json.Unmarshal([]byte(b.run(0, "run", job, "--json").stdout), &v); err != nil {
		b.t.Fatal(err)
	}
	return fmt.Sprint(v.Run)
}

// Secrets, names and rows are planted wherever they could come from, and looked
// for in every byte of a bundle.
func TestASupportBundleHasNothingOfAClient(t *testing.T) {
	plants := map[string][]string{
		"a secret":         {"Tr0ub4dor-and-3", "hook-secret-0123456789"},
		"a client's name":  {"globex", "payroll"},
		"a row":            {"Annabelle", "Zwetschge", "DE44500105175407324931", "anna@globex.example"},
		"a table or path":  {"salaries_2026", "pfad"},
		"a person":         {"berta"},
		"what she wrote":   {"Hochzeit"},
		"an address":       {"127.0.0.1:9", "hooks.globex.example"},
		"a label's person": {"quentin"},
	}
	stores, _ := threeDirs(t)
	stores = strings.Replace(stores, `name = "two"`, `name = "globex-nas"`, 1)
	dir := filepath.Join(t.TempDir(), "pfad")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "salaries_2026")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"table salaries_2026: invalid value \\\"Annabelle Zwetschge\\\", (iban)=(DE44500105175407324931), anna@globex.example said Zwetschge's account\" >&2; exit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := newBox(t, stores, commandDataset("payroll", script, "Tr0ub4dor-and-3"))
	text := strings.ReplaceAll(string(must(os.ReadFile(b.config))(t)), `"acme"`, `"globex"`)
	b.write("c.toml", text+"[metrics]\nlisten = \"127.0.0.1:0\"\n[notify]\nbox = \"quentin\"\n[[notify.webhook]]\nname = \"hooks.globex.example\"\nurl = \"http://127.0.0.1:9/globex\"\nsecret_file = \""+
		b.write("hook", "hook-secret-0123456789")+"\"\n")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	s := b.serve()
	b.run(1, "watch", b.started("globex/payroll"))
	until(t, "the alarm", func() bool { return strings.Contains(b.run(0, "alarms").stdout, "failed backup:globex/payroll") })
	b.run(0, "alarms", "mute", "failed backup:globex/payroll", "--for", "7d", "--by", "berta", "--why", "Hochzeit")
	b.run(0, "watch", b.started("rounds"))

	// The plants are where they could be taken from.
	if o := b.run(0, "runs", "--json"); !strings.Contains(o.stdout, "Annabelle") || !strings.Contains(o.stdout, "DE44500105175407324931") {
		t.Fatalf("no row in %s", o.stdout)
	}
	log := b.write("log", "2026-11-27T08:42:18+0000 host strongroom[1]: Annabelle \"Zwetschge\" of globex: connection refused\n"+s.said())
	b.run(64, "support", "bundle")
	b.run(0, "support", "bundle", "--log", log, "--out", b.path("with.tar.zst"))
	b.run(20, "support", "bundle", "--out", b.path("with.tar.zst")) // it is there
	words := b.run(0, "support", "names").stdout
	s.ends(syscall.SIGTERM, 10*time.Second)
	b.run(0, "support", "bundle", "--out", b.path("without.tar.zst"))
	good := string(must(os.ReadFile(b.config))(t))
	b.write("c.toml", good+"\nglobex = \"Annabelle\"\n")
	b.run(0, "support", "bundle", "--out", b.path("broken.tar.zst"))
	b.write("c.toml", "Annabelle globex")
	b.run(0, "support", "bundle", "--out", b.path("nonsense.tar.zst"))

	secrets := map[string][]string{}
	for kind, list := range plants {
		secrets[kind] = list
	}
	secrets["box credential"] = longHex.FindAllString(string(must(os.ReadFile(b.path("state", "credential")))(t)), -1)
	word := regexp.MustCompile(`(n-\w+) +tenant globex`).FindStringSubmatch(words)
	if word == nil {
		t.Fatal(words)
	}
	for name, want := range map[string]string{"with": `"job": "backup:` + word[1] + "/n-", "without": "no daemon runs on this box", "broken": "unknown key", "nonsense": "not there: the file is no"} {
		members := bundle(t, b.path(name+".tar.zst"))
		all := ""
		for member, text := range members {
			lower := strings.ToLower(text)
			searchFor(t, secrets, name+": "+member, []byte(text))
			for kind, list := range secrets {
				for _, s := range list {
					if strings.Contains(lower, strings.ToLower(s)) {
						t.Errorf("%s is in %s of %s", kind, member, name)
					}
				}
			}
			all += text
		}
		if !strings.Contains(all, want) {
			t.Errorf("%s: nothing like %s in\n%s", name, want, all)
		}
	}
	members := bundle(t, b.path("with.tar.zst"))
	for member, want := range map[string]string{
		"about.json": `"version":`, "config.json": `"source": "command"`, "overview.json": `"state": "failed"`, "runs.json": "exit status 3", "doctor.json": "ok: state-dir",
		"plan.json": "check:" + word[1], "log.json": `"message": "run ended"`, "log.txt": "connection refused", "state.json": "state.db",
	} {
		if !strings.Contains(members[member], want) {
			t.Errorf("%s has no %s:\n%s", member, want, members[member])
		}
	}
}

// bundle unpacks one. No member is packed once more: a search would not look
// into it.
func bundle(t *testing.T, path string) map[string]string {
	t.Helper()
	b := must(os.ReadFile(path))(t)
	if info := must(os.Stat(path))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", path, info.Mode())
	}
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text := string(must(io.ReadAll(r))(t))
		if h.Uid != 0 || h.Uname != "" || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' && c != '\n' }) {
			t.Errorf("%s: owner %q, or bytes that are no text", h.Name, h.Uname)
		}
		out[strings.TrimPrefix(h.Name, "strongroom-support/")] = text
	}
	if len(out) < 9 {
		t.Errorf("%s has %d members", path, len(out))
	}
	return out
}

// Whatever has an ID in the log is explained in the catalogue, and nothing else.
func TestTheCatalogueExplainsWhatTheJournalGets(t *testing.T) {
	text := string(must(os.ReadFile("../../../systemd/strongroom.catalog"))(t))
	ids := regexp.MustCompile(`(?m)^-- ([0-9a-f]{32})$`).FindAllStringSubmatch(text, -1)
	if len(ids) != len(messageIDs) {
		t.Errorf("%d entries for %d messages", len(ids), len(messageIDs))
	}
	for message, id := range messageIDs {
		if !strings.Contains(text, "\n-- "+id+"\nSubject: ") {
			t.Errorf("%q is not explained", message)
		}
	}
	// Each is said somewhere: an ID of words that nobody says finds nothing.
	said := ""
	for _, dir := range []string{".", "../..", "../../notify"} {
		for _, f := range must(filepath.Glob(filepath.Join(dir, "*.go")))(t) {
			if !strings.HasSuffix(f, "_test.go") && filepath.Base(f) != "log.go" {
				said += string(must(os.ReadFile(f))(t))
			}
		}
	}
	for message := range messageIDs {
		if !regexp.MustCompile(`(?i)(log|error|warn|info)\([^"]*"` + regexp.QuoteMeta(message) + `"`).MatchString(said) {
			t.Errorf("nobody says %q", message)
		}
	}
}

// A backup that fails is told with its cause and the last success, and is no more
// than a warning once somebody knows of it.
func TestAFailedBackupThatSomebodyKnowsOf(t *testing.T) {
	stores, paths := threeDirs(t)
	path := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newHook(t)
	b := newBox(t, stores, fmt.Sprintf("[[tenant.dataset]]\nname = \"docs\"\nsource = \"files\"\npath = %q\n", path))
	b.editConfig("[[tenant]]", h.config(t, b, "hook")+"[[tenant]]")
	b.run(0, "init", "--shares-dir", b.path("shares"))
	b.serve()
	b.run(0, "run", "acme/docs")
	b.awaits("ok")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	b.run(0, "run", "acme/docs")
	b.awaits("failed", "ok")
	if o := b.run(2, "status", "--check"); !strings.HasPrefix(o.stdout, "CRITICAL: acme/docs failed") {
		t.Error(o.stdout)
	}
	deadline := time.Now().Add(30 * time.Second)
	for !slices.Contains(h.kinds(), "failed") && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	i := slices.Index(h.kinds(), "failed")
	if i < 0 {
		t.Fatalf("nobody was told: %v", h.kinds())
	}
	if e := h.events()[i]; e["cause"] != "source-rights" || e["last_success"] == nil {
		t.Errorf("it is told without why, or without the last success: %v", e)
	}
	b.run(64, "alarms", "mute", "faild backup:acme/docs", "--for", "1h", "--by", "berta", "--why", "it is being moved")
	b.run(0, "alarms", "mute", "failed backup:acme/docs", "--for", "1h", "--by", "berta", "--why", "it is being moved")
	if o := b.run(1, "status", "--check"); !strings.HasPrefix(o.stdout, "WARNING: acme/docs failed") {
		t.Error(o.stdout)
	}

	// With a store that is away it is well again, and not as well as planned.
	if err := errors.Join(os.Mkdir(path, 0o700), os.Rename(paths[0], paths[0]+".away")); err != nil {
		t.Fatal(err)
	}
	b.run(0, "run", "acme/docs")
	b.awaits("partial", "failed", "ok")
	if o := b.run(0, "status"); !strings.Contains(o.stdout, "the last snapshot is reduced") {
		t.Error(o.stdout)
	}
}

// The daemon does not start without any of them, and whoever reads one is told
// what the box tells, or silences it.
func TestDoctorLooksAtTheSecretsOfThoseWhoAreTold(t *testing.T) {
	stores, _ := threeDirs(t)
	b := newBox(t, stores, commandDataset("dump", "/bin/true"))
	open := b.path("ping.url")
	if err := os.WriteFile(open, []byte("https://ping.example/x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.editConfig("[[tenant]]", fmt.Sprintf("[[notify.ping]]\nname = \"p\"\nurl_file = %q\n[[tenant]]", open))
	b.run(0, "init", "--shares-dir", b.path("shares"))
	if o := b.run(0, "doctor"); !strings.Contains(o.stdout, `URL of notify "p": `+open+" has mode 0644") {
		t.Error(o.stdout)
	}
}
