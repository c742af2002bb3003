package retain

import (
	"cmp"
	"fmt"
	"slices"
)

// A Generation is deleted as a whole. Objects and Bytes count what it has on all
// stores together.
type Generation struct {
	ID      string
	Epoch   uint32
	Objects int
	Bytes   int64
	// Proven says that its newest snapshot passed what proves that it restores.
	Proven bool
}

// A Fate is what becomes of a generation.
type Fate struct {
	Generation
	Snapshots []Decision // oldest first
	// Kept says why it stays; none: a tombstone may be written.
	Kept []string
}

// Judge says which generations may go: closed, every snapshot expired, and a
// newer one is there that is proven. Nothing goes where the dataset is frozen.
func Judge(gens []Generation, decisions []Decision, frozen []string) []Fate {
	gens = slices.Clone(gens)
	slices.SortFunc(gens, func(a, b Generation) int { return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.ID, b.ID)) })
	var out []Fate
	for i, g := range gens {
		f := Fate{Generation: g}
		kept := 0
		for _, d := range decisions {
			if d.Generation == g.ID {
				f.Snapshots = append(f.Snapshots, d)
				if d.Keep() {
					kept++
				}
			}
		}
		if kept > 0 {
			f.Kept = append(f.Kept, fmt.Sprintf("%d of its %d snapshots are kept", kept, len(f.Snapshots)))
		}
		newer := gens[i+1:]
		switch {
		case !slices.ContainsFunc(newer, func(n Generation) bool { return n.Epoch > g.Epoch }):
			f.Kept = append(f.Kept, "it is open: no newer generation has begun")
		case !slices.ContainsFunc(newer, func(n Generation) bool { return n.Epoch > g.Epoch && n.Proven }):
			f.Kept = append(f.Kept, "no newer generation is proven to restore")
		}
		if len(f.Snapshots) == 0 {
			f.Kept = append(f.Kept, "none of its snapshots is known")
		}
		f.Kept = append(f.Kept, frozen...)
		out = append(out, f)
	}
	return out
}
