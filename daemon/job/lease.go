package job

import (
	"time"

	"strongroom/custody/keys/box"
	"strongroom/repo"
	"strongroom/repo/expire"
)

// lease keeps what listings made from now on show of a dataset, or with "" of
// all that a tenant has, from being deleted until the function it returns is
// called. Where it cannot, that is said and no more: a full or read-only disk of
// the box must keep nobody from the data.
func (s *Site) lease(holder, tenant, dataset string) (release func()) {
	var taken []*repo.Lease
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return func() {} // which the listing will say
	}
	for _, d := range t.Datasets {
		if dataset != "" && d.Name != dataset {
			continue
		}
		l, err := repo.TakeLease(s.datasetDir(t, repo.ID(d.ID)), holder, time.Time{})
		if err != nil {
			s.Log("warning: %s/%s: without a lease an expiry may take away what is looked at: %v", tenant, d.Name, err)
			continue
		}
		taken = append(taken, l)
	}
	return func() {
		for _, l := range taken {
			l.Release()
		}
	}
}

// verdict is that of a listing made now and of all that was read before: a copy
// that was found bad, and not made again since, is none.
func (s *Site) verdict(t box.Tenant) expire.Verdict {
	var told *repo.Listing
	return func(l *repo.Listing, snap *repo.Snapshot) (bool, string) {
		if told != l {
			s.spoil(t, l)
			told = l
		}
		return expire.Listed(l, snap)
	}
}
