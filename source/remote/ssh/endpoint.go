// Package ssh reaches a client's server by SSH, with its host key pinned and a
// key of ours that can do nothing there but what the client wrote beside it:
// start the reader that serves datasets, or reach a database.
package ssh

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"strongroom/source"
)

// Config says which server, and how it and we are known.
type Config struct {
	// Via is ssh://user@host or ssh://user@host:port.
	Via string
	// HostKey is the server's only key, as in its /etc/ssh/ssh_host_*_key.pub:
	// "ssh-ed25519 AAAA…". No other server, and no other key of this one, is
	// spoken to.
	HostKey string
	// KeyFile holds our private key, in OpenSSH's form and without a passphrase.
	KeyFile string

	// alive is how often we ask for a sign of life; 0 means 15 s. Tests have
	// less.
	alive time.Duration
}

// Endpoint is one account on one server.
type Endpoint struct {
	cfg  Config
	user string
	addr string
	host ssh.PublicKey
}

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)

// New returns an endpoint; it connects to nothing yet and reads no file.
func New(cfg Config) (*Endpoint, error) {
	u, err := url.Parse(cfg.Via)
	if err != nil || u.Scheme != "ssh" || u.User == nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("ssh: %.100q is not ssh://user@host or ssh://user@host:port", cfg.Via)
	}
	if _, has := u.User.Password(); has || !userName.MatchString(u.User.Username()) {
		return nil, errors.New("ssh: the user's name is none, or there is a password beside it")
	}
	port := cmp.Or(u.Port(), "22")
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return nil, fmt.Errorf("ssh: %.20q is no port", port)
	}
	host, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(cfg.HostKey))
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New(`ssh: the host key is not one line such as "ssh-ed25519 AAAA…"`)
	}
	if hostAlgorithms(host) == nil {
		return nil, fmt.Errorf("ssh: a host key of type %s is not accepted: use the server's ssh-ed25519 key", host.Type())
	}
	if cfg.alive == 0 {
		cfg.alive = 15 * time.Second
	}
	return &Endpoint{cfg: cfg, user: u.User.Username(), addr: net.JoinHostPort(u.Hostname(), port), host: host}, nil
}

// String names the endpoint in messages.
func (e *Endpoint) String() string { return "ssh://" + e.user + "@" + e.addr }

// hostAlgorithms are the signatures that a server may prove a key with.
func hostAlgorithms(k ssh.PublicKey) []string {
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return []string{k.Type()}
	case ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return nil
}

// signer reads our private key.
func (e *Endpoint) signer() (ssh.Signer, error) {
	b, err := os.ReadFile(e.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer clear(b)
	s, err := ssh.ParsePrivateKey(b)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, fmt.Errorf("key file %s has a passphrase, and nobody is there to type it", e.cfg.KeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s is no private key in OpenSSH's form", e.cfg.KeyFile) // what it is stays unsaid
	}
	return s, nil
}

// A HostKeyError is a server with another key than the one pinned.
type HostKeyError struct{ Want, Got string } // fingerprints

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("the server has host key %s, and %s is pinned: either somebody stands between, or the server was made anew; ask its owner before changing host_key", e.Got, e.Want)
}

// config is what we offer. The ciphers are what the policies of our clients
// ask for, AES-256; the key exchanges are OpenSSH's own first choices that the
// library knows, the hybrid one first.
func (e *Endpoint) config(s ssh.Signer, known func()) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES256GCM, ssh.CipherAES256CTR},
			MACs:         []string{ssh.HMACSHA512ETM, ssh.HMACSHA256ETM},
		},
		User:              e.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(s)},
		HostKeyAlgorithms: hostAlgorithms(e.host),
		ClientVersion:     "SSH-2.0-strongroom",
		HostKeyCallback: func(_ string, _ net.Addr, got ssh.PublicKey) error {
			if !bytes.Equal(got.Marshal(), e.host.Marshal()) {
				return &HostKeyError{ssh.FingerprintSHA256(e.host), ssh.FingerprintSHA256(got)}
			}
			known()
			return nil
		},
		BannerCallback: func(string) error { return nil }, // nobody reads it
	}
}

// within bounds the way to an open connection.
const within = 30 * time.Second

// conn is an open connection; it asks for signs of life until it is closed.
type conn struct {
	*ssh.Client
	heard *heard
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
	mu    sync.Mutex
	ended error // guarded by mu: why it was given up
}

// heard is a TCP connection that knows when something last came. The answer to
// a keepalive waits behind all that is on its way, which on a slow line is much.
type heard struct {
	net.Conn
	last atomic.Int64 // since begun
	from time.Time
}

