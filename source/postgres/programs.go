package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"strongroom/source"
)

// programs are PostgreSQL's client programs of one version.
type programs struct {
	dir     string
	version string // as pg_dump --version prints it
	major   int
	// restrict says that they know \restrict (minors of August 2025 and
	// later): without it psql obeys backslash commands that a hostile server
	// put into a dump (CVE-2025-8714).
	restrict bool
}

var versionRE = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// findPrograms returns the programs in dir or, where dir is "", those of the
// wanted major version or the next newer one. An older pg_dump refuses a
// newer server.
func findPrograms(ctx context.Context, dir string, major int) (programs, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs, _ = filepath.Glob("/usr/lib/postgresql/*/bin")
	}
	var found []programs
	var errs []error
	for _, d := range dirs {
		p, err := inspectPrograms(ctx, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b programs) int { return a.major - b.major })
	for _, p := range found {
		if p.major >= major {
			return p, nil
		}
	}
	if len(found) > 0 {
		return programs{}, source.WithClass(source.Refused, fmt.Errorf("pg_dump %s is older than the server (%d): install postgresql-client-%d",
			found[len(found)-1].version, major, major))
	}
	if len(errs) > 0 {
		return programs{}, errors.Join(errs...)
	}
	return programs{}, source.WithClass(source.Refused, fmt.Errorf("no pg_dump under /usr/lib/postgresql/*/bin: install postgresql-client-%d", major))
}

func inspectPrograms(ctx context.Context, dir string) (programs, error) {
	pg := filepath.Join(dir, "pg_dump")
	out, err := output(ctx, pg, "--version")
	if err != nil {
		return programs{}, err
	}
	m := versionRE.FindSubmatch(out)
	if m == nil {
		return programs{}, fmt.Errorf("%s --version: unexpected %.80q", pg, out)
	}
	major, err := strconv.Atoi(string(m[2]))
	if err != nil {
		return programs{}, fmt.Errorf("%s --version: %w", pg, err)
	}
	help, err := output(ctx, pg, "--help")
	if err != nil {
		return programs{}, err
	}
	return programs{dir: dir, version: string(m[1]), major: major, restrict: bytes.Contains(help, []byte("--restrict-key"))}, nil
}

func output(ctx context.Context, path, arg string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, arg)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", path, arg, err)
	}
	return out, nil
}

// childEnv is the environment, and behind it the private directory, that
// child processes get to reach a database.
type childEnv struct {
	env []string
	dir string // "" where there is no password to hand over
}

// passedOn are the settings of our own environment that pgx obeys as libpq
// does; a password is not among them.
var passedOn = []string{"HOME", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE",
	"PGSYSCONFDIR", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLSNI", "PGSSLMINPROTOCOLVERSION",
	"PGSSLMAXPROTOCOLVERSION", "PGSSLNEGOTIATION", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGCONNECT_TIMEOUT", "PGKRBSRVNAME"}

func newChildEnv(d *dialer, tempDir string) (*childEnv, error) {
	// Options of the session win over the role's and database's own settings,
	// which pg_dump leaves alone and which show in its text.
	e := &childEnv{env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGTZ=UTC", "PGAPPNAME=strongroom",
		"PGOPTIONS=-c quote_all_identifiers=off -c bytea_output=hex"}}
	for _, k := range passedOn {
		if v, ok := os.LookupEnv(k); ok {
			e.env = append(e.env, k+"="+v)
		}
	}
	if d.cfg.Password == "" {
		return e, nil
	}
	dir, err := os.MkdirTemp(tempDir, "strongroom-pg-") // 0700
	if err != nil {
		return nil, fmt.Errorf("postgres: private directory: %w", err)
	}
	e.dir = dir
	file := filepath.Join(dir, "passfile")
	line := "*:*:*:*:" + strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(d.cfg.Password) + "\n"
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: passfile: %w", err), e.remove())
	}
	e.env = append(e.env, "PGPASSFILE="+file)
	return e, nil
}

func (e *childEnv) remove() error {
	if e.dir == "" {
		return nil
	}
	return os.RemoveAll(e.dir)
}

// child is a program to run to its end.
type child struct {
	path   string
	args   []string
	stdin  io.Reader
	stdout io.Writer
}

// run starts a program, waits for it, and kills it when ctx ends. What it
// wrote to standard error is in the error.
func (e *childEnv) run(ctx context.Context, c child) error {
	// Pdeathsig follows the thread that forked: keep it until the child is gone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Env = e.env
	cmd.Stdin, cmd.Stdout = c.stdin, c.stdout
	stderr := &complaints{}
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if msg := stderr.String(); msg != "" {
		return fmt.Errorf("%s: %w: %s", filepath.Base(c.path), err, msg)
	}
	return fmt.Errorf("%s: %w", filepath.Base(c.path), err)
}

// complaints keeps the first 4 KiB of what a program complains of.
type complaints struct{ buf []byte }

func (t *complaints) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p[:min(len(p), 4096-len(t.buf))]...)
	return len(p), nil
}

func (t *complaints) String() string {
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(t.buf), "?")), " ")
}

// limitedBuffer takes up to max bytes.
type limitedBuffer struct {
	bytes.Buffer
	max int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, fmt.Errorf("more than %d bytes of output", b.max)
	}
	return b.Buffer.Write(p)
}
