package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
)

// maxFaults bounds what Check lists.
const maxFaults = 20

// Check runs SQLite's integrity_check and returns the faults it finds. What needs
// a collation, a function or a module of the program that made the database
// cannot be checked by another one: unchecked names those tables, and why.
func Check(ctx context.Context, conn *sql.Conn) (faults, unchecked []string, err error) {
	if faults, err = integrityOf(ctx, conn, ""); !ofProgram(err) {
		return faults, nil, err
	}
	names, err := tableNames(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		found, err := integrityOf(ctx, conn, n)
		if ofProgram(err) {
			unchecked = append(unchecked, fmt.Sprintf("%s: %v", n, err))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if faults = append(faults, found...); len(faults) >= maxFaults {
			break
		}
	}
	return faults, unchecked, nil
}

func integrityOf(ctx context.Context, conn *sql.Conn, table string) (found []string, err error) {
	arg := fmt.Sprint(maxFaults)
	if table != "" {
		arg = `"` + strings.ReplaceAll(table, `"`, `""`) + `"`
	}
	rows, err := conn.QueryContext(ctx, "PRAGMA integrity_check("+arg+")")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		if s != "ok" {
			found = append(found, s)
		}
	}
	return found, rows.Err()
}

// ofProgram tells errors of what only the program that made a database has: they
// come before a page of the table is read. Damage has codes of its own.
func ofProgram(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || e.Code()&0xff != 1 { // SQLITE_ERROR
		return false
	}
	for _, text := range []string{"no such collation sequence", "no such function", "unknown function", "no such module", "no such tokenizer", "unknown tokenizer"} {
		if strings.Contains(e.Error(), text) {
			return true
		}
	}
	return false
}
