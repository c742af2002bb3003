// Package media keeps the register of offline media: which there are, what
// they count for, who holds them, and what is to be done next.
//
// The register is a chain of acts, each signed by the box and naming the one
// before; the state of a medium is what its acts add up to and is stored
// nowhere else, so nobody without the box's key can change it. The end of the
// chain is signed as the end, so that it cannot be cut either.
//
// BUG: whoever puts back an old copy of the whole file is found out only by a
// medium whose use counter is ahead of it, or by a Head that was kept elsewhere.
package media

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"strongroom/custody/keys"
)

// Errors that callers branch on.
var (
	// ErrNoRegister: there is no register at the path.
	ErrNoRegister = errors.New("no register of media here")
	// ErrExists: what was to be made is there already.
	ErrExists = errors.New("exists already")
	// ErrUnknown: no such medium was ever enrolled.
	ErrUnknown = errors.New("medium is not enrolled")
	// ErrGone: the medium is retired or lost and is never to be used again.
	ErrGone = errors.New("medium is no longer in use")
	// ErrClone: what was found is not the medium that was enrolled, or is as it
	// was at another time: a copy, or restored from an image.
	ErrClone = errors.New("not the medium that the register knows")
	// ErrBehind: the medium has seen more than the register.
	ErrBehind = errors.New("the register is older than the medium")
	// ErrState: the act does not fit what the medium is in.
	ErrState = errors.New("not possible now")
	// ErrTampered: the register was changed, cut or put together by somebody
	// else than the box.
	ErrTampered = errors.New("register of media was tampered with")
)

// An ID is a medium's, random.
type ID [16]byte

// NewID returns a random id.
func NewID() (id ID) { _, _ = rand.Read(id[:]); return id }

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText writes lower-case hex.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != len(id) || hex.EncodeToString(raw) != string(b) {
		return fmt.Errorf("id of a medium: want %d lower-case hex digits", 2*len(id))
	}
	copy(id[:], raw)
	return nil
}

// A Kind says how a medium is written.
type Kind string

// The kinds. An optical medium is written once.
const (
	Disk    Kind = "disk"
	Optical Kind = "optical"
)

// Sets beside the weekly ones, whose names are "A", "B" and so on.
const (
	Monthly = "monthly"
	Yearly  = "yearly"
)

// MaxSlot bounds slots.
const MaxSlot = 1 << 16

// An Identity is what is fixed when a medium is enrolled.
type Identity struct {
	Label string `json:"label"` // what is written on its outside
	Set   string `json:"set"`   // the first one; Assign changes a medium's
	// Slot is the organisation's number for it, given out once for ever: which
	// shards a medium holds follows from it, and two media with one slot would
	// be the same shards.
	Slot int  `json:"slot"`
	Kind Kind `json:"kind"`
	// UUID is the file system's. An optical medium that is not yet burned has none.
	UUID string `json:"uuid,omitempty"`
	// Serial is the device's; empty where the device or its bridge tells none,
	// and then a copy of the disk looks like the disk.
	Serial   string `json:"serial,omitempty"`
	Capacity int64  `json:"capacity"` // bytes
}

var (
	uuidForm   = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
	weeklyForm = regexp.MustCompile(`^[A-Z]$`)
)

func checkSet(s string) error {
	if s != Monthly && s != Yearly && !weeklyForm.MatchString(s) {
		return fmt.Errorf("no set %q; there are A to Z, %s and %s", s, Monthly, Yearly)
	}
	return nil
}

// Check reports whether i can be a medium's.
func (i Identity) Check() error {
	if err := errors.Join(keys.CheckName(i.Label), checkSet(i.Set)); err != nil {
		return err
	}
	switch {
	case i.Slot < 1 || i.Slot > MaxSlot:
		return fmt.Errorf("slot %d is not from 1 to %d", i.Slot, MaxSlot)
	case i.Kind != Disk && i.Kind != Optical:
		return fmt.Errorf("no kind %q; there are %s and %s", i.Kind, Disk, Optical)
	case i.UUID == "" && i.Kind == Disk:
		return errors.New("the file system has no UUID")
	case i.UUID != "" && !uuidForm.MatchString(i.UUID):
		return fmt.Errorf("UUID %q is none", i.UUID)
	case i.Capacity < 1 || i.Capacity > 1<<50:
		return fmt.Errorf("capacity of %d bytes", i.Capacity)
	case i.Serial != "":
		return keys.CheckName(i.Serial)
	}
	return nil
}

