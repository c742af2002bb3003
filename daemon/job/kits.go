package job

import (
	"context"
	"fmt"
	"time"

	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
)

// IssueKit makes the next copy of a tenant's kit, as an act: who got one where
// stands in the ledger before there is one.
func (s *Site) IssueKit(ctx context.Context, tenant string, in box.Issue) (kit keys.Kit, file []byte, err error) {
	fields := map[string]string{"holder": ledger.Text(in.Holder), "place": ledger.Text(in.Place)}
	err = s.acting(ctx, tenant, kitIssue, fields, func() (map[string]string, error) {
		if kit, file, err = s.Box.IssueKit(tenant, in); err != nil {
			return nil, err
		}
		return map[string]string{"copy": fmt.Sprint(kit.Copy)}, nil
	})
	return kit, file, err
}

// ReadBackCopy registers that a copy of a kit was read back.
func (s *Site) ReadBackCopy(ctx context.Context, tenant string, number int, code string, now time.Time) error {
	return s.acting(ctx, tenant, kitReadBack, map[string]string{"copy": fmt.Sprint(number)}, func() (map[string]string, error) {
		return nil, s.Box.ReadBackCopy(tenant, number, code, now)
	})
}

// ProveCanary registers a proof of the station.
func (s *Site) ProveCanary(ctx context.Context, tenant, proof string, now time.Time) error {
	return s.acting(ctx, tenant, kitProve, nil, func() (map[string]string, error) { return nil, s.Box.ProveCanary(tenant, proof, now) })
}
