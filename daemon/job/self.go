package job

import (
	"errors"
	"slices"

	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/daemon/config"
)

// The box is a tenant of its own, so that what it knows is kept as everything else
// is: chunked, sealed, spread, locked, checked, drilled, copied to media.
// Its catalogue key seals the system log's copies, and its kit is what brings a
// fresh machine back. No configuration names it: config refuses the name.
const (
	SelfTenant  = config.SelfTenant
	SelfDataset = config.SelfDataset
)

// highest is the level of the box's own tenant: that of whom it speaks of, for
// their names and what went wrong with them stand in its state.
func highest(all []config.Tenant) keys.Level {
	levels := []keys.Level{keys.Confidential, keys.Secret, keys.TopSecret}
	at := 0
	for _, t := range all {
		at = max(at, slices.Index(levels, keys.Level(t.Level)))
	}
	return levels[at]
}

// withSelf adds the box's own tenant, once it has keys, to what was configured.
func withSelf(c *config.Config, b *box.Box) (*config.Config, error) {
	if _, has := c.Tenant(SelfTenant); has {
		return c, nil
	}
	t, err := b.Tenant(SelfTenant)
	if errors.Is(err, box.ErrNoTenant) {
		return c, nil // of a box that was set up before there was one; init adds it
	} else if err != nil {
		return nil, err
	}
	return c.WithSelf(string(t.Level), stageName), nil
}

// Unopened is a site of which nothing but the configuration is known: enough to
// say what would be done when, without keys, and not to do any of it.
func Unopened(c *config.Config) *Site { return &Site{Config: c.WithSelf("confidential", stageName)} }

// With is the site under a configuration that was read anew: the same keys and
// the same ledger, which is not opened twice.
func (s *Site) With(c *config.Config, by Actor) (*Site, error) {
	c, err := withSelf(c, s.Box)
	if err != nil {
		return nil, err
	}
	return &Site{Config: c, Box: s.Box, Log: s.Log, Actor: by, record: s.record}, nil
}
