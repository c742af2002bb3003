// Package config reads the configuration file: strict TOML, every mistake with
// its line, column and the nearest known key.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"strongroom/daemon/notify"
	"strongroom/daemon/schedule"
)

// Config is the whole file.
type Config struct {
	// StateDir holds keys, indexes and the spool; default /var/lib/strongroom.
	StateDir string   `toml:"state_dir"`
	Recovery Recovery `toml:"recovery"`
	Stores   []Store  `toml:"store"`
	Tenants  []Tenant `toml:"tenant"`
	// Socket is where the daemon answers; default control.sock in StateDir.
	Socket string `toml:"socket"`
	// Notify is how people are told.
	Notify notify.Config `toml:"notify"`
	// Metrics are for Prometheus, and Log what is logged.
	Metrics Metrics `toml:"metrics"`
	Log     Log     `toml:"log"`
	// Media, if given, are offline media.
	Media *Media `toml:"media"`
	// Drill bounds what a restore drill may take of the machine.
	Drill Drill `toml:"drill"`
	// Confine is about the walls around a confined daemon.
	Confine Confine `toml:"confine"`

	// Path is where the file was read from.
	Path string `toml:"-"`
}

// Recovery says how the recovery keys are shared out.
type Recovery struct {
	Standard Shares `toml:"standard"` // default 3 of 5
	Top      Shares `toml:"top"`      // default 4 of 7, for top-secret tenants
}

// Shares is k of n.
type Shares struct {
	Shares    int `toml:"shares"`
	Threshold int `toml:"threshold"`
}

// Store is one place for objects. Their order is that of the shards: the
// first ones get the data shards, so list the fastest first.
type Store struct {
	Name string `toml:"name"`
	Kind string `toml:"kind"` // "dir" or "s3"

	// dir: an existing directory.
	Path string `toml:"path"`

	// s3: Endpoint is https://host[:port]; http is for tests.
	Endpoint      string `toml:"endpoint"`
	Bucket        string `toml:"bucket"`
	Prefix        string `toml:"prefix"`
	Region        string `toml:"region"`
	AccessKeyFile string `toml:"access_key_file"`
	SecretKeyFile string `toml:"secret_key_file"`
	// Style is "path", "virtual" or "" to choose by the endpoint.
	Style string `toml:"style"`
	// CAFile is a PEM file of certificate authorities to trust instead of the
	// system's.
	CAFile string `toml:"ca_file"`
	// Patience is how long one call keeps trying before the store counts as
	// away; default 5m.
	Patience Duration `toml:"patience"`
	// Bandwidth bounds what is written to the store, by each process that does.
	Bandwidth *Rate `toml:"bandwidth"`
	// Window is when the store is written to, "22:00-06:00" by the local clock;
	// outside it it counts as away.
	Window string `toml:"window"`
	// Quota is how much the store may hold, for the forecast of when it is full.
	Quota *Size `toml:"quota"`
	// Credentials that may delete, for expiry: those above should not be able
	// to. Without them expired generations get tombstones and stay.
	DeleteAccessKeyFile string `toml:"delete_access_key_file"`
	DeleteSecretKeyFile string `toml:"delete_secret_key_file"`
	// Lock is "governance" or "compliance" where the bucket has versions and an
	// object lock, and what snapshots need shall be kept from deletion, for as
	// long as the tenant's level says; "" where not.
	Lock string `toml:"lock"`
	// Credentials that set locks and need no other right; without them those
	// above do, and whoever took them could lock, too.
	ExtendAccessKeyFile string `toml:"extend_access_key_file"`
	ExtendSecretKeyFile string `toml:"extend_secret_key_file"`
	// Read-only credentials for the kits; they are sealed to the recovery key.
	RecoveryAccessKeyFile string `toml:"recovery_access_key_file"`
	RecoverySecretKeyFile string `toml:"recovery_secret_key_file"`
}

