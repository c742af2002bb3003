package job

import (
	"fmt"
	"time"

	"strongroom/custody/keys/box"
	"strongroom/repo"
	"strongroom/repo/expire"
)

// leaseAll keeps what listings of a tenant made from now on show from being
// deleted until it is released.
func (s *Site) leaseAll(tenant, holder string) (release func(), err error) {
	_, t, err := s.Tenant(tenant)
	if err != nil {
		return nil, err
	}
	var taken []*repo.Lease
	release = func() {
		for _, l := range taken {
			l.Release()
		}
	}
	for _, d := range t.Datasets {
		l, err := repo.TakeLease(s.datasetDir(t, repo.ID(d.ID)), holder, time.Time{})
		if err != nil {
			release()
			return nil, fmt.Errorf("dataset %q: %w", d.Name, err)
		}
		taken = append(taken, l)
	}
	return release, nil
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
