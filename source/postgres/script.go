package postgres

import (
	"bytes"
	"errors"
	"strings"
)

// entry is one object's part of pg_dump's text.
type entry struct {
	name, kind string // as its comment says; "" for the head of a script
	statements []string
}

// entryMark begins the comment that pg_dump puts before every object.
const entryMark = "--\n-- Name: "

// splitScript cuts pg_dump's text into entries and those into statements, and
// drops comments and psql's \restrict. It follows the lexical rules of
// PostgreSQL (manual, 4.1) as far as quoting goes, so that nothing inside a
// quoted text, however it looks, is taken for structure. The body of a
// BEGIN ATOMIC function is cut at its semicolons: statements of an entry are
// only meaningful together.
func splitScript(text []byte) ([]entry, error) {
	entries := []entry{{}}
	start, i := 0, 0 // of the statement; where we are
	flush := func(end int) {
		if s := bytes.TrimSpace(text[start:end]); len(s) > 0 {
			e := &entries[len(entries)-1]
			e.statements = append(e.statements, string(s))
		}
		start = end
	}
	for i < len(text) {
		blank := len(bytes.TrimSpace(text[start:i])) == 0
		switch n := quoted(text, i); {
		case n < 0:
			return nil, errors.New("schema: unterminated quote or comment")
		case n > 0 && blank && bytes.HasPrefix(text[i:], []byte("--")):
			if name, kind, ok := entryName(text[i:]); ok {
				entries = append(entries, entry{name: name, kind: kind})
			}
			i += n
			start = i // a comment between statements is nobody's
		case n > 0:
			i += n
		case text[i] == ';':
			i++
			flush(i)
		case text[i] == '\\' && blank:
			line, _, _ := bytes.Cut(text[i:], []byte("\n"))
			if !bytes.HasPrefix(line, []byte(`\restrict `)) && !bytes.HasPrefix(line, []byte(`\unrestrict `)) {
				return nil, errors.New("schema: has a backslash command")
			}
			i += len(line)
			start = i
		default:
			i++
		}
	}
	flush(len(text))
	return entries, nil
}

// entryName reads `--\n-- Name: NAME; Type: KIND; Schema: …`.
func entryName(text []byte) (name, kind string, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(entryMark))
	if !ok {
		return "", "", false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	// A name may hold "; Type: " too, a kind never does.
	line, _, ok = cutLast(line, []byte("; Schema: "))
	if !ok {
		return "", "", false
	}
	n, k, ok := cutLast(line, []byte("; Type: "))
	return string(n), string(k), ok
}

func cutLast(s, sep []byte) (before, after []byte, ok bool) {
	i := bytes.LastIndex(s, sep)
	if i < 0 {
		return s, nil, false
	}
	return s[:i], s[i+len(sep):], true
}

// quoted returns the length of the comment or quoted text that begins at i: 0
// where none does, -1 where it does not end.
func quoted(t []byte, i int) int {
	end := func(from int, stop string) int {
		k := bytes.Index(t[from:], []byte(stop))
		if k < 0 {
			return -1
		}
		return from + k + len(stop) - i
	}
	switch c := t[i]; {
	case c == '"':
		return end(i+1, `"`) // a doubled one begins a new text at once: the same
	case c == '\'' && i > 0 && (t[i-1] == 'E' || t[i-1] == 'e') && (i < 2 || !wordByte(t[i-2])):
		return escapeString(t, i)
	case c == '\'':
		return end(i+1, `'`)
	case bytes.HasPrefix(t[i:], []byte("--")):
		if n := end(i, "\n"); n > 0 {
			return n
		}
		return len(t) - i
	case bytes.HasPrefix(t[i:], []byte("/*")):
		return blockComment(t, i)
	case c == '$' && (i == 0 || !wordByte(t[i-1])):
		k := i + 1
		for k < len(t) && t[k] != '$' && wordByte(t[k]) {
			k++
		}
		if k == len(t) || t[k] != '$' || t[i+1] >= '0' && t[i+1] <= '9' {
			return 0 // $1 or an operator
		}
		return end(k+1, string(t[i:k+1]))
	}
	return 0
}

func escapeString(t []byte, i int) int {
	for k := i + 1; k < len(t); k++ {
		switch t[k] {
		case '\\':
			k++
		case '\'':
			return k + 1 - i
		}
	}
	return -1
}

func blockComment(t []byte, i int) int {
	depth := 0
	for k := i; k+1 < len(t); k++ {
		switch string(t[k : k+2]) {
		case "/*":
			depth++
			k++
		case "*/":
			depth--
			k++
			if depth == 0 {
				return k + 1 - i
			}
		}
	}
	return -1
}

// wordByte is one that an identifier can go on with.
func wordByte(c byte) bool {
	return c >= 0x80 || c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// setsOwner recognises ALTER … OWNER TO role, which pg_dump writes as a
// statement of its own.
func setsOwner(stmt string) bool {
	if !strings.HasPrefix(stmt, "ALTER ") {
		return false
	}
	_, ok := lastWord(stmt, " OWNER TO ")
	return ok
}

// grantee returns whom a GRANT, REVOKE or ALTER DEFAULT PRIVILEGES is about;
// "" where the statement is no such.
func grantee(stmt string) string {
	if !strings.HasPrefix(stmt, "GRANT ") && !strings.HasPrefix(stmt, "REVOKE ") && !strings.HasPrefix(stmt, "ALTER DEFAULT PRIVILEGES ") {
		return ""
	}
	stmt = strings.TrimSuffix(strings.TrimSuffix(stmt, ";"), " WITH GRANT OPTION")
	for _, word := range []string{" TO ", " FROM "} {
		if who, ok := lastWord(stmt, word); ok {
			return who
		}
	}
	return ""
}

// lastWord returns the identifier, unquoted, that follows word and ends the
// statement.
func lastWord(stmt, word string) (string, bool) {
	stmt = strings.TrimSuffix(stmt, ";")
	i := strings.LastIndex(stmt, word)
	if i < 0 {
		return "", false
	}
	id := stmt[i+len(word):]
	if inner, ok := strings.CutPrefix(id, `"`); ok {
		inner, ok = strings.CutSuffix(inner, `"`)
		plain := strings.ReplaceAll(inner, `""`, "\x00")
		return strings.ReplaceAll(plain, "\x00", `"`), ok && !strings.Contains(plain, `"`)
	}
	for _, c := range []byte(id) {
		if !wordByte(c) {
			return "", false
		}
	}
	return id, id != ""
}
