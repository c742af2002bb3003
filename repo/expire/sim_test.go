package expire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/repo"
	"strongroom/repo/retain"
	"strongroom/repo/spread"
	"strongroom/repo/store/storetest"
)

// simTenant is a tenant and what the model says of it.
type simTenant struct {
	*world
	id      int
	buried  map[string]time.Time // by generation: when its grace ends
	expired map[string]bool      // snapshots that a burial named
	n       byte
}

type sim struct {
	t       *testing.T
	chance  *rand.Rand
	clock   time.Time
	stores  []*simStore
	tenants []*simTenant
	step    *simStep
	said    []string
	stale   map[string][]byte // of a store that will come back as it was
}

func newSim(t *testing.T, seed uint64, tenants, stores int) *sim {
	s := &sim{t: t, chance: rand.New(rand.NewPCG(seed, 4)), clock: time.Date(2026, 1, 4, 2, 0, 0, 0, time.UTC), step: &simStep{}}
	var members []spread.Member
	for i := range stores {
		st := &simStore{sim: s, mem: storetest.NewMemory()}
		f := storetest.NewFaulty(st.mem)
		f.Inject(st.hook)
		s.stores = append(s.stores, st)
		members = append(members, spread.Member{Name: fmt.Sprintf("store%d", i), Store: f})
	}
	signer := newSigner(1)
	trust := remembering(func(box [32]byte, _ uint32, m, sig []byte) error {
		if box != signer.Public() || !ed25519.Verify(box[:], m, sig) {
			return errors.New("not by the box")
		}
		return nil
	})
	for i := range tenants {
		w := &world{t: t, base: fastDir(t), n: stores, signer: signer, grace: time.Duration(s.chance.IntN(15)) * 24 * time.Hour, per: 2 + s.chance.IntN(5), saved: map[string][]byte{},
			policy: []retain.Policy{{Last: 3}, {Last: 1}, {Weekly: 4, Monthly: 2}, {Within: 30 * 24 * time.Hour}, {}, {Daily: 2, Yearly: 1}}[s.chance.IntN(6)]}
		w.r = &repo.Repo{Tenant: repo.ID{byte(i + 1)}, Catalogue: testKey{8}, Members: members, Trust: trust}
		if err := os.MkdirAll(w.state(), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if w.spool, err = repo.OpenSpool(filepath.Join(w.state(), "spool"), 0); err != nil {
			t.Fatal(err)
		}
		s.tenants = append(s.tenants, &simTenant{world: w, id: i, buried: map[string]time.Time{}, expired: map[string]bool{}})
	}
	return s
}

// remembering is a Trust that verifies each signature once: in five years the
// same tombstones are listed thousands of times.
func remembering(trust repo.Trust) repo.Trust {
	var mu sync.Mutex
	good := map[[sha256.Size]byte]bool{}
	return func(box [32]byte, incarnation uint32, m, sig []byte) error {
		h := sha256.New()
		fmt.Fprintf(h, "%x %d %d %x ", box, incarnation, len(m), sig)
		h.Write(m)
		id := [sha256.Size]byte(h.Sum(nil))
		mu.Lock()
		known := good[id]
		mu.Unlock()
		if known {
			return nil
		}
		err := trust(box, incarnation, m, sig)
		if err == nil {
			mu.Lock()
			good[id] = true
			mu.Unlock()
		}
		return err
	}
}

func (s *sim) say(format string, a ...any) {
	s.said = append(s.said, s.clock.Format(time.DateOnly)+" "+fmt.Sprintf(format, a...))
}

// fail ends the run and shows what led to it.
func (s *sim) fail(format string, a ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, a...), strings.Join(s.said[max(0, len(s.said)-30):], "\n"))
}

// spoil makes something go wrong in the step to come, or not.
func (s *sim) spoil() {
	s.step = &simStep{}
	if s.chance.IntN(4) == 0 {
		s.step.at = 1 + s.chance.IntN(60)
		s.step.how = []storetest.How{storetest.Fail, storetest.FailAfter, storetest.Lie, storetest.Flip, storetest.Truncate, cutOff}[s.chance.IntN(6)]
	}
}

func (s *sim) calm() { s.step = &simStep{} }

// ill is the store that is not well, if one is.
func (s *sim) illStore() *simStore {
	for _, st := range s.stores {
		if st.ill != "" {
			return st
		}
	}
	return nil
}

