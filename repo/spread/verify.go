package spread

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"strongroom/erasure"
	"strongroom/repo/store"
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
	h := Health{Pack: p.ID, Need: p.Geometry.K}
	for i := range p.Geometry.N {
		s := r.verifyShard(ctx, p, i, readData, &h)
		if err := ctx.Err(); err != nil {
			return h, err
		}
		if s.State == Good {
			h.Good++
		}
		h.Shards = append(h.Shards, s)
	}
	return h, nil
}

func (r *Reader) verifyShard(ctx context.Context, p Pack, i int, readData bool, h *Health) ShardHealth {
	s := ShardHealth{Index: i, State: Missing}
	for _, l := range r.inv.holders(r.prefix, p, i) {
		name := r.set.members[l.member].Name
		if !readData {
			return ShardHealth{Index: i, State: Good, Store: name}
		}
		b := make([]byte, p.ShardLen())
		if err := r.readAt(ctx, l, 0, b); err != nil {
			// What is damaged stays so; what went since the listing is missing.
			if s.State != Damaged && !errors.Is(err, store.ErrNotExist) {
				s.Store, s.State, s.Detail = name, Unknown, err.Error()
			}
			continue
		}
		h.Read += int64(len(b))
		if sha256.Sum256(b) == p.Shards[i] {
			return ShardHealth{Index: i, State: Good, Store: name}
		}
		s.Store, s.State, s.Detail = name, Damaged, describeDamage(b, p, i)
	}
	if s.State == Missing && i >= len(r.set.members) {
		s.Detail = "no store is configured for it"
	}
	if s.State != Missing || i >= len(r.set.members) {
		return s
	}
	s.Store = r.set.members[i].Name
	if err := r.set.Down(i); err != nil {
		s.State, s.Detail = Unknown, err.Error()
	} else if held := r.inv.size[p.Key(r.prefix, i, 0)]; len(held) > 0 {
		for m, size := range held {
			if size != p.ShardLen() {
				s.State, s.Store, s.Detail = Damaged, r.set.members[m].Name, fmt.Sprintf("has %d bytes, not %d", size, p.ShardLen())
			}
		}
	}
	return s
}

// describeDamage says what is wrong with a shard of the right length and the
// wrong hash.
func describeDamage(b []byte, p Pack, i int) string {
	h, damaged, err := erasure.CheckShard(b)
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

// Rebuild returns shard i of a pack, whole, from whatever shards are left. It
// needs no key: what it reads and what it returns have the SHA-256 of the
// manifest.
func (r *Reader) Rebuild(ctx context.Context, p Pack, i int) ([]byte, error) {
	k := p.Geometry.K
	payload := map[int][]byte{}
	var why []string
	for j := range p.Geometry.N {
		b, reasons := r.goodShard(ctx, p, j)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if b == nil {
			why = append(why, reasons...)
			continue
		}
		payload[j] = b[erasure.HeaderLen:erasure.PayloadOffset(p.Header(j).Columns())]
		if len(payload) == k {
			break
		}
	}
	if len(payload) < k {
		return nil, &TooFewError{Pack: p.ID, Need: k, Why: why}
	}
	made, err := erasure.Reconstruct(k, payload, i)
	if err != nil {
		return nil, err
	}
	b, err := erasure.BuildShard(p.Header(i), made)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != p.Shards[i] {
		return nil, fmt.Errorf("pack %v: shard %d made again is not the one recorded", p.ID, i)
	}
	return b, nil
}

// goodShard reads shard j whole from a store that has it right, or says why
// none gives it.
func (r *Reader) goodShard(ctx context.Context, p Pack, j int) (b []byte, why []string) {
	holders := r.inv.holders(r.prefix, p, j)
	for _, l := range holders {
		b := make([]byte, p.ShardLen())
		err := r.readAt(ctx, l, 0, b)
		if err == nil && sha256.Sum256(b) == p.Shards[j] {
			return b, nil
		}
		what := describeDamage(b, p, j)
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
