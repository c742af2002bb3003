package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"strongroom/source"
	"strongroom/source/rowhash"
)

const (
	batchSize = 128 << 10
	batches   = 6 // of one stream: being filled, hashed, read, and some slack
	copyEnd   = "\\.\n\n\n"
)

// batch is a piece of COPY text on its way to two readers.
type batch struct {
	data []byte
	uses atomic.Int32 // of those still reading data
}

// copyStream turns the server's COPY messages into a reader. Three goroutines
// share the work: one receives and fills batches, one hashes rows, and the
// caller reads; no byte is copied more than into a batch and out of it.
type copyStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	free   chan *batch
	out    chan *batch   // to Read; closed by the producer at its end
	hash   chan *batch   // to the hasher; closed by the producer
	done   chan struct{} // closed when producer and hasher are gone
	err    error         // the producer's; set before out is closed

	fill *batch      // owned by the producer
	sum  rowhash.Sum // owned by the hasher until it is gone

	head []byte // owned by Read
	cur  *batch
	off  int
}

// startCopy runs produce, which writes rows to the copyStream and returns how
// many the server says there were.
func startCopy(ctx context.Context, head []byte, produce func(context.Context, io.Writer) (int64, error)) *copyStream {
	ctx, cancel := context.WithCancel(ctx)
	c := &copyStream{ctx: ctx, cancel: cancel, head: head, free: make(chan *batch, batches), out: make(chan *batch, batches+1),
		hash: make(chan *batch, batches), done: make(chan struct{})}
	for range batches {
		c.free <- &batch{data: make([]byte, 0, batchSize+batchSize/4)}
	}
	hashed := make(chan struct{})
	go func() {
		defer close(hashed)
		for b := range c.hash {
			c.sum.Write(b.data)
			c.release(b)
		}
	}()
	go func() {
		defer close(c.done)
		rows, err := produce(ctx, c)
		if err == nil {
			err = c.flush()
		}
		close(c.hash)
		<-hashed
		if err == nil && (rows != c.sum.Rows() || c.sum.InRow()) {
			err = fmt.Errorf("server sent %d rows and says that it sent %d", c.sum.Rows(), rows)
		}
		if err == nil {
			c.out <- &batch{data: []byte(copyEnd)} // one more than there are batches: never blocks
			err = io.EOF
		}
		c.err = err
		close(c.out)
	}()
	return c
}

// Write takes one COPY message.
func (c *copyStream) Write(p []byte) (int, error) {
	if c.fill == nil {
		select {
		case c.fill = <-c.free:
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
	c.fill.data = append(c.fill.data, p...)
	if len(c.fill.data) >= batchSize {
		return len(p), c.flush()
	}
	return len(p), nil
}

func (c *copyStream) flush() error {
	b := c.fill
	if b == nil {
		return nil
	}
	c.fill = nil
	b.uses.Store(2)
	c.hash <- b // both have room for all batches: neither blocks
	c.out <- b
	return c.ctx.Err()
}

func (c *copyStream) release(b *batch) {
	if b.uses.Add(-1) != 0 {
		return
	}
	if cap(b.data) > 8*batchSize {
		b.data = make([]byte, 0, batchSize+batchSize/4) // do not keep a huge row's memory
	}
	b.data = b.data[:0]
	c.free <- b
}

func (c *copyStream) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	for c.cur == nil || c.off == len(c.cur.data) {
		if c.cur != nil && c.cur.uses.Load() > 0 {
			c.release(c.cur)
		}
		var ok bool
		c.off = 0
		if c.cur, ok = <-c.out; !ok {
			return 0, c.err
		}
	}
	n := copy(p, c.cur.data[c.off:])
	c.off += n
	return n, nil
}

// Close stops the producer and waits until it is gone.
func (c *copyStream) Close() error {
	c.cancel()
	<-c.done
	return nil
}

func (c *copyStream) facts(object string) source.Facts { return facts(&c.sum, object) }

func facts(s *rowhash.Sum, object string) source.Facts {
	return source.Facts{Rows: s.Rows(), RowHash: s.Hash(), Object: object}
}

// copyTable reads one part of a table on a session that has joined the
// snapshot.
func copyTable(ctx context.Context, c *pgx.Conn, p part, encoding string, w io.Writer) (int64, error) {
	// Ours is not the only ACCESS SHARE on it: waiting means that a session
	// with DDL waits for our lock session, which waits for us.
	sql := "LOCK TABLE ONLY " + p.Object + " IN ACCESS SHARE MODE NOWAIT;" + wholeSettings
	if !p.whole() {
		sql += rangeSettings
	}
	err := simple(ctx, c, sql)
	if err != nil {
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "55P03" {
			return 0, fmt.Errorf("lock: another session waits to lock the table exclusively: %w", err)
		}
		return 0, fmt.Errorf("lock: %w", err)
	}
	tag, err := c.PgConn().CopyTo(ctx, w, copyOutSQL(p, encoding))
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	return tag.RowsAffected(), nil
}

// copyOutSQL is what pg_dump would run (dumpTableData_copy), with the
// encoding named so that the session itself can stay in UTF-8.
func copyOutSQL(p part, encoding string) string {
	from := p.Object + " " + columnList(p.Columns)
	switch {
	case !p.whole():
		from = "(" + rangeQuery(p) + ")"
	case p.Where != "":
		from = "(SELECT " + p.Columns + " FROM " + p.Object + " " + p.Where + ")"
	}
	return "COPY " + from + " TO STDOUT (ENCODING " + literal(encoding) + ")"
}

func columnList(columns string) string {
	if columns == "" {
		return ""
	}
	return "(" + columns + ")"
}

// copyHead is the dump's text before the rows.
func copyHead(t table) string {
	return fmt.Sprintf("--\n-- Data for Name: %s; Type: TABLE DATA; Schema: %s; Owner: %s\n--\n\nCOPY %s %s FROM stdin;\n",
		oneLine(t.Name), oneLine(t.Schema), oneLine(t.Owner), t.Object, columnList(t.Columns))
}
