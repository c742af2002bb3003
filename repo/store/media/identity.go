package media

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
	"strongroom/repo/store/media/mount"
)

// An Identity says who a medium is. It is written once and signed by a box.
type Identity struct {
	ID           [16]byte // random
	Label        string   // what is written on it, e.g. "A-3"
	Set          string   // e.g. "A"
	Slot         int      // the set's number, which decides about its shards
	FileSystem   string   // its UUID in hex
	Serial       string   // of the device; empty: it has none that can be seen
	Created      time.Time
	Organisation [16]byte
	Box          [ed25519.PublicKeySize]byte // that enrolled it
	Incarnation  uint32
}

const (
	identityTitle = "strongroom medium 1"
	identityKey   = "identity"
	maxIdentity   = 4 << 10
	maxText       = 64 // bytes of a label or a set's name
	maxSlot       = 1 << 16
)

// noSerial stands for a device without one, which is not the same as one whose
// serial number is the empty text.
const noSerial = "-"

func (id Identity) format() string {
	serial := id.Serial
	if serial == "" {
		serial = noSerial
	}
	return fmt.Sprintf("%s\nid %x\nlabel %s\nset %s\nslot %d\nfilesystem %s\nserial %s\ncreated %d\norganisation %x\nbox %x\nincarnation %d\n",
		identityTitle, id.ID, id.Label, id.Set, id.Slot, id.FileSystem, serial, id.Created.Unix(), id.Organisation, id.Box, id.Incarnation)
}

func parseIdentity(raw []byte) (id Identity, err error) {
	p := parser{text: string(raw)}
	p.title(identityTitle)
	p.hex("id", id.ID[:])
	id.Label, id.Set = p.line("label"), p.line("set")
	id.Slot = int(p.number("slot", maxSlot))
	id.FileSystem, id.Serial = p.line("filesystem"), p.line("serial")
	if id.Serial == noSerial {
		id.Serial = ""
	}
	id.Created = p.time("created")
	p.hex("organisation", id.Organisation[:])
	p.hex("box", id.Box[:])
	id.Incarnation = uint32(p.number("incarnation", 1<<32-1))
	if err := p.signed(); err != nil {
		return Identity{}, err
	}
	if id.format() != p.body() || id.check() != nil {
		return Identity{}, errors.New("bad field")
	}
	return id, nil
}

// check refuses what a person could misread or what would break its lines.
func (id Identity) check() error {
	if id.Slot < 0 || id.Slot > maxSlot || id.FileSystem == "" || id.Created.Unix() <= 0 {
		return errors.New("identity of a medium is incomplete")
	}
	for name, text := range map[string]string{"label": id.Label, "set": id.Set, "serial": id.Serial + "x", "file system": id.FileSystem} {
		if text == "" || len(text) > maxText+1 || strings.TrimSpace(text) != text || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return fmt.Errorf("%s of a medium: %q is not one short line of text", name, text)
		}
	}
	return nil
}

// loadIdentity reads the identity, or its copy.
func (s *Store) loadIdentity(ctx context.Context) error {
	var errs []error
	for _, prefix := range []string{ownPrefix, copyPrefix} {
		raw, err := s.readOwn(ctx, prefix+identityKey, maxIdentity)
		if err == nil {
			var id Identity
			if id, err = parseIdentity(raw); err == nil {
				err = s.believe(raw, id.Box, id.Incarnation)
			}
			if err == nil {
				s.id = id
				return nil
			}
			err = fmt.Errorf("%s: %w", prefix+identityKey, err)
		}
		if ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
			return err
		}
		errs = append(errs, err)
	}
	if errors.Is(errs[0], store.ErrNotExist) && errors.Is(errs[1], store.ErrNotExist) {
		return fmt.Errorf("%w: it has no identity; if it shall be one of yours, enrol it", ErrUnknown)
	}
	return fmt.Errorf("%w: %w", ErrUnknown, errors.Join(errs...))
}

// believe checks a signed text, if there is anybody to be believed.
func (s *Store) believe(raw []byte, box [ed25519.PublicKeySize]byte, incarnation uint32) error {
	if s.trust == nil {
		return nil
	}
	body, sig := splitSigned(raw)
	if err := s.trust(box, incarnation, body, sig); err != nil {
		return fmt.Errorf("signed by box key %x: %w", box[:8], err)
	}
	return nil
}

