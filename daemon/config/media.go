package config

import (
	"path/filepath"
	"time"
)

// Media says how offline media are used.
type Media struct {
	// Sets is how many sets the weekly round has: A, B, C; default 3, 0 for none.
	Sets *int `toml:"sets"`
	// Monthly is how many monthly media there are before the oldest is written
	// again; default 12, 0 for none.
	Monthly *int `toml:"monthly"`
	// Yearly asks for one medium a year that is kept; default true.
	Yearly *bool `toml:"yearly"`
	// VerifyDisk and VerifyOptical are how long a medium that was read whole is
	// believed; default 180d and 365d.
	VerifyDisk    *Span `toml:"verify_disk"`
	VerifyOptical *Span `toml:"verify_optical"`
	// Inside is how long a disk may stay connected; default 2d.
	Inside *Span `toml:"inside"`
	// RecoveryProgram is put on each medium; default is strongroom-recover beside
	// the program that runs.
	RecoveryProgram string `toml:"recovery_program"`
	// Helper is the socket of strongroom-mountd; without it media are mounted by
	// the program itself, which takes root.
	Helper string `toml:"helper"`
	// Burn is the program that burns an image, and its arguments; "{image}" in
	// them is the file.
	Burn []string `toml:"burn"`
}

func (m *Media) check() error {
	if m == nil {
		return nil
	}
	if m.Sets != nil && (*m.Sets < 0 || *m.Sets > 26 || *m.Sets == 1) {
		return bad("sets", "sets %d: want 0, or 2 to 26; with one there would be none while it is written", *m.Sets)
	}
	if m.Monthly != nil && (*m.Monthly < 0 || *m.Monthly > 120) {
		return bad("monthly", "monthly %d is not 0 to 120", *m.Monthly)
	}
	for _, s := range []struct {
		key   string
		span  *Span
		least time.Duration
		words string
	}{{"verify_disk", m.VerifyDisk, 60 * 24 * time.Hour, "60d"}, {"verify_optical", m.VerifyOptical, 60 * 24 * time.Hour, "60d"}, {"inside", m.Inside, time.Hour, "1h"}} {
		if s.span == nil {
			continue
		}
		if err := s.span.check(s.key); err != nil {
			return err
		}
		if s.span.Duration < s.least {
			return bad(s.key, "%s: %v is less than %s", s.key, s.span.Duration, s.words)
		}
	}
	for key, path := range map[string]string{"recovery_program": m.RecoveryProgram, "helper": m.Helper} {
		if path != "" && !filepath.IsAbs(path) {
			return bad(key, "%s %q is not an absolute path", key, path)
		}
	}
	if m.Burn != nil && (len(m.Burn) == 0 || !filepath.IsAbs(m.Burn[0])) {
		return bad("burn", "burn must be a list that begins with the absolute path of a program")
	}
	return nil
}
