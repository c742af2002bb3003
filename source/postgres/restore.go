package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/source"
)

// Target says where and how to load a snapshot.
type Target struct {
	// URL and PasswordFile are as in Config. The database must be empty but
	// for extensions.
	URL          string
	PasswordFile string
	// Create makes the database, with the encoding and locale it had, where
	// there is none; a failed restore drops it again.
	Create bool
	// NoOwner leaves all objects to the loading role. Rights of roles that do
	// not exist and cannot be made are left out then, with a warning.
	NoOwner bool
	// Role is what the sessions become after login (SET ROLE); "" for none.
	Role string
	// Jobs is how many tables, or ranges of one, and indexes are loaded at
	// once; 0 means 2, at most 32.
	Jobs int
	// Only names the tables, as Facts.Object does, whose rows are loaded; nil
	// means all. The schema is made whole, foreign keys to tables that are
	// not loaded and large objects are left out.
	Only []string
	// Verify reads every table again and compares its rows with the facts.
	Verify bool
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	Database string `json:"database"`
	Tables   int    `json:"tables"`
	Rows     int64  `json:"rows"`
	Bytes    int64  `json:"bytes"` // of the tables' streams
	// Verified is how many tables were read again and found equal.
	Verified int      `json:"verified"`
	Roles    []string `json:"roles,omitempty"` // that were made
	Warnings []string `json:"warnings,omitempty"`
	// Emptied is how many materialized views could not be filled, as their rows
	// come from another server.
	Emptied int `json:"emptied,omitempty"`
	// Phases of the work, in the order they ran.
	PreData  time.Duration `json:"pre_data_ns"`
	Data     time.Duration `json:"data_ns"`
	PostData time.Duration `json:"post_data_ns"`
	Verify   time.Duration `json:"verify_ns"`
}

// loader is one restore at work. All statements go over the wire, none
// through psql, so that nothing in a dump can be a backslash command.
type loader struct {
	stored source.Stored
	target Target
	detail detail
	dialer *dialer
	// main makes the schema.
	main *pgx.Conn
	// absent are roles that do not exist here and could not be made.
	absent map[string]bool
	// ranges counts the streams of each table.
	ranges map[string]int
	// parents says of each partition whose it is, as pre-data makes it.
	parents map[string]string
	report  RestoreReport
	// created: the database is one that this restore made.
	created bool
	// state is the last SET of each variable in the schema's text: workers
	// need the same.
	state map[string]string
}

// Errors about targets, which were not touched.
var (
	ErrNotEmpty   = errors.New("the database is not empty")
	ErrNoDatabase = errors.New("there is no such database")
)

// Restore loads a snapshot into an empty database. After an error the
// database holds a part of it and has to be dropped, unless Restore made it.
func Restore(ctx context.Context, stored source.Stored, target Target) (RestoreReport, error) {
	l, err := newLoader(stored, target)
	if err != nil {
		return RestoreReport{}, fmt.Errorf("postgres: restore: %w", err)
	}
	created, err := l.open(ctx)
	if err != nil {
		return RestoreReport{}, fmt.Errorf("postgres: restore into %s: %w", l.dialer.name(), err)
	}
	l.created = created
	err = l.run(ctx)
	closeConn(l.main)
	if err == nil {
		return l.report, nil
	}
	err = fmt.Errorf("postgres: restore into %s: %w", l.dialer.name(), err)
	if created {
		if derr := l.dropDatabase(); derr != nil {
			err = errors.Join(err, fmt.Errorf("drop the half restored database: %w", derr))
		}
	}
	return RestoreReport{}, err
}

