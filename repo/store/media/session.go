package media

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/repo/store"
	"strongroom/repo/store/media/parity"
)

// SessionConfig says who writes.
type SessionConfig struct {
	Signer      Signer
	Incarnation uint32 // of the box
	Now         func() time.Time
	// Number is the session's, for a caller that counts them too; 0: the next.
	// One that was given to a session before is refused.
	Number uint32
}

// A Session adds objects to a medium. It is a store.Store that takes what the
// medium does not have yet, and is safe for concurrent use.
//
// Crash story. Objects are durable one by one, parity for 32 MiB of them at a
// time. The list comes last and is the only commit: until it is there the
// session never was, its objects are read without parity and verify as nothing,
// and the next session takes over those that it would write itself, since they
// are there with the same bytes. Its parity is left behind, under a number that
// no other session gets.
type Session struct {
	s *Store
	c SessionConfig

	mu      sync.Mutex       // taken before that of s
	list    *session         // its entries are guarded by mu
	have    map[string]int   // by key, into list.entries; guarded by mu
	stripe  parity.Collector // guarded by mu
	written int64            // stripes; guarded by mu
	cells   int64            // of data; guarded by mu
	claimed int64            // cells of objects that are being put; guarded by mu
	broken  error            // why it cannot be committed any more; guarded by mu
}

// Begin opens a session. There is one at a time.
func (s *Store) Begin(ctx context.Context, c SessionConfig) (*Session, error) {
	if s.id.ID == [16]byte{} || s.trust == nil {
		return nil, fmt.Errorf("begin a session: %w: the medium was opened for reading only", store.ErrReadOnly)
	}
	if err := s.finish(ctx); err != nil {
		return nil, fmt.Errorf("begin a session: finish what was interrupted: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open != nil {
		return nil, errors.New("begin a session: another one is open")
	}
	number := cmp.Or(c.Number, s.newest+1)
	if number <= s.newest {
		return nil, fmt.Errorf("begin session %d: the medium has had session %d", number, s.newest)
	}
	l := &session{medium: s.id.ID, number: number, time: c.Now().UTC().Truncate(time.Second), box: c.Signer.Public(), incarnation: c.Incarnation}
	if n := len(s.sessions); n > 0 {
		l.previous = s.sessions[n-1].hash
	}
	s.open = &Session{s: s, c: c, list: l, have: map[string]int{}}
	return s.open, nil
}

// finish makes the second copies that a crash, or a bad sector, kept from being
// there. What has their names and is damaged stays: nothing is overwritten.
func (s *Store) finish(ctx context.Context) error {
	names := []string{identityKey}
	for _, l := range s.committed() {
		names = append(names, numbered(sessionName, l.number))
	}
	for _, name := range names {
		_, first := s.files.Stat(ctx, ownPrefix+name)
		_, second := s.files.Stat(ctx, copyPrefix+name)
		from, to := ownPrefix, copyPrefix
		switch {
		case first == nil && second == nil:
			continue
		case first != nil:
			from, to = to, from
		}
		raw, err := s.readOwn(ctx, from+name, maxList)
		if err == nil {
			err = s.files.Put(ctx, to+name, raw, sha256.Sum256(raw))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) committed() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[:len(s.sessions):len(s.sessions)]
}

// Put implements store.Store.
func (w *Session) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if own(key) {
		return fmt.Errorf("put %s: the name is one of the medium's own", key)
	}
	return w.put(ctx, Entry{key, int64(len(body)), sum}, body)
}

func (w *Session) put(ctx context.Context, e Entry, body []byte) error {
	if done, err := w.known(e); done || err != nil {
		return err
	}
	done, err := w.room(e)
	if err != nil {
		return fmt.Errorf("put %s: %w", e.Key, err)
	}
	defer done()
	if err := w.s.files.Put(ctx, e.Key, body, e.SHA256); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, twice := w.have[e.Key]; twice { // two at once, of the same content
		return nil
	}
	if len(w.list.entries) >= maxEntries-1 && !own(e.Key) { // the last one is the index
		return fmt.Errorf("put %s: %w: a session has at most %d objects, close it and begin another one", e.Key, store.ErrFull, maxEntries)
	}
	if w.broken == nil {
		w.broken = w.cover(ctx, body)
	}
	if w.broken != nil {
		return fmt.Errorf("put %s: %w", e.Key, w.broken)
	}
	w.cells += e.cells()
	w.have[e.Key] = len(w.list.entries)
	w.list.entries = append(w.list.entries, e)
	return nil
}

// known reports whether the medium has an object already, in this session or an
// earlier one; with other content it is ErrExists.
func (w *Session) known(e Entry) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return false, fmt.Errorf("put %s: %w", e.Key, w.broken)
	}
	n, ok := w.have[e.Key]
	var before Entry
	if ok {
		before = w.list.entries[n]
	} else if p, recorded := w.s.find(e.Key); recorded {
		before, ok = p.s.entries[p.n], true
	}
	if ok && before != e {
		return false, fmt.Errorf("put %s: %w", e.Key, store.ErrExists)
	}
	return ok, nil
}

