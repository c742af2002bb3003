package media

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"strongroom/repo/store"
	"strongroom/repo/store/media/parity"
)

// tableKey names the table of a stripe.
type tableKey struct {
	session uint32
	stripe  int64
}

// A table holds the checksums of a stripe's cells, of which those on a page
// that neither copy gives are not known.
type table struct {
	sums  []uint32
	known []bool
}

// good reports whether b has the checksum of a cell, and whether that is known.
func (t *table) good(n int, b []byte) (good, known bool) {
	return t.known[n] && t.sums[n] == parity.Sum(b), t.known[n]
}

// maxTables bounds what is remembered: 36 KiB each.
const maxTables = 64

// table reads the table of a stripe. Where its object is not there, nothing is
// known of any cell.
func (s *Store) table(ctx context.Context, l *session, stripe int64) *table {
	key := tableKey{l.number, stripe}
	s.mu.Lock()
	t := s.tables[key]
	s.mu.Unlock()
	if t != nil {
		return t
	}
	h := l.shape(stripe)
	t = &table{make([]uint32, h.Sums()), make([]bool, h.Sums())}
	page := make([]byte, parity.Cell)
	for n := range h.Pages() {
		first := n * parity.PerPage
		for _, at := range h.Tables(n) {
			if s.rawAt(ctx, parityKey(l.number, stripe), at, page) != nil {
				continue
			}
			if sums, ok := l.stripe(stripe).ParsePage(page, n, h.InPage(n)); ok {
				for i, sum := range sums {
					t.sums[first+i], t.known[first+i] = sum, true
				}
				break
			}
		}
	}
	if ctx.Err() != nil {
		return t // not to be remembered: it may not know what could be known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tables) >= maxTables {
		clear(s.tables)
	}
	s.tables[key] = t
	return t
}

