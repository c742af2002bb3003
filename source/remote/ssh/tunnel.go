package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"strongroom/source"
)

// A Tunnel is a source whose database server is reached through an endpoint:
// the same code reads it as if it ran here, so all counts are made here. On
// this side there is a socket in a private directory, so nobody else on this
// machine comes through.
type Tunnel struct {
	Endpoint *Endpoint
	// Database is where the database server listens, seen from the endpoint.
	Database Address
	// Dir is where the private directory is made; one whose socket would have
	// too long a name is passed over for the system's.
	Dir string
	// Source makes the source of a database behind a local URL.
	Source func(url string) (source.Source, error)
}

var _ source.Source = Tunnel{}

// An Address is where a database server listens, and how its URL has to look
// for the near end of a tunnel.
type Address struct {
	Network, Addr string // "tcp" and host:port, or "unix" and a path
	socket        string // the name of our socket in its directory
	local         func(dir string) string
}

// loopback says whether a host is the endpoint itself. What lies behind it is
// a way that SSH does not protect.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParseAddress reads the URL of a dataset. It may not ask for TLS, which there
// is none of between the two ends of a tunnel, nor name a server beyond the
// endpoint: use a local connection, or run the endpoint there.
func ParseAddress(raw string) (Address, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Address{}, errors.New("ssh: the database's url cannot be read") // it may hold a password
	}
	switch u.Scheme {
	case "postgres", "postgresql":
		return postgresAddress(u)
	case "mariadb":
		return mariadbAddress(u)
	}
	return Address{}, errors.New("ssh: the database's url is neither postgres:// nor mariadb://")
}

func tcp(host, port, normal string) (Address, error) {
	if !loopback(host) {
		return Address{}, fmt.Errorf("ssh: the database is on %.100q: seen from the other end it must be 127.0.0.1, ::1, localhost or a socket, since what lies beyond is not encrypted", host)
	}
	if port == "" {
		port = normal
	}
	return Address{Network: "tcp", Addr: net.JoinHostPort(host, port)}, nil
}

// postgresAddress reads what libpq and pgx read, of the URL alone: a service
// file, or several hosts, could lead elsewhere.
func postgresAddress(u *url.URL) (a Address, err error) {
	q := u.Query()
	for k := range q {
		if strings.HasPrefix(k, "ssl") || slices.Contains([]string{"service", "servicefile", "hostaddr", "gssencmode"}, k) {
			return a, fmt.Errorf("ssh: the database's url has %s, which means nothing through a tunnel", k)
		}
	}
	host, port := u.Hostname(), u.Port()
	if h := q.Get("host"); h != "" {
		host = h
	}
	if p := q.Get("port"); p != "" {
		port = p
	}
	if strings.HasPrefix(host, "/") && !strings.Contains(host, ",") {
		if port == "" {
			port = "5432"
		}
		a = Address{Network: "unix", Addr: filepath.Join(host, ".s.PGSQL."+port)}
	} else if a, err = tcp(host, port, "5432"); err != nil {
		return a, err
	}
	a.socket = ".s.PGSQL.5432"
	a.local = func(dir string) string {
		v := *u
		v.Host = ""
		w := v.Query()
		w.Set("host", dir)
		w.Set("port", "5432")
		v.RawQuery = strings.ReplaceAll(w.Encode(), "+", "%20") // libpq does not know the plus sign
		return v.String()
	}
	return a, nil
}

func mariadbAddress(u *url.URL) (a Address, err error) {
	q := u.Query()
	if tls := q.Get("tls"); tls != "" && tls != "off" || q.Has("ca") || q.Has("cert") || q.Has("key") {
		return a, errors.New("ssh: the database's url has settings of TLS, which mean nothing through a tunnel")
	}
	if s := q.Get("socket"); strings.HasPrefix(s, "/") {
		a = Address{Network: "unix", Addr: s}
	} else if a, err = tcp(u.Hostname(), u.Port(), "3306"); err != nil {
		return a, err
	}
	a.socket = "mariadb"
	a.local = func(dir string) string {
		v := *u
		v.Host, v.RawQuery = "", url.Values{"socket": {filepath.Join(dir, a.socket)}}.Encode()
		return v.String()
	}
	return a, nil
}

// maxConns is how many connections go through at once. The most jobs are 16,
// and PostgreSQL's own programs take a few.
const maxConns = 64

// tunnel is an open one.
type tunnel struct {
	conn     *conn
	dir      string
	listener net.Listener
	addr     Address
	wg       sync.WaitGroup
	slots    chan struct{}

	mu  sync.Mutex
	err error // guarded by mu: the first thing that went wrong in it
}

// maxSocket is how long the name of a socket may be: sun_path has 108 bytes
// with the zero at its end (unix(7)).
const maxSocket = 107

func (t Tunnel) directory() (string, error) {
	const pattern = "tunnel-"
	parent := t.Dir
	if parent == "" || len(filepath.Join(parent, pattern+"0123456789", t.Database.socket)) > maxSocket {
		parent = os.TempDir()
	}
	return os.MkdirTemp(parent, pattern) // 0700
}

