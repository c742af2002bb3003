// Package notifytest has a mail server that keeps what it gets.
package notifytest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// certificate makes one for 127.0.0.1 and the file of its authority.
func certificate(t testing.TB) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sink"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	path := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, path
}

// A Sink is a mail server that keeps what it gets.
type Sink struct {
	Port    int
	cert    tls.Certificate
	NoTLS   bool
	Silent  bool            // takes connections and says nothing
	Refuses map[string]bool // addresses

	mu       sync.Mutex
	mails    []string
	commands []string // in clear, and with "tls " before those that were not
}

// Start starts one, and returns the file of the authority of its certificate.
func Start(t testing.TB, change func(*Sink)) (*Sink, string) {
	t.Helper()
	s := &Sink{Refuses: map[string]bool{}}
	var ca string
	s.cert, ca = certificate(t)
	if change != nil {
		change(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.Port = l.Addr().(*net.TCPAddr).Port
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() { s.serve(c); c.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s, ca
}

// Mails are those that it got.
func (s *Sink) Mails() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.mails...)
}

// Commands are what it was told: in clear, and with "tls " before those that were not.
func (s *Sink) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.commands...)
}

func (s *Sink) serve(c net.Conn) {
	in := bufio.NewReader(c)
	if s.Silent {
		in.ReadString('\n')
		in.ReadString('\n') // until the other side goes
		return
	}
	say := func(format string, a ...any) { fmt.Fprintf(c, format+"\r\n", a...) }
	say("220 sink")
	encrypted := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		s.mu.Lock()
		s.commands = append(s.commands, encrypted+line)
		s.mu.Unlock()
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-sink")
			if encrypted == "" && !s.NoTLS {
				say("250-STARTTLS")
			}
			if encrypted != "" || s.NoTLS {
				say("250-AUTH PLAIN")
			}
			say("250 8BITMIME")
		case "STARTTLS":
			say("220 go on")
			t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}})
			if t.Handshake() != nil {
				return
			}
			c, in, encrypted = t, bufio.NewReader(t), "tls "
		case "AUTH":
			if strings.HasSuffix(rest, "AG1lAHJpZ2h0") { // "\0me\0right"
				say("235 welcome")
			} else {
				say("535 no")
			}
		case "RCPT":
			if s.Refuses[strings.TrimSuffix(strings.TrimPrefix(rest, "TO:<"), ">")] {
				say("550 no such user")
			} else {
				say("250 ok")
			}
		case "DATA":
			say("354 go on")
			var mail strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				mail.WriteString(strings.TrimRight(line, "\r\n") + "\n")
			}
			s.mu.Lock()
			s.mails = append(s.mails, mail.String())
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default: // MAIL, RSET, NOOP
			say("250 ok")
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
