package main

import (
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) restartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart",
		Short: "Have the daemon restart as soon as nothing runs",
		Long: `Restart has the daemon end at the first moment at which no run goes on, for its
service manager to start it again with the program that is installed by then. The
Debian package says it after an upgrade. To restart at once, at the cost of runs
stopping at a checkpoint and going on after it: systemctl restart strongroom.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			running, err := client.Restart(cmd.Context())
			if err != nil {
				return asked(err)
			}
			text := "the daemon restarts now\n"
			if len(running) > 0 {
				text = "the daemon restarts when these have ended: " + strings.Join(running, ", ") + "\n"
			}
			return a.ui.Result(map[string]any{"running": running}, "%s", text)
		},
	}
}
