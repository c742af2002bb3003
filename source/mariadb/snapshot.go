package mariadb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"strongroom/source"
	"strongroom/source/track"
)

// Names of the streams; a table's is dataPrefix and its name.
const (
	schemaStream  = "schema.sql"
	dataPrefix    = "data/"
	keysStream    = "keys.sql"
	foreignStream = "foreign-keys.sql"
	codeStream    = "code.sql"
)

// snapshot is an open dump.
type snapshot struct {
	held    *held
	dialer  *dialer
	cfg     Config
	desc    source.Description
	schema  schema
	streams *track.Streams

	idle chan *session // workers that read no table

	// longest statement, and what no statement can write: added to as streams end,
	// one at a time, and read when all have.
	longest    int
	unwritable []string
}

var _ source.Snapshot = (*snapshot)(nil)

// Open fixes a consistency point and reads the schema.
func (s *Source) Open(ctx context.Context) (_ source.Snapshot, err error) {
	d, err := newDialer(s.cfg.URL, s.cfg.PasswordFile)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = classed(fmt.Errorf("mariadb: snapshot of %s: %w", d.name(), err))
		}
	}()
	h, err := s.hold(ctx, d)
	if err != nil {
		return nil, err
	}
	n := &snapshot{held: h, dialer: d, cfg: s.cfg, idle: make(chan *session, s.cfg.Jobs), desc: describe(h.srv, h.tables), streams: track.New()}
	for _, w := range h.workers {
		n.idle <- w
	}
	if err := n.load(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// load reads the schema and makes the streams, in dump order.
func (n *snapshot) load(ctx context.Context) error {
	var err error
	if n.schema, err = readSchema(ctx, n.held.coord, n.held.srv, n.held.tables); err != nil {
		return err
	}
	text, err := n.schema.texts()
	if err != nil {
		return err
	}
	n.streams.AddText(schemaStream, text[schemaStream])
	for _, t := range n.held.tables {
		if t.kind != "BASE TABLE" {
			continue
		}
		name := dataPrefix + plainName(t.Name)
		n.streams.Add(source.Stream{Name: name, Kind: source.KindRows, SizeHint: t.Size,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return n.openTable(ctx, name, t) }})
	}
	for _, name := range []string{keysStream, foreignStream, codeStream} {
		n.streams.AddText(name, text[name])
	}
	return nil
}

func (n *snapshot) Description() source.Description { return n.desc }
func (n *snapshot) Time() time.Time                 { return n.held.Time }
func (n *snapshot) Streams() []source.Stream        { return n.streams.All() }
func (n *snapshot) Parallel() int                   { return n.cfg.Jobs }

// openTable starts to read a table, on one of the sessions that joined the
// snapshot when it was fixed: none can join later.
func (n *snapshot) openTable(ctx context.Context, name string, t table) (io.ReadCloser, error) {
	var c *session
	select {
	case c = <-n.idle:
	case <-n.streams.Closed():
		return nil, n.streams.Cause()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s := startRows(ctx, c, t, func() { n.idle <- c })
	facts := func() source.Facts {
		n.longest = max(n.longest, s.w.longest)
		n.unwritable = append(n.unwritable, s.w.unwritable(t)...)
		return s.facts(t)
	}
	return n.streams.Reader(name, s, facts, nil)
}

// Finish checks that every stream was read to its end, that every session is
// still in the snapshot, and that nothing was defined anew.
func (n *snapshot) Finish(ctx context.Context) (source.Report, error) {
	rep, err := n.finish(ctx)
	if err != nil {
		return source.Report{}, fmt.Errorf("mariadb: snapshot of %s: %w", n.dialer.name(), err)
	}
	return rep, nil
}

func (n *snapshot) finish(ctx context.Context) (source.Report, error) {
	facts, err := n.streams.Finish()
	if err != nil {
		return source.Report{}, err
	}
	if v, err := n.held.coord.one(ctx, "SELECT @@in_transaction"); err != nil || v[0] != "1" {
		return source.Report{}, fmt.Errorf("the session that holds the tables was lost: %w", cmp.Or(err, errors.New("its transaction ended")))
	}
	if k := n.held.keeper; k != nil {
		if err := k.exec(ctx, "DO 0"); err != nil {
			return source.Report{}, fmt.Errorf("the session that locks tables without transactions was lost: %w", err)
		}
	}
	warnings, err := n.compare(ctx)
	if err != nil {
		return source.Report{}, err
	}
	for _, t := range n.held.tables {
		if t.kind == "BASE TABLE" && t.key == "" {
			warnings = append(warnings, fmt.Sprintf("table %s has no primary key and no unique one without NULLs: its rows come in no order that is sure to be the same next time", plainName(t.Name)))
		}
	}
	warnings = append(append(warnings, n.schema.remarks...), n.unwritable...)
	det, err := n.detail().encode()
	if err != nil {
		return source.Report{}, err
	}
	return source.Report{Streams: facts, Detail: det, Warnings: warnings}, nil
}

// compare reads the schema again. What was defined anew while we read may be in
// the dump in part; a new table is only not in it.
func (n *snapshot) compare(ctx context.Context) (warnings []string, err error) {
	tables, err := readTables(ctx, n.held.coord)
	if err != nil {
		return nil, err
	}
	again, err := readSchema(ctx, n.held.coord, n.held.srv, tables)
	if err != nil {
		return nil, err
	}
	before, now := n.schema.hash(), again.hash()
	var changed []string
	for _, o := range n.schema.objects {
		if before[o.String()] != now[o.String()] {
			changed = append(changed, o.String())
		}
	}
	if len(changed) > 0 {
		return nil, fmt.Errorf("%s was defined anew or dropped while the dump was made", several(changed))
	}
	for _, o := range again.objects {
		if _, ok := before[o.String()]; !ok {
			warnings = append(warnings, fmt.Sprintf("%s was made while the dump was, and is not in it", o))
		}
	}
	return warnings, nil
}

// Close ends all sessions; the second call does nothing.
func (n *snapshot) Close() error {
	n.streams.Close()
	h := n.held
	n.held = &held{tables: h.tables, srv: h.srv, consistency: h.consistency}
	_ = h.close() // sessions that are in the middle of something have nothing to say
	return nil
}
