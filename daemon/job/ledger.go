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
	"strongroom/custody/keys/box"
	"strongroom/custody/ledger"
)

// An Actor is who acts, for the record.
type Actor struct {
	Name   string // a person's, or "strongroom" for the daemon by itself
	Role   string // "operator", "daemon"
	Source string // terminal, or "schedule"
}

// record is the ledger of a process, opened when it is first needed.
type record struct {
	// changed holds one after an act, where somebody else copies; nil: each act
	// is copied when it has ended.
	changed chan struct{}

	mu      sync.Mutex
	l       *ledger.Ledger // nil: the box has none, or it was not needed; guarded by mu, as what follows
	err     error
	checked bool // the anchors were
}

func newRecord() *record { return &record{} }

func (s *Site) ledgerConfig() (ledger.Config, error) {
	o, err := s.Box.Organisation()
	if err != nil {
		return ledger.Config{}, err
	}
	return ledger.Config{Path: s.LedgerPath(), Signer: s.Box.Signer(), Incarnation: o.Incarnation, Trust: o.Boxes, Now: time.Now}, nil
}

// LedgerPath is where the ledger is.
func (s *Site) LedgerPath() string { return filepath.Join(s.Config.StateDir, ledgerName) }

const ledgerName = "ledger"

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
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	if s.record.l == nil && s.record.err == nil { // one may have been made since
		s.record.l, s.record.err = s.openLedger(ctx)
	}
	if s.record.err != nil {
		return nil, fmt.Errorf("%w: the ledger: %w", ErrRefused, s.record.err)
	}
	return s.record.l, nil
}

func (s *Site) openLedger(ctx context.Context) (*ledger.Ledger, error) {
	if _, err := os.Lstat(s.LedgerPath()); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	c, err := s.ledgerConfig()
	if err != nil {
		return nil, err
	}
	l, found, err := ledger.Open(ctx, c)
	for _, e := range found.Interrupted {
		s.Log("the ledger has %s of %s, by %s, which was interrupted", e.Act, e.Time.Format(time.RFC3339), e.Actor)
	}
	return l, err
}

// Kinds of acts beside those that the ledger knows of.
const (
	importAct   ledger.Kind = "import"
	compactAct  ledger.Kind = "compact"
	holdRemove  ledger.Kind = "hold-remove"
	acceptAct   ledger.Kind = "anomaly-accept"
	tenantAdd   ledger.Kind = "tenant-add"
	recoveryAdd ledger.Kind = "recovery-key-add"
	storeAdd    ledger.Kind = "store-add"
	kitIssue    ledger.Kind = "kit-issue"
	kitReadBack ledger.Kind = "kit-read-back"
	kitProve    ledger.Kind = "kit-prove"
)

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
	if !kind.GoesOn() {
		s.anchorsOnce(ctx)
	}
	id, err := s.logOf(ctx, l, tenant)
	if err != nil {
		return err
	}
	intent, err := l.Intend(ctx, s.act(kind, id, fields))
	if ahead(err) {
		return exit.With(exit.Integrity, fmt.Errorf("%s is not done: %w: this state directory is older than what the box has signed; strongroom audit verify says more, and audit continue goes on from here", kind, err))
	} else if err != nil {
		return fmt.Errorf("%w: the ledger does not take the act: %w", ErrRefused, err)
	}
	came, err := do()
	result := ledger.Done
	switch {
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
	s.acted(context.WithoutCancel(ctx))
	return err
}

// logOf finds a tenant's log, and begins it; the system's is that of nobody. A
// tenant that is configured no more keeps its log.
func (s *Site) logOf(ctx context.Context, l *ledger.Ledger, tenant string) (id keys.TenantID, err error) {
	if tenant == "" {
		return id, nil
	}
	t, err := s.Box.Tenant(tenant)
	if errors.Is(err, box.ErrNoTenant) {
		_, t, err = s.Tenant(tenant) // whose error tells people what to do
	}
	if err != nil {
		return id, err
	}
	err = l.AddTenant(ctx, s.act(ledger.Begin, t.ID, nil))
	if err != nil && !errors.Is(err, ledger.ErrExists) {
		return id, fmt.Errorf("%w: the ledger: %w", ErrRefused, err)
	}
	return t.ID, nil
}

// orNone is nil for no fields.
func orNone(fields map[string]string) map[string]string {
	if len(fields) == 0 {
		return nil
	}
	return fields
}

func ahead(err error) bool { return errors.Is(err, ledger.ErrBehind) || errors.Is(err, ledger.ErrFork) }

// closeLedger ends this process's session.
func (s *Site) closeLedger() error {
	s.record.mu.Lock()
	defer s.record.mu.Unlock()
	l := s.record.l
	s.record.l, s.record.err, s.record.checked = nil, nil, false
	if l == nil {
		return nil
	}
	return l.Close()
}
