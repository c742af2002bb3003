package media

import "strongroom/custody/keys"

// New is a medium to be enrolled. Its slot is given out here.
type New struct {
	ID ID // zero: a new one
	Identity
	Custody
}

// Enrol enters a new medium and gives it the next slot. A crash behind it loses
// a slot, which is none of a medium's then, and no more.
func (r *Register) Enrol(n New, by string) (Medium, error) {
	return r.act(func(all []Medium, e *Entry) error {
		n.Slot = 1
		for _, m := range all {
			n.Slot = max(n.Slot, m.Slot+1)
		}
		if n.ID == (ID{}) {
			n.ID = NewID()
		}
		e.Act, e.Medium, e.By, e.Identity, e.Custody = Enrol, n.ID, by, &n.Identity, &n.Custody
		return nil
	})
}

// Insert recognises what was put in and notes that it is connected.
func (r *Register) Insert(s Seen, by string) (Medium, error) {
	return r.act(func(all []Medium, e *Entry) error {
		m, err := find(all, s.ID)
		if err != nil {
			return err
		}
		e.Act, e.Medium, e.By = Insert, s.ID, by
		return m.Recognise(s)
	})
}

// Begin notes that a session of writing begins, before anything is written to
// the medium or into the image that is burned onto it. Uses of what it returns is
// the highest number that the session may get there.
func (r *Register) Begin(id ID, by string) (Medium, error) {
	return r.act(func(all []Medium, e *Entry) error {
		m, err := find(all, id)
		if err != nil {
			return err
		}
		e.Act, e.Medium, e.By, e.Uses = Begin, id, by, m.Uses+1
		return nil
	})
}

// Finish ends a session, once all of it is durable on the medium, or in the
// image that is burned: uses is the number that it has there, and head stands
// for all that it holds.
func (r *Register) Finish(id ID, uses uint64, head keys.Hash, image *Image, by string) (Medium, error) {
	return r.simple(Entry{Act: Finish, Medium: id, Uses: uses, Head: head, Image: image, By: by})
}

// Verify notes that every byte was read. Damage says what was bad, in few
// words; empty: nothing.
func (r *Register) Verify(id ID, damage, by string) (Medium, error) {
	return r.simple(Entry{Act: Verify, Medium: id, Damage: damage, By: by})
}

// Eject notes that it is no longer connected. Who has it is as before.
func (r *Register) Eject(id ID, by string) (Medium, error) {
	return r.simple(Entry{Act: Eject, Medium: id, By: by})
}

// Move notes that it was handed to another, or to another place.
func (r *Register) Move(id ID, to Custody, by string) (Medium, error) {
	return r.simple(Entry{Act: Move, Medium: id, Custody: &to, By: by})
}

// Assign puts it into another set, as a monthly one that is kept as a yearly.
func (r *Register) Assign(id ID, set, by string) (Medium, error) {
	return r.simple(Entry{Act: Assign, Medium: id, Set: set, By: by})
}

// Lose notes that nobody knows where it is.
func (r *Register) Lose(id ID, reason, by string) (Medium, error) {
	return r.simple(Entry{Act: Lose, Medium: id, Reason: reason, By: by})
}

// Find notes that a lost one is there again.
func (r *Register) Find(id ID, by string) (Medium, error) {
	return r.simple(Entry{Act: Find, Medium: id, By: by})
}

// Retire takes it out of use for ever. Its slot is not given out again: what
// was written on it may turn up.
func (r *Register) Retire(id ID, reason, by string) (Medium, error) {
	return r.simple(Entry{Act: Retire, Medium: id, Reason: reason, By: by})
}

func (r *Register) simple(in Entry) (Medium, error) {
	return r.act(func(_ []Medium, e *Entry) error {
		in.Number, in.Time, in.Previous = e.Number, e.Time, e.Previous
		*e = in
		return nil
	})
}
