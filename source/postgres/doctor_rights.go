package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What the role may not do and has to.

// rightsQuery asks of every relation that a snapshot locks or reads (the same
// as tablesQuery and sequencesQuery) whether the role in force may. LOCK TABLE
// … IN ACCESS SHARE MODE, which pg_dump and we begin with, wants SELECT on the
// table itself: SELECT on each of its columns is enough for COPY alone.
const rightsQuery = `
SELECT pg_catalog.quote_ident(n.nspname), pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind = 'S',
	pg_catalog.has_schema_privilege(n.oid, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'SELECT'),
	c.relkind <> 'S' AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' AND ` + ownSchemas + `
	AND (NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
			AND e.objsubid = 0 AND e.deptype = 'e')
		OR EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE c.oid = ANY (x.extconfig)))
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

func (e *exam) readable(ctx context.Context) error {
	rows, err := e.c.Query(ctx, rightsQuery)
	if err != nil {
		return fmt.Errorf("read rights: %w", err)
	}
	var schema, object string
	var sequence, usage, selects, columns bool
	var tables, locks, sequences []string
	var schemas []string
	seen := map[string]bool{}
	_, err = pgx.ForEachRow(rows, []any{&schema, &object, &sequence, &usage, &selects, &columns}, func() error {
		if !usage && !seen[schema] {
			seen[schema] = true
			schemas = append(schemas, schema)
		}
		switch {
		case selects:
		case sequence:
			sequences = append(sequences, object)
		case columns:
			locks = append(locks, object)
		default:
			tables = append(tables, object)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read rights: %w", err)
	}
	e.missing("schema-usage", "use schemas", schemas, "USAGE ON SCHEMA ", "what is in a schema is out of reach without USAGE on it")
	e.missing("table-select", "read tables", tables, "SELECT ON TABLE ", "a snapshot without one of the tables would not be one, so there is none")
	e.missing("table-lock", "lock tables", locks, "SELECT ON TABLE ", "LOCK TABLE wants SELECT on the whole table; rights on its columns are not enough")
	e.missing("sequence-select", "read sequences", sequences, "SELECT ON SEQUENCE ", "where a sequence goes on is part of the snapshot")
	return nil
}

// missing reports what the role lacks.
func (e *exam) missing(code, act string, objects []string, right, why string) {
	if len(objects) == 0 {
		e.OK(code, fmt.Sprintf("role %s may %s, all that a snapshot needs", e.roleInForce(), act))
		return
	}
	e.Bad(code, fmt.Sprintf("role %s may not %s: %s", e.roleInForce(), act, few(objects)), why, e.statements("GRANT "+right, objects, " TO "+e.roleInForce()))
}

func (e *exam) roleInForce() string { return ident(e.srv.Role) }

// statements is one statement for all objects, which must be few lines.
func (e *exam) statements(head string, objects []string, tail string) string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = printable(o)
	}
	return head + strings.Join(names, ", ") + tail + ";"
}

// objectsQuery of large objects: pg_largeobject_metadata is open to all, and
// only version 18 has a function that asks for the right. Neither
// pg_read_all_data nor, before 18, default privileges know large objects.
const largeObjectsQuery = `
SELECT pg_catalog.count(*), COALESCE(pg_catalog.min(m.oid), 0) FROM pg_catalog.pg_largeobject_metadata m
WHERE current_setting('lo_compat_privileges') = 'off' AND NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE')
	AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT'
		AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))`

func (e *exam) largeObjects(ctx context.Context) error {
	var denied int64
	var first uint32
	if err := e.c.QueryRow(ctx, largeObjectsQuery).Scan(&denied, &first); err != nil {
		return fmt.Errorf("read rights on large objects: %w", err)
	}
	switch {
	case denied > 0:
		e.Bad("large-objects", fmt.Sprintf("role %s may not read %d of %d large objects, the first is %d", e.roleInForce(), denied, e.facts.objects, first),
			"pg_read_all_data does not cover large objects", grantObjects(e.srv.Role))
	case e.facts.objects > 0 && !e.super:
		e.Note("large-objects", fmt.Sprintf("%d large objects, all can be read", e.facts.objects),
			"rights on large objects are given one by one: a new one fails the next snapshot until it is granted; `before` of the dataset can do that",
			grantObjects(e.srv.Role))
	default:
		e.OK("large-objects", fmt.Sprintf("%d large objects, all can be read", e.facts.objects))
	}
	return nil
}

// grantObjects runs as whoever owns the objects.
func grantObjects(role string) string {
	return "DO $$ DECLARE o oid; BEGIN FOR o IN SELECT oid FROM pg_catalog.pg_largeobject_metadata LOOP\n" +
		"  EXECUTE pg_catalog.format('GRANT SELECT ON LARGE OBJECT %s TO %I', o, " + dollarSafe(role) + "); END LOOP; END $$;"
}

// dollarSafe quotes a string for use between $$ and $$.
func dollarSafe(s string) string {
	return strings.ReplaceAll(literal(printable(s)), "$$", "$' || '$")
}

// rowSecurity: sessions of ours run with row_security = off, so that a policy
// makes them fail instead of hiding rows.
func (e *exam) rowSecurity(ctx context.Context) error {
	hidden, err := e.texts(ctx, `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relrowsecurity AND pg_catalog.row_security_active(c.oid) AND `+ownSchemas+` ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read row security: %w", err)
	}
	switch {
	case len(hidden) > 0:
		e.Bad("row-security", fmt.Sprintf("row security would hide rows of %s from role %s", few(hidden), e.roleInForce()),
			"a snapshot of the rows that a policy shows would look whole; it is refused instead",
			fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", e.roleInForce()))
	case len(e.facts.rowLevel) > 0:
		e.OK("row-security", fmt.Sprintf("row security on %s does not apply to role %s", few(e.facts.rowLevel), e.roleInForce()))
	default:
		e.OK("row-security", "no table has row security")
	}
	return nil
}

