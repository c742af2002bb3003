// Package schedule decides when jobs run: what is due at a moment, what is
// skipped and why, when to look again, and what is overdue. It has no clock of
// its own and does no I/O.
package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Config is the schedule of one job, as the configuration file has it. The zero
// value is the default: weekly, Sunday 02:30 local time.
type Config struct {
	// At is five cron fields: minute, hour, day of month, month, day of week; or
	// @hourly, @daily, @weekly, @monthly, @yearly. Default DefaultAt.
	At string `toml:"at"`
	// TimeZone is a name of the IANA database, in which At and Blackout are
	// read; default that of the box.
	TimeZone string `toml:"time_zone"`
	// Jitter spreads the jobs of one moment, "20m" over twenty minutes; each
	// always gets the same delay. Default none.
	Jitter string `toml:"jitter"`
	// Blackout is when no run starts, "Mon-Fri 08:00-18:00" or "22:00-02:00": a
	// run that falls into it waits for its end. What runs already goes on.
	Blackout []string `toml:"blackout"`
	// CatchUp is "once" (the default): what was missed while the box was off is
	// made up for by one run; or "never".
	CatchUp string `toml:"catch_up"`
	// Period is how often success is expected, "8d"; the job is overdue after
	// 1.25 times that. Default the longest time between two planned runs.
	Period string `toml:"period"`
}

// DefaultAt is weekly, Sunday 02:30.
const DefaultAt = "30 2 * * 0"

// An Error is a mistake in a Config.
type Error struct {
	Key    string // of Config, as in the file
	Index  int    // within a list
	Offset int    // in bytes from the start of the value's text
	Text   string
	Hint   string
}

