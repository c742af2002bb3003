package spread

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store/storetest"
)

// harms are what may have become of a shard. "swapped" has another one's bytes
// under its name; "stale" those of another encoding; "duplicate" says that its
// store has another shard instead, under that one's name.
var harms = []string{"good", "lost", "flipped", "zeroed", "truncated", "swapped", "stale", "duplicate"}

// A wreck is a pack on n stores and all that may become of its shards.
type wreck struct {
	*rig
	s     *sample
	forms [][][]byte // by shard and harm
}

func newWreck(t *testing.T, n int) *wreck {
	w := &wreck{rig: newRig(t, n)}
	g, err := erasure.Plan(n)
	if err != nil {
		t.Fatal(err)
	}
	w.s = w.make((g.K-1)*erasure.Column + 100) // one column
	old := w.make(int(w.s.MessageLen))
	for i, b := range w.s.shards {
		flipped, zeroed := bytes.Clone(b), bytes.Clone(b)
		flipped[erasure.HeaderLen+10+i] ^= 1
		clear(zeroed[erasure.HeaderLen : len(zeroed)-erasure.HeaderLen])
		stale, other := old.shards[i], old.shards[0]
		if n > 1 {
			other = w.s.shards[(i+1)%n]
		}
		w.forms = append(w.forms, [][]byte{b, nil, flipped, zeroed, b[:len(b)-erasure.Column/2], other, stale, nil})
	}
	return w
}

// harm gives every shard its harm. It returns how many shards there are right
// ones of.
func (w *wreck) harm(how []int) (right int) {
	there := make([]bool, len(how))
	for _, m := range w.mem {
		clear(m.Objects)
	}
	for i, h := range how { // one store may have two of them
		if b := w.forms[i][h]; b != nil {
			w.mem[i].Objects[w.s.Key(testPrefix, i, 0)] = b
		}
		there[i] = there[i] || h == 0
		if harms[h] == "duplicate" && len(how) > 1 {
			j := (i + 1) % len(how)
			w.mem[i].Objects[w.s.Key(testPrefix, j, 0)] = w.s.shards[j]
			there[j] = true
		}
	}
	for _, ok := range there {
		if ok {
			right++
		}
	}
	return right
}

// mustAnswer reads the pack: k right shards restore it, fewer are an error.
func (w *wreck) mustAnswer(how []int) {
	w.t.Helper()
	right := w.harm(how)
	got, err := w.reader().Segments(context.Background(), w.s.Pack, 0, w.s.Segments(), nil, w.s.check)
	few := (*TooFewError)(nil)
	switch {
	case err == nil && !bytes.Equal(got, w.s.message):
		w.t.Fatalf("%v: wrong bytes were returned as good", w.named(how))
	case right >= w.s.Geometry.K && err != nil:
		w.t.Fatalf("%v: %d right shards are there: %v", w.named(how), right, err)
	case err == nil && (w.s.Geometry.K == 1 || slices.Contains(w.named(how), "swapped")):
		// Shards of a mirror differ in their headers only, and another shard's
		// bytes tell something of the message too.
	case right < w.s.Geometry.K && !errors.As(err, &few):
		w.t.Fatalf("%v: %d right shards: %v", w.named(how), right, err)
	}
}

// mustMend repairs, and then every shard is there, with nothing overwritten.
func (w *wreck) mustMend(how []int) {
	w.t.Helper()
	right, before := w.harm(how), w.objects()
	m := w.repair(w.s, RepairConfig{ReadAll: true})
	w.mustKeep(before, fmt.Sprint(w.named(how)))
	if lost := right < w.s.Geometry.K; lost != (m.Lost != nil) {
		w.t.Fatalf("%v: %d right shards, lost: %v", w.named(how), right, m.Lost)
	} else if lost {
		return
	}
	if h, err := w.reader().Verify(context.Background(), w.s.Pack, true); err != nil || !h.Whole() {
		w.t.Fatalf("%v: after a repair: %+v, %v", w.named(how), h, err)
	}
}

func (w *wreck) named(how []int) (out []string) {
	for _, h := range how {
		out = append(out, harms[h])
	}
	return append(out, "of "+w.s.Geometry.String())
}

// digits are those of c.
func digits(c, base, n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i], c = c%base, c/base
	}
	return out
}

func power(base, n int) int {
	out := 1
	for range n {
		out *= base
	}
	return out
}

const damageTest = "go test -count=1 -run '^TestAnyDamageOfShards$/^%s$' ./repo/spread"

