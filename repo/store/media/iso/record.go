package iso

import (
	"encoding/binary"
	"strings"
	"time"
	"unicode/utf16"
)

// both appends a number in both byte orders (ECMA-119, 7.3.3).
func both(b []byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, n), n)
}

// both16 is the same of 16 bits (7.2.3).
func both16(b []byte, n uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, n), n)
}

// What a directory record stands for.
const (
	self = iota
	parent
	child
)

// identifier is how a record names its file: the directory itself and its
// parent by one byte.
func identifier(n *node, what, t int) []byte {
	switch {
	case what == self:
		return []byte{0}
	case what == parent:
		return []byte{1}
	case t == joliet:
		return ucs2(n.id[t])
	case n.file != nil:
		return []byte(n.id[t] + ";1")
	}
	return []byte(n.id[t])
}

func ucs2(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.BigEndian.AppendUint16(b, u)
	}
	return b
}

// record appends the directory record of n (ECMA-119, 9.1), with what use says
// as its system use field.
func record(b []byte, n *node, what, t int, when time.Time, use []byte) []byte {
	at := len(b)
	id := identifier(n, what, t)
	b = append(b, 0, 0)
	b = both(b, n.extent[t])
	b = both(b, n.length[t])
	b = append(b, byte(when.Year()-1900), byte(when.Month()), byte(when.Day()), byte(when.Hour()), byte(when.Minute()), byte(when.Second()), 0)
	flags := byte(0)
	if n.file == nil {
		flags = 2
	}
	b = append(b, flags, 0, 0)
	b = both16(b, 1)
	b = append(b, byte(len(id)))
	b = append(b, id...)
	if len(id)%2 == 0 {
		b = append(b, 0)
	}
	b = append(b, use...)
	if (len(b)-at)%2 == 1 {
		b = append(b, 0)
	}
	b[at] = byte(len(b) - at)
	return b
}

// maxRecord is the longest record: its length is one byte and even.
const maxRecord = 254

// systemUse returns the entries of SUSP and Rock Ridge of a record, in two
// parts: what goes into the record, which may end early for a continuation, and
// what does not fit there.
func systemUse(n *node, what int, root bool) (use, more []byte) {
	const continuation = 28
	var entries [][]byte
	if root && what == self {
		entries = append(entries, []byte{'S', 'P', 7, 1, 0xbe, 0xef, 0})
	}
	entries = append(entries, attributes(n))
	if what == child {
		entries = append(entries, append([]byte{'N', 'M', byte(5 + len(n.name)), 1, 0}, n.name...))
	}
	if root && what == self {
		entries = append(entries, extension())
	}
	id := len(identifier(n, what, primary))
	room := maxRecord - 33 - id - (id+1)%2
	total := 0
	for _, e := range entries {
		total += len(e)
	}
	if total > room {
		room -= continuation
	}
	for i, e := range entries {
		if len(use)+len(e) > room {
			for _, e := range entries[i:] {
				more = append(more, e...)
			}
			break
		}
		use = append(use, e...)
	}
	return use, more
}

// attributes is PX (RRIP 1.12, 4.1.1): mode, links, owner, group, number.
func attributes(n *node) []byte {
	mode, links := uint32(0o100444), uint32(1)
	switch {
	case n.file == nil:
		mode, links = 0o040555, 2
		for _, c := range n.child {
			if c.file == nil {
				links++
			}
		}
	case n.file.Executable:
		mode = 0o100555
	}
	b := []byte{'P', 'X', 44, 1}
	for _, v := range []uint32{mode, links, 0, 0, n.serial} {
		b = both(b, v)
	}
	return b
}

// extension is ER (SUSP 1.12, 5.5) with the texts of RRIP 1.12, 4.3.
func extension() []byte {
	const (
		id          = "IEEE_P1282"
		description = "THE IEEE P1282 PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS."
		source      = "PLEASE CONTACT THE IEEE STANDARDS DEPARTMENT, PISCATAWAY, NJ, USA FOR THE P1282 SPECIFICATION."
	)
	b := []byte{'E', 'R', byte(8 + len(id) + len(description) + len(source)), 1, byte(len(id)), byte(len(description)), byte(len(source)), 1}
	return append(b, id+description+source...)
}

// entry is one record of a directory, and where it points to.
type entry struct {
	n    *node
	what int
}

func (n *node) entries(t int) []entry {
	out := []entry{{n, self}, {n.parent, parent}}
	for _, c := range n.sorted[t] {
		out = append(out, entry{c, child})
	}
	return out
}

// measure returns the length of a directory in whole sectors, and makes room
// for its continuations.
func (i *Image) measure(d *node, t int) uint32 {
	return uint32(len(i.directory(d, t, func(more []byte) (block, offset uint32) {
		at := len(i.more)
		if at/Sector != (at+len(more)-1)/Sector { // none crosses a sector
			at = (at + Sector - 1) / Sector * Sector
		}
		i.more = append(i.more, make([]byte, at-len(i.more)+len(more))...)
		return 0, 0
	})))
}

// directory returns the records of a directory; place says where a continuation
// goes.
func (i *Image) directory(d *node, t int, place func(more []byte) (block, offset uint32)) []byte {
	var b []byte
	for _, e := range d.entries(t) {
		var use []byte
		if t == primary {
			var more []byte
			if use, more = systemUse(e.n, e.what, d.parent == d); more != nil {
				block, offset := place(more)
				use = append(use, 'C', 'E', 28, 1)
				use = both(both(both(use, block), offset), uint32(len(more)))
			}
		}
		r := record(nil, e.n, e.what, t, i.c.Time, use)
		if len(b)/Sector != (len(b)+len(r)-1)/Sector { // none crosses a sector
			b = append(b, make([]byte, Sector-len(b)%Sector)...)
		}
		b = append(b, r...)
	}
	return append(b, make([]byte, -len(b)&(Sector-1))...)
}

// pathEntry appends the entry of a directory to a path table (ECMA-119, 9.4).
// Without an order of bytes it has the same length.
func pathEntry(b []byte, d *node, t int, order binary.AppendByteOrder) []byte {
	id := identifier(d, child, t)
	if d.parent == d {
		id = []byte{0}
	}
	b = append(b, byte(len(id)), 0)
	if order == nil {
		order = binary.LittleEndian
	}
	b = order.AppendUint32(b, d.extent[t])
	b = order.AppendUint16(b, d.parent.number[t])
	b = append(b, id...)
	if len(id)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

// text fills a field of characters of a volume descriptor with spaces.
func text(s string, size, t int) []byte {
	if t == primary {
		return []byte(s + strings.Repeat(" ", size-len(s)))
	}
	b := ucs2(s)
	for len(b)+1 < size {
		b = append(b, 0, ' ')
	}
	return append(b, make([]byte, size-len(b))...)
}
