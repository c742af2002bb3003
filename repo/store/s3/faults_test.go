package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

const bucket = "strongroom"

// shortStall is short for a test and long for a loaded machine.
const shortStall = 2 * time.Second

// clock is a time that passes only by sleeping.
type clock struct {
	now   time.Time
	naps  []time.Duration
	onNap func() // may be nil
}

func (c *clock) attach(config *s3.Config) {
	config.Now = func() time.Time { return c.now }
	config.Sleep = func(ctx context.Context, d time.Duration) error {
		c.now = c.now.Add(d)
		c.naps = append(c.naps, d)
		if c.onNap != nil {
			c.onNap()
		}
		return ctx.Err()
	}
}

// bench is a store behind a proxy, with a clock of its own.
type bench struct {
	gateway *storetest.Gateway
	proxy   *storetest.Proxy
	clock   *clock
	store   *s3.Store
	direct  *s3.Store // past the proxy
}

func newBench(t *testing.T, change func(*s3.Config)) *bench {
	t.Helper()
	b := &bench{gateway: storetest.StartGateway(t), clock: &clock{now: time.Unix(1e9, 0)}}
	b.direct = open(t, b.gateway.CreateBucket(t, bucket))
	b.proxy = storetest.StartProxy(t, b.gateway)
	c := b.proxy.Config(bucket)
	c.RetryBudget = 5 * time.Minute
	c.StallTimeout = 30 * time.Second // a loaded machine is no stall
	b.clock.attach(&c)
	if change != nil {
		change(&c)
	}
	b.store = open(t, c)
	return b
}

// on injects a fault into the first n requests of a method to key; n < 0 is
// all of them.
func (b *bench) on(method, key string, n int, fault storetest.Fault) {
	b.proxy.Inject(func(r *storetest.Request) storetest.Fault {
		if r.Method == method && strings.HasSuffix(r.URL.Path, "/"+key) && (n < 0 || r.Nth <= n) {
			return fault
		}
		return nil
	})
}

func (b *bench) count(method, key string) (n int) {
	for _, r := range b.proxy.Seen() {
		if r.Method == method && strings.HasSuffix(r.URL.Path, "/"+key) {
			n++
		}
	}
	return n
}

func (b *bench) wantStored(t *testing.T, key string, body []byte) {
	t.Helper()
	if got, err := storetest.Get(b.direct, key, 0, -1); err != nil || !bytes.Equal(got, body) {
		t.Errorf("stored under %s: %d bytes, %v; want the %d put", key, len(got), err, len(body))
	}
}

var slowDown = storetest.Refuse(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")

func TestPutOutlastsPassingFaults(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 3<<20)
	for name, c := range map[string]struct {
		fault storetest.Fault
		times int
	}{
		"request lost":          {storetest.DropRequest, 3},
		"burst of 503 SlowDown": {slowDown, 12},
		"burst of 500":          {storetest.Refuse(500, "InternalError", "We encountered an internal error."), 12},
		"502 from a proxy, not XML": {func(_ *storetest.Proxy, w http.ResponseWriter, _ *storetest.Request) {
			http.Error(w, "bad gateway", http.StatusBadGateway)
		}, 2},
		"429":                         {storetest.Refuse(429, "TooManyRequests", "slow"), 2},
		"conflict of two writers":     {storetest.Refuse(409, "ConditionalRequestConflict", "conflict"), 2},
		"body flipped on the way out": {storetest.FlipRequest, 2},
	} {
		t.Run(name, func(t *testing.T) {
			key := "t/" + strings.ReplaceAll(strings.ToLower(strings.ReplaceAll(name, ",", "")), " ", "-")
			b.on("PUT", key, c.times, c.fault)
			if err := storetest.Put(b.store, key, body); err != nil {
				t.Fatal(err)
			}
			if n := b.count("PUT", key); n != c.times+1 {
				t.Errorf("%d requests, want %d", n, c.times+1)
			}
			b.wantStored(t, key, body)
		})
	}
}

