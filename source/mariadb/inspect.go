package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"strongroom/source"
)

// Content is what of a database can be compared: what was recorded of it at
// snapshot time, or what a restored copy has.
type Content struct {
	Database  string
	Version   string
	Series    string // "10.11"
	Charset   string
	Collation string
	// Facts are the rows of each table, by Facts.Object. A record has those that
	// streams were read for, a copy those that its catalogue lists.
	Facts map[string]source.Facts
	// Targets are the tables with their columns, in the form of Tally.Target; of
	// copies only.
	Targets map[string]string
	// Objects is the catalogue's list; nil in a record where it was too long.
	Objects     []string
	ObjectCount int
	ObjectHash  string
	// Texts are the SQL of the schema by the names of its streams, statement by
	// statement.
	Texts map[string][]string
	// Definers own views, routines, triggers and events; Zones are time zones,
	// by name, that events count in. Of records only.
	Definers []Account
	Zones    []string
	// Unusable names views that the source could not use either.
	Unusable []string
}

// An Account is a user, or with an empty Host a role.
type Account struct{ User, Host string }

// String is the account as SQL has it.
func (a Account) String() string {
	if a.Host == "" {
		return ident(a.User)
	}
	return ident(a.User) + "@" + ident(a.Host)
}

// Ident quotes a name for SQL.
func Ident(name string) string { return ident(name) }

// Recorded returns what a snapshot says of its source.
func Recorded(ctx context.Context, stored source.Stored) (Content, error) {
	d, err := decodeDetail(stored.Detail())
	if err != nil {
		return Content{}, fmt.Errorf("mariadb: %w", err)
	}
	c := Content{Database: d.Database, Version: d.Server, Series: series(d.Server), Charset: d.Charset, Collation: d.Collation, Facts: map[string]source.Facts{},
		Objects: d.Objects, ObjectCount: d.ObjectCount, ObjectHash: d.ObjectHash, Texts: map[string][]string{}, Unusable: d.Unusable}
	for _, s := range stored.Streams() {
		switch {
		case s.Facts != nil:
			c.Facts[s.Facts.Object] = *s.Facts
		case s.Kind == source.KindSQL:
			l := loader{stored: stored}
			if c.Texts[s.Name], err = l.statements(ctx, s.Name); err != nil {
				return Content{}, fmt.Errorf("mariadb: %w", err)
			}
		}
	}
	for _, sql := range c.Texts[codeStream] {
		c.code(sql)
	}
	return c, nil
}

func series(version string) string {
	f := strings.SplitN(version, ".", 3)
	return strings.Join(f[:min(2, len(f))], ".")
}

var namedZone = regexp.MustCompile(`^SET SESSION time_zone = '([A-Za-z][A-Za-z0-9_+/-]*)'$`)

// code notes what a statement needs to be there before it is made.
func (c *Content) code(sql string) {
	if m := namedZone.FindStringSubmatch(sql); m != nil && m[1] != "SYSTEM" && !slices.Contains(c.Zones, m[1]) {
		c.Zones = append(c.Zones, m[1])
	}
	m := definerRE.FindString(sql)
	if m == "" {
		return
	}
	_, rest, _ := cutUnquoted(m, "DEFINER=")
	var a Account
	if a.User, rest = cutIdent(rest); strings.HasPrefix(rest, "@") {
		a.Host, _ = cutIdent(rest[1:])
	}
	if a.User != "" && !slices.Contains(c.Definers, a) {
		c.Definers = append(c.Definers, a)
	}
}

// Tables returns the tables with rows that the catalogue listed, as Facts.Object
// names them; ok is false where the list was too long.
func (c Content) Tables() (names []string, ok bool) { return c.named("table") }

// Views returns those that the source could use.
func (c Content) Views() []string {
	names, _ := c.named("view")
	return names
}

func (c Content) named(kind string) (names []string, ok bool) {
	for _, o := range c.Objects {
		if name, is := strings.CutPrefix(o, kind+" "); is {
			names = append(names, name)
		}
	}
	return names, c.Objects != nil || c.ObjectCount == 0
}

