package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/custody/exit"
	"strongroom/daemon"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/metrics"
	"strongroom/daemon/notify"
	"strongroom/daemon/plain"
	"strongroom/daemon/state"
)

// control is what the socket answers from: the daemon, who tells people, and the
// configuration that is in force.
type control struct {
	*daemon.Daemon
	*daemon.Recent
	a     *app
	first *job.Site // its keys stay open

	confined bool // to what the first configuration needs
	db       *state.DB
	log      *slog.Logger
	level    *slog.LevelVar

	reloading sync.Mutex
	force     atomic.Pointer[inForce]
	turned    chan struct{} // holds one: who delivers looks again

	kept        *keptLedger
	pseudonyms  plain.Pseudonyms
	stopMetrics func() // guarded by reloading
}

// inForce is one configuration that was read and can be used.
type inForce struct {
	c     *config.Config
	site  *job.Site
	tasks []daemon.Task
	tell  *notify.Notifier
	names notify.Names
	plain *plain.Filter
	// listener is of the metrics; nil: none, or the one of before goes on.
	listener net.Listener
}

func (a *app) newControl(site *job.Site, db *state.DB, records *daemon.Recent, level *slog.LevelVar, confined bool) (*control, error) {
	log := slog.New(records)
	c := &control{kept: &keptLedger{}, Recent: records, a: a, confined: confined, first: site, db: db, log: log, level: level, turned: make(chan struct{}, 1), stopMetrics: func() {}}
	key, err := pseudonymKey(site.Config.StateDir)
	if err != nil {
		return nil, err
	}
	c.pseudonyms = plain.NewPseudonyms(key)
	f, err := c.prepare(site.Config)
	if err != nil {
		return nil, err
	}
	c.force.Store(f)
	c.kept.Store(f.site)
	c.kept.LedgerChanged() // from now on it is copied here, and not by who acts
	level.Set(f.c.Log.Least())
	c.Daemon, err = daemon.New(daemon.Config{DB: db, Tasks: func() ([]daemon.Task, error) { return c.force.Load().tasks, nil }, Tell: teller{c}, Log: log,
		Names: func() notify.Names { return c.force.Load().names }, Plain: func(s string) string { return c.force.Load().plain.Text(s) }, Now: time.Now})
	return c, err
}

// prepare makes all that a configuration needs, and changes nothing.
func (c *control) prepare(cfg *config.Config) (*inForce, error) {
	site, err := c.first.With(cfg, job.Actor{Name: "strongroom", Role: "daemon", Source: "schedule"})
	if err != nil {
		return nil, err
	}
	site.Log, cfg = c.says, site.Config // with the box's own tenant
	f := &inForce{c: cfg, site: site}
	if cfg.StateDir != c.first.Config.StateDir || cfg.ControlSocket() != c.first.Config.ControlSocket() {
		return nil, exit.With(exit.Usage, errors.New("state_dir and socket cannot change while the daemon runs"))
	}
	if c.confined {
		if err := stillConfined(cfg, c.first.Config); err != nil {
			return nil, err
		}
	}
	configured := append(clientsOf(cfg), config.SelfTenant, config.SelfDataset)
	for _, s := range cfg.Stores {
		configured = append(configured, s.Name)
	}
	if f.names, err = notify.NewNames(configured...); err != nil {
		return nil, err
	}
	same := map[string]string{}
	for _, n := range configured {
		same[n] = n
	}
	f.plain = plain.New(same)
	how := cfg.Notify
	if how.Box == "" {
		host, _ := os.Hostname()
		how.Box, _, _ = strings.Cut(strings.ToLower(host), ".")
		how.Box = cmp.Or(how.Box, "box")
	}
	if f.tell, err = notify.New(how, notify.Deps{DB: c.db, Now: time.Now, Rand: rand.Reader, Log: c.log, Location: time.Local}); err != nil {
		return nil, exit.With(exit.Usage, fmt.Errorf("%s: notify: %w", cfg.Path, err))
	}
	if f.tasks, err = daemon.TasksOf(f.site, version); err != nil {
		return nil, err
	}
	before := c.force.Load()
	if at := cfg.Metrics.Listen; at != "" && (before == nil || before.c.Metrics.Listen != at) {
		if f.listener, err = net.Listen("tcp", at); err != nil { // last: nothing after it fails
			// Whoever has the port may let go of it: systemd tries again.
			return nil, exit.With(exit.TryLater, fmt.Errorf("%s: metrics: %w", cfg.Path, err))
		}
	}
	return f, nil
}

// says logs a line that a job has for people. It may quote what a client's
// database said.
func (c *control) says(format string, args ...any) {
	c.log.Info("a job says", "text", c.force.Load().plain.Text(fmt.Sprintf(format, args...)))
}

// clientsOf are the names of tenants and datasets, which are clients' or tell of
// them.
func clientsOf(c *config.Config) (out []string) {
	for _, t := range c.Tenants {
		if t.Name == config.SelfTenant { // nobody's
			continue
		}
		out = append(out, t.Name)
		for _, d := range t.Datasets {
			out = append(out, d.Name)
		}
	}
	return out
}

