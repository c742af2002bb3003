package job

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"strongroom/daemon/config"
	"strongroom/erasure"
	"strongroom/repo"
)

// StoreUsage is how full a store is, and when it will be full.
type StoreUsage struct {
	Store string `json:"store"`
	Held  int64  `json:"held"` // bytes of what this box's tenants have there
	Error string `json:"error,omitempty"`
	// Free is how many bytes it still takes: what its file system has left or
	// its quota leaves, whichever is less; nil if neither is known.
	Free *int64 `json:"free,omitempty"`
	// PerWeek is how many bytes a week it got lately, not counting what expires;
	// nil if there are too few snapshots to tell.
	PerWeek *int64 `json:"per_week,omitempty"`
	// Full is when that will have filled it; nil if that is not known or more
	// than a hundred years away.
	Full *time.Time `json:"full,omitempty"`
}

// usageWindow is how far back additions are counted: a generation of 26 weekly
// snapshots, so that the full one among them counts once.
const usageWindow = 26 * 7 * 24 * time.Hour

// Usage says of every store how full it is and when it will be full, and the
// same of the box, of which only the free space is known.
func (s *Site) Usage(ctx context.Context, now time.Time) ([]StoreUsage, error) {
	out := make([]StoreUsage, len(s.Config.Stores))
	added := make([]growth, len(out))
	for i, c := range s.Config.Stores {
		out[i].Store = c.Name
	}
	for _, c := range s.Config.Tenants {
		l, _, err := s.Listing(ctx, c.Name)
		if err != nil {
			return nil, err
		}
		inv := l.Inventory()
		for i := range out {
			if err := inv.Failed(i); err != nil {
				out[i].Error = err.Error()
			}
		}
		for key, at := range inv.Keys() {
			for _, i := range at {
				out[i].Held += inv.Size(key, i)
			}
		}
		grown(l, added, now)
	}
	for i, c := range s.Config.Stores {
		u := &out[i]
		if u.Error == "" {
			u.Free = room(c, u.Held)
			u.PerWeek, u.Full = added[i].forecast(u.Free, now)
		}
	}
	return append(out, s.boxUsage()), nil
}

// boxUsage is the state directory's: what waits there for stores that are away.
func (s *Site) boxUsage() StoreUsage {
	u := StoreUsage{Store: "(box)", Free: freeIn(s.Config.StateDir)}
	spools, _ := filepath.Glob(filepath.Join(s.Config.StateDir, "datasets", "*", "*", "spool"))
	for _, dir := range spools {
		_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					u.Held += info.Size()
				}
			}
			return nil
		})
	}
	return u
}

// room returns how many bytes a store that holds so many still takes.
func room(c config.Store, held int64) (free *int64) {
	if c.Kind == "dir" {
		free = freeIn(c.Path)
	}
	if c.Quota != nil {
		if left := max(c.Quota.Bytes-held, 0); free == nil || left < *free {
			free = &left
		}
	}
	return free
}

func freeIn(dir string) *int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return nil
	}
	free := int64(st.Bavail) * st.Bsize
	return &free
}

// growth is what a store got, dataset by dataset.
type growth struct {
	rate  float64 // bytes a second
	known bool
}

// grown adds what a tenant's snapshots brought to each store. The first one of
// a dataset is where counting begins: a first backup says nothing of the next.
func grown(l *repo.Listing, added []growth, now time.Time) {
	inv := l.Inventory()
	for rest := l.Snapshots; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Dataset == rest[0].Dataset {
			n++
		}
		all := rest[:n]
		rest = rest[n:]
		from := now.Add(-usageWindow)
		if all[0].Time.After(from) {
			from = all[0].Time
		}
		span := now.Sub(from)
		if n < 2 || span < 24*time.Hour {
			continue
		}
		seen := map[erasure.ID]bool{}
		bytes := make([]int64, len(added))
		for _, snap := range all {
			prefix := snap.Key()[:strings.LastIndexByte(snap.Key(), '/')+1]
			for _, p := range snap.Packs {
				if seen[p.Encode] {
					continue
				}
				seen[p.Encode] = true
				if snap == all[0] || snap.Time.Before(from) {
					continue
				}
				for _, at := range inv.Present(prefix, p.Pack) {
					for _, i := range at {
						bytes[i] += p.ShardLen()
					}
				}
			}
		}
		for i := range added {
			added[i].rate += float64(bytes[i]) / span.Seconds()
			added[i].known = true
		}
	}
}

// forecast returns bytes a week, and when they will have taken free bytes.
func (g growth) forecast(free *int64, now time.Time) (perWeek *int64, full *time.Time) {
	if !g.known {
		return nil, nil
	}
	const week = 7 * 24 * time.Hour
	n := int64(g.rate * week.Seconds())
	if free == nil || g.rate <= 0 {
		return &n, nil
	}
	if left := float64(*free) / g.rate; left < (100 * 365 * 24 * time.Hour).Seconds() {
		at := now.Add(time.Duration(left * float64(time.Second))).UTC().Truncate(time.Hour)
		full = &at
	}
	return &n, full
}

// Left says in words how long it takes until then.
func (u StoreUsage) Left(now time.Time) string {
	switch {
	case u.Error != "":
		return "away"
	case u.Full == nil && u.PerWeek != nil && u.Free != nil:
		return "not in sight"
	case u.Full == nil:
		return "not known"
	}
	if days := int(u.Full.Sub(now).Hours() / 24); days < 28 {
		return fmt.Sprintf("in %d days", days)
	}
	return fmt.Sprintf("in %d weeks", int(u.Full.Sub(now).Hours()/24/7))
}
