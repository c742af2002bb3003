package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"strongroom/repo/spread"
	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// A breakingReader gives left bytes of r and then err.
type breakingReader struct {
	r      io.Reader
	left   int64
	err    error
	before func() // called before it breaks, if not nil
}

func (b *breakingReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		if b.before != nil {
			b.before()
		}
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func TestStreamsAreAddedConcurrently(t *testing.T) {
	w := newSmallWorld(t, 3)
	ctx := context.Background()
	for week := range uint64(2) {
		s, err := w.r.Begin(ctx, w.config())
		if err != nil {
			t.Fatal(err)
		}
		var want []namedBytes
		for i := range 24 {
			want = append(want, namedBytes{fmt.Sprint("s", i), text(i*20000+int(week)*5000, uint64(i)/2)})
		}
		var wg sync.WaitGroup
		for i, n := range want {
			wg.Go(func() {
				if _, err := s.Add(ctx, StreamSpec{Order: i, Name: n.name}, bytes.NewReader(n.data)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := s.Commit(ctx, Commit{}); err != nil {
			t.Fatal(err)
		}
		w.mustRestore("", want...)
	}
}

// A stream that breaks, in whatever way, fails its snapshot, and nothing stays
// behind: no goroutine, no lock, no file that the next run trips over.
func TestAStreamThatBreaksFailsItsSnapshot(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newSmallWorld(t, 3)
	ctx := context.Background()
	broken := errors.New("the connection was cut")
	for name, readErr := range map[string]error{
		"an error":             broken,
		"an error around EOF":  fmt.Errorf("%w: %w", broken, io.EOF),
		"an unexpected EOF":    io.ErrUnexpectedEOF,
		"a cancelled upstream": context.Canceled,
	} {
		for _, at := range []int64{0, 1, 100 << 10, 3 << 20} {
			s, err := w.r.Begin(ctx, w.config())
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					if _, err := s.Add(ctx, StreamSpec{Name: fmt.Sprint("good", i)}, bytes.NewReader(random(1<<20, byte(i)))); err != nil {
						t.Errorf("%s at %d: another stream: %v", name, at, err)
					}
				})
			}
			if _, err := s.Add(ctx, StreamSpec{Name: "bad"}, &breakingReader{r: bytes.NewReader(random(4<<20, 9)), left: at, err: readErr}); err == nil || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("%s at %d: error is %v", name, at, err)
			}
			wg.Wait()
			// A caller that goes on all the same is stopped.
			if _, err := s.Commit(ctx, Commit{}); err == nil || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("%s at %d: commit: %v", name, at, err)
			}
		}
	}
	if l := w.list(); len(l.Snapshots) != 0 {
		t.Errorf("%d snapshots are listed", len(l.Snapshots))
	}
	w.mustSave(namedBytes{"a", []byte("x")})
}

func TestTwoStreamsOfOneNameAreRefused(t *testing.T) {
	w := newSmallWorld(t, 1)
	if _, err := w.save(namedBytes{"a", []byte("x")}, namedBytes{"a", []byte("y")}); err == nil || !strings.Contains(err.Error(), "name already") {
		t.Errorf("error is %v", err)
	}
}

// The packer fails (a full spool) while many streams run: all of them return.
func TestAFailingPackerStopsEveryStream(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newSmallWorld(t, 2)
	ctx := context.Background()
	c := w.config()
	full := storetest.NewFaulty(c.Spool.Store)
	full.Full()
	c.Spool = &Spool{Store: full, path: c.Spool.path}
	s, err := w.r.Begin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	w.faulty[0].Down()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			_, err := s.Add(ctx, StreamSpec{Name: fmt.Sprint("s", i)}, endless(i))
			if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "store0") {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	s.Abort(errors.New("full"))
	w.faulty[0].Up()
	w.mustSave(namedBytes{"a", []byte("x")})
}

func endless(seed int) io.Reader { return rand.NewChaCha8([32]byte{byte(seed), 7}) }

