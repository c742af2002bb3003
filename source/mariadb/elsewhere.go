package mariadb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// elsewhere reports whether a statement failed because it reads or points to
// another database, or to a view that was left out for that. The server says so
// itself: who loads has rights on the one database alone.
func (l *loader) elsewhere(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok || !l.target.Alone {
		return false
	}
	switch e.Number {
	case errTableAccess, errColumnAccess: // … denied to user … for table `database`.`table`
		_, rest, ok := strings.Cut(e.Message, " for table `")
		return ok && !strings.HasPrefix(rest, l.report.Database+"`.")
	case errRoutineAccess: // … denied to user … for routine 'database.routine'
		_, rest, ok := strings.Cut(e.Message, " for routine '")
		return ok && !strings.HasPrefix(rest, l.report.Database+".")
	case errNoTable: // Table 'database.table' doesn't exist
		name, _ := strings.CutPrefix(e.Message, "Table '"+l.report.Database+".")
		name, ok := strings.CutSuffix(name, "' doesn't exist")
		return ok && slices.Contains(l.report.Left, name)
	}
	return false
}

// leaveToo leaves out the views that read one that was left out after they had
// been made, over its stand-in.
func (l *loader) leaveToo(ctx context.Context) error {
	for again := len(l.report.Left) > 0; again; {
		again = false
		var views []string
		err := l.main.query(ctx, "SELECT table_name FROM information_schema.views WHERE table_schema = DATABASE()", func(v []string) error {
			views = append(views, v[0])
			return nil
		})
		if err != nil {
			return fmt.Errorf("list views: %w", err)
		}
		for _, v := range views {
			err := l.main.exec(ctx, "SHOW COLUMNS FROM "+ident(v))
			if code(err) != errView && code(err) != errNoTable || slices.Contains(l.detail.Unusable, plainName(v)) {
				continue
			}
			l.warn("left out: view %s, it reads one that reads another database", plainName(v))
			l.report.Left, again = append(l.report.Left, plainName(v)), true
			if err := l.exec(ctx, l.main, "DROP VIEW "+ident(v)); err != nil {
				return err
			}
		}
	}
	return nil
}

// viewOf is the name of the view that a statement makes, else "".
func viewOf(sql string) string {
	if !strings.HasPrefix(sql, "CREATE OR REPLACE ") {
		return ""
	}
	_, rest, _ := cutUnquoted(sql, " VIEW ")
	name, _ := cutIdent(rest)
	return name
}
