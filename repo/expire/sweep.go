package expire

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store"
)

// A Deleter is what may delete from a store. The credential that writes must
// not be able to.
type Deleter interface {
	// Delete removes an object, all versions of it where there are several; nil
	// if none has that key. It returns when the removal is durable.
	Delete(ctx context.Context, key string) error
}

// MaxShare is the share of a tenant's objects on a store that one run deletes
// at most: a mistake is to be noticed while most is still there.
const MaxShare = 0.25

// leastRoom is how many objects a run may delete however small a store is.
const leastRoom = 16

// A Deletion is what one store loses in this run.
type Deletion struct {
	Store      string `json:"store"`
	Generation string `json:"generation"`
	Objects    int    `json:"objects"`
	Bytes      int64  `json:"bytes"`
	Left       int    `json:"left"` // objects of the generation for later runs

	member int // -1: the spool
	keys   []string
}

// sweep plans what to delete. Unlike bury it asks no policy: a standing
// tombstone and what is signed are enough, which is why another process with
// another user's rights can do it.
func (p *Plan) sweep(ctx context.Context, now time.Time) error {
	leases, err := repo.Leases(p.c.Dir, now)
	if err != nil {
		return err
	}
	room := p.room()
	var seen []repo.ID
	for _, t := range p.stones() {
		if slices.Contains(seen, t.Generation) {
			continue
		}
		seen = append(seen, t.Generation)
		spooled, err := p.spooled(ctx, t.Generation)
		if err != nil {
			return err
		}
		left := p.left(t.Generation)
		if spooled.Objects+len(left) == 0 {
			continue
		}
		stuck, waiting := p.mayNot(t, now)
		for _, l := range leases {
			waiting = append(waiting, "in use: "+l.Holder)
		}
		if why := strings.Join(append(stuck, waiting...), "; "); why != "" {
			to := &p.Waiting
			if len(stuck) > 0 {
				to = &p.Stuck
			}
			*to = append(*to, fmt.Sprintf("generation %d is buried and stays for now: %s", t.Epoch, why))
			continue
		}
		if spooled.Objects > 0 {
			p.Deletions = append(p.Deletions, spooled)
		}
		for _, d := range left {
			p.admit(ctx, t.Epoch, d, room, now)
		}
	}
	return nil
}

// admit puts as much of a deletion into the plan as this run may do.
func (p *Plan) admit(ctx context.Context, epoch uint32, d Deletion, room []int, now time.Time) {
	if d.member >= len(p.c.Deleters) || p.c.Deleters[d.member] == nil {
		p.Waiting = append(p.Waiting, fmt.Sprintf("generation %d, %d objects on %s: there is no credential that may delete", epoch, len(d.keys), d.Store))
		return
	}
	all := len(d.keys)
	free, until := p.unlocked(ctx, d, min(all, room[d.member]), now)
	d.keys, d.Left = free, all-len(free)
	n := len(free)
	room[d.member] -= n
	if !until.IsZero() {
		p.Waiting = append(p.Waiting, fmt.Sprintf("generation %d, objects on %s: they are locked, until %s the longest that was asked for", epoch, d.Store, until.UTC().Format(time.RFC3339)))
	} else if d.Left > 0 {
		p.Waiting = append(p.Waiting, fmt.Sprintf("generation %d, %d objects on %s: a run deletes at most %d %% of a store", epoch, d.Left, d.Store, int(MaxShare*100)))
	}
	d.Objects, d.Bytes = n, 0
	for _, k := range d.keys {
		d.Bytes += p.l.Inventory().Size(k, d.member)
	}
	if n > 0 {
		p.Deletions = append(p.Deletions, d)
	}
}

// lockAsks is how many objects are asked about at once.
const lockAsks = 16

