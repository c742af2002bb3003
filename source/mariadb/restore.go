package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"strongroom/source"
)

// Target says where and how to load a snapshot.
type Target struct {
	// URL and PasswordFile are as in Config. The database must be empty.
	URL          string
	PasswordFile string
	// Create makes the database, with the character set it had, where there is
	// none; a failed restore drops it again.
	Create bool
	// NoOwner makes the loading user the definer of views, routines, triggers
	// and events. Otherwise they keep theirs, whether or not there is such a
	// user: to make them takes SET USER, and to run them takes the user.
	NoOwner bool
	// Jobs is how many tables are loaded at once; 0 means 2, at most 32.
	Jobs int
	// Only names the tables, as Facts.Object does, whose rows are loaded; nil
	// means all. The schema is made whole, but for foreign keys to tables that
	// are not loaded.
	Only []string
	// Verify reads every table again and compares its rows with the facts.
	Verify bool
	// Alone says that the server has no other database: views that read others,
	// and foreign keys to their tables, are left out, with a warning.
	Alone bool
}

// RestoreReport is what a restore did.
type RestoreReport struct {
	Database string `json:"database"`
	Tables   int    `json:"tables"`
	Rows     int64  `json:"rows"`
	Bytes    int64  `json:"bytes"` // of the tables' streams
	// Verified is how many tables were read again and found equal.
	Verified int      `json:"verified"`
	Warnings []string `json:"warnings,omitempty"`
	// Left are the views, and LeftKeys the statements of foreign keys, that were
	// left out because they need another database.
	Left     []string `json:"left,omitempty"`
	LeftKeys []string `json:"left_keys,omitempty"`
	// Phases of the work, in the order they ran.
	Schema      time.Duration `json:"schema_ns"`
	Data        time.Duration `json:"data_ns"`
	Keys        time.Duration `json:"keys_ns"`
	ForeignKeys time.Duration `json:"foreign_keys_ns"` // and the search for orphans
	Verify      time.Duration `json:"verify_ns"`
	Code        time.Duration `json:"code_ns"`
}

// Errors about targets, which were not touched.
var (
	ErrNotEmpty   = errors.New("the database is not empty")
	ErrNoDatabase = errors.New("there is no such database")
	ErrTooSmall   = errors.New("the server takes no statement that long")
)

// loader is one restore at work. All statements go over the wire, each alone,
// none through a client program that has commands of its own.
type loader struct {
	stored source.Stored
	target Target
	detail detail
	dialer *dialer
	main   *session // makes the schema
	report RestoreReport
}

// Restore loads a snapshot into an empty database. After an error the
// database holds a part of it and has to be dropped, unless Restore made it.
func Restore(ctx context.Context, stored source.Stored, target Target) (RestoreReport, error) {
	l, err := newLoader(stored, target)
	if err != nil {
		return RestoreReport{}, fmt.Errorf("mariadb: restore: %w", err)
	}
	created, err := l.open(ctx)
	if err == nil {
		err = errors.Join(l.run(ctx), l.main.close())
	}
	if err == nil {
		return l.report, nil
	}
	err = fmt.Errorf("mariadb: restore into %s: %w", l.dialer.name(), err)
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
		return nil, fmt.Errorf("snapshot is of %q, not of MariaDB", e)
	}
	det, err := decodeDetail(stored.Detail())
	if err != nil {
		return nil, err
	}
	d, err := newDialer(target.URL, target.PasswordFile)
	if err != nil {
		return nil, err
	}
	l := &loader{stored: stored, target: target, detail: det, dialer: d}
	l.report.Database = d.cfg.DBName
	for _, s := range l.tables() {
		if s.Facts == nil {
			return nil, fmt.Errorf("snapshot has no facts of %s", s.Name)
		}
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
	if code(err) == errNoDatabase {
		if !l.target.Create {
			return false, fmt.Errorf("%w: create it, or ask for it to be created", ErrNoDatabase)
		}
		if err := l.maintain(ctx, "CREATE DATABASE "+ident(l.report.Database)+" CHARACTER SET "+l.detail.Charset+" COLLATE "+l.detail.Collation); err != nil {
			return false, fmt.Errorf("create database: %w", err)
		}
		created = true
		l.main, err = l.connect(ctx)
	}
	if err != nil {
		return created, err
	}
	if err = l.check(ctx); err != nil {
		err = errors.Join(err, l.main.close())
	}
	return created, err
}

// connect opens a session as a restore needs it. Rows are what the source had,
// so nothing is checked against them on the way in; foreign keys are later.
func (l *loader) connect(ctx context.Context) (*session, error) {
	c, err := l.dialer.connect(ctx)
	if err != nil {
		return nil, err
	}
	// Nor is what a table was made with: the source took it once.
	if err := c.exec(ctx, "SET SESSION foreign_key_checks = 0, unique_checks = 0, check_constraint_checks = 0, innodb_strict_mode = 0"); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare session: %w", err), c.close())
	}
	return c, nil
}

