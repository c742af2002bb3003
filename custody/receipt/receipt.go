// Package receipt is the signed proof of a restore drill: what was tried, what
// was expected and what was found, and whether that makes it green. Whoever has
// the box's public key can check one without the box.
package receipt

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// The kinds of drills.
const (
	Cold   = "cold"
	Closed = "closed"
)

// Format is the version of Receipt.
const Format = 1

// A Receipt is one drill. It holds no row, no key and no password; it names
// tables, so it carries the tenant's level and goes where that allows.
//
// Times are RFC 3339 in UTC, durations milliseconds: no number in it is a
// fraction, which two programs could write in two ways.
type Receipt struct {
	Format   int      `json:"format"`
	ID       string   `json:"id"`
	Tenant   string   `json:"tenant"`
	Dataset  string   `json:"dataset"`
	Level    string   `json:"level"` // of confidentiality
	Snapshot Snapshot `json:"snapshot"`
	Stores   Stores   `json:"stores"`
	// Kind is Cold for a drill of the program that recovers, with a tenant and
	// keys of its own; Closed for one of a generation whose key was not on the box,
	// and that the station released for it; "" for any other of what is stored.
	Kind string `json:"kind,omitempty"`
	// MustFail names the fault that was put in on purpose: such a drill proves
	// that drills can fail, and nothing about the snapshot.
	MustFail string  `json:"must_fail,omitempty"`
	Box      string  `json:"box"` // whose signature it is: the public key in hex
	Tool     string  `json:"tool"`
	Engine   string  `json:"engine,omitempty"` // what it was restored into, with its version
	Sandbox  Sandbox `json:"sandbox"`
	// Daemon are the walls of the daemon that ran the drill, as it found them when
	// it started; none where it was not confined, or a person ran the drill.
	Daemon   []Wall    `json:"daemon,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Verdict  Verdict   `json:"verdict"`
	Why      []string  `json:"why,omitempty"`
	Steps    []Step    `json:"steps"`
	Content  []Object  `json:"content,omitempty"`
	// ContentLeft is how many objects, all of them equal, are not in Content.
	ContentLeft int      `json:"content_left,omitempty"`
	Phases      []Phase  `json:"phases"`
	RTO         Target   `json:"rto"` // from the start until the copy could be used
	RPO         Target   `json:"rpo"` // from the snapshot's moment to the start
	Notes       []string `json:"notes,omitempty"`
}

// A Snapshot says what was restored.
type Snapshot struct {
	ID         string    `json:"id"`
	Manifest   string    `json:"manifest_sha256"`
	Generation string    `json:"generation"`
	Epoch      uint32    `json:"epoch"`
	Sequence   uint32    `json:"sequence"`
	Point      time.Time `json:"point"` // consistency point, by the source's clock
	Engine     string    `json:"engine"`
	Version    string    `json:"version,omitempty"`
	Bytes      int64     `json:"bytes"` // of all streams
}

// Stores says from where it was read.
type Stores struct {
	Tested   []string `json:"tested"`
	Withheld []string `json:"withheld,omitempty"`
}

// A Sandbox is where the copy lived, and what was seen of its walls.
type Sandbox struct {
	Kind   string `json:"kind"` // "namespaces", "systemd", or "none" where nothing ran
	Memory int64  `json:"memory,omitempty"`
	Disk   int64  `json:"disk,omitempty"`
	Walls  []Wall `json:"walls,omitempty"`
	// Gone says that all processes and the scratch space are gone, and how that
	// is known; "" where nothing ran.
	Gone string `json:"gone,omitempty"`
}

// A Wall is something that must be impossible inside, and what came of trying.
type Wall struct {
	Name  string `json:"name"`
	Tried string `json:"tried"`
	Got   string `json:"got"`
	Holds bool   `json:"holds"`
}

// A Status is how a step ended.
type Status string

// The statuses. Only Passed is green.
const (
	Passed  Status = "pass"
	Failed  Status = "fail"
	Infra   Status = "infra"   // could not be tried here; says nothing about the backup
	Partial Status = "partial" // passed as far as it went
	Skipped Status = "skipped" // was to be done and was not, because of another step
	Absent  Status = "absent"  // there is nothing of the kind to check
	Unasked Status = "unasked" // was not part of this drill
)

// Names of the steps, in their order.
const (
	Inventory  = "inventory"
	Bytes      = "bytes"
	Structure  = "structure"
	Load       = "load"
	Checks     = "engine"
	Content    = "content"
	Assertions = "assertions"
	Degraded   = "degraded"
)

// Names is the order of steps.
func Names() []string {
	return []string{Inventory, Bytes, Structure, Load, Checks, Content, Assertions, Degraded}
}

// A Step is one level of a drill.
type Step struct {
	Name   string  `json:"name"`
	Status Status  `json:"status"`
	Why    string  `json:"why,omitempty"`
	Checks []Check `json:"checks,omitempty"`
}

// A Check is one comparison.
type Check struct {
	Name     string `json:"name"`
	Expected string `json:"expected"`
	Actual   string `json:"actual"`
	OK       bool   `json:"ok"`
}

// An Object is one table, or whatever else has contents, in three columns: as
// its source counted it at snapshot time, as the snapshot's stream has it, and
// as the restored copy has it.
type Object struct {
	Name   string `json:"name"`
	Source Count  `json:"source"`
	Stream Count  `json:"stream"`
	Copy   Count  `json:"copy"`
	OK     bool   `json:"ok"`
}

// A Count is what one column knows. Known is false where it knows nothing, and
// then it equals nothing.
type Count struct {
	Known bool   `json:"known"`
	Rows  int64  `json:"rows"`
	Hash  string `json:"hash,omitempty"`
}

// A Phase is a part of the work and how long it took.
type Phase struct {
	Name         string `json:"name"`
	Milliseconds int64  `json:"ms"`
}

// A Target is a time that was measured against one that was promised.
type Target struct {
	Milliseconds int64 `json:"ms"`
	Promised     int64 `json:"promised_ms,omitempty"` // 0: nobody promised any
	Measured     bool  `json:"measured"`
}

// Met reports whether a promise was kept, or none was made.
func (t Target) Met() bool {
	return t.Promised == 0 || t.Measured && t.Milliseconds <= t.Promised
}

// A Verdict is the outcome of a drill.
type Verdict string

// The verdicts.
const (
	PASS    Verdict = "PASS"
	FAIL    Verdict = "FAIL"
	PARTIAL Verdict = "PARTIAL" // what was done passed, and something was not done
	INFRA   Verdict = "INFRA"   // this machine could not do it; says nothing about the backup
)

// Judge makes the verdict of the steps. It is a function of them alone, so that
// who verifies a receipt can make it again. What failed outweighs what could not
// be tried, which outweighs what was left out: a step that was not run is never
// green. Degraded alone may be unasked: it is a drill of its own.
func Judge(steps []Step) (Verdict, []string) {
	by := map[Verdict][]string{}
	add := func(v Verdict, s Step) {
		text := s.Name
		if s.Why != "" {
			text += ": " + s.Why
		}
		by[v] = append(by[v], text)
	}
	seen := map[string]bool{}
	for _, s := range steps {
		seen[s.Name] = true
		switch s.Status {
		case Passed:
			if slices.ContainsFunc(s.Checks, func(c Check) bool { return !c.OK }) {
				s.Why = "it is said to have passed, and has a check that did not"
				add(FAIL, s)
			} else if len(s.Checks) == 0 {
				s.Why = "it is said to have passed, and compared nothing"
				add(FAIL, s)
			}
		case Failed:
			add(FAIL, s)
		case Infra:
			add(INFRA, s)
		case Absent:
			if s.Name != Assertions && s.Name != Degraded && s.Name != Checks {
				add(PARTIAL, s)
			}
		case Unasked:
			if s.Name != Degraded {
				add(PARTIAL, s)
			}
		default:
			add(PARTIAL, s)
		}
	}
	for _, n := range Names() {
		if !seen[n] {
			add(PARTIAL, Step{Name: n, Why: "nothing is said of it"})
		}
	}
	for _, v := range []Verdict{FAIL, INFRA, PARTIAL} {
		if len(by[v]) > 0 {
			return v, by[v]
		}
	}
	return PASS, nil
}

// maxText bounds every text of a receipt in bytes, and maxObjects its lists.
const (
	maxText    = 2000
	maxObjects = 20000
)

// Check reports whether a receipt is one that a drill could have made: its
// verdict is that of its steps, its times are in order.
func (r *Receipt) Check() error {
	if r.Format != Format {
		return fmt.Errorf("receipt has format %d: want %d", r.Format, Format)
	}
	if r.ID == "" || r.Tenant == "" || r.Dataset == "" {
		return errors.New("receipt does not say of what it is")
	}
	if r.Finished.Before(r.Started) {
		return errors.New("receipt ends before it begins")
	}
	if len(r.Content) > maxObjects {
		return fmt.Errorf("receipt lists %d objects", len(r.Content))
	}
	v, why := Judge(r.Steps)
	if r.Verdict != v || !slices.Equal(r.Why, why) {
		return fmt.Errorf("receipt says %s, its steps say %s", r.Verdict, v)
	}
	for _, o := range r.Content {
		if o.OK != o.Equal() {
			return fmt.Errorf("receipt says of %q what its three columns do not", o.Name)
		}
	}
	for _, s := range r.Steps {
		if s.Name == Content && s.Status == Passed && slices.ContainsFunc(r.Content, func(o Object) bool { return !o.OK }) {
			return errors.New("receipt passes contents that differ")
		}
	}
	return nil
}

// zeroHash is the sum of no row's hash.
const zeroHash = "00000000000000000000000000000000"

// Equal reports whether three columns say the same, and say something. The sum
// of rows' hashes is not zero: two sums of nothing would be equal too.
func (o Object) Equal() bool {
	for _, c := range []Count{o.Source, o.Stream, o.Copy} {
		if !c.Known || c.Rows < 0 || c.Rows > 0 && c.Hash == zeroHash {
			return false
		}
	}
	return o.Source == o.Stream && o.Stream == o.Copy
}
