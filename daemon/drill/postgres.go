package drill

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source/postgres"
)

// pgEngine is a PostgreSQL server that is made for one drill.
//
// Restored SQL is hostile. Its server has no network, no file that is not its
// own, and no right to a program that was not installed here; COPY PROGRAM runs
// in the same sandbox and can spoil nothing but its own proof. Who was superuser
// at the source is one here: others may not own event triggers and foreign-data
// wrappers. Nothing is preloaded, no subscription has a worker, and event
// triggers are off before anything is done with the copy.
type pgEngine struct {
	r        *run
	recorded postgres.Content
	bin      string
	host     string // the directory of its socket, out here
	server   *sandbox.Process
	box      *sandbox.Box
	log      bounded
	asserter bool // its role was made
	emptied  bool // materialized views were left empty: they read other servers
}

const (
	pgData = sandbox.Scratch + "/data"
	pgRun  = sandbox.Scratch + "/run"
	// pgSuper is a name that no database brings along.
	pgSuper    = "strongroom_drill"
	pgAsserter = "strongroom_assert"
	pgDatabase = "drill"
)

// pgHome is where Debian installs servers, one a major version.
const pgHome = "/usr/lib/postgresql"

func (e *pgEngine) preflight(ctx context.Context) (need, error) {
	var err error
	if e.recorded, err = postgres.Recorded(e.r.Stored); err != nil {
		return need{}, err
	}
	c := e.recorded
	e.bin = filepath.Join(pgHome, strconv.Itoa(c.Major), "bin")
	for _, program := range []string{"initdb", "postgres"} {
		if err := trusted(filepath.Join(e.bin, program)); err != nil {
			return need{}, fmt.Errorf("no PostgreSQL %d server is installed here: %w", c.Major, err)
		}
	}
	share := fmt.Sprintf("/usr/share/postgresql/%d/extension", c.Major)
	for name := range c.Extensions {
		if _, err := os.Stat(filepath.Join(share, filepath.Base(name)+".control")); err != nil {
			return need{}, fmt.Errorf("extension %q is not installed here for PostgreSQL %d", name, c.Major)
		}
	}
	if err := localeHere(c.Locale); err != nil {
		return need{}, err
	}
	return need{engine: "PostgreSQL " + strconv.Itoa(c.Major), disk: e.disk(), processes: 160}, nil
}

// disk is what the copy takes: tables, indexes of at most their size, and a
// third for sorting; and an empty cluster with its log.
func (e *pgEngine) disk() int64 {
	rows := e.r.Stored.Description().Size
	var streams int64
	for _, s := range e.r.Stored.Streams() {
		streams += s.Length
	}
	return max(rows, streams)*8/3 + 512<<20
}

// trusted says whether a program is one that only root can have put there.
func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s belongs to somebody else than root, or others may write it", path)
	}
	return nil
}

// localeHere looks for a locale of the C library. ICU brings its own.
func localeHere(text string) error {
	f := strings.Split(text, " ")
	for _, l := range f[:min(2, len(f))] {
		name := installedAs(l)
		if base, _, _ := strings.Cut(name, "."); base == "C" || base == "POSIX" || base == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join("/usr/lib/locale", filepath.Base(name))); err == nil {
			continue
		}
		b, err := os.ReadFile("/usr/lib/locale/locale-archive")
		if err != nil || !bytes.Contains(b, []byte("\x00"+name+"\x00")) {
			return fmt.Errorf("locale %q is not installed here", l)
		}
	}
	return nil
}

// installedAs is the name under which the C library keeps a locale: the character
// set, if it is named, without hyphens and in small letters.
func installedAs(locale string) string {
	name, charset, ok := strings.Cut(locale, ".")
	if !ok {
		return name // as de_DE@euro
	}
	charset, modifier, _ := strings.Cut(charset, "@")
	if modifier != "" {
		modifier = "@" + modifier
	}
	return name + "." + strings.ToLower(strings.ReplaceAll(charset, "-", "")) + modifier
}

// bounded keeps the end of a log.
type bounded struct{ buf []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.buf = append(b.buf, p...)
	if over := len(b.buf) - 8<<10; over > 0 {
		b.buf = append(b.buf[:0], b.buf[over:]...)
	}
	return len(p), nil
}

// pgEnv keeps initdb from trying every time zone there is.
var pgEnv = []string{"TZ=UTC"}

