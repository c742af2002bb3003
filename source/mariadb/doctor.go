package mariadb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"

	"strongroom/source"
)

// testedMajor is the server version that our own tests run on.
const testedMajor = 1011

// exam is one examination of a database and of the user that reads it.
type exam struct {
	source.Findings
	src    *Source
	dialer *dialer
	c      *session
	srv    server
	grants []grant
}

// A grant is a line of SHOW GRANTS.
type grant struct {
	rights []string
	on     string // as the server writes it: *.*, `db`.*, `db`.`t`
	pass   bool   // WITH GRANT OPTION
}

// Examine looks at all that decides whether snapshots of this database succeed
// and whether the user could do more than read. It changes nothing and takes no
// lock. An error is a failure of the examination itself; a server that cannot be
// reached is a finding.
func (s *Source) Examine(ctx context.Context) (_ []source.Finding, err error) {
	e := &exam{src: s}
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
	defer func() { _ = e.c.close() }() // nothing hangs on how it ends
	e.OK("connect", e.dialer.name()+" answers")
	if e.srv, err = readServer(ctx, e.c); err != nil {
		e.Bad("server", err.Error(), "no snapshot can be taken", "")
		return e.Findings, nil
	}
	e.version()
	for _, look := range []func(context.Context) error{e.readGrants, e.weak, e.strong, e.tables, e.sessions, e.drillEngine, e.prescribe} {
		if err := look(ctx); err != nil {
			return nil, fmt.Errorf("mariadb: examine %s: %w", e.dialer.name(), err)
		}
	}
	return e.Findings, nil
}

// connection judges how the password and the way to the server are told.
func (e *exam) connection() {
	if f := e.src.cfg.PasswordFile; f != "" {
		if st, err := os.Stat(f); err == nil && st.Mode().Perm()&0o077 != 0 {
			e.Warn("password-file", fmt.Sprintf("password file %s has mode %04o", f, st.Mode().Perm()),
				"others on this machine can read the client's database with it", "chmod 600 the file, and change the password")
		}
	}
	switch {
	case e.dialer.cfg.Net == "unix":
		e.OK("transport", "unix socket")
	case e.dialer.cfg.TLS == nil:
		e.Warn("transport", "tls=off: nothing is encrypted, and the server is not known to be the one",
			"whoever is on the way between can read the rows, or answer in the server's place; only a tunnel or this host's own network is without such", "leave tls=off out of the url, with ca=FILE where the system does not know who signed")
	default:
		e.OK("transport", "TLS, the server's certificate and name are checked")
	}
}

// unreachable explains why there is no session.
func (e *exam) unreachable(err error) {
	const why = "no snapshot can be taken"
	user, db := account(err, e.dialer.cfg.User), ident(e.dialer.cfg.DBName)
	switch code(err) {
	case errDatabaseAccess:
		e.Bad("connect", fmt.Sprintf("user %s may not use database %s", user, db), why, least(user, e.dialer.cfg.DBName))
	case errAccess:
		e.Bad("connect", fmt.Sprintf("user %s is not let in", user), why, "correct the password, or make the user:\n"+least(user, e.dialer.cfg.DBName))
	case errNoDatabase:
		e.Bad("connect", fmt.Sprintf("there is no database %s", db), why, "correct the url")
	default:
		e.Bad("connect", err.Error(), why, "")
	}
}

// denied is how the server names the account that it took a session for, or would
// have taken it for. A grant to the user at '%' does nothing for one at 'localhost'.
var denied = regexp.MustCompile(`^Access denied for user '(.*)'@'([^']*)'`)

// account is who was denied, as statements name it.
func account(err error, user string) string {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		if m := denied.FindStringSubmatch(e.Message); m != nil {
			return literal(m[1]) + "@" + literal(m[2])
		}
	}
	return literal(user)
}

func (e *exam) version() {
	if e.srv.Major == testedMajor {
		e.OK("server", "MariaDB "+e.srv.Version)
		return
	}
	e.Note("server", "MariaDB "+e.srv.Version, fmt.Sprintf("our own tests run with %d.%d; drills show whether this one comes back", testedMajor/100, testedMajor%100), "")
}

// readGrants reads what the user was given, by roles too.
func (e *exam) readGrants(ctx context.Context) error {
	return e.c.query(ctx, "SHOW GRANTS", func(v []string) error {
		list, ok := strings.CutPrefix(v[0], "GRANT ")
		list, rest, ok2 := cutUnquoted(list, " ON ")
		if !ok || !ok2 {
			return nil // a role, whose own lines follow
		}
		on, tail, _ := cutUnquoted(rest, " TO ")
		e.grants = append(e.grants, grant{splitRights(list), on, strings.HasSuffix(tail, " WITH GRANT OPTION")})
		return nil
	})
}

