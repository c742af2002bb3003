package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"strongroom/custody/exit"
	"strongroom/daemon/config"
	"strongroom/repo/store"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/spec"
)

// probeLasts is how long what a lock probe found counts.
const probeLasts = 7 * day

// LockCap is the longest that anybody should be able to lock objects of this
// box: twice the longest window of its tenants.
func LockCap(c *config.Config) time.Duration {
	longest := time.Duration(0)
	for _, t := range c.Tenants {
		longest = max(longest, Window(t.Level))
	}
	return 2 * longest
}

// LockFinding is what the last lock probe of a store found, kept in the state
// directory.
type LockFinding struct {
	Store string    `json:"store"`
	Time  time.Time `json:"time"`
	// Place is the store that was probed: one that is elsewhere now is another.
	Place string `json:"place"`
	store.LockReport
}

// State says in a few words what a store's lock is worth.
func (f *LockFinding) State(now time.Time) string {
	if f == nil {
		return "not immutable as far as is known: its lock was never probed (strongroom store test --lock)"
	}
	text := fmt.Sprintf("immutable (%s)", f.Mode)
	if ok, bad := f.Immutable(); !ok {
		var steps []string
		for _, b := range bad {
			steps = append(steps, b.Step+": "+b.Found)
		}
		text = "NOT IMMUTABLE: " + strings.Join(steps, "; ")
	}
	text += ", probed " + f.Time.UTC().Format("2006-01-02 15:04Z")
	if age := now.Sub(f.Time); age > probeLasts || age < -time.Hour {
		text += fmt.Sprintf("; that is stale after %d days: strongroom store test --lock", int(probeLasts/day))
	}
	return text
}

// StoreImmutable is what the lock of a store is worth.
type StoreImmutable struct {
	Store     string `json:"store"`
	Immutable bool   `json:"immutable"` // by a probe that still counts
	State     string `json:"state"`
}

// checkImmutable says what the last probe of each lock found. It is no problem
// of what is stored, and counts as none; a lock that does not keep is shown for
// what it is as long as it does not.
func (s *Site) checkImmutable(now time.Time, r *CheckResult) error {
	for _, c := range s.Config.Stores {
		if c.Lock == "" {
			continue
		}
		f, err := ReadLockFinding(s.Config, c)
		if err != nil {
			return err
		}
		ok := f != nil && now.Sub(f.Time) <= probeLasts
		if ok {
			ok, _ = f.LockReport.Immutable()
		}
		r.Immutable = append(r.Immutable, StoreImmutable{c.Name, ok, f.State(now)})
	}
	return nil
}

func placeOf(c config.Store) string {
	return strings.Join([]string{c.Lock, c.Endpoint, c.Bucket, c.Prefix}, " ")
}

func findingPath(c *config.Config, name string) string {
	return filepath.Join(c.StateDir, "stores", name+".lock.json") // of a name that was checked
}

// ReadLockFinding returns what is known of a store's lock; nil: nothing.
func ReadLockFinding(c *config.Config, s config.Store) (*LockFinding, error) {
	path := findingPath(c, s.Name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	f := &LockFinding{}
	if err == nil {
		err = json.Unmarshal(b, f)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.Place != placeOf(s) {
		return nil, nil
	}
	return f, nil
}

// ProbeLock finds out what a store's lock is worth, and keeps it.
func ProbeLock(ctx context.Context, c *config.Config, s config.Store, now time.Time) (*LockFinding, error) {
	if s.Lock == "" {
		return nil, exit.With(exit.Usage, fmt.Errorf("store %q has no lock in %s", s.Name, c.Path))
	}
	sp := SpecOf(s)
	sp.Window = nil // some small objects wait for none
	sp.DeleteAccessKeyFile, sp.DeleteSecretKeyFile = s.DeleteAccessKeyFile, s.DeleteSecretKeyFile
	st, err := sp.Open(nil)
	if err != nil {
		return nil, err
	}
	r, err := st.(store.LockProber).ProbeLock(ctx, LockCap(c))
	if err != nil {
		return nil, err
	}
	f := &LockFinding{Store: s.Name, Time: now.UTC().Truncate(time.Second), Place: placeOf(s), LockReport: r}
	b, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return nil, err
	}
	return f, replaceFile(findingPath(c, s.Name), append(b, '\n'))
}

// probeNewLock probes the lock of a store that was just marked. It keeps nobody
// from using the store: it is shown as what it is.
func probeNewLock(ctx context.Context, c *config.Config, name string, now time.Time, log func(string, ...any)) {
	for _, s := range c.Stores {
		if s.Name != name || s.Lock == "" {
			continue
		}
		if f, err := ProbeLock(ctx, c, s, now); err != nil {
			log("warning: store %q: its lock could not be probed: %v", name, err)
		} else {
			log("store %q: %s", name, f.State(now))
		}
	}
}

// PolicyOptions name who uses a bucket. "" is the access key of the
// configuration.
type PolicyOptions struct {
	Write, Extend, Delete string
	NoConditions          bool
}

// StorePolicy returns the bucket policy of a store.
func StorePolicy(c *config.Config, name string, o PolicyOptions) ([]byte, config.Store, error) {
	for _, s := range c.Stores {
		if s.Name != name {
			continue
		}
		if s.Kind != "s3" {
			return nil, s, exit.With(exit.Usage, fmt.Errorf("store %q is no bucket: who may delete from a directory is a matter of its owner", name))
		}
		for _, r := range []struct {
			name *string
			file string
		}{{&o.Write, s.AccessKeyFile}, {&o.Extend, s.ExtendAccessKeyFile}, {&o.Delete, s.DeleteAccessKeyFile}} {
			if *r.name == "" && r.file != "" {
				id, err := spec.AccessID(r.file)
				if err != nil {
					return nil, s, err
				}
				*r.name = id
			}
		}
		days := int(LockCap(c) / day)
		if o.NoConditions {
			days = 0
		}
		p, err := s3.Policy(s.Bucket, SpecOf(s).Prefix, s3.Roles{Write: o.Write, Extend: o.Extend, Delete: o.Delete}, days)
		if err != nil {
			return nil, s, exit.With(exit.Usage, fmt.Errorf("store %q: %w", name, err))
		}
		return p, s, nil
	}
	return nil, config.Store{}, exit.With(exit.Usage, fmt.Errorf("%s has no store %q", c.Path, name))
}
