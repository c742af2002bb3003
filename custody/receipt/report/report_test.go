package report

import (
	"bytes"
	"compress/zlib"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"strongroom/custody/receipt"
)

// shown is what the pages of a PDF show: its text streams, unpacked.
func shown(t *testing.T, pdf []byte) string {
	t.Helper()
	if !bytes.HasPrefix(pdf, []byte("%PDF-1.")) || !bytes.Contains(pdf[len(pdf)-10:], []byte("%%EOF")) {
		t.Fatalf("no PDF: %.20q", pdf)
	}
	var b strings.Builder
	for _, m := range regexp.MustCompile(`(?s)/FlateDecode[^>]*>>\s*stream\r?\n(.*?)\r?\nendstream`).FindAllSubmatch(pdf, -1) {
		r, err := zlib.NewReader(bytes.NewReader(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}

func sample(objects int) *receipt.Receipt {
	r := &receipt.Receipt{Format: 1, ID: "20261127t080000z-abcdefgh", Tenant: "acme", Dataset: "crm", Level: "top-secret", Started: time.Unix(1795766400, 0).UTC(), Finished: time.Unix(1795766460, 0).UTC(),
		Snapshot: receipt.Snapshot{ID: "0123456789", Engine: "postgres"}, Stores: receipt.Stores{Tested: []string{"one", "two"}}, Notes: []string{"a note in Grüße, Ελλάδα and \x01"}}
	for _, n := range receipt.Names() {
		r.Steps = append(r.Steps, receipt.Step{Name: n, Status: receipt.Passed, Checks: []receipt.Check{{Name: "x of " + n, Expected: "1", Actual: "1", OK: true}}})
	}
	for range objects {
		r.Content = append(r.Content, receipt.Object{Name: strings.Repeat("a very long name of a table ", 20), Source: receipt.Count{Known: true, Rows: 4711, Hash: "ab"}, OK: true})
	}
	r.Verdict, r.Why = receipt.Judge(r.Steps)
	return r
}

func TestPDFOfAReceipt(t *testing.T) {
	pdf, err := PDF(sample(300))
	if err != nil {
		t.Fatal(err)
	}
	text := shown(t, pdf)
	for _, want := range []string{"(PASS)", "crm", "x of assertions", "4711", "Gr\xfc\xdfe", "U+0395U+03BB"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in it", want)
		}
	}
	pages := len(regexp.MustCompile(`/Type /Page\b[^s]`).FindAll(pdf, -1))
	if marks := strings.Count(text, "(TOP-SECRET)"); pages < 10 || marks != 2*pages {
		t.Errorf("%d marks of the level on %d pages", marks, pages)
	}
	again, err := PDF(sample(300))
	if err != nil || !bytes.Equal(pdf, again) {
		t.Errorf("the same receipt makes two documents: %v", err)
	}
	if dir := os.Getenv("STRONGROOM_PAGES"); dir != "" {
		if err := os.WriteFile(dir+"/receipt.pdf", pdf, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestReportNamesWhatWasMissed(t *testing.T) {
	from, to, err := Bounds("2026q4")
	if err != nil || from.Format(time.DateOnly) != "2026-10-01" || to.Format(time.DateOnly) != "2027-01-01" {
		t.Fatal(from, to, err)
	}
	for _, bad := range []string{"", "2026Q5", "2026Q0", "26Q1", "2026Q4 ", "1999Q1"} {
		if _, _, err := Bounds(bad); err == nil {
			t.Errorf("%q is a quarter", bad)
		}
	}
	q := &Quarter{Tenant: "acme", Level: "secret", Quarter: "2026Q4", From: from, To: to, Made: to, Whole: true, Cold: Proof{Good: 3, Last: from}, Datasets: []Dataset{{Name: "crm",
		Snapshots: []Snapshot{{ID: "aaaa", Time: from, State: "complete", Drilled: "PASS"}},
		Bad:       []Lapse{{Planned: from.AddDate(0, 0, 7), What: "failed: <b>no room</b>"}},
		Undrilled: []Lapse{{Planned: from.AddDate(0, 0, 8), What: "missed: no run was begun"}},
		Drills:    []Drill{{ID: "d1", Verdict: "FAIL", Time: from}, {ID: "d2", Verdict: "PASS", Time: from}}}}}
	if q.Lapses() != 3 {
		t.Errorf("%d lapses", q.Lapses())
	}
	html, err := q.HTML()
	if err != nil {
		t.Fatal(err)
	}
	pdf, err := q.PDF()
	if err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string]string{"HTML": string(html), "PDF": shown(t, pdf)} {
		for _, want := range []string{"2026-10-08", "no room", "missed: no run was begun", "FAIL", "d2", "must fail: NONE", "3 as they have"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q", form, want)
			}
		}
	}
	if strings.Contains(string(html), "<b>no room") || strings.Count(string(html), `<p class="level">secret</p>`) != 2 {
		t.Error(string(html))
	}
}