// The context ends at any operation of a run: it returns at once, leaves no
// goroutine and no lock, and the next run succeeds.
func TestCancellationAtAnyOperationIsHarmless(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	step := 3
	if testing.Short() || !faultsEverywhere(t) {
		step = 7
	}
	data := namedBytes{"a", random(2<<20, 1)}
	for n := 1; ; n += step {
		w := newSmallWorld(t, 2)
		w.mustSave(namedBytes{"a", []byte("week 1")})
		ctx, cancel := context.WithCancel(context.Background())
		var mu sync.Mutex
		left := n
		for _, f := range w.faulty {
			f.Inject(func(storetest.Op, string) storetest.Mishap {
				mu.Lock()
				defer mu.Unlock()
				if left--; left == 0 {
					cancel()
				}
				return storetest.Mishap{}
			})
		}
		err := w.saveWith(ctx, data)
		for _, f := range w.faulty {
			f.Up()
		}
		cancel()
		if left > 0 {
			if err != nil {
				t.Errorf("without a cancellation: %v", err)
			}
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at operation %d: %v", n, err)
		}
		if saved := w.mustSave(data); saved.Epoch != 1 {
			t.Errorf("cancelled at operation %d: a new generation began", n)
		}
		w.mustBeWhole(fmt.Sprintf("cancelled at operation %d", n))
		w.mustRestore("", data)
	}
}

// saveWith is save under a context.
func (w *world) saveWith(ctx context.Context, st namedBytes) error {
	s, err := w.r.Begin(ctx, w.config())
	if err != nil {
		return err
	}
	if _, err := s.Add(ctx, StreamSpec{Name: st.name}, bytes.NewReader(st.data)); err != nil {
		s.Abort(err)
		return err
	}
	_, err = s.Commit(ctx, Commit{})
	return err
}

func TestTenThousandTinyStreams(t *testing.T) {
	w := newSmallWorld(t, 1)
	n := 10000
	if testing.Short() {
		n = 1000
	}
	var want []namedBytes
	for i := range n {
		want = append(want, namedBytes{fmt.Sprint("t", i), fmt.Appendf(nil, "row of table %d", i)})
	}
	saved := w.mustSave(want...)
	if saved.Catalogue.Streams != n || saved.Catalogue.Stored > 4<<20 {
		t.Errorf("%d streams take %d bytes", saved.Catalogue.Streams, saved.Catalogue.Stored)
	}
	w.mustRestore("", want...)
}

// openNewest opens the newest snapshot.
func (w *world) openNewest() *Opened {
	w.t.Helper()
	l := w.list()
	s, err := l.Find(testDataset, "")
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := l.Open(context.Background(), s, w.keys.m[s.Generation])
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// Eight readers of one snapshot, whole and in ranges, also with a store down
// and with readers that stop half-way.
func TestRangesReadInParallelEqualTheStream(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w := newSmallWorld(t, 3)
	data := map[string][]byte{"a": text(5<<20, 1), "b": random(3<<20, 2), "c": []byte("z"), "d": nil}
	w.mustSave(namedBytes{"a", data["a"]}, namedBytes{"b", data["b"]}, namedBytes{"c", data["c"]}, namedBytes{"d", nil})
	copy(data["a"][1<<20:], random(10, 3))
	w.mustSave(namedBytes{"a", data["a"]}, namedBytes{"b", data["b"]}, namedBytes{"c", data["c"]}, namedBytes{"d", nil})
	for down := -1; down < 3; down += 2 {
		if down >= 0 {
			w.faulty[down].Down()
		}
		o := w.openNewest()
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() { readRanges(t, o, data, uint64(g)) })
		}
		wg.Wait()
		if down >= 0 {
			w.faulty[down].Up()
		}
	}
}

func readRanges(t *testing.T, o *Opened, data map[string][]byte, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	for n := range 12 {
		name := []string{"a", "a", "b", "c", "d"}[rng.IntN(5)]
		size := int64(len(data[name]))
		off := rng.Int64N(size + 1)
		length := rng.Int64N(size - off + 1)
		if n == 0 {
			off, length = 0, size
		}
		ctx, cancel := context.WithCancel(context.Background())
		r, err := o.Read(ctx, name, off, length)
		if err != nil {
			t.Error(err)
			cancel()
			return
		}
		if n%4 == 3 { // stops half-way
			io.CopyN(io.Discard, r, length/2)
		} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[name][off:off+length]) {
			t.Errorf("%s[%d:+%d]: %d bytes, %v", name, off, length, len(got), err)
		}
		r.Close()
		cancel()
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, 1 << 40}, {1 << 40, -1}, {int64(len(data["a"])), 1}} {
		if _, err := o.Read(context.Background(), "a", bad[0], bad[1]); err == nil {
			t.Errorf("range %v was opened", bad)
		}
	}
}

// sink is a store that keeps names and sizes only, so that what a backup of
// much data needs can be told from where it puts it.
type sink struct {
	mu sync.Mutex
	m  map[string]int64
}

