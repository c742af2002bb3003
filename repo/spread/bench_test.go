package spread

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"strongroom/erasure"
	"strongroom/repo/store/dir"
)

// benchPacks is how many packs of 32 MiB lie on the stores of a benchmark.
const benchPacks = 16

// realStores are directories on the disk of TMPDIR with full packs of 2+1.
func realStores(b *testing.B) (members []Member, dirs []string, packs []Pack) {
	b.Helper()
	for i := range 3 {
		d := b.TempDir()
		s, err := dir.Open(dir.Config{Path: d})
		if err != nil {
			b.Fatal(err)
		}
		members, dirs = append(members, Member{fmt.Sprint(i), s}), append(dirs, d)
	}
	g := erasure.Geometry{K: 2, N: 3}
	const segments = 512
	stripe, err := erasure.NewStripe(g, segments)
	if err != nil {
		b.Fatal(err)
	}
	for range benchPacks {
		p := Pack{Geometry: g, MessageLen: segments * erasure.Column}
		rand.Read(p.ID[:])
		rand.Read(p.Encode[:])
		stripe.Reset(segments)
		for n := range segments {
			rand.Read(stripe.Segment(n))
		}
		shards, err := stripe.Finish(p.Header(0))
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range shards {
			p.Shards = append(p.Shards, sha256.Sum256(s))
		}
		if _, err := NewSet(members).Put(context.Background(), testPrefix, p, shards, nil); err != nil {
			b.Fatal(err)
		}
		packs = append(packs, p)
	}
	return members, dirs, packs
}

// Every byte of every shard, hash and checksums, on one core.
func BenchmarkScrubOneCore(b *testing.B) {
	members, _, packs := realStores(b)
	inv := List(context.Background(), members, testPrefix)
	s := inv.Scrubber()
	var copies []Task
	for _, p := range packs {
		for _, c := range inv.Copies(testPrefix, p) {
			copies = append(copies, Task{p, c})
		}
	}
	b.SetBytes(packs[0].ShardLen())
	n, before := 0, cpuTime(b)
	for b.Loop() {
		t := copies[n%len(copies)]
		if v := s.Check(context.Background(), t.Pack, t.Copy); v.State != Good {
			b.Fatal(v)
		}
		n++
	}
	b.ReportMetric(float64(n)*float64(packs[0].ShardLen())/1e6/(cpuTime(b)-before).Seconds(), "MB/cpu-s")
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// As check --read-data does it: all cores, all stores.
func BenchmarkScrubAll(b *testing.B) {
	members, _, packs := realStores(b)
	inv := List(context.Background(), members, testPrefix)
	var tasks []Task
	for _, p := range packs {
		for _, c := range inv.Copies(testPrefix, p) {
			tasks = append(tasks, Task{p, c})
		}
	}
	b.SetBytes(int64(len(tasks)) * packs[0].ShardLen())
	for b.Loop() {
		if err := inv.Scrubber().Run(context.Background(), tasks, func(Task, Verdict) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// One store of three is empty; the figure counts the bytes of the packs.
func BenchmarkRepairOneLostStore(b *testing.B) {
	members, dirs, packs := realStores(b)
	b.SetBytes(benchPacks * packs[0].MessageLen)
	for b.Loop() {
		b.StopTimer()
		if err := os.RemoveAll(dirs[1] + "/t"); err != nil {
			b.Fatal(err)
		}
		s, err := dir.Open(dir.Config{Path: dirs[1]})
		if err != nil {
			b.Fatal(err)
		}
		members[1].Store = s
		b.StartTimer()
		rep := List(context.Background(), members, testPrefix).Repairer(testPrefix, RepairConfig{Stores: 3})
		var workers errgroup.Group
		workers.SetLimit(4)
		var written atomic.Int64
		for _, p := range packs {
			workers.Go(func() error {
				m, err := rep.Pack(context.Background(), p)
				if err == nil {
					written.Add(int64(len(m.Writes)))
				}
				return err
			})
		}
		if err := workers.Wait(); err != nil || written.Load() != benchPacks {
			b.Fatal(written.Load(), err)
		}
	}
}
