package job

import (
	"context"
	"encoding/json"
	"time"

	"strongroom/daemon/state"
	"strongroom/repo"
)

// Listed is a snapshot as it is listed.
type Listed struct {
	Snapshot  string          `json:"snapshot"`
	Epoch     uint32          `json:"epoch"`
	Sequence  uint32          `json:"sequence"`
	Time      time.Time       `json:"time"`
	KeepUntil *time.Time      `json:"keep_until,omitempty"`
	State     string          `json:"state"`
	Stores    []string        `json:"stores"`
	Margin    int             `json:"margin"` // stores that may be lost before it is; -1: it cannot be restored now
	Conflict  bool            `json:"conflict,omitempty"`
	Tenant    string          `json:"tenant"`
	Catalogue *repo.Catalogue `json:"catalogue"`
}

// List is a snapshot of a listing; its catalogue entry could be opened.
func (s *Site) List(l *repo.Listing, tenant string, snap *repo.Snapshot) Listed {
	it := Listed{Snapshot: snap.ID(), Epoch: snap.Epoch, Sequence: snap.Sequence, Time: snap.Time, State: s.State(l, snap),
		Stores: snap.Stores, Margin: l.Margin(snap), Conflict: snap.Conflict, Tenant: tenant, Catalogue: snap.Entry}
	if !snap.KeepUntil.IsZero() {
		it.KeepUntil = &snap.KeepUntil
	}
	return it
}

// Catalogue lists a tenant's snapshots for the cache of names and times. What
// stores that are away would say is not in it.
func (s *Site) Catalogue(ctx context.Context, tenant string) ([]state.Cached, error) {
	l, _, err := s.Listing(ctx, tenant)
	if err != nil {
		return nil, err
	}
	out := []state.Cached{}
	for _, snap := range l.Snapshots {
		if snap.Entry == nil {
			continue
		}
		b, err := json.Marshal(s.List(l, tenant, snap))
		if err != nil {
			return nil, err
		}
		out = append(out, state.Cached{Dataset: snap.Entry.Dataset, Snapshot: snap.ID(), Epoch: snap.Epoch, Sequence: snap.Sequence, Taken: snap.Time, Entry: b})
	}
	return out, nil
}