// open connects and listens at this end.
func (t Tunnel) open(ctx context.Context) (_ *tunnel, err error) {
	c, err := t.Endpoint.dial(ctx)
	if err != nil {
		return nil, err
	}
	o := &tunnel{conn: c, addr: t.Database, slots: make(chan struct{}, maxConns)}
	if o.dir, err = t.directory(); err == nil {
		o.listener, err = net.Listen("unix", filepath.Join(o.dir, t.Database.socket))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: private socket: %w", t.Endpoint, err), o.close())
	}
	o.wg.Go(o.accept)
	return o, nil
}

func (o *tunnel) accept() {
	for {
		near, err := o.listener.Accept()
		if err != nil {
			return // it was closed
		}
		select {
		case o.slots <- struct{}{}:
			o.wg.Go(func() {
				defer func() { <-o.slots }()
				o.carry(near)
			})
		default:
			near.Close()
			o.failed(fmt.Errorf("more than %d connections at once", maxConns))
		}
	}
}

// carry joins a connection of this side to one of the other. What the database
// server's protocol does not see as its end is an error to the source: both
// sides are closed when either is.
func (o *tunnel) carry(near net.Conn) {
	defer near.Close()
	far, err := o.conn.Dial(o.addr.Network, o.addr.Addr)
	if err != nil {
		o.failed(fmt.Errorf("the server does not let us reach %s: %w", o.addr.Addr, err))
		return
	}
	defer far.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(far, near)
		far.Close()
	})
	_, _ = io.Copy(near, far)
	near.Close()
	wg.Wait()
}

func (o *tunnel) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
}

// explain adds to an error of the source what went wrong in the tunnel.
func (o *tunnel) explain(e *Endpoint, err error) error {
	if err == nil {
		return nil
	}
	o.mu.Lock()
	why := o.err
	o.mu.Unlock()
	if o.conn.why() != nil {
		why = o.conn.why()
	}
	if why == nil {
		return fmt.Errorf("through %s: %w", e, err)
	}
	class := source.Temporary
	if x, ok := errors.AsType[*ssh.OpenChannelError](why); ok && x.Reason == ssh.Prohibited {
		class = source.Refused
	}
	return source.WithClass(class, fmt.Errorf("through %s: %.300s: %w", e, why.Error(), err))
}

func (o *tunnel) close() error {
	var err error
	if o.listener != nil {
		err = o.listener.Close()
	}
	err = errors.Join(err, o.conn.Close())
	o.wg.Wait()
	if o.dir != "" {
		err = errors.Join(err, os.RemoveAll(o.dir))
	}
	return err
}

// with opens the tunnel and makes the source behind it.
func (t Tunnel) with(ctx context.Context) (*tunnel, source.Source, error) {
	o, err := t.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	src, err := t.Source(t.Database.local(o.dir))
	if err != nil {
		return nil, nil, errors.Join(err, o.close())
	}
	return o, src, nil
}

// Probe asks the source, through the tunnel.
func (t Tunnel) Probe(ctx context.Context) (source.Description, error) {
	o, src, err := t.with(ctx)
	if err != nil {
		return source.Description{}, err
	}
	d, err := src.Probe(ctx)
	return d, errors.Join(o.explain(t.Endpoint, err), o.close())
}

// Open has the source fix a consistency point; the tunnel is there until its
// snapshot is closed.
func (t Tunnel) Open(ctx context.Context) (source.Snapshot, error) {
	o, src, err := t.with(ctx)
	if err != nil {
		return nil, err
	}
	snap, err := src.Open(ctx)
	if err != nil {
		return nil, errors.Join(o.explain(t.Endpoint, err), o.close())
	}
	return &tunnelled{snap, o, t.Endpoint}, nil
}

// tunnelled is a snapshot that was taken through a tunnel.
type tunnelled struct {
	source.Snapshot
	tunnel   *tunnel
	endpoint *Endpoint
}

func (s *tunnelled) Streams() []source.Stream {
	all := slices.Clone(s.Snapshot.Streams())
	for i := range all {
		open := all[i].Open
		all[i].Open = func(ctx context.Context) (io.ReadCloser, error) {
			r, err := open(ctx)
			if err != nil {
				return nil, s.tunnel.explain(s.endpoint, err)
			}
			return &explained{r, s}, nil
		}
	}
	return all
}

// explained says of a read that failed whether the tunnel did.
type explained struct {
	io.ReadCloser
	snap *tunnelled
}

func (r *explained) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		err = r.snap.tunnel.explain(r.snap.endpoint, err)
	}
	return n, err
}

func (s *tunnelled) Finish(ctx context.Context) (source.Report, error) {
	r, err := s.Snapshot.Finish(ctx)
	return r, s.tunnel.explain(s.endpoint, err)
}

func (s *tunnelled) Close() error {
	return errors.Join(s.Snapshot.Close(), s.tunnel.close())
}