func (s *sink) Put(_ context.Context, key string, body []byte, sum [32]byte) error {
	if sha256.Sum256(body) != sum {
		return errors.New("wrong hash")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[key] = int64(len(body))
	return nil
}

func (s *sink) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, store.ErrUnavailable
}

func (s *sink) Stat(_ context.Context, key string) (store.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.m[key]; ok {
		return store.Info{Key: key, Size: n}, nil
	}
	return store.Info{}, store.ErrNotExist
}

func (s *sink) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, n := range s.m {
			if strings.HasPrefix(k, prefix) && !yield(store.Info{Key: k, Size: n}, nil) {
				return
			}
		}
	}
}

// TestMemoryHelper saves, or restores, a long stream in a process of its own.
func TestMemoryHelper(t *testing.T) {
	mib, err := strconv.Atoi(os.Getenv("STRONGROOM_MEMORY_MIB"))
	if err != nil {
		t.Skip("runs in a process of its own, started by the test of memory")
	}
	LimitMemory()
	w := newWorld(t, 3)
	if os.Getenv("STRONGROOM_MEMORY_RESTORE") != "" {
		saveLong(t, w, int64(mib))
		resetPeak(t)
		r, err := w.openNewest().Read(context.Background(), "long", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != int64(mib)<<20 {
			t.Fatal(n, err)
		}
		r.Close()
	} else {
		for i := range w.r.Members {
			w.r.Members[i] = spread.Member{Name: w.r.Members[i].Name, Store: &sink{m: map[string]int64{}}}
		}
		saveLong(t, w, int64(mib))
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("peak %d MiB, heap from the system %d MiB\n", peak(t), m.HeapSys>>20)
}

func saveLong(t *testing.T, w *world, mib int64) {
	t.Helper()
	ctx := context.Background()
	s, err := w.r.Begin(ctx, w.config())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := s.Add(ctx, StreamSpec{Name: "long"}, io.LimitReader(&mixed{r: rand.NewChaCha8([32]byte{1})}, mib<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, Commit{}); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("saved %d MiB in %v\n", mib, time.Since(start))
}

// mixed is random bytes, some of which compress.
type mixed struct {
	r io.Reader
	n int
}

func (m *mixed) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.n++; m.n%8 == 0 {
		for i := range p[:n] {
			p[i] &= 0x0f
		}
	}
	return n, err
}

// peak is the largest resident set of this process so far, in MiB.
func peak(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("no /proc here (%v): the peak of memory was not measured", err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// resetPeak begins a new measurement (proc(5), clear_refs).
func resetPeak(t *testing.T) {
	for range 3 { // what pools hold goes with the second collection
		debug.FreeOSMemory()
	}
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Logf("the peak holds the backup too: %v", err)
	}
	fmt.Printf("before the restore: %d MiB\n", peak(t))
}

func TestMemoryDoesNotGrowWithTheStream(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory, which the race detector multiplies: that it does not grow was not seen")
	}
	long := 224
	if faultsEverywhere(t) {
		long = 10 << 10
	}
	for _, restore := range []string{"", "1"} {
		if restore != "" {
			long = min(long, 1<<10) // it lies in memory or on disk
		}
		var got [2]int
		for i, mib := range []int{64, long} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryHelper$")
			cmd.Env = append(os.Environ(), fmt.Sprintf("STRONGROOM_MEMORY_MIB=%d", mib), "STRONGROOM_MEMORY_RESTORE="+restore)
			out, err := cmd.CombinedOutput()
			_, rest, found := strings.Cut(string(out), "peak ")
			if _, scanErr := fmt.Sscan(rest, &got[i]); err != nil || !found || scanErr != nil {
				t.Fatalf("%v, %v\n%s", err, scanErr, out)
			}
			t.Logf("restore %q, %d MiB: %s", restore, mib, out)
		}
		if got[1] > 400 || got[1] > got[0]+40 {
			t.Errorf("restore %q: peaks of %v MiB", restore, got)
		}
	}
}

// A source that gives nothing more must not keep a run that has failed.
func TestAStreamThatIsGivenUpIsStopped(t *testing.T) {
	w := newSmallWorld(t, 1)
	s, err := w.r.Begin(t.Context(), w.config())
	if err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	go pw.Write(random(5<<19, 1))
	broken := errors.New("the disk is gone")
	time.AfterFunc(100*time.Millisecond, func() { s.packer.cancel(broken) })
	done := make(chan error)
	go func() {
		_, err := s.Add(t.Context(), StreamSpec{Name: "a", Stop: func() { pr.Close() }}, pr)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for its source")
	}
	s.Abort(broken)
}
