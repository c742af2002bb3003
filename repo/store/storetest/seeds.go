package storetest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Full reports whether the long tier of the fault tests runs.
func Full() bool { return os.Getenv("STRONGROOM_FAULTS") != "" }

// Runs counts the runs of one fault, and those that broke an invariant. At the
// end of the test it adds them, with the time they took, as a line to the file
// that STRONGROOM_TALLY names, of which `make faults` makes its table.
type Runs struct {
	t     *testing.T
	fault string
	n     int
	lost  int
}

// CountRuns begins to count the runs of a fault.
func CountRuns(t *testing.T, fault string) *Runs {
	r, began := &Runs{t: t, fault: fault}, time.Now()
	t.Cleanup(func() {
		took := time.Since(began)
		t.Logf("%s: %d runs, %d losses, %v", fault, r.n, r.lost, took.Round(time.Millisecond))
		name := os.Getenv("STRONGROOM_TALLY")
		if name == "" || r.n == 0 {
			return
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err == nil {
			_, err = fmt.Fprintf(f, "%s\t%d\t%d\t%.1f\n", fault, r.n, r.lost, took.Seconds())
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	})
	return r
}

// Each runs once; a failure counts as a loss and tells how to see it again.
func (r *Runs) Each(name, replay string, run func(t *testing.T)) {
	r.t.Helper()
	r.n++
	if !r.t.Run(name, run) {
		r.lost++
		r.t.Errorf("again: %s", replay)
	}
}

// Add counts further runs of one that Each runs: those that are too many to be
// a test each.
func (r *Runs) Add(further int) { r.n += further }

// Must fails the test where all runs together did not do what they are for. One
// seed that is repeated may well not.
func (r *Runs) Must(did bool, otherwise string) {
	r.t.Helper()
	if !did && os.Getenv("STRONGROOM_SEED") == "" {
		r.t.Error(otherwise)
	}
}

// Seeds runs with seeds from 1 on, so many as the tier has (with -short a tenth
// of the short one), or with the one in STRONGROOM_SEED. A failing one prints the command that repeats it.
func (r *Runs) Seeds(short, full int, run func(t *testing.T, seed uint64)) {
	r.t.Helper()
	first, n := uint64(1), short
	switch {
	case Full():
		n = full
	case testing.Short(): // beside the race detector, which takes ten times as long
		n = max(short/10, 2)
	}
	if s := os.Getenv("STRONGROOM_SEED"); s != "" {
		one, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			r.t.Fatalf("STRONGROOM_SEED: %v", err)
		}
		first, n = one, 1
	}
	dir, _ := os.Getwd()
	if _, below, ok := strings.Cut(dir, "/repo"); ok {
		dir = "./repo" + below
	} else if _, below, ok := strings.Cut(dir, "/daemon"); ok {
		dir = "./daemon" + below
	}
	for seed := first; seed < first+uint64(n); seed++ {
		again := fmt.Sprintf("STRONGROOM_SEED=%d go test -count=1 -run '^%s$' %s", seed, r.t.Name(), dir)
		r.Each(fmt.Sprintf("seed=%d", seed), again, func(t *testing.T) { run(t, seed) })
	}
}