// fits reports whether this is the medium that the identity was written for.
func (id Identity) fits(c Config, d mount.Device) error {
	switch {
	case id.Organisation != c.Organisation:
		return fmt.Errorf("%w: %q belongs to another organisation", ErrUnknown, id.Label)
	case d.Twin != "":
		return fmt.Errorf("%w: the file system of %q is mounted at %s too; take one away and look which is the copy", ErrCopied, id.Label, d.Twin)
	case id.FileSystem != d.FileSystem:
		return fmt.Errorf("%w: %q was enrolled with file system %s, this is %s", ErrCopied, id.Label, id.FileSystem, d.FileSystem)
	case id.Serial != d.Serial:
		return fmt.Errorf("%w: %q was enrolled on device %q, this is %q", ErrCopied, id.Label, serialText(id.Serial), serialText(d.Serial))
	}
	return nil
}

func serialText(serial string) string {
	if serial == "" {
		return "without serial number"
	}
	return serial
}

// Enrol makes an empty file system a medium: label, set and slot are id's, and
// the ID unless it is zero; the rest is found out.
//
// Crash story. The identity is one object: after a crash it is there or not,
// and where it is the medium is enrolled. Its copy is made then, and by the
// next session where a crash came between.
func Enrol(ctx context.Context, c Config, id Identity, by Signer, incarnation uint32, now time.Time) (*Store, error) {
	s, err := enrol(ctx, c, id, by, incarnation, now)
	if s != nil {
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("enrol medium at %s: %w", c.Path, err)
	}
	return Open(ctx, c)
}

// Enrollable says what is at the path, and why it cannot be enrolled if it
// cannot.
func Enrollable(ctx context.Context, c Config) (mount.Device, error) {
	s, d, err := enrollable(ctx, c)
	if s != nil {
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		return d, fmt.Errorf("enrol medium at %s: %w", c.Path, err)
	}
	return d, nil
}

func enrollable(ctx context.Context, c Config) (*Store, mount.Device, error) {
	s, device, err := open(ctx, c)
	switch {
	case s == nil || errors.Is(err, ErrNotMounted):
		return s, device, err
	case err == nil:
		return s, device, fmt.Errorf("%w: it is enrolled already, as %q", ErrNotEmpty, s.id.Label)
	case !errors.Is(err, ErrUnknown):
		return s, device, err
	case device.FileSystem == "":
		return s, device, errors.New("the UUID of its file system cannot be found out, and without it a copy would pass for it")
	case device.Twin != "":
		return s, device, fmt.Errorf("%w: its file system is mounted at %s too", ErrCopied, device.Twin)
	}
	return s, device, errors.Join(empty(s.root), writable(s.root))
}

// writable refuses a file system that is mounted read-only, or is another
// user's: root's, if mkfs was not told.
func writable(dir *os.File) error {
	switch err := unix.Faccessat(int(dir.Fd()), ".", unix.W_OK, 0); {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("this user may not write there: %w; mkfs.ext4 -E root_owner=%d:%d makes it his", err, os.Getuid(), os.Getgid())
	case err != nil:
		return fmt.Errorf("it cannot be written to: %w", err)
	}
	return nil
}

func enrol(ctx context.Context, c Config, id Identity, by Signer, incarnation uint32, now time.Time) (*Store, error) {
	s, device, err := enrollable(ctx, c)
	if err != nil {
		return s, err
	}
	if id.ID == [16]byte{} {
		rand.Read(id.ID[:])
	}
	id.FileSystem, id.Serial, id.Organisation = device.FileSystem, device.Serial, c.Organisation
	id.Created, id.Box, id.Incarnation = now.UTC().Truncate(time.Second), by.Public(), incarnation
	if err := id.check(); err != nil {
		return s, err
	}
	return s, s.putTwice(ctx, identityKey, sign(id.format(), by))
}

// putTwice stores one of the medium's own objects and its copy.
func (s *Store) putTwice(ctx context.Context, name string, raw []byte) error {
	sum := sha256.Sum256(raw)
	if err := s.files.Put(ctx, ownPrefix+name, raw, sum); err != nil {
		return err
	}
	return s.files.Put(ctx, copyPrefix+name, raw, sum)
}

// empty refuses a file system on which anybody has anything: enrolling is no
// way to lose it, nor to be told that what lies there is ours.
func empty(dir *os.File) error {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return fmt.Errorf("%w: there is %q", ErrNotEmpty, e.Name())
		}
	}
	return nil
}
