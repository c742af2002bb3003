package expire

import (
	"context"
	"sync"

	"strongroom/repo/store"
	"strongroom/repo/store/storetest"
)

// removing is a deleter that goes wrong with its store.
type removing struct{ s *simStore }

func (d removing) Delete(ctx context.Context, key string) error {
	switch m := d.s.hook("delete", key); m.How {
	case storetest.Fail:
		return store.ErrUnavailable
	case storetest.Lie:
		return nil
	case storetest.FailAfter:
		d.s.mem.Delete(ctx, key)
		return store.ErrUnavailable
	}
	return d.s.mem.Delete(ctx, key)
}

// simStore is a store of the simulation: it may be ill for weeks, and besides
// one call of a step goes wrong.
type simStore struct {
	sim *sim
	mem *storetest.Memory
	ill string // "", "down", "flips", "full", "denies listings"
}

func (s *simStore) hook(op storetest.Op, key string) storetest.Mishap {
	switch {
	case s.ill == "down",
		s.ill == "full" && op == storetest.OpPut,
		s.ill == "denies listings" && op == storetest.OpList:
		return storetest.Mishap{How: storetest.Fail}
	case s.ill == "flips" && op == storetest.OpGet:
		return storetest.Mishap{How: storetest.Flip}
	}
	return s.sim.step.meet()
}

// step is one step of the simulation: at its nth call something goes wrong.
type simStep struct {
	mu   sync.Mutex
	at   int // 0: all is well
	how  storetest.How
	seen int
}

func (s *simStep) meet() storetest.Mishap {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	switch {
	case s.at == 0 || s.seen < s.at:
	case s.how == cutOff:
		return storetest.Mishap{How: storetest.Fail}
	case s.seen == s.at:
		return storetest.Mishap{How: s.how}
	}
	return storetest.Mishap{}
}

// hit reports whether something went wrong in this step.
func (s *simStep) hit() bool { return s.at > 0 && s.seen >= s.at }
