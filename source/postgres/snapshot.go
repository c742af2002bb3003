package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"strongroom/source"
	"strongroom/source/track"
)

// Names of the streams; a table's is dataPrefix and its name, and partsOf says
// what those of ranges are.
const (
	rolesStream    = "roles.sql"
	preDataStream  = "pre-data.sql"
	dataPrefix     = "data/"
	sequenceStream = "sequences.sql"
	objectStream   = "large-objects.sql"
	postDataStream = "post-data.sql"
)

// snapshot is an open dump.
type snapshot struct {
	held    *held
	dialer  *dialer
	env     *childEnv
	cfg     Config
	desc    source.Description
	srv     server
	detail  json.RawMessage
	streams *track.Streams
	// objectSize is an estimate of the large objects' bytes.
	objectSize int64

	idle chan *pgx.Conn // workers that joined the snapshot

}

var _ source.Snapshot = (*snapshot)(nil)

// Open locks every table, fixes a consistency point, and reads the schema.
func (s *Source) Open(ctx context.Context) (_ source.Snapshot, err error) {
	d, err := newDialer(s.cfg.URL, s.cfg.PasswordFile)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = classed(fmt.Errorf("postgres: snapshot of %s: %w", d.name(), err))
		}
	}()
	// Before anything is locked: a too old pg_dump, or none, is quick to find.
	if err := s.preflight(ctx, d); err != nil {
		return nil, err
	}
	h, err := s.hold(ctx, d)
	if err != nil {
		return nil, err
	}
	n := &snapshot{held: h, dialer: d, cfg: s.cfg, idle: make(chan *pgx.Conn, s.cfg.Jobs), streams: track.New()}
	if n.env, err = newChildEnv(d, s.cfg.TempDir); err == nil {
		err = n.load(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (s *Source) preflight(ctx context.Context, d *dialer) error {
	c, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	srv, err := readServer(ctx, c)
	if err != nil {
		return err
	}
	_, err = findPrograms(ctx, s.cfg.BinDir, srv.Major)
	return err
}

// load reads all but the rows, and compares pg_dump's list of data with ours.
func (n *snapshot) load(ctx context.Context) error {
	h, cfg := n.held, n.cfg
	var err error
	if n.srv, err = readServer(ctx, h.coord); err != nil {
		return err
	}
	if err := measure(ctx, h.coord, h.tables); err != nil {
		return err
	}
	n.desc = describe(n.srv, h.tables)
	progs, err := findPrograms(ctx, cfg.BinDir, n.srv.Major)
	if err != nil {
		return err
	}
	p := dumper{progs: progs, env: n.env, conninfo: n.dialer.conninfo, snapshot: h.Snapshot, encoding: n.srv.Encoding,
		key: cfg.RestrictKey, timeout: cfg.LockTimeout}
	text, err := p.schema(ctx)
	if err != nil {
		return err
	}
	tables, err := orderTables(text.toc.tables, h.tables)
	if err != nil {
		return err
	}
	var objects bool
	const look = `SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata), pg_catalog.pg_relation_size('pg_catalog.pg_largeobject')`
	if err := h.coord.QueryRow(ctx, look).Scan(&objects, &n.objectSize); err != nil {
		return fmt.Errorf("look for large objects: %w", err)
	}
	if objects != text.toc.objects {
		return fmt.Errorf("pg_dump's list of data and the catalogue disagree whether there are large objects (%t, %t)", text.toc.objects, objects)
	}
	seqs, err := readSequences(ctx, h.coord)
	if err != nil {
		return err
	}
	if seqs, err = orderSequences(text.toc.sequences, seqs); err != nil {
		return err
	}
	roles, err := readRoles(ctx, h.coord)
	if err != nil {
		return err
	}
	if n.detail, err = readDetail(ctx, h, n.srv, progs, roles, seqs); err != nil {
		return err
	}
	return n.list(ctx, text, tables, seqs, roles)
}

// list makes the streams, in dump order.
func (n *snapshot) list(ctx context.Context, text schema, tables []table, seqs []sequence, roles []role) error {
	enc := encoder{n.held.coord, n.srv.Encoding}
	rolesText, err := enc.bytes(ctx, rolesSQL(roles))
	if err != nil {
		return err
	}
	n.streams.AddText(rolesStream, rolesText)
	n.streams.AddText(preDataStream, text.preData)
	for _, t := range tables {
		head, err := enc.bytes(ctx, copyHead(t))
		if err != nil {
			return err
		}
		for _, p := range n.cfg.partsOf(t, n.srv.Major) {
			n.streams.Add(source.Stream{Name: p.name, Kind: source.KindRows, SizeHint: p.size,
				Open: func(ctx context.Context) (io.ReadCloser, error) { return n.openTable(ctx, p, head) }})
		}
	}
	if len(seqs) > 0 {
		b, err := enc.bytes(ctx, sequencesSQL(seqs))
		if err != nil {
			return err
		}
		n.streams.AddText(sequenceStream, b)
	}
	if text.toc.objects {
		n.streams.Add(source.Stream{Name: objectStream, Kind: source.KindSQL, SizeHint: n.objectSize, Open: n.openObjects})
	}
	n.streams.AddText(postDataStream, text.postData)
	return nil
}

func sequencesSQL(seqs []sequence) string {
	var b strings.Builder
	for _, s := range seqs {
		fmt.Fprintf(&b, "--\n-- Name: %s; Type: SEQUENCE SET; Schema: %s; Owner: %s\n--\n\nSELECT pg_catalog.setval(%s, %d, %t);\n\n\n",
			oneLine(s.Name), oneLine(s.Schema), oneLine(s.Owner), literal(s.Object), s.Last, s.Called)
	}
	return b.String()
}

func (n *snapshot) Description() source.Description { return n.desc }
func (n *snapshot) Time() time.Time                 { return n.held.Time }
func (n *snapshot) Streams() []source.Stream        { return n.streams.All() }
func (n *snapshot) Parallel() int                   { return n.cfg.Jobs }

// openTable starts the COPY of one part of a table.
func (n *snapshot) openTable(ctx context.Context, p part, head []byte) (io.ReadCloser, error) {
	c, err := n.worker(ctx)
	if err != nil {
		return nil, n.streams.Fail(fmt.Errorf("dump table %s: %w", p.Object, err))
	}
	cs := startCopy(ctx, head, func(ctx context.Context, w io.Writer) (int64, error) {
		rows, err := copyTable(ctx, c, p, n.srv.Encoding, w)
		n.putWorker(c, err == nil)
		if err != nil {
			return 0, fmt.Errorf("dump table %s: %w", p.Object, err)
		}
		return rows, nil
	})
	facts := func() source.Facts { return cs.facts(plainName(p.Object)) }
	return n.streams.Reader(p.name, cs, facts, nil)
}

func (n *snapshot) openObjects(ctx context.Context) (io.ReadCloser, error) {
	c, err := n.worker(ctx)
	if err != nil {
		return nil, n.streams.Fail(fmt.Errorf("dump large objects: %w", err))
	}
	l := newLOStream(ctx, c)
	facts := func() source.Facts { return facts(&l.sum, LargeObjects) }
	return n.streams.Reader(objectStream, l, facts, func() { n.putWorker(c, l.err == io.EOF) })
}

// worker returns a session that has joined the snapshot.
func (n *snapshot) worker(ctx context.Context) (*pgx.Conn, error) {
	select {
	case c := <-n.idle:
		return c, nil
	default:
	}
	c, err := n.dialer.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = simple(ctx, c, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+literal(n.held.Snapshot))
	if err != nil {
		closeConn(c)
		return nil, fmt.Errorf("join snapshot: %w", err)
	}
	return c, nil
}

// putWorker keeps a session whose work ended well for the next table.
func (n *snapshot) putWorker(c *pgx.Conn, well bool) {
	if well {
		select {
		case n.idle <- c:
			return
		default:
		}
	}
	closeConn(c)
}

// Finish checks that every stream was read to its end and that the locks and
// the snapshot were held all the time.
func (n *snapshot) Finish(ctx context.Context) (source.Report, error) {
	name := n.dialer.name()
	facts, err := n.streams.Finish()
	if err != nil {
		return source.Report{}, fmt.Errorf("postgres: snapshot of %s: %w", name, err)
	}
	for what, c := range map[string]*pgx.Conn{"the session that holds the locks": n.held.lock, "the session that holds the snapshot": n.held.coord} {
		err := simple(ctx, c, "SELECT 1")
		if err == nil && c.PgConn().TxStatus() != 'T' {
			err = errors.New("its transaction ended")
		}
		if err != nil {
			return source.Report{}, fmt.Errorf("postgres: snapshot of %s: %s was lost: %w", name, what, err)
		}
	}
	return source.Report{Streams: facts, Detail: n.detail}, nil
}

// Close ends all sessions and child processes; the second call does nothing.
func (n *snapshot) Close() error {
	n.streams.Close()
	for {
		select {
		case c := <-n.idle:
			closeConn(c)
			continue
		default:
		}
		break
	}
	n.held.close()
	if n.env == nil {
		return nil
	}
	return n.env.remove()
}
