// Package sshtest runs OpenSSH's own server for tests, on loopback and with
// keys and a configuration of its own, and puts a bad network before it.
package sshtest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

const program = "/usr/sbin/sshd"

// Server is an account, that of whoever runs the tests, on a server.
type Server struct {
	Addr    string // 127.0.0.1:port
	User    string
	HostKey string // as host_key in a configuration
	KeyFile string // a key that may log in

	dir     string
	public  string // of KeyFile
	wg      sync.WaitGroup
	mu      sync.Mutex
	log     bytes.Buffer // guarded by mu
	groups  map[int]bool // guarded by mu: process groups, one a connection
	stopped bool         // guarded by mu
}

// Start starts a server. Each connection has a process of its own, sshd -i, so
// no port is chosen before it is listened on. Settings are further lines of its
// configuration.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: install the Debian package openssh-server", err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // where it shuts itself in
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{User: me.Username, dir: t.TempDir(), groups: map[int]bool{}}
	s.KeyFile = filepath.Join(s.dir, "key")
	s.public = NewKey(t, s.KeyFile)
	s.HostKey = NewKey(t, filepath.Join(s.dir, "host"))
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"+
		"KbdInteractiveAuthentication no\nPidFile none\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\nPrintMotd no\n%s\n",
		s.dir, s.dir, strings.Join(settings, "\n"))
	if err := os.WriteFile(filepath.Join(s.dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Authorize(t, "")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = l.Addr().String()
	s.wg.Go(func() { s.accept(l) })
	t.Cleanup(func() {
		l.Close()
		s.Cut()
		s.mu.Lock()
		s.stopped = true
		s.mu.Unlock()
		s.wg.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", s.Log())
		}
	})
	return s
}

// Via names the account in a configuration.
func (s *Server) Via() string { return "ssh://" + s.User + "@" + s.Addr }

// NewKey makes a private key and returns its public half.
func NewKey(t testing.TB, path string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// Authorize writes the account's authorized_keys: what stands before our key,
// such as `restrict,command="…"`.
func (s *Server) Authorize(t testing.TB, options string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "authorized_keys"), []byte(strings.TrimSpace(options+" "+s.public)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Log is what the server said so far.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Write takes what the server says.
func (s *Server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

// Cut ends all connections, in the middle of whatever goes on.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.groups {
		_ = syscall.Kill(-pid, syscall.SIGKILL) // its own group; it is not reaped yet
	}
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // it was closed
		}
		f, err := c.(*net.TCPConn).File()
		c.Close()
		if err != nil {
			fmt.Fprintf(s, "sshtest: %v\n", err)
			continue
		}
		cmd := exec.Command(program, "-i", "-e", "-f", filepath.Join(s.dir, "config"))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, s
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		s.mu.Lock()
		if !s.stopped {
			if err = cmd.Start(); err == nil {
				s.groups[cmd.Process.Pid] = true
			}
		}
		s.mu.Unlock()
		f.Close()
		if err != nil || cmd.Process == nil {
			fmt.Fprintf(s, "sshtest: %v\n", err)
			continue
		}
		s.wg.Go(func() {
			err := cmd.Wait()
			s.mu.Lock()
			delete(s.groups, cmd.Process.Pid)
			s.mu.Unlock()
			if err != nil {
				fmt.Fprintf(s, "sshtest: sshd: %v\n", err)
			}
		})
	}
}

// A Proxy stands before a server and hangs up after so many bytes of its.
type Proxy struct {
	Addr string

	to string
	wg sync.WaitGroup
	mu sync.Mutex
	// left is how many bytes still come through; < 0: all. Guarded by mu.
	left int64
	hang bool              // guarded by mu: what does not come through is kept, and nobody hangs up
	seen int64             // guarded by mu: how many did
	open map[net.Conn]bool // guarded by mu
}

// StartProxy starts a proxy that lets everything through, to an address or to
// the path of a socket.
func StartProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, left: -1, open: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.hangUp()
		p.wg.Wait()
	})
	return p
}

// After has it hang up after n bytes of the server's from here on, n < 0 never,
// and returns how many came through since the last call.
func (p *Proxy) After(n int64) (seen int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, p.seen, p.left, p.hang = p.seen, 0, n, false
	return seen
}

// Hang has it keep silent after n bytes of the server's, with the connection
// open.
func (p *Proxy) Hang(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.hang = n, true
}

func (p *Proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *Proxy) carry(near net.Conn) {
	defer near.Close()
	network := "tcp"
	if strings.HasPrefix(p.to, "/") {
		network = "unix"
	}
	far, err := net.Dial(network, p.to)
	if err != nil {
		return
	}
	defer far.Close()
	p.mu.Lock()
	p.open[near], p.open[far] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { pass(far, near, func(n int) (int, bool) { return n, true }) })
	pass(near, far, p.allow)
	wg.Wait()
	p.mu.Lock()
	delete(p.open, near)
	delete(p.open, far)
	p.mu.Unlock()
}

// allow says how many of n bytes may go on, and whether the connection does.
func (p *Proxy) allow(n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := n
	if p.left >= 0 {
		m = int(min(int64(n), p.left))
		p.left -= int64(m)
	}
	p.seen += int64(m)
	return m, m == n || p.hang
}

// pass copies until either side ends or the connection may not go on, and
// closes both.
func pass(to, from net.Conn, allow func(int) (int, bool)) {
	defer to.Close()
	defer from.Close()
	for b := make([]byte, 32<<10); ; {
		n, err := from.Read(b)
		m, on := allow(n)
		if _, werr := to.Write(b[:m]); werr != nil || err != nil || !on {
			return
		}
	}
}
