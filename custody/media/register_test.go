package media

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/doc"
	"strongroom/custody/keys/secret"
)

var start = time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC) // a Monday

// desk is a register and the clock on its wall.
type desk struct {
	*Register
	now time.Time
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{now: start}
	signer := keys.NewSigner(secret.Random())
	c := Config{Path: filepath.Join(t.TempDir(), "media.json"), Signer: signer, Incarnation: 1,
		Trust: keys.BoxKeys{{Public: signer.Public(), First: 1}}, Now: func() time.Time { return d.now }}
	var err error
	if d.Register, err = Create(c); err != nil {
		t.Fatal(err)
	}
	return d
}

func newDisk(label, set string) New {
	id := NewID()
	return New{ID: id, Identity: Identity{Label: label, Set: set, Kind: Disk, UUID: "uuid-" + id.String(), Serial: "S-" + label, Capacity: 1 << 40},
		Custody: Custody{Holder: "operator", Place: "server room"}}
}

func (d *desk) enrol(t *testing.T, n New) Medium {
	t.Helper()
	m, err := d.Enrol(n, "operator")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func seen(m Medium) Seen { return Seen{m.ID, m.UUID, m.Serial, m.Uses, m.Head} }

// headAfter is what a medium would tell.
func headAfter(m Medium) keys.Hash { return keys.Hash{byte(m.Uses), m.ID[0]} }

// session is a whole one: in, written, verified, out.
func (d *desk) session(t *testing.T, m Medium) Medium {
	t.Helper()
	_, err := d.Insert(seen(m), "operator")
	if err != nil {
		t.Fatal(err)
	}
	if m, err = d.Begin(m.ID, "box"); err != nil {
		t.Fatal(err)
	}
	if _, err = d.Finish(m.ID, m.Uses, headAfter(m), nil, "box"); err != nil {
		t.Fatal(err)
	}
	if _, err = d.Verify(m.ID, "", "box"); err != nil {
		t.Fatal(err)
	}
	if m, err = d.Eject(m.ID, "operator"); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAMediumIsWhatItsActsAddUpTo(t *testing.T) {
	d := newDesk(t)
	m := d.enrol(t, newDisk("A-1", "A"))
	if m.Slot != 1 || m.Uses != 0 || !m.Enrolled.Equal(start) {
		t.Fatalf("enrolled as %+v", m)
	}
	d.now = start.Add(time.Hour)
	m = d.session(t, m)
	if m.Uses != 1 || m.Closed != 1 || !m.Checked || !m.Verified.Equal(d.now) || !m.Written.Equal(d.now) || !m.Inserted.IsZero() {
		t.Fatalf("after a session it is %+v", m)
	}
	if _, err := d.Move(m.ID, Custody{"courier", "bank vault", "0017"}, "operator"); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d.c)
	if err != nil {
		t.Fatal(err)
	}
	m, err = again.Medium(m.ID)
	if err != nil || m.Holder != "courier" || m.Place != "bank vault" || m.Seal != "0017" || m.Acts != 7 {
		t.Fatalf("read again it is %+v, %v", m, err)
	}
	chain, err := again.Chain(m.ID)
	if err != nil || len(chain) != 7 || chain[6].Act != Move || chain[6].By != "operator" || chain[6].Custody.Seal != "0017" {
		t.Fatalf("its chain is %+v, %v", chain, err)
	}
}

func TestASlotIsNeverGivenOutAgain(t *testing.T) {
	d := newDesk(t)
	for slot := 1; slot <= 4; slot++ {
		m := d.enrol(t, newDisk("A-1", "A"))
		if m.Slot != slot {
			t.Fatalf("slot %d, want %d", m.Slot, slot)
		}
		if _, err := d.Retire(m.ID, "too old", "operator"); err != nil {
			t.Fatal(err)
		}
	}
}

// The register gives out slots; that two media never have one is checked where
// the chain is read as well.
func TestTwoMediaOfOneSlotAreNoRegister(t *testing.T) {
	var all []Medium
	for i, want := range []error{nil, ErrExists} {
		n := newDisk([]string{"A-1", "A-2"}[i], "A")
		n.Slot = 7
		var err error
		all, err = apply(all, Entry{Time: start, Act: Enrol, Medium: n.ID, By: "operator", Identity: &n.Identity, Custody: &n.Custody})
		if !errors.Is(err, want) {
			t.Errorf("medium %d: %v, want %v", i, err, want)
		}
	}
}

func TestWhatCannotBeEnrolled(t *testing.T) {
	d := newDesk(t)
	have := d.enrol(t, newDisk("A-1", "A"))
	if _, err := d.Retire(d.enrol(t, newDisk("old", "B")).ID, "too old", "operator"); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*New){
		"no label":      func(n *New) { n.Label = "" },
		"a label twice": func(n *New) { n.Label = "A-1" },
		"no UUID":       func(n *New) { n.UUID = "" },
		"a UUID twice":  func(n *New) { n.UUID = have.UUID },
		"an id twice":   func(n *New) { n.ID = have.ID },
		"a strange set": func(n *New) { n.Set = "daily" },
		"no kind":       func(n *New) { n.Kind = "" },
		"no capacity":   func(n *New) { n.Capacity = 0 },
		"no holder":     func(n *New) { n.Holder = "" },
		"control bytes": func(n *New) { n.Place = "a\nb" },
		"not UTF-8":     func(n *New) { n.Serial = "\xff" },
		"a path's UUID": func(n *New) { n.UUID = "../x" },
		"a long label":  func(n *New) { n.Label = strings.Repeat("x", 129) },
	} {
		n := newDisk("A-2", "A")
		change(&n)
		if _, err := d.Enrol(n, "operator"); err == nil {
			t.Errorf("%s: it was enrolled", what)
		}
	}
	d.enrol(t, newDisk("old", "B")) // the label of one that is retired
}