// Without leaves views out of what is compared, by name: those that the source
// could not use, and no restore has to make.
func (c Content) Without(views []string) Content {
	if len(views) == 0 || c.Objects == nil {
		return c
	}
	of := func(sql string) bool {
		begin, rest, ok := cutUnquoted(sql, "VIEW ")
		name, _ := cutIdent(rest)
		return ok && strings.HasPrefix(begin, "CREATE ") && slices.Contains(views, plainName(name))
	}
	var list []string
	for i, sql := range c.Texts[codeStream] {
		next := c.Texts[codeStream][min(i+1, len(c.Texts[codeStream])-1)]
		if of(sql) || strings.HasPrefix(sql, "SET SESSION character_set_client") && of(next) {
			continue
		}
		list = append(list, sql)
	}
	c.Texts = maps.Clone(c.Texts)
	c.Texts[codeStream] = list
	c.Objects = slices.DeleteFunc(slices.Clone(c.Objects), func(o string) bool {
		kind, name, _ := strings.Cut(o, "view ")
		return (kind == "" || kind == "unusable ") && slices.Contains(views, name)
	})
	c.ObjectCount, c.ObjectHash = len(c.Objects), hashOf(c.Objects)
	return c
}

// Inspect reads a restored copy: everything that its catalogue lists, whatever
// the snapshot says there should be. The user has to see all of it.
func Inspect(ctx context.Context, target Target) (_ Content, err error) {
	if target.Jobs < 1 {
		target.Jobs = 2
	}
	d, err := newDialer(target.URL, target.PasswordFile)
	if err != nil {
		return Content{}, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("mariadb: inspect %s: %w", d.name(), err)
		}
	}()
	l := &loader{target: target, dialer: d}
	s, err := d.connect(ctx)
	if err != nil {
		return Content{}, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	srv, err := readServer(ctx, s)
	if err != nil {
		return Content{}, err
	}
	tables, err := readTables(ctx, s)
	if err != nil {
		return Content{}, err
	}
	c, err := l.inspectSchema(ctx, s, srv, tables)
	if err != nil {
		return Content{}, err
	}
	tables = slices.DeleteFunc(tables, func(t table) bool { return t.kind != "BASE TABLE" })
	slices.SortStableFunc(tables, func(a, b table) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	c.Facts, c.Targets = map[string]source.Facts{}, map[string]string{}
	for _, t := range tables {
		into := strings.TrimSuffix(string(newRowWriter(t).head), " VALUES\n")
		c.Targets[plainName(t.Name)] = strings.TrimPrefix(into, "INSERT INTO ")
	}
	var mu sync.Mutex
	err = l.parallel(ctx, len(tables), func(ctx context.Context, s *session, i int) error {
		f, err := inspectTable(ctx, s, tables[i])
		mu.Lock()
		defer mu.Unlock()
		c.Facts[f.Object] = f
		return err
	})
	return c, err
}

func inspectTable(ctx context.Context, s *session, t table) (source.Facts, error) {
	rows := startRows(ctx, s, t, func() {})
	_, err := io.Copy(io.Discard, rows)
	if err := errors.Join(err, rows.Close()); err != nil {
		return source.Facts{Object: plainName(t.Name)}, err
	}
	return rows.facts(t), nil
}

func (l *loader) inspectSchema(ctx context.Context, s *session, srv server, tables []table) (Content, error) {
	schema, err := readSchema(ctx, s, srv, tables)
	if err != nil {
		return Content{}, err
	}
	c := Content{Database: srv.Database, Version: srv.Version, Series: series(srv.Version), Charset: srv.Charset, Collation: srv.Collation,
		Texts: map[string][]string{}, Unusable: schema.unusable}
	d := (&snapshot{held: &held{srv: srv}, schema: schema}).detail()
	c.Objects, c.ObjectCount, c.ObjectHash = d.Objects, d.ObjectCount, d.ObjectHash
	texts, err := schema.texts()
	if err != nil {
		return Content{}, err
	}
	for name, text := range texts {
		if c.Texts[name], err = splitScript(text); err != nil {
			return Content{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return c, nil
}
