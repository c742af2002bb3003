package config

import (
	"path/filepath"

	"strongroom/daemon/schedule"
)

// The box is a tenant of its own, with one dataset: what it knows. Nobody
// configures it, and the names are not taken.
const (
	SelfTenant  = "strongroom"
	SelfDataset = "state"
)

// WithSelf is the configuration with the box's own tenant, of the level that its
// keys were made for; stage is where its state is gathered.
//
// What matters of a dataset that is taken daily is the newest snapshot. The
// weeks before are there for whoever wants to know what the box knew when, and
// go, so that it does not remember for ever whom it worked for.
func (c *Config) WithSelf(level, stage string) *Config {
	out := *c
	out.Tenants = append(out.Tenants[:len(out.Tenants):len(out.Tenants)], Tenant{Name: SelfTenant, Level: level, Datasets: []Dataset{{
		Name: SelfDataset, Source: "files", Path: filepath.Join(c.StateDir, stage),
		Keep:     &Keep{Last: 7, Daily: 14, Weekly: 8},
		Schedule: &schedule.Config{At: "40 1 * * *", Jitter: "10m"},
	}}})
	return &out
}
