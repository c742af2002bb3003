package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever writes, together they keep to it.
func TestPaceIsOfAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, begun := NewPace(1<<20), time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 64 { // 4 MiB each
					if err := p.Wait(t.Context(), Step); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if took := time.Since(begun); took != 16*time.Second {
			t.Errorf("16 MiB at 1 MiB/s took %v", took)
		}
		// What was not used is not saved up.
		time.Sleep(time.Hour)
		begun = time.Now()
		if err := p.Wait(t.Context(), 1<<20); err != nil || time.Since(begun) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := NewPace(1).Wait(ctx, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if err := (*Pace)(nil).Wait(t.Context(), 1<<40); err != nil {
			t.Errorf("no pace: %v", err)
		}
	})
}
