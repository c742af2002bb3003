// Package drill restores a snapshot into a real engine in a sandbox and says,
// step by step, what was expected and what was found.
package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"strongroom/custody/receipt"
	"strongroom/daemon/drill/sandbox"
	"strongroom/source"
	"strongroom/source/command"
	"strongroom/source/files"
	"strongroom/source/mariadb"
	"strongroom/source/postgres"
	"strongroom/source/sqlite"
)

// ErrRefused: the plan could reach something that is no drill's business.
// Nothing was started.
var ErrRefused = errors.New("drill refused")

// A Plan is a drill that can be run.
type Plan struct {
	// Stored is the snapshot, read from the stores under test alone.
	Stored source.Stored
	// Base has what a receipt says before anything was done: of what, from where,
	// by whom, and perhaps since when.
	Base receipt.Receipt
	// Hashes are the BLAKE3 of the streams as the manifest has them, in hex.
	Hashes map[string]string
	// Asked are the steps to do; nil means all but the degraded one.
	Asked []string
	// Inventory is what the listing of the stores said.
	Inventory []receipt.Check
	// Assertions are the tenant's own, and Checker is a program that is given the
	// path of a restored file or directory.
	Assertions []Assertion
	Checker    []string
	// CheckTime is how long that program may take; 0: an hour. One that waits for
	// something would keep every later drill from being done.
	CheckTime time.Duration
	// Fault is put in on purpose.
	Fault Fault
	// Degraded restores nothing: it reads the snapshot with each store withheld
	// in turn.
	Degraded func(context.Context) receipt.Step
	// Unreadable is why there is no Stored: nothing can be opened from the stores
	// under test. Incomplete is what the snapshot itself says that it lacks.
	Unreadable error
	Incomplete string
	// Blind is why the inventory cannot tell: stores do not answer.
	Blind error
	// Away tells errors of stores that do not answer: they say nothing about the
	// backup. nil: none are.
	Away func(error) bool
	// Hidden are paths that the sandbox has to be blind for.
	Hidden []string
	// Live are paths that belong to the source, or to anything else that lives.
	Live []string
	// Disk bounds the scratch space in bytes and Memory that of each process; 0:
	// as much as is needed, and 1 GiB.
	Disk, Memory int64
	// Known are walls of the sandbox that may be missing: the drill goes on without
	// them, and its receipt has which.
	Known []string
	// Unit is the socket of the unit that makes sandboxes; "": it is made here.
	Unit     string
	Jobs     int // tables at once; 0: 2
	RTO, RPO time.Duration
	Log      func(format string, args ...any)
	Now      func() time.Time
}

// An engine restores one kind of snapshot.
type engine interface {
	// preflight says what the drill needs, and with an error what is missing here.
	preflight(context.Context) (need, error)
	// load restores everything. The engine runs when it returns.
	load(context.Context, *sandbox.Box) error
	// content compares the three columns, and what else was recorded.
	content(context.Context) ([]receipt.Object, []receipt.Check, error)
	// checks are the engine's own; none where it has none.
	checks(context.Context) ([]receipt.Check, error)
	// assert asks the copy.
	assert(context.Context, Assertion) receipt.Check
	// structure is what can be said of the streams without a copy.
	structure() []receipt.Check
}

// need is what a drill needs of the machine.
type need struct {
	engine    string // what it is restored into, with its version
	disk      int64
	file      int64 // the largest, holes included, if it may be larger
	processes int
	readOnly  []string
}

// errHere wraps what is wrong with this machine, not with the backup.
type errHere struct{ err error }

func (e errHere) Error() string { return e.err.Error() }
func (e errHere) Unwrap() error { return e.err }

func here(format string, args ...any) error { return errHere{fmt.Errorf(format, args...)} }

// run is a drill at work.
type run struct {
	Plan
	read   *reading
	engine engine
	box    *sandbox.Box
	need   need
	out    receipt.Receipt
	steps  map[string]receipt.Step
}

