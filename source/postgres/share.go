package postgres

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"strongroom/source"
)

// shareFrom is from where on a stream may be shared out.
const shareFrom = 32 << 20

// pieceSize is how many bytes of rows a session gets at a time: rows of a
// piece stay together, about a hundred blocks of them.
const pieceSize = 1 << 20

// oversized reports whether a stream is more than one session's share of all:
// loaded by one, it would leave the others without work.
func oversized(s source.StreamInfo, total int64, jobs int) bool {
	return jobs > 1 && s.Length >= shareFrom && s.Length > total/int64(jobs)
}

// loadShared copies one stream into its table with all sessions at once. None
// of them sees the end of its rows before the stream was found whole, so after
// an error none of their rows are there.
func (l *loader) loadShared(ctx context.Context, s source.StreamInfo) error {
	target, rows, err := l.openRows(ctx, s)
	if err != nil {
		return err
	}
	defer rows.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := newDealer(ctx, l.target.Jobs)
	var g errgroup.Group
	g.Go(func() error {
		err := d.deal(rows)
		if err != nil {
			cancel(err) // ends the sessions, which then have no better reason
		}
		return err
	})
	loaded := make([]int64, l.target.Jobs)
	g.Go(func() error {
		err := l.parallel(ctx, l.target.Jobs, func(ctx context.Context, c *pgx.Conn, i int) error {
			tag, err := c.PgConn().CopyFrom(ctx, &hand{d: d}, "COPY "+target+" FROM STDIN")
			loaded[i] = tag.RowsAffected()
			if err != nil {
				cancel(err) // before the others have taken all the rest
			}
			return err
		})
		if err != nil {
			cancel(err)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("load table %s: %w", s.Facts.Object, context.Cause(ctx))
	}
	var n int64
	for _, k := range loaded {
		n += k
	}
	return wantRows(s, n)
}

// dealer cuts COPY text at ends of rows, which are line feeds: inside a row
// they are escaped.
type dealer struct {
	ctx    context.Context
	pieces chan []byte // closed by deal when it saw a good end
	free   chan []byte // buffers that may be filled
}

func newDealer(ctx context.Context, hands int) *dealer {
	d := &dealer{ctx: ctx, pieces: make(chan []byte, hands), free: make(chan []byte, 2*hands+1)}
	for range cap(d.free) {
		d.free <- nil
	}
	return d
}

func (d *dealer) deal(r io.Reader) error {
	var rest []byte // of a row whose end was not read yet
	for {
		var buf []byte
		select {
		case buf = <-d.free:
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		}
		buf = append(buf[:0], rest...)
		end, err := fillRows(&buf, r)
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF {
			end = len(buf)
		}
		rest = append(rest[:0], buf[end:]...)
		select {
		case d.pieces <- buf[:end]:
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		}
		if err == io.EOF {
			close(d.pieces)
			return nil
		}
	}
}

// fillRows reads until there is a piece that ends with a row, and returns
// where that end is.
func fillRows(buf *[]byte, r io.Reader) (int, error) {
	b := *buf
	defer func() { *buf = b }()
	for {
		from := len(b)
		if cap(b) < from+pieceSize {
			b = append(make([]byte, 0, from+2*pieceSize), b...)
		}
		n, err := io.ReadFull(r, b[from:from+pieceSize])
		b = b[:from+n]
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		if i := bytes.LastIndexByte(b[from:], '\n'); i >= 0 || err != nil {
			return from + i + 1, err
		}
	}
}

// hand is what one session gets of the pieces.
type hand struct {
	d    *dealer
	buf  []byte
	left []byte
}

func (h *hand) Read(p []byte) (int, error) {
	for len(h.left) == 0 {
		if h.buf != nil {
			h.d.free <- h.buf // has room for all there are
			h.buf = nil
		}
		select {
		case piece, ok := <-h.d.pieces:
			if !ok {
				return 0, io.EOF
			}
			h.buf, h.left = piece, piece
		case <-h.d.ctx.Done():
			return 0, context.Cause(h.d.ctx)
		}
	}
	n := copy(p, h.left)
	h.left = h.left[n:]
	return n, nil
}
