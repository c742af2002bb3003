package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// detail is Report.Detail: what a restore needs to know and a person or a
// drill may want to compare. Version 1.
type detail struct {
	Format      int           `json:"format"`
	Database    string        `json:"database"`
	Role        string        `json:"role"`
	Server      string        `json:"server"`
	Major       int           `json:"major"`
	PgDump      string        `json:"pg_dump"`
	Standby     bool          `json:"standby,omitempty"`
	Time        time.Time     `json:"time"`
	LSN         string        `json:"lsn,omitempty"`
	Encoding    string        `json:"encoding"`
	Locale      locale        `json:"locale"`
	Settings    []setting     `json:"settings,omitempty"`
	Extensions  []extension   `json:"extensions,omitempty"`
	Roles       []role        `json:"roles"`
	Config      []configTable `json:"config_tables,omitempty"`
	ObjectCount int           `json:"object_count"`
	ObjectHash  string        `json:"object_hash"` // SHA-256 of the sorted list, a line each
	// Objects and Sequences are left out where they would not fit, and
	// Omitted says so.
	Objects   []string   `json:"objects,omitempty"`
	Sequences []sequence `json:"sequences,omitempty"`
	Omitted   []string   `json:"omitted,omitempty"`
}

type locale struct {
	Collate string `json:"collate"`
	CType   string `json:"ctype"`
	// Provider is c (libc), i (ICU) or b (builtin); "" before version 15.
	Provider string `json:"provider,omitempty"`
	ICU      string `json:"icu,omitempty"` // or the builtin provider's
	Version  string `json:"collation_version,omitempty"`
}

// setting is ALTER DATABASE … SET, or with Role ALTER ROLE … IN DATABASE … SET.
type setting struct {
	Role   string   `json:"role,omitempty"`
	Values []string `json:"values"` // name=value
}

type extension struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Schema  string `json:"schema"`
}

// configTable is an extension's configuration table: which of its rows are
// data. The others come with the extension.
type configTable struct {
	Object string `json:"object"`
	Where  string `json:"where,omitempty"`
}

const maxDetail = 1 << 20 // the contract of source.Report

func readDetail(ctx context.Context, h *held, srv server, progs programs, roles []role, seqs []sequence) (json.RawMessage, error) {
	c := h.coord
	d := detail{Format: 1, Database: srv.Database, Role: srv.Role, Server: srv.Version, Major: srv.Major, PgDump: progs.version,
		Standby: srv.InRecovery, Time: h.Time, LSN: h.LSN, Encoding: srv.Encoding, Roles: roles, Sequences: seqs}
	var err error
	if d.Locale, err = readLocale(ctx, c, srv.Major); err != nil {
		return nil, err
	}
	if d.Settings, err = collect[setting](ctx, c, "database settings", `
		SELECT COALESCE(pg_catalog.pg_get_userbyid(NULLIF(s.setrole, 0))::text, ''), s.setconfig FROM pg_catalog.pg_db_role_setting s
		JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase WHERE d.datname = pg_catalog.current_database() ORDER BY 1`); err != nil {
		return nil, err
	}
	if d.Extensions, err = collect[extension](ctx, c, "extensions", extensionsQuery); err != nil {
		return nil, err
	}
	for _, t := range h.tables {
		if t.Config {
			d.Config = append(d.Config, configTable{plainName(t.Object), t.Where})
		}
	}
	if err := d.readObjects(ctx, c); err != nil {
		return nil, err
	}
	return d.encode()
}

func collect[T any](ctx context.Context, c *pgx.Conn, what, sql string) ([]T, error) {
	rows, err := c.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return list, nil
}

