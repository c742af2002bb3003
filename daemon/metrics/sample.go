package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"strongroom/daemon"
	"strongroom/daemon/notify"
	"strongroom/daemon/state"
)

// sample is one scrape.
type sample struct {
	c  Config
	to chan<- prometheus.Metric
}

func (s sample) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// at is a moment; one that never was is absent.
func (s sample) at(d *prometheus.Desc, t time.Time, labels ...string) {
	if !t.IsZero() {
		s.gauge(d, float64(t.UnixMilli())/1000, labels...)
	}
}

func (s sample) when(d *prometheus.Desc, t *time.Time, labels ...string) {
	if t != nil {
		s.at(d, *t, labels...)
	}
}

func (s sample) count(d *prometheus.Desc, n *int64, labels ...string) {
	if n != nil {
		s.gauge(d, float64(*n), labels...)
	}
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// name is the label of a tenant or a dataset; of none there is none.
func (s sample) name(n string) string {
	if n == "" {
		return ""
	}
	return s.c.Label(n)
}

func (s sample) works(o *daemon.Overview) {
	for _, w := range o.Works {
		store := ""
		if w.Kind == state.LockProbe {
			_, store, _ = strings.Cut(w.Job, ":")
			store = s.c.Store(store)
		}
		l := []string{string(w.Kind), s.name(w.Tenant), s.name(w.Dataset), store}
		good := w.Whole
		if w.Kind == state.Backup {
			good = w.Good
		}
		s.at(success, good, l...)
		s.at(failure, w.Bad, l...)
		s.when(deadline, w.Deadline, l...)
		s.when(next, w.Next, l...)
		if w.Last != 0 {
			s.gauge(duration, w.Took.Seconds(), l...)
		}
		if a := w.Amounts; a != nil {
			s.gauge(read, float64(a.Read), l[1:3]...)
			s.gauge(fresh, float64(a.New), l[1:3]...)
			s.gauge(stored, float64(a.Stored), l[1:3]...)
			s.gauge(coded, float64(a.Coded), l[1:3]...)
		}
	}
	for _, t := range o.Tallies {
		s.to <- prometheus.MustNewConstMetric(runs, prometheus.CounterValue, float64(t.N), string(t.Kind), string(t.Outcome))
	}
}

func (s sample) datasets(o *daemon.Overview) {
	n := 0
	for _, d := range o.Datasets {
		l := []string{s.name(d.Tenant), s.name(d.Dataset)}
		s.gauge(protected, number(d.Protected), l...)
		if d.Margin != nil && d.Planned != nil {
			s.gauge(margin, float64(*d.Margin), l...)
			s.gauge(planned, float64(*d.Planned), l...)
		}
		if d.Run != nil {
			n++
		}
	}
	s.gauge(running, float64(n))
}

func (s sample) checks(o *daemon.Overview) {
	for _, c := range o.Checked {
		s.gauge(problems, float64(len(c.Problems)), s.name(c.Tenant))
		s.gauge(lost, float64(c.Lost), s.name(c.Tenant))
	}
	for _, p := range o.Locks {
		s.gauge(immutable, number(p.Immutable), s.c.Store(p.Store))
		s.at(probed, p.Time, s.c.Store(p.Store))
	}
}

func (s sample) room(o *daemon.Overview) {
	if o.Room == nil {
		return
	}
	for _, u := range o.Room.Stores {
		l := s.c.Store(u.Store)
		s.gauge(held, float64(u.Held), l)
		s.gauge(away, number(u.Error != ""), l)
		s.count(free, u.Free, l)
		s.count(growth, u.PerWeek, l)
		s.when(full, u.Full, l)
	}
	for _, u := range o.Room.Spools {
		l := []string{s.name(u.Tenant), s.name(u.Dataset)}
		s.gauge(spool, float64(u.Held), l...)
		s.gauge(spoolBound, float64(u.Bound), l...)
		s.when(spoolFull, u.Full, l...)
	}
}

func (s sample) people(o *daemon.Overview) {
	open, silent := map[string]int{}, 0
	for _, a := range o.Alarms {
		if daemon.Waits(a) {
			continue
		}
		open[strings.ReplaceAll(a.Kind, " ", "-")]++
		if a.Acked.IsZero() && a.MutedUntil.IsZero() {
			silent++
		}
	}
	// A kind that has none says so, or an alert on it could not be tried out.
	for k := notify.Failed; k.Known(); k++ {
		if _, any := open[k.String()]; !any && k.Alarms() {
			open[k.String()] = 0
		}
	}
	for kind, n := range open {
		s.gauge(alarms, float64(n), kind)
	}
	s.gauge(unknown, float64(silent))
	s.gauge(waiting, float64(o.Waiting))
	s.when(oldest, o.Oldest)
	s.gauge(told, number(o.Told))
	s.when(tested, o.Tested)
}
