package mariadb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// object is one thing of the schema, as the server would make it again.
type object struct {
	kind string // table, sequence, view, unusable view, trigger, function, procedure, package, package body, event
	name string
	sql  string // what SHOW CREATE shows
	// set are the session's settings that the text was written under.
	set []string
	// columns of a view.
	columns []string
	next    string // of a sequence: the value to go on from
	engine  string // of a table
}

func (o object) String() string { return o.kind + " " + plainName(o.name) }

// schema is all that a database holds but rows.
type schema struct {
	srv     server
	objects []object
	// unusable names views that the server cannot use.
	unusable []string
	// remarks are about views that will not do, here or elsewhere.
	remarks []string
}

// hash is over what a dump says of the objects; counters, which rows move, are
// left out.
func (s schema) hash() map[string]string {
	m := map[string]string{}
	for _, o := range s.objects {
		sql := o.sql
		if o.kind == "table" {
			sql = withoutCounter(sql)
		}
		d := sha256.Sum256([]byte(strings.Join(append([]string{sql}, o.set...), "\x00")))
		m[o.String()] = hex.EncodeToString(d[:])
	}
	return m
}

// readSchema reads texts as they are stored, without a conversion of character
// sets that could lose something: a routine's is in the character set of the
// session that made it.
func readSchema(ctx context.Context, c *session, srv server, tables []table) (schema, error) {
	s := schema{srv: srv}
	if err := c.exec(ctx, "SET character_set_results = NULL"); err != nil {
		return schema{}, fmt.Errorf("prepare session: %w", err)
	}
	for _, step := range []func() error{
		func() error { return s.readTables(ctx, c, tables) },
		func() error { return s.readRoutines(ctx, c) },
		func() error { return s.readTriggers(ctx, c) },
		func() error { return s.readEvents(ctx, c) },
	} {
		if err := step(); err != nil {
			return schema{}, err
		}
	}
	return s, nil
}

// show runs SHOW CREATE, whose columns differ from kind to kind.
func show(ctx context.Context, c *session, kind, name string) ([]string, error) {
	v, err := c.one(ctx, "SHOW CREATE "+kind+" "+ident(name))
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", strings.ToLower(kind), plainName(name), err)
	}
	return v, nil
}

func (s *schema) readTables(ctx context.Context, c *session, tables []table) error {
	for _, t := range tables {
		o := object{kind: "table", name: t.Name, engine: t.Engine}
		kind := "TABLE"
		switch t.kind {
		case "SEQUENCE":
			o.kind, kind = "sequence", "SEQUENCE"
			v, err := c.one(ctx, "SELECT next_not_cached_value FROM "+ident(t.Name))
			if err != nil {
				return fmt.Errorf("read sequence %s: %w", plainName(t.Name), err)
			}
			o.next = v[0]
		case "VIEW":
			o.kind, kind = "view", "VIEW"
		}
		v, err := show(ctx, c, kind, t.Name)
		if err != nil {
			return err
		}
		o.sql = v[1]
		if o.kind == "table" {
			o.sql = ownSequences(o.sql, s.srv.Database)
		}
		if o.kind == "view" {
			o.set = settings(v[2], v[3], loadMode, "")
			if o.columns, err = viewColumns(ctx, c, t.Name); err != nil {
				if code(err) == 0 { // not the server's
					return err
				}
				// It may be in order and only its definer gone or without rights.
				s.remarks = append(s.remarks, fmt.Sprintf("view %s cannot be used, and a restore may not be able to make it: %v", plainName(t.Name), err))
				s.unusable = append(s.unusable, plainName(t.Name))
				o.kind, o.sql = "unusable view", withoutDatabase(o.sql, s.srv.Database)
				o.columns = selected(o.sql)
			}
			// The server leaves the database out where all that a view reads is in it.
			if db := ident(s.srv.Database) + "."; strings.Contains(o.sql, "from "+db) || strings.Contains(o.sql, "join "+db) {
				s.remarks = append(s.remarks, fmt.Sprintf("view %s reads from several databases: restored under another name it still reads from %s", plainName(t.Name), plainName(s.srv.Database)))
			}
		}
		s.objects = append(s.objects, o)
	}
	return nil
}

func viewColumns(ctx context.Context, c *session, name string) ([]string, error) {
	rows, err := c.q.QueryContext(ctx, "SELECT * FROM "+ident(name)+" LIMIT 0", nil)
	if err != nil {
		return nil, err
	}
	return rows.Columns(), rows.Close()
}

// settings are what the server notes of the session that made an object.
func settings(client, collation, mode, zone string) []string {
	set := []string{"SET SESSION character_set_client = " + literal(client) + ", collation_connection = " + literal(collation) + ", sql_mode = " + literal(mode)}
	if zone != "" {
		set = append(set, "SET SESSION time_zone = "+literal(zone))
	}
	return set
}