// splitRights splits a list of rights, some with columns in parentheses.
func splitRights(list string) (out []string) {
	depth, from := 0, 0
	_ = scan(list, func(i int) bool { // quotes that do not end are the server's fault, and the rest is one right
		switch {
		case list[i] == '(':
			depth++
		case list[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(list[i:], ", "):
			out = append(out, list[from:i])
			from = i + 2
		}
		return true
	})
	return append(out, list[from:])
}

// weak finds what a snapshot could not see or do.
func (e *exam) weak(ctx context.Context) error {
	if err := checkRights(ctx, e.c, e.srv); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.Bad("rights", err.Error(), "the server does not list what it hides, and a dump without it would look whole: it is refused", least(e.me(), e.srv.Database))
	} else {
		e.OK("rights", "the user sees all of the database")
	}
	if !e.has("RELOAD") && !e.has("LOCK TABLES") {
		e.Bad("lock", "the user can neither RELOAD nor LOCK TABLES", "several sessions see one moment only while no commit can pass",
			fmt.Sprintf("GRANT LOCK TABLES ON %s.* TO %s;", ident(e.srv.Database), e.me()))
	}
	return nil
}

// me is the user in force, as statements name it.
func (e *exam) me() string {
	name, host, ok := cutLast(e.srv.User, "@")
	if !ok {
		return literal(e.srv.User)
	}
	return literal(name) + "@" + literal(host)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// has reports whether a right on all of the database, or everywhere, was given.
func (e *exam) has(right string) bool {
	return slices.ContainsFunc(e.grants, func(g grant) bool {
		here := g.on == "*.*"
		if !here {
			pattern, rest := cutIdent(g.on)
			here = rest == ".*" && like(e.srv.Database, pattern)
		}
		return here && (slices.Contains(g.rights, right) || slices.Contains(g.rights, "ALL PRIVILEGES"))
	})
}

// harmless rights read, or are what it takes to read. TRIGGER and EVENT let a
// user make such, too: the server has no right to see them only.
var harmless = []string{"USAGE", "SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "LOCK TABLES", "RELOAD", "SHOW CREATE ROUTINE", "SHOW DATABASES",
	"BINLOG MONITOR", "REPLICATION CLIENT", "SLAVE MONITOR"}

// strong finds what the user can do besides reading this database.
func (e *exam) strong(context.Context) error {
	var writes, reads []string
	pass := false
	for _, g := range e.grants {
		pass = pass || g.pass
		for _, r := range g.rights {
			bare, _, _ := strings.Cut(r, " (") // of columns
			if !slices.Contains(harmless, bare) {
				writes = append(writes, r+" ON "+g.on)
			}
			if (bare == "SELECT" || bare == "ALL PRIVILEGES") && !e.ours(g.on) {
				reads = append(reads, g.on)
			}
		}
	}
	if len(writes) > 0 {
		e.Warn("writes", fmt.Sprintf("the user can do more than read: %s", listed(writes)),
			"who has this box, or only the password, could change or destroy the client's data with it", "make a user for backups alone, see least-privilege")
	}
	if pass {
		e.Warn("grant-option", "the user can pass its rights on", "they would stay with others when this user is dropped", "make a user for backups alone, see least-privilege")
	}
	if len(reads) > 0 {
		e.Warn("reads-all", "the user can read other databases too: "+listed(reads), "one client's backups should not open another's data", "make a user for backups alone, see least-privilege")
	}
	return nil
}

// ours reports whether what a grant is on lies in this database, or is the table
// of routines.
func (e *exam) ours(on string) bool {
	if on == "`mysql`.`proc`" {
		return true
	}
	if on == "*.*" {
		return false
	}
	name, _ := cutIdent(on)
	return strings.NewReplacer(`\_`, "_", `\%`, "%").Replace(name) == e.srv.Database
}

func listed(all []string) string {
	const most = 6
	if len(all) > most {
		return strings.Join(all[:most], ", ") + fmt.Sprintf(" and %d more", len(all)-most)
	}
	return strings.Join(all, ", ")
}

// tables finds those that cannot be dumped, or not well.
func (e *exam) tables(ctx context.Context) error {
	tables, err := readTables(ctx, e.c)
	if err != nil {
		return err
	}
	if err := e.src.cfg.checkTables(tables); err != nil {
		e.Bad("tables", err.Error(), "the snapshot would be refused", "")
	} else {
		e.OK("tables", fmt.Sprintf("%d can be dumped", len(tables)))
	}
	var loose, unordered []string
	for _, t := range tables {
		if t.kind == "BASE TABLE" && !t.transactional() {
			loose = append(loose, plainName(t.Name))
		}
		if t.kind == "BASE TABLE" && t.key == "" && t.odd == "" {
			unordered = append(unordered, plainName(t.Name))
		}
	}
	if e.src.cfg.Lock && len(loose) > 0 {
		e.Note("locked", "nobody can write to these during a snapshot: "+listed(loose), "their engine has no transactions, and lock = true", "ALTER TABLE … ENGINE=InnoDB")
	}
	if len(unordered) > 0 {
		e.Note("unordered", "these have no primary key, and no unique one without NULLs: "+listed(unordered), "their rows come in no order that is sure to be the same next time, so more may be stored", "")
	}
	return nil
}

// sessions compares how many the user may have with how many it takes.
func (e *exam) sessions(ctx context.Context) error {
	v, err := e.c.one(ctx, "SELECT @@SESSION.max_user_connections, @@GLOBAL.max_connections")
	if err != nil {
		return err
	}
	needed := e.src.cfg.Jobs + 2 // one fixes the moment, one blocks commits meanwhile
	if e.src.cfg.Lock {
		needed++
	}
	for i, what := range []string{"the user", "the server"} {
		if n, err := strconv.Atoi(v[i]); err == nil && n > 0 && n < needed {
			e.Bad("sessions", fmt.Sprintf("%s may have %d sessions, and a snapshot takes %d", what, n, needed), "the snapshot fails where it opens one too many", fmt.Sprintf("raise it, or lower jobs from %d", e.src.cfg.Jobs))
			return nil
		}
	}
	e.OK("sessions", fmt.Sprintf("%d can be opened", needed))
	return nil
}

// ServerProgram is the server as Debian installs it.
const ServerProgram = "/usr/sbin/mariadbd"

// SystemTables are the files of the statements that make a server's own tables, in
// the order in which mariadb-install-db has them.
func SystemTables() []string {
	const dir = "/usr/share/mysql/"
	return []string{dir + "mysql_system_tables.sql", dir + "mysql_performance_tables.sql", dir + "mysql_system_tables_data.sql"}
}

// serverFiles is a variable for tests.
var serverFiles = func() []string { return append([]string{ServerProgram}, SystemTables()...) }

// drillEngine: a snapshot is proven by a restore into a server of this box. Of
// which version that is only the program itself tells, and a drill asks it.
func (e *exam) drillEngine(context.Context) error {
	for _, f := range serverFiles() {
		if _, err := os.Stat(f); err != nil {
			e.Warn("drill-engine", "no MariaDB server is installed here: "+err.Error(), "snapshots of this server cannot be proven by a restore on this machine",
				fmt.Sprintf("apt-get install mariadb-server, of version %d.%d; it need not run", e.srv.Major/100, e.srv.Major%100))
			return nil
		}
	}
	e.OK("drill-engine", "a MariaDB server is installed here")
	return nil
}

// userCodes are the findings that another user would not have.
var userCodes = map[string]bool{"rights": true, "lock": true, "writes": true, "grant-option": true, "reads-all": true}

// prescribe prints the user that this database should be read with, unless that
// is the one which reads it.
func (e *exam) prescribe(context.Context) error {
	if !slices.ContainsFunc(e.Findings, func(f source.Finding) bool { return userCodes[f.Code] && f.Severity.Worse(source.Note) }) {
		e.OK("least-privilege", "the user can read this database, and little more: TRIGGER and EVENT, without which it would not see them, make such too")
		return nil
	}
	host := "localhost"
	if e.dialer.cfg.Net != "unix" {
		host = "THIS BOX"
	}
	e.Note("least-privilege", "a user made for this database would have none of the findings above", "it reads this database and no other",
		least(literal("strongroom")+"@"+literal(host), e.srv.Database))
	return nil
}

// least is the SQL of the user that reads one database, all of it. A grant's
// database is a pattern.
func least(user, database string) string {
	pattern := ident(strings.NewReplacer(`\`, `\\`, "_", `\_`, "%", `\%`).Replace(database))
	return fmt.Sprintf("-- As root. IDENTIFIED BY or VIA where the server should ask for something.\nCREATE USER IF NOT EXISTS %[1]s;\n"+
		"GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON %[2]s.* TO %[1]s;\nGRANT SELECT ON mysql.proc TO %[1]s;", user, pattern)
}
