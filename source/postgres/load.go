package postgres

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"strongroom/source"
)

func (l *loader) preData(ctx context.Context) error { return l.script(ctx, preDataStream) }

func (l *loader) postData(ctx context.Context) error { return l.script(ctx, postDataStream) }

// script runs the statements of one of pg_dump's texts.
func (l *loader) script(ctx context.Context, stream string) error {
	text, err := l.readText(ctx, stream)
	if err != nil {
		return err
	}
	entries, err := splitScript(text)
	if err != nil {
		return fmt.Errorf("%s: %w", stream, err)
	}
	for i := range entries {
		entries[i].statements = l.keep(entries[i])
	}
	if err := l.tablespaces(ctx, entries); err != nil {
		return err
	}
	for len(entries) > 0 {
		n := run(entries)
		if n > 1 {
			err = l.together(ctx, entries[:n])
		} else {
			err = l.execEntry(ctx, l.main, entries[0])
			l.remember(entries[0])
		}
		if err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// keep returns the statements of an entry that the target asks for.
func (l *loader) keep(e entry) []string {
	if e.kind == "FK CONSTRAINT" && l.target.Only != nil && !l.selected(referenced(e)) {
		l.warn("left out: foreign key %s, its table is not loaded", plainName(e.name))
		return nil
	}
	return slices.DeleteFunc(e.statements, func(s string) bool {
		if l.target.NoOwner && setsOwner(s) {
			return true
		}
		if who := grantee(s); who != "" && l.absent[who] {
			l.warn("left out: a right on %s, there is no role %q", plainName(e.name), who)
			return true
		}
		return l.target.NoOwner && l.ofAbsent(s)
	})
}

// ofAbsent recognises ALTER DEFAULT PRIVILEGES FOR ROLE of an absent role.
func (l *loader) ofAbsent(stmt string) bool {
	rest, ok := strings.CutPrefix(stmt, "ALTER DEFAULT PRIVILEGES FOR ROLE ")
	if !ok {
		return false
	}
	for name := range l.absent {
		for _, id := range []string{name, pgx.Identifier{name}.Sanitize()} {
			if strings.HasPrefix(rest, id+" ") {
				l.warn("left out: default rights of role %q, which is not there", name)
				return true
			}
		}
	}
	return false
}

// referenced is the table that a foreign key points to, as Facts.Object.
func referenced(e entry) string {
	for _, s := range e.statements {
		if _, after, ok := cutUnquoted(s, " REFERENCES "); ok {
			name, _, _ := cutUnquoted(after, "(")
			return plainName(name)
		}
	}
	return ""
}

// remember keeps what the script set for the statements after it, and which
// tables are partitions.
func (l *loader) remember(e entry) {
	for _, s := range e.statements {
		if name, _, ok := strings.Cut(strings.TrimPrefix(s, "SET "), " = "); ok && strings.HasPrefix(s, "SET ") {
			l.state[name] = s
		}
		if child, parent, ok := partitionOf(s); ok {
			l.parents[child] = parent
		}
	}
}

// ErrExtension: an extension cannot be made. Its text is this machine's, not the
// snapshot's.
var ErrExtension = errors.New("its extension cannot be installed here")

func (l *loader) execEntry(ctx context.Context, c *pgx.Conn, e entry) error {
	if len(e.statements) == 0 {
		return nil
	}
	text := strings.Join(e.statements, "\n")
	if e.kind == viewData {
		// Its owner fills it, who may see no more than at the source. pg_dump's head
		// has it off, to be told of rows that a dump does not see.
		text = "SET row_security = on;\n" + text + "\nSET row_security = off;"
	}
	if err := simple(ctx, c, text); err != nil && !l.fromElsewhere(e, err) {
		if e.kind == "EXTENSION" {
			err = fmt.Errorf("%w: %w", ErrExtension, err)
		}
		return fmt.Errorf("make %s %s: %w", strings.ToLower(e.kind), plainName(e.name), err)
	}
	return nil
}

// parallel runs n pieces of work on up to Jobs sessions of their own.
func (l *loader) parallel(ctx context.Context, n int, work func(context.Context, *pgx.Conn, int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	var next struct {
		sync.Mutex
		i int
	}
	take := func() (int, bool) {
		next.Lock()
		defer next.Unlock()
		next.i++
		return next.i - 1, next.i <= n
	}
	for range min(l.target.Jobs, n) {
		g.Go(func() error {
			c, err := l.connect(gctx)
			if err != nil {
				return err
			}
			defer closeConn(c)
			for _, s := range l.state {
				if err := simple(gctx, c, s); err != nil {
					return fmt.Errorf("prepare session: %w", err)
				}
			}
			for i, ok := take(); ok; i, ok = take() {
				if err := work(gctx, c, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// data loads rows, largest stream first, then sequences and large objects.
func (l *loader) data(ctx context.Context) error {
	tables := l.selection()
	slices.SortStableFunc(tables, func(a, b source.StreamInfo) int { return cmp.Compare(b.Length, a.Length) })
	for _, s := range tables {
		l.report.Bytes += s.Length
		l.report.Rows += s.Facts.Rows
	}
	l.report.Tables = len(whole(tables))
	err := l.parallel(ctx, len(tables), func(ctx context.Context, c *pgx.Conn, i int) error {
		return l.loadTable(ctx, c, tables[i])
	})
	if err != nil {
		return err
	}
	if l.has(sequenceStream) {
		if err := l.script(ctx, sequenceStream); err != nil {
			return err
		}
	}
	if !l.has(objectStream) {
		return nil
	}
	if l.target.Only != nil {
		l.warn("left out: large objects")
		return nil
	}
	return l.loadObjects(ctx)
}

// rowStream are a stream's rows without what stands around them.
type rowStream struct {
	rowsOnly
	io.Closer
}

// openRows opens a stream and returns what stands between COPY and FROM.
func (l *loader) openRows(ctx context.Context, s source.StreamInfo) (string, *rowStream, error) {
	r, err := l.stored.Open(ctx, s.Name, 0, -1)
	if err != nil {
		return "", nil, fmt.Errorf("load table %s: %w", s.Facts.Object, err)
	}
	br := bufio.NewReaderSize(r, 256<<10)
	target, err := readCopyHead(br)
	if err != nil {
		return "", nil, fmt.Errorf("load table %s: %w", s.Facts.Object, errors.Join(err, r.Close()))
	}
	return target, &rowStream{rowsOnly{br}, r}, nil
}

// loadTable copies one stream into its table.
func (l *loader) loadTable(ctx context.Context, c *pgx.Conn, s source.StreamInfo) error {
	target, rows, err := l.openRows(ctx, s)
	if err != nil {
		return err
	}
	defer rows.Close()
	copyIn, done := "COPY "+target+" FROM STDIN", ""
	if l.alone(s) {
		if err := simple(ctx, c, "BEGIN; TRUNCATE ONLY "+nameOf(target)); err != nil {
			return fmt.Errorf("load table %s: %w", s.Facts.Object, err)
		}
		copyIn, done = copyIn+" (FREEZE)", "COMMIT"
	}
	tag, err := c.PgConn().CopyFrom(ctx, rows, copyIn)
	if err == nil {
		err = simple(ctx, c, done)
	}
	if err != nil {
		return fmt.Errorf("load table %s: %w", s.Facts.Object, err)
	}
	return wantRows(s, tag.RowsAffected())
}

// wantRows compares the server's count of what it took with the snapshot's.
func wantRows(s source.StreamInfo, n int64) error {
	if n != s.Facts.Rows {
		return fmt.Errorf("load table %s: server took %d rows, the snapshot has %d", s.Facts.Object, n, s.Facts.Rows)
	}
	return nil
}

// freezeFrom is from where on the work of alone is worth it.
const freezeFrom = 1 << 20

// alone reports whether a stream may be loaded in a transaction that empties
// its table, which is empty anyway: then the server writes rows as if they had
// been there for long, which saves the next reader of the table, be it an index,
// the work of looking and writing that down, and it writes no WAL where
// wal_level is minimal. The lock keeps out other ranges of the table, and an
// extension's table has rows of the extension's.
func (l *loader) alone(s source.StreamInfo) bool {
	return s.Length >= freezeFrom && l.ranges[s.Facts.Object] == 1 &&
		!slices.ContainsFunc(l.detail.Config, func(t configTable) bool { return t.Object == s.Facts.Object })
}

// nameOf is a table's name in what stands between COPY and FROM.
func nameOf(target string) string {
	inQuotes := false
	for i, c := range target {
		inQuotes = inQuotes != (c == '"')
		if c == '(' && !inQuotes {
			return target[:i]
		}
	}
	return target
}

// readCopyHead reads copyHead's text and returns what stands between COPY and
// FROM: a name and a list of columns.
func readCopyHead(r *bufio.Reader) (string, error) {
	var head []byte
	inQuotes := false
	for {
		line, err := r.ReadSlice('\n')
		if err != nil || len(head)+len(line) > 1<<20 {
			return "", fmt.Errorf("bad head of the rows: %w", errors.Join(err, errors.New("no COPY statement")))
		}
		if len(head) == 0 && !bytes.HasPrefix(line, []byte("COPY ")) {
			if len(line) > 1 && !bytes.HasPrefix(line, []byte("--")) {
				return "", fmt.Errorf("bad head of the rows: %.80q", line)
			}
			continue
		}
		inQuotes = inQuotes != (bytes.Count(line, []byte{'"'})%2 == 1)
		head = append(head, line...)
		if inQuotes {
			continue // a name goes on in the next line
		}
		target, ok := bytes.CutSuffix(head[len("COPY "):], []byte(" FROM stdin;\n"))
		if !ok || semicolonOutsideQuotes(target) {
			return "", fmt.Errorf("bad head of the rows: %.80q", head)
		}
		return string(target), nil
	}
}

func semicolonOutsideQuotes(s []byte) bool {
	inQuotes := false
	for _, c := range s {
		inQuotes = inQuotes != (c == '"')
		if c == ';' && !inQuotes {
			return true
		}
	}
	return false
}

// rowsOnly reads up to copyEnd, which must be the end of the stream.
type rowsOnly struct{ r *bufio.Reader }

func (r rowsOnly) Read(p []byte) (int, error) {
	const keep = len(copyEnd)
	b, err := r.r.Peek(keep + 1)
	if len(b) > keep {
		return r.r.Read(p[:min(len(p), r.r.Buffered()-keep)])
	}
	if err == io.EOF && string(b) != copyEnd {
		err = fmt.Errorf("bad end of the rows: %q", b)
	}
	return 0, err
}

// loadObjects sends the text of large objects, some lines at a time; a line
// is a whole statement.
func (l *loader) loadObjects(ctx context.Context) error {
	r, err := l.stored.Open(ctx, objectStream, 0, -1)
	if err != nil {
		return fmt.Errorf("load large objects: %w", err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 256<<10)
	var batch []byte
	for {
		line, err := br.ReadSlice('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("load large objects: %w", err)
		}
		batch = append(batch, line...)
		if len(batch) < 512<<10 && err != io.EOF {
			continue
		}
		if err := simple(ctx, l.main, string(batch)); err != nil {
			return fmt.Errorf("load large objects: %w", err)
		}
		batch = batch[:0]
		if err == io.EOF {
			break
		}
	}
	if l.main.PgConn().TxStatus() != 'I' {
		return errors.New("load large objects: their text ends in the middle")
	}
	return nil
}

// WritePlain writes the whole dump as SQL that psql loads.
func WritePlain(ctx context.Context, stored source.Stored, w io.Writer) error {
	for _, s := range stored.Streams() {
		r, err := stored.Open(ctx, s.Name, 0, -1)
		if err != nil {
			return fmt.Errorf("postgres: write %s: %w", s.Name, err)
		}
		_, err = io.Copy(w, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("postgres: write %s: %w", s.Name, err)
		}
	}
	return nil
}
