package mariadb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// No session can join another one's snapshot here. So nothing may commit from
// when the first session takes its snapshot until the last one has: BACKUP
// STAGE BLOCK_COMMIT, or where the user lacks RELOAD a read lock on every
// table, holds commits back for as long as that takes. Then all of them see
// one moment; the position in the binary log, which the server notes for each,
// is compared where there is such a log.
//
// A snapshot does not protect against DDL: what another session drops is
// dropped. Each session therefore touches every table in its transaction while
// the lock is on, and so has a metadata lock on all of them until its end.
// DDL waits for that; no session of ours ever has to wait behind waiting DDL,
// because it has what it needs.

// held are sessions that see the database at one moment, and what keeps it so.
type held struct {
	coord   *session // reads all but rows
	workers []*session
	keeper  *session // holds a read lock on tables without transactions; may be nil
	tables  []table
	srv     server
	consistency
}

// consistency is where and when a snapshot was taken.
type consistency struct {
	Time time.Time
	// Binlog is the position in the binary log, GTID the same as a set of
	// transactions; "" where there is no binary log.
	Binlog string
	GTID   string
}

// sessions are those that see the snapshot.
func (h *held) sessions() []*session { return append([]*session{h.coord}, h.workers...) }

func (h *held) close() error {
	var errs []error
	for _, s := range append(h.sessions(), h.keeper) {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

const holdTries = 5

// errChanged says that the tables changed under us: worth another try.
var errChanged = errors.New("tables changed while they were being locked")

// hold fixes the snapshot in as many sessions as there are jobs, and one.
func (s *Source) hold(ctx context.Context, d *dialer) (*held, error) {
	for try := 1; ; try++ {
		h := &held{}
		err := s.holdOnce(ctx, d, h)
		if err == nil {
			return h, nil
		}
		_ = h.close() // there is an error already
		if !errors.Is(err, errChanged) || try == holdTries {
			return nil, err
		}
	}
}

func (s *Source) holdOnce(ctx context.Context, d *dialer, h *held) (err error) {
	if h.coord, err = d.connect(ctx); err != nil {
		return err
	}
	for range s.cfg.Jobs {
		w, err := d.connect(ctx)
		if err != nil {
			return err
		}
		h.workers = append(h.workers, w)
	}
	var listed []table
	if h.srv, listed, err = s.look(ctx, h.coord); err != nil {
		return err
	}
	s.hookListed()
	if err := s.keep(ctx, d, h, listed); err != nil {
		return err
	}
	lock, err := d.connect(ctx)
	if err != nil {
		return err
	}
	if err := s.join(ctx, h, lock, listed); err != nil {
		return errors.Join(err, lock.close()) // which unlocks
	}
	if err := lock.close(); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	s.hookStarted()
	if err := h.coord.exec(ctx, s.lockWait()); err != nil {
		return fmt.Errorf("prepare session: %w", err)
	}
	if h.tables, err = readTables(ctx, h.coord); err != nil {
		return err
	}
	if err := sameTables(listed, h.tables); err != nil {
		return err
	}
	return s.cfg.checkTables(h.tables)
}

func (s *Source) lockWait() string {
	return fmt.Sprintf("SET SESSION lock_wait_timeout = %d", int(s.cfg.LockTimeout.Seconds()))
}

// keep locks tables without transactions against writers until the session
// ends. It comes first: what it waits for may need to commit.
func (s *Source) keep(ctx context.Context, d *dialer, h *held, tables []table) (err error) {
	loose := slices.DeleteFunc(slices.Clone(tables), func(t table) bool { return t.kind != "BASE TABLE" || t.transactional() })
	if len(loose) == 0 {
		return nil
	}
	if h.keeper, err = d.connect(ctx); err != nil {
		return err
	}
	return s.lockTables(ctx, h.keeper, loose)
}

func (s *Source) lockTables(ctx context.Context, c *session, tables []table) error {
	var list []string
	for _, t := range tables {
		if t.kind == "BASE TABLE" {
			list = append(list, ident(t.Name)+" READ")
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := c.exec(ctx, s.lockWait(), "LOCK TABLES "+strings.Join(list, ", ")); err != nil {
		return lockError(err)
	}
	return nil
}

func lockError(err error) error {
	switch code(err) {
	case errNoTable:
		return fmt.Errorf("%w: %w", errChanged, err)
	case errLockTimeout:
		return fmt.Errorf("lock tables: timeout: a transaction or a DDL statement does not end: %w", err)
	}
	return fmt.Errorf("lock tables: %w", err)
}

// join takes the snapshot in every session while nothing commits.
func (s *Source) join(ctx context.Context, h *held, lock *session, tables []table) error {
	all, err := s.blockCommits(ctx, lock, h.srv, tables)
	if err != nil {
		return err
	}
	if err := s.begin(ctx, h, all); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range h.sessions() {
		g.Go(func() error { return touch(gctx, c, tables) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// If the lock's session had been lost, so had the lock.
	if err := lock.exec(ctx, "DO 0"); err != nil {
		return fmt.Errorf("the session that holds commits back was lost: %w", err)
	}
	return nil
}

// begin opens the transactions. Where nobody at all can commit the binary log
// must not have moved between the first and the last.
func (s *Source) begin(ctx context.Context, h *held, nobody bool) error {
	places := make([]consistency, 1+len(h.workers))
	for i, c := range h.sessions() {
		// A metadata lock that does not come at once waits behind DDL, and
		// everybody waits behind us.
		if err := c.exec(ctx, "SET SESSION lock_wait_timeout = 2", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		var err error
		if places[i], err = place(ctx, c); err != nil {
			return err
		}
		if i < len(h.workers) {
			s.hookJoined()
		}
	}
	for _, p := range places[1:] {
		if nobody && p.Binlog != places[0].Binlog {
			return fmt.Errorf("the sessions see different moments: binary log at %s and at %s", places[0].Binlog, p.Binlog)
		}
	}
	if h.srv.BinaryLog && places[0].Binlog == "" {
		return errors.New("the server has a binary log and does not say where in it the snapshot is")
	}
	h.consistency = places[0]
	return nil
}

// blockCommits returns when no transaction can commit any more: none at all, or
// none that wrote to these tables.
func (s *Source) blockCommits(ctx context.Context, lock *session, srv server, tables []table) (all bool, err error) {
	if s.breakLock {
		return true, nil
	}
	// All but this session wait as long as it takes. This one has every client of
	// the database wait: if the box is gone, the server must not wait for it, too. It
	// has nothing to say while the others touch tens of thousands of tables.
	stands := fmt.Sprintf("SET SESSION wait_timeout = %d", int(s.stands.Seconds()))
	if err := lock.exec(ctx, s.lockWait(), stands); err != nil {
		return false, fmt.Errorf("prepare session: %w", err)
	}
	err = lock.exec(ctx, "BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL", "BACKUP STAGE BLOCK_COMMIT")
	switch code(err) {
	case errRights, errAccess:
	case errLockTimeout:
		return false, lockError(err)
	default:
		return true, err
	}
	err = s.lockTables(ctx, lock, tables)
	if c := code(err); c == errDatabaseAccess || c == errTableAccess {
		return false, fmt.Errorf("user %s has neither RELOAD nor LOCK TABLES: GRANT LOCK TABLES ON %s.*: %w", srv.User, ident(srv.Database), err)
	}
	return false, err
}

// place asks where the session's snapshot is.
func place(ctx context.Context, c *session) (consistency, error) {
	v, err := c.one(ctx, "SELECT UTC_TIMESTAMP(6)")
	if err != nil {
		return consistency{}, fmt.Errorf("read time: %w", err)
	}
	var p consistency
	if p.Time, err = time.Parse("2006-01-02 15:04:05.999999", v[0]); err != nil {
		return consistency{}, fmt.Errorf("read time: %w", err)
	}
	var file, pos string
	err = c.query(ctx, "SHOW SESSION STATUS LIKE 'binlog_snapshot_%'", func(v []string) error {
		switch strings.ToLower(v[0]) {
		case "binlog_snapshot_file":
			file = v[1]
		case "binlog_snapshot_position":
			pos = v[1]
		}
		return nil
	})
	if err != nil {
		return consistency{}, fmt.Errorf("read binary log position: %w", err)
	}
	if file == "" {
		return p, nil
	}
	p.Binlog = file + ":" + pos
	if v, err = c.one(ctx, "SELECT BINLOG_GTID_POS("+literal(file)+", "+pos+")"); err == nil {
		p.GTID = v[0]
	}
	return p, nil
}

// touch takes a metadata lock on every table, for as long as the transaction
// lasts.
func touch(ctx context.Context, c *session, tables []table) error {
	const batch = 40
	var list []string
	flush := func() error {
		if len(list) == 0 {
			return nil
		}
		err := c.exec(ctx, strings.Join(list, " UNION ALL "))
		list = list[:0]
		if n := code(err); n == errNoTable || n == errLockTimeout {
			return fmt.Errorf("%w: %w", errChanged, err)
		}
		if err != nil {
			return fmt.Errorf("touch tables: %w", err)
		}
		return nil
	}
	for _, t := range tables {
		if t.kind != "BASE TABLE" {
			continue
		}
		if list = append(list, "(SELECT 1 FROM "+ident(t.Name)+" LIMIT 0)"); len(list) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func sameTables(want, got []table) error {
	names := func(tables []table) []string {
		var out []string
		for _, t := range tables {
			out = append(out, t.kind+" "+plainName(t.Name))
		}
		return out
	}
	w, g := names(want), names(got)
	if slices.Equal(w, g) {
		return nil
	}
	diff := slices.DeleteFunc(append(slices.Clone(w), g...), func(n string) bool { return slices.Contains(w, n) && slices.Contains(g, n) })
	if len(diff) == 0 {
		diff = []string{"their order"}
	}
	return fmt.Errorf("%w: %s was created, dropped or renamed", errChanged, several(diff))
}
