//go:build !blockplanner

package daemon

import "context"

func hang(context.Context) {}
