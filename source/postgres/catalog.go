package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"strongroom/source"
)

// server is what a session knows of its server and database.
type server struct {
	Version    string
	Major      int
	Role       string
	Database   string
	Encoding   string
	InRecovery bool
}

func readServer(ctx context.Context, c *pgx.Conn) (server, error) {
	const q = `SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,
		current_user::text, current_database()::text, current_setting('server_encoding'), pg_catalog.pg_is_in_recovery()`
	var s server
	err := c.QueryRow(ctx, q).Scan(&s.Version, &s.Major, &s.Role, &s.Database, &s.Encoding, &s.InRecovery)
	if err != nil {
		return server{}, fmt.Errorf("read server version: %w", err)
	}
	if s.Major < 12 {
		return server{}, fmt.Errorf("server %s is not supported: want 12 or later", s.Version)
	}
	return s, nil
}

// table is one relation to lock, and where HasData, to dump.
type table struct {
	OID      uint32
	Filenode uint32
	Schema   string
	Name     string
	Owner    string
	Object   string // schema.name, quoted where needed
	Columns  string // quoted and comma separated: those that COPY reads
	Where    string // condition of an extension's configuration table
	HasData  bool   // false for a partitioned table: its partitions have it
	Config   bool   // belongs to an extension, which marked it as data
	Heap     bool   // rows lie in blocks that a ctid tells
	Size     int64  // estimate
	Blocks   int64  // of the rows themselves; known once the table is locked
	Readable bool
	RowLevel bool // row security would hide rows from this role
}

// Identity of a table: TRUNCATE and a rewriting ALTER TABLE change the
// filenode, DROP and CREATE the oid.
type tableID struct {
	oid, filenode uint32
	object        string
}

