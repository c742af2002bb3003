package job

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"strongroom/custody/exit"
	"strongroom/custody/keys"
	"strongroom/custody/keys/box"
	"strongroom/custody/keys/share"
	"strongroom/custody/ledger"
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
	Actor  Actor
}

// ErrNeedRecovery: a class of tenants has no recovery key and none was given.
var ErrNeedRecovery = exit.With(exit.Refused, errors.New("no recovery key"))

// InitResult is what init did.
type InitResult struct {
	Recovery []string `json:"recovery"` // recovery keys in use
	Shares   []string `json:"shares"`   // share files written
	Tenants  []string `json:"tenants"`  // tenants added
	Stores   []string `json:"stores"`   // stores marked
	Ledger   bool     `json:"ledger"`   // acts are recorded
}

// Init sets up what is missing of state, recovery keys, tenants and stores. It
// changes nothing that is there, so it may be repeated; what it refuses, it
// refuses before it writes anything.
func Init(ctx context.Context, c *config.Config, o InitOptions, log func(string, ...any)) (*InitResult, error) {
	if err := SelfTest(); err != nil {
		return nil, err
	}
	if len(c.Stores) == 0 || len(c.Tenants) == 0 {
		return nil, exit.With(exit.Usage, fmt.Errorf("%s needs at least one [[store]] and one [[tenant]]", c.Path))
	}
	if err := ownState(c); err != nil {
		return nil, err
	}
	if len(c.Stores) == 1 {
		log("with one store nothing survives its loss: add a second and a third one")
	}
	// Everything that can be refused is looked at first, so that a refusal
	// leaves nothing behind.
	fresh, err := survey(ctx, c, o, log)
	if err != nil {
		return nil, err
	}
	s, err := openOrMake(c, log)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	s.Actor = o.Actor
	r := &InitResult{Recovery: []string{}, Shares: []string{}, Tenants: []string{}, Stores: []string{}, Ledger: there(s.LedgerPath())}
	if err := s.adding(ctx, fresh, r); err != nil {
		return nil, err
	}
	for _, name := range r.Stores {
		probeNewLock(ctx, c, name, o.Now, log)
	}
	if err := s.recoveryKeys(ctx, o, r); err != nil {
		return nil, err
	}
	want := map[string]keys.Level{}
	names := []string{}
	for _, t := range c.Tenants {
		names, want[t.Name] = append(names, t.Name), keys.Level(t.Level)
	}
	names, want[SelfTenant] = append(names, SelfTenant), highest(c.Tenants)
	for _, name := range names {
		if err := s.addTenant(ctx, name, want[name], o.Now, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// addTenant makes the keys of a tenant that has none.
func (s *Site) addTenant(ctx context.Context, name string, level keys.Level, now time.Time, r *InitResult) error {
	if _, err := s.Box.Tenant(name); !errors.Is(err, box.ErrNoTenant) {
		return err
	}
	return s.acting(ctx, "", tenantAdd, map[string]string{"tenant": name, "level": string(level)}, func() (map[string]string, error) {
		t, err := s.Box.AddTenant(name, level, now)
		if err != nil {
			return nil, err
		}
		r.Tenants = append(r.Tenants, name)
		return map[string]string{"log": t.ID.String()}, nil
	})
}

// adding marks new stores.
func (s *Site) adding(ctx context.Context, fresh []freshStore, r *InitResult) error {
	if len(fresh) == 0 {
		return nil
	}
	var names []string
	for _, f := range fresh {
		names = append(names, f.name)
	}
	return s.acting(ctx, "", storeAdd, map[string]string{"store": ledger.Text(strings.Join(names, " "))}, func() (map[string]string, error) {
		return nil, s.markStores(ctx, fresh, r)
	})
}

// ownState refuses a state directory of somebody else, the service's when root
// asks: its user could not open what would be made there.
func ownState(c *config.Config) error {
	info, err := os.Stat(c.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at state directory: %w", err)
	}
	uid := info.Sys().(*syscall.Stat_t).Uid
	if int(uid) == os.Geteuid() {
		return nil
	}
	name := fmt.Sprintf("#%d", uid)
	if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
		name = u.Username
	}
	return fmt.Errorf("%w: %s belongs to user %s; run this as that user: runuser -u %s -- strongroom …", ErrRefused, c.StateDir, name, name)
}

// survey looks at what init would build on and changes nothing. It returns the
// stores that are new.
func survey(ctx context.Context, c *config.Config, o InitOptions, log func(string, ...any)) ([]freshStore, error) {
	var marker []byte
	classes := map[share.Class]bool{}
	if exists, err := stateExists(c); err != nil {
		return nil, err
	} else if exists {
		s, err := OpenSite(c, log)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		if marker, err = s.marker(); err != nil {
			return nil, err
		}
		org, err := s.Box.Organisation()
		if err != nil {
			return nil, err
		}
		for _, class := range []share.Class{share.Standard, share.Top} {
			_, err := org.Current(class)
			classes[class] = err == nil
		}
	}
	for _, p := range o.Public {
		if p.Rehearsal {
			return nil, fmt.Errorf("recovery key %s was %w", p.Fingerprint, keys.ErrRehearsal)
		}
	}
	for _, t := range c.Tenants {
		if class := keys.Level(t.Level).Class(); !classes[class] && !o.provides(class) {
			return nil, needRecovery(c, class)
		}
	}
	if err := surveyShares(c, o, classes); err != nil {
		return nil, err
	}
	return surveyStores(ctx, c, marker)
}

// surveyShares makes sure that no share file is there that would be written.
func surveyShares(c *config.Config, o InitOptions, have map[share.Class]bool) error {
	if o.SharesDir == "" {
		return nil
	}
	for _, t := range c.Tenants {
		class := keys.Level(t.Level).Class()
		if have[class] {
			continue
		}
		n := sharesOf(c, class).Shares
		for i := range n {
			base := shareFile(o.SharesDir, class, i+1, n)
			for _, ext := range []string{".txt", ".html"} {
				if _, err := os.Lstat(base + ext); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%w: %s exists already; a share is never replaced; this box uses no recovery key of class %s yet, so if an interrupted init left the file, remove it", ErrRefused, base+ext, class)
				}
			}
		}
	}
	return nil
}

func shareFile(dir string, class share.Class, index, n int) string {
	return filepath.Join(dir, fmt.Sprintf("share-%s-%d-of-%d", class, index, n))
}

// stateExists reports whether this box has its keys already.
func stateExists(c *config.Config) (bool, error) {
	_, err := os.Stat(keysPath(c))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at state directory: %w", err)
	}
	if os.Getenv("CREDENTIALS_DIRECTORY") == "" {
		if _, err := os.Stat(credentialPath(c)); errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("%w: %s is gone but %s is there: without it no key can be opened; put it back, or recover from a kit", ErrRefused, credentialPath(c), keysPath(c))
		}
	}
	return true, nil
}

