package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// weeks26 shows that a generation's last week costs about what its second did.
func (b *bench) weeks26(ctx context.Context) error {
	s := b.ours("strongroom", "", b.filesSource())
	if err := s.create(ctx); err != nil {
		return err
	}
	t := b.table("26 weeks in one generation", fmt.Sprintf("Plain dumps that begin at about %d MB; bytes before parity; restores from the finished repository, medians of 3, compared by SHA-256.",
		b.data.small), "week", "dump", "backup: wall", "CPU", "growth", "restore: wall", "a GB")
	var before int64
	growth, perGB, saved, sizes := map[int]float64{}, map[int]float64{}, map[int]cost{}, map[int]int64{}
	for w := 1; w <= longWeeks; w++ {
		n, err := b.data.show("long", w)
		if err != nil {
			return err
		}
		if saved[w], err = s.save(ctx, w); err != nil {
			return fmt.Errorf("week %d: %w", w, err)
		}
		after, err := s.stored()
		if err != nil {
			return err
		}
		growth[w], sizes[w], before = float64(after-before), n, after
	}
	for _, w := range []int{1, 2, 13, longWeeks} {
		b.log("weeks26: restore week %d", w)
		if _, err := b.data.show("long", w); err != nil {
			return err
		}
		var costs []cost
		for range 3 {
			c, err := b.restoreSource(ctx, s, w)
			if err != nil {
				return fmt.Errorf("week %d: %w", w, err)
			}
			costs = append(costs, c)
		}
		wall := middle(costs).Wall
		perGB[w] = wall.Seconds() / (float64(sizes[w]) / 1e9)
		t.row(fmt.Sprint(w), mb(float64(sizes[w])), seconds(saved[w].Wall), seconds(saved[w].CPU), mb(growth[w]), seconds(wall), seconds(time.Duration(perGB[w]*1e9)))
	}
	b.goal("26 weeks: growth of week 26 to week 2", growth[longWeeks]/growth[2], 1.5, 1.3)
	b.goal("26 weeks: restore time a byte of week 26 to week 2", perGB[longWeeks]/perGB[2], 1.2, 1.0)
	if b.keep {
		return nil
	}
	return os.RemoveAll(s.dir)
}
