package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// dialer opens sessions on one database and tells child processes how to.
type dialer struct {
	cfg *pgx.ConnConfig
	// conninfo is the connection string without any secret.
	conninfo string
}

func newDialer(connString, passwordFile string) (*dialer, error) {
	cfg, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection settings: %w", err) // pgx redacts passwords
	}
	for _, f := range cfg.Fallbacks {
		// pg_dump must reach the very server that exports the snapshot.
		if f.Host != cfg.Host || f.Port != cfg.Port {
			return nil, errors.New("postgres: connection settings name more than one host")
		}
	}
	if passwordFile != "" {
		pw, err := readPassword(passwordFile)
		if err != nil {
			return nil, err
		}
		cfg.Password = pw
	}
	conninfo, err := withoutSecrets(connString)
	if err != nil {
		return nil, fmt.Errorf("postgres: connection settings: %w", err)
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "strongroom"
	}
	// Nothing of a session outlives it, also behind a connection pooler.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return &dialer{cfg: cfg, conninfo: conninfo}, nil
}

func readPassword(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("postgres: password file: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" || len(line) > 4096 {
		return "", fmt.Errorf("postgres: password file %s: its first line must be the password", file)
	}
	return line, nil
}

// name says which database on which server, for messages.
func (d *dialer) name() string {
	return fmt.Sprintf("database %q on %s:%d", d.cfg.Database, d.cfg.Host, d.cfg.Port)
}

// database returns a dialer for another database on the same server; it is
// for sessions of ours, not for child processes.
func (d *dialer) database(name string) *dialer {
	cfg := d.cfg.Copy()
	cfg.Database = name
	return &dialer{cfg: cfg}
}

func (d *dialer) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, d.cfg.Copy())
	if err != nil {
		return nil, classed(fmt.Errorf("postgres: %w", err))
	}
	if err := d.prepare(ctx, c); err != nil {
		closeConn(c)
		return nil, fmt.Errorf("postgres: prepare session on %s: %w", d.name(), err)
	}
	return c, nil
}

// sessionSettings are what pg_dump sets in its own sessions, so that values
// have one text form whatever the role's or database's defaults are, and what
// it leaves to the environment: TimeZone, bytea_output, compiled plans, which
// cost more than they save here, and parallel ones, which would mix the order
// of rows.
const sessionSettings = `
SELECT pg_catalog.set_config('search_path', '', false);
SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
SET DateStyle = ISO; SET IntervalStyle = postgres; SET extra_float_digits = 3; SET TimeZone = 'UTC';
SET bytea_output = hex; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; SET jit = off;
SET row_security = off; SET quote_all_identifiers = off; SET standard_conforming_strings = on;
SET xmloption = content; SET client_min_messages = warning; SET default_transaction_read_only = off;
`

func (d *dialer) prepare(ctx context.Context, c *pgx.Conn) error {
	sql := sessionSettings
	if c.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" {
		// Such a database holds bytes: any other client encoding rejects some.
		sql += "SET client_encoding = 'SQL_ASCII';"
	} else {
		sql += "SET client_encoding = 'UTF8';"
	}
	if err := simple(ctx, c, sql); err != nil {
		return err
	}
	// Since 14 and 17: absent settings are not an error here.
	const optional = `SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
		WHERE name IN ('idle_session_timeout', 'transaction_timeout')`
	return simple(ctx, c, optional)
}

// simple runs statements without parameters and drops what they return.
func simple(ctx context.Context, c *pgx.Conn, sql string) error {
	_, err := c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// closeConn ends a session and waits until nothing of it is left here.
func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = c.Close(ctx) // a session that cannot say goodbye is closed all the same
	select {
	case <-c.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// withoutSecrets returns the connection string for a child process.
func withoutSecrets(s string) (string, error) {
	if isURL(s) {
		u, err := url.Parse(s)
		if err != nil {
			return "", errors.New("bad URL")
		}
		if u.User != nil {
			u.User = url.User(u.User.Username())
		}
		q := u.Query()
		if q.Has("sslpassword") {
			return "", errors.New("sslpassword is not supported")
		}
		q.Del("password")
		q.Del("passfile")
		u.RawQuery = encodeQuery(q)
		return u.String(), nil
	}
	kv, err := parseConninfo(s)
	if err != nil {
		return "", err
	}
	kept := kv[:0]
	for _, p := range kv {
		switch p[0] {
		case "password", "passfile":
		case "sslpassword":
			return "", errors.New("sslpassword is not supported")
		default:
			kept = append(kept, p)
		}
	}
	return formatConninfo(kept), nil
}

// encodeQuery writes spaces as %20: libpq does not know the plus sign.
func encodeQuery(q url.Values) string {
	return strings.ReplaceAll(q.Encode(), "+", "%20")
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// parseConninfo reads libpq's keyword/value form.
func parseConninfo(s string) ([][2]string, error) {
	var kv [][2]string
	for {
		s = strings.TrimLeft(s, " \t\n\r\f\v")
		if s == "" {
			return kv, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return nil, errors.New("connection string: keyword without a value")
		}
		value, rest, err := conninfoValue(strings.TrimLeft(rest, " \t\n\r\f\v"))
		if err != nil {
			return nil, err
		}
		kv = append(kv, [2]string{strings.TrimRight(key, " \t\n\r\f\v"), value})
		s = rest
	}
}

func conninfoValue(s string) (value, rest string, err error) {
	var b strings.Builder
	quoted := strings.HasPrefix(s, "'")
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			return b.String(), s[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("connection string: unterminated quote")
	}
	return b.String(), "", nil
}

func formatConninfo(kv [][2]string) string {
	esc := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var parts []string
	for _, p := range kv {
		parts = append(parts, p[0]+"='"+esc.Replace(p[1])+"'")
	}
	return strings.Join(parts, " ")
}

func randomKey() string { return rand.Text() }

func validKey(k string) bool {
	for _, c := range []byte(k) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return k != "" && len(k) <= 128
}
