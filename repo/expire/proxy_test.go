package expire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"strongroom/repo"
	"strongroom/repo/spread"
	"strongroom/repo/store/s3"
	"strongroom/repo/store/storetest"
)

// A served house has a bucket behind a proxy as its first store.
type served struct {
	*world
	t      *testing.T
	proxy  *storetest.Proxy
	times  map[string]time.Time // of every snapshot that was ever listed or committed
	buried map[string]bool      // that a burial named
	said   []string
	hits   int // requests that met a fault
}

// serve puts what the world's first store holds into the bucket.
func serve(t *testing.T, w *world, p *storetest.Proxy, direct, c s3.Config, prefix string) *served {
	t.Helper()
	ctx, past := context.Background(), time.Unix(1e9, 0)
	direct.Prefix, c.Prefix = prefix, prefix
	// Pauses between attempts take no time.
	c.Now = func() time.Time { return past }
	c.Sleep = func(ctx context.Context, d time.Duration) error { past = past.Add(d); return ctx.Err() }
	c.RetryBudget, c.StallTimeout = 500*time.Millisecond, 250*time.Millisecond
	into, err := s3.Open(direct)
	if err != nil {
		t.Fatal(err)
	}
	data, stones := w.objects(0)
	for _, key := range append(data, stones...) {
		b, err := os.ReadFile(filepath.Join(w.dir(0), key))
		if err == nil {
			err = into.Put(ctx, key, b, sha256.Sum256(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(w.dir(0)); err != nil {
		t.Fatal(err)
	}
	st, err := s3.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	w.r.Members[0] = spread.Member{Name: "bucket", Store: st}
	h := &served{world: w, t: t, proxy: p, times: map[string]time.Time{}, buried: map[string]bool{}}
	h.look("at the start")
	return h
}

func (h *served) fail(format string, a ...any) {
	h.t.Helper()
	h.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, a...), strings.Join(h.said, "\n"))
}

// take takes a snapshot; its label is the hash of what it holds.
func (h *served) take() (*repo.Saved, error) {
	ctx := context.Background()
	h.clock = h.clock.Add(week)
	data := make([]byte, 3000)
	rand.NewChaCha8([32]byte{byte(len(h.said)), byte(len(h.times)), 2}).Read(data)
	s, err := h.r.Begin(ctx, repo.SaveConfig{Dataset: dataset, Dir: h.state(), Spool: h.spool, Keys: testKeys{}, Signer: h.signer, Incarnation: 1,
		PerGeneration: h.per, Now: func() time.Time { return h.clock }, Log: func(string, ...any) {}})
	if err != nil {
		return nil, err
	}
	if _, err := s.Add(ctx, repo.StreamSpec{Name: "a", Kind: "opaque"}, bytes.NewReader(data)); err != nil {
		s.Abort(err)
		return nil, err
	}
	saved, err := s.Commit(ctx, repo.Commit{Catalogue: repo.Catalogue{Dataset: "crm", Label: fmt.Sprintf("%x", sha256.Sum256(data))}})
	if err == nil {
		h.saved[saved.ID], h.times[saved.ID] = data, h.clock
	}
	return saved, err
}

func (h *served) mend() (*repo.Repaired, error) {
	return h.r.Repair(context.Background(), repo.RepairConfig{Spool: h.spool, ReadData: true, Signer: h.signer, Incarnation: 1,
		Now: func() time.Time { return h.clock }})
}

// drop expires, and holds the plan against what may never go.
func (h *served) drop() (*Plan, error) {
	h.clock = h.clock.Add(25 * time.Hour)
	c := h.config()
	c.Deleters[0] = h.r.Members[0].Store.(Deleter)
	p, err := Prepare(context.Background(), c)
	if err != nil {
		return nil, err
	}
	for _, b := range p.Burials {
		for _, id := range b.Snapshots {
			if slices.Contains(h.newest(), id) {
				h.fail("one of the newest three is to be buried: %+v", b)
			}
			h.buried[id] = true
		}
	}
	return p, p.Do(context.Background())
}

// newest are the newest three snapshots.
func (h *served) newest() []string {
	var ids []string
	for id := range h.times {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return h.times[b].Compare(h.times[a]) })
	return ids[:min(3, len(ids))]
}

// read restores a snapshot and says whether its bytes are the right ones.
func (h *served) read(l *repo.Listing, s *repo.Snapshot) (right bool, err error) {
	key, _ := testKeys{}.Generation(repo.ID{}, repo.ID{}, s.Generation)
	o, err := l.Open(context.Background(), s, key)
	if err != nil {
		return false, err
	}
	r, err := o.Read(context.Background(), "a", 0, -1)
	if err != nil {
		return false, err
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		return false, err
	}
	if want, ok := h.saved[s.ID()]; ok {
		return bytes.Equal(got, want), nil
	}
	h.saved[s.ID()] = got // of a run that failed after its commit
	return fmt.Sprintf("%x", sha256.Sum256(got)) == s.Entry.Label, nil
}

// look wants what was committed and not buried to be listed, and all that is
// listed to restore.
func (h *served) look(when string) {
	h.t.Helper()
	h.proxy.Inject(nil)
	l, err := h.r.List(context.Background())
	if err != nil {
		h.fail("%s: %v", when, err)
	}
	listed := map[string]bool{}
	for _, s := range l.Snapshots {
		if right, err := h.read(l, s); !right {
			h.fail("%s: snapshot %d.%d does not restore: %v", when, s.Epoch, s.Sequence, err)
		}
		listed[s.ID()], h.times[s.ID()] = true, s.Time
	}
	for id := range h.times {
		if !listed[id] && !h.buried[id] {
			h.fail("%s: snapshot %s is gone; problems %v", when, id, l.Problems)
		}
	}
}

// A kind of fault is made anew for each phase, by chance.
type kind struct {
	name  string
	short bool // it takes time, so a few requests meet it
	make  func(chance *rand.Rand) storetest.Fault
}

func always(f storetest.Fault) func(*rand.Rand) storetest.Fault {
	return func(*rand.Rand) storetest.Fault { return f }
}

func oneOf(list ...storetest.Fault) func(*rand.Rand) storetest.Fault {
	return func(chance *rand.Rand) storetest.Fault { return list[chance.IntN(len(list))] }
}

const skewed = "skewed clock"

var kinds = []kind{
	{"500", false, always(storetest.Refuse(http.StatusInternalServerError, "InternalError", "We encountered an internal error."))},
	{"503", false, always(storetest.Refuse(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate."))},
	{"429", false, always(storetest.Refuse(http.StatusTooManyRequests, "TooManyRequests", "Too many requests."))},
	{"reply lost after commit", false, always(storetest.DropReply)},
	{"reset", false, always(storetest.DropRequest)},
	{"stall", true, oneOf(storetest.StallRequest, storetest.StallReply)},
	{"slow answers", true, always(storetest.Drip)},
	{"truncated body", false, oneOf(storetest.CutReply, storetest.ShortReply)},
	{"flipped body", false, oneOf(storetest.FlipReply, storetest.FlipRequest)},
	{"stale listing", false, func(*rand.Rand) storetest.Fault { return storetest.StaleLists() }},
	{"partial listing", false, func(chance *rand.Rand) storetest.Fault {
		n := 1 + chance.IntN(4)
		return storetest.HideEntries(func(i int) bool { return i%4 < n })
	}},
	{"wrong ETag", false, always(storetest.WrongETag)},
	{"condition ignored", false, oneOf(storetest.IgnoreCondition, storetest.RejectCondition)},
	{"acknowledged but not stored", false, always(storetest.Acknowledge)},
	{skewed, false, func(chance *rand.Rand) storetest.Fault {
		return storetest.SkewClock([]time.Duration{-10 * 365 * 24 * time.Hour, -time.Hour, time.Hour, 24 * time.Hour}[chance.IntN(4)])
	}},
	{"revoked credentials", false, oneOf(storetest.Refuse(http.StatusForbidden, "InvalidAccessKeyId", "The key does not exist."),
		storetest.Refuse(http.StatusForbidden, "AccessDenied", "Access Denied."))},
}

// spoil lets some requests of what comes next meet the fault, and reports
// whether all do.
func (h *served) spoil(k kind, chance *rand.Rand) (all bool) {
	fault, from, n := k.make(chance), 0, []int{1, 2, 5, 1 << 20}[chance.IntN(4)]
	if k.short {
		n = min(n, 2)
	}
	if n < 1<<20 {
		from = chance.IntN(30)
	}
	seen := 0
	h.proxy.Inject(func(*storetest.Request) storetest.Fault {
		if seen++; seen > from && seen-n <= from {
			h.hits++
			return fault
		}
		return nil
	})
	h.said = append(h.said, fmt.Sprintf("requests %d to %d meet %q:", from+1, from+n, k.name))
	return from == 0 && n == 1<<20
}

// phases are the work of a week, most of it with the fault.
func (h *served) phases(k kind, chance *rand.Rand) {
	for _, what := range []string{"backup", "repair", "expire", "restore"} {
		h.proxy.Inject(nil)
		bad := chance.IntN(3) > 0
		all := bad && h.spoil(k, chance)
		var err error
		var saved *repo.Saved
		switch what {
		case "backup":
			saved, err = h.take()
		case "repair":
			_, err = h.mend()
		case "expire":
			var p *Plan
			if p, err = h.drop(); err == nil && all && k.name == skewed && len(p.Frozen) == 0 {
				h.fail("the clocks disagree and %+v is done", p)
			}
		case "restore":
			var l *repo.Listing
			if l, err = h.r.List(context.Background()); err != nil {
				break
			}
			for _, s := range l.Snapshots {
				if right, err := h.read(l, s); !right && err == nil {
					h.fail("wrong bytes of %d.%d were returned as good", s.Epoch, s.Sequence)
				}
			}
		}
		h.said = append(h.said, fmt.Sprintf("%s: %v", what, err))
		if err != nil && !bad {
			h.fail("%s fails without a fault: %v", what, err)
		}
		if bad {
			h.look(what)
		}
		if err == nil && saved != nil && saved.State() == "complete" {
			h.mustBeComplete(saved.ID)
		}
	}
}

// mustBeComplete wants a snapshot on every store, with a margin.
func (h *served) mustBeComplete(id string) {
	h.proxy.Inject(nil)
	l, err := h.r.List(context.Background())
	if err != nil {
		h.fail("%v", err)
	}
	s, err := l.Find(dataset, id)
	if err != nil || len(s.Stores) < len(h.r.Members) || l.Margin(s) < 1 {
		h.fail("snapshot %s counts as complete: %v, it is %+v", id, err, s)
	}
}

// settle wants all to come right by itself.
func (h *served) settle() {
	saved, err := h.take()
	if err != nil || saved.State() != "complete" {
		h.fail("a backup in peace: %+v, %v", saved, err)
	}
	if r, err := h.mend(); err != nil || !r.Whole() {
		h.fail("a repair in peace: %+v, %v", r, err)
	}
	for n := 0; ; n++ {
		p, err := h.drop()
		if err != nil || len(p.Frozen)+len(p.Stuck) > 0 || n > 10 {
			h.fail("expiry %d in peace: %+v, %v", n, p, err)
		}
		if len(p.Burials)+len(p.Carries)+len(p.Deletions)+len(p.Waiting) == 0 {
			break
		}
	}
	h.look("in peace")
	for id := range h.times {
		if !h.buried[id] {
			h.mustBeComplete(id)
		}
	}
}

// A real S3 server goes wrong in sixteen ways, at requests of any verb: nothing
// that was committed is lost, nothing that is kept is deleted, no wrong byte is
// returned as good, and when it is well again all comes right by itself.
func TestServiceThatGoesWrong(t *testing.T) {
	start := newWorld(t, 3)
	start.weeks(7)
	g := storetest.StartGateway(t)
	p := storetest.StartProxy(t, g)
	direct := g.CreateBucket(t, "faults")
	runs := storetest.CountRuns(t, "store faults through a proxy before versitygw")
	// The seeds of one kind are kind, kind + 16 and so on.
	hits := map[string]int{}
	runs.Seeds(10*len(kinds), 300*len(kinds), func(t *testing.T, seed uint64) {
		k, chance := kinds[seed%uint64(len(kinds))], rand.New(rand.NewPCG(seed, 5))
		from := *start
		from.t = t
		p.Inject(nil)
		h := serve(t, from.fork(), p, direct, p.Config("faults"), fmt.Sprintf("seed-%d/", seed))
		h.phases(k, chance)
		h.settle()
		hits[k.name] += h.hits
	})
	t.Logf("requests that met a fault: %v", hits)
	runs.Must(len(hits) > 0, "no request met a fault")
}
