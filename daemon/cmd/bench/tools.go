package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A tool is a program that keeps weekly snapshots of one source. Calls come one
// after the other.
type tool interface {
	name() string
	// create makes an empty repository in place of the last.
	create(ctx context.Context) error
	// save takes the snapshot of a week.
	save(ctx context.Context, week int) (cost, error)
	// restore writes a week's files somewhere below an empty directory.
	restore(ctx context.Context, week int, to string) (cost, error)
	// stored is what the repository holds, in bytes, without parity.
	stored() (int64, error)
}

// A strongroom is ours, with three directory stores: 2+1.
type strongroom struct {
	bin, dir    string
	label       string
	dataset     string // lines of TOML
	compression string // "" leaves the setting out
	file        string // restores go to this file, not to a directory
}

const storeCount, dataShards = 3, 2

func (s *strongroom) name() string          { return s.label }
func (s *strongroom) config() string        { return filepath.Join(s.dir, "strongroom.toml") }
func (s *strongroom) store(i int) string    { return filepath.Join(s.dir, fmt.Sprintf("store%d", i)) }
func (s *strongroom) snapshot(w int) string { return fmt.Sprintf("acme/crm@week%d", w) }

func (s *strongroom) create(ctx context.Context) error {
	if err := os.RemoveAll(s.dir); err != nil {
		return err
	}
	for i := range storeCount {
		if err := os.MkdirAll(s.store(i), 0o700); err != nil {
			return err
		}
	}
	if err := s.configure(); err != nil {
		return err
	}
	_, _, err := s.command("init", "--shares-dir", filepath.Join(s.dir, "shares")).run(ctx)
	return err
}

func (s *strongroom) configure() error {
	text := fmt.Sprintf("state_dir = %q\n", filepath.Join(s.dir, "state"))
	for i := range storeCount {
		text += fmt.Sprintf("[[store]]\nname = \"s%d\"\nkind = \"dir\"\npath = %q\n", i, s.store(i))
	}
	text += "[[tenant]]\nname = \"acme\"\nlevel = \"confidential\"\n[[tenant.dataset]]\nname = \"crm\"\n" + s.dataset
	if s.compression != "" {
		text += fmt.Sprintf("compression = %q\n", s.compression)
	}
	return os.WriteFile(s.config(), []byte(text), 0o600)
}

func (s *strongroom) command(args ...string) program {
	return program{name: s.bin, args: append([]string{"--config", s.config()}, args...)}
}

func (s *strongroom) save(ctx context.Context, week int) (cost, error) {
	c, _, err := s.command("backup", "acme/crm", "--label", fmt.Sprintf("week%d", week)).run(ctx)
	return c, err
}

func (s *strongroom) restore(ctx context.Context, week int, to string) (cost, error) {
	c, _, err := s.command("restore", s.snapshot(week), "--to", filepath.Join(to, s.file)).run(ctx)
	return c, err
}

// stored counts k/n of all shards, and manifests once: every store has a copy.
func (s *strongroom) stored() (int64, error) {
	var shards, manifests int64
	for i := range storeCount {
		err := filepath.WalkDir(s.store(i), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Dir(path) == s.store(i) {
				return err // beside the tenants lie the format's text and the like
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			switch {
			case strings.HasPrefix(d.Name(), "s-"):
				shards += info.Size()
			case strings.HasPrefix(d.Name(), "m-"):
				manifests += info.Size()
			default:
				return fmt.Errorf("%s: what is this?", path)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return shards*dataShards/storeCount + manifests/storeCount, nil
}

// understands says whether the program knows the compression setting.
func (s *strongroom) understands(ctx context.Context) (bool, error) {
	if err := errors.Join(os.RemoveAll(s.dir), os.MkdirAll(s.dir, 0o700), s.configure()); err != nil {
		return false, err
	}
	_, _, err := s.command("config", "check").run(ctx)
	if err != nil && strings.Contains(err.Error(), "unknown key") {
		return false, nil
	}
	return err == nil, err
}
