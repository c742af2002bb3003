package postgres

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"strongroom/source"
)

// Content is what of a database can be compared: what was recorded of it at
// snapshot time, or what a restored copy has.
type Content struct {
	Database  string
	Version   string
	Major     int
	Dumper    string // version of the pg_dump that wrote the schema; of records only
	Encoding  string
	Locale    string // collation, character type, provider, ICU locale
	Collation string // version of the collation's library
	// Facts are the rows of each table, by Facts.Object, and of the large
	// objects. A record has those that streams were read for, a copy those that
	// its catalogue lists.
	Facts map[string]source.Facts
	// Targets are the tables with their columns, in the form of Tally.Target, by
	// Facts.Object; of copies only.
	Targets map[string]string
	// Reordered are tables whose columns stand in another order than in their
	// streams, in which Facts and Targets have them; of copies only.
	Reordered []string
	// Objects is the catalogue's list; nil in a record where it was too long.
	Objects     []string
	ObjectCount int
	ObjectHash  string
	// Sequences by name; nil in a record where they were too many.
	Sequences  map[string]string
	Extensions map[string]string // version by name
	Roles      []string          // that something in the database belongs to
	Superusers []string          // of these
}

// SchemaStreams are the streams of pg_dump's text, by its name of the section.
func SchemaStreams() map[string]string {
	return map[string]string{"pre-data": preDataStream, "post-data": postDataStream}
}

// LargeObjects is what Facts.Object of the large objects is.
const LargeObjects = "large objects"

// Recorded returns what a snapshot says of its source.
func Recorded(stored source.Stored) (Content, error) {
	d, err := decodeDetail(stored.Detail())
	if err != nil {
		return Content{}, fmt.Errorf("postgres: %w", err)
	}
	c := Content{Database: d.Database, Version: d.Server, Major: d.Major, Dumper: d.PgDump, Encoding: d.Encoding, Locale: d.Locale.text(), Collation: d.Locale.Version,
		Facts: map[string]source.Facts{}, Objects: d.Objects, ObjectCount: d.ObjectCount, ObjectHash: d.ObjectHash, Extensions: versions(d.Extensions)}
	for _, r := range d.Roles {
		c.Roles = append(c.Roles, r.Name)
		if r.Superuser {
			c.Superusers = append(c.Superusers, r.Name)
		}
	}
	if !slices.Contains(d.Omitted, "sequences") {
		c.Sequences = places(d.Sequences)
	}
	for _, s := range stored.Streams() {
		if s.Facts == nil {
			continue
		}
		sum := *s.Facts
		if before, ok := c.Facts[sum.Object]; ok {
			sum = before.Plus(sum)
		}
		c.Facts[sum.Object] = sum
	}
	return c, nil
}

func (l locale) text() string {
	return strings.Join([]string{l.Collate, l.CType, l.Provider, l.ICU}, " ")
}

func versions(list []extension) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		m[e.Name] = e.Version
	}
	return m
}

// places are where sequences go on.
func places(list []sequence) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		m[plainName(s.Object)] = fmt.Sprintf("%d, called %t", s.Last, s.Called)
	}
	return m
}

// Tables returns the tables with rows of their own that the catalogue listed,
// as Facts.Object names them; ok is false where the list was too long.
func (c Content) Tables() (names []string, ok bool) {
	for _, o := range c.Objects {
		if name, is := strings.CutPrefix(o, "table "); is {
			names = append(names, name)
		}
	}
	return names, c.Objects != nil || c.ObjectCount == 0
}