// Custody is who has a medium, where, and under which seal.
type Custody struct {
	Holder string `json:"holder"`
	Place  string `json:"place"`
	Seal   string `json:"seal,omitempty"` // its number; empty: not sealed
}

// Check reports whether holder and place are named.
func (c Custody) Check() error {
	if err := keys.CheckName(c.Holder); err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	if err := keys.CheckName(c.Place); err != nil {
		return fmt.Errorf("place: %w", err)
	}
	if c.Seal != "" {
		if err := keys.CheckName(c.Seal); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	return nil
}

// A State is what a medium is in.
type State string

// The states.
const (
	Enrolled State = "enrolled" // never written
	In       State = "in"       // connected
	Out      State = "out"
	Overdue  State = "overdue" // it was not verified for too long and counts for nothing
	Retired  State = "retired"
	Lost     State = "lost"
)

// A Medium is what its acts add up to.
type Medium struct {
	ID ID `json:"id"`
	Identity
	Custody
	Enrolled time.Time `json:"enrolled"`

	// Uses counts the sessions of writing that were begun; the medium holds the
	// same number. Closed is that of the last one that was finished. They differ
	// while one is open, or was cut off.
	Uses   uint64 `json:"uses"`
	Closed uint64 `json:"closed"`

	// Head is the SHA-256 that stands for all that its sessions wrote, as the
	// medium told when the last one was finished. Two copies that were both written
	// to count the same, and differ here.
	Head keys.Hash `json:"head,omitzero"`

	Begun    time.Time `json:"begun,omitzero"`    // the last session
	Written  time.Time `json:"written,omitzero"`  // the last session that was finished
	Verified time.Time `json:"verified,omitzero"` // last read whole, every byte, and found good
	// Checked: the last session is whole and was read since, and good. It goes by
	// the order of the acts, not by their times: clocks are set.
	Checked bool      `json:"checked"`
	Damage  string    `json:"damage,omitempty"` // what was found last time, if it was not good
	Damaged time.Time `json:"damaged,omitzero"` // when it was found

	Image *Image `json:"image,omitempty"` // what is on an optical one

	Inserted time.Time `json:"inserted,omitzero"` // since when it is connected; zero: it is not
	Gone     State     `json:"gone,omitempty"`    // Retired or Lost
	Reason   string    `json:"reason,omitempty"`  // why it is gone
	Acts     int       `json:"acts"`              // how many of the chain are about it
}

// Open reports whether a session of writing was begun and not finished.
func (m *Medium) Open() bool { return m.Uses != m.Closed }

// spent reports whether it can never be written again.
func (m *Medium) spent() bool { return m.Gone != "" || m.Kind == Optical && m.Closed > 0 }

// Seen is what is found on a medium that was put in.
type Seen struct {
	ID     ID
	UUID   string
	Serial string
	Uses   uint64 // the counter that it holds
	Head   keys.Hash
}

// Recognise compares what was put in with the register. A medium whose counter
// differs has a history that is not the register's, however good its identity.
// After a session that was cut off it may hold any number that was begun since.
func (m *Medium) Recognise(s Seen) error {
	switch {
	case m.Gone != "":
		return fmt.Errorf("medium %q: %w: %s: %s", m.Label, ErrGone, m.Gone, m.Reason)
	case m.UUID != "" && s.UUID != m.UUID:
		return fmt.Errorf("medium %q: %w: file system %q, enrolled with %q", m.Label, ErrClone, s.UUID, m.UUID)
	case m.Serial != "" && s.Serial != m.Serial:
		return fmt.Errorf("medium %q: %w: device serial %q, enrolled with %q", m.Label, ErrClone, s.Serial, m.Serial)
	case s.Uses < m.Closed:
		return fmt.Errorf("medium %q: %w: it counts %d uses, the register %d; it is a copy, or was restored from an image",
			m.Label, ErrClone, s.Uses, m.Uses)
	case s.Uses == m.Closed && s.Head != m.Head:
		return fmt.Errorf("medium %q: %w: after %d uses it holds other sessions than the register knows", m.Label, ErrClone, s.Uses)
	case s.Uses > m.Uses:
		return fmt.Errorf("medium %q: %w: it counts %d uses, the register %d; it was written elsewhere, or the register was restored",
			m.Label, ErrBehind, s.Uses, m.Uses)
	}
	return nil
}
