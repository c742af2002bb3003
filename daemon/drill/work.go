package drill

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/sqlite"
)

// workEngine restores what needs no server: this very program does it inside,
// with the ordinary code, from streams that come in over a pipe. Files of a
// database are hostile too, so nothing of them is opened out here.
type workEngine struct {
	r    *run
	kind string
	got  found
	box  *sandbox.Box
}

// job is what the program inside is told, as the first frame of its input.
type job struct {
	Description source.Description  `json:"description"`
	Streams     []source.StreamInfo `json:"streams"`
	Detail      json.RawMessage     `json:"detail,omitempty"`
	Assertions  []Assertion         `json:"assertions,omitempty"`
}

// found is what it answers.
type found struct {
	// Error is why there is no copy, Here that this machine has no room for it.
	Error   string           `json:"error,omitempty"`
	Here    bool             `json:"here,omitempty"`
	Objects []receipt.Object `json:"objects"`
	Content []receipt.Check  `json:"content"`
	Engine  []receipt.Check  `json:"engine"`
	Asserts []receipt.Check  `json:"asserts"`
	Version string           `json:"version"`
	Orphans *int64           `json:"orphans,omitempty"` // rows that refer to none
	Notes   []string         `json:"notes,omitempty"`
}

// Restored is where a copy lies inside.
const Restored = sandbox.Scratch + "/restored"

func (e *workEngine) preflight(context.Context) (need, error) {
	var n int64
	for _, s := range e.r.Stored.Streams() {
		n += s.Length
	}
	// Once as it came, once restored; of sparse files the holes are none.
	k := need{engine: e.kind, disk: n*2 + n/4 + 64<<20, processes: 64}
	if e.kind == files.Engine { // each takes a page at least, and its name
		var d files.Detail
		if err := json.Unmarshal(e.r.Stored.Detail(), &d); err != nil {
			return need{}, fmt.Errorf("what was recorded: %w", err)
		}
		k.disk += max(d.Entries, 0) * 5 << 10
		k.file = d.Bytes // one of them may have nearly all, as holes
	}
	if len(e.r.Checker) > 0 {
		k.readOnly = []string{e.r.Checker[0]}
		if within(e.r.Checker[0], "/usr") {
			k.readOnly = nil
		}
	}
	return k, nil
}

func (e *workEngine) load(ctx context.Context, box *sandbox.Box) error {
	e.box = box
	var out limited
	var errs bounded
	pr, pw := io.Pipe()
	fed := make(chan error, 1)
	go func() {
		err := e.feed(ctx, pw)
		pw.CloseWithError(err) // nil: the end
		fed <- err
	}()
	err := box.Run(ctx, sandbox.Cmd{Argv: []string{sandbox.Self, "restore"}, Stdin: pr, Stdout: &out, Stderr: &errs})
	pr.Close()
	ferr := <-fed
	if e.r.read.failed() != nil {
		return e.r.read.failed()
	}
	if err == nil && ferr != nil {
		err = ferr
	}
	if err != nil {
		return here("restore inside: %w: %.300s", err, errs.buf)
	}
	if err := json.Unmarshal(out.buf, &e.got); err != nil {
		return here("restore inside: %w", err)
	}
	e.r.out.Notes = append(e.r.out.Notes, e.got.Notes...)
	if e.got.Version != "" {
		e.r.out.Engine = e.got.Version
	}
	if e.got.Here {
		return here("%s", e.got.Error)
	}
	if e.got.Error != "" {
		return errors.New(e.got.Error)
	}
	return nil
}

// limited keeps an answer that is no larger than one can be.
type limited struct{ buf []byte }

func (l *limited) Write(p []byte) (int, error) {
	if len(l.buf)+len(p) > 32<<20 {
		return 0, errors.New("the answer from inside is too long")
	}
	l.buf = append(l.buf, p...)
	return len(p), nil
}

// Frames: four bytes of length, big-endian, and as many bytes. A stream is
// frames of 1 byte and more and one of none; so one that ended too early ends
// early there too.
const maxFrame = 1 << 20

func writeFrame(w io.Writer, b []byte) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// feed sends the job and all streams, in their order.
func (e *workEngine) feed(ctx context.Context, w io.Writer) error {
	s := e.r.read
	j, err := json.Marshal(job{s.Description(), s.Streams(), s.Detail(), e.r.Assertions})
	if err != nil {
		return err
	}
	for rest := j; ; {
		n := min(len(rest), maxFrame)
		if err := writeFrame(w, rest[:n]); err != nil {
			return err
		}
		if rest = rest[n:]; n == 0 {
			break
		}
	}
	buf := make([]byte, 256<<10)
	for _, info := range s.Streams() {
		if err := e.feedStream(ctx, w, info.Name, buf); err != nil {
			return err
		}
	}
	return nil
}

