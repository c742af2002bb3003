package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/repo/store"
)

func (a *app) storeCommand() *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Try stores, add, replace and empty them"}
	c.AddCommand(a.fillCommand("add"), a.fillCommand("replace"), a.drainCommand(), a.usageCommand(), a.storePolicyCommand(), a.storeTestCommand())
	return c
}

func (a *app) storeTestCommand() *cobra.Command {
	lock := false
	c := &cobra.Command{
		Use:   "test [--lock] [NAME]",
		Short: "Try what the stores can do: list, write, read, refuse to overwrite; lock",
		Long: `Try what the stores can do: list, write, read, refuse to overwrite.

--lock tries the lock of those that have one instead, to be run every week: it
locks a small object for two minutes and tries with every credential of the
configuration to delete it, to hide it, to weaken its lock, and to lock for
longer than anybody should. A store that fails a step counts as not immutable.
What the probe leaves is said; it is deleted by the next one if there are
credentials that delete. Exit code 3: a store is not immutable.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			if err := job.Distinct(cfg.Stores); err != nil {
				return err
			}
			stores := cfg.Stores
			if len(args) == 1 {
				stores = slices.DeleteFunc(slices.Clone(stores), func(s config.Store) bool { return s.Name != args[0] })
				if len(stores) == 0 {
					return exit.With(exit.Usage, fmt.Errorf("the configuration has no store %q", args[0]))
				}
			}
			if lock {
				return a.lockTest(cmd.Context(), cfg, stores, len(args) == 1)
			}
			return a.storeTest(cmd.Context(), cfg, stores)
		},
	}
	c.Flags().BoolVar(&lock, "lock", false, "try whether locks hold")
	return c
}

func (a *app) storeTest(ctx context.Context, cfg *config.Config, stores []config.Store) error {
	owner, err := job.OwnerOf(cfg, a.ui.Log)
	if err != nil {
		return err
	}
	failed, code := 0, exit.OK
	for _, s := range stores {
		st, err := job.SpecOf(s).Open(nil)
		var rep store.Report
		if err == nil {
			rep, err = st.(store.Prober).Probe(ctx)
		}
		note, marked := "", false
		if err == nil {
			marked, note, err = owner.Of(ctx, st)
		}
		if err != nil {
			failed, code = failed+1, exit.Of(err)
			a.ui.Result(map[string]any{"store": s.Name, "ok": false, "error": err.Error()}, "store %q: FAILED: %s\n", s.Name, rescue.OneLine(err.Error()))
			continue
		}
		result := map[string]any{"store": s.Name, "ok": true, "create_only": rep.CreateOnly, "marked": marked}
		if s.Lock != "" {
			f, err := job.ReadLockFinding(cfg, s)
			if err != nil {
				return err
			}
			state := f.State(time.Now())
			result["lock"], note = state, note+"; "+state
		}
		if err := a.ui.Result(result, "store %q: reachable, listable, writable, readable; refuses to overwrite: %s%s\n", s.Name, rep.CreateOnly, rescue.OneLine(note)); err != nil {
			return err
		}
	}
	if failed == 1 {
		return exit.With(code, errors.New("1 store failed"))
	} else if failed > 0 {
		return exit.With(exit.TryLater, fmt.Errorf("%s failed", rescue.Count(failed, "store")))
	}
	return nil
}

func (a *app) storePolicyCommand() *cobra.Command {
	var o job.PolicyOptions
	c := &cobra.Command{
		Use:   "policy NAME",
		Short: "Print the bucket policy that keeps what the daemon has from deleting and unlocking",
		Long: `Print a bucket policy as JSON. It gives each of the three credentials of a store
its rights: write puts, reads and lists; extend sets locks; delete deletes. It
denies to the first two all that deletes, takes locks off or lets the bucket
forget, and to everybody locks for more than twice the window of the tenants.

Whoever owns the bucket sets it, with credentials that do not come here. Names
are the access keys of the configuration, as versitygw takes them; Amazon wants
ARNs, given with --write, --extend and --delete. Bucket policies of MinIO know no
users: there each user gets its statements, without "Principal", as a policy of
its own.

A service that refuses one of the conditions, as versitygw does, gets what
--no-conditions prints. Then whoever took the credential that extends can lock
objects for as long as he likes, so that nobody can destroy them in time: keep
that credential off other machines, set the longest retention in the service if
it has such a setting, and prefer lock = "governance", which the bucket's owner
can take off. And whoever took the one that writes can put other bytes over a
name; the locked version stays behind them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			policy, s, err := job.StorePolicy(cfg, args[0], o)
			if err != nil {
				return err
			}
			for _, note := range policyNotes(s, o) {
				a.ui.Log("%s", note)
			}
			return a.ui.Result(map[string]any{"store": s.Name, "bucket": s.Bucket, "policy": string(policy)}, "%s\n", policy)
		},
	}
	c.Flags().StringVar(&o.Write, "write", "", "who writes, as the service names principals; default: the access key")
	c.Flags().StringVar(&o.Extend, "extend", "", "who extends locks")
	c.Flags().StringVar(&o.Delete, "delete", "", "who deletes")
	c.Flags().BoolVar(&o.NoConditions, "no-conditions", false, "without the conditions that some services do not know")
	return c
}

