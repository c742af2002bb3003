package job

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/keys/share"
	"strongroom/daemon/config"
	"strongroom/repo"
	"strongroom/repo/store"
)

// InitOptions say where the recovery keys come from.
type InitOptions struct {
	// SharesDir, if set, makes missing recovery keys on this machine and
	// writes the share files there.
	SharesDir string
	// Public are the public halves of recovery keys that the station made.
	Public []keys.RecoveryPublic
	Now    time.Time
}

// ErrNeedRecovery: a class of tenants has no recovery key and none was given.
var ErrNeedRecovery = exit.With(exit.Refused, errors.New("no recovery key"))

// InitResult is what init did.
type InitResult struct {
	Recovery []string `json:"recovery"` // recovery keys in use
	Shares   []string `json:"shares"`   // share files written
	Tenants  []string `json:"tenants"`  // tenants added
	Stores   []string `json:"stores"`   // stores marked
}

// Init sets up what is missing of state, recovery keys, tenants and stores. It
// changes nothing that is there, so it may be repeated.
func Init(ctx context.Context, c *config.Config, o InitOptions, log func(string, ...any)) (*InitResult, error) {
	if err := SelfTest(); err != nil {
		return nil, err
	}
	if len(c.Stores) == 0 || len(c.Tenants) == 0 {
		return nil, fmt.Errorf("%w: the configuration needs at least one [[store]] and one [[tenant]]", ErrRefused)
	}
	if len(c.Stores) == 1 {
		log("with one store nothing survives its loss: add a second and a third one")
	}
	s, err := openOrMake(c, log)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r := &InitResult{Recovery: []string{}, Shares: []string{}, Tenants: []string{}, Stores: []string{}}
	// Stores first: whoever named a wrong one learns it before keys are made.
	if err := s.markStores(ctx, r); err != nil {
		return nil, err
	}
	if err := s.recoveryKeys(o, r); err != nil {
		return nil, err
	}
	for _, t := range c.Tenants {
		_, err := s.Box.Tenant(t.Name)
		if err == nil {
			continue
		} else if !errors.Is(err, box.ErrNoTenant) {
			return nil, err
		}
		if _, err := s.Box.AddTenant(t.Name, keys.Level(t.Level), o.Now); err != nil {
			return nil, err
		}
		r.Tenants = append(r.Tenants, t.Name)
	}
	return r, nil
}

// openOrMake opens the key store, or makes credential and key store.
func openOrMake(c *config.Config, log func(string, ...any)) (*Site, error) {
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if os.Getenv("CREDENTIALS_DIRECTORY") == "" {
		if _, err := os.Stat(credentialPath(c)); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(keysPath(c)); err == nil {
				return nil, fmt.Errorf("%w: %s is gone but %s is there: without it no key can be opened; put it back, or recover from a kit", ErrRefused, credentialPath(c), keysPath(c))
			}
			if err := box.CreateCredential(credentialPath(c), box.NewCredential()); err != nil {
				return nil, err
			}
		}
	}
	if _, err := os.Stat(keysPath(c)); errors.Is(err, fs.ErrNotExist) {
		cred, err := box.LoadCredential(credentialPath(c), os.Getenv("CREDENTIALS_DIRECTORY"))
		if err != nil {
			return nil, err
		}
		if err := box.Init(keysPath(c), cred); err != nil {
			return nil, err
		}
	}
	return OpenSite(c, log)
}