// save takes a snapshot; what it holds is new to half.
func (s *sim) save(n *simTenant, origin *repo.Origin, data []byte, fresh string) (*repo.Saved, error) {
	ctx := context.Background()
	sv, err := n.r.Begin(ctx, repo.SaveConfig{Dataset: dataset, Dir: n.state(), Spool: n.spool, Keys: testKeys{}, Signer: n.signer, Incarnation: 1, Fresh: fresh,
		PerGeneration: n.per, Now: func() time.Time { return s.clock }, Log: func(string, ...any) {}})
	if err != nil {
		return nil, err
	}
	if _, err := sv.Add(ctx, repo.StreamSpec{Name: "a", Kind: "opaque"}, bytes.NewReader(data)); err != nil {
		sv.Abort(err)
		return nil, err
	}
	return sv.Commit(ctx, repo.Commit{Catalogue: repo.Catalogue{Dataset: "crm", Label: fmt.Sprintf("%x", sha256.Sum256(data)), Origin: origin}})
}

// next is what the tenant's dataset holds this week.
func (n *simTenant) next() []byte {
	n.n++
	data := make([]byte, 3000)
	rand.NewChaCha8([32]byte{byte(n.id)}).Read(data[:1500])
	rand.NewChaCha8([32]byte{byte(n.id), n.n, 1}).Read(data[1500:])
	return data
}

func (s *sim) backupCalm(n *simTenant) {
	data := n.next()
	saved, err := s.save(n, nil, data, "")
	if err != nil {
		s.fail("tenant %d: a backup in peace: %v", n.id, err)
	}
	n.saved[saved.ID] = data
}

func (s *sim) backup(n *simTenant) {
	data := n.next()
	s.spoil()
	saved, err := s.save(n, nil, data, "")
	hit := s.step.hit()
	s.say("tenant %d: backup: %v (fault %v at %d: %v)", n.id, err, s.step.how, s.step.at, hit)
	if err == nil {
		n.saved[saved.ID] = data
		return
	} else if !hit {
		s.fail("tenant %d: a backup without a fault: %v", n.id, err)
	}
	// Unattended: what is there is gone on with.
	s.calm()
	if saved, err = s.save(n, nil, data, ""); err != nil {
		s.fail("tenant %d: the backup after one that failed: %v", n.id, err)
	}
	n.saved[saved.ID] = data
}

func (s *sim) expire(n *simTenant) {
	n.clock = s.clock
	c := n.config()
	c.Deleters = nil
	for _, st := range s.stores {
		c.Deleters = append(c.Deleters, removing{st})
	}
	before := s.others(n)
	live := map[string]int{} // objects of generations that are not buried
	s.spoil()
	p, err := Prepare(context.Background(), c)
	if err == nil {
		for _, snap := range p.l.Snapshots {
			live[snap.Generation.String()] = 0
		}
		for _, b := range p.Burials {
			delete(live, b.Generation)
		}
		for g := range live {
			live[g] = s.count(n, g)
		}
		s.mayDo(n, p)
		err = p.Do(context.Background())
	}
	hit := s.step.hit()
	s.say("tenant %d: expire: %v (fault %v at %d: %v)", n.id, err, s.step.how, s.step.at, hit)
	if err != nil && !hit && s.illStore() == nil {
		s.fail("tenant %d: an expiry without a fault: %v", n.id, err)
	}
	if s.others(n) != before {
		s.fail("tenant %d's expiry changed what others have", n.id)
	}
	for g, was := range live {
		if now := s.count(n, g); now < was {
			s.fail("tenant %d: generation %.8s is live and has %d objects of %d", n.id, g, now, was)
		}
	}
}

// mayDo holds a plan against the model.
func (s *sim) mayDo(n *simTenant, p *Plan) {
	if len(n.holds) > 0 && len(p.Burials)+len(p.Deletions) > 0 {
		s.fail("tenant %d is held: %+v", n.id, p)
	}
	for _, b := range p.Burials {
		n.buried[b.Generation] = s.clock.Add(n.grace)
		for _, id := range b.Snapshots {
			n.expired[id] = true
		}
		if n.policy.Empty() && len(n.copies()) == 0 {
			s.fail("tenant %d has no policy and buries %v", n.id, b.Snapshots)
		}
	}
	for _, d := range p.Deletions {
		// The tombstone's times have whole seconds, and so has this clock.
		if end, ok := n.buried[d.Generation]; !ok || s.clock.Before(end) {
			s.fail("tenant %d: deletes of generation %.8s, grace ends %v", n.id, d.Generation, end)
		}
	}
}

func (n *simTenant) copies() map[string]string {
	st, err := ReadState(n.state())
	if err != nil {
		n.t.Fatal(err)
	}
	return st.Copies
}

