package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// dropped takes away what every new database has and the source had dropped:
// pg_dump does not say so. Where the list of objects was too long to be recorded,
// nobody knows.
func (l *loader) dropped(ctx context.Context) error {
	if !l.created || l.detail.Objects == nil {
		return nil
	}
	for _, what := range []string{"extension plpgsql", "schema public"} {
		if slices.Contains(l.detail.Objects, what) {
			continue
		}
		err := simple(ctx, l.main, "DROP "+what)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42501" {
			l.warn("%s was not at the source, and may not be dropped here", what)
		} else if err != nil {
			return fmt.Errorf("drop %s, which the source had not: %w", what, err)
		}
	}
	return nil
}

const setTablespace = "SET default_tablespace = "

// tablespaces keeps to those that this server has: they are of the machine, not
// of the database, and a table is as good in another one.
func (l *loader) tablespaces(ctx context.Context, entries []entry) error {
	var here []string
	for _, e := range entries {
		for i, s := range e.statements {
			name, ok := strings.CutPrefix(s, setTablespace)
			if name = strings.TrimSuffix(name, ";"); !ok || name == "''" {
				continue
			}
			if here == nil {
				rows, err := l.main.Query(ctx, "SELECT pg_catalog.quote_ident(spcname) FROM pg_catalog.pg_tablespace")
				if err != nil {
					return fmt.Errorf("list tablespaces: %w", err)
				}
				if here, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
					return fmt.Errorf("list tablespaces: %w", err)
				}
			}
			if slices.Contains(here, name) {
				continue
			}
			e.statements[i] = setTablespace + "'';"
			if w := fmt.Sprintf("there is no tablespace %s: what was in it is in the default one", plainName(name)); !slices.Contains(l.report.Warnings, w) {
				l.warn("%s", w)
			}
		}
	}
	return nil
}

// viewData is the kind of an entry that fills a materialized view.
const viewData = "MATERIALIZED VIEW DATA"

// fromElsewhere reports whether a materialized view could not be filled because
// its rows come from a foreign server, or from a view that was left empty for
// that. They are no part of a snapshot, and do not keep it from being restored.
func (l *loader) fromElsewhere(e entry, err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.kind != viewData {
		return false
	}
	class := pgErr.Code[:min(2, len(pgErr.Code))]
	if class != "08" && class != "HV" && pgErr.Code != "58P01" && (pgErr.Code != "55000" || l.report.Emptied == 0) {
		return false
	}
	l.report.Emptied++
	l.warn("left empty: materialized view %s, its rows come from elsewhere: %s (SQLSTATE %s)", plainName(e.name), pgErr.Message, pgErr.Code)
	return true
}

// inheriting are the tables that inherit from others and are no partitions of
// them, which keep their columns' order.
func inheriting(ctx context.Context, c *pgx.Conn) (map[uint32]bool, error) {
	rows, err := c.Query(ctx, "SELECT c.oid FROM pg_catalog.pg_class c WHERE NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)")
	if err != nil {
		return nil, fmt.Errorf("list tables that inherit: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("list tables that inherit: %w", err)
	}
	out := map[uint32]bool{}
	for _, o := range oids {
		out[o] = true
	}
	return out, nil
}

// inOrder puts the columns of a copy's table, quoted and with commas between,
// into the order that its stream has them in: a table that inherits gets those of
// its parent first when it is made anew, wherever they stood. own and stream are
// what COPY names, in the database's encoding: a table and its columns. Where
// these are others than the stream's, they stay as they are.
func inOrder(columns, own, stream string) string {
	table, have := splitColumns(own)
	other, want := splitColumns(stream)
	_, plain := splitColumns("(" + columns + ")")
	if table != other || len(have) != len(want) || len(have) != len(plain) {
		return columns
	}
	out := make([]string, len(want))
	for i, w := range want {
		at := slices.Index(have, w)
		if at < 0 {
			return columns
		}
		out[i] = plain[at]
	}
	return strings.Join(out, ", ")
}

// splitColumns takes `table (column, column)` apart.
func splitColumns(target string) (table string, columns []string) {
	table, list, more := cutUnquoted(strings.TrimSuffix(target, ")"), "(")
	for more {
		var c string
		c, list, more = cutUnquoted(list, ", ")
		columns = append(columns, c)
	}
	return table, columns
}
