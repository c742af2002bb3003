package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"strongroom/custody/exit"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/plain"
	"strongroom/daemon/support"
)

func (a *app) supportCommand() *cobra.Command {
	c := &cobra.Command{Use: "support", Short: "Pack what somebody who helps needs to know, without what is a client's"}
	c.AddCommand(a.bundleCommand(), a.supportNamesCommand())
	return c
}

const bundleReadme = `What strongroom support bundle has packed for somebody who helps.

  about.json     versions, the machine
  config.json    which keys the configuration has, and the values that say nothing
  overview.json  what strongroom status has: datasets, jobs, alarms, stores, room
  runs.json      the last runs and how they ended
  doctor.json    what strongroom doctor finds, by its codes
  plan.json      what is planned in the next two weeks
  log.json       what the daemon logged last
  log.txt        the log that was given with --log, if one was
  state.json     how many files and bytes are where in the state directory

Names of tenants and datasets are replaced by words such as n-zk5imkt86, always
the same for a name; strongroom support names, on the box, says which is which.
Of messages there is left what this program says by itself: a word that it does
not know, and all that stands in quotes, is …, for it may be a client's. Look
through it before you send it all the same.
`

func (a *app) bundleCommand() *cobra.Command {
	var out, log string
	c := &cobra.Command{
		Use:   "bundle --out FILE",
		Short: "Write a tar.zst of versions, redacted configuration, status, runs, findings and log",
		Long: `Bundle writes a tar.zst for somebody who helps. It holds no key, password, row,
table, path or address; names of tenants and datasets are replaced by words that
are always the same, which "support names" lists on the box.

Where the daemon does not answer, its part is missing. Its log can be added:
    journalctl -u strongroom -o short-iso | strongroom support bundle --log - --out FILE`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return exit.With(exit.Usage, errors.New("--out is missing: a file for the bundle"))
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return exit.With(exit.Refused, err)
			}
			err = a.writeBundle(cmd.Context(), f, log)
			if err := errors.Join(err, f.Close()); err != nil {
				return errors.Join(err, os.Remove(out))
			}
			return a.ui.Result(map[string]any{"file": out}, "%s is written; look through it before you send it: tar --zstd -xvf %s\n", out, out)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write")
	c.Flags().StringVar(&log, "log", "", "a log to add, - for stdin")
	return c
}

// writeBundle collects what there is: on a box in trouble much is missing, and
// the rest is what somebody needs.
func (a *app) writeBundle(ctx context.Context, w io.Writer, log string) error {
	cfg, cfgErr := a.load()
	names := map[string]string{}
	if cfgErr == nil {
		var err error
		if names, err = wordsFor(cfg); err != nil {
			return err
		}
	} else {
		cfg = &config.Config{StateDir: "/var/lib/strongroom"}
	}
	f := plain.New(names)
	parts := []support.Part{{Name: "about.json", Value: about(cfg), Reduced: true}}
	text, err := os.ReadFile(a.configPath)
	shape := any(nil)
	if err == nil {
		shape, err = support.Configuration(text, config.Keys(), f)
	}
	parts = append(parts, support.Part{Name: "config.json", Value: map[string]any{"keys": shape, "mistake": mistake(f, cfgErr)}, Reduced: true, Err: err})
	client, err := a.client()
	add := func(name string, ask func() (any, error)) {
		p := support.Part{Name: name, Err: err}
		if err == nil {
			p.Value, p.Err = ask()
		}
		parts = append(parts, p)
	}
	add("overview.json", func() (any, error) { return client.Overview(ctx) })
	add("runs.json", func() (any, error) { return client.Runs(ctx, "", "", 500) })
	add("plan.json", func() (any, error) { return client.Plan(ctx, 2) })
	add("log.json", func() (any, error) { return client.Said(ctx) })
	doctor := support.Part{Name: "doctor.json", Err: cfgErr}
	if cfgErr == nil {
		doctor.Value, doctor.Err = codes(ctx, cfg)
	}
	parts = append(parts, doctor, support.Part{Name: "state.json", Value: stateTree(cfg.StateDir)})
	if log != "" {
		lines, err := a.linesOf(log)
		parts = append(parts, support.Part{Name: "log.txt", Lines: lines, Err: err})
	}
	return support.Write(w, f, time.Now(), bundleReadme, parts)
}

