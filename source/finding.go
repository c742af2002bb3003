package source

// Severity says how much a finding matters.
type Severity string

const (
	OK   Severity = "ok"   // looked at and as it should be
	Note Severity = "note" // worth knowing; nothing to do
	Warn Severity = "warn" // a backup works, and something should be changed
	Bad  Severity = "bad"  // a backup would fail or be refused
)

// rank orders severities, the worst last.
func (s Severity) rank() int {
	for i, o := range []Severity{OK, Note, Warn, Bad} {
		if s == o {
			return i
		}
	}
	return -1
}

// Worse says whether s matters more than o.
func (s Severity) Worse(o Severity) bool { return s.rank() > o.rank() }

// A Finding is one thing that a person should know before relying on backups
// of a source or by a machine. It holds no secret, and no row of a client's.
type Finding struct {
	// Code is a word for programs; what it stands for does not change.
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Why      string   `json:"why,omitempty"`
	// Remedy is SQL or a command, perhaps of several lines, or says in words
	// what to change.
	Remedy string `json:"remedy,omitempty"`
}

// Findings is a list that grows.
type Findings []Finding

// OK adds that something is as it should be.
func (f *Findings) OK(code, what string) {
	*f = append(*f, Finding{Code: code, Severity: OK, What: what})
}

// Note adds what is worth knowing.
func (f *Findings) Note(code, what, why, remedy string) {
	*f = append(*f, Finding{code, Note, what, why, remedy})
}

// Warn adds what should be changed.
func (f *Findings) Warn(code, what, why, remedy string) {
	*f = append(*f, Finding{code, Warn, what, why, remedy})
}

// Bad adds what makes backups fail.
func (f *Findings) Bad(code, what, why, remedy string) {
	*f = append(*f, Finding{code, Bad, what, why, remedy})
}

// Worst is the worst severity of a list; OK of an empty one.
func (f Findings) Worst() Severity {
	worst := OK
	for _, x := range f {
		if x.Severity.Worse(worst) {
			worst = x.Severity
		}
	}
	return worst
}
