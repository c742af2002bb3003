package chunker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// memBase is a base in memory, in pieces of one segment each.
type memBase struct {
	data    []byte
	starts  []int64
	anchors [][]Anchor
	limit   int // bytes that At and Before return at most
	calls   int // of At and Before
}

func newBase(t testing.TB, data []byte) *memBase {
	b := &memBase{data: data, limit: 40000}
	at := int64(0)
	eachSegment(t, data, func(s *Segment) {
		b.starts, b.anchors = append(b.starts, at), append(b.anchors, slices.Clone(s.Anchors))
		at += int64(len(s.Data))
	})
	return b
}

func eachSegment(t testing.TB, data []byte, f func(*Segment)) {
	t.Helper()
	c, err := New(bytes.NewReader(data), 0)
	if err != nil {
		t.Fatal(err)
	}
	for s := NewSegment(); ; {
		if err := c.Next(s); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		f(s)
	}
}

func (b *memBase) Len() int64 { return int64(len(b.data)) }

func (b *memBase) At(off int64) []byte {
	b.calls++
	if off < 0 || off >= b.Len() {
		return nil
	}
	// Pieces end in odd places, as extents do.
	end := min(b.Len(), (off/int64(b.limit)+1)*int64(b.limit))
	return b.data[off:end]
}

func (b *memBase) Before(off int64) []byte {
	b.calls++
	if off <= 0 || off > b.Len() {
		return nil
	}
	return b.data[(off-1)/int64(b.limit)*int64(b.limit) : off]
}

func (b *memBase) Anchors(off int64, f func(int64, uint32)) (from, to int64) {
	i, _ := slices.BinarySearch(b.starts, off+1)
	if i--; i < 0 || off >= b.Len() {
		return off, off
	}
	to = b.Len()
	if i+1 < len(b.starts) {
		to = b.starts[i+1]
	}
	for _, a := range b.anchors[i] {
		f(b.starts[i]+int64(a.End), a.Hash)
	}
	return b.starts[i], to
}

func (b *memBase) sparse() *Sparse {
	s := NewSparse(b.Len())
	for i, list := range b.anchors {
		for _, a := range list {
			s.Add(b.starts[i]+int64(a.End), a.Hash)
		}
	}
	return s
}

// matched runs a Matcher over data and returns how many bytes are new and in
// how many matches the rest is. Every match is compared with the base.
func matched(t testing.TB, b *memBase, data []byte) (fresh, matches int) {
	t.Helper()
	m := NewMatcher(b, sync.OnceValue(b.sparse), 0)
	var found []Match
	eachSegment(t, data, func(s *Segment) {
		found = m.Match(found[:0], s.Data, s.Anchors, -1)
		end := 0
		for _, f := range found {
			if f.At < end || f.Len <= 0 || f.At+f.Len > len(s.Data) || f.From < 0 || f.From+int64(f.Len) > b.Len() {
				t.Fatalf("match %+v behind %d of %d bytes", f, end, len(s.Data))
			}
			if !bytes.Equal(s.Data[f.At:f.At+f.Len], b.data[f.From:f.From+int64(f.Len)]) {
				t.Fatalf("match %+v is none", f)
			}
			fresh += f.At - end
			end = f.At + f.Len
		}
		fresh += len(s.Data) - end
		matches += len(found)
	})
	return fresh, matches
}

// reference counts the new bytes that a search without bounds leaves, in two
// passes: the first notes where every anchor of the base is, the second tries
// up to sixteen places for every anchor of the new stream and takes the longest
// match. It knows no place, no window and no sample.
func reference(t testing.TB, base *memBase, data []byte) (fresh int) {
	t.Helper()
	places := map[uint32][]int64{}
	for i, list := range base.anchors {
		for _, a := range list {
			if len(places[a.Hash]) < 16 {
				places[a.Hash] = append(places[a.Hash], base.starts[i]+int64(a.End))
			}
		}
	}
	done, start := 0, 0
	eachSegment(t, data, func(s *Segment) {
		for _, a := range s.Anchors {
			at := start + int(a.End)
			if at < done {
				continue
			}
			best, from := 0, 0
			for _, p := range places[a.Hash] {
				back, n := 0, 0
				for at-back > done && int(p)-back > 0 && data[at-back-1] == base.data[int(p)-back-1] {
					back++
				}
				for at+n < len(data) && int(p)+n < len(base.data) && data[at+n] == base.data[int(p)+n] {
					n++
				}
				if back+n > best {
					best, from = back+n, at-back
				}
			}
			if best >= MinMatch {
				fresh += from - done
				done = from + best
			}
		}
		start += len(s.Data)
	})
	return fresh + len(data) - done
}

// table is rows of text as a dump of a table has them.
type table struct {
	r    *rand.Rand
	rows [][]byte
}

