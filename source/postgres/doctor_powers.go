package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What the role may do and need not. Whoever gets hold of its credentials has
// the same rights; and a dump by a superuser lets whoever can make objects in
// the database run code as that superuser (CVE-2024-7348). Rights that come by
// way of a membership count, also without INHERIT: SET ROLE takes them.

// asMember is a condition on a role's oid.
func asMember(oid string) string {
	return "pg_catalog.pg_has_role(session_user, " + oid + ", 'MEMBER')"
}

// attributes looks at what CREATE ROLE gives.
func (e *exam) attributes(ctx context.Context) error {
	rows, err := e.c.Query(ctx, `SELECT r.rolname::text, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication, r.rolbypassrls
		FROM pg_catalog.pg_roles r WHERE `+asMember("r.oid")+` ORDER BY r.rolname <> session_user, r.rolname`)
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	attrs := []struct {
		code, word, why string
		has             bool
		by              []string
	}{
		{code: "superuser", word: "SUPERUSER", why: "it can do everything on the server, and objects in the database could run code as it while it dumps them"},
		{code: "createdb", word: "CREATEDB", why: "it can fill the server's disk, and copy other databases as templates"},
		{code: "createrole", word: "CREATEROLE", why: "it can give itself and others most rights there are"},
		{code: "replication", word: "REPLICATION", why: "it can copy the whole server, all databases on it, and keep its log from being recycled"},
		{code: "bypassrls", word: "BYPASSRLS", why: "no table here has row security, so nothing needs it"},
	}
	var name string
	_, err = pgx.ForEachRow(rows, []any{&name, &attrs[0].has, &attrs[1].has, &attrs[2].has, &attrs[3].has, &attrs[4].has}, func() error {
		for i := range attrs {
			if attrs[i].has && (!e.super || name == e.login) {
				attrs[i].by = append(attrs[i].by, name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	for _, a := range attrs {
		needed := a.code == "bypassrls" && len(e.facts.rowLevel) > 0
		switch {
		case len(a.by) == 0, e.super && a.code != "superuser":
			e.OK(a.code, fmt.Sprintf("role %s has no %s of its own", e.me(), a.word))
		case needed:
			e.OK(a.code, fmt.Sprintf("role %s has BYPASSRLS, which %s needs", e.me(), few(e.facts.rowLevel)))
		case a.by[0] == e.login:
			e.Warn(a.code, fmt.Sprintf("role %s is %s", e.me(), a.word), a.why, fmt.Sprintf("ALTER ROLE %s NO%s;", e.me(), a.word))
		default:
			e.Warn(a.code, fmt.Sprintf("role %s can become %s, which is %s", e.me(), few(a.by), a.word), a.why, fmt.Sprintf("REVOKE %s FROM %s;", ident(a.by[0]), e.me()))
		}
	}
	return nil
}

// strong are PostgreSQL's own roles that let their members do more than read
// a database (manual, 22.5 Predefined Roles).
var strong = map[string]string{
	"pg_write_all_data":           "it can change every row of every table",
	"pg_execute_server_program":   "it can run programs on the server as the server's user, which is as good as superuser",
	"pg_write_server_files":       "it can write files on the server as the server's user, which is as good as superuser",
	"pg_read_server_files":        "it can read files on the server as the server's user, other databases among them",
	"pg_signal_backend":           "it can end other people's sessions",
	"pg_signal_autovacuum_worker": "it can stop vacuum",
	"pg_checkpoint":               "it can load the server with checkpoints",
	"pg_maintain":                 "it can lock every table exclusively",
	"pg_create_subscription":      "it can have rows brought into the database",
}

// memberships looks at predefined roles, and at roles that it could hand on.
func (e *exam) memberships(ctx context.Context) error {
	if e.super {
		return nil // of everything
	}
	names, err := e.texts(ctx, `SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname ~ '^pg_' AND `+asMember("r.oid")+` ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read memberships: %w", err)
	}
	found := false
	for _, n := range names {
		if why, ok := strong[n]; ok {
			found = true
			e.Warn("predefined-role", fmt.Sprintf("role %s is a member of %s", e.me(), n), why, fmt.Sprintf("REVOKE %s FROM %s;", n, e.me()))
		}
	}
	if !found {
		e.OK("predefined-role", fmt.Sprintf("role %s is in no predefined role that does more than read", e.me()))
	}
	rows, err := e.c.Query(ctx, `SELECT DISTINCT g.rolname::text, m.rolname::text FROM pg_catalog.pg_auth_members a
		JOIN pg_catalog.pg_roles g ON g.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
		WHERE a.admin_option AND `+asMember("a.member")+` ORDER BY 1, 2`)
	if err != nil {
		return fmt.Errorf("read memberships: %w", err)
	}
	var group, member string
	var can, revoke []string
	_, err = pgx.ForEachRow(rows, []any{&group, &member}, func() error {
		can = append(can, group)
		revoke = append(revoke, fmt.Sprintf("REVOKE ADMIN OPTION FOR %s FROM %s;", ident(group), ident(member)))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read memberships: %w", err)
	}
	if len(can) > 0 {
		e.Warn("admin-option", fmt.Sprintf("role %s can make others members of %s", e.me(), few(can)), "it can hand on what it may, and keep it after it was taken away",
			strings.Join(revoke, "\n"))
	} else {
		e.OK("admin-option", fmt.Sprintf("role %s can hand on no membership", e.me()))
	}
	return nil
}

// ownership: an owner can change and drop, and grant itself whatever was taken
// from it. The catalogue of shared dependencies does not list what belongs to
// the role that made the cluster, which is a superuser.
func (e *exam) ownership(ctx context.Context) error {
	if e.super {
		return nil
	}
	owned, err := e.texts(ctx, `SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_catalog.pg_shdepend d
		WHERE d.deptype = 'o' AND d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND `+asMember("d.refobjid")+`
			AND d.dbid IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
		UNION SELECT 'database ' || datname FROM pg_catalog.pg_database WHERE `+asMember("datdba")+` ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read owners: %w", err)
	}
	if len(owned) == 0 {
		e.OK("owner", fmt.Sprintf("role %s owns nothing here", e.me()))
		return nil
	}
	e.Warn("owner", fmt.Sprintf("role %s owns, itself or by membership, %s", e.me(), few(owned)),
		"an owner can change and drop, and take back every right it gave away",
		fmt.Sprintf("REASSIGN OWNED BY %s TO …; or revoke the membership", e.me()))
	return nil
}

// granted are rights that lists of access give to the role, to a role that it
// is a member of, or to everybody.
type granted struct{ object, grantee, rights string }

func (e *exam) granted(ctx context.Context, sql string) ([]granted, error) {
	rows, err := e.c.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("read grants: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (g granted, err error) {
		err = r.Scan(&g.object, &g.grantee, &g.rights)
		return g, err
	})
	if err != nil {
		return nil, fmt.Errorf("read grants: %w", err)
	}
	return list, nil
}

const granteeName = `CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END`

// relationGrants selects rights on relations of the kinds, on their columns
// too. What the role owns is told by ownership.
func relationGrants(kinds, rights, condition string) string {
	return `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), ` + granteeName + `,
			pg_catalog.string_agg(DISTINCT a.privilege_type, ', ')
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, LATERAL (
			SELECT x.grantee, x.privilege_type, x.is_grantable FROM pg_catalog.aclexplode(c.relacl) x
			UNION ALL SELECT x.grantee, x.privilege_type, x.is_grantable FROM pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) x
			WHERE t.attrelid = c.oid AND NOT t.attisdropped) a
		WHERE c.relkind IN (` + kinds + `) AND ` + ownSchemas + ` AND NOT ` + asMember("c.relowner") + `
			AND (a.grantee = 0 OR ` + asMember("a.grantee") + `) AND a.privilege_type IN (` + rights + `)` + condition + `
		GROUP BY 1, 2 ORDER BY 1, 2`
}

// grants looks at rights to write, and to hand on rights.
func (e *exam) grants(ctx context.Context) error {
	if e.super {
		return nil
	}
	for _, look := range []struct {
		code, sql   string
		what, why   string
		kind, right string
	}{
		{"write-tables", relationGrants(`'r', 'p', 'v', 'm', 'f'`, `'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN'`, ""),
			"change tables", "who has its password can change the client's data", "TABLE ", ""},
		{"write-sequences", relationGrants(`'S'`, `'USAGE', 'UPDATE'`, ""),
			"advance sequences", "a reader has no use for it", "SEQUENCE ", ""},
		{"write-objects", `SELECT m.oid::text, ` + granteeName + `, 'UPDATE' FROM pg_catalog.pg_largeobject_metadata m, pg_catalog.aclexplode(m.lomacl) a
			WHERE NOT ` + asMember("m.lomowner") + ` AND a.privilege_type = 'UPDATE' AND (a.grantee = 0 OR ` + asMember("a.grantee") + `) ORDER BY 1, 2`,
			"change large objects", "who has its password can change the client's data", "LARGE OBJECT ", ""},
		{"grant-option", relationGrants(`'r', 'p', 'v', 'm', 'f', 'S'`, `'SELECT'`, " AND a.is_grantable"),
			"let others read", "it can hand on what it may, and keep it after it was taken away", "", "GRANT OPTION FOR "},
	} {
		list, err := e.granted(ctx, look.sql)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			e.OK(look.code, fmt.Sprintf("role %s has no right to %s", e.me(), look.what))
			continue
		}
		var objects, revoke []string
		for _, g := range list {
			objects = append(objects, g.object)
			revoke = append(revoke, printable(fmt.Sprintf("REVOKE %s%s ON %s%s FROM %s;", look.right, g.rights, look.kind, g.object, g.grantee)))
		}
		e.Warn(look.code, fmt.Sprintf("role %s may %s: %s", e.me(), look.what, few(objects)), look.why, bounded(revoke))
	}
	return nil
}

// bounded is a list of statements that a person can still read.
func bounded(statements []string) string {
	const most = 20
	if n := len(statements) - most; n > 0 {
		statements = append(statements[:most:most], fmt.Sprintf("-- and %d more", n))
	}
	return strings.Join(statements, "\n")
}

// creation: whoever can make objects can have others run code. Before version
// 15 everybody could, in the schema public (CVE-2018-1058).
func (e *exam) creation(ctx context.Context) error {
	if e.super {
		return nil
	}
	list, err := e.granted(ctx, `SELECT 'SCHEMA ' || pg_catalog.quote_ident(n.nspname), `+granteeName+`, 'CREATE'
			FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
			WHERE `+ownSchemas+` AND a.privilege_type = 'CREATE' AND NOT `+asMember("n.nspowner")+` AND (a.grantee = 0 OR `+asMember("a.grantee")+`)
		UNION ALL SELECT 'DATABASE ' || pg_catalog.quote_ident(d.datname), `+granteeName+`, 'CREATE'
			FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
			WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CREATE' AND NOT `+asMember("d.datdba")+`
				AND (a.grantee = 0 OR `+asMember("a.grantee")+`) ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		e.OK("create-objects", fmt.Sprintf("role %s can make nothing in this database that lasts", e.me()))
		return nil
	}
	var in, revoke []string
	for _, g := range list {
		in = append(in, strings.ToLower(g.object[:strings.Index(g.object, " ")])+g.object[strings.Index(g.object, " "):])
		revoke = append(revoke, printable(fmt.Sprintf("REVOKE CREATE ON %s FROM %s;", g.object, g.grantee)))
	}
	e.Warn("create-objects", fmt.Sprintf("role %s may make objects in %s", e.me(), few(in)),
		"functions and operators that it makes could be run by others, as them", bounded(revoke))
	return nil
}

// readsAll: pg_read_all_data belongs to the server, not to a database, and
// does not stop at the system's tables: pg_authid has the password hashes of
// all roles, pg_user_mapping the passwords of foreign servers.
func (e *exam) readsAll(ctx context.Context) error {
	if e.super {
		return nil
	}
	var member bool
	if err := e.c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'pg_read_all_data' AND `+asMember("p.oid")+`)`).Scan(&member); err != nil {
		return fmt.Errorf("read membership: %w", err)
	}
	if !member {
		e.OK("reads-all", fmt.Sprintf("role %s reads what was granted to it", e.me()))
		return nil
	}
	others, err := e.texts(ctx, `SELECT pg_catalog.quote_ident(d.datname) FROM pg_catalog.pg_database d
		WHERE d.datallowconn AND NOT d.datistemplate AND d.datname <> pg_catalog.current_database()
			AND pg_catalog.has_database_privilege(session_user, d.oid, 'CONNECT') ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read other databases: %w", err)
	}
	too := "the password hashes of all roles"
	if len(others) > 0 {
		too += " and all tables in " + few(others)
	}
	e.Warn("reads-all", fmt.Sprintf("role %s is a member of pg_read_all_data: it can read %s, too", e.me(), too),
		"that role is of the whole server: one stolen credential reads several clients", "the role below; or REVOKE pg_read_all_data FROM "+e.me()+"; and look again")
	return nil
}