// pseudonymKey reads the key of the words that stand for names in metrics and
// support bundles, or makes it: it may be lost, then they are other words.
func pseudonymKey(stateDir string) ([]byte, error) {
	path := filepath.Join(stateDir, "pseudonyms")
	key, err := os.ReadFile(path)
	if err == nil && len(key) == plain.KeySize {
		return key, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, plain.KeySize)
	rand.Read(key)
	tmp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	if err := os.WriteFile(tmp, key, 0o600); err != nil {
		return nil, fmt.Errorf("key of pseudonyms: %w", err)
	}
	return key, os.Rename(tmp, path)
}

// Reload reads the configuration again. Runs go on with the old one; a mistake
// anywhere in it changes nothing.
func (c *control) Reload(ctx context.Context) error {
	err := c.reload(ctx)
	if err != nil {
		c.log.Error("the configuration was not taken", "error", err, "goes_on", "the old one")
	} else {
		c.log.Info("the configuration was read again")
	}
	return err
}

func (c *control) reload(ctx context.Context) error {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	cfg, err := c.a.load()
	if err != nil {
		return err
	}
	f, err := c.prepare(cfg)
	if err != nil {
		return err
	}
	c.force.Store(f)
	c.kept.Store(f.site)
	c.level.Set(cfg.Log.Least())
	c.serveMetrics(f)
	select {
	case c.turned <- struct{}{}:
	default:
	}
	return c.Daemon.Reload(ctx)
}

// deliver delivers messages as the configuration in force says, until ctx ends.
// What is under way when that changes is delivered again, under the same name.
func (c *control) deliver(ctx context.Context) error {
	for ctx.Err() == nil {
		turn, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-c.turned:
				stop()
			case <-turn.Done():
			}
		}()
		err := c.force.Load().tell.Run(turn)
		if turn.Err() == nil {
			stop()
			return err
		}
		stop()
	}
	return nil
}

// serveMetrics has them at the address of a configuration; where that has not
// changed, the listener goes on. c.reloading is held, or nobody reloads yet.
func (c *control) serveMetrics(f *inForce) {
	if f.listener == nil && f.c.Metrics.Listen != "" {
		return
	}
	c.stopMetrics()
	c.stopMetrics = func() {}
	if f.listener == nil {
		return
	}
	c.stopMetrics = metrics.Start(f.listener, metrics.Config{From: c, Version: version, Log: c.log,
		Label: func(name string) string { return c.label(name) },
		Store: func(name string) string { return c.storeLabel(name) }})
	c.log.Info("metrics are served", "address", f.listener.Addr().String())
}

// label is what stands for the name of a tenant or a dataset in metrics.
func (c *control) label(name string) string {
	f := c.force.Load()
	if f.c.Metrics.Names || !slices.Contains(clientsOf(f.c), name) {
		return name
	}
	return c.pseudonyms.Of(name)
}

func (c *control) storeLabel(name string) string {
	f := c.force.Load()
	if f.c.Metrics.Names {
		return name
	}
	return c.pseudonyms.Unless(name, clientsOf(f.c))
}

// teller is the notifier that is in force.
type teller struct{ c *control }

func (t teller) now() *notify.Notifier { return t.c.force.Load().tell }

func (t teller) Messages(e notify.Event) ([]state.Message, error) { return t.now().Messages(e) }
func (t teller) Wake()                                            { t.now().Wake() }
func (t teller) People() bool                                     { return t.now().People() }
func (t teller) SendTestAlarm(ctx context.Context) error          { return t.now().SendTestAlarm(ctx) }
func (t teller) CheckTestAlarm(ctx context.Context) error         { return t.now().CheckTestAlarm(ctx) }

// TestNotify sends a sample, about the first dataset.
func (c *control) TestNotify(ctx context.Context, kind string) ([]string, error) {
	k, err := notify.ParseKind(kind)
	if err != nil {
		return nil, err
	}
	f := c.force.Load()
	if len(f.c.Tenants) == 0 || len(f.c.Tenants[0].Datasets) == 0 || len(f.c.Stores) == 0 {
		return nil, errors.New("there is no first dataset and no first store to send a sample about")
	}
	t := f.c.Tenants[0]
	level, err := notify.ParseLevel(t.Level)
	if err != nil {
		return nil, err
	}
	all, err := f.tell.Test(ctx, notify.Sample(k, f.names.Of(t.Name), f.names.Of(t.Datasets[0].Name), f.names.Of(f.c.Stores[0].Name), level, time.Now()))
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, x := range all {
		if x.Err != nil {
			out = append(out, fmt.Sprintf("%s: FAILED: %v", x.Way, x.Err))
		} else {
			out = append(out, x.Way+": taken")
		}
	}
	return out, nil
}

// Answer takes the code of a test alarm.
func (c *control) Answer(ctx context.Context, code, who string) error {
	return c.force.Load().tell.Answer(ctx, code, who)
}
