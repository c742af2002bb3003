package spread

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"strongroom/erasure"
	"strongroom/repo/store"
)

// A Sampler compares random columns of packs with the code. Reading the same
// 64 KiB of every shard of a pack costs a few thousandths of reading all, and
// no store can know which ones it will be asked for.
type Sampler struct {
	inv    *Inventory
	prefix string
	scrub  *Scrubber
	// whole is how many packs may still be read whole in order to name the
	// store that lies.
	whole int
}

// wholeReads bounds Sampler.whole: a store of which everything is wrong is
// named after a few packs.
const wholeReads = 16

// Sampler returns a Sampler of packs under prefix. It is for one goroutine.
func (v *Inventory) Sampler(prefix string) *Sampler {
	return &Sampler{inv: v, prefix: prefix, scrub: v.Scrubber(), whole: wholeReads}
}

// A Sampled is what one column of a pack gave.
type Sampled struct {
	Read  int64
	Wrong []Found // copies that are bad, and why
	// Doubt says that the shards do not fit together where none of them could
	// be named.
	Doubt string
}

// Found is a copy and what is known of it.
type Found struct {
	Copy
	Verdict
}

// sampled is the column of one copy.
type sampled struct {
	Copy
	b []byte
}

// Column reads column c of every copy of every shard of p.
func (s *Sampler) Column(ctx context.Context, p Pack, c int) (Sampled, error) {
	var out Sampled
	have := s.columns(ctx, p, c, &out)
	if err := ctx.Err(); err != nil {
		return out, err
	}
	best := consistent(p.Geometry.K, have)
	switch {
	case len(best) < len(have):
		return out, s.locate(ctx, p, c, have, best, &out)
	case distinctShards(have, best) <= p.Geometry.K:
		// Nothing is left to compare with: any k shards fit together.
		s.compareSums(ctx, p, c, have, &out)
	}
	return out, ctx.Err()
}

func distinctShards(have []sampled, which []int) int {
	seen := map[int]bool{}
	for _, i := range which {
		seen[have[i].Index] = true
	}
	return len(seen)
}

// columns reads column c of every copy that is there.
func (s *Sampler) columns(ctx context.Context, p Pack, c int, out *Sampled) (have []sampled) {
	for _, copy := range s.inv.Copies(s.prefix, p) {
		if copy.Spoiled || s.scrub.set.Down(copy.Member) != nil {
			continue
		}
		b := make([]byte, erasure.Column)
		err := readFull(ctx, s.scrub.set.members[copy.Member].Store, copy.Key, erasure.PayloadOffset(c), b)
		switch {
		case err == nil:
			out.Read += int64(len(b))
			have = append(have, sampled{copy, b})
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrNotExist):
			out.Wrong = append(out.Wrong, Found{copy, Verdict{State: Missing, Detail: "its store lists it and does not have it"}})
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrDenied):
			s.scrub.set.Fail(copy.Member, err)
		default:
			out.Wrong = append(out.Wrong, Found{copy, Verdict{State: Damaged, Detail: err.Error()}})
		}
	}
	return have
}

// consistent returns the indexes into have of the largest set of columns that
// one message has. Every choice of k of them says what the others should be.
func consistent(k int, have []sampled) (best []int) {
	tried := 0
	basis := map[int][]byte{}
	var choose func(from int) bool
	choose = func(from int) bool {
		if len(basis) == k {
			var fit []int
			for i, s := range have {
				want, err := erasure.Reconstruct(k, basis, s.Index)
				if err == nil && bytes.Equal(want, s.b) {
					fit = append(fit, i)
				}
			}
			if len(fit) > len(best) {
				best = fit
			}
			tried++
			return len(best) == len(have) || tried == maxChoices
		}
		for i := from; i < len(have); i++ {
			if basis[have[i].Index] != nil {
				continue
			}
			basis[have[i].Index] = have[i].b
			if choose(i + 1) {
				return true
			}
			delete(basis, have[i].Index)
		}
		return false
	}
	choose(0)
	if best == nil { // fewer than k: nothing contradicts them
		for i := range have {
			best = append(best, i)
		}
	}
	return best
}

// locate names the copies whose column is wrong. Reading them whole settles it,
// for the manifest has their hashes; where all are right then, or too many were
// read whole already, the majority that fits together counts, if it is one:
// more than k shards do not fit by chance.
func (s *Sampler) locate(ctx context.Context, p Pack, c int, have []sampled, best []int, out *Sampled) error {
	found := len(out.Wrong)
	if s.whole > 0 {
		s.whole--
		for _, h := range have {
			v := s.scrub.Check(ctx, p, h.Copy)
			out.Read += v.Read
			if err := ctx.Err(); err != nil {
				return err
			}
			if v.State == Damaged || v.State == Missing {
				out.Wrong = append(out.Wrong, Found{h.Copy, v})
			}
		}
		if len(out.Wrong) > found {
			return nil
		}
	}
	if distinctShards(have, best) > p.Geometry.K {
		for i, h := range have {
			if !slices.Contains(best, i) {
				out.Wrong = append(out.Wrong, Found{h.Copy, Verdict{State: Damaged, Detail: fmt.Sprintf("column %d does not fit those of the other shards", c)}})
			}
		}
		return nil
	}
	var names []string
	for _, h := range have {
		names = append(names, fmt.Sprintf("shard %d on %q", h.Index, s.inv.members[h.Member].Name))
	}
	out.Doubt = fmt.Sprintf("column %d of %s do not fit together: at least one is wrong", c, strings.Join(names, ", "))
	return nil
}

// compareSums compares columns with the checksums in their own shards, which
// finds what decays but not what lies.
func (s *Sampler) compareSums(ctx context.Context, p Pack, c int, have []sampled, out *Sampled) {
	at := erasure.PayloadOffset(p.Header(0).Columns()) + 4*int64(c)
	for _, h := range have {
		sum := make([]byte, 4)
		err := readFull(ctx, s.inv.members[h.Member].Store, h.Key, at, sum)
		if ctx.Err() != nil {
			return
		}
		if err == nil && binary.BigEndian.Uint32(sum) != erasure.Sum(h.b) {
			out.Wrong = append(out.Wrong, Found{h.Copy, Verdict{State: Damaged, Detail: fmt.Sprintf("column %d is damaged", c)}})
		}
	}
}
