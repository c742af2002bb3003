package mariadb

import (
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"strongroom/source/rowhash"
)

// form is how a column's values are written into SQL.
type form int

const (
	formPlain  form = iota // numbers: as they come
	formFloat              // read as DOUBLE, of which the text is exact
	formHex                // bytes of any kind
	formQuoted             // ASCII of the server's making: times, UUIDs, addresses
	formText               // in the column's character set
)

// formOf knows the types whose values come back as they were; ok is false for
// others.
func formOf(dataType string) (f form, ok bool) {
	switch dataType {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "year":
		return formPlain, true
	case "float", "double":
		return formFloat, true
	case "bit", "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "geometry", "point", "linestring", "polygon",
		"multipoint", "multilinestring", "multipolygon", "geometrycollection":
		return formHex, true
	case "date", "time", "datetime", "timestamp", "uuid", "inet4", "inet6":
		return formQuoted, true
	case "char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set":
		return formText, true
	}
	return 0, false
}

// asciiCompatible are character sets of one byte a character in which bytes
// below 0x80 are ASCII.
var asciiCompatible = []string{"ascii", "latin1", "latin2", "latin5", "latin7", "cp1250", "cp1251", "cp1256", "cp1257", "cp850", "cp852",
	"cp866", "koi8r", "koi8u", "greek", "hebrew", "macce", "macroman", "armscii8", "geostd8", "keybcs2", "dec8", "hp8", "tis620"}

// rowWriter writes rows as INSERT statements, a row a line. Where a statement
// ends depends on the row that is its last, so that a row more or less in one
// week changes the text around it and nothing after that.
type rowWriter struct {
	columns []column
	head    []byte // INSERT INTO … VALUES and a line feed
	lenient []byte // the same with IGNORE

	out      []byte // text that nobody took yet
	line     []byte // the row being written
	open     bool   // a statement is open in out
	ignoring bool   // it is INSERT IGNORE
	size     int    // its bytes so far
	longest  int    // statement so far
	sum      rowhash.Sum
	// unreadable counts values that are not in their column's character set:
	// no statement can write those.
	unreadable int64
	indexZero  bool // an ENUM's error value is in this row
}

const (
	meanRows     = 256       // of a statement
	maxStatement = 512 << 10 // bytes; only a row that is longer makes a longer one
)

func newRowWriter(t table) *rowWriter {
	var names []string
	for _, c := range t.columns {
		names = append(names, ident(c.name))
	}
	into := " INTO " + ident(t.Name) + " (" + strings.Join(names, ", ") + ") VALUES\n"
	return &rowWriter{columns: t.columns, head: []byte("INSERT" + into), lenient: []byte("INSERT IGNORE" + into)}
}

// largestPacket is as much as a server can be set to take at once, as
// max_allowed_packet; a statement needs room for what goes around it too.
const largestPacket, aroundStatement = 1 << 30, 1 << 10

// unwritable says what is in the rows and a restore cannot write.
func (w *rowWriter) unwritable(t table) (out []string) {
	if w.unreadable > 0 {
		out = append(out, fmt.Sprintf("table %s: %d values are not in their column's character set: a restore refuses them", plainName(t.Name), w.unreadable))
	}
	if w.longest > largestPacket-aroundStatement {
		out = append(out, fmt.Sprintf("table %s: a row takes %d bytes as SQL, more than any server takes: a restore refuses the whole database", plainName(t.Name), w.longest))
	}
	return out
}

// add writes one row.
func (w *rowWriter) add(vals []driver.Value) error {
	w.indexZero = false
	w.line = append(w.line[:0], '(')
	numbers := vals[len(w.columns):] // of ENUMs, see selectSQL
	for i := range w.columns {
		c := &w.columns[i]
		if i > 0 {
			w.line = append(w.line, ',')
		}
		number := ""
		if c.emptyMember {
			number, numbers = textOf(numbers[0]), numbers[1:]
		}
		if err := w.value(c, vals[i], number); err != nil {
			return fmt.Errorf("column %s: %w", ident(c.name), err)
		}
	}
	w.line = append(w.line, ')')
	d := sha256.Sum256(w.line)
	w.sum.Add(d[:])
	w.place()
	return nil
}

