package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"strongroom/source"
	"strongroom/source/remote"
)

// Served is a source that the endpoint's reader reads for us.
type Served struct {
	*remote.Source
	Endpoint *Endpoint
}

// Examine looks at the way there, and has the reader examine the dataset.
func (s Served) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	if reached := s.Endpoint.examine(ctx, &f, nil); reached {
		more, err := s.Source.Examine(ctx)
		return append(f, more...), err
	}
	return f, ctx.Err()
}

// Examine looks at the way there, and at the database through it.
func (t Tunnel) Examine(ctx context.Context) ([]source.Finding, error) {
	var f source.Findings
	if reached := t.Endpoint.examine(ctx, &f, &t.Database); !reached {
		return f, ctx.Err()
	}
	o, src, err := t.with(ctx)
	if err != nil {
		return f, err
	}
	if e, ok := src.(interface {
		Examine(context.Context) ([]source.Finding, error)
	}); ok {
		var more []source.Finding
		more, err = e.Examine(ctx)
		f = append(f, more...)
	} else {
		_, err = src.Probe(ctx)
	}
	return f, errors.Join(o.explain(t.Endpoint, err), o.close())
}

// examine tries the way there, and what our key must not be able to do. Each
// trial undoes itself at once.
func (e *Endpoint) examine(ctx context.Context, f *source.Findings, database *Address) (reached bool) {
	c, err := e.dial(ctx)
	if err != nil {
		remedy := ""
		if other, ok := errors.AsType[*HostKeyError](err); ok {
			remedy = "compare " + other.Got + " with ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the server itself"
		}
		f.Bad("ssh", err.Error(), "a backup would fail in the same way", remedy)
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.Client.Close() })()
	f.OK("ssh", fmt.Sprintf("%s is %s and has the pinned host key, %s", e, word(string(c.ServerVersion())), ssh.FingerprintSHA256(e.host)))
	c.commands(f, database)
	c.forwards(f, database)
	c.listens(f)
	if database == nil {
		return true
	}
	far, err := c.Dial(database.Network, database.Addr)
	if err != nil {
		f.Bad("ssh-tunnel", fmt.Sprintf("the server does not let us reach %s: %s", database.Addr, word(err.Error())),
			"a backup would fail in the same way", "port-forwarding and permitopen for this address beside the key; for a socket, port-forwarding without permitopen")
		return false
	}
	far.Close()
	f.OK("ssh-tunnel", database.Addr+" is reached")
	return true
}

// word makes one short line of what the server says.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return s[:min(len(s), 200)]
}

// proof is an exit status that only a shell gives that obeyed us.
const proof = 71

// commands tries to run one.
func (c *conn) commands(f *source.Findings, database *Address) {
	s, err := c.NewSession()
	if err != nil {
		f.OK("ssh-command", "the key may not run commands")
		return
	}
	defer s.Close()
	s.Stdout, s.Stderr, s.Stdin = io.Discard, io.Discard, strings.NewReader("")
	late := time.AfterFunc(10*time.Second, func() { s.Close() })
	defer late.Stop()
	err = s.Run(fmt.Sprintf("exit %d", proof))
	if x, ok := errors.AsType[*ssh.ExitError](err); !ok || x.ExitStatus() != proof {
		f.OK("ssh-command", "the key cannot choose what it runs")
		return
	}
	forced := `restrict,command="/usr/bin/strongroom source serve /etc/strongroom/reader.toml" ssh-ed25519 …`
	if database != nil {
		forced = fmt.Sprintf(`restrict,port-forwarding,permitopen=%q,command="/bin/false" ssh-ed25519 …`, database.Addr)
		if database.Network == "unix" {
			forced = `restrict,port-forwarding,command="/bin/false" ssh-ed25519 …`
		}
	}
	f.Warn("ssh-command", "the key runs any command on the server", "whoever takes this box has a shell there", "in the server's authorized_keys:\n"+forced)
}

// openSockets are there on most servers, and open to all who are on them.
var openSockets = []string{"/run/systemd/journal/stdout", "/run/dbus/system_bus_socket"}

// forwards tries to reach what is none of our business: a port where nobody
// listens, which a server that forbids it does not find out.
func (c *conn) forwards(f *source.Findings, database *Address) {
	const nobody = "127.0.0.1:1"
	far, err := c.Dial("tcp", nobody)
	if err == nil {
		far.Close()
	}
	if x, ok := errors.AsType[*ssh.OpenChannelError](err); ok && x.Reason == ssh.Prohibited || database != nil && database.Addr == nobody {
		f.OK("ssh-forward", "the key does not reach other ports")
	} else {
		f.Warn("ssh-forward", "the key reaches every port that the server does", "whoever takes this box is behind the client's firewall",
			"restrict beside the key, and for a database permitopen with its address alone, which goes with a port and not with a socket")
	}
	for _, path := range openSockets {
		if database != nil && database.Addr == path {
			continue
		}
		if far, err := c.Dial("unix", path); err == nil {
			far.Close()
			f.Warn("ssh-sockets", "the key reaches sockets on the server, such as "+path, "some of them give much away",
				"with permitopen beside the key no socket is reached, so give the database's server a port on 127.0.0.1")
			return
		}
	}
}

// listens tries to have the server listen for us.
func (c *conn) listens(f *source.Findings) {
	l, err := c.ListenTCP(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		f.OK("ssh-listen", "the key cannot open ports on the server")
		return
	}
	l.Close()
	f.Warn("ssh-listen", "the key can open ports on the server", "programs there may take what answers for one of their own",
		"in the server's sshd_config: Match User NAME, and below it AllowTcpForwarding local")
}
