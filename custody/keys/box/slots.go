package box

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/custody/keys"
	"strongroom/custody/keys/secret"
)

// The slot file is preallocated and overwritten in place, so that a key that
// was forgotten is gone from where it lay and from nowhere else: no journal,
// no older version, no page of a database.
//
// Torn writes. A slot is one aligned 512-byte sector, the unit that disks write
// whole or not at all, so after a crash it holds the old bytes or the new. Put:
// old means that the key was never stored, and Put has not returned. Forget:
// old means that the key is still there, and Forget has not returned; its
// caller repeats it. If a device tears the sector all the same, a used slot's
// marker stands over bytes that do not authenticate: the slot is reported as
// damaged and not used again. A lost G is not lost data: it lies sealed to T in
// every manifest; the generation is closed and a new one is begun.
//
// What this cannot do: flash and copy-on-write file systems write elsewhere and
// keep the old cells for a while. They hold a wrap under K, not the key.

const (
	slotSize     = 512
	slotMagic    = "strongroom keyslots 1\n"
	slotMarker   = "SRSLOT1\n"
	slotPlain    = slotSize - len(slotMarker) - 12 - 16 // nonce and tag of GCM
	entrySize    = 1 + 3*16 + secret.Size
	lockPatience = 10 * time.Second

	// DefaultSlots is enough for thousands of open generations in 2 MiB.
	DefaultSlots = 4096
	maxSlots     = 1 << 16
)

// Kind says what a slot holds.
type Kind byte

// Every kind there is.
const (
	KindGeneration Kind = 1 // G of an open generation
	KindCatalogue  Kind = 2 // C of a tenant
)

func (k Kind) String() string {
	switch k {
	case KindGeneration:
		return "generation"
	case KindCatalogue:
		return "catalogue"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// Entry names what one slot holds; ids that do not apply are zero.
type Entry struct {
	Kind       Kind
	Tenant     keys.TenantID
	Dataset    keys.DatasetID
	Generation keys.GenerationID
}

func (e Entry) String() string {
	if e.Kind == KindCatalogue {
		return fmt.Sprintf("catalogue key of tenant %s", e.Tenant)
	}
	return fmt.Sprintf("key of generation %s", e.Generation)
}

func (e Entry) check() error {
	switch {
	case e.Kind == KindGeneration && e.Generation != keys.GenerationID{}:
		return nil
	case e.Kind == KindCatalogue && e.Generation == keys.GenerationID{} && e.Dataset == keys.DatasetID{}:
		return nil
	}
	return fmt.Errorf("impossible slot entry of %s", e.Kind)
}

// Errors that callers branch on.
var (
	// ErrNoKey: no slot holds that key; it was forgotten or never here.
	ErrNoKey = errors.New("no such key on this box")
	// ErrKeyExists: a slot holds another key of the same name.
	ErrKeyExists = errors.New("another key is stored under this name")
	// ErrFull: no slot is free.
	ErrFull = errors.New("no key slot is free")
	// ErrLocked: another process held the key store for too long.
	ErrLocked = errors.New("key store is locked by another process")
	// ErrWrongBoxKey: the credential is not the one the slots are wrapped under.
	ErrWrongBoxKey = errors.New("slots belong to another box credential")
	// ErrNotForgotten: a slot could not be overwritten. The key may still be there.
	ErrNotForgotten = errors.New("key slot was not overwritten")
)

// Slots is an open slot file. Methods may be called concurrently, also by
// several processes: each takes the file lock for as long as it runs and reads
// the file anew.
type Slots struct {
	mu   sync.Mutex // flock holds per open file, so it does not order goroutines
	file *os.File
	aead cipher.AEAD
	id   [16]byte
	n    int // slots, numbered 1..n; sector 0 is the header
}

// slotState is what a scan found in one sector.
type slotState struct {
	number int
	entry  Entry
	key    secret.Key // zero when damaged
}

// CreateSlots makes a new slot file with n empty slots. Empty slots are random,
// as forgotten ones are.
func CreateSlots(path string, n int, c *Credential) error {
	if n < 1 || n > maxSlots {
		return fmt.Errorf("create key slots: %d slots, want 1 to %d", n, maxSlots)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create key slots: %w", err)
	}
	err = fillSlots(f, n, c)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("create key slots: %w", errors.Join(err, os.Remove(path)))
	}
	return syncDir(filepath.Dir(path))
}

func fillSlots(f *os.File, n int, c *Credential) error {
	var id [16]byte
	_, _ = rand.Read(id[:])
	all := make([]byte, (n+1)*slotSize)
	for i := 1; i <= n; i++ {
		randomSlot(all[i*slotSize : (i+1)*slotSize])
	}
	header, err := slotHeader(id, n, c)
	if err != nil {
		return err
	}
	copy(all, header)
	if _, err := f.WriteAt(all, 0); err != nil {
		return err
	}
	return f.Sync()
}

// slotHeader: magic, id, count, and a MAC of those under K, which tells a wrong
// credential from damaged slots; zeros fill the sector.
func slotHeader(id [16]byte, n int, c *Credential) ([]byte, error) {
	b := append([]byte(slotMagic), id[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	mac, err := hkdf.Key(sha512.New384, c.boxKey.Reveal(), b, "strongroom keyslots check v1", sha256.Size)
	if err != nil {
		return nil, err
	}
	b = append(b, mac...)
	return append(b, make([]byte, slotSize-len(b))...), nil
}

// randomSlot fills b so that it is not taken for a used slot.
func randomSlot(b []byte) {
	for {
		_, _ = rand.Read(b)
		if !bytes.HasPrefix(b, []byte(slotMarker)) {
			return
		}
	}
}

// OpenSlots opens an existing slot file.
func OpenSlots(path string, c *Credential) (*Slots, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open key slots: %w", ErrNotInitialised)
		}
		return nil, fmt.Errorf("open key slots: %w", err)
	}
	s, err := openSlots(f, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open key slots %s: %w", path, err), f.Close())
	}
	return s, nil
}

func openSlots(f *os.File, c *Credential) (*Slots, error) {
	head := make([]byte, slotSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	if !bytes.HasPrefix(head, []byte(slotMagic)) {
		return nil, errors.New("no key slot file of this version")
	}
	s := &Slots{file: f}
	rest := head[len(slotMagic):]
	copy(s.id[:], rest)
	s.n = int(binary.BigEndian.Uint32(rest[16:]))
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if s.n < 1 || s.n > maxSlots || st.Size() != int64(s.n+1)*slotSize || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("header says %d slots, file has %d bytes", s.n, st.Size())
	}
	want, err := slotHeader(s.id, s.n, c)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(head, want) {
		return nil, ErrWrongBoxKey
	}
	key, err := hkdf.Key(sha512.New384, c.boxKey.Reveal(), s.id[:], "strongroom keyslots wrap v1", secret.Size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s.aead, err = cipher.NewGCMWithRandomNonce(block)
	return s, err
}

// Close releases the file.
func (s *Slots) Close() error { return s.file.Close() }

// lock takes the file lock, shared or exclusive; it waits for others, who hold
// it for milliseconds, but not for ever, because a stopped process may hold it.
func (s *Slots) lock(how int) (func(), error) {
	s.mu.Lock()
	if err := flock(s.file, how, lockPatience); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return func() {
		_ = unix.Flock(int(s.file.Fd()), unix.LOCK_UN) // cannot fail on a held lock
		s.mu.Unlock()
	}, nil
}

func flock(f *os.File, how int, patience time.Duration) error {
	const step = 20 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case waited >= patience:
			return fmt.Errorf("%w: %s", ErrLocked, f.Name())
		}
		time.Sleep(step)
	}
}

