package mariadb

import (
	"context"
	"fmt"
	"strings"
)

// rights are what it takes to see all of a database: the server does not list
// what a user may not see, and a dump without it would look whole.
var rights = []string{"SELECT", "SHOW VIEW", "TRIGGER", "EVENT"}

func checkRights(ctx context.Context, c *session, srv server) error {
	granted := map[string]bool{}
	// Not from information_schema, which leaves out what comes by a role.
	err := c.query(ctx, "SHOW GRANTS", func(v []string) error {
		for _, r := range rightsOn(v[0], srv.Database) {
			granted[r] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read rights: %w", err)
	}
	var missing []string
	for _, r := range rights {
		if !granted[r] && !granted["ALL PRIVILEGES"] {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("user %s sees only a part of the database: GRANT %s ON %s.*", srv.User, strings.Join(missing, ", "), ident(srv.Database))
	}
	if granted["SHOW CREATE ROUTINE"] { // 11.3 and later
		return nil
	}
	if err := c.exec(ctx, "SELECT 1 FROM mysql.proc LIMIT 0"); err != nil {
		return fmt.Errorf("user %s may not see routines of others: GRANT SELECT ON mysql.proc: %w", srv.User, err)
	}
	return nil
}

// rightsOn reads a line of SHOW GRANTS: what it grants on all of a database.
func rightsOn(grant, database string) []string {
	list, ok := strings.CutPrefix(grant, "GRANT ")
	list, on, ok2 := cutUnquoted(list, " ON ")
	if !ok || !ok2 {
		return nil // a role, whose own line follows
	}
	if !strings.HasPrefix(on, "*.* TO ") {
		pattern, rest := cutIdent(on)
		if !strings.HasPrefix(rest, ".* TO ") || !like(database, pattern) {
			return nil
		}
	}
	return strings.Split(list, ", ")
}

// like is SQL's LIKE, by which the server matches a grant's database.
func like(s, pattern string) bool {
	if pattern == "" {
		return s == ""
	}
	switch c := pattern[0]; {
	case c == '%':
		for i := range len(s) + 1 {
			if like(s[i:], pattern[1:]) {
				return true
			}
		}
		return false
	case s == "":
		return false
	case c == '_':
		return like(s[1:], pattern[1:])
	case c == '\\' && len(pattern) > 1:
		return s[0] == pattern[1] && like(s[1:], pattern[2:])
	default:
		return s[0] == c && like(s[1:], pattern[1:])
	}
}
