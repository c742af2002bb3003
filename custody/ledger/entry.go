package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"strongroom/custody/keys"
)

// A Kind is what an act does: words of [a-z0-9] joined by "-", such as
// "backup" or "key-release". The kinds named here are those that the ledger
// treats in a way of their own, or writes itself.
type Kind string

// Kinds of acts that go on while the log is behind its anchors: they destroy
// nothing and hand nothing out.
const (
	Backup  Kind = "backup"
	Drill   Kind = "drill"
	Check   Kind = "check"
	Restore Kind = "restore" // to a registered target; what leaves the box is an export

	RebuildBox Kind = "box-rebuild"
	Repair     Kind = "repair"
	LockExtend Kind = "lock-extend"
	HoldAdd    Kind = "hold-add"
)

// Kinds that still have room when the disk is full: they free space or stop
// something.
const (
	Expire Kind = "expire"
	Abort  Kind = "abort"
	Veto   Kind = "veto"
)

// Kinds that only the ledger writes.
const (
	Genesis  Kind = "ledger-genesis"  // entry 0 of the system log
	Begin    Kind = "ledger-begin"    // entry 0 of a tenant's log
	Link     Kind = "ledger-link"     // in the system log: the head of a tenant's
	Repaired Kind = "ledger-repaired" // an unfinished record was dropped after a crash
	Gap      Kind = "ledger-gap"      // in the system log: entries that an anchor knows are lost
	// Continued says the same in the log that lost them.
	Continued Kind = "ledger-continued"
)

const ownPrefix = "ledger-"

func (k Kind) reserved() bool { return k == Expire || k == Abort || k == Veto }

// GoesOn reports whether an act is allowed while anchors are ahead. Locks are
// renewed, lost shards made again and holds set, for what ends while somebody
// finds out what happened would be lost to it.
func (k Kind) GoesOn() bool {
	switch k {
	case Backup, Drill, Check, Restore, RebuildBox, Repair, LockExtend, HoldAdd, Abort, Veto:
		return true
	}
	return false
}

// Check reports whether k is a kind that a caller may use.
func (k Kind) Check() error {
	if !isToken(string(k)) || len(k) > maxToken {
		return fmt.Errorf("kind of act %q is not words of a-z and 0-9 joined by -", string(k))
	}
	return nil
}

// A Phase says what an entry is to its act.
type Phase string

// The phases. A record stands alone: what it says has happened, and nothing
// was waiting for it.
const (
	Intended Phase = "intent"
	Ended    Phase = "outcome"
	Recorded Phase = "record"
)

// A Result is how an act ended.
type Result string

// The results. Interrupted is written for an act whose process died: how much
// of it was done is for others to find out.
const (
	Done        Result = "done"
	Failed      Result = "failed"
	Refused     Result = "refused"
	Interrupted Result = "interrupted"
)

func (r Result) ok() bool {
	return r == Done || r == Failed || r == Refused || r == Interrupted
}

// An Act is what somebody is about to do.
type Act struct {
	Tenant keys.TenantID // zero: of no tenant; it goes to the system log
	Kind   Kind
	Actor  string // a person's name, or "strongroom" for the daemon by itself
	Role   string // in which the actor acts: "operator", "officer", "daemon" …
	Source string // address or terminal it came from; "schedule" for none
	// Fields say what exactly: ids, counts, hashes, reasons. Never a secret,
	// never what stood in a row of a client's database. At most 32 of names
	// [a-z0-9-] and values of at most 1,024 bytes that print; see Text.
	Fields map[string]string
}

// An Entry is one line of a log.
type Entry struct {
	Number  int64             `json:"number"` // from 0, in its log
	Time    time.Time         `json:"time"`   // by the box's clock
	Actor   string            `json:"actor"`
	Role    string            `json:"role"`
	Tenant  keys.TenantID     `json:"tenant,omitzero"` // whose log it is; none: the system's
	Act     Kind              `json:"act"`
	Phase   Phase             `json:"phase"`
	Intent  int64             `json:"intent,omitempty"` // of an outcome: the number of its intent
	Result  Result            `json:"result,omitempty"` // of an outcome
	Source  string            `json:"source"`
	Session session           `json:"session,omitzero"` // of an intent: the process that it is open in
	Fields  map[string]string `json:"fields,omitempty"`
	// Salt keeps the hash of an entry, which stores see, from confirming a
	// guess of what it says.
	Salt salt `json:"salt"`
}

