package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A mistake is a value that decodes and does not make sense. The decoder has
// forgotten by then where it stood, so it says which table and key it means.
type mistake struct {
	table string // such as "tenant.dataset"
	nth   [3]int // which [[store]] or [[tenant]], which dataset of it, which assertion of that; from 1
	key   string // "" means the table
	err   error
}

func (m *mistake) Error() string { return m.err.Error() }

// bad is a mistake in the value of a key.
func bad(key, format string, args ...any) error {
	return &mistake{key: key, err: fmt.Errorf(format, args...)}
}

// within adds to a mistake the table it is in, and says so in words.
func within(err error, table string, nth [3]int, format string, args ...any) error {
	var m *mistake
	if !errors.As(err, &m) {
		m = &mistake{}
	}
	out := *m
	if out.table == "" {
		out.table = table
	}
	for i, n := range nth {
		if out.nth[i] == 0 {
			out.nth[i] = n
		}
	}
	out.err = fmt.Errorf(format+": %w", append(args, err)...)
	return &out
}

// locate finds where m stands in text: its value, or else the header of its
// table. It returns zeros where the file spells the table inline.
func locate(text []byte, m *mistake) (line, column int) {
	var p unstable.Parser
	p.Reset(text)
	table, seen := "", map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		key, first := dotted(e.Key())
		at := first
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
			seen[table]++
			if table == "tenant" {
				seen["tenant.dataset"] = 0
			}
			if table == "tenant" || table == "tenant.dataset" {
				seen["tenant.dataset.assert"] = 0
			}
			key = ""
		case unstable.KeyValue:
			if at = e.Value(); at.Raw.Length == 0 {
				at = first
			}
		default:
			continue
		}
		if table != m.table || m.nth != ordinal(table, seen) || key != "" && key != m.key {
			continue
		}
		start := p.Shape(at.Raw).Start
		line, column = start.Line, start.Column
		if key == m.key {
			break
		}
	}
	return line, column
}

// dotted joins the parts of a key and returns the first too.
func dotted(it unstable.Iterator) (key string, first *unstable.Node) {
	var parts []string
	for it.Next() {
		if first == nil {
			first = it.Node()
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), first
}

// ordinal is the place of the current table among those of its name.
func ordinal(table string, seen map[string]int) [3]int {
	switch table {
	case "store", "tenant", "dataset", "notify.mail", "notify.webhook", "notify.ping":
		return [3]int{seen[table]}
	case "tenant.dataset":
		return [3]int{seen["tenant"], seen[table]}
	case "tenant.dataset.assert":
		return [3]int{seen["tenant"], seen["tenant.dataset"], seen[table]}
	case "tenant.dataset.keep", "tenant.dataset.schedule", "tenant.dataset.drill_schedule":
		return [3]int{seen["tenant"], seen["tenant.dataset"]}
	}
	return [3]int{}
}