// Run does a drill. Whatever becomes of it is in the receipt, which is not
// signed yet; an error means that there was none: it was refused, or stopped.
func Run(ctx context.Context, p Plan) (*receipt.Receipt, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Log == nil {
		p.Log = func(string, ...any) {}
	}
	if err := p.refuse(); err != nil {
		return nil, err
	}
	if p.Memory == 0 {
		p.Memory = 1 << 30
	}
	if p.Jobs == 0 {
		p.Jobs = 2
	}
	if p.CheckTime == 0 {
		p.CheckTime = time.Hour
	}
	r := &run{Plan: p, out: p.Base, steps: map[string]receipt.Step{}}
	r.out.Format, r.out.MustFail = receipt.Format, string(p.Fault)
	if r.out.Started.IsZero() {
		r.out.Started = p.Now()
	} else {
		r.phase("find and open the snapshot", r.out.Started)
	}
	if p.Unreadable != nil {
		r.inventory(p.Base.Snapshot.Engine)
		r.set(receipt.Bytes, []receipt.Check{equal("the snapshot can be opened", "yes", "no")}, r.far(p.Unreadable))
		r.finish()
		return &r.out, nil
	}
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	defer r.close() // also of one that was stopped
	r.inventory(r.Stored.Description().Engine)
	r.work(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.finish()
	return &r.out, nil
}

// prepare puts a fault in, if one was asked for, and picks the engine.
func (r *run) prepare(ctx context.Context) error {
	if err := r.Plan.doctor(ctx); err != nil {
		return err
	}
	r.read = newReading(r.Stored)
	switch e := r.Stored.Description().Engine; e {
	case postgres.Engine:
		r.engine = &pgEngine{r: r}
	case mariadb.Engine:
		r.engine = &mariaEngine{r: r}
	case sqlite.Engine, files.Engine, command.Engine:
		r.engine = &workEngine{r: r, kind: e}
	default:
		r.engine = unknownEngine(e)
	}
	return nil
}

// asked reports whether a step belongs to this drill.
func (r *run) asked(step string) bool {
	if r.Asked == nil {
		return step != receipt.Degraded
	}
	return slices.Contains(r.Asked, step)
}

func (r *run) phase(name string, start time.Time) {
	r.out.Phases = append(r.out.Phases, receipt.Phase{Name: name, Milliseconds: r.Now().Sub(start).Milliseconds()})
}

// set enters how a step ended: what is wrong with the machine is told from what
// is wrong with the backup.
func (r *run) set(name string, checks []receipt.Check, err error) {
	s := receipt.Step{Name: name, Status: receipt.Passed, Checks: checks}
	var h errHere
	bad := slices.DeleteFunc(slices.Clone(checks), func(c receipt.Check) bool { return c.OK })
	switch {
	case err != nil && errors.As(err, &h):
		s.Status, s.Why = receipt.Infra, err.Error()
	case err != nil:
		s.Status, s.Why = receipt.Failed, err.Error()
	case len(bad) > 0:
		s.Status, s.Why = receipt.Failed, why(bad)
	}
	r.steps[name] = s
}

// why names what differs: the first, and how many more.
func why(bad []receipt.Check) string {
	text := fmt.Sprintf("%s: expected %s, found %s", bad[0].Name, bad[0].Expected, bad[0].Actual)
	if n := len(bad) - 1; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}

func (r *run) skip(why string, names ...string) {
	for _, n := range names {
		if _, done := r.steps[n]; !done && r.asked(n) {
			r.steps[n] = receipt.Step{Name: n, Status: receipt.Skipped, Why: why}
		}
	}
}

func (r *run) inventory(engine string) {
	var blind error
	if r.Blind != nil && !slices.ContainsFunc(r.Inventory, func(c receipt.Check) bool { return !c.OK }) {
		blind = errHere{r.Blind}
	}
	r.set(receipt.Inventory, append(slices.Clone(r.Inventory), equal("engine of the snapshot", r.Base.Snapshot.Engine, engine)), blind)
	if s := r.steps[receipt.Inventory]; r.Incomplete != "" && s.Status == receipt.Passed {
		s.Status, s.Why = receipt.Partial, r.Incomplete
		r.steps[receipt.Inventory] = s
	}
}

func equal(name, expected, actual string) receipt.Check {
	return receipt.Check{Name: name, Expected: expected, Actual: actual, OK: expected == actual}
}

// work does the steps that need the contents.
func (r *run) work(ctx context.Context) {
	loaded := false
	if r.asked(receipt.Load) {
		loaded = r.restore(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if r.asked(receipt.Bytes) || r.asked(receipt.Structure) {
		start := r.Now()
		if r.read.rest(ctx) {
			r.phase("read what the restore did not", start)
		}
		r.set(receipt.Bytes, r.read.checks(r.Hashes), r.far(r.read.failed()))
		if r.read.failed() != nil {
			r.skip("not every byte could be read", receipt.Structure)
		} else {
			r.set(receipt.Structure, append(r.read.shapes(), r.engine.structure()...), nil)
		}
	}
	if loaded {
		r.compare(ctx)
	}
	r.skip("there is no restored copy", receipt.Checks, receipt.Content, receipt.Assertions)
	r.close()
	if r.asked(receipt.Degraded) && r.Plan.Degraded != nil && ctx.Err() == nil {
		start := r.Now()
		r.steps[receipt.Degraded] = r.Plan.Degraded(ctx)
		r.phase("degraded", start)
	}
}

// far marks errors of stores that do not answer.
func (r *run) far(err error) error {
	if err != nil && r.Away != nil && r.Away(err) {
		return errHere{err}
	}
	return err
}

// restore makes the copy.
func (r *run) restore(ctx context.Context) bool {
	err := r.enter(ctx)
	if err == nil {
		start := r.Now()
		err = r.far(r.engine.load(ctx, r.box))
		r.phase("load", start)
		if err == nil {
			r.out.RTO.Milliseconds, r.out.RTO.Measured = r.Now().Sub(r.out.Started).Milliseconds(), true
		} else if failed := r.read.failed(); failed != nil {
			err = fmt.Errorf("%w; a stream could not be read: %w", err, r.far(failed))
		}
	}
	actual := "0"
	if err != nil {
		actual = "at least 1"
	}
	r.set(receipt.Load, []receipt.Check{equal("errors while it was loaded", "0", actual)}, err)
	return err == nil
}

// enter makes the sandbox and tries its walls.
func (r *run) enter(ctx context.Context) error {
	start := r.Now()
	defer func() { r.phase("sandbox", start) }()
	var err error
	r.out.Sandbox.Kind = "none"
	if r.need, err = r.engine.preflight(ctx); err != nil {
		return errHere{err}
	}
	r.out.Engine = r.need.engine
	disk := r.need.disk
	if r.Disk > 0 && disk > r.Disk {
		return here("the copy needs about %d MiB of scratch, and the drill may have %d", disk>>20, r.Disk>>20)
	}
	cfg := sandbox.Config{Memory: r.Memory, Disk: disk, File: r.need.file, Processes: r.need.processes, ReadOnly: r.need.readOnly, Hidden: r.Hidden, Unit: r.Unit}
	if r.box, err = sandbox.Start(ctx, cfg); err != nil {
		return errHere{err}
	}
	r.out.Sandbox.Kind, r.out.Sandbox.Memory, r.out.Sandbox.Disk = r.box.Kind(), cfg.Memory, cfg.Disk
	walls, err := r.box.Probe(ctx)
	for _, w := range walls {
		r.out.Sandbox.Walls = append(r.out.Sandbox.Walls, receipt.Wall(w))
	}
	if err != nil {
		return errHere{err}
	}
	if m := sandbox.Missing(walls, r.Known); m != nil {
		return here("the sandbox has no wall: %s", strings.Join(m, "; "))
	}
	return nil
}

// compare looks at the copy.
func (r *run) compare(ctx context.Context) {
	if r.asked(receipt.Content) {
		start := r.Now()
		objects, checks, err := r.engine.content(ctx)
		r.phase("content", start)
		r.columns(objects, checks, r.broken(err))
	}
	if r.asked(receipt.Assertions) {
		start := r.Now()
		r.assertions(ctx)
		r.phase("assertions", start)
	}
	if r.asked(receipt.Checks) {
		start := r.Now()
		checks, err := r.engine.checks(ctx)
		r.phase("engine checks", start)
		if err == nil && len(checks) == 0 {
			r.steps[receipt.Checks] = receipt.Step{Name: receipt.Checks, Status: receipt.Absent, Why: "this kind of snapshot has no engine"}
		} else {
			r.set(receipt.Checks, checks, r.broken(err))
		}
	}
}

// broken marks errors of a sandbox that has died.
func (r *run) broken(err error) error {
	if err != nil && !r.box.Alive() {
		return errHere{fmt.Errorf("the sandbox died: %w", err)}
	}
	return err
}

// maxListed bounds the objects in a receipt; those that differ come first.
const maxListed = 2000

func (r *run) columns(objects []receipt.Object, checks []receipt.Check, err error) {
	slices.SortFunc(objects, func(a, b receipt.Object) int { return strings.Compare(a.Name, b.Name) })
	same := 0
	for i := range objects {
		objects[i].OK = objects[i].Equal()
		if objects[i].OK {
			same++
		} else {
			o := objects[i]
			checks = append(checks, receipt.Check{Name: o.Name, Expected: "equal columns",
				Actual: fmt.Sprintf("source %s, stream %s, copy %s", count(o.Source), count(o.Stream), count(o.Copy))})
		}
	}
	total := receipt.Check{Name: "objects whose three columns are equal", Expected: fmt.Sprint(len(objects)), Actual: fmt.Sprint(same), OK: same == len(objects)}
	slices.SortStableFunc(objects, func(a, b receipt.Object) int { return last(a.OK) - last(b.OK) })
	if len(objects) > maxListed {
		r.out.ContentLeft = len(objects) - maxListed
		objects = objects[:maxListed]
	}
	r.out.Content = objects
	// What differs first: it is what the step is known by.
	slices.SortStableFunc(checks, func(a, b receipt.Check) int { return last(a.OK) - last(b.OK) })
	r.set(receipt.Content, append(checks, total), err)
}

// last sorts what is as it should be behind what is not.
func last(ok bool) int {
	if ok {
		return 1
	}
	return 0
}

func count(c receipt.Count) string {
	if !c.Known {
		return "has none"
	}
	return fmt.Sprintf("%d rows %.8s", c.Rows, c.Hash)
}

func (r *run) close() {
	if r.box == nil {
		return
	}
	start := r.Now()
	gone, err := r.box.Close()
	r.box = nil
	if err != nil {
		r.out.Notes = append(r.out.Notes, err.Error())
	}
	r.out.Sandbox.Gone = gone
	r.phase("tear down", start)
}

// finish puts the steps in order and judges them.
func (r *run) finish() {
	r.out.Steps = nil
	for _, n := range receipt.Names() {
		s, ok := r.steps[n]
		switch {
		case !r.asked(n):
			s = receipt.Step{Name: n, Status: receipt.Unasked, Why: "not part of this drill"}
		case !ok:
			s = receipt.Step{Name: n, Status: receipt.Skipped, Why: "was not done"}
		}
		r.out.Steps = append(r.out.Steps, s)
	}
	r.out.RTO.Promised, r.out.RPO.Promised = r.RTO.Milliseconds(), r.RPO.Milliseconds()
	if age := r.out.Started.Sub(r.out.Snapshot.Point); age >= 0 && !r.out.Snapshot.Point.IsZero() {
		r.out.RPO.Milliseconds, r.out.RPO.Measured = age.Milliseconds(), true
	}
	r.out.Finished = r.Now()
	r.out.Verdict, r.out.Why = receipt.Judge(r.out.Steps)
}

// unknownEngine is of a snapshot that this program cannot restore.
type unknownEngine string

func (e unknownEngine) preflight(context.Context) (need, error) {
	return need{}, fmt.Errorf("this program cannot drill snapshots of %q", string(e))
}
func (e unknownEngine) load(context.Context, *sandbox.Box) error { return errors.ErrUnsupported }
func (e unknownEngine) content(context.Context) ([]receipt.Object, []receipt.Check, error) {
	return nil, nil, errors.ErrUnsupported
}
func (e unknownEngine) checks(context.Context) ([]receipt.Check, error) {
	return nil, errors.ErrUnsupported
}
func (e unknownEngine) assert(context.Context, Assertion) receipt.Check { return receipt.Check{} }
func (e unknownEngine) structure() []receipt.Check                      { return nil }
