package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"

	"strongroom/repo/store/s3"
)

// GatewayOptions vary how a Gateway is started.
type GatewayOptions struct {
	// TLS: serve https with a certificate of a CA made for this test.
	TLS bool
	// Domain: also take requests to bucket.Domain, e.g. "s3.test".
	Domain string
	// ReadOnly: refuse every write. Buckets have to be there before, see
	// Restart.
	ReadOnly bool
	// Versions: keep versions of objects, and have users of their own, so that
	// buckets may have an object lock. See CreateLockedBucket.
	Versions bool
	// Backend: keep objects in this directory, e.g. a small file system;
	// empty means a temporary one.
	Backend string
}

// A Gateway is one versitygw process on a free loopback port: a real S3 server
// with an empty directory behind it. It ends with the test.
type Gateway struct {
	// AccessKey and SecretKey are random, the server's root keys.
	AccessKey, SecretKey string
	// Endpoint is http(s)://127.0.0.1:port and stays the same over Stop and
	// Start.
	Endpoint string
	// CAFile is the certificate to trust when it serves TLS, else empty.
	CAFile string
	// Backend is the directory with one subdirectory for each bucket.
	Backend string

	opts GatewayOptions
	dir  string // holds everything temporary
	addr string
	bin  string

	mu   sync.Mutex
	proc *process // nil while stopped; guarded by mu
}

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	out  bytes.Buffer  // read only once done is closed
	done chan struct{} // closed when the process has ended
}

// StartGateway starts a server with plain http.
func StartGateway(t testing.TB) *Gateway {
	t.Helper()
	return StartGatewayWith(t, GatewayOptions{})
}

// StartGatewayWith starts a server as opts say.
func StartGatewayWith(t testing.TB, opts GatewayOptions) *Gateway {
	t.Helper()
	g := &Gateway{
		AccessKey: "test" + rand.Text()[:12],
		SecretKey: rand.Text(),
		Backend:   opts.Backend,
		opts:      opts,
		dir:       t.TempDir(),
		bin:       findGateway(t),
	}
	if g.Backend == "" {
		g.Backend = filepath.Join(g.dir, "buckets")
		if err := os.Mkdir(g.Backend, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	scheme := "http://"
	if opts.TLS {
		scheme = "https://"
		g.CAFile = filepath.Join(g.dir, "ca.pem")
		writeCertificates(t, g.dir, opts.Domain)
	}
	t.Cleanup(g.Stop)
	// Another process may take the port between our look and the server's
	// bind, so try again on another.
	var err error
	for range 5 {
		g.addr = freeAddr(t)
		g.Endpoint = scheme + g.addr
		if err = g.start(); err == nil {
			return g
		}
	}
	t.Fatalf("start versitygw: %v", err)
	return nil
}

// findGateway returns the path of the binary that the Makefile builds.
func findGateway(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("STRONGROOM_VERSITYGW"); bin != "" {
		return bin
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory: set STRONGROOM_VERSITYGW")
		}
	}
	bin := filepath.Join(dir, "bin", "versitygw")
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: run `make bin/versitygw`", err)
	}
	return bin
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts the server again, on the same port and objects.
func (g *Gateway) Start(t testing.TB) {
	t.Helper()
	if err := g.start(); err != nil {
		t.Fatalf("start versitygw: %v", err)
	}
}

// Restart stops the server and starts it with other options; those of TLS and
// place stay.
func (g *Gateway) Restart(t testing.TB, readOnly bool) {
	t.Helper()
	g.Stop()
	g.opts.ReadOnly = readOnly
	g.Start(t)
}

func (g *Gateway) args() []string {
	// Without keep-alive every request costs a TCP and TLS handshake.
	args := []string{"--port", g.addr, "--quiet", "--keep-alive"}
	if g.opts.TLS {
		args = append(args, "--cert", filepath.Join(g.dir, "server.pem"), "--key", filepath.Join(g.dir, "server.key"))
	}
	if g.opts.Domain != "" {
		args = append(args, "--virtual-domain", g.opts.Domain)
	}
	if g.opts.ReadOnly {
		args = append(args, "--readonly")
	}
	if g.opts.Versions {
		args = append(args, "--iam-dir", filepath.Join(g.dir, "iam"))
	}
	args = append(args, "posix")
	if g.opts.Versions {
		args = append(args, "--versioning-dir", filepath.Join(g.dir, "versions"))
	}
	if !hasXattrs(g.Backend) {
		args = append(args, "--sidecar", filepath.Join(g.dir, "sidecar"))
	}
	return append(args, g.Backend)
}

// hasXattrs reports whether the server can keep its metadata beside a file.
func hasXattrs(dir string) bool {
	return unix.Setxattr(dir, "user.strongroom-test", []byte("x"), 0) == nil
}

func (g *Gateway) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc != nil {
		return errors.New("it is running")
	}
	for _, sub := range []string{"sidecar", "iam", "versions"} {
		if err := os.MkdirAll(filepath.Join(g.dir, sub), 0o700); err != nil {
			return err
		}
	}
	p := &process{cmd: exec.Command(g.bin, g.args()...), done: make(chan struct{})}
	// The keys go through the environment of this one process: the command
	// line would show them to every user of the machine.
	p.cmd.Env = []string{
		"HOME=" + g.dir, "ROOT_ACCESS_KEY_ID=" + g.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + g.SecretKey,
	}
	p.cmd.Dir = g.dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig acts when the thread that forked ends (prctl(2)), so that
		// thread must live as long as the server.
		runtime.LockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	if err := g.awaitReady(p); err != nil {
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%w\n%s", err, p.out.Bytes())
	}
	g.proc = p
	return nil
}

