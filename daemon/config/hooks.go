package config

import (
	"path/filepath"
	"time"
)

// Hooks are programs that run around each snapshot of a dataset, as the service
// user, without a shell and without the service's environment.
type Hooks struct {
	// Before runs before the source is opened. Unless it exits with 0 there is
	// no snapshot.
	Before []string `toml:"before"`
	// After runs when all is over, also when Before or the snapshot failed. It
	// is told how it went; how it goes itself changes nothing but a warning.
	After []string `toml:"after"`
	// HookTimeout is how long each of them may take; default 10m.
	HookTimeout Duration `toml:"hook_timeout"`
}

// DefaultHookTimeout is what a dataset that says nothing gets.
const DefaultHookTimeout = 10 * time.Minute

// Limit is how long each program may take.
func (h Hooks) Limit() time.Duration {
	if h.HookTimeout.Duration == 0 {
		return DefaultHookTimeout
	}
	return h.HookTimeout.Duration
}

func (h Hooks) check() error {
	for key, argv := range map[string][]string{"before": h.Before, "after": h.After} {
		if argv != nil && (len(argv) == 0 || !filepath.IsAbs(argv[0])) {
			return bad(key, "%s must be a list that begins with the absolute path of a program", key)
		}
	}
	if h.HookTimeout != (Duration{}) && h.Before == nil && h.After == nil {
		return bad("hook_timeout", "hook_timeout without before or after")
	}
	return h.HookTimeout.check("hook_timeout")
}
