package job

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"strongroom/repo"
	"strongroom/source"
)

// Thresholds of what a person has to look at before anything older may expire.
const (
	// An object of at least leastRows rows that lost more than half of them, or
	// all objects together more than a quarter.
	leastRows = 100
	// A stream that compresses to so many thousandths more than it did, and to
	// a quarter more: columns of text that became ciphertext, in hex or base64,
	// do; other data of the same kind does not.
	packedStep = 100
	// maxNamed bounds how many lines one kind of anomaly makes.
	maxNamed = 20
	// Sizes are compared once there are so many.
	leastHistory = 5
	// leastSize in bytes is what no size is compared below.
	leastSize = 64 << 10
)

// anomalies compares what is backed up with the snapshot before: a table that
// lost its rows is what a TRUNCATE by mistake, a broken import or a source that
// sees too little look like, and one that does not compress any more is what an
// extortionist leaves.
func anomalies(previous *repo.Contents, streams []repo.Stream, report source.Report) []string {
	if previous == nil {
		return nil
	}
	var stored []repo.Stream
	for name, f := range report.Streams {
		b, _ := json.Marshal(f) // a struct of a number and two strings
		stored = append(stored, repo.Stream{Name: name, Facts: b})
	}
	slices.SortFunc(stored, func(a, b repo.Stream) int { return cmp.Compare(a.Name, b.Name) })
	before, now := countRows(previous.Streams, previous.Detail), countRows(stored, report.Detail)
	out := before.lost(now)
	out = append(out, shrunk(previous, streams, report)...)
	return append(out, packed(previous.Streams, streams)...)
}

// rowCounts are rows by object, in the order in which objects were met.
type rowCounts struct {
	names []string
	rows  map[string]int64
	total int64
}

func (c *rowCounts) add(name string, rows int64) {
	if _, seen := c.rows[name]; !seen {
		c.names = append(c.names, name)
	}
	c.rows[name] += rows
}

// countRows adds rows up by object: what lay in one stream may be in several
// now. A source that reads a database as one stream lists its tables in detail.
func countRows(streams []repo.Stream, detail json.RawMessage) *rowCounts {
	c := &rowCounts{rows: map[string]int64{}}
	for _, st := range streams {
		var f source.Facts
		if st.Facts != nil && json.Unmarshal(st.Facts, &f) == nil {
			c.add(cmp.Or(f.Object, st.Name), f.Rows)
			c.total += f.Rows
		}
	}
	for _, t := range tablesOf(detail) {
		if t.Unknown == "" {
			c.add("table "+t.Name, t.Rows)
		}
	}
	return c
}

type tableRows struct {
	Name    string `json:"name"`
	Rows    int64  `json:"rows"`
	Unknown string `json:"unknown"`
}

func tablesOf(detail json.RawMessage) []tableRows {
	var d struct {
		Tables []tableRows `json:"tables"`
	}
	if json.Unmarshal(detail, &d) != nil {
		return nil
	}
	return d.Tables
}

func (c *rowCounts) lost(now *rowCounts) []string {
	var out []string
	for _, name := range c.names {
		before := c.rows[name]
		rows, ok := now.rows[name]
		switch {
		case before == 0:
		case !ok:
			out = append(out, fmt.Sprintf("%s had %d rows and is gone", name, before))
		case rows == 0:
			out = append(out, fmt.Sprintf("%s had %d rows and now has none", name, before))
		case before >= leastRows && rows < before/2:
			out = append(out, fmt.Sprintf("%s had %d rows and now has %d", name, before, rows))
		}
	}
	if len(out) == 0 && c.total >= leastRows && now.total < c.total*3/4 {
		out = append(out, fmt.Sprintf("all together had %d rows and now have %d", c.total, now.total))
	}
	return bounded(out)
}

func bounded(out []string) []string {
	if n := len(out); n > maxNamed {
		out = append(out[:maxNamed], fmt.Sprintf("and %d more like these", n-maxNamed))
	}
	return out
}

// shrunk compares the schema: how many objects there are, and how much SQL it
// takes to make them.
func shrunk(previous *repo.Contents, streams []repo.Stream, report source.Report) []string {
	var out []string
	count := func(detail json.RawMessage) int {
		var d struct {
			Objects int `json:"object_count"`
		}
		if json.Unmarshal(detail, &d) != nil || d.Objects == 0 {
			return len(tablesOf(detail))
		}
		return d.Objects
	}
	if before, now := count(previous.Detail), count(report.Detail); now < before {
		out = append(out, fmt.Sprintf("the schema had %d objects and now has %d", before, now))
	}
	length := func(list []repo.Stream) (n int64) {
		for _, st := range list {
			if st.Kind == string(source.KindSQL) {
				n += st.Length
			}
		}
		return n
	}
	if before, now := length(previous.Streams), length(streams); now < before*9/10 {
		out = append(out, fmt.Sprintf("the SQL of the schema had %d bytes and now has %d", before, now))
	}
	return out
}

// packed finds streams that compress far worse than they did.
func packed(before, now []repo.Stream) []string {
	was := map[string]int{}
	for _, st := range before {
		was[st.Name] = st.Packed
	}
	now = slices.Clone(now)
	slices.SortFunc(now, func(a, b repo.Stream) int { return cmp.Compare(a.Name, b.Name) })
	var out []string
	for _, st := range now {
		if w := was[st.Name]; w > 0 && st.Packed >= w+packedStep && st.Packed*4 >= w*5 {
			out = append(out, fmt.Sprintf("stream %q compressed to %d.%d %% and now to %d.%d %%: it looks encrypted", st.Name, w/10, w%10, st.Packed/10, st.Packed%10))
		}
	}
	return bounded(out)
}

// sizes compares the size with those of the dataset's history: beyond three
// standard deviations of it, which count as a twentieth of the mean at least.
func sizes(history []*repo.Snapshot, streams []repo.Stream) []string {
	var read []float64
	for _, s := range history {
		if s.Entry != nil && s.Entry.Origin == nil && !s.Entry.Partial {
			read = append(read, float64(s.Entry.Read))
		}
	}
	if len(read) < leastHistory {
		return nil
	}
	now := 0.0
	for _, st := range streams {
		now += float64(st.Length)
	}
	mean, square := 0.0, 0.0
	for _, n := range read {
		mean += n / float64(len(read))
	}
	for _, n := range read {
		square += (n - mean) * (n - mean) / float64(len(read))
	}
	sigma := max(math.Sqrt(square), mean/20)
	if off := math.Abs(now - mean); off <= 3*sigma || off < leastSize {
		return nil
	}
	return []string{fmt.Sprintf("it has %.0f bytes; the %d snapshots before had %.0f on average, and three standard deviations of them are %.0f", now, len(read), mean, 3*sigma)}
}
