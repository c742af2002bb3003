package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/source"
	"strongroom/source/files/scratch"
)

// pageSize reads the page size from the database header and refuses what is
// not one (https://www.sqlite.org/fileformat2.html, 1.3).
func pageSize(head []byte) (int, error) {
	if len(head) < 100 || string(head[:16]) != "SQLite format 3\x00" {
		return 0, errors.New("no SQLite header")
	}
	n := int(binary.BigEndian.Uint16(head[16:]))
	if n == 1 {
		n = 65536
	}
	if n < 512 || n&(n-1) != 0 {
		return 0, fmt.Errorf("page size %d in the header", n)
	}
	return n, nil
}

// writePages writes all pages in order.
func (r *reader) writePages(ctx context.Context, w io.Writer) error {
	p, err := r.openPages(ctx)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(w, struct{ io.Reader }{p}, make([]byte, 1<<20))
	return errors.Join(err, p.Close())
}

func (r *reader) openPages(ctx context.Context) (*pageReader, error) {
	rows, err := r.conn.QueryContext(ctx, "SELECT pgno, data FROM sqlite_dbpage('main') ORDER BY pgno")
	if err != nil {
		return nil, err
	}
	return &pageReader{rows: rows, size: r.pageSize, want: r.pages}, nil
}

// A pageReader yields the pages of a read transaction, end to end.
type pageReader struct {
	rows       *sql.Rows
	size       int
	done, want int64
	rest       []byte // of the current page; valid until rows.Next
	err        error
}

// Read fills p with as many pages as fit, so that a caller with a large buffer
// does not pay a call a page.
func (p *pageReader) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) && p.err == nil {
		if len(p.rest) == 0 {
			p.err = p.next()
			continue
		}
		c := copy(b[n:], p.rest)
		p.rest = p.rest[c:]
		n += c
	}
	if n > 0 {
		return n, nil
	}
	return 0, p.err
}

func (p *pageReader) next() error {
	if !p.rows.Next() {
		if err := p.rows.Err(); err != nil {
			return fmt.Errorf("sqlite: read page %d: %w", p.done+1, err)
		}
		if p.done != p.want {
			return fmt.Errorf("sqlite: database ended after page %d of %d", p.done, p.want)
		}
		return io.EOF
	}
	var no int64
	var data sql.RawBytes
	if err := p.rows.Scan(&no, &data); err != nil {
		return fmt.Errorf("sqlite: read page %d: %w", p.done+1, err)
	}
	if no != p.done+1 || len(data) != p.size {
		return fmt.Errorf("sqlite: got page %d with %d bytes, want page %d with %d", no, len(data), p.done+1, p.size)
	}
	p.done, p.rest = no, data
	return nil
}

func (p *pageReader) Close() error { return p.rows.Close() }

// A snapshot is a database at one moment: live in its own WAL, or copied.
type snapshot struct {
	desc     source.Description
	time     time.Time
	pageSize int
	pages    int64
	detail   Detail
	live     *reader
	copied   *scratch.File

	mu     sync.Mutex
	opened bool
	whole  bool
	closed bool
}

func (s *snapshot) Description() source.Description { return s.desc }
func (s *snapshot) Time() time.Time                 { return s.time }
func (s *snapshot) Parallel() int                   { return 1 }

func (s *snapshot) Streams() []source.Stream {
	return []source.Stream{{
		Name: stream, Kind: source.KindPages, PageSize: s.pageSize,
		SizeHint: s.pages * int64(s.pageSize), Open: s.open,
	}}
}

func (s *snapshot) open(ctx context.Context) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened || s.closed {
		return nil, errors.New("sqlite: stream was opened before, or its snapshot is closed")
	}
	s.opened = true
	if s.copied != nil {
		r := io.NewSectionReader(s.copied, 0, s.copied.Size())
		return &tracked{Reader: contextReader{ctx, r}, close: func() error { return nil }, snap: s}, nil
	}
	p, err := s.live.openPages(ctx)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	return &tracked{Reader: p, close: p.Close, snap: s}, nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// tracked tells its snapshot when it was read to its end.
type tracked struct {
	io.Reader
	close func() error
	snap  *snapshot
}

func (t *tracked) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err == io.EOF {
		t.snap.mu.Lock()
		t.snap.whole = true
		t.snap.mu.Unlock()
	}
	return n, err
}

func (t *tracked) Close() error { return t.close() }

// Finish reports what the tables held at the moment of the snapshot.
func (s *snapshot) Finish(context.Context) (source.Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.whole {
		return source.Report{}, errors.New("sqlite: the database was not read to its end")
	}
	var rep source.Report
	raw, err := json.Marshal(s.detail)
	if err == nil && len(raw) > maxDetail {
		rep.Warnings = append(rep.Warnings, fmt.Sprintf("row counts of %d tables are too long to keep, only their sum is", len(s.detail.Tables)))
		short := s.detail
		short.Tables = nil
		raw, err = json.Marshal(short)
	}
	if err != nil {
		return source.Report{}, fmt.Errorf("sqlite: encode detail: %w", err)
	}
	rep.Detail = raw
	for _, t := range s.detail.Tables {
		if t.Unknown != "" {
			rep.Warnings = append(rep.Warnings, fmt.Sprintf("rows of table %q were not counted: %s", t.Name, t.Unknown))
		}
	}
	rep.Streams = map[string]source.Facts{stream: {Rows: s.detail.Rows}}
	return rep, nil
}

// Close lets go of the database.
func (s *snapshot) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.copied != nil {
		err = s.copied.Close()
	}
	if s.live != nil {
		err = errors.Join(err, s.live.close())
	}
	return err
}

// maxDetail leaves room for the contract's 1 MiB.
const maxDetail = 1000 << 10

func checkRoom(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("scratch directory %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("scratch directory %s has %d bytes free, the copy needs %d", dir, free, need)
	}
	return nil
}
