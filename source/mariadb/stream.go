package mariadb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"io"

	"strongroom/source"
)

const (
	batchSize = 256 << 10
	batches   = 4 // of one stream: being filled, read, and some slack
)

// tableEnd follows the rows, for a client without autocommit.
const tableEnd = "COMMIT;\n\n"

func tableHead(t table) string { return "--\n-- Rows of " + plainName(t.Name) + "\n--\n\n" }

// rowStream reads a table on one session. One goroutine receives rows and
// writes them as SQL, the caller reads.
type rowStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	free   chan []byte
	out    chan []byte   // to Read; closed by the producer at its end
	done   chan struct{} // closed when the producer is gone
	// err is the producer's, and w its; read by others once out is closed.
	err error
	w   *rowWriter

	cur []byte // owned by Read
	off int
}

// startRows starts to read a table; after is called when the session is not
// used any more.
func startRows(ctx context.Context, c *session, t table, after func()) *rowStream {
	ctx, cancel := context.WithCancel(ctx)
	s := &rowStream{ctx: ctx, cancel: cancel, free: make(chan []byte, batches), out: make(chan []byte, batches), done: make(chan struct{}),
		w: newRowWriter(t)}
	for range batches {
		s.free <- make([]byte, 0, batchSize+batchSize/4)
	}
	go func() {
		defer close(s.done)
		defer after()
		defer close(s.out)
		if s.err = s.produce(c, t); s.err == nil {
			s.err = io.EOF
		}
	}()
	return s
}

func (s *rowStream) produce(c *session, t table) error {
	if err := s.next(); err != nil {
		return err
	}
	s.w.out = append(s.w.out, tableHead(t)...)
	if err := s.rows(c, t); err != nil {
		return fmt.Errorf("dump table %s: %w", plainName(t.Name), err)
	}
	s.w.end()
	s.w.out = append(s.w.out, tableEnd...)
	// The server's own count, in the same snapshot, by whatever index it likes.
	v, err := c.one(s.ctx, "SELECT COUNT(*) FROM "+ident(t.Name))
	if err != nil {
		return fmt.Errorf("count table %s: %w", plainName(t.Name), err)
	}
	if n := s.w.sum.Rows(); v[0] != fmt.Sprint(n) {
		return fmt.Errorf("dump table %s: the server sent %d rows and counts %s", plainName(t.Name), n, v[0])
	}
	return s.flush()
}

func (s *rowStream) rows(c *session, t table) error {
	if err := c.exec(s.ctx, "SET character_set_results = NULL"); err != nil {
		return because(s.ctx, err)
	}
	rows, err := c.q.QueryContext(s.ctx, t.selectSQL(), nil)
	if err != nil {
		return because(s.ctx, err)
	}
	defer rows.Close()
	vals := make([]driver.Value, len(rows.Columns()))
	for {
		err := rows.Next(vals)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return because(s.ctx, err)
		}
		if err := s.w.add(vals); err != nil {
			return err
		}
		if len(s.w.out) < batchSize {
			continue
		}
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.next(); err != nil {
			return err
		}
	}
}

// next waits for an empty batch.
func (s *rowStream) next() error {
	select {
	case s.w.out = <-s.free:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// flush hands the batch to the reader; there is room for all.
func (s *rowStream) flush() error {
	s.out <- s.w.out
	s.w.out = nil
	return s.ctx.Err()
}

func (s *rowStream) Read(p []byte) (int, error) {
	for s.off == len(s.cur) {
		if s.cur != nil {
			if cap(s.cur) > 8*batchSize {
				s.cur = make([]byte, 0, batchSize+batchSize/4) // do not keep a huge row's memory
			}
			s.free <- s.cur[:0]
		}
		var ok bool
		s.off = 0
		if s.cur, ok = <-s.out; !ok {
			return 0, s.err
		}
	}
	n := copy(p, s.cur[s.off:])
	s.off += n
	return n, nil
}

// Close stops the producer and waits until it is gone.
func (s *rowStream) Close() error {
	s.cancel()
	<-s.done
	return nil
}

func (s *rowStream) facts(t table) source.Facts {
	return source.Facts{Rows: s.w.sum.Rows(), RowHash: s.w.sum.Hash(), Object: plainName(t.Name)}
}
