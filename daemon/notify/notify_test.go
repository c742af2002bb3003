package notify

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/daemon/notify/notifytest"
	"strongroom/daemon/state"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var newYear = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A bench is a Notifier with its outbox, a clock that tests set, and its log.
type bench struct {
	*Notifier
	cfg state.Config
	db  *state.DB
	mu  sync.Mutex
	at  time.Time
	log bytes.Buffer
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func newBench(t *testing.T, cfg Config) *bench {
	t.Helper()
	b := &bench{at: newYear}
	b.cfg = state.Config{Dir: t.TempDir(), Version: "1.0", Now: b.now}
	must(t, state.Create(t.Context(), b.cfg))
	var err error
	b.db, err = state.Open(t.Context(), b.cfg)
	must(t, err)
	t.Cleanup(func() { b.db.Close() })
	cfg.Box = "box-1"
	b.Notifier, err = New(cfg, Deps{DB: b.db, Now: b.now, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(&b.log, nil)), Location: time.UTC, Patience: 2 * time.Second})
	must(t, err)
	return b
}

// deliver looks into the outbox once for each way.
func (b *bench) deliver(t *testing.T) {
	t.Helper()
	for _, w := range b.ways {
		b.flush(t.Context(), w, nil)
	}
}

func (b *bench) waiting(t *testing.T) []state.Queued {
	t.Helper()
	q, err := b.db.Waiting(t.Context())
	must(t, err)
	return q
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func names(t *testing.T) Names {
	t.Helper()
	n, err := NewNames("acme", "crm", "erp", "nas", "offsite", "M-07")
	must(t, err)
	return n
}

const hookSecret = "sixteen bytes or more"

// A receiver is a webhook's other side, which fails as often as it is told to.
type receiver struct {
	mu     sync.Mutex
	fail   func(nth int, w http.ResponseWriter) bool
	events []Event
	bodies []string
	ids    []string
	bad    []string
	n      int
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	r.ids = append(r.ids, req.Header.Get("Strongroom-Event"))
	if want := sign([]byte(hookSecret), req.Header.Get("Strongroom-Timestamp"), string(body)); req.Header.Get("Strongroom-Signature") != want {
		r.bad = append(r.bad, req.Header.Get("Strongroom-Signature"))
	}
	if r.fail != nil && r.fail(r.n, w) {
		return
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil {
		r.bad = append(r.bad, err.Error())
	}
	r.events, r.bodies = append(r.events, e), append(r.bodies, string(body))
}

func (r *receiver) kinds() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events {
		out = append(out, e.Kind.String())
	}
	return strings.Join(out, " ")
}

func newReceiver(t *testing.T, fail func(nth int, w http.ResponseWriter) bool) (*receiver, Webhook) {
	t.Helper()
	r := &receiver{fail: fail}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, Webhook{Name: "hook", URL: server.URL + "/token-in-path", SecretFile: file(t, hookSecret+"\n")}
}

var update = flag.Bool("update", false, "write testdata/letters.txt anew")

// All that people may be told, to be read by people.
func TestLetters(t *testing.T) {
	n := names(t)
	var out strings.Builder
	for k := Failed; int(k) < len(kinds); k++ {
		e := Sample(k, n.Of("acme"), n.Of("crm"), n.Of("nas"), Secret, newYear)
		e.Box = Name{"box-1"}
		if k == MediumDue {
			e.Medium = n.Of("M-07")
		}
		l := write(e, "https://box.example/alarm/", time.UTC)
		fmt.Fprintf(&out, "==== %s\nSubject: %s\n\n%s\n", k, l.subject, l.body)
	}
	if *update {
		must(t, os.WriteFile("testdata/letters.txt", []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile("testdata/letters.txt")
	must(t, err)
	if out.String() != string(want) {
		t.Errorf("the letters are not those of testdata/letters.txt; see go test -update and git diff:\n%s", &out)
	}
}

// An Event has no string but those in a Name.
func TestEventsCannotCarryText(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		if typ == reflect.TypeFor[Name]() || typ == reflect.TypeFor[time.Time]() || seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				walk(typ.Field(i).Type, path+"."+typ.Field(i).Name)
			}
		case reflect.Slice, reflect.Array, reflect.Pointer:
			walk(typ.Elem(), path+"[]")
		case reflect.String, reflect.Interface, reflect.Map:
			t.Errorf("%s can carry text", path)
		}
	}
	walk(reflect.TypeFor[Event](), "Event")
	if len(seen) < 10 {
		t.Errorf("only %d types walked", len(seen))
	}

	n := names(t)
	if got := n.Of("customers").String() + n.Of("Jane Doe").String() + n.Of("crm").String(); got != "unlistedunlistedcrm" {
		t.Errorf("%s", got)
	}
	if _, err := NewNames("Jane Doe"); err == nil {
		t.Error("a person's name was taken")
	}
}

func TestEventsSurviveTheOutbox(t *testing.T) {
	n := names(t)
	for k := Started; int(k) < len(kinds); k++ {
		e := Sample(k, n.Of("acme"), n.Of("crm"), n.Of("nas"), TopSecret, newYear)
		e.ID, e.Code = ID{1, 2, 255}, Code{0, 1, 2, 3, 255}
		b, err := json.Marshal(e)
		must(t, err)
		got, err := decode(string(b))
		must(t, err)
		if !reflect.DeepEqual(got, e) {
			t.Errorf("\n got %+v\nwant %+v", got, e)
		}
	}
	for _, bad := range []string{`{"kind":"nonsense"}`, `{"tenant":"Jane Doe"}`, `{"id":"00"}`, `{"code":"00"}`, `{"code":"0000000!"}`, `{"cause":"because"}`,
		`{"id":"0000000000000000000000000000000000"}`} {
		if _, err := decode(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func mailConfig(s *notifytest.Sink, ca string) Mail {
	return Mail{Name: "ops", Host: "127.0.0.1", Port: s.Port, From: "box@strongroom.example", To: []string{"ops@strongroom.example"}, CAFile: ca}
}

func TestMailGoesEncryptedAndOnce(t *testing.T) {
	s, ca := notifytest.Start(t, nil)
	cfg := mailConfig(s, ca)
	cfg.Username, cfg.PasswordFile = "me", file(t, "right\n")
	b := newBench(t, Config{Mail: []Mail{cfg}})
	n := names(t)
	e := Sample(Overdue, n.Of("acme"), n.Of("crm"), n.Of("nas"), Secret, newYear)
	must(t, b.Send(t.Context(), e))
	b.deliver(t)
	b.deliver(t)
	mails := s.Mails()
	if len(mails) != 1 || len(b.waiting(t)) != 0 {
		t.Fatalf("%d mails, waiting %+v; %s", len(mails), b.waiting(t), &b.log)
	}
	m, err := netmail.ReadMessage(strings.NewReader(mails[0]))
	must(t, err)
	var body io.Reader = m.Body
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	text, err := io.ReadAll(body)
	must(t, err)
	if got := m.Header.Get("Subject"); got != "[SECRET] strongroom box-1: acme/crm: overdue: no backup succeeded in time" {
		t.Errorf("subject %q", got)
	}
	if !strings.Contains(string(text), "last success:  Tue 2025-12-23 00:00 UTC") || m.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("%s", mails[0])
	}
	for i, c := range s.Commands() {
		if (c == "STARTTLS" || strings.HasPrefix(c, "EHLO")) != (i < 2) && !strings.HasPrefix(c, "tls ") {
			t.Errorf("in clear: %q", s.Commands())
		}
	}
}

func TestMailIsNotSentInClearOrToAStranger(t *testing.T) {
	plain, ca := notifytest.Start(t, func(s *notifytest.Sink) { s.NoTLS = true })
	other, _ := notifytest.Start(t, nil) // whose certificate ca does not know
	for _, c := range []struct {
		name, user string
		s          *notifytest.Sink
	}{{"no STARTTLS", "", plain}, {"no STARTTLS, with a password", "me", plain}, {"another's certificate", "", other}, {"another's certificate, with a password", "me", other}} {
		name, s, cfg := c.name, c.s, mailConfig(c.s, ca)
		if cfg.Username = c.user; c.user != "" {
			cfg.PasswordFile = file(t, "right")
		}
		b := newBench(t, Config{Mail: []Mail{cfg}})
		must(t, b.Send(t.Context(), Event{Kind: LockProbeFailed}))
		b.deliver(t)
		q := b.waiting(t)
		if len(q) != 1 || q[0].Tries != 1 || q[0].Error == "" {
			t.Errorf("%s: waiting %+v", name, q)
		}
		for _, c := range s.Commands() {
			if !strings.HasPrefix(c, "EHLO") && c != "STARTTLS" && c != "QUIT" {
				t.Errorf("%s: said %q", name, c)
			}
		}
		t.Logf("%s: %s", name, q[0].Error)
	}
}

func TestAWrongPasswordIsNowhere(t *testing.T) {
	s, ca := notifytest.Start(t, nil)
	cfg := mailConfig(s, ca)
	cfg.Username, cfg.PasswordFile = "me", file(t, "wrong-Pa55word")
	b := newBench(t, Config{Mail: []Mail{cfg}})
	must(t, b.Send(t.Context(), Event{Kind: Failed}))
	b.deliver(t)
	q := b.waiting(t)
	if len(q) != 1 || !strings.Contains(q[0].Error, "535") || len(s.Mails()) != 0 {
		t.Fatalf("waiting %+v", q)
	}
	if all := q[0].Error + b.log.String(); strings.Contains(all, "Pa55word") || strings.Contains(all, "d3JvbmctUGE1NXdvcmQ") {
		t.Errorf("the password is in %s", all)
	}
}

func TestOneBadAddressKeepsNobodyFromTheirMail(t *testing.T) {
	s, ca := notifytest.Start(t, func(s *notifytest.Sink) { s.Refuses["gone@strongroom.example"] = true })
	cfg := mailConfig(s, ca)
	cfg.To = []string{"gone@strongroom.example", "ops@strongroom.example"}
	b := newBench(t, Config{Mail: []Mail{cfg}})
	must(t, b.Send(t.Context(), Event{Kind: Failed}))
	must(t, b.Send(t.Context(), Event{Kind: Recovered}))
	b.deliver(t)
	if got := s.Mails(); len(got) != 2 || strings.Contains(got[0]+got[1], "gone@") {
		t.Errorf("%d mails", len(got))
	}
	q := b.waiting(t)
	if len(q) != 2 || q[0].Tries != 1 || q[1].Tries != 1 || !strings.Contains(q[0].Error, "no such user") {
		t.Errorf("waiting %+v", q)
	}
}

// As openssl dgst -sha256 -hmac says of '1767225600.{"id":"x"}'.
func TestSignatureIsThatOfOpenSSL(t *testing.T) {
	if got, want := sign([]byte(hookSecret), "1767225600", `{"id":"x"}`), "v1=78c850ca721199828699619f78f98651ecda19218878f39efd0ef9098e79b385"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAWebhookThatFailsIsTriedAgain(t *testing.T) {
	stranger := &pings{}
	elsewhere := httptest.NewServer(stranger)
	t.Cleanup(elsewhere.Close)
	r, cfg := newReceiver(t, func(nth int, w http.ResponseWriter) bool {
		switch nth {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2: // takes it and dies before it says so
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		case 3:
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
		return nth <= 3
	})
	b := newBench(t, Config{Webhook: []Webhook{cfg}})
	must(t, b.Send(t.Context(), Event{Kind: Failed, Cause: NoRoom, Run: 7}))
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		b.deliver(t)
		if q := b.waiting(t); len(q) != 1 || q[0].Error == "" {
			t.Fatalf("waiting %+v", q)
		}
		b.pass(wait - time.Second)
		b.deliver(t) // too soon
		b.pass(time.Second)
	}
	b.deliver(t)
	if r.n != 4 || r.kinds() != "failed" || len(b.waiting(t)) != 0 {
		t.Errorf("%d tries, got %s, waiting %+v", r.n, r.kinds(), b.waiting(t))
	}
	if e := r.events[0]; e.Run != 7 || e.Cause != NoRoom || e.Box.String() != "box-1" || !e.Time.Equal(newYear) {
		t.Errorf("%+v", e)
	}
	if len(r.bad) > 0 || r.ids[0] == "" || r.ids[0] != r.ids[3] {
		t.Errorf("signatures %q, IDs %q", r.bad, r.ids)
	}
	if got := stranger.got(); got != "" {
		t.Errorf("a stranger was told at %s", got)
	}
	if strings.Contains(b.log.String(), "token-in-path") {
		t.Errorf("the URL is in the log: %s", &b.log)
	}
}

func TestBackoff(t *testing.T) {
	for tries, want := range map[int]time.Duration{1: time.Minute, 2: 2 * time.Minute, 6: 32 * time.Minute, 7: time.Hour, 99: time.Hour} {
		if got := backoff(tries); got != want {
			t.Errorf("after %d tries %v, want %v", tries, got, want)
		}
	}
}

func TestOneThatHangsHoldsUpNoOther(t *testing.T) {
	dead, ca := notifytest.Start(t, func(s *notifytest.Sink) { s.Silent = true })
	release := make(chan struct{})
	_, stuck := newReceiver(t, func(int, http.ResponseWriter) bool { <-release; return true })
	t.Cleanup(func() { close(release) })
	r, cfg := newReceiver(t, nil)
	stuck.Name = "stuck"
	b := newBench(t, Config{Mail: []Mail{mailConfig(dead, ca)}, Webhook: []Webhook{stuck, cfg}})
	b.deps.Patience = 4 * time.Second
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	began := time.Now()
	must(t, b.Send(t.Context(), Event{Kind: Failed}))
	for r.kinds() != "failed" && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(began); took > 3500*time.Millisecond {
		t.Errorf("the way that works took %v", took)
	}
	// Both are given up in time, and stay in the outbox.
	tried := func() (n int) {
		for _, q := range b.waiting(t) {
			n += q.Tries
		}
		return n
	}
	for tried() < 2 && time.Since(began) < 20*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	if q := b.waiting(t); tried() != 2 || len(q) != 2 || !strings.Contains(q[0].Error, "deadline") || !strings.Contains(q[1].Error, "deadline") {
		t.Errorf("waiting %+v", q)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Run did not end")
	}
}

func TestWhatIsOldIsGivenUp(t *testing.T) {
	r, cfg := newReceiver(t, nil)
	old, ping := newPings(t, Ping{Tenant: "acme", Dataset: "crm"})
	b := newBench(t, Config{Webhook: []Webhook{cfg}, Ping: []Ping{ping}})
	n := names(t)
	ok := Event{Kind: Succeeded, Tenant: n.Of("acme"), Dataset: n.Of("crm")}
	must(t, b.Send(t.Context(), ok))
	b.pass(16 * time.Minute) // told now, it would hide that there was none since
	must(t, b.Send(t.Context(), Event{Kind: Failed}))
	b.deliver(t)
	if old.got() != "" || r.kinds() != "failed" || len(b.waiting(t)) != 0 {
		t.Errorf("pings %q, hook %s, waiting %+v", old.got(), r.kinds(), b.waiting(t))
	}
	must(t, b.Send(t.Context(), Event{Kind: Overdue}))
	b.pass(7*24*time.Hour + time.Second)
	b.deliver(t)
	if r.kinds() != "failed" || len(b.waiting(t)) != 0 || !strings.Contains(b.log.String(), "message given up") {
		t.Errorf("hook %s, waiting %+v, log %s", r.kinds(), b.waiting(t), &b.log)
	}
}

type pings struct {
	mu    sync.Mutex
	paths []string
}

func (p *pings) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paths = append(p.paths, req.URL.Path)
}

func (p *pings) got() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.paths, " ")
}

func newPings(t *testing.T, cfg Ping) (*pings, Ping) {
	t.Helper()
	got := &pings{}
	server := httptest.NewServer(got)
	t.Cleanup(server.Close)
	cfg.Name, cfg.URLFile = "dead man", file(t, server.URL+"/uuid\n")
	return got, cfg
}

func TestPings(t *testing.T) {
	of, dataset := newPings(t, Ping{Tenant: "acme", Dataset: "crm"})
	box, whole := newPings(t, Ping{})
	whole.Name = "box"
	b := newBench(t, Config{Ping: []Ping{dataset, whole}})
	n := names(t)
	for _, kind := range []Kind{Started, Failed, Succeeded, Overdue, Alive} {
		must(t, b.Send(t.Context(), Event{Kind: kind, Tenant: n.Of("acme"), Dataset: n.Of("crm")}))
		must(t, b.Send(t.Context(), Event{Kind: kind, Tenant: n.Of("acme"), Dataset: n.Of("erp")}))
	}
	b.deliver(t)
	if got := of.got(); got != "/uuid/start /uuid/fail /uuid" {
		t.Errorf("dataset: %s", got)
	}
	if got := box.got(); got != "/uuid /uuid" {
		t.Errorf("box: %s", got)
	}
}

func TestATestIsARealEvent(t *testing.T) {
	r, cfg := newReceiver(t, nil)
	s, ca := notifytest.Start(t, func(s *notifytest.Sink) { s.Refuses["ops@strongroom.example"] = true })
	b := newBench(t, Config{Mail: []Mail{mailConfig(s, ca)}, Webhook: []Webhook{cfg}})
	n := names(t)
	e := Sample(FillingUp, n.Of("acme"), n.Of("crm"), n.Of("nas"), Secret, newYear)
	tested, err := b.Test(t.Context(), e)
	must(t, err)
	if len(tested) != 2 || tested[0].Err == nil || !strings.Contains(tested[0].Err.Error(), "no such user") || tested[1].Err != nil {
		t.Errorf("%+v", tested)
	}
	must(t, b.Send(t.Context(), e))
	b.deliver(t)
	if r.kinds() != "filling-up filling-up" {
		t.Fatalf("got %s", r.kinds())
	}
	r.events[0].ID = r.events[1].ID
	if !reflect.DeepEqual(r.events[0], r.events[1]) {
		t.Errorf("\ntest %+v\nreal %+v", r.events[0], r.events[1])
	}
}

func TestEventsGoWhereTheyAreWanted(t *testing.T) {
	r, cfg := newReceiver(t, nil)
	cfg.Events = []string{"digest", "overdue"}
	b := newBench(t, Config{Webhook: []Webhook{cfg}})
	for k := Started; int(k) < len(kinds); k++ {
		must(t, b.Send(t.Context(), Event{Kind: k}))
	}
	b.deliver(t)
	if got := r.kinds(); got != "overdue digest test-alarm test-unanswered" {
		t.Errorf("got %s", got)
	}
	if err := b.Send(t.Context(), Event{}); err == nil {
		t.Error("an event of no kind was queued")
	}
}

func TestWhatWaitsForAWayThatIsGoneIsDropped(t *testing.T) {
	_, cfg := newReceiver(t, nil)
	b := newBench(t, Config{Webhook: []Webhook{cfg}})
	must(t, b.db.Enqueue(t.Context(), state.Message{Event: "e", Channel: "webhook gone", Body: "{}"}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.Run(ctx)
	must(t, b.dropUnknown(t.Context()))
	if q := b.waiting(t); len(q) != 0 {
		t.Errorf("waiting %+v", q)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	s, ca := notifytest.Start(t, nil)
	good := mailConfig(s, ca)
	readable := file(t, "secret")
	must(t, os.Chmod(readable, 0o644))
	for want, change := range map[string]func(*Config){
		"no name for a box":             func(c *Config) { c.Box = "Our Box" },
		"needs a name":                  func(c *Config) { c.Webhook[0].Name = "" },
		"needs to":                      func(c *Config) { c.Mail[0].To = nil },
		"is no mail address":            func(c *Config) { c.Mail[0].To = []string{"ops"} },
		"go together":                   func(c *Config) { c.Mail[0].Username = "me" },
		"everybody may use it":          func(c *Config) { c.Webhook[0].SecretFile = readable },
		"less than 16":                  func(c *Config) { c.Webhook[0].SecretFile = file(t, "short") },
		"is empty or too long":          func(c *Config) { c.Webhook[0].SecretFile = file(t, "\n") },
		"neither https nor":             func(c *Config) { c.Webhook[0].URL = "http://hooks.example/" },
		"one with a password":           func(c *Config) { c.Webhook[0].URL = "https://me:pw@hooks.example/" },
		"there are failed, overdue":     func(c *Config) { c.Webhook[0].Events = []string{"alive"} },
		"is there twice":                func(c *Config) { c.Webhook = append(c.Webhook, c.Webhook[0]) },
		"has no certificate":            func(c *Config) { c.Mail[0].CAFile = readable },
		"tenant and dataset go":         func(c *Config) { c.Ping[0].Tenant = "acme" },
		"what is in url_file is no URL": func(c *Config) { c.Ping[0].URLFile = file(t, "nonsense") },
		"":                              func(*Config) {},
	} {
		cfg := Config{Box: "box-1", Mail: []Mail{good}, Webhook: []Webhook{{Name: "hook", URL: "https://hooks.example/", SecretFile: file(t, hookSecret)}},
			Ping: []Ping{{Name: "p", URLFile: file(t, "https://hc.example/uuid-4711")}}}
		change(&cfg)
		_, err := New(cfg, Deps{})
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
