package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"strongroom/source"
	"strongroom/source/rowhash"
)

// A Tally counts the rows of a table's stream while it passes by. It is not the
// code that loads them, and has another way to find where they begin and end.
type Tally struct {
	// Target is what the COPY statement names, once it has passed: a table and
	// its columns.
	Target string

	head   []byte // until the COPY statement ends, then nil
	begun  bool
	quotes bool // head ends in a quoted name
	held   []byte
	sum    rowhash.Sum
	err    error
}

// Write takes the next piece. It does not fail: what is wrong End says.
func (t *Tally) Write(p []byte) (int, error) {
	n := len(p)
	if !t.begun && t.err == nil {
		p = t.begin(p)
	}
	if t.err != nil || len(p) == 0 {
		return n, nil
	}
	// The last bytes may be the mark of the end, which is no row.
	const keep = len(copyEnd)
	if len(p) >= keep {
		t.sum.Write(t.held)
		t.sum.Write(p[:len(p)-keep])
		t.held = append(t.held[:0], p[len(p)-keep:]...)
		return n, nil
	}
	t.held = append(t.held, p...)
	if over := len(t.held) - keep; over > 0 {
		t.sum.Write(t.held[:over])
		t.held = append(t.held[:0], t.held[over:]...)
	}
	return n, nil
}

// begin looks for the end of the statement and returns what follows it.
func (t *Tally) begin(p []byte) []byte {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.head, p = append(t.head, p...), nil
			break
		}
		t.head, p = append(t.head, p[:i+1]...), p[i+1:]
		start := bytes.LastIndexByte(t.head[:len(t.head)-1], '\n') + 1
		line := t.head[start:]
		if !t.quotes && bytes.HasPrefix(line, []byte("--")) {
			continue
		}
		t.quotes = t.quotes != (bytes.Count(line, []byte{'"'})%2 == 1)
		if !t.quotes && bytes.HasSuffix(line, []byte(" FROM stdin;\n")) {
			t.begun = true
			copyAt := bytes.Index(t.head, []byte("\nCOPY ")) + len("\nCOPY ")
			t.Target = string(t.head[copyAt : len(t.head)-len(" FROM stdin;\n")])
			t.head = nil
			return p
		}
	}
	if len(t.head) > 1<<20 {
		t.err = errors.New("no COPY statement in its first MiB")
	}
	return nil
}

// End returns the count, or why what passed by is no whole table.
func (t *Tally) End() (source.Facts, error) {
	switch {
	case t.err != nil:
		return source.Facts{}, t.err
	case !t.begun:
		return source.Facts{}, errors.New("it has no COPY statement")
	case string(t.held) != copyEnd || t.sum.InRow():
		return source.Facts{}, fmt.Errorf("its rows have no end: %w", io.ErrUnexpectedEOF)
	}
	return source.Facts{Rows: t.sum.Rows(), RowHash: t.sum.Hash()}, nil
}

// An ObjectTally does for the stream of large objects what a Tally does for a
// table's.
type ObjectTally struct {
	line  []byte
	whole hash.Hash // of the object that is open
	ended bool      // the last statement was the transaction's end
	sum   rowhash.Sum
	err   error
}

// Write takes the next piece. It does not fail: what is wrong End says.
func (t *ObjectTally) Write(p []byte) (int, error) {
	n := len(p)
	for t.err == nil {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.line = append(t.line, p...)
			break
		}
		t.take(append(t.line, p[:i]...))
		t.line, p = t.line[:0], p[i+1:]
	}
	if len(t.line) > 1<<20 {
		t.err = errors.New("a line of more than 1 MiB")
	}
	return n, nil
}

func (t *ObjectTally) take(line []byte) {
	between := func(before, after string) ([]byte, bool) {
		rest, ok := bytes.CutPrefix(line, []byte(before))
		if !ok {
			return nil, false
		}
		return bytes.CutSuffix(rest, []byte(after))
	}
	if oid, ok := between("SELECT pg_catalog.lo_open('", "', 131072);"); ok {
		t.whole = sha256.New()
		t.whole.Write(append(oid, '\t'))
	} else if data, ok := between(`SELECT pg_catalog.lowrite(0, '\x`, "');"); ok && t.whole != nil {
		b := make([]byte, hex.DecodedLen(len(data)))
		_, t.err = hex.Decode(b, data)
		t.whole.Write(b)
	} else if _, ok := between("SELECT pg_catalog.lo_close(0)", ";"); ok && t.whole != nil {
		t.sum.Add(t.whole.Sum(nil))
		t.whole = nil
	}
	if len(line) > 0 {
		t.ended = string(line) == "COMMIT;"
	}
}

// End returns the count, or why what passed by is no whole stream.
func (t *ObjectTally) End() (source.Facts, error) {
	if t.err == nil && (len(t.line) > 0 || t.whole != nil || !t.ended) {
		t.err = fmt.Errorf("its objects have no end: %w", io.ErrUnexpectedEOF)
	}
	return source.Facts{Rows: t.sum.Rows(), RowHash: t.sum.Hash()}, t.err
}
