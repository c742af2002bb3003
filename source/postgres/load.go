package postgres

import (
	"bufio"
	"bytes"
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
	for len(entries) > 0 {
		n := 1
		if k := entries[0].kind; k == "INDEX" || k == "CONSTRAINT" {
			for n < len(entries) && entries[n].kind == k {
				n++
			}
		}
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
		_, after, ok := strings.Cut(s, " REFERENCES ")
		if !ok {
			continue
		}
		inQuotes := false
		for i, c := range after {
			if c == '"' {
				inQuotes = !inQuotes
			}
			if c == '(' && !inQuotes {
				return plainName(after[:i])
			}
		}
	}
	return ""
}

// remember keeps what the script set for the statements after it.
func (l *loader) remember(e entry) {
	for _, s := range e.statements {
		if name, _, ok := strings.Cut(strings.TrimPrefix(s, "SET "), " = "); ok && strings.HasPrefix(s, "SET ") {
			l.state[name] = s
		}
	}
}

func (l *loader) execEntry(ctx context.Context, c *pgx.Conn, e entry) error {
	if len(e.statements) == 0 {
		return nil
	}
	if err := simple(ctx, c, strings.Join(e.statements, "\n")); err != nil {
		return fmt.Errorf("make %s %s: %w", strings.ToLower(e.kind), plainName(e.name), err)
	}
	return nil
}

// together makes indexes, or constraints of one kind that need one, at once:
// none depends on another.
func (l *loader) together(ctx context.Context, entries []entry) error {
	return l.parallel(ctx, len(entries), func(ctx context.Context, c *pgx.Conn, i int) error {
		return l.execEntry(ctx, c, entries[i])
	}, func() { l.remember(entry{statements: lastSets(entries)}) })
}

// lastSets are the SET statements of entries in their order: pg_dump writes
// them behind the entry before the one that they are for.
func lastSets(entries []entry) []string {
	var sets []string
	for _, e := range entries {
		for _, s := range e.statements {
			if strings.HasPrefix(s, "SET ") {
				sets = append(sets, s)
			}
		}
	}
	return sets
}

// parallel runs n pieces of work on up to Jobs sessions of their own.
func (l *loader) parallel(ctx context.Context, n int, work func(context.Context, *pgx.Conn, int) error, after func()) error {
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
	if err := g.Wait(); err != nil {
		return err
	}
	after()
	return nil
}

// data loads rows, biggest table first, then sequences and large objects.
func (l *loader) data(ctx context.Context) error {
	tables := l.selection()
	slices.SortStableFunc(tables, func(a, b source.StreamInfo) int { return int(min(max(b.Length-a.Length, -1), 1)) })
	rows := make([]int64, len(tables))
	err := l.parallel(ctx, len(tables), func(ctx context.Context, c *pgx.Conn, i int) (err error) {
		rows[i], err = l.loadTable(ctx, c, tables[i])
		return err
	}, func() {})
	if err != nil {
		return err
	}
	l.report.Tables = len(whole(tables))
	for i, s := range tables {
		l.report.Rows += rows[i]
		l.report.Bytes += s.Length
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

// loadTable copies one stream into its table and compares the server's count.
func (l *loader) loadTable(ctx context.Context, c *pgx.Conn, s source.StreamInfo) (int64, error) {
	r, err := l.stored.Open(ctx, s.Name, 0, -1)
	if err != nil {
		return 0, fmt.Errorf("load table %s: %w", s.Facts.Object, err)
	}
	defer r.Close()
	br := bufio.NewReaderSize(r, 256<<10)
	target, err := readCopyHead(br)
	if err != nil {
		return 0, fmt.Errorf("load table %s: %w", s.Facts.Object, err)
	}
	tag, err := c.PgConn().CopyFrom(ctx, &rowsOnly{r: br}, "COPY "+target+" FROM STDIN")
	if err != nil {
		return 0, fmt.Errorf("load table %s: %w", s.Facts.Object, err)
	}
	if n := tag.RowsAffected(); n != s.Facts.Rows {
		return 0, fmt.Errorf("load table %s: server took %d rows, the snapshot has %d", s.Facts.Object, n, s.Facts.Rows)
	}
	return s.Facts.Rows, nil
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
type rowsOnly struct {
	r    io.Reader
	held []byte // the last bytes read, maybe copyEnd
	err  error
}

func (r *rowsOnly) Read(p []byte) (int, error) {
	const keep = len(copyEnd)
	for r.err == nil && len(r.held) <= keep {
		var buf [64 << 10]byte
		n, err := r.r.Read(buf[:])
		r.held = append(r.held, buf[:n]...)
		r.err = err
	}
	if r.err == nil || len(r.held) > keep {
		n := copy(p, r.held[:len(r.held)-keep])
		r.held = r.held[:copy(r.held, r.held[n:])]
		return n, nil
	}
	if r.err == io.EOF && string(r.held) != copyEnd {
		r.err = fmt.Errorf("bad end of the rows: %q", r.held)
	}
	return 0, r.err
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
