package iso

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// The first sectors of every image: 16 of zeros, two volume descriptors and
// their terminator, and behind these the path tables.
const (
	firstDescriptor = 16
	firstTable      = firstDescriptor + 3
)

// WriteTo writes the image, once through. Files are opened one after the other.
func (i *Image) WriteTo(ctx context.Context, w io.Writer) error {
	o := &output{ctx: ctx, w: w}
	o.fill(firstDescriptor * Sector)
	o.write(i.descriptor(primary))
	o.write(i.descriptor(joliet))
	o.write(append([]byte("\xffCD001\x01"), make([]byte, Sector-7)...))
	for t := range i.trees {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			var b []byte
			for _, d := range i.trees[t].dirs {
				b = pathEntry(b, d, t, order)
			}
			o.write(b)
			o.align()
		}
	}
	at := 0
	place := func(more []byte) (block, offset uint32) {
		if at/Sector != (at+len(more)-1)/Sector {
			at = (at + Sector - 1) / Sector * Sector
		}
		copy(i.more[at:], more)
		block, offset = i.moreAt+uint32(at/Sector), uint32(at%Sector)
		at += len(more)
		return block, offset
	}
	for t := range i.trees {
		for _, d := range i.trees[t].dirs {
			o.expect(d.extent[t])
			o.write(i.directory(d, t, place))
		}
		if t == primary {
			o.write(i.more)
			o.align()
		}
	}
	for _, f := range i.files {
		o.expect(f.extent[primary])
		o.file(f.file)
	}
	o.fill(tail * Sector)
	if o.err == nil && o.n != i.Size() {
		o.err = fmt.Errorf("%d bytes, planned were %d", o.n, i.Size())
	}
	if o.err != nil {
		return fmt.Errorf("write image: %w", o.err)
	}
	return nil
}

// output is where the image goes, until the first error.
type output struct {
	ctx context.Context
	w   io.Writer
	n   int64
	err error
}

func (o *output) write(b []byte) {
	if o.err == nil {
		o.err = o.ctx.Err()
	}
	if o.err == nil {
		var n int
		n, o.err = o.w.Write(b)
		o.n += int64(n)
	}
}

func (o *output) fill(n int64) {
	for zeros := make([]byte, Sector); n > 0; n -= Sector {
		o.write(zeros[:min(n, Sector)])
	}
}

func (o *output) align() { o.fill(-o.n & (Sector - 1)) }

// expect holds what was planned against what was written.
func (o *output) expect(sector uint32) {
	if o.err == nil && o.n != int64(sector)*Sector {
		o.err = fmt.Errorf("at byte %d, planned was sector %d", o.n, sector)
	}
}

// file writes one that has to have the size that was planned.
func (o *output) file(f *File) {
	if o.err != nil {
		return
	}
	r, err := f.Open()
	if err != nil {
		o.err = fmt.Errorf("open %s: %w", f.Path, err)
		return
	}
	buf := make([]byte, 256<<10)
	left := f.Size
	for left > 0 && o.err == nil {
		n, err := io.ReadFull(r, buf[:min(left, int64(len(buf)))])
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("it ends %d bytes early", left-int64(n))
			}
			o.err = fmt.Errorf("read %s: %w", f.Path, err)
		}
		o.write(buf[:n])
		left -= int64(n)
	}
	if o.err == nil {
		switch n, err := io.ReadFull(r, buf[:1]); {
		case n > 0:
			o.err = fmt.Errorf("read %s: it has more than the %d bytes that were planned", f.Path, f.Size)
		case !errors.Is(err, io.EOF):
			o.err = fmt.Errorf("read %s: %w", f.Path, err)
		}
	}
	if err := r.Close(); err != nil && o.err == nil {
		o.err = fmt.Errorf("close %s: %w", f.Path, err)
	}
	o.align()
}

// descriptor is a volume descriptor (ECMA-119, 8.4 and 8.5).
func (i *Image) descriptor(t int) []byte {
	tree := i.trees[t]
	kind := byte(1)
	escape := make([]byte, 32)
	if t == joliet {
		kind = 2
		copy(escape, "%/E") // UCS-2, level 3
	}
	b := append([]byte{kind}, "CD001\x01\x00"...)
	b = append(b, text("LINUX", 32, t)...)
	b = append(b, text(i.c.Volume, 32, t)...)
	b = append(b, make([]byte, 8)...)
	b = both(b, i.sectors)
	b = append(b, escape...)
	b = both16(b, 1)
	b = both16(b, 1)
	b = both16(b, Sector)
	b = both(b, uint32(tree.table))
	b = binary.LittleEndian.AppendUint32(b, tree.little)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, tree.big)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = record(b, tree.dirs[0], self, t, i.c.Time, nil)
	b = append(b, text("", 128, t)...) // volume set
	b = append(b, text("", 128, t)...) // publisher
	b = append(b, text("", 128, t)...) // who prepared it
	b = append(b, text("STRONGROOM", 128, t)...)
	for range 3 { // files with copyright, abstract, bibliography
		b = append(b, text("", 37, t)...)
	}
	b = append(append(b, stamp(i.c.Time)...), stamp(i.c.Time)...) // made, changed
	b = append(append(b, stamp(time.Time{})...), stamp(time.Time{})...)
	b = append(b, 1, 0)
	return append(b, make([]byte, Sector-len(b))...)
}

// stamp is a time in 17 bytes (ECMA-119, 8.4.26.1); the zero one is not given.
func stamp(t time.Time) []byte {
	if t.IsZero() {
		return append([]byte(strings.Repeat("0", 16)), 0)
	}
	return append([]byte(t.Format("20060102150405")+"00"), 0)
}
