package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"

	"strongroom/source/rowhash"
)

const (
	loHead = "--\n-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -\n--\n\nBEGIN;\n\n"
	loTail = "COMMIT;\n\n"
	loRead = 256 << 10 // of one round trip
	loLine = 16 << 10  // of one lowrite, as pg_dump does (LOBBUFSIZE)
)

// loStream writes large objects' contents as pg_dump does; their creation,
// owners and rights are in pre-data. It fetches as it is read.
type loStream struct {
	ctx  context.Context
	c    *pgx.Conn
	buf  []byte // text not read yet
	err  error  // what follows it
	oids []uint32
	oid  uint32 // the one being read, or the last one read
	open bool
	off  int64

	// A row is an object: its number in decimal, a tab, its contents.
	sum   rowhash.Sum
	whole hash.Hash
}

func newLOStream(ctx context.Context, c *pgx.Conn) *loStream {
	return &loStream{ctx: ctx, c: c, buf: []byte(loHead)}
}

func (l *loStream) Read(p []byte) (int, error) {
	for len(l.buf) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		l.buf = l.buf[:0]
		l.err = l.next()
	}
	n := copy(p, l.buf)
	l.buf = l.buf[n:]
	return n, nil
}

// next appends the next piece of text; io.EOF with the last.
func (l *loStream) next() error {
	if l.open {
		return l.piece()
	}
	if len(l.oids) == 0 {
		rows, err := l.c.Query(l.ctx, `SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid > $1::oid ORDER BY oid LIMIT 1000`, l.oid)
		if err != nil {
			return fmt.Errorf("list large objects: %w", err)
		}
		if l.oids, err = pgx.CollectRows(rows, pgx.RowTo[uint32]); err != nil {
			return fmt.Errorf("list large objects: %w", err)
		}
		if len(l.oids) == 0 {
			l.buf = append(l.buf, loTail...)
			return io.EOF
		}
	}
	l.oid, l.oids = l.oids[0], l.oids[1:]
	l.open, l.off, l.whole = true, 0, sha256.New()
	l.whole.Write(append(strconv.AppendUint(nil, uint64(l.oid), 10), '\t'))
	l.buf = fmt.Appendf(l.buf, "SELECT pg_catalog.lo_open('%d', 131072);\n", l.oid)
	return nil
}

func (l *loStream) piece() error {
	var data []byte
	err := l.c.QueryRow(l.ctx, `SELECT pg_catalog.lo_get($1::oid, $2::bigint, $3::int)`, l.oid, l.off, loRead).Scan(&data)
	if err != nil {
		return fmt.Errorf("read large object %d: %w", l.oid, err)
	}
	l.whole.Write(data)
	l.off += int64(len(data))
	for rest := data; len(rest) > 0; {
		n := min(len(rest), loLine)
		l.buf = append(l.buf, `SELECT pg_catalog.lowrite(0, '\x`...)
		l.buf = hex.AppendEncode(l.buf, rest[:n])
		l.buf = append(l.buf, "');\n"...)
		rest = rest[n:]
	}
	if len(data) == loRead {
		return nil
	}
	l.open = false
	l.sum.Add(l.whole.Sum(nil))
	l.buf = append(l.buf, "SELECT pg_catalog.lo_close(0);\n\n"...)
	return nil
}

func (l *loStream) Close() error {
	if l.err == nil {
		l.err = errors.New("large objects: closed before their end")
	}
	return nil
}
