package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// load fills an empty database with week 1.
func (c *crm) load(ctx context.Context, s *server, db string) error {
	if err := s.exec(ctx, "postgres", "CREATE DATABASE "+db); err != nil {
		return err
	}
	if err := s.exec(ctx, db, schema); err != nil {
		return err
	}
	if err := c.grow(ctx, s, db, 1); err != nil {
		return err
	}
	return s.exec(ctx, db, indexes, "VACUUM ANALYZE", "CHECKPOINT")
}

// grow adds a week's new rows to every table. Customers come first: the other
// tables' rows refer to them.
func (c *crm) grow(ctx context.Context, s *server, db string, week int) error {
	if err := c.copy(ctx, s, db, tables[0], week); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for _, t := range tables[1:] {
		g.Go(func() error { return c.copy(ctx, s, db, t, week) })
	}
	return g.Wait()
}

func (c *crm) copy(ctx context.Context, s *server, db string, t table, week int) error {
	return s.session(ctx, db, func(conn *pgx.Conn) error {
		r, w := io.Pipe()
		go func() {
			w.CloseWithError(c.rows(t, week, func(b []byte) error { _, err := w.Write(b); return err }))
		}()
		_, err := conn.PgConn().CopyFrom(ctx, r, "COPY "+t.name+" FROM STDIN")
		return errors.Join(err, r.Close())
	})
}

// advance makes week-1 into week: changes, what autovacuum does after them, and
// new rows, some of which fall into the holes.
func (c *crm) advance(ctx context.Context, s *server, db string, week int) error {
	ch := c.changes(week)
	if err := s.session(ctx, db, func(conn *pgx.Conn) error { return ch.apply(ctx, conn) }); err != nil {
		return fmt.Errorf("week %d: %w", week, err)
	}
	if err := s.exec(ctx, db, "VACUUM ANALYZE customers", "VACUUM ANALYZE orders"); err != nil {
		return err
	}
	if err := c.grow(ctx, s, db, week); err != nil {
		return fmt.Errorf("week %d: %w", week, err)
	}
	return s.exec(ctx, db, "VACUUM ANALYZE", "CHECKPOINT")
}

func (ch change) apply(ctx context.Context, conn *pgx.Conn) error {
	for _, step := range []struct {
		columns, sql string
		rows         []byte
	}{
		{"id bigint, status text, balance numeric, updated timestamptz, phone text, attributes jsonb",
			"UPDATE customers c SET status = u.status, balance = u.balance, updated = u.updated, phone = CASE WHEN u.id % 5 = 0 THEN u.phone ELSE c.phone END, " +
				"attributes = CASE WHEN u.id % 3 = 0 THEN u.attributes ELSE c.attributes END FROM changes u WHERE u.id = c.id", ch.customers},
		{"id bigint, status text, updated timestamptz",
			"UPDATE orders o SET status = u.status, updated = u.updated FROM changes u WHERE u.id = o.id", ch.orders},
		{"id bigint", "DELETE FROM orders o USING changes u WHERE u.id = o.id", ch.deleted},
	} {
		if _, err := conn.PgConn().Exec(ctx, "CREATE TEMP TABLE changes ("+step.columns+")").ReadAll(); err != nil {
			return err
		}
		if _, err := conn.PgConn().CopyFrom(ctx, bytes.NewReader(step.rows), "COPY changes FROM STDIN"); err != nil {
			return err
		}
		if _, err := conn.PgConn().Exec(ctx, "ANALYZE changes; "+step.sql+"; DROP TABLE changes").ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// fingerprint is one line a table: its rows and a sum of their hashes that does
// not depend on their order. The server computes it, none of the programs
// compared does.
func (c *crm) fingerprint(ctx context.Context, s *server, db string) (string, error) {
	var out strings.Builder
	err := s.session(ctx, db, func(conn *pgx.Conn) error {
		for _, t := range tables {
			var n int64
			var sum string
			if err := conn.QueryRow(ctx, "SELECT count(*), sum(hashtextextended(t::text, 7))::text FROM "+t.name+" t").Scan(&n, &sum); err != nil {
				return err
			}
			fmt.Fprintf(&out, "%s %d %s\n", t.name, n, sum)
		}
		return nil
	})
	return out.String(), err
}