// unlocked returns the first most objects of a deletion that no lock keeps, and
// when the last lock ends that was found on the way; zero: there was none.
// Where the first ones are all locked so are the others: what a generation has
// is locked together. Manifests stay as long as anything else is left there.
func (p *Plan) unlocked(ctx context.Context, d Deletion, most int, now time.Time) (free []string, until time.Time) {
	l, ok := p.c.Repo.Members[d.member].Store.(store.Locker)
	if !ok {
		return d.keys[:most], until
	}
	for rest := d.keys; len(rest) > 0 && len(free) < most; {
		some := rest[:min(lockAsks, len(rest), most-len(free))]
		rest = rest[len(some):]
		kept := make([]time.Time, len(some))
		var wg sync.WaitGroup
		for i, key := range some {
			wg.Go(func() {
				// One that cannot be asked about is tried: its lock, if there is one,
				// keeps it then.
				if r, err := l.Retained(ctx, key); err == nil && r.Until.After(now) {
					kept[i] = r.Until
				}
			})
		}
		wg.Wait()
		for i, key := range some {
			switch {
			case !kept[i].IsZero():
				if kept[i].After(until) {
					until = kept[i]
				}
			case until.IsZero() || !strings.Contains(key, "/m-"):
				free = append(free, key)
			}
		}
		if len(free) == 0 {
			break
		}
	}
	return free, until
}

// room is how many objects each store may lose now.
func (p *Plan) room() []int {
	count := make([]int, len(p.c.Repo.Members))
	for _, at := range p.l.Inventory().Keys() {
		for _, m := range at {
			count[m]++
		}
	}
	for i, n := range count {
		count[i] = max(leastRoom, int(MaxShare*float64(n)))
	}
	return count
}

// mayNot says why nothing of a buried generation may be deleted now, and which
// of that time alone does not settle.
func (p *Plan) mayNot(t *repo.StandingTombstone, now time.Time) (stuck, waiting []string) {
	named := map[string]bool{}
	for _, o := range p.stones() { // stores may have different ones of a generation: all count
		if o.Generation != t.Generation {
			continue
		}
		for _, g := range o.Snapshots {
			named[fmt.Sprintf("m-%08x", g.Sequence)] = true
		}
		if o.NotBefore.After(now) {
			waiting = append(waiting, fmt.Sprintf("its grace ends %s", o.NotBefore.UTC().Format(time.DateOnly)))
		}
		lack, away := p.without(o)
		if len(lack) > 0 {
			waiting = append(waiting, fmt.Sprintf("its tombstone has not been seen on %s", strings.Join(lack, ", ")))
		}
		if len(away) > 0 {
			stuck = append(stuck, fmt.Sprintf("its tombstone has never been seen on %s, which is away", strings.Join(away, ", ")))
		}
	}
	newer := false
	for _, s := range p.l.Of(p.c.Dataset) {
		if s.Generation == t.Generation {
			stuck = append(stuck, fmt.Sprintf("snapshot %s is in it, which no tombstone names", s.ID()))
		}
		if s.Epoch > t.Epoch && !newer {
			newer, _ = p.c.Verdict(p.l, s)
		}
	}
	if !newer {
		stuck = append(stuck, "no newer generation is proven to restore")
	}
	for key := range p.l.Inventory().Keys() {
		f := strings.Split(key, "/")
		if len(f) == 3 && f[1] == t.Generation.String() && strings.HasPrefix(f[2], "m-") && !named[f[2]] {
			stuck = append(stuck, fmt.Sprintf("manifest %s is there, which no tombstone names", f[2]))
		}
	}
	slices.Sort(stuck)
	slices.Sort(waiting)
	return slices.Compact(stuck), slices.Compact(waiting)
}

// without names the stores on which no listing showed this tombstone: those
// that were listed now, and those that are away and did not show it before.
func (p *Plan) without(t *repo.StandingTombstone) (lack, away []string) {
	for i, m := range p.c.Repo.Members {
		switch {
		case slices.Contains(t.Stores, m.Name):
		case p.l.Inventory().Failed(i) == nil:
			lack = append(lack, m.Name)
		case !slices.Contains(p.state.Confirmed[t.Key()], m.Name):
			away = append(away, m.Name)
		}
	}
	return lack, away
}

