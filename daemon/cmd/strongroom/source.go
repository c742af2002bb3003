package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"strongroom/custody/exit"
	"strongroom/custody/receipt"
	"strongroom/daemon/config"
	"strongroom/daemon/job"
	"strongroom/daemon/walls"
	"strongroom/source/remote"
	"strongroom/systemd"
)

func (a *app) sourceCommand() *cobra.Command {
	c := &cobra.Command{Use: "source", Short: "Read datasets for a daemon that cannot: on a client's server, or with other rights"}
	var confined bool
	serve := &cobra.Command{
		Use:   "serve FILE",
		Short: "Serve the datasets that FILE names, over standard input and output or the service manager's socket",
		Long: `Serve the datasets that FILE names, and nothing else, to a daemon at the other
end of standard input and output: a client's server has it as the forced command
of the daemon's key,

  restrict,command="/usr/bin/strongroom source serve /etc/strongroom/reader.toml" ssh-ed25519 …

and strongroom-source@.service on the socket that systemd listens on. What the
daemon says chooses one of the datasets; it cannot name a path or a program. FILE
is read at each start, and is refused if others than its owner may write to it:

  [[dataset]]
  name = "acme/files"      # TENANT/DATASET, as the daemon's configuration has it
  source = "files"         # or "sqlite" with a path, or "command"
  path = "/srv/crm"
  exclude = ["*.tmp"]

With --confined, as strongroom-source@.service has it, it first tries what its
unit must not let it do, and refuses where a wall is missing that FILE does not
name:

  [confine]
  missing = ["network"]    # a drop-in gives it one`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := loadReader(args[0])
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			return a.serveSource(cmd.Context(), r, confined)
		},
	}
	serve.Flags().BoolVar(&confined, "confined", false, "try what its unit must not let it do, and refuse where a wall is missing")
	c.AddCommand(serve)
	return c
}

// loadReader reads the file of a reader. Walls that are missing are named in it
// whether or not it is confined.
func loadReader(path string) (*config.Reader, error) {
	r, err := config.LoadReader(path)
	if err != nil {
		return nil, err
	}
	if err := config.CheckWalls(r.Confine.Missing, walls.ReaderNames()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func (a *app) serveSource(ctx context.Context, r *config.Reader, confined bool) error {
	s, err := job.NewReader(r, "strongroom "+version)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	l, err := systemd.Listener()
	if err != nil {
		return err
	}
	var tried []receipt.Wall
	if confined {
		passed, _ := l.(syscall.Conn)
		if tried, err = confineReader(ctx, r, passed, slog.New(a.newLog(&slog.LevelVar{}))); err != nil {
			return errors.Join(err, refuseAll(ctx, s, l, err))
		}
	}
	if confined || l != nil { // else sshd started it, and there is no unit
		s.Unit = job.ReaderWalls(tried, r.Confine.Missing)
	}
	if l != nil {
		return serveAll(ctx, s, l, a.ui.Log)
	}
	return serveStdio(ctx, s)
}

// refuseAll tells clients that wait why nothing is served. One that is not told
// would have the service manager start the reader again at once, and soon give the
// socket up.
func refuseAll(ctx context.Context, s *remote.Server, l net.Listener, why error) error {
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return nil // no socket, and nobody waits
	}
	s.Refuses = why
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		if err := d.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		conn, err := l.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return fmt.Errorf("serve: %w", err)
		}
		_ = s.Serve(ctx, conn) // it ends with why
	}
}

// stdio is a connection whose ends are two files.
type stdio struct {
	in, out *os.File
}

func (s stdio) Read(b []byte) (int, error)  { return s.in.Read(b) }
func (s stdio) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s stdio) Close() error                { return errors.Join(s.in.Close(), s.out.Close()) }

// serveStdio serves one client. Its pipes are made such that Close ends what
// waits for them; and a client that hangs up is an error of a write, and not
// the end of this process, which may have a program of a dataset to stop.
func serveStdio(ctx context.Context, s *remote.Server) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGPIPE) // ignoring it would be inherited by programs
	defer signal.Stop(hangup)
	for _, fd := range []int{0, 1} {
		if err := syscall.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("serve: %w", err)
		}
	}
	return s.Serve(ctx, stdio{os.NewFile(0, "stdin"), os.NewFile(1, "stdout")})
}

const (
	// idle is after how long without a client a reader ends; systemd starts it
	// again when one comes.
	idle = 30 * time.Second
	// mostClients is how many are served at once: a backup, and a doctor beside.
	mostClients = 4
)

// serveAll serves clients until none has been there for a while.
func serveAll(ctx context.Context, s *remote.Server, l net.Listener, log func(string, ...any)) error {
	var wg sync.WaitGroup
	var clients atomic.Int64
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	d, ok := l.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.New("serve: the socket knows no deadline")
	}
	for {
		if err := d.SetDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			if clients.Load() == 0 {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("serve: %w", err)
		}
		if clients.Load() >= mostClients {
			log("%d clients at once are too many", mostClients+1)
			conn.Close()
			continue
		}
		clients.Add(1)
		wg.Go(func() {
			defer clients.Add(-1)
			if err := s.Serve(ctx, conn); err != nil {
				log("%v", err)
			}
		})
	}
}
