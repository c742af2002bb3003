package mariadb

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// create is a SHOW CREATE TABLE taken apart: what makes the table, and what is
// faster, or only possible, once the rows are there.
type create struct {
	table       string   // CREATE TABLE without what follows
	keys        []string // KEY …
	foreignKeys []string // CONSTRAINT … FOREIGN KEY …
}

// takeApart splits the text of SHOW CREATE TABLE. Foreign keys need the other
// table, and plain keys are built faster from all rows at once than row by
// row: one sort instead of as many searches, 17 s instead of 39 s for two
// tables of 300,000 rows with three keys each, on two shared cores. Both may be added later and the
// server shows the same text again, because it sorts keys by their kind. Where
// keys have to stay the table keeps all of them, since among equal kinds the
// order is that in which they were made: beside a spatial one, and beside one
// that an AUTO_INCREMENT column needs.
func takeApart(text string, engine string) (create, error) {
	open, end, parts, err := elements(text)
	if err != nil {
		return create{}, err
	}
	deferKeys := engine == "InnoDB"
	var autoIncrement, first string
	for _, p := range parts {
		switch {
		case strings.HasPrefix(p, "SPATIAL KEY "):
			deferKeys = false
		case strings.HasPrefix(p, "PRIMARY KEY (") || strings.HasPrefix(p, "UNIQUE KEY ") && first == "":
			_, columns, _ := cutUnquoted(p, "(")
			first, _ = cutIdent(columns)
		case strings.HasPrefix(p, "`") && hasWord(p, " AUTO_INCREMENT"):
			autoIncrement, _ = cutIdent(p)
		}
	}
	if autoIncrement != "" && first != autoIncrement {
		deferKeys = false
	}
	var c create
	var stay []string
	for _, p := range parts {
		switch {
		case deferKeys && strings.HasPrefix(p, "KEY "):
			c.keys = append(c.keys, p)
		case strings.HasPrefix(p, "CONSTRAINT ") && isForeignKey(p):
			c.foreignKeys = append(c.foreignKeys, p)
		default:
			stay = append(stay, p)
		}
	}
	c.table = text[:open] + "\n  " + strings.Join(stay, ",\n  ") + "\n" + text[end:]
	return c, nil
}

func isForeignKey(constraint string) bool {
	_, rest := cutIdent(strings.TrimPrefix(constraint, "CONSTRAINT "))
	return strings.HasPrefix(rest, " FOREIGN KEY ")
}

// hasWord looks for a word outside of quotes.
func hasWord(s, word string) bool {
	_, after, ok := cutUnquoted(s, word)
	return ok && (after == "" || after[0] == ' ')
}

// elements finds the parts between the outer parentheses of CREATE TABLE:
// text[open] follows the opening one, text[end] is the closing one.
func elements(text string) (open, end int, parts []string, err error) {
	start := 0
	depth := 0
	err = scan(text, func(i int) bool {
		switch text[i] {
		case '(':
			if depth++; depth == 1 {
				open, start = i+1, i+1
			}
		case ',':
			if depth == 1 {
				parts = append(parts, strings.TrimSpace(text[start:i]))
				start = i + 1
			}
		case ')':
			if depth--; depth == 0 {
				parts = append(parts, strings.TrimSpace(text[start:i]))
				end = i
				return false
			}
		}
		return true
	})
	if err == nil && end == 0 {
		err = errors.New("no list of columns")
	}
	if err != nil {
		return 0, 0, nil, fmt.Errorf("CREATE TABLE of an unknown form: %w", err)
	}
	return open, end, parts, nil
}

// scan calls visit for each byte outside of quotes until it returns false.
func scan(text string, visit func(i int) bool) error {
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && (c == '`' || c == '\'' || c == '"'):
			quote = c
		case quote == 0:
			if !visit(i) {
				return nil
			}
		case c == '\\' && quote != '`':
			i++
		case c == quote: // a doubled one ends a string and begins the next
			quote = 0
		}
	}
	if quote != 0 {
		return fmt.Errorf("no end of a %c", quote)
	}
	return nil
}

// cutUnquoted is strings.Cut at the first sep that is not inside quotes.
func cutUnquoted(s, sep string) (before, after string, found bool) {
	at := -1
	err := scan(s, func(i int) bool {
		if strings.HasPrefix(s[i:], sep) {
			at = i
		}
		return at < 0
	})
	if err != nil || at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(sep):], true
}

// cutIdent reads a name in backticks at the front of a text.
func cutIdent(s string) (name, rest string) {
	if !strings.HasPrefix(s, "`") {
		return "", s
	}
	for i := 1; i < len(s); i++ {
		if s[i] != '`' {
			continue
		}
		if strings.HasPrefix(s[i:], "``") {
			i++
			continue
		}
		return strings.ReplaceAll(s[1:i], "``", "`"), s[i+1:]
	}
	return "", s
}