// Every shard is good or harmed in one of seven ways: all combinations of that
// for up to five shards. Beyond, all choices of shards with the same harm, and
// some chosen by chance.
func TestAnyDamageOfShards(t *testing.T) {
	runs := storetest.CountRuns(t, "shard damage: what k good shards restore")
	each := func(n, total int, how func(c int) []int) {
		name := fmt.Sprintf("n=%d", n)
		runs.Each(name, fmt.Sprintf(damageTest, name), func(t *testing.T) {
			w := newWreck(t, n)
			for c := range total {
				w.mustAnswer(how(c))
				if c%499 == 0 {
					w.mustMend(how(c))
				}
			}
			runs.Add(total - 1)
		})
	}
	for n := 1; n <= 5; n++ {
		if testing.Short() && n > 4 {
			continue
		}
		each(n, power(len(harms), n), func(c int) []int { return digits(c, len(harms), n) })
	}
	for n := 6; n <= 9 && storetest.Full(); n++ {
		each(n, (len(harms)-1)<<n, func(c int) []int {
			how := digits(c, 2, n)
			for i := range how {
				how[i] *= 1 + c>>n
			}
			return how
		})
	}
}

// Shards of up to nine, each with a harm by chance, and a thousand of those a
// seed.
func TestDamageOfShardsByChance(t *testing.T) {
	const most = 9
	wrecks := make([]*wreck, most+1)
	for n := 2; n <= most; n++ {
		wrecks[n] = newWreck(t, n)
	}
	runs := storetest.CountRuns(t, "shard damage by chance, up to nine shards")
	runs.Seeds(1, 100, func(t *testing.T, seed uint64) {
		chance := rand.New(rand.NewPCG(seed, 6))
		for range 1000 {
			n := 2 + chance.IntN(most-1)
			how := make([]int, n)
			bad := chance.IntN(n + 1) // half of the shards bad would hardly ever leave enough
			for _, i := range chance.Perm(n)[:bad] {
				how[i] = 1 + chance.IntN(len(harms)-1)
			}
			w := *wrecks[n]
			r := *w.rig
			r.t, w.rig = t, &r
			w.mustAnswer(how)
		}
		runs.Add(999)
	})
}

// All shards are damaged, each in one column: where no column has more bad
// shards than there is parity, all of it is read, and else exactly the columns
// that have not.
func TestEveryShardDamagedInAColumnOfItsOwn(t *testing.T) {
	runs := storetest.CountRuns(t, "shard damage: all n shards in different columns")
	most := 5
	if testing.Short() {
		most = 4
	}
	for n := 1; n <= most; n++ {
		name := fmt.Sprintf("n=%d", n)
		runs.Each(name, fmt.Sprintf("go test -count=1 -run '^%s$/^%s$' ./repo/spread", t.Name(), name), func(t *testing.T) {
			r := newRig(t, n)
			g, err := erasure.Plan(n)
			if err != nil {
				t.Fatal(err)
			}
			s := r.make(n*g.K*erasure.Column - 60_000) // n columns
			var bad [][][]byte
			for i, b := range s.shards {
				var at [][]byte
				for c := range n {
					x := bytes.Clone(b)
					x[erasure.PayloadOffset(c)+int64(11+i)] ^= 2 // equal errors might cancel out
					at = append(at, x)
				}
				bad = append(bad, at)
			}
			total := power(n, n)
			for c := range total {
				r.mustReadColumns(s, bad, digits(c, n, n))
			}
			runs.Add(total - 1)
		})
	}
}

// mustReadColumns damages shard i in column where[i].
func (r *rig) mustReadColumns(s *sample, bad [][][]byte, where []int) {
	r.t.Helper()
	count := make([]int, len(where))
	for i, c := range where {
		r.mem[i].Objects[s.Key(testPrefix, i, 0)] = bad[i][c]
		count[c]++
	}
	parity := s.Geometry.N - s.Geometry.K
	if slices.Max(count) <= parity {
		r.mustRead(r.reader(), s, 0, s.Segments(), fmt.Sprintf("%v, damaged in columns %v", s.Geometry, where))
		return
	}
	columns := s.Header(0).Columns()
	reader := r.reader()
	for n := range s.Segments() {
		slice, c := n/columns, n%columns // a slice lies in one shard
		got, err := reader.Segments(context.Background(), s.Pack, n, 1, nil, s.check)
		readable := count[c] <= parity || where[slice] != c
		if readable && (err != nil || !bytes.Equal(got, s.message[n*erasure.Column:min((n+1)*erasure.Column, len(s.message))])) {
			r.t.Fatalf("%v, damaged in columns %v: segment %d: %v", s.Geometry, where, n, err)
		} else if !readable && err == nil {
			r.t.Fatalf("%v, damaged in columns %v: segment %d cannot have been read", s.Geometry, where, n)
		}
	}
}
