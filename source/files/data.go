package files

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"strongroom/source"
)

// ErrContents: a file's bytes are not those that were saved.
var ErrContents = errors.New("contents do not match the recorded hash")

// An item is an entry and what is to be made of it.
type item struct {
	Entry
	// from is the path of another link made before, or "": then the contents
	// are to be written.
	from string
}

// A picker says of each entry whether it is wanted, and of each further link
// which path to link to.
type picker struct {
	sel *selection
	// made has, for first links that were not wanted, the link made instead.
	made map[string]string
}

func (k *picker) pick(e Entry) (it item, wanted bool) {
	it.Entry = e
	wanted = k.sel.has(e.Path)
	if !wanted || e.Link == "" {
		return it, wanted
	}
	if len(k.sel.only) == 0 || k.sel.has(e.Link) {
		it.from = e.Link
	} else if it.from = k.made[e.Link]; it.from == "" {
		k.made[e.Link] = e.Path
	}
	return it, wanted
}

// batched reads the tree and hands over the wanted entries some at a time,
// with a reader that fetches their contents in few long reads.
func batched(ctx context.Context, stored source.Stored, only []string, do func(item, bool, *contents) error) error {
	sel, err := newSelection(only)
	if err != nil {
		return fmt.Errorf("files: %w", err)
	}
	k := &picker{sel: sel, made: map[string]string{}}
	c := &contents{ctx: ctx, stored: stored, whole: len(only) == 0}
	defer c.close()
	type todo struct {
		item
		wanted bool
	}
	var batch []todo
	weight := 0
	flush := func() error {
		for _, t := range batch {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(t.item, t.wanted, c); err != nil {
				return err
			}
		}
		batch, weight = batch[:0], 0
		c.plan = c.plan[:0]
		return nil
	}
	for e, err := range ReadTree(ctx, stored) {
		if err != nil {
			return err
		}
		it, wanted := k.pick(e)
		if !wanted && e.Type != TypeDir {
			continue
		}
		if wanted && e.Type == TypeFile && it.from == "" && e.Link == "" {
			c.expect(e.Data, e.stored())
		}
		batch = append(batch, todo{it, wanted})
		if weight += 16 + len(e.Extents); weight > 64<<10 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := c.finish(); err != nil {
		return err
	}
	if err := sel.missing(); err != nil {
		return fmt.Errorf("files: %w", err)
	}
	return nil
}

// contents reads ranges of the stream "data" in ascending order.
type contents struct {
	ctx    context.Context
	stored source.Stored
	// whole reads the stream once from end to end, which also has its hash
	// checked.
	whole bool
	plan  []Extent // ranges that will be asked for soon
	r     io.ReadCloser
	pos   int64
	end   int64 // of what r yields
}

// join is the gap that is cheaper to read over than to skip.
const join = 1 << 20

// expect says that a range will be asked for.
func (c *contents) expect(off, n int64) {
	if n == 0 || c.whole {
		return
	}
	if len(c.plan) > 0 {
		last := &c.plan[len(c.plan)-1]
		if off-(last.Off+last.Len) <= join {
			last.Len = off + n - last.Off
			return
		}
	}
	c.plan = append(c.plan, Extent{off, n})
}

// at returns a reader at off for n bytes.
func (c *contents) at(off, n int64) (io.Reader, error) {
	if c.r == nil || off < c.pos || off+n > c.end {
		if err := c.open(off, n); err != nil {
			return nil, err
		}
	}
	if _, err := io.CopyN(io.Discard, c, off-c.pos); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *contents) open(off, n int64) (err error) {
	c.close()
	if c.whole {
		c.whole = false
		c.r, err = c.stored.Open(c.ctx, dataStream, 0, -1)
		c.pos = 0
		for _, s := range c.stored.Streams() {
			if s.Name == dataStream {
				c.end = s.Length
			}
		}
		return err
	}
	c.pos, c.end = off, off+n
	for _, x := range c.plan {
		if x.Off <= off && off+n <= x.Off+x.Len {
			c.end = x.Off + x.Len
		}
	}
	c.r, err = c.stored.Open(c.ctx, dataStream, off, c.end-off)
	return err
}

func (c *contents) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.pos += int64(n)
	if err == io.EOF && c.pos < c.end {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// finish reads the rest, whose end tells whether the stream was whole.
func (c *contents) finish() error {
	if c.whole { // no file had contents
		if err := c.open(0, 0); err != nil {
			return err
		}
	}
	if c.r == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, c)
	return errors.Join(err, c.close())
}

func (c *contents) close() error {
	if c.r == nil {
		return nil
	}
	err := c.r.Close()
	c.r = nil
	return err
}

// buffers are two: while one is hashed the other is filled.
type buffers [2][bufferBytes]byte

const bufferBytes = 256 << 10

// copyFile hands the data of a file to write, range by range, and compares
// the hash at the end.
func (c *contents) copyFile(e *Entry, buf *buffers, write func(p []byte, off int64) error) error {
	h := newHashing()
	err := c.copyRanges(e, buf, h, write)
	if sum := h.sum(); err == nil && sum != e.Sum {
		err = ErrContents
	}
	return err
}

func (c *contents) copyRanges(e *Entry, buf *buffers, h *hashing, write func(p []byte, off int64) error) error {
	if e.stored() == 0 {
		return nil
	}
	if e.Data < c.pos {
		// A link whose first path cannot be linked to: read it beside the
		// long read, which goes on.
		c = &contents{ctx: c.ctx, stored: c.stored}
		defer c.close()
	}
	r, err := c.at(e.Data, e.stored())
	if err != nil {
		return err
	}
	turn := 0
	for _, x := range e.ranges() {
		for done := int64(0); done < x.Len; turn++ {
			b := buf[turn%2][:min(bufferBytes, x.Len-done)]
			if _, err := io.ReadFull(r, b); err != nil {
				return err
			}
			h.write(b)
			if err := write(b, x.Off+done); err != nil {
				return err
			}
			done += int64(len(b))
		}
	}
	return nil
}

// hashing is the BLAKE3 of a file, computed beside what else is done with its
// bytes: hashing is slower than copying, SHA-256 by half again. A short file is
// hashed at once.
type hashing struct {
	*blake3.Hasher
	todo chan []byte   // unbuffered: when one is taken, the one before is done
	done chan struct{} // closed at the end
}

func newHashing() *hashing { return &hashing{Hasher: blake3.New()} }

// write hashes p, which must stay as it is until the next call.
func (h *hashing) write(p []byte) {
	if h.todo == nil && len(p) < bufferBytes {
		h.Write(p)
		return
	}
	if h.todo == nil {
		h.todo, h.done = make(chan []byte), make(chan struct{})
		go func() {
			defer close(h.done)
			for p := range h.todo {
				h.Write(p)
			}
		}()
	}
	h.todo <- p
}

// sum ends it. It must be called.
func (h *hashing) sum() (sum [32]byte) {
	if h.todo != nil {
		close(h.todo)
		<-h.done
	}
	h.Sum(sum[:0])
	return sum
}
