package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read the configuration again",
		Long: `Reload has the daemon read the configuration again, and waits until it has. What
runs goes on with the old one. A mistake anywhere in it changes nothing, and is told
here and in the daemon's log. systemctl reload strongroom does the same.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return fmt.Errorf("%w; a daemon goes on with the old configuration", err)
			}
			if err := client.Reload(cmd.Context()); err != nil {
				return asked(err)
			}
			return a.ui.Result(map[string]any{"read": true}, "the daemon has read the configuration again\n")
		},
	}
}