// aad binds a slot to its number and file, so that sectors cannot be exchanged
// or brought back from a copy of another file.
func (s *Slots) aad(number int) []byte {
	b := append([]byte("strongroom keyslot v1"), s.id[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(number))
}

func (e Entry) encode(key secret.Key) []byte {
	b := make([]byte, 0, slotPlain)
	b = append(b, byte(e.Kind))
	b = append(b, e.Tenant[:]...)
	b = append(b, e.Dataset[:]...)
	b = append(b, e.Generation[:]...)
	b = append(b, key.Reveal()...)
	return b[:slotPlain] // zeros to the end
}

// parseEntry reads a slot's plaintext.
func parseEntry(b []byte) (Entry, secret.Key, error) {
	var e Entry
	if len(b) != slotPlain {
		return e, secret.Key{}, fmt.Errorf("slot has %d bytes, want %d", len(b), slotPlain)
	}
	e.Kind = Kind(b[0])
	copy(e.Tenant[:], b[1:])
	copy(e.Dataset[:], b[17:])
	copy(e.Generation[:], b[33:])
	if err := e.check(); err != nil {
		return e, secret.Key{}, err
	}
	for _, c := range b[entrySize:] {
		if c != 0 {
			return e, secret.Key{}, errors.New("slot has bytes after its end")
		}
	}
	key, err := secret.FromBytes(b[49:entrySize])
	return e, key, err
}

// scan reads all slots: used ones by name, the numbers of free and damaged ones.
func (s *Slots) scan() (used []slotState, free, damaged []int, err error) {
	all := make([]byte, s.n*slotSize)
	if _, err := s.file.ReadAt(all, slotSize); err != nil {
		return nil, nil, nil, fmt.Errorf("read key slots: %w", err)
	}
	for i := range s.n {
		sector := all[i*slotSize : (i+1)*slotSize]
		sealed, ok := bytes.CutPrefix(sector, []byte(slotMarker))
		if !ok {
			free = append(free, i+1)
			continue
		}
		plain, err := s.aead.Open(nil, nil, sealed, s.aad(i+1))
		if err != nil {
			damaged = append(damaged, i+1)
			continue
		}
		e, key, err := parseEntry(plain)
		clear(plain)
		if err != nil {
			damaged = append(damaged, i+1)
			continue
		}
		used = append(used, slotState{i + 1, e, key})
	}
	return used, free, damaged, nil
}

// find returns the state of e's slot, and whether there is one. All other keys
// that the scan opened are wiped.
func find(used []slotState, e Entry) (slotState, bool) {
	var found slotState
	for _, u := range used {
		if u.entry == e && found.number == 0 {
			found = u
			continue
		}
		u.key.Wipe()
	}
	return found, found.number != 0
}

// Put stores key under e and returns once it is durable and was read back.
// Storing the same key again is no error.
func (s *Slots) Put(e Entry, key secret.Key) error {
	if err := e.check(); err != nil {
		return err
	}
	unlock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	used, free, _, err := s.scan()
	if err != nil {
		return err
	}
	if have, ok := find(used, e); ok {
		defer have.key.Wipe()
		if have.key.Equal(key) {
			return nil
		}
		return fmt.Errorf("store %s: %w", e, ErrKeyExists)
	}
	if len(free) == 0 {
		return fmt.Errorf("store %s: %w of %d", e, ErrFull, s.n)
	}
	plain := e.encode(key)
	defer clear(plain)
	sector := s.aead.Seal([]byte(slotMarker), nil, plain, s.aad(free[0]))
	if err := s.write(free[0], sector); err != nil {
		return fmt.Errorf("store %s: %w", e, err)
	}
	return nil
}

// write overwrites one sector and reads it back past the page cache where the
// kernel lets go of the page; where it does not, fsync's word has to do.
func (s *Slots) write(number int, sector []byte) error {
	off := int64(number) * slotSize
	if _, err := s.file.WriteAt(sector, off); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(s.file.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cached pages: %w", err)
	}
	got := make([]byte, slotSize)
	if _, err := s.file.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got, sector) {
		return errors.New("slot reads back other bytes than were written")
	}
	return nil
}

