package s3

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"strongroom/repo/store"
)

const (
	backoffBase = 200 * time.Millisecond
	backoffCap  = 20 * time.Second
)

// retrier repeats what failed for a passing reason, with exponential backoff
// and full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015).
type retrier struct {
	budget time.Duration
	now    func() time.Time
	sleep  func(context.Context, time.Duration) error
}

func newRetrier(c Config) retrier {
	r := retrier{budget: orDefault(c.RetryBudget, defaultBudget), now: c.Now, sleep: c.Sleep}
	if r.now == nil {
		r.now = time.Now
	}
	if r.sleep == nil {
		r.sleep = store.Sleep
	}
	return r
}

// do calls attempt until it succeeds, fails for good, or the budget is spent.
func (r retrier) do(ctx context.Context, attempt func() error) error {
	w := r.start()
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if err := w.wait(ctx, err); err != nil {
			return err
		}
	}
}

// waiting is the patience of one call.
type waiting struct {
	r     retrier
	began time.Time
	tries int
}

func (r retrier) start() *waiting { return &waiting{r: r, began: r.now()} }

// wait returns nil when the call may be tried again, and otherwise the error
// to give up with.
func (w *waiting) wait(ctx context.Context, err error) error {
	// The caller's own end comes first: it may look like any network error.
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	err, passing := classify(err)
	if !passing {
		return err
	}
	w.tries++
	longest := min(backoffCap, backoffBase<<min(w.tries-1, 10))
	pause := time.Duration(rand.Int64N(int64(longest)) + 1)
	spent := w.r.now().Sub(w.began)
	if spent+pause > w.r.budget {
		if !errors.Is(err, store.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		return fmt.Errorf("gave up after %d attempts in %s: %w", w.tries, spent.Round(time.Millisecond), err)
	}
	return w.r.sleep(ctx, pause)
}
