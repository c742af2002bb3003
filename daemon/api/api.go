// Package api is how the command line asks the daemon: JSON over HTTP on a unix
// socket, and only for root and the daemon's own user.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/daemon"
	"strongroom/daemon/state"
)

// A Control is what can be asked of a daemon; *daemon.Daemon is one. Methods may
// be called concurrently.
type Control interface {
	Overview(ctx context.Context) (*daemon.Overview, error)
	// Watch tells what happens until ctx ends or tell returns an error.
	Watch(ctx context.Context, tell func(daemon.Happening) error) error
	// Runs are the last ones before a run; 0: of all.
	Runs(ctx context.Context, tenant, dataset string, before state.RunID, n int) ([]daemon.RunStatus, error)
	Plan(weeks int) []daemon.Planned
	// Said are the last records of the log.
	Said() []daemon.Said
	Start(ctx context.Context, job string) (state.RunID, error)
	Cancel(id state.RunID) error
	Alarms(ctx context.Context) ([]state.Alarm, error)
	Acknowledge(ctx context.Context, id state.AlarmID, who, why string) error
	Mute(ctx context.Context, key string, until time.Time, who, why string) error
	Reload(ctx context.Context) error
	// Restart has the daemon end at the first moment at which nothing runs, and
	// says what runs now.
	Restart() ([]string, error)
	// TestNotify sends a sample of an event by every way, as a real one goes, and
	// says what became of it, a line each.
	TestNotify(ctx context.Context, kind string) ([]string, error)
	// Answer takes the code of a test alarm.
	Answer(ctx context.Context, code, who string) error
}

const (
	maxBody   = 64 << 10
	maxAnswer = 16 << 20
	maxRuns   = 10000
	page      = 1000 // runs, as a client asks for them
	maxWeeks  = 520
)

// request is the body of what changes something.
type request struct {
	Job string      `json:"job,omitempty"`
	Run state.RunID `json:"run,omitempty"`

	Alarm state.AlarmID `json:"alarm,omitempty"`
	Key   string        `json:"key,omitempty"`
	Until time.Time     `json:"until,omitzero"`
	Who   string        `json:"who,omitempty"`
	Why   string        `json:"why,omitempty"`
	Kind  string        `json:"kind,omitempty"`
	Code  string        `json:"code,omitempty"`
}

// failure is how an error is told: Kind is what a caller branches on.
type failure struct {
	Error string `json:"error"`
	Kind  string `json:"kind,omitempty"`
}

var kinds = map[string]error{"no-job": daemon.ErrNoJob, "no-run": daemon.ErrNoRun, "no-alarm": daemon.ErrNoAlarm, "running": state.ErrRunning, "unmanaged": daemon.ErrUnmanaged}

// Listen makes the socket. One that a dead daemon left is replaced: the database
// is what keeps two daemons apart.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	old := unix.Umask(0o177) // never open to others, not for a moment
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// Serve answers until ctx ends.
func Serve(ctx context.Context, l net.Listener, c Control) error {
	s := &http.Server{Handler: handler(c), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, allowed(conn))
		}}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

type peerKey struct{}

// allowed asks the kernel who is at the other end (unix(7), SO_PEERCRED). The
// mode of the socket says the same; this holds where somebody changed that.
func allowed(conn net.Conn) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d may not ask this daemon", cred.Uid)
	}
	return nil
}

func handler(c Control) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(r *http.Request, q request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := answer(r, do)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				f := failure{Error: err.Error()}
				for kind, is := range kinds {
					if errors.Is(err, is) {
						f.Kind = kind
					}
				}
				w.WriteHeader(http.StatusBadRequest)
				v = f
			}
			json.NewEncoder(w).Encode(v)
		})
	}
	handle("GET /v1/overview", func(r *http.Request, _ request) (any, error) { return c.Overview(r.Context()) })
	mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) { watch(w, r, c) })
	handle("GET /v1/runs", func(r *http.Request, _ request) (any, error) {
		n, err := number(r, "n", maxRuns)
		if err != nil {
			return nil, err
		}
		q := r.URL.Query()
		before := int64(0)
		if s := q.Get("before"); s != "" {
			if before, err = strconv.ParseInt(s, 10, 64); err != nil || before < 1 {
				return nil, errors.New("before is no number of a run")
			}
		}
		return c.Runs(r.Context(), q.Get("tenant"), q.Get("dataset"), state.RunID(before), n)
	})
	handle("GET /v1/log", func(*http.Request, request) (any, error) { return c.Said(), nil })
	handle("GET /v1/plan", func(r *http.Request, _ request) (any, error) {
		n, err := number(r, "weeks", maxWeeks)
		if err != nil {
			return nil, err
		}
		return c.Plan(n), nil
	})
	handle("POST /v1/start", func(r *http.Request, q request) (any, error) {
		id, err := c.Start(r.Context(), q.Job)
		return request{Job: q.Job, Run: id}, err
	})
	handle("POST /v1/cancel", func(_ *http.Request, q request) (any, error) { return q, c.Cancel(q.Run) })
	handle("GET /v1/alarms", func(r *http.Request, _ request) (any, error) { return c.Alarms(r.Context()) })
	handle("POST /v1/acknowledge", func(r *http.Request, q request) (any, error) {
		return q, c.Acknowledge(r.Context(), q.Alarm, q.Who, q.Why)
	})
	handle("POST /v1/mute", func(r *http.Request, q request) (any, error) {
		return q, c.Mute(r.Context(), q.Key, q.Until, q.Who, q.Why)
	})
	handle("POST /v1/notify-test", func(r *http.Request, q request) (any, error) { return c.TestNotify(r.Context(), q.Kind) })
	handle("POST /v1/answer", func(r *http.Request, q request) (any, error) { return q, c.Answer(r.Context(), q.Code, q.Who) })
	handle("POST /v1/restart", func(*http.Request, request) (any, error) { return c.Restart() })
	handle("POST /v1/reload", func(r *http.Request, q request) (any, error) { return q, c.Reload(r.Context()) })
	return mux
}

