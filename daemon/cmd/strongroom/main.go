// Command strongroom backs up client databases to several stores, proves that
// they restore, and restores them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/drill"
	"strongroom/daemon/drill/sandbox"
	"strongroom/daemon/job"
	"strongroom/repo"
)

// version is set when a release is built.
var version = "dev"

func main() {
	if filepath.Base(os.Args[0]) == sandbox.Program {
		os.Exit(drill.Inside(os.Args[1:], map[string]func([]string) error{job.Recover: recoverInside}))
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		repo.LimitMemory()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(int(code))
}

// recoverInside recovers in a sandbox, where nothing else of this program is,
// from what comes over its standard input.
func recoverInside(args []string) error {
	if err := job.Unpack(os.Stdin); err != nil {
		return err
	}
	if code := rescue.Main(context.Background(), args, os.Stdout, os.Stderr, version); code != exit.OK {
		os.Exit(int(code))
	}
	return nil
}

// app is what all commands share.
type app struct {
	configPath string
	in         io.Reader
	ui         *rescue.UI
}

func run(ctx context.Context, args []string, in io.Reader, stdout, stderr io.Writer) exit.Code {
	a := &app{in: in, ui: rescue.NewUI(stdout, stderr)}
	// A mistake in the arguments stops their parsing, and is told as JSON too.
	a.ui.JSON = rescue.WantsJSON(args)
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") { // cobra has no type for it
		err = exit.With(exit.Usage, fmt.Errorf("%w; see: strongroom --help", err))
	}
	return a.ui.End(ctx, err)
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "strongroom",
		Short: "Backups of client databases on several stores, proven, and destroyed on contract end",
		Long: `Strongroom takes snapshots of databases and files, encrypts them and spreads them
over several stores, so that any k of them restore.

Exit codes: 0 ok, 1 failed, 3 partial, 10 no repository or snapshot, 11 locked,
12 wrong key or shares, 20 refused (nothing was written), 21 incomplete
(resumable), 22 inconclusive, 64 usage or configuration, 65 integrity, 75 try later,
130 interrupted.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&a.configPath, "config", "/etc/strongroom/strongroom.toml", "configuration file")
	c.PersistentFlags().BoolVar(&a.ui.JSON, "json", a.ui.JSON, "print JSON, one object a line")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.With(exit.Usage, err) })
	c.AddCommand(a.initCommand(), a.daemonCommand(), a.statusCommand(), a.watchCommand(), a.runCommand(), a.runsCommand(), a.cancelCommand(),
		a.restartCommand(), a.reloadCommand(), a.scheduleCommand(), a.alarmsCommand(), a.notifyCommand(), a.auditCommand(), a.boxCommand(), a.backupCommand(),
		a.importCommand(), a.snapshotsCommand(), a.catalogCommand(), a.lsCommand(), a.diffCommand(), a.restoreCommand(), a.checkCommand(),
		a.drillCommand(), a.reportCommand(), a.repairCommand(), a.expireCommand(), a.compactCommand(), a.policyCommand(), a.holdCommand(),
		a.lockCommand(), a.keysCommand(), a.stationCommand(), rescue.Command(a.ui), a.configCommand(), a.storeCommand(), a.mediaCommand(),
		a.doctorCommand(), a.supportCommand(), a.sourceCommand(), a.versionCommand())
	c.AddCommand(a.builders()...)
	for _, sub := range c.Commands() {
		noArgsErrors(sub)
	}
	return c
}

// noArgsErrors gives mistakes in arguments the usage code, everywhere.
func noArgsErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return exit.With(exit.Usage, fmt.Errorf("%w; usage: %s", err, cmd.UseLine()))
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return exit.With(exit.Usage, fmt.Errorf("unknown command %q; see: %s --help", args[0], cmd.CommandPath()))
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		noArgsErrors(sub)
	}
}

// load reads the configuration.
func (a *app) load() (*config.Config, error) {
	c, err := config.Load(a.configPath)
	var mistake *config.Error
	if errors.As(err, &mistake) {
		return nil, exit.With(exit.Usage, err)
	} else if err != nil {
		return nil, exit.With(exit.Usage, fmt.Errorf("%w; --config names another file", err))
	}
	return c, nil
}

// site opens the configured box.
func (a *app) site() (*job.Site, error) {
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	s, err := job.OpenSite(c, a.ui.Log)
	if err != nil {
		return nil, err
	}
	s.Actor = operator()
	return s, nil
}

// operator is who runs this program.
func operator() job.Actor { return job.Actor{Name: whoActs(), Role: "operator", Source: terminal()} }

// splitTarget reads TENANT/DATASET[@SNAPSHOT].
func splitTarget(s string) (tenant, dataset, snapshot string, err error) {
	name, snapshot, at := strings.Cut(s, "@")
	tenant, dataset, ok := strings.Cut(name, "/")
	if !ok || tenant == "" || dataset == "" || strings.Contains(dataset, "/") || at && snapshot == "" {
		return "", "", "", exit.With(exit.Usage, fmt.Errorf("%q is not TENANT/DATASET or TENANT/DATASET@SNAPSHOT", s))
	}
	return tenant, dataset, snapshot, nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.ui.Result(map[string]string{"version": version, "go": runtime.Version(), "format": "1"},
				"strongroom %s, repository format 1, %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	c.AddCommand(&cobra.Command{
		Use:   "check",
		Short: "Read the configuration and say what is wrong with it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			if err := knownWalls(cfg); err != nil {
				return err
			}
			n := 0
			for _, t := range cfg.Tenants {
				n += len(t.Datasets)
			}
			return a.ui.Result(map[string]any{"path": cfg.Path, "stores": len(cfg.Stores), "tenants": len(cfg.Tenants), "datasets": n},
				"%s is good: %s, %s, %s\n", cfg.Path, rescue.Count(len(cfg.Stores), "store"), rescue.Count(len(cfg.Tenants), "tenant"), rescue.Count(n, "dataset"))
		},
	})
	return c
}
