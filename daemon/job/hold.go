package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
	"strongroom/repo"
	"strongroom/repo/retain"
)

// holdsName is the file of legal holds in the state directory. It is replaced
// whole, under a lock of its own: a hold may come while anything else runs.
const holdsName = "holds"

// Holds returns all legal holds. A file that cannot be read is an error, for
// then nothing may go.
func (s *Site) Holds() ([]retain.Hold, error) {
	path := filepath.Join(s.Config.StateDir, holdsName)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []retain.Hold
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("legal holds: %s: %w", path, err)
	}
	return out, nil
}

// holdsOn returns the holds that concern a dataset or anything in it: a
// generation goes only whole, so a hold on one snapshot stops the dataset.
func (s *Site) holdsOn(tenant, dataset string) ([]retain.Hold, error) {
	all, err := s.Holds()
	name := tenant + "/" + dataset
	return slices.DeleteFunc(all, func(h retain.Hold) bool {
		return h.Scope != tenant && h.Scope != name && !strings.HasPrefix(h.Scope, name+"@")
	}), err
}

// AddHold makes a hold on TENANT, TENANT/DATASET or TENANT/DATASET@SNAPSHOT. It
// is durable on return. The name need not be configured any more.
func (s *Site) AddHold(ctx context.Context, scope, reason string, now time.Time) (retain.Hold, error) {
	h := retain.Hold{Scope: scope, Reason: reason, Since: now.UTC().Truncate(time.Second)}
	if strings.TrimSpace(reason) == "" || len(reason) > 500 || strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return h, exit.With(exit.Usage, errors.New("a hold needs a reason of one line, at most 500 bytes"))
	}
	return h, s.holding(ctx, ledger.HoldAdd, scope, reason, func(all []retain.Hold) ([]retain.Hold, error) {
		if slices.ContainsFunc(all, func(o retain.Hold) bool { return o.Scope == scope }) {
			return nil, fmt.Errorf("%w: there is a hold on %s already", ErrRefused, scope)
		}
		return append(all, h), nil
	})
}

// RemoveHold ends a hold.
func (s *Site) RemoveHold(ctx context.Context, scope string) error {
	return s.holding(ctx, holdRemove, scope, "", func(all []retain.Hold) ([]retain.Hold, error) {
		n := len(all)
		all = slices.DeleteFunc(all, func(o retain.Hold) bool { return o.Scope == scope })
		if len(all) == n {
			return nil, exit.With(exit.Usage, fmt.Errorf("there is no hold on %s", scope))
		}
		return all, nil
	})
}

// holding changes the holds as an act, in the log of the tenant, or in the
// system's where the box never had keys of one of that name.
func (s *Site) holding(ctx context.Context, kind ledger.Kind, scope, reason string, change func([]retain.Hold) ([]retain.Hold, error)) error {
	tenant := scope[:strings.IndexAny(scope+"/", "/@")]
	if _, err := s.Box.Tenant(tenant); errors.Is(err, box.ErrNoTenant) {
		tenant = ""
	} else if err != nil {
		return err
	}
	fields := map[string]string{"scope": ledger.Text(scope)}
	if reason != "" {
		fields["reason"] = ledger.Text(reason)
	}
	return s.acting(ctx, tenant, kind, fields, func() (map[string]string, error) { return nil, s.changeHolds(change) })
}

func (s *Site) changeHolds(change func([]retain.Hold) ([]retain.Hold, error)) error {
	path := filepath.Join(s.Config.StateDir, holdsName)
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	all, err := s.Holds()
	if err != nil {
		return err
	}
	if all, err = change(all); err != nil {
		return err
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return repo.ReplaceFile(path, b)
}
