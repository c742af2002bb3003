package spread

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"strongroom/erasure"
	"strongroom/repo/store"
)

// Memory of a scrub or a repair, in MiB, beside what listing and manifests
// take. Both run alone in their process, so the shares need not add up.
const (
	scrubMemory  = 32  // pieces being hashed
	repairMemory = 160 // shards of the packs at hand: three of 32 MiB for 2+1
)

// scrubPiece is how much of a shard is read at a time: whole columns.
const scrubPiece = 16 * erasure.Column

// perStore is how many objects of a store are read at once: one is hashed
// while the next one is on its way.
const perStore = 2

// A Copy is an object that a store lists as a shard of a pack: it has the name
// and the length of one.
type Copy struct {
	Index   int // of the shard
	Member  int // that lists it
	Key     string
	Spoiled bool // it was read earlier and found bad
}

// Copies returns every copy of every shard of p.
func (v *Inventory) Copies(prefix string, p Pack) []Copy {
	var out []Copy
	for _, i := range p.Indices() {
		for _, l := range v.holders(prefix, p, i) {
			out = append(out, Copy{i, l.member, l.key, v.spoiled[l]})
		}
	}
	return out
}

// A Verdict is what reading one copy gave.
type Verdict struct {
	State  State
	Detail string
	Read   int64
}

// A Scrubber reads whole copies, each in little memory. It gives a store up
// when that cannot be reached. It is safe for concurrent use.
type Scrubber struct {
	set    *Set
	pieces sync.Pool
}

// Scrubber returns a Scrubber of the copies of this listing.
func (v *Inventory) Scrubber() *Scrubber { return newScrubber(v.set()) }

func newScrubber(set *Set) *Scrubber {
	return &Scrubber{set: set, pieces: sync.Pool{New: func() any { b := make([]byte, scrubPiece); return &b }}}
}

// set returns the members, without those that could not be listed.
func (v *Inventory) set() *Set {
	s := NewSet(v.members)
	for i, err := range v.failed {
		if err != nil {
			s.Fail(i, errors.Unwrap(err))
		}
	}
	return s
}

// Check reads a copy to its end and compares its SHA-256 with the manifest's;
// the checksums of its columns say where damage lies.
func (s *Scrubber) Check(ctx context.Context, p Pack, c Copy) Verdict {
	return s.compare(ctx, p, c, p.Sum(c.Index))
}

func (s *Scrubber) compare(ctx context.Context, p Pack, c Copy, want [sha256.Size]byte) Verdict {
	if err := s.set.Down(c.Member); err != nil {
		return Verdict{State: Unknown, Detail: err.Error()}
	}
	v, err := s.read(ctx, p, c, want)
	if err != nil {
		read := v.Read
		v = s.judge(ctx, c, err)
		v.Read = read
	}
	return v
}

// judge says what an error of a read means for a copy.
func (s *Scrubber) judge(ctx context.Context, c Copy, err error) Verdict {
	v := Verdict{State: Unknown, Detail: err.Error()}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, store.ErrNotExist):
		v.State = Missing // gone since the listing, or the listing lies
	case errors.Is(err, store.ErrTampered), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		v.State = Damaged
	default:
		s.set.failIfAway(c.Member, err)
	}
	return v
}

// failIfAway gives up a member that cannot be reached.
func (s *Set) failIfAway(member int, err error) {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDenied) {
		s.Fail(member, err)
	}
}

func (s *Scrubber) read(ctx context.Context, p Pack, c Copy, want [sha256.Size]byte) (v Verdict, err error) {
	size := p.ShardLen()
	rc, err := s.set.members[c.Member].Store.Get(ctx, c.Key, 0, size)
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	hash := sha256.New()
	read := func(b []byte) error {
		n, err := io.ReadFull(rc, b)
		v.Read += int64(n)
		hash.Write(b[:n])
		return err
	}
	columns := p.Header(c.Index).Columns()
	head, table, tail := make([]byte, erasure.HeaderLen), make([]byte, 4*columns), make([]byte, erasure.HeaderLen)
	if err := read(head); err != nil {
		return v, err
	}
	sums := make([]uint32, 0, columns)
	piece := s.pieces.Get().(*[]byte)
	defer s.pieces.Put(piece)
	for left := columns * erasure.Column; left > 0; {
		b := (*piece)[:min(left, len(*piece))]
		if err := read(b); err != nil {
			return v, err
		}
		for left -= len(b); len(b) > 0; b = b[erasure.Column:] {
			sums = append(sums, erasure.Sum(b[:erasure.Column]))
		}
	}
	if err := errors.Join(read(table), read(tail)); err != nil {
		return v, err
	}
	h, damaged, partsErr := erasure.CheckParts(head, table, tail, size, sums)
	v.State = Good
	if [sha256.Size]byte(hash.Sum(nil)) != want {
		v.State, v.Detail = Damaged, describeDamage(h, damaged, partsErr, p, c.Index)
	}
	return v, nil
}

// describeDamage says what is wrong with a shard of the right length and the
// wrong hash.
func describeDamage(h erasure.Header, damaged []int, err error, p Pack, i int) string {
	if err != nil {
		return err.Error()
	}
	if d := describeHeader(h, p, i); d != "" {
		return "wrong shard" + d
	}
	if len(damaged) > 0 {
		return fmt.Sprintf("%d of %d columns damaged, the first is %d", len(damaged), h.Columns(), damaged[0])
	}
	return "header or checksums damaged, or forged"
}

// A Task is a copy to be read.
type Task struct {
	Pack Pack
	Copy
}

// Run checks tasks in their order, those of different stores at once, and tells
// done of each; done is not called concurrently. An error of done ends it.
func (s *Scrubber) Run(ctx context.Context, tasks []Task, done func(Task, Verdict) error) error {
	byMember := map[int][]Task{}
	for _, t := range tasks {
		byMember[t.Member] = append(byMember[t.Member], t)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var telling sync.Mutex
	room := make(chan struct{}, scrubMemory<<20/scrubPiece)
	for _, list := range byMember {
		queue := make(chan Task, len(list))
		for _, t := range list {
			queue <- t
		}
		close(queue)
		for range perStore {
			wg.Go(func() {
				for t := range queue {
					room <- struct{}{}
					v := s.Check(ctx, t.Pack, t.Copy)
					<-room
					if ctx.Err() != nil {
						return
					}
					telling.Lock()
					err := done(t, v)
					telling.Unlock()
					if err != nil {
						cancel(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Attempt counts the repairs of the shard before this copy.
func (c Copy) Attempt() int { return attemptOf(c.Key) }
