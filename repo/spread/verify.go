package spread

import (
	"context"
	"crypto/sha256"
	"fmt"

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
		s.Store = r.set.members[l.member].Name
		if !readData {
			s.State, s.Detail = Good, ""
			return s
		}
		b := make([]byte, p.ShardLen())
		if err := readFull(ctx, r.set.members[l.member].Store, l.key, 0, b); err != nil {
			s.State, s.Detail = Unknown, err.Error()
			continue
		}
		h.Read += int64(len(b))
		if sha256.Sum256(b) == p.Shards[i] {
			s.State, s.Detail = Good, ""
			return s
		}
		s.State, s.Detail = Damaged, describeDamage(b, p, i)
	}
	if s.State != Missing || i >= len(r.set.members) {
		return s
	}
	s.Store = r.set.members[i].Name
	if err := r.set.Down(i); err != nil {
		s.State, s.Detail = Unknown, err.Error()
	} else if held := r.inv.size[p.Key(r.prefix, i, 0)]; len(held) > 0 {
		for _, size := range held {
			s.State, s.Detail = Damaged, fmt.Sprintf("has %d bytes, not %d", size, p.ShardLen())
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
