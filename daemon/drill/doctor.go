package drill

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"strongroom/source"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
)

// A Fault is a lie between the stores and the restore, put in on purpose: a
// drill that cannot turn red proves nothing when it is green.
type Fault string

// The faults.
const (
	FlipByte      Fault = "byte"        // one bit of one row
	ChangeRow     Fault = "row"         // a row is there twice, another not at all: as many as before
	LastBuffer    Fault = "last-buffer" // the last rows are missing
	SkipTable     Fault = "table"
	SkipPartition Fault = "partition"
	HalfRows      Fault = "half-rows" // every second one, as row security would
	ZeroHash      Fault = "zero-hash" // every row's hash counted as zero
	SwapTenant    Fault = "tenant"    // another one's snapshot under this one's name
	Truncate      Fault = "truncated" // a stream ends in the middle, and says that it ended well
	LoseRole      Fault = "role"
	EmptyAssert   Fault = "assertion" // one that holds of any copy
)

// Faults lists them all.
func Faults() []Fault {
	return []Fault{FlipByte, ChangeRow, LastBuffer, SkipTable, SkipPartition, HalfRows, ZeroHash, SwapTenant, Truncate, LoseRole, EmptyAssert}
}

// ErrFault: a snapshot has nothing that the fault could be put into.
var ErrFault = errors.New("fault does not fit")

// Swapped is a snapshot of somebody else, for SwapTenant.
type Swapped interface{ Other() source.Stored }

// doctored is a snapshot with a lie in it.
type doctored struct {
	source.Stored
	streams []source.StreamInfo
	detail  json.RawMessage
	target  string // the stream whose bytes are changed
	change  func(io.Reader) io.Reader
}

func (d *doctored) Streams() []source.StreamInfo { return d.streams }
func (d *doctored) Detail() json.RawMessage      { return d.detail }

func (d *doctored) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	rc, err := d.Stored.Open(ctx, name, off, n)
	if err != nil || name != d.target || d.change == nil {
		return rc, err
	}
	return &changed{d.change(rc), rc}, nil
}

// changed reads a stream through a change.
type changed struct {
	io.Reader
	from io.Closer
}

func (c *changed) Close() error {
	if p, ok := c.Reader.(io.Closer); ok {
		p.Close() // its writer ends
	}
	return c.from.Close()
}

// doctor puts the plan's fault in.
func (p *Plan) doctor(ctx context.Context) error {
	if p.Fault == "" {
		return nil
	}
	if !slices.Contains(Faults(), p.Fault) {
		return fmt.Errorf("%w: there is no %q", ErrFault, p.Fault)
	}
	d := &doctored{Stored: p.Stored, streams: slices.Clone(p.Stored.Streams()), detail: p.Stored.Detail()}
	switch p.Fault {
	case SwapTenant:
		other, ok := p.Stored.(Swapped)
		if !ok {
			return fmt.Errorf("%w: there is no other snapshot", ErrFault)
		}
		p.Stored = other.Other()
		return nil
	case EmptyAssert:
		p.Assertions = append(slices.Clone(p.Assertions), Assertion{Name: "holds of any copy", SQL: "SELECT 1", Expect: "1"})
		return nil
	}
	if err := d.put(ctx, p.Fault); err != nil {
		return err
	}
	p.Stored = d
	return nil
}

