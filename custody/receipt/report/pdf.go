// Package report renders receipts and a quarter's report for people, as HTML and
// PDF. What it makes proves nothing itself: the signed receipts do.
package report

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"codeberg.org/go-pdf/fpdf"

	"strongroom/custody/receipt"
)

// document is a PDF whose every page carries a level at its head and its foot.
// The same facts make the same bytes. Its fonts are those that every reader has,
// so it holds the characters of Windows-1252; others are written as U+ and their
// number, which is longer and loses nothing.
type document struct {
	*fpdf.Fpdf
	latin func(string) string
}

const (
	bodySize  = 9.0
	lineWidth = 174.0 // of A4 within margins of 18 mm
)

func newDocument(title, level string, at time.Time) *document {
	p := fpdf.New("P", "mm", "A4", "")
	d := &document{p, p.UnicodeTranslatorFromDescriptor("")}
	p.SetCatalogSort(true)
	p.SetCreationDate(at.UTC())
	p.SetModificationDate(at.UTC())
	p.SetProducer("strongroom", true)
	p.SetTitle(title, true)
	p.SetMargins(18, 22, 18)
	p.SetAutoPageBreak(true, 20)
	p.AliasNbPages("")
	mark := d.text(strings.ToUpper(level))
	band := func(y float64) {
		p.SetFont("Helvetica", "B", 9)
		p.SetXY(18, y)
		p.CellFormat(lineWidth, 6, mark, "1", 0, "C", false, 0, "")
	}
	p.SetHeaderFunc(func() { band(10); p.SetY(22) })
	p.SetFooterFunc(func() {
		band(-16)
		p.SetFont("Helvetica", "", 7)
		p.SetXY(18, -9)
		p.CellFormat(lineWidth, 5, d.text(title)+fmt.Sprintf(", page %d of {nb}", p.PageNo()), "", 0, "C", false, 0, "")
	})
	p.AddPage()
	return d
}

// text is what the fonts have of a text.
func (d *document) text(s string) string {
	var b strings.Builder
	for _, r := range s {
		if t := d.latin(string(r)); r < 0x80 || t != "." && t != "" {
			b.WriteString(t)
		} else {
			fmt.Fprintf(&b, "U+%04X", r)
		}
	}
	return b.String()
}

func (d *document) heading(s string) {
	d.SetFont("Helvetica", "B", 12)
	d.Ln(3)
	d.MultiCell(lineWidth, 6, d.text(s), "", "L", false)
}

func (d *document) line(s string) {
	d.SetFont("Helvetica", "", bodySize)
	d.MultiCell(lineWidth, 4.4, d.text(s), "", "L", false)
}

// table writes rows whose cells may go over several lines. widths are shares of
// the line. A row that begins with "!" is bold: something in it is not as it
// should be.
func (d *document) table(widths []float64, head []string, rows [][]string) {
	d.row(widths, head, "B")
	for _, r := range rows {
		style := ""
		if bold := strings.HasPrefix(r[0], "!"); bold {
			style, r = "B", append([]string{r[0][1:]}, r[1:]...)
		}
		d.row(widths, r, style)
	}
	d.Ln(1)
}

func (d *document) row(widths []float64, cells []string, style string) {
	const h = 3.8
	d.SetFont("Helvetica", style, 7.5)
	var lines [][]string
	most := 1
	for i, c := range cells {
		var of []string
		for _, b := range d.SplitLines([]byte(d.text(c)), lineWidth*widths[i]) {
			of = append(of, string(b))
		}
		lines = append(lines, of)
		most = max(most, len(of))
	}
	_, height := d.GetPageSize()
	for n := range most { // line by line: a row may be longer than a page
		if d.GetY()+h > height-20 {
			d.AddPage()
			d.SetFont("Helvetica", style, 7.5)
		}
		for i, of := range lines {
			s := ""
			if n < len(of) {
				s = of[n]
			}
			border := ""
			if n == most-1 {
				border = "B"
			}
			d.CellFormat(lineWidth*widths[i], h, s, border, 0, "L", false, 0, "")
		}
		d.Ln(h)
	}
}

