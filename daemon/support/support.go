// Package support packs what somebody who helps from afar needs to know, without
// what is a client's.
package support

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pelletier/go-toml/v2"

	"strongroom/daemon/plain"
)

// A Part is one file of a bundle: a value that json.Marshal takes, or lines of
// text, or why there is none.
type Part struct {
	Name  string // "runs.json"
	Value any
	// Reduced: nothing is left in Value to be taken out.
	Reduced bool
	Lines   []string
	Err     error
}

// maxPart bounds a part, in bytes.
const maxPart = 8 << 20

// Write writes a bundle, a tar.zst. Everything in a part goes through the filter:
// keys of values are names of our own fields, numbers and times stay, and of all
// other text what a filter leaves.
func Write(w io.Writer, f *plain.Filter, now time.Time, readme string, parts []Part) error {
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	add := func(name string, body []byte) error {
		if len(body) > maxPart {
			body = append(body[:maxPart:maxPart], "\n… and more\n"...)
		}
		err := t.WriteHeader(&tar.Header{Name: "strongroom-support/" + name, Mode: 0o600, Size: int64(len(body)), ModTime: now, Format: tar.FormatPAX})
		if err == nil {
			_, err = t.Write(body)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	err = add("README.txt", []byte(readme))
	for _, p := range parts {
		body, perr := p.body(f)
		if perr != nil {
			body = []byte("not there: " + f.Text(perr.Error()) + "\n")
		}
		err = errors.Join(err, add(p.Name, body))
	}
	return errors.Join(err, t.Close(), z.Close())
}

func (p Part) body(f *plain.Filter) ([]byte, error) {
	if p.Err != nil {
		return nil, p.Err
	}
	if p.Value == nil {
		var b bytes.Buffer
		for _, l := range p.Lines {
			b.WriteString(line(f, l) + "\n")
		}
		return b.Bytes(), nil
	}
	if p.Reduced {
		b, err := json.MarshalIndent(p.Value, "", " ")
		return append(b, '\n'), err
	}
	raw, err := json.Marshal(p.Value)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(reduce(f, v), "", " ")
	return append(b, '\n'), err
}

var (
	// stamp begins a line of a log.
	stamp = regexp.MustCompile(`^(?:time=)?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?`)
	// value is one of log/slog's text that it put in quotes: those are not a
	// quotation by whoever wrote the message.
	value = regexp.MustCompile(`=("(?:[^"\\]|\\.)*")`)
)

func line(f *plain.Filter, s string) string {
	var b strings.Builder
	at := stamp.FindString(s)
	b.WriteString(at)
	s = s[len(at):]
	for s != "" {
		m := value.FindStringSubmatchIndex(s)
		if m == nil {
			b.WriteString(" " + f.Text(s))
			break
		}
		text, err := strconv.Unquote(s[m[2]:m[3]])
		if err != nil {
			text = "" // was not written by slog
		}
		b.WriteString(" " + f.Text(s[:m[2]]) + f.Text(text))
		s = s[m[3]:]
	}
	return strings.TrimSpace(b.String())
}

// ours are keys as our own fields have them.
var ours = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

// reduce reduces what JSON has.
func reduce(f *plain.Filter, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if to, named := f.Named(k); named {
				k = to
			} else if !ours.MatchString(k) {
				k = f.Text(k)
			}
			out[k] = reduce(f, x)
		}
		return out
	case []any:
		for i := range v {
			v[i] = reduce(f, v[i])
		}
		return v
	case string:
		if _, err := time.Parse(time.RFC3339, v); err == nil {
			return v
		}
		return f.Text(v)
	}
	return v // a number, true, false or null
}

// said are the keys of a configuration whose text says nothing of a client, if
// it is what belongs there.
var said = strings.Fields(`kind level source compression base_cache spool quota bandwidth window patience lock lock_timeout timeout hook_timeout at time_zone jitter
	blackout catch_up period within grace rto rpo style events listen memory scratch monthly yearly verify_disk verify_optical inside`)

// Configuration is what is left of a configuration file: its shape, the known
// keys, numbers, and the values that say nothing of a client. Passwords do not
// stand in it anyway; paths, addresses, queries and programs do, and are "(set)".
// known are the keys that there are.
func Configuration(text []byte, known []string, f *plain.Filter) (any, error) {
	var v map[string]any
	if err := toml.Unmarshal(text, &v); err != nil {
		return nil, errors.New("the file is no TOML")
	}
	return shape{f, known}.of("", v), nil
}

type shape struct {
	f     *plain.Filter
	known []string
}

func (s shape) of(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for i, k := range slices.Sorted(maps.Keys(v)) {
			name := k
			if !slices.Contains(s.known, k) {
				name = fmt.Sprintf("(unknown key %d)", i+1)
			}
			out[name] = s.of(k, v[k])
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = s.of(key, v[i])
		}
		return out
	case string:
		switch {
		case v == "":
			return ""
		case key == "name":
			return s.f.Text(v)
		case slices.Contains(said, key) && setting.MatchString(v):
			return v
		case slices.Contains(said, key):
			return s.f.Text(v)
		}
		return "(set)"
	case int64, float64, bool:
		return v
	}
	return "(set)"
}

// setting is a number with a unit, a time, a schedule, days of the week.
var setting = regexp.MustCompile(`^(?:(?:[0-9*@/:.,+ -]|[0-9](?:[smhdwy]|ms|[KMGTkmgt]i?B(?:/s)?)|Mon|Tue|Wed|Thu|Fri|Sat|Sun|@(?:hourly|daily|weekly|monthly|yearly)){1,24})$`)