func TestPutLeavesAStalledConnection(t *testing.T) {
	b := newBench(t, func(c *s3.Config) { c.StallTimeout = shortStall })
	body := storetest.Body(1, 3<<20)
	b.on("PUT", "k", 1, storetest.StallRequest)
	if err := storetest.Put(b.store, "k", body); err != nil {
		t.Fatal(err)
	}
	b.wantStored(t, "k", body)
}

// The object is there and is found there: it is not sent twice.
func TestPutFindsWhatALostReplyLeftBehind(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 3<<20)
	b.on("PUT", "k", -1, storetest.DropReply)
	if err := storetest.Put(b.store, "k", body); err != nil {
		t.Fatal(err)
	}
	b.wantStored(t, "k", body)
	if n := b.count("PUT", "k"); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

// A reply that is lost while another wrote the key must not pass as success.
func TestPutTellsItsOwnObjectFromAnothers(t *testing.T) {
	b := newBench(t, nil)
	mine, theirs := storetest.Body(1, 1000), storetest.Body(2, 1000)
	b.on("PUT", "k", 1, func(_ *storetest.Proxy, w http.ResponseWriter, r *storetest.Request) {
		if err := storetest.Put(b.direct, "k", theirs); err != nil {
			t.Error(err)
		}
		storetest.DropRequest(nil, w, r)
	})
	if err := storetest.Put(b.store, "k", mine); !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
	b.wantStored(t, "k", theirs)
}

func TestFinalAnswersAreNotRetried(t *testing.T) {
	b := newBench(t, nil)
	if err := storetest.Put(b.store, "warm-up", nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		status int
		code   string
		want   error
	}{
		{403, "AccessDenied", store.ErrDenied},
		{403, "InvalidAccessKeyId", store.ErrDenied},
		{403, "SignatureDoesNotMatch", store.ErrDenied},
		{403, "RequestTimeTooSkewed", store.ErrDenied},
		{401, "Unauthorized", store.ErrDenied},
		{400, "ExpiredToken", store.ErrDenied},
		{403, "QuotaExceeded", store.ErrFull},
		{507, "InsufficientStorage", store.ErrFull},
		{507, "XMinioStorageFull", store.ErrFull},
		{405, "MethodNotAllowed", store.ErrReadOnly},
		{404, "NoSuchBucket", store.ErrUnavailable},
		{301, "PermanentRedirect", store.ErrUnavailable},
		{400, "EntityTooLarge", nil},
	} {
		t.Run(c.code, func(t *testing.T) {
			b.on("PUT", "k", -1, storetest.Refuse(c.status, c.code, "because"))
			err := storetest.Put(b.store, "k", []byte("x"))
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if errors.Is(err, store.ErrNotExist) {
				t.Errorf("%v reads as a missing object", err)
			}
			if n := b.count("PUT", "k"); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

func TestTheRetryBudgetIsKept(t *testing.T) {
	b := newBench(t, nil)
	if err := storetest.Put(b.store, "warm-up", nil); err != nil {
		t.Fatal(err)
	}
	b.on("PUT", "k", -1, slowDown)
	b.clock.naps = nil
	began := b.clock.now
	err := storetest.Put(b.store, "k", []byte("x"))
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "SlowDown") {
		t.Errorf("got %v", err)
	}
	spent := b.clock.now.Sub(began)
	if spent > 5*time.Minute || spent < 4*time.Minute {
		t.Errorf("waited %s of 5m", spent)
	}
	var longest time.Duration
	for i, nap := range b.clock.naps {
		longest = max(longest, nap)
		if limit := 200 * time.Millisecond << min(i, 20); nap <= 0 || nap > min(limit, 20*time.Second) {
			t.Errorf("pause %d is %s", i, nap)
		}
	}
	if longest < 5*time.Second {
		t.Errorf("longest pause is %s: no backoff", longest)
	}
}

func TestAnOutageIsWaitedOut(t *testing.T) {
	b := newBench(t, nil)
	b.gateway.Stop()
	naps := 0
	b.clock.onNap = func() {
		if naps++; naps == 4 {
			b.gateway.Start(t)
		}
	}
	if err := storetest.Put(b.store, "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if naps < 4 {
		t.Errorf("waited %d times", naps)
	}
	b.wantStored(t, "k", []byte("x"))
}

func TestServicesWithoutCreateOnlyAreEmulated(t *testing.T) {
	for mode, fault := range map[store.CreateOnly]storetest.Fault{
		store.CreateIgnored: storetest.IgnoreCondition, store.CreateUnsupported: storetest.RejectCondition,
		store.CreateNative: storetest.Honest,
	} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t, nil)
			b.proxy.Inject(func(r *storetest.Request) storetest.Fault {
				if r.Method == "PUT" {
					return fault
				}
				return nil
			})
			first, second := storetest.Body(1, 1000), storetest.Body(2, 1000)
			for _, put := range []struct {
				body []byte
				want error
			}{{first, nil}, {first, nil}, {second, store.ErrExists}} {
				if err := storetest.Put(b.store, "k", put.body); !errors.Is(err, put.want) {
					t.Errorf("got %v, want %v", err, put.want)
				}
				b.wantStored(t, "k", first)
			}
			report, err := b.store.Probe(t.Context())
			if err != nil || report.CreateOnly != mode || !report.Writable {
				t.Errorf("probe: %+v, %v, want %s", report, err, mode)
			}
		})
	}
}

