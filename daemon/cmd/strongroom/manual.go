//go:build manpages

package main

import (
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"strongroom/custody/rescue"
)

// builders are commands for whoever builds a package. They are in no program that
// is installed: what they link has no place beside keys.
func (a *app) builders() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIRECTORY",
		Short:  "Write the manual pages",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			recover := rescue.Command(rescue.NewUI(io.Discard, io.Discard))
			recover.Use = "strongroom-recover" + recover.Use[len("recover"):]
			for _, c := range []*cobra.Command{cmd.Root(), recover} {
				c.DisableAutoGenTag = true // it would name the day of the build
				h := &doc.GenManHeader{Section: "1", Source: "Strongroom " + version, Manual: "Strongroom"}
				if err := doc.GenManTree(c, h, args[0]); err != nil {
					return err
				}
			}
			return nil
		},
	}}
}