func readLocale(ctx context.Context, c *pgx.Conn, major int) (locale, error) {
	q := `SELECT datcollate::text, datctype::text, '', '', '' FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`
	icu := "daticulocale"
	if major >= 17 {
		icu = "datlocale" // renamed
	}
	if major >= 15 {
		q = `SELECT datcollate::text, datctype::text, datlocprovider::text, COALESCE(` + icu + `::text, ''), COALESCE(datcollversion, '')
			FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`
	}
	l, err := collect[locale](ctx, c, "locale", q)
	if err != nil {
		return locale{}, err
	}
	if len(l) != 1 {
		return locale{}, fmt.Errorf("read locale: %d rows", len(l))
	}
	return l[0], nil
}

const extensionsQuery = `SELECT e.extname::text, e.extversion, n.nspname::text
	FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY 1`

// objectsQuery lists what the database's own part of the catalogue holds, one
// line an object, extensions' members left out.
const objectsQuery = `
SELECT line FROM (
	SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
		WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'i' THEN 'index' WHEN 'I' THEN 'partitioned index' WHEN 'c' THEN 'type'
		ELSE c.relkind::text END || ' ' || pg_catalog.format('%I.%I', n.nspname, c.relname) AS line, c.tableoid AS classid, c.oid, n.nspname
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't'
	UNION ALL SELECT 'routine ' || pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
		p.tableoid, p.oid, n.nspname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
	UNION ALL SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || pg_catalog.format('%I.%I', n.nspname, t.typname), t.tableoid, t.oid, n.nspname
	FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
	UNION ALL SELECT 'constraint ' || pg_catalog.format('%I.%I.%I', n.nspname, c.relname, k.conname), k.tableoid, k.oid, n.nspname
	FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	UNION ALL SELECT 'trigger ' || pg_catalog.format('%I.%I.%I', n.nspname, c.relname, t.tgname), t.tableoid, t.oid, n.nspname
	FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE NOT t.tgisinternal
	UNION ALL SELECT 'policy ' || pg_catalog.format('%I.%I.%I', n.nspname, c.relname, p.polname), p.tableoid, p.oid, n.nspname
	FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	UNION ALL SELECT 'schema ' || pg_catalog.quote_ident(n.nspname), n.tableoid, n.oid, n.nspname FROM pg_catalog.pg_namespace n
	UNION ALL SELECT 'extension ' || pg_catalog.quote_ident(e.extname), e.tableoid, e.oid, '' FROM pg_catalog.pg_extension e
	UNION ALL SELECT 'large objects ' || pg_catalog.count(*), 0, 0, '' FROM pg_catalog.pg_largeobject_metadata
) o
WHERE o.nspname !~ '^pg_' AND o.nspname <> 'information_schema'
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e')
ORDER BY line COLLATE "C"`

func (d *detail) readObjects(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, objectsQuery)
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	sum := sha256.New()
	for i, l := range lines {
		lines[i] = plainName(l)
		fmt.Fprintln(sum, lines[i])
	}
	d.Objects, d.ObjectCount, d.ObjectHash = lines, len(lines), hex.EncodeToString(sum.Sum(nil))
	return nil
}

// encode drops the long lists where the record would grow too big: a restore
// needs neither.
func (d *detail) encode() (json.RawMessage, error) {
	for {
		b, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("encode detail: %w", err)
		}
		switch {
		case len(b) <= maxDetail:
			return b, nil
		case d.Objects != nil:
			d.Objects, d.Omitted = nil, append(d.Omitted, "objects")
		case d.Sequences != nil:
			d.Sequences, d.Omitted = nil, append(d.Omitted, "sequences")
		default:
			return nil, fmt.Errorf("detail is %d bytes without any list", len(b))
		}
	}
}

func decodeDetail(raw json.RawMessage) (detail, error) {
	var d detail
	if err := json.Unmarshal(raw, &d); err != nil {
		return detail{}, fmt.Errorf("snapshot's detail: %w", err)
	}
	if d.Format != 1 {
		return detail{}, fmt.Errorf("snapshot's detail has format %d: want 1", d.Format)
	}
	if d.Encoding == "" || d.Database == "" {
		return detail{}, fmt.Errorf("snapshot's detail lacks the database's name or encoding")
	}
	return d, nil
}