func TestContentMD5IsSentOnceDemanded(t *testing.T) {
	b := newBench(t, nil)
	b.proxy.Inject(func(*storetest.Request) storetest.Fault { return storetest.DemandMD5 })
	for _, key := range []string{"k", "l"} {
		if err := storetest.Put(b.store, key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		b.wantStored(t, key, []byte(key))
	}
	if n := b.count("PUT", "l"); n != 1 {
		t.Errorf("the second object took %d requests", n)
	}
}

// One plain PUT with the body's SHA-256 under the signature, on plain http
// too: no multipart, no chunked encoding, no trailers, no region lookups.
func TestWhatGoesOverTheWire(t *testing.T) {
	b := newBench(t, nil)
	body := storetest.Body(1, 17<<20) // above the library's part size
	b.proxy.Inject(nil)
	if err := storetest.Put(b.store, "t/k", body); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	puts := 0
	for _, r := range b.proxy.Seen() {
		if r.URL.RawQuery != "" {
			t.Errorf("request %s %s", r.Method, r.URL)
		}
		if r.URL.Path != "/"+bucket+"/t/k" {
			continue
		}
		puts++
		for name, want := range map[string]string{
			"X-Amz-Content-Sha256": hex.EncodeToString(sum[:]), "If-None-Match": "*", "Content-Encoding": "",
			"X-Amz-Trailer": "", "X-Amz-Decoded-Content-Length": "", "Transfer-Encoding": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if len(r.Content) != len(body) || r.ContentLength != int64(len(body)) || len(r.TransferEncoding) != 0 {
			t.Errorf("body has %d bytes, length %d, encoding %v", len(r.Content), r.ContentLength, r.TransferEncoding)
		}
		if !strings.Contains(r.Header.Get("Authorization"), "if-none-match") {
			t.Error("the condition is not signed")
		}
	}
	if puts != 1 {
		t.Errorf("%d PUTs", puts)
	}
}

func TestWrongCredentialsAreDeniedAtOnce(t *testing.T) {
	b := newBench(t, nil)
	for name, change := range map[string]func(*s3.Config){
		"unknown key":  func(c *s3.Config) { c.AccessKey = "nobody" },
		"wrong secret": func(c *s3.Config) { c.SecretKey = s3.NewSecret("not-the-secret-of-it") },
	} {
		t.Run(name, func(t *testing.T) {
			c := b.proxy.Config(bucket)
			b.clock.attach(&c)
			b.clock.naps = nil
			change(&c)
			s := open(t, c)
			_, statErr := s.Stat(t.Context(), "k")
			_, getErr := storetest.Get(s, "k", 0, -1)
			_, listErr := storetest.List(s, "")
			report, probeErr := s.Probe(t.Context())
			for what, err := range map[string]error{
				"put": storetest.Put(s, "k", []byte("x")), "stat": statErr, "get": getErr, "list": listErr, "probe": probeErr,
			} {
				if !errors.Is(err, store.ErrDenied) {
					t.Errorf("%s: got %v, want ErrDenied", what, err)
				}
				if err != nil && strings.Contains(err.Error(), "not-the-secret") {
					t.Errorf("%s: the error shows the secret", what)
				}
			}
			if want := (store.Report{Reachable: true, CreateOnly: store.CreateUnknown}); report != want {
				t.Errorf("probe: %+v", report)
			}
			if len(b.clock.naps) != 0 {
				t.Errorf("retried %d times", len(b.clock.naps))
			}
		})
	}
}

func TestAMissingBucketIsNotAMissingObject(t *testing.T) {
	b := newBench(t, nil)
	c := b.proxy.Config("nosuchbucket")
	b.clock.attach(&c)
	s := open(t, c)
	_, statErr := s.Stat(t.Context(), "k")
	_, getErr := storetest.Get(s, "k", 0, -1)
	_, listErr := storetest.List(s, "")
	report, probeErr := s.Probe(t.Context())
	for what, err := range map[string]error{
		"put": storetest.Put(s, "k", []byte("x")), "stat": statErr, "get": getErr, "list": listErr, "probe": probeErr,
	} {
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotExist) ||
			!strings.Contains(err.Error(), `bucket "nosuchbucket" does not exist`) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if report.Reachable || len(b.clock.naps) != 0 {
		t.Errorf("probe: %+v, after %d retries", report, len(b.clock.naps))
	}
}

func TestReadOnlyServiceStillReads(t *testing.T) {
	b := newBench(t, nil)
	if err := storetest.Put(b.direct, "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	b.gateway.Restart(t, true)
	if got, err := storetest.Get(b.store, "k", 0, -1); err != nil || string(got) != "x" {
		t.Errorf("get: %q, %v", got, err)
	}
	if err := storetest.Put(b.store, "l", []byte("x")); !errors.Is(err, store.ErrDenied) {
		t.Errorf("put: got %v, want ErrDenied", err)
	}
	report, err := b.store.Probe(t.Context())
	want := store.Report{Reachable: true, Listable: true, CreateOnly: store.CreateUnknown}
	if !errors.Is(err, store.ErrDenied) || report != want {
		t.Errorf("probe: %+v, %v", report, err)
	}
}

func TestCertificatesAreChecked(t *testing.T) {
	g := storetest.StartGatewayWith(t, storetest.GatewayOptions{TLS: true})
	other := storetest.StartGatewayWith(t, storetest.GatewayOptions{TLS: true})
	good := g.CreateBucket(t, bucket)
	if err := storetest.Put(open(t, good), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*s3.Config){
		"system CAs":    func(c *s3.Config) { c.CAFile = "" },
		"another CA":    func(c *s3.Config) { c.CAFile = other.CAFile },
		"http on https": func(c *s3.Config) { c.Endpoint = strings.Replace(c.Endpoint, "https", "http", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			clk := &clock{now: time.Unix(1e9, 0)}
			clk.attach(&c)
			change(&c)
			_, err := storetest.Get(open(t, c), "k", 0, -1)
			if !errors.Is(err, store.ErrUnavailable) || len(clk.naps) != 0 && name != "http on https" {
				t.Errorf("got %v after %d retries", err, len(clk.naps))
			}
		})
	}
	c := good
	c.CAFile = filepath.Join(t.TempDir(), "absent.pem")
	if _, err := s3.Open(c); err == nil {
		t.Error("a missing CA file was ignored")
	}
}