// cover adds an object's bytes to the parity. w.mu is held.
func (w *Session) cover(ctx context.Context, body []byte) error {
	for len(body) > 0 {
		if body = w.stripe.Add(body); w.stripe.Full() {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes the parity of the stripe. w.mu is held.
func (w *Session) flush(ctx context.Context) error {
	if w.stripe.Empty() {
		return nil
	}
	b, err := w.stripe.Object(w.list.stripe(w.written))
	if err == nil {
		err = w.s.files.Put(ctx, parityKey(w.list.number, w.written), b, sha256.Sum256(b))
	}
	w.written++
	return err
}

// room refuses what would leave too little for the parity of what is there and
// for the lists: a medium that is full must still be one that restores.
// The room is the object's until done is called.
func (w *Session) room(e Entry) (done func(), err error) {
	if own(e.Key) {
		return func() {}, nil // what room was kept for
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(w.s.root.Fd()), &fs); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	lists := int64(len(w.list.entries)+2) * 2 * 350 // a key has at most 250 bytes
	claimed := w.claimed + e.cells()
	stripes := parity.Stripes(w.cells+claimed+1) - w.written
	reserve := stripes*parity.ShapeOf(parity.Stripe, 0).Size() + lists + 1<<20
	if free := int64(fs.Bavail) * fs.Frsize; free < claimed*parity.Cell+reserve {
		return nil, fmt.Errorf("%w: %d bytes are free, of which %d are kept for parity and lists", store.ErrFull, free, reserve)
	}
	w.claimed = claimed
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.claimed -= e.cells()
	}, nil
}

// Get implements store.Store.
func (w *Session) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	return w.s.Get(ctx, key, off, n)
}

// Stat implements store.Store.
func (w *Session) Stat(ctx context.Context, key string) (store.Info, error) {
	return w.s.Stat(ctx, key)
}

// List implements store.Store.
func (w *Session) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return w.s.List(ctx, prefix)
}

// Close commits the session. What it wrote counts for nothing until the medium
// was mounted anew and verified.
func (w *Session) Close(ctx context.Context) error {
	err := w.close(ctx)
	w.Abandon()
	if err != nil {
		return fmt.Errorf("close session %d: %w", w.list.number, err)
	}
	return nil
}

// Abandon ends a session without committing it.
func (w *Session) Abandon() {
	w.mu.Lock()
	if w.broken == nil {
		w.broken = fmt.Errorf("%w: the session has ended", store.ErrReadOnly)
	}
	w.mu.Unlock()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.open == w {
		w.s.open = nil
		w.s.newest = max(w.s.newest, w.list.number)
	}
}

func (w *Session) close(ctx context.Context) error {
	index := []byte(w.index())
	key := ownPrefix + numbered(indexName, w.list.number)
	if err := w.put(ctx, Entry{key, int64(len(index)), sha256.Sum256(index)}, index); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return w.broken
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	// All of it was synced object by object. This asks the file system once
	// more whether anything failed since the medium was opened (Linux 5.8).
	if err := unix.Syncfs(int(w.s.root.Fd())); err != nil {
		return fmt.Errorf("sync the medium: %w", err)
	}
	raw := sign(w.list.format(), w.c.Signer)
	l, err := parseList(raw)
	if err == nil && len(raw) > maxList {
		err = store.ErrFull
	}
	if err == nil {
		err = w.s.believe(raw, l.box, l.incarnation)
	}
	if err != nil {
		return fmt.Errorf("list that was just made: %w", err)
	}
	name := numbered(sessionName, l.number)
	if err := w.s.files.Put(ctx, ownPrefix+name, raw, l.hash); err != nil {
		return err
	}
	w.s.add(l) // committed: of the copy a crash leaves the next session to make it
	return w.s.files.Put(ctx, copyPrefix+name, raw, l.hash)
}

// index tells a person what is on the medium, without names.
func (w *Session) index() string {
	count, bytes := map[string]int{}, map[string]int64{}
	tally := func(entries []Entry) {
		for _, e := range entries {
			k := kind(e.Key)
			count[k]++
			bytes[k] += e.Size
		}
	}
	for _, l := range w.s.committed() {
		tally(l.entries)
	}
	w.mu.Lock()
	tally(w.list.entries)
	w.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "strongroom medium index 1\nafter session %d of %s\n", w.list.number, w.list.time.Format(time.DateTime+"Z"))
	for _, k := range []string{"shards", "manifests", "supplements", "tombstones", "others"} {
		fmt.Fprintf(&b, "%s %d, %d bytes\n", k, count[k], bytes[k])
	}
	return b.String()
}

// kind names what an object is by its name, as FORMAT.md has it.
func kind(key string) string {
	name := key[strings.LastIndexByte(key, '/')+1:]
	for letter, kind := range map[string]string{"s-": "shards", "m-": "manifests", "x-": "supplements", "t-": "tombstones"} {
		if strings.Count(key, "/") == 2 && strings.HasPrefix(name, letter) {
			return kind
		}
	}
	return "others"
}
