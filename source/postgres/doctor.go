package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/source"
)

// testedMajor is the server version that our own tests run on.
const testedMajor = 15

// exam is one examination of a database and of the role that reads it.
type exam struct {
	source.Findings
	src    *Source
	dialer *dialer
	c      *pgx.Conn
	srv    server
	login  string // the role that logged in; srv.Role is the one in force
	super  bool
	facts  facets
}

// facets are what decides how a role for this database has to look.
type facets struct {
	schemas  []string // quoted
	owners   []string // of tables and sequences, quoted
	rowLevel []string // tables under row security
	objects  int64    // large objects
}

// Examine looks at all that decides whether snapshots of this database succeed
// and whether the role could do more than read. It changes nothing and takes
// no lock that anybody would wait for. An error is a failure of the
// examination itself; a server that cannot be reached is a finding.
func (s *Source) Examine(ctx context.Context) ([]source.Finding, error) {
	e := &exam{src: s}
	var err error
	if e.dialer, err = newDialer(s.cfg.URL, s.cfg.PasswordFile); err != nil {
		return nil, err
	}
	e.connection()
	if e.c, err = e.dialer.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e.unreachable(err)
		return e.Findings, nil
	}
	defer closeConn(e.c)
	e.OK("connect", e.dialer.name()+" answers")
	for _, look := range []func(context.Context) error{e.server, e.identity, e.survey,
		e.readable, e.largeObjects, e.rowSecurity, e.future, e.sessions,
		e.attributes, e.memberships, e.ownership, e.grants, e.creation, e.readsAll,
		e.prescribe,
		e.incomplete, e.settings, e.transactions, e.standby, e.drillEngine} {
		if err := look(ctx); err != nil {
			return nil, fmt.Errorf("postgres: examine %s: %w", e.dialer.name(), err)
		}
	}
	return e.Findings, nil
}

// connection judges how the password and the way to the server are told.
func (e *exam) connection() {
	if hasPassword(e.src.cfg.URL) {
		e.Warn("url-password", "the connection settings hold a password",
			"a configuration is copied, shown and backed up where a password should not be",
			"move it to a file of mode 0600 and name that in password_file; better none: peer or certificate authentication")
	}
	if f := e.src.cfg.PasswordFile; f != "" {
		if st, err := os.Stat(f); err == nil && st.Mode().Perm()&0o077 != 0 {
			e.Warn("password-file", fmt.Sprintf("password file %s has mode %04o", f, st.Mode().Perm()),
				"others on this machine can read the client's database with it", "chmod 600 "+shellWord(f)+", and change the password")
		}
	}
	cfg := e.dialer.cfg
	if strings.HasPrefix(cfg.Host, "/") {
		e.OK("transport", "unix socket")
		return
	}
	if cfg.TLSConfig == nil || cfg.TLSConfig.InsecureSkipVerify || len(cfg.Fallbacks) > 0 {
		e.Warn("transport", "the server's certificate and name are not checked, or TLS is not demanded",
			"whoever is on the way between can read the rows, or answer in the server's place",
			"add sslmode=verify-full and sslrootcert=FILE to the url")
		return
	}
	e.OK("transport", "TLS, the server's certificate and name are checked")
}

func hasPassword(conn string) bool {
	if isURL(conn) {
		u, err := url.Parse(conn)
		if err != nil {
			return false // pgx has parsed it
		}
		_, has := u.User.Password()
		return has || u.Query().Has("password")
	}
	kv, _ := parseConninfo(conn) // pgx has parsed it
	for _, p := range kv {
		if p[0] == "password" {
			return true
		}
	}
	return false
}

// unreachable explains why there is no session.
func (e *exam) unreachable(err error) {
	why, remedy := "no snapshot can be taken", ""
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		user, db := ident(e.dialer.cfg.User), ident(e.dialer.cfg.Database)
		switch pgErr.Code {
		case "42501":
			e.Bad("connect", fmt.Sprintf("role %s may not connect to database %s", user, db), why,
				fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s;", db, user))
			return
		case "28000", "28P01":
			remedy = "correct pg_hba.conf or the password, or make the role and look again, for the rights it needs then:\n" +
				fmt.Sprintf("CREATE ROLE %s LOGIN; GRANT CONNECT ON DATABASE %s TO %s;", user, db, user)
		case "3D000":
			remedy = "correct the database's name in the url"
		case "0A000": // a standby refuses serializable transactions, the first query's too
			remedy = fmt.Sprintf("ALTER ROLE %s RESET default_transaction_isolation; on the primary", user)
		case "53300":
			remedy = "raise the limit that is named, or let the backup run when fewer sessions are open"
		}
	}
	e.Bad("connect", e.dialer.name()+" cannot be reached: "+printable(err.Error()), why, remedy)
}