// tablesQuery selects what pg_dump would lock and dump (getTables,
// selectDumpableTable, processExtensionTables and fmtCopyColumnList in
// pg_dump.c): ordinary and partitioned tables, also unlogged ones, outside the
// system's schemas; of those that belong to an extension only its
// configuration tables. Its answer about data is compared with pg_dump's own
// table of contents.
const tablesQuery = `
SELECT c.oid, c.relfilenode, n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
	pg_catalog.format('%I.%I', n.nspname, c.relname),
	COALESCE((SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
		FROM pg_catalog.pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), ''),
	COALESCE(x.condition, ''), c.relkind = 'r', x.extension IS NOT NULL,
	COALESCE((SELECT m.amname = 'heap' FROM pg_catalog.pg_am m WHERE m.oid = c.relam), false),
	(GREATEST(c.relpages, 0)::bigint + COALESCE((SELECT GREATEST(t.relpages, 0) FROM pg_catalog.pg_class t WHERE t.oid = c.reltoastrelid), 0))
		* current_setting('block_size')::bigint,
	COALESCE(pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND (pg_catalog.has_table_privilege(c.oid, 'SELECT') OR NOT EXISTS (
		SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		AND NOT pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'))), true),
	COALESCE(c.relrowsecurity AND pg_catalog.row_security_active(c.oid), false)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
	AND e.objsubid = 0 AND e.deptype = 'e'
LEFT JOIN (SELECT ext.oid AS extension, u.reloid, u.condition FROM pg_catalog.pg_extension ext,
	LATERAL ROWS FROM (pg_catalog.unnest(ext.extconfig), pg_catalog.unnest(ext.extcondition)) AS u(reloid, condition)) x
	ON x.reloid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
	AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	AND (e.objid IS NULL OR x.reloid IS NOT NULL)
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

func readTables(ctx context.Context, c *pgx.Conn) ([]table, error) {
	rows, err := c.Query(ctx, tablesQuery)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t table, err error) {
		err = r.Scan(&t.OID, &t.Filenode, &t.Schema, &t.Name, &t.Owner, &t.Object, &t.Columns, &t.Where, &t.HasData,
			&t.Config, &t.Heap, &t.Size, &t.Readable, &t.RowLevel)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return tables, nil
}

// measure replaces the estimates of locked tables' sizes: those stand still
// between one ANALYZE and the next. Of tables that are not locked it would
// wait for whoever has them.
func measure(ctx context.Context, c *pgx.Conn, tables []table) error {
	at := map[uint32]int{}
	oids := make([]uint32, len(tables))
	for i, t := range tables {
		at[t.OID], oids[i] = i, t.OID
	}
	rows, err := c.Query(ctx, `SELECT c.oid, pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::bigint,
			pg_catalog.pg_relation_size(c.oid) + COALESCE(pg_catalog.pg_relation_size(NULLIF(c.reltoastrelid, 0)), 0)
		FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1::oid[]) AND c.relkind = 'r'`, oids)
	if err != nil {
		return fmt.Errorf("measure tables: %w", err)
	}
	var oid uint32
	var blocks, size int64
	_, err = pgx.ForEachRow(rows, []any{&oid, &blocks, &size}, func() error {
		t := &tables[at[oid]]
		t.Blocks, t.Size = blocks, size
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure tables: %w", err)
	}
	return nil
}

func identities(tables []table) map[tableID]bool {
	m := make(map[tableID]bool, len(tables))
	for _, t := range tables {
		m[tableID{t.OID, t.Filenode, t.Object}] = true
	}
	return m
}

// checkReadable says at once, not in the middle, that the role lacks a right.
func checkReadable(tables []table, role string) error {
	var denied, hidden []string
	for _, t := range tables {
		if !t.Readable {
			denied = append(denied, t.Object)
		}
		if t.HasData && t.RowLevel {
			hidden = append(hidden, t.Object)
		}
	}
	if len(denied) > 0 {
		return source.WithClass(source.Refused, fmt.Errorf("role %q may not read %s: strongroom doctor prints the grants", role, several(denied)))
	}
	if len(hidden) > 0 {
		return source.WithClass(source.Refused, fmt.Errorf("row security hides rows of %s from role %q: it needs BYPASSRLS; see strongroom doctor", several(hidden), role))
	}
	return nil
}

// several names the first of a list and how many more there are.
func several(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// sequence is one sequence's place to go on from.
type sequence struct {
	Schema string `json:"-"`
	Name   string `json:"-"`
	Owner  string `json:"-"`
	Object string `json:"name"`
	Last   int64  `json:"last"`
	Called bool   `json:"called"`
}

const sequencesQuery = `
SELECT n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text, pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_depend e ON e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
	AND e.objsubid = 0 AND e.deptype = 'e'
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	AND (e.objid IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE c.oid = ANY (x.extconfig)))
ORDER BY n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// readSequences reads the values too. They do not belong to the snapshot: a
// sequence is not transactional, so they are as of now, never behind the rows.
func readSequences(ctx context.Context, c *pgx.Conn) ([]sequence, error) {
	rows, err := c.Query(ctx, sequencesQuery)
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	seqs, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (s sequence, err error) {
		err = r.Scan(&s.Schema, &s.Name, &s.Owner, &s.Object)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	const step = 500 // one round trip reads that many
	for i := 0; i < len(seqs); i += step {
		if err := readSequenceValues(ctx, c, seqs[i:min(i+step, len(seqs))]); err != nil {
			return nil, err
		}
	}
	return seqs, nil
}

func readSequenceValues(ctx context.Context, c *pgx.Conn, seqs []sequence) error {
	var q strings.Builder
	for i, s := range seqs {
		if i > 0 {
			q.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&q, "SELECT %d, last_value, is_called FROM %s", i, s.Object)
	}
	rows, err := c.Query(ctx, q.String())
	if err != nil {
		return fmt.Errorf("read sequences: %w", err)
	}
	var i int
	var last int64
	var called bool
	_, err = pgx.ForEachRow(rows, []any{&i, &last, &called}, func() error {
		seqs[i].Last, seqs[i].Called = last, called
		return nil
	})
	if err != nil {
		return fmt.Errorf("read sequences: %w", err)
	}
	return nil
}

// consistency is where and when a snapshot was taken.
type consistency struct {
	Snapshot string
	Time     time.Time
	LSN      string
}

// encoder turns text of ours into the database's encoding, which is the
// dump's.
type encoder struct {
	c        *pgx.Conn
	encoding string
}

func (e encoder) bytes(ctx context.Context, s string) ([]byte, error) {
	if e.encoding == "UTF8" || e.encoding == "SQL_ASCII" {
		return []byte(s), nil
	}
	var b []byte
	err := e.c.QueryRow(ctx, `SELECT pg_catalog.convert_to($1::text, $2::text::name)`, s, e.encoding).Scan(&b)
	if err != nil {
		return nil, fmt.Errorf("convert %.60q to %s: %w", s, e.encoding, err)
	}
	return b, nil
}

// oneLine is how pg_dump writes a name into a comment (sanitize_line).
func oneLine(s string) string {
	if s == "" {
		return "-"
	}
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(s)
}

// literal quotes a string for standard_conforming_strings = on.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

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
