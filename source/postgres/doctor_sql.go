package postgres

import (
	"context"
	"fmt"
	"strings"

	"strongroom/source"
)

// prescription is a role that can read one database, all of it, and do nothing
// else. It has its rights one by one: pg_read_all_data, which would be shorter,
// reads every database that the role may connect to, and in each the password
// hashes of all roles (see readsAll). All names are quoted.
type prescription struct {
	role, database  string
	sessions        int
	bypass          bool // some table has row security
	objects         bool // there are large objects
	schemas, owners []string
}

func (p prescription) sql() string {
	var b strings.Builder
	fmt.Fprintf(&b, "-- As a superuser, in database %s. It has no password: where the server asks for one, \\password %s\n", p.database, p.role)
	bypass := "NOBYPASSRLS"
	if p.bypass {
		bypass = "BYPASSRLS"
	}
	fmt.Fprintf(&b, "CREATE ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION %s CONNECTION LIMIT %d;\n", p.role, bypass, p.sessions+2)
	fmt.Fprintf(&b, "ALTER ROLE %s SET default_transaction_read_only = on;\n", p.role)
	fmt.Fprintf(&b, "GRANT CONNECT ON DATABASE %s TO %s;\n", p.database, p.role)
	if in := strings.Join(p.schemas, ", "); in != "" {
		fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA %s TO %s;\n", in, p.role)
		fmt.Fprintf(&b, "GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s;\n", in, p.role)
		fmt.Fprintf(&b, "GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO %s;\n", in, p.role)
	}
	b.WriteString(defaultPrivileges(p.owners, p.role) + "\n")
	if p.objects {
		b.WriteString(grantObjects(unquote(p.role)) + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// defaultPrivileges lets a role read what the owners make from now on.
func defaultPrivileges(owners []string, role string) string {
	var b strings.Builder
	for _, g := range []string{"SELECT ON TABLES", "SELECT ON SEQUENCES", "USAGE ON SCHEMAS"} {
		fmt.Fprintf(&b, "ALTER DEFAULT PRIVILEGES FOR ROLE %s GRANT %s TO %s;\n", printable(strings.Join(owners, ", ")), g, role)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func unquote(ident string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(ident, `"`), `"`), `""`, `"`)
}

// roleCodes are the findings that another role would not have.
var roleCodes = map[string]bool{"schema-usage": true, "table-select": true, "table-lock": true, "sequence-select": true, "large-objects": true,
	"row-security": true, "future-tables": true, "superuser": true, "createdb": true, "createrole": true, "replication": true, "bypassrls": true,
	"predefined-role": true, "admin-option": true, "owner": true, "write-tables": true, "write-sequences": true, "write-objects": true,
	"grant-option": true, "create-objects": true, "reads-all": true}

// prescribe prints the role that this database should be read with, unless
// that is the role which reads it.
func (e *exam) prescribe(ctx context.Context) error {
	trouble := false
	for _, f := range e.Findings {
		trouble = trouble || roleCodes[f.Code] && f.Severity.Worse(source.Note)
	}
	if !trouble {
		e.OK("least-privilege", fmt.Sprintf("role %s can read this database, and no more", e.me()))
		return nil
	}
	name, err := e.freeName(ctx)
	if err != nil {
		return err
	}
	p := prescription{role: ident(name), database: ident(e.srv.Database), sessions: e.sessionsNeeded(),
		bypass: len(e.facts.rowLevel) > 0, objects: e.facts.objects > 0, owners: e.facts.owners}
	for _, n := range e.facts.schemas {
		p.schemas = append(p.schemas, printable(n))
	}
	e.Note("least-privilege", "a role made for this database would have none of the findings above",
		"it reads this database, what its owners will make too, and does nothing else", p.sql())
	return nil
}

// freeName is a role name that nobody has.
func (e *exam) freeName(ctx context.Context) (string, error) {
	base := "strongroom_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(e.srv.Database))
	base = base[:min(len(base), 50)] // NAMEDATALEN is 64
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s_%d", base, n)
		}
		var taken bool
		if err := e.c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::text)`, name).Scan(&taken); err != nil {
			return "", fmt.Errorf("look for role %s: %w", name, err)
		}
		if !taken {
			return name, nil
		}
	}
}