func (e *pgEngine) load(ctx context.Context, box *sandbox.Box) error {
	e.box = box
	start := e.r.Now()
	if err := e.boot(ctx); err != nil {
		return errHere{err}
	}
	e.r.phase("start the server", start)
	rep, err := postgres.Restore(ctx, e.r.read, postgres.Target{URL: e.url(pgSuper), Create: true, Jobs: e.r.Jobs})
	if err != nil {
		return e.whose(err)
	}
	for name, d := range map[string]time.Duration{"load: schema": rep.PreData, "load: rows": rep.Data, "load: indexes and keys": rep.PostData} {
		e.r.out.Phases = append(e.r.out.Phases, receipt.Phase{Name: name, Milliseconds: d.Milliseconds()})
	}
	slices.SortFunc(e.r.out.Phases[len(e.r.out.Phases)-3:], func(a, b receipt.Phase) int { return -strings.Compare(a.Name, b.Name) })
	e.r.out.Notes = append(e.r.out.Notes, rep.Warnings...)
	e.emptied = rep.Emptied > 0
	return nil
}

func (e *pgEngine) url(role string) string {
	u := url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + pgDatabase, RawQuery: url.Values{"host": {e.host}}.Encode()}
	return u.String()
}

// boot makes a cluster and starts its server. What it writes is lost with the
// sandbox whatever happens, so it waits for no disk.
func (e *pgEngine) boot(ctx context.Context) error {
	var said bytes.Buffer
	err := e.box.Run(ctx, sandbox.Cmd{Argv: []string{filepath.Join(e.bin, "initdb"), "-D", pgData, "-U", pgSuper, "-A", "trust", "-N", "-E", "UTF8",
		"--locale=C", "--no-instructions"}, Env: pgEnv, Stderr: &said, Foreign: true})
	if err != nil {
		return fmt.Errorf("make a cluster: %w: %.300s", err, said.String())
	}
	argv := []string{filepath.Join(e.bin, "postgres"), "-D", pgData, "-k", pgRun}
	for _, s := range e.settings() {
		argv = append(argv, "-c", s)
	}
	socket, err := e.box.Door(pgRun + "/.s.PGSQL.5432")
	if err != nil {
		return err
	}
	e.host = filepath.Dir(socket)
	if e.server, err = e.box.Start(sandbox.Cmd{Argv: argv, Env: pgEnv, Stderr: &e.log, Foreign: true}); err != nil {
		return err
	}
	return e.ready(ctx)
}

func (e *pgEngine) settings() []string {
	s := []string{"listen_addresses=", "unix_socket_permissions=0700", "fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off",
		"archive_mode=off", "wal_level=minimal", "max_wal_senders=0", "max_wal_size=256MB", "min_wal_size=80MB", "max_connections=20",
		"max_logical_replication_workers=0", "max_prepared_transactions=0", "shared_preload_libraries=", "session_preload_libraries=",
		"local_preload_libraries=", "shared_buffers=128MB", "maintenance_work_mem=128MB", "max_parallel_maintenance_workers=0",
		"max_parallel_workers_per_gather=0", "jit=off", "dynamic_shared_memory_type=mmap", "logging_collector=off", "log_min_messages=error",
		"log_statement=none", "log_min_error_statement=panic"}
	if e.recorded.Major >= 17 {
		s = append(s, "event_triggers=off")
	}
	return s
}

