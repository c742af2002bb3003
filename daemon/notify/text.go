package notify

import (
	"fmt"
	"strings"
	"time"
)

// A letter is an event in words.
type letter struct {
	subject string
	body    string
}

// write puts an event into words, with times as the clock of the box shows them.
func write(e Event, link string, loc *time.Location) letter {
	what := e.what()
	about := e.about()
	subject := fmt.Sprintf("strongroom %s: ", e.Box)
	if about != "" {
		subject += about + ": "
	}
	subject += what
	mark := ""
	if e.Level != Unmarked {
		mark = "[" + strings.ToUpper(e.Level.String()) + "] "
	}

	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	if mark != "" {
		line("%s", strings.TrimSpace(mark))
	}
	if about != "" {
		line("%s: %s.", about, what)
	} else {
		line("%s.", strings.ToUpper(what[:1])+what[1:])
	}
	line("")
	for _, f := range []struct {
		name string
		at   time.Time
	}{{"time", e.Time}, {"last success", e.LastSuccess}, {"since", e.Since}, {"until", e.Until}} {
		if !f.at.IsZero() {
			line("%-14s %s", f.name+":", stamp(f.at, loc))
		}
	}
	if !e.Store.IsZero() {
		line("%-14s %s", "store:", e.Store)
	}
	if e.Cause != Unknown {
		line("%-14s %s", "cause:", e.Cause)
	}
	if e.Run != 0 {
		line("%-14s %d", "run:", e.Run)
	}
	if e.Week != nil {
		e.Week.write(line, loc)
	}
	if todo := e.todo(link); todo != "" {
		line("\n%s", todo)
	}
	line("\nBox %s, event %s", e.Box, e.ID)
	return letter{subject: mark + subject, body: b.String()}
}

// about is what the event is about: a dataset, a store or a medium.
func (e Event) about() string {
	switch {
	case !e.Medium.IsZero():
		return "medium " + e.Medium.String()
	case !e.Store.IsZero() && e.Tenant.IsZero():
		return "store " + e.Store.String()
	case !e.Dataset.IsZero():
		return e.Tenant.String() + "/" + e.Dataset.String()
	}
	return e.Tenant.String()
}

func (e Event) what() string {
	switch e.Kind {
	case Failed:
		return e.Work.String() + " failed"
	case Overdue:
		return "overdue: no " + e.Work.String() + " succeeded in time"
	case Recovered:
		switch e.Was {
		case 0, Failed, Overdue:
			if e.Work != Backup {
				return e.Work.String() + " succeeded again"
			}
			return "succeeded again"
		case DrillFailed:
			return "well again: a drill passed"
		}
		return "well again: " + e.Was.String() + " is over"
	case DrillFailed:
		return "DRILL FAILED: what was restored is not what was saved"
	case MarginLost:
		margin := 0
		if e.Margin != nil {
			margin = *e.Margin
		}
		return fmt.Sprintf("less safe than planned: %d further stores may be lost", margin)
	case MediumDue:
		if e.Until.Before(e.Time) {
			return "offline medium OVERDUE"
		}
		return "offline medium due"
	case LockProbeFailed:
		return "LOCK PROBE FAILED: what is stored can be deleted"
	case FillingUp:
		full := fmt.Sprintf("full in %d days", e.Days)
		if e.Days < 1 {
			full = "FULL within a day"
		}
		if e.Store.IsZero() {
			return "the spool is " + full
		}
		return full
	case Digest:
		return "weekly digest" + e.Week.short()
	case TestAlarm:
		return "test alarm, please answer"
	case TestUnanswered:
		return "NOBODY ANSWERED the test alarm: alarms may reach nobody"
	case Unproven:
		return "DRILLS ARE UNPROVEN: one that must fail did not, a recovery from nothing failed, or none was tried for long"
	case Damaged:
		return "CHECK: something stored is damaged, gone, or not as it was left"
	case DoctorBad:
		return "the next backup would fail or be refused"
	case LedgerTrouble:
		return "LEDGER: acts cannot be recorded, or the record was changed"
	case Frozen:
		return "WHAT WAS BACKED UP LOOKS WRONG, or clocks disagree: nothing expires until somebody has looked"
	case ProofDue:
		return "a proof is due that only people with shares can give"
	}
	return e.Kind.String()
}

// todo is what the reader should do.
func (e Event) todo(link string) string {
	switch e.Kind {
	case Failed, Overdue:
		if e.Work != Backup || e.Dataset.IsZero() {
			return "On the box: strongroom status; strongroom runs"
		}
		return "On the box: strongroom status; strongroom doctor " + e.about()
	case DrillFailed:
		return "Do not rely on this backup. On the box: strongroom drill show"
	case MarginLost:
		return "On the box: strongroom check; strongroom repair"
	case LockProbeFailed:
		return "On the box: strongroom store test --lock"
	case Unproven:
		return "Do not rely on green drills until then. On the box: strongroom alarms; strongroom drill must-fail; strongroom drill cold"
	case FillingUp:
		return "On the box: strongroom store usage"
	case MediumDue:
		return "On the box: strongroom media due"
	case Damaged:
		return "On the box: strongroom check; strongroom repair"
	case DoctorBad:
		return strings.TrimSpace("On the box: strongroom doctor " + e.about())
	case LedgerTrouble:
		return "On the box: strongroom audit verify"
	case Frozen:
		return "On the box: strongroom policy explain; strongroom hold accept, once it is known why. Older snapshots are as they were"
	case ProofDue:
		return "On the box: strongroom alarms. Then at the station, with the holders: strongroom station prove, or a release for strongroom drill closed"
	case TestAlarm:
		s := "This shows that an alarm reaches a person. Answer it on the box:\n    strongroom notify answer " + e.Code.String()
		if link != "" {
			s += "\nor at " + link + e.Code.String()
		}
		return s + "\nWithout an answer the other ways are told."
	case TestUnanswered:
		return "Check the mailboxes and receivers of the way that the test alarm took. On the box: strongroom alarms"
	}
	return ""
}

// short is the week in a subject.
func (w *Week) short() string {
	if w == nil {
		return ""
	}
	bad := 0
	for _, l := range w.Datasets {
		if l.State != Fine {
			bad++
		}
	}
	if bad == 0 && w.Alarms == 0 {
		return fmt.Sprintf(": all %d datasets well", len(w.Datasets))
	}
	return fmt.Sprintf(": %d of %d datasets not well, %d alarms open", bad, len(w.Datasets), w.Alarms)
}

func (w *Week) write(line func(string, ...any), loc *time.Location) {
	line("%-14s %s to %s", "week:", stamp(w.From, loc), stamp(w.To, loc))
	line("%-14s %d open\n", "alarms:", w.Alarms)
	for _, l := range w.Datasets {
		line("%-40s %-18s %d runs, %d failed; last success %s, last drill %s", l.Tenant.String()+"/"+l.Dataset.String(), l.State, l.Runs, l.Failures,
			stamp(l.LastSuccess, loc), stamp(l.LastDrill, loc))
	}
	line("\nThe next digest comes on %s. If it does not, the box or its mail is broken.", stamp(w.Next, loc))
}

func stamp(t time.Time, loc *time.Location) string {
	if t.IsZero() {
		return "never"
	}
	return t.In(loc).Format("Mon 2006-01-02 15:04 MST")
}
