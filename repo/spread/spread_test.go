package spread

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// messageLen is a message of a few segments, the last of them short.
const messageLen = 8*erasure.Column - 1000

// Every choice of lost and of damaged stores, for every profile up to 4+3.
func TestAnyLossAndAnyDamageUpToParityIsReadAround(t *testing.T) {
	for n := 1; n <= 7; n++ {
		r := newRig(t, n)
		s := r.make(7*erasure.Column - 1000) // every data slice holds some of it
		r.put(s)
		for bad := range 1 << n {
			if testing.Short() && n > 5 && bad%5 != 0 {
				continue
			}
			for _, how := range []string{"lost", "flipped", "down"} {
				r.spoil(s, bad, how)
				reader := r.reader()
				when := fmt.Sprintf("%v, %s %b", s.Geometry, how, bad)
				if bits.OnesCount(uint(bad)) <= s.Geometry.N-s.Geometry.K {
					r.mustRead(reader, s, 0, s.Segments(), when)
				} else {
					r.mustFail(reader, s, bad, how, when)
				}
				r.heal(s)
			}
		}
	}
}

func (r *rig) spoil(s *sample, which int, how string) {
	for i := range r.mem {
		if which>>i&1 == 0 {
			continue
		}
		switch how {
		case "lost":
			delete(r.mem[i].Objects, s.Key(testPrefix, i, 0))
		case "down":
			r.faulty[i].Down()
		default:
			b := r.object(s, i)
			for c := range s.Header(0).Columns() {
				b[erasure.PayloadOffset(c)+int64(77+i)] ^= 4 // equal errors might cancel out
			}
		}
	}
}

func (r *rig) heal(s *sample) {
	for i := range r.mem {
		r.replace(s, i, s.shards[i])
		r.faulty[i].Up()
	}
}

// mustFail asks for an error that names each bad shard and its store.
func (r *rig) mustFail(reader *Reader, s *sample, bad int, how, when string) {
	r.t.Helper()
	_, err := reader.Segments(context.Background(), s.Pack, 0, s.Segments(), nil, s.check)
	var few *TooFewError
	if !errors.As(err, &few) {
		r.t.Errorf("%s: error is %v", when, err)
		return
	}
	if how == "flipped" {
		return // parity shards that are wrong cannot be told from right ones here
	}
	for i := range s.Geometry.N {
		named := strings.Contains(err.Error(), fmt.Sprintf("shard %d is missing", i)) && strings.Contains(err.Error(), fmt.Sprintf("%q", r.members[i].Name))
		if bad>>i&1 == 1 && !named {
			r.t.Errorf("%s: error does not name shard %d and its store: %v", when, i, err)
		}
	}
}

// With at least k good columns among the shards of every column, damage spread
// over all shards is read around.
func TestDamageInEveryShardIsReadAroundColumnByColumn(t *testing.T) {
	r := newRig(t, 4) // 2+2, four columns
	s := r.make(messageLen)
	r.put(s)
	for c := range 4 {
		for _, i := range []int{c, (c + 1) % 4} {
			r.object(s, i)[erasure.PayloadOffset(c)+5] ^= 1
		}
	}
	reader := r.reader()
	r.mustRead(reader, s, 0, s.Segments(), "two of four damaged in every column")
	if len(reader.Damage()) == 0 {
		t.Error("no damage was reported")
	}
}

