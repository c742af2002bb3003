package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// role is one that something in the database belongs to or is granted to, or
// that such a role is a member of. Passwords are not read: they are no part
// of a client's database, and restoring one revives a login.
type role struct {
	Name        string     `json:"name"`
	Superuser   bool       `json:"superuser,omitempty"`
	Inherit     bool       `json:"inherit"`
	CreateRole  bool       `json:"createrole,omitempty"`
	CreateDB    bool       `json:"createdb,omitempty"`
	Login       bool       `json:"login,omitempty"`
	Replication bool       `json:"replication,omitempty"`
	BypassRLS   bool       `json:"bypassrls,omitempty"`
	ConnLimit   int        `json:"connlimit"`
	ValidUntil  *time.Time `json:"valid_until,omitempty"`
	Config      []string   `json:"config,omitempty"`
	MemberOf    []string   `json:"member_of,omitempty"`
}

// rolesQuery: pg_shdepend knows every owner, grantee and policy role but the
// bootstrap superuser (oid 10), whom it does not track.
const rolesQuery = `
WITH RECURSIVE used(oid) AS (
	SELECT d.refobjid FROM pg_catalog.pg_shdepend d, pg_catalog.pg_database db
	WHERE db.datname = pg_catalog.current_database() AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
		AND (d.dbid = db.oid OR (d.dbid = 0 AND d.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND d.objid = db.oid))
	UNION SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
	UNION SELECT 10::oid
	UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m JOIN used u ON u.oid = m.member)
SELECT r.rolname::text, r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, r.rolbypassrls,
	r.rolconnlimit, CASE WHEN pg_catalog.isfinite(r.rolvaliduntil) THEN r.rolvaliduntil END, COALESCE(r.rolconfig, '{}'),
	ARRAY(SELECT DISTINCT g.rolname::text FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
		WHERE m.member = r.oid ORDER BY 1)
FROM pg_catalog.pg_roles r WHERE r.oid IN (SELECT oid FROM used) AND r.rolname !~ '^pg_'
ORDER BY r.rolname::text COLLATE "C"`

func readRoles(ctx context.Context, c *pgx.Conn) ([]role, error) {
	rows, err := c.Query(ctx, rolesQuery)
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	roles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r role, err error) {
		err = row.Scan(&r.Name, &r.Superuser, &r.Inherit, &r.CreateRole, &r.CreateDB, &r.Login, &r.Replication, &r.BypassRLS,
			&r.ConnLimit, &r.ValidUntil, &r.Config, &r.MemberOf)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	return groupsFirst(roles), nil
}

// groupsFirst orders roles so that a group comes before its members;
// PostgreSQL refuses circles.
func groupsFirst(roles []role) []role {
	byName := map[string]role{}
	for _, r := range roles {
		byName[r.Name] = r
	}
	var out []role
	var visit func(r role)
	visit = func(r role) {
		if _, left := byName[r.Name]; !left {
			return
		}
		delete(byName, r.Name)
		for _, g := range r.MemberOf {
			if group, ok := byName[g]; ok {
				visit(group)
			}
		}
		out = append(out, r)
	}
	for _, r := range roles {
		visit(r)
	}
	return out
}

// rolesSQL creates the missing roles and leaves those that exist as they are,
// so that it does no harm on the cluster that the dump came from. SUPERUSER,
// REPLICATION and BYPASSRLS are never given by a restore: whoever could write
// to the source would rule the target. Where the loading role may not create
// a role as it was, a NOLOGIN stub that can own things stands in.
func rolesSQL(roles []role) string {
	var b strings.Builder
	b.WriteString("--\n-- Roles that the database uses; existing ones are left alone. No passwords; SUPERUSER, REPLICATION and\n" +
		"-- BYPASSRLS have to be given by hand.\n--\n\n")
	for _, r := range roles {
		b.WriteString(r.createSQL())
		b.WriteString("\n")
	}
	return b.String()
}

func (r role) createSQL() string {
	name := pgx.Identifier{r.Name}.Sanitize()
	attrs := []string{onOff(r.Login, "LOGIN"), onOff(r.Inherit, "INHERIT"), onOff(r.CreateDB, "CREATEDB"), onOff(r.CreateRole, "CREATEROLE")}
	if r.ConnLimit >= 0 {
		attrs = append(attrs, fmt.Sprintf("CONNECTION LIMIT %d", r.ConnLimit))
	}
	if r.ValidUntil != nil {
		attrs = append(attrs, "VALID UNTIL "+literal(r.ValidUntil.UTC().Format("2006-01-02 15:04:05.999999Z07:00")))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "BEGIN\n  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = %s) THEN\n", literal(r.Name))
	fmt.Fprintf(&b, "    BEGIN\n      CREATE ROLE %s %s;\n", name, strings.Join(attrs, " "))
	fmt.Fprintf(&b, "    EXCEPTION WHEN insufficient_privilege THEN\n      CREATE ROLE %s NOLOGIN;\n    END;\n", name)
	for _, g := range r.MemberOf {
		fmt.Fprintf(&b, "    BEGIN\n      GRANT %s TO %s;\n", pgx.Identifier{g}.Sanitize(), name)
		b.WriteString("    EXCEPTION WHEN insufficient_privilege OR undefined_object THEN\n")
		fmt.Fprintf(&b, "      RAISE WARNING 'role %% is not made a member of %%', %s, %s;\n    END;\n", literal(r.Name), literal(g))
	}
	b.WriteString("  END IF;\nEND\n")
	tag := "$role$"
	for n := 0; strings.Contains(b.String(), tag); n++ {
		tag = fmt.Sprintf("$role%d$", n)
	}
	return "DO " + tag + "\n" + b.String() + tag + ";\n"
}

func onOff(on bool, word string) string {
	if on {
		return word
	}
	return "NO" + word
}

// powers lists what createSQL does not give.
func (r role) powers() []string {
	var p []string
	for _, a := range []struct {
		has  bool
		name string
	}{{r.Superuser, "SUPERUSER"}, {r.Replication, "REPLICATION"}, {r.BypassRLS, "BYPASSRLS"}} {
		if a.has {
			p = append(p, a.name)
		}
	}
	return slices.Clip(p)
}