// Get returns the key stored under e.
func (s *Slots) Get(e Entry) (secret.Key, error) {
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return secret.Key{}, err
	}
	defer unlock()
	used, _, damaged, err := s.scan()
	if err != nil {
		return secret.Key{}, err
	}
	have, ok := find(used, e)
	if !ok && len(damaged) > 0 {
		return secret.Key{}, fmt.Errorf("%s: %w (but slots %v are damaged)", e, ErrNoKey, damaged)
	}
	if !ok {
		return secret.Key{}, fmt.Errorf("%s: %w", e, ErrNoKey)
	}
	return have.key, nil
}

// Forget overwrites e's slot with random bytes and returns nil only after it
// has read back just these. Forgetting what is not there gives ErrNoKey.
func (s *Slots) Forget(e Entry) error {
	unlock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	used, _, _, err := s.scan()
	if err != nil {
		return err
	}
	found := 0
	for _, u := range used {
		u.key.Wipe()
		if u.entry != e {
			continue
		}
		found++
		if err := s.erase(u.number); err != nil {
			return fmt.Errorf("forget %s: %w", e, err)
		}
	}
	if found == 0 {
		return fmt.Errorf("forget %s: %w", e, ErrNoKey)
	}
	return nil
}

func (s *Slots) erase(number int) error {
	sector := make([]byte, slotSize)
	randomSlot(sector)
	if err := s.write(number, sector); err != nil {
		return fmt.Errorf("%w: slot %d: %w", ErrNotForgotten, number, err)
	}
	return nil
}

// ClearDamaged overwrites the slots that Entries reports as damaged. Whatever
// key one held cannot be read any more as it is.
func (s *Slots) ClearDamaged() error {
	unlock, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	used, _, damaged, err := s.scan()
	if err != nil {
		return err
	}
	find(used, Entry{}) // matches nothing, so wipes all
	for _, number := range damaged {
		if err := s.erase(number); err != nil {
			return err
		}
	}
	return nil
}

// Entries lists what is stored, in slot order, and the numbers of damaged slots.
func (s *Slots) Entries() (entries []Entry, damaged []int, err error) {
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	used, _, damaged, err := s.scan()
	if err != nil {
		return nil, nil, err
	}
	for _, u := range used {
		u.key.Wipe()
		entries = append(entries, u.entry)
	}
	return entries, damaged, nil
}
