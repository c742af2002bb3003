package spread

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"strongroom/erasure"
	"strongroom/repo/store"
)

// A Reader reads segments of packs from whatever shards are left. It is safe
// for concurrent use.
type Reader struct {
	set    *Set
	inv    *Inventory
	prefix string

	mu     sync.Mutex
	damage map[string]string // object on store → what was wrong; guarded by mu
}

// NewReader lists prefix on all members and returns a Reader over what it
// found.
func NewReader(ctx context.Context, members []Member, prefix string) *Reader {
	return List(ctx, members, prefix).Reader(prefix)
}

// Reader returns a Reader of packs under prefix over a listing of it, or of
// more.
func (v *Inventory) Reader(prefix string) *Reader {
	r := &Reader{set: NewSet(v.members), inv: v, prefix: prefix, damage: map[string]string{}}
	for i := range v.members {
		if err := r.inv.Failed(i); err != nil {
			r.set.Fail(i, errors.Unwrap(err))
		}
	}
	return r
}

// Inventory returns the listing that the Reader reads by.
func (r *Reader) Inventory() *Inventory { return r.inv }

// Prefix returns the prefix of the packs that the Reader reads.
func (r *Reader) Prefix() string { return r.prefix }

// Damage returns what was found wrong and read around so far.
func (r *Reader) Damage() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for k, v := range r.damage {
		out = append(out, k+": "+v)
	}
	slices.Sort(out)
	return out
}

func (r *Reader) note(l location, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := fmt.Sprintf("store %q, %s", r.set.members[l.member].Name, l.key)
	if _, known := r.damage[name]; !known {
		r.damage[name] = what
	}
}

// Segments appends sealed segments [first, first+count) of a pack to dst.
// Every segment has passed check, which authenticates it: no byte of a shard
// is believed before. Undamaged packs cost one ranged read per slice touched;
// otherwise the segments are reconstructed from every choice of k other
// shards until one passes.
func (r *Reader) Segments(ctx context.Context, p Pack, first, count int, dst []byte, check func(n int, segment []byte) error) ([]byte, error) {
	total := p.Segments()
	if first < 0 || count < 1 || first+count > total || len(p.Shards) != p.Geometry.N {
		return dst, fmt.Errorf("pack %v: no segments %d to %d of %d", p.ID, first, first+count, total)
	}
	columns := p.Header(0).Columns()
	whole, before := slices.Grow(dst, count*erasure.Column), len(dst)
	buf := whole[before:before]
	for n := first; n < first+count; {
		shard := n / columns
		end := min(first+count, (shard+1)*columns)
		at := len(buf)
		buf = buf[:at+(end-n)*erasure.Column]
		q := sliceRead{r: r, ctx: ctx, p: p, shard: shard, col: n - shard*columns, buf: buf[at:], check: check, firstSegment: n}
		if err := q.run(); err != nil {
			return dst, err
		}
		n = end
	}
	if first+count == total {
		buf = buf[:p.MessageLen-int64(first)*erasure.Column]
	}
	return whole[:before+len(buf)], nil
}

// sliceRead reads a run of segments of one shard.
type sliceRead struct {
	r            *Reader
	ctx          context.Context
	p            Pack
	shard        int // the data shard that holds them
	col          int // the first column
	firstSegment int
	buf          []byte // whole columns
	check        func(int, []byte) error

	good []bool   // per column of buf
	why  []string // what was tried in vain
}

func (q *sliceRead) run() error {
	q.good = make([]bool, len(q.buf)/erasure.Column)
	if q.direct() {
		return nil
	}
	if err := q.ctx.Err(); err != nil {
		return err
	}
	return q.degraded()
}

// segment returns column c of b at the length that its segment has.
func (q *sliceRead) segment(b []byte, c int) []byte {
	n := q.firstSegment + c
	seg := b[c*erasure.Column : (c+1)*erasure.Column]
	if last := q.p.Segments() - 1; n == last {
		seg = seg[:q.p.MessageLen-int64(last)*erasure.Column]
	}
	return seg
}

// accept copies the columns of b that pass and are still wanted; it reports
// how many of b's wanted columns did not.
func (q *sliceRead) accept(b []byte) (failed int, err error) {
	for c := range q.good {
		if q.good[c] {
			continue
		}
		if e := q.check(q.firstSegment+c, q.segment(b, c)); e != nil {
			failed, err = failed+1, e
			continue
		}
		if &b[0] != &q.buf[0] {
			copy(q.buf[c*erasure.Column:(c+1)*erasure.Column], b[c*erasure.Column:])
		}
		q.good[c] = true
	}
	return failed, err
}

// direct tries the slice itself, wherever it lies.
func (q *sliceRead) direct() bool {
	holders := q.r.inv.holders(q.r.prefix, q.p, q.shard)
	for i, l := range holders {
		b := q.buf
		if i > 0 {
			b = make([]byte, len(q.buf)) // columns of the first may be good
		}
		if err := q.r.read(q.ctx, l, q.col, b); err != nil {
			if q.ctx.Err() != nil {
				return false // no fault of the store's
			}
			q.fail(q.shard, l, err.Error())
			continue
		}
		failed, err := q.accept(b)
		if failed == 0 {
			return true
		}
		q.fail(q.shard, l, fmt.Sprintf("%d of %d segments are damaged: %v%s", failed, len(q.good), err, q.r.diagnose(q.ctx, l, q.p, q.shard)))
	}
	if len(holders) == 0 {
		q.missing(q.shard)
	}
	return false
}

func (q *sliceRead) fail(shard int, l location, what string) {
	q.why = append(q.why, fmt.Sprintf("shard %d on %q: %s", shard, q.r.set.members[l.member].Name, what))
	q.r.note(l, what)
}