// check refuses a database that has something in it, and a server that could
// not take all of the rows.
func (l *loader) check(ctx context.Context) error {
	var found []string
	err := l.main.query(ctx, `SELECT CONCAT('table ', table_name) FROM information_schema.tables WHERE table_schema = DATABASE()
		UNION ALL SELECT CONCAT('routine ', routine_name) FROM information_schema.routines WHERE routine_schema = DATABASE()
		UNION ALL SELECT CONCAT('event ', event_name) FROM information_schema.events WHERE event_schema = DATABASE() LIMIT 1`, func(v []string) error {
		found = append(found, v[0])
		return nil
	})
	if err != nil {
		return fmt.Errorf("look whether it is empty: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w, it has %s: restore into a new one", ErrNotEmpty, plainName(found[0]))
	}
	v, err := l.main.one(ctx, "SELECT @@max_allowed_packet")
	if err != nil {
		return fmt.Errorf("read max_allowed_packet: %w", err)
	}
	if n, err := strconv.Atoi(v[0]); err != nil || n < l.detail.Longest+aroundStatement {
		return fmt.Errorf("%w: a row takes %d bytes and max_allowed_packet is %s: raise it, up to 1 GiB", ErrTooSmall, l.detail.Longest, v[0])
	}
	return nil
}

func (l *loader) run(ctx context.Context) error {
	for _, ph := range []struct {
		took *time.Duration
		run  func(context.Context) error
	}{
		{&l.report.Schema, l.schema}, {&l.report.Data, l.data}, {&l.report.Keys, l.keys}, {&l.report.ForeignKeys, l.foreignKeys},
		// Events run as soon as they are made: none may change rows before these are verified.
		{&l.report.Verify, l.verify}, {&l.report.Code, l.code},
	} {
		start := time.Now()
		if err := ph.run(ctx); err != nil {
			return err
		}
		*ph.took = time.Since(start)
	}
	return nil
}

func (l *loader) warn(format string, args ...any) {
	l.report.Warnings = append(l.report.Warnings, fmt.Sprintf(format, args...))
}

func (l *loader) dropDatabase() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return l.maintain(ctx, "DROP DATABASE "+ident(l.report.Database))
}

// maintain runs a statement outside of the database that it is about.
func (l *loader) maintain(ctx context.Context, sql string) error {
	c, err := l.dialer.connectTo(ctx, "")
	if err != nil {
		return err
	}
	return errors.Join(c.exec(ctx, sql), c.close())
}

// maxText bounds what is read of the schema at once.
const maxText = 256 << 20

// statements reads one of the texts.
func (l *loader) statements(ctx context.Context, name string) ([]string, error) {
	r, err := l.stored.Open(ctx, name, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxText {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, maxText)
	}
	list, err := splitScript(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return list, nil
}

func (l *loader) exec(ctx context.Context, c *session, sql string) error {
	if err := c.exec(ctx, sql); err != nil {
		what, _, _ := strings.Cut(sql, "(")
		return fmt.Errorf("%s: %w", plainName(strings.TrimSpace(what[:min(len(what), 120)])), err)
	}
	return nil
}

func (l *loader) schema(ctx context.Context) error {
	list, err := l.statements(ctx, schemaStream)
	if err != nil {
		return err
	}
	for _, sql := range list {
		if err := l.exec(ctx, l.main, sql); err != nil {
			return err
		}
	}
	return nil
}

// code makes views, routines, triggers and events. Each comes with the
// settings of the session it was written in.
func (l *loader) code(ctx context.Context) error {
	list, err := l.statements(ctx, codeStream)
	if err != nil {
		return err
	}
	for _, sql := range list {
		if l.target.NoOwner {
			sql = withoutDefiner(sql)
		}
		err := l.exec(ctx, l.main, sql)
		if view := l.unusable(sql); err != nil && view != "" {
			l.warn("left out: view %s, which the source could not use either: %v", plainName(view), err)
			err = l.exec(ctx, l.main, "DROP VIEW "+ident(view)) // its stand-in
		} else if view := viewOf(sql); view != "" && l.elsewhere(err) {
			l.warn("left out: view %s, it reads another database: %v", plainName(view), err)
			l.report.Left = append(l.report.Left, plainName(view))
			err = l.exec(ctx, l.main, "DROP VIEW "+ident(view))
		}
		if code(err) == errRights && !l.target.NoOwner && sql != withoutDefiner(sql) {
			return fmt.Errorf("%w: grant the user SET USER, or restore without owners", err)
		}
		if code(err) == errBinaryLog {
			return fmt.Errorf("%w: on the server, SET GLOBAL log_bin_trust_function_creators = 1 for as long as the restore takes", err)
		}
		if err != nil {
			return err
		}
	}
	return l.leaveToo(ctx)
}

// unusable is the name of the view that a statement makes if the source could
// not use it, else "".
func (l *loader) unusable(sql string) string {
	if name := viewOf(sql); slices.Contains(l.detail.Unusable, plainName(name)) {
		return name
	}
	return ""
}
