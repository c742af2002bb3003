package mariadb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

// dialer opens sessions on one database.
type dialer struct{ cfg *mysql.Config }

// silence keeps the driver from writing to standard error: every failure is
// in an error too.
type silence struct{}

func (silence) Print(...any) {}

// newDialer reads mariadb://user@host:port/database?socket=/path. Over a
// network the session is encrypted and the server's certificate checked,
// unless tls=off says that the network is the host's own or a tunnel.
func newDialer(raw, passwordFile string) (*dialer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "mariadb" {
		return nil, errors.New("mariadb: url is not mariadb://…") // never quote it: it may hold a password
	}
	if _, has := u.User.Password(); has {
		return nil, errors.New("mariadb: url holds a password: use a password file")
	}
	cfg := mysql.NewConfig()
	cfg.User, cfg.DBName = u.User.Username(), strings.TrimPrefix(u.Path, "/")
	cfg.Logger, cfg.Collation, cfg.Timeout = silence{}, "utf8mb4_general_ci", time.Minute
	cfg.MaxAllowedPacket = 0 // what the server says
	if cfg.User == "" || cfg.DBName == "" {
		return nil, errors.New("mariadb: url lacks the user or the database: mariadb://user@host/database")
	}
	q := u.Query()
	for k := range q {
		if !slices.Contains([]string{"socket", "tls", "ca", "cert", "key"}, k) {
			return nil, fmt.Errorf("mariadb: url has an unknown setting %q: want socket, tls, ca, cert or key", k)
		}
	}
	if socket := q.Get("socket"); socket != "" {
		cfg.Net, cfg.Addr = "unix", socket
		if q.Get("tls") != "" || q.Get("ca") != "" || q.Get("cert") != "" {
			return nil, errors.New("mariadb: url has settings of TLS beside a socket")
		}
	} else {
		cfg.Net, cfg.Addr = "tcp", u.Host
		if u.Port() == "" {
			cfg.Addr = net.JoinHostPort(u.Hostname(), "3306")
		}
		if cfg.TLS, err = tlsOf(u.Hostname(), q); err != nil {
			return nil, err
		}
	}
	if passwordFile != "" {
		if cfg.Passwd, err = readPassword(passwordFile); err != nil {
			return nil, err
		}
	}
	return &dialer{cfg: cfg}, nil
}

func tlsOf(host string, q url.Values) (*tls.Config, error) {
	switch q.Get("tls") {
	case "off":
		if q.Has("ca") || q.Has("cert") || q.Has("key") {
			return nil, errors.New("mariadb: url has settings of TLS beside tls=off")
		}
		return nil, nil
	case "", "verify":
	default:
		return nil, fmt.Errorf("mariadb: tls=%.20s is neither verify nor off", q.Get("tls"))
	}
	if host == "" {
		return nil, errors.New("mariadb: url names neither a host nor a socket")
	}
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if ca := q.Get("ca"); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("mariadb: certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("mariadb: %s holds no certificate", ca)
		}
	}
	if q.Has("cert") || q.Has("key") {
		pair, err := tls.LoadX509KeyPair(q.Get("cert"), q.Get("key"))
		if err != nil {
			return nil, fmt.Errorf("mariadb: client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("mariadb: password file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" || len(line) > 4096 {
		return "", fmt.Errorf("mariadb: password file %s: its first line must be the password", file)
	}
	return line, nil
}

// name says which database on which server, for messages.
func (d *dialer) name() string { return fmt.Sprintf("database %q on %s", d.cfg.DBName, d.cfg.Addr) }

// session is one connection to the server; it is used by one goroutine at a
// time.
type session struct {
	conn driver.Conn
	q    driver.QueryerContext
	e    driver.ExecerContext
}

// sessionSettings give values one text form, whatever the server's or the
// user's defaults are, and let a session wait for us as long as it takes: a
// store that is slow must not make the server hang up. The isolation is what a
// consistent snapshot needs; under any other the server takes none and says so
// in a warning only.
var sessionSettings = []string{
	"SET NAMES utf8mb4",
	"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
	"SET SESSION sql_mode = '" + loadMode + "', time_zone = '+00:00', autocommit = 1, sql_quote_show_create = 1, max_statement_time = 0, " +
		"sql_select_limit = DEFAULT, wait_timeout = 604800, net_write_timeout = 86400, net_read_timeout = 86400, " +
		"idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0",
}

// loadMode is the sql_mode under which any value that a table holds can be
// written again, be it a zero in a date or in an AUTO_INCREMENT column, and a
// value that would change is an error.
const loadMode = "STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION"

func (d *dialer) connect(ctx context.Context) (*session, error) {
	return d.connectTo(ctx, d.cfg.DBName)
}

// connectTo opens a session on another database of the server; "" for none.
func (d *dialer) connectTo(ctx context.Context, database string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cfg := d.cfg.Clone()
	cfg.DBName = database
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("mariadb: %w", err)
	}
	conn, err := c.Connect(ctx)
	if err != nil {
		return nil, classed(fmt.Errorf("mariadb: connect to %s: %w", d.cfg.Addr, err))
	}
	s := &session{conn: conn}
	var ok, ok2 bool
	s.q, ok = conn.(driver.QueryerContext)
	s.e, ok2 = conn.(driver.ExecerContext)
	if !ok || !ok2 {
		return nil, errors.Join(errors.New("mariadb: the driver's connections lack what this needs"), s.close())
	}
	if err := s.exec(ctx, sessionSettings...); err != nil {
		return nil, errors.Join(fmt.Errorf("mariadb: prepare session on %s: %w", d.cfg.Addr, err), s.close())
	}
	return s, nil
}

