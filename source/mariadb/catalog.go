package mariadb

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// server is what a session knows of its server and database.
type server struct {
	Version   string
	Major     int // 1011 for 10.11
	User      string
	Database  string
	BinaryLog bool
	Charset   string // of the database: what its routines' parameters default to
	Collation string
}

func readServer(ctx context.Context, c *session) (server, error) {
	v, err := c.one(ctx, "SELECT VERSION(), CURRENT_USER(), DATABASE(), @@GLOBAL.log_bin, @@character_set_database, @@collation_database")
	if err != nil {
		return server{}, fmt.Errorf("read server version: %w", err)
	}
	s := server{Version: v[0], User: v[1], Database: v[2], BinaryLog: v[3] == "1", Charset: v[4], Collation: v[5]}
	if !strings.Contains(s.Version, "MariaDB") {
		return server{}, refused("server %.40q is no MariaDB", s.Version)
	}
	f := strings.SplitN(s.Version, ".", 3)
	if len(f) == 3 {
		major, err1 := strconv.Atoi(f[0])
		minor, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil && minor < 100 {
			s.Major = major*100 + minor
		}
	}
	if s.Major < 1005 {
		return server{}, refused("server %.40q is not supported: want 10.5 or later", s.Version)
	}
	return s, nil
}

// table is one to dump.
type table struct {
	Name   string
	Engine string
	Size   int64 // estimate
	// columns are those that have values of their own.
	columns []column
	// order is what an ordered scan sorts by: the columns of key, the primary
	// key or else a unique one without NULLs; nil where there is neither.
	order []string
	key   string
	kind  string // as information_schema.tables says
	odd   string // why it cannot be dumped
}

type column struct {
	name        string
	form        form
	charset     string
	enum        bool
	emptyMember bool // '' is a member of the ENUM, and not only its error value
}

// transactional says that a consistent snapshot holds the table's rows.
func (t table) transactional() bool { return t.Engine == "InnoDB" }

// lockable engines have no transactions, but their tables stand still while
// they are locked.
var lockable = []string{"Aria", "MyISAM", "MEMORY", "CSV", "ARCHIVE", "BLACKHOLE"}