func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.last.Store(int64(time.Since(h.from)))
	}
	return n, err
}

func (h *heard) silence() time.Duration {
	return time.Since(h.from) - time.Duration(h.last.Load())
}

// dial connects. The context bounds that alone.
func (e *Endpoint) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	s, err := e.signer()
	if err != nil {
		return nil, source.WithClass(source.Refused, fmt.Errorf("%s: %w", e, err))
	}
	tcp, err := (&net.Dialer{KeepAlive: e.cfg.alive}).DialContext(ctx, "tcp", e.addr)
	if err != nil {
		return nil, source.WithClass(source.Temporary, fmt.Errorf("%s: %w", e, err))
	}
	h := &heard{Conn: tcp, from: time.Now()}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	known := false
	sc, channels, requests, err := ssh.NewClientConn(h, e.addr, e.config(s, func() { known = true }))
	if !stop() && err == nil {
		sc.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		tcp.Close()
		return nil, e.refused(ctx, err, known)
	}
	c := &conn{Client: ssh.NewClient(sc, channels, requests), heard: h, done: make(chan struct{})}
	c.wg.Go(func() { c.live(e.cfg.alive) })
	return c, nil
}

// refused tells apart what a person has to change from what may be gone in a
// minute.
func (e *Endpoint) refused(ctx context.Context, err error, known bool) error {
	if other, ok := errors.AsType[*HostKeyError](err); ok {
		return source.WithClass(source.Refused, fmt.Errorf("%s: %w", e, other))
	}
	if ctx.Err() != nil {
		return source.WithClass(source.Temporary, fmt.Errorf("%s: no connection within %v: %w", e, within, context.Cause(ctx)))
	}
	if _, differ := errors.AsType[*ssh.AlgorithmNegotiationError](err); differ {
		return source.WithClass(source.Refused, fmt.Errorf("%s: %w; wanted are AES-256, curve25519 or ML-KEM, and the pinned host key's type", e, err))
	}
	if known && !errors.Is(err, io.EOF) {
		if _, net := errors.AsType[net.Error](err); !net {
			return source.WithClass(source.Refused, fmt.Errorf("%s: the host key is right, and the server does not take our key for %s: %w", e, e.user, err))
		}
	}
	return source.WithClass(source.Temporary, fmt.Errorf("%s: %w", e, err))
}

// live notices a peer that is gone without a word.
func (c *conn) live(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	free := make(chan struct{}, 1)
	free <- struct{}{}
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		if c.heard.silence() > 4*every {
			c.giveUp(fmt.Errorf("no sign of life for %v", 4*every))
			return
		}
		select {
		case <-free:
			c.wg.Go(func() {
				if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					free <- struct{}{}
				} // else whoever uses the connection sees that it is gone
			})
		default: // the last one is still on its way
		}
	}
}

func (c *conn) giveUp(why error) {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = why
	}
	c.mu.Unlock()
	c.Client.Close()
}

// why says why the connection was given up, if it was.
func (c *conn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// Close ends everything on the connection.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.done) })
	err := c.Client.Close()
	c.wg.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// Command is what we ask the server to run. A forced command runs instead of
// it; where there is none, it says what is missing.
const Command = "strongroom source serve"

// Start connects and has the server start its reader.
func (e *Endpoint) Start(ctx context.Context) (io.ReadWriteCloser, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Client.Close() })
	p, err := c.start(Command)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, source.WithClass(source.Refused, fmt.Errorf("%s: start the reader: %w", e, err))
	}
	return p, nil
}

// process is a program at the other end.
type process struct {
	io.Reader
	in     io.WriteCloser
	conn   *conn
	errs   *complaints
	closed sync.Once
}

func (c *conn) start(command string) (*process, error) {
	s, err := c.NewSession()
	if err != nil {
		return nil, err
	}
	p := &process{conn: c, errs: &complaints{}}
	s.Stderr = p.errs
	if p.in, err = s.StdinPipe(); err != nil {
		return nil, err
	}
	if p.Reader, err = s.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, s.Start(command)
}

func (p *process) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close hangs up; the server ends the program's input with that.
func (p *process) Close() (err error) {
	p.closed.Do(func() { err = p.conn.Close() })
	return err
}

// Complaint is the beginning of what the program wrote to standard error.
func (p *process) Complaint() string {
	if why := p.conn.why(); why != nil {
		return why.Error()
	}
	return p.errs.String()
}

// complaints keeps the first 4 KiB.
type complaints struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (c *complaints) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, b[:min(len(b), 4096-len(c.buf))]...)
	return len(b), nil
}

func (c *complaints) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.buf)
}
