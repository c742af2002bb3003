package postgres

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// run returns how many entries at the front may be made together, and in any
// order: indexes and the constraints that are indexes, or foreign keys, which
// need those; with comments on them.
func run(entries []entry) int {
	kinds := map[string][]string{"INDEX": {"INDEX", "CONSTRAINT"}, "CONSTRAINT": {"INDEX", "CONSTRAINT"}, "FK CONSTRAINT": {"FK CONSTRAINT"}}[entries[0].kind]
	n := 0
	for n < len(entries) && (slices.Contains(kinds, entries[n].kind) || n > 0 && entries[n].commentOf(kinds)) {
		n++
	}
	return max(n, 1)
}

// commentOf reports whether an entry is a comment on one of such kinds.
func (e entry) commentOf(kinds []string) bool {
	what, _, _ := strings.Cut(e.name, " ")
	return e.kind == "COMMENT" && (slices.Contains(kinds, what) || what == "CONSTRAINT" && slices.Contains(kinds, "FK CONSTRAINT"))
}

// together makes a run of entries on several sessions, those of the largest
// tables first: the last one is made alone.
func (l *loader) together(ctx context.Context, entries []entry) error {
	size := map[string]int64{}
	for _, s := range l.selection() {
		size[s.Facts.Object] += s.Length
	}
	var works []*work
	for _, e := range entries {
		sets := slices.Collect(maps.Values(l.state))
		if e.kind == "COMMENT" && len(works) > 0 { // on what is before it
			w := works[len(works)-1]
			w.statements = append(w.statements, withoutSets(e.statements)...)
		} else {
			w := newWork(e, size, l.parents)
			w.statements = append(sets, withoutSets(e.statements)...)
			works = append(works, w)
		}
		l.remember(e)
	}
	slices.SortStableFunc(works, func(a, b *work) int { return cmp.Compare(b.weight, a.weight) })
	b := newBoard(works)
	err := l.parallel(ctx, len(works), func(ctx context.Context, c *pgx.Conn, _ int) error {
		w := b.take()
		defer b.release(w)
		return l.execWork(ctx, c, w)
	})
	if err != nil {
		return err
	}
	// What pg_dump set for its next statements is behind them.
	return simple(ctx, l.main, strings.Join(slices.Collect(maps.Values(l.state)), "\n"))
}

// execWork tries again after a deadlock: locks on partitions, which no text of
// an entry names, can cross.
func (l *loader) execWork(ctx context.Context, c *pgx.Conn, w *work) error {
	const tries = 5
	for try := 1; ; try++ {
		err := l.execEntry(ctx, c, w.entry)
		pgErr, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pgErr.Code != "40P01" || try == tries {
			return err
		}
	}
}

func withoutSets(statements []string) []string {
	return slices.DeleteFunc(slices.Clone(statements), func(s string) bool { return strings.HasPrefix(s, "SET ") })
}

// work is an entry to be made, and what it locks.
type work struct {
	entry
	weight    int64
	tables    []string
	exclusive bool // else others may build indexes on them too
}

// newWork reads from an entry's text what it locks. Foreign keys go by the
// topmost table of a partition: one lock then stands for all that adding them
// there takes, and those of one table and its partitions are made in the
// dump's order, on which it depends whether the server takes two equal ones
// for one.
func newWork(e entry, size map[string]int64, parents map[string]string) *work {
	w := &work{entry: e, exclusive: e.kind != "INDEX"}
	var names []string
	for _, s := range e.statements {
		name, ok := "", false
		if strings.HasPrefix(s, "CREATE ") {
			_, name, ok = cutUnquoted(s, " ON ")
		} else if name, ok = strings.CutPrefix(s, "ALTER TABLE "); ok {
			w.exclusive = true
		}
		if ok {
			names = append(names, firstName(name))
		}
	}
	if e.kind == "FK CONSTRAINT" {
		names = append(names, referenced(e))
		for i := range names {
			names[i] = topmost(names[i], parents)
		}
	}
	for _, n := range names {
		if n != "" && !slices.Contains(w.tables, n) {
			w.tables = append(w.tables, n)
		}
	}
	if len(w.tables) > 0 {
		for t, n := range size {
			if t == w.tables[0] || e.kind == "FK CONSTRAINT" && topmost(t, parents) == w.tables[0] {
				w.weight += n
			}
		}
	}
	return w
}

// firstName is the table's name, as Facts.Object, at the front of a statement
// or of a part of one.
func firstName(s string) string {
	name, _, _ := cutUnquoted(strings.TrimPrefix(s, "ONLY "), " ")
	name, _, _ = cutUnquoted(name, "\n")
	return plainName(name)
}

func topmost(table string, parents map[string]string) string {
	for range parents { // a chain is no longer than this, whatever the text says
		if p := parents[table]; p != "" {
			table = p
		}
	}
	return table
}

// partitionOf reads `ALTER TABLE ONLY parent ATTACH PARTITION child FOR …`.
func partitionOf(stmt string) (child, parent string, ok bool) {
	head, tail, ok := cutUnquoted(stmt, " ATTACH PARTITION ")
	head, is := strings.CutPrefix(head, "ALTER TABLE ")
	return firstName(tail), firstName(head), ok && is
}

// cutUnquoted is strings.Cut at the first sep that is not inside a quoted name.
func cutUnquoted(s, sep string) (before, after string, found bool) {
	inQuotes := false
	for i := range len(s) {
		if s[i] == '"' {
			inQuotes = !inQuotes
		}
		if !inQuotes && strings.HasPrefix(s[i:], sep) {
			return s[:i], s[i+len(sep):], true
		}
	}
	return s, "", false
}

// board hands out works so that none waits for another one's lock while there
// is something else to do.
type board struct {
	mu      sync.Mutex
	freed   sync.Cond
	waiting []*work        // guarded by mu
	held    map[string]int // sessions on a table, -1 an exclusive one; guarded by mu
}

func newBoard(works []*work) *board {
	b := &board{waiting: slices.Clone(works), held: map[string]int{}}
	b.freed.L = &b.mu
	return b
}

// take waits for a work that can begin; there must be one left.
func (b *board) take() *work {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		i := slices.IndexFunc(b.waiting, b.free)
		if i < 0 {
			b.freed.Wait()
			continue
		}
		w := b.waiting[i]
		b.waiting = slices.Delete(b.waiting, i, i+1)
		for _, t := range w.tables {
			if b.held[t]++; w.exclusive {
				b.held[t] = -1
			}
		}
		return w
	}
}

func (b *board) free(w *work) bool {
	return !slices.ContainsFunc(w.tables, func(t string) bool { return b.held[t] != 0 && (w.exclusive || b.held[t] < 0) })
}

func (b *board) release(w *work) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range w.tables {
		if b.held[t]--; w.exclusive {
			b.held[t] = 0
		}
	}
	b.freed.Broadcast()
}
