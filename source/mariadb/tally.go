package mariadb

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"strongroom/source"
	"strongroom/source/rowhash"
)

// A Tally counts the rows of a table's stream while it passes by. It is not the
// code that loads them, and has another way to find where they begin and end: it
// goes through heads byte by byte, and knows which line may follow which.
type Tally struct {
	// Target is what the INSERT statements name, once the first has passed: a
	// table and its columns.
	Target string

	line []byte // the part of a line, or of a head, that has come
	part part
	name bool // line, a head's, ends within a name in backticks
	sum  rowhash.Sum
	err  error
}

// part is where in a stream a Tally is.
type part int

const (
	partComment part = iota // the four lines before the first statement
	partBetween             // a statement or the end is due
	partRows
	partLast // the empty line behind COMMIT
	partEnd
)

// Write takes the next piece. It does not fail: what is wrong End says.
func (t *Tally) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && t.err == nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.grow(p)
			break
		}
		if len(t.line) == 0 && t.part == partRows {
			t.row(p[:i]) // nothing to put together
		} else {
			t.grow(p[:i+1])
			t.take()
		}
		p = p[i+1:]
	}
	return n, nil
}

func (t *Tally) grow(p []byte) {
	if t.part == partBetween {
		t.name = t.name != (bytes.Count(p, []byte{'`'})%2 == 1)
	}
	if t.line = append(t.line, p...); t.part != partRows && len(t.line) > 1<<20 || len(t.line) > maxLine {
		t.err = errors.New("a line without an end")
	}
}

// take takes a line, which ends in a line feed.
func (t *Tally) take() {
	if t.part == partBetween && t.name {
		return // the line feed is in a name
	}
	line := t.line
	t.line = t.line[:0]
	switch t.part {
	case partRows:
		t.row(line[:len(line)-1])
	case partComment:
		if len(line) > 1 && !bytes.HasPrefix(line, []byte("--")) {
			t.line = line // a statement already
			t.name = bytes.Count(line, []byte{'`'})%2 == 1
			t.part = partBetween
			t.take()
		}
	case partBetween:
		t.head(line)
	case partLast:
		t.part = partEnd
		if len(line) > 1 {
			t.err = errors.New("more behind its end")
		}
	case partEnd:
		t.err = errors.New("more behind its end")
	}
}

func (t *Tally) head(line []byte) {
	if string(line) == "COMMIT;\n" {
		t.part = partLast
		return
	}
	into, ok := bytes.CutPrefix(line, []byte("INSERT "))
	into = bytes.TrimPrefix(into, []byte("IGNORE "))
	into, ok1 := bytes.CutPrefix(into, []byte("INTO "))
	into, ok2 := bytes.CutSuffix(into, []byte(" VALUES\n"))
	switch {
	case !ok || !ok1 || !ok2:
		t.err = errors.New("a statement that is no INSERT")
	case t.Target != "" && t.Target != string(into):
		t.err = errors.New("rows of two tables")
	default:
		t.Target, t.part = string(into), partRows
	}
}

// row takes a row without its line feed.
func (t *Tally) row(line []byte) {
	n := len(line) - 1
	if n < 2 || line[0] != '(' || line[n-1] != ')' || line[n] != ',' && line[n] != ';' {
		t.err = errors.New("a line that is no row")
		return
	}
	d := sha256.Sum256(line[:n])
	t.sum.Add(d[:])
	if line[n] == ';' {
		t.part = partBetween
	}
}

// End returns the count, or why what passed by is no whole table.
func (t *Tally) End() (source.Facts, error) {
	switch {
	case t.err != nil:
		return source.Facts{}, t.err
	case t.part != partEnd || len(t.line) > 0:
		return source.Facts{}, fmt.Errorf("its rows have no end: %w", io.ErrUnexpectedEOF)
	}
	return source.Facts{Rows: t.sum.Rows(), RowHash: t.sum.Hash()}, nil
}
