package drill

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source/mariadb"
)

// mariaEngine is a MariaDB server that is made for one drill.
//
// Restored SQL is hostile. Its server has no network, no plugin but those that
// are built in, an empty directory for LOAD_FILE and INTO OUTFILE, and nobody in
// it who may do more than with the one database: who made it is gone before the
// first restored statement, so no view or routine can run as somebody mighty,
// whoever it names as its definer. Definers are accounts that nobody can log in
// to, with rights on the database alone. Events do not run: nobody is left who
// could switch the scheduler on.
type mariaEngine struct {
	r        *run
	recorded mariadb.Content
	socket   string // out here
	server   *sandbox.Process
	box      *sandbox.Box
	log      bounded
	// left are views, and leftKeys foreign keys, that the copy cannot have: the
	// source could not use them either, or they need another database.
	left, leftKeys []string
}

const (
	mariaZones  = "/usr/bin/mariadb-tzinfo-to-sql"
	mariaData   = sandbox.Scratch + "/data"
	mariaNone   = sandbox.Scratch + "/none" // stays empty
	mariaSocket = sandbox.Scratch + "/run/s"
	// Names that no database brings along.
	mariaBoot     = "strongroom_boot"
	mariaLoader   = "strongroom_drill"
	mariaAsserter = "strongroom_assert"
)

func (e *mariaEngine) preflight(ctx context.Context) (need, error) {
	var err error
	if e.recorded, err = mariadb.Recorded(ctx, e.r.Stored); err != nil {
		return need{}, err
	}
	files := append([]string{mariadb.ServerProgram}, mariadb.SystemTables()...)
	if len(e.recorded.Zones) > 0 {
		files = append(files, mariaZones)
	}
	for _, f := range files {
		if err := trusted(f); err != nil {
			return need{}, fmt.Errorf("no MariaDB server is installed here: %w", err)
		}
	}
	if slices.Contains([]string{"mysql", "sys", "information_schema", "performance_schema"}, strings.ToLower(e.recorded.Database)) {
		return need{}, fmt.Errorf("database %q is the server's own", e.recorded.Database)
	}
	var streams int64
	for _, s := range e.r.Stored.Streams() {
		streams += s.Length
	}
	// Tables, indexes of at most their size, and a third for sorting; and an empty
	// server with its log.
	disk := max(e.r.Stored.Description().Size, streams)*8/3 + 512<<20
	return need{engine: "MariaDB " + e.recorded.Series, disk: disk, processes: 160}, nil
}

func (e *mariaEngine) load(ctx context.Context, box *sandbox.Box) error {
	e.box = box
	start := e.r.Now()
	if err := e.boot(ctx); err != nil {
		return errHere{err}
	}
	e.r.phase("start the server", start)
	rep, err := mariadb.Restore(ctx, e.r.read, mariadb.Target{URL: e.url(mariaLoader), Jobs: e.r.Jobs, Alone: true})
	if err != nil {
		return e.whose(err)
	}
	e.left, e.leftKeys = append(rep.Left, e.recorded.Unusable...), rep.LeftKeys
	for _, p := range []struct {
		name string
		d    time.Duration
	}{{"schema", rep.Schema}, {"rows", rep.Data}, {"keys", rep.Keys}, {"foreign keys", rep.ForeignKeys}, {"code", rep.Code}} {
		e.r.out.Phases = append(e.r.out.Phases, receipt.Phase{Name: "load: " + p.name, Milliseconds: p.d.Milliseconds()})
	}
	e.r.out.Notes = append(e.r.out.Notes, rep.Warnings...)
	return nil
}

func (e *mariaEngine) url(user string) string {
	u := url.URL{Scheme: "mariadb", User: url.User(user), Host: "localhost", Path: "/" + e.recorded.Database,
		RawQuery: url.Values{"socket": {e.socket}}.Encode()}
	return u.String()
}

// settings are of every start. What the server writes is lost with the sandbox
// whatever happens, so it waits for no disk. Its pool says how far it may grow:
// newer servers reserve address space of 8 TiB otherwise.
func (e *mariaEngine) settings() []string {
	return []string{mariadb.ServerProgram, "--no-defaults", "--datadir=" + mariaData, "--socket=" + mariaSocket, "--tmpdir=" + sandbox.Scratch + "/tmp",
		"--skip-networking", "--skip-name-resolve", "--plugin-dir=" + mariaNone, "--plugin-maturity=stable", "--secure-file-priv=" + mariaNone, "--local-infile=0",
		"--symbolic-links=0", "--event-scheduler=OFF", "--skip-log-bin", "--skip-slave-start", "--performance-schema=OFF", "--general-log=0", "--slow-query-log=0",
		"--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-use-native-aio=0", "--sync-frm=0",
		"--innodb-log-file-size=128M", "--innodb-buffer-pool-size=192M", "--loose-innodb-buffer-pool-size-max=192M", "--innodb-buffer-pool-dump-at-shutdown=0",
		"--innodb-sort-buffer-size=16M", "--innodb-stats-auto-recalc=0", "--innodb-strict-mode=1", "--aria-pagecache-buffer-size=16M", "--key-buffer-size=16M",
		"--query-cache-size=0", "--max-connections=40", "--max-allowed-packet=1G", "--character-set-server=utf8mb4", "--log-warnings=0", "--silent-startup"}
}