func newTable(seed uint64, rows int) *table {
	t := &table{r: rand.New(rand.NewPCG(seed, 1))}
	for range rows {
		t.rows = append(t.rows, t.row())
	}
	return t
}

func (t *table) row() []byte {
	r := t.r
	b := fmt.Appendf(nil, "%d\t%x\t%d.%02d\t2026-%02d-%02d\t", r.IntN(1e7), r.Uint64(), r.IntN(1e4), r.IntN(100), r.IntN(12)+1, r.IntN(28)+1)
	for range 5 + r.IntN(30) {
		b = fmt.Appendf(b, "word%d ", r.IntN(3000))
	}
	return append(b, '\n')
}

// week updates some rows, whose new versions go elsewhere, deletes some, and
// adds some in the middle and at the end.
func (t *table) week(updates, deletes, adds int) {
	for range updates {
		i, to := t.r.IntN(len(t.rows)), t.r.IntN(len(t.rows))
		row := bytes.Clone(t.rows[i])
		copy(row[min(8, len(row)):], "updated!")
		t.rows[i], t.rows[to] = nil, append(bytes.Clone(t.rows[to]), row...)
	}
	for range deletes {
		t.rows[t.r.IntN(len(t.rows))] = nil
	}
	for i := range adds {
		if i%2 == 0 {
			t.rows = append(t.rows, t.row())
		} else {
			t.rows = slices.Insert(t.rows, len(t.rows)/2, t.row())
		}
	}
}

func (t *table) dump() []byte { return bytes.Join(t.rows, nil) }

// pages is a file of pages with a header that every write changes.
func pages(size, n int, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, 2))
	out := make([][]byte, n)
	for i := range out {
		p := make([]byte, 0, size)
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
		for len(p) < size-200 {
			p = fmt.Appendf(p, "%08x row of a page %d|", r.Uint32(), i)
		}
		out[i] = append(p, make([]byte, size-len(p))...)
	}
	return out
}

// touch writes some pages: a new header, and a row in place.
func touch(p [][]byte, n int, seed uint64) [][]byte {
	r := rand.New(rand.NewPCG(seed, 3))
	out := slices.Clone(p)
	for range n {
		i := r.IntN(len(out))
		q := bytes.Clone(out[i])
		binary.LittleEndian.PutUint64(q, r.Uint64())
		at := 8 + r.IntN(len(q)-300)
		copy(q[at:], fmt.Sprintf("%016x", r.Uint64()))
		out[i] = q
	}
	return out
}

// tarOf joins files with a header and fills to 512 bytes, in the order given.
func tarOf(files map[string][]byte, names []string) []byte {
	var b bytes.Buffer
	for _, n := range names {
		head := make([]byte, 512)
		copy(head, n)
		fmt.Fprintf(bytes.NewBuffer(head[:124]), "%d", len(files[n]))
		b.Write(head)
		b.Write(files[n])
		b.Write(make([]byte, -len(files[n])&511))
	}
	return b.Bytes()
}

func TestMatchesAreNearlyThoseOfAnUnboundedSearch(t *testing.T) {
	cases := map[string]func() (base, data []byte){
		"dump with rows updated, deleted and added": func() ([]byte, []byte) {
			x := newTable(1, 60_000)
			before := x.dump()
			x.week(900, 200, 1800)
			return before, x.dump()
		},
		"dump with a table that grew in the middle": func() ([]byte, []byte) {
			a, b, c := newTable(2, 20_000), newTable(3, 20_000), newTable(4, 20_000)
			before := slices.Concat(a.dump(), b.dump(), c.dump())
			b.week(100, 0, 10_000)
			return before, slices.Concat(a.dump(), b.dump(), c.dump())
		},
		"tables in another order": func() ([]byte, []byte) {
			a, b, c := newTable(5, 25_000).dump(), newTable(6, 25_000).dump(), newTable(7, 25_000).dump()
			return slices.Concat(a, b, c), slices.Concat(c, a, b)
		},
		"base backup, pages of 8 KiB": func() ([]byte, []byte) {
			p := pages(8192, 1200, 1)
			return slices.Concat(p...), slices.Concat(touch(p, 300, 1)...)
		},
		"pages of 16 KiB, all of them touched": func() ([]byte, []byte) {
			p := pages(16384, 600, 2)
			return slices.Concat(p...), slices.Concat(touch(p, 3000, 2)...)
		},
		"database file, pages of 4 KiB, one in front": func() ([]byte, []byte) {
			p := pages(4096, 2400, 3)
			return slices.Concat(p...), slices.Concat(append(pages(4096, 1, 9), touch(p, 500, 3)...)...)
		},
		"tar whose files changed place": func() ([]byte, []byte) {
			files, names := map[string][]byte{}, []string{}
			for i := range 300 {
				n := fmt.Sprintf("base/16384/%d", 1000+i)
				files[n], names = slices.Concat(pages(8192, 1+i%7, uint64(i))...), append(names, n)
			}
			before := tarOf(files, names)
			r := rand.New(rand.NewPCG(8, 8))
			for i := range 30 {
				k := r.IntN(len(names))
				names[i], names[k] = names[k], names[i]
			}
			return before, tarOf(files, names)
		},
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			base, data := make()
			b := newBase(t, base)
			got, matches := matched(t, b, data)
			want := reference(t, b, data)
			t.Logf("%d bytes: %d new in %d matches, the reference leaves %d", len(data), got, matches, want)
			if got > want+want/10+4096 {
				t.Errorf("%d of %d bytes are new, the reference leaves %d", got, len(data), want)
			}
		})
	}
}

