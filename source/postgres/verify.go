package postgres

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"strongroom/source"
)

// verify reads the tables again, as a dump does.
func (l *loader) verify(ctx context.Context) error {
	if !l.target.Verify {
		return nil
	}
	where := map[string]string{}
	for _, t := range l.detail.Config {
		where[t.Object] = t.Where
	}
	tables := whole(l.selection())
	err := l.parallel(ctx, len(tables), func(ctx context.Context, c *pgx.Conn, i int) error {
		return l.verifyTable(ctx, c, tables[i], where[tables[i].Facts.Object])
	})
	if err != nil {
		return err
	}
	l.report.Verified = len(tables)
	return l.verifyObjects(ctx)
}

// whole adds the facts of a table's ranges to those of its first: where they
// lie now, nobody knows.
func whole(streams []source.StreamInfo) []source.StreamInfo {
	at := map[string]int{}
	var out []source.StreamInfo
	for _, s := range streams {
		i, ok := at[s.Facts.Object]
		if !ok {
			at[s.Facts.Object] = len(out)
			out = append(out, s)
			continue
		}
		sum := out[i].Facts.Plus(*s.Facts)
		out[i].Facts = &sum
	}
	return out
}

// verifyObjects reads the large objects again.
func (l *loader) verifyObjects(ctx context.Context) error {
	i := slices.IndexFunc(l.stored.Streams(), func(s source.StreamInfo) bool { return s.Name == objectStream && s.Facts != nil })
	if i < 0 || l.target.Only != nil {
		return nil
	}
	want := *l.stored.Streams()[i].Facts
	lo := newLOStream(ctx, l.main)
	if _, err := io.Copy(io.Discard, lo); err != nil {
		return fmt.Errorf("verify large objects: %w", err)
	}
	if got := facts(&lo.sum, want.Object); got != want {
		return fmt.Errorf("verify large objects: there are %d with hash %s, the snapshot has %d with %s", got.Rows, got.RowHash, want.Rows, want.RowHash)
	}
	return nil
}

func (l *loader) verifyTable(ctx context.Context, c *pgx.Conn, s source.StreamInfo, where string) error {
	r, err := l.stored.Open(ctx, s.Name, 0, min(s.Length, 1<<20))
	if err != nil {
		return fmt.Errorf("verify table %s: %w", s.Facts.Object, err)
	}
	defer r.Close()
	target, err := readCopyHead(bufio.NewReaderSize(r, 256<<10))
	if err != nil {
		return fmt.Errorf("verify table %s: %w", s.Facts.Object, err)
	}
	cs := startCopy(ctx, nil, func(ctx context.Context, w io.Writer) (int64, error) {
		tag, err := c.PgConn().CopyTo(ctx, w, verifySQL(target, where, l.detail.Encoding))
		return tag.RowsAffected(), err
	})
	defer cs.Close()
	if _, err := io.Copy(io.Discard, cs); err != nil {
		return fmt.Errorf("verify table %s: %w", s.Facts.Object, err)
	}
	if got := cs.facts(s.Facts.Object); got != *s.Facts {
		return fmt.Errorf("verify table %s: it has %d rows with hash %s, the snapshot has %d with %s",
			s.Facts.Object, got.Rows, got.RowHash, s.Facts.Rows, s.Facts.RowHash)
	}
	return nil
}

func verifySQL(target, where, encoding string) string {
	from := target
	if name := nameOf(target); where != "" {
		cols := strings.TrimSuffix(strings.TrimPrefix(target[len(name):], "("), ")")
		from = "(SELECT " + cols + " FROM " + name + " " + where + ")"
	}
	return "COPY " + from + " TO STDOUT (ENCODING " + literal(encoding) + ")"
}
