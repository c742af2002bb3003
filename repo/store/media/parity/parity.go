// Package parity lays parity and checksums over a sequence of cells, so that bad
// sectors of a medium are found and made again; it does no I/O.
//
// Objects, each filled up with zeros to whole cells of 4 KiB (the sector of
// today's disks), follow on each other and are cut into stripes of 32 MiB. A
// stripe is 32 columns of 1 MiB, and a row of cells, one from each column, is a
// codeword with one cell from each of 3 columns of parity. A row is restored
// when up to 3 of its 35 cells are bad, and a run of adjacent bad sectors takes
// one cell of a row for each MiB that it is long: runs of up to 3 MiB are
// survived, or of 1 MiB when they go through three objects that lie in
// different places of the sequence.
//
// The code cannot tell which cells are bad: the CRC32C of each does. The table
// of them stands before the parity and again behind it, in pages that each say
// what they are.
package parity

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"strongroom/erasure"
)

const (
	// Cell is the unit of damage in bytes.
	Cell = 4 << 10
	// A stripe has Data columns of up to Rows cells, and Spare of parity.
	Data  = 32
	Spare = 3
	Rows  = 256
	// Stripe is how many cells of data a whole stripe has.
	Stripe = Data * Rows
	// PerPage is how many checksums a page of the table has.
	PerPage = (Cell - pageHead - 4) / 4

	pageMagic = "SRPARIT1"
	pageHead  = 40
)

// Stripes is how many stripes a sequence of cells has.
func Stripes(cells int64) int64 { return (cells + Stripe - 1) / Stripe }

// A Shape is how large a stripe is.
type Shape struct {
	Cells int // of data
	Rows  int // of parity: as many as the first column of data has
}

// ShapeOf is that of stripe n of a sequence of cells.
func ShapeOf(cells, n int64) Shape { return shapeOf(int(min(cells-n*Stripe, Stripe))) }

func shapeOf(cells int) Shape { return Shape{cells, min(cells, Rows)} }

// Sums is how many checksums the table has: of the cells of data, then of those
// of parity, column by column.
func (h Shape) Sums() int { return h.Cells + Spare*h.Rows }

// Pages is how many pages a table has.
func (h Shape) Pages() int { return (h.Sums() + PerPage - 1) / PerPage }

// InPage is how many checksums page n has.
func (h Shape) InPage(n int) int { return min(PerPage, h.Sums()-n*PerPage) }

// Size is the length of the parity object in bytes: table, parity, table.
func (h Shape) Size() int64 { return int64(2*h.Pages()+Spare*h.Rows) * Cell }

// Tables returns where the two copies of page n begin in the object.
func (h Shape) Tables(n int) [2]int64 {
	return [2]int64{int64(n) * Cell, int64(h.Pages()+Spare*h.Rows+n) * Cell}
}

// At is where a cell of parity begins in the object.
func (h Shape) At(col, row int) int64 { return int64(h.Pages()+col*h.Rows+row) * Cell }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the checksum of a cell.
func Sum(cell []byte) uint32 { return crc32.Checksum(cell, castagnoli) }

// A Name says which stripe a page belongs to.
type Name struct {
	Medium  [16]byte
	Session uint32
	Stripe  uint32
}

// appendPage appends a page of a table:
//
//	"SRPARIT1" ‖ medium (16) ‖ session u32 ‖ stripe u32 ‖ page u32 ‖ 4 zero bytes ‖ checksums ‖ zeros ‖ CRC32C of all before
func (n Name) appendPage(b []byte, page int, sums []uint32) []byte {
	at := len(b)
	be := binary.BigEndian
	b = append(append(b, pageMagic...), n.Medium[:]...)
	b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, n.Session), n.Stripe), uint32(page))
	b = append(b, 0, 0, 0, 0)
	for _, s := range sums {
		b = be.AppendUint32(b, s)
	}
	b = append(b, make([]byte, Cell-4-(len(b)-at))...)
	return be.AppendUint32(b, Sum(b[at:]))
}

// ParsePage returns the count checksums of a page, if it is whole and the one
// that is expected.
func (n Name) ParsePage(b []byte, page, count int) ([]uint32, bool) {
	if len(b) != Cell || count < 0 || count > PerPage {
		return nil, false
	}
	sums := make([]uint32, count)
	for i := range sums {
		sums[i] = binary.BigEndian.Uint32(b[pageHead+4*i:])
	}
	return sums, bytes.Equal(n.appendPage(nil, page, sums), b)
}

// A Collector takes the cells of a stripe until there are enough. The zero value
// is empty.
type Collector struct {
	b []byte // whole cells
}

// Add takes what fits of an object's bytes, which begin at a cell's border, and
// returns the rest.
func (c *Collector) Add(b []byte) (rest []byte) {
	if c.b == nil {
		c.b = make([]byte, 0, Stripe*Cell)
	}
	n := min(len(b), cap(c.b)-len(c.b))
	c.b = append(c.b, b[:n]...)
	if pad := -len(c.b) & (Cell - 1); pad > 0 {
		c.b = append(c.b, make([]byte, pad)...)
	}
	return b[n:]
}

// Full reports whether the stripe takes no more.
func (c *Collector) Full() bool { return len(c.b) == Stripe*Cell }

// Empty reports whether the stripe has nothing.
func (c *Collector) Empty() bool { return len(c.b) == 0 }

// Object returns the parity object of the stripe and empties it.
func (c *Collector) Object(n Name) ([]byte, error) {
	h := shapeOf(len(c.b) / Cell)
	columns := map[int][]byte{}
	for col := range Data {
		from := min(col*Rows*Cell, len(c.b))
		b := c.b[from:min(from+h.Rows*Cell, len(c.b))]
		if short := h.Rows*Cell - len(b); short > 0 { // behind the end all is zero
			b = append(bytes.Clone(b), make([]byte, short)...)
		}
		columns[col] = b
	}
	sums := appendSums(make([]uint32, 0, h.Sums()), c.b)
	spare := make([]byte, 0, Spare*h.Rows*Cell)
	for col := range Spare {
		b, err := erasure.Reconstruct(Data, columns, Data+col)
		if err != nil {
			return nil, err
		}
		sums, spare = appendSums(sums, b), append(spare, b...)
	}
	var table []byte
	for page := range h.Pages() {
		table = n.appendPage(table, page, sums[page*PerPage:][:h.InPage(page)])
	}
	c.b = c.b[:0]
	return append(append(table, spare...), table...), nil
}

func appendSums(sums []uint32, b []byte) []uint32 {
	for ; len(b) > 0; b = b[Cell:] {
		sums = append(sums, Sum(b[:Cell]))
	}
	return sums
}

// Restore makes the cell of a column again from those of at least Data others of
// its row. Like all of the code it cannot tell whether they are right.
func Restore(row map[int][]byte, col int) ([]byte, error) {
	return erasure.Reconstruct(Data, row, col)
}