func newLoader(stored source.Stored, target Target) (*loader, error) {
	if target.Jobs == 0 {
		target.Jobs = 2
	}
	if target.Jobs < 0 || target.Jobs > 32 {
		return nil, fmt.Errorf("%d jobs: want 1 to 32", target.Jobs)
	}
	if e := stored.Description().Engine; e != Engine {
		return nil, fmt.Errorf("snapshot is of %q, not of PostgreSQL", e)
	}
	det, err := decodeDetail(stored.Detail())
	if err != nil {
		return nil, err
	}
	d, err := newDialer(target.URL, target.PasswordFile)
	if err != nil {
		return nil, err
	}
	l := &loader{stored: stored, target: target, detail: det, dialer: d, absent: map[string]bool{}, ranges: map[string]int{}, parents: map[string]string{},
		state: map[string]string{}}
	l.report.Database = d.cfg.Database
	for _, s := range l.tables() {
		if s.Facts == nil {
			return nil, fmt.Errorf("snapshot has no facts of %s", s.Name)
		}
		l.ranges[s.Facts.Object]++
	}
	for _, name := range target.Only {
		if !slices.ContainsFunc(l.tables(), func(s source.StreamInfo) bool { return s.Facts.Object == name }) {
			return nil, fmt.Errorf("snapshot has no table %s", name)
		}
	}
	return l, nil
}

// tables are the streams of rows.
func (l *loader) tables() []source.StreamInfo {
	return slices.DeleteFunc(slices.Clone(l.stored.Streams()), func(s source.StreamInfo) bool { return s.Kind != source.KindRows })
}

// selection are those of the tables that are to be loaded.
func (l *loader) selection() []source.StreamInfo {
	return slices.DeleteFunc(l.tables(), func(s source.StreamInfo) bool { return !l.selected(s.Facts.Object) })
}

func (l *loader) selected(object string) bool {
	return l.target.Only == nil || slices.Contains(l.target.Only, object)
}

// open connects to the database and makes sure that it is empty.
func (l *loader) open(ctx context.Context) (created bool, err error) {
	l.main, err = l.connect(ctx)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "3D000" {
		if !l.target.Create {
			return false, fmt.Errorf("%w: create it, or ask for it to be created", ErrNoDatabase)
		}
		if err := l.createDatabase(ctx); err != nil {
			return false, err
		}
		created = true
		l.main, err = l.connect(ctx)
	}
	if err == nil {
		if err = l.checkEmpty(ctx); err != nil {
			closeConn(l.main)
		}
	}
	if err != nil && created {
		err = errors.Join(err, l.dropDatabase())
	}
	return created, err
}

// connect opens a session as a restore needs it.
func (l *loader) connect(ctx context.Context) (*pgx.Conn, error) {
	c, err := l.dialer.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The schema's own head goes on to set the encoding that it is in.
	sql := "SET check_function_bodies = off;"
	if l.target.Role != "" {
		sql += "SET ROLE " + pgx.Identifier{l.target.Role}.Sanitize() + ";"
	}
	if err := simple(ctx, c, sql); err != nil {
		closeConn(c)
		return nil, fmt.Errorf("prepare session: %w", err)
	}
	return c, nil
}

const foreignQuery = `
SELECT what FROM (
	SELECT 'relation ' || pg_catalog.format('%I.%I', n.nspname, c.relname) AS what, c.tableoid AS classid, c.oid, n.nspname
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind <> 't' AND c.relpersistence <> 't'
	UNION ALL SELECT 'routine ' || pg_catalog.format('%I.%I', n.nspname, p.proname), p.tableoid, p.oid, n.nspname
	FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
	UNION ALL SELECT 'type ' || pg_catalog.format('%I.%I', n.nspname, t.typname), t.tableoid, t.oid, n.nspname
	FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
	WHERE t.typtype IN ('e', 'd', 'r')
	UNION ALL SELECT 'schema ' || pg_catalog.quote_ident(n.nspname), n.tableoid, n.oid, n.nspname
	FROM pg_catalog.pg_namespace n WHERE n.nspname <> 'public'
	UNION ALL SELECT 'large object ' || m.oid, 0, 0, '' FROM pg_catalog.pg_largeobject_metadata m
) o
WHERE o.nspname !~ '^pg_' AND o.nspname <> 'information_schema'
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype IN ('e', 'i'))
ORDER BY what LIMIT 1`