func (e *Error) Error() string {
	s := e.Key
	if e.Offset > 0 {
		s += fmt.Sprintf(", character %d", e.Offset+1)
	}
	s += ": " + e.Text
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// A Spec is a Config that was checked.
type Spec struct {
	cron     *cron.SpecSchedule // in UTC, which has no gaps: see Next
	loc      *time.Location
	jitter   time.Duration
	blackout *week // nil: none
	catchUp  bool
	gap      time.Duration // the longest between two runs
	shortest time.Duration
	period   time.Duration
}

// Compile checks a Config. id names the job on this box and never changes: the
// jitter comes from it. zones finds a time zone, "Local" is the box's; that is
// time.LoadLocation outside of tests. An error is an *Error.
func Compile(c Config, id string, zones func(string) (*time.Location, error)) (*Spec, error) {
	s := &Spec{}
	var err error
	if s.cron, err = parse(or(c.At, DefaultAt)); err != nil {
		return nil, err
	}
	if s.loc, err = zones(or(c.TimeZone, "Local")); err != nil {
		return nil, &Error{Key: "time_zone", Text: fmt.Sprintf("%q is no time zone that this machine knows", c.TimeZone), Hint: "such as Asia/Taipei"}
	}
	if s.blackout, err = parseBlackout(c.Blackout); err != nil {
		return nil, err
	}
	switch or(c.CatchUp, "once") {
	case "once":
		s.catchUp = true
	case "never":
	default:
		return nil, &Error{Key: "catch_up", Text: fmt.Sprintf("%q is neither \"once\" nor \"never\"", c.CatchUp)}
	}
	s.measure()
	if c.Jitter != "" {
		spread, err := span("jitter", c.Jitter)
		if err != nil {
			return nil, err
		}
		if spread >= s.shortest {
			return nil, &Error{Key: "jitter", Text: fmt.Sprintf("%s is not less than the %v between two runs", c.Jitter, s.shortest)}
		}
		s.jitter = delay(id, spread)
	}
	s.period = s.gap
	if c.Period != "" {
		if s.period, err = span("period", c.Period); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Period is how often success is expected.
func (s *Spec) Period() time.Duration { return s.period }

// Warnings are what a schedule may say and rarely means.
func (s *Spec) Warnings() []string {
	var out []string
	if s.gap > 35*24*time.Hour {
		out = append(out, fmt.Sprintf("up to %d days between two runs", int(s.gap/(24*time.Hour))))
	}
	if s.shortest < 15*time.Minute {
		out = append(out, fmt.Sprintf("runs every %v", s.shortest))
	}
	return out
}

// delay is as systemd's FixedRandomDelay: the same at each run, so that a
// preview is exact and two runs are a period apart.
func delay(id string, spread time.Duration) time.Duration {
	sum := sha256.Sum256([]byte("strongroom schedule jitter\x00" + id))
	n := uint64(spread / time.Second)
	if n == 0 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(sum[:])%n) * time.Second
}

// measure finds the longest and the shortest time between two runs, on some
// years that do not depend on today: what is overdue must not change with it.
func (s *Spec) measure() {
	t, _ := s.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
	first := t.Due
	for n := 0; n < 500 || t.Due.Sub(first) < 15*24*time.Hour; n++ {
		u, ok := s.Next(t.Planned)
		if !ok || t.Due.Sub(first) > 9*366*24*time.Hour {
			break
		}
		// Two that wait for the end of the same blackout are one.
		if d := u.Due.Sub(t.Due); d > 0 {
			s.gap = max(s.gap, d)
			if s.shortest == 0 || d < s.shortest {
				s.shortest = d
			}
		}
		t = u
	}
}

var (
	fields   = [5]string{"minute", "hour", "day of month", "month", "day of week"}
	parser   = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	word     = regexp.MustCompile(`[^ \t]+`)
	item     = regexp.MustCompile(`^(\*|[0-9A-Za-z]{1,9}(-[0-9A-Za-z]{1,9})?)(/[0-9]{1,2})?$`)
	names    = []string{"@hourly", "@daily", "@weekly", "@monthly", "@yearly"}
	duration = regexp.MustCompile(`^([0-9]{1,4})([dw])$`)
)

// maxAt bounds a schedule's text in bytes.
const maxAt = 256

// parse reads a schedule's text. The grammar is checked here, item by item, as
// the parser gives no positions, panics on "TZ=UTC", takes "*-5", and lets a
// field of commas through, which never matches.
func parse(at string) (*cron.SpecSchedule, error) {
	bad := func(offset int, hint, format string, a ...any) error {
		return &Error{Key: "at", Offset: offset, Text: fmt.Sprintf(format, a...), Hint: hint}
	}
	if len(at) > maxAt {
		return nil, bad(maxAt, "", "longer than %d bytes", maxAt)
	}
	words := word.FindAllStringIndex(at, -1)
	switch {
	case strings.Contains(at, "TZ="):
		return nil, bad(strings.Index(at, "TZ="), "it stands in time_zone", "a time zone")
	case strings.HasPrefix(at, "@every"):
		return nil, bad(0, "give times of the clock", "@every would count from each start of the daemon")
	case strings.HasPrefix(at, "@"):
		if !slices.Contains(names, at) {
			return nil, bad(0, "there are "+strings.Join(names, ", "), "unknown name %.20q", at)
		}
	case len(words) != len(fields):
		return nil, bad(0, "minute, hour, day of month, month, day of week, such as \""+DefaultAt+"\"", "%d fields instead of %d", len(words), len(fields))
	default:
		for i, w := range words {
			if err := checkField(i, at[w[0]:w[1]], w[0]); err != nil {
				return nil, err
			}
		}
		if dom, dow := words[2], words[4]; at[dom[0]:dom[1]] != "*" && at[dow[0]:dow[1]] != "*" {
			return nil, bad(dow[0], "leave one of them at *", "both a day of the month and a day of the week: cron runs on each, not on the days that are both")
		}
	}
	sched, err := parser.Parse(at)
	if err != nil {
		return nil, bad(0, "", "%v", err)
	}
	spec, ok := sched.(*cron.SpecSchedule)
	if !ok {
		return nil, bad(0, "", "not times of the clock")
	}
	spec.Location = time.UTC
	if nominal(spec, time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, bad(words[2][0], "", "no month that is named has that day: this never runs")
	}
	return spec, nil
}

// checkField checks field i, which begins at offset.
func checkField(i int, text string, offset int) error {
	bad := func(hint, format string, a ...any) error {
		return &Error{Key: "at", Offset: offset, Text: fields[i] + ": " + fmt.Sprintf(format, a...), Hint: hint}
	}
	for one := range strings.SplitSeq(text, ",") {
		switch {
		case one == "":
			return bad("", "nothing beside a comma")
		case !item.MatchString(one):
			return bad("a number, a range 1-5, * or a step */2", "%.20q", one)
		case one == "*" && text != "*":
			return bad("", "* among others")
		}
		// Alone among stars, so that what the parser refuses is this.
		trial := [5]string{"*", "*", "*", "*", "*"}
		trial[i] = one
		if _, err := parser.Parse(strings.Join(trial[:], " ")); err != nil {
			hint := ""
			switch {
			case i == 4 && strings.Contains(one, "7"):
				hint = "Sunday is 0"
			case strings.Contains(err.Error(), "beyond end"):
				hint = "write it as two: 22-23,0-2"
			}
			return bad(hint, "%.20q: %s", one, strings.TrimSuffix(err.Error(), ": "+one))
		}
		offset += len(one) + 1
	}
	return nil
}

// span reads a time span such as "90m", "7d" or "1w".
func span(key, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if m := duration.FindStringSubmatch(text); m != nil {
		n, nerr := strconv.Atoi(m[1])
		d, err = time.Duration(n)*24*time.Hour, nerr
		if m[2] == "w" {
			d *= 7
		}
	}
	if err == nil && (d <= 0 || d > 10*366*24*time.Hour) {
		err = errors.New("out of range")
	}
	if err != nil {
		return 0, &Error{Key: key, Text: fmt.Sprintf("%.20q is no time span", text), Hint: "such as \"90m\" or \"7d\""}
	}
	return d, nil
}

func or(text, standard string) string {
	if text == "" {
		return standard
	}
	return text
}