// ready waits until the server answers, and makes sure that it is this one.
func (e *pgEngine) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	maintenance := strings.Replace(e.url(pgSuper), "/"+pgDatabase+"?", "/postgres?", 1)
	for {
		c, err := pgx.Connect(ctx, maintenance)
		if err == nil {
			var dir, version string
			err = c.QueryRow(ctx, "SELECT current_setting('data_directory'), current_setting('server_version')").Scan(&dir, &version)
			_ = c.Close(ctx) // it has said what there was to say
			if err == nil && dir != pgData {
				return fmt.Errorf("%w: the server's data is in %s: it is not the drill's", ErrRefused, dir)
			}
			if err == nil {
				e.r.out.Engine = "PostgreSQL " + version
				return e.superusers(ctx, maintenance)
			}
		}
		select {
		case <-e.server.Done():
			return fmt.Errorf("the server ended: %w: %.500s", e.server.Wait(ctx), e.log.buf)
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (e *pgEngine) superusers(ctx context.Context, url string) error {
	var sql strings.Builder
	for _, name := range e.recorded.Superusers {
		if name != pgSuper {
			fmt.Fprintf(&sql, "CREATE ROLE %s SUPERUSER NOLOGIN;", pgx.Identifier{name}.Sanitize())
		}
	}
	return execute(ctx, url, sql.String())
}

// died reports whether a server has ended. Who was connected to it may know a
// little earlier than who waits for its process.
func died(server *sandbox.Process, err error) bool {
	wait := time.Duration(0)
	if lost(err) || errors.Is(err, io.ErrUnexpectedEOF) { // which a stream may have, too
		wait = 3 * time.Second
	}
	select {
	case <-server.Done():
		return true
	case <-time.After(wait):
	}
	select { // both may have been true
	case <-server.Done():
		return true
	default:
		return false
	}
}

// lost tells an error of the connection to a server.
func lost(err error) bool {
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)
}

// whose tells what is wrong with this machine from what is wrong with the
// backup: a full scratch, a server that died, a program that is not installed.
func (e *pgEngine) whose(err error) error {
	if !e.box.Alive() {
		return here("the sandbox died: %w", err)
	}
	if died(e.server, err) {
		return here("the server died: %w: %.300s", err, e.log.buf)
	}
	if lost(err) {
		return here("the connection was lost: %w", err)
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch class := pgErr.Code[:min(2, len(pgErr.Code))]; {
	case errors.Is(err, postgres.ErrExtension), class == "F0": // a dictionary's file, for one
		return errHere{err}
	case pgErr.Code == "42704" && strings.HasPrefix(pgErr.Message, `collation "pg_catalog.`),
		pgErr.Code == "22023" && strings.HasPrefix(pgErr.Message, "could not create locale "):
		return errHere{err} // each server lists those of its own machine
	case class == "53", strings.HasPrefix(pgErr.Code, "57P"), class == "58", class == "08":
		return errHere{err}
	case pgErr.Code == "0A000" && strings.Contains(pgErr.Message, "extension"):
		return errHere{err}
	}
	return silent(err)
}

// structure compares the catalogue's list with the streams.
func (e *pgEngine) structure() []receipt.Check {
	c, err := postgres.Recorded(e.r.Stored)
	return e.r.structure(c, c.Facts, err)
}

// content makes the three columns of all that any of them knows.
func (e *pgEngine) content(ctx context.Context) ([]receipt.Object, []receipt.Check, error) {
	_, streamed := e.r.read.streamed()
	copied, err := postgres.Inspect(ctx, e.r.read, postgres.Target{URL: e.url(pgSuper), Jobs: e.r.Jobs}, streamed)
	if err != nil {
		return nil, nil, e.whose(err)
	}
	listed, _ := e.recorded.Tables()
	objects, columns := e.r.read.threeColumns(listed, e.recorded.Facts, copied.Facts)
	schema, err := e.schema(ctx)
	return objects, append(e.compare(copied, columns), schema...), err
}

// compare is what there is beside rows.
func (e *pgEngine) compare(copied postgres.Content, columns map[string]string) []receipt.Check {
	want := e.recorded
	out := []receipt.Check{equal("encoding", want.Encoding, copied.Encoding), equal("locale", want.Locale, copied.Locale),
		equal("objects of the catalogue", strconv.Itoa(want.ObjectCount), strconv.Itoa(copied.ObjectCount)),
		equal("SHA-256 of the catalogue's list", want.ObjectHash, copied.ObjectHash)}
	if want.Objects != nil && want.ObjectHash != copied.ObjectHash {
		out = append(out, differences("catalogue", set(want.Objects), set(copied.Objects))...)
	}
	out = append(out, sameColumns(columns, copied.Targets)...)
	for _, name := range copied.Reordered {
		e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("columns of %s: they are those of the source in another order, which is what PostgreSQL makes of a table that inherits", name))
	}
	if want.Sequences == nil {
		e.r.out.Notes = append(e.r.out.Notes, "sequences were too many to be recorded: their places are not compared")
	} else {
		out = append(out, equal("sequences", strconv.Itoa(len(want.Sequences)), strconv.Itoa(len(copied.Sequences))))
		out = append(out, differences("sequence", want.Sequences, copied.Sequences)...)
	}
	for name, v := range want.Extensions {
		if got, ok := copied.Extensions[name]; ok && got != v {
			e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("extension %s was %s at the source and is %s here", name, v, got))
		}
	}
	if want.Collation != copied.Collation {
		e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("the collation's library was %q at the source and is %q here", want.Collation, copied.Collation))
	}
	return out
}

func set(names []string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = "there"
	}
	return m
}

// maxDifferences bounds the lines about one kind of thing.
const maxDifferences = 50

