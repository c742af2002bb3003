// Package carve finds the objects of repositories on a medium whose file system
// is destroyed, and puts them into a store from which a restore works as from
// any other.
//
// It needs no file system, because every object says itself what it is: shards
// by a header at their beginning, a copy of it at their end and a checksum of
// each 64 KiB, the others by a signature. It reads the medium once, each shard
// that lies in one piece a second time, and, if some do not, the medium once
// more for all of these together: a shard's checksums are looked for at every
// place where a piece may begin.
//
// BUG: a manifest, supplement or tombstone that lies in pieces is reported and
// not put together: nothing in it says which bytes follow on which. Every
// snapshot's manifest lists the packs of those before it, and other stores have
// them too, see Config.Known.
package carve

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"strongroom/erasure"
	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

const (
	// align is the smallest unit in which file systems place files.
	align = 512
	// maxColumns bounds a shard: packs have at most 512 segments.
	maxColumns = 512
	// window is how much is read at once.
	window = 4 << 20

	// What follows bounds memory and time on a medium that somebody prepared.
	maxMarks   = 1 << 21 // beginnings and ends of shards that are remembered
	maxListed  = 1 << 22 // hashes of manifests that are remembered
	maxDamages = 1000
	maxPasses  = 64 // with maxWanted columns each: 4 TiB in pieces
)

// LostFound is where shards go that no manifest lists.
const LostFound = "lost-found/"

// A Target takes what was found. Put is that of store.Store.
type Target interface {
	Put(ctx context.Context, key string, body []byte, sum [32]byte) error
}

// Config says what to look through, and where what is found goes.
type Config struct {
	Medium io.ReaderAt
	Size   int64 // of the medium in bytes
	To     Target
	// Trust, if not nil, is asked about the signatures of manifests,
	// supplements and tombstones. Without it whole ones are taken whoever signed
	// them: a restore asks again.
	Trust repo.Trust
	// Known are manifests and supplements from elsewhere: where those of the medium
	// are lost, they say to which generation its shards belong.
	Known []*repo.Loose
	// Progress, if not nil, is told how many of how many bytes have been read.
	// The total grows once it is known that there are shards in pieces.
	Progress func(done, total int64)
}

// A Damage is something that was found and is not whole.
type Damage struct {
	Offset int64  `json:"offset"`
	What   string `json:"what"`
	Why    string `json:"why"`
}

// A Report says what was found. Copies of one object count once.
type Report struct {
	Shards      int           `json:"shards"`      // whole and stored
	InPieces    int           `json:"in_pieces"`   // of these, put together
	Unlisted    int           `json:"unlisted"`    // of these, under LostFound
	Manifests   int           `json:"manifests"`   // whole and stored
	Supplements int           `json:"supplements"` // the same
	Tombstones  int           `json:"tombstones"`
	Texts       int           `json:"texts"` // those that explain a store to people, and its marker
	Damaged     int           `json:"damaged"`
	Damages     []Damage      `json:"damages"` // the first of them
	GaveUp      string        `json:"gave_up,omitempty"`
	Unreadable  int64         `json:"unreadable"` // bytes that the device did not give
	Read        int64         `json:"read"`       // bytes that were read, some of them twice
	Took        time.Duration `json:"took"`
}

// carver is Run at work.
type carver struct {
	Config
	ctx    context.Context
	report Report
	total  int64 // for Progress
	done   int64

	heads, tails []int64             // where shards seem to begin, and their second headers
	starts       []int64             // where whole objects begin
	places       map[packKey][]place // what manifests and supplements list
	listed       int
	stored       map[string]bool // keys
	have         map[shardKey]bool
	unit         int64  // in which files lie on the medium
	buf          []byte // of one shard
	budget       int64  // bytes that may yet be read beside whole passes
}

// A packKey names an encoding of a pack, a shardKey one of its shards.
type packKey struct{ pack, encode erasure.ID }
type shardKey struct {
	packKey
	index int
}

func keyOf(h erasure.Header) shardKey { return shardKey{packKey{h.Pack, h.Encode}, h.Index} }

// A place is a generation that lists a pack.
type place struct {
	tenant, generation repo.ID
	first              int
	sums               [][32]byte
}