// markStores puts the marker and the texts for people on stores that are new.
func (s *Site) markStores(ctx context.Context, r *InitResult) error {
	want, err := s.marker()
	if err != nil {
		return err
	}
	for _, c := range s.Config.Stores {
		st, err := SpecOf(c).Open(nil)
		if err != nil {
			return fmt.Errorf("store %q: %w", c.Name, err)
		}
		err = checkMarker(ctx, st, want)
		if err == nil {
			continue
		} else if !errors.Is(err, ErrNotInitialised) {
			return fmt.Errorf("store %q: %w", c.Name, err)
		}
		if err := mustBeEmpty(ctx, st); err != nil {
			return fmt.Errorf("store %q: %w", c.Name, err)
		}
		for _, o := range []struct {
			key  string
			body []byte
		}{{"RECOVER.txt", []byte(repo.RecoverText)}, {"FORMAT.md", []byte(repo.FormatText)}, {markerKey, want}} {
			if err := st.Put(ctx, o.key, o.body, sha256.Sum256(o.body)); err != nil {
				return fmt.Errorf("store %q: %w", c.Name, err)
			}
		}
		r.Stores = append(r.Stores, c.Name)
	}
	return nil
}

// mustBeEmpty refuses a store that holds anything but what a broken init left.
func mustBeEmpty(ctx context.Context, st store.Store) error {
	for info, err := range st.List(ctx, "") {
		if err != nil {
			return err
		}
		if info.Key != "RECOVER.txt" && info.Key != "FORMAT.md" {
			return fmt.Errorf("%w: it is not empty (%q) and has no marker: it belongs to something else", ErrRefused, info.Key)
		}
	}
	return nil
}

// recoveryKeys makes or takes the recovery key of every class that a tenant
// needs.
func (s *Site) recoveryKeys(o InitOptions, r *InitResult) error {
	for _, t := range s.Config.Tenants {
		class := keys.Level(t.Level).Class()
		org, err := s.Box.Organisation()
		if err != nil {
			return err
		}
		if have, err := org.Current(class); err == nil {
			r.addRecovery(have)
			continue
		}
		public, err := s.findOrMake(class, o, r)
		if err != nil {
			return err
		}
		if err := s.Box.AddRecovery(public); err != nil {
			return err
		}
		r.addRecovery(public)
	}
	return nil
}

func (r *InitResult) addRecovery(p keys.RecoveryPublic) {
	text := fmt.Sprintf("%s: %d of %d, fingerprint %s", p.Class, p.K, p.N, p.Fingerprint)
	for _, have := range r.Recovery {
		if have == text {
			return
		}
	}
	r.Recovery = append(r.Recovery, text)
}

func (s *Site) findOrMake(class share.Class, o InitOptions, r *InitResult) (keys.RecoveryPublic, error) {
	for _, p := range o.Public {
		if p.Class == class {
			return p, nil
		}
	}
	want := s.Config.Recovery.Standard
	if class == share.Top {
		want = s.Config.Recovery.Top
	}
	if o.SharesDir == "" {
		return keys.RecoveryPublic{}, fmt.Errorf("%w of class %s: make one at the offline station (strongroom station keys init --class %s -k %d -n %d) and give its public file with --recovery-public, or use --shares-dir for a trial", ErrNeedRecovery, class, class, want.Threshold, want.Shares)
	}
	shares, public, err := keys.InitRecovery(class, want.Threshold, want.Shares, nil, o.Now, false)
	if err != nil {
		return public, err
	}
	defer share.Wipe(shares)
	files, err := WriteShares(o.SharesDir, shares)
	r.Shares = append(r.Shares, files...)
	return public, err
}

// WriteShares writes each share as a text file and a page to print, into a
// directory for the owner alone. It never overwrites.
func WriteShares(dir string, shares []share.Share) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, sh := range shares {
		page, err := sh.Page()
		if err != nil {
			return files, err
		}
		base := filepath.Join(dir, fmt.Sprintf("share-%s-%d-of-%d", sh.Class, sh.Index, sh.N))
		for ext, body := range map[string][]byte{".txt": sh.Format(), ".html": page} {
			if err := writeNew(base+ext, body); err != nil {
				return files, err
			}
		}
		files = append(files, base+".txt")
	}
	return files, nil
}

// writeNew creates a file of mode 0600 and makes it durable.
func writeNew(path string, body []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	return errors.Join(err, f.Sync(), f.Close())
}
