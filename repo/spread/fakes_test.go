package spread

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store/storetest"
)

const testPrefix = "t/g/"

// rig is a set of stores that hold packs, and what the packs were.
type rig struct {
	t       *testing.T
	mem     []*storetest.Memory
	faulty  []*storetest.Faulty
	members []Member
	spool   *storetest.Memory
}

func newRig(t *testing.T, stores int) *rig {
	r := &rig{t: t, spool: storetest.NewMemory()}
	for i := range stores {
		m := storetest.NewMemory()
		f := storetest.NewFaulty(m)
		r.mem, r.faulty = append(r.mem, m), append(r.faulty, f)
		r.members = append(r.members, Member{Name: fmt.Sprintf("store%d", i), Store: f})
	}
	return r
}

// sample is a pack, its segments, and its shards.
type sample struct {
	Pack
	message []byte
	shards  [][]byte
	sums    [][32]byte // of the segments: what authenticates them here
}

// make codes a random message of n bytes.
func (r *rig) make(n int) *sample {
	r.t.Helper()
	g, err := erasure.Plan(len(r.members))
	if err != nil {
		r.t.Fatal(err)
	}
	s := &sample{Pack: Pack{Geometry: g, MessageLen: int64(n)}, message: make([]byte, n)}
	rand.Read(s.ID[:])
	rand.Read(s.Encode[:])
	rand.Read(s.Seal[:])
	rand.Read(s.message)
	stripe, err := erasure.NewStripe(g, s.Segments())
	if err != nil {
		r.t.Fatal(err)
	}
	stripe.Reset(s.Segments())
	for i := range s.Segments() {
		seg := s.message[i*erasure.Column : min(n, (i+1)*erasure.Column)]
		copy(stripe.Segment(i), seg)
		s.sums = append(s.sums, sha256.Sum256(seg))
	}
	if s.shards, err = stripe.Finish(s.Header(0)); err != nil {
		r.t.Fatal(err)
	}
	for _, b := range s.shards {
		s.Shards = append(s.Shards, sha256.Sum256(b))
	}
	return s
}

// put stores a pack where it belongs.
func (r *rig) put(s *sample) {
	r.t.Helper()
	out, err := NewSet(r.members).Put(context.Background(), testPrefix, s.Pack, s.shards, r.spool)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, o := range out {
		if o.Member != i || o.Err != nil {
			r.t.Fatalf("shard %d: %+v", i, o)
		}
	}
}

func (r *rig) reader() *Reader { return NewReader(context.Background(), r.members, testPrefix) }

// object is shard i of s as its store has it; it may be written to.
func (r *rig) object(s *sample, i int) []byte { return r.mem[i].Objects[s.Key(testPrefix, i, 0)] }

func (r *rig) replace(s *sample, i int, b []byte) {
	r.mem[i].Objects[s.Key(testPrefix, i, 0)] = bytes.Clone(b)
}

func (s *sample) check(n int, segment []byte) error {
	if sha256.Sum256(segment) != s.sums[n] {
		return errors.New("authentication failed")
	}
	return nil
}

// mustRead reads segments and compares them with what was stored.
func (r *rig) mustRead(reader *Reader, s *sample, first, count int, when string) {
	r.t.Helper()
	got, err := reader.Segments(context.Background(), s.Pack, first, count, nil, s.check)
	if err != nil {
		r.t.Errorf("%s: segments %d+%d: %v", when, first, count, err)
		return
	}
	if want := s.message[first*erasure.Column : min(len(s.message), (first+count)*erasure.Column)]; !bytes.Equal(got, want) {
		r.t.Errorf("%s: segments %d+%d differ", when, first, count)
	}
}
