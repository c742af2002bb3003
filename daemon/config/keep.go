package config

import (
	"strconv"
	"time"
)

// Keep says which snapshots of a dataset stay, as in restic: of each of the
// newest n days, weeks, months and years that have one the newest snapshot, and
// what the others say. The newest three that passed a check always stay.
type Keep struct {
	Last    int `toml:"last"`
	Daily   int `toml:"daily"`
	Weekly  int `toml:"weekly"`
	Monthly int `toml:"monthly"`
	Yearly  int `toml:"yearly"`
	// Within keeps what is at most so much older than the newest snapshot.
	Within Span     `toml:"within"`
	Labels []string `toml:"labels"`
	// Grace is how long the objects of an expired generation stay; default 7d.
	Grace *Span `toml:"grace"`
}

// DefaultGrace is what a dataset that says nothing gets.
const DefaultGrace = 7 * 24 * time.Hour

// Bounds of counts and, in days, of spans.
const (
	maxKeepCount = 10000
	maxSpanDays  = 36500
)

// Span is a TOML string such as "90d", "12w" or "48h".
type Span struct {
	time.Duration
	text string // what was written, if that is no span
}

// UnmarshalText reads a span. What is none is kept for check, as with Duration.
func (s *Span) UnmarshalText(b []byte) error {
	var ok bool
	if s.Duration, ok = ParseSpan(string(b)); !ok {
		s.text = strconv.Quote(string(b))
	}
	return nil
}

// ParseSpan reads a number and h, d or w.
func ParseSpan(text string) (time.Duration, bool) {
	if text == "" {
		return 0, false
	}
	unit := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 31)
	if unit == 0 || err != nil || n > uint64(maxSpanDays*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

func (s *Span) check(key string) error {
	if s != nil && s.text != "" {
		return bad(key, "%s: %s is not a time such as \"90d\", \"12w\" or \"48h\"", key, s.text)
	}
	return nil
}

func (k *Keep) check() error {
	if k == nil {
		return nil
	}
	for _, c := range []struct {
		key string
		n   int
	}{{"last", k.Last}, {"daily", k.Daily}, {"weekly", k.Weekly}, {"monthly", k.Monthly}, {"yearly", k.Yearly}} {
		if c.n < 0 || c.n > maxKeepCount {
			return bad(c.key, "%s: %d is not 0 to %d", c.key, c.n, maxKeepCount)
		}
	}
	if err := k.Within.check("within"); err != nil {
		return err
	}
	if err := k.Grace.check("grace"); err != nil {
		return err
	}
	for _, l := range k.Labels {
		if l == "" || len(l) > 64 {
			return bad("labels", "labels: %q is no label", l)
		}
	}
	if k.Last+k.Daily+k.Weekly+k.Monthly+k.Yearly == 0 && k.Within.Duration == 0 && len(k.Labels) == 0 {
		// Keeping all is what a dataset without this table does; whoever writes
		// one means something else.
		return bad("", "it has no rule: give last, daily, weekly, monthly, yearly, within or labels")
	}
	return nil
}
