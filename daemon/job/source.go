package job

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"strongroom/custody/keys/box"
	"strongroom/daemon/config"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
	"strongroom/source/sqlite"
)

// source builds the source of a dataset.
func (s *Site) source(t box.Tenant, d config.Dataset) (source.Source, error) {
	scratch := filepath.Join(s.Config.StateDir, "scratch")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	if t.Name == SelfTenant {
		return selfSource{s}, nil
	}
	restrict := ""
	if d.Source == "postgres" {
		var err error
		if restrict, err = s.restrictKey(t, d.Name); err != nil {
			return nil, err
		}
	}
	return newSource(t.Name, d, scratch, restrict)
}

// newSource builds the source of a tenant's dataset, wherever it is read; it
// opens nothing yet.
func newSource(tenant string, d config.Dataset, scratch, restrict string) (source.Source, error) {
	if d.Via.Via != "" {
		return newRemote(tenant, d, scratch, restrict)
	}
	return newLocal(d, scratch, restrict)
}

// newLocal builds a source that this process reads.
func newLocal(d config.Dataset, scratch, restrict string) (source.Source, error) {
	switch d.Source {
	case "postgres":
		return postgres.New(postgres.Config{URL: d.URL, PasswordFile: d.PasswordFile, Jobs: d.Jobs, LockTimeout: d.LockTimeout.Duration,
			TempDir: scratch, RestrictKey: restrict})
	case "mariadb":
		return mariadb.New(mariadb.Config{URL: d.URL, PasswordFile: d.PasswordFile, Jobs: d.Jobs, LockTimeout: d.LockTimeout.Duration, Lock: d.Lock})
	case "sqlite":
		return sqlite.New(sqlite.Config{Path: d.Path, Scratch: scratch})
	case "command":
		return command.New(command.Config{Argv: d.Command, Timeout: d.Timeout.Duration})
	case "files":
		return files.New(files.Config{Path: d.Path, Exclude: d.Exclude, Scratch: scratch})
	}
	return nil, fmt.Errorf("%w: unknown source %q", ErrRefused, d.Source)
}

// restrictKey is the token of a dataset's dumps: the same every week, so that
// equal schemas are equal bytes, and unknown to whoever owns the database.
func (s *Site) restrictKey(t box.Tenant, dataset string) (string, error) {
	c, err := s.Box.Catalogue(t.ID)
	if err != nil {
		return "", err
	}
	b, err := c.Derive([]byte("strongroom pg_dump restrict key 1\n"+dataset), 24)
	return hex.EncodeToString(b), err
}