// A shard of the right length with anything else in it never reaches a caller,
// and one of another length is not even asked for.
func TestWrongShardsAreNeverBelieved(t *testing.T) {
	r := newRig(t, 3)
	s, other := r.make(messageLen), r.make(messageLen)
	again := *s // the same message under another encoding
	again.Encode[0] ^= 1
	for _, p := range []*sample{s, other} {
		r.put(p)
	}
	again.shards = nil
	for i := range s.shards {
		b, err := erasure.BuildShard(again.Header(i), other.shards[i][erasure.HeaderLen:erasure.PayloadOffset(s.Header(i).Columns())])
		if err != nil {
			t.Fatal(err)
		}
		again.shards = append(again.shards, b)
	}
	cases := []struct {
		name, detail string
		make         func(i int) []byte
	}{
		{"truncated", "bytes, not", func(i int) []byte { return s.shards[i][:len(s.shards[i])-1] }},
		{"cut at a column", "bytes, not", func(i int) []byte { return s.shards[i][:erasure.PayloadOffset(2)] }},
		{"empty", "bytes, not", func(int) []byte { return nil }},
		{"extended", "bytes, not", func(i int) []byte { return append(bytes.Clone(s.shards[i]), 0) }},
		{"zeros", "not a shard", func(i int) []byte { return make([]byte, len(s.shards[i])) }},
		{"of another pack", "shard of pack", func(i int) []byte { return other.shards[i] }},
		{"of another index", "it is shard", func(i int) []byte { return s.shards[(i+1)%3] }},
		{"of another encoding", "another encoding", func(i int) []byte { return again.shards[i] }},
	}
	for _, c := range cases {
		for i := range 3 {
			r.replace(s, i, c.make(i))
			r.mustRead(r.reader(), s, 0, s.Segments(), fmt.Sprintf("shard %d is %s", i, c.name))
			h := r.verify(s, true)
			if got := h.Shards[i]; got.State != Damaged || !strings.Contains(got.Detail, c.detail) || got.Store != r.members[i].Name || h.Good != 2 {
				t.Errorf("shard %d is %s: Verify says %+v, %d good", i, c.name, got, h.Good)
			}
			r.mustRebuild(s, i)
			r.heal(s)
		}
	}
}

func (r *rig) verify(s *sample, readData bool) Health {
	r.t.Helper()
	h, err := r.reader().Verify(context.Background(), s.Pack, readData)
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

func (r *rig) mustRebuild(s *sample, i int) {
	r.t.Helper()
	b, err := r.reader().Rebuild(context.Background(), s.Pack, i)
	if err != nil {
		r.t.Errorf("rebuild shard %d: %v", i, err)
	} else if !bytes.Equal(b, s.shards[i]) {
		r.t.Errorf("shard %d made again has other bytes", i)
	}
}

// One flipped bit anywhere in a shard: the message is read, and a deep check
// finds it wherever it is, header, payload, checksums or trailer.
func TestAFlippedBitInAnyRegionIsFoundAndReadAround(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	step := 12281
	if testing.Short() {
		step *= 7
	}
	size := len(s.shards[0])
	var at []int
	for o := 0; o < size; o += step {
		at = append(at, o)
	}
	for o := range erasure.HeaderLen { // both headers and the sums, densely
		at = append(at, o, size-1-o)
	}
	at = append(at, size-erasure.HeaderLen-1, size-erasure.HeaderLen-4*s.Header(0).Columns())
	for n, o := range at {
		i := n % 3
		r.object(s, i)[o] ^= 1 << (n % 8)
		if n%16 == 0 || o > 256 && o < size-300 {
			r.mustRead(r.reader(), s, 0, s.Segments(), fmt.Sprintf("bit at %d of shard %d flipped", o, i))
		}
		h := r.verify(s, true)
		if h.Shards[i].State != Damaged || h.Good != 2 || h.Whole() || h.Lost() {
			t.Errorf("bit at %d of shard %d flipped: Verify says %+v", o, i, h)
		}
		r.object(s, i)[o] ^= 1 << (n % 8)
	}
}

// Every range of segments, healthy and with each store gone, across the borders
// of slices.
func TestEveryRangeReadsAlsoDegraded(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5} {
		r := newRig(t, n)
		s := r.make(messageLen)
		r.put(s)
		for lost := -1; lost < n; lost++ {
			if lost >= 0 {
				if s.Geometry.N == s.Geometry.K {
					continue
				}
				r.faulty[lost].Down()
			}
			reader := r.reader()
			for first := range s.Segments() {
				for count := 1; first+count <= s.Segments(); count++ {
					r.mustRead(reader, s, first, count, fmt.Sprintf("%v without %d", s.Geometry, lost))
				}
			}
			if lost >= 0 {
				r.faulty[lost].Up()
			}
		}
		for _, bad := range [][2]int{{-1, 1}, {0, 0}, {0, s.Segments() + 1}, {s.Segments(), 1}} {
			if _, err := r.reader().Segments(context.Background(), s.Pack, bad[0], bad[1], nil, s.check); err == nil {
				t.Errorf("segments %v were read", bad)
			}
		}
	}
}