func (l *loader) checkEmpty(ctx context.Context) error {
	var what string
	err := l.main.QueryRow(ctx, foreignQuery).Scan(&what)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look whether it is empty: %w", err)
	}
	return fmt.Errorf("%w, it has %s: restore into a new one", ErrNotEmpty, plainName(what))
}

func (l *loader) run(ctx context.Context) error {
	if err := l.makeRoles(ctx); err != nil { // in PL/pgSQL
		return err
	}
	if err := l.dropped(ctx); err != nil {
		return err
	}
	for _, ph := range []struct {
		took *time.Duration
		run  func(context.Context) error
	}{
		{&l.report.PreData, l.preData}, {&l.report.Data, l.data}, {&l.report.PostData, l.postData}, {&l.report.Verify, l.verify},
	} {
		start := time.Now()
		if err := ph.run(ctx); err != nil {
			return err
		}
		*ph.took = time.Since(start)
	}
	for _, s := range l.detail.Settings {
		l.warn("settings of the database are not restored: %s%s", s.roleText(), strings.Join(s.Values, ", "))
	}
	return nil
}

func (s setting) roleText() string {
	if s.Role == "" {
		return ""
	}
	return "for role " + s.Role + ": "
}

func (l *loader) warn(format string, args ...any) {
	l.report.Warnings = append(l.report.Warnings, fmt.Sprintf(format, args...))
}

// makeRoles creates the roles that the schema names and this server lacks.
func (l *loader) makeRoles(ctx context.Context) error {
	for _, r := range l.detail.Roles {
		exists, err := l.roleExists(ctx, r.Name)
		if err != nil {
			return err
		}
		if exists {
			continue
		}
		err = simple(ctx, l.main, r.createSQL())
		pgErr, denied := errors.AsType[*pgconn.PgError](err)
		switch {
		case err == nil:
			l.report.Roles = append(l.report.Roles, r.Name)
			if p := r.powers(); len(p) > 0 {
				l.warn("role %q was made without %s", r.Name, strings.Join(p, ", "))
			}
		case denied && pgErr.Code == "42501" && l.target.NoOwner:
			l.absent[r.Name] = true
		case denied && pgErr.Code == "42501":
			return fmt.Errorf("role %q is missing and may not be made: make it, or restore without owners", r.Name)
		default:
			return fmt.Errorf("make role %q: %w", r.Name, err)
		}
	}
	return nil
}

func (l *loader) roleExists(ctx context.Context, name string) (bool, error) {
	var yes bool
	err := l.main.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::text)", name).Scan(&yes)
	if err != nil {
		return false, fmt.Errorf("look for role %q: %w", name, err)
	}
	return yes, nil
}

func (l *loader) createDatabase(ctx context.Context) error {
	sql := "CREATE DATABASE " + pgx.Identifier{l.dialer.cfg.Database}.Sanitize() + " TEMPLATE template0 ENCODING " + literal(l.detail.Encoding) +
		" LC_COLLATE " + literal(l.detail.Locale.Collate) + " LC_CTYPE " + literal(l.detail.Locale.CType)
	switch l.detail.Locale.Provider {
	case "i":
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + literal(l.detail.Locale.ICU)
	case "b":
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + literal(l.detail.Locale.ICU)
	}
	if l.target.Role != "" {
		sql += " OWNER " + pgx.Identifier{l.target.Role}.Sanitize()
	}
	if err := l.maintain(ctx, sql); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

func (l *loader) dropDatabase() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return l.maintain(ctx, "DROP DATABASE "+pgx.Identifier{l.dialer.cfg.Database}.Sanitize())
}

// maintain runs a statement outside of the database that it is about.
func (l *loader) maintain(ctx context.Context, sql string) error {
	c, err := l.dialer.database("postgres").connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	return simple(ctx, c, sql)
}

func (l *loader) readText(ctx context.Context, name string) ([]byte, error) {
	r, err := l.stored.Open(ctx, name, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSchema+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxSchema {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, maxSchema)
	}
	return b, nil
}

func (l *loader) has(name string) bool {
	return slices.ContainsFunc(l.stored.Streams(), func(s source.StreamInfo) bool { return s.Name == name })
}