func policyNotes(s config.Store, o job.PolicyOptions) []string {
	notes := []string{fmt.Sprintf("note: make bucket %q with versions and object lock, without a default retention; the owner sets the policy: aws s3api put-bucket-policy --bucket %s --policy file://…", s.Bucket, s.Bucket)}
	if s.ExtendAccessKeyFile == "" && o.Extend == "" {
		notes = append(notes, "note: without extend_access_key_file what writes sets locks too")
	}
	if s.DeleteAccessKeyFile == "" && o.Delete == "" {
		notes = append(notes, "note: without delete_access_key_file nobody may delete, and expired generations stay")
	}
	if o.NoConditions {
		notes = append(notes, "note: nothing bounds how long somebody may lock: strongroom store policy --help says what to do about it")
	}
	return notes
}

// lockTest probes the lock of every store that has one; one that was named must.
func (a *app) lockTest(ctx context.Context, cfg *config.Config, stores []config.Store, named bool) error {
	if !named {
		stores = slices.DeleteFunc(slices.Clone(stores), func(s config.Store) bool { return s.Lock == "" })
	}
	if len(stores) == 0 {
		return exit.With(exit.Usage, fmt.Errorf("no store in %s has a lock", cfg.Path))
	}
	var errs []error
	weak := 0
	for _, s := range stores {
		f, err := job.ProbeLock(ctx, cfg, s, time.Now())
		if err != nil {
			errs = append(errs, fmt.Errorf("store %q: %w", s.Name, err))
			continue
		}
		ok, _ := f.Immutable()
		if !ok {
			weak++
		}
		if err := a.ui.Result(map[string]any{"store": s.Name, "immutable": ok, "finding": f}, "%s", lockTestText(f)); err != nil {
			return err
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	} else if weak == 1 {
		return exit.With(exit.Partial, errors.New("1 store is not immutable"))
	} else if weak > 0 {
		return exit.With(exit.Partial, fmt.Errorf("%d stores are not immutable", weak))
	}
	return nil
}

func lockTestText(f *job.LockFinding) string {
	var b strings.Builder
	for _, s := range f.Steps {
		word := "ok"
		switch {
		case s.Skipped != "":
			word, s.Found = "skipped", s.Skipped
		case !s.OK:
			word = "FAILED"
		}
		fmt.Fprintf(&b, "  %-7s %s: %s\n", word, s.Step, rescue.OneLine(s.Found))
	}
	for _, s := range f.Stays {
		fmt.Fprintf(&b, "  stays: %s\n", s)
	}
	return fmt.Sprintf("store %q: %s\n%s", f.Store, rescue.OneLine(f.State(f.Time)), b.String())
}