func (q *sliceRead) missing(shard int) {
	q.why = append(q.why, q.r.missing(shard))
}

// missing says of a shard that no store lists where it should be.
func (r *Reader) missing(shard int) string {
	home := ""
	if shard < len(r.set.members) {
		home = fmt.Sprintf(", expected on %q", r.set.members[shard].Name)
		if err := r.set.Down(shard); err != nil {
			home = fmt.Sprintf(" (%v)", err)
		}
	}
	return fmt.Sprintf("shard %d is missing%s", shard, home)
}

// A piece is the column range of one shard, from one of its holders.
type piece struct {
	shard int
	b     []byte
}

// degraded reconstructs what direct could not read. It fetches the column
// range of the other shards one after the other, and after each tries every
// choice of k that includes it. Second copies and repairs of a shard come when
// the first ones were not enough.
func (q *sliceRead) degraded() error {
	indices := q.p.Indices()
	holders := make([][]location, len(indices))
	most := 0
	for at, i := range indices {
		if i == q.shard {
			continue
		}
		if holders[at] = q.r.inv.holders(q.r.prefix, q.p, i); len(holders[at]) == 0 && i < q.p.Geometry.N {
			q.missing(i)
		}
		most = max(most, len(holders[at]))
	}
	k := q.p.Geometry.K
	var have []piece
	var from []string
	for copy := range most {
		for n, at := range holders {
			if copy >= len(at) {
				continue
			}
			i := indices[n]
			b, err := q.other(i, at[copy])
			if err != nil {
				return err
			} else if b == nil {
				continue
			}
			have = append(have, piece{i, b})
			from = append(from, fmt.Sprintf("shard %d on %q", i, q.r.set.members[at[copy].member].Name))
			if ok, err := q.tryChoices(k, have); ok || err != nil {
				return err
			}
		}
	}
	if len(have) >= k {
		q.why = append(q.why, fmt.Sprintf("no %d of %s give segments that authenticate", k, strings.Join(from, ", ")))
	}
	return &TooFewError{Pack: q.p.ID, Segment: q.firstSegment, Need: k, Why: q.why}
}

// other reads the column range of shard i at l, or nil if l does not give it.
func (q *sliceRead) other(i int, l location) ([]byte, error) {
	b := make([]byte, len(q.buf))
	err := q.r.read(q.ctx, l, q.col, b)
	if err == nil {
		return b, nil
	}
	if q.ctx.Err() != nil {
		return nil, q.ctx.Err()
	}
	q.fail(i, l, err.Error())
	return nil, nil
}

// maxChoices bounds the search; with one copy of each of up to seven shards it
// is never reached.
const maxChoices = 500

// tryChoices reconstructs from the last of have and every choice of k-1 other
// shards of it.
func (q *sliceRead) tryChoices(k int, have []piece) (bool, error) {
	tried := 0
	some := map[int][]byte{}
	var choose func(from int) (bool, error)
	choose = func(from int) (bool, error) {
		if len(some) == k {
			if tried++; tried > maxChoices {
				return false, nil
			}
			b, err := erasure.Reconstruct(k, some, q.shard)
			if err != nil {
				return false, err
			}
			failed, _ := q.accept(b)
			return failed == 0, nil
		}
		for i := from; i < len(have)-1; i++ {
			p := have[i]
			if some[p.shard] != nil {
				continue
			}
			some[p.shard] = p.b
			if ok, err := choose(i + 1); ok || err != nil {
				return ok, err
			}
			delete(some, p.shard)
		}
		return false, nil
	}
	newest := have[len(have)-1]
	some[newest.shard] = newest.b
	return choose(0)
}

// read fills b with columns from col of the shard at l. A store that cannot be
// reached is not asked again by this Reader.
func (r *Reader) read(ctx context.Context, l location, col int, b []byte) error {
	return r.readAt(ctx, l, erasure.PayloadOffset(col), b)
}

func (r *Reader) readAt(ctx context.Context, l location, off int64, b []byte) error {
	if err := r.set.Down(l.member); err != nil {
		return err
	}
	err := readFull(ctx, r.set.members[l.member].Store, l.key, off, b)
	if err != nil && ctx.Err() == nil && (errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDenied)) {
		r.set.Fail(l.member, err)
	}
	return err
}

func readFull(ctx context.Context, s store.Store, key string, off int64, b []byte) error {
	rc, err := s.Get(ctx, key, off, int64(len(b)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(rc, b)
	return errors.Join(err, rc.Close())
}

// diagnose says what a shard whose segments fail is, from its header.
func (r *Reader) diagnose(ctx context.Context, l location, p Pack, i int) string {
	b := make([]byte, erasure.HeaderLen)
	if err := readFull(ctx, r.set.members[l.member].Store, l.key, 0, b); err != nil {
		return ""
	}
	h, err := erasure.ParseHeader(b)
	if err != nil {
		return " (its header is damaged too)"
	}
	return describeHeader(h, p, i)
}

// describeHeader names how a header differs from the one expected.
func describeHeader(h erasure.Header, p Pack, i int) string {
	var s []string
	switch {
	case h.Pack != p.ID:
		s = append(s, fmt.Sprintf("it is a shard of pack %v", h.Pack))
	case h.Encode != p.Encode:
		s = append(s, fmt.Sprintf("it is from another encoding, %v", h.Encode))
	case h.Index != i:
		s = append(s, fmt.Sprintf("it is shard %d", h.Index))
	case h != p.Header(i):
		s = append(s, "its header is not the one recorded")
	}
	if len(s) == 0 {
		return ""
	}
	return " (" + strings.Join(s, ", ") + ")"
}