// wordsFor are the words that stand for names.
func wordsFor(cfg *config.Config) (map[string]string, error) {
	key, err := pseudonymKey(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("%w; without the state directory names cannot be replaced", err)
	}
	p, names := plain.NewPseudonyms(key), map[string]string{}
	for _, s := range cfg.Stores {
		names[s.Name] = p.Unless(s.Name, clientsOf(cfg))
	}
	for _, n := range clientsOf(cfg) {
		names[n] = p.Of(n)
	}
	return names, nil
}

func (a *app) supportNamesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "names",
		Short: "List which words stand for which names, in bundles and metrics",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			words, err := wordsFor(cfg)
			if err != nil {
				return err
			}
			var b strings.Builder
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			for _, s := range cfg.Stores {
				fmt.Fprintf(w, "%s\tstore %s\n", words[s.Name], s.Name)
			}
			for _, t := range cfg.Tenants {
				fmt.Fprintf(w, "%s\ttenant %s\n", words[t.Name], t.Name)
				for _, d := range t.Datasets {
					fmt.Fprintf(w, "%s\tdataset %s/%s\n", words[d.Name], t.Name, d.Name)
				}
			}
			w.Flush()
			return a.ui.Result(map[string]any{"words": words}, "%s", b.String())
		},
	}
}

func mistake(f *plain.Filter, err error) string {
	if err == nil {
		return ""
	}
	var m *config.Error
	if errors.As(err, &m) && m.Line > 0 {
		return fmt.Sprintf("line %d, column %d: %s", m.Line, m.Column, f.Text(m.Text))
	}
	return f.Text(err.Error())
}

// about is the machine: nothing in it comes from a client.
func about(cfg *config.Config) map[string]any {
	out := map[string]any{"time": time.Now().UTC(), "version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": runtime.NumCPU(),
		"root": os.Geteuid() == 0, "systemd": os.Getenv("INVOCATION_ID") != ""}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		out["kernel"] = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		out["uptime_seconds"], out["memory_bytes"], out["memory_free_bytes"] = info.Uptime, uint64(info.Totalram)*uint64(info.Unit), uint64(info.Freeram)*uint64(info.Unit)
	}
	var st unix.Statfs_t
	if unix.Statfs(cfg.StateDir, &st) == nil {
		out["state_free_bytes"], out["state_size_bytes"], out["state_free_files"] = int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize, st.Ffree
	}
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(l), "PRETTY_NAME="); ok {
				out["system"] = strings.Trim(v, `"`)
			}
		}
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		mods := map[string]string{}
		for _, m := range b.Deps {
			mods[m.Path] = m.Version
		}
		out["modules"] = mods
	}
	return out
}

// codes is an examination without what it says: that names tables and roles.
func codes(ctx context.Context, cfg *config.Config) (any, error) {
	r, err := job.Doctor(ctx, cfg, "", "")
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, x := range r.Examined {
		for _, f := range x.Findings {
			out[x.Subject] = append(out[x.Subject], string(f.Severity)+": "+f.Code)
		}
	}
	return out, nil
}

// stateTree says how many files and bytes are below each entry of the state
// directory.
func stateTree(dir string) any {
	type tree struct {
		Name  string `json:"name"`
		Files int    `json:"files"`
		Bytes int64  `json:"bytes"`
	}
	out := []tree{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	for _, e := range entries {
		t := tree{Name: e.Name()}
		_ = filepath.WalkDir(filepath.Join(dir, e.Name()), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					t.Files, t.Bytes = t.Files+1, t.Bytes+info.Size()
				}
			}
			return nil // what cannot be looked at is not counted
		})
		out = append(out, t)
	}
	return out
}

// maxLog bounds a log that is added, in lines: the last ones count.
const maxLog = 20000

func (a *app) linesOf(path string) ([]string, error) {
	in := a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var out []string
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if out = append(out, lines.Text()); len(out) > 2*maxLog {
			out = append([]string{}, out[len(out)-maxLog:]...)
		}
	}
	return out[max(0, len(out)-maxLog):], lines.Err()
}