// rawAt fills b from a file, as the disk gives it.
func (s *Store) rawAt(ctx context.Context, key string, off int64, b []byte) error {
	r, err := s.files.Get(ctx, key, off, int64(len(b)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(r, b)
	return errors.Join(err, r.Close())
}

// raw reads count cells of an entry as the disk gives them, filled up with
// zeros, and says which could be read. The kernel fails a whole read for one
// bad sector in it, so it is then read cell by cell.
func (s *Store) raw(ctx context.Context, e Entry, first, count int64) (b []byte, read []bool) {
	b, read = make([]byte, count*parity.Cell), make([]bool, count)
	end := min(e.Size, (first+count)*parity.Cell)
	if s.rawAt(ctx, e.Key, first*parity.Cell, b[:end-first*parity.Cell]) == nil {
		for i := range read {
			read[i] = true
		}
		return b, read
	}
	clear(b)
	for i := range count {
		at := (first + i) * parity.Cell
		c := b[i*parity.Cell : i*parity.Cell+min(parity.Cell, end-at)]
		if read[i] = s.rawAt(ctx, e.Key, at, c) == nil; !read[i] {
			clear(c)
		}
	}
	return b, read
}

// A run is cells of a stripe that follow on each other in one column.
type run struct {
	l      *session
	stripe int64
	row    int
	rows   int
}

// column reads a run of a column, of data or of parity, and says which cells
// are good. What lies behind the end of the session is zero.
func (s *Store) column(ctx context.Context, r run, t *table, col int) (b []byte, good []bool) {
	b, good = make([]byte, r.rows*parity.Cell), make([]bool, r.rows)
	h := r.l.shape(r.stripe)
	judge := func(i, n int, read bool) {
		if read {
			good[i], _ = t.good(n, b[i*parity.Cell:(i+1)*parity.Cell])
		}
	}
	if col >= parity.Data {
		key, p := parityKey(r.l.number, r.stripe), col-parity.Data
		whole := s.rawAt(ctx, key, h.At(p, r.row), b) == nil
		for i := range r.rows {
			c := b[i*parity.Cell : (i+1)*parity.Cell]
			judge(i, h.Cells+p*h.Rows+r.row+i, whole || s.rawAt(ctx, key, h.At(p, r.row+i), c) == nil)
		}
		return b, good
	}
	first := col*parity.Rows + r.row
	for i := 0; i < r.rows; {
		if first+i >= h.Cells {
			good[i] = true
			i++
			continue
		}
		at := r.stripe*parity.Stripe + int64(first+i)
		n := r.l.entryAt(at)
		e := r.l.entries[n]
		from := at - r.l.starts[n]
		count := min(int64(r.rows-i), e.cells()-from, int64(h.Cells-first-i))
		part, read := s.raw(ctx, e, from, count)
		copy(b[i*parity.Cell:], part)
		for j := range read {
			judge(i+j, first+i+j, read[j])
		}
		i += int(count)
	}
	return b, good
}

// heal returns the cells of a run in one column, made again from the others,
// and says which could be.
func (s *Store) heal(ctx context.Context, r run, t *table, col int) (b []byte, good []bool) {
	b, good = make([]byte, r.rows*parity.Cell), make([]bool, r.rows)
	have := make([]map[int][]byte, r.rows)
	for i := range have {
		have[i] = map[int][]byte{}
	}
	for other := range parity.Data + parity.Spare {
		if other == col || ctx.Err() != nil {
			continue
		}
		c, ok := s.column(ctx, r, t, other)
		for i := range ok {
			if ok[i] {
				have[i][other] = c[i*parity.Cell : (i+1)*parity.Cell]
			}
		}
	}
	for i := range have {
		made, err := parity.Restore(have[i], col)
		if err != nil {
			continue
		}
		if good[i], _ = t.good(col*parity.Rows+r.row+i, made); good[i] {
			copy(b[i*parity.Cell:], made)
		}
	}
	return b, good
}

// maxHeal is how many cells are made again at once, from 34 times as many.
const maxHeal = 64

// A patch is what reading cells of an object gave.
type patch struct {
	b      []byte
	bad    []bool // the disk gave them wrong or not at all
	healed []bool // parity gave them
	blind  bool   // of some no checksum is known
}

// cells reads count cells of an object, repaired where need be.
func (s *Store) cells(ctx context.Context, at place, first, count int64) patch {
	l, e := at.s, at.s.entries[at.n]
	b, read := s.raw(ctx, e, first, count)
	p := patch{b: b, bad: make([]bool, count), healed: make([]bool, count)}
	for i := range count {
		c := l.starts[at.n] + first + i
		t := s.table(ctx, l, c/parity.Stripe)
		good, known := t.good(int(c%parity.Stripe), b[i*parity.Cell:(i+1)*parity.Cell])
		p.blind = p.blind || !known
		p.bad[i] = !read[i] || known && !good
	}
	for i := int64(0); i < count && ctx.Err() == nil; {
		if !p.bad[i] {
			i++
			continue
		}
		c := l.starts[at.n] + first + i
		row := int(c % parity.Rows)
		n := int64(1) // the cells behind it in this column that are bad too
		for i+n < count && p.bad[i+n] && row+int(n) < parity.Rows && n < maxHeal {
			n++
		}
		r := run{l, c / parity.Stripe, row, int(n)}
		made, ok := s.heal(ctx, r, s.table(ctx, l, r.stripe), int(c%parity.Stripe)/parity.Rows)
		for j := range ok {
			if p.healed[i+int64(j)] = ok[j]; ok[j] {
				copy(b[(i+int64(j))*parity.Cell:], made[j*parity.Cell:(j+1)*parity.Cell])
			}
		}
		i += n
	}
	return p
}

// maxRead is how many cells are read at once.
const maxRead = 256

// A reader gives a range of a recorded object.
type reader struct {
	s        *Store
	ctx      context.Context
	at       place
	off, end int64
	buf      []byte // read and not given yet
	whole    bool   // the disk's bytes have the object's SHA-256
}

func (r *reader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", r.entry().Key, err)
	}
	if len(r.buf) == 0 {
		if r.off == r.end {
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, fmt.Errorf("read %s: %w", r.entry().Key, err)
		}
	}
	n := copy(b, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *reader) entry() Entry { return r.at.s.entries[r.at.n] }

// fill reads the next cells. Cells of which no checksum is known, since their
// parity object is gone, are good if the whole object is.
func (r *reader) fill() error {
	first := r.off / parity.Cell
	count := min((r.end-1)/parity.Cell-first+1, maxRead)
	p := r.s.cells(r.ctx, r.at, first, count)
	if err := r.ctx.Err(); err != nil {
		return err
	}
	for i := range p.bad {
		if p.bad[i] && !p.healed[i] {
			return fmt.Errorf("%w: 4096 bytes from %d are bad, and so is too much of what they could be made from", store.ErrTampered, (first+int64(i))*parity.Cell)
		}
	}
	if p.blind && !r.whole {
		if err := r.s.compare(r.ctx, r.entry()); err != nil {
			return err
		}
		r.whole = true
	}
	from, end := r.off, min(r.end, (first+count)*parity.Cell)
	r.buf, r.off = p.b[from-first*parity.Cell:end-first*parity.Cell], end
	return nil
}

// compare reads an object whole as the disk gives it and compares its hash.
func (s *Store) compare(ctx context.Context, e Entry) error {
	r, err := s.files.Get(ctx, e.Key, 0, e.Size)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	if err = errors.Join(err, r.Close()); err == nil && [sha256.Size]byte(h.Sum(nil)) != e.SHA256 {
		err = fmt.Errorf("%w: it is damaged, and so is its parity", store.ErrTampered)
	}
	return err
}

func (r *reader) Close() error { return nil }