func TestOnlyTheMediumThatIsKnownIsRecognised(t *testing.T) {
	d := newDesk(t)
	m := d.session(t, d.session(t, d.enrol(t, newDisk("A-1", "A"))))
	for what, c := range map[string]struct {
		change func(*Seen)
		want   error
	}{
		"another file system":    {func(s *Seen) { s.UUID = "else" }, ErrClone},
		"another device":         {func(s *Seen) { s.Serial = "else" }, ErrClone},
		"no serial any more":     {func(s *Seen) { s.Serial = "" }, ErrClone},
		"restored from an image": {func(s *Seen) { s.Uses = 1 }, ErrClone},
		"written elsewhere":      {func(s *Seen) { s.Uses = 3 }, ErrBehind},
		"one of two copies":      {func(s *Seen) { s.Head = keys.Hash{9} }, ErrClone},
		"never enrolled":         {func(s *Seen) { s.ID = NewID() }, ErrUnknown},
	} {
		s := seen(m)
		c.change(&s)
		if _, err := d.Insert(s, "operator"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	if _, err := d.Insert(seen(m), "operator"); err != nil {
		t.Error(err)
	}
}

// A session is noted here before its number is on the medium, so a power cut
// leaves the medium one behind, or several after several tries; a copy that was
// made before the last whole session is still told.
func TestAMediumWhoseSessionWasCutOffIsRecognised(t *testing.T) {
	d := newDesk(t)
	m := d.session(t, d.session(t, d.enrol(t, newDisk("A-1", "A"))))
	for range 2 {
		if _, err := d.Insert(seen(m), "operator"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Begin(m.ID, "box"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Eject(m.ID, "operator"); err != nil {
			t.Fatal(err)
		}
	}
	now, err := d.Medium(m.ID)
	if err != nil || now.Uses != 4 || now.Closed != 2 || !now.Open() {
		t.Fatalf("%+v, %v", now, err)
	}
	for uses, want := range map[uint64]error{1: ErrClone, 2: nil, 3: nil, 4: nil, 5: ErrBehind} {
		s := seen(m)
		s.Uses = uses
		if err := now.Recognise(s); !errors.Is(err, want) {
			t.Errorf("%d uses: %v, want %v", uses, err, want)
		}
	}
	for _, uses := range []uint64{0, 2, 6} { // not numbers that it can have there
		if _, err := d.Insert(seen(m), "operator"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Finish(m.ID, uses, keys.Hash{1}, nil, "box"); !errors.Is(err, ErrState) {
			t.Errorf("finished as session %d: %v", uses, err)
		}
	}
	// The sessions that were cut off left nothing there: this is its third.
	if _, err := d.Begin(m.ID, "box"); err != nil {
		t.Fatal(err)
	}
	m, err = d.Finish(m.ID, 3, keys.Hash{3}, nil, "box")
	if err != nil || m.Uses != 3 || m.Open() {
		t.Errorf("after a whole session it is %+v, %v", m, err)
	}
	for uses, want := range map[uint64]error{2: ErrClone, 3: nil, 4: ErrBehind} {
		s := seen(m)
		s.Uses = uses
		if err := m.Recognise(s); !errors.Is(err, want) {
			t.Errorf("%d uses: %v, want %v", uses, err, want)
		}
	}
}

func TestActsThatDoNotFitAreRefused(t *testing.T) {
	d := newDesk(t)
	out := d.session(t, d.enrol(t, newDisk("out", "A")))
	in := d.enrol(t, newDisk("in", "A"))
	if _, err := d.Insert(seen(in), "operator"); err != nil {
		t.Fatal(err)
	}
	gone := d.enrol(t, newDisk("gone", "A"))
	if _, err := d.Retire(gone.ID, "broken", "operator"); err != nil {
		t.Fatal(err)
	}
	disc := newDisk("disc", Yearly)
	disc.Kind, disc.UUID = Optical, ""
	burned := d.enrol(t, disc)
	burned, err := d.Begin(burned.ID, "box") // an image: nothing is put in yet
	if err != nil {
		t.Fatal(err)
	}
	if burned, err = d.Finish(burned.ID, 1, keys.Hash{1}, &Image{Bytes: 1, SHA256: keys.Hash{7}}, "box"); err != nil {
		t.Fatal(err)
	}
	before, err := d.Head()
	if err != nil {
		t.Fatal(err)
	}
	for what, act := range map[string]func() (Medium, error){
		"begin on one that is out":    func() (Medium, error) { return d.Begin(out.ID, "box") },
		"finish without begin":        func() (Medium, error) { return d.Finish(in.ID, 0, keys.Hash{}, nil, "box") },
		"verify one that is empty":    func() (Medium, error) { return d.Verify(in.ID, "", "box") },
		"verify one that is out":      func() (Medium, error) { return d.Verify(out.ID, "", "box") },
		"eject one that is out":       func() (Medium, error) { return d.Eject(out.ID, "operator") },
		"move one that is in":         func() (Medium, error) { return d.Move(in.ID, Custody{"x", "y", ""}, "operator") },
		"move to nobody":              func() (Medium, error) { return d.Move(out.ID, Custody{}, "operator") },
		"find one that is not lost":   func() (Medium, error) { return d.Find(out.ID, "operator") },
		"retire for no reason":        func() (Medium, error) { return d.Retire(out.ID, "", "operator") },
		"insert one that is retired":  func() (Medium, error) { return d.Insert(seen(gone), "operator") },
		"retire one twice":            func() (Medium, error) { return d.Retire(gone.ID, "again", "operator") },
		"write an optical one twice":  func() (Medium, error) { return d.Begin(burned.ID, "box") },
		"by nobody":                   func() (Medium, error) { return d.Move(out.ID, Custody{"x", "y", ""}, "") },
		"a set that there is not":     func() (Medium, error) { return d.Assign(out.ID, "daily", "operator") },
		"damage in bytes":             func() (Medium, error) { return d.Verify(in.ID, "\xff", "box") },
		"a medium that there is none": func() (Medium, error) { return d.Retire(NewID(), "x", "operator") },
	} {
		if _, err := act(); err == nil {
			t.Errorf("%s: done", what)
		}
	}
	if after, err := d.Head(); err != nil || after.Last != before.Last {
		t.Errorf("refused acts changed the chain: %v, %v", after, err)
	}
}

// damage changes the file as somebody without the box's key can, with the
// SHA-256 line made to fit.
func damage(t *testing.T, d *desk, change func(*file)) error {
	t.Helper()
	b, err := os.ReadFile(d.c.Path)
	if err != nil {
		t.Fatal(err)
	}
	var v file
	if err := doc.Decode(title, b, maxFile, &v); err != nil {
		t.Fatal(err)
	}
	change(&v)
	changed, err := doc.Encode(title, v)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(b, changed) {
		t.Fatal("nothing was changed")
	}
	c := d.c
	c.Path = filepath.Join(t.TempDir(), "media.json")
	if err := os.WriteFile(c.Path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(c)
	return err
}

func TestAChainThatIsCutEditedOrReorderedIsNotRead(t *testing.T) {
	d := newDesk(t)
	a := d.session(t, d.enrol(t, newDisk("A-1", "A")))
	if _, err := d.Move(a.ID, Custody{"courier", "vault", "1"}, "operator"); err != nil {
		t.Fatal(err)
	}
	other := newDesk(t)
	other.session(t, other.enrol(t, newDisk("B-1", "B")))
	foreign, err := other.Chain()
	if err != nil {
		t.Fatal(err)
	}
	relink := func(f *file) { // as whoever can compute hashes, but not sign
		var previous keys.Hash
		for i := range f.Chain {
			f.Chain[i].Number, f.Chain[i].Previous = i+1, previous
			previous = f.Chain[i].Hash()
		}
		f.Head.Count, f.Head.Last = len(f.Chain), previous
	}
	for what, change := range map[string]func(*file){
		"cut by one":                  func(f *file) { f.Chain = f.Chain[:len(f.Chain)-1] },
		"cut by one, end made to fit": func(f *file) { f.Chain = f.Chain[:len(f.Chain)-1]; relink(f) },
		"emptied":                     func(f *file) { f.Chain = f.Chain[:0]; relink(f) },
		"first one gone":              func(f *file) { f.Chain = f.Chain[1:]; relink(f) },
		"middle one gone":             func(f *file) { f.Chain = slices.Delete(f.Chain, 2, 3); relink(f) },
		"two exchanged":               func(f *file) { f.Chain[2], f.Chain[3] = f.Chain[3], f.Chain[2] },
		"two exchanged, made to fit":  func(f *file) { f.Chain[2], f.Chain[3] = f.Chain[3], f.Chain[2]; relink(f) },
		"one twice":                   func(f *file) { f.Chain = slices.Insert(f.Chain, 3, f.Chain[2]); relink(f) },
		"another holder":              func(f *file) { f.Chain[6].Custody.Holder = "thief" },
		"another holder, made to fit": func(f *file) { f.Chain[6].Custody.Holder = "thief"; relink(f) },
		"another time":                func(f *file) { f.Chain[1].Time = f.Chain[1].Time.Add(time.Second) },
		"no signature":                func(f *file) { f.Chain[1].Signature = nil },
		"a signature of another one":  func(f *file) { f.Chain[1].Signature = f.Chain[2].Signature },
		"entries of another box":      func(f *file) { f.Chain = foreign; relink(f) },
		"an unsigned end":             func(f *file) { f.Head.Signature = nil },
		"another incarnation":         func(f *file) { f.Chain[1].Incarnation = 2; relink(f) },
	} {
		if err := damage(t, d, change); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Open(d.c); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

func TestEveryBitOfTheFileCounts(t *testing.T) {
	d := newDesk(t)
	d.session(t, d.enrol(t, newDisk("A-1", "A")))
	b, err := os.ReadFile(d.c.Path)
	if err != nil {
		t.Fatal(err)
	}
	c := d.c
	c.Path = filepath.Join(t.TempDir(), "media.json")
	for i := 0; i < len(b); i += 7 {
		bad := bytes.Clone(b)
		bad[i] ^= 1 << (i % 8)
		for _, v := range [][]byte{bad, b[:i]} {
			if err := os.WriteFile(c.Path, v, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(c); err == nil {
				t.Fatalf("byte %d changed, or cut there: read without an error", i)
			}
		}
	}
}

func TestAnOldCopyOfTheRegisterIsFoundOutByAHeadKeptElsewhere(t *testing.T) {
	d := newDesk(t)
	m := d.session(t, d.enrol(t, newDisk("A-1", "A")))
	old, err := os.ReadFile(d.c.Path)
	if err != nil {
		t.Fatal(err)
	}
	early, err := d.Head()
	if err != nil {
		t.Fatal(err)
	}
	m = d.session(t, m)
	late, err := d.Head()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Holds(early), d.Holds(late)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.c.Path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Holds(early); err != nil {
		t.Error(err)
	}
	if err := d.Holds(late); !errors.Is(err, ErrTampered) {
		t.Errorf("an old copy: %v", err)
	}
	forged := late
	forged.Count = 1
	if err := d.Holds(forged); !errors.Is(err, keys.ErrSignature) {
		t.Errorf("a forged end: %v", err)
	}
	if _, err := d.Insert(seen(m), "operator"); !errors.Is(err, ErrBehind) {
		t.Errorf("a medium ahead of it: %v", err)
	}
}

func TestARegisterIsNeverMadeImplicitly(t *testing.T) {
	d := newDesk(t)
	if _, err := Create(d.c); !errors.Is(err, ErrExists) {
		t.Errorf("made twice: %v", err)
	}
	if err := os.Remove(d.c.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d.c); !errors.Is(err, ErrNoRegister) {
		t.Errorf("opened without a file: %v", err)
	}
	if _, err := d.Enrol(newDisk("A-1", "A"), "operator"); !errors.Is(err, ErrNoRegister) {
		t.Errorf("enrolled without a file: %v", err)
	}
}

func TestActsAtOnceAllArrive(t *testing.T) {
	d := newDesk(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r, err := Open(d.c)
			if err == nil {
				_, err = r.Enrol(newDisk(string(rune('a'+i)), "A"), "operator")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := d.Media()
	if err != nil || len(all) != 16 || all[15].Slot != 16 {
		t.Errorf("%d media, %v", len(all), err)
	}
}

func TestAFailedWriteLeavesTheRegisterAsItWas(t *testing.T) {
	d := newDesk(t)
	m := d.enrol(t, newDisk("A-1", "A"))
	real := d.c.Path
	d.c.Path = filepath.Join(filepath.Dir(real), "sub", "media.json")
	if _, err := d.Retire(m.ID, "x", "operator"); err == nil {
		t.Error("written into a directory that is not there")
	}
	d.c.Path = real
	if got, err := d.Medium(m.ID); err != nil || got.Gone != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if left, _ := filepath.Glob(real + ".tmp-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What the box signed is all that is ever believed, and nothing makes replay panic.
func FuzzRegister(f *testing.F) {
	signer := keys.NewSigner(secret.Random())
	e := Entry{Number: 1, Time: start, Act: Enrol, Medium: NewID(), By: "operator",
		Identity: &Identity{Label: "A-1", Set: "A", Slot: 1, Kind: Disk, UUID: "1", Capacity: 1}, Custody: &Custody{"operator", "here", ""}}
	e.Box, e.Incarnation = signer.Public(), 1
	e.Signature = signer.Sign(e.message())
	head := headOf([]Entry{e})
	head.Box, head.Incarnation = signer.Public(), 1
	head.Signature = signer.Sign(head.message())
	good, err := json.Marshal(file{[]Entry{e}, head})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.ReplaceAll(good, []byte("operator"), []byte("thief")))
	f.Add([]byte(`{"chain":[{"act":"move"},{"act":"enrol","identity":{},"custody":{}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v file
		if json.Unmarshal(b, &v) != nil {
			return
		}
		if err := check(v.Chain, v.Head, keys.BoxKeys{{Public: signer.Public(), First: 1}}); err == nil && !reflect.DeepEqual(v, file{[]Entry{e}, head}) {
			t.Errorf("%q was not signed, and is believed", b)
		}
		replay(v.Chain)
	})
}
