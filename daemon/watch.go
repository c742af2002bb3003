package daemon

import (
	"context"
	"errors"
	"time"

	"strongroom/daemon/state"
)

// A Happening is what somebody who watches is told.
type Happening struct {
	Time time.Time `json:"time"`
	// What is "goes on" (of a run that had begun before), "ready" (those are all),
	// "begins", "phase", "progress", "ended", "alarm" or "alarm over".
	What    string      `json:"what"`
	Run     state.RunID `json:"run,omitempty"`
	Job     string      `json:"job,omitempty"`
	Phase   string      `json:"phase,omitempty"`
	Done    int64       `json:"done,omitempty"`
	Total   int64       `json:"total,omitempty"`
	Outcome string      `json:"outcome,omitempty"`
	Reason  string      `json:"reason,omitempty"`
	Alarm   string      `json:"alarm,omitempty"` // its key
}

// ErrSlow ends the watch of somebody who does not read: a run waits for nobody.
var ErrSlow = errors.New("too slow: what happened meanwhile is in the list of runs")

// watchAhead is how many happenings wait for a watcher.
const watchAhead = 256

type watching struct {
	happenings chan Happening // closed when the watcher was too slow
}

// publish tells all who watch. What goes wrong with one is theirs.
func (d *Daemon) publish(h Happening) {
	h.Time = d.c.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.watches {
		// Progress is told when there is room: it comes again.
		if h.What == "progress" && len(w.happenings) > watchAhead/2 {
			continue
		}
		select {
		case w.happenings <- h:
		default:
			delete(d.watches, w)
			close(w.happenings)
		}
	}
}

// Watch tells what happens, first which runs go on, until ctx ends or tell
// returns an error.
func (d *Daemon) Watch(ctx context.Context, tell func(Happening) error) error {
	w := &watching{make(chan Happening, watchAhead)}
	d.mu.Lock()
	d.watches[w] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.watches, w)
		d.mu.Unlock()
	}()
	running, err := d.c.DB.Running(ctx)
	if err != nil {
		return err
	}
	for _, r := range running {
		if err := tell(Happening{Time: d.c.Now(), What: "goes on", Run: r.ID, Job: r.Job, Phase: r.Phase, Done: r.Done, Total: r.Total}); err != nil {
			return err
		}
	}
	if err := tell(Happening{Time: d.c.Now(), What: "ready"}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case h, ok := <-w.happenings:
			if !ok {
				return ErrSlow
			}
			if err := tell(h); err != nil {
				return err
			}
		}
	}
}