// A store may go wrong after its listing in every way there is.
func TestAStoreThatGoesWrongWhileReadingIsReadAround(t *testing.T) {
	mishaps := []storetest.Mishap{{How: storetest.Fail}, {How: storetest.Fail, Err: store.ErrDenied}, {How: storetest.Fail, Err: store.ErrNotExist},
		{How: storetest.FailAfter}, {How: storetest.Flip}, {How: storetest.Truncate}, {How: storetest.Fail, Err: errors.New("connection reset")}}
	for _, n := range []int{2, 3, 4} {
		for _, m := range mishaps {
			for bad := range n {
				r := newRig(t, n)
				s := r.make(messageLen)
				r.put(s)
				reader := r.reader()
				r.faulty[bad].Inject(func(op storetest.Op, _ string) storetest.Mishap {
					if op == storetest.OpGet {
						return m
					}
					return storetest.Mishap{}
				})
				when := fmt.Sprintf("store %d of %d meets %+v", bad, n, m)
				r.mustRead(reader, s, 0, s.Segments(), when)
				if bad < s.Geometry.K && !strings.Contains(strings.Join(reader.Damage(), "\n"), r.members[bad].Name) {
					t.Errorf("%s: damage %q does not name it", when, reader.Damage())
				}
				if b, err := reader.Rebuild(context.Background(), s.Pack, bad); err != nil || !bytes.Equal(b, s.shards[bad]) {
					t.Errorf("%s: rebuild: %v", when, err)
				}
			}
		}
	}
}

// A store that hangs up is asked once: what is away does not slow every pack.
func TestAStoreThatIsAwayIsAskedOnce(t *testing.T) {
	r := newRig(t, 3)
	packs := []*sample{r.make(messageLen), r.make(messageLen), r.make(messageLen)}
	for _, s := range packs {
		r.put(s)
	}
	reader := r.reader()
	r.faulty[0].Down()
	for _, s := range packs {
		r.mustRead(reader, s, 0, s.Segments(), "store 0 away")
	}
	if n := r.faulty[0].Calls(storetest.OpGet); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

func TestACancelledReadIsNoDamage(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	reader := r.reader()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range r.faulty {
		r.faulty[i].Inject(func(op storetest.Op, _ string) storetest.Mishap {
			cancel()
			return storetest.Mishap{How: storetest.Fail, Err: context.Canceled}
		})
	}
	if _, err := reader.Segments(ctx, s.Pack, 0, s.Segments(), nil, s.check); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if d := reader.Damage(); len(d) != 0 {
		t.Errorf("damage %q", d)
	}
	for i := range r.faulty {
		r.faulty[i].Up()
	}
	r.mustRead(reader, s, 0, s.Segments(), "after a cancelled read")
}

func TestVerifyTellsMissingDamagedAndUnknownApart(t *testing.T) {
	r := newRig(t, 4)
	s := r.make(messageLen)
	r.put(s)
	if h := r.verify(s, true); !h.Whole() || h.Lost() || h.Read != 4*s.ShardLen() {
		t.Errorf("a whole pack: %+v", h)
	}
	if h := r.verify(s, false); !h.Whole() || h.Read != 0 {
		t.Errorf("a whole pack by listing: %+v", h)
	}
	r.spoil(s, 0b0001, "lost")
	r.spoil(s, 0b0010, "flipped")
	r.spoil(s, 0b0100, "down")
	h := r.verify(s, true)
	var got []State
	for i, sh := range h.Shards {
		got = append(got, sh.State)
		if sh.Store != r.members[i].Name || sh.State != Good && sh.State != Missing && sh.Detail == "" {
			t.Errorf("shard %d: %+v", i, sh)
		}
	}
	if want := []State{Missing, Damaged, Unknown, Good}; !slices.Equal(got, want) || !h.Lost() || h.Whole() {
		t.Errorf("states %v, want %v", got, want)
	}
	_, err := r.reader().Rebuild(context.Background(), s.Pack, 0)
	for _, want := range []string{"store0", "store1", "store2", "shard 0", "shard 1", "shard 2", "needs 2"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error of a rebuild does not name %s: %v", want, err)
		}
	}
}

