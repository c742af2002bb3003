// Package metrics shows Prometheus how the box is doing, on a listener of its own.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"strongroom/daemon"
)

// A Source knows how the box is doing; it is a *daemon.Daemon. It may be asked
// concurrently.
type Source interface {
	Overview(ctx context.Context) (*daemon.Overview, error)
}

// Config is what the metrics need.
type Config struct {
	From    Source
	Version string
	// Label returns what stands in a label for the name of a tenant or a dataset,
	// and Store for that of a store.
	Label, Store func(name string) string
	Log          *slog.Logger
}

// readWithin bounds one reading of the database.
const readWithin = 8 * time.Second

// Start serves on a listener until stop is called, which closes it and waits.
func Start(l net.Listener, c Config) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(NewRegistry(c), promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * readWithin}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.Log.Error("metrics are not served any more", "error", err)
		}
	}()
	return func() { s.Close(); <-done }
}

// NewRegistry has the box's metrics, and those of the process.
func NewRegistry(c Config) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{c}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// desc describes one metric. Names and labels are an interface: whoever alarms on
// them must not have to change that.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("strongroom_"+name, help, labels, nil)
}

var (
	build = desc("build_info", "1, with the versions of the program as labels.", "version", "goversion")

	success  = desc("last_success_timestamp_seconds", "When work of a kind last succeeded: of a backup, also a reduced one; of all else, with nothing to find. Absent: never.", "kind", "tenant", "dataset", "store")
	deadline = desc("deadline_timestamp_seconds", "When work is overdue if it does not succeed before.", "kind", "tenant", "dataset", "store")
	failure  = desc("last_failure_timestamp_seconds", "When work of a kind last failed. Absent: never.", "kind", "tenant", "dataset", "store")
	duration = desc("last_run_duration_seconds", "How long the last run took that ended.", "kind", "tenant", "dataset", "store")
	next     = desc("next_run_timestamp_seconds", "When the next run is due.", "kind", "tenant", "dataset", "store")
	runs     = desc("runs_total", "Runs that ended, by how.", "kind", "outcome")
	running  = desc("runs_running", "Backups that go on.")

	protected = desc("dataset_protected", "1 if a drill of the dataset ever passed.", "tenant", "dataset")
	read      = desc("backup_read_bytes", "What the last backup read of its source.", "tenant", "dataset")
	fresh     = desc("backup_new_bytes", "What of that no earlier snapshot had.", "tenant", "dataset")
	stored    = desc("backup_stored_bytes", "What the last backup stored, before parity.", "tenant", "dataset")
	coded     = desc("backup_coded_bytes", "What the last backup wrote to all stores together.", "tenant", "dataset")
	margin    = desc("margin_stores", "How many stores may be lost before a snapshot is, by the last check; -1: one cannot be read.", "tenant", "dataset")
	planned   = desc("margin_planned_stores", "How many it should be.", "tenant", "dataset")
	problems  = desc("check_problems", "Problems that the last check found.", "tenant")
	lost      = desc("check_lost_packs", "Packs that cannot be read any more.", "tenant")

	spool      = desc("spool_bytes", "What waits on the box for stores that are away.", "tenant", "dataset")
	spoolBound = desc("spool_bound_bytes", "What may wait there at most: beyond it backups fail.", "tenant", "dataset")
	spoolFull  = desc("spool_full_timestamp_seconds", "When that is reached, if it goes on so.", "tenant", "dataset")
	held       = desc("store_held_bytes", "What the box has on a store; of the store (box), what waits there.", "store")
	free       = desc("store_free_bytes", "What the store still takes, where that is known.", "store")
	growth     = desc("store_growth_bytes_per_week", "What it got a week lately.", "store")
	full       = desc("store_full_timestamp_seconds", "When the store is full, if it goes on so.", "store")
	away       = desc("store_away", "1 if the store did not answer at the last rounds.", "store")
	immutable  = desc("store_immutable", "1 if the last probe of its lock could delete nothing.", "store")
	probed     = desc("store_lock_probe_timestamp_seconds", "When its lock was last probed.", "store")

	alarms  = desc("alarms", "Open alarms that a kind has.", "kind")
	unknown = desc("alarms_unacknowledged", "Open alarms that nobody has acknowledged or muted.")
	waiting = desc("messages_waiting", "Messages to people that were not delivered yet.")
	oldest  = desc("messages_oldest_timestamp_seconds", "Since when the oldest of them waits.")
	told    = desc("people_told", "1 if any way to tell people is configured.")
	tested  = desc("test_alarm_answered_timestamp_seconds", "When a person last answered a test alarm. Absent: never.")

	all = []*prometheus.Desc{build, success, deadline, failure, duration, next, runs, running, protected, read, fresh, stored, coded, margin, planned, problems, lost,
		spool, spoolBound, spoolFull, held, free, growth, full, away, immutable, probed, alarms, unknown, waiting, oldest, told, tested}
)

// A collector reads everything anew for each scrape: what is shown is what the
// database has, also when the planner hangs.
type collector struct{ c Config }

// Describe implements prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range all {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (k collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readWithin)
	defer cancel()
	o, err := k.c.From.Overview(ctx)
	if err != nil {
		// The text of an error is for the box; the scrape fails, which is seen.
		k.c.Log.Error("metrics cannot be read", "error", err)
		to <- prometheus.NewInvalidMetric(build, errors.New("the state cannot be read; see the log"))
		return
	}
	s := sample{k.c, to}
	s.gauge(build, 1, k.c.Version, runtime.Version())
	s.works(o)
	s.datasets(o)
	s.checks(o)
	s.room(o)
	s.people(o)
}
