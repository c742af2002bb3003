package job

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/receipt"
	"strongroom/repo"
)

const (
	// closedWithin is for how long a drill of a closed generation counts: a
	// quarter, and two weeks for people to meet.
	closedWithin = 105 * day
	// provenFor is for how long it counts that real shares opened a kit.
	provenFor = 400 * day
	// firstProof is how long a new tenant may go without.
	firstProof = 14 * day
)

// Closed is a snapshot of a generation that is closed, and whose key is not on
// this box: only k shares open it.
type Closed struct {
	Tenant   string `json:"tenant"`
	Dataset  string `json:"dataset"`
	Snapshot string `json:"snapshot"`
	Epoch    uint32 `json:"epoch"`
	// Of is among how many generations it was chosen, by Checkpoint.
	Of         int    `json:"of"`
	Checkpoint string `json:"checkpoint"` // root hash of the ledger, in hex

	TenantID keys.TenantID         `json:"-"`
	Sealed   keys.SealedGeneration `json:"-"`
}

// ChooseClosed picks a closed generation of a tenant to be drilled, and its newest
// snapshot. Which one follows from the ledger's newest checkpoint: nobody can
// choose what will be proven, or prepare it.
func (s *Site) ChooseClosed(ctx context.Context, tenant string) (*Closed, error) {
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return nil, err
	}
	l, err := s.Ledger(ctx)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, exit.With(exit.Refused, errors.New("the ledger chooses what is drilled, and this box has none: strongroom audit init"))
	}
	head, err := l.Head(ctx, keys.TenantID{})
	if err != nil {
		return nil, err
	}
	all, err := s.closed(ctx, t)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: every generation of tenant %q that has a snapshot opens with what is on this box", repo.ErrNoSnapshot, tenant)
	}
	snap := chosen(all, head.Root[:], t.ID)
	epoch, _ := snap.Place()
	return &Closed{Tenant: tenant, Dataset: snap.Entry.Dataset, Snapshot: snap.ID(), Epoch: epoch, Of: len(all), Checkpoint: fmt.Sprintf("%x", head.Root[:]), TenantID: t.ID,
		Sealed: keys.SealedGeneration{Dataset: keys.DatasetID(snap.Dataset), Generation: keys.GenerationID(snap.Generation), Capsule: snap.Capsule}}, nil
}

// chosen is one of the snapshots, by a hash. That of 64 bits is as good as even
// over so few.
func chosen(all []*repo.Snapshot, root []byte, tenant keys.TenantID) *repo.Snapshot {
	h := sha256.Sum256(slices.Concat([]byte("strongroom drill of a closed generation v1"), root, tenant[:]))
	return all[binary.BigEndian.Uint64(h[:8])%uint64(len(all))]
}

// closed lists the generations whose keys are not here, each by its newest
// snapshot, in the order of their identities.
func (s *Site) closed(ctx context.Context, t box.Tenant) ([]*repo.Snapshot, error) {
	l, _, err := s.Listing(ctx, t.Name)
	if err != nil {
		return nil, err
	}
	newest := map[repo.ID]*repo.Snapshot{}
	for _, snap := range l.Snapshots {
		if snap.Entry == nil || snap.Tombstone != nil {
			continue
		}
		if n := newest[snap.Generation]; n == nil || n.Time.Before(snap.Time) {
			newest[snap.Generation] = snap
		}
	}
	var out []*repo.Snapshot
	for _, snap := range newest {
		key, err := boxKeys{s.Box, t}.Generation(repo.ID(t.ID), snap.Dataset, snap.Generation)
		if err != nil {
			return nil, err
		}
		if key == nil {
			out = append(out, snap)
		}
	}
	slices.SortFunc(out, func(a, b *repo.Snapshot) int { return strings.Compare(a.Generation.String(), b.Generation.String()) })
	return out, nil
}

// A Proof is one that only people can give, and that is due.
type Proof struct {
	Tenant string
	What   string // "kit", "closed"
	Reason string
	By     time.Time
}

// ProofsDue lists them: that real shares open the kit of each tenant, and that a
// closed generation of those above confidential restores.
func (s *Site) ProofsDue(ctx context.Context, now time.Time) ([]Proof, error) {
	past, err := s.Recent(now.Add(-closedWithin))
	if err != nil {
		return nil, err
	}
	var out []Proof
	for _, c := range s.Config.Tenants {
		if c.Name == SelfTenant {
			continue
		}
		_, t, err := s.Tenant(c.Name)
		if err != nil {
			return nil, err
		}
		if p, due := kitProof(t, now); due {
			out = append(out, p)
		}
		if t.Level == keys.Confidential || drilledClosed(past, c.Name) {
			continue
		}
		all, err := s.closed(ctx, t)
		if err != nil {
			return nil, err
		}
		if p, due := closedProof(c.Name, all, now); due {
			out = append(out, p)
		}
	}
	return out, nil
}

// closedProof is due once a generation has been closed for long, and none of the
// tenant's was drilled.
func closedProof(tenant string, all []*repo.Snapshot, now time.Time) (Proof, bool) {
	if len(all) == 0 {
		return Proof{}, false
	}
	first := slices.MinFunc(all, func(a, b *repo.Snapshot) int { return a.Entry.Point.Compare(b.Entry.Point) })
	by := first.Entry.Point.Add(closedWithin)
	return Proof{tenant, "closed", "no closed generation was drilled for a quarter: strongroom drill closed " + tenant, by}, !now.Before(by)
}

func kitProof(t box.Tenant, now time.Time) (Proof, bool) {
	p := Proof{Tenant: t.Name, What: "kit", By: t.Proven.Add(provenFor), Reason: "real shares last opened a kit on " + t.Proven.Format("2006-01-02")}
	if t.Proven.IsZero() {
		p.By, p.Reason = t.Created.Add(firstProof), "real shares have never opened a kit"
	}
	p.Reason += ": strongroom station prove, and strongroom keys kit " + t.Name + " --proof"
	return p, !now.Before(p.By)
}

// drilledClosed reports whether one of a tenant's ended well.
func drilledClosed(past []*receipt.Receipt, tenant string) bool {
	return slices.ContainsFunc(past, func(r *receipt.Receipt) bool {
		return r.Tenant == tenant && r.Kind == receipt.Closed && r.Verdict == receipt.PASS
	})
}
