package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// A Class is a resource of which few runs may have a share at once.
type Class string

// Media is the one writer of offline media.
const Media Class = "media"

// MaxSleep bounds how long the daemon may sleep before it plans again, however
// far the next run is: timers stand still while a machine is suspended, and do
// not know that the clock was set (golang/go#35012).
const MaxSleep = 30 * time.Second

// onTime is how late a run may start without being called missed.
const onTime = 15 * time.Minute

// maxMissed bounds how many missed runs are counted.
const maxMissed = 10_000

// A Job is what the planner knows of one.
type Job struct {
	ID   string
	Spec *Spec
	// Last is when the last tick was planned that was started or skipped and that
	// is not after now; before any, when the job was first seen. A clock that was
	// ahead leaves later ones behind: they do not count until it is their time,
	// or the job would stand still until then.
	Last time.Time
	Uses []Class
}

// Running is a run that has begun, by schedule or by hand, and has not ended.
type Running struct {
	Job   string
	Since time.Time
	Uses  []Class
}

// A Turn is one tick's turn to be started, skipped or held back. All ticks after
// Last are in exactly one of them, as the tick itself or among the missed.
type Turn struct {
	Job string
	Tick
	// Missed is how many earlier ticks were not run, and FirstMissed when the
	// first of them was planned. 10000 stands for that many or more.
	Missed      int
	FirstMissed time.Time
	// CatchUp: the run is late, or stands for missed ones.
	CatchUp bool
	// Reason is why it is skipped or waits.
	Reason string

	job   *Job
	since time.Time // when the first of them was due
}

// A Decision is what to do now. What is started or skipped is to be written down
// with its planned time before anything else happens: whoever claims the pair
// (job, planned) first has it, and no plan brings it again.
type Decision struct {
	Start []Turn
	Skip  []Turn
	// Wait are due, and something they use is taken: plan again when a run ends.
	Wait []Turn
	// Next is when the next run is due; zero when there is none. Plan again then,
	// when a run ends, and after MaxSleep at the latest.
	Next time.Time
}

// Plan decides. It depends on nothing but its arguments, so a crash between a
// plan and its execution costs nothing. A class without a limit has the limit 1.
func Plan(now time.Time, jobs []Job, running []Running, limits map[Class]int) Decision {
	var d Decision
	pool := shares{limits: limits, used: map[Class]int{}}
	since := map[string]time.Time{}
	for _, r := range running {
		since[r.Job] = r.Since
		pool.take(r.Uses)
	}

	var due []Turn
	for i := range jobs {
		j := &jobs[i]
		turn, next, ok := j.turn(now)
		if !next.IsZero() && (d.Next.IsZero() || next.Before(d.Next)) {
			d.Next = next
		}
		if !ok {
			continue
		}
		if began, is := since[j.ID]; is {
			turn.Reason = "still running since " + began.In(j.Spec.loc).Format("2006-01-02 15:04 MST")
			d.Skip = append(d.Skip, turn)
			continue
		}
		due = append(due, turn)
	}

	// Whoever waits longest is first, also when the next tick has come meanwhile:
	// or two that are always due would keep a third from what they share for ever.
	// The name makes it the same every time.
	slices.SortFunc(due, func(a, b Turn) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.Job, b.Job)) })
	for _, turn := range due {
		class, busy := pool.lacks(turn.job.Uses)
		switch late := now.Sub(turn.Due); {
		case late > onTime && !turn.job.Spec.catchUp:
			turn.Reason = fmt.Sprintf("missed by %v", late.Round(time.Minute))
			if busy {
				turn.Reason += ", waiting for " + string(class)
			}
			d.Skip = append(d.Skip, turn)
		case busy:
			turn.Reason = "waits for " + string(class)
			d.Wait = append(d.Wait, turn)
		default:
			pool.take(turn.job.Uses)
			d.Start = append(d.Start, turn)
		}
	}
	return d
}

// shares counts who uses which class.
type shares struct {
	limits, used map[Class]int
}

func (s shares) take(uses []Class) {
	for _, c := range uses {
		s.used[c]++
	}
}

// lacks names the first class of which nothing is left.
func (s shares) lacks(uses []Class) (Class, bool) {
	for _, c := range uses {
		limit, ok := s.limits[c]
		if !ok {
			limit = 1
		}
		if s.used[c] >= limit {
			return c, true
		}
	}
	return "", false
}

// turn finds the latest tick of a job that is due, the ones before that were
// missed, and when the next one is due.
func (j *Job) turn(now time.Time) (turn Turn, next time.Time, ok bool) {
	t, more := j.Spec.Next(j.Last)
	if !more || t.Due.After(now) {
		return Turn{}, t.Due, false
	}
	turn = Turn{Job: j.ID, Tick: t, job: j, since: t.Due}
	firstTick := t
	for {
		t, more = j.Spec.Next(turn.Planned)
		if !more || t.Due.After(now) {
			break
		}
		turn.Tick = t
		if turn.Missed++; turn.Missed == maxMissed {
			// After years there is no use in counting: near to now, and on.
			if far := now.Add(-2 * j.Spec.gap); far.After(turn.Planned) {
				if t, more = j.Spec.Next(far); more && !t.Due.After(now) {
					turn.Tick = t
				}
			}
		}
	}
	if turn.Missed > 0 {
		turn.FirstMissed = firstTick.Planned
		turn.Missed = min(turn.Missed, maxMissed)
	}
	turn.CatchUp = turn.Missed > 0 || now.Sub(turn.Due) > onTime
	return turn, t.Due, true
}

// Overdue tells whether success is overdue, by how much, and why it is thought
// so. last is the last success, or when the dataset was first seen. It knows
// nothing of schedules and plans: a planner that stands still must not be able
// to hide that.
func Overdue(now, last time.Time, period time.Duration) (by time.Duration, why string, overdue bool) {
	if ahead := last.Sub(now); ahead > period/4 {
		return 0, fmt.Sprintf("the last success lies %v in the future: the clock was set back, and its age is not known", ahead.Round(time.Minute)), true
	}
	deadline := last.Add(period + period/4)
	if !now.After(deadline) {
		return 0, "", false
	}
	by = now.Sub(deadline)
	return by, fmt.Sprintf("no success for %v, expected every %v", now.Sub(last).Round(time.Minute), period), true
}