func (e *workEngine) feedStream(ctx context.Context, w io.Writer, name string, buf []byte) (err error) {
	rc, err := e.r.read.Open(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	for {
		n, err := rc.Read(buf)
		if n > 0 {
			if werr := writeFrame(w, buf[:n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return writeFrame(w, nil)
		} else if err != nil {
			return err
		}
	}
}

func (e *workEngine) structure() []receipt.Check {
	want := map[string][]string{sqlite.Engine: {"database"}, files.Engine: {"data", "tree"}, command.Engine: {"output"}}[e.kind]
	var got []string
	for _, s := range e.r.Stored.Streams() {
		got = append(got, s.Name)
	}
	return []receipt.Check{equal("streams", fmt.Sprint(want), fmt.Sprint(got))}
}

// content completes the columns: what the source counted is the detail's, what
// the manifest says of a stream's bytes is the manifest's.
func (e *workEngine) content(context.Context) ([]receipt.Object, []receipt.Check, error) {
	objects := e.got.Objects
	switch e.kind {
	case sqlite.Engine:
		var d sqlite.Detail
		if err := json.Unmarshal(e.r.read.Detail(), &d); err != nil {
			return nil, nil, fmt.Errorf("what was recorded: %w", err)
		}
		for i := range objects {
			objects[i].Source = receipt.Count{Known: true, Rows: d.Pages, Hash: e.r.Hashes["database"]}
			objects[i].Stream = e.passedBytes("database", int64(d.PageSize))
		}
		return objects, append(e.tables(d), e.got.Content...), nil
	case command.Engine:
		var d command.Detail
		if err := json.Unmarshal(e.r.read.Detail(), &d); err != nil {
			return nil, nil, fmt.Errorf("what was recorded: %w", err)
		}
		for i := range objects {
			objects[i].Source = receipt.Count{Known: true, Rows: d.Bytes, Hash: e.r.Hashes["output"]}
			objects[i].Stream = e.passedBytes("output", 1)
		}
	}
	return objects, e.got.Content, nil
}

func (e *workEngine) passedBytes(stream string, unit int64) receipt.Count {
	p := e.r.read.seen(stream)
	if p == nil || unit < 1 {
		return receipt.Count{}
	}
	return receipt.Count{Known: true, Rows: p.bytes / unit, Hash: p.hash}
}

// tables compares what the source counted itself with the copy. Schema and rows
// of the copy come as checks whose expectation only we know.
func (e *workEngine) tables(d sqlite.Detail) []receipt.Check {
	want := map[string]string{"schema": d.Schema}
	for _, t := range d.Tables {
		if t.Unknown == "" {
			want["rows of "+t.Name] = fmt.Sprint(t.Rows)
		} else {
			e.r.out.Notes = append(e.r.out.Notes, fmt.Sprintf("rows of %s could not be counted at the source: %s", t.Name, t.Unknown))
		}
	}
	got := map[string]string{}
	for _, c := range e.got.Content {
		got[c.Name] = c.Actual
	}
	e.got.Content = nil
	same := 0
	for name, w := range want {
		if got[name] == w {
			same++
		}
	}
	var out []receipt.Check
	for name := range got {
		if _, ok := want[name]; !ok && name != "schema" && !slices.ContainsFunc(d.Tables, func(t sqlite.Table) bool { return "rows of "+t.Name == name }) {
			out = append(out, receipt.Check{Name: name, Expected: "no such table", Actual: got[name]})
		} else if !ok {
			delete(got, name)
		}
	}
	out = append(out, differences("database:", want, got)...)
	return append(out, equal("schema and tables as they were counted", fmt.Sprint(len(want)), fmt.Sprint(same)))
}

// orphans compares the rows that refer to none with those of the source: SQLite
// lets a program make them, and a restore has to bring them back.
func (e *workEngine) orphans() []receipt.Check {
	var d sqlite.Detail
	if e.kind != sqlite.Engine || json.Unmarshal(e.r.read.Detail(), &d) != nil { // content has said so
		return nil
	}
	say := func(n *int64) string {
		if n == nil {
			return "cannot be counted"
		}
		if *n == 1 {
			return "1 row that refers to none"
		}
		return fmt.Sprintf("%d rows that refer to none", *n)
	}
	if d.Orphans == nil && e.got.Orphans != nil {
		e.r.out.Notes = append(e.r.out.Notes, "PRAGMA foreign_key_check finds "+say(e.got.Orphans)+"; at the source nobody counted them")
		return nil
	}
	if d.Orphans != nil && *d.Orphans > 0 {
		e.r.out.Notes = append(e.r.out.Notes, "the source has "+say(d.Orphans))
	}
	return []receipt.Check{equal("PRAGMA foreign_key_check", say(d.Orphans), say(e.got.Orphans))}
}

func (e *workEngine) checks(ctx context.Context) ([]receipt.Check, error) {
	out := append(e.got.Engine, e.orphans()...)
	if len(e.r.Checker) == 0 {
		return out, nil
	}
	var said, complained bounded
	argv := append(slices.Clone(e.r.Checker), Restored)
	cctx, cancel := context.WithTimeout(ctx, e.r.CheckTime)
	defer cancel()
	err := e.box.Run(cctx, sandbox.Cmd{Argv: argv, Stdout: &said, Stderr: &complained, Foreign: true})
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if cctx.Err() != nil {
		err = fmt.Errorf("it has not ended within %v", e.r.CheckTime)
	}
	c := equal("checker "+filepath.Base(argv[0]), "exit code 0", "exit code 0")
	if err != nil {
		c.Actual, c.OK = fmt.Sprintf("%v: %.300s", err, bytes.TrimSpace(slices.Concat(complained.buf, said.buf))), false
	}
	return append(out, c), nil
}

// assert: the answers came with the copy.
func (e *workEngine) assert(_ context.Context, a Assertion) receipt.Check {
	for _, c := range e.got.Asserts {
		if c.Name == a.Name {
			return c
		}
	}
	return a.nothing("a snapshot of " + e.kind + " cannot be asked")
}
