package job

import (
	"context"
	"errors"
	"fmt"

	"strongroom/repo/spread"
)

// CheckResult is what a check found.
type CheckResult struct {
	Tenants   int      `json:"tenants"`
	Snapshots int      `json:"snapshots"`
	Packs     int      `json:"packs"`
	Shards    int      `json:"shards"`
	Good      int      `json:"good"`
	Read      int64    `json:"read"`     // bytes
	Problems  []string `json:"problems"` // each a line
	Lost      int      `json:"lost"`     // packs that cannot be read any more
	Away      int      `json:"away"`     // packs that cannot be read until a store is back
	Gone      int      `json:"gone"`     // snapshots that this box committed last and no store has
}

// Check compares what the stores hold with the manifests; with readData it
// reads every shard and compares its SHA-256. It needs no generation key.
func (s *Site) Check(ctx context.Context, readData bool, progress func(done, total int64)) (*CheckResult, error) {
	r := &CheckResult{Problems: []string{}}
	for _, t := range s.Config.Tenants {
		l, _, err := s.Listing(ctx, t.Name)
		if err != nil {
			return nil, err
		}
		r.Tenants++
		for _, p := range l.Problems {
			r.Problems = append(r.Problems, fmt.Sprintf("%s: %s", t.Name, p.Text))
			if b := (*behindError)(nil); errors.As(p.Err, &b) && l.Reached == len(s.Config.Stores) {
				r.Gone++
			}
		}
		seen := map[string]bool{}
		for _, snap := range l.Snapshots {
			r.Snapshots++
			if len(snap.Stores) < l.Reached {
				state := s.State(l, snap)
				r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s is %s", t.Name, snap.ID(), state))
			}
			reader := l.PackReader(snap)
			for _, p := range snap.Packs {
				if seen[p.Encode.String()] {
					continue
				}
				seen[p.Encode.String()] = true
				h, err := reader.Verify(ctx, p.Pack, readData)
				if err != nil {
					return nil, err
				}
				r.add(t.Name, snap.ID(), h)
				if progress != nil && readData {
					progress(r.Read, 0)
				}
			}
		}
	}
	return r, nil
}

func (r *CheckResult) add(tenant, snapshot string, h spread.Health) {
	r.Packs++
	r.Read += h.Read
	unknown := 0
	for _, sh := range h.Shards {
		r.Shards++
		switch sh.State {
		case spread.Good:
			r.Good++
			continue
		case spread.Unknown: // that its store is away has been said once
			unknown++
			continue
		}
		text := fmt.Sprintf("%s: snapshot %s: pack %v: shard %d", tenant, snapshot, h.Pack, sh.Index)
		if sh.Store != "" {
			text += fmt.Sprintf(" on %q", sh.Store)
		}
		text += fmt.Sprintf(" is %s", sh.State)
		if sh.Detail != "" {
			text += ": " + sh.Detail
		}
		r.Problems = append(r.Problems, text)
	}
	if h.Lost() && h.Good+unknown >= h.Need {
		r.Away++
		r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v cannot be read now: %d good shards of the %d needed, %d on stores that are away", tenant, snapshot, h.Pack, h.Good, h.Need, unknown))
	} else if h.Lost() {
		r.Lost++
		r.Problems = append(r.Problems, fmt.Sprintf("%s: snapshot %s: pack %v is lost: %d good shards of the %d needed", tenant, snapshot, h.Pack, h.Good, h.Need))
	}
}
