package media

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"strongroom/repo/store"
	"strongroom/repo/store/media/parity"
)

// An Entry is an object that a session wrote.
type Entry struct {
	Key    string
	Size   int64
	SHA256 [sha256.Size]byte
}

func (e Entry) cells() int64 { return (e.Size + parity.Cell - 1) / parity.Cell }

// A session is the list of what one session wrote, in the order in which its
// parity goes over it.
type session struct {
	medium      [16]byte
	number      uint32
	previous    [32]byte // SHA-256 of the list before; zeros for the first
	time        time.Time
	box         [ed25519.PublicKeySize]byte
	incarnation uint32
	entries     []Entry

	hash   [32]byte // SHA-256 of the whole text
	starts []int64  // the first cell of each entry
	cells  int64    // of all
}

const (
	listTitle   = "strongroom medium session 1"
	maxList     = 96 << 20
	maxEntries  = 1 << 18
	maxSize     = 1 << 40 // of an object
	sessionName = "session-"
	indexName   = "index-"
	parityName  = "parity-"
)

func numbered(name string, n uint32) string { return fmt.Sprintf("%s%08x", name, n) }

func (l *session) format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nmedium %x\nsession %d\nprevious %x\ntime %d\nbox %x\nincarnation %d\nobjects %d\n",
		listTitle, l.medium, l.number, l.previous, l.time.Unix(), l.box, l.incarnation, len(l.entries))
	for _, e := range l.entries {
		// As sha256sum prints it, with the size before the name.
		fmt.Fprintf(&b, "%x %d %s\n", e.SHA256, e.Size, e.Key)
	}
	return b.String()
}

func parseList(raw []byte) (*session, error) {
	p := parser{text: string(raw)}
	l := &session{hash: sha256.Sum256(raw)}
	p.title(listTitle)
	p.hex("medium", l.medium[:])
	l.number = uint32(p.number("session", 1<<32-1))
	p.hex("previous", l.previous[:])
	l.time = p.time("time")
	p.hex("box", l.box[:])
	l.incarnation = uint32(p.number("incarnation", 1<<32-1))
	n := int(p.number("objects", maxEntries))
	seen := map[string]bool{}
	for i := 0; i < n && p.err == nil; i++ {
		e, err := parseEntry(p.next())
		if err != nil || seen[e.Key] {
			p.fail("bad object %d", i)
		}
		seen[e.Key] = true
		l.entries = append(l.entries, e)
	}
	if err := p.signed(); err != nil {
		return nil, err
	}
	if l.number == 0 || l.format() != p.body() {
		return nil, errors.New("bad field")
	}
	l.layOut()
	return l, nil
}

func parseEntry(line string) (e Entry, err error) {
	f := strings.Split(line, " ")
	if len(f) != 3 || !store.ValidKey(f[2]) {
		return e, errors.New("not an object")
	}
	sum, err := hex.DecodeString(f[0])
	if err != nil || len(sum) != len(e.SHA256) {
		return e, errors.New("bad hash")
	}
	size, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil || size < 0 || size > maxSize {
		return e, errors.New("bad size")
	}
	return Entry{f[2], size, [32]byte(sum)}, nil
}

// stripes is how many of them the session's parity has.
func (l *session) stripes() int64 { return parity.Stripes(l.cells) }

func (l *session) shape(n int64) parity.Shape { return parity.ShapeOf(l.cells, n) }

func (l *session) stripe(n int64) parity.Name {
	return parity.Name{Medium: l.medium, Session: l.number, Stripe: uint32(n)}
}

func parityKey(session uint32, stripe int64) string {
	return fmt.Sprintf("%s%s-%08x", ownPrefix, numbered(parityName, session), stripe)
}

// layOut says where the entries lie in the session's cells.
func (l *session) layOut() {
	l.starts, l.cells = make([]int64, len(l.entries)), 0
	for i, e := range l.entries {
		l.starts[i] = l.cells
		l.cells += e.cells()
	}
}

// entryAt returns the entry that holds a cell.
func (l *session) entryAt(c int64) int {
	n, found := slices.BinarySearch(l.starts, c)
	if !found {
		return n - 1
	}
	for l.entries[n].Size == 0 { // has no cell and begins where the next one does
		n++
	}
	return n
}

// loadSessions reads all lists. One that neither of its places gives is a
// problem, and what it lists is read without parity.
func (s *Store) loadSessions(ctx context.Context) error {
	numbers, err := s.seen(ctx)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		l, err := s.loadList(ctx, n)
		if err != nil {
			return err
		}
		if l == nil {
			continue
		}
		if last := len(s.sessions) - 1; last < 0 && l.previous != [32]byte{} || last >= 0 && l.previous != s.sessions[last].hash {
			s.problems = append(s.problems, fmt.Sprintf("session %d does not follow on the one before it that is here", n))
		}
		s.add(l)
	}
	return nil
}

// add makes a session's objects known. The first session that has an object
// counts: nothing is overwritten.
func (s *Store) add(l *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions = append(s.sessions, l)
	for n, e := range l.entries {
		if _, known := s.objects[e.Key]; !known {
			s.objects[e.Key] = place{l, n}
		}
	}
}

// seen returns the numbers of all sessions with a list, ascending, and notes
// the highest number of anything that a session leaves.
func (s *Store) seen(ctx context.Context) (numbers []uint32, err error) {
	for _, prefix := range []string{ownPrefix, copyPrefix} {
		for info, err := range s.files.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			name := strings.TrimPrefix(info.Key, prefix)
			for _, kind := range []string{sessionName, indexName, parityName} {
				text, ok := strings.CutPrefix(name, kind)
				if !ok || len(text) < 8 {
					continue
				}
				n, err := strconv.ParseUint(text[:8], 16, 32)
				if err != nil || n == 0 {
					continue
				}
				s.newest = max(s.newest, uint32(n))
				if kind == sessionName && name == numbered(sessionName, uint32(n)) && !slices.Contains(numbers, uint32(n)) {
					numbers = append(numbers, uint32(n))
				}
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// loadList reads the list of a session from either of its places; nil if none
// gives it.
func (s *Store) loadList(ctx context.Context, n uint32) (*session, error) {
	for _, prefix := range []string{ownPrefix, copyPrefix} {
		l, err := s.readList(ctx, prefix, n)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
			return nil, err
		}
		s.problems = append(s.problems, fmt.Sprintf("list of session %d in %s: %v", n, prefix, err))
	}
	return nil, nil
}

func (s *Store) readList(ctx context.Context, prefix string, n uint32) (*session, error) {
	raw, err := s.readOwn(ctx, prefix+numbered(sessionName, n), maxList)
	if err != nil {
		return nil, err
	}
	l, err := parseList(raw)
	if err != nil {
		return nil, err
	}
	if l.number != n || s.id.ID != [16]byte{} && l.medium != s.id.ID {
		return nil, errors.New("it is the list of another session or medium")
	}
	return l, s.believe(raw, l.box, l.incarnation)
}
