package notify

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/wneessen/go-mail"
)

// Mail is a way by SMTP, [[notify.mail]] in the file. The connection is
// encrypted by STARTTLS, or there is none.
type Mail struct {
	Name         string   `toml:"name"`
	Host         string   `toml:"host"`
	Port         int      `toml:"port"` // default 587
	From         string   `toml:"from"`
	To           []string `toml:"to"`
	Username     string   `toml:"username"`
	PasswordFile string   `toml:"password_file"`
	// CAFile has the authorities to trust instead of the system's.
	CAFile string `toml:"ca_file"`
	// Events are those that go this way, "overdue"; default all for people.
	Events []string `toml:"events"`
}

// A mailer sends to one address: a server that refuses one of several refuses
// the message, and whoever has it would get it again with each try.
type mailer struct {
	wants
	cfg      Mail
	to       string
	password string
	roots    *x509.CertPool
	link     string
	loc      *time.Location
}

func newMailer(cfg Mail, to, link string, loc *time.Location) (*mailer, error) {
	if cfg.Port == 0 {
		cfg.Port = 587
	}
	m := &mailer{cfg: cfg, to: to, link: link, loc: loc}
	var err error
	if m.wants, err = parseWants(cfg.Events); err != nil {
		return nil, err
	}
	if cfg.PasswordFile != "" {
		if m.password, err = secret(cfg.PasswordFile); err != nil {
			return nil, err
		}
	}
	m.roots, err = authorities(cfg.CAFile)
	return m, err
}

// authorities reads a PEM file; without one they are the system's.
func authorities(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", path)
	}
	return pool, nil
}

func (m *mailer) keeps() time.Duration { return 7 * 24 * time.Hour }
func (m *mailer) person() bool         { return true }

func (m *mailer) send(ctx context.Context, e Event, _ string) error {
	msg, err := m.message(e)
	if err != nil {
		return err
	}
	// go-mail looks at the context while it dials only, gives each command a new
	// deadline, and leaves the connection open when the greeting fails.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var conn net.Conn
	opts := []mail.Option{
		mail.WithPort(m.cfg.Port), mail.WithTLSPolicy(mail.TLSMandatory),
		mail.WithTLSConfig(&tls.Config{ServerName: m.cfg.Host, RootCAs: m.roots, MinVersion: tls.VersionTLS12}),
		mail.WithDialContextFunc(func(dialing context.Context, network, address string) (_ net.Conn, err error) {
			if conn, err = new(net.Dialer).DialContext(dialing, network, address); err == nil {
				context.AfterFunc(ctx, func() { conn.Close() }) // ctx ends with send
			}
			return conn, err
		}),
	}
	if m.cfg.Username != "" {
		opts = append(opts, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.cfg.Username), mail.WithPassword(m.password))
	}
	client, err := mail.NewClient(m.cfg.Host, opts...)
	if err != nil {
		return err
	}
	smtp, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	err = client.SendWithSMTPClient(smtp, msg)
	if refused := (*mail.SendError)(nil); errors.As(err, &refused) && refused.ErrorCode() != 0 {
		err = &refusal{refused.Error()}
	}
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	// It is theirs: what goes wrong with the good-bye is no reason to send it again.
	client.CloseWithSMTPClient(smtp)
	return nil
}

func (m *mailer) message(e Event) (*mail.Msg, error) {
	l := write(e, m.link, m.loc)
	msg := mail.NewMsg()
	if err := msg.From(m.cfg.From); err != nil {
		return nil, err
	}
	if err := msg.To(m.to); err != nil {
		return nil, err
	}
	msg.Subject(l.subject)
	msg.SetDateWithValue(e.Time)
	// The same each time, so that a mailbox shows one where two arrive.
	msg.SetMessageIDWithValue(e.ID.String() + "@strongroom.invalid")
	// Nobody's holiday notice shall answer (RFC 3834).
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetGenHeader("Strongroom-Event", e.Kind.String())
	msg.SetBodyString(mail.TypeTextPlain, l.body)
	return msg, nil
}
