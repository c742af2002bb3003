package remote

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"strongroom/source"
)

// shapes are the streams that an engine's snapshots have. Others are not
// accepted, whatever they are called: a name that nobody expects reaches
// nothing here.
var shapes = map[string][]stream{
	"files":   {{Name: "data", Kind: source.KindFiles}, {Name: "tree", Kind: source.KindTree}},
	"sqlite":  {{Name: "database", Kind: source.KindPages}},
	"command": {{Name: "output", Kind: source.KindOpaque}},
}

// Carries says whether snapshots of an engine can be carried. A database with
// a server is read through a tunnel instead.
func Carries(engine string) bool { return shapes[engine] != nil }

const (
	maxSize     = 1 << 60 // of a hint
	maxRows     = 1 << 56 // of a stream: those of all streams can be added up
	maxDetail   = 1 << 20
	maxText     = 1 << 10 // of a warning or a sentence of a finding
	maxWarnings = 1000
	maxFindings = 100
	maxNames    = 1000
	// maxSkew is how far the clocks of both sides may be apart.
	maxSkew = time.Minute
)

// plain says whether a word from the other side can be shown and stored as it
// is.
func plain(s string, most int) bool { return len(s) <= most && printable(s, most) == s }

func checkDescription(d source.Description, engine string) error {
	switch {
	case d.Engine != engine:
		return fmt.Errorf("%w: it describes a snapshot of %q, not of %q", errProtocol, printable(d.Engine, 40), engine)
	case !plain(d.Version, 100):
		return fmt.Errorf("%w: its version is no short text", errProtocol)
	case d.Size < 0 || d.Size > maxSize:
		return fmt.Errorf("%w: a size of %d bytes", errProtocol, d.Size)
	}
	return nil
}

func checkOpened(o opened, engine string) error {
	if err := checkDescription(o.Description, engine); err != nil {
		return err
	}
	want := shapes[engine]
	if len(o.Streams) != len(want) {
		return fmt.Errorf("%w: %d streams, where a snapshot of %s has %d", errProtocol, len(o.Streams), engine, len(want))
	}
	for i, s := range o.Streams {
		if s.Name != want[i].Name || s.Kind != want[i].Kind {
			return fmt.Errorf("%w: stream %d is %q of kind %q, where a snapshot of %s has %q of kind %q",
				errProtocol, i+1, printable(s.Name, 40), printable(string(s.Kind), 40), engine, want[i].Name, want[i].Kind)
		}
		if s.SizeHint < 0 || s.SizeHint > maxSize {
			return fmt.Errorf("%w: stream %q of %d bytes", errProtocol, s.Name, s.SizeHint)
		}
		paged := s.Kind == source.KindPages && s.PageSize >= 512 && s.PageSize <= 65536 && s.PageSize&(s.PageSize-1) == 0
		if s.PageSize != 0 && !paged {
			return fmt.Errorf("%w: stream %q has pages of %d bytes", errProtocol, s.Name, s.PageSize)
		}
	}
	return nil
}

// moment is when the snapshot was taken, by the other side's clock if that is
// near ours. What is kept for how long depends on it, so a clock that is far
// off decides nothing; what it showed becomes a warning.
func moment(says, asked, answered time.Time) (at time.Time, warning string) {
	if !says.Before(asked.Add(-maxSkew)) && !says.After(answered.Add(maxSkew)) {
		return says, ""
	}
	return asked, fmt.Sprintf("the other side's clock shows %s where ours shows %s: ours counts", says.UTC().Format(time.RFC3339), asked.UTC().Format(time.RFC3339))
}

func checkReport(r *source.Report, engine string) error {
	for name, f := range r.Streams {
		known := slices.ContainsFunc(shapes[engine], func(s stream) bool { return s.Name == name })
		hash, err := hex.DecodeString(f.RowHash)
		switch {
		case !known:
			return fmt.Errorf("%w: facts of a stream %q", errProtocol, printable(name, 40))
		case f.Rows < 0 || f.Rows > maxRows:
			return fmt.Errorf("%w: stream %q with %d rows", errProtocol, name, f.Rows)
		case err != nil || len(hash) != 0 && len(hash) != 16 || strings.ToLower(f.RowHash) != f.RowHash:
			return fmt.Errorf("%w: stream %q with a bad row hash", errProtocol, name)
		case !plain(f.Object, maxText):
			return fmt.Errorf("%w: stream %q with a bad object name", errProtocol, name)
		}
	}
	if len(r.Detail) > maxDetail {
		return fmt.Errorf("%w: a record of %d bytes", errProtocol, len(r.Detail))
	}
	if len(r.Detail) > 0 && !bytes.HasPrefix(r.Detail, []byte("{")) {
		return fmt.Errorf("%w: a record that is no object", errProtocol)
	}
	if n := len(r.Warnings); n > maxWarnings {
		r.Warnings = append(r.Warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more", n-maxWarnings))
	}
	for i, w := range r.Warnings {
		r.Warnings[i] = printable(w, maxText)
	}
	// What is stored is compact, and shares no memory with a frame.
	if len(r.Detail) > 0 {
		var b bytes.Buffer
		if err := json.Compact(&b, r.Detail); err != nil {
			return fmt.Errorf("%w: its record: %s", errProtocol, printable(err.Error(), 100))
		}
		r.Detail = b.Bytes()
	}
	return nil
}

var findingCode = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// checkFindings makes findings of another machine fit to be shown here. What
// it would have a person run is named as its words: somebody copies it.
func checkFindings(f *findings) error {
	if len(f.Findings) > maxFindings || len(f.Datasets) > maxNames {
		return fmt.Errorf("%w: %d findings, %d names", errProtocol, len(f.Findings), len(f.Datasets))
	}
	for i, name := range f.Datasets {
		f.Datasets[i] = printable(name, 140)
	}
	for i := range f.Findings {
		x := &f.Findings[i]
		if !findingCode.MatchString(x.Code) || x.Severity != source.OK && x.Severity != source.Note && x.Severity != source.Warn && x.Severity != source.Bad {
			return fmt.Errorf("%w: finding %q, %q", errProtocol, printable(x.Code, 40), printable(string(x.Severity), 40))
		}
		x.What, x.Why = "there: "+printable(x.What, maxText), printable(x.Why, maxText)
		if x.Remedy != "" {
			x.Remedy = "there, it says: " + printable(x.Remedy, maxText)
		}
	}
	return nil
}

// theirs is an error that the other side reports.
func (f failure) theirs() error {
	class := f.Class
	if class != source.Temporary && class != source.Refused && class != source.Drift {
		class = source.Failed
	}
	text := printable(f.Text, 2*maxText)
	if text == "" {
		text = "it failed and does not say why"
	}
	return source.WithClass(class, errors.New(text))
}
