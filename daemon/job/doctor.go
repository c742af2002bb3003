package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"strongroom/custody/exit"
	"strongroom/daemon/config"
	"strongroom/daemon/doctor"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/postgres"
)

// An examiner is a source that can say what a person should know before
// relying on its snapshots. It changes nothing and keeps nobody waiting. An
// error is a failure of the examination, not of what is examined.
type examiner interface {
	Examine(ctx context.Context) ([]source.Finding, error)
}

// BoxSubject is the subject of findings about the machine.
const BoxSubject = "box"

// Examined is what was found of one thing.
type Examined struct {
	Subject  string           `json:"subject"` // BoxSubject, or TENANT/DATASET
	Findings []source.Finding `json:"findings"`
}

// DoctorResult is an examination of the machine and of datasets.
type DoctorResult struct {
	Examined []Examined      `json:"examined"`
	Worst    source.Severity `json:"worst"`
}

// Doctor examines the machine and one dataset, or with tenant "" all. It needs
// no key and no state directory: it is for the time before the first snapshot.
func Doctor(ctx context.Context, c *config.Config, tenant, dataset string) (*DoctorResult, error) {
	r := DoctorBox(ctx, c)
	found := false
	for _, t := range c.Tenants {
		for _, d := range t.Datasets {
			if tenant != "" && (t.Name != tenant || d.Name != dataset) {
				continue
			}
			found = true
			f := examineDataset(ctx, c, t.Name, d)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r.add(t.Name+"/"+d.Name, f)
		}
	}
	if !found && tenant != "" {
		return nil, exit.With(exit.Usage, fmt.Errorf("%s has no dataset %s/%s", c.Path, tenant, dataset))
	}
	return r, nil
}

// Doctor is that of the package, with what only a box that is open knows: that a
// tenant has no keys yet, or those of another level, and so no backup begins.
func (s *Site) Doctor(ctx context.Context, tenant, dataset string) (*DoctorResult, error) {
	c := *s.Config // without the box's own tenant, whose source is there while it is read
	c.Tenants = slices.DeleteFunc(slices.Clone(c.Tenants), func(t config.Tenant) bool { return t.Name == SelfTenant })
	r, err := Doctor(ctx, &c, tenant, dataset)
	if err != nil {
		return nil, err
	}
	for i := range r.Examined {
		x := &r.Examined[i]
		name, _, ok := strings.Cut(x.Subject, "/")
		if !ok { // the box
			x.Findings = append(x.Findings, s.drillWalls()...)
			continue
		}
		f := source.Findings(x.Findings)
		if _, _, err := s.Tenant(name); err != nil {
			f.Bad("keys", err.Error(), "no snapshot can be taken", "strongroom init, or the level that the tenant has")
			r.Worst = source.Bad
		} else {
			f.OK("keys", fmt.Sprintf("tenant %q has keys", name))
		}
		x.Findings = f
	}
	return r, nil
}

// recordOf finds out whether a box that is set up keeps a record.
func recordOf(c *config.Config) (f source.Findings) {
	switch {
	case there(filepath.Join(c.StateDir, ledgerName)):
		f.OK("ledger", "acts are recorded; strongroom audit verify looks at it whole")
	case there(filepath.Join(c.StateDir, "keys")):
		f.Warn("ledger", "this box has no ledger", "who did what to whose data stands nowhere that cannot be edited afterwards", "strongroom audit init")
	}
	return f
}

// DoctorBox examines the machine alone.
func DoctorBox(ctx context.Context, c *config.Config) *DoctorResult {
	r := &DoctorResult{Worst: source.OK}
	f := append(doctor.Examine(machine(c)), wallsOf(c)...)
	f = append(f, mountHelper(ctx, c)...)
	f = append(f, recordOf(c)...)
	r.add(BoxSubject, append(f, postgres.Installed(ctx)...))
	return r
}

func (r *DoctorResult) add(subject string, f source.Findings) {
	r.Examined = append(r.Examined, Examined{subject, f})
	if w := f.Worst(); w.Worse(r.Worst) {
		r.Worst = w
	}
}

// machine is what the configuration asks of this box.
func machine(c *config.Config) doctor.Config {
	m := doctor.Config{StateDir: c.StateDir, ConfigFile: c.Path}
	// Under systemd the credential is not there but with the unit, and
	// LoadCredential has looked at it.
	if path := credentialPath(c); os.Getenv("CREDENTIALS_DIRECTORY") == "" && there(path) {
		m.Secrets = append(m.Secrets, doctor.Secret{What: "the box's credential", Path: path})
	}
	for _, s := range c.Stores {
		for _, f := range []string{s.AccessKeyFile, s.SecretKeyFile, s.DeleteAccessKeyFile, s.DeleteSecretKeyFile,
			s.ExtendAccessKeyFile, s.ExtendSecretKeyFile, s.RecoveryAccessKeyFile, s.RecoverySecretKeyFile} {
			if f != "" {
				m.Secrets = append(m.Secrets, doctor.Secret{What: fmt.Sprintf("credential of store %q", s.Name), Path: f})
			}
		}
	}
	for _, s := range c.Notify.Secrets() {
		m.Secrets = append(m.Secrets, doctor.Secret{What: s.What, Path: s.Path})
	}
	for _, t := range c.Tenants {
		for _, d := range t.Datasets {
			if d.SSHKeyFile != "" {
				m.Secrets = append(m.Secrets, doctor.Secret{What: fmt.Sprintf("SSH key for %s/%s", t.Name, d.Name), Path: d.SSHKeyFile})
			}
			m.Bound += bound(d.BaseCache, config.DefaultBaseCache) + bound(d.Spool, config.DefaultSpool)
		}
	}
	return m
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func bound(s *config.Size, normal int64) int64 {
	if s == nil {
		return normal
	}
	return s.Bytes
}

// examineDataset examines a source and the programs that run around it. That
// an examination fails is a finding too: the others are still worth reading.
func examineDataset(ctx context.Context, c *config.Config, tenant string, d config.Dataset) source.Findings {
	var f source.Findings
	if d.Source == "import" {
		f.OK("import", "old dumps, which are read from files that a person names")
	} else {
		src, err := newSource(tenant, d, filepath.Join(c.StateDir, "scratch"), "")
		f = examined(ctx, src, err)
	}
	for _, argv := range [][]string{d.Before, d.After} {
		if argv != nil {
			src, err := command.New(command.Config{Argv: argv})
			f = append(f, examined(ctx, src, err)...)
		}
	}
	return f
}

// examined takes what a source's New returned.
func examined(ctx context.Context, src source.Source, err error) (f source.Findings) {
	e, ok := src.(examiner)
	switch {
	case err != nil:
		f.Bad("configuration", err.Error(), "a backup would fail in the same way", "")
		return f
	case !ok:
		f.Note("examination", "this kind of source cannot be examined", "whether a backup succeeds shows when it runs", "")
		return f
	}
	found, err := e.Examine(ctx)
	if f = found; err != nil {
		f.Bad("examination", err.Error(), "what could not be looked at could not be read either", "")
	}
	return f
}