// Tenant is one client project.
type Tenant struct {
	Name     string    `toml:"name"`
	Level    string    `toml:"level"` // "top-secret", "secret" or "confidential"
	Datasets []Dataset `toml:"dataset"`
}

// Dataset is one thing to protect.
type Dataset struct {
	Name   string `toml:"name"`
	Source string `toml:"source"` // "postgres", "mariadb", "sqlite", "command", "files", or "import" for old dumps

	URL          string   `toml:"url"`           // postgres, mariadb
	PasswordFile string   `toml:"password_file"` // the same: instead of one in the URL, which is refused
	Jobs         int      `toml:"jobs"`          // the same: tables at once
	LockTimeout  Duration `toml:"lock_timeout"`  // the same
	Lock         bool     `toml:"lock"`          // mariadb: lock tables without transactions for as long as the dump takes
	Path         string   `toml:"path"`          // sqlite, files
	Exclude      []string `toml:"exclude"`       // files
	Command      []string `toml:"command"`       // command: program and arguments, no shell
	Timeout      Duration `toml:"timeout"`       // command; with via how long to wait for its reader in all

	// Compression is "default" or "fastest".
	Compression string `toml:"compression"`
	// BaseCache bounds what is kept on the box to compare the next snapshot
	// with: the packs of the open generation, sealed. Default 64 GiB; with "0"
	// only whole chunks are found again.
	BaseCache *Size `toml:"base_cache"`
	// Spool bounds what may wait on the box for stores that are away. Default
	// 64 GiB; beyond it snapshots fail until a store is back.
	Spool *Size `toml:"spool"`
	// Keep says which snapshots stay; without it all do.
	Keep *Keep `toml:"keep"`
	// Schedule is when the daemon takes snapshots; default weekly, Sunday 02:30.
	Schedule *schedule.Config `toml:"schedule"`
	// DrillSchedule is when the daemon drills the newest one; default weekly,
	// Sunday 04:30.
	DrillSchedule *schedule.Config `toml:"drill_schedule"`
	Hooks
	Proof
	Via
}

// What a dataset that says nothing gets.
const (
	DefaultBaseCache = 64 << 30
	DefaultSpool     = 64 << 30
)

// MinSpool is the least that a spool may be bounded to.
const MinSpool = 64 << 20

// Duration is a TOML string such as "30s" or "2h". It is no kind of integer,
// or the decoder would take a bare 30 for nanoseconds.
type Duration struct {
	time.Duration
	text string // what was written, if that is no duration
}

// UnmarshalText reads a duration. What is none is kept for check, which can
// say where it stands; the decoder cannot.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		d.text = string(b)
	}
	d.Duration = v
	return nil
}

func (d Duration) check(key string) error {
	if d.text != "" {
		return bad(key, "%s: %q is not a duration such as \"30s\"", key, d.text)
	}
	return nil
}

// An Error is a mistake in the file.
type Error struct {
	Path         string
	Line, Column int // 0: of the whole file
	Text         string
	Hint         string
}

func (e *Error) Error() string {
	s := e.Path
	if e.Line > 0 {
		s += fmt.Sprintf(":%d:%d", e.Line, e.Column)
	}
	s += ": " + e.Text
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// maxFile bounds the file in bytes.
const maxFile = 1 << 20

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, &Error{Path: path, Text: fmt.Sprintf("%d bytes are too many for a configuration", info.Size())}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, b)
}

// Parse reads and checks the text of a file. path is for messages.
func Parse(path string, text []byte) (*Config, error) {
	c := &Config{StateDir: "/var/lib/strongroom", Path: path,
		Recovery: Recovery{Standard: Shares{5, 3}, Top: Shares{7, 4}}}
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return nil, explain(path, known, err)
	}
	if err := c.check(); err != nil {
		return nil, located(path, text, err)
	}
	return c, nil
}