// openOrMake opens the key store, or makes credential and key store.
func openOrMake(c *config.Config, log func(string, ...any)) (*Site, error) {
	exists, err := stateExists(c)
	if err != nil {
		return nil, err
	}
	if exists {
		return OpenSite(c, log)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	if os.Getenv("CREDENTIALS_DIRECTORY") == "" {
		if _, err := os.Stat(credentialPath(c)); errors.Is(err, fs.ErrNotExist) {
			if err := box.CreateCredential(credentialPath(c), box.NewCredential()); err != nil {
				return nil, err
			}
		}
	}
	cred, err := box.LoadCredential(credentialPath(c), os.Getenv("CREDENTIALS_DIRECTORY"))
	if err != nil {
		return nil, err
	}
	if err := box.Init(keysPath(c), cred); err != nil {
		return nil, err
	}
	return OpenSite(c, log)
}

// freshStore is a store that has no marker yet.
type freshStore struct {
	name  string
	store store.Store
}

// surveyStores opens every store and finds those without a marker, which must
// be empty. marker is nil on a new box: then no store may have one.
func surveyStores(ctx context.Context, c *config.Config, marker []byte) ([]freshStore, error) {
	if err := Distinct(c.Stores); err != nil {
		return nil, err
	}
	var fresh []freshStore
	opened, failed := openStores(ctx, anytime(c.Stores), marker)
	for i, sc := range c.Stores {
		st, err := opened[i], failed[i]
		if errors.Is(err, ErrNotInitialised) {
			fresh = append(fresh, freshStore{sc.Name, st})
			err = mustBeEmpty(ctx, st)
		}
		if err != nil {
			return nil, fmt.Errorf("store %q: %w", sc.Name, err)
		}
	}
	// The probe leaves one constant object behind, so it comes last.
	for _, f := range fresh {
		if p, ok := f.store.(store.Prober); ok {
			if _, err := p.Probe(ctx); err != nil {
				return nil, fmt.Errorf("store %q: %w", f.name, err)
			}
		}
	}
	return fresh, nil
}

// markStores puts the marker and the texts for people on stores that are new.
func (s *Site) markStores(ctx context.Context, fresh []freshStore, r *InitResult) error {
	want, err := s.marker()
	if err != nil {
		return err
	}
	for i, f := range fresh {
		// One bucket may have two names that nobody can tell are one: the marker
		// just written to the first one shows up on the second.
		if err := checkMarker(ctx, f.store, want); i > 0 && !errors.Is(err, ErrNotInitialised) {
			return fmt.Errorf("store %q: %w", f.name, cmp.Or(err, fmt.Errorf("%w: it is one place with store %q: to lose one would be to lose both", ErrRefused, fresh[i-1].name)))
		}
		for _, o := range []struct {
			key  string
			body []byte
		}{{"RECOVER.txt", []byte(repo.RecoverText)}, {"FORMAT.md", []byte(repo.FormatText)}, {markerKey, want}} {
			if err := f.store.Put(ctx, o.key, o.body, sha256.Sum256(o.body)); err != nil {
				return fmt.Errorf("store %q: %w", f.name, err)
			}
		}
		r.Stores = append(r.Stores, f.name)
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
func (s *Site) recoveryKeys(ctx context.Context, o InitOptions, r *InitResult) error {
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
		err = s.acting(ctx, "", recoveryAdd, map[string]string{"class": class.String()}, func() (map[string]string, error) {
			public, err := s.findOrMake(class, o, r)
			if err == nil {
				err = s.Box.AddRecovery(public)
			}
			if err != nil {
				return nil, err
			}
			r.addRecovery(public)
			return map[string]string{"fingerprint": public.Fingerprint.String()}, nil
		})
		if err != nil {
			return err
		}
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

// provides reports whether a recovery key of a class was given or may be made.
func (o InitOptions) provides(class share.Class) bool {
	return o.SharesDir != "" || slices.ContainsFunc(o.Public, func(p keys.RecoveryPublic) bool { return p.Class == class })
}

func sharesOf(c *config.Config, class share.Class) config.Shares {
	if class == share.Top {
		return c.Recovery.Top
	}
	return c.Recovery.Standard
}

func needRecovery(c *config.Config, class share.Class) error {
	want := sharesOf(c, class)
	return fmt.Errorf("%w of class %s: make one at the offline station (strongroom station keys init --class %s -k %d -n %d) and give its public file with --recovery-public, or use --shares-dir for a trial",
		ErrNeedRecovery, class, class, want.Threshold, want.Shares)
}

func (s *Site) findOrMake(class share.Class, o InitOptions, r *InitResult) (keys.RecoveryPublic, error) {
	for _, p := range o.Public {
		if p.Class == class {
			return p, nil
		}
	}
	if o.SharesDir == "" {
		return keys.RecoveryPublic{}, needRecovery(s.Config, class)
	}
	want := sharesOf(s.Config, class)
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
//
// If it fails, what it wrote goes again: no kit is sealed to that key.
func WriteShares(dir string, shares []share.Share) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var written []string
	defer func() {
		if err != nil {
			for _, f := range written {
				err = errors.Join(err, os.Remove(f))
			}
			files = nil
		}
	}()
	for _, sh := range shares {
		page, err := sh.Page()
		if err != nil {
			return nil, err
		}
		base := shareFile(dir, sh.Class, int(sh.Index), int(sh.N))
		for ext, body := range map[string][]byte{".txt": sh.Format(), ".html": page} {
			if err := WriteNew(base+ext, body); err != nil {
				return nil, err
			}
			written = append(written, base+ext)
		}
		files = append(files, base+".txt")
	}
	return files, nil
}

// WriteNew creates a file of mode 0600 and makes it durable. What is there is
// not replaced, and half a file does not stay.
func WriteNew(path string, body []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s exists already", ErrRefused, path)
	} else if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
