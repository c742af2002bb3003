package job

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/custody/keys/box"
	"strongroom/repo"
)

// checkedMagic begins the file of what was read when: records of 24 bytes in
// ascending order of their ids, and the SHA-256 of all before.
const (
	checkedMagic = "SRCHECK1"
	checkedLen   = 24
	// maxChecked bounds the records, at 24 MiB; of more, those read longest ago
	// are forgotten and read again first.
	maxChecked = 1 << 20
)

// checkedID names an object on a store: the front of SHA-256 of both names.
type checkedID [16]byte

func checkedIDOf(store, key string) checkedID {
	sum := sha256.Sum256([]byte(store + "\x00" + key))
	return checkedID(sum[:16])
}

// checkedRecord says when an object was read last, in seconds since 1970, and
// how that ended.
type checkedRecord struct {
	at   uint32
	good bool
}

// checked is what a tenant's objects were found to be. It may be deleted: then
// everything counts as never read. Safe for concurrent use.
type checked struct {
	path string

	mu    sync.Mutex
	m     map[checkedID]checkedRecord // guarded by mu
	bad   int                         // of them; guarded by mu
	saved time.Time                   // guarded by mu
}

func (s *Site) checkedPath(t box.Tenant) string {
	return filepath.Join(s.Config.StateDir, "datasets", repo.ID(t.ID).String(), "checked")
}

// loadChecked reads the file. One that is not as it was written is dropped.
func (s *Site) loadChecked(t box.Tenant) *checked {
	c := &checked{path: s.checkedPath(t), m: map[checkedID]checkedRecord{}}
	b, err := os.ReadFile(c.path)
	if err == nil {
		err = c.parse(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log("what was checked when is not known any more, everything counts as unchecked: %v", err)
		c.m, c.bad = map[checkedID]checkedRecord{}, 0
	}
	return c
}

func (c *checked) parse(b []byte) error {
	body := len(b) - len(checkedMagic) - sha256.Size
	if body < 0 || body%checkedLen != 0 || body/checkedLen > maxChecked || string(b[:8]) != checkedMagic {
		return fmt.Errorf("%s: %d bytes are not its format", c.path, len(b))
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return fmt.Errorf("%s: wrong checksum", c.path)
	}
	last := []byte(nil)
	for r := b[len(checkedMagic):end]; len(r) > 0; r = r[checkedLen:] {
		at, flags := binary.BigEndian.Uint32(r[16:]), binary.BigEndian.Uint32(r[20:])
		if at == 0 || flags > 1 || bytes.Compare(last, r[:16]) >= 0 {
			return fmt.Errorf("%s: bad record", c.path)
		}
		c.m[checkedID(r[:16])] = checkedRecord{at, flags == 1}
		if flags == 0 {
			c.bad++
		}
		last = r[:16]
	}
	return nil
}

func (c *checked) format() []byte {
	type entry struct {
		id checkedID
		checkedRecord
	}
	all := make([]entry, 0, len(c.m))
	for id, r := range c.m {
		all = append(all, entry{id, r})
	}
	if len(all) > maxChecked {
		slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(b.at, a.at) })
		all = all[:maxChecked]
	}
	slices.SortFunc(all, func(a, b entry) int { return bytes.Compare(a.id[:], b.id[:]) })
	b := append(make([]byte, 0, len(checkedMagic)+len(all)*checkedLen+sha256.Size), checkedMagic...)
	for _, e := range all {
		b = binary.BigEndian.AppendUint32(append(b, e.id[:]...), e.at)
		flags := uint32(0)
		if e.good {
			flags = 1
		}
		b = binary.BigEndian.AppendUint32(b, flags)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func (c *checked) get(store, key string) (checkedRecord, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.m[checkedIDOf(store, key)]
	return r, ok
}

func (c *checked) set(store, key string, good bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := checkedIDOf(store, key)
	if old, ok := c.m[id]; ok && !old.good {
		c.bad--
	}
	if !good {
		c.bad++
	}
	c.m[id] = checkedRecord{uint32(max(now.Unix(), 1)), good}
}

// anyBad reports whether any object was found to be bad.
func (c *checked) anyBad() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad > 0
}