// awaitReady waits until the server answers HTTP.
func (g *Gateway) awaitReady(p *process) error {
	client := &http.Client{Transport: g.transport(nil), Timeout: time.Second}
	defer client.CloseIdleConnections()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		resp, err := client.Get(g.Endpoint)
		if err == nil {
			resp.Body.Close()
			select {
			case <-p.done: // another server has the port
			default:
				return nil
			}
		}
		select {
		case <-p.done:
			return errors.New("it ended at once")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("it did not answer within 20 seconds")
}

// Stop kills the server, as a power cut would. The objects stay.
func (g *Gateway) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proc == nil {
		return
	}
	g.proc.cmd.Process.Kill()
	<-g.proc.done
	g.proc = nil
}

// dial sends every connection to the server, whatever name was asked for.
func (g *Gateway) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, g.addr)
}

func (g *Gateway) transport(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	t := &http.Transport{DialContext: dial}
	if g.CAFile != "" {
		pem, err := os.ReadFile(g.CAFile)
		if err != nil {
			panic(err) // we wrote it
		}
		t.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem)
	}
	return t
}

// CreateBucket makes a bucket and returns a Config for it.
func (g *Gateway) CreateBucket(t testing.TB, bucket string) s3.Config {
	t.Helper()
	g.makeBucket(t, bucket, minio.MakeBucketOptions{})
	return g.Config(bucket)
}

func (g *Gateway) makeBucket(t testing.TB, bucket string, opts minio.MakeBucketOptions) {
	t.Helper()
	if err := g.admin(t).MakeBucket(context.Background(), bucket, opts); err != nil {
		t.Fatalf("create bucket %s: %v", bucket, err)
	}
}

// admin is a client with the root keys.
func (g *Gateway) admin(t testing.TB) *minio.Client {
	t.Helper()
	transport := g.transport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	scheme, host, _ := strings.Cut(g.Endpoint, "://")
	client, err := minio.New(host, &minio.Options{
		Creds:     credentials.NewStaticV4(g.AccessKey, g.SecretKey, ""),
		Secure:    scheme == "https",
		Region:    "us-east-1",
		Transport: transport,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Config returns what a client needs to use bucket, with little patience.
func (g *Gateway) Config(bucket string) s3.Config {
	c := s3.Config{
		Endpoint:     g.Endpoint,
		Bucket:       bucket,
		Region:       "us-east-1",
		AccessKey:    g.AccessKey,
		SecretKey:    s3.NewSecret(g.SecretKey),
		CAFile:       g.CAFile,
		StallTimeout: 10 * time.Second,
		RetryBudget:  10 * time.Second,
	}
	if g.opts.Domain != "" {
		scheme, _, _ := strings.Cut(g.Endpoint, "://")
		c.Endpoint = scheme + "://" + g.opts.Domain
		c.Style = s3.StyleHost
		c.Dial = g.dial
	}
	return c
}

// Objects is the directory in which the server keeps the objects of a bucket,
// each as a file of its key.
func (g *Gateway) Objects(bucket string) string { return filepath.Join(g.Backend, bucket) }
