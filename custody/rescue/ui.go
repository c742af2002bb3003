package rescue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"strongroom/custody/exit"
)

// A UI prints for people or, with JSON, for programs: then every line of
// stdout is one object with a "type". Results go to stdout; progress, notes
// and errors to stderr, unless they are JSON. Safe for concurrent use.
type UI struct {
	JSON bool
	// Program begins the line of an error.
	Program string
	// ToStdout says that the command's own output is data: everything else
	// goes to stderr.
	ToStdout bool

	out, err io.Writer
	terminal bool

	mu      sync.Mutex
	line    int // width of the progress line now shown
	started time.Time
	last    time.Time
}

// NewUI returns a UI; progress is drawn in place if stderr is a terminal.
func NewUI(stdout, stderr io.Writer) *UI {
	f, ok := stderr.(*os.File)
	return &UI{Program: "strongroom", out: stdout, err: stderr, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// Out is where a command's data goes.
func (u *UI) Out() io.Writer { return u.out }

// Err is where a command says what it does.
func (u *UI) Err() io.Writer { return u.err }

// clear removes the progress line. u.mu is held.
func (u *UI) clear() {
	if u.line > 0 {
		fmt.Fprintf(u.err, "\r%s\r", strings.Repeat(" ", u.line))
		u.line = 0
	}
}

func (u *UI) emit(kind string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	head, err := json.Marshal(kind)
	if err != nil {
		return err
	}
	w := u.out
	if u.ToStdout {
		w = u.err
	}
	switch {
	case string(b) == "{}":
		_, err = fmt.Fprintf(w, "{\"type\":%s}\n", head)
	case b[0] == '{':
		_, err = fmt.Fprintf(w, "{\"type\":%s,%s\n", head, b[1:])
	default:
		_, err = fmt.Fprintf(w, "{\"type\":%s,\"items\":%s}\n", head, b)
	}
	return err
}

// OneLine takes out the line breaks that errors.Join puts in: one line is
// easier to find in a log.
func OneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// Log prints a line for people.
func (u *UI) Log(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	text := OneLine(fmt.Sprintf(format, args...))
	if u.JSON {
		u.emit("note", map[string]string{"text": text})
		return
	}
	u.clear()
	fmt.Fprintln(u.err, text)
}

// Result prints a command's result: v as JSON, else the text.
func (u *UI) Result(v any, format string, args ...any) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.JSON {
		return u.emit("result", v)
	}
	u.clear()
	w := u.out
	if u.ToStdout {
		w = u.err
	}
	_, err := fmt.Fprintf(w, format, args...)
	return err
}

// Event prints one of many things that happen: v as JSON of a type, else the
// line.
func (u *UI) Event(kind string, v any, line string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.JSON {
		return u.emit(kind, v)
	}
	u.clear()
	_, err := fmt.Fprintln(u.out, OneLine(line))
	return err
}

// Error prints the error that ends the program.
func (u *UI) Error(err error, code int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	text := OneLine(err.Error())
	if u.JSON {
		u.emit("error", map[string]any{"error": text, "code": code})
		return
	}
	u.clear()
	fmt.Fprintf(u.err, "%s: %s\n", u.Program, text)
}

// End prints what ended a program, if anything did, and returns its code.
func (u *UI) End(ctx context.Context, err error) exit.Code {
	u.Done()
	if err == nil {
		return exit.OK
	}
	code := exit.Of(err)
	if ctx.Err() != nil {
		code, err = exit.Interrupted, errors.New("interrupted")
	}
	u.Error(err, int(code))
	return code
}

// Done removes what progress left on the terminal.
func (u *UI) Done() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
}

// Progress shows bytes done of total (0: unknown), with rate and time left.
// It may be called as often as one likes.
func (u *UI) Progress(done, total int64) { u.progress(done, total, "bytes", Bytes) }

// CountProgress is Progress of things that are counted.
func (u *UI) CountProgress(noun string) func(done, total int64) {
	return func(done, total int64) {
		u.progress(done, total, noun+"s", func(n int64) string { return Count(int(n), noun) })
	}
}

func (u *UI) progress(done, total int64, unit string, show func(int64) string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if u.started.IsZero() {
		u.started, u.last = now, now
	}
	every := 10 * time.Second
	if u.JSON {
		every = time.Second
	} else if u.terminal {
		every = 200 * time.Millisecond
	}
	if now.Sub(u.last) < every {
		return
	}
	u.last = now
	elapsed := now.Sub(u.started).Seconds()
	rate := float64(done) / elapsed
	left := time.Duration(0)
	if total > done && rate > 0 {
		left = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
	}
	if u.JSON {
		u.emit("progress", map[string]any{"done": done, "total": total, unit + "_per_second": int64(rate), "seconds_left": int64(left.Seconds())})
		return
	}
	text := fmt.Sprintf("%s, %s/s", show(done), show(int64(rate)))
	if total > 0 {
		text = fmt.Sprintf("%s of about %s, %s/s", show(done), show(max(total, done)), show(int64(rate)))
	}
	if left > 0 {
		text += fmt.Sprintf(", %v left", left)
	}
	if u.terminal {
		u.clear()
		fmt.Fprint(u.err, text)
		u.line = len(text)
	} else {
		fmt.Fprintln(u.err, text)
	}
}

// WantsJSON reports whether the arguments of a program ask for JSON.
func WantsJSON(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	return slices.Contains(args, "--json")
}

// Count is a number with its noun.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Rate is what a run of some length says about its speed: nothing where it is
// too short for that.
func Rate(n int64, took time.Duration) string {
	if n < 1e6 || took <= 0 {
		return fmt.Sprintf("%.1f s", took.Seconds())
	}
	return fmt.Sprintf("%.1f s (%s/s)", took.Seconds(), Bytes(int64(float64(n)/took.Seconds())))
}

// Bytes formats a number of bytes, decimal.
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, i := float64(n), 0
	for v >= 999.5 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	if v < 9.995 {
		return fmt.Sprintf("%.2f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
