package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"regexp"
	"strconv"
	"time"
)

// A Quarter is what became of a tenant's backups in three months. Times are UTC.
type Quarter struct {
	Tenant  string    `json:"tenant"`
	Level   string    `json:"level"`
	Quarter string    `json:"quarter"` // "2026Q4"
	From    time.Time `json:"from"`
	To      time.Time `json:"to"` // exclusive; the end of the quarter, or when it was made
	Made    time.Time `json:"made"`
	Box     string    `json:"box"` // the key that signed the receipts
	// Whole says that the quarter is over.
	Whole    bool      `json:"whole"`
	Datasets []Dataset `json:"datasets"`
	// MustFail and Cold are the drills of the box itself: they are what the others
	// are believed for.
	MustFail Proof    `json:"must_fail"`
	Cold     Proof    `json:"cold"`
	Notes    []string `json:"notes"`
}

// A Dataset is one of them.
type Dataset struct {
	Name      string     `json:"name"`
	Snapshots []Snapshot `json:"snapshots"`
	// Bad are backups that failed, were skipped or were never begun.
	Bad    []Lapse `json:"bad"`
	Drills []Drill `json:"drills"`
	// Undrilled are drills that were planned and did not happen.
	Undrilled []Lapse `json:"undrilled"`
}

// A Snapshot is one that was taken in the quarter.
type Snapshot struct {
	ID       string    `json:"id"`
	Manifest string    `json:"manifest_sha256"`
	Time     time.Time `json:"time"`
	Bytes    int64     `json:"bytes"`
	State    string    `json:"state"`
	Drilled  string    `json:"drilled"` // verdicts of its drills; "" for none
}

// A Lapse is something that was planned and did not come about.
type Lapse struct {
	Planned time.Time `json:"planned"`
	What    string    `json:"what"`
}

// A Drill is one receipt.
type Drill struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Snapshot string    `json:"snapshot"`
	Point    time.Time `json:"point"`
	Verdict  string    `json:"verdict"`
	Without  []string  `json:"without"`
	RTO      string    `json:"rto"`
	Why      []string  `json:"why"`
}

// A Proof is how often drills of one kind ended well, and badly.
type Proof struct {
	Good int       `json:"good"`
	Bad  int       `json:"bad"`
	Last time.Time `json:"last,omitzero"` // that ended well
}

// Said is a proof in words.
func (p Proof) Said() string {
	if p.Good+p.Bad == 0 {
		return "NONE"
	}
	return fmt.Sprintf("%d as they have to be, %d not; the last on %s", p.Good, p.Bad, p.Last.Format("2006-01-02"))
}

var quarterText = regexp.MustCompile(`^(20[0-9]{2})[Qq]([1-4])$`)

// Bounds reads "2026Q4".
func Bounds(text string) (from, to time.Time, err error) {
	m := quarterText.FindStringSubmatch(text)
	if m == nil {
		return from, to, fmt.Errorf("%q is not a quarter such as 2026Q4", text)
	}
	year, _ := strconv.Atoi(m[1]) // four digits
	n, _ := strconv.Atoi(m[2])
	from = time.Date(year, time.Month(3*n-2), 1, 0, 0, 0, 0, time.UTC)
	return from, from.AddDate(0, 3, 0), nil
}

// Lapses counts what was planned and did not come about.
func (q *Quarter) Lapses() (n int) {
	for _, d := range q.Datasets {
		n += len(d.Bad) + len(d.Undrilled)
		for _, x := range d.Drills {
			if x.Verdict == "FAIL" {
				n++
			}
		}
	}
	return n
}

//go:embed quarter.html
var quarterPage string

var page = template.Must(template.New("quarter").Funcs(template.FuncMap{
	"day":    func(t time.Time) string { return t.UTC().Format("2006-01-02") },
	"moment": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
}).Parse(quarterPage))

// HTML is the report as one file that loads nothing.
func (q *Quarter) HTML() ([]byte, error) {
	var b bytes.Buffer
	if err := page.Execute(&b, q); err != nil {
		return nil, fmt.Errorf("report of %s: %w", q.Tenant, err)
	}
	return b.Bytes(), nil
}

// PDF is the report as a document.
func (q *Quarter) PDF() ([]byte, error) {
	d := newDocument(fmt.Sprintf("Backups of %s in %s", q.Tenant, q.Quarter), q.Level, q.Made)
	d.SetFont("Helvetica", "B", 18)
	d.MultiCell(lineWidth, 9, d.text(fmt.Sprintf("Backups and restore drills of %s, %s", q.Tenant, q.Quarter)), "", "L", false)
	d.line(q.Summary())
	for _, n := range q.Notes {
		d.line(n)
	}
	moment := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
	for _, x := range q.Datasets {
		d.heading("Dataset " + x.Name)
		var rows [][]string
		for _, s := range x.Snapshots {
			rows = append(rows, []string{moment(s.Time), s.ID, fmt.Sprint(s.Bytes), s.State, s.Drilled})
		}
		d.table([]float64{0.2, 0.15, 0.2, 0.25, 0.2}, []string{"Snapshot of", "ID", "Bytes", "Stores", "Drilled"}, rows)
		rows = nil
		for _, l := range x.Bad {
			rows = append(rows, []string{"!" + moment(l.Planned), "backup", l.What})
		}
		for _, l := range x.Undrilled {
			rows = append(rows, []string{"!" + moment(l.Planned), "drill", l.What})
		}
		if len(rows) > 0 {
			d.table([]float64{0.2, 0.1, 0.7}, []string{"Planned for", "What", "What became of it"}, rows)
		} else {
			d.line("Nothing that was planned failed or was missed.")
		}
		rows = nil
		for _, r := range x.Drills {
			rows = append(rows, []string{bad(r.Verdict != "FAIL", moment(r.Time)), r.Verdict, fmt.Sprintf("%s of %s", r.Snapshot, r.Point.UTC().Format("2006-01-02")), fmt.Sprint(r.Without), r.RTO, r.ID})
		}
		d.table([]float64{0.17, 0.1, 0.23, 0.15, 0.1, 0.25}, []string{"Drill", "Verdict", "Snapshot", "Without", "RTO", "Receipt"}, rows)
	}
	d.line("Each receipt is signed, and is checked with the box's public key alone: strongroom-verify receipt FILE --key " + q.Box)
	b, err := d.bytes()
	if err != nil {
		return nil, fmt.Errorf("PDF report of %s: %w", q.Tenant, err)
	}
	return b, nil
}

// Summary says the most important in a few sentences.
func (q *Quarter) Summary() string {
	snapshots, drills, passed := 0, 0, 0
	for _, d := range q.Datasets {
		snapshots += len(d.Snapshots)
		drills += len(d.Drills)
		for _, x := range d.Drills {
			if x.Verdict == "PASS" {
				passed++
			}
		}
	}
	s := fmt.Sprintf("%d snapshots of %d datasets from %s to %s; %d drills, of which %d passed; %d things that were planned failed or did not happen. ",
		snapshots, len(q.Datasets), q.From.Format("2006-01-02"), q.To.Format("2006-01-02"), drills, passed, q.Lapses())
	if !q.Whole {
		s += "The quarter is not over. "
	}
	return s + "Drills of the box that must fail: " + q.MustFail.Said() + ". Cold drills of the program: " + q.Cold.Said() + "."
}
