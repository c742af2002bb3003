package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/daemon/schedule"
	"strongroom/repo/store/storetest"
)

// A child is a daemon in small, to be killed: it plans, claims, runs and ends,
// by a clock that goes 3600 times as fast, and notes what it does in a log.
type child struct {
	db    *DB
	log   *os.File
	jobs  []schedule.Job
	clock func() time.Time
	wg    sync.WaitGroup
}

var childJobs = []string{"acme/crm", "acme/erp", "media"}

func childSpec() *schedule.Spec {
	s, err := schedule.Compile(schedule.Config{At: "*/10 * * * *", TimeZone: "UTC"}, "", time.LoadLocation)
	if err != nil {
		panic(err)
	}
	return s
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("STRONGROOM_STATE_CHILD"); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runChild(dir string) error {
	began, err := strconv.ParseInt(os.Getenv("STRONGROOM_STATE_BEGAN"), 10, 64)
	if err != nil {
		return err
	}
	c := &child{clock: func() time.Time { return newYear.Add(3600 * time.Duration(time.Now().UnixNano()-began)) }}
	if c.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	ctx := context.Background()
	if c.db, err = Open(ctx, Config{Dir: dir, Now: c.clock}); err != nil {
		return err
	}
	for _, id := range childJobs {
		j := schedule.Job{ID: id, Spec: childSpec(), Uses: []schedule.Class{"either"}}
		c.jobs = append(c.jobs, j)
	}
	orphans, err := c.db.Orphans(ctx)
	if err != nil {
		return err
	}
	for _, r := range orphans {
		if r.Attempts >= 3 {
			err = c.db.Interrupt(ctx, r.ID, "thrice")
		} else if err = c.db.Adopt(ctx, r.ID); err == nil {
			c.run(r.ID, r.Job, r.Planned)
		}
		if err != nil {
			return err
		}
	}
	for end := os.Getenv("STRONGROOM_STATE_END") != ""; ; time.Sleep(5 * time.Millisecond) {
		if err := c.plan(ctx); err != nil || end {
			c.wg.Wait()
			return errors.Join(err, c.db.Close())
		}
	}
}

func (c *child) plan(ctx context.Context) error {
	last, err := c.db.Last(ctx, childJobs)
	if err != nil {
		return err
	}
	open, err := c.db.Running(ctx)
	if err != nil {
		return err
	}
	var running []schedule.Running
	for _, r := range open {
		running = append(running, schedule.Running{Job: r.Job, Since: r.Claimed, Uses: []schedule.Class{"either"}})
	}
	for i := range c.jobs {
		c.jobs[i].Last = last[c.jobs[i].ID]
	}
	d := schedule.Plan(c.clock(), c.jobs, running, map[schedule.Class]int{"either": 2})
	for _, t := range d.Skip {
		if err := c.db.Skip(ctx, Claim{Job: t.Job, Kind: Backup, Planned: t.Planned, Missed: t.Missed, FirstMissed: t.FirstMissed}, t.Reason); err != nil {
			return err
		}
	}
	for _, t := range d.Start {
		id, err := c.db.Claim(ctx, Claim{Job: t.Job, Kind: Backup, Planned: t.Planned, Missed: t.Missed, FirstMissed: t.FirstMissed})
		if err != nil {
			return err
		}
		c.run(id, t.Job, t.Planned)
	}
	return nil
}

func (c *child) run(id RunID, job string, planned time.Time) {
	c.wg.Go(func() {
		fmt.Fprintf(c.log, "%d begin %s %s %d\n", os.Getpid(), job, planned.Format(time.RFC3339), id)
		time.Sleep(rand.N(300 * time.Millisecond))
		fmt.Fprintf(c.log, "%d end %s %s %d\n", os.Getpid(), job, planned.Format(time.RFC3339), id)
		if err := c.db.Finish(context.Background(), id, OK, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	})
}

func TestKilledDaemonsLoseAndDoubleNoRun(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	storetest.CountRuns(t, "a daemon killed again and again").Seeds(2, 100, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 7))
		cfg, c := create(t)
		cfg.Now = c.Now
		began := strconv.FormatInt(time.Now().UnixNano(), 10)
		start := func(more ...string) (*exec.Cmd, *bytes.Buffer) {
			var said bytes.Buffer
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), append(more, "STRONGROOM_STATE_CHILD="+cfg.Dir, "STRONGROOM_STATE_BEGAN="+began)...)
			cmd.Stderr = &said
			must(t, cmd.Start())
			return cmd, &said
		}
		for range 10 {
			size := func() int64 {
				info, err := os.Stat(filepath.Join(cfg.Dir, "log"))
				if err != nil {
					return 0
				}
				return info.Size()
			}
			before := size()
			cmd, said := start()
			// Not while it starts, however long that takes on this machine.
			for wait := time.Now(); size() == before && time.Since(wait) < 30*time.Second; {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond)
			must(t, cmd.Process.Kill())
			if cmd.Wait(); said.Len() > 0 {
				t.Fatalf("a child ended by itself: %s", said)
			}
		}
		cmd, said := start("STRONGROOM_STATE_END=1")
		if err := cmd.Wait(); err != nil {
			t.Fatal(err, said)
		}
		checkKilled(t, cfg)
	})
}