func (s *schema) readRoutines(ctx context.Context, c *session) error {
	var list [][2]string
	err := c.query(ctx, "SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = DATABASE() "+
		"ORDER BY routine_type, CAST(routine_name AS BINARY)", func(v []string) error {
		list = append(list, [2]string{v[0], v[1]})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list routines: %w", err)
	}
	for _, r := range list {
		v, err := show(ctx, c, r[0], r[1])
		if err != nil {
			return err
		}
		// name, mode, text, client, connection, database
		if v[2] == "" {
			return fmt.Errorf("user %s may not read %s %s: GRANT SELECT ON mysql.proc", s.srv.User, strings.ToLower(r[0]), plainName(r[1]))
		}
		s.objects = append(s.objects, object{kind: strings.ToLower(r[0]), name: r[1], sql: v[2], set: settings(v[3], v[4], v[1], "")})
	}
	return nil
}

func (s *schema) readTriggers(ctx context.Context, c *session) error {
	var names []string
	err := c.query(ctx, "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE() "+
		"ORDER BY CAST(event_object_table AS BINARY), action_timing, event_manipulation, action_order", func(v []string) error {
		names = append(names, v[0])
		return nil
	})
	if err != nil {
		return fmt.Errorf("list triggers: %w", err)
	}
	for _, n := range names {
		v, err := show(ctx, c, "TRIGGER", n)
		if err != nil {
			return err
		}
		// name, mode, text, client, connection, database, created
		s.objects = append(s.objects, object{kind: "trigger", name: n, sql: v[2], set: settings(v[3], v[4], v[1], "")})
	}
	return nil
}

func (s *schema) readEvents(ctx context.Context, c *session) error {
	var names []string
	err := c.query(ctx, "SELECT event_name FROM information_schema.events WHERE event_schema = DATABASE() ORDER BY CAST(event_name AS BINARY)", func(v []string) error {
		names = append(names, v[0])
		return nil
	})
	if err != nil {
		return fmt.Errorf("list events: %w", err)
	}
	for _, n := range names {
		v, err := show(ctx, c, "EVENT", n)
		if err != nil {
			return err
		}
		// name, mode, zone, text, client, connection, database
		s.objects = append(s.objects, object{kind: "event", name: n, sql: v[3], set: settings(v[4], v[5], v[1], v[2])})
	}
	return nil
}

// sandbox keeps a client that knows it from obeying commands of its own in
// what follows, such as \! (CVE-2024-21096). It must be the first line.
const sandbox = "/*M!999999\\- enable the sandbox mode */\n"

// head is for a client that loads the text; a restore makes its own settings.
const head = sandbox + "SET NAMES utf8mb4;\nSET SESSION sql_mode = '" + loadMode + "', time_zone = '+00:00', foreign_key_checks = 0, unique_checks = 0, " +
	"check_constraint_checks = 0, autocommit = 0;\n\n"

// foot ends what head began.
const foot = "COMMIT;\nSET SESSION sql_mode = DEFAULT, time_zone = DEFAULT, foreign_key_checks = 1, unique_checks = 1, check_constraint_checks = 1, autocommit = 1;\n" +
	"SET NAMES utf8mb4;\n"

// texts is SQL by the names of its streams.
func (s schema) texts() (map[string][]byte, error) {
	before := []string{fmt.Sprintf("ALTER DATABASE CHARACTER SET %s COLLATE %s", s.srv.Charset, s.srv.Collation)}
	var keys, foreign []string
	for _, o := range s.of("sequence") {
		before = append(before, o.sql, fmt.Sprintf("DO SETVAL(%s, %s, 0)", ident(o.name), o.next))
	}
	for _, o := range s.of("table") {
		c, err := takeApart(o.sql, o.engine)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", plainName(o.name), err)
		}
		before = append(before, c.table)
		if len(c.keys) > 0 {
			keys = append(keys, "ALTER TABLE "+ident(o.name)+" ADD "+strings.Join(c.keys, ", ADD "))
		}
		for _, f := range c.foreignKeys {
			foreign = append(foreign, "ALTER TABLE "+ident(o.name)+" ADD "+f)
		}
	}
	return map[string][]byte{
		schemaStream:  append([]byte(head), script("Tables without rows", before)...),
		keysStream:    script("Keys", keys),
		foreignStream: script("Foreign keys", foreign),
		codeStream:    append(script("Views, routines, triggers, events", s.code()), foot...),
	}, nil
}

// code makes what is no table. Views may be of views, and functions of both:
// first all views have a stand-in with the same columns.
func (s schema) code() []string {
	var out []string
	for _, o := range s.of("view", "unusable view") {
		var list []string
		for _, c := range o.columns {
			list = append(list, "1 AS "+ident(c))
		}
		out = append(out, "CREATE VIEW "+ident(o.name)+" AS SELECT "+strings.Join(list, ", "))
	}
	for _, o := range s.of("function", "procedure", "package", "package body", "view", "trigger", "event", "unusable view") {
		sql := o.sql
		if strings.HasSuffix(o.kind, "view") {
			sql = strings.Replace(sql, "CREATE ", "CREATE OR REPLACE ", 1)
		}
		out = append(append(out, o.set...), sql)
		if o.kind == "event" {
			out = append(out, "SET SESSION time_zone = '+00:00'")
		}
	}
	return append(out, settings("utf8mb4", "utf8mb4_general_ci", loadMode, "")...)
}

func (s schema) of(kinds ...string) []object {
	var out []object
	for _, k := range kinds {
		for _, o := range s.objects {
			if o.kind == k {
				out = append(out, o)
			}
		}
	}
	return out
}