func (s *session) close() error {
	if s == nil {
		return nil
	}
	return s.conn.Close()
}

// exec runs statements, one after the other.
func (s *session) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := s.affect(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// affect runs a statement and returns how many rows it wrote.
func (s *session) affect(ctx context.Context, sql string) (int64, error) {
	res, err := s.e.ExecContext(ctx, sql, nil)
	if err != nil {
		return 0, because(ctx, err)
	}
	return res.RowsAffected()
}

// because prefers the reason why a context ended to what that did to the
// connection.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// query runs a statement and hands each row, as text with NULL as "", to row.
func (s *session) query(ctx context.Context, sql string, row func(v []string) error) error {
	rows, err := s.q.QueryContext(ctx, sql, nil)
	if err != nil {
		return because(ctx, err)
	}
	defer rows.Close()
	vals, text := make([]driver.Value, len(rows.Columns())), make([]string, len(rows.Columns()))
	for {
		switch err := rows.Next(vals); {
		case err == io.EOF:
			return nil
		case err != nil:
			return because(ctx, err)
		}
		for i, v := range vals {
			text[i] = textOf(v)
		}
		if err := row(text); err != nil {
			return err
		}
	}
}

// one runs a query of one row.
func (s *session) one(ctx context.Context, sql string) ([]string, error) {
	var out []string
	err := s.query(ctx, sql, func(v []string) error {
		out = slices.Clone(v)
		return nil
	})
	if err == nil && out == nil {
		err = errors.New("no row")
	}
	return out, err
}

func textOf(v driver.Value) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []byte:
		return string(v)
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	}
	return fmt.Sprint(v)
}

// code is the server's number of an error; 0 where it is not the server's.
func code(err error) uint16 {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return e.Number
	}
	return 0
}

// The server's numbers of errors that are told apart here.
const (
	errManyConnections = 1040
	errDatabaseAccess  = 1044
	errAccess          = 1045
	errNoDatabase      = 1049
	errShutdown        = 1053
	errTableAccess     = 1142
	errColumnAccess    = 1143
	errNoTable         = 1146
	errUserConnections = 1203
	errLockTimeout     = 1205
	errUserLimit       = 1226
	errRights          = 1227
	errView            = 1356
	errRoutineAccess   = 1370
	errBinaryLog       = 1419 // who lacks SUPER may write no trigger or function that a replica would run
)

// ident quotes a name.
func ident(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// literal quotes a string for a mode without NO_BACKSLASH_ESCAPES.
func literal(s string) string { return string(appendQuoted(nil, []byte(s))) }

// plainName makes a stream's name of an object's: control characters and
// bytes that are no UTF-8 are written \xNN, and the backslash itself too, so
// that different objects have different names.
func plainName(object string) string {
	var b strings.Builder
	for i, r := range object {
		switch {
		case r == '\uFFFD' && !strings.HasPrefix(object[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, object[i])
		case r < 0x20 || r == 0x7f || r == '\\':
			fmt.Fprintf(&b, `\x%02x`, r)
		case r >= 0x80 && r < 0xa0:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