// future: a table made tomorrow must be readable next Sunday.
func (e *exam) future(ctx context.Context) error {
	var all bool
	const member = `SELECT r.rolsuper OR EXISTS (SELECT FROM pg_catalog.pg_roles p WHERE p.rolname = 'pg_read_all_data'
		AND pg_catalog.pg_has_role(r.oid, p.oid, 'USAGE')) FROM pg_catalog.pg_roles r WHERE r.rolname = current_user`
	if err := e.c.QueryRow(ctx, member).Scan(&all); err != nil {
		return fmt.Errorf("read membership: %w", err)
	}
	if all {
		e.OK("future-tables", "tables, sequences and schemas to come can be read, too; large objects and row security are beside pg_read_all_data")
		return nil
	}
	lacking, err := e.texts(ctx, `SELECT DISTINCT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o.owner)) FROM (
			SELECT c.relowner AS owner FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'p', 'S') AND `+ownSchemas+`
			UNION SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) o
		WHERE NOT pg_catalog.pg_has_role(o.owner, 'USAGE') AND EXISTS (SELECT FROM (VALUES ('r'::"char", 'SELECT'), ('S', 'SELECT'), ('n', 'USAGE')) w(kind, want)
			WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a
				WHERE d.defaclrole = o.owner AND d.defaclnamespace = 0 AND d.defaclobjtype = w.kind AND a.privilege_type = w.want
				AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))))
		ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read default privileges: %w", err)
	}
	if len(lacking) == 0 {
		e.OK("future-tables", "default privileges of every owner here let role "+e.roleInForce()+" read what they make next")
		return nil
	}
	e.Warn("future-tables", fmt.Sprintf("role %s will not be able to read what %s will make", e.roleInForce(), few(lacking)),
		"the first snapshot after a new table is refused", defaultPrivileges(lacking, e.roleInForce()))
	return nil
}

// sessionsNeeded is how many sessions a snapshot has open at most: two that
// hold locks and snapshot beside two pg_dump at first, then beside the jobs.
func (e *exam) sessionsNeeded() int { return 2 + max(2, e.src.cfg.Jobs) }

func (e *exam) sessions(ctx context.Context) error {
	const q = `SELECT r.rolconnlimit, d.datconnlimit,
		current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
			- COALESCE(current_setting('reserved_connections', true)::int, 0),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid IS NOT NULL),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid),
		(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = r.oid)
		FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = session_user AND d.datname = pg_catalog.current_database()`
	var role, database, server, open, openHere, openMine int
	if err := e.c.QueryRow(ctx, q).Scan(&role, &database, &server, &open, &openHere, &openMine); err != nil {
		return fmt.Errorf("read limits of sessions: %w", err)
	}
	need, found := e.sessionsNeeded(), false
	for _, l := range []struct {
		limit, open int
		what, fix   string
	}{
		{role, openMine, "role " + e.me(), fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d;", e.me(), need+2)},
		{database, openHere, "database " + ident(e.srv.Database), fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT …; or fewer jobs", ident(e.srv.Database))},
		{server, open, "the server", "raise max_connections, or fewer jobs"},
	} {
		// A superuser is bound by none of the limits but the server's whole.
		if l.limit < 0 || e.super {
			continue
		}
		switch others := l.open - 1; { // without ours
		case l.limit < need:
			found = true
			e.Bad("connections", fmt.Sprintf("%s takes %d sessions, a snapshot needs %d", l.what, l.limit, need), "with "+fmt.Sprint(e.src.cfg.Jobs)+" jobs", l.fix)
		case l.limit-others < need:
			found = true
			e.Warn("connections", fmt.Sprintf("%s takes %d sessions, %d are open now, a snapshot needs %d", l.what, l.limit, others, need),
				"a snapshot begun now would fail", l.fix)
		}
	}
	if !found {
		e.OK("connections", fmt.Sprintf("a snapshot needs %d sessions of %d, %d are open", need, server, open-1))
	}
	return nil
}