type (
	salt    [16]byte
	session [8]byte
)

func (s salt) MarshalText() ([]byte, error)     { return hexText(s[:]), nil }
func (s *salt) UnmarshalText(b []byte) error    { return parseHex(s[:], b) }
func (s session) MarshalText() ([]byte, error)  { return hexText(s[:]), nil }
func (s *session) UnmarshalText(b []byte) error { return parseHex(s[:], b) }

const (
	maxEntry  = 16 << 10 // bytes; an entry bundle could hold 64 KiB
	maxToken  = 64
	maxFields = 32
	maxValue  = 1024
)

// Check reports whether the entry could have been written by this package.
func (e Entry) Check() error {
	if e.Number < 0 {
		return fmt.Errorf("number %d", e.Number)
	}
	if err := keys.CheckTime(e.Time); err != nil {
		return err
	}
	for _, s := range []struct{ what, is string }{{"actor", e.Actor}, {"role", e.Role}, {"source", e.Source}} {
		if err := keys.CheckName(s.is); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	if err := e.Act.Check(); err != nil {
		return err
	}
	if err := e.checkPhase(); err != nil {
		return err
	}
	return checkFields(e.Fields)
}

func (e Entry) checkPhase() error {
	if e.Phase != Ended && (e.Intent != 0 || e.Result != "") {
		return errors.New("only an outcome has an intent and a result")
	}
	if (e.Phase == Intended) != (e.Session != session{}) {
		return errors.New("an intent, and nothing else, has a session")
	}
	switch e.Phase {
	case Intended, Recorded:
		return nil
	case Ended: // entry 0 of a log is no intent, so zero is none
		if e.Intent <= 0 || e.Intent >= e.Number {
			return fmt.Errorf("outcome %d of intent %d", e.Number, e.Intent)
		}
		if !e.Result.ok() {
			return fmt.Errorf("result %q", e.Result)
		}
		return nil
	}
	return fmt.Errorf("phase %q", e.Phase)
}

func checkFields(fields map[string]string) error {
	if fields != nil && len(fields) == 0 || len(fields) > maxFields {
		return fmt.Errorf("%d fields, want 1 to %d or none", len(fields), maxFields)
	}
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if !isToken(k) || len(k) > maxToken {
			return fmt.Errorf("field %q: its name is not words of a-z and 0-9 joined by -", k)
		}
		if v := fields[k]; v != "" && !prints(v, maxValue) {
			return fmt.Errorf("field %s: its value is not %d bytes of UTF-8 that print", k, maxValue)
		}
	}
	return nil
}

// bytes returns the one encoding of e, the leaf of the tree.
func (e Entry) bytes() ([]byte, error) {
	if err := e.Check(); err != nil {
		return nil, fmt.Errorf("entry %d: %w", e.Number, err)
	}
	b, err := marshal(e)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w", e.Number, err)
	}
	if len(b) > maxEntry {
		return nil, fmt.Errorf("entry %d: %d bytes are more than the %d allowed", e.Number, len(b), maxEntry)
	}
	return b, nil
}

// ParseEntry reads an entry in its one encoding: JSON on one line without
// space, fields in their order, nothing unknown, nothing twice.
func ParseEntry(b []byte) (Entry, error) {
	var e Entry
	if len(b) > maxEntry {
		return e, fmt.Errorf("read entry: %d bytes are more than the %d allowed", len(b), maxEntry)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Entry{}, fmt.Errorf("read entry: %w", err)
	}
	again, err := e.bytes()
	if err != nil {
		return Entry{}, fmt.Errorf("read entry: %w", err)
	}
	if !bytes.Equal(again, b) {
		return Entry{}, errors.New("read entry: it is not in its one encoding")
	}
	return e, nil
}

// Hash returns what a tree holds of the entry.
func (e Entry) Hash() (tlog.Hash, error) {
	b, err := e.bytes()
	return tlog.RecordHash(b), err
}

// newEntry fills in what every entry of an act has.
func newEntry(a Act, now time.Time) Entry {
	e := Entry{Time: now.UTC().Truncate(time.Second), Actor: a.Actor, Role: a.Role, Tenant: a.Tenant,
		Act: a.Kind, Source: a.Source, Fields: maps.Clone(a.Fields)}
	_, _ = rand.Read(e.Salt[:]) // never fails
	return e
}
