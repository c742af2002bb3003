package api

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"strongroom/daemon"
	"strongroom/daemon/state"
)

// desk answers some questions; others it must not be asked.
type desk struct{ Control }

func (desk) Overview(context.Context) (*daemon.Overview, error) {
	return &daemon.Overview{Datasets: []daemon.DatasetStatus{{Tenant: "acme"}}}, nil
}

func (desk) Watch(_ context.Context, tell func(daemon.Happening) error) error {
	if err := tell(daemon.Happening{What: "begins", Job: `"tenant":"acme"`}); err != nil {
		return err
	}
	return daemon.ErrSlow
}

func (desk) Runs(context.Context, string, string, state.RunID, int) ([]daemon.RunStatus, error) {
	return nil, nil
}

func (desk) Cancel(state.RunID) error { return daemon.ErrNoRun }

func serve(t *testing.T) (path string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // the socket alone keeps others out
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, desk{}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// dialAs connects as a user.
func dialAs(path string, uid int) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	out := make(chan result)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this function
		conn, err := func() (net.Conn, error) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), path)
			defer f.Close()
			// Of this thread alone, unlike unix.Setresuid.
			if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); no != 0 {
				return nil, no
			}
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		out <- result{conn, err}
	}()
	r := <-out
	return r.conn, r.err
}

func TestNobodyElseMayAsk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot become another user, so who may ask was not tested")
	}
	path := serve(t)
	if _, err := dialAs(path, 65534); !errors.Is(err, unix.EACCES) {
		t.Errorf("another user connects: %v", err)
	}
	// Also where somebody opened the socket to all.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"overview", "watch"} {
		for uid, want := range map[int]string{0: "acme", 65534: "user 65534 may not ask"} {
			conn, err := dialAs(path, uid)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET /v1/"+what+" HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || !strings.Contains(string(got), want) || uid != 0 && strings.Contains(string(got), "acme") {
				t.Errorf("%s as %d: %s, %v", what, uid, got, err)
			}
		}
	}
}

func TestWhoWatchesIsToldAndWhy(t *testing.T) {
	var got []string
	err := NewClient(serve(t)).Watch(t.Context(), func(h daemon.Happening) error {
		got = append(got, h.What)
		return nil
	})
	if err == nil || err.Error() != daemon.ErrSlow.Error() || len(got) != 1 || got[0] != "begins" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	path := serve(t)
	for _, x := range []struct{ request, want string }{
		{"GET /v1/runs?n=0 HTTP/1.0\r\n\r\n", "n is not 1 to"},
		{"GET /v1/runs?n=10001 HTTP/1.0\r\n\r\n", "n is not 1 to"},
		{"GET /v1/runs?n=1 HTTP/1.0\r\n\r\n", "200 OK"},
		{"POST /v1/cancel HTTP/1.0\r\nContent-Length: 12\r\n\r\n{\"walk\":true}", "request: "},
		{"POST /v1/cancel HTTP/1.0\r\nContent-Length: 10\r\n\r\n{\"run\": 7}\n", `"kind":"no-run"`},
		{"POST /v1/cancel HTTP/1.0\r\nContent-Length: 70000\r\n\r\n{\"job\": \"" + strings.Repeat("x", 70000-11) + "\"}", "request: "},
		{"GET /v1/cancel HTTP/1.0\r\n\r\n", "405"},
		{"GET /v2 HTTP/1.0\r\n\r\n", "404"},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, x.request)
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil && !errors.Is(err, unix.ECONNRESET) || !strings.Contains(string(got), x.want) {
			t.Errorf("%.60q: %.300s, %v", x.request, got, err)
		}
	}
	if err := NewClient(path).Cancel(t.Context(), 7); !errors.Is(err, daemon.ErrNoRun) {
		t.Errorf("what the daemon says is not told: %v", err)
	}
	if _, err := NewClient(path + "x").Overview(t.Context()); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("without a daemon: %v", err)
	}
}
