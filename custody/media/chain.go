package media

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"strongroom/custody/keys"
)

// An Act is what was done to a medium.
type Act string

// The acts.
const (
	Enrol  Act = "enrol"
	Insert Act = "insert" // it was recognised and is connected
	Begin  Act = "begin"  // a session of writing begins; its number goes onto the medium
	Finish Act = "finish" // all of the session is on the medium
	Verify Act = "verify" // every byte was read and compared
	Eject  Act = "eject"
	Move   Act = "move"
	Assign Act = "assign" // to another set
	Lose   Act = "lose"
	Find   Act = "find" // one that was lost; it counts for nothing until verified
	Retire Act = "retire"
)

// An Entry is a link of the chain.
type Entry struct {
	Number   int       `json:"number"` // from 1
	Time     time.Time `json:"time"`   // by the box's clock
	Act      Act       `json:"act"`
	Medium   ID        `json:"medium"`
	By       string    `json:"by"`                 // who did it, or handed it over
	Identity *Identity `json:"identity,omitempty"` // of Enrol
	Custody  *Custody  `json:"custody,omitempty"`  // of Enrol and Move: to whom
	Set      string    `json:"set,omitempty"`      // of Assign
	Uses     uint64    `json:"uses,omitempty"`     // of Begin and Finish
	Image    *Image    `json:"image,omitempty"`    // of Finish of an optical medium
	Head     keys.Hash `json:"head,omitzero"`      // of Finish: of all sessions on the medium
	Damage   string    `json:"damage,omitempty"`   // of Verify: what was bad
	Reason   string    `json:"reason,omitempty"`   // of Lose and Retire
	Previous keys.Hash `json:"previous"`           // of the entry before; zeros for the first
	Signed
}

// Signed is a signature and whose it is.
type Signed struct {
	Box         keys.VerifyKey `json:"box"`
	Incarnation uint32         `json:"incarnation"`
	Signature   []byte         `json:"signature"`
}

// An Image is what is burned onto an optical medium.
type Image struct {
	Bytes  int64     `json:"bytes"`
	SHA256 keys.Hash `json:"sha256"`
}

// A Head is the end of a chain. Kept elsewhere, on media or in the ledger, it
// tells a register that was put back from an old copy.
type Head struct {
	Count int       `json:"count"`
	Last  keys.Hash `json:"last"`
	Signed
}

// A Signer is the box's key, a *keys.Signer.
type Signer interface {
	Public() keys.VerifyKey
	Sign(message []byte) []byte
}

const (
	entryContext = "strongroom media entry 1\n"
	headContext  = "strongroom media head 1\n"
	maxDamage    = 1000 // bytes of text
)

// message is what the signature is over: all fields but itself.
func (e Entry) message() []byte {
	e.Signature = nil
	b, err := json.Marshal(e)
	if err != nil { // of strings and numbers alone
		panic(err)
	}
	return append([]byte(entryContext), b...)
}

// Hash is what the next entry names. An Ed25519 signature has one form, so it
// need not be part of it.
func (e Entry) Hash() keys.Hash { return sha256.Sum256(e.message()) }

func (h Head) message() []byte {
	b := append([]byte(headContext), h.Box[:]...)
	b = binary.BigEndian.AppendUint32(b, h.Incarnation)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Count))
	return append(b, h.Last[:]...)
}

func headOf(chain []Entry) Head {
	h := Head{Count: len(chain)}
	if h.Count > 0 {
		h.Last = chain[h.Count-1].Hash()
	}
	return h
}

// check holds a chain and its end against the keys of the box.
func check(chain []Entry, head Head, trust keys.BoxKeys) error {
	var previous keys.Hash
	for i, e := range chain {
		if e.Number != i+1 || e.Previous != previous {
			return fmt.Errorf("%w: entry %d does not follow on the one before it", ErrTampered, i+1)
		}
		if err := trust.Verify(e.Box, e.Incarnation, e.message(), e.Signature); err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrTampered, e.Number, err)
		}
		previous = e.Hash()
	}
	if head.Count != len(chain) || head.Last != previous {
		return fmt.Errorf("%w: its end is signed as that of %d entries, it has %d", ErrTampered, head.Count, len(chain))
	}
	if err := trust.Verify(head.Box, head.Incarnation, head.message(), head.Signature); err != nil {
		return fmt.Errorf("%w: its end: %w", ErrTampered, err)
	}
	return nil
}

// replay adds up the acts of a chain.
func replay(chain []Entry) ([]Medium, error) {
	var all []Medium
	for _, e := range chain {
		var err error
		if all, err = apply(all, e); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.Number, err)
		}
	}
	return all, nil
}