// Whatever the bytes, the work is linear: it is counted in looks at the base,
// not in seconds.
func TestHostileBytesStayLinear(t *testing.T) {
	const n = 4 << 20
	motif := sample(300, 1)
	collide := func(seed byte) []byte { // equal anchors everywhere, unequal bytes behind them
		var b bytes.Buffer
		for i := 0; b.Len() < n; i++ {
			b.Write(motif[:70])
			b.Write(sample(10, seed+byte(i%97)))
		}
		return b.Bytes()[:n]
	}
	cases := map[string][2][]byte{
		"zeros":               {make([]byte, n), make([]byte, n+1000)},
		"crafted collisions":  {collide(1), collide(2)},
		"nothing in common":   {sample(n, 3), sample(n, 4)},
		"one byte of another": {bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{2}, n)},
	}
	for b := range 256 {
		if h := uint64(0) - gear[b]; h < anchorBelow { // every byte of a run of b is an anchor
			cases[fmt.Sprintf("runs of %d", b)] = [2][]byte{bytes.Repeat([]byte{byte(b)}, n), bytes.Repeat([]byte{byte(b)}, n+77)}
		}
	}
	for _, period := range []int{2, 7, 64, 100, 4096, 65_537} {
		p := sample(period, byte(period))
		cases[fmt.Sprintf("period %d", period)] = [2][]byte{bytes.Repeat(p, n/period), append([]byte("shift"), bytes.Repeat(p, n/period)...)}
	}
	for name, c := range cases {
		b := newBase(t, c[0])
		anchors := 0
		for _, a := range b.anchors {
			anchors += len(a)
		}
		if anchors > len(c[0])/anchorGap+1 {
			t.Errorf("%s: %d anchors in %d bytes", name, anchors, len(c[0]))
		}
		b.calls = 0
		fresh, _ := matched(t, b, c[1])
		if most := len(c[1]) / 8; b.calls > most {
			t.Errorf("%s: %d looks at the base for %d bytes", name, b.calls, len(c[1]))
		}
		// Short periods without an anchor are left to the compressor.
		if name == "zeros" && fresh > 2000 {
			t.Errorf("%s: %d of %d bytes are new", name, fresh, len(c[1]))
		}
	}
}

// A base whose bytes are gone, all of them or here and there, finds less.
func TestABaseThatIsLostFindsLess(t *testing.T) {
	x := newTable(1, 30_000)
	base := x.dump()
	x.week(100, 10, 100)
	b := &holes{memBase: newBase(t, base)}
	m := NewMatcher(b, sync.OnceValue(b.sparse), 0)
	eachSegment(t, x.dump(), func(s *Segment) {
		for _, f := range m.Match(nil, s.Data, s.Anchors, -1) {
			if !bytes.Equal(s.Data[f.At:f.At+f.Len], base[f.From:f.From+int64(f.Len)]) {
				t.Fatalf("match %+v is none", f)
			}
			if f.From/40000%2 == 1 {
				t.Fatalf("match %+v is where nothing is left", f)
			}
		}
	})
}

type holes struct{ *memBase }

func (h *holes) At(off int64) []byte {
	if off/40000%2 == 1 {
		return nil
	}
	return h.memBase.At(off)
}

func (h *holes) Before(off int64) []byte {
	if (off-1)/40000%2 == 1 {
		return nil
	}
	return h.memBase.Before(off)
}

func BenchmarkMatch(b *testing.B) {
	x := newTable(1, 150_000)
	base := newBase(b, x.dump())
	x.week(2000, 300, 4000)
	data := x.dump()
	var list []*Segment
	eachSegment(b, data, func(s *Segment) {
		list = append(list, &Segment{Data: bytes.Clone(s.Data), Anchors: slices.Clone(s.Anchors)})
	})
	table := base.sparse()
	sparse := func() *Sparse { return table }
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		m := NewMatcher(base, sparse, 0)
		for _, s := range list {
			m.Match(nil, s.Data, s.Anchors, -1)
		}
	}
}