// located says where in the text a mistake stands.
func located(path string, text []byte, err error) *Error {
	out := &Error{Path: path, Text: err.Error()}
	var m *mistake
	if errors.As(err, &m) {
		out.Line, out.Column = locate(text, m)
	}
	return out
}

// name is what tenants, datasets and stores may be called: it stands in paths
// of the command line and in messages.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (c *Config) check() error {
	if !filepath.IsAbs(c.StateDir) {
		return bad("state_dir", "state_dir %q is not an absolute path", c.StateDir)
	}
	if c.Socket != "" && !filepath.IsAbs(c.Socket) {
		return bad("socket", "socket %q is not an absolute path", c.Socket)
	}
	for _, class := range []string{"standard", "top"} {
		s := map[string]Shares{"standard": c.Recovery.Standard, "top": c.Recovery.Top}[class]
		if s.Threshold < 2 || s.Threshold > s.Shares || s.Shares > 16 {
			err := bad("threshold", "threshold %d of %d shares: threshold must be 2 or more and at most shares, shares at most 16", s.Threshold, s.Shares)
			return within(err, "recovery."+class, [3]int{}, "recovery.%s", class)
		}
	}
	if err := c.checkStores(); err != nil {
		return err
	}
	if err := c.Media.check(); err != nil {
		return within(err, "media", [3]int{}, "media")
	}
	if err := c.Confine.check(); err != nil {
		return within(err, "confine", [3]int{}, "confine")
	}
	if err := c.Metrics.check(); err != nil {
		return within(err, "metrics", [3]int{}, "metrics")
	}
	if err := c.Log.check(); err != nil {
		return within(err, "log", [3]int{}, "log")
	}
	if err := c.Drill.check(); err != nil {
		return within(err, "drill", [3]int{}, "drill")
	}
	if err := c.checkNotify(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, t := range c.Tenants {
		err := t.check()
		if err == nil && seen[t.Name] {
			err = bad("name", "two tenants have that name")
		}
		if err != nil {
			return within(err, "tenant", [3]int{i + 1}, "tenant %d (%q)", i+1, t.Name)
		}
		seen[t.Name] = true
	}
	return nil
}

func (c *Config) checkStores() error {
	seen, places := map[string]bool{}, map[string]string{}
	for i, s := range c.Stores {
		err := s.check()
		first, taken := places[s.place()]
		switch {
		case err != nil:
		case seen[s.Name]:
			err = bad("name", "two stores have that name")
		case taken:
			err = bad("", "it is the same place as store %q: to lose one would be to lose both", first)
		}
		if err != nil {
			return within(err, "store", [3]int{i + 1}, "store %d (%q)", i+1, s.Name)
		}
		seen[s.Name], places[s.place()] = true, s.Name
	}
	return nil
}

func checkName(s string) error {
	if !name.MatchString(s) {
		return bad("name", "name must be 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit")
	}
	return nil
}

func (s Store) check() error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	if err := s.Bandwidth.check("bandwidth"); err != nil {
		return err
	}
	if err := s.Quota.check("quota"); err != nil {
		return err
	}
	if err := checkWindow(s.Window); err != nil {
		return err
	}
	switch s.Kind {
	case "dir":
		if !filepath.IsAbs(s.Path) {
			return bad("path", "path %q is not an absolute path", s.Path)
		}
		if s.Endpoint+s.Bucket+s.AccessKeyFile+s.SecretKeyFile+s.Region+s.Prefix+s.Style+s.CAFile+s.RecoveryAccessKeyFile+s.RecoverySecretKeyFile+s.DeleteAccessKeyFile+s.DeleteSecretKeyFile+s.Lock+s.ExtendAccessKeyFile+s.ExtendSecretKeyFile != "" || s.Patience != (Duration{}) {
			return bad("", "a dir store has a path, perhaps a bandwidth and a window, and nothing else")
		}
	case "s3":
		return s.checkS3()
	default:
		return bad("kind", "kind %q is not \"dir\" or \"s3\"", s.Kind)
	}
	return nil
}