func (d *doctored) put(ctx context.Context, f Fault) error {
	largest := -1
	for i, s := range d.streams {
		if s.Kind == source.KindRows && s.Facts != nil && s.Facts.Rows > 1 && (largest < 0 || s.Length > d.streams[largest].Length) {
			largest = i
		}
	}
	switch f {
	case LoseRole:
		return d.loseRole()
	case ZeroHash:
		return d.zeroHashes()
	}
	if e := d.Description().Engine; largest < 0 && (e == postgres.Engine || e == mariadb.Engine) {
		return fmt.Errorf("%w: no table has more than one row", ErrFault) // a comment of the schema is no place for it
	} else if largest < 0 {
		return d.putBytes(f)
	}
	d.target = d.streams[largest].Name
	lines := lines
	if d.Description().Engine == mariadb.Engine {
		lines = inserts
	}
	rows := d.streams[largest].Facts.Rows
	switch f {
	case SkipTable:
		d.drop(d.streams[largest].Facts.Object)
	case SkipPartition:
		return d.skipPartition(ctx)
	case FlipByte:
		at, err := d.find(ctx, lines, flipRow)
		if err != nil {
			return err
		}
		d.change = lines(func(n int64, line []byte) []byte {
			if n == at {
				flipRow(line)
			}
			return line
		})
	case ChangeRow:
		var before []byte
		at, err := d.find(ctx, lines, func(line []byte) bool {
			other := before != nil && !bytes.Equal(line, before)
			before = bytes.Clone(line)
			return other
		})
		if err != nil {
			return err
		}
		d.change = lines(func(n int64, line []byte) []byte {
			if n == at {
				return before
			}
			before = bytes.Clone(line)
			return line
		})
	case LastBuffer:
		d.change = lines(func(n int64, line []byte) []byte {
			if n >= rows*9/10 {
				return nil
			}
			return line
		})
	case HalfRows:
		d.change = lines(func(n int64, line []byte) []byte {
			if n%2 == 1 {
				return nil
			}
			return line
		})
	case Truncate:
		half := d.streams[largest].Length / 2
		d.change = func(r io.Reader) io.Reader { return io.LimitReader(r, half) }
	}
	return nil
}

// find looks for the first row of the target that a fault can be put into: a row
// that is like the one before, or has no character to change, would be none.
func (d *doctored) find(ctx context.Context, lines func(func(int64, []byte) []byte) func(io.Reader) io.Reader, fits func([]byte) bool) (int64, error) {
	rc, err := d.Stored.Open(ctx, d.target, 0, -1)
	if err != nil {
		return 0, err
	}
	var found atomic.Int64
	found.Store(-1)
	r := changed{lines(func(n int64, line []byte) []byte {
		if found.Load() < 0 && fits(line) {
			found.Store(n)
		}
		return line
	})(rc), rc}
	buf := make([]byte, 64<<10)
	for err == nil && found.Load() < 0 {
		_, err = r.Read(buf)
	}
	if err = errors.Join(noEnd(err), r.Close()); err != nil {
		return 0, err
	}
	if found.Load() < 0 {
		return 0, fmt.Errorf("%w: no row of the largest table can be changed", ErrFault)
	}
	return found.Load(), nil
}

func noEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// flipRow changes one bit of a row, if it can: of a digit, else of a letter that
// is one still, or of any letter or byte that is not ASCII.
func flipRow(line []byte) bool {
	i := -1
	for _, of := range []string{"0123456789", "bcdefghijklmnopqrstuvwxyBCDEFGHIJKLMNOPQRSTUVWXY", "azAZ"} {
		if i < 0 {
			i = bytes.LastIndexAny(line, of)
		}
	}
	for n := len(line) - 1; n >= 0 && i < 0; n-- {
		if line[n] >= 0x80 {
			i = n
		}
	}
	if i < 0 {
		return false
	}
	line[i] ^= 1
	return true
}

// zeroHashes needs rows: the hash of none is zero.
func (d *doctored) zeroHashes() error {
	put := false
	for i, s := range d.streams {
		if s.Facts != nil && s.Facts.RowHash != "" {
			f := *s.Facts
			put = put || f.Rows > 0
			f.RowHash = strings.Repeat("0", len(f.RowHash))
			d.streams[i].Facts = &f
		}
	}
	if !put {
		return fmt.Errorf("%w: no rows were hashed", ErrFault)
	}
	return nil
}

// putBytes puts a fault into the largest stream of a snapshot without rows.
func (d *doctored) putBytes(f Fault) error {
	if len(d.streams) == 0 {
		return fmt.Errorf("%w: there is no stream", ErrFault)
	}
	s := slices.MaxFunc(d.streams, func(a, b source.StreamInfo) int { return cmp.Compare(a.Length, b.Length) })
	d.target = s.Name
	var keep int64
	switch f {
	case FlipByte:
		d.change = func(r io.Reader) io.Reader { return &flipped{r: r, at: s.Length / 2} }
		return nil
	case LastBuffer:
		keep = s.Length * 9 / 10
	case Truncate:
		keep = s.Length / 2
	default:
		return fmt.Errorf("%w: no stream has rows", ErrFault)
	}
	d.change = func(r io.Reader) io.Reader { return io.LimitReader(r, keep) }
	return nil
}

