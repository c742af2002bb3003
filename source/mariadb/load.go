package mariadb

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"strongroom/source"
)

// parallel runs n pieces of work on up to Jobs sessions of their own.
func (l *loader) parallel(ctx context.Context, n int, work func(context.Context, *session, int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(l.target.Jobs, n) {
		g.Go(func() (err error) {
			c, err := l.connect(gctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.close()) }()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := work(gctx, c, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// data loads rows, largest stream first.
func (l *loader) data(ctx context.Context) error {
	tables := l.selection()
	slices.SortStableFunc(tables, func(a, b source.StreamInfo) int { return cmp.Compare(b.Length, a.Length) })
	for _, s := range tables {
		l.report.Bytes += s.Length
		l.report.Rows += s.Facts.Rows
	}
	l.report.Tables = len(tables)
	return l.parallel(ctx, len(tables), func(ctx context.Context, c *session, i int) error {
		if err := l.loadTable(ctx, c, tables[i]); err != nil {
			return fmt.Errorf("load table %s: %w", tables[i].Facts.Object, err)
		}
		return nil
	})
}

// loadTable sends one stream's statements in one transaction: then the server
// writes an empty table in bulk, without a way back for each row.
func (l *loader) loadTable(ctx context.Context, c *session, s source.StreamInfo) (err error) {
	r, err := l.stored.Open(ctx, s.Name, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	in := inserts{r: bufio.NewReaderSize(r, 256<<10)}
	if err := c.exec(ctx, "START TRANSACTION"); err != nil {
		return err
	}
	rows := int64(0)
	for {
		sql, err := in.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		n, err := c.affect(ctx, sql)
		if err != nil {
			return fmt.Errorf("after %d rows: %w", rows, err)
		}
		rows += n
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		return err
	}
	if rows != s.Facts.Rows {
		return fmt.Errorf("the server took %d rows, the snapshot has %d", rows, s.Facts.Rows)
	}
	return nil
}

// inserts splits what rowStream wrote into its statements. A line that is a
// row has no line feed in it, and where its statement ends it ends in ";".
type inserts struct {
	r    *bufio.Reader
	into string // what every statement says after INSERT, up to the rows
}

const maxLine = 1 << 30 // the server takes no longer statement

// next returns io.EOF only after what stands at the end of a whole stream.
func (in *inserts) next() (string, error) {
	var b []byte
	var line []byte
	var err error
	if in.into == "" { // the comment comes first
		for range 4 {
			if line, err = in.line(); err != nil {
				return "", err
			}
			if len(line) > 1 && !bytes.HasPrefix(line, []byte("--")) {
				return "", errors.New("bad head of the rows: no comment")
			}
		}
	}
	if line, err = in.line(); err != nil {
		return "", err
	}
	if string(line) == "COMMIT;\n" {
		rest, err := io.ReadAll(io.LimitReader(in.r, 2))
		if err == nil && string(rest) != "\n" {
			err = fmt.Errorf("bad end of the rows: %q", rest)
		}
		return "", cmp.Or(err, io.EOF)
	}
	b = append(b, line...)
	// A name goes on in the next line where it holds a line feed.
	for !bytes.HasSuffix(b, []byte(") VALUES\n")) || bytes.Count(b, []byte("`"))%2 == 1 {
		if line, err = in.line(); err != nil {
			return "", err
		}
		if b = append(b, line...); len(b) > 1<<20 {
			return "", errors.New("bad head of a statement: too long")
		}
	}
	if err := in.checkHead(string(b)); err != nil {
		return "", err
	}
	for {
		if line, err = in.line(); err != nil {
			return "", err
		}
		if len(line) < 4 || line[0] != '(' {
			// Not a byte of it: errors go into receipts.
			return "", fmt.Errorf("bad row: a line of %d bytes that does not begin as one", len(line))
		}
		if b = append(b, line...); len(b) > maxLine {
			return "", errors.New("bad statement: too long")
		}
		switch end := line[len(line)-3:]; string(end) {
		case "),\n":
		case ");\n":
			return string(b[:len(b)-2]), nil
		default:
			return "", fmt.Errorf("bad end of a row: %q", end)
		}
	}
}

// checkHead makes sure that all of a stream goes to one table.
func (in *inserts) checkHead(head string) error {
	into, ok := strings.CutPrefix(head, "INSERT ")
	into = strings.TrimPrefix(into, "IGNORE ")
	if !ok || !strings.HasPrefix(into, "INTO `") {
		return errors.New("bad head of a statement: it is no INSERT")
	}
	if in.into == "" {
		in.into = into
	}
	if into != in.into {
		return errors.New("rows of two tables in one stream")
	}
	return nil
}

// line reads up to a line feed; a stream ends with one.
func (in *inserts) line() ([]byte, error) {
	line, err := in.r.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	long := slices.Clone(line)
	for err == bufio.ErrBufferFull && len(long) <= maxLine {
		line, err = in.r.ReadSlice('\n')
		long = append(long, line...)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return long, err
}

// keys are built for several tables at once, those with the most rows first.
func (l *loader) keys(ctx context.Context) error {
	list, err := l.statements(ctx, keysStream)
	if err != nil {
		return err
	}
	size := map[string]int64{}
	for _, s := range l.selection() {
		size[s.Facts.Object] = s.Length
	}
	weight := func(sql string) int64 {
		name, _ := cutIdent(strings.TrimPrefix(sql, "ALTER TABLE "))
		return size[plainName(name)]
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(weight(b), weight(a)) })
	return l.parallel(ctx, len(list), func(ctx context.Context, c *session, i int) error { return l.exec(ctx, c, list[i]) })
}

// foreignKeys adds them without a look at the rows and then looks: the server
// would compare by copying the table row by row.
func (l *loader) foreignKeys(ctx context.Context) error {
	list, err := l.statements(ctx, foreignStream)
	if err != nil {
		return err
	}
	for _, sql := range list {
		name, rest := cutIdent(strings.TrimPrefix(sql, "ALTER TABLE "))
		if to := referenced(rest); to != "" && l.target.Only != nil && !l.selected(plainName(to)) {
			l.warn("left out: a foreign key of %s, the table it points to is not loaded: %s", plainName(name), plainName(to))
			continue
		}
		if err := l.exec(ctx, l.main, sql); l.elsewhere(err) {
			l.warn("left out: a foreign key of %s, the table it points to is in another database", plainName(name))
			l.report.LeftKeys = append(l.report.LeftKeys, sql)
		} else if err != nil {
			return err
		}
	}
	return l.orphans(ctx)
}

type foreignKey struct {
	name, table, toSchema, to string
	columns, toColumns        []string
}

// orphans looks for rows that refer to none. The source had them too, if the
// rows are equal to its own, but somebody should know.
func (l *loader) orphans(ctx context.Context) error {
	var keys []foreignKey
	err := l.main.query(ctx, `SELECT constraint_name, table_name, referenced_table_schema, referenced_table_name, column_name, referenced_column_name
		FROM information_schema.key_column_usage WHERE constraint_schema = DATABASE() AND table_schema = DATABASE() AND referenced_table_name IS NOT NULL
		ORDER BY table_name, constraint_name, ordinal_position`, func(v []string) error {
		n := len(keys)
		if n == 0 || keys[n-1].name != v[0] || keys[n-1].table != v[1] {
			keys = append(keys, foreignKey{name: v[0], table: v[1], toSchema: v[2], to: v[3]})
			n++
		}
		keys[n-1].columns, keys[n-1].toColumns = append(keys[n-1].columns, v[4]), append(keys[n-1].toColumns, v[5])
		return nil
	})
	if err != nil {
		return fmt.Errorf("list foreign keys: %w", err)
	}
	found := make([]string, len(keys))
	err = l.parallel(ctx, len(keys), func(ctx context.Context, c *session, i int) error {
		v, err := c.one(ctx, keys[i].orphansSQL())
		if code(err) == errNoTable { // foreign_key_checks was off at the source too
			return nil
		}
		if err != nil {
			return fmt.Errorf("check foreign key %s of %s: %w", plainName(keys[i].name), plainName(keys[i].table), err)
		}
		found[i] = v[0]
		return nil
	})
	if err != nil {
		return err
	}
	for i, n := range found {
		switch n {
		case "0":
		case "":
			l.warn("foreign key %s: %s points to %s, which is not there, as in the snapshot", plainName(keys[i].name), plainName(keys[i].table), plainName(keys[i].to))
		default:
			l.warn("foreign key %s: %s rows of %s refer to no row of %s, as in the snapshot", plainName(keys[i].name), n, plainName(keys[i].table), plainName(keys[i].to))
		}
	}
	return nil
}

// orphansSQL counts rows of which no column is NULL and that refer to none.
func (k foreignKey) orphansSQL() string {
	var on, set []string
	for i, c := range k.columns {
		on = append(on, "p."+ident(k.toColumns[i])+" = c."+ident(c))
		set = append(set, "c."+ident(c)+" IS NOT NULL")
	}
	return "SELECT COUNT(*) FROM " + ident(k.table) + " c WHERE " + strings.Join(set, " AND ") +
		" AND NOT EXISTS (SELECT 1 FROM " + ident(k.toSchema) + "." + ident(k.to) + " p WHERE " + strings.Join(on, " AND ") + ")"
}

// verify reads the tables again, as a dump does.
func (l *loader) verify(ctx context.Context) error {
	if !l.target.Verify {
		return nil
	}
	c, err := l.dialer.connect(ctx)
	if err != nil {
		return err
	}
	tables, err := readTables(ctx, c)
	if err := errors.Join(err, c.close()); err != nil {
		return err
	}
	list := l.selection()
	err = l.parallel(ctx, len(list), func(ctx context.Context, c *session, i int) error {
		at := slices.IndexFunc(tables, func(t table) bool { return plainName(t.Name) == list[i].Facts.Object })
		if at < 0 {
			return fmt.Errorf("verify table %s: it is not there", list[i].Facts.Object)
		}
		return verifyTable(ctx, c, tables[at], *list[i].Facts)
	})
	if err == nil {
		l.report.Verified = len(list)
	}
	return err
}

func verifyTable(ctx context.Context, c *session, t table, want source.Facts) error {
	s := startRows(ctx, c, t, func() {})
	_, err := io.Copy(io.Discard, s)
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if got := s.facts(t); got != want {
		return fmt.Errorf("verify table %s: it has %d rows with hash %s, the snapshot has %d with %s", want.Object, got.Rows, got.RowHash, want.Rows, want.RowHash)
	}
	return nil
}

// WritePlain writes the whole dump as SQL that the mariadb client loads.
func WritePlain(ctx context.Context, stored source.Stored, w io.Writer) error {
	for _, s := range stored.Streams() {
		r, err := stored.Open(ctx, s.Name, 0, -1)
		if err != nil {
			return fmt.Errorf("mariadb: write %s: %w", s.Name, err)
		}
		_, err = io.Copy(w, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("mariadb: write %s: %w", s.Name, err)
		}
	}
	return nil
}
