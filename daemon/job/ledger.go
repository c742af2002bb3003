package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/ledger"
)

// An Actor is who acts, for the record.
type Actor struct {
	Name   string // a person's, or "strongroom" for the daemon by itself
	Role   string // "operator", "daemon"
	Source string // terminal, or "schedule"
}

// record is the ledger of a site, opened when it is first needed.
type record struct {
	once sync.Once
	l    *ledger.Ledger // nil: the box has none
	err  error
}

func (s *Site) ledgerConfig() (ledger.Config, error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return ledger.Config{}, err
	}
	return ledger.Config{Path: s.LedgerPath(), Signer: s.Box.Signer(), Incarnation: o.Incarnation, Trust: o.Boxes, Now: time.Now}, nil
}

// LedgerPath is where the ledger is.
func (s *Site) LedgerPath() string { return filepath.Join(s.Config.StateDir, "ledger") }

func (s *Site) act(kind ledger.Kind, t keys.TenantID, fields map[string]string) ledger.Act {
	return ledger.Act{Tenant: t, Kind: kind, Actor: cmp.Or(s.Actor.Name, "strongroom"), Role: cmp.Or(s.Actor.Role, "operator"), Source: cmp.Or(s.Actor.Source, "none"), Fields: fields}
}

// CreateLedger makes the ledger, with a log for each tenant.
func (s *Site) CreateLedger(ctx context.Context) (ledger.ID, error) {
	c, err := s.ledgerConfig()
	if err != nil {
		return ledger.ID{}, err
	}
	id, err := ledger.Create(c, s.act(ledger.Genesis, keys.TenantID{}, nil))
	if errors.Is(err, ledger.ErrExists) {
		return id, exit.With(exit.Refused, err)
	}
	return id, err
}

// Ledger opens the ledger; nil where the box has none. What a process that died
// left open is closed as interrupted, and told.
func (s *Site) Ledger(ctx context.Context) (*ledger.Ledger, error) {
	s.record.once.Do(func() {
		if _, err := os.Lstat(s.LedgerPath()); errors.Is(err, os.ErrNotExist) {
			return
		}
		c, err := s.ledgerConfig()
		if err != nil {
			s.record.err = err
			return
		}
		l, found, err := ledger.Open(ctx, c)
		s.record.l, s.record.err = l, err
		for _, e := range found.Interrupted {
			s.Log("the ledger has %s of %s, by %s, which was interrupted", e.Act, e.Time.Format(time.RFC3339), e.Actor)
		}
	})
	if s.record.err != nil {
		return nil, fmt.Errorf("%w: the ledger: %w", ErrRefused, s.record.err)
	}
	return s.record.l, nil
}

// acting announces an act, does it, and records how it ended. It fails closed:
// what cannot be announced is not done. Without a ledger nothing is recorded.
func (s *Site) acting(ctx context.Context, tenant string, kind ledger.Kind, fields map[string]string, do func() (map[string]string, error)) error {
	l, err := s.Ledger(ctx)
	if err != nil {
		return err
	}
	if l == nil {
		_, err := do()
		return err
	}
	var id keys.TenantID
	if tenant != "" {
		_, t, err := s.Tenant(tenant)
		if err != nil {
			return err
		}
		id = t.ID
		err = l.AddTenant(ctx, s.act(ledger.Begin, id, nil))
		if err != nil && !errors.Is(err, ledger.ErrExists) {
			return fmt.Errorf("%w: the ledger: %w", ErrRefused, err)
		}
	}
	intent, err := l.Intend(ctx, s.act(kind, id, fields))
	if err != nil {
		return fmt.Errorf("%w: the ledger does not take the act: %w", ErrRefused, err)
	}
	came, err := do()
	result := ledger.Done
	switch {
	case ctx.Err() != nil && err != nil:
		result = ledger.Interrupted
	case errors.Is(err, ErrRefused):
		result = ledger.Refused
	case err != nil:
		// Its text may quote what nobody should read here; the code says enough.
		result, came = ledger.Failed, map[string]string{"exit": fmt.Sprint(exit.Of(err))}
	}
	// It has happened, whatever ends now.
	if oerr := intent.Outcome(context.WithoutCancel(ctx), result, came); oerr != nil {
		s.Log("warning: how it ended is not in the ledger: %v", oerr)
	}
	return err
}

// closeLedger ends this process's session.
func (s *Site) closeLedger() error {
	if s.record.l == nil {
		return nil
	}
	return s.record.l.Close()
}
