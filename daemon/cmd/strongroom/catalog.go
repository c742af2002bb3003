package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/state"
	"strongroom/repo"
)

func (a *app) catalogCommand() *cobra.Command {
	c := &cobra.Command{Use: "catalog", Short: "The cache of names and times, for when the stores are not asked"}
	c.AddCommand(&cobra.Command{
		Use:   "rebuild [TENANT]",
		Short: "List the stores and replace what is cached of them",
		Long: `The daemon does this after each backup. Nothing but snapshots --cached reads the
cache, and a restore never does: it may be deleted and made again at any time.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			only := strings.Join(args, "")
			if only != "" {
				if _, _, err := site.Tenant(only); err != nil {
					return err
				}
			}
			return a.rebuildCatalog(cmd, site, only)
		},
	})
	return c
}

func (a *app) shelf(cmd *cobra.Command, c *config.Config) (*state.Shelf, error) {
	s, err := state.OpenShelf(cmd.Context(), stateConfig(c))
	switch {
	case errors.Is(err, state.ErrMissing):
		err = exit.With(exit.NoRepository, fmt.Errorf("%w; run: strongroom init", err))
	case errors.Is(err, state.ErrOlder):
		err = exit.With(exit.TryLater, err)
	}
	return s, err
}

func (a *app) rebuildCatalog(cmd *cobra.Command, site *job.Site, only string) error {
	shelf, err := a.shelf(cmd, site.Config)
	if err != nil {
		return err
	}
	defer shelf.Close()
	n := 0
	var names []string
	for _, t := range site.Config.Tenants {
		names = append(names, t.Name)
		if only != "" && t.Name != only {
			continue
		}
		at := time.Now() // what is committed while it is listed may be missing
		all, err := site.Catalogue(cmd.Context(), t.Name)
		if err == nil {
			err = shelf.Set(cmd.Context(), t.Name, at, all)
		}
		if err != nil {
			return fmt.Errorf("tenant %q: %w", t.Name, err)
		}
		n += len(all)
	}
	if only == "" {
		if err := shelf.Keep(cmd.Context(), names); err != nil {
			return err
		}
	}
	return a.ui.Result(map[string]any{"snapshots": n}, "%s catalogued\n", rescue.Count(n, "snapshot"))
}

// cachedSnapshots prints what is cached. It opens no key and asks no store.
func (a *app) cachedSnapshots(cmd *cobra.Command, tenant, dataset string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if _, ok := c.Tenant(tenant); tenant != "" && tenant != job.SelfTenant && !ok {
		return exit.With(exit.Usage, fmt.Errorf("%s has no tenant %q", c.Path, tenant))
	}
	shelf, err := a.shelf(cmd, c)
	if err != nil {
		return err
	}
	defer shelf.Close()
	items := []listed{}
	for _, t := range append(c.Tenants[:len(c.Tenants):len(c.Tenants)], config.Tenant{Name: job.SelfTenant}) {
		if tenant != "" && t.Name != tenant {
			continue
		}
		at, all, err := shelf.Of(cmd.Context(), t.Name)
		if err != nil {
			return err
		}
		if at.IsZero() {
			a.ui.Log("%s: nothing is cached; strongroom catalog rebuild", t.Name)
			continue
		}
		a.ui.Log("%s: as the stores were at %s", t.Name, at.Local().Format("2006-01-02 15:04:05"))
		for _, x := range all {
			it := listed{}
			if err := json.Unmarshal(x.Entry, &it.Listed); err != nil || it.Catalogue == nil {
				return exit.With(exit.Integrity, fmt.Errorf("what is cached of %s cannot be read; strongroom catalog rebuild makes it again: %w", t.Name, errors.Join(err, repo.ErrIntegrity)))
			}
			if dataset == "" || x.Dataset == dataset {
				items = append(items, it)
			}
		}
	}
	return a.ui.Result(items, "%s", snapshotTable(items, false))
}
