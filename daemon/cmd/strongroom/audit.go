package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/ledger"
	"strongroom/custody/rescue"
	"strongroom/daemon/job"
)

// terminal is where the person at the keyboard is, as far as the system knows.
func terminal() string {
	if from, _, _ := strings.Cut(os.Getenv("SSH_CONNECTION"), " "); from != "" {
		return from
	}
	if name, err := os.Readlink("/proc/self/fd/0"); err == nil && strings.HasPrefix(name, "/dev/") {
		return name
	}
	return "none"
}

func (a *app) auditCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "audit",
		Short: "The ledger: what was done, by whom, provably",
		Long: `The ledger is a Merkle log of acts, one for each tenant under one of the system,
with checkpoints that the box signs. Once audit init has made it, what takes,
restores, keeps, locks, repairs or destroys snapshots, and what is done to media,
kits and keys, is announced in it before it begins, and not done if it cannot be
written. It is copied to every store, which tells when a box was put back from an
older state. strongroom-verify checks it elsewhere.`,
	}
	c.AddCommand(a.auditInitCommand(), a.auditShowCommand(), a.auditVerifyCommand(), a.auditProveCommand(), a.auditContinueCommand())
	return c
}

func (a *app) auditInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the ledger",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			id, err := site.CreateLedger(cmd.Context())
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"ledger": id}, "ledger %s begins\n", id)
		},
	}
}

// ledgerOf opens the ledger and finds a tenant's log; without a name the
// system's.
func (a *app) ledgerOf(cmd *cobra.Command, site *job.Site, tenant string) (*ledger.Ledger, keys.TenantID, error) {
	var id keys.TenantID
	l, err := site.Ledger(cmd.Context())
	if err == nil && l == nil {
		err = exit.With(exit.NoRepository, ledger.ErrNoLedger)
	}
	if err == nil && tenant != "" {
		_, t, terr := site.Tenant(tenant)
		id, err = t.ID, terr
	}
	return l, id, err
}

func (a *app) auditShowCommand() *cobra.Command {
	last := int64(50)
	c := &cobra.Command{
		Use:   "show [TENANT]",
		Short: "List the acts of a tenant, or of the system",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			l, id, err := a.ledgerOf(cmd, site, strings.Join(args, ""))
			if err != nil {
				return err
			}
			head, err := l.Head(cmd.Context(), id)
			if errors.Is(err, ledger.ErrNoTenant) {
				return exit.With(exit.NoRepository, err)
			} else if err != nil {
				return err
			}
			entries, err := l.Entries(cmd.Context(), id, max(0, head.Size-last), head.Size)
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"entries": entries}, "%s", entriesText(entries))
		},
	}
	c.Flags().Int64Var(&last, "last", last, "how many")
	return c
}

func entriesText(all []ledger.Entry) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NO\tTIME (UTC)\tACT\tPHASE\tBY\tFROM\tWHAT")
	for _, e := range all {
		phase := string(e.Phase)
		if e.Phase == ledger.Ended {
			phase = fmt.Sprintf("%s of %d", e.Result, e.Intent)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s (%s)\t%s\t%s\n", e.Number, e.Time.UTC().Format("2006-01-02 15:04:05"), e.Act, phase, e.Actor, e.Role, e.Source, fieldsText(e.Fields))
	}
	w.Flush()
	return b.String()
}

func fieldsText(fields map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		out = append(out, k+" "+fields[k])
	}
	return strings.Join(out, ", ")
}

func (a *app) auditVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Check every entry, hash and checkpoint of the ledger, and hold it against the copies in the stores",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			o, err := site.Box.Organisation()
			if err != nil {
				return err
			}
			r, err := ledger.Verify(cmd.Context(), site.LedgerPath(), o.Boxes, nil)
			if errors.Is(err, ledger.ErrTampered) || errors.Is(err, ledger.ErrFork) || errors.Is(err, ledger.ErrBehind) {
				return exit.With(exit.Integrity, err)
			} else if err != nil {
				return err
			}
			held, failed, err := site.VerifyAnchors(cmd.Context())
			if err != nil {
				return err
			}
			var n int64
			open := 0
			for _, log := range r.Logs {
				n += log.Head.Size
				open += len(log.Open)
			}
			if err := a.ui.Result(map[string]any{"ledger": r.Ledger, "logs": len(r.Logs), "entries": n, "open": open, "gaps": r.Gaps(), "anchors": held},
				"%d entries in %s, every hash and checkpoint right; %s open\n%s", n, rescue.Count(len(r.Logs), "log"), rescue.Count(open, "act"), anchorsText(held, r.Gaps())); err != nil {
				return err
			}
			if failed != nil {
				return exit.With(exit.Partial, fmt.Errorf("not held against every store: %w", failed))
			}
			return nil
		},
	}
}

func anchorsText(held map[string]int, gaps int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(held)) {
		if held[name] == 0 {
			fmt.Fprintf(&b, "store %q has no copy of it yet\n", name)
		} else {
			fmt.Fprintf(&b, "it continues what store %q knows: %s\n", name, rescue.Count(held[name], "checkpoint"))
		}
	}
	if gaps > 0 {
		fmt.Fprintf(&b, "it admits that entries were lost: %s\n", rescue.Count(gaps, "gap"))
	}
	return b.String()
}

func (a *app) auditContinueCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "continue --reason TEXT",
		Short: "Go on with a ledger that is older than its copies, and admit that in it",
		Long: `Audit continue is for a box whose state directory was put back from an older
copy, or was rebuilt from a store that lacked the last entries. Until it is run,
backups, drills and restores go on, and what destroys or hands out is refused. It
writes an entry for each log that lost some: what was signed, and is gone, stays
visible for ever. Stop the daemon first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" || len(reason) > 500 {
				return exit.With(exit.Usage, errors.New("--reason must say what happened, in at most 500 bytes"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			// A daemon would go on under the old incarnation.
			db, err := openState(cmd.Context(), site.Config)
			if err != nil {
				return err
			}
			defer db.Close()
			made, err := site.ContinueLedger(cmd.Context(), reason)
			for _, e := range made {
				a.ui.Log("entry %d admits: log %s, entries %s to %s", e.Number, e.Fields["log"], e.Fields["from"], e.Fields["to"])
			}
			if err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"gaps": made}, "the ledger goes on, with %s; ungoverned: nobody else approved it\n", rescue.Count(len(made), "gap"))
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "what happened, for the record")
	return c
}

func (a *app) auditProveCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "prove NUMBER [TENANT] --out FILE",
		Short: "Write a proof of one entry that anybody can check with the box's public key",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || n < 0 {
				return exit.With(exit.Usage, fmt.Errorf("%q is no number of an entry", args[0]))
			}
			if out == "" {
				return exit.With(exit.Usage, errors.New("--out is missing: a file for the proof"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			l, id, err := a.ledgerOf(cmd, site, strings.Join(args[1:], ""))
			if err != nil {
				return err
			}
			proof, err := l.Prove(cmd.Context(), id, n)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = f.Write(proof)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			return a.ui.Result(map[string]any{"file": out}, "%s proves entry %d: strongroom-verify proof %s --key PUB\n", out, n, out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file for the proof")
	return c
}
