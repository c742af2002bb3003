package drill

import (
	"fmt"
	"strconv"

	"strongroom/custody/receipt"
	"strongroom/source"
)

// threeColumns puts together what the source recorded, what its streams had and
// what the copy has, of all that any of them knows. It returns what the streams
// say of tables' columns, too.
func (r *reading) threeColumns(listed []string, recorded, copied map[string]source.Facts) (objects []receipt.Object, columns map[string]string) {
	rows := map[string]*receipt.Object{}
	at := func(name string) *receipt.Object {
		if rows[name] == nil {
			rows[name] = &receipt.Object{Name: name}
		}
		return rows[name]
	}
	for _, name := range listed {
		at(name)
	}
	for name, f := range recorded {
		at(name).Source = counted(f)
	}
	streamed, columns := r.streamed()
	for name, f := range streamed {
		at(name).Stream = counted(f)
	}
	for name, f := range copied {
		at(name).Copy = counted(f)
	}
	for _, o := range rows {
		objects = append(objects, *o)
	}
	return objects, columns
}

// streamed are the rows of the streams that were whole; a table may have come in
// several.
func (r *reading) streamed() (sums map[string]source.Facts, columns map[string]string) {
	sums, columns = map[string]source.Facts{}, map[string]string{}
	for _, s := range r.Streams() {
		p := r.seen(s.Name)
		if s.Facts == nil || p == nil || p.shape != nil {
			continue
		}
		f := p.facts
		if before, ok := sums[s.Facts.Object]; ok {
			f = before.Plus(f)
		}
		sums[s.Facts.Object] = f
		if p.target != "" {
			columns[s.Facts.Object] = p.target
		}
	}
	return sums, columns
}

func counted(f source.Facts) receipt.Count {
	return receipt.Count{Known: true, Rows: f.Rows, Hash: f.RowHash}
}

// sameColumns compares the columns that streams name with those of the copy.
func sameColumns(columns, copied map[string]string) (out []receipt.Check) {
	same := 0
	for name, target := range columns {
		if copied[name] == target {
			same++
			continue
		}
		out = append(out, equal("columns of "+name, target, copied[name]))
	}
	return append(out, equal("tables with the columns they had", strconv.Itoa(len(columns)), strconv.Itoa(same)))
}

// listing is a record of what the catalogue listed.
type listing interface {
	// Tables are those that it listed, and whether the list was short enough to be
	// recorded.
	Tables() ([]string, bool)
}

// structure compares what was recorded, or why it could not be read, with the
// streams.
func (r *run) structure(recorded listing, facts map[string]source.Facts, err error) []receipt.Check {
	if err != nil {
		return []receipt.Check{{Name: "what was recorded", Expected: "can be read", Actual: err.Error()}}
	}
	tables, known := recorded.Tables()
	if !known {
		r.out.Notes = append(r.out.Notes, "the catalogue's list was too long to be recorded: its hash is compared with that of the copy")
		return nil
	}
	return haveStreams(tables, facts)
}

// haveStreams compares the catalogue's list of tables with the streams.
func haveStreams(tables []string, facts map[string]source.Facts) (out []receipt.Check) {
	have := 0
	for _, t := range tables {
		if _, ok := facts[t]; ok {
			have++
			continue
		}
		out = append(out, receipt.Check{Name: t, Expected: "a stream, as the catalogue listed it", Actual: "none"})
	}
	return append(out, receipt.Check{Name: "tables that the catalogue listed and streams have", Expected: fmt.Sprint(len(tables)),
		Actual: fmt.Sprint(have), OK: have == len(tables)})
}
