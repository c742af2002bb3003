package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"time"
)

// A table of markdown is written when all parts are done.
type mdTable struct {
	title, note string
	columns     []string
	rows        [][]string
}

func (b *bench) table(title, note string, columns ...string) *mdTable {
	t := &mdTable{title: title, note: note, columns: columns}
	b.tables = append(b.tables, t)
	return t
}

func (t *mdTable) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *mdTable) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "### %s\n\n%s\n\n| %s |\n|%s\n", t.title, t.note, strings.Join(t.columns, " | "), strings.Repeat("---|", len(t.columns)))
	for _, r := range t.rows {
		fmt.Fprintf(&s, "| %s |\n", strings.Join(r, " | "))
	}
	return s.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
func mb(n float64) string            { return fmt.Sprintf("%.1f MB", n/1e6) }
func mib(n int64) string             { return fmt.Sprintf("%d MiB", n>>20) }

// A goal is a figure that should not be above must, and better not above aim;
// zero is no bound.
type goal struct {
	what           string
	got, must, aim float64
}

func (b *bench) goal(what string, got, must, aim float64) {
	b.goals = append(b.goals, goal{what, got, must, aim})
}

func (b *bench) figures() *mdTable {
	t := &mdTable{title: "Figures", note: "Ratios unless it says otherwise; less is better.", columns: []string{"figure", "got", "must", "aim", ""}}
	bound := func(f float64) string {
		if f == 0 {
			return ""
		}
		return fmt.Sprintf("≤ %g", f)
	}
	for _, g := range b.goals {
		verdict := "missed"
		switch {
		case g.must == 0:
			verdict = ""
		case g.got <= g.aim:
			verdict = "better than the aim"
		case g.got <= g.must:
			verdict = "held"
		}
		t.row(g.what, fmt.Sprintf("%.3g", g.got), bound(g.must), bound(g.aim), verdict)
	}
	return t
}

// weeklyTable writes what the tools took, and ours to the best peer.
func (b *bench) weeklyTable(title, note string, results []*result) {
	t := b.table(title, note, "", "first: wall", "CPU", "a later week: wall", "CPU", "restore: wall", "CPU", "peak memory", "week 1", "growth a week", "total")
	for _, r := range results {
		f, l, s := middle(r.first), middle(r.later), middle(r.restore)
		t.row(r.tool, seconds(f.Wall), seconds(f.CPU), seconds(l.Wall), seconds(l.CPU), seconds(s.Wall), seconds(s.CPU), mib(r.memory()),
			mb(float64(r.week1)), mb(r.growth()), mb(float64(r.total)))
	}
	for _, r := range results {
		if r.peer || !strings.HasPrefix(r.tool, "strongroom") {
			continue
		}
		cell := func(of func(*result) float64) string {
			ratio := of(r) / best(results, of)
			if math.IsInf(ratio, 0) {
				return ""
			}
			return fmt.Sprintf("%.2f", ratio)
		}
		t.row(r.tool+" to the best peer", cell(firstWall), cell(firstCPU), cell(laterWall), cell(laterCPU), cell(restoreWall), cell(restoreCPU),
			cell(peak), cell(week1), cell((*result).growth), cell(total))
	}
}

func firstWall(r *result) float64   { return middle(r.first).Wall.Seconds() }
func firstCPU(r *result) float64    { return middle(r.first).CPU.Seconds() }
func laterWall(r *result) float64   { return middle(r.later).Wall.Seconds() }
func laterCPU(r *result) float64    { return middle(r.later).CPU.Seconds() }
func restoreWall(r *result) float64 { return middle(r.restore).Wall.Seconds() }
func restoreCPU(r *result) float64  { return middle(r.restore).CPU.Seconds() }
func peak(r *result) float64        { return float64(r.memory()) }
func week1(r *result) float64       { return float64(r.week1) }
func total(r *result) float64       { return float64(r.total) }

// best is the smallest figure of any peer; 0 without one.
func best(results []*result, of func(*result) float64) float64 {
	least := math.Inf(1)
	for _, r := range results {
		if r.peer {
			least = min(least, of(r))
		}
	}
	if math.IsInf(least, 1) {
		return 0
	}
	return least
}

func find(results []*result, tool string) *result {
	for _, r := range results {
		if r.tool == tool {
			return r
		}
	}
	return nil
}

// goalToBest notes one of our figures against the best peer's, if both were run.
func (b *bench) goalToBest(what string, results []*result, ours string, of func(*result) float64, must, aim float64) {
	if r, least := find(results, ours), best(results, of); r != nil && least > 0 {
		b.goal(what, of(r)/least, must, aim)
	}
}

// machine says where this ran and with what.
func (b *bench) machine(ctx context.Context) string {
	var s strings.Builder
	cpu, flags := cpuModel()
	fmt.Fprintf(&s, "Machine: %s, %d cores, %s, %d GiB, load %s at the end. Linux %s; ", cpu, runtime.NumCPU(), flags, memoryTotal()>>30,
		firstWord("/proc/loadavg"), firstWord("/proc/sys/kernel/osrelease"))
	for _, p := range []struct {
		label, name, arg string
	}{{"strongroom", b.bin, "version"}, {"postgres", b.pg("postgres"), "--version"}, {"restic", "restic", "version"}, {"borg", "borg", "--version"},
		{"kopia", "kopia", "--version"}, {"zstd", "zstd", "--version"}} {
		_, out, err := program{name: p.name, args: []string{p.arg}, env: []string{"HOME=" + b.work}}.run(ctx)
		if err != nil {
			fmt.Fprintf(&s, "no %s; ", p.label)
			continue
		}
		line, _, _ := strings.Cut(strings.Trim(string(out), " *\n"), "\n")
		line, _, _ = strings.Cut(line, " compiled with")
		line, _, _ = strings.Cut(line, " from:")
		if !strings.HasPrefix(line, p.label) {
			line = p.label + " " + line
		}
		fmt.Fprintf(&s, "%s; ", line)
	}
	fmt.Fprintf(&s, "this program by %s.", runtime.Version())
	return s.String()
}

func cpuModel() (model, flags string) {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown", ""
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	model = fields["model name"]
	if mhz := fields["cpu MHz"]; mhz != "" {
		model += " at " + mhz + " MHz"
	}
	for _, f := range []string{"avx2", "avx512f", "sha_ni"} {
		if !strings.Contains(" "+fields["flags"]+" ", " "+f+" ") {
			f = "no " + f
		}
		flags += ", " + f
	}
	return model, strings.TrimPrefix(flags, ", ")
}

func memoryTotal() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib int64
	fmt.Sscanf(string(b), "MemTotal: %d kB", &kib)
	return kib << 10
}

// firstWord is what a file of the kernel's begins with.
func firstWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	word, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return word
}
