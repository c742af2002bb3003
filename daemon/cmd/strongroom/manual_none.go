//go:build !manpages

package main

import "github.com/spf13/cobra"

func (a *app) builders() []*cobra.Command { return nil }
