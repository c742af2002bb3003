package notify

import (
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// A Kind is what happened.
type Kind uint8

const (
	Started     Kind = iota + 1 // for pings
	Succeeded                   // for pings
	Alive                       // for pings: all is well with the box
	Failed                      // a run of Work failed
	Overdue                     // no success for 1.25 times the period
	Recovered                   // success after Failed or Overdue, or what Was is over
	DrillFailed                 // a restore was not what was saved
	MarginLost                  // of a snapshot: Margin further stores may be lost
	MediumDue                   // an offline medium is to be written or brought back
	LockProbeFailed
	FillingUp // a store, or without one the spool, is full in Days
	Digest
	TestAlarm
	TestUnanswered // nobody answered a TestAlarm
	Unproven       // drills that must fail, or the cold drill, ended badly or did not happen
	Damaged        // a check found what cannot be read, or what is not as it was stored
	DoctorBad      // a backup would fail or be refused
	LedgerTrouble  // acts cannot be recorded, or those recorded were changed
	Frozen         // nothing expires: the data look wrong, or clocks disagree
	ProofDue       // a proof that only people can give: shares that open a kit, or a closed generation
)

// A Cause is why, as far as it may be told outside the box.
type Cause uint8

const (
	Unknown Cause = iota
	SourceAway
	SourceRights
	SourceChanged // it did not keep still, or is not what it was
	StoreAway
	StoreRefused
	NoRoom
	TimedOut
	Interrupted
	Mismatch
	KeyMissing
)

// A Level is the confidentiality of what an event is about. What leaves the box
// carries it.
type Level uint8

const (
	Unmarked Level = iota // of the box alone
	Confidential
	Secret
	TopSecret
)

// A Work is what failed, is late or goes on.
type Work uint8

// The works that an event may name.
const (
	Backup Work = iota
	Drill
	Check
	Doctor
	LockProbe
	Rounds
	OtherWork
)

// WorkOf returns the one of that name.
func WorkOf(name string) Work {
	var w Work
	if find(works, []byte(name), &w) != nil {
		return OtherWork
	}
	return w
}

var works = []string{"backup", "drill", "check", "doctor", "lock-probe", "rounds", "work"}

func (w Work) String() string                { return works[w] }
func (w Work) MarshalText() ([]byte, error)  { return []byte(works[w]), nil }
func (w *Work) UnmarshalText(b []byte) error { return find(works, b, w) }

var (
	kinds = []string{"", "started", "succeeded", "alive", "failed", "overdue", "recovered", "drill-failed", "margin-lost", "medium-due",
		"lock-probe-failed", "filling-up", "digest", "test-alarm", "test-unanswered", "unproven", "damaged", "doctor-bad", "ledger-trouble", "frozen", "proof-due"}
	causes = []string{"unknown", "source-away", "source-rights", "source-changed", "store-away", "store-refused", "no-room", "timed-out", "interrupted", "mismatch", "key-missing"}
	levels = []string{"", "confidential", "secret", "top-secret"}
)

func (k Kind) String() string  { return kinds[k] }
func (c Cause) String() string { return causes[c] }
func (l Level) String() string { return levels[l] }

func (k Kind) MarshalText() ([]byte, error)  { return []byte(kinds[k]), nil }
func (c Cause) MarshalText() ([]byte, error) { return []byte(causes[c]), nil }
func (l Level) MarshalText() ([]byte, error) { return []byte(levels[l]), nil }

func (k *Kind) UnmarshalText(b []byte) error  { return find(kinds, b, k) }
func (c *Cause) UnmarshalText(b []byte) error { return find(causes, b, c) }
func (l *Level) UnmarshalText(b []byte) error { return find(levels, b, l) }

func find[T ~uint8](table []string, b []byte, to *T) error {
	i := slices.Index(table, string(b))
	if i < 0 {
		return fmt.Errorf("no such word: %.40q", b)
	}
	*to = T(i)
	return nil
}

// Known reports whether there is such a kind.
func (k Kind) Known() bool { return k > 0 && int(k) < len(kinds) }

// Alarms reports whether it tells that something is wrong.
func (k Kind) Alarms() bool {
	return k.Known() && k >= Failed && k != Recovered && k != Digest && k != TestAlarm
}

// ParseKind reads a kind's word, such as "overdue".
func ParseKind(s string) (k Kind, err error) {
	err = k.UnmarshalText([]byte(s))
	return k, err
}

// ParseLevel reads a level's word.
func ParseLevel(s string) (l Level, err error) {
	err = l.UnmarshalText([]byte(s))
	return l, err
}

// A Name is what the operators' own configuration calls a tenant, a dataset, a
// store or a medium. Only Names gives one, and a queued message that had one:
// so no table, no row and nobody's name gets into an event by a slip of the pen.
type Name struct{ text string }

var slug = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (n Name) String() string { return n.text }

// IsZero makes encoding/json leave it out.
func (n Name) IsZero() bool { return n.text == "" }

func (n Name) MarshalText() ([]byte, error) { return []byte(n.text), nil }

func (n *Name) UnmarshalText(b []byte) error {
	if len(b) > 0 && !slug.Match(b) {
		return fmt.Errorf("no name: %.70q", b)
	}
	n.text = string(b)
	return nil
}

// Names are those that the configuration has.
type Names map[string]bool

// NewNames takes names out of the configuration.
func NewNames(configured ...string) (Names, error) {
	names := Names{}
	for _, s := range configured {
		if !slug.MatchString(s) {
			return nil, fmt.Errorf("notify: %.70q cannot stand in a message: not like %s", s, slug)
		}
		names[s] = true
	}
	return names, nil
}

// Of returns a configured name. Anything else becomes "unlisted": a message
// with less in it is better than none, and than one with too much.
func (n Names) Of(s string) Name {
	switch {
	case s == "":
		return Name{}
	case n[s]:
		return Name{s}
	}
	return Name{"unlisted"}
}

// A Code is what a person sends back to show that a test alarm arrived.
type Code [5]byte

var alphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding) // Crockford's: no i, l, o, u

