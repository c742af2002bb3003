package config

import (
	"strconv"
	"strings"
	"time"
)

// Size is a TOML string such as "64GiB" or "0". It is no kind of integer, or
// the decoder would take a bare 64 for bytes.
type Size struct {
	Bytes int64
	text  string // what was written, if that is no size
}

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// ParseSize reads a size such as "64GiB", or "0".
func ParseSize(text string) (bytes int64, ok bool) {
	factor := int64(1)
	for _, u := range units {
		if t, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(t), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<50/factor || factor == 1 && n != 0 {
		return 0, false
	}
	return n * factor, true
}

// UnmarshalText reads a size. What is none is kept for check, as with Duration.
func (s *Size) UnmarshalText(b []byte) error {
	var ok bool
	if s.Bytes, ok = ParseSize(string(b)); !ok {
		s.text = strconv.Quote(string(b))
	}
	return nil
}

func (s *Size) check(key string) error {
	if s != nil && s.text != "" {
		return bad(key, "%s: %s is not a size such as \"64GiB\"", key, s.text)
	}
	return nil
}

// A Rate is a TOML string such as "20MiB/s".
type Rate struct {
	Size
}

// minRate is the slowest, in bytes a second: a call on a store must end.
const minRate = 64 << 10

// UnmarshalText reads a rate. What is none is kept for check, as with Duration.
func (r *Rate) UnmarshalText(b []byte) error {
	text, ok := strings.CutSuffix(string(b), "/s")
	err := r.Size.UnmarshalText([]byte(text))
	if !ok || r.text != "" || r.Bytes < minRate {
		r.text = strconv.Quote(string(b))
	}
	return err
}

func (r *Rate) check(key string) error {
	if r != nil && r.text != "" {
		return bad(key, "%s: %s is not a rate such as \"20MiB/s\", of 64KiB/s at least", key, r.text)
	}
	return nil
}

// checkWindow wants two different times of the day, or nothing.
func checkWindow(text string) error {
	from, to, ok := strings.Cut(text, "-")
	for _, t := range []string{from, to} {
		if _, err := time.Parse("15:04", t); err != nil || len(t) != 5 {
			ok = false
		}
	}
	if text != "" && (!ok || from == to) {
		return bad("window", "window: %q is not one such as \"22:00-06:00\"", text)
	}
	return nil
}
