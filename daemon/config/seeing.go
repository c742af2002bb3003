package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"strongroom/daemon/notify"
)

// Metrics is the table [metrics]: without Listen there are none.
type Metrics struct {
	// Listen is an address and a port, "127.0.0.1:9720", of a listener that asks
	// nobody who they are.
	Listen string `toml:"listen"`
	// Anywhere allows an address that is not this machine's own.
	Anywhere bool `toml:"anywhere"`
	// Names puts the names of tenants and datasets into the labels, instead of
	// words that only this box can tell apart.
	Names bool `toml:"names"`
}

func (m Metrics) check() error {
	if m.Listen == "" {
		return nil
	}
	at, err := netip.ParseAddrPort(m.Listen)
	if err != nil {
		return bad("listen", "listen %q is not an address and a port such as \"127.0.0.1:9720\"", m.Listen)
	}
	if !at.Addr().IsLoopback() && !m.Anywhere {
		return bad("listen", "listen %q can be reached from elsewhere, and the metrics ask nobody who they are; let a proxy on this machine do that, or say anywhere = true", m.Listen)
	}
	return nil
}

// Log is the table [log].
type Log struct {
	// Level is "debug", "info" (the default), "warn" or "error".
	Level string `toml:"level"`
}

// Least is the least level that is logged.
func (l Log) Least() slog.Level {
	return map[string]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn, "error": slog.LevelError}[l.Level]
}

func (l Log) check() error {
	switch l.Level {
	case "", "debug", "info", "warn", "error":
		return nil
	}
	return bad("level", "level %q is not \"debug\", \"info\", \"warn\" or \"error\"", l.Level)
}

func (c *Config) checkNotify() error {
	err := c.Notify.Check()
	for i, p := range c.Notify.Ping {
		if err == nil && p.Tenant != "" && !c.has(p.Tenant, p.Dataset) {
			// A switch that is never asked looks like one that is well until its other
			// side alarms, or was never armed.
			err = &notify.Mistake{Table: "notify.ping", Nth: i + 1, Name: p.Name, Key: "dataset", Err: fmt.Errorf("there is no dataset %s/%s", p.Tenant, p.Dataset)}
		}
	}
	var m *notify.Mistake
	if errors.As(err, &m) {
		return &mistake{table: m.Table, nth: [3]int{m.Nth}, key: m.Key, err: m}
	}
	return err
}

// has reports whether there is such a dataset to back up, the box's own too.
func (c *Config) has(tenant, dataset string) bool {
	t, _ := c.Tenant(tenant)
	_, ok := t.Dataset(dataset)
	return ok || tenant == SelfTenant && dataset == SelfDataset
}
