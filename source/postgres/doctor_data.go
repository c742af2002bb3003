package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"strongroom/source"
)

// What a snapshot will not have, and what may come in its way.

// incomplete names what is dumped in part or not at all.
func (e *exam) incomplete(ctx context.Context) error {
	const kind = `SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE ` + ownSchemas + ` AND `
	foreign, err := e.texts(ctx, kind+`c.relkind = 'f' ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("list foreign tables: %w", err)
	}
	if len(foreign) > 0 {
		e.Warn("foreign-tables", "the rows of foreign tables are not in a snapshot: "+few(foreign),
			"they lie on another server; their definition is saved, their rows are saved where they are, or nowhere", "make a dataset of the server that has them")
	} else {
		e.OK("foreign-tables", "none")
	}
	unlogged, err := e.texts(ctx, kind+`c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("list unlogged tables: %w", err)
	}
	switch {
	case len(unlogged) == 0:
		e.OK("unlogged-tables", "none")
	case e.srv.InRecovery:
		e.Bad("unlogged-tables", "a standby does not have the rows of "+few(unlogged), "unlogged tables are not replicated and cannot be read there",
			e.statements("ALTER TABLE ", unlogged[:1], " SET LOGGED")+" on the primary, or take the snapshot there")
	default:
		e.Note("unlogged-tables", "unlogged tables are saved with the rows they have, and come back unlogged: "+few(unlogged),
			"the server empties them when it crashes: a snapshot taken after that has none of their rows",
			e.statements("ALTER TABLE ", unlogged[:1], " SET LOGGED")+" where the rows matter")
	}
	if e.super {
		return nil
	}
	var subscriptions int64
	// pg_subscription itself is closed to others, its columns here are not.
	if err := e.c.QueryRow(ctx, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_subscription`).Scan(&subscriptions); err != nil {
		return fmt.Errorf("count subscriptions: %w", err)
	}
	if subscriptions > 0 {
		e.Note("subscriptions", fmt.Sprintf("%d logical subscriptions are not in a snapshot", subscriptions),
			"pg_dump leaves them out for all but superusers: they hold the other server's password", "keep their definitions beside the backup")
	}
	return nil
}

// settings are those that a role or database sets for its sessions. reset_val
// is what a session begins with: ours has changed some since.
func (e *exam) settings(ctx context.Context) error {
	rows, err := e.c.Query(ctx, `SELECT s.name, s.reset_val, COALESCE(s.unit, '') FROM pg_catalog.pg_settings s WHERE s.name IN ('statement_timeout', 'lock_timeout',
		'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout', 'default_transaction_isolation', 'default_transaction_deferrable')
		ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	var name, value, unit string
	var timeouts []string
	isolation := "read committed"
	deferrable := false
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &unit}, func() error {
		switch name {
		case "default_transaction_isolation":
			isolation = value
		case "default_transaction_deferrable":
			deferrable = value == "on"
		default:
			if value != "0" {
				timeouts = append(timeouts, name+" = "+value+unit)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if len(timeouts) > 0 {
		e.Note("timeouts", "sessions of role "+e.me()+" begin with "+strings.Join(timeouts, ", "),
			"a snapshot's own sessions switch them off at once, and pg_dump does; what the dataset runs as `before` or by hand meets them", "")
	} else {
		e.OK("timeouts", "none is set for role "+e.me())
	}
	if isolation != "read committed" || deferrable {
		e.Note("isolation", "default_transaction_isolation is "+isolation+", deferrable "+fmt.Sprint(deferrable),
			"a snapshot names its own: read committed for the locks, repeatable read for the rows", "")
	} else {
		e.OK("isolation", isolation)
	}
	return e.expiry(ctx)
}

// expiry of the role's password.
func (e *exam) expiry(ctx context.Context) error {
	var until *time.Time
	var left *float64
	const q = `SELECT r.rolvaliduntil, extract(epoch FROM r.rolvaliduntil - pg_catalog.now())::float8 FROM pg_catalog.pg_roles r
		WHERE r.rolname = session_user AND pg_catalog.isfinite(r.rolvaliduntil)`
	err := e.c.QueryRow(ctx, q).Scan(&until, &left)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read expiry: %w", err)
	}
	if left != nil && *left < 30*24*3600 {
		e.Warn("password-expiry", fmt.Sprintf("the password of role %s ends on %s", e.me(), until.UTC().Format("2006-01-02")),
			"after that it cannot log in by password", "a new password, or ALTER ROLE "+e.me()+" VALID UNTIL 'infinity';")
	}
	return nil
}

// transactions looks for what blocks the locks of a snapshot, and for what
// holds back vacuum as a snapshot does itself.
func (e *exam) transactions(ctx context.Context) error {
	blocked, err := e.texts(ctx, `SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_locks l
		JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE l.granted AND l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation' AND c.relkind IN ('r', 'p') AND `+ownSchemas+`
			AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read locks: %w", err)
	}
	if len(blocked) > 0 {
		e.Warn("locked-tables", "locked exclusively just now: "+few(blocked),
			fmt.Sprintf("a snapshot waits %v for them, then fails and says who has them", e.src.cfg.LockTimeout), "end that transaction, or take snapshots at another hour")
	} else {
		e.OK("locked-tables", "no table is locked exclusively")
	}
	var prepared int64
	var oldest *float64
	if err := e.c.QueryRow(ctx, `SELECT pg_catalog.count(*), extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(prepared))::float8
		FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()`).Scan(&prepared, &oldest); err != nil {
		return fmt.Errorf("read prepared transactions: %w", err)
	}
	if prepared > 0 {
		e.Warn("prepared-transactions", fmt.Sprintf("%d prepared transactions, the oldest for %v", prepared, seconds(*oldest)),
			"what they did is not in a snapshot, nor is it after a restore; their locks and their hold on vacuum outlive a restart of the server",
			"SELECT gid, prepared, owner FROM pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED")
	} else {
		e.OK("prepared-transactions", "none")
	}
	var longest *float64
	var hidden int64
	// Of others' sessions a role without pg_read_all_stats sees no times.
	if err := e.c.QueryRow(ctx, `SELECT extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(xact_start))::float8,
			pg_catalog.count(*) FILTER (WHERE usesysid IS NOT NULL AND state IS NULL)
		FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid()`).Scan(&longest, &hidden); err != nil {
		return fmt.Errorf("read transactions: %w", err)
	}
	switch {
	case longest != nil && seconds(*longest) >= e.src.cfg.longTransaction:
		e.Warn("long-transactions", fmt.Sprintf("a transaction has been open for %v", seconds(*longest)),
			"it holds back vacuum, and what it has locked may stop a snapshot", "SELECT pid, usename, state, xact_start FROM pg_stat_activity ORDER BY xact_start;")
	case hidden > 0:
		e.OK("long-transactions", fmt.Sprintf("none seen; how long %d sessions of others have been at it is not for role %s to see", hidden, e.me()))
	default:
		e.OK("long-transactions", "none")
	}
	return nil
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}

// standby: a standby that replays what conflicts with a query cancels it.
func (e *exam) standby(ctx context.Context) error {
	if !e.srv.InRecovery {
		return nil
	}
	var delay, feedback string
	if err := e.c.QueryRow(ctx, `SELECT current_setting('max_standby_streaming_delay'), current_setting('hot_standby_feedback')`).Scan(&delay, &feedback); err != nil {
		return fmt.Errorf("read standby settings: %w", err)
	}
	if delay == "-1" || feedback == "on" {
		e.OK("standby", "a standby that lets long queries end")
		return nil
	}
	e.Warn("standby", "a standby with max_standby_streaming_delay = "+delay+" and no hot_standby_feedback",
		"a snapshot that takes longer may be cancelled by what the primary vacuums", "hot_standby_feedback = on")
	return nil
}

// drillEngine: a snapshot is proven by a restore into a server of this box.
func (e *exam) drillEngine(ctx context.Context) error {
	dir := e.src.cfg.BinDir
	if dir == "" {
		dir = filepath.Join("/usr/lib/postgresql", strconv.Itoa(e.srv.Major), "bin")
	}
	var lacks []string
	for _, p := range []string{"initdb", "postgres", "pg_amcheck"} {
		if _, err := os.Stat(filepath.Join(dir, p)); errors.Is(err, fs.ErrNotExist) {
			lacks = append(lacks, p)
		}
	}
	if len(lacks) > 0 {
		e.Warn("drill-engine", fmt.Sprintf("%s has no %s", dir, strings.Join(lacks, ", ")), "snapshots of this server cannot be proven by a restore on this machine",
			fmt.Sprintf("apt-get install postgresql-%d", e.srv.Major))
		return nil
	}
	used, err := e.texts(ctx, `SELECT extname::text FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql' ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("list extensions: %w", err)
	}
	// Debian keeps what `pg_config --sharedir` says of this directory there.
	shared := filepath.Join("/usr/share/postgresql", strconv.Itoa(e.srv.Major), "extension")
	var absent []string
	for _, x := range used {
		// A name with a slash in it leads elsewhere, and is none of an extension.
		if strings.ContainsAny(x, "/\x00") || !exists(filepath.Join(shared, x+".control")) {
			absent = append(absent, x)
		}
	}
	if len(absent) > 0 {
		e.Warn("drill-engine", "extensions of this database that are not installed here: "+few(absent),
			"a restore on this machine would fail at them", "install their packages for version "+strconv.Itoa(e.srv.Major))
		return nil
	}
	e.OK("drill-engine", fmt.Sprintf("server %d, pg_amcheck and %d extensions are installed here", e.srv.Major, len(used)))
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Installed says which of PostgreSQL's programs this machine has, to dump and
// to prove snapshots with.
func Installed(ctx context.Context) (f source.Findings) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is a good one
	for _, dir := range dirs {
		p, err := inspectPrograms(ctx, dir)
		if err != nil {
			f.Warn("engine-postgres", printable(err.Error()), "these programs cannot be used", "apt-get install --reinstall the packages they are of")
			continue
		}
		var lacks []string
		for _, name := range []string{"initdb", "postgres", "pg_amcheck"} {
			if !exists(filepath.Join(dir, name)) {
				lacks = append(lacks, name)
			}
		}
		if len(lacks) > 0 {
			f.Note("engine-postgres", fmt.Sprintf("PostgreSQL %s dumps; %s has no %s", p.version, dir, strings.Join(lacks, ", ")),
				"snapshots of that version cannot be proven by a restore on this machine", fmt.Sprintf("apt-get install postgresql-%d", p.major))
			continue
		}
		f.OK("engine-postgres", fmt.Sprintf("PostgreSQL %s dumps and drills, with pg_amcheck", p.version))
	}
	if len(dirs) == 0 {
		f.Note("engine-postgres", "no PostgreSQL programs under /usr/lib/postgresql/*/bin", "no PostgreSQL database can be dumped or proven here", "")
	}
	return f
}
