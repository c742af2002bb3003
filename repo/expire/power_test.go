package expire

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"strongroom/repo/spread"
	"strongroom/repo/store/dir"
	"strongroom/repo/store/storetest"
)

// onDisks puts the world's stores on disks that forget, on one power.
func (w *world) onDisks(p *storetest.Power) (disks []*storetest.Disk) {
	w.t.Helper()
	for i := range w.n {
		d, err := storetest.NewDisk(w.dir(i), p)
		if err != nil {
			w.t.Fatal(err)
		}
		s, err := dir.Open(dir.Config{Path: w.dir(i), System: d})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { s.Close() })
		f := storetest.NewFaulty(s)
		f.Inject(func(storetest.Op, string) storetest.Mishap {
			if p.Off() {
				return storetest.Mishap{How: storetest.Fail}
			}
			return storetest.Mishap{}
		})
		w.faulty[i], w.del[i].st = f, s
		w.r.Members[i] = spread.Member{Name: w.r.Members[i].Name, Store: f}
		disks = append(disks, d)
	}
	return disks
}

// The power of the house goes at any operation of a run that buries, or of one
// that deletes: what was deleted may be back and tombstones that were not
// synced gone, and nothing that is kept is missing.
func TestPowerCut(t *testing.T) {
	burying := newWorld(t, 3)
	burying.weeks(7)
	deleting := burying.fork()
	deleting.mustExpire()
	deleting.clock = deleting.clock.Add(grown)
	starts := []*world{burying, deleting}
	total := make([]int, len(starts))
	for i, s := range starts {
		p, w := &storetest.Power{}, s.fork()
		w.onDisks(p)
		p.CutAt(0, false)
		w.mustExpire()
		total[i] = p.Seen()
	}
	storetest.CountRuns(t, "power cut in expire").Seeds(25, 500, func(t *testing.T, seed uint64) {
		chance, i := rand.New(rand.NewPCG(seed, 3)), int(seed)%len(starts)
		p, start := &storetest.Power{}, *starts[i]
		start.t = t
		w := start.fork()
		disks := w.onDisks(p)
		at, done := 1+chance.IntN(total[i]), chance.IntN(2) == 0
		p.CutAt(at, done)
		_, err := w.expire()
		when := fmt.Sprintf("start %d, power cut at operation %d of %d (done: %v; the run: %v)", i, at, total[i], done, err)
		for n, d := range disks {
			left := fastDir(t)
			if err := d.Survive(left, chance); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(w.dir(n)); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(w.dir(n), 0o700); err != nil {
				t.Fatal(err)
			}
			copyTree(t, left, w.dir(n))
		}
		if chance.IntN(2) == 0 { // and the state of expiry is as it was before
			b, err := os.ReadFile(starts[i].state() + "/" + stateName)
			if err != nil {
				err = os.Remove(w.state() + "/" + stateName)
			} else {
				err = os.WriteFile(w.state()+"/"+stateName, b, 0o600)
			}
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		w.open()
		w.mustHold(when)
		if l, err := w.r.List(context.Background()); err != nil || len(l.Snapshots) < 4 {
			t.Fatalf("%s: %d snapshots are listed of 4 that are kept, %v", when, len(l.Snapshots), err)
		}
		w.converge(when)
	})
}

// grown is longer than the grace of these worlds.
const grown = 25 * 60 * 60 * 1e9