func (s *sim) count(n *simTenant, g string) (sum int) {
	prefix := n.r.Tenant.String() + "/" + g
	for _, st := range s.stores {
		for k := range st.mem.Objects { // nothing else runs
			if strings.HasPrefix(k, prefix) {
				sum++
			}
		}
	}
	return sum
}

func (s *sim) others(n *simTenant) (sum int) {
	for _, o := range s.tenants {
		if o != n {
			sum += s.count(o, "")
		}
	}
	return sum
}

// compact copies what is kept into a fresh generation, as the daemon does.
func (s *sim) compact(n *simTenant) {
	s.calm()
	n.clock = s.clock
	p, err := Prepare(context.Background(), n.config())
	if err != nil || len(p.Frozen) > 0 {
		return
	}
	fresh := "the dataset is compacted"
	for _, snap := range p.l.Of(dataset) {
		if p.unfinished(snap, p.l.Of(dataset)) || p.replaced(snap, p.l.Of(dataset)) != "" {
			continue
		}
		o := &repo.Origin{Manifest: snap.HexHash(), Time: snap.Time}
		o.Epoch, o.Sequence = snap.Place()
		data := n.saved[snap.ID()]
		saved, err := s.save(n, o, data, fresh)
		if err != nil {
			s.fail("tenant %d: copy of %s: %v", n.id, snap.ID(), err)
		}
		fresh = ""
		n.saved[saved.ID] = data
		l, err := n.r.List(context.Background())
		if err != nil {
			s.fail("%v", err)
		}
		made, err := l.Find(dataset, saved.ID)
		if err != nil {
			s.fail("tenant %d: the copy is not listed: %v", n.id, err)
		}
		st, err := ReadState(n.state())
		if err == nil {
			st.Copies[snap.HexHash()] = made.HexHash()
			err = st.Write(n.state())
		}
		if err != nil {
			s.fail("%v", err)
		}
	}
	s.say("tenant %d: compacted", n.id)
}

// repair drains a store, or fills one, or does neither.
func (s *sim) repair(n *simTenant, drain, fill string, whole bool) {
	r, err := n.r.Repair(context.Background(), repo.RepairConfig{Spool: n.spool, ReadData: true, Drain: drain, Fill: fill, Signer: n.signer, Incarnation: 1, Now: func() time.Time { return s.clock },
		Mark: func(m repo.Mark) error { // whoever may delete does so at once
			for i, st := range s.stores {
				if fmt.Sprintf("store%d", i) == m.Store {
					st.mem.Delete(context.Background(), m.Object)
				}
			}
			return nil
		}})
	if whole && (err != nil || !r.Whole()) {
		s.fail("tenant %d: repair: %+v, %v", n.id, r, err)
	}
}

// mustHold checks a tenant against the model: what is listed restores
// bit-exactly, and what was committed and no burial named is listed.
func (s *sim) mustHold(n *simTenant) {
	s.calm()
	ctx := context.Background()
	l, err := n.r.List(ctx)
	if err != nil {
		s.fail("%v", err)
	}
	listed := map[string]bool{}
	for _, snap := range l.Snapshots {
		var label string
		if snap.Entry != nil {
			label = snap.Entry.Label
		}
		key, _ := testKeys{}.Generation(repo.ID{}, repo.ID{}, snap.Generation)
		o, err := l.Open(ctx, snap, key)
		if err != nil {
			s.fail("tenant %d: snapshot %s: %v", n.id, snap.ID(), err)
		}
		r, err := o.Read(ctx, "a", 0, -1)
		if err != nil {
			s.fail("tenant %d: snapshot %s: %v", n.id, snap.ID(), err)
		}
		got, err := io.ReadAll(r)
		r.Close()
		if want, known := n.saved[snap.ID()]; err != nil || known && !bytes.Equal(got, want) || fmt.Sprintf("%x", sha256.Sum256(got)) != label {
			s.fail("tenant %d: snapshot %s does not restore: %v", n.id, snap.ID(), err)
		}
		n.saved[snap.ID()] = got // a run that failed may have committed it
		listed[snap.ID()] = true
	}
	for id := range n.saved {
		if !listed[id] && !n.expired[id] {
			s.fail("tenant %d: snapshot %s is gone; problems %v", n.id, id, l.Problems)
		}
	}
	ever, left := map[string]bool{}, map[string]bool{} // a copy is no second snapshot
	for id, data := range n.saved {
		ever[string(data)] = true
		if listed[id] {
			left[string(data)] = true
		}
	}
	if len(left) < min(retain.Newest, len(ever)) {
		s.fail("tenant %d: %d snapshots are left of %d", n.id, len(left), len(ever))
	}
}