// left is what the stores that were listed still have of a generation beside
// tombstones, manifests last: as long as there is a manifest, it tells whose
// the rest is.
func (p *Plan) left(g repo.ID) []Deletion {
	prefix := p.c.Repo.Tenant.String() + "/" + g.String() + "/"
	by := map[int][]string{}
	for key, at := range p.l.Inventory().Keys() {
		if !strings.HasPrefix(key, prefix) || strings.HasPrefix(key[len(prefix):], "t-") {
			continue
		}
		for _, m := range at {
			by[m] = append(by[m], key)
		}
	}
	var out []Deletion
	for i, m := range p.c.Repo.Members {
		if keys := by[i]; len(keys) > 0 {
			isManifest := func(k string) int { return min(strings.Count(k[len(prefix):], "m-"), 1) }
			slices.SortFunc(keys, func(a, b string) int { return cmp.Or(isManifest(a)-isManifest(b), cmp.Compare(a, b)) })
			out = append(out, Deletion{Store: m.Name, Generation: g.String(), member: i, keys: keys})
		}
	}
	return out
}

// spooled is what waits in the spool for stores that were away: it must not
// reach them any more.
func (p *Plan) spooled(ctx context.Context, g repo.ID) (Deletion, error) {
	d := Deletion{Store: "spool", Generation: g.String(), member: -1}
	if p.c.Spool == nil {
		return d, nil
	}
	for info, err := range p.c.Spool.List(ctx, p.c.Repo.Tenant.String()+"/"+g.String()+"/") {
		if err != nil {
			return d, fmt.Errorf("spool: %w", err)
		}
		d.keys = append(d.keys, info.Key)
		d.Bytes += info.Size
	}
	d.Objects = len(d.keys)
	return d, nil
}

// clean deletes what the plan says, store by store. One that fails stops its
// own part only.
func (p *Plan) clean(ctx context.Context) error {
	var errs []error
	for _, d := range p.Deletions {
		if leases, err := repo.Leases(p.c.Dir, p.c.Now()); err != nil || len(leases) > 0 {
			errs = append(errs, cmp.Or(err, errors.New("a reader has come: the rest is for the next run")))
			break
		}
		if err := p.delete(ctx, d); errors.Is(err, store.ErrLocked) {
			p.Later = append(p.Later, fmt.Sprintf("store %q: %v", d.Store, err))
		} else if err != nil {
			errs = append(errs, fmt.Errorf("store %q: %w", d.Store, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// delete deletes what it can. A lock that keeps an object is no failure, and
// the rest goes: what was locked goes when that is over.
func (p *Plan) delete(ctx context.Context, d Deletion) error {
	var locked error
	kept := map[string]bool{}
	for _, key := range d.keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if d.member < 0 {
			err = p.c.Spool.Remove(key)
		} else {
			err = p.c.Deleters[d.member].Delete(ctx, key)
		}
		if errors.Is(err, store.ErrLocked) {
			locked, kept[key] = err, true
		} else if err != nil {
			return err
		}
	}
	if d.member < 0 {
		return nil
	}
	// Only a listing tells that they are gone.
	prefix := d.keys[0][:strings.LastIndexByte(d.keys[0], '/')+1]
	inv := spread.List(ctx, p.c.Repo.Members[d.member:d.member+1], prefix)
	if err := inv.Failed(0); err != nil {
		return err
	}
	still := 0
	for _, key := range d.keys {
		if len(inv.Keys()[key]) > 0 && !kept[key] {
			still++
		}
	}
	if still > 0 {
		return fmt.Errorf("%d of %d objects that it says it deleted are still listed", still, len(d.keys))
	}
	return locked
}

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// Gone returns the buried generations of which nothing was left when the plan
// was made, on any store; none unless every store was listed.
func (p *Plan) Gone() []repo.ID {
	if p.l.Reached < len(p.c.Repo.Members) || len(p.Frozen) > 0 {
		return nil
	}
	var out []repo.ID
	for _, t := range p.stones() {
		if !slices.Contains(out, t.Generation) && len(p.left(t.Generation)) == 0 {
			out = append(out, t.Generation)
		}
	}
	return out
}