func (c Code) String() string               { return alphabet.EncodeToString(c[:]) }
func (c Code) IsZero() bool                 { return c == Code{} }
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *Code) UnmarshalText(b []byte) error {
	if n, err := alphabet.Decode(c[:], b); err != nil || n != len(c) || len(b) != 8 {
		return fmt.Errorf("no code: %.20q", b)
	}
	return nil
}

// An Event is what happened, in words that may leave the box. It has no field
// for free text, on purpose: the message of an error may quote a row. Whoever is
// told looks at the run on the box.
type Event struct {
	ID      ID    `json:"id"`
	Kind    Kind  `json:"kind"`
	Level   Level `json:"level,omitzero"`
	Box     Name  `json:"box"`
	Tenant  Name  `json:"tenant,omitzero"`
	Dataset Name  `json:"dataset,omitzero"`
	Store   Name  `json:"store,omitzero"`
	Medium  Name  `json:"medium,omitzero"`
	Run     int64 `json:"run,omitzero"`  // the number under which the box has more
	Work    Work  `json:"work,omitzero"` // what failed or is late, if not a backup
	Was     Kind  `json:"was,omitzero"`  // Recovered: what is over
	Cause   Cause `json:"cause,omitzero"`
	// Time is when it happened.
	Time time.Time `json:"time"`
	// LastSuccess of a backup, Since when it is wrong, Until when something is due.
	LastSuccess time.Time `json:"last_success,omitzero"`
	Since       time.Time `json:"since,omitzero"`
	Until       time.Time `json:"until,omitzero"`
	Days        int       `json:"days,omitzero"`    // FillingUp: until it is full
	Margin      *int      `json:"margin,omitempty"` // MarginLost: further stores that may be lost
	Code        Code      `json:"code,omitzero"`
	Week        *Week     `json:"week,omitempty"`
}

// A Week is what a digest tells.
type Week struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Datasets []Line    `json:"datasets"`
	Alarms   int       `json:"alarms"` // open ones
	// Next is when the next digest comes. One that does not is an alarm by itself.
	Next time.Time `json:"next"`
}

// A Line is one dataset in a digest.
type Line struct {
	Tenant      Name      `json:"tenant"`
	Dataset     Name      `json:"dataset"`
	State       State     `json:"state"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastDrill   time.Time `json:"last_drill,omitzero"`
	Runs        int       `json:"runs"`
	Failures    int       `json:"failures"`
}

// A State is a dataset's, worst last.
type State uint8

const (
	Fine State = iota
	NotYetProtected
	Failing
	Late
	NotRestorable
)

var states = []string{"ok", "not yet protected", "failing", "overdue", "drill failed"}

func (s State) String() string                { return states[s] }
func (s State) MarshalText() ([]byte, error)  { return []byte(states[s]), nil }
func (s *State) UnmarshalText(b []byte) error { return find(states, b, s) }

// An ID names an event. A message that arrives twice, as after a crash between
// sending and noting it, has the same.
type ID [16]byte

func (id ID) String() string               { return hex.EncodeToString(id[:]) }
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

func (id *ID) UnmarshalText(b []byte) error {
	if n, err := hex.Decode(id[:], b[:min(len(b), 32)]); err != nil || n != len(id) || len(b) != 32 {
		return fmt.Errorf("no event ID: %.40q", b)
	}
	return nil
}

// decode reads a queued message.
func decode(body string) (Event, error) {
	var e Event
	err := json.Unmarshal([]byte(body), &e)
	return e, err
}
