package spread

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

func (r *rig) list() *Inventory { return List(context.Background(), r.members, testPrefix) }

// repair repairs a pack over a fresh listing.
func (r *rig) repair(s *sample, c RepairConfig) *Mended {
	r.t.Helper()
	if c.Stores == 0 {
		c.Stores = len(r.members)
	}
	m, err := r.list().Repairer(testPrefix, c).Pack(context.Background(), s.Pack)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// objects is all that the stores hold. What a memory store has is never written
// to, only replaced.
func (r *rig) objects() map[string][]byte {
	out := map[string][]byte{}
	for i, m := range r.mem {
		for k, b := range m.Objects {
			out[fmt.Sprintf("%d %s", i, k)] = b
		}
	}
	return out
}

// mustKeep checks that no object that was there changed or went.
func (r *rig) mustKeep(before map[string][]byte, when string) {
	r.t.Helper()
	now := r.objects()
	for k, b := range before {
		if !bytes.Equal(now[k], b) {
			r.t.Fatalf("%s: %s was changed", when, k)
		}
	}
}

// mustBeWhole reads every shard and wants it on the store of its place.
func (r *rig) mustBeWhole(s *sample, when string) {
	r.t.Helper()
	h, err := r.reader().Verify(context.Background(), s.Pack, true)
	if err != nil || !h.Whole() {
		r.t.Fatalf("%s: %+v, %v", when, h, err)
	}
	for i := range s.Geometry.N {
		found := false
		for a := range MaxAttempts {
			found = found || bytes.Equal(r.mem[i].Objects[s.Key(testPrefix, i, a)], s.shards[i])
		}
		if !found {
			r.t.Fatalf("%s: store %d does not have shard %d byte for byte", when, i, i)
		}
	}
}

// damage is what may have become of a shard.
var damage = []string{"good", "lost", "flipped", "truncated", "swapped"}

func (r *rig) damage(s *sample, i int, how string) {
	switch b := bytes.Clone(s.shards[i]); how {
	case "lost":
		delete(r.mem[i].Objects, s.Key(testPrefix, i, 0))
	case "flipped":
		b[erasure.HeaderLen+1000+i] ^= 1
		r.replace(s, i, b)
	case "truncated":
		r.replace(s, i, b[:len(b)-1])
	case "swapped":
		r.replace(s, i, s.shards[(i+1)%len(s.shards)])
	}
}

// Every combination of what may become of each shard, for n up to 5; beyond,
// some thousands chosen by chance.
func TestEveryLossThatLeavesKGoodShardsIsRepaired(t *testing.T) {
	for n := 1; n <= 9; n++ {
		combinations := 1
		for range n {
			combinations *= len(damage)
		}
		each := 1
		switch {
		case n > 5 && os.Getenv("STRONGROOM_FAULTS") != "1":
			t.Logf("%d shards: only with STRONGROOM_FAULTS=1, it takes a quarter of a minute", n)
			continue
		case n > 5:
			each = combinations / 3000
		case n > 3 && testing.Short():
			each = 11
		}
		r := newRig(t, n)
		s := r.make(erasure.Column + 100)
		for c := rand.IntN(each); c < combinations; c += 1 + rand.IntN(2*each-1) {
			r.mustRepair(s, r.damageAll(s, c))
		}
	}
}

// damageAll makes of the shards what the digits of c say.
func (r *rig) damageAll(s *sample, c int) (how []string) {
	for i := range r.mem {
		clear(r.mem[i].Objects)
		r.replace(s, i, s.shards[i])
	}
	for i := range r.mem {
		d := damage[c%len(damage)]
		if d == "swapped" && len(r.mem) == 1 {
			d = "flipped" // there is nothing to swap with
		}
		how, c = append(how, d), c/len(damage)
		r.damage(s, i, d)
	}
	return how
}

func (r *rig) mustRepair(s *sample, how []string) {
	r.t.Helper()
	good, there := 0, 0 // there: wrong, and to be marked
	for _, d := range how {
		if d == "good" {
			good++
		} else if d != "lost" {
			there++
		}
	}
	when := fmt.Sprintf("%v %v", s.Geometry, how)
	before := r.objects()
	dry := r.repair(s, RepairConfig{ReadAll: true, DryRun: true})
	if len(r.objects()) != len(before) {
		r.t.Fatalf("%s: a dry run wrote", when)
	}
	m := r.repair(s, RepairConfig{ReadAll: true})
	r.mustKeep(before, when)
	if good < s.Geometry.K {
		if few := (*TooFewError)(nil); !errors.As(m.Lost, &few) || len(m.Writes) > 0 || len(m.Bad) > 0 {
			r.t.Fatalf("%s: lost: %v, writes: %v, marked: %v", when, m.Lost, m.Writes, m.Bad)
		}
		return
	}
	if m.Lost != nil || len(m.Left) > 0 || len(m.Writes) != len(how)-good || len(m.Bad) != there {
		r.t.Fatalf("%s: %+v", when, m)
	}
	for i, w := range m.Writes {
		if dry.Writes[i] != w {
			r.t.Fatalf("%s: the dry run said %+v, done was %+v", when, dry.Writes[i], w)
		}
	}
	for i, b := range m.Bad {
		if how[b.Index] == "good" || how[b.Index] == "lost" || dry.Bad[i] != b || b.Key != s.Key(testPrefix, b.Index, 0) {
			r.t.Fatalf("%s: marked %+v, in a dry run %+v", when, b, dry.Bad[i])
		}
	}
	r.mustBeWhole(s, when)
	if again := r.repair(s, RepairConfig{ReadAll: true}); len(again.Writes) > 0 {
		r.t.Fatalf("%s: a second repair wrote %v", when, again.Writes)
	}
	// Whoever deletes what was marked leaves the pack whole.
	for _, b := range m.Bad {
		delete(r.mem[b.Member].Objects, b.Key)
	}
	r.mustBeWhole(s, when+", marked objects deleted")
	r.mustRead(r.reader(), s, 0, s.Segments(), when)
}

// Without being told to read, a repair believes the listing, and finds out
// what it must while it reads what it needs.
func TestARepairFindsDamageInWhatItReads(t *testing.T) {
	r := newRig(t, 4) // 2+2
	s := r.make(messageLen)
	r.put(s)
	r.damage(s, 0, "flipped")
	r.damage(s, 3, "lost")
	before := r.objects()
	m := r.repair(s, RepairConfig{})
	if len(m.Writes) != 2 || len(m.Bad) != 1 || m.Bad[0].Member != 0 || m.Lost != nil {
		t.Fatalf("%+v", m)
	}
	r.mustKeep(before, "repaired")
	r.mustBeWhole(s, "repaired")
}

// Whatever happens to any one call of any store, the next repair ends with all
// shards good, and none that was good is touched.
func TestARepairThatFailsAnywhereIsFinishedByTheNext(t *testing.T) {
	for _, how := range []storetest.How{storetest.Fail, storetest.FailAfter, storetest.Lie, storetest.Flip, storetest.Truncate} {
		for _, op := range []storetest.Op{storetest.OpPut, storetest.OpGet, storetest.OpList} {
			for victim := range 4 {
				for nth := 1; nth <= 8; nth++ {
					if testing.Short() && (nth+victim)%4 != 0 {
						continue
					}
					r := newRig(t, 4)
					s := r.make(erasure.Column + 5)
					r.put(s)
					r.damage(s, 1, "flipped")
					r.damage(s, 2, "lost")
					before := r.objects()
					r.faulty[victim].Inject(storetest.Nth(op, nth, storetest.Mishap{How: how}))
					first, err := r.list().Repairer(testPrefix, RepairConfig{Stores: 4, ReadAll: true}).Pack(context.Background(), s.Pack)
					when := fmt.Sprintf("%v of %s %d on store %d", how, op, nth, victim)
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					r.faulty[victim].Up()
					r.mustKeep(before, when)
					for _, b := range first.Bad { // a marked object is never the only one, nor right
						if bytes.Equal(r.mem[b.Member].Objects[b.Key], s.shards[b.Index]) && how != storetest.Flip && how != storetest.Truncate {
							t.Fatalf("%s: marked a good object", when)
						}
					}
					r.repair(s, RepairConfig{ReadAll: true})
					r.mustKeep(before, when)
					r.mustBeWhole(s, when)
				}
			}
		}
	}
}

// A store that says yes and stores nothing is found when it is asked.
func TestAStoreThatSwallowsARepairIsNamed(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.damage(s, 1, "lost")
	r.faulty[1].Inject(func(op storetest.Op, _ string) storetest.Mishap {
		if op == storetest.OpPut {
			return storetest.Mishap{How: storetest.Lie}
		}
		return storetest.Mishap{}
	})
	m := r.repair(s, RepairConfig{})
	if len(m.Writes) > 0 || len(m.Left) != 1 || !strings.Contains(m.Left[0], "store1") || !strings.Contains(m.Left[0], "reads back wrong") {
		t.Fatalf("%+v", m)
	}
}

// A store that lists what it does not have, or has other bytes behind right
// headers and right checksums.
func TestALyingStoreIsFoundAndRepaired(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.faulty[1].Inject(func(op storetest.Op, key string) storetest.Mishap {
		if op == storetest.OpGet && key == s.Key(testPrefix, 1, 0) {
			return storetest.Mishap{How: storetest.Fail, Err: store.ErrNotExist}
		}
		return storetest.Mishap{}
	})
	m := r.repair(s, RepairConfig{ReadAll: true})
	if len(m.Writes) != 1 || m.Writes[0].Key != s.Key(testPrefix, 1, 1) || len(m.Bad) > 0 {
		t.Fatalf("%+v", m)
	}
	r.mustBeWhole(s, "listed and not there")

	r = newRig(t, 3)
	s = r.make(messageLen)
	r.put(s)
	r.replace(s, 2, forged(t, s, 2))
	if m := r.repair(s, RepairConfig{}); len(m.Writes) > 0 {
		t.Fatalf("a listing shows no difference: %+v", m)
	}
	if m = r.repair(s, RepairConfig{Suspect: func(c Copy) bool { return c.Member == 2 }}); len(m.Writes) != 1 || len(m.Bad) != 1 {
		t.Fatalf("%+v", m)
	}
	r.mustBeWhole(s, "forged")
}

// forged is a shard with right headers, right checksums and wrong bytes.
func forged(t *testing.T, s *sample, i int) []byte {
	payload := bytes.Clone(payloadOf(s.Pack, s.shards[i]))
	for c := 0; c < len(payload); c += erasure.Column {
		payload[c+7] ^= 0x40
	}
	b, err := erasure.BuildShard(s.Header(i), payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A store that is away is not lost: nothing is put elsewhere for it.
func TestWhatIsAwayIsNotMadeAgain(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.faulty[1].Down()
	m := r.repair(s, RepairConfig{})
	if len(m.Writes) > 0 || m.Away != 1 || m.Lost != nil {
		t.Fatalf("%+v", m)
	}
}

// What waits in the spool helps, and is not written to.
func TestTheSpoolHelpsARepair(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.spool.Objects[s.Key(testPrefix, 1, 0)] = s.shards[1]
	clear(r.mem[1].Objects)
	clear(r.mem[2].Objects)
	r.members = append(r.members, Member{"spool", r.spool})
	m := r.repair(s, RepairConfig{Stores: 3})
	if len(m.Writes) != 2 || m.Lost != nil || len(r.spool.Objects) != 1 {
		t.Fatalf("%+v", m)
	}
	r.members = r.members[:3]
	r.mustBeWhole(s, "with the spool")
}

// with is the sample with its further shards.
func (s *sample) with(t *testing.T, m *Mended) *sample {
	t.Helper()
	out := *s
	out.shards = slices.Clone(s.shards)
	for _, sum := range m.Further {
		i := len(out.shards)
		payload, err := erasure.Reconstruct(s.Geometry.K, map[int][]byte{0: payloadOf(s.Pack, s.shards[0]), 1 % s.Geometry.K: payloadOf(s.Pack, s.shards[1%s.Geometry.K]),
			2 % s.Geometry.K: payloadOf(s.Pack, s.shards[2%s.Geometry.K])}, i)
		if err != nil {
			t.Fatal(err)
		}
		b, err := erasure.BuildShard(s.Header(i), payload)
		if err != nil {
			t.Fatal(err)
		}
		out.shards = append(out.shards, b)
		out.Shards = append(slices.Clip(out.Shards), sum)
	}
	out.Geometry.N = len(out.Shards)
	return &out
}

// A store that is added gets a shard that nobody has; with it one more store
// may be lost.
func TestAnAddedStoreGetsAFurtherShard(t *testing.T) {
	for n := 1; n <= 5; n++ {
		r := newRig(t, n)
		s := r.make(messageLen)
		r.put(s)
		r.addStore()
		m := r.repair(s, RepairConfig{Fill: []int{n}})
		if len(m.Writes) != 1 || m.Writes[0].Member != n || len(m.Further) != 1 {
			t.Fatalf("%v: %+v", s.Geometry, m)
		}
		s = s.with(t, m)
		r.mustBeWhole(s, "added")
		if got := Margin(r.list().Present(testPrefix, s.Pack), s.Geometry.K); got != n+1-s.Geometry.K {
			t.Errorf("%v: margin %d", s.Geometry, got)
		}
		for i := range n + 1 - s.Geometry.K {
			clear(r.mem[i].Objects)
		}
		r.mustRead(r.reader(), s, 0, s.Segments(), "from the last k")
		// It is there: a second time nothing is done.
		if again := r.repair(s, RepairConfig{Fill: []int{n}, Stores: n + 1}); slices.ContainsFunc(again.Writes, func(w Write) bool { return w.Member == n }) {
			t.Errorf("added twice: %+v", again.Writes)
		}
	}
}

func (r *rig) addStore() {
	m := storetest.NewMemory()
	f := storetest.NewFaulty(m)
	r.mem, r.faulty = append(r.mem, m), append(r.faulty, f)
	r.members = append(r.members, Member{Name: fmt.Sprintf("store%d", len(r.members)), Store: f})
}

// After a drain the store may go, whichever it is, alive or dead, and the
// others bear as much as a new pack on them would. Interrupted anywhere, it
// goes on.
func TestADrainedStoreMayGo(t *testing.T) {
	for n := 2; n <= 5; n++ {
		for gone := range n {
			for _, state := range []string{"alive", "dead", "interrupted"} {
				r := newRig(t, n)
				s := r.make(messageLen)
				r.put(s)
				g, _ := erasure.Plan(n - 1)
				c := RepairConfig{Empty: []int{gone}, Margin: g.N - g.K}
				when := fmt.Sprintf("%v without %d, %s", s.Geometry, gone, state)
				switch state {
				case "dead":
					r.faulty[gone].Down()
				case "interrupted":
					next := (gone + 1) % n
					r.faulty[next].Inject(storetest.Nth(storetest.OpPut, 1, storetest.Mishap{How: storetest.FailAfter}))
					r.repair(s, c) // what it made further nobody was told
					r.faulty[next].Up()
				}
				m := r.repair(s, c)
				if m.Lost != nil || len(m.Left) > 0 {
					t.Fatalf("%s: %+v", when, m)
				}
				s = s.with(t, m)
				r.faulty[gone].Up()
				clear(r.mem[gone].Objects)
				if h, err := r.reader().Verify(context.Background(), s.Pack, true); err != nil || !h.Whole() {
					t.Fatalf("%s: %+v %v", when, h, err)
				}
				r.loseAny(s, g.N-g.K, when)
			}
		}
	}
}

// loseAny reads the pack without every choice of so many stores.
func (r *rig) loseAny(s *sample, many int, when string) {
	r.t.Helper()
	for lost := range 1 << len(r.members) {
		n := 0
		for i := range r.members {
			if lost>>i&1 == 1 {
				n++
				r.faulty[i].Down()
			} else {
				r.faulty[i].Up()
			}
		}
		if n == many {
			r.mustRead(r.reader(), s, 0, s.Segments(), fmt.Sprintf("%s, lost %b", when, lost))
		}
	}
	for _, f := range r.faulty {
		f.Up()
	}
}

// A store full or away for writing is named, and the others get theirs.
func TestAFullStoreDoesNotKeepOthersFromTheirs(t *testing.T) {
	r := newRig(t, 5)
	s := r.make(messageLen)
	r.put(s)
	r.damage(s, 1, "lost")
	r.damage(s, 4, "lost")
	r.faulty[1].Full()
	m := r.repair(s, RepairConfig{})
	if len(m.Writes) != 1 || m.Writes[0].Member != 4 || len(m.Left) != 1 || !strings.Contains(m.Left[0], "store is full") {
		t.Fatalf("%+v", m)
	}
	r.faulty[1].Up()
	r.repair(s, RepairConfig{})
	r.mustBeWhole(s, "with room again")
}

// The margin, against losing every set of stores one after the other.
func TestMarginIsWhatAnyLossLeaves(t *testing.T) {
	for k := 1; k <= 3; k++ {
		for layout := range 1 << 12 { // 3 stores x 4 shards
			present := make([][]int, 4)
			for bit := range 12 {
				if layout>>bit&1 == 1 {
					present[bit%4] = append(present[bit%4], bit/4)
				}
			}
			if got, want := Margin(present, k), bruteMargin(present, k); got != want {
				t.Fatalf("k %d, %v: margin %d, want %d", k, present, got, want)
			}
		}
	}
}

func bruteMargin(present [][]int, k int) int {
	holding := map[int]bool{}
	left := func(gone int) (n int) {
		for _, at := range present {
			if slices.ContainsFunc(at, func(m int) bool { return gone>>m&1 == 0 }) {
				n++
			}
		}
		return n
	}
	for _, at := range present {
		for _, m := range at {
			holding[m] = true
		}
	}
	worst := len(holding) // the smallest loss that is too much
	for gone := range 8 {
		n := 0
		for m := range 3 {
			if gone>>m&1 == 1 && holding[m] {
				n++
			}
		}
		if left(gone) < k {
			worst = min(worst, n)
		}
	}
	return worst - 1
}