// checkKilled finds each planned run in one row, or among those that one stands
// for, and in the log only runs that their process had claimed.
func checkKilled(t *testing.T, cfg Config) {
	d := reopen(t, cfg)
	must(t, d.Check(t.Context()))
	runs, err := d.Runs(t.Context(), "", "", 1e6)
	must(t, err)
	rows, ids := map[string]Run{}, map[RunID]Run{}
	ran, resumed, skipped := 0, 0, 0
	for _, r := range runs {
		if r.Finished.IsZero() {
			t.Errorf("run %d is open still", r.ID)
		}
		rows[r.Job+" "+r.Planned.Format(time.RFC3339)], ids[r.ID] = r, r
		switch {
		case r.Outcome == Skipped:
			skipped++
		case r.Attempts > 1:
			resumed++
		default:
			ran++
		}
	}
	if ran == 0 || resumed == 0 {
		t.Errorf("%d runs, %d resumed: nothing was killed", ran, resumed)
	}
	t.Logf("%d runs, %d resumed, %d skipped", ran, resumed, skipped)
	for _, job := range childJobs {
		var since, newest int64
		must(t, d.r.QueryRow(`SELECT since, coalesce((SELECT max(planned) FROM runs WHERE job = ?1), 0) FROM jobs WHERE job = ?1`, job).Scan(&since, &newest))
		spec := childSpec()
		for tick, _ := spec.Next(time.UnixMilli(since)); tick.Planned.UnixMilli() <= newest; tick, _ = spec.Next(tick.Planned) {
			found := 0
			for _, r := range runs {
				if r.Job == job && (r.Planned.Equal(tick.Planned) || r.Missed > 0 && !tick.Planned.Before(r.FirstMissed) && tick.Planned.Before(r.Planned)) {
					found++
				}
			}
			if found != 1 {
				t.Errorf("%s of %v is in %d rows", job, tick.Planned, found)
			}
		}
	}

	log, err := os.Open(filepath.Join(cfg.Dir, "log"))
	must(t, err)
	defer log.Close()
	begun := map[RunID]int{}
	open := map[string]string{} // by process and job
	for s := bufio.NewScanner(log); s.Scan(); {
		f := strings.Fields(s.Text())
		id, _ := strconv.ParseInt(f[4], 10, 64)
		row, ok := rows[f[2]+" "+f[3]]
		if !ok || row.ID != RunID(id) || row.Outcome == Skipped {
			t.Errorf("%q, and the row is %+v", s.Text(), row)
		}
		key := f[0] + f[2]
		if f[1] == "end" {
			delete(open, key)
			continue
		}
		if other, ok := open[key]; ok {
			t.Errorf("%q beside %q", s.Text(), other)
		}
		open[key] = s.Text()
		begun[RunID(id)]++
	}
	for id, n := range begun {
		if n > ids[id].Attempts {
			t.Errorf("run %d began %d times in %d attempts", id, n, ids[id].Attempts)
		}
	}
	for id, r := range ids {
		if r.Outcome == OK && begun[id] == 0 {
			t.Errorf("run %d never began", id)
		}
	}
}

