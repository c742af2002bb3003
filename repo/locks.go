package repo

import (
	"context"
	"slices"

	"strongroom/repo/objectlock"
	"strongroom/repo/spread"
)

// Needs returns every object that the live snapshots of a dataset need, or of
// all with nil, on the stores that list it: shards, manifests and the
// supplements that explain further shards. What a check found bad is not
// needed, and neither is what a tombstone names. Tombstones are not needed
// either: without one more is listed, never less, and the next expiry brings it
// back from the other stores; locked, it would outlive a contract's end.
func (l *Listing) Needs(dataset *ID) []objectlock.Object {
	n := &needs{inv: l.inventory, members: len(l.inventory.Members()), seen: map[objectlock.Object]bool{}}
	generations := map[ID]bool{}
	for _, s := range l.Snapshots {
		if dataset != nil && s.Dataset != *dataset {
			continue
		}
		n.packs(generationPrefix(s.Tenant, s.Generation), s.Packs)
		for i, m := range l.inventory.Members() {
			if slices.Contains(s.Stores, m.Name) {
				n.add(i, s.Key())
			}
		}
		generations[s.Generation] = true
	}
	for g := range generations {
		n.supplements(l, g)
	}
	return n.out
}

// needs collects objects, each once.
type needs struct {
	inv     *spread.Inventory
	members int
	out     []objectlock.Object
	seen    map[objectlock.Object]bool
}

func (n *needs) add(member int, key string) {
	o := objectlock.Object{Member: member, Key: key}
	if member < n.members && !n.seen[o] {
		n.seen[o] = true
		n.out = append(n.out, o)
	}
}

func (n *needs) packs(prefix string, packs []PackRecord) {
	for _, p := range packs {
		for _, c := range n.inv.Copies(prefix, p.Pack) {
			if !c.Spoiled {
				n.add(c.Member, c.Key)
			}
		}
	}
}

func (n *needs) supplements(l *Listing, generation ID) {
	for _, s := range l.supplements {
		if s.Generation == generation {
			for _, i := range l.inventory.Holders(s.key, int64(len(s.raw))) {
				n.add(i, s.key)
			}
		}
	}
}

// keep locks what is not locked for long enough. A store that does not lock it
// keeps no snapshot from its commit: one that can be deleted is better than
// none, and whoever took the credential that locks could otherwise stop all
// backups. It is told instead, and the next run tries again.
func (s *Saver) keep(ctx context.Context, objects []objectlock.Object) error {
	r, err := s.c.Locks.Lock(ctx, objects, nil)
	for i, err := range r.Failed {
		if s.unlocked[s.r.Members[i].Name] == nil {
			s.unlocked[s.r.Members[i].Name] = err
		}
	}
	return err
}

// lockNeeded locks what a manifest that is about to commit needs, as the
// listing of ensureDurable shows it. It comes as late as possible: of a run that
// ends before, nothing is locked.
func (s *Saver) lockNeeded(ctx context.Context, m *signed) error {
	if s.c.Locks == nil || s.durable == nil {
		return nil
	}
	n := &needs{inv: s.durable, members: len(s.r.Members), seen: map[objectlock.Object]bool{}}
	n.packs(generationPrefix(m.Tenant, m.Generation), m.Packs)
	n.inv = s.listing.inventory
	n.supplements(s.listing, m.Generation)
	return s.keep(ctx, s.c.Locks.Due(n.out))
}

// lockManifest locks a manifest that was just put on store i.
func (s *Saver) lockManifest(ctx context.Context, i int, key string) error {
	return s.keep(ctx, []objectlock.Object{{Member: i, Key: key}})
}

// lockDelivered locks the shards of a snapshot on a store that is about to get
// its manifest late.
func (s *Saver) lockDelivered(ctx context.Context, snap *Snapshot, i int) error {
	if !s.c.Locks.Locks(i) {
		return nil
	}
	n := &needs{inv: s.listing.inventory, members: len(s.r.Members), seen: map[objectlock.Object]bool{}}
	n.packs(generationPrefix(snap.Tenant, snap.Generation), snap.Packs)
	mine := slices.DeleteFunc(n.out, func(o objectlock.Object) bool { return o.Member != i })
	return s.keep(ctx, s.c.Locks.Due(mine))
}