// place puts the row into the statement that is open, or where it does not fit
// there into a new one.
func (w *rowWriter) place() {
	if w.open && (w.ignoring != w.indexZero || w.size+len(w.line) > maxStatement) {
		w.end()
	}
	if w.open {
		w.out = append(w.out, ",\n"...)
	} else {
		head := w.head
		if w.indexZero {
			head = w.lenient // strict mode takes no such value; IGNORE writes it
		}
		w.out = append(w.out, head...)
		w.open, w.ignoring, w.size = true, w.indexZero, len(head)
	}
	w.out = append(w.out, w.line...)
	w.size += len(w.line) + 2
	if crc32.ChecksumIEEE(w.line)%meanRows == 0 {
		w.end()
	}
}

// end ends the statement.
func (w *rowWriter) end() {
	if w.open {
		w.out = append(w.out, ";\n"...)
		w.longest = max(w.longest, w.size)
		w.open = false
	}
}

func (w *rowWriter) value(c *column, v driver.Value, number string) error {
	switch v := v.(type) {
	case nil:
		w.line = append(w.line, "NULL"...)
		return nil
	case int64:
		w.line = strconv.AppendInt(w.line, v, 10)
		return nil
	case uint64:
		w.line = strconv.AppendUint(w.line, v, 10)
		return nil
	case float64:
		w.line = appendFloat(w.line, v)
		return nil
	case []byte:
		if c.enum && len(v) == 0 && (!c.emptyMember || number == "0") {
			w.indexZero = true
			w.line = append(w.line, '0')
			return nil
		}
		return w.bytes(c, v)
	}
	return fmt.Errorf("the driver gives a %T", v)
}

func (w *rowWriter) bytes(c *column, v []byte) error {
	switch c.form {
	case formPlain:
		if !isNumber(v) {
			return fmt.Errorf("%.40q is no number", v)
		}
		w.line = append(w.line, v...)
	case formHex:
		w.line = appendHex(w.line, v)
	case formQuoted:
		w.line = appendQuoted(w.line, v)
	case formText:
		w.text(c, v)
	default:
		return fmt.Errorf("text where a number is due: %.40q", v)
	}
	return nil
}

// text writes a value of a character set: as it is where that is what a
// session in utf8mb4 would send, else by its bytes.
func (w *rowWriter) text(c *column, v []byte) {
	switch {
	case c.charset == "utf8mb4" || c.charset == "utf8mb3" || c.charset == "utf8":
		if !utf8.Valid(v) {
			w.unreadable++
			w.line = appendHex(append(w.line, "_"+c.charset+" "...), v)
			return
		}
		w.line = appendQuoted(w.line, v)
	case slices.Contains(asciiCompatible, c.charset) && isASCII(v):
		w.line = appendQuoted(w.line, v)
	case c.charset == "latin1" && !hasC1(v):
		u := make([]byte, 0, len(v)+len(v)/4)
		for _, b := range v {
			u = utf8.AppendRune(u, rune(b)) // equal to Unicode but for 0x80 to 0x9f
		}
		w.line = appendQuoted(w.line, u)
	default:
		w.line = appendHex(append(w.line, "_"+c.charset+" "...), v)
	}
}

func isASCII(v []byte) bool {
	for _, b := range v {
		if b >= 0x80 {
			return false
		}
	}
	return true
}

func hasC1(v []byte) bool {
	for _, b := range v {
		if b >= 0x80 && b < 0xa0 {
			return true
		}
	}
	return false
}

func isNumber(v []byte) bool {
	for i, b := range v {
		if (b < '0' || b > '9') && b != '.' && (b != '-' || i > 0) {
			return false
		}
	}
	return len(v) > 0
}

// appendFloat writes a number that the server reads as a DOUBLE: 0 would be
// an integer, of which there is no negative one.
func appendFloat(to []byte, v float64) []byte {
	start := len(to)
	to = strconv.AppendFloat(to, v, 'g', -1, 64)
	for _, b := range to[start:] {
		if b == 'e' {
			return to
		}
	}
	return append(to, "e0"...)
}

func appendHex(to, v []byte) []byte {
	if len(v) == 0 {
		return append(to, "''"...)
	}
	to = append(to, "0x"...)
	return hex.AppendEncode(to, v)
}

// appendQuoted writes a string literal on one line, for a mode without
// NO_BACKSLASH_ESCAPES.
func appendQuoted(to, v []byte) []byte {
	to = append(to, '\'')
	from := 0
	for i, b := range v {
		var esc byte
		switch b {
		case 0:
			esc = '0'
		case '\n':
			esc = 'n'
		case '\r':
			esc = 'r'
		case 0x1a:
			esc = 'Z'
		case '\'', '\\':
			esc = b
		default:
			continue
		}
		to = append(to, v[from:i]...)
		to = append(to, '\\', esc)
		from = i + 1
	}
	to = append(to, v[from:]...)
	return append(to, '\'')
}