// Inspect reads a restored copy of a snapshot: everything that its catalogue
// lists, whatever the snapshot says there should be. Of the snapshot it takes
// the encoding, and which rows of extensions' tables are data. columns, in the
// form of Content.Targets, tells in which order the streams have the columns of a
// table, which is that of the hashes of its rows; nil: in the copy's own.
func Inspect(ctx context.Context, stored source.Stored, target Target, columns map[string]string) (_ Content, err error) {
	l, err := newLoader(stored, target)
	if err != nil {
		return Content{}, fmt.Errorf("postgres: inspect: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("postgres: inspect %s: %w", l.dialer.name(), err)
		}
	}()
	if l.main, err = l.connect(ctx); err != nil {
		return Content{}, err
	}
	defer closeConn(l.main)
	c, err := l.inspectCatalogue(ctx)
	if err != nil {
		return Content{}, err
	}
	tables, err := readTables(ctx, l.main)
	if err != nil {
		return Content{}, err
	}
	tables = slices.DeleteFunc(tables, func(t table) bool { return !t.HasData })
	c.Targets = map[string]string{}
	enc := encoder{l.main, c.Encoding} // a stream is in that of its database
	heirs, err := inheriting(ctx, l.main)
	if err != nil {
		return Content{}, err
	}
	for i, t := range tables {
		name := plainName(t.Object)
		target, err := enc.bytes(ctx, t.Object+" "+columnList(t.Columns))
		if err != nil {
			return Content{}, err
		}
		c.Targets[name] = string(target)
		if ordered := inOrder(t.Columns, string(target), columns[name]); heirs[t.OID] && ordered != t.Columns {
			tables[i].Columns, c.Targets[name] = ordered, columns[name]
			c.Reordered = append(c.Reordered, name)
		}
	}
	c.Facts, err = l.inspectRows(ctx, tables)
	return c, err
}

func (l *loader) inspectCatalogue(ctx context.Context) (Content, error) {
	srv, err := readServer(ctx, l.main)
	if err != nil {
		return Content{}, err
	}
	loc, err := readLocale(ctx, l.main, srv.Major)
	if err != nil {
		return Content{}, err
	}
	var d detail
	if err := d.readObjects(ctx, l.main); err != nil {
		return Content{}, err
	}
	seqs, err := readSequences(ctx, l.main)
	if err != nil {
		return Content{}, err
	}
	ext, err := collect[extension](ctx, l.main, "extensions", extensionsQuery)
	if err != nil {
		return Content{}, err
	}
	return Content{Database: srv.Database, Version: srv.Version, Major: srv.Major, Encoding: srv.Encoding, Locale: loc.text(), Collation: loc.Version,
		Objects: d.Objects, ObjectCount: d.ObjectCount, ObjectHash: d.ObjectHash, Sequences: places(seqs), Extensions: versions(ext)}, nil
}

// inspectRows reads every table, the largest first, and the large objects.
func (l *loader) inspectRows(ctx context.Context, tables []table) (map[string]source.Facts, error) {
	slices.SortStableFunc(tables, func(a, b table) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	all := map[string]source.Facts{}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	queue := make(chan table, len(tables))
	for _, t := range tables {
		queue <- t
	}
	close(queue)
	for range min(l.target.Jobs, len(tables)) {
		g.Go(func() error {
			c, err := l.connect(gctx)
			if err != nil {
				return err
			}
			defer closeConn(c)
			for t := range queue {
				f, err := l.inspectTable(gctx, c, t)
				if err != nil {
					return err
				}
				mu.Lock()
				all[f.Object] = f
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	objects, err := l.inspectObjects(ctx)
	maps.Copy(all, objects)
	return all, err
}

func (l *loader) inspectTable(ctx context.Context, c *pgx.Conn, t table) (source.Facts, error) {
	name := plainName(t.Object)
	sql := copyOutSQL(part{table: t}, l.detail.Encoding)
	cs := startCopy(ctx, nil, func(ctx context.Context, w io.Writer) (int64, error) {
		tag, err := c.PgConn().CopyTo(ctx, w, sql)
		return tag.RowsAffected(), err
	})
	defer cs.Close()
	if _, err := io.Copy(io.Discard, cs); err != nil {
		return source.Facts{}, fmt.Errorf("read table %s: %w", name, err)
	}
	return cs.facts(name), nil
}

func (l *loader) inspectObjects(ctx context.Context) (map[string]source.Facts, error) {
	lo := newLOStream(ctx, l.main)
	if _, err := io.Copy(io.Discard, lo); err != nil {
		return nil, fmt.Errorf("read large objects: %w", err)
	}
	if f := facts(&lo.sum, LargeObjects); f.Rows > 0 {
		return map[string]source.Facts{LargeObjects: f}, nil
	}
	return nil, nil
}
