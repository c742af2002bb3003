package spread

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/bits"

	"strongroom/erasure"
)

// State is the health of one shard.
type State string

const (
	Good    State = "good"    // present; read and hashed if that was asked for
	Missing State = "missing" // on no store that could be listed
	Damaged State = "damaged" // there, but other bytes
	Unknown State = "unknown" // its store could not be asked
)

// ShardHealth is what Verify found of one shard.
type ShardHealth struct {
	Index  int    `json:"index"`
	State  State  `json:"state"`
	Store  string `json:"store,omitempty"` // that holds it, or should
	Detail string `json:"detail,omitempty"`
}

// Health is what Verify found of one pack.
type Health struct {
	Pack   erasure.ID    `json:"-"`
	Shards []ShardHealth `json:"shards"`
	Good   int           `json:"good"` // distinct good shards
	Need   int           `json:"need"`
	Read   int64         `json:"read"` // bytes read
}

// Lost reports whether the pack cannot be read any more.
func (h Health) Lost() bool { return h.Good < h.Need }

// Whole reports whether no shard is missing or damaged.
func (h Health) Whole() bool { return h.Good == len(h.Shards) }

// Verify checks every shard of a pack: that it is listed with its length and,
// with readData, that all of it has the SHA-256 of the manifest.
func (r *Reader) Verify(ctx context.Context, p Pack, readData bool) (Health, error) {
	listed := func(Copy) Verdict { return Verdict{State: Good} }
	if !readData {
		return r.Judge(p, listed), ctx.Err()
	}
	s := newScrubber(r.set)
	h := r.Judge(p, func(c Copy) Verdict { return s.Check(ctx, p, c) })
	return h, ctx.Err()
}

// Judge sums up what is known of the copies of a pack: look says it of one. A
// shard is good when one of its copies is; the others are not looked at. Those
// of offline sets appear where a store lists them.
func (r *Reader) Judge(p Pack, look func(Copy) Verdict) Health {
	h := Health{Pack: p.ID, Need: p.Geometry.K}
	for i := range p.Geometry.N {
		s := r.judgeShard(p, i, look, &h)
		if s.State == Good {
			h.Good++
		}
		h.Shards = append(h.Shards, s)
	}
	for _, a := range p.Apart {
		if s := r.judgeShard(p, a.Index, look, &h); s.Store != "" {
			if s.State == Good {
				h.Good++
			}
			h.Shards = append(h.Shards, s)
		}
	}
	return h
}

// Shard returns what was found of shard i.
func (h Health) Shard(i int) ShardHealth {
	for _, s := range h.Shards {
		if s.Index == i {
			return s
		}
	}
	return ShardHealth{Index: i, State: Missing}
}

func (r *Reader) judgeShard(p Pack, i int, look func(Copy) Verdict, h *Health) ShardHealth {
	s := ShardHealth{Index: i, State: Missing}
	for _, l := range r.inv.holders(r.prefix, p, i) {
		name := r.set.members[l.member].Name
		v := look(Copy{i, l.member, l.key, r.inv.spoiled[l]})
		h.Read += v.Read
		switch v.State {
		case Good:
			return ShardHealth{Index: i, State: Good, Store: name}
		case Damaged:
			s.Store, s.State, s.Detail = name, Damaged, v.Detail
		case Unknown: // what is damaged stays so
			if s.State != Damaged {
				s.Store, s.State, s.Detail = name, Unknown, v.Detail
			}
		case Missing:
			if s.State == Missing {
				s.Store, s.Detail = name, "its store lists it and does not have it"
			}
		}
	}
	if s.Detail != "" {
		return s
	}
	if i >= len(r.set.members) {
		s.Detail = "no store is configured for it"
		return s
	}
	s.Store = r.set.members[i].Name
	if err := r.set.Down(i); err != nil {
		s.State, s.Detail = Unknown, err.Error()
	}
	for _, c := range r.inv.misfits(r.prefix, p, i) {
		s.State, s.Store, s.Detail = Damaged, r.set.members[c.Member].Name, r.inv.misfit(p, c)
	}
	return s
}

