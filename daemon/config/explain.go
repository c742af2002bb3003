package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// explain turns the decoder's errors into ours.
func explain(path string, err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		e := strict.Errors[0]
		line, col := e.Position()
		key := e.Key()
		out := &Error{Path: path, Line: line, Column: col, Text: fmt.Sprintf("unknown key %q", strings.Join(key, "."))}
		if near := nearest(key); near != "" {
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

// known lists the keys of each table, by the path without array positions.
var known = map[string][]string{
	"":                  {"state_dir", "socket", "recovery", "store", "tenant", "media", "notify", "drill", "metrics", "log", "confine"},
	"confine":           {"writable", "missing"},
	"metrics":           {"listen", "anywhere", "names"},
	"log":               {"level"},
	"recovery":          {"standard", "top"},
	"recovery.standard": {"shares", "threshold"},
	"recovery.top":      {"shares", "threshold"},
	"store": {"name", "kind", "path", "endpoint", "bucket", "prefix", "region", "access_key_file", "secret_key_file", "style",
		"ca_file", "patience", "bandwidth", "window", "quota", "lock", "extend_access_key_file", "extend_secret_key_file",
		"delete_access_key_file", "delete_secret_key_file", "recovery_access_key_file", "recovery_secret_key_file"},
	"tenant": {"name", "level", "dataset"},
	"tenant.dataset": {"name", "source", "url", "password_file", "jobs", "lock_timeout", "lock", "path", "exclude", "command", "timeout",
		"compression", "base_cache", "spool", "keep", "schedule", "before", "after", "hook_timeout", "rto", "rpo", "checker", "assert",
		"via", "host_key", "ssh_key_file", "max_size"},
	"dataset":                 {"name", "source", "path", "exclude", "command", "timeout"}, // of a reader
	"tenant.dataset.assert":   {"name", "sql", "expect", "timeout"},
	"drill":                   {"scratch", "memory"},
	"notify":                  {"box", "link", "mail", "webhook", "ping"},
	"notify.webhook":          {"name", "url", "secret_file", "ca_file", "events"},
	"notify.ping":             {"name", "url_file", "ca_file", "tenant", "dataset"},
	"notify.mail":             {"name", "host", "port", "from", "to", "username", "password_file", "ca_file", "events"},
	"media":                   {"sets", "monthly", "yearly", "verify_disk", "verify_optical", "inside", "recovery_program", "helper", "burn"},
	"tenant.dataset.schedule": {"at", "time_zone", "jitter", "blackout", "catch_up", "period"},
	"tenant.dataset.keep":     {"last", "daily", "weekly", "monthly", "yearly", "within", "labels", "grace"},
}

// Keys are all keys that a file may have, of whichever table.
func Keys() []string {
	var all []string
	for _, of := range known {
		all = append(all, of...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// nearest returns the known key of the same table with the smallest edit
// distance, if it is small.
func nearest(key []string) string {
	if len(key) == 0 {
		return ""
	}
	last := key[len(key)-1]
	best, dist := "", 1+max(1, len(last)/3)
	for _, k := range known[strings.Join(key[:len(key)-1], ".")] {
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