// flipped changes one bit of the byte at a place.
type flipped struct {
	r  io.Reader
	at int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

// drop leaves an object's streams out, and what was counted of them.
func (d *doctored) drop(object string) {
	d.streams = slices.DeleteFunc(d.streams, func(s source.StreamInfo) bool { return s.Facts != nil && s.Facts.Object == object })
}

// skipPartition drops a table that the schema attaches to another.
func (d *doctored) skipPartition(ctx context.Context) error {
	rc, err := d.Stored.Open(ctx, "pre-data.sql", 0, -1)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFault, err)
	}
	defer rc.Close()
	text, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	for _, s := range d.streams {
		if s.Facts != nil && s.Facts.Rows > 0 && bytes.Contains(text, []byte(" ATTACH PARTITION "+s.Facts.Object+" ")) {
			d.drop(s.Facts.Object)
			return nil
		}
	}
	return fmt.Errorf("%w: there is no partition", ErrFault)
}

// loseRole takes the last role out of the record, and out of the text of the
// plain dump: the one that nobody else is a member of.
func (d *doctored) loseRole() error {
	var detail map[string]json.RawMessage
	if err := json.Unmarshal(d.detail, &detail); err != nil {
		return fmt.Errorf("%w: %w", ErrFault, err)
	}
	if d.Description().Engine == mariadb.Engine {
		return fmt.Errorf("%w: users are not in a snapshot of MariaDB", ErrFault)
	}
	var roles []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(detail["roles"], &roles); err != nil || len(roles) == 0 {
		return fmt.Errorf("%w: there is no role", ErrFault)
	}
	detail["roles"] = json.RawMessage("[]")
	var err error
	d.detail, err = json.Marshal(detail)
	return err
}

// lines changes the rows of a table's stream, which f is given by number with
// their line feed; what stands before and after them stays.
func lines(f func(n int64, line []byte) []byte) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader {
		pr, pw := io.Pipe()
		go func() {
			br := bufio.NewReaderSize(r, 1<<20)
			w := bufio.NewWriterSize(pw, 256<<10)
			n, inside := int64(0), false
			for {
				line, err := br.ReadBytes('\n')
				switch {
				case !inside:
					inside = bytes.HasSuffix(line, []byte(" FROM stdin;\n"))
				case string(line) == "\\.\n":
					inside = false
				default:
					line, n = f(n, line), n+1
				}
				if _, werr := w.Write(line); werr != nil {
					return // nobody reads any more
				}
				if err != nil {
					w.Flush()
					pw.CloseWithError(err)
					return
				}
			}
		}()
		return pr
	}
}

// inserts does what lines does for a stream of INSERT statements, each row of
// which ends in "," or ";": statements stay whole where rows are left out.
func inserts(f func(n int64, line []byte) []byte) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader {
		pr, pw := io.Pipe()
		go func() {
			w := bufio.NewWriterSize(pw, 256<<10)
			err := changeInserts(bufio.NewReaderSize(r, 1<<20), w, f)
			if errors.Is(err, io.EOF) {
				err = w.Flush()
			}
			pw.CloseWithError(err) // nil: the end
		}()
		return pr
	}
}

func changeInserts(r *bufio.Reader, w *bufio.Writer, f func(n int64, line []byte) []byte) error {
	var head []byte // of a statement without a row so far
	n, inside, begun := int64(0), false, false
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return errors.Join(err, write(w, line)) // the end, of a stream that ends so
		}
		if !inside {
			head = append(head, line...)
			// In a name there may be line feeds.
			if bytes.HasSuffix(head, []byte(") VALUES\n")) && bytes.Count(head, []byte{'`'})%2 == 0 {
				inside, begun = true, false
			} else if bytes.HasPrefix(head, []byte("COMMIT;")) || bytes.HasPrefix(head, []byte("--")) || len(head) == 1 {
				err = write(w, head)
				head = nil
			}
			if err != nil {
				return err
			}
			continue
		}
		last := bytes.HasSuffix(line, []byte(");\n"))
		row := f(n, line[:max(len(line)-2, 0)])
		n++
		if row != nil {
			before := []byte(",\n")
			if !begun {
				before = head
			}
			if err := errors.Join(write(w, before), write(w, row)); err != nil {
				return err
			}
			begun = true
		}
		if last {
			if begun {
				err = write(w, []byte(";\n"))
			}
			inside, head = false, nil
		}
		if err != nil {
			return err
		}
	}
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}