// place says where a store's objects are, spelled one way.
func (s Store) place() string {
	if s.Kind == "dir" {
		return filepath.Clean(s.Path)
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return s.Endpoint
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return strings.ToLower(u.Hostname()) + ":" + port + "/" + s.Bucket + "/" + strings.Trim(s.Prefix, "/")
}

func (s Store) checkS3() error {
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return bad("endpoint", "endpoint %q is not https://host or https://host:port", s.Endpoint)
	}
	switch {
	case s.Bucket == "":
		return bad("bucket", "bucket is missing")
	case s.AccessKeyFile == "" || s.SecretKeyFile == "":
		return bad("", "access_key_file and secret_key_file are needed")
	case s.Path != "":
		return bad("path", "an s3 store has no path")
	case !slices.Contains([]string{"", "path", "virtual"}, s.Style):
		return bad("style", "style %q is not \"path\" or \"virtual\"", s.Style)
	case !slices.Contains([]string{"", "governance", "compliance"}, s.Lock):
		return bad("lock", "lock %q is not \"governance\" or \"compliance\"", s.Lock)
	case (s.ExtendAccessKeyFile == "") != (s.ExtendSecretKeyFile == ""):
		return bad("", "extend_access_key_file and extend_secret_key_file go together")
	case s.ExtendAccessKeyFile != "" && s.Lock == "":
		return bad("extend_access_key_file", "extend_access_key_file without lock")
	case (s.DeleteAccessKeyFile == "") != (s.DeleteSecretKeyFile == ""):
		return bad("", "delete_access_key_file and delete_secret_key_file go together")
	case (s.RecoveryAccessKeyFile == "") != (s.RecoverySecretKeyFile == ""):
		return bad("", "recovery_access_key_file and recovery_secret_key_file go together")
	}
	return s.Patience.check("patience")
}

func (t Tenant) check() error {
	if err := checkName(t.Name); err != nil {
		return err
	}
	if t.Name == SelfTenant {
		return bad("name", "%q is the box itself: its state is backed up without being configured", t.Name)
	}
	if !slices.Contains([]string{"top-secret", "secret", "confidential"}, t.Level) {
		return bad("level", "level %q is not \"top-secret\", \"secret\" or \"confidential\"", t.Level)
	}
	seen := map[string]bool{}
	for i, d := range t.Datasets {
		err := d.check()
		if err == nil && seen[d.Name] {
			err = bad("name", "two datasets have that name")
		}
		if err != nil {
			return within(err, "tenant.dataset", [3]int{0, i + 1}, "dataset %d (%q)", i+1, d.Name)
		}
		seen[d.Name] = true
	}
	return nil
}