// boot makes the server's own tables, starts it, makes the accounts, and leaves
// nobody who could make others.
func (e *mariaEngine) boot(ctx context.Context) error {
	if err := e.box.Run(ctx, sandbox.Cmd{Argv: []string{"/bin/mkdir", "-m", "700", mariaData, mariaNone}, Foreign: true}); err != nil {
		return err
	}
	var err error
	if e.socket, err = e.box.Door(mariaSocket); err != nil {
		return err
	}
	script, err := mariaScript()
	if err != nil {
		return err
	}
	var said bounded
	if err := e.box.Run(ctx, sandbox.Cmd{Argv: append(e.settings(), "--bootstrap"), Env: pgEnv, Stdin: script, Stderr: &said, Foreign: true}); err != nil {
		return fmt.Errorf("make a server: %w: %.300s", err, said.buf)
	}
	if e.server, err = e.box.Start(sandbox.Cmd{Argv: e.settings(), Env: pgEnv, Stderr: &e.log, Foreign: true}); err != nil {
		return err
	}
	db, err := e.ready(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := e.zones(ctx, db); err != nil {
		return err
	}
	for _, q := range e.accounts() {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("make accounts: %w", err)
		}
	}
	return nil
}

func mariaScript() (io.Reader, error) {
	parts := []io.Reader{strings.NewReader("CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n")}
	for _, f := range mariadb.SystemTables() {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		parts = append(parts, bytes.NewReader(b), strings.NewReader("\n"))
	}
	return io.MultiReader(append(parts, strings.NewReader("FLUSH PRIVILEGES;\nCREATE USER "+mariaBoot+"@localhost;\nGRANT ALL ON *.* TO "+mariaBoot+
		"@localhost WITH GRANT OPTION;\nDELETE FROM mysql.global_priv WHERE User <> '"+mariaBoot+"';\nDELETE FROM mysql.proxies_priv;\nDELETE FROM mysql.db;\nDELETE FROM mysql.plugin;\n"))...), nil
}

