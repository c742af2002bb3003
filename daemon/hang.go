//go:build blockplanner

package daemon

import "context"

// hang is in a test's program only: its planner blocks, as one would whose database
// or disk never answers, once it has told that it is ready.
func hang(context.Context) { select {} }
