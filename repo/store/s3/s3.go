// Package s3 keeps objects in a bucket of any S3-compatible service, one plain
// PUT an object.
package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"strongroom/repo/store"
)

// Style says where a request carries the bucket's name.
type Style string

const (
	// StyleAuto uses the host name for Amazon, Google and Aliyun, whose host
	// names are known, and the path everywhere else.
	StyleAuto Style = ""
	// StylePath: https://host/bucket/key.
	StylePath Style = "path"
	// StyleHost: https://bucket.host/key.
	StyleHost Style = "host"
)

// Config says where the bucket is and how patient to be. Endpoint, Bucket,
// AccessKey and SecretKey are required.
type Config struct {
	// Endpoint is https://host[:port]. Plain http is taken for loopback
	// addresses only: object names and the signed requests are not for others.
	Endpoint string
	Bucket   string
	// Prefix is put before every key, e.g. "strongroom/"; it is empty or ends
	// with a slash.
	Prefix string
	// Region goes into every signature; empty means us-east-1. It is never
	// asked from the service, for which a narrow key has no right.
	Region    string
	AccessKey string
	SecretKey Secret
	Style     Style
	// CAFile holds the PEM certificates to trust instead of the system's.
	CAFile string
	// StallTimeout ends a request on which nothing moved for so long; zero
	// means a minute.
	StallTimeout time.Duration
	// RetryBudget is how long one call may keep retrying; zero means five
	// minutes.
	RetryBudget time.Duration
	// Pace bounds what is sent; nil: nothing does.
	Pace *store.Pace
	// Window is when the store is written to; nil: always.
	Window *store.Window
	// Dial opens connections; nil means a net.Dialer, and then the proxy
	// settings of the environment count.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now and Sleep are the clock of the retries; nil means the real one.
	Now   func() time.Time
	Sleep func(context.Context, time.Duration) error
}

const (
	defaultStall  = time.Minute
	defaultBudget = 5 * time.Minute
	defaultRegion = "us-east-1"
	dialTimeout   = 30 * time.Second
)

// A Store keeps objects in one bucket under one prefix. It is safe for
// concurrent use.
type Store struct {
	core      *minio.Core
	transport *http.Transport
	tripper   http.RoundTripper // transport, watched
	bucket    string
	prefix    string
	endpoint  string
	retry     retrier
	window    *store.Window
	dates     *dates
	// another makes a client with other credentials.
	another func(access string, secret Secret) (*minio.Core, error)

	// needMD5 is set once the service demanded Content-MD5, as buckets with an
	// object lock do.
	needMD5 atomic.Bool

	// mode is how the service treats a conditional PUT. Guarded by modeMu.
	modeMu sync.Mutex
	mode   store.CreateOnly
}

// Open checks c and returns the store. It does not connect: Probe does.
func Open(c Config) (*Store, error) {
	s, err := open(c)
	if err != nil {
		// The endpoint may hold credentials by mistake, so it is not quoted.
		return nil, fmt.Errorf("open S3 store with bucket %q: %w", c.Bucket, err)
	}
	return s, nil
}

func open(c Config) (*Store, error) {
	u, err := parseEndpoint(c.Endpoint)
	if err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	transport, err := c.transport(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	seen := &dates{}
	// One round tripper for all clients of a bucket: they share connections,
	// pace and clock.
	tripper := &watched{next: transport, stall: orDefault(c.StallTimeout, defaultStall), dates: seen, pace: c.Pace}
	core, err := c.client(u, tripper, c.AccessKey, c.SecretKey)
	if err != nil {
		return nil, err
	}
	return &Store{
		core:      core,
		transport: transport,
		tripper:   tripper,
		bucket:    c.Bucket,
		prefix:    c.Prefix,
		endpoint:  u.Scheme + "://" + u.Host,
		retry:     newRetrier(c),
		window:    c.Window,
		dates:     seen,
		mode:      store.CreateUnknown,
		another: func(access string, secret Secret) (*minio.Core, error) {
			return c.client(u, tripper, access, secret)
		},
	}, nil
}

// client returns a client of the service with one pair of credentials.
func (c Config) client(u *url.URL, tripper http.RoundTripper, access string, secret Secret) (*minio.Core, error) {
	return minio.NewCore(u.Host, &minio.Options{
		// V4 is named, so that nothing a server says can lead to another.
		Creds:        credentials.NewStaticV4(access, secret.reveal(), ""),
		Secure:       u.Scheme == "https",
		Transport:    tripper,
		Region:       orDefault(c.Region, defaultRegion),
		BucketLookup: lookups[c.Style],
		// One attempt a call: the library waits at most some seconds in all,
		// too short for an outage, and its retries would multiply with ours.
		MaxRetries: 1,
	})
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

var lookups = map[Style]minio.BucketLookupType{
	StyleAuto: minio.BucketLookupAuto,
	StylePath: minio.BucketLookupPath,
	StyleHost: minio.BucketLookupDNS,
}

func parseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, errors.New("endpoint is no URL") // err could quote a password
	}
	switch {
	case u.User != nil:
		return nil, errors.New("endpoint holds credentials: use the key fields")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Opaque != "":
		return nil, errors.New("endpoint is not of the form https://host[:port]")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("endpoint has a path: bucket and prefix have fields of their own")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("plain http is for loopback addresses only: use https, with a CA file if need be")
	}
	return u, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (c Config) check() error {
	if err := s3utils.CheckValidBucketNameStrict(c.Bucket); err != nil {
		return fmt.Errorf("bucket name: %w", err)
	}
	if c.AccessKey == "" || c.SecretKey.reveal() == "" {
		return errors.New("access key or secret key is missing")
	}
	if _, ok := lookups[c.Style]; !ok {
		return fmt.Errorf("style is %q, not %q or %q", c.Style, StylePath, StyleHost)
	}
	if c.StallTimeout < 0 || c.RetryBudget < 0 {
		return errors.New("a timeout is negative")
	}
	return checkPrefix(c.Prefix)
}

func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	rest, ok := strings.CutSuffix(prefix, "/")
	if !ok || len(prefix) > 500 {
		return fmt.Errorf("prefix %.50q does not end with a slash or is too long", prefix)
	}
	for segment := range strings.SplitSeq(rest, "/") {
		// What every service takes without quoting; see "Safe characters" in
		// Amazon's "Naming Amazon S3 objects".
		strange := func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
		}
		if segment == "" || segment[0] == '.' || strings.ContainsFunc(segment, strange) {
			return fmt.Errorf("prefix %q has a segment %q that is not of [A-Za-z0-9._-]", prefix, segment)
		}
	}
	return nil
}

func (c Config) transport(secure bool) (*http.Transport, error) {
	t := &http.Transport{
		DialContext:         c.Dial,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		TLSHandshakeTimeout: dialTimeout,
		// Bodies are ciphertext; a server's Content-Encoding must not be undone.
		DisableCompression: true,
	}
	if c.Dial == nil {
		t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
		t.Proxy = http.ProxyFromEnvironment
	}
	if !secure {
		return t, nil
	}
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no PEM certificate", c.CAFile)
	}
	return t, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