// referenced is the table that a foreign key's statement points to; "" for one
// in another database.
func referenced(statement string) string {
	_, after, _ := cutUnquoted(statement, " REFERENCES ")
	name, rest := cutIdent(after)
	if strings.HasPrefix(rest, ".") {
		return ""
	}
	return name
}

// ownSequences takes the database's name out of where a column's default asks
// one of its own sequences for a value: restored under another name the table
// would go on to use the sequence of the database it was dumped from.
func ownSequences(text, database string) string {
	var b strings.Builder
	from := 0
	_ = scan(text, func(i int) bool { // text that does not end its quotes is refused by takeApart
		for _, f := range []string{"nextval(", "lastval(", "setval("} {
			if rest, ok := strings.CutPrefix(text[i:], f+ident(database)+"."); ok && i >= from {
				b.WriteString(text[from:i] + f)
				from = len(text) - len(rest)
			}
		}
		return true
	})
	return b.String() + text[from:]
}

// withoutDatabase takes the database's name out of names in backticks.
func withoutDatabase(text, database string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote == 0 && c == '`':
			name, rest := cutIdent(text[i:])
			if own, ok := strings.CutPrefix(rest, ".`"); ok && name == database {
				_, rest = cutIdent("`" + own)
				i = len(text) - len(own) - 1
			}
			b.WriteString(text[i : len(text)-len(rest)])
			i = len(text) - len(rest) - 1
			continue
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote != 0 && c == '\\' && i+1 < len(text):
			b.WriteByte(c)
			i++
		case c == quote:
			quote = 0
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// selected are the names of a view's columns, of the text of SHOW CREATE VIEW,
// in which each has one.
func selected(text string) []string {
	var names []string
	_, text, _ = cutUnquoted(text, " VIEW ")
	_, text = cutIdent(text)
	depth := 0
	_ = scan(text, func(i int) bool { // a text without an end has no names that matter
		switch text[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ' ':
			if name, _ := cutIdent(strings.TrimPrefix(text[i:], " AS ")); depth == 0 && name != "" {
				names = append(names, name)
			}
			return depth > 0 || !strings.HasPrefix(text[i:], " from ") && !strings.HasPrefix(text[i:], " union ")
		}
		return true
	})
	return names
}

var autoIncrementRE = regexp.MustCompile(`^( ENGINE=\w+(?: SEQUENCE=\d)?) AUTO_INCREMENT=\d+`)

// withoutCounter is a CREATE TABLE without the counter, which moves with every
// row that is added.
func withoutCounter(text string) string {
	_, end, _, err := elements(text)
	if err != nil {
		return text
	}
	return text[:end+1] + autoIncrementRE.ReplaceAllString(text[end+1:], "$1")
}

var definerRE = regexp.MustCompile("^(CREATE (?:OR REPLACE )?(?:ALGORITHM=\\w+ )?)DEFINER=`(?:[^`]|``)*`(?:@`(?:[^`]|``)*`)? ")

// withoutDefiner leaves an object to whoever makes it.
func withoutDefiner(statement string) string { return definerRE.ReplaceAllString(statement, "$1") }

// script is SQL text of which neither we nor the client have to look for the
// ends of statements: each ends in a delimiter that is in none of them.
func script(comment string, statements []string) []byte {
	delimiter := ";;"
	for i := 1; slices.ContainsFunc(statements, func(s string) bool { return strings.Contains(s, delimiter) }); i++ {
		delimiter = fmt.Sprintf(";;%d", i)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "--\n-- %s\n--\n\nDELIMITER %s\n", comment, delimiter)
	for _, s := range statements {
		b.WriteString(s)
		b.WriteString("\n" + delimiter + "\n")
	}
	b.WriteString("DELIMITER ;\n\n")
	return []byte(b.String())
}

// splitScript is the inverse of script, whatever stands before it and after.
func splitScript(text []byte) ([]string, error) {
	const last = "DELIMITER ;\n\n"
	_, rest, ok := strings.Cut(string(text), "\nDELIMITER ")
	delimiter, rest, ok2 := strings.Cut(rest, "\n")
	end := strings.LastIndex(rest, last)
	if !ok || !ok2 || end < 0 || !strings.HasPrefix(delimiter, ";;") {
		return nil, errors.New("SQL text of an unknown form")
	}
	statements := strings.Split(rest[:end], "\n"+delimiter+"\n")
	if n := len(statements) - 1; statements[n] != "" {
		return nil, fmt.Errorf("SQL text ends within a statement: %.40q", statements[n])
	}
	return statements[:len(statements)-1], nil
}