// readTables reads base tables, and sequences and views as names only.
func readTables(ctx context.Context, c *session) ([]table, error) {
	var tables []table
	at := map[string]int{}
	err := c.query(ctx, "SELECT table_name, table_type, engine, data_length, create_options FROM information_schema.tables "+
		"WHERE table_schema = DATABASE() ORDER BY CAST(table_name AS BINARY)", func(v []string) error {
		t := table{Name: v[0], kind: v[1], Engine: v[2]}
		t.Size, _ = strconv.ParseInt(v[3], 10, 64) // an estimate
		switch {
		case t.kind == "SYSTEM VERSIONED":
			t.odd = "it is system-versioned, and its history cannot be dumped"
		case t.kind == "BASE TABLE" && t.Engine == "":
			t.odd = "the server cannot read it"
		case t.kind != "BASE TABLE" && t.kind != "VIEW" && t.kind != "SEQUENCE":
			t.odd = "it is a " + strings.ToLower(t.kind)
		}
		at[t.Name] = len(tables)
		tables = append(tables, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	if err := readColumns(ctx, c, tables, at); err != nil {
		return nil, err
	}
	return tables, readKeys(ctx, c, tables, at)
}

func readColumns(ctx context.Context, c *session, tables []table, at map[string]int) error {
	err := c.query(ctx, "SELECT table_name, column_name, data_type, column_type, character_set_name, is_generated FROM information_schema.columns "+
		"WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position", func(v []string) error {
		i, ok := at[v[0]]
		if !ok || tables[i].kind != "BASE TABLE" || v[5] == "ALWAYS" {
			return nil
		}
		t := &tables[i]
		f, known := formOf(v[2])
		if !known && t.odd == "" {
			t.odd = fmt.Sprintf("its column %s is of a type that is not known here, %s", ident(v[1]), v[2])
		}
		col := column{name: v[1], form: f, charset: v[4], enum: v[2] == "enum"}
		col.emptyMember = col.enum && hasEmptyMember(v[3])
		t.columns = append(t.columns, col)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list columns: %w", err)
	}
	for i := range tables {
		if t := &tables[i]; t.kind == "BASE TABLE" && t.odd == "" && len(t.columns) == 0 {
			t.odd = "it has no column to read"
		}
	}
	return nil
}

// hasEmptyMember reads enum('a',”,'it”s').
func hasEmptyMember(columnType string) bool {
	s := strings.TrimPrefix(columnType, "enum(")
	for strings.HasPrefix(s, "'") {
		i := 1 // a member ends at the first quote that is not doubled
		for i < len(s) && (s[i] != '\'' || strings.HasPrefix(s[i:], "''")) {
			if s[i] == '\'' {
				i++
			}
			i++
		}
		if i == 1 {
			return true
		}
		s = strings.TrimPrefix(s[min(i+1, len(s)):], ",")
	}
	return false
}

// readKeys finds by what to order each table's rows.
func readKeys(ctx context.Context, c *session, tables []table, at map[string]int) error {
	type index struct {
		columns []string
		usable  bool
		prefix  bool
	}
	found := map[string]map[string]*index{}
	var names [][2]string
	// FORCE INDEX knows no IGNORED one, of which servers from 10.6 on tell.
	err := c.query(ctx, "SELECT table_name, index_name, column_name, nullable, sub_part, index_type FROM information_schema.statistics "+
		"WHERE table_schema = DATABASE() AND non_unique = 0 /*M!100600 AND ignored = 'NO' */ ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index", func(v []string) error {
		if found[v[0]] == nil {
			found[v[0]] = map[string]*index{}
		}
		x := found[v[0]][v[1]]
		if x == nil {
			x = &index{usable: v[5] == "BTREE"}
			found[v[0]][v[1]] = x
			names = append(names, [2]string{v[0], v[1]})
		}
		x.columns = append(x.columns, v[2])
		x.usable = x.usable && v[3] != "YES"
		x.prefix = x.prefix || v[4] != ""
		return nil
	})
	if err != nil {
		return fmt.Errorf("list keys: %w", err)
	}
	for _, n := range names {
		i, ok := at[n[0]]
		x := found[n[0]][n[1]]
		if !ok || tables[i].key != "" || !x.usable || x.prefix && n[1] != "PRIMARY" {
			continue
		}
		tables[i].key = n[1]
		if !x.prefix { // else the clustered index gives its own order, and no sort can use it
			tables[i].order = x.columns
		}
	}
	return nil
}

// selectSQL reads a table in the order of its key.
func (t table) selectSQL() string {
	var list []string
	for _, c := range t.columns {
		if c.form == formFloat {
			list = append(list, "CAST("+ident(c.name)+" AS DOUBLE)")
		} else {
			list = append(list, ident(c.name))
		}
	}
	for _, c := range t.columns {
		if c.emptyMember {
			list = append(list, ident(c.name)+" + 0") // only its number tells '' from the error value
		}
	}
	sql := "SELECT " + strings.Join(list, ", ") + " FROM " + ident(t.Name)
	if t.key != "" {
		sql += " FORCE INDEX (" + ident(t.key) + ")"
	}
	if t.order == nil {
		return sql
	}
	var by []string
	for _, n := range t.order {
		by = append(by, ident(n))
	}
	return sql + " ORDER BY " + strings.Join(by, ", ")
}

// checkTables refuses what no consistent dump can hold.
func (c Config) checkTables(tables []table) error {
	var loose []string
	for _, t := range tables {
		if t.odd != "" {
			return refused("table %s cannot be dumped: %s", plainName(t.Name), t.odd)
		}
		if t.kind != "BASE TABLE" || t.transactional() {
			continue
		}
		if !slices.Contains(lockable, t.Engine) {
			return refused("table %s cannot be dumped: its engine is %s", plainName(t.Name), t.Engine)
		}
		loose = append(loose, fmt.Sprintf("%s (%s)", plainName(t.Name), t.Engine))
	}
	if len(loose) > 0 && !c.Lock {
		return refused("%s: the engine has no transactions: convert it to InnoDB, or set lock = true, and nobody can write to it during the dump", several(loose))
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
