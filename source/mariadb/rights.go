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
		return refused("user %s sees only a part of the database: GRANT %s ON %s.*", srv.User, strings.Join(missing, ", "), ident(srv.Database))
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

// like is SQL's LIKE, by which the server matches a grant's database. It goes
// back to the last % only, as what one before that takes makes no difference:
// a server that means harm could otherwise keep it busy for ever.
func like(s, pattern string) bool {
	i, p := 0, 0
	taken, after := 0, -1 // up to where the last % took s, and what follows it in the pattern
	for i < len(s) {
		rest := pattern[p:]
		switch {
		case strings.HasPrefix(rest, "%"):
			p++
			taken, after = i, p
		case len(rest) > 1 && rest[0] == '\\' && rest[1] == s[i]:
			i, p = i+1, p+2
		case rest != "" && (rest[0] == '_' || rest[0] == s[i] && (rest[0] != '\\' || len(rest) == 1)):
			i, p = i+1, p+1
		case after >= 0:
			taken++
			i, p = taken, after
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "%") == ""
}
