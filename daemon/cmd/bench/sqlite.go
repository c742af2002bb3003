package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite"
)

// makeSQLite makes three weeks of a SQLite file with the CRM's tables.
func (d *dataset) makeSQLite(ctx context.Context) error {
	if d.have("sqlite", d.sqliteSize, sqliteWeeks) {
		return nil
	}
	if err := d.begin("sqlite", sqliteWeeks); err != nil {
		return err
	}
	c := newCRM(d.seed+2, d.sqliteSize)
	for w := 1; w <= sqliteWeeks; w++ {
		d.log("data: a SQLite file of about %d MB, week %d of %d", d.sqliteSize, w, sqliteWeeks)
		path := filepath.Join(d.path("sqlite", w), "crm.db")
		if w > 1 {
			if err := copyFile(filepath.Join(d.path("sqlite", w-1), "crm.db"), path); err != nil {
				return err
			}
		}
		if err := c.sqliteWeek(ctx, path, w); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return d.finish("sqlite", d.sqliteSize, sqliteWeeks)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close())
}

func (c *crm) sqliteWeek(ctx context.Context, path string, w int) (err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	setup := []string{"PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -65536"}
	if w == 1 {
		setup = append(setup, strings.Split(schema, ";")...)
		setup = append(setup, strings.Split(indexes[:strings.Index(indexes, "ALTER")], ";")...)
	}
	for _, q := range setup {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if w > 1 {
		ch := c.changes(w)
		if err := errors.Join(
			perRow(ctx, tx, "UPDATE customers SET status = ?2, balance = ?3, updated = ?4, phone = CASE WHEN ?1 % 5 = 0 THEN ?5 ELSE phone END, "+
				"attributes = CASE WHEN ?1 % 3 = 0 THEN ?6 ELSE attributes END WHERE id = ?1", ch.customers),
			perRow(ctx, tx, "UPDATE orders SET status = ?2, updated = ?3 WHERE id = ?1", ch.orders),
			perRow(ctx, tx, "DELETE FROM orders WHERE id = ?1", ch.deleted)); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if err := c.rows(t, w, func(rows []byte) error { return insert(ctx, tx, t.name, rows) }); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return tx.Commit()
}

func insert(ctx context.Context, tx *sql.Tx, table string, rows []byte) error {
	first, _, _ := bytes.Cut(rows, []byte("\n"))
	marks := strings.Repeat("?,", bytes.Count(first, []byte("\t"))) + "?"
	return perRow(ctx, tx, "INSERT INTO "+table+" VALUES ("+marks+")", rows)
}

// perRow runs a statement with the columns of every row of COPY text.
func perRow(ctx context.Context, tx *sql.Tx, query string, rows []byte) error {
	st, err := tx.PrepareContext(ctx, query)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(rows) {
		var args []any
		for _, col := range strings.Split(strings.TrimSuffix(string(line), "\n"), "\t") {
			if digits, blob := strings.CutPrefix(col, `\\x`); blob {
				raw, err := hex.DecodeString(digits)
				if err != nil {
					return err
				}
				args = append(args, raw)
				continue
			}
			args = append(args, strings.ReplaceAll(col, `\n`, "\n"))
		}
		if _, err := st.ExecContext(ctx, args...); err != nil {
			return errors.Join(err, st.Close())
		}
	}
	return st.Close()
}