func (d Dataset) check() error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	if !slices.Contains([]string{"postgres", "mariadb", "sqlite", "command", "files", "import"}, d.Source) {
		return bad("source", "source %q is not \"postgres\", \"mariadb\", \"sqlite\", \"command\", \"files\" or \"import\"", d.Source)
	}
	if err := d.onlyFitting(); err != nil {
		return err
	}
	if !slices.Contains([]string{"", "default", "fastest"}, d.Compression) {
		return bad("compression", "compression %q is not \"default\" or \"fastest\"", d.Compression)
	}
	if err := d.BaseCache.check("base_cache"); err != nil {
		return err
	}
	if err := d.Spool.check("spool"); err != nil {
		return err
	}
	if d.Spool != nil && d.Spool.Bytes < MinSpool {
		return bad("spool", "a spool of %d bytes has no room for the shards of one pack: 64MiB is the least", d.Spool.Bytes)
	}
	if err := d.Keep.check(); err != nil {
		return within(err, "tenant.dataset.keep", [3]int{}, "keep")
	}
	if err := d.Hooks.check(); err != nil {
		return err
	}
	if err := checkSchedule(d.ScheduleOf()); err != nil {
		return within(err, "tenant.dataset.schedule", [3]int{}, "schedule")
	}
	if err := checkSchedule(d.DrillScheduleOf()); err != nil {
		return within(err, "tenant.dataset.drill_schedule", [3]int{}, "drill_schedule")
	}
	if err := d.Proof.check(); err != nil {
		return err
	}
	if err := d.checkVia(); err != nil || d.served() {
		return cmp.Or(err, d.Timeout.check("timeout"))
	}
	switch d.Source {
	case "postgres", "mariadb":
		u, err := url.Parse(d.URL)
		if err != nil || u.Scheme != d.Source && (d.Source != "postgres" || u.Scheme != "postgresql") {
			return bad("url", "url is not %s://…", d.Source) // never quote it: it may hold a password
		}
		if _, has := u.User.Password(); has || u.Query().Has("password") {
			return bad("url", "url holds a password: use password_file, a passfile or a service file")
		}
		if d.Jobs < 0 || d.Jobs > 64 {
			return bad("jobs", "jobs %d is not 1 to 64", d.Jobs)
		}
		return d.LockTimeout.check("lock_timeout")
	case "sqlite", "files":
		if !filepath.IsAbs(d.Path) {
			return bad("path", "path %q is not an absolute path", d.Path)
		}
	case "command":
		if len(d.Command) == 0 || !filepath.IsAbs(d.Command[0]) {
			return bad("command", "command must be a list that begins with the absolute path of a program")
		}
		return d.Timeout.check("timeout")
	}
	return nil
}

// onlyFitting refuses keys that mean nothing for the source: a person who set
// one expects it to do something.
func (d Dataset) onlyFitting() error {
	read := []string{"postgres", "mariadb", "sqlite", "command", "files"}
	server := []string{"postgres", "mariadb"}
	fits := map[string][]string{
		"before": read, "after": read, "schedule": read, "drill_schedule": read,
		"url": server, "password_file": server, "jobs": server, "lock_timeout": server, "lock": {"mariadb"},
		"path": {"sqlite", "files"}, "exclude": {"files"}, "command": {"command"}, "timeout": {"command"},
		"via": read, "checker": {"command", "files", "sqlite", "import"}, "assert": {"postgres", "mariadb", "sqlite", "import"},
	}
	set := map[string]bool{
		"before": d.Before != nil, "after": d.After != nil, "schedule": d.Schedule != nil, "drill_schedule": d.DrillSchedule != nil,
		"url": d.URL != "", "password_file": d.PasswordFile != "", "jobs": d.Jobs != 0, "lock_timeout": d.LockTimeout != Duration{}, "lock": d.Lock,
		"path": d.Path != "", "exclude": d.Exclude != nil, "command": d.Command != nil, "timeout": d.Timeout != Duration{},
		"via": d.Via.Via != "", "checker": d.Checker != nil, "assert": d.Assertions != nil,
	}
	if d.served() {
		fits["path"], fits["exclude"], fits["command"], fits["timeout"] = nil, nil, nil, []string{d.Source}
	}
	for _, key := range known["tenant.dataset"] {
		switch {
		case set[key] && d.served() && fits[key] == nil && key != "url":
			return bad(key, "%s stands in the file of whoever reads the dataset for us, not here", key)
		case set[key] && !slices.Contains(fits[key], d.Source):
			return bad(key, "%s does not fit source %q", key, d.Source)
		}
	}
	return nil
}

// Tenant returns the tenant of that name.
func (c *Config) Tenant(name string) (Tenant, bool) {
	i := slices.IndexFunc(c.Tenants, func(t Tenant) bool { return t.Name == name })
	if i < 0 {
		return Tenant{}, false
	}
	return c.Tenants[i], true
}

// Dataset returns the dataset of that name.
func (t Tenant) Dataset(name string) (Dataset, bool) {
	i := slices.IndexFunc(t.Datasets, func(d Dataset) bool { return d.Name == name })
	if i < 0 {
		return Dataset{}, false
	}
	return t.Datasets[i], true
}
