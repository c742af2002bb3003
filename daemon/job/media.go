package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/ledger"
	"strongroom/custody/media"
	"strongroom/daemon/config"
)

// rotationOf turns the configuration of media into their rotation.
func rotationOf(c *config.Media) media.Rotation {
	r := media.DefaultRotation()
	if c.Sets != nil {
		r.Sets = *c.Sets
	}
	if c.Monthly != nil {
		r.Monthly = *c.Monthly
	}
	if c.Yearly != nil {
		r.Yearly = *c.Yearly
	}
	for _, x := range []struct {
		span *config.Span
		to   *time.Duration
	}{{c.VerifyDisk, &r.VerifyDisk}, {c.VerifyOptical, &r.VerifyOptical}, {c.Inside, &r.Inside}} {
		if x.span != nil {
			*x.to = x.span.Duration
		}
	}
	return r
}

// Media are the offline media of a box.
type Media struct {
	s        *Site
	register *media.Register
	rotation media.Rotation
	by       string // who acts
	now      func() time.Time

	incarnation uint32 // of the box
}

func (s *Site) mediaConfig() (media.Config, media.Rotation, error) {
	if s.Config.Media == nil {
		return media.Config{}, media.Rotation{}, fmt.Errorf("%w: %s has no [media]", ErrRefused, s.Config.Path)
	}
	r := rotationOf(s.Config.Media)
	if err := r.Check(); err != nil {
		return media.Config{}, r, exit.With(exit.Usage, fmt.Errorf("%s: media: %w", s.Config.Path, err))
	}
	o, err := s.Box.Organisation()
	if err != nil {
		return media.Config{}, r, err
	}
	return media.Config{Path: filepath.Join(s.Config.StateDir, "media"), Signer: s.Box.Signer(), Incarnation: o.Incarnation, Trust: o.Boxes, Now: time.Now}, r, nil
}

// InitMedia makes the register of media. It is an act of its own: one that is
// gone must be brought back, not begun anew, or slots would be given out twice.
func (s *Site) InitMedia(ctx context.Context) error {
	c, _, err := s.mediaConfig()
	if err != nil {
		return err
	}
	err = s.acting(ctx, "", "media-init", nil, func() (map[string]string, error) {
		_, err := media.Create(c)
		return nil, err
	})
	if errors.Is(err, media.ErrExists) {
		err = exit.With(exit.Refused, err)
	}
	return err
}

// Media opens the register of media for somebody who acts.
func (s *Site) Media(by string) (*Media, error) {
	if err := keys.CheckName(by); err != nil {
		return nil, exit.With(exit.Usage, fmt.Errorf("--by: %w", err))
	}
	c, rotation, err := s.mediaConfig()
	if err != nil {
		return nil, err
	}
	r, err := media.Open(c)
	if errors.Is(err, media.ErrNoRegister) {
		return nil, exit.With(exit.NoRepository, fmt.Errorf("%w; strongroom media init makes the first one", err))
	} else if err != nil {
		return nil, err
	}
	return &Media{s, r, rotation, by, c.Now, c.Incarnation}, nil
}

// MediumState is a medium and what the rotation says of it.
type MediumState struct {
	media.Medium
	State   media.State `json:"state"`
	Trusted bool        `json:"trusted"`
	Why     string      `json:"why,omitempty"` // if it is not
}

func (m *Media) state(x media.Medium) MediumState {
	now := m.now()
	s := MediumState{Medium: x, State: m.rotation.State(x, now)}
	s.Trusted, s.Why = m.rotation.Trusted(x, now)
	return s
}

// List returns all media, in the order in which they were enrolled.
func (m *Media) List() ([]MediumState, error) {
	all, err := m.register.Media()
	if err != nil {
		return nil, err
	}
	out := make([]MediumState, len(all))
	for i, x := range all {
		out[i] = m.state(x)
	}
	return out, nil
}

// Chain returns every act, or those about one medium.
func (m *Media) Chain(label string) ([]media.Entry, error) {
	if label == "" {
		return m.register.Chain()
	}
	x, err := m.register.ByLabel(label)
	if err != nil {
		return nil, err
	}
	return m.register.Chain(x.ID)
}

// Due returns what is to be done, what comes next behind it.
func (m *Media) Due() ([]media.Due, error) {
	all, err := m.register.Media()
	if err != nil {
		return nil, err
	}
	return m.rotation.Plan(all, m.now()), nil
}

// Move notes who has a medium now, where, under which seal.
func (m *Media) Move(ctx context.Context, label string, to media.Custody) (MediumState, error) {
	return m.named(ctx, "media-move", label, custodyFields(to), func(x media.Medium) (media.Medium, error) { return m.register.Move(x.ID, to, m.by) })
}

// Assign puts a medium into another set.
func (m *Media) Assign(ctx context.Context, label, set string) (MediumState, error) {
	return m.named(ctx, "media-assign", label, map[string]string{"set": ledger.Text(set)}, func(x media.Medium) (media.Medium, error) { return m.register.Assign(x.ID, set, m.by) })
}

// Retire takes a medium out of use for ever.
func (m *Media) Retire(ctx context.Context, label, reason string) (MediumState, error) {
	return m.named(ctx, "media-retire", label, map[string]string{"reason": ledger.Text(reason)}, func(x media.Medium) (media.Medium, error) { return m.register.Retire(x.ID, reason, m.by) })
}

// Lose notes that nobody knows where a medium is; Find that it is there again.
func (m *Media) Lose(ctx context.Context, label, reason string) (MediumState, error) {
	return m.named(ctx, "media-lose", label, map[string]string{"reason": ledger.Text(reason)}, func(x media.Medium) (media.Medium, error) { return m.register.Lose(x.ID, reason, m.by) })
}

// Find notes that a lost medium is there again.
func (m *Media) Find(ctx context.Context, label string) (MediumState, error) {
	return m.named(ctx, "media-find", label, nil, func(x media.Medium) (media.Medium, error) { return m.register.Find(x.ID, m.by) })
}

func custodyFields(c media.Custody) map[string]string {
	return map[string]string{"holder": ledger.Text(c.Holder), "place": ledger.Text(c.Place), "seal": ledger.Text(c.Seal)}
}

func (m *Media) named(ctx context.Context, kind ledger.Kind, label string, fields map[string]string, act func(media.Medium) (media.Medium, error)) (s MediumState, err error) {
	err = m.acting(ctx, kind, label, fields, func() error {
		x, err := m.register.ByLabel(label)
		if err == nil {
			x, err = act(x)
		}
		if err == nil {
			s = m.state(x)
		}
		return err
	})
	return s, err
}

// acting is an act on a medium, in the system log: a medium is of many tenants.
// The register has the acts on its media too, and more of each; in the ledger
// they stand in one order with everything else, and before they are done.
func (m *Media) acting(ctx context.Context, kind ledger.Kind, label string, fields map[string]string, do func() error) error {
	all := map[string]string{"medium": ledger.Text(label), "by": ledger.Text(m.by)}
	maps.Copy(all, fields)
	return m.s.acting(ctx, "", kind, all, func() (map[string]string, error) { return nil, do() })
}