func find(all []Medium, id ID) (*Medium, error) {
	for i := range all {
		if all[i].ID == id {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("medium %s: %w", id, ErrUnknown)
}

// apply is the one place that says what an act may follow on and what it
// changes: for a new entry, and for those that are read again.
func apply(all []Medium, e Entry) ([]Medium, error) {
	if err := errors.Join(keys.CheckTime(e.Time), keys.CheckName(e.By)); err != nil {
		return nil, err
	}
	if e.Act == Enrol {
		return enrol(all, e)
	}
	m, err := find(all, e.Medium)
	if err != nil {
		return nil, err
	}
	if m.Gone == Retired || m.Gone == Lost && e.Act != Find && e.Act != Retire {
		return nil, fmt.Errorf("medium %q: %w: %s: %s", m.Label, ErrGone, m.Gone, m.Reason)
	}
	if why := m.hinders(e); why != "" {
		return nil, fmt.Errorf("medium %q: %w: %s: %s", m.Label, ErrState, e.Act, why)
	}
	m.change(e)
	m.Acts++
	return all, nil
}

// hinders says why an act does not fit, or nothing.
func (m *Medium) hinders(e Entry) string {
	in := !m.Inserted.IsZero()
	// An optical medium is written as an image before there is one to put in.
	needs := e.Act == Verify || e.Act == Eject || m.Kind == Disk && (e.Act == Begin || e.Act == Finish)
	if needs && !in {
		return "it is not connected"
	}
	if in && (e.Act == Move || e.Act == Find) {
		return "it is connected; eject it first"
	}
	bad := error(nil)
	switch e.Act {
	case Insert, Eject:
	case Begin:
		if m.spent() {
			return "it is written for good"
		}
		if e.Uses != m.Uses+1 {
			return fmt.Sprintf("session %d after %d", e.Uses, m.Uses)
		}
	case Finish:
		// A session that was cut off may have left nothing on the medium, which
		// then goes on counting where it was.
		if e.Uses <= m.Closed || e.Uses > m.Uses {
			return fmt.Sprintf("session %d is not open", e.Uses)
		}
		if (e.Image != nil) != (m.Kind == Optical) || e.Image != nil && e.Image.Bytes <= 0 {
			return "an optical medium has an image, and no other has"
		}
	case Verify:
		if m.Open() || m.Uses == 0 {
			return "no whole session is on it"
		}
		if len(e.Damage) > maxDamage || !utf8.ValidString(e.Damage) {
			return "the damage is not said in a few words"
		}
	case Move:
		if e.Custody == nil {
			return "to whom"
		}
		bad = e.Custody.Check()
	case Assign:
		bad = checkSet(e.Set)
	case Find:
		if m.Gone != Lost {
			return "it is not lost"
		}
	case Lose, Retire:
		bad = keys.CheckName(e.Reason)
	default:
		return "no such act"
	}
	if bad != nil {
		return bad.Error()
	}
	return ""
}

// change does what an act does that nothing hinders.
func (m *Medium) change(e Entry) {
	switch e.Act {
	case Insert: // once more after a restart of the box: it was never out
		if m.Inserted.IsZero() {
			m.Inserted = e.Time
		}
	case Begin:
		m.Uses, m.Begun, m.Checked = e.Uses, e.Time, false
	case Finish:
		m.Uses, m.Closed, m.Head = e.Uses, e.Uses, e.Head
		m.Written, m.Damage, m.Damaged, m.Image = e.Time, "", time.Time{}, e.Image
	case Verify:
		if m.Checked = e.Damage == ""; m.Checked {
			m.Verified, m.Damage, m.Damaged = e.Time, "", time.Time{}
		} else {
			m.Damage, m.Damaged = e.Damage, e.Time
		}
	case Eject:
		m.Inserted = time.Time{}
	case Move:
		m.Custody = *e.Custody
	case Assign:
		m.Set = e.Set
	case Find:
		m.Gone, m.Reason, m.Checked = "", "", false
	case Lose:
		m.Gone, m.Reason, m.Inserted = Lost, e.Reason, time.Time{}
	case Retire:
		m.Gone, m.Reason, m.Inserted = Retired, e.Reason, time.Time{}
	}
}

func enrol(all []Medium, e Entry) ([]Medium, error) {
	if e.Identity == nil || e.Custody == nil || e.Medium == (ID{}) {
		return nil, errors.New("enrol: identity or holder is missing")
	}
	if err := errors.Join(e.Identity.Check(), e.Custody.Check()); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	for _, m := range all {
		switch {
		case m.ID == e.Medium:
			return nil, fmt.Errorf("enrol: medium %s: %w", m.ID, ErrExists)
		case m.Slot == e.Identity.Slot:
			return nil, fmt.Errorf("enrol: slot %d: %w: medium %q has or had it", m.Slot, ErrExists, m.Label)
		case m.UUID != "" && m.UUID == e.Identity.UUID:
			return nil, fmt.Errorf("enrol: file system %s: %w: medium %q has or had it; make a new one", m.UUID, ErrExists, m.Label)
		case m.Label == e.Identity.Label && m.Gone != Retired:
			return nil, fmt.Errorf("enrol: label %q: %w", m.Label, ErrExists)
		}
	}
	return append(all, Medium{ID: e.Medium, Identity: *e.Identity, Custody: *e.Custody, Enrolled: e.Time, Acts: 1}), nil
}