func differences(what string, want, got map[string]string) (out []receipt.Check) {
	for _, m := range []map[string]string{want, got} {
		for name := range m {
			if want[name] != got[name] {
				c := receipt.Check{Name: what + " " + name, Expected: orNone(want[name]), Actual: orNone(got[name])}
				if !slices.Contains(out, c) {
					out = append(out, c)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b receipt.Check) int { return strings.Compare(a.Name, b.Name) })
	return out[:min(len(out), maxDifferences)]
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

var leadingDigits = regexp.MustCompile(`^[0-9]+`)

// checks has the server look at itself. On a copy that was loaded row by row its
// indexes are new: what this tests is mostly the machine that drills, and that
// the copy can be used.
func (e *pgEngine) checks(ctx context.Context) ([]receipt.Check, error) {
	var out []receipt.Check
	amcheck := filepath.Join(e.bin, "pg_amcheck")
	control := fmt.Sprintf("/usr/share/postgresql/%s/extension/amcheck.control", leadingDigits.FindString(strconv.Itoa(e.recorded.Major)))
	_, err1 := os.Stat(control)
	if err2 := trusted(amcheck); err1 != nil || err2 != nil {
		e.r.out.Notes = append(e.r.out.Notes, "pg_amcheck is not installed: the server's own check of tables and indexes was not done")
	} else if c, err := e.amcheck(ctx, amcheck); err != nil {
		return out, err
	} else {
		out = append(out, c)
	}
	if err := e.server.Signal(syscall.SIGINT); err != nil {
		return out, errHere{err}
	}
	sctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	actual := "yes"
	if err := e.server.Wait(sctx); err != nil {
		actual = err.Error()
	}
	return append(out, equal("the server stops cleanly", "yes", actual)), nil
}

func (e *pgEngine) amcheck(ctx context.Context, program string) (receipt.Check, error) {
	if err := e.prepare(ctx); err != nil {
		return receipt.Check{}, e.whose(err)
	}
	var out bounded
	err := e.box.Run(ctx, sandbox.Cmd{Argv: []string{program, "-h", pgRun, "-U", pgSuper, "-d", pgDatabase, "-j", strconv.Itoa(e.r.Jobs), "--heapallindexed"},
		Env: pgEnv, Stdout: &out, Foreign: true})
	if ctx.Err() != nil {
		return receipt.Check{}, ctx.Err()
	}
	c := equal("pg_amcheck of every table and index", "no finding", "no finding")
	if err != nil || len(bytes.TrimSpace(out.buf)) > 0 {
		c.Actual, c.OK = fmt.Sprintf("%v: %.300s", err, out.buf), false
	}
	return c, nil
}

// prepare makes the extension that pg_amcheck asks, in a schema of its own: the
// copy may have none that can be made in. Event triggers would run first.
func (e *pgEngine) prepare(ctx context.Context) error {
	c, err := pgx.Connect(ctx, e.url(pgSuper))
	if err != nil {
		return err
	}
	defer c.Close(context.Background()) // what it was for is done or has failed
	rows, err := c.Query(ctx, "SELECT evtname::text FROM pg_catalog.pg_event_trigger")
	if err != nil {
		return err
	}
	triggers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	sql := "SET client_min_messages = error;"
	for _, t := range triggers {
		sql += "ALTER EVENT TRIGGER " + pgx.Identifier{t}.Sanitize() + " DISABLE;"
	}
	sql += "CREATE SCHEMA " + pgSuper + "; CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA " + pgSuper
	_, err = c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (e *pgEngine) exec(ctx context.Context, sql string) error {
	return execute(ctx, e.url(pgSuper), sql)
}

func execute(ctx context.Context, url, sql string) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = c.PgConn().Exec(ctx, sql).ReadAll()
	return errors.Join(err, c.Close(ctx))
}

// assert asks with a role that can read everything and write nothing.
func (e *pgEngine) assert(ctx context.Context, a Assertion) receipt.Check {
	if !e.asserter {
		err := e.exec(ctx, "CREATE ROLE "+pgAsserter+" LOGIN BYPASSRLS IN ROLE pg_read_all_data")
		if err != nil {
			return a.failed(err)
		}
		e.asserter = true
	}
	ctx, cancel := context.WithTimeout(ctx, a.limit()+5*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, e.url(pgAsserter))
	if err != nil {
		return a.failed(err)
	}
	defer c.Close(context.Background()) // its transaction has written nothing
	begin := fmt.Sprintf("SET statement_timeout = %d; SET TimeZone = 'UTC'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", a.limit().Milliseconds())
	if _, err := c.PgConn().Exec(ctx, begin).ReadAll(); err != nil {
		return a.failed(err)
	}
	// ExecParams takes one statement alone: none can end the transaction first.
	plan := c.PgConn().ExecParams(ctx, "EXPLAIN (FORMAT JSON) "+a.SQL, nil, nil, nil, nil).Read()
	if plan.Err != nil {
		return a.failed(plan.Err)
	}
	reads := false
	for _, row := range plan.Rows {
		reads = reads || bytes.Contains(row[0], []byte(`"Relation Name"`))
	}
	if !reads {
		return a.nothing("it reads no table")
	}
	res := c.PgConn().ExecParams(ctx, a.SQL, nil, nil, nil, nil).Read()
	if res.Err != nil {
		return a.failed(res.Err)
	}
	return a.judge(res.Rows)
}
