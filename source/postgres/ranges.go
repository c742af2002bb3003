package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// part is what one stream reads of a table: all of it, or a range of its
// blocks, so that several sessions can read a big table at once.
type part struct {
	table
	name string // of its stream
	// Rows in blocks from first up to but not including end; end 0 means all
	// that follow.
	first, end int64
	size       int64 // estimate
}

// partsOf cuts a table into parts, in the order of its blocks.
func (c Config) partsOf(t table, major int) []part {
	name := dataPrefix + plainName(t.Object)
	// Before 14 a range of ctids is a scan of the whole table. Where rows of
	// another access method lie is not ours to know, and of an extension's
	// table only the rows of its condition are data.
	if major < 14 || !t.Heap || t.Where != "" || t.Blocks <= c.rangeBlocks || t.Size <= c.splitOver {
		return []part{{table: t, name: name, size: t.Size}}
	}
	var parts []part
	for first := int64(0); first < t.Blocks; first += c.rangeBlocks {
		p := part{table: t, name: name, first: first, end: first + c.rangeBlocks}
		if i := len(parts); i > 0 {
			// Outside quotes # is in no name, so no table's stream has this
			// name. The first range keeps the table's: should the table only
			// now have grown so large, it is matched against what it was.
			p.name += "#" + strconv.Itoa(i)
		}
		if p.end >= t.Blocks {
			p.end = 0
		}
		p.size = t.Size / t.Blocks * (min(first+c.rangeBlocks, t.Blocks) - first)
		parts = append(parts, p)
	}
	return parts
}

func (p part) whole() bool { return p.first == 0 && p.end == 0 }

// rangeSettings leave the planner one plan, the TID Range Scan, which returns
// rows in the order in which COPY of the table does; others may not have it.
const rangeSettings = `SET LOCAL enable_tidscan = on; SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;`

// wholeSettings undo them for what the session reads next.
const wholeSettings = `RESET enable_tidscan; RESET enable_seqscan; RESET enable_indexscan; RESET enable_bitmapscan;`

// rangeQuery selects the rows of a range as COPY of its table would list them.
func rangeQuery(p part) string {
	var where []string
	if p.first > 0 {
		where = append(where, fmt.Sprintf("ctid >= '(%d,0)'", p.first))
	}
	if p.end > 0 {
		where = append(where, fmt.Sprintf("ctid < '(%d,0)'", p.end))
	}
	return "SELECT " + p.Columns + " FROM ONLY " + p.Object + " WHERE " + strings.Join(where, " AND ")
}