// week is one week of the house.
func (s *sim) week() {
	s.clock = s.clock.Add(week)
	s.calm()
	if st := s.illStore(); st != nil && s.chance.IntN(3) == 0 {
		s.say("the store that was %q is well", st.ill)
		if st.ill = ""; s.stale != nil {
			st.mem.Objects, s.stale = s.stale, nil
			s.say("but it is as it was weeks ago")
		}
		s.heal()
	} else if st == nil && s.chance.IntN(4) == 0 {
		s.trouble(s.stores[s.chance.IntN(len(s.stores))])
	}
	for _, n := range s.tenants {
		s.backup(n)
		s.mustHold(n)
		switch s.chance.IntN(8) {
		case 0:
			n.holds = []retain.Hold{{Scope: "acme", Reason: "lawsuit"}}
		case 1, 2:
			n.holds = nil
		case 3:
			if s.illStore() == nil {
				s.compact(n)
			}
		}
		s.expire(n)
		s.mustHold(n)
	}
}

// heal repairs for every tenant; only then another store may fall ill.
func (s *sim) heal() {
	for _, n := range s.tenants {
		s.repair(n, "", "", true)
	}
}

// trouble befalls one store.
func (s *sim) trouble(st *simStore) {
	name := fmt.Sprintf("store%d", slices.Index(s.stores, st))
	what := []string{"down", "flips", "full", "denies listings", "stale", "lost", "drained", "rot"}[s.chance.IntN(8)]
	s.say("%s: %s", name, what)
	switch what {
	case "stale":
		s.stale, st.ill = maps.Clone(st.mem.Objects), "down"
	case "lost", "drained": // and an empty one in its place
		if what == "drained" {
			for _, n := range s.tenants {
				s.repair(n, name, "", false)
			}
		}
		st.mem.Objects = map[string][]byte{}
		for _, n := range s.tenants {
			s.repair(n, "", name, true)
		}
	case "rot":
		for _, k := range slices.Sorted(maps.Keys(st.mem.Objects)) {
			if b := bytes.Clone(st.mem.Objects[k]); strings.Contains(k, "/s-") && s.chance.IntN(3) == 0 {
				b[s.chance.IntN(len(b))] ^= 1 << s.chance.IntN(8)
				st.mem.Objects[k] = b
			}
		}
		s.heal()
	default:
		st.ill = what
	}
}

// end brings all to rest: weeks without trouble, after which nothing is left of
// what was buried before them.
func (s *sim) end() {
	s.calm()
	for _, st := range s.stores {
		st.ill = ""
	}
	s.stale = nil
	s.heal()
	old := map[*simTenant][]string{}
	for _, n := range s.tenants {
		n.holds = nil
		for g := range n.buried {
			old[n] = append(old[n], g)
		}
	}
	for round := 0; ; round++ {
		s.clock = s.clock.Add(week)
		left := 0
		for _, n := range s.tenants {
			s.calm()
			s.backupCalm(n)
			s.expireCalm(n)
			for _, g := range old[n] {
				left += s.count(n, g+"/s-") + s.count(n, g+"/m-")
			}
		}
		if left == 0 {
			break
		} else if round > 30 {
			s.fail("%d objects of generations that were buried long ago stay", left)
		}
	}
	for _, n := range s.tenants {
		s.mustHold(n)
	}
}

func (s *sim) expireCalm(n *simTenant) {
	n.clock = s.clock
	c := n.config()
	c.Deleters = nil
	for _, st := range s.stores {
		c.Deleters = append(c.Deleters, removing{st})
	}
	p, err := Prepare(context.Background(), c)
	if err == nil {
		s.mayDo(n, p)
		err = p.Do(context.Background())
	}
	if err != nil || len(p.Frozen) > 0 {
		s.fail("tenant %d: expiry in peace: %v, frozen %q", n.id, err, p.Frozen)
	}
}

// Tenants share stores for half a year, or for five: weekly backups and
// expiries, compactions, holds, repairs, stores that are away, lie, are replaced
// or drained, and calls that go wrong. After each step the model is asked.
// A seed of 26 weeks takes some five seconds.
func TestSimulation(t *testing.T) {
	weeks := 26
	if storetest.Full() {
		weeks = 260
	}
	storetest.CountRuns(t, fmt.Sprintf("simulation of %d weeks, 8 tenants", weeks)).Seeds(20, 500, func(t *testing.T, seed uint64) {
		s := newSim(t, seed, 8, 3+int(seed%2))
		for range weeks {
			s.week()
		}
		s.end()
	})
}