func (d *document) bytes() ([]byte, error) {
	var b bytes.Buffer
	if err := d.Output(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// bad marks a row of a table.
func bad(ok bool, first string) string {
	if ok {
		return first
	}
	return "!" + first
}

// PDF is a receipt as a document.
func PDF(r *receipt.Receipt) ([]byte, error) {
	d := newDocument("Restore drill "+r.ID, r.Level, r.Finished)
	d.SetFont("Helvetica", "B", 20)
	d.CellFormat(lineWidth, 10, string(r.Verdict), "", 1, "L", false, 0, "")
	snapshot := "" // a cold drill has one of its own
	if r.Snapshot.ID != "" {
		snapshot = fmt.Sprintf(" snapshot %s of %s,", r.Snapshot.ID, r.Snapshot.Point.Format("2006-01-02 15:04:05 UTC"))
	}
	d.line(fmt.Sprintf("Restore drill of %s/%s,%s done from %s to %s.", r.Tenant, r.Dataset, snapshot,
		r.Started.Format("2006-01-02 15:04:05"), r.Finished.Format("15:04:05 UTC")))
	if r.MustFail != "" {
		d.line(fmt.Sprintf("MUST FAIL: the fault %q was put in on purpose. This says nothing about the snapshot.", r.MustFail))
	}
	if r.Kind == receipt.Closed {
		d.line("Of a closed generation, whose key was not on the box: the station released it, with the shares that takes.")
	} else if r.Kind != "" {
		d.line(fmt.Sprintf("A %s drill of the program, with a test recovery key and stores of its own. This says nothing about what is stored.", r.Kind))
	}
	if r.Verdict == receipt.INFRA {
		d.line("The drill could not be done on this machine. This says nothing about the backup.")
	}
	for _, w := range r.Why {
		d.line(w)
	}
	d.heading("Steps")
	var rows [][]string
	for _, s := range r.Steps {
		rows = append(rows, []string{bad(s.Status != receipt.Failed, s.Name), string(s.Status), s.Why, "", ""})
		for _, c := range s.Checks {
			rows = append(rows, []string{bad(c.OK, ""), map[bool]string{true: "ok", false: "NOT OK"}[c.OK], c.Name, c.Expected, c.Actual})
		}
	}
	d.table([]float64{0.11, 0.09, 0.36, 0.22, 0.22}, []string{"Step", "Outcome", "What was compared", "Expected", "Found"}, rows)
	d.contents(r)
	d.rest(r)
	b, err := d.bytes()
	if err != nil {
		return nil, fmt.Errorf("PDF of receipt %s: %w", r.ID, err)
	}
	return b, nil
}

func (d *document) contents(r *receipt.Receipt) {
	if len(r.Content) == 0 {
		return
	}
	d.heading("Contents, in three columns")
	d.line("As the source counted it when the snapshot was taken; as the stored stream has it; as the restored copy has it: rows, and the sum of the rows' hashes.")
	var rows [][]string
	count := func(c receipt.Count) string {
		if !c.Known {
			return "not known"
		}
		return fmt.Sprintf("%d  %s", c.Rows, c.Hash)
	}
	for _, o := range r.Content {
		rows = append(rows, []string{bad(o.OK, o.Name), count(o.Source), count(o.Stream), count(o.Copy)})
	}
	d.table([]float64{0.22, 0.26, 0.26, 0.26}, []string{"Object", "Source", "Stream", "Copy"}, rows)
	if r.ContentLeft > 0 {
		d.line(fmt.Sprintf("and %d more, all of them equal", r.ContentLeft))
	}
}

func (d *document) rest(r *receipt.Receipt) {
	d.heading("Times")
	var rows [][]string
	for _, p := range r.Phases {
		rows = append(rows, []string{p.Name, milliseconds(p.Milliseconds)})
	}
	rows = append(rows, []string{bad(r.RTO.Met(), "RTO: until the copy could be used"), target(r.RTO)}, []string{bad(r.RPO.Met(), "RPO: age of the snapshot"), target(r.RPO)})
	d.table([]float64{0.5, 0.5}, []string{"Phase", "Time"}, rows)
	d.heading("Where")
	withheld := strings.Join(r.Stores.Withheld, ", ")
	if withheld == "" {
		withheld = "none"
	}
	d.table([]float64{0.3, 0.7}, []string{"", ""}, [][]string{{"Stores under test", strings.Join(r.Stores.Tested, ", ")}, {"Stores withheld", withheld},
		{"Engine", fmt.Sprintf("%s for a snapshot of %s %s", r.Engine, r.Snapshot.Engine, r.Snapshot.Version)}, {"Sandbox", r.Sandbox.Kind}, {"Gone afterwards", r.Sandbox.Gone}})
	d.walls("Walls of the sandbox, tried from inside", r.Sandbox.Walls)
	d.walls("Walls of the daemon, tried when it started", r.Daemon)
	if len(r.Notes) > 0 {
		d.heading("Notes")
		for _, n := range r.Notes {
			d.line("- " + n)
		}
	}
	d.heading("Identity")
	d.table([]float64{0.3, 0.7}, []string{"", ""}, [][]string{{"Receipt", r.ID}, {"SHA-256 of the manifest", r.Snapshot.Manifest},
		{"Generation, snapshot in it", fmt.Sprintf("%s, %d.%d", r.Snapshot.Generation, r.Snapshot.Epoch, r.Snapshot.Sequence)}, {"Signed by the box key", r.Box}, {"Program", r.Tool}})
	d.line("This page proves nothing itself: the signed receipt does, and is checked with the box's public key alone: strongroom-verify receipt FILE --key KEY")
}

func milliseconds(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

func target(t receipt.Target) string {
	s := "not measured"
	if t.Measured {
		s = milliseconds(t.Milliseconds)
	}
	if t.Promised > 0 {
		s += ", promised " + milliseconds(t.Promised) + map[bool]string{true: ": kept", false: ": MISSED"}[t.Met()]
	}
	return s
}

// walls is a table of them, if there are any.
func (d *document) walls(heading string, all []receipt.Wall) {
	if len(all) == 0 {
		return
	}
	d.heading(heading)
	var rows [][]string
	for _, w := range all {
		rows = append(rows, []string{bad(w.Holds, w.Name), w.Tried, w.Got})
	}
	d.table([]float64{0.2, 0.4, 0.4}, []string{"Wall", "Tried", "Got"}, rows)
}