// keepOnly forgets all objects but those of which live says so.
func (c *checked) keepOnly(live map[checkedID]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, r := range c.m {
		if !live[id] {
			if delete(c.m, id); !r.good {
				c.bad--
			}
		}
	}
}

// saveEvery is how much of a scrub a crash may undo.
const saveEvery = 10 * time.Second

func (c *checked) saveNow() error { return c.save(time.Time{}) }

// save writes the file; with a time, only if the last save is long enough ago.
func (c *checked) save(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !now.IsZero() && now.Sub(c.saved) < saveEvery {
		return nil
	}
	c.saved = now
	return replaceFile(c.path, c.format())
}

// replaceFile makes a file of mode 0600 durable under a name, whole or not.
// Unlike repo.ReplaceFile it needs no lock: a check and a repair may save at
// once, and the last of them counts.
func replaceFile(path string, body []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maxMarks bounds the list of marked objects.
const maxMarks = 100_000

// marks are the objects that a repair replaced. The daemon never deletes; the
// list says to whoever may what to look at, and proves nothing: he compares
// each with its manifest himself. So it may be lost, too: the next check that
// reads the data finds them again.
type marks struct {
	path string

	mu sync.Mutex
	m  map[markedAt]repo.Mark // guarded by mu while a repair runs
}

// markedAt is an object on a store.
type markedAt struct{ store, object string }

func (s *Site) loadMarks(t box.Tenant) *marks {
	m := &marks{path: filepath.Join(s.Config.StateDir, "datasets", repo.ID(t.ID).String(), "marked.json"), m: map[markedAt]repo.Mark{}}
	var list []repo.Mark
	b, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log("the list of marked objects cannot be read and begins anew: %v", err)
		list = nil
	}
	for _, x := range list[:min(len(list), maxMarks)] {
		m.m[markedAt{x.Store, x.Object}] = x
	}
	return m
}

func (m *marks) has(store, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.m[markedAt{store, key}]
	return ok
}

func (m *marks) add(x repo.Mark) error {
	known := m.has(x.Store, x.Object)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !known && len(m.m) >= maxMarks {
		return fmt.Errorf("%w: %d objects are marked for deletion, look at %s", ErrRefused, maxMarks, m.path)
	}
	m.m[markedAt{x.Store, x.Object}] = x
	return nil
}

// save writes the list.
func (m *marks) save() error {
	list := slices.SortedFunc(maps.Values(m.m), func(a, b repo.Mark) int {
		return cmp.Or(strings.Compare(a.Store, b.Store), strings.Compare(a.Object, b.Object))
	})
	b, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(m.path, append(b, '\n'))
}

// dropGone forgets what a store that was listed does not have any more.
func (m *marks) dropGone(l *repo.Listing) {
	inv := l.Inventory()
	for i, member := range inv.Members() {
		if inv.Failed(i) != nil {
			continue
		}
		for at := range m.m {
			if at.store == member.Name && !slices.Contains(inv.Keys()[at.object], i) {
				delete(m.m, at)
			}
		}
	}
}

// spoil enters into a listing what was found bad before, so that nobody counts
// on it and a restore tries it last.
func (s *Site) spoil(t box.Tenant, l *repo.Listing) {
	c, m := s.loadChecked(t), s.loadMarks(t)
	if !c.anyBad() && len(m.m) == 0 {
		return
	}
	inv := l.Inventory()
	for key, at := range inv.Keys() {
		for _, i := range at {
			name := inv.Members()[i].Name
			if r, ok := c.get(name, key); ok && !r.good || m.has(name, key) {
				inv.Spoil(i, key)
			}
		}
	}
}
