package spread

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"strongroom/erasure"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// column reads one column of a pack on every store.
func (r *rig) column(s *sample, c int) Sampled {
	r.t.Helper()
	got, err := r.list().Sampler(testPrefix).Column(context.Background(), s.Pack, c)
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// Every single store that lies about everything, with right headers and right
// checksums, is named by one column, if there is one store more than it takes.
func TestOneColumnNamesAStoreThatLies(t *testing.T) {
	for n := 2; n <= 6; n++ {
		r := newRig(t, n)
		s := r.make(messageLen)
		r.put(s)
		if got := r.column(s, 0); len(got.Wrong) > 0 || got.Doubt != "" || got.Read != int64(n*erasure.Column) {
			t.Fatalf("%v: nothing is wrong, but: %+v", s.Geometry, got)
		}
		for liar := range n {
			r.replace(s, liar, forged(t, s, liar))
			for c := range s.Header(0).Columns() {
				got := r.column(s, c)
				if len(got.Wrong) != 1 || got.Wrong[0].Member != liar || got.Doubt != "" {
					t.Errorf("%v: store %d lies in column %d, found: %+v", s.Geometry, liar, c, got)
				}
			}
			r.replace(s, liar, s.shards[liar])
		}
	}
}

// A store that answers wrong only where it expects no hash to be compared: whole
// reads are right. Where the others outvote it, it is named; else the doubt is.
func TestAStoreThatLiesInPartsOnly(t *testing.T) {
	for _, n := range []int{3, 4} {
		r := newRig(t, n)
		s := r.make(messageLen)
		r.put(s)
		r.faulty[1].Inject(func(op storetest.Op, _ string) storetest.Mishap {
			if op == storetest.OpGet {
				r.faulty[1].Up() // once
				return storetest.Mishap{How: storetest.Flip}
			}
			return storetest.Mishap{}
		})
		got := r.column(s, 1)
		if n == 3 && (len(got.Wrong) > 0 || !strings.Contains(got.Doubt, `shard 1 on "store1"`)) {
			t.Errorf("2+1: %+v", got)
		}
		if n == 4 && (len(got.Wrong) != 1 || got.Wrong[0].Member != 1 || got.Doubt != "") {
			t.Errorf("2+2: %+v", got)
		}
	}
}

func TestASampleFindsWhatIsListedAndNotThere(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.faulty[2].Inject(func(op storetest.Op, _ string) storetest.Mishap {
		if op == storetest.OpGet {
			return storetest.Mishap{How: storetest.Fail, Err: store.ErrNotExist}
		}
		return storetest.Mishap{}
	})
	if got := r.column(s, 0); len(got.Wrong) != 1 || got.Wrong[0].Member != 2 || got.Wrong[0].State != Missing {
		t.Errorf("%+v", got)
	}
}

// With no more than k shards nothing can contradict; decay is still found.
func TestASampleOfTheLastShardsComparesTheirChecksums(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	r.damage(s, 0, "lost")
	r.object(s, 1)[erasure.PayloadOffset(2)] ^= 1
	if got := r.column(s, 2); len(got.Wrong) != 1 || got.Wrong[0].Member != 1 {
		t.Errorf("%+v", got)
	}
	if got := r.column(s, 1); len(got.Wrong) != 0 || got.Doubt != "" {
		t.Errorf("%+v", got)
	}
}

// Reading whole packs to name a liar is bounded: then the doubt is told.
func TestWholeReadsOfASampleAreBounded(t *testing.T) {
	r := newRig(t, 3)
	sampler := (*Sampler)(nil)
	var packs []*sample
	for range wholeReads + 2 {
		s := r.make(3 * erasure.Column)
		r.put(s)
		r.replace(s, 0, forged(t, s, 0))
		packs = append(packs, s)
	}
	sampler = r.list().Sampler(testPrefix)
	named, doubts := 0, 0
	for _, s := range packs {
		got, err := sampler.Column(context.Background(), s.Pack, 0)
		if err != nil {
			t.Fatal(err)
		}
		named += len(got.Wrong)
		if got.Doubt != "" {
			doubts++
		}
	}
	if named != wholeReads || doubts != 2 {
		t.Errorf("%d named, %d in doubt", named, doubts)
	}
}

// A scrub reads what it is told in that order, store by store, and says of each
// object what it is.
func TestAScrubJudgesEveryObject(t *testing.T) {
	r := newRig(t, 3)
	var tasks []Task
	want := map[string]State{}
	for n := range 6 {
		s := r.make(messageLen)
		r.put(s)
		r.damage(s, n%3, []string{"flipped", "swapped"}[n%2])
		for _, c := range r.list().Copies(testPrefix, s.Pack) {
			tasks = append(tasks, Task{s.Pack, c})
			want[fmt.Sprint(c.Member, c.Key)] = Good
			if c.Index == n%3 {
				want[fmt.Sprint(c.Member, c.Key)] = Damaged
			}
		}
	}
	got := map[string]State{}
	var read int64
	err := r.list().Scrubber().Run(context.Background(), tasks, func(task Task, v Verdict) error {
		got[fmt.Sprint(task.Member, task.Key)] = v.State
		read += v.Read
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(tasks) || read != int64(len(tasks))*tasks[0].Pack.ShardLen() {
		t.Errorf("%d of %d objects, %d bytes", len(got), len(tasks), read)
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %s, said was %q", k, v, got[k])
		}
	}
	stop := fmt.Errorf("no room for what was found")
	if err := r.list().Scrubber().Run(context.Background(), tasks, func(Task, Verdict) error { return stop }); err != stop {
		t.Errorf("an error of the caller's became %v", err)
	}
}

// After the bad attempt was deleted the good one is still found.
func TestALaterAttemptIsFoundWithoutTheFirst(t *testing.T) {
	r := newRig(t, 3)
	s := r.make(messageLen)
	r.put(s)
	for i := range 3 {
		r.mem[i].Objects[s.Key(testPrefix, i, 5)] = s.shards[i]
		delete(r.mem[i].Objects, s.Key(testPrefix, i, 0))
	}
	r.mustRead(r.reader(), s, 0, s.Segments(), "attempt 5 alone")
	v := r.list()
	v.Spoil(0, s.Key(testPrefix, 0, 5))
	if got := v.Present(testPrefix, s.Pack); len(got[0]) > 0 || !slices.Equal(got[1], []int{1}) {
		t.Errorf("a spoiled copy counts: %v", got)
	}
	r.mustRead(v.Reader(testPrefix), s, 0, s.Segments(), "with a copy that was found bad")
}