// misfits are objects that have a name of shard i and another length.
func (v *Inventory) misfits(prefix string, p Pack, i int) []Copy {
	var out []Copy
	first := p.Key(prefix, i, 0)
	for left := v.attempts[shardBase(first)]; left != 0; left &= left - 1 {
		key := p.Key(prefix, i, bits.TrailingZeros16(left))
		for _, m := range v.at[key] {
			if v.size[key][m] != p.ShardLen() {
				out = append(out, Copy{Index: i, Member: m, Key: key})
			}
		}
	}
	return out
}

func (v *Inventory) misfit(p Pack, c Copy) string {
	return fmt.Sprintf("has %d bytes, not %d", v.size[c.Key][c.Member], p.ShardLen())
}

// Rebuild returns shard i of a pack, whole, from whatever shards are left. It
// needs no key: what it reads and what it returns have the SHA-256 of the
// manifest.
func (r *Reader) Rebuild(ctx context.Context, p Pack, i int) ([]byte, error) {
	have, err := r.gather(ctx, p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, p.ShardLen())
	if err := erasure.RebuildShard(p.Header(i), have, b); err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != p.Sum(i) {
		return nil, fmt.Errorf("pack %v: shard %d made again is not the one recorded", p.ID, i)
	}
	return b, nil
}

// gather returns the payloads of k shards that have the SHA-256 recorded.
func (r *Reader) gather(ctx context.Context, p Pack) (map[int][]byte, error) {
	k := p.Geometry.K
	have := map[int][]byte{}
	var why []string
	for _, j := range p.Indices() {
		b, reasons := r.goodShard(ctx, p, j)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if b == nil {
			why = append(why, reasons...)
			continue
		}
		if have[j] = payloadOf(p, b); len(have) == k {
			return have, nil
		}
	}
	return nil, &TooFewError{Pack: p.ID, Need: k, Why: why}
}

// Extend returns shards first to first+k-1 of a pack, of which no hash need be
// known, from whatever shards are left. It needs no key. What it reads has the
// SHA-256 of the manifest; what it makes is right since one of those that were
// read comes out of it again: every one of k shards changes what k restore.
func (r *Reader) Extend(ctx context.Context, p Pack, first int) ([][]byte, error) {
	have, err := r.gather(ctx, p)
	if err != nil {
		return nil, err
	}
	made, payloads := make([][]byte, p.Geometry.K), map[int][]byte{}
	for n := range made {
		made[n] = make([]byte, p.ShardLen())
		if err := erasure.RebuildShard(p.Header(first+n), have, made[n]); err != nil {
			return nil, err
		}
		payloads[first+n] = payloadOf(p, made[n])
	}
	for j := range have {
		if payloads[j] != nil {
			continue // it is one of those that were read
		}
		again := make([]byte, p.ShardLen())
		if err := erasure.RebuildShard(p.Header(j), payloads, again); err != nil {
			return nil, err
		}
		if sha256.Sum256(again) != p.Sum(j) {
			return nil, fmt.Errorf("pack %v: shard %d does not come out of further shards made from it", p.ID, j)
		}
		break
	}
	return made, nil
}

// payloadOf returns the payload of a whole shard.
func payloadOf(p Pack, shard []byte) []byte {
	return shard[erasure.HeaderLen:erasure.PayloadOffset(p.Header(0).Columns())]
}

// goodShard reads shard j whole from a store that has it right, or says why
// none gives it.
func (r *Reader) goodShard(ctx context.Context, p Pack, j int) (b []byte, why []string) {
	holders := r.inv.holders(r.prefix, p, j)
	for _, l := range holders {
		b := make([]byte, p.ShardLen())
		err := r.readAt(ctx, l, 0, b)
		if err == nil && sha256.Sum256(b) == p.Sum(j) {
			return b, nil
		}
		h, damaged, partsErr := erasure.CheckShard(b)
		what := describeDamage(h, damaged, partsErr, p, j)
		if err != nil {
			what = err.Error()
		}
		why = append(why, fmt.Sprintf("shard %d on %q: %s", j, r.set.members[l.member].Name, what))
	}
	if len(holders) == 0 {
		why = append(why, r.missing(j))
	}
	return nil, why
}