func answer(r *http.Request, do func(*http.Request, request) (any, error)) (any, error) {
	if err, _ := r.Context().Value(peerKey{}).(error); err != nil {
		return nil, err
	}
	var q request
	if r.Method == http.MethodPost {
		dec := json.NewDecoder(io.LimitReader(r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&q); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
	}
	return do(r, q)
}

func number(r *http.Request, name string, most int) (int, error) {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s is not 1 to %d", name, most)
	}
	return n, nil
}

// A Client asks a daemon.
type Client struct{ http *http.Client }

// ErrNoDaemon: nobody listens on the socket.
var ErrNoDaemon = errors.New("no daemon runs")

// NewClient returns a client of the daemon behind a socket.
func NewClient(path string) *Client {
	return &Client{&http.Client{Timeout: 5 * time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
			err = fmt.Errorf("%w on this box (%s)", ErrNoDaemon, path)
		}
		return conn, err
	}}}}
}

// ask makes one request.
func (c *Client) ask(ctx context.Context, method, path string, q url.Values, body, into any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path+"?"+q.Encode(), bytes.NewReader(raw))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err // its address says nothing
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode == http.StatusOK {
		return dec.Decode(into)
	}
	var f failure
	if err := dec.Decode(&f); err != nil || f.Error == "" {
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	if is := kinds[f.Kind]; is != nil {
		return &told{f.Error, is}
	}
	return errors.New(f.Error)
}

// told is an error that the daemon said.
type told struct {
	text string
	is   error
}

func (e *told) Error() string { return e.text }
func (e *told) Unwrap() error { return e.is }

// Overview is that of the daemon.
func (c *Client) Overview(ctx context.Context) (*daemon.Overview, error) {
	out := &daemon.Overview{}
	err := c.ask(ctx, http.MethodGet, "/v1/overview", nil, nil, out)
	return out, err
}

// Said are the last records of the daemon's log.
func (c *Client) Said(ctx context.Context) (out []daemon.Said, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/log", nil, nil, &out)
	return out, err
}

// Plan is what the daemon plans, by the configuration that it has.
func (c *Client) Plan(ctx context.Context, weeks int) (out []daemon.Planned, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/plan", url.Values{"weeks": {strconv.Itoa(weeks)}}, nil, &out)
	return out, err
}

// Runs are those of the daemon.
func (c *Client) Runs(ctx context.Context, tenant, dataset string, n int) (out []daemon.RunStatus, err error) {
	return c.RunsBefore(ctx, tenant, dataset, 0, n)
}

// RunsBefore returns those before a run; 0: the last ones. It asks page by page,
// as an answer has a bound and years of runs have none.
func (c *Client) RunsBefore(ctx context.Context, tenant, dataset string, before state.RunID, n int) (out []daemon.RunStatus, err error) {
	out = []daemon.RunStatus{}
	for len(out) < n {
		q := url.Values{"tenant": {tenant}, "dataset": {dataset}, "n": {strconv.Itoa(min(n-len(out), page))}}
		if before > 0 {
			q.Set("before", strconv.FormatInt(int64(before), 10))
		}
		var some []daemon.RunStatus
		if err := c.ask(ctx, http.MethodGet, "/v1/runs", q, nil, &some); err != nil {
			return nil, err
		}
		if len(some) == 0 {
			break
		}
		out, before = append(out, some...), some[len(some)-1].ID
	}
	return out, nil
}

// Start begins a job by hand.
func (c *Client) Start(ctx context.Context, job string) (state.RunID, error) {
	var out request
	err := c.ask(ctx, http.MethodPost, "/v1/start", nil, request{Job: job}, &out)
	return out.Run, err
}

// Cancel stops a run for good.
func (c *Client) Cancel(ctx context.Context, id state.RunID) error {
	var out request
	return c.ask(ctx, http.MethodPost, "/v1/cancel", nil, request{Run: id}, &out)
}

// Alarms are those of the daemon.
func (c *Client) Alarms(ctx context.Context) (out []state.Alarm, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/alarms", nil, nil, &out)
	return out, err
}

// Acknowledge notes that a person knows of an alarm.
func (c *Client) Acknowledge(ctx context.Context, id state.AlarmID, who, why string) error {
	var out request
	return c.ask(ctx, http.MethodPost, "/v1/acknowledge", nil, request{Alarm: id, Who: who, Why: why}, &out)
}

// Mute keeps an alarm from being told until a time.
func (c *Client) Mute(ctx context.Context, key string, until time.Time, who, why string) error {
	var out request
	return c.ask(ctx, http.MethodPost, "/v1/mute", nil, request{Key: key, Until: until, Who: who, Why: why}, &out)
}

// TestNotify sends a sample of an event by every way.
func (c *Client) TestNotify(ctx context.Context, kind string) (out []string, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/notify-test", nil, request{Kind: kind}, &out)
	return out, err
}

// Answer takes the code of a test alarm.
func (c *Client) Answer(ctx context.Context, code, who string) error {
	var out request
	return c.ask(ctx, http.MethodPost, "/v1/answer", nil, request{Code: code, Who: who}, &out)
}

// Reload has the configuration read again.
func (c *Client) Reload(ctx context.Context) error {
	var out request
	return c.ask(ctx, http.MethodPost, "/v1/reload", nil, request{}, &out)
}

// Restart has the daemon end once nothing runs, and says what runs now.
func (c *Client) Restart(ctx context.Context) (running []string, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/restart", nil, request{}, &running)
	return running, err
}
