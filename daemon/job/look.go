package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"strongroom/custody/ledger"
	"strongroom/custody/media"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/source"
)

// SpoolUsage is what of a dataset waits on the box for stores that are away.
type SpoolUsage struct {
	Tenant  string     `json:"tenant"`
	Dataset string     `json:"dataset"`
	Held    int64      `json:"held"`
	Bound   int64      `json:"bound"`           // beyond it snapshots fail
	Since   *time.Time `json:"since,omitempty"` // the oldest waits
	Full    *time.Time `json:"full,omitempty"`  // if it goes on so
}

// Spools says of every configured dataset what waits on the box, and when that
// will be all that it may, or all that the box has room for.
func (s *Site) Spools(now time.Time) ([]SpoolUsage, error) {
	var out []SpoolUsage
	free := freeIn(s.Config.StateDir)
	for _, c := range s.Config.Tenants {
		_, t, err := s.Tenant(c.Name)
		if err != nil {
			return nil, err
		}
		for _, known := range t.Datasets {
			d, ok := c.Dataset(known.Name)
			if !ok {
				continue
			}
			u := SpoolUsage{Tenant: c.Name, Dataset: d.Name, Bound: bound(d.Spool, config.DefaultSpool)}
			if err := u.measure(filepath.Join(s.datasetDir(t, repo.ID(known.ID)), "spool")); err != nil {
				return nil, fmt.Errorf("spool of %s/%s: %w", c.Name, d.Name, err)
			}
			u.forecast(free, now)
			out = append(out, u)
		}
	}
	return out, nil
}

func (u *SpoolUsage) measure(dir string) error {
	return filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // none yet, or delivered a moment ago
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		u.Held += info.Size()
		if at := info.ModTime(); u.Since == nil || at.Before(*u.Since) {
			u.Since = &at
		}
		return nil
	})
}

// forecast takes it that the spool goes on as it came since the oldest of it,
// which is a week at least: the first backup that finds a store away fills it
// at once, and the next one comes after some days.
func (u *SpoolUsage) forecast(free *int64, now time.Time) {
	if u.Held == 0 {
		return
	}
	room := max(u.Bound-u.Held, 0)
	if free != nil {
		room = min(room, *free)
	}
	span := max(now.Sub(*u.Since), 7*day)
	left := float64(room) / (float64(u.Held) / span.Seconds())
	if left < (10 * 365 * day).Seconds() {
		at := now.Add(time.Duration(left * float64(time.Second))).UTC().Truncate(time.Hour)
		u.Full = &at
	}
}

// CheckLedger reads the whole ledger and compares every hash and checkpoint;
// nil also where the box has none.
func (s *Site) CheckLedger(ctx context.Context) error {
	if _, err := os.Lstat(s.LedgerPath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	o, err := s.Box.Organisation()
	if err != nil {
		return err
	}
	_, err = ledger.Verify(ctx, s.LedgerPath(), o.Boxes, nil)
	return err
}

// MediaDue returns what is to be done with offline media now; nothing where the
// configuration has none.
func (s *Site) MediaDue() ([]media.Due, error) {
	if s.Config.Media == nil {
		return nil, nil
	}
	m, err := s.Media("strongroom")
	if err != nil {
		return nil, err
	}
	all, err := m.Due()
	if err != nil {
		return nil, err
	}
	now := m.now()
	return slices.DeleteFunc(all, func(d media.Due) bool { return d.From.After(now) }), nil
}

// Bad lists what an examination found of a subject that makes backups fail, a
// word each.
func (r *DoctorResult) Bad(subject string) (codes []string) {
	for _, x := range r.Examined {
		for _, f := range x.Findings {
			if x.Subject == subject && f.Severity == source.Bad {
				codes = append(codes, f.Code)
			}
		}
	}
	return codes
}
