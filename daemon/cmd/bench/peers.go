package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A peer has one local repository, a cache of its own that stays warm, and the
// settings that its own manual advises for speed without giving up ratio.
type peer struct {
	label, bin string
	dir, src   string
}

func (p *peer) name() string { return p.label }

func (p *peer) repo() string { return filepath.Join(p.dir, "repo") }

func (p *peer) stored() (int64, error) { return treeSize(p.repo()) }

func (p *peer) fresh() error {
	return errors.Join(os.RemoveAll(p.dir), os.MkdirAll(filepath.Join(p.dir, "tmp"), 0o700))
}

func treeSize(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

const password = "a password for the benchmark alone"

// restic: repository version 2, compression auto, which is zstd's default.
type restic struct{ peer }

func (r *restic) command(args ...string) program {
	return program{name: r.bin, dir: r.src, args: append([]string{"-q", "-r", r.repo(), "--cache-dir", filepath.Join(r.dir, "cache"), "--compression", "auto"}, args...),
		env: []string{"HOME=" + r.dir, "TMPDIR=" + filepath.Join(r.dir, "tmp"), "RESTIC_PASSWORD=" + password}}
}

func (r *restic) create(ctx context.Context) error {
	if err := r.fresh(); err != nil {
		return err
	}
	_, _, err := r.command("init", "--repository-version", "2").run(ctx)
	return err
}

func (r *restic) save(ctx context.Context, week int) (cost, error) {
	c, _, err := r.command("backup", "--tag", fmt.Sprintf("week%d", week), ".").run(ctx)
	return c, err
}

func (r *restic) restore(ctx context.Context, week int, to string) (cost, error) {
	c, _, err := r.command("restore", "latest", "--tag", fmt.Sprintf("week%d", week), "--target", to).run(ctx)
	return c, err
}

// borg: zstd level 1; its chunks are as by default or, "fine", as its manual
// advises where small parts of large files change.
type borg struct {
	peer
	chunker string // "" is the default
}

func (b *borg) command(dir string, args ...string) program {
	return program{name: b.bin, dir: dir, args: args, env: []string{"HOME=" + b.dir, "BORG_BASE_DIR=" + b.dir, "TMPDIR=" + filepath.Join(b.dir, "tmp"),
		"BORG_REPO=" + b.repo(), "BORG_PASSPHRASE=" + password}}
}

func (b *borg) create(ctx context.Context) error {
	if err := b.fresh(); err != nil {
		return err
	}
	// The manual: which of the two is faster depends on the processor's SHA
	// extensions.
	mode := "repokey-blake2"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Contains(string(info), " sha_ni") {
		mode = "repokey"
	}
	_, _, err := b.command(b.dir, "init", "-e", mode).run(ctx)
	return err
}

func (b *borg) save(ctx context.Context, week int) (cost, error) {
	args := []string{"create", "-C", "zstd,1"}
	if b.chunker != "" {
		args = append(args, "--chunker-params", b.chunker)
	}
	c, _, err := b.command(b.src, append(args, fmt.Sprintf("::week%d", week), ".")...).run(ctx)
	return c, err
}

func (b *borg) restore(ctx context.Context, week int, to string) (cost, error) {
	c, _, err := b.command(to, "extract", fmt.Sprintf("::week%d", week)).run(ctx)
	return c, err
}

// kopia: zstd-fastest and BLAKE3, the fastest of what its manual lets one choose
// from.
type kopia struct {
	peer
	ids map[int]string // by week
}

func (k *kopia) command(args ...string) program {
	return program{name: k.bin, dir: k.dir, args: append([]string{"--config-file", filepath.Join(k.dir, "config"), "--log-dir", filepath.Join(k.dir, "log"), "--no-progress"}, args...),
		env: []string{"HOME=" + k.dir, "TMPDIR=" + filepath.Join(k.dir, "tmp"), "KOPIA_PASSWORD=" + password, "KOPIA_CHECK_FOR_UPDATES=false"}}
}

func (k *kopia) create(ctx context.Context) error {
	if err := k.fresh(); err != nil {
		return err
	}
	k.ids = map[int]string{}
	create := k.command("repository", "create", "filesystem", "--path", k.repo(), "--cache-directory", filepath.Join(k.dir, "cache"), "--block-hash", "BLAKE3-256-128")
	if _, _, err := create.run(ctx); err != nil {
		return err
	}
	_, _, err := k.command("policy", "set", "--global", "--compression=zstd-fastest").run(ctx)
	return err
}

func (k *kopia) save(ctx context.Context, week int) (cost, error) {
	c, out, err := k.command("snapshot", "create", "--json", k.src).run(ctx)
	if err != nil {
		return c, err
	}
	var made struct{ ID string }
	if err := json.Unmarshal(out, &made); err != nil {
		return c, fmt.Errorf("kopia's snapshot: %w: %s", err, tail(out))
	}
	k.ids[week] = made.ID
	return c, nil
}

func (k *kopia) restore(ctx context.Context, week int, to string) (cost, error) {
	c, _, err := k.command("snapshot", "restore", k.ids[week], to).run(ctx)
	return c, err
}

// patches is zstd -3 --patch-from last week's file: no backup program, but how
// little a week can take. It needs last week's file and the memory for both.
type patches struct{ peer }

func (z *patches) create(context.Context) error {
	return errors.Join(z.fresh(), os.Mkdir(z.repo(), 0o700))
}

func (z *patches) files() ([]string, error) {
	entries, err := os.ReadDir(z.src)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}

func (z *patches) zstd(ctx context.Context, args ...string) (cost, error) {
	c, _, err := program{name: z.bin, args: append([]string{"-q", "-f"}, args...), dir: z.dir}.run(ctx)
	return c, err
}

func (z *patches) patch(week int, file string) string {
	return filepath.Join(z.repo(), fmt.Sprintf("week%d-%s.zst", week, file))
}

func (z *patches) save(ctx context.Context, week int) (total cost, err error) {
	files, err := z.files()
	if err != nil {
		return total, err
	}
	for _, f := range files {
		args := []string{"-3", "-T0"}
		last := filepath.Join(z.dir, "last-"+f)
		if week > 1 {
			args = []string{"-3", "--long=31", "--patch-from=" + last}
		}
		c, err := z.zstd(ctx, append(args, filepath.Join(z.src, f), "-o", z.patch(week, f))...)
		if err != nil {
			return total, err
		}
		total = total.plus(c)
		_ = os.Remove(last) // of week 0 there is none
		if err := os.Link(filepath.Join(z.src, f), last); err != nil {
			return total, err
		}
	}
	return total, nil
}

// restore applies all weeks' patches, one after the other.
func (z *patches) restore(ctx context.Context, week int, to string) (total cost, err error) {
	files, err := z.files()
	if err != nil {
		return total, err
	}
	for _, f := range files {
		out, last := filepath.Join(to, f), filepath.Join(z.dir, "tmp", f)
		for w := 1; w <= week; w++ {
			args := []string{"-d", z.patch(w, f), "-o", out}
			if w > 1 {
				if err := os.Rename(out, last); err != nil {
					return total, err
				}
				args = append(args, "--long=31", "--patch-from="+last)
			}
			c, err := z.zstd(ctx, args...)
			if err != nil {
				return total, err
			}
			total = total.plus(c)
		}
		_ = os.Remove(last) // of one week there is none
	}
	return total, nil
}
