package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Webhook is a way by HTTP, [[notify.webhook]] in the file. Each event is POSTed
// as one JSON object, as Event says, with the headers
//
//	Strongroom-Event:     the event's ID, the same in each try
//	Strongroom-Timestamp: seconds since 1970 when this try began
//	Strongroom-Signature: v1=HEX
//
// where HEX is HMAC-SHA256 under the secret of the timestamp as it stands there,
// a dot, and the body as it was sent. A receiver compares it in constant time,
// refuses timestamps more than five minutes off, and may forget what has an ID
// that it has seen. An answer of 2xx takes the event; all else is tried again.
type Webhook struct {
	Name string `toml:"name"`
	URL  string `toml:"url"` // https
	// SecretFile has the secret, at least 16 bytes.
	SecretFile string   `toml:"secret_file"`
	CAFile     string   `toml:"ca_file"`
	Events     []string `toml:"events"`
}

// Ping is a dead man's switch as healthchecks.io has it, [[notify.ping]] in the
// file: its URL is asked for after each success, URL/start when a run begins and
// URL/fail when one fails, and the other side alarms when that stops.
type Ping struct {
	Name string `toml:"name"`
	// URLFile has the URL, which is all that is needed to silence the alarm.
	URLFile string `toml:"url_file"`
	CAFile  string `toml:"ca_file"`
	// Tenant and Dataset say whose; without them it is of the box as a whole.
	Tenant  string `toml:"tenant"`
	Dataset string `toml:"dataset"`
}

type hook struct {
	wants
	url    string
	secret []byte
	client *http.Client
	now    func() time.Time
}

func newHook(cfg Webhook, now func() time.Time) (*hook, error) {
	h := &hook{url: cfg.URL, now: now}
	key, err := secret(cfg.SecretFile)
	if err != nil {
		return nil, err
	}
	if h.secret = []byte(key); len(key) < 16 {
		return nil, errors.New("secret_file has less than 16 bytes")
	}
	if h.wants, err = parseWants(cfg.Events); err != nil {
		return nil, err
	}
	h.client, err = newClient(cfg.CAFile)
	return h, err
}

func (h *hook) keeps() time.Duration { return 7 * 24 * time.Hour }
func (h *hook) person() bool         { return true }

func (h *hook) send(ctx context.Context, e Event, body string) error {
	at := strconv.FormatInt(h.now().Unix(), 10)
	return post(ctx, h.client, h.url, body, http.Header{
		"Content-Type":         {"application/json"},
		"Strongroom-Event":     {e.ID.String()},
		"Strongroom-Timestamp": {at},
		"Strongroom-Signature": {sign(h.secret, at, body)},
	})
}

func sign(secret []byte, at, body string) string {
	mac := hmac.New(sha256.New, secret)
	io.WriteString(mac, at+"."+body)
	return "v1=" + hex.EncodeToString(mac.Sum(nil))
}

type pinger struct {
	url             string
	tenant, dataset string
	client          *http.Client
}

func newPinger(cfg Ping) (*pinger, error) {
	p := &pinger{tenant: cfg.Tenant, dataset: cfg.Dataset}
	raw, err := secret(cfg.URLFile)
	if err != nil {
		return nil, err
	}
	u, err := secure(raw)
	if err != nil {
		return nil, fmt.Errorf("what is in url_file %w", err)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("what is in url_file has more than a path")
	}
	p.url = strings.TrimRight(raw, "/")
	p.client, err = newClient(cfg.CAFile)
	return p, err
}

// signals is what each event is to the switch.
var signals = map[Kind]string{Started: "/start", Succeeded: "", Failed: "/fail"}

func (p *pinger) takes(e Event) bool {
	if p.dataset == "" {
		return e.Kind == Alive
	}
	_, ok := signals[e.Kind]
	return ok && e.Tenant.String() == p.tenant && e.Dataset.String() == p.dataset
}

// keeps is short: the success of yesterday, told today, would hide that there
// was none since.
func (p *pinger) keeps() time.Duration { return 15 * time.Minute }
func (p *pinger) person() bool         { return false }

func (p *pinger) send(ctx context.Context, e Event, _ string) error {
	return post(ctx, p.client, p.url+signals[e.Kind], "", nil)
}

func newClient(caFile string) (*http.Client, error) {
	roots, err := authorities(caFile)
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment,
			IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true},
		// Whoever is configured is told, and nobody they send us to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func post(ctx context.Context, client *http.Client, to, body string, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return errors.New("no request can be made of the URL") // and the error has it
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "strongroom")
	res, err := client.Do(req)
	if err != nil {
		// Without the URL, which may be a secret.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	if res.StatusCode/100 != 2 {
		return &refusal{"answered with " + strconv.Itoa(res.StatusCode)}
	}
	return nil
}