// A method returns only when its change is on the disk: a power cut then takes
// nothing. The kernel is asked, by strace, in which order it was called.
func TestAClaimIsOnTheDiskBeforeItReturns(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed (Debian package strace): that a claim is on the disk before it returns was not seen")
	}
	if dir := os.Getenv("STRONGROOM_STATE_ACKS"); dir != "" {
		d := reopen(t, Config{Dir: dir, Now: time.Now})
		for i := range 20 {
			id := claim(t, d, "j", Backup, newYear.Add(time.Duration(i)*time.Hour))
			fmt.Fprintf(os.Stderr, "ACK claim\n")
			must(t, d.Finish(t.Context(), id, OK, ""))
			fmt.Fprintf(os.Stderr, "ACK finish\n")
		}
		return
	}
	cfg, _ := create(t)
	self, err := os.Executable()
	must(t, err)
	trace := filepath.Join(cfg.Dir, "trace")
	cmd := exec.Command(strace, "-f", "-y", "-o", trace, "-e", "trace=write,pwrite64,fsync,fdatasync", self, "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "STRONGROOM_STATE_ACKS="+cfg.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(trace)
	must(t, err)
	wal := regexp.MustCompile(`(pwrite64|write|fsync|fdatasync)\(\d+<[^>]*state\.db-wal>`)
	acks, dirty, written := 0, false, false
	for line := range strings.Lines(string(b)) {
		if m := wal.FindStringSubmatch(line); m != nil {
			dirty = strings.Contains(m[1], "write")
			written = written || dirty
		} else if strings.Contains(line, `"ACK `) {
			acks++
			if dirty || !written {
				t.Errorf("acknowledged, and the log is not on the disk (written %v): %s", written, line)
			}
			written = false
		}
	}
	if acks != 40 {
		t.Errorf("%d acknowledgements in the trace", acks)
	}
}

// A power cut leaves of the log what was synced, and of what came after anything.
func TestATornLogKeepsWhatWasAcknowledged(t *testing.T) {
	cfg, c := create(t)
	d := reopen(t, cfg)
	sizes := []int64{0}
	wal := filepath.Join(cfg.Dir, file+"-wal")
	for i := range 12 {
		c.pass(time.Hour)
		if i%2 == 0 {
			claim(t, d, fmt.Sprint(i), Backup, c.now)
		} else {
			must(t, d.Skip(t.Context(), Claim{Job: fmt.Sprint(i), Planned: c.now}, "why"))
		}
		info, err := os.Stat(wal)
		must(t, err)
		sizes = append(sizes, info.Size())
	}
	db, err := os.ReadFile(filepath.Join(cfg.Dir, file))
	must(t, err)
	log, err := os.ReadFile(wal)
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	for k := 1; k < len(sizes); k++ {
		next := sizes[min(k+1, len(sizes)-1)]
		for range 4 {
			torn := append([]byte{}, log[:sizes[k]+rng.Int64N(next-sizes[k]+1)]...)
			for i := sizes[k]; i < int64(len(torn)); i++ {
				if rng.IntN(2000) == 0 {
					torn[i] ^= 0xff
				}
			}
			after := Config{Dir: t.TempDir(), Now: c.Now}
			must(t, os.WriteFile(filepath.Join(after.Dir, file), db, 0o600))
			must(t, os.WriteFile(filepath.Join(after.Dir, file+"-wal"), torn, 0o600))
			d := reopen(t, after)
			must(t, d.Check(t.Context()))
			runs, err := d.Runs(t.Context(), "", "", 100)
			must(t, err)
			if len(runs) != k && !(len(runs) == k+1 && int64(len(torn)) == next) {
				t.Errorf("%d runs after a cut at %d bytes, where %d were acknowledged", len(runs), len(torn), k)
			}
			must(t, d.Close())
		}
	}
}
