package command

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strongroom/source"
)

func TestExamineTellsWhoCouldChangeTheProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("files of other owners need root: that a program which others could change is told was not seen")
	}
	// Directories for all have the sticky bit, as /tmp, under which this is.
	dir := t.TempDir()
	script := filepath.Join(dir, "dump.sh")
	for _, c := range []struct {
		name  string
		set   func() error
		argv  []string
		code  string
		worst source.Severity
	}{
		{"not there", func() error { return nil }, []string{script}, "program", source.Bad},
		{"not executable", func() error { return os.WriteFile(script, []byte("#!/bin/sh\n"), 0o644) }, []string{script}, "program", source.Bad},
		{"good", func() error { return os.Chmod(script, 0o755) }, []string{script}, "", source.OK},
		{"writable by all", func() error { return os.Chmod(script, 0o757) }, []string{script}, "program-owner", source.Warn},
		{"an interpreter's argument", func() error { return nil }, []string{"/bin/sh", script}, "program-owner", source.Warn},
		{"owned by another", func() error { return errors.Join(os.Chmod(script, 0o755), os.Chown(script, 65534, 0)) }, []string{script}, "program-owner", source.Warn},
		{"in another's directory", func() error {
			if err := os.Chown(script, 0, 0); err != nil {
				return err
			}
			return os.Chown(dir, 65534, 0)
		}, []string{script}, "program-owner", source.Warn},
		{"in a directory for all", func() error {
			if err := os.Chown(dir, 0, 0); err != nil {
				return err
			}
			return os.Chmod(dir, 0o777)
		}, []string{script}, "program-owner", source.Warn},
		{"good again", func() error { return os.Chmod(dir, 0o755) }, []string{"/bin/sh", script}, "", source.OK},
		{"a secret among the arguments is not shown", func() error { return nil }, []string{"/bin/echo", "s3cret"}, "", source.OK},
	} {
		if err := c.set(); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Argv: c.argv})
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.Examine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := source.Findings(all).Worst(); got != c.worst {
			t.Errorf("%s: %+v", c.name, all)
		}
		for _, f := range all {
			if f.Severity != source.OK && f.Code != c.code {
				t.Errorf("%s: want %s: %+v", c.name, c.code, f)
			}
			if strings.Contains(f.What+f.Why+f.Remedy, "s3cret") {
				t.Errorf("%+v", f)
			}
		}
	}
}