// Run looks through a medium. What the report says is stored is durable when it
// returns; an error means that the store or the context failed.
func Run(ctx context.Context, c Config) (*Report, error) {
	if c.Size < 0 {
		return nil, fmt.Errorf("carve: medium of %d bytes", c.Size)
	}
	began := time.Now()
	v := &carver{Config: c, ctx: ctx, total: c.Size, places: map[packKey][]place{}, stored: map[string]bool{}, have: map[shardKey]bool{},
		budget: 4*c.Size + 1<<30}
	for _, l := range c.Known {
		v.remember(l)
	}
	err := v.scan()
	if err == nil {
		err = v.whole()
	}
	if err == nil {
		err = v.pieces()
	}
	v.report.Took = time.Since(began)
	if err != nil {
		return &v.report, fmt.Errorf("carve: %w", err)
	}
	return &v.report, nil
}

// damage notes what is not whole.
func (v *carver) damage(offset int64, what, why string, args ...any) {
	v.report.Damaged++
	if len(v.report.Damages) < maxDamages {
		v.report.Damages = append(v.report.Damages, Damage{offset, what, fmt.Sprintf(why, args...)})
	}
}

func (v *carver) giveUp(why string) {
	if v.report.GaveUp == "" {
		v.report.GaveUp = why
	}
}

// spend reports whether n more bytes may be read. Bytes belong to one object,
// and are read a few times: who needs many more was led by the nose.
func (v *carver) spend(n int64) bool {
	if v.budget < n {
		v.giveUp("far more objects begin on this medium than it has room for; what was not looked at is not reported")
		return false
	}
	v.budget -= n
	return true
}

// read fills b from an offset on. What the device does not give is zero, and
// what lies behind its end is an error.
func (v *carver) read(off int64, b []byte) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	if off < 0 || off > v.Size-int64(len(b)) {
		return io.ErrUnexpectedEOF
	}
	v.report.Read += int64(len(b))
	n, err := v.Medium.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if n < 0 || n > len(b) {
		return fmt.Errorf("read at %d: %d bytes of %d: %w", off, n, len(b), err)
	}
	// A device gives up on whole requests: what is readable in it comes in small ones.
	for at := 0; at < len(b); at += 8 * align {
		part := b[at:min(at+8*align, len(b))]
		if n, _ := v.Medium.ReadAt(part, off+int64(at)); n < len(part) {
			clear(part)
			v.report.Unreadable += int64(len(part))
		}
		if err := v.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// progress tells that a pass has got n bytes further.
func (v *carver) progress(n int64) {
	v.done += n
	if v.Progress != nil {
		v.Progress(v.done, v.total)
	}
}

// put stores a whole object under its name. It reports false where another one
// is there.
func (v *carver) put(key string, body []byte, sum [32]byte) (bool, error) {
	err := v.To.Put(v.ctx, key, body, sum)
	if errors.Is(err, store.ErrExists) {
		return false, nil
	}
	if err == nil {
		v.stored[key] = true
	}
	return err == nil, err
}

// keep stores a shard all of whose checksums hold, under the name that manifests
// give it. Those go by the SHA-256: a shard that is whole and another than theirs
// is of no use to them, and kept apart.
func (v *carver) keep(offset int64, h erasure.Header, b []byte) error {
	key, sum := keyOf(h), sha256.Sum256(b)
	name := spread.Pack{ID: h.Pack, Encode: h.Encode}
	var prefixes []string
	other := map[string]bool{} // generations that list another shard here
	for _, p := range v.places[key.packKey] {
		prefix := fmt.Sprintf("%v/%v/", p.tenant, p.generation)
		if i := h.Index - p.first; i >= 0 && i < len(p.sums) && p.sums[i] != sum {
			other[prefix] = true
		}
		prefixes = append(prefixes, prefix)
	}
	prefixes = slices.DeleteFunc(prefixes, func(p string) bool { return other[p] })
	if len(prefixes) == 0 {
		if len(other) > 0 {
			v.damage(offset, name.Key("", h.Index, 0), "its checksums hold, but it is not the shard that the manifest lists; it is under %s", LostFound)
		}
		prefixes = []string{LostFound}
	}
	v.have[key] = true
	fresh := false
	for _, prefix := range prefixes {
		k := name.Key(prefix, h.Index, 0)
		if v.stored[k] {
			continue
		}
		ok, err := v.put(k, b, sum)
		if err != nil {
			return err
		}
		if !ok {
			v.damage(offset, k, "the store has another object of this name")
		}
		fresh = fresh || ok
	}
	if fresh {
		v.report.Shards++
		if prefixes[0] == LostFound {
			v.report.Unlisted++
		}
	}
	return nil
}