// A repair is a further object: readers find it, whatever the first holds.
func TestARepairedShardIsFound(t *testing.T) {
	r := newRig(t, 2)
	s := r.make(messageLen)
	r.put(s)
	r.replace(s, 0, s.shards[0][:100])
	r.spoil(s, 0b10, "flipped")
	r.mem[1].Objects[s.Key(testPrefix, 1, 1)] = s.shards[1][:50] // a repair that failed
	r.mem[1].Objects[s.Key(testPrefix, 1, 2)] = s.shards[1]
	r.mustRead(r.reader(), s, 0, s.Segments(), "repaired")
	if h := r.verify(s, true); h.Good != 1 || h.Shards[1].State != Good || h.Shards[0].State != Damaged {
		t.Errorf("Verify says %+v", h)
	}
	r.mustRebuild(s, 0)
}

func TestAShardItsStoreDoesNotTakeGoesToTheSpool(t *testing.T) {
	for _, m := range []storetest.Mishap{{How: storetest.Fail}, {How: storetest.FailAfter}, {How: storetest.Fail, Err: store.ErrFull}, {How: storetest.Fail, Err: store.ErrReadOnly}} {
		r := newRig(t, 3)
		s := r.make(messageLen)
		r.faulty[1].Inject(storetest.Nth(storetest.OpPut, 1, m))
		set := NewSet(r.members)
		out, err := set.Put(context.Background(), testPrefix, s.Pack, s.shards, r.spool)
		if err != nil || out[0].Member != 0 || out[2].Member != 2 || !out[1].Spooled || out[1].Err == nil || set.Down(1) == nil {
			t.Errorf("%+v: %+v, %v", m, out, err)
		}
		if !bytes.Equal(r.spool.Objects[s.Key(testPrefix, 1, 0)], s.shards[1]) {
			t.Errorf("%+v: the spool does not have the shard", m)
		}
		broken := storetest.NewFaulty(r.spool)
		broken.Full()
		next := r.make(messageLen)
		if _, err := set.Put(context.Background(), testPrefix, next.Pack, next.shards, broken); err == nil || !strings.Contains(err.Error(), "store1") || !errors.Is(err, store.ErrFull) {
			t.Errorf("%+v: with a full spool: %v", m, err)
		}
	}
}

// Domains is compared with a search over every assignment.
func TestDomainsIsALargestMatching(t *testing.T) {
	var best func(present [][]int, shard int, used map[int]bool) int
	best = func(present [][]int, shard int, used map[int]bool) int {
		if shard == len(present) {
			return 0
		}
		most := best(present, shard+1, used)
		for _, m := range present[shard] {
			if !used[m] {
				used[m] = true
				most = max(most, 1+best(present, shard+1, used))
				used[m] = false
			}
		}
		return most
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		present := make([][]int, 1+rng.IntN(5))
		for i := range present {
			for m := range 5 {
				if rng.IntN(3) == 0 {
					present[i] = append(present[i], m)
				}
			}
			rng.Shuffle(len(present[i]), func(a, b int) { present[i][a], present[i][b] = present[i][b], present[i][a] })
		}
		if got, want := Domains(present), best(present, 0, map[int]bool{}); got != want {
			t.Fatalf("Domains(%v) = %d, want %d", present, got, want)
		}
	}
}

// A listing that failed half-way proves no absence and no presence.
func TestAHalfListingCountsForNothing(t *testing.T) {
	r := newRig(t, 2)
	s := r.make(messageLen)
	r.put(s)
	r.faulty[0].Inject(storetest.Nth(storetest.OpList, 1, storetest.Mishap{How: storetest.FailAfter}))
	inv := List(context.Background(), r.members, testPrefix)
	if inv.Failed(0) == nil || inv.Failed(1) != nil || len(inv.Errors()) != 1 {
		t.Errorf("failures %v", inv.Errors())
	}
	if p := inv.Present(testPrefix, s.Pack); len(p[0]) != 0 || len(p[1]) != 1 {
		t.Errorf("present %v", p)
	}
	r.mustRead(inv.Reader(testPrefix), s, 0, s.Segments(), "half a listing")
}
