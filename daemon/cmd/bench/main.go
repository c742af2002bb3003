// Command bench measures strongroom beside restic, borg, kopia and zstd in one
// run on one data set: weekly dumps, base backups and a SQLite file of a CRM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	var err error
	switch {
	case len(os.Args) > 2 && os.Args[1] == measuredFlag:
		err = measured(os.Args[2:])
	case len(os.Args) > 2 && os.Args[1] == streamFlag:
		err = streamMain(os.Args[2:])
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// A bench is one run.
type bench struct {
	work, bin string
	data      *dataset
	runs      int
	keep      bool
	toolNames []string
	fastest   bool // the program knows compression = "fastest"
	started   time.Time

	tables []*mdTable
	goals  []goal
}

// parts in the order in which they run.
var parts = []struct {
	name string
	run  func(*bench, context.Context) error
	// disk is what the part needs beside the data it uses, in sizes of the
	// first dump.
	disk float64
}{
	{"dumps", (*bench).dumps, 8},
	{"tars", (*bench).tars, 8},
	{"sqlite", (*bench).sqlite, 3},
	{"postgres", (*bench).postgres, 7},
	{"weeks26", (*bench).weeks26, 1},
	{"linear", (*bench).linear, 18},
	{"memory", (*bench).memory, 11},
}

func run() error {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	b := &bench{started: time.Now()}
	size := flag.Int("size", 200, "MB of the first dump, about")
	seed := flag.Uint64("seed", 1, "of all that is random in the data")
	weeks := flag.Int("weeks", 6, "weeks of dumps")
	wanted := flag.String("parts", strings.Join(names, ","), "what to measure")
	tools := flag.String("tools", strings.Join(allTools, ","), "what to measure beside each other; one that is not on PATH is left out")
	data := flag.String("data", "", "where the data set is or will be, to be used again; default: it is made and removed")
	flag.StringVar(&b.work, "work", "var/bench", "where to work")
	flag.StringVar(&b.bin, "bin", "bin/strongroom", "the program")
	flag.IntVar(&b.runs, "runs", 2, "how often to take a first backup and to restore")
	flag.BoolVar(&b.keep, "keep", false, "leave the data set and the repositories where they are")
	flag.Parse()
	selected := strings.Split(*wanted, ",")
	b.toolNames = strings.Split(*tools, ",")
	for _, s := range selected {
		if !slices.Contains(names, s) {
			return fmt.Errorf("-parts %s: there are %s", s, strings.Join(names, ", "))
		}
	}
	for _, s := range b.toolNames {
		if !slices.Contains(allTools, s) {
			return fmt.Errorf("-tools %s: there are %s", s, strings.Join(allTools, ", "))
		}
	}
	if *size < 10 || *weeks < 3 || b.runs < 1 || flag.NArg() > 0 {
		return errors.New("want -size 10 or more, -weeks 3 or more, -runs 1 or more, and no arguments")
	}
	b.data = &dataset{dir: *data, seed: *seed, size: *size, small: max(*size/10, 10), sqliteSize: max(*size*3/10, 10), weeks: *weeks, log: b.log}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return b.run(ctx, selected, *data != "")
}

func (b *bench) log(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) run(ctx context.Context, selected []string, keepData bool) (err error) {
	if err := b.prepare(ctx, selected); err != nil {
		return err
	}
	defer func() {
		leave := []string{filepath.Join(b.work, "tools"), filepath.Join(b.work, "restored"), filepath.Join(b.work, "cluster")}
		if b.keep {
			leave = nil
		} else if !keepData {
			leave = append(leave, b.data.dir)
		}
		for _, dir := range leave {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := b.makeData(ctx, selected); err != nil {
		return fmt.Errorf("make the data: %w", err)
	}
	err = b.measure(ctx, selected) // what was measured before it failed is shown all the same
	fmt.Printf("## strongroom beside its peers\n\n%s\nSeed %d, a first dump of about %d MB. Took %.0f s.\n", b.machine(context.WithoutCancel(ctx)), b.data.seed, b.data.size,
		time.Since(b.started).Seconds())
	for _, t := range append(b.tables, b.figures()) {
		fmt.Printf("\n%s", t)
	}
	return err
}

func (b *bench) measure(ctx context.Context, selected []string) error {
	for _, p := range parts {
		if !slices.Contains(selected, p.name) {
			continue
		}
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.log("%s: done", p.name)
	}
	return nil
}

// prepare finds the programs and the space.
func (b *bench) prepare(ctx context.Context, selected []string) error {
	var err1, err2, err3 error
	b.work, err1 = filepath.Abs(b.work)
	b.bin, err2 = filepath.Abs(b.bin)
	if b.data.dir == "" {
		b.data.dir = filepath.Join(b.work, "data")
	}
	b.data.dir, err3 = filepath.Abs(b.data.dir)
	if err := errors.Join(err1, err2, err3, os.MkdirAll(b.work, 0o755), os.MkdirAll(b.data.dir, 0o755)); err != nil {
		return err
	}
	if _, err := os.Stat(b.bin); err != nil {
		return fmt.Errorf("%w: make build", err)
	}
	need := 0.0
	for _, p := range parts {
		if slices.Contains(selected, p.name) {
			need = max(need, p.disk)
		}
	}
	bytes := int64((need + b.data.missing(selected)) * float64(b.data.size) * 1e6)
	if left, err := free(b.work); err != nil || left < bytes+1<<30 {
		return errors.Join(err, fmt.Errorf("%s has %d MB left; these parts need %d MB", b.work, left/1e6, (bytes+1<<30)/1e6))
	}
	b.toolNames = slices.DeleteFunc(b.toolNames, func(t string) bool {
		if p, ok := peerProgram[t]; ok {
			if _, err := exec.LookPath(p); err != nil {
				b.log("no %s on PATH: left out", p)
				return true
			}
		}
		return false
	})
	var err error
	b.fastest, err = b.ours("strongroom fastest", "fastest", b.filesSource()).understands(ctx)
	return err
}

// missing is how much of the data the parts need and is not there, in sizes of
// the first dump.
func (d *dataset) missing(selected []string) float64 {
	need := 0.0
	if !d.have("dumps", d.size, d.weeks) {
		need += float64(d.weeks)*1.1 + 2
	}
	if wantsTars(selected) && !d.have("tars", d.size, tarWeeks) {
		need += tarWeeks*1.6 + 2
	}
	if slices.Contains(selected, "sqlite") && !d.have("sqlite", d.sqliteSize, sqliteWeeks) {
		need += sqliteWeeks * 0.4
	}
	if slices.Contains(selected, "weeks26") && !d.have("long", d.small, longWeeks) {
		need += longWeeks * 0.14
	}
	return need
}

func wantsTars(selected []string) bool {
	return slices.Contains(selected, "tars") || slices.Contains(selected, "postgres")
}

func (b *bench) makeData(ctx context.Context, selected []string) error {
	if slices.ContainsFunc(selected, func(p string) bool { return p != "sqlite" && p != "weeks26" }) {
		if err := b.data.makeCRM(ctx, wantsTars(selected)); err != nil {
			return err
		}
	}
	if slices.Contains(selected, "sqlite") {
		if err := b.data.makeSQLite(ctx); err != nil {
			return err
		}
	}
	if slices.Contains(selected, "weeks26") {
		return b.data.makeLong(ctx)
	}
	return nil
}
