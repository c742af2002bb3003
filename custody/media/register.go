package media

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
	"strongroom/custody/keys/doc"
)

const (
	title = "strongroom media register 1"
	// maxFile bounds the register: about 100,000 acts, as many as ten media a
	// day make in a thousand days of work.
	maxFile = 64 << 20
)

// Config says where a register is and who signs.
type Config struct {
	Path        string // of the file; its directory exists
	Signer      Signer
	Incarnation uint32       // of the box, for new entries
	Trust       keys.BoxKeys // whose entries are believed
	Now         func() time.Time
}

// A Register is the file of all media. Methods may be called concurrently and
// by several processes.
type Register struct{ c Config }

// file is what is stored.
type file struct {
	Chain []Entry `json:"chain"`
	Head  Head    `json:"head"`
}

// Create makes an empty register where there is none. It is an act of its own,
// and of its own command: a register that is gone must not begin anew at slot 1.
func Create(c Config) (*Register, error) {
	r := &Register{c}
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Lstat(c.Path); err == nil {
		return nil, fmt.Errorf("make register of media: %s: %w", c.Path, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make register of media: %w", err)
	}
	if err := r.write([]Entry{}); err != nil {
		return nil, fmt.Errorf("make register of media: %w", err)
	}
	return r, nil
}

// Open opens a register that exists and checks all of it.
func Open(c Config) (*Register, error) {
	r := &Register{c}
	if _, _, err := r.read(); err != nil {
		return nil, err
	}
	return r, nil
}

// read returns the chain, checked, and its end.
func (r *Register) read() ([]Entry, Head, error) {
	fail := func(err error) ([]Entry, Head, error) {
		return nil, Head{}, fmt.Errorf("read register of media %s: %w", r.c.Path, err)
	}
	f, err := os.OpenFile(r.c.Path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrNoRegister)
	} else if err != nil {
		return fail(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	var v file
	if err := doc.Decode(title, data, maxFile, &v); err != nil {
		return fail(fmt.Errorf("%w: %w", ErrTampered, err))
	}
	if err := check(v.Chain, v.Head, r.c.Trust); err != nil {
		return fail(err)
	}
	return v.Chain, v.Head, nil
}

// write replaces the file. A crash before the rename leaves the old one and a
// stray temporary file that nothing reads.
func (r *Register) write(chain []Entry) (err error) {
	head := headOf(chain)
	head.Box, head.Incarnation = r.c.Signer.Public(), r.c.Incarnation
	head.Signature = r.c.Signer.Sign(head.message())
	data, err := doc.Encode(title, file{chain, head})
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("register of media would have %d bytes, more than %d", len(data), maxFile)
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	tmp := r.c.Path + ".tmp-" + hex.EncodeToString(random[:])
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, r.c.Path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	d, err := os.Open(filepath.Dir(r.c.Path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock keeps other writers away. Readers need none: the file is replaced whole.
func (r *Register) lock() (unlock func(), err error) {
	f, err := os.OpenFile(r.c.Path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock register of media: %w", err)
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock register of media: %w", err), f.Close())
	}
	return func() { f.Close() }, nil // lets go of the lock
}

// act appends what prepare says to the chain, if it may follow on it. When act
// returns, it is durable: only then may the medium be touched.
func (r *Register) act(prepare func(all []Medium, e *Entry) error) (Medium, error) {
	unlock, err := r.lock()
	if err != nil {
		return Medium{}, err
	}
	defer unlock()
	chain, head, err := r.read()
	if err != nil {
		return Medium{}, err
	}
	all, err := replay(chain)
	if err != nil {
		return Medium{}, fmt.Errorf("register of media: %w", err)
	}
	e := Entry{Number: len(chain) + 1, Time: r.c.Now().UTC().Truncate(time.Second), Previous: head.Last}
	if err := prepare(all, &e); err != nil {
		return Medium{}, err
	}
	if all, err = apply(all, e); err != nil {
		return Medium{}, err
	}
	e.Box, e.Incarnation = r.c.Signer.Public(), r.c.Incarnation
	e.Signature = r.c.Signer.Sign(e.message())
	chain = append(chain, e)
	if err := r.write(chain); err != nil {
		return Medium{}, fmt.Errorf("write register of media: %w", err)
	}
	m, err := find(all, e.Medium)
	if err != nil {
		return Medium{}, err
	}
	return *m, nil
}

// Media returns all media, in the order of their slots.
func (r *Register) Media() ([]Medium, error) {
	chain, _, err := r.read()
	if err != nil {
		return nil, err
	}
	return replay(chain)
}

// Medium returns one by its id, or ErrUnknown.
func (r *Register) Medium(id ID) (Medium, error) {
	all, err := r.Media()
	if err != nil {
		return Medium{}, err
	}
	m, err := find(all, id)
	if err != nil {
		return Medium{}, err
	}
	return *m, nil
}

// ByLabel returns the medium of a label, or ErrUnknown; of a retired one only
// if no other has the label now.
func (r *Register) ByLabel(label string) (Medium, error) {
	all, err := r.Media()
	if err != nil {
		return Medium{}, err
	}
	found := -1
	for i, m := range all {
		if m.Label == label && (found < 0 || m.Gone != Retired) {
			found = i
		}
	}
	if found < 0 {
		return Medium{}, fmt.Errorf("medium %q: %w", label, ErrUnknown)
	}
	return all[found], nil
}

// Chain returns every act, or those of one medium.
func (r *Register) Chain(only ...ID) ([]Entry, error) {
	chain, _, err := r.read()
	if err != nil || len(only) == 0 {
		return chain, err
	}
	var out []Entry
	for _, e := range chain {
		for _, id := range only {
			if e.Medium == id {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// Head returns the end of the chain, to be kept elsewhere.
func (r *Register) Head() (Head, error) {
	_, h, err := r.read()
	return h, err
}

// Holds reports with ErrTampered that the register does not continue what had
// this end: it was put back from an older copy, or is another.
func (r *Register) Holds(h Head) error {
	if err := r.c.Trust.Verify(h.Box, h.Incarnation, h.message(), h.Signature); err != nil {
		return fmt.Errorf("end of a register of media: %w", err)
	}
	chain, _, err := r.read()
	if err != nil {
		return err
	}
	if h.Count < 0 || h.Count > len(chain) || headOf(chain[:h.Count]).Last != h.Last {
		return fmt.Errorf("%w: it does not continue the %d acts that were known", ErrTampered, h.Count)
	}
	return nil
}