// accounts make the database, who loads it, who asks it, and who owns what is in
// it; the last takes away who made them.
func (e *mariaEngine) accounts() []string {
	c := e.recorded
	// In a grant the name of a database is a pattern.
	on := mariadb.Ident(strings.NewReplacer(`\`, `\\`, "_", `\_`, "%", `\%`).Replace(c.Database)) + ".*"
	out := []string{"CREATE DATABASE " + mariadb.Ident(c.Database) + " CHARACTER SET " + c.Charset + " COLLATE " + c.Collation}
	for _, d := range c.Definers {
		kind, lock := "USER", " ACCOUNT LOCK"
		if d.Host == "" {
			kind, lock = "ROLE", ""
		}
		out = append(out, "CREATE "+kind+" IF NOT EXISTS "+d.String()+lock, "GRANT ALL ON "+on+" TO "+d.String())
	}
	return append(out, "CREATE USER "+mariaLoader+"@localhost", "GRANT ALL ON "+on+" TO "+mariaLoader+"@localhost",
		"GRANT SET USER ON *.* TO "+mariaLoader+"@localhost", "GRANT SELECT ON mysql.proc TO "+mariaLoader+"@localhost",
		"CREATE USER "+mariaAsserter+"@localhost", "GRANT SELECT, EXECUTE, SHOW VIEW ON "+on+" TO "+mariaAsserter+"@localhost",
		"DROP USER "+mariaBoot+"@localhost")
}

func (e *mariaEngine) connect(user, database string) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.DBName, cfg.Net, cfg.Addr = user, database, "unix", e.socket
	cfg.Collation, cfg.MaxAllowedPacket, cfg.Logger = "utf8mb4_general_ci", 0, quiet{}
	cfg.MultiStatements = user == mariaBoot // nothing restored is there yet
	cfg.Timeout = 10 * time.Second
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(c), nil
}

// quiet keeps the driver from writing to standard error.
type quiet struct{}

func (quiet) Print(...any) {}

// ready waits until the server answers, and makes sure that it is this one, and
// of the series that the snapshot was taken from.
func (e *mariaEngine) ready(ctx context.Context) (*sql.DB, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	db, err := e.connect(mariaBoot, "mysql")
	if err != nil {
		return nil, err
	}
	for {
		var dir, version string
		err := db.QueryRowContext(ctx, "SELECT @@datadir, VERSION()").Scan(&dir, &version)
		if err == nil {
			err = e.known(filepath.Clean(dir), version)
			if err != nil {
				db.Close()
			}
			return db, err
		}
		select {
		case <-e.server.Done():
			err = fmt.Errorf("the server ended: %w: %.500s", e.server.Wait(ctx), e.log.buf)
		case <-ctx.Done():
			err = fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(10 * time.Millisecond):
			continue
		}
		db.Close()
		return nil, err
	}
}

func (e *mariaEngine) known(dir, version string) error {
	if dir != mariaData {
		return fmt.Errorf("%w: the server's data is in %s: it is not the drill's", ErrRefused, dir)
	}
	e.r.out.Engine = "MariaDB " + version
	if !strings.HasPrefix(version, e.recorded.Series+".") {
		return fmt.Errorf("no MariaDB %s server is installed here, but %s", e.recorded.Series, version)
	}
	return nil
}

// zones loads the time zones that events count in, and no other of the 1,800.
func (e *mariaEngine) zones(ctx context.Context, db *sql.DB) error {
	for _, z := range e.recorded.Zones {
		var out textBuffer
		file := filepath.Join("/usr/share/zoneinfo", filepath.Clean("/"+z))
		if err := e.box.Run(ctx, sandbox.Cmd{Argv: []string{mariaZones, file, z}, Stdout: &out, Foreign: true}); err != nil {
			return fmt.Errorf("time zone %q is not installed here: %w", z, err)
		}
		if _, err := db.ExecContext(ctx, string(out.buf)); err != nil {
			return fmt.Errorf("load time zone %q: %w", z, err)
		}
	}
	return nil
}

// mariaHere are the server's numbers of errors that are this machine's: no room,
// no memory, no thread, an engine, collation or time zone that is not installed.
var mariaHere = []uint16{3, 5, 20, 28, 1021, 1037, 1038, 1041, 1114, 1115, 1135, 1273, 1286, 1298, 1524}

// whose tells what is wrong with this machine from what is wrong with the backup.
func (e *mariaEngine) whose(err error) error {
	if !e.box.Alive() {
		return here("the sandbox died: %w", silent(err))
	}
	if died(e.server, err) {
		return here("the server died: %w: %.300s", silent(err), e.log.buf)
	}
	if lost(err) {
		return here("the connection was lost: %w", err)
	}
	if m, ok := errors.AsType[*mysql.MySQLError](err); ok && slices.Contains(mariaHere, m.Number) {
		return errHere{silent(err)}
	}
	return silent(err)
}

// structure compares the catalogue's list with the streams.
func (e *mariaEngine) structure() []receipt.Check {
	c, err := mariadb.Recorded(context.Background(), e.r.Stored)
	return e.r.structure(c, c.Facts, err)
}

func (e *mariaEngine) content(ctx context.Context) ([]receipt.Object, []receipt.Check, error) {
	copied, err := mariadb.Inspect(ctx, mariadb.Target{URL: e.url(mariaLoader), Jobs: e.r.Jobs})
	if err != nil {
		return nil, nil, e.whose(err)
	}
	listed, _ := e.recorded.Tables()
	objects, columns := e.r.read.threeColumns(listed, e.recorded.Facts, copied.Facts)
	want := e.recorded.Without(e.left)
	copied = copied.Without(e.left)
	out := []receipt.Check{equal("character set and collation", want.Charset+" "+want.Collation, copied.Charset+" "+copied.Collation),
		equal("objects of the catalogue", fmt.Sprint(want.ObjectCount), fmt.Sprint(copied.ObjectCount)),
		equal("SHA-256 of the catalogue's list", want.ObjectHash, copied.ObjectHash)}
	if want.Objects != nil && want.ObjectHash != copied.ObjectHash {
		out = append(out, differences("catalogue", set(want.Objects), set(copied.Objects))...)
	}
	out = append(out, sameColumns(columns, copied.Targets)...)
	return objects, append(out, e.sameTexts(want.Texts, copied.Texts)...), nil
}

// sameTexts compares the schema as the server shows it: defaults, conditions, keys,
// places of counters and sequences, bodies of routines, and who owns them.
func (e *mariaEngine) sameTexts(want, copied map[string][]string) (out []receipt.Check) {
	for name, text := range want {
		w := slices.DeleteFunc(slices.Clone(text), func(s string) bool { return slices.Contains(e.leftKeys, s) })
		out = append(out, compareLines(name, placeless(w), placeless(copied[name]))...)
	}
	return out
}

// directories are where a table's files lie: of the machine, not of the database.
// The sandbox's server ignores them.
var directories = regexp.MustCompile(` (DATA|INDEX) DIRECTORY ?= ?'([^'\\]|\\.|'')*'`)

func placeless(statements []string) []string {
	out := slices.Clone(statements)
	for i, s := range out {
		if strings.HasPrefix(s, "CREATE TABLE ") {
			out[i] = directories.ReplaceAllString(s, "")
		}
	}
	slices.Sort(out)
	return out
}

// checks has the server look at itself, every table and index.
func (e *mariaEngine) checks(ctx context.Context) ([]receipt.Check, error) {
	out, err := e.checkTables(ctx)
	if err != nil {
		return out, err
	}
	if err := e.server.Signal(syscall.SIGTERM); err != nil {
		return out, errHere{err}
	}
	sctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	actual := "yes"
	if err := e.server.Wait(sctx); err != nil {
		actual = err.Error()
	}
	return append(out, equal("the server stops cleanly", "yes", actual)), nil
}

func (e *mariaEngine) checkTables(ctx context.Context) ([]receipt.Check, error) {
	db, err := e.connect(mariaLoader, e.recorded.Database)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	names, err := firstColumn(ctx, db, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'")
	if err != nil {
		return nil, e.whose(err)
	}
	var out []receipt.Check
	good, unable := 0, 0
	for _, n := range names {
		said, err := checkTable(ctx, db, n)
		switch {
		case err != nil:
			return out, e.whose(err)
		case said == "":
			good++
		case strings.Contains(said, "doesn't support check"):
			unable++
		default:
			out = append(out, receipt.Check{Name: "CHECK TABLE " + n, Expected: "OK", Actual: said})
		}
	}
	if unable > 0 {
		e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("%d tables are of engines that cannot check themselves", unable))
	}
	return append(out, equal("tables that CHECK TABLE EXTENDED finds in order", fmt.Sprint(len(names)-unable), fmt.Sprint(good))), nil
}

// checkTable returns what the server says that is not OK.
func checkTable(ctx context.Context, db *sql.DB, name string) (said string, err error) {
	rows, err := db.QueryContext(ctx, "CHECK TABLE "+mariadb.Ident(name)+" EXTENDED")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	status := "" // the last line
	for rows.Next() {
		var table, op, kind, text string
		if err := rows.Scan(&table, &op, &kind, &text); err != nil {
			return "", err
		}
		if status = text; kind != "status" || text != "OK" {
			said += fmt.Sprintf("%s: %.200s; ", kind, text)
		}
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	if status == "" {
		said = "nothing"
	}
	return said, nil
}

func firstColumn(ctx context.Context, db *sql.DB, query string) (out []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// assert asks as somebody who can read everything and write nothing. The server
// takes one statement at a time from a driver that does not ask for more.
func (e *mariaEngine) assert(ctx context.Context, a Assertion) receipt.Check {
	ctx, cancel := context.WithTimeout(ctx, a.limit()+5*time.Second)
	defer cancel()
	db, err := e.connect(mariaAsserter, e.recorded.Database)
	if err != nil {
		return a.failed(err)
	}
	defer db.Close()
	c, err := db.Conn(ctx)
	if err != nil {
		return a.failed(err)
	}
	defer c.Close() // its transaction has written nothing
	for _, q := range []string{fmt.Sprintf("SET SESSION max_statement_time = %.3f, time_zone = '+00:00'", a.limit().Seconds()), "START TRANSACTION READ ONLY"} {
		if _, err := c.ExecContext(ctx, q); err != nil {
			return a.failed(err)
		}
	}
	plan, err := texts(ctx, c, "EXPLAIN "+a.SQL)
	if err != nil {
		return a.failed(err)
	}
	if !slices.ContainsFunc(plan, readsTable) {
		return a.nothing("it reads no table")
	}
	rows, err := texts(ctx, c, a.SQL)
	if err != nil {
		return a.failed(err)
	}
	return a.judge(rows)
}

// readsTable looks at a line of EXPLAIN: id, select_type, table, …, Extra. What
// the optimizer read in an index while it made the plan has no table any more.
func readsTable(row [][]byte) bool {
	if len(row) < 4 {
		return false
	}
	if t := row[2]; t != nil {
		return len(t) > 0 && t[0] != '<' // of its own rows, as <derived2>
	}
	extra := string(row[len(row)-1])
	return extra == "Select tables optimized away" || extra == "No matching min/max row" || strings.HasPrefix(extra, "Impossible WHERE noticed after")
}