func (e *exam) server(ctx context.Context) (err error) {
	if e.srv, err = readServer(ctx, e.c); err != nil {
		return err
	}
	if e.srv.Major == testedMajor {
		e.OK("server-version", "server "+e.srv.Version)
	} else {
		e.Note("server-version", fmt.Sprintf("server %s; this program was tried with version %d", e.srv.Version, testedMajor),
			"catalogues differ between versions; what goes wrong fails loudly, and the first drill shows it", "")
	}
	p, err := findPrograms(ctx, e.src.cfg.BinDir, e.srv.Major)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		e.Bad("pg-dump", printable(err.Error()), "the schema is read by pg_dump, which refuses a server newer than itself",
			fmt.Sprintf("apt-get install postgresql-client-%d", e.srv.Major))
	case !p.restrict:
		e.Warn("pg-dump", "pg_dump "+p.version+" does not know \\restrict",
			"whoever owns the database could put psql commands into its dump (CVE-2025-8714)", "apt-get install --only-upgrade postgresql-client-"+fmt.Sprint(p.major))
	default:
		e.OK("pg-dump", fmt.Sprintf("pg_dump %s in %s", p.version, p.dir))
	}
	return nil
}

// identity reads who we are. A role may have SET role = … as a setting of its
// own: then rights are those of the one, and powers those of the other.
func (e *exam) identity(ctx context.Context) error {
	const q = `SELECT session_user::text, r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user`
	if err := e.c.QueryRow(ctx, q).Scan(&e.login, &e.super); err != nil {
		return fmt.Errorf("read role: %w", err)
	}
	if e.login != e.srv.Role {
		e.Note("set-role", fmt.Sprintf("sessions of %q run as %q", e.login, e.srv.Role), "by a setting \"role\" of the role or the database", "")
	}
	return nil
}

const ownSchemas = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

// survey reads what a role for this database depends on.
func (e *exam) survey(ctx context.Context) error {
	for _, q := range []struct {
		to  *[]string
		sql string
	}{
		{&e.facts.schemas, `SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n WHERE ` + ownSchemas + ` ORDER BY 1`},
		{&e.facts.owners, `SELECT DISTINCT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)) FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'S') AND ` + ownSchemas + `
			UNION SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(datdba)) FROM pg_catalog.pg_database
			WHERE datname = pg_catalog.current_database() ORDER BY 1`},
		{&e.facts.rowLevel, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity AND ` + ownSchemas + ` ORDER BY 1`},
	} {
		list, err := e.texts(ctx, q.sql)
		if err != nil {
			return err
		}
		*q.to = list
	}
	const objects = `SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata`
	if err := e.c.QueryRow(ctx, objects).Scan(&e.facts.objects); err != nil {
		return fmt.Errorf("count large objects: %w", err)
	}
	return nil
}

// texts returns the first column of a query.
func (e *exam) texts(ctx context.Context, sql string, args ...any) ([]string, error) {
	rows, err := e.c.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// me quotes the role that logs in, for SQL.
func (e *exam) me() string { return ident(e.login) }

func ident(name string) string { return pgx.Identifier{printable(name)}.Sanitize() }

// few names the first of a list, for people.
func few(names []string) string {
	const most = 5
	out := make([]string, 0, most)
	for _, n := range names[:min(most, len(names))] {
		out = append(out, printable(n))
	}
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(out, ", "), len(names)-most)
	}
	return strings.Join(out, ", ")
}

// printable is a name, or text with names in it, as a terminal may have it:
// whoever owns the database chose them.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\uFFFD' }) {
		return plainName(s)
	}
	return s
}

// shellWord quotes a path for a shell.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
