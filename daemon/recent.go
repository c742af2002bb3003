package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A Said is one record of the daemon's log, for a support bundle.
type Said struct {
	Time    time.Time      `json:"time"`
	Level   string         `json:"level"`
	Message string         `json:"message"`
	Attrs   map[string]any `json:"attrs,omitempty"` // numbers and texts
}

func (s Said) add(a slog.Attr) {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindInt64, slog.KindUint64, slog.KindBool, slog.KindTime:
		s.Attrs[a.Key] = v.Any()
	default:
		s.Attrs[a.Key] = v.String()
	}
}

// keepSaid is how many of them the daemon remembers.
const keepSaid = 2000

// Recent is a slog.Handler that remembers the last records and hands all on: where the log goes, a
// program without rights may not be able to read it again.
type Recent struct {
	slog.Handler
	attrs []slog.Attr
	kept  *kept
}

type kept struct {
	mu   sync.Mutex
	ring []Said // guarded by mu
	next int    // guarded by mu
}

// NewRecent returns one that hands on to another handler.
func NewRecent(to slog.Handler) *Recent { return &Recent{Handler: to, kept: &kept{}} }

// Handle implements slog.Handler.
func (r *Recent) Handle(ctx context.Context, rec slog.Record) error {
	s := Said{Time: rec.Time, Level: rec.Level.String(), Message: rec.Message, Attrs: map[string]any{}}
	for _, a := range r.attrs {
		s.add(a)
	}
	rec.Attrs(func(a slog.Attr) bool {
		s.add(a)
		return true
	})
	r.kept.mu.Lock()
	if len(r.kept.ring) < keepSaid {
		r.kept.ring = append(r.kept.ring, s)
	} else {
		r.kept.ring[r.kept.next] = s
		r.kept.next = (r.kept.next + 1) % keepSaid
	}
	r.kept.mu.Unlock()
	return r.Handler.Handle(ctx, rec)
}

// WithAttrs implements slog.Handler.
func (r *Recent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Recent{r.Handler.WithAttrs(attrs), append(append([]slog.Attr{}, r.attrs...), attrs...), r.kept}
}

// Said are those that are remembered, oldest first.
func (r *Recent) Said() []Said {
	r.kept.mu.Lock()
	defer r.kept.mu.Unlock()
	return append(append([]Said{}, r.kept.ring[r.kept.next:]...), r.kept.ring[:r.kept.next]...)
}
