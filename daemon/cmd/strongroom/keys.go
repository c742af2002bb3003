package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/keys/share"
	"strongroom/custody/rescue"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/repo/store/spec"
)

func (a *app) keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Kits, recovery keys and shares"}
	c.AddCommand(a.stationInit(false), a.stationRelease(false), a.kitCommand(), a.sharesCommand())
	return c
}

// kitCommand issues kits and registers that they were read back and proven.
func (a *app) kitCommand() *cobra.Command {
	var out, holder, place, code, proof, program string
	var readBack int
	c := &cobra.Command{
		Use:   "kit TENANT (--out DIR --holder NAME --place PLACE | --read-back N --code CODE | --proof PROOF)",
		Short: "Issue a numbered kit of a tenant, register its read-back, or a station's proof",
		Long: `A kit is what recovers one tenant, together with k shares: a file and a page to
print. A tenant is recoverable when two copies at different places were read
back (the holder reads the copy's code from the paper) and the station has
opened one with k shares (strongroom station prove). Without flags it says how
far a tenant is.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch issue, back := out != "", readBack != 0; {
			case issue && (holder == "" || place == ""):
				return exit.With(exit.Usage, errors.New("--holder and --place say who holds the copy and where"))
			case !issue && (holder != "" || place != "" || program != ""):
				return exit.With(exit.Usage, errors.New("--out is missing: the directory for the kit's file and page"))
			case back != (code != ""):
				return exit.With(exit.Usage, errors.New("--read-back and --code go together"))
			case issue && back, issue && proof != "", back && proof != "":
				return exit.With(exit.Usage, errors.New("give one of --out, --read-back and --proof"))
			}
			site, err := a.site()
			if err != nil {
				return err
			}
			defer site.Close()
			if _, _, err := site.Tenant(args[0]); err != nil {
				return err
			}
			switch {
			case out != "":
				return a.issueKit(cmd, site, args[0], out, holder, place, program)
			case readBack != 0:
				err = site.ReadBackCopy(cmd.Context(), args[0], readBack, code, time.Now())
			case proof != "":
				err = site.ProveCanary(cmd.Context(), args[0], proof, time.Now())
			}
			if err != nil {
				return err
			}
			return a.printRecoverable(site, args[0])
		},
	}
	fs := c.Flags()
	fs.StringVar(&out, "out", "", "directory for the kit's file and page")
	fs.StringVar(&holder, "holder", "", "who will hold the copy")
	fs.StringVar(&place, "place", "", "where it will be kept")
	fs.StringVar(&program, "program", "", "recovery program that goes with it (default: strongroom-recover beside this program, else this program)")
	fs.IntVar(&readBack, "read-back", 0, "number of the copy whose code was read back")
	fs.StringVar(&code, "code", "", "the code on the copy")
	fs.StringVar(&proof, "proof", "", "the proof that the station printed")
	return c
}

func (a *app) printRecoverable(site *job.Site, tenant string) error {
	t, err := site.Box.Tenant(tenant)
	if err != nil {
		return err
	}
	r := t.Recoverable()
	text := fmt.Sprintf("tenant %q is recoverable without this box\n", tenant)
	if !r.Ready {
		text = fmt.Sprintf("tenant %q is not yet recoverable: %s\n", tenant, strings.Join(r.Missing, "; "))
	}
	return a.ui.Result(map[string]any{"tenant": tenant, "recoverable": r.Ready, "missing": r.Missing, "copies": len(t.Copies)}, "%s", text)
}

// recoveryProgram returns the program whose hash stands on the kit.
func recoveryProgram(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if p := filepath.Join(filepath.Dir(self), "strongroom-recover"); fileExists(p) {
		return p, nil
	}
	return self, nil
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

func hashFile(path string) (h keys.Hash, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	d := sha256.New()
	if _, err := io.Copy(d, f); err != nil {
		return h, err
	}
	return keys.Hash(d.Sum(nil)), nil
}

func (a *app) issueKit(cmd *cobra.Command, site *job.Site, tenant, out, holder, place, program string) error {
	program, err := recoveryProgram(program)
	if err != nil {
		return err
	}
	sum, err := hashFile(program)
	if err != nil {
		return fmt.Errorf("recovery program: %w", err)
	}
	stores, err := kitStores(site.Config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	kit, file, err := site.IssueKit(cmd.Context(), tenant, box.Issue{Holder: holder, Place: place, Stores: stores, Binary: sum, Now: time.Now()})
	if err != nil {
		return err
	}
	page, err := kit.Page()
	if err != nil {
		return err
	}
	base := filepath.Join(out, fmt.Sprintf("kit-%s-%d", tenant, kit.Copy))
	if err := errors.Join(job.WriteNew(base+".kit", file), job.WriteNew(base+".html", page)); err != nil {
		return err
	}
	sheet, err := writeSheet(site, out, sum)
	if err != nil {
		return err
	}
	code := keys.CopyCode(file)
	return a.ui.Result(map[string]any{"tenant": tenant, "copy": kit.Copy, "file": base + ".kit", "page": base + ".html", "sheet": sheet, "code": code},
		"copy %d of the kit of tenant %q: %s.kit, and %s.html to print; "+filepath.Base(sheet)+" beside it tells how to recover and holds no key\nits code is %s; when it is at its place, have it read back: strongroom keys kit %s --read-back %d --code CODE\n",
		kit.Copy, tenant, base, base, code, tenant, kit.Copy)
}

// writeSheet writes the organisation's sheet: it names recovery keys and boxes,
// holds no capsule, and may lie where anybody finds it. One that is there for
// the same keys stays.
func writeSheet(site *job.Site, dir string, program keys.Hash) (string, error) {
	o, err := site.Box.Organisation()
	if err != nil {
		return "", err
	}
	s := keys.Sheet{Organisation: "Strongroom backups", Boxes: o.Boxes, Binary: program, Created: time.Now().UTC().Truncate(time.Second)}
	name := sha256.New()
	for _, r := range o.Recovery {
		s.Recovery = append(s.Recovery, r.Recovery)
		name.Write(r.Fingerprint[:])
	}
	for _, b := range o.Boxes {
		name.Write(b.Public[:])
	}
	page, err := s.Page()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, fmt.Sprintf("sheet-%x.html", name.Sum(nil)[:4]))
	if fileExists(path) {
		return path, nil
	}
	return path, job.WriteNew(path, page)
}

// kitStores describes the stores for a kit, with read-only credentials where
// the configuration has some.
func kitStores(c *config.Config) ([]box.StoreInfo, error) {
	out := []box.StoreInfo{}
	for _, s := range c.Stores {
		sp := job.SpecOf(s)
		sp.AccessKeyFile, sp.SecretKeyFile = "", "" // names of files on this box mean nothing elsewhere
		info := box.StoreInfo{Name: s.Name, Spec: sp.String()}
		if s.RecoveryAccessKeyFile != "" {
			access, err := spec.ReadAccessBytes(s.RecoveryAccessKeyFile, s.RecoverySecretKeyFile)
			if err != nil {
				return nil, fmt.Errorf("store %q: %w", s.Name, err)
			}
			info.Access = access
		}
		out = append(out, info)
	}
	return out, nil
}

// sharesCommand checks share files without bringing them together.
func (a *app) sharesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "shares FILE…",
		Short: "Check share files: readable, of one set, which numbers; opens nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			shares, err := rescue.ReadShares(args)
			if err != nil {
				return err
			}
			defer share.Wipe(shares)
			for i, s := range shares {
				if s.Set != shares[0].Set {
					return fmt.Errorf("%s: %w than %s", args[i], share.ErrOtherSet, args[0])
				}
				if err := a.ui.Result(map[string]any{"file": args[i], "set": s.ID.String(), "class": s.Class.String(), "index": s.Index, "k": s.K, "n": s.N},
					"%s: share %d of %d, any %d open the recovery key of class %s, set %s\n", args[i], s.Index, s.N, s.K, s.Class, s.ID); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
