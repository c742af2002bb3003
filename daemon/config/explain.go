package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// explain turns the decoder's errors into ours, of a file with these keys.
func explain(path string, v vocabulary, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		line, col := e.Position()
		key := e.Key()
		out := &Error{Path: path, Line: line, Column: col, Text: fmt.Sprintf("unknown key %q", strings.Join(key, "."))}
		if near := v.nearest(key); near != "" {
			out.Hint = fmt.Sprintf("did you mean %q?", near)
		}
		return out
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		line, col := dec.Position()
		text := strings.TrimPrefix(dec.Error(), "toml: ")
		if m := wrongType.FindStringSubmatch(text); m != nil {
			text = fmt.Sprintf("want %s, not %s", typeName(m[2]), withArticle(m[1]))
		}
		if key := dec.Key(); len(key) > 0 {
			text = fmt.Sprintf("%s: %s", strings.Join(key, "."), text)
		}
		return &Error{Path: path, Line: line, Column: col, Text: text}
	}
	return &Error{Path: path, Text: err.Error()}
}

// wrongType is how the decoder says that a value has another type than the
// field of ours it belongs to. Whoever writes the file knows neither.
var wrongType = regexp.MustCompile(`^cannot (?:decode TOML|store an?) (.+?) (?:into|in a) (?:struct field \S+ of type )?(\S+)$`)

// typeName is the TOML name of the type of a field, or of what it holds.
func typeName(field string) string {
	switch {
	case field == "string":
		return "a string"
	case field == "int":
		return "an integer"
	case field == "bool":
		return "true or false"
	case field == "[]string":
		return "a list of strings"
	case strings.HasPrefix(field, "[]"):
		return "tables in [[double brackets]]"
	}
	return "a table in [brackets]"
}

func withArticle(s string) string {
	if strings.ContainsRune("aeiou", rune(s[0])) {
		return "an " + s
	}
	return "a " + s
}

// A vocabulary has the keys of each table, by the path without array positions.
type vocabulary map[string][]string

var (
	known          = keysOf(reflect.TypeFor[Config]())
	knownOfReaders = keysOf(reflect.TypeFor[Reader]())
)

// keysOf reads them off the fields that the decoder fills, in their order.
func keysOf(t reflect.Type) vocabulary {
	v := vocabulary{}
	v.add("", t)
	return v
}

func (v vocabulary) add(table string, t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for f := range t.Fields() {
		key := f.Tag.Get("toml")
		switch {
		case f.Anonymous && key == "":
			v.add(table, f.Type) // its keys stand in this table
		case key != "" && key != "-":
			v[table] = append(v[table], key)
			v.add(strings.TrimPrefix(table+"."+key, "."), f.Type)
		}
	}
}

// Keys are all keys that a file may have, of whichever table.
func Keys() []string {
	var all []string
	for _, v := range []vocabulary{known, knownOfReaders} {
		for _, of := range v {
			all = append(all, of...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// nearest returns the known key of the same table with the smallest edit
// distance, if it is small.
func (v vocabulary) nearest(key []string) string {
	if len(key) == 0 {
		return ""
	}
	last := key[len(key)-1]
	best, dist := "", 1+max(1, len(last)/3)
	for _, k := range v[strings.Join(key[:len(key)-1], ".")] {
		if d := distance(last, k); d < dist {
			best, dist = k, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
